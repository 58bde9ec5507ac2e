"""Which login nodes are to be left, and what still goes through a master there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

#: The state of a connected stream socket in /proc/self/net/unix: SS_CONNECTED.
_CONNECTED = "03"


def mark(tunnel: Path, host: str) -> None:
    """Have a tunnel leave a login node, and stay away from it, until `unmark` or the next boot.

    Args:
        tunnel: Where the tunnel's masters live.
        host: The login node as the site config calls it.
    """
    (tunnel / "drain").mkdir(mode=0o700, parents=True, exist_ok=True)
    (tunnel / "drain" / host).touch(mode=0o600)


def unmark(tunnel: Path, host: str) -> None:
    """Let a tunnel use a login node again."""
    (tunnel / "drain" / host).unlink(missing_ok=True)
    with suppress(OSError):  # another one is still marked, or there is none
        (tunnel / "drain").rmdir()


def marked(tunnel: Path) -> set[str]:
    """Return the login nodes that a tunnel is to leave."""
    try:
        return {entry.name for entry in (tunnel / "drain").iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def open_connections(master: Path) -> int:
    """Return how many connections to a master's forwards are open: the kernel tells them by the path.

    A connection that HAProxy keeps for later is one too; it lets go of those after half a minute. So is
    one to the control socket: that of an ssh which goes on to a compute node this way.
    """
    prefix = f"{master}/"
    count = 0
    # Not /proc/net: where systemd confines the process (ProcSubset=pid) that is not there.
    with Path("/proc/self/net/unix").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.split(None, 7)
            if len(words) == 8 and words[5] == _CONNECTED and words[7].startswith(prefix):
                count += words[7].rstrip("\n").endswith((".sock", "/ctl"))
    return count

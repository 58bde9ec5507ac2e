"""Reads a cluster's drop-in files on a login node: only what nobody but root can have written.

One fixed program of POSIX sh and coreutils looks at a directory and prints what it found, a line each; the
sentences are made here. Names and contents go as Base64, with their sizes: any byte may be in them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gateway.errors import GatewayError, LoginNodeUnreachable
from gateway.model import Command, Completed
from gateway.ssh.runner import Runner

#: Bytes that one file may have, and all together, and how many files there may be.
LARGEST, TOGETHER, MOST = 64 * 1024, 256 * 1024, 32
#: Bytes that a path may have (PATH_MAX of Linux), and a detail.
_PATH, _DETAIL = 4096, 256
#: Bytes that the program may print: the files in Base64, and for each of them a few paths.
_OUTPUT = 2 * TOGETHER + (MOST + 2) * 6 * _PATH
#: Seconds that the program may take on the login node.
LIMIT = 20
#: Seconds that a login node has for its answer, with the connection; less than the pause between two looks.
_PATIENCE = 15.0
#: Seconds for which one that did not answer is not asked, at first and at most.
_PAUSE, _SLOWEST = 60.0, 300.0

# Each name on the way, those of symbolic links too, is looked at in a directory that only root can write: so
# nobody else can lead it elsewhere. A file is opened once; that it is the one that was looked at, its numbers
# say.
_LIMITS = f"largest={LARGEST} together={TOGETHER} most={MOST}"
_LOOK = r"""
set -u -f
umask 077
LC_ALL=C PATH=/usr/bin:/bin
export LC_ALL PATH
unset ENV BASH_ENV CDPATH IFS

text() { printf %s "$1" | base64 | tr -d '\n'; }
refuse() { # WHY PATH [DETAIL]; $subject is what is not used for it
    printf 'gw1 refused %s %s. %s. %s.\n' "$1" "$(text "$subject")" "$(text "$2")" "$(text "${3:-}")"
}

# Whether only root can change $1, which is no symbolic link.
sound() {
    set -- "$1" $(stat -c '%u %U %A' "$1" 2>/dev/null)
    [ $# -eq 4 ] || { refuse unreadable "$1"; return 1; }
    [ "$2" = 0 ] || { refuse owner "$1" "$3"; return 1; }
    case $4 in
        ?????w* | ????????w*) refuse mode "$1" "$4"; return 1 ;;
    esac
}

# Set $real to what $1 leads to; false if it is not there, or if anybody else can change where it leads.
follow() {
    whole=$1 rest=$1 real= hops=0
    sound / || return 1
    while [ -n "$rest" ]; do
        name=${rest%%/*}
        case $rest in
            */*) rest=${rest#*/} ;;
            *) rest= ;;
        esac
        case $name in
            '' | .) continue ;;
            ..) real=${real%/*}; continue ;;
        esac
        [ -x "$real/" ] || { refuse unreadable "${real:-/}"; return 1; }
        if [ -L "$real/$name" ]; then
            hops=$((hops + 1))
            [ $hops -le 20 ] || { refuse nowhere "$whole"; return 1; }
            target=$(readlink "$real/$name") || { refuse unreadable "$real/$name"; return 1; }
            case $target in
                /*) real= ;;
            esac
            rest=$target/$rest
            continue
        fi
        real=$real/$name
        [ -e "$real" ] || { refuse nowhere "$whole"; return 1; }
        sound "$real" || return 1
    done
    real=${real:-/}
}

# Print file $1, which is open as descriptor 3.
send() {
    set -- "$1" $(stat -L -c '%u %A %s %d:%i' /proc/self/fd/3 && stat -c %d:%i "$real")
    [ $# -eq 6 ] && [ "$2" = 0 ] && [ "$5" = "$6" ] || { refuse changed "$real"; return; }
    case $3 in
        ?????w* | ????????w*) refuse mode "$real" "$3"; return ;;
        -*) ;;
        *) refuse kind "$real"; return ;;
    esac
    [ "$4" -le $largest ] || { refuse large "$real" "$4"; return; }
    total=$((total + $4))
    [ $total -le $together ] || { refuse together "$real" $total; return; }
    printf 'gw1 file %s. %s. %s ' "$(text "$1")" "$(text "$real")" "$4"
    head -c $largest <&3 | base64 | tr -d '\n'
    printf '.\n'
}

look() {
    subject=$1
    follow "$1" || return
    [ -f "$real" ] || { refuse kind "$real"; return; }
    [ -r "$real" ] || { refuse unreadable "$real"; return; }
    send "$1" 3<"$real" || refuse changed "$real"
}

# Whether there is nothing at $1, as far as this account can see.
absent() {
    [ ! -e "$1" ] && [ ! -L "$1" ] || return 1
    place=${1%/*}
    while [ -n "$place" ] && [ ! -e "$place" ]; do
        place=${place%/*}
    done
    [ -x "$place/" ]
}

subject=$1 total=0
printf 'gw1 node %s.\n' "$(text "$(uname -n)")"
if ! absent "$1" && follow "$1"; then
    if [ ! -d "$real" ]; then
        refuse directory "$real"
    elif [ ! -r "$real" ] || [ ! -x "$real" ]; then
        refuse unreadable "$real"
    else
        directory=$1
        set +f
        set -- "${directory%/}"/*.yaml
        set -f
        if [ $# -eq 1 ] && [ ! -e "$1" ] && [ ! -L "$1" ]; then
            set --
        fi
        if [ $# -gt $most ]; then
            refuse many "$directory" $#
        else
            for file; do look "$file"; done
        fi
    fi
fi
printf 'gw1 end\n'
"""
PROGRAM = _LIMITS + _LOOK


@dataclass(frozen=True, slots=True)
class DropInFile:
    """One file as it was read.

    ``path`` is its name in the directory of drop-ins, ``real`` where it lies.
    """

    path: str
    real: str
    text: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What one good look at a login node brought: its own name for itself, the files in order of their names.

    ``refused`` says of each file that cannot be used why, and what to do; with one of them the others are not
    used either.
    """

    node: str
    files: tuple[DropInFile, ...] = ()
    refused: tuple[str, ...] = ()

    def same_as(self, other: Reading) -> bool:
        """Return whether both login nodes say the same."""
        return self._content() == other._content()

    def _content(self) -> tuple[object, ...]:
        return tuple((file.path, file.sha256) for file in self.files), self.refused


async def read_drop_ins(runner: Runner, directory: Path) -> Reading:
    """Read the drop-in files of one login node, in one command.

    Args:
        runner: Runs it there, as the service account.
        directory: Where they are; all ``*.yaml`` in it.

    Raises:
        LoginNodeUnreachable: Nothing is known.
        LoginNodeRefused, HostKeyRefused: The gateway is not let in.
    """
    return read(await runner.run(command(directory), timeout=LIMIT, output=_OUTPUT))


def command(directory: Path) -> Command:
    """Return the command that reads a directory of drop-ins."""
    return Command(("/bin/sh", "-c", PROGRAM, "gateway-drop-ins", str(directory)))


def read(completed: Completed) -> Reading:
    """Return what the command found. Whoever is root there may print anything instead.

    Raises:
        LoginNodeUnreachable: The answer is not whole, or not that program's, so it says nothing.
    """
    lines = completed.stdout.split("\n")
    if completed.status != 0 or lines[-2:] != ["gw1 end", ""]:
        said = " ".join(completed.stderr.split())[-200:]
        raise LoginNodeUnreachable(f"the drop-ins could not be read: status {completed.status}: {said}")
    node = ""
    files: list[DropInFile] = []
    refused: list[str] = []
    try:
        for line in lines[:-2]:
            match line.split(" "):
                case ["gw1", "node", name]:
                    node = _shown(name, _DETAIL)
                case ["gw1", "refused", why, subject, path, detail]:
                    refused.append(_sentence(why, _shown(subject), _shown(path), _shown(detail, _DETAIL)))
                case ["gw1", "file", path, real, size, data]:
                    found = _file(_shown(path), _shown(real), int(size), _decoded(data, LARGEST))
                    if isinstance(found, DropInFile):
                        files.append(found)
                    else:
                        refused.append(found)
                case _:
                    raise ValueError(line[:100])
    except (ValueError, KeyError) as error:
        raise LoginNodeUnreachable(f"the drop-ins could not be read: {error!r}") from None
    if len(files) + len(refused) > MOST or sum(file.size for file in files) > TOGETHER:
        raise LoginNodeUnreachable("the drop-ins could not be read: there are more than are ever sent")
    return Reading(node, tuple(files), tuple(refused))


def _decoded(field: str, most: int) -> bytes:
    """Return the bytes of a field, which ends with a dot and so is never empty; ``most`` at most."""
    if not field.endswith("."):
        raise ValueError("a field is cut short")
    if len(field) > 4 * most // 3 + 5:
        raise ValueError("a field is too long")
    try:
        return base64.b64decode(field[:-1], validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _shown(field: str, most: int = _PATH) -> str:
    """Return a name as it can be shown: on one line, without control characters."""
    text = _decoded(field, most).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _file(path: str, real: str, size: int, data: bytes) -> DropInFile | str:
    """Return a file, or why it cannot be used."""
    if len(data) != size:
        return _sentence("changed", path, real, "")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"{path}:{data[: error.start].count(10) + 1}: not UTF-8: write it in UTF-8"
    return DropInFile(path, real, text, len(data), hashlib.sha256(data).hexdigest())


def _sentence(why: str, subject: str, path: str, detail: str) -> str:
    """Return what is wrong with ``path``, for which ``subject`` is not used, and what mends it."""
    what, mend = _FAULTS[why](path, detail)
    if path == subject:
        return f"{subject}: {what}: {mend}"
    if why not in ("owner", "mode") or subject.startswith(f"{path.rstrip('/')}/"):
        return f"{subject}: {path} {what}: {mend}"
    return f"{subject}: leads through {path}, which {what}: put the file itself there in place of the link"


_FAULTS: Mapping[str, Callable[[str, str], tuple[str, str]]] = {
    "owner": lambda path, name: (f"belongs to {name}, not to root", f"chown root {path}"),
    "mode": lambda path, mode: (f"can be written by others than root ({mode})", f"chmod go-w {path}"),
    "kind": lambda _, __: ("is no regular file", "put one there, or remove it"),
    "directory": lambda _, __: ("is no directory", "make it one, or remove it"),
    "large": lambda _, size: (f"has {size} bytes, more than {LARGEST // 1024} kB", "make it smaller"),
    "together": lambda _, size: (
        f"makes {size} bytes with the files before it, more than {TOGETHER // 1024} kB",
        "make them smaller",
    ),
    "many": lambda _, count: (f"holds {count} files, more than {MOST}", "put them together"),
    "nowhere": lambda _, __: ("is a symbolic link that leads nowhere", "mend or remove it"),
    "unreadable": lambda path, _: ("is closed to the gateway's account", f"chmod a+rX {path}"),
    "changed": lambda _, __: ("changed while it was read", "it is read again soon"),
}


def sources(reading: Reading, host: str) -> Sequence[tuple[str, str]]:
    """Return the files' texts, each with what faults call it: the login node's name and the path there."""
    return [(file.text, f"{host}:{file.path}") for file in reading.files]


@dataclass(frozen=True, slots=True)
class Look:
    """What one login node said, and when it was asked."""

    host: str
    reading: Reading
    at: datetime


class LoginNodes:
    """The drop-ins on all login nodes of a cluster: of several each has a connection of its own, kept open.

    One that does not answer is asked less often, and does not keep the others waiting.

    Args:
        hosts: The login nodes by their names in the site config; one for a local one.
        directory: Where the drop-ins are.
        connected: The gateway's connection, which is enough for a single one.
        connect: Makes a connection to one of several.
        clock: Seconds, only ever growing.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        directory: Path,
        connected: Runner,
        connect: Callable[[str], AbstractAsyncContextManager[Runner]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hosts = hosts
        self._directory = directory
        self._connect = connect
        self._clock = clock
        self._runners = {hosts[0]: connected} if len(hosts) == 1 else {}
        self._open = AsyncExitStack()
        self._silent: dict[str, _Silent] = {}

    def __repr__(self) -> str:
        return f"<LoginNodes {','.join(self._hosts)}>"

    async def look(self, *, everywhere: bool = False) -> tuple[Look, ...]:
        """Return what the login nodes say that answer, in the site config's order; at least one.

        Args:
            everywhere: Whether to ask those too that did not answer just now.

        Raises:
            LoginNodeUnreachable, HostKeyRefused, LoginNodeRefused: None answers: nothing is known.
        """
        found = await self._ask([host for host in self._hosts if everywhere or self._is_due(host)])
        if not any(isinstance(each, Look) for each in found.values()):
            found |= await self._ask([host for host in self._hosts if host not in found])
        said = [found[host] for host in self._hosts if host in found]
        if looks := tuple(each for each in said if isinstance(each, Look)):
            return looks
        raise next(each for each in said if isinstance(each, GatewayError))

    @property
    def silent(self) -> Mapping[str, str]:
        """The login nodes that did not answer when they were asked last, and why."""
        return {host: self._silent[host].why for host in self._hosts if host in self._silent}

    async def close(self) -> None:
        """Close the connections that were made here."""
        await self._open.aclose()

    def _is_due(self, host: str) -> bool:
        return host not in self._silent or self._clock() >= self._silent[host].until

    async def _ask(self, hosts: Sequence[str]) -> dict[str, Look | GatewayError]:
        return dict(zip(hosts, await asyncio.gather(*map(self._look_at, hosts)), strict=True))

    async def _look_at(self, host: str) -> Look | GatewayError:
        try:
            async with asyncio.timeout(_PATIENCE):
                if host not in self._runners:
                    self._runners[host] = await self._open.enter_async_context(self._connect(host))
                reading = await read_drop_ins(self._runners[host], self._directory)
        except TimeoutError:
            error: GatewayError = LoginNodeUnreachable(f"{host}: no answer within {_PATIENCE:g} s")
        except GatewayError as caught:
            error = caught
        else:
            self._silent.pop(host, None)
            return Look(host, reading, datetime.now(UTC))
        pause = min(2 * self._silent[host].pause, _SLOWEST) if host in self._silent else _PAUSE
        self._silent[host] = _Silent(self._clock() + pause, pause, str(error))
        return error


@dataclass(frozen=True, slots=True)
class _Silent:
    """Until when a login node that did not answer is not asked, how many seconds that were, and its error."""

    until: float
    pause: float
    why: str

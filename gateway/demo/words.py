"""What the demonstration says to the person who has started it."""

from __future__ import annotations

import os
import socket
import textwrap
from collections.abc import Mapping
from pathlib import Path

from gateway.demo.settings import public_url


def welcome(port: int, passwords: Mapping[str, str], fingerprint: str, root: Path, *, kept: bool) -> str:
    """Return what to open, whom to log in as, and what to know.

    Args:
        port: Where it is.
        passwords: By name.
        fingerprint: The certificate's.
        root: The demonstration's directory.
        kept: Whether the directory stays when the demonstration ends.
    """
    people = "\n".join(f"      {name:<8}{password}" for name, password in passwords.items())
    half = len(fingerprint) // 2 + 1
    afterwards = "keeps" if kept else "removes"
    return "\n".join(
        [
            "",
            f"  Open  {public_url(port)}  and log in as one of",
            "",
            people,
            "",
            _wrapped(
                "The browser warns of the certificate, because it was made on this machine: go on if its "
                "SHA-256 fingerprint is"
            ),
            f"      {fingerprint[:half]}",
            f"      {fingerprint[half:]}",
            "",
            *([] if has_browser() else [_from_elsewhere(port), ""]),
            _wrapped(
                f"Jobs run on this machine, as you; their home is {root}/home. Ctrl-C ends everything and "
                f"{afterwards} {root}."
            ),
            "",
        ]
    )


def has_browser() -> bool:
    """Return whether there is a screen for a browser."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _from_elsewhere(port: int) -> str:
    host = socket.gethostname()
    return _wrapped(
        f"With the browser on another machine, type there first: ssh -L {port}:localhost:{port} {host}"
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(
        text,
        width=100,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )

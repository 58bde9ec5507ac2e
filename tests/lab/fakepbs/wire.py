"""Where the server is, and how the programs ask it: one JSON object in a line each way."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

#: Error numbers of PBS (pbs_error.h). An exit status is the number modulo 256.
TEXTS = {
    15001: "Unknown Job Id",
    15003: "Cannot set attribute, read only or insufficient permission ",
    15007: "Unauthorized Request ",
    15014: "Illegal attribute or resource value",
    15015: "Cannot modify attribute while job running ",
    15018: "Unknown queue",
    15021: "Queue is not enabled",
    15023: "Bad UID for job execution",
    15035: "Unknown resource",
    15036: "Job violates queue and/or server resource limits",
    15070: "Server could not connect to MOM",
    15139: "Job has finished",
    15140: "PBS is not configured to maintain job history",
    15142: "would exceed complex's per-user limit",
}


class Unreachable(Exception):
    """Nobody listens at the server's socket."""


def prefix() -> Path:
    """Return the directory that the programs are installed in."""
    return Path(__file__).resolve().parents[2]


def config() -> dict[str, str]:
    """Return what PREFIX/etc/pbs.conf says: PBS_HOME, PBS_SERVER, PBS_HOST (the submit host's full name)."""
    lines = (prefix() / "etc/pbs.conf").read_text().split()
    return dict(line.split("=", 1) for line in lines)


def ask(verb: str, **request: Any) -> Any:
    """Return the server's answer. A server that hangs is waited for without an end, as the real programs do.

    Raises:
        Unreachable: There is no server.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(f"{config()['PBS_HOME']}/server.sock")
            connection.sendall(json.dumps({"verb": verb, **request}).encode() + b"\n")
            answer = connection.makefile("rb").readline()
        except OSError as error:
            raise Unreachable from error
    if not answer:
        raise Unreachable
    return json.loads(answer)


def complain(text: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{text}\n")


def status_of(number: int) -> int:
    """Return the exit status that a program ends with for an error number."""
    return number % 256

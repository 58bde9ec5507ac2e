"""Where the gateway reaches an application: at a tunnel's Unix socket, or directly over TCP. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

_SOCKET = re.compile(r"/[A-Za-z0-9_./-]{1,106}", re.ASCII)
_TCP = re.compile(r"([0-9.]{7,15}|\[[0-9a-f:.]{2,45}\]):([1-9][0-9]{0,4})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Tcp:
    """A host by its IP address, and a port. A name is none: what it means may change behind one's back.

    Args:
        ip: IPv4 or IPv6, as ``str(ipaddress.ip_address(…))`` writes it; without a scope.
        port: From 1 to 65535.

    Raises:
        ValueError: It is not the address of one host, or not written so.
    """

    ip: str
    port: int

    def __post_init__(self) -> None:
        ip = ipaddress.ip_address(self.ip)
        if str(ip) != self.ip or "%" in self.ip or ip.is_unspecified or ip.is_multicast:
            raise ValueError(f"not the address of one host: {self.ip!r}")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"not a port: {self.port!r}")

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


Address = Path | Tcp
"""A Unix socket by its path, or TCP."""


def check_address(address: Address) -> None:
    """Return if an address may stand in a command or a configuration.

    Raises:
        ValueError: It is a path of more than 107 bytes (``unix(7)``), or not of ``A-Za-z0-9_./-`` alone.
    """
    if isinstance(address, Path) and not _SOCKET.fullmatch(str(address)):
        raise ValueError(f"not the path of a socket: {str(address)!r}")


def address_word(address: Address) -> str:
    """Return an address as HAProxy writes it: ``unix@/path``, ``192.0.2.1:80`` or ``[2001:db8::1]:80``."""
    return str(address) if isinstance(address, Tcp) else f"unix@{address}"


def parse_address(word: str) -> Address:
    """Return the address that `address_word` has written.

    Raises:
        ValueError: It is none.
    """
    if word.startswith("unix@"):
        path = Path(word.removeprefix("unix@"))
        check_address(path)
        return path
    found = _TCP.fullmatch(word)
    if not found:
        raise ValueError(f"not an address: {word!r}")
    return Tcp(found[1].strip("[]"), int(found[2]))

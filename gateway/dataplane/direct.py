"""The way to the compute nodes where the hub's host has a route to them: no tunnel, nothing to keep alive.

HAProxy and the probe connect to the node by themselves. A node's name is resolved here, once for each way:
HAProxy 2.6 does not start with a name that cannot be resolved, and takes any at run time, resolving none.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway.address import Tcp
from gateway.dataplane.tunnel import Forward
from gateway.errors import DataPlaneError

#: Seconds that resolving a name may take, and how many are resolved at once: one that hangs holds a thread.
_TIMEOUT, _AT_ONCE = 5.0, 2
_FILE = re.compile(r"([a-z2-7]{10})\.(\d{1,5})\.to", re.ASCII)
_LINE = re.compile(r"(\S+) (\d{1,5}) (\S+)\n", re.ASCII)

log = logging.getLogger(__name__)

Resolve = Callable[[str], Sequence[str]]


def resolve(host: str) -> Sequence[str]:
    """Return a host's addresses, IPv4 first: applications listen on 0.0.0.0. It blocks.

    Raises:
        OSError: The name cannot be resolved, or not now.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = [str(address[0]) for *_, address in found]
    return sorted(dict.fromkeys(addresses), key=lambda address: ":" in address)


class Direct:
    """The ways to one cluster's nodes, a `Tunnel`. A file for each outlives this object: another finds it.

    Args:
        cluster: The cluster's name, for the log.
        directory: Where the files are: ``ID.G.to`` with "host port address". Its parent exists and is 0700.
        resolver: Returns a host's addresses.
    """

    def __init__(self, cluster: str, directory: Path, resolver: Resolve = resolve) -> None:
        self._cluster = cluster
        self._directory = directory
        self._resolver = resolver
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="resolver")

    def __repr__(self) -> str:
        return f"<Direct {self._cluster}: {len(self._keys())} ways>"

    async def tend(self) -> None:
        """Do nothing: there is nothing that could end by itself."""

    async def forward(self, server_id: str, generation: int, host: str, port: int) -> Tcp:
        """Return where an endpoint is reached, its host resolved if it was not yet: see `Tunnel`."""
        wanted = Forward(server_id, generation, host, port)
        if known := self._read(server_id, generation):
            there, address = known
            if there != wanted:
                raise DataPlaneError(f"{wanted.stem} leads elsewhere than to {host}:{port}")
            return address
        address = Tcp((await self._resolve(host))[0], port)
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._file(server_id, generation).write_text(f"{host} {port} {address.ip}\n", "ascii")
        except OSError as error:
            raise DataPlaneError(f"{self._directory}: {error.strerror}") from error
        return address

    async def forwards(self) -> Mapping[tuple[str, int], Tcp]:
        """Return all ways that were made and not cancelled."""
        found = {key: self.address(*key) for key in self._keys()}
        for key in (key for key, address in found.items() if address is None):
            await self.cancel(*key)  # writing it was interrupted
        return {key: address for key, address in found.items() if address}

    def address(self, server_id: str, generation: int) -> Tcp | None:
        """Return where a server is reached, None if there is no such way."""
        known = self._read(server_id, generation)
        return known[1] if known else None

    async def confirmed(self, server_id: str, generation: int) -> Tcp | None:
        """Return a way whose host still has the address; one that it has no more is forgotten.

        That the name cannot be resolved now is no news of the host.
        """
        known = self._read(server_id, generation)
        if known is None:
            return None
        there, address = known
        try:
            still = address.ip in await self._resolve(there.host)
        except DataPlaneError as error:
            log.warning("[%s] %s", self._cluster, error)
            still = True
        if still:
            return address
        log.warning("[%s] %s is no longer at %s", self._cluster, there.host, address.ip)
        await self.cancel(server_id, generation)
        return None

    async def cancel(self, server_id: str, generation: int) -> None:
        """Forget a way; it may be forgotten already. Open connections are not cut."""
        self._file(server_id, generation).unlink(missing_ok=True)

    async def stop(self) -> None:
        """Forget all ways. Safe to call twice."""
        for key in self._keys():
            await self.cancel(*key)

    async def _resolve(self, host: str) -> Sequence[str]:
        """Return the addresses of a host, at least one.

        Raises:
            DataPlaneError: It has none, or nobody says in time.
        """
        try:
            async with asyncio.timeout(_TIMEOUT):
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(self._threads, self._resolver, host)
        except TimeoutError:
            raise DataPlaneError(f"{host} could not be resolved within {_TIMEOUT:g} s") from None
        except (OSError, UnicodeError) as error:  # idna refuses a label that is empty or too long
            raise DataPlaneError(f"{host} cannot be resolved: {error}") from error
        addresses = [address for address in found if _usable(address)]
        if not addresses:
            raise DataPlaneError(f"{host} has no address that can be used: {', '.join(found)}")
        return addresses

    def _file(self, server_id: str, generation: int) -> Path:
        return self._directory / f"{server_id}.{generation}.to"

    def _read(self, server_id: str, generation: int) -> tuple[Forward, Tcp] | None:
        """Return what is written of a way, None if nothing is, or not all."""
        try:
            found = _LINE.fullmatch(self._file(server_id, generation).read_text("ascii"))
            if not found:
                return None
            port = int(found[2])
            return Forward(server_id, generation, found[1], port), Tcp(found[3], port)
        except (FileNotFoundError, ValueError):
            return None

    def _keys(self) -> list[tuple[str, int]]:
        """Return server id and generation of all files."""
        if not self._directory.is_dir():
            return []
        found = (_FILE.fullmatch(entry.name) for entry in self._directory.iterdir())
        return [(match[1], int(match[2])) for match in found if match]


def _usable(address: str) -> bool:
    """Return whether an address is one host's, and can be written without a scope."""
    try:
        Tcp(str(ipaddress.ip_address(address)), 1)
    except ValueError:
        return False
    return True

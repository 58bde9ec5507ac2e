"""The way to the compute nodes where the hub's host has a route to them: no tunnel, nothing to keep alive.

HAProxy and the probe connect to the node by themselves. A node's name is resolved here, once for each way:
HAProxy 2.6 does not start with a name that cannot be resolved, and takes any at run time, resolving none.
A node may have addresses in networks that the hub does not reach: where there are several, they are tried.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway.address import Tcp
from gateway.dataplane.tunnel import Forward
from gateway.errors import DataPlaneError
from gateway.metrics import MasterSample

#: Seconds that resolving a name may take, and how many are resolved at once: one that hangs holds a thread.
_TIMEOUT, _AT_ONCE = 5.0, 2
#: Seconds that an address may take to accept a connection, where a host has others.
_ACCEPTING = 2.0
_FILE = re.compile(r"([a-z2-7]{10})\.(\d{1,5})\.to", re.ASCII)
_LINE = re.compile(r"(\S+) (\d{1,5}) (\S+)\n", re.ASCII)

log = logging.getLogger(__name__)

Resolve = Callable[[str], Sequence[str]]
Accepts = Callable[[Tcp], Awaitable[bool]]


def resolve(host: str) -> Sequence[str]:
    """Return a host's addresses, IPv4 first: applications listen on 0.0.0.0. It blocks.

    Raises:
        OSError: The name cannot be resolved, or not now.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = [str(address[0]) for *_, address in found]
    return sorted(dict.fromkeys(addresses), key=lambda address: ":" in address)


async def accepts(address: Tcp) -> bool:
    """Return whether somebody accepts a connection at an address, within 2 s."""
    try:
        async with asyncio.timeout(_ACCEPTING):
            _, writer = await asyncio.open_connection(address.ip, address.port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


class Direct:
    """The ways to one cluster's nodes, a `Tunnel`. A file for each outlives this object: another finds it.

    Args:
        cluster: The cluster's name, for the log.
        directory: Where the files are: ``ID.G.to`` with "host port address". Its parent exists and is 0700.
        resolver: Returns a host's addresses.
        accepts: Returns whether a connection is accepted at an address; asked where a host has several.
    """

    def __init__(
        self, cluster: str, directory: Path, resolver: Resolve = resolve, accepts: Accepts = accepts
    ) -> None:
        self._cluster = cluster
        self._directory = directory
        self._resolver = resolver
        self._accepts = accepts
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="resolver")

    def __repr__(self) -> str:
        return f"<Direct {self._cluster}: {len(self._keys())} ways>"

    async def tend(self) -> None:
        """Do nothing: there is nothing that could end by itself."""

    async def forward(self, server_id: str, generation: int, host: str, port: int, user: str = "") -> Tcp:
        """Return where an endpoint is reached, its host resolved if it was not yet: see `Tunnel`.

        Of several addresses it is the first that accepts a connection; if none does, the first.
        """
        wanted = Forward(server_id, generation, host, port)
        if known := self._read(server_id, generation):
            there, address = known
            if there != wanted:
                raise DataPlaneError(f"{wanted.stem} leads elsewhere than to {host}:{port}")
            return address
        addresses = await self._resolve(host)
        address = await self._accepting(addresses, port) or Tcp(addresses[0], port)
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

        So is one whose address accepts no connection while another one of the host's does: the next way
        leads there. That the name cannot be resolved now is no news of the host.
        """
        known = self._read(server_id, generation)
        if known is None:
            return None
        there, address = known
        try:
            addresses = await self._resolve(there.host)
        except DataPlaneError as error:
            log.warning("[%s] %s", self._cluster, error)
            return address
        if address.ip in addresses:
            # The present one first: if it accepts, its silence is the application's.
            addresses = sorted(addresses, key=lambda each: each != address.ip)
            better = await self._accepting(addresses, there.port)
            if better in (None, address):
                return address
            log.warning("[%s] %s cannot be reached at %s", self._cluster, there.host, address.ip)
        else:
            log.warning("[%s] %s is no longer at %s", self._cluster, there.host, address.ip)
        await self.cancel(server_id, generation)
        return None

    def bulk(self, server_id: str, generation: int) -> None:
        """Return None: a network needs no second way for what is large."""

    def carrier(self, server_id: str, generation: int) -> None:
        """Return None: nothing is between."""

    def draining(self, server_id: str, generation: int) -> bool:
        """Return False: nothing ends by itself."""
        return False

    async def pause(self, most: float) -> None:
        """Return after ``most`` seconds."""
        await asyncio.sleep(most)

    async def cancel(self, server_id: str, generation: int) -> None:
        """Forget a way; it may be forgotten already. Open connections are not cut."""
        self._file(server_id, generation).unlink(missing_ok=True)

    async def stop(self) -> None:
        """Forget all ways. Safe to call twice."""
        for key in self._keys():
            await self.cancel(*key)

    def masters(self) -> Sequence[MasterSample]:
        """Return nothing: there are no SSH masters."""
        return ()

    async def _accepting(self, addresses: Sequence[str], port: int) -> Tcp | None:
        """Return the first address that accepts a connection; None if none does, or there is no choice."""
        if len(addresses) == 1:
            return None
        there = [Tcp(address, port) for address in addresses]
        asked = [asyncio.ensure_future(self._accepts(address)) for address in there]
        try:
            for address, answer in zip(there, asked, strict=True):
                if await answer:
                    return address
        finally:
            for answer in asked:
                answer.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return None

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

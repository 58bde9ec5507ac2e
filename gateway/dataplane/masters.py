"""A cluster's tunnel: a few OpenSSH masters, and one forward for each server, spread over them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from gateway.dataplane.openssh import Master, Pulse
from gateway.dataplane.tunnel import FORWARDS_MAX, Forward, TunnelSettings
from gateway.errors import DataPlaneError, GatewayError, LoginNodeUnreachable

__all__ = ["Duty", "Masters", "TunnelSettings"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Failures:
    """What went wrong with one master lately. ``until`` is on the event loop's clock."""

    error: GatewayError
    count: int
    until: float


class Duty(Enum):
    """What one object does for a tunnel; at any time one keeps it and one carries."""

    ALL = auto()
    """Both."""
    KEEP = auto()
    """Starts masters and clears up after dead ones; knows nothing of forwards."""
    CARRY = auto()
    """Makes and ends forwards on the masters that somebody else keeps."""


class Masters:
    """The masters of one cluster's `Tunnel`. They outlive this object: another one finds them again.

    One object at a time tends a directory. Nothing runs between the calls.

    Args:
        settings: How the tunnel is made.
        duty: What this object does, and what it leaves to another process.

    Raises:
        ConfigError: The settings cannot work.
    """

    def __init__(self, settings: TunnelSettings, duty: Duty = Duty.ALL) -> None:
        settings.check()
        self._settings = settings
        self._keeps, self._carries = duty is not Duty.CARRY, duty is not Duty.KEEP
        self._known: dict[int, Master] = {}
        self._alive: dict[int, Master] = {}  # those too that owe an answer and are not believed to be gone
        self._failures: dict[int, _Failures] = {}
        self._starting: set[int] = set()
        self._tending = asyncio.Lock()
        self._changing = asyncio.Lock()
        self._jitter = random.SystemRandom()

    def __repr__(self) -> str:
        carried = sum(len(master.sockets()) for master in self._alive.values())
        alive, count = len(self._alive), self._settings.count
        return f"<Masters {self._settings.cluster}: {alive} of {count} alive, {carried} forwards>"

    async def tend(self) -> None:
        """Start the masters that are missing, and one more if all are full. Failures back off.

        Raises:
            HostKeyRefused: A login node's key is unknown or has changed; the detail says how to add it.
            LoginNodeRefused: The login node does not take the key.
            LoginNodeUnreachable: The login node does not answer.
            DataPlaneError: The ssh client is missing or too old.
                All of them only if no master is alive: otherwise they are logged.
        """
        async with self._tending:
            async with self._changing:
                await self._survey()
            await asyncio.gather(*(self._start(index) for index in self._due()))
        if all(master.silent for master in self._alive.values()):
            raise self._last_error()

    async def forward(self, server_id: str, generation: int, host: str, port: int) -> Path:
        """Return the socket that leads to a server's endpoint; made if it is not there.

        Args:
            server_id: The server's id.
            generation: From 0 to 99999; a new one for every endpoint and after every loss.
            host: The compute node as the login node knows it.
            port: The application's TCP port there.

        Raises:
            ValueError: An argument is malformed.
            DataPlaneError: The forward cannot be made, or is there for another endpoint.
            GatewayError: As `tend`, if no master is alive.
        """
        wanted = Forward(server_id, generation, host, port)
        for _ in range(2):
            async with self._changing:
                path = await self._find(wanted) or await self._place(wanted)
            if path and (shared := self.address(server_id, generation)):
                return shared
            await self.tend()
        raise DataPlaneError(f"{self!r}: no master has room for {wanted.stem}")

    async def forwards(self) -> Mapping[tuple[str, int], Path]:
        """Return what is really there: (server id, generation) to the socket, on living masters only.

        What dead masters left is removed.

        Raises:
            DataPlaneError: The ssh client cannot be run: nothing is known.
        """
        async with self._changing:
            await self._survey()
            return {key: path for master in self._alive.values() for key, path in master.sockets().items()}

    def address(self, server_id: str, generation: int) -> Path | None:
        """Return a forward's socket if it is on disk, without asking whether its master still lives."""
        found = (master.address(server_id, generation) for master in self._on_disk())
        return next((path for path in found if path), None)

    async def confirmed(self, server_id: str, generation: int) -> Path | None:
        """Return a forward's socket if its master lives.

        Raises:
            DataPlaneError: The ssh client cannot be run: nothing is known.
        """
        return (await self.forwards()).get((server_id, generation))

    async def cancel(self, server_id: str, generation: int) -> None:
        """End a forward and remove its socket; it may be gone already. Open connections are not cut.

        Raises:
            DataPlaneError: The ssh client cannot be run.
        """
        async with self._changing:
            for master in self._on_disk():
                if master.index not in self._starting:
                    await master.remove(server_id, generation)

    async def stop(self) -> None:
        """End all masters and remove what they left. Safe to call twice."""
        async with self._tending, self._changing:
            await asyncio.gather(*(master.end() for master in self._on_disk()))
            self._alive.clear()
            self._known.clear()
            self._failures.clear()

    def _on_disk(self) -> list[Master]:
        """Return the masters that have a directory, alive or not."""
        if not self._settings.directory.is_dir():
            return []
        names = [entry.name for entry in self._settings.directory.iterdir() if entry.name.isdecimal()]
        return [self._master(index) for index in sorted(map(int, names))]

    def _master(self, index: int) -> Master:
        return self._known.setdefault(index, Master(self._settings, index))

    async def _survey(self) -> None:
        """Find out which masters are alive; clear up after the dead and after interrupted cancels."""
        masters = [master for master in self._on_disk() if master.index not in self._starting]
        pulses = await asyncio.gather(*(master.pulse() for master in masters))
        for master, pulse in zip(masters, pulses, strict=True):
            alive = pulse is not Pulse.GONE
            if alive and not master.is_as_set():
                log.warning(
                    "[%s] master %d has other settings and is ended", self._settings.cluster, master.index
                )
                if self._keeps:
                    await master.end()
                alive = False
            if alive:
                self._alive[master.index] = master
                master.share()
                if self._carries and not master.silent:
                    for server_id, generation in master.leftovers():
                        await master.remove(server_id, generation)
            else:
                self._bury(master)
        for index in self._alive.keys() - {master.index for master in masters} - self._starting:
            del self._alive[index]

    def _bury(self, master: Master) -> None:
        lost = len(master.sockets())
        if master.index in self._alive or lost:
            log.warning(
                "[%s] master %d is gone, with %d forwards", self._settings.cluster, master.index, lost
            )
        self._alive.pop(master.index, None)
        self._known.pop(master.index, None)
        if self._keeps:
            master.clear()

    def _due(self) -> list[int]:
        """Return the masters that are to be started now, by this process."""
        now = asyncio.get_running_loop().time()
        missing = self._missing() if self._keeps else ()
        return [k for k in missing if k not in self._failures or self._failures[k].until <= now]

    def _missing(self) -> Iterable[int]:
        wanted = set(range(self._settings.count))
        if wanted <= self._alive.keys() and not self._roomy():
            wanted.add(next(index for index in range(len(self._alive) + 1) if index not in self._alive))
        return sorted(wanted - self._alive.keys())

    def _roomy(self) -> list[Master]:
        """Return the answering masters that can take one more forward, the least laden first."""
        laden = {index: len(master.sockets()) for index, master in self._alive.items() if not master.silent}
        indexes = sorted(laden, key=lambda index: (laden[index], index))
        return [self._alive[index] for index in indexes if laden[index] < FORWARDS_MAX]

    async def _start(self, index: int) -> None:
        """Start one master; a failure is noted, and decides when and where the next try goes."""
        failed = self._failures.get(index)
        tries = failed.count if failed else 0
        hosts = self._settings.hosts
        master = self._known[index] = Master(self._settings, index)
        self._starting.add(index)
        try:
            await master.start(hosts[(index + tries) % len(hosts)])
        except GatewayError as error:
            log.warning("[%s] master %d: %s", self._settings.cluster, index, error)
            self._failures[index] = _Failures(error, tries + 1, self._next_try(tries))
        else:
            self._failures.pop(index, None)
            self._alive[index] = master
        finally:
            self._starting.discard(index)

    def _next_try(self, tries: int) -> float:
        """Return when to try again: the pause doubles once every host had its turn, less up to half of it."""
        first, most = self._settings.retry
        pause = min(most, first * 2.0 ** min(tries // len(self._settings.hosts), 16))
        return asyncio.get_running_loop().time() + pause * self._jitter.uniform(0.5, 1)

    def _last_error(self) -> GatewayError:
        """Return, as an error of its own, the one that most needs somebody: a key before an outage."""
        errors = [failures.error for failures in self._failures.values()]
        if not self._keeps:
            return LoginNodeUnreachable(
                f"{self!r}: is gateway-tunnels running, and was it restarted since this cluster was added? "
                "What does it say? journalctl -u gateway-tunnels"
            )
        if not errors:
            return DataPlaneError(f"{self!r}: no master could be started")
        worst = min(errors, key=lambda error: error.transient)
        return type(worst)(str(worst), worst.public)

    async def _find(self, wanted: Forward) -> Path | None:
        """Return the socket of the forward if it is there already, on a living master."""
        for master in self._on_disk():
            path = master.sockets().get((wanted.server_id, wanted.generation))
            if path is None or master.index in self._starting:
                continue
            if await master.pulse() is Pulse.GONE:
                self._bury(master)
            elif master.target(wanted.server_id, wanted.generation) != wanted:
                raise DataPlaneError(f"{wanted.stem} leads elsewhere than to {wanted.host}:{wanted.port}")
            else:
                return path
        return None

    async def _place(self, wanted: Forward) -> Path | None:
        """Make the forward on the least laden master; None if there is none, or all are full."""
        for master in self._roomy():
            try:
                return await master.add(wanted)
            except DataPlaneError:
                match await master.pulse():
                    case Pulse.ALIVE:
                        await master.remove(wanted.server_id, wanted.generation)
                        raise
                    case Pulse.GONE:
                        self._bury(master)
        return None

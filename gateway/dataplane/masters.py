"""A cluster's tunnel: a few OpenSSH masters, and a forward for each server, spread over them.

A master that has died is replaced in its own directory by whoever keeps the masters, with all its forwards at
the same paths. One that is to be left (its login node is drained, its settings or certificate are of
yesterday) gets no new forwards: the servers get new ways on others, and it ends once nothing is open.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path

from gateway.dataplane import drain
from gateway.dataplane.ciphers import fastest_first
from gateway.dataplane.openssh import BULK_FIRST, NODES_FIRST, Key, Master, Pulse
from gateway.dataplane.refusals import is_absence
from gateway.dataplane.tunnel import FORWARDS_MAX, Forward, TunnelSettings
from gateway.dataplane.turns import Turns
from gateway.errors import DataPlaneError, GatewayError, LoginNodeUnreachable
from gateway.metrics import MasterSample

__all__ = ["Duty", "Masters", "TunnelSettings"]

log = logging.getLogger(__name__)

#: Seconds for which the ways of a master that died are counted as there, where they could go elsewhere.
HEALING = 5.0
#: Seconds to the next try, at most, where nobody took the connection.
_ABSENT = 1.5
#: How many forwards for what is large are made for servers that lack theirs, at one `Masters.tend`.
_COMPLETED_AT_ONCE = 64


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
    """Starts masters, with the forwards that the dead ones had; makes no new ones."""
    CARRY = auto()
    """Makes and ends forwards on the masters that somebody else keeps."""


class Masters:
    """The masters of one cluster's `Tunnel`. They outlive this object: another one finds them again.

    One object at a time tends a directory. Nothing runs between the calls.

    Args:
        settings: How the tunnel is made.
        duty: What this object does, and what it leaves to another process.
        turns: Whose turn it is to connect; to be shared by tunnels to the same login nodes.

    Raises:
        ConfigError: The settings cannot work.
    """

    def __init__(self, settings: TunnelSettings, duty: Duty = Duty.ALL, turns: Turns | None = None) -> None:
        settings.check()
        self._settings = settings
        self._keeps, self._carries = duty is not Duty.CARRY, duty is not Duty.KEEP
        self._turns = turns or Turns()
        self._ciphers = ""
        self._known: dict[int, Master] = {}
        self._alive: dict[int, Master] = {}  # those too that owe an answer and are not believed to be gone
        self._gone_since: dict[int, float] = {}
        self._failures: dict[int, _Failures] = {}
        self._starting: dict[int, str] = {}  # to which host
        self._reconnects: Counter[int] = Counter()
        self._tending = asyncio.Lock()
        self._changing = asyncio.Lock()
        self._jitter = random.SystemRandom()

    def __repr__(self) -> str:
        carried = sum(master.load for master in self._alive.values() if not master.bulk)
        alive, count = len(self._alive), self._settings.count + self._settings.bulk
        return f"<Masters {self._settings.cluster}: {alive} of {count} alive, {carried} forwards>"

    async def tend(self) -> None:
        """Start the masters that are missing, and one more if all are full. Failures back off.

        A master that is to be left is ended when nothing goes through it, or its time is over.

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
                if self._keeps:
                    await self._end_drained()
                    await self._end_surplus()
            await asyncio.gather(*(self._start(index) for index in self._due()))
            if self._carries:
                async with self._changing:
                    await self._complete()
        if not any(self._usable(bulk=False)):
            raise self._last_error()

    async def pause(self, most: float, others: Iterable[Master] = ()) -> None:
        """Return when a master has ended or the next try is due, at the latest after ``most`` seconds.

        Args:
            most: Seconds.
            others: Masters of another kind, whose end counts too.
        """
        if not self._keeps:
            await asyncio.sleep(most)
            return
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        due = [failures.until - loop.time() for failures in self._failures.values()]
        with ExitStack() as stack:
            for master in (*self._alive.values(), *others):
                try:
                    watched = os.pidfd_open(master.pid() or 0)
                except OSError:  # it has ended already; of one that is silent that is not sure
                    if not master.silent:
                        ended.set()
                    continue
                stack.callback(os.close, watched)
                loop.add_reader(watched, ended.set)
                stack.callback(loop.remove_reader, watched)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.05, min([most, *due]))):
                    await ended.wait()

    async def forward(self, server_id: str, generation: int, host: str, port: int, user: str = "") -> Path:
        """Return the socket that leads to a server's endpoint; made if it is not there.

        Args:
            server_id: The server's id.
            generation: From 0 to 99999; a new one for every endpoint.
            host: The compute node as the login node knows it.
            port: The application's TCP port there.
            user: Nobody's business here: all go by the tunnel's account.

        Raises:
            ValueError: An argument is malformed.
            DataPlaneError: The forward cannot be made, or is there for another endpoint.
            GatewayError: As `tend`, if no master is alive.
        """
        wanted = Forward(server_id, generation, host, port)
        for _ in range(2):
            async with self._changing:
                holder = self._holder(wanted)
                made = await (self._again(holder, wanted) if holder else self._place(wanted))
                if made and self._settings.bulk:
                    await self._place_bulk(wanted)
            if made and (shared := made.address((server_id, generation))):
                return shared
            await self.tend()
        raise DataPlaneError(f"{self!r}: there is no master for {wanted.stem} now")

    async def forwards(self) -> Mapping[Key, Path]:
        """Return what is there: (server id, generation) to the socket.

        What a dead master had is there for a few more seconds, or while there is no other master: it comes
        back. The settings' group may connect to all of them.

        Raises:
            DataPlaneError: A master cannot be asked: nothing is known.
        """
        async with self._changing:
            await self._survey()
            masters = [master for master in self._on_disk() if not master.bulk and self._counts(master)]
            return {key: path for master in masters for key, path in master.sockets().items()}

    def address(self, server_id: str, generation: int) -> Path | None:
        """Return a forward's socket if it is on disk and not given up."""
        key = server_id, generation
        found = (each.address(key) for each in self._on_disk() if not each.bulk and self._counts(each))
        return next((path for path in found if path), None)

    def bulk(self, server_id: str, generation: int) -> Path | None:
        """Return the socket of the same way for what is large, while its master lives."""
        found = (each.address((server_id, generation)) for each in self._alive.values() if each.bulk)
        return next((path for path in found if path), None)

    def carrier(self, server_id: str, generation: int) -> tuple[int, str] | None:
        """Return the number of the master that carries a way, and its login node."""
        key = server_id, generation
        found = (each for each in self._alive.values() if not each.bulk and each.path(key, "to").exists())
        return next(((each.index, each.host) for each in found), None)

    def draining(self, server_id: str, generation: int) -> bool:
        """Return whether the way is by a master that is to end, and there is another one for a new way."""
        holders = [
            each
            for each in self._alive.values()
            if each.draining and each.path((server_id, generation), "to").exists()
        ]
        return any(next(self._roomy(bulk=each.bulk), None) for each in holders)

    async def confirmed(self, server_id: str, generation: int) -> Path | None:
        """Return a forward's socket if its master lives.

        Raises:
            DataPlaneError: A master cannot be asked: nothing is known.
        """
        async with self._changing:
            await self._survey()
            found = (each.address((server_id, generation)) for each in self._alive.values() if not each.bulk)
            return next((path for path in found if path), None)

    async def cancel(self, server_id: str, generation: int) -> None:
        """End a forward and remove its socket; it may be gone already. Open connections are not cut.

        Raises:
            DataPlaneError: A master cannot be asked.
        """
        async with self._changing:
            for master in reversed(self._on_disk()):  # what is large first: a way without its own is whole
                await master.remove((server_id, generation))

    async def stop(self) -> None:
        """End all masters and remove what they left. Safe to call twice."""
        async with self._tending, self._changing:
            await asyncio.gather(*(master.end() for master in self._on_disk()))
            for memory in (self._alive, self._known, self._failures, self._gone_since):
                memory.clear()

    def masters(self) -> Sequence[MasterSample]:
        """Return the masters as they were last seen."""
        alive, name = self._alive, self._settings.cluster
        indexes = sorted({*alive, *self._gone_since, *self._failures})
        each = [(index, self._master(index)) for index in indexes]
        return [
            MasterSample(
                name,
                index,
                master.host,
                "bulk" if master.bulk else "interactive",
                index in alive and not master.silent,
                master.draining,
                master.load,
                self._reconnects[index],
            )
            for index, master in each
        ]

    def _on_disk(self) -> list[Master]:
        """Return the masters that have a directory, alive or not."""
        try:
            names = os.listdir(self._settings.directory)  # noqa: PTH208  (thrice as fast)
        except FileNotFoundError:
            return []
        numbers = sorted(int(name) for name in names if name.isdecimal())
        return [self._master(index) for index in numbers if index < NODES_FIRST]

    def _master(self, index: int) -> Master:
        if index not in self._known:
            self._known[index] = Master(self._settings, index)
        return self._known[index]

    def _hosts(self) -> list[str]:
        """Return the login nodes to connect to: those that are not to be left, if there are any."""
        left = drain.marked(self._settings.directory)
        return [host for host in self._settings.hosts if host not in left] or list(self._settings.hosts)

    async def _survey(self) -> None:
        """Find out which masters are alive, and which of those are to be left; finish interrupted cancels."""
        masters = [master for master in self._on_disk() if master.index not in self._starting]
        pulses = await asyncio.gather(*(master.pulse() for master in masters))
        hosts = self._hosts()
        for master, pulse in zip(masters, pulses, strict=True):
            master.wanted()
            if pulse is Pulse.GONE:
                self._note_gone(master)
                continue
            self._reconnects[master.index] += self._gone_since.pop(master.index, None) is not None
            self._alive[master.index] = master
            self._note_draining(master, hosts)
            master.share()
            if self._carries and not master.silent:
                for key in master.leftovers():
                    await master.remove(key)
        for index in self._alive.keys() - {master.index for master in masters} - self._starting.keys():
            del self._alive[index]

    def _note_gone(self, master: Master) -> None:
        if master.index not in self._gone_since:
            self._gone_since[master.index] = time.monotonic()
            if master.index in self._alive or master.load:
                log.warning(
                    "[%s] master %d is gone, with %d forwards",
                    self._settings.cluster,
                    master.index,
                    master.load,
                )
        self._alive.pop(master.index, None)

    def _note_draining(self, master: Master, hosts: Collection[str]) -> None:
        draining = not master.is_as_set(hosts)
        if draining and not master.draining:
            log.warning(
                "[%s] master %d to %s gets no more forwards: its host or its settings are to be left",
                self._settings.cluster,
                master.index,
                master.host,
            )
        master.draining = draining

    def _counts(self, master: Master) -> bool:
        """Return whether what goes by a master may be relied on: it lives, or is about to come back."""
        if master.index in self._alive or master.index in self._starting:
            return True
        since = self._gone_since.get(master.index)
        healing = since is None or time.monotonic() - since < HEALING
        return healing or not any(self._usable(bulk=master.bulk))

    def _usable(self, *, bulk: bool) -> Iterator[Master]:
        """Return the living masters of a kind that have answered."""
        return (each for each in self._alive.values() if each.bulk == bulk and not each.silent)

    def _fresh(self, *, bulk: bool) -> list[Master]:
        """Return the living masters of a kind that are not to be left."""
        return [each for each in self._alive.values() if each.bulk == bulk and not each.draining]

    def gate(self) -> Path | None:
        """Return the control socket of a master by which another ssh can go on; None if there is none."""
        living = [each for each in self._usable(bulk=False) if not each.draining]
        chosen = self._jitter.choice(living or [*self._usable(bulk=False)] or [None])
        return chosen.control if chosen else None

    def _roomy(self, *, bulk: bool) -> Iterator[Master]:
        """Return the answering masters that can take one more forward, the least laden first."""
        found = [each for each in self._fresh(bulk=bulk) if each.load < FORWARDS_MAX and not each.silent]
        return iter(sorted(found, key=lambda each: (each.load, each.index)))

    async def _end_drained(self) -> None:
        """End the masters that are to be left and carry nothing that is open, or for too long."""
        for master in [each for each in self._alive.values() if each.draining]:
            for_s = master.draining_for()
            if not self._fresh(bulk=master.bulk):
                continue
            unmoved = master.wanted() - self._moved(master)
            idle = not unmoved and not drain.open_connections(master.directory)
            if not idle and for_s < self._settings.drain:
                continue
            log.info("[%s] master %d to %s is ended", self._settings.cluster, master.index, master.host)
            for key in master.wanted() - unmoved:
                await master.remove(key)
            await master.quit()
            del self._alive[master.index]
            if not unmoved:
                master.clear()
                self._known.pop(master.index, None)

    def _moved(self, master: Master) -> set[Key]:
        """Return those of a master's forwards whose server has a newer way elsewhere."""
        newest: dict[str, int] = {}
        for other in self._fresh(bulk=False):
            for server_id, generation in other.wanted():
                newest[server_id] = max(generation, newest.get(server_id, 0))
        return {key for key in master.wanted() if newest.get(key[0], -1) > key[1]}

    async def _end_surplus(self) -> None:
        """End a master that carries nothing, where there are more than enough without it."""
        for bulk, count in ((False, self._settings.count), (True, self._settings.bulk)):
            fresh = self._fresh(bulk=bulk)
            empty = [each for each in fresh if not each.load and not drain.open_connections(each.directory)]
            others = [each for each in fresh if each is not empty[-1]] if empty else []
            free = sum(FORWARDS_MAX - each.load for each in others)
            if empty and len(others) >= count and (free > FORWARDS_MAX // 4 or not count):
                await empty[-1].end()
                self._alive.pop(empty[-1].index)
                self._known.pop(empty[-1].index)

    def _due(self) -> list[int]:
        """Return the masters that are to be started now, by this process; clear up what nobody needs."""
        if not self._keeps:
            return []
        now = asyncio.get_running_loop().time()
        missing = [*self._missing(bulk=False), *self._missing(bulk=True)]
        for master in self._on_disk():
            if master.index not in self._alive and master.index not in missing:
                master.clear()
                self._known.pop(master.index, None)
        for index in self._failures.keys() - set(missing):
            del self._failures[index]
        return [k for k in missing if k not in self._failures or self._failures[k].until <= now]

    def _missing(self, *, bulk: bool) -> list[int]:
        """Return the numbers of the masters of a kind that should be there and are not."""
        first, end = (BULK_FIRST, BULK_FIRST + 20) if bulk else (0, BULK_FIRST)
        laden = [each.index for each in self._on_disk() if each.bulk == bulk and each.wanted()]
        missing = [index for index in laden if index not in self._alive]
        lacking = (self._settings.bulk if bulk else self._settings.count) - len(self._fresh(bulk=bulk))
        if lacking <= 0 and not missing and not next(self._roomy(bulk=bulk), None):
            lacking = int(not bulk or self._settings.bulk > 0)
        free = (index for index in range(first, end) if index not in self._alive and index not in missing)
        missing += [index for index, _ in zip(free, range(lacking - len(missing)), strict=False)]
        return sorted(missing)

    async def _start(self, index: int) -> None:
        """Start one master; a failure is noted, and decides when and where the next try goes."""
        failed = self._failures.get(index)
        tries = failed.count if failed else 0
        host = self._starting[index] = self._host(tries)
        master = self._master(index)
        try:
            hop = self._settings.jump
            gate = (hop.host, hop.port) if hop else (host, self._settings.port)
            self._ciphers = self._ciphers or await asyncio.to_thread(fastest_first)
            async with self._turns.take(*gate):
                await master.start(host, self._ciphers)
        except GatewayError as error:
            told = failed and str(failed.error) == str(error)
            log.log(
                logging.DEBUG if told else logging.WARNING,
                "[%s] master %d: %s",
                self._settings.cluster,
                index,
                error,
            )
            self._failures[index] = _Failures(error, tries + 1, self._next_try(tries, error))
        else:
            self._failures.pop(index, None)
            self._reconnects[index] += self._gone_since.pop(index, None) is not None
            master.draining = False
            self._alive[index] = master
        finally:
            self._starting.pop(index, None)

    def _host(self, tries: int) -> str:
        """Return the login node for the next master: the one with the fewest; after failures, the others."""
        hosts = self._hosts()
        there = [*(each.host for each in self._alive.values()), *self._starting.values()]
        ranked = sorted(hosts, key=there.count)
        return ranked[tries % len(ranked)]

    def _next_try(self, tries: int, error: GatewayError) -> float:
        """Return when to try again: the pause doubles once every host had its turn, less up to half of it.

        It stays short where nobody was there to be bothered: a login node that comes back is back at once.
        """
        first, most = self._settings.retry
        pause = min(most, first * 2.0 ** min(tries // len(self._settings.hosts), 16))
        if is_absence(error):
            pause = min(pause, _ABSENT)
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

    def _holder(self, wanted: Forward) -> Master | None:
        """Return the master, living or dead, that the forward was asked of already.

        Raises:
            DataPlaneError: It was for another endpoint.
        """
        key = wanted.server_id, wanted.generation
        for master in self._on_disk():
            there = None if master.bulk else master.target(key)
            if there and there != wanted:
                raise DataPlaneError(f"{wanted.stem} leads elsewhere than to {wanted.host}:{wanted.port}")
            if there:
                return master
        return None

    async def _again(self, holder: Master, wanted: Forward) -> Master | None:
        """Return the master that has a forward if it lives: a forward stays where it was first made."""
        if holder.index in self._starting or await holder.pulse() is Pulse.GONE:
            return None
        return (
            holder
            if holder.address((wanted.server_id, wanted.generation))
            else await self._add(holder, wanted)
        )

    async def _place(self, wanted: Forward) -> Master | None:
        """Make the forward on the least laden master; None if there is none, or all are full."""
        for master in self._roomy(bulk=wanted.bulk):
            if made := await self._add(master, wanted):
                return made
        return None

    async def _add(self, master: Master, wanted: Forward) -> Master | None:
        """Make a forward on a master, and return that; None if it has died or owes an answer."""
        try:
            await master.add(wanted)
        except DataPlaneError:
            pulse = await master.pulse()
            await master.remove((wanted.server_id, wanted.generation))
            if pulse is Pulse.ALIVE:
                raise
            if pulse is Pulse.GONE:
                self._note_gone(master)
            return None
        return master

    async def _place_bulk(self, main: Forward) -> None:
        """Make the forward for what is large, if it is not there. Without one, all goes the one way."""
        wanted = replace(main, bulk=True)
        key = main.server_id, main.generation
        if any(each.path(key, "to").exists() for each in self._on_disk() if each.bulk):
            return
        try:
            await self._place(wanted)
        except DataPlaneError as error:
            log.warning("[%s] %s", self._settings.cluster, error)

    async def _complete(self) -> None:
        """Make forwards for what is large where the masters for it were away, and end those of no way."""
        masters = self._on_disk()
        small = {key: each for each in masters if not each.bulk for key in each.wanted()}
        large = {key: each for each in masters if each.bulk for key in each.wanted()}
        for key in large.keys() - (small.keys() if self._settings.bulk else set()):
            await large[key].remove(key)
        if not self._settings.bulk:
            return
        lacking = [key for key in small.keys() - large.keys() if not small[key].draining]
        for key in lacking[:_COMPLETED_AT_ONCE]:
            if main := small[key].target(key):
                await self._place_bulk(main)

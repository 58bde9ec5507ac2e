"""The ways to compute nodes by SSH to the node as the user, for sites that let people in there.

Through a master to a login node goes another ssh to the compute node's own sshd, as the person whose job is
there: one for each person and node, which all servers of that person's there share. A forward of it ends at
the Unix socket on which an application listens, ``DIRECTORY/ID.NUMBER``: NUMBER is what the job has published
as its port, so that whatever a job publishes leads to a socket of that person's and of this start.

- Each connection has a key of its own, on disk until sshd has taken it, and a certificate of minutes.
- The first session's one command, which the certificate dictates, sees whether DIRECTORY is that person's own
  on that node; before that has gone well there is no forward. Afterwards nobody else can put anything there.
- A connection that ends (pam_slurm_adopt ends it with the person's last job there) is made again while
  servers want it, with its forwards at the same paths.

A master of this kind has its directory beside those of the others, numbered from `NODES_FIRST` on, and in it
``who``: "user host". Who keeps the masters and who makes forwards may be two processes, as with `Masters`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.dataplane.access import share_directory
from gateway.dataplane.ciphers import fastest_first
from gateway.dataplane.masters import Duty, Masters
from gateway.dataplane.nodemaster import NodeMaster, Nodes
from gateway.dataplane.openssh import NODES_FIRST, Key, Pulse
from gateway.dataplane.orphans import kill
from gateway.dataplane.tunnel import SOCKET_PATH_MAX, Forward, TunnelSettings, stem
from gateway.dataplane.turns import Turns
from gateway.errors import ConfigError, DataPlaneError, GatewayError, LoginNodeRefused, LoginNodeUnreachable
from gateway.files import write_private
from gateway.metrics import MasterSample
from gateway.model import USER_NAME
from gateway.siteconfig import HOST

__all__ = ["MOST", "NodeTunnel"]

log = logging.getLogger(__name__)

#: The most connections to compute nodes of one cluster.
MOST = 4000
#: How many are made at the same time: each has a turn at one login node's sshd, and then at its node's.
_AT_ONCE = 8
#: Seconds after which a directory that no server wants is what a crash has left.
_LEFT = 60.0
#: Seconds between two looks for what another process wants connected, and for whether it is.
_KEEPERS_LOOK, _WAITERS_LOOK = 0.5, 0.1
_WHO = re.compile(rf"(\S+) ({HOST})\n", re.ASCII)


@dataclass(slots=True)
class _Failures:
    """How often a connection could not be made, and until when it is not tried. On the event loop's clock."""

    count: int
    until: float


class NodeTunnel:
    """The ways to one cluster's nodes, each as the user whose job is there: a `Tunnel`.

    Args:
        login: The masters to the login nodes. They are tended here.
        settings: Theirs.
        nodes: How the nodes are reached.
        duty: What this object does, and what it leaves to another process; the same as theirs.

    Raises:
        ConfigError: The settings cannot work.
    """

    def __init__(self, login: Masters, settings: TunnelSettings, nodes: Nodes, duty: Duty = Duty.ALL) -> None:
        longest = settings.directory / str(NODES_FIRST + MOST) / ("ctl." + 16 * "x")
        if len(os.fsencode(longest)) + 4 > SOCKET_PATH_MAX:
            raise ConfigError(f"{settings.directory} is too long for sockets in it: choose a shorter run_dir")
        self._login = login
        self._settings = settings
        self._nodes = nodes
        self._keeps, self._carries = duty is not Duty.CARRY, duty is not Duty.KEEP
        self._known: dict[int, NodeMaster] = {}
        self._alive: dict[int, NodeMaster] = {}
        self._failures: dict[int, _Failures] = {}
        self._gone: set[int] = set()
        self._reconnects = 0
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._turns = Turns()
        self._jitter = random.SystemRandom()

    def __repr__(self) -> str:
        return f"<NodeTunnel {self._settings.cluster}: {len(self._alive)} connections to nodes>"

    # --- Tunnel ---------------------------------------------------------------------------------------

    async def tend(self) -> None:
        """Tend the masters to the login nodes; connect anew what has ended, and end what nobody wants."""
        await self._login.tend()
        masters = [master for master in self._on_disk() if not master.changing.locked()]
        await asyncio.gather(*(self._look_after(master) for master in masters))

    async def forward(self, server_id: str, generation: int, host: str, port: int, user: str = "") -> Path:
        """Return the socket that leads to a server's own on its node: see `Tunnel`."""
        wanted = Forward(server_id, generation, host, port)
        if not USER_NAME.fullmatch(user):
            raise ValueError(f"not a user: {user!r}")
        key = server_id, generation
        master = self._of(user, host)
        async with master.changing:
            there = master.target(key)
            if there and there != wanted:
                raise DataPlaneError(f"{wanted.stem} leads elsewhere than to {host}:{port}")
            try:
                master.want(wanted)
                if await self._pulse(master) is not Pulse.ALIVE:
                    await (self._start(master) if self._keeps else self._kept(master))
                return master.address(key) or await master.add(wanted)
            except GatewayError:
                await self._remove(master, key)
                raise

    async def forwards(self) -> Mapping[Key, Path]:
        """Return what is there; what a dead connection had is too: it comes back, or its servers end."""
        return {key: path for master in self._on_disk() for key, path in master.sockets().items()}

    def address(self, server_id: str, generation: int) -> Path | None:
        """Return a forward's socket if it is on disk."""
        master = self._holder((server_id, generation))
        return master.address((server_id, generation)) if master else None

    async def confirmed(self, server_id: str, generation: int) -> Path | None:
        """Return the same if its connection lives, or owes an answer."""
        key = server_id, generation
        master = self._holder(key)
        if master is None or await self._pulse(master) is Pulse.GONE:
            return None
        return master.address(key)

    def bulk(self, server_id: str, generation: int) -> None:
        """Return None: what is large goes the same way."""

    def carrier(self, server_id: str, generation: int) -> tuple[int, str] | None:
        """Return the number of the connection that carries a way, and its node."""
        master = self._holder((server_id, generation))
        return (master.index, master.who[1]) if master else None

    def draining(self, server_id: str, generation: int) -> bool:
        """Return False: a connection comes back at the same paths."""
        return False

    async def pause(self, most: float) -> None:
        """Return when a connection has ended, or another process wants one: see `Tunnel`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + min([most, *(each.until - loop.time() for each in self._failures.values())])
        alone = self._keeps and self._carries
        while (left := end - loop.time()) > 0 and (alone or not self._awaited()):
            alive = tuple(self._alive.values())
            await self._login.pause(left if alone else min(left, _KEEPERS_LOOK), alive)
            if any(master.pid() is None for master in alive) or alone:
                return

    async def cancel(self, server_id: str, generation: int) -> None:
        """End a way; with its last one a connection ends. Open connections of others are not cut."""
        key = server_id, generation
        for master in [master for master in self._on_disk() if master.path(key, "to").exists()]:
            async with master.changing:
                await self._remove(master, key)

    async def stop(self) -> None:
        """End all connections, and the masters to the login nodes. Safe to call twice."""
        masters = self._on_disk()
        await asyncio.gather(*(master.end() for master in masters))
        for master in masters:
            self._forget(master)
        await self._login.stop()

    def masters(self) -> Sequence[MasterSample]:
        """Return the masters to the login nodes, and the connections; the first has what all came back."""
        counts, samples = iter([self._reconnects]), list(self._login.masters())
        for index in sorted(self._alive | dict.fromkeys(self._gone)):
            if master := self._known.get(index):
                alive, forwards = index in self._alive, len(master.sockets())
                (cluster, node), again = (self._settings.cluster, master.who[1]), next(counts, 0)
                samples.append(MasterSample(cluster, index, node, "node", alive, False, forwards, again))
        return samples

    # --- connections ----------------------------------------------------------------------------------

    def _on_disk(self) -> list[NodeMaster]:
        """Return the connections that there are, or are to be."""
        return [master for index in self._numbers() if (master := self._read(index))]

    def _numbers(self) -> list[int]:
        try:
            names = os.listdir(self._settings.directory)  # noqa: PTH208  (thrice as fast)
        except FileNotFoundError:
            return []
        return sorted(number for name in names if name.isdecimal() and (number := int(name)) >= NODES_FIRST)

    def _awaited(self) -> bool:
        """Return whether another process waits for a connection that was not tried yet."""
        new = (each for each in self._on_disk() if each.index not in (self._alive | self._failures))
        return self._keeps and any(each.wanted() for each in new)

    def _read(self, index: int) -> NodeMaster | None:
        """Return the connection in a directory; None if it is nobody's (yet)."""
        try:
            found = _WHO.fullmatch((self._settings.directory / str(index) / "who").read_text("ascii"))
        except (OSError, ValueError):
            found = None
        if not found or not USER_NAME.fullmatch(found[1]):
            self._clear_left(index)
            return None
        who, known = (found[1], found[2]), self._known.get(index)
        if known is None or known.who != who:
            known = NodeMaster(self._settings, index, who, self._nodes, self._login.gate)
            self._known[index] = known
        return known

    def _clear_left(self, index: int) -> None:
        """Remove a directory that a crash has left unfinished."""
        directory = self._settings.directory / str(index)
        with suppress(OSError):
            if self._carries and time.time() - directory.stat().st_mtime > _LEFT:
                for entry in directory.iterdir():
                    entry.unlink(missing_ok=True)
                directory.rmdir()

    def _of(self, user: str, host: str) -> NodeMaster:
        """Return the connection of a user to a node; its directory is made if there is none."""
        numbers, who = set(self._numbers()), (user, host)
        for index in sorted(numbers):
            if (master := self._read(index)) and master.who == who:
                return master
        index = next(number for number in range(NODES_FIRST, NODES_FIRST + MOST + 1) if number not in numbers)
        if index == NODES_FIRST + MOST:
            raise DataPlaneError(f"{self!r}: all {MOST} are taken")
        directory = self._settings.directory / str(index)
        try:
            for each in (self._settings.directory, directory):
                each.mkdir(mode=0o700, exist_ok=True)
                share_directory(each, self._settings.group)
            write_private(directory / "who", f"{user} {host}\n".encode("ascii"))
        except OSError as error:
            raise DataPlaneError(f"{directory}: {error}") from error
        made = self._read(index)
        if made is None:
            raise DataPlaneError(f"{directory} was cleared up at this moment")
        return made

    def _holder(self, key: Key) -> NodeMaster | None:
        name = f"{stem(*key, bulk=False)}.to"
        for index in self._numbers():
            if (self._settings.directory / str(index) / name).exists():
                return self._read(index)
        return None

    async def _pulse(self, master: NodeMaster) -> Pulse:
        """Return what is known of a connection. One whose first session does not go well is none."""
        try:
            pulse = await master.pulse()
        except (LoginNodeRefused, LoginNodeUnreachable) as error:
            log.warning("[%s] %s", self._settings.cluster, error)
            kill(master.directory)
            pulse = Pulse.GONE
        if pulse is Pulse.GONE:
            if self._alive.pop(master.index, None):
                self._gone.add(master.index)
                log.warning("[%s] %r is gone", self._settings.cluster, master)
        else:
            self._alive[master.index] = master
            if master.index in self._gone:
                self._gone.remove(master.index)
                self._reconnects += 1
        return pulse

    async def _look_after(self, master: NodeMaster) -> None:
        """See that a connection is there if it is wanted, and only then."""
        async with master.changing:
            wanted = master.wanted()
            if not wanted:
                with suppress(OSError):
                    if self._carries or time.time() - master.directory.stat().st_mtime > _LEFT:
                        await self._end(master)
                return
            pulse = await self._pulse(master)
            if pulse is Pulse.GONE and self._keeps:
                await self._again(master)
            elif pulse is Pulse.ALIVE and self._carries:
                master.share()
                for key in master.leftovers():
                    await self._remove(master, key)

    async def _again(self, master: NodeMaster) -> None:
        """Connect anew, if it is time to; a failure decides when the next try is due."""
        loop, failed = asyncio.get_running_loop(), self._failures.get(master.index)
        if failed and failed.until > loop.time():
            return
        tries = failed.count if failed else 0
        try:
            await self._start(master)
        except GatewayError as error:
            log.log(logging.DEBUG if tries else logging.WARNING, "[%s] %s", self._settings.cluster, error)
            first, most = self._settings.retry
            pause = min(most, first * 2.0 ** min(tries, 16)) * self._jitter.uniform(0.5, 1)
            self._failures[master.index] = _Failures(tries + 1, loop.time() + pause)

    async def _start(self, master: NodeMaster) -> None:
        node = master.who[1]
        async with self._at_once, self._turns.take(node, self._nodes.port):
            await master.start(node, await asyncio.to_thread(fastest_first))
        self._alive[master.index] = master
        self._failures.pop(master.index, None)

    async def _kept(self, master: NodeMaster) -> None:
        """Wait until another process has connected.

        Raises:
            LoginNodeUnreachable: It has not.
        """
        end = asyncio.get_running_loop().time() + 2 * self._settings.timeout
        while asyncio.get_running_loop().time() < end:
            if await self._pulse(master) is Pulse.ALIVE:
                return
            await asyncio.sleep(_WAITERS_LOOK)
        raise LoginNodeUnreachable(f"{master!r}: is gateway-tunnels running? journalctl -u gateway-tunnels")

    async def _remove(self, master: NodeMaster, key: Key) -> None:
        await master.remove(key)
        if not master.wanted():
            await self._end(master)

    async def _end(self, master: NodeMaster) -> None:
        await master.end()
        self._forget(master)

    def _forget(self, master: NodeMaster) -> None:
        for memory in (self._alive, self._known, self._failures):
            memory.pop(master.index, None)
        self._gone.discard(master.index)

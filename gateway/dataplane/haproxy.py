"""HAProxy, which takes the browsers' connections to the hub and to the users' servers.

It runs as a daemon of its own and outlives the hub; a second `HAProxy` with the same settings adopts it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from gateway.dataplane import figures, process, runtime
from gateway.dataplane.certificates import Certificate
from gateway.dataplane.haproxyconfig import (
    BACKENDS,
    HAProxySettings,
    Listener,
    ProxyServer,
    backend_of,
    digest,
    socket_mode,
)
from gateway.dataplane.snapshot import Snapshot
from gateway.errors import DataPlaneError, GatewayError
from gateway.metrics import ProxySample
from gateway.routes import (
    Actual,
    AddEntry,
    AddServer,
    DeleteEntry,
    Desired,
    EnableServer,
    Map,
    RemoveServer,
    SetEntry,
    ShutSessions,
    Step,
    refused,
)

__all__ = ["HAProxy", "HAProxySettings", "Listener"]

log = logging.getLogger(__name__)

_TIMEOUT = 5.0
#: A reload with 5,000 servers that speak TLS takes 5 s (measured).
_PATIENCE = 30.0
_POLL = 0.02
#: Between two looks at an HAProxy that has ended.
_AGAIN = 0.5
#: For a server's last connections to close before it is deleted.
_LINGER = 0.5
#: For a certificate to be taken up: by each of the servers that use it.
_COMMIT = 30.0


class _ReloadFailed(Exception):
    """The master said that the new configuration could not be loaded."""


class HAProxy:
    """The one owner of HAProxy's process, its files and its command sockets.

    Args:
        settings: What it is told once.
    """

    def __init__(self, settings: HAProxySettings) -> None:
        self.settings = settings
        self._snapshot = Snapshot(settings)
        self._admin = settings.sockets / "admin.sock"
        self._master = settings.sockets / "master.sock"
        self._busy = asyncio.Lock()
        self._refused: dict[Path, str] = {}

    def __repr__(self) -> str:
        addresses = ", ".join(listener.address for listener in self.settings.listeners)
        return f"<HAProxy {addresses} in {self.settings.directory}>"

    async def check_program(self) -> str:
        """Return the version of the program.

        Raises:
            DataPlaneError: It is missing or older than 2.6; the sentence says what to install.
            ConfigError: A setting needs a newer one.
        """
        return (await self._program()).version

    async def prepare(self) -> None:
        """Write what HAProxy starts with, where a service manager starts it; what is right is left alone.

        Raises:
            DataPlaneError: The files cannot be written.
            ConfigError: A certificate cannot be read.
        """
        async with self._busy:
            current = await asyncio.to_thread(self._snapshot.is_current)
            await asyncio.to_thread(self._snapshot.copy_certificates if current else self._snapshot.rewrite)

    async def ensure(self) -> None:
        """Have HAProxy run with these settings: adopt it, reload it or start it, as is needed.

        Of one that runs as it should the certificates are renewed, without a reload.

        What it routes is as in the last snapshot; of one that runs already, as it is.

        Raises:
            DataPlaneError: It cannot be; HAProxy's own words say why.
            ConfigError: A certificate cannot be read.
        """
        async with self._busy:
            wanted = await asyncio.to_thread(digest, self.settings)
            running = await self._running()
            if running == wanted:
                await self._renew_certificates()
                return
            await asyncio.to_thread(self._snapshot.rewrite)
            if running is not None:
                await self._reload()
            elif self.settings.managed:
                raise DataPlaneError(
                    "HAProxy does not run, and the service manager starts it: systemctl start gateway-haproxy"
                )
            else:
                await self._start()

    async def pause(self, most: float) -> None:
        """Return when HAProxy has ended or was reloaded, at the latest after ``most`` seconds.

        Whoever is connected to its master process is told by the connection's end.
        """
        try:
            async with asyncio.timeout(most):
                await runtime.until_closed(self._master)
                await asyncio.sleep(_AGAIN)
        except TimeoutError:
            return

    async def actual(self) -> Actual:
        """Return what the current worker holds.

        Raises:
            DataPlaneError: It does not answer.
        """
        async with runtime.open_worker(self._admin, _TIMEOUT) as line:
            actual = await runtime.read_actual(line, self.settings.directory, BACKENDS)
        for name in refused(actual):
            log.error(
                "HAProxy's server %s has a weight: other users' requests could fall through to it", name
            )
        return actual

    async def figures(self) -> ProxySample:
        """Return the current worker's counters.

        Raises:
            DataPlaneError: It does not answer.
        """
        async with runtime.open_worker(self._admin, _TIMEOUT) as line:
            return figures.read_figures(await line.ask("show", "info"), await line.ask(*figures.TOTALS))

    async def last_used(self) -> Mapping[str, int]:
        """Return for each server, ``ID.G``, how many seconds ago a request began; none where there was none.

        Raises:
            DataPlaneError: HAProxy does not answer.
        """
        async with runtime.open_worker(self._admin, _TIMEOUT) as line:
            return figures.read_last_used(await line.ask(*figures.SERVERS))

    async def traffic(self) -> Mapping[str, int]:
        """Return for each server, ``ID.G``, the bytes that went through it, both ways.

        Raises:
            DataPlaneError: HAProxy does not answer.
        """
        async with runtime.open_worker(self._admin, _TIMEOUT) as line:
            return figures.read_traffic(await line.ask(*figures.SERVERS))

    async def apply(self, steps: Sequence[Step], worker: str = "") -> Mapping[str, str]:
        """Carry out steps in their order. Where one fails the later ones of the same server are left out.

        A server that still has connections stays in maintenance without a route; the next plan removes it.

        Args:
            steps: What to do.
            worker: Which process the steps were planned for (`Actual.worker`); "" for any.

        Returns:
            For each server of which a step failed, by its id, why; all other steps were carried out.

        Raises:
            DataPlaneError: Nobody answers, or another process than that does: nothing was done.
        """
        failures: dict[str, str] = {}
        async with self._busy, runtime.open_worker(self._admin, _TIMEOUT) as line:
            if worker and await runtime.read_worker(line) != worker:
                raise DataPlaneError("HAProxy has been reloaded or started anew in the meantime")
            await self._forget_in_old_workers(steps)
            for step in steps:
                if step.server_id in failures:
                    continue
                try:
                    await self._carry_out(line, step)
                except DataPlaneError as error:
                    failures[step.server_id] = str(error)
        return failures

    async def shutdown_sessions(self, server_names: Iterable[str]) -> None:
        """End all that is open to these servers (``ID.G``) in every worker, old ones after a reload too.

        Raises:
            DataPlaneError: A worker does not answer.
        """
        names = sorted(set(server_names))
        if names:
            await asyncio.gather(*(self._shut(pid, names) for pid in (await self._processes()).workers))

    async def write_snapshot(self, desired: Desired) -> None:
        """Write all that HAProxy needs to come back complete by itself. Only what has changed is written.

        Raises:
            DataPlaneError: The files cannot be written.
            ConfigError: A certificate cannot be read.
        """
        async with self._busy:
            await asyncio.to_thread(self._snapshot.write, desired)

    async def reload(self) -> None:
        """Have a new worker take over with the snapshot; what is open goes on in the old one.

        Raises:
            DataPlaneError: HAProxy refuses, and the old worker goes on.
        """
        async with self._busy:
            await self._reload()

    async def stop(self) -> None:
        """End HAProxy and every connection through it; it is no error if it does not run.

        Raises:
            DataPlaneError: It does not end.
        """
        async with self._busy:
            pids: tuple[int, ...] = ()
            with suppress(DataPlaneError):
                there = await self._processes()
                if there.master is not None:
                    pids = (there.master, *there.workers)
                    with suppress(ProcessLookupError):
                        os.kill(there.master, signal.SIGTERM)

            async def ended() -> bool:
                return await self._gone() and not any(process.lives(pid) for pid in pids)

            await self._until(ended, "HAProxy does not end")

    # --- the process --------------------------------------------------------------------------------

    async def _running(self) -> str | None:
        """Return the digest of the configuration that runs, None if nobody answers.

        For a moment in a reload, and after a crash, only one of master and worker does.
        """
        end = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            master, worker = await self._master_answers(), await self._worker_digest()
            if master == (worker is not None):
                return worker
            if asyncio.get_running_loop().time() > end:
                raise DataPlaneError(
                    f"half of HAProxy answers in {self.settings.directory} (master: {master}, "
                    f"worker: {worker is not None}); stop it so that the gateway can start it"
                )
            await asyncio.sleep(_POLL)

    async def _master_answers(self) -> bool:
        try:
            return (await self._processes()).master is not None
        except DataPlaneError:
            return False

    async def _worker_digest(self) -> str | None:
        try:
            async with runtime.open_worker(self._admin, _TIMEOUT) as line:
                described = await line.ask("show", "info")
        except DataPlaneError:
            return None
        words = (text.partition(": ") for text in described.splitlines())
        return next((value.removeprefix("gateway-") for key, _, value in words if key == "description"), "")

    async def _processes(self) -> runtime.Processes:
        return runtime.Processes(await runtime.ask_master(self._master, _TIMEOUT, "show", "proc"))

    async def _program(self) -> process.Program:
        program = await process.find_program(self.settings.program)
        self.settings.limits.check(program.path, program.version)
        return program

    async def _start(self) -> None:
        program = await self._program()
        await process.start(
            program,
            self._snapshot.config,
            self._master,
            self.settings.directory / "haproxy.pid",
            socket_mode(self.settings),
        )
        await self._until(self._whole, "HAProxy started and does not answer")
        log.info("%r started, HAProxy %s", self, program.version)

    async def _reload(self) -> None:
        await process.check_config(await self._program(), self._snapshot.config)
        before = await self._processes()
        await runtime.ask_master(self._master, _TIMEOUT, "reload")

        async def taken_over() -> bool:
            now = await self._processes()
            if now.failed_reloads > before.failed_reloads:
                raise _ReloadFailed
            return bool(set(now.workers[:1]) - set(before.workers)) and await self._whole()

        try:
            await self._until(taken_over, "HAProxy's new worker does not answer")
        except _ReloadFailed:
            raise DataPlaneError(
                f"HAProxy could not load {self._snapshot.config} and goes on as before: is an address in use?"
            ) from None
        log.info("%r reloaded", self)

    async def _whole(self) -> bool:
        return await self._master_answers() and await self._worker_digest() is not None

    async def _gone(self) -> bool:
        return not await self._master_answers() and await self._worker_digest() is None

    async def _until(self, check: Callable[[], Awaitable[bool]], sentence: str) -> None:
        """Wait until ``check`` holds; that HAProxy does not answer means not yet."""
        end = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            with suppress(DataPlaneError):
                if await check():
                    return
            if asyncio.get_running_loop().time() > end:
                raise DataPlaneError(f"{sentence} within {_PATIENCE:g} s ({self.settings.directory})")
            await asyncio.sleep(_POLL)

    # --- certificates -------------------------------------------------------------------------------

    async def _renew_certificates(self) -> None:
        """Have HAProxy use new certificates. One that is of no use is told of once, and the old one stays."""
        for certificate in self.settings.certificates:
            try:
                await self._renew(certificate)
            except GatewayError as error:
                if self._refused.get(certificate.path) != str(error):
                    log.error("%s; HAProxy goes on with the certificate of before", error)
                self._refused[certificate.path] = str(error)
            else:
                self._refused.pop(certificate.path, None)

    async def _renew(self, certificate: Certificate) -> None:
        content = await asyncio.to_thread(certificate.read)
        async with runtime.open_worker(self._admin, _COMMIT) as line:
            if certificate.is_copied(content) and await certificate.is_used(line, content):
                return
            at_once = await certificate.take_up(line, content)
        # After the act: a copy that differs says that HAProxy is still to be told.
        await asyncio.to_thread(self._snapshot.keep, certificate.copy, content)
        if not at_once:
            await self._reload()
        log.info("HAProxy has taken up %s", certificate.path)

    # --- the steps ----------------------------------------------------------------------------------

    async def _carry_out(self, line: runtime.CommandLine, step: Step) -> None:
        match step:
            case AddServer(name=name, address=address, node_tls=node_tls):
                _, *words = ProxyServer(name, address, node_tls).words(self.settings)
                await line.order("add", "server", _full(name), *words)
                await line.order("enable", "server", _full(name))
            case EnableServer(name=name):
                await line.order("enable", "server", _full(name))
            case RemoveServer(name=name):
                await self._remove(line, name)
            case ShutSessions(name=name):
                await self.shutdown_sessions([name])
            case AddEntry(map=map_, key=key, value=value):
                await self._put(line, self._map(map_), key, value)
            case SetEntry(map=map_, key=key, value=value):
                await line.order("set", "map", self._map(map_), key, value)
            case DeleteEntry(map=map_, key=key):
                await line.order("del", "map", self._map(map_), key)

    async def _put(self, line: runtime.CommandLine, map_: str, key: str, value: str) -> None:
        """Write an entry that was not there: ``add map`` would make a second one if it came meanwhile.

        What a hub has ordered just before its death may be carried out after the next one has looked.
        """
        if runtime.failed(await line.ask("set", "map", map_, key, value)):
            await line.order("add", "map", map_, key, value)

    def _map(self, map_: Map) -> str:
        return runtime.map_path(self.settings.directory, map_)

    async def _remove(self, line: runtime.CommandLine, name: str) -> None:
        await line.order("disable", "server", _full(name))
        end = asyncio.get_running_loop().time() + _LINGER
        while runtime.failed(answer := await line.ask("del", "server", _full(name))):
            if asyncio.get_running_loop().time() > end:
                log.info("HAProxy's server %s stays in maintenance for now: %s", name, answer)
                return
            await asyncio.sleep(_POLL)

    async def _shut(self, pid: int, names: Sequence[str]) -> None:
        """A worker that does not know a server, or has ended meanwhile, has nothing to end."""
        for name in names:
            answer = await self._ask_worker(pid, "shutdown", "sessions", "server", _full(name))
            if answer.startswith(runtime.ENDING):
                await self._until_ended(pid)
                return
            if answer == runtime.OLD_WORKER:
                await self._shut_one_by_one(pid, names)
                return
            if answer and not answer.startswith(runtime.NOTHING_THERE):
                raise DataPlaneError(f"HAProxy did not end the sessions of {name}: {answer}")

    async def _until_ended(self, pid: int) -> None:
        async def ended() -> bool:
            return not process.lives(pid)

        await self._until(ended, f"HAProxy's worker {pid} neither answers nor ends")

    async def _shut_one_by_one(self, pid: int, names: Sequence[str]) -> None:
        sessions = runtime.sessions_of(await self._ask_worker(pid, "show", "sess"), names)
        shut = [("shutdown", "session", session) for session in sessions]
        await runtime.tell_worker(self._master, _TIMEOUT, pid, shut)

    async def _forget_in_old_workers(self, steps: Sequence[Step]) -> None:
        """Take out of old workers' maps what is to go: a browser's connection may ask there once more."""
        gone = [("del", "map", self._map(s.map), s.key) for s in steps if isinstance(s, DeleteEntry)]
        if gone:
            for pid in (await self._processes()).workers[1:]:
                await runtime.tell_worker(self._master, _TIMEOUT, pid, gone)

    async def _ask_worker(self, pid: int, *words: str) -> str:
        return await runtime.ask_master(self._master, _TIMEOUT, f"@!{pid}", *words)


def _full(name: str) -> str:
    """Return how a server is named in a command."""
    return f"{backend_of(name)}/{name}"

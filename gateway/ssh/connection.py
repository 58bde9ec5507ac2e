"""A login node: runs commands over one kept SSH connection."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import secrets
import select
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import paramiko

from gateway.errors import GatewayError, LoginNodeUnreachable
from gateway.model import Command, Completed
from gateway.siteconfig import Login
from gateway.ssh import remote
from gateway.ssh.known_hosts import address
from gateway.ssh.runner import AnswerLost, NotBegun
from gateway.ssh.transport import Identity, KeyFile, Limits, connect

_log = logging.getLogger(__name__)


class LoginNode:
    """The login node of one cluster, or several that are equal: a ``Runner``.

    It connects when it is first asked, keeps the connection, and makes a new one when that has died. At most
    ``limits.sessions`` commands run at once, the others wait. paramiko blocks, so it is only ever called in
    this object's own threads; a call that is cancelled, or takes too long, has its channel closed under it.

    Args:
        login: Where, as whom, with which key and known host keys.
        limits: How long things may take.
        identity: Who logs in, if it is not the service account.
        sent: What is sent for a command: ``remote.by_shell``, or ``remote.by_launcher``.
    """

    def __init__(
        self,
        login: Login,
        limits: Limits | None = None,
        identity: Identity | None = None,
        sent: Callable[..., remote.Sent] = remote.by_shell,
    ) -> None:
        self._login = login
        self._identity = identity or KeyFile(login.user, login.key)
        self._sent = sent
        self._limits = limits or Limits()
        self._threads = ThreadPoolExecutor(self._limits.sessions, thread_name_prefix="login-node")
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._closing = threading.Event()
        self._link: _Link | None = None
        self._failure: tuple[float, GatewayError] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        hosts = ",".join(address(host, self._login.port) for host in self._login.hosts)
        state = "connected" if self._link and self._link.alive else "not connected"
        if self._closing.is_set():
            state = "closed"
        return f"<LoginNode {self._identity.user}@{hosts} {state}>"

    async def aclose(self) -> None:
        """Close the connection and end what runs on it. A second call does nothing."""
        self._closing.set()
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            await asyncio.to_thread(link.transport.close)
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)

    async def run(
        self,
        command: Command,
        *,
        stdin: bytes = b"",
        timeout: float,  # noqa: ASYNC109  (the remote side's limit)
        output: int | None = None,
    ) -> Completed:
        """Run a command on the login node: see ``Runner.run``."""
        if self._closing.is_set():
            raise LoginNodeUnreachable(f"{self!r} is closed")
        nonce = secrets.token_hex(16)
        limit = max(1, math.ceil(timeout))
        sent = self._sent(command, stdin=stdin, limit=limit, nonce=nonce)
        call = _Call(sent, remote.Answer(nonce, output or self._limits.output), limit + self._limits.grace)
        try:
            # Cancelling the future of a call that runs does not end its thread: cancel() does.
            return await asyncio.wrap_future(self._threads.submit(self._perform, call, time.monotonic()))
        except asyncio.CancelledError:
            call.cancel()
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise LoginNodeUnreachable(f"{self!r} was closed before the command began") from None

    # --- in a thread ----------------------------------------------------------------------------------

    def _perform(self, call: _Call, asked: float) -> Completed:
        with self._borrowed(asked) as link:
            try:
                return call.perform(link.transport, self._limits)
            except LoginNodeUnreachable:
                if not call.given_up:
                    self._retire(link)
                raise

    @contextmanager
    def _borrowed(self, asked: float) -> Iterator[_Link]:
        """Give a live connection; close it afterwards if it was retired and nobody else uses it."""
        with self._connecting:
            link = self._live_link(asked)
        try:
            yield link
        finally:
            with self._lock:
                link.users -= 1
                done = link.retired and link.users == 0
            if done:
                link.transport.close()

    def _live_link(self, asked: float) -> _Link:
        if self._closing.is_set():
            raise LoginNodeUnreachable(f"{self!r} was closed before the command began")
        with self._lock:
            link = self._link
            if link is not None and link.alive:
                link.users += 1
                return link
        if self._failure is not None and self._failure[0] >= asked:
            # Somebody tried and failed since this call was made: do not make everybody wait in turn.
            error = self._failure[1]
            raise type(error)(str(error), error.public)
        try:
            transport = connect(self._login, self._limits, self._closing, self._identity)
        except GatewayError as error:
            self._failure = (time.monotonic(), error)
            raise
        link = _Link(transport)
        with self._lock:
            self._link = link
            link.users += 1
        return link

    def _retire(self, link: _Link) -> None:
        """Use a connection on which a command got no answer no more; others may still get theirs."""
        with self._lock:
            link.retired = True
            if self._link is link:
                self._link = None


class _Link:
    """A connection and how many calls are using it."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self.transport = transport
        self.users = 0
        self.retired = False

    @property
    def alive(self) -> bool:
        return not self.retired and self.transport.is_active()


class _Call:
    """One command on its way. ``cancel`` may come from another thread at any time.

    Args:
        sent: What is sent.
        answer: Takes what comes back.
        limit: Seconds until the channel is closed, answer or not.
    """

    def __init__(self, sent: remote.Sent, answer: remote.Answer, limit: float) -> None:
        self._sent = sent
        self._answer = answer
        self._limit = limit
        self._lock = threading.Lock()
        self._channel: paramiko.Channel | None = None
        self.given_up = False
        self._is_late = False

    def cancel(self) -> None:
        """Give the call up: whatever it waits for returns now."""
        with self._lock:
            self.given_up = True
            channel = self._channel
        if channel is not None:
            channel.close()

    def perform(self, transport: paramiko.Transport, limits: Limits) -> Completed:
        """Run the program in a session of its own and return what it did.

        Raises:
            LoginNodeUnreachable: No session could be opened: nothing ran.
            AnswerLost: The program was sent, the whole answer did not come.
            NotBegun: The shell ended before it began.
        """
        channel = _session(transport, limits)
        # paramiko waits for the answer to "exec" without a limit; closing the channel ends that wait too.
        watchdog = threading.Timer(self._limit, self._late, (channel,))
        watchdog.daemon = True
        watchdog.start()
        try:
            with self._lock:
                self._channel = channel
                given_up = self.given_up
            if given_up:
                raise LoginNodeUnreachable("the call was given up before it began")
            self._send(channel)
            return self._receive(channel)
        finally:
            watchdog.cancel()
            channel.close()

    def _late(self, channel: paramiko.Channel) -> None:
        self._is_late = True
        channel.close()

    def _send(self, channel: paramiko.Channel) -> None:
        try:
            channel.exec_command(self._sent.words)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise LoginNodeUnreachable(f"no shell on the login node: {error}") from error
        try:
            channel.settimeout(self._limit)
            channel.sendall(self._sent.stdin)
            channel.shutdown_write()
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise AnswerLost(f"the connection broke while a command was sent: {error}") from error

    def _receive(self, channel: paramiko.Channel) -> Completed:
        waiting = select.poll()
        waiting.register(channel.fileno(), select.POLLIN)
        while not self._answer.complete:
            waiting.poll(1000)
            # Looked at first, so that what came before the end is still read.
            ended = channel.closed or channel.eof_received
            stdout = channel.recv(65536) if channel.recv_ready() else b""
            stderr = channel.recv_stderr(65536) if channel.recv_stderr_ready() else b""
            self._answer.feed(stdout=stdout, stderr=stderr)
            if ended and not stdout and not stderr:
                break
        self._check_begun(channel)
        if self._is_late and not self._answer.complete:
            raise AnswerLost(f"a remote command did not answer within {self._limit:g} s")
        return self._answer.completed()

    def _check_begun(self, channel: paramiko.Channel) -> None:
        """Tell a shell that has ended of itself, and orderly, from an answer that was lost."""
        if self._answer.begun or not channel.eof_received:
            return
        channel.status_event.wait(2)  # sshd may say it after the end of the output
        if channel.exit_status >= 0:  # -1: not said, a signal, or a connection that died
            raise NotBegun(channel.exit_status, self._answer.noise)


def _session(transport: paramiko.Transport, limits: Limits) -> paramiko.Channel:
    """Open a session; wait for a free one if the host allows fewer (MaxSessions) than ``limits.sessions``."""
    deadline = time.monotonic() + limits.connect
    while True:
        try:
            return transport.open_session(timeout=limits.connect)
        except (paramiko.SSHException, OSError, EOFError) as error:
            # paramiko 5.1 keeps one refusal for the whole connection: of two at once, one comes without it.
            refused = isinstance(error, paramiko.ChannelException) or "Unable to open channel" in str(error)
            if not refused or not transport.is_active() or time.monotonic() > deadline:
                raise LoginNodeUnreachable(f"the login node opens no session: {error}") from error
        time.sleep(random.uniform(0.05, 0.25))  # noqa: S311  (jitter, no secret)

"""The login node as each of its users, by the gateway's certificates: ``act_as: certificate``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Self

from gateway.siteconfig import Login
from gateway.ssh import remote
from gateway.ssh.authority import Terms, UserAuthority, UserCertificate, check_user
from gateway.ssh.connection import LoginNode
from gateway.ssh.runner import Runner
from gateway.ssh.transport import Certified, Limits

#: Commands that run at once for one user: whose shell is slow to start holds up nobody else.
_AT_ONCE = 2


@dataclass
class _Account:
    """One user's connection, while there is one, and who waits for it."""

    node: LoginNode | None = None
    opened: float = 0.0
    left: float = 0.0
    claims: int = 0
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))


class UserNodes:
    """A connection for each user who needs one: ``Users``, and an async context manager.

    It is made when a user needs it, with a certificate of its own; it is closed when nobody has used it for a
    while, when another user needs the room, or when it is unused and its certificate has ended.

    Args:
        login: The login node.
        certify: Makes a user's certificate; called in a thread, once for each connection.
        limits: How long things may take.
        idle: Seconds after which an unused connection is closed.
        most: Connections at once; the one that was used the longest ago makes room.
    """

    def __init__(
        self,
        login: Login,
        certify: Callable[[str], UserCertificate],
        limits: Limits | None = None,
        *,
        idle: float = 60.0,
        most: int = 32,
    ) -> None:
        self._login = login
        self._certify = certify
        self._limits = replace(limits or Limits(), sessions=_AT_ONCE)
        self._idle = idle
        self._most = most
        self._accounts: dict[str, _Account] = {}
        self._room = asyncio.Semaphore(most)
        self._closer: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, login: Login, authority: UserAuthority, instance: str, cluster: str) -> UserNodes:
        """Return the users of a cluster, vouched for by the gateway's CA.

        Args:
            login: The login node.
            authority: The CA.
            instance: Which gateway this is: as in the names of its jobs.
            cluster: The cluster's name.

        Raises:
            ConfigError: There is no CA, or its files cannot be used.
        """
        authority.keys()
        terms = Terms(
            instance=instance,
            cluster=cluster,
            command=f"{login.launcher} --ssh",
            minutes=login.certificate_minutes,
            source_addresses=login.source_addresses,
        )
        return cls(login, partial(authority.certify, terms=terms))

    def __repr__(self) -> str:
        return f"<UserNodes of {','.join(self._login.hosts)}: {len(self._nodes())} connections>"

    async def __aenter__(self) -> Self:
        self._closer = asyncio.create_task(self._close_unused())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections and end what runs on them. A second call does nothing."""
        closer, self._closer = self._closer, None
        if closer is not None:
            closer.cancel()
            with suppress(asyncio.CancelledError):
                await closer
        nodes = list(self._nodes().values())
        self._accounts.clear()
        await asyncio.gather(*(node.aclose() for node in nodes))

    @asynccontextmanager
    async def as_user(self, user: str) -> AsyncIterator[Runner]:
        """Give what runs the launcher as this user: see ``Users.as_user``.

        Raises:
            Forbidden: The gateway never acts for an account of this name.
        """
        await asyncio.to_thread(check_user, user)
        account = self._accounts.setdefault(user, _Account())
        account.claims += 1
        try:
            async with account.turns, self._room:
                yield await self._node(user, account)
        finally:
            account.claims -= 1
            account.left = asyncio.get_running_loop().time()
            if not account.claims and account.node is None:
                self._accounts.pop(user, None)

    async def _node(self, user: str, account: _Account) -> LoginNode:
        """Return the user's connection; make it, and room for it, where there is none."""
        now = asyncio.get_running_loop().time()
        leaving = []
        if account.node and account.claims == 1 and now - account.opened > self._lifetime:
            leaving.append(account.node)
            account.node = None
        if account.node is None:
            if len(self._nodes()) >= self._most:
                leaving += self._taken_away(self._unused()[:1])
            account.node = LoginNode(
                self._login, self._limits, Certified(user, self._certify), remote.by_launcher
            )
            account.opened = now
        node = account.node
        await asyncio.gather(*(old.aclose() for old in leaving))
        return node

    @property
    def _lifetime(self) -> float:
        return 60.0 * self._login.certificate_minutes

    def _nodes(self) -> dict[str, LoginNode]:
        return {user: account.node for user, account in self._accounts.items() if account.node}

    def _unused(self) -> list[str]:
        """Return whose connections nobody uses, the one that was used the longest ago first."""
        unused = [user for user in self._nodes() if not self._accounts[user].claims]
        return sorted(unused, key=lambda user: self._accounts[user].left)

    def _taken_away(self, users: list[str]) -> list[LoginNode]:
        accounts = [self._accounts.pop(user) for user in users]
        return [account.node for account in accounts if account.node]

    async def _close_unused(self) -> None:
        while True:
            await asyncio.sleep(self._idle / 4)
            last = asyncio.get_running_loop().time() - self._idle
            due = [user for user in self._unused() if self._accounts[user].left < last]
            await asyncio.gather(*(node.aclose() for node in self._taken_away(due)))

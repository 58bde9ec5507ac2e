"""Where jobs say on which port their application listens, if their scheduler does not take it from them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import cast

from gateway.errors import BadRequest, Forbidden, GatewayError, NotFound
from gateway.web.api import Api
from gateway.web.attempts import FailedLogins

_PORT = re.compile(rb"([1-9][0-9]{0,4})\n?")
_PROOF = re.compile(r"Bearer ([0-9a-f]{64})", re.ASCII)


class TooManyCalls(GatewayError):
    """Calls come in faster than any job makes them."""

    default_public = "These are too many calls in a short time, so this one was not looked at."
    default_advice = "Wait a minute and try again."
    status = 429
    transient = True


class CallGuard:
    """Slows down guessing: few calls to a server, more bad ones from an address, which may be a cluster's."""

    def __init__(self) -> None:
        self._servers = FailedLogins(20, timedelta(minutes=1))
        self._addresses = FailedLogins(300, timedelta(minutes=1))

    def begin(self, call: Callback, server_id: str) -> None:
        """Count a call before it is looked at.

        Raises:
            TooManyCalls: It is not looked at.
        """
        address, now = call.request.remote_ip or "", call.now()
        if self._addresses.begin(address, now) or self._servers.begin(f"{address} {server_id}", now):
            raise TooManyCalls(f"calls from {address} for {server_id}")

    def was_good(self, call: Callback) -> None:
        """Do not count a call from its address: it was a job's own."""
        self._addresses.take_back(call.request.remote_ip or "")


class Callback(Api):
    """``/hub/api/callback/ID``: a port, and nothing else, from the job of a server that is starting."""

    public = True

    async def prepare(self) -> None:
        """Leave cookies and tokens alone: it is not a person who calls."""
        if not self.origins.is_hub_host(self.request.host):
            raise NotFound(f"no API for the host {self.request.host!r}")

    async def post(self, server_id: str) -> None:
        """Take the port: 204 if the gateway goes there, 409 if it does not now, 403 if it never does."""
        guard = cast("CallGuard", self.settings["call_guard"])
        guard.begin(self, server_id)
        port = _PORT.fullmatch(self.request.body)
        if port is None:
            raise BadRequest("not a port", "The body is not a port's number, so nothing was done.")
        shown = _PROOF.fullmatch(self.request.headers.get("Authorization", ""))
        if shown is None:
            raise Forbidden(f"a call for {server_id} without a proof")
        await self.services.servers.published(server_id, shown[1], int(port[1]))
        guard.was_good(self)
        self.set_status(204)
        await self.finish()

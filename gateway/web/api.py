"""The REST API: a small part of JupyterHub's, in its shapes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError

from gateway import __version__, options
from gateway.address import address_word
from gateway.auth import DENIED_NAMES
from gateway.errors import BadRequest, Forbidden, GatewayError, NotFound
from gateway.lifecycle import Phase
from gateway.model import USER_NAME, Server, User
from gateway.routing import RouteRow
from gateway.urls import check_server_name
from gateway.web.base import SAFE_METHODS, Page, secret_hash
from gateway.web.words import is_open, is_over, progress_event, seconds_left

log = logging.getLogger(__name__)

#: Seconds between signs of life on a progress stream, well under any proxy's patience.
SIGN_OF_LIFE = 8.0


class Api(Page):
    """A request with an API token, or with a login and (to change something) the form's token."""

    async def prepare(self) -> None:
        """Find out who asks; a wrong token is refused even where none is needed."""
        if not self.origins.is_hub_host(self.request.host):
            raise NotFound(f"no API for the host {self.request.host!r}")
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() in ("token", "bearer"):
            self.caller = await self.services.sessions.token_user(secret_hash(token.strip()))
            if self.caller is None:
                raise Forbidden(
                    "unknown API token",
                    "This token is unknown or has expired, so nothing was done.",
                    "Ask the gateway's administrators for a new one.",
                )
        else:
            await self.find_session()
            if self.request.method not in SAFE_METHODS:
                self.check_same_origin()
        if not self.public and self.caller is None:
            raise Forbidden(
                "no login", "You are not logged in, so nothing was done.", "Log in, or send a token."
            )

    def write_refusal(self, status: int, message: str, advice: str) -> None:
        """Finish with a refusal, as JSON."""
        self.write_json_refusal(status, message, advice)

    def owner(self, name: str) -> User:
        """Return the person of this name, if the caller is that person or an administrator."""
        if not USER_NAME.fullmatch(name) or (name != self.user.name and not self.user.admin):
            raise NotFound(
                f"[{self.user.name}/] may not see {name!r}",
                "There is no such user, or it is not you.",
                "Check the name: yours is the one that you log in with.",
            )
        if name == self.user.name:
            return self.user
        if name in DENIED_NAMES:
            raise Forbidden(f"{name}: a system account")
        return User(name)


class Version(Api):
    """``/hub/api/``: which version this is."""

    public = True

    def get(self) -> None:
        """Tell the version."""
        self.finish({"version": __version__})


class Health(Version):
    """``/hub/api/health``: whether the hub answers."""

    def get(self) -> None:
        """Answer."""
        self.finish({"status": "ok"})


class Whoami(Api):
    """``/hub/api/user``."""

    async def get(self) -> None:
        """Tell who asks."""
        self.finish(_user_model(self.user, await self.services.records.servers_of(self.user.name), self))


class UserModel(Api):
    """``/hub/api/users/NAME``."""

    async def get(self, name: str) -> None:
        """Tell of a person and their servers that have not ended."""
        user = self.owner(name)
        self.finish(_user_model(user, await self.services.records.servers_of(user.name), self))


class UserServer(Api):
    """``/hub/api/users/NAME/server`` and ``/hub/api/users/NAME/servers/SERVER``."""

    async def post(self, user_name: str, name: str | None = None) -> None:
        """Start it: 201 if it is ready at once, 202 if it will be."""
        user = self.owner(user_name)
        chooser = user if user == self.user else await self.services.sessions.person(user.name)
        discoveries = self.services.discoveries()
        choices = options.check(self.services.sites(), self._submitted(), chooser or user, discoveries)
        server = await self.services.servers.start(user, check_server_name(name or ""), choices)
        self.set_status(201 if is_open(server) else 202)
        self.set_header("Location", self.origins.server_url(server.user, server.name))
        self.finish(_server_model(server, self))

    async def delete(self, user_name: str, name: str | None = None) -> None:
        """Stop it: 204 if it has ended, 202 if it will."""
        server = await self.services.servers.stop(self.owner(user_name).name, name or "")
        self.set_status(204 if is_over(server) else 202)
        await self.finish()

    def _submitted(self) -> Mapping[str, Sequence[str]]:
        """Return the options of the body: in ``user_options``, or the body's own keys."""
        try:
            body = json.loads(self.request.body or b"{}")
        except ValueError:
            raise BadRequest("not JSON", "The request's body is not JSON, so nothing was done.") from None
        chosen = body.get("user_options", body) if isinstance(body, dict) else None
        if not isinstance(chosen, dict):
            raise BadRequest(
                "not an object",
                "The options are not a JSON object, so nothing was done.",
                "Write them as one.",
            )
        return {str(field): _texts(value) for field, value in chosen.items()}


class KeepServer(Api):
    """``…/keep``: keeps a server that would be stopped for being idle."""

    async def post(self, user_name: str, name: str | None = None) -> None:
        """Count its idle time anew, and tell of it."""
        server = await self.services.servers.keep(self.owner(user_name).name, name or "")
        self.finish(_server_model(server, self))


class Progress(Api):
    """``…/progress``: server-sent events, until the server is ready or has ended."""

    async def get(self, user_name: str, name: str | None = None) -> None:
        """Send what the server is now, and then each change."""
        user = self.owner(user_name)
        server = await self.services.records.latest(user.name, name or "")
        if server is None:
            raise NotFound("never started", "There is no such server.", "Start it first.")
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Accel-Buffering", "no")
        try:
            async with aclosing(_with_signs_of_life(self.services.servers.changes(server.id))) as news:
                async for latest in news:
                    await self._send(latest)
                    if latest is not None and (is_over(latest) or _is_ready(latest)):
                        break
        except StreamClosedError:
            log.debug("%s: nobody listens any more", server)
        except GatewayError as error:
            if not self._headers_written:
                raise
            log.warning("%s: progress: %s", server, error)

    async def _send(self, server: Server | None) -> None:
        if server is None:
            self.write(": still here\n\n")
        else:
            self.write(f"data: {json.dumps(progress_event(server, self.services.open_url(server)))}\n\n")
        await self.flush()


class Metrics(Api):
    """``/hub/metrics``: for Prometheus, with an administrator's token."""

    async def get(self) -> None:
        """Write the exposition."""
        if not self.user.admin:
            raise Forbidden("metrics are for administrators")
        if self.services.metrics is None:
            raise NotFound("no metrics")
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(await self.services.metrics())


class Orphans(Api):
    """``/hub/api/orphans``: this gateway's jobs that no server answers for, for administrators."""

    async def get(self) -> None:
        """Tell which, whose, since when, when they are cancelled, and on which clusters nobody looks."""
        if not self.user.admin:
            raise Forbidden("orphans are for administrators")
        orphans = self.services.orphans
        known = await orphans.all() if orphans else ()
        views = sorted(self.services.views.items())
        self.finish(
            {
                "not_looked_for_on": [name for name, view in views if view.discovery.hidden],
                "orphans": [
                    {
                        "cluster": orphan.cluster,
                        "job_id": orphan.job_id,
                        "name": orphan.name,
                        "owner": orphan.owner,
                        "first_seen": _time(orphan.first_seen),
                        "cancelled_after": _time(orphans.cancelled_after(orphan)) if orphans else None,
                        "cancelled": _time(orphan.cancelled) if orphan.cancelled else None,
                    }
                    for orphan in known
                ],
            }
        )


class Proxy(Api):
    """``/hub/api/proxy``: what is routed where and by which SSH master, for administrators."""

    async def get(self) -> None:
        """Tell it."""
        if not self.user.admin:
            raise Forbidden("routes are for administrators")
        used = await self.services.routing.last_used()
        rows = self.services.routing.table()
        self.finish({"routes": [_route_model(row, used.get(row.server_id)) for row in rows]})

    async def post(self) -> None:
        """Compare what the proxy holds with what it should, make the difference, and tell what is routed."""
        if not self.user.admin:
            raise Forbidden("routes are for administrators")
        await self.services.routing.sync()
        await self.get()


class NoSuchCall(Api):
    """Any other address below ``/hub/api/``."""

    public = True

    async def prepare(self) -> None:
        """Say that there is nothing."""
        raise HTTPError(404)


async def _with_signs_of_life(changes: AsyncIterator[Server]) -> AsyncGenerator[Server | None]:
    """Yield the changes, and None whenever there was none for a while."""
    following: asyncio.Task[Server] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(anext(changes))
            await asyncio.wait({following}, timeout=SIGN_OF_LIFE)
            if not following.done():
                yield None
                continue
            done, following = following, None
            try:
                yield done.result()
            except StopAsyncIteration:
                return
    finally:
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        if (close := getattr(changes, "aclose", None)) is not None:
            await close()


def _route_model(row: RouteRow, used: datetime | None) -> dict[str, Any]:
    return {
        "route": row.key,
        "server_id": row.server_id,
        "generation": row.generation,
        "cluster": row.cluster,
        "via": address_word(row.address),
        "master": row.master,
        "login_node": row.login_node or None,
        "last_activity": _time(used) if used else None,
        "failure": row.failure or None,
    }


def _is_ready(server: Server) -> bool:
    return server.phase is Phase.READY and server.wanted


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str | int) and not isinstance(each, bool) for each in values):
        raise BadRequest("odd option", "An option is neither a text nor a whole number, so nothing was done.")
    return [str(each) for each in values]


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _user_model(user: User, servers: Sequence[Server], request: Api) -> dict[str, Any]:
    live = {server.name: server for server in servers if not is_over(server)}
    default = live.get("")
    return {
        "kind": "user",
        "name": user.name,
        "admin": user.admin,
        "server": request.origins.server_path(user.name, "") if is_open(default) else None,
        "pending": _pending(default) if default else None,
        "servers": {name: _server_model(server, request) for name, server in live.items()},
    }


def _server_model(server: Server, request: Api) -> dict[str, Any]:
    tail = f"servers/{server.name}/progress" if server.name else "server/progress"
    progress = f"/hub/api/users/{server.user}/{tail}"
    return {
        "name": server.name,
        "full_name": f"{server.user}/{server.name}",
        "started": _time(server.created),
        "last_activity": _time(server.active or server.changed),
        "ready": _is_ready(server),
        "pending": _pending(server),
        "stopped": is_over(server),
        "url": request.origins.server_path(server.user, server.name),
        "full_url": request.origins.server_url(server.user, server.name),
        "progress_url": request.origins.hub_path(progress),
        "full_progress_url": request.origins.hub_url(progress),
        "user_options": {"cluster": server.cluster, "application": server.application},
        "state": {
            "id": server.id,
            "phase": server.phase.value,
            "job_id": server.job_id,
            "host": server.host,
            "message": server.message,
            "native_reason": server.native_reason,
            "starts": _time(server.starts) if server.starts else None,
            "ends": _time(server.ends) if server.ends else None,
            "idle_end": _time(server.idle_end) if server.idle_end else None,
            "seconds_left": seconds_left(server, request.now()),
        },
    }


def _pending(server: Server) -> str | None:
    if is_open(server) or is_over(server):
        return None
    return "stop" if not server.wanted or server.phase is Phase.STOPPING else "spawn"

"""The way from the hub's origin into a server.

A browser without a grant for a server is sent by the proxy to the hub, with the server's own host and path.
From there it goes: state cookie on the server's origin; login and ownership on the hub's; a one-time code
back to the server's origin, good only in the browser that has the state cookie; there the grant cookie; and
on to the page it wanted. Only a person's own navigation is led this way: a script, a form or a WebSocket gets
a refusal.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
from datetime import timedelta
from urllib.parse import urlencode

from gateway.errors import BadRequest, Forbidden, NotFound
from gateway.model import Server, User
from gateway.origins import ENTERED_COOKIE, ROUTE_COOKIE, STATE_COOKIE, Origins
from gateway.store import Code, Session
from gateway.urls import ServerPath
from gateway.web.base import AGAIN_SECONDS, Base, Page, secret_hash
from gateway.web.services import Records
from gateway.web.words import is_open, is_over

log = logging.getLogger(__name__)

CODE_LIFETIME = timedelta(seconds=30)
STATE_SECONDS = 600
#: Seconds after which a script or WebSocket of a page that was let in asks again for what has no route now.
ROUTE_AGAIN_SECONDS = 2
#: A browser that comes back this soon after it was granted was not let through by the proxy.
BACK_TOO_SOON_SECONDS = 5
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_STATE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


async def server_at(records: Records, path: ServerPath) -> Server | None:
    """Return the server that a path leads to: the named one if there ever was one, else the default one."""
    named = await records.latest(path.user, path.server) if path.server else None
    return named or await records.latest(path.user, "")


class OnServerPath(Base):
    """A request to a server's path that the proxy let nobody else answer."""

    def set_default_headers(self) -> None:
        """Add to the usual headers that no address goes on from here: it may hold a code."""
        super().set_default_headers()
        self.set_header("Referrer-Policy", "no-referrer")

    def path_here(self) -> ServerPath:
        """Return whose server this is about.

        Raises:
            NotFound: The path is no server's, or its server is not on this host.
        """
        path = self.origins.parse(self.request.path)
        if path is None or not self.origins.serves(self.request.host, path):
            raise NotFound(f"no server at {self.request.host!r} {self.request.path!r}")
        return path


class NotGranted(OnServerPath):
    """The browser has no grant for this server, or there is no such server, or no way to it at the moment."""

    async def prepare(self) -> None:
        """Send a person on their way in, ask a page that was let in to wait, and refuse anything else."""
        if self.is_navigation():
            await self._lead_in()
            return
        path = self.origins.parse(self.request.path)
        server = await server_at(self.services.records, path) if path else None
        if server and is_open(server) and await self._was_let_in(server):
            self.set_header("Retry-After", str(ROUTE_AGAIN_SECONDS))
            self.write_json_refusal(
                503, "The way to this server is being made again.", "Please try again in a moment."
            )
        elif is_open(server):
            self.write_json_refusal(403, "You are not logged in to this server.", "Open its page again.")
        else:
            if not is_over(server):
                self.set_header("Retry-After", str(AGAIN_SECONDS))
            self.write_json_refusal(
                424, "This server is not running.", "Start it from the list of your servers."
            )

    async def _was_let_in(self, server: Server) -> bool:
        """Return whether the browser was granted this start of the server, on this host."""
        cookie = self.get_cookie(ROUTE_COOKIE)
        if not cookie or not self.origins.serves(self.request.host, ServerPath(server.user, server.name)):
            return False
        return await self.services.sessions.granted(secret_hash(cookie), server.id)

    async def _lead_in(self) -> None:
        path = self.origins.parse(self.request.path)
        wanted = self.origins.safe_next(self.request.uri or "")
        if path and wanted and not self.origins.serves(self.request.host, path):
            if not self.origins.is_hub_host(self.request.host):
                raise NotFound(f"{path} is not at {self.request.host!r}")
            self.redirect(wanted)
            return
        path = self.path_here()
        if self.request.path + "/" == self.origins.server_path(path.user, ""):
            self.redirect(str(path))
            return
        server = await server_at(self.services.records, path)
        if server and is_open(server) and self.get_cookie(ENTERED_COOKIE) == server.id:
            self.set_status(503)
            self.set_header("Retry-After", str(BACK_TOO_SOON_SECONDS + 1))
            self.render_page("not_through.html", refresh=BACK_TOO_SOON_SECONDS + 1)
            return
        target = (self.request.uri or "") if wanted else str(path)
        self.redirect(self.origins.hub_url("/hub/enter?" + urlencode({"to": target, "state": self._state()})))

    def _state(self) -> str:
        """Return the hash of the browser's state cookie; tabs that come at once share one."""
        state = self.get_cookie(STATE_COOKIE) or ""
        if not _STATE.fullmatch(state):
            state = secrets.token_urlsafe(32)
        self.give_cookie(STATE_COOKIE, state, STATE_SECONDS)
        return secret_hash(state)


class Enter(Page):
    """On the hub's origin: is it yours, does it run? Then a one-time code."""

    async def get(self) -> None:
        """Lead to the server, to its waiting page, or say that it does not run."""
        target, state = self.get_query_argument("to", ""), self.get_query_argument("state", "")
        path = self.origins.parse(target.partition("?")[0])
        wanted = self.origins.safe_next(target)
        if path is None or not _HASH.fullmatch(state) or not wanted:
            raise BadRequest(
                "malformed enter",
                "This link is not complete, so it leads to no server.",
                "Open your server from the list of your servers.",
            )
        if path.user != self.user.name:
            raise Forbidden(
                f"[{self.user.name}/] wanted {path}",
                f"This server belongs to {path.user}, and you are logged in as {self.user.name}.",
                f"Open a server of your own; if you are {path.user} too, log out and log in as that.",
            )
        server = await server_at(self.services.records, path)
        if server is None or is_over(server):
            self.set_status(424)
            name = server.name if server else path.server
            self.render_page("not_running.html", name=name, server=server, wanted=wanted)
        elif is_open(server) and self.session:
            self.redirect(await self._with_code(server, target, state, self.session))
        else:
            self.redirect(self.origins.hub_url(wait_path(server.name, target)), status=303)

    async def _with_code(self, server: Server, target: str, state: str, session: Session) -> str:
        code = secrets.token_urlsafe(32)
        stands_for = Code(
            session.hash,
            self.origins.server_path(server.user, server.name),
            state,
            self.origins.host_of(server.user),
        )
        await self.services.sessions.save_code(secret_hash(code), stands_for, self.now() + CODE_LIFETIME)
        query = urlencode({"code": code, "to": target})
        return f"{self.origins.enter_url(server.user, server.name)}?{query}"


class TakeCode(OnServerPath):
    """On the server's origin: a code is taken, once, for a grant."""

    async def get(self) -> None:
        """Give the grant cookie, wait until the proxy knows it, and go on to the page that was wanted."""
        path = self.path_here()
        session = await self._session_of_code(path)
        first = self.origins.server_url(path.user, path.server)
        if session is not None and (server := await self.services.records.latest(path.user, path.server)):
            if is_open(server):
                await self._grant(session.user, server, session)
            first = self.services.open_url(server)
        self.redirect(wanted_page(self.origins, self.get_query_argument("to", ""), path.user) or first)

    async def _session_of_code(self, path: ServerPath) -> Session | None:
        """Take the code; None if it was taken before or is too old: then the way in begins anew.

        So a page that could not be granted at its first try, and tries again by itself, ends well.
        """
        code = await self.services.sessions.take_code(secret_hash(self.get_query_argument("code", "")))
        state = self.get_cookie(STATE_COOKIE)
        if state is None:
            raise Forbidden(
                "no state cookie",
                "Your browser did not keep the gateway's cookie, so it cannot be let in.",
                "Allow cookies for this site and try again.",
            )
        if code is None:
            return None
        here = self.origins.host_of(path.user)
        if not hmac.compare_digest(code.state_hash, secret_hash(state)) or (code.server_path, code.host) != (
            str(path),
            here,
        ):
            raise Forbidden(
                "bad code",
                "This link is not for this browser.",
                "Open your server from the list of your servers.",
            )
        session = await self.services.sessions.session(code.session_hash)
        if session is None or session.expires <= self.now() or session.user.name != path.user:
            raise Forbidden(
                "the code's session has ended", "You are not logged in any more.", "Log in and try again."
            )
        return session

    async def _grant(self, user: User, server: Server, session: Session) -> None:
        """Grant all of the person's open servers to a new cookie, which replaces the one of this origin.

        The old cookie is not taken up again: a page of a server may have set it and know its value.
        """
        cookie = secrets.token_urlsafe(32)
        others = [each for each in await self.services.records.servers_of(user.name) if is_open(each)]
        servers = [server, *(each for each in others if each.id != server.id)]
        await self.services.routing.give(secret_hash(cookie), session.hash, servers, session.expires)
        self.give_cookie(ROUTE_COOKIE, cookie, int((session.expires - self.now()).total_seconds()))
        self.give_cookie(ENTERED_COOKIE, server.id, BACK_TOO_SOON_SECONDS)
        log.info("%s entered from %s", server, self.request.remote_ip)


def wanted_page(origins: Origins, target: str, user: str) -> str | None:
    """Return the URL of a page that was wanted, if it is one of this person's servers'.

    Args:
        origins: The public URLs.
        target: Its path and query; untrusted.
        user: The person's name.
    """
    url = origins.safe_next(target)
    wanted = origins.parse(target.partition("?")[0])
    return url if wanted is not None and wanted.user == user else None


def wait_path(server_name: str, wanted: str = "") -> str:
    """Return the path of a server's waiting page, as without a base; one goes on to the page ``wanted``."""
    path = f"/hub/wait/{server_name}" if server_name else "/hub/wait"
    return f"{path}?{urlencode({'to': wanted})}" if wanted else path

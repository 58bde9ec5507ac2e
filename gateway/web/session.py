"""Logging in and out."""

from __future__ import annotations

import logging
import secrets
from datetime import timedelta
from ipaddress import ip_address, ip_network
from typing import cast

from gateway.errors import ConfigError, DataPlaneError, DirectoryUnreachable, GatewayError
from gateway.model import USER_NAME, User
from gateway.origins import SESSION_COOKIE
from gateway.web.attempts import FailedLogins
from gateway.web.base import Page, secret_hash

log = logging.getLogger(__name__)


class TooManyTries(GatewayError):
    """Somebody tries passwords.

    Args:
        wait: Until the next try is allowed.
    """

    default_public = "That was tried too often, so the password was not checked."
    status = 429
    transient = True

    def __init__(self, wait: timedelta) -> None:
        minutes = int(wait.total_seconds() // 60) + 1
        unit = "minute" if minutes == 1 else "minutes"
        super().__init__("too many tries", advice=f"Wait {minutes} {unit} and try again.")
        self.seconds = int(wait.total_seconds()) + 1


def _network(address: str) -> str:
    """Return what counts as one address: an IPv6 subscriber has a whole /64."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address


class LoginGuard:
    """Slows down guessing: few tries for a name from one address, more for an address as a whole."""

    def __init__(self) -> None:
        self._pairs = FailedLogins(5, timedelta(minutes=5))
        self._addresses = FailedLogins(100, timedelta(minutes=5))

    async def authenticate(self, page: Page, name: str, password: str) -> User:
        """Return the person, by the gateway's way of logging in.

        Raises:
            TooManyTries: Before the directory is asked.
            GatewayError: As ``Authenticator.authenticate``.
        """
        address = _network(page.request.remote_ip or "")
        pair = f"{name.lower()[:64]} {address}"
        if wait := self._pairs.begin(pair, page.now()) or self._addresses.begin(address, page.now()):
            raise TooManyTries(wait)
        try:
            user = await page.services.authenticator.authenticate(name, password)
        except (DirectoryUnreachable, ConfigError):
            self._pairs.take_back(pair)
            self._addresses.take_back(address)
            raise
        self._pairs.forget(pair)
        self._addresses.take_back(address)
        return user


class Login(Page):
    """The login page."""

    public = True

    def get(self) -> None:
        """Show the form, or lead on somebody who is logged in."""
        if self.session:
            self.redirect(self.next_url() or self.origins.hub_url())
        else:
            self.render_page("login.html", name="", error=None, next=self.next_url() or "")

    async def post(self) -> None:
        """Log somebody in; the sentence of a refusal stands above the form."""
        name = self.get_body_argument("username", "").strip()
        password = self.get_body_argument("password", "", strip=False)
        guard = cast("LoginGuard", self.settings["login_guard"])
        try:
            user = await guard.authenticate(self, name, password)
        except GatewayError as error:
            await self._log_failure(name, error)
            self.set_status(error.status)
            if isinstance(error, TooManyTries):
                self.set_header("Retry-After", str(error.seconds))
            self.render_page("login.html", name=name[:64], error=error, next=self.next_url() or "")
            return
        await self.end_session()
        await self._begin_session(user)
        log.info("[%s/] logged in from %s", user.name, self.request.remote_ip)
        self.redirect(self.next_url() or self.origins.hub_url(), status=303)

    async def _log_failure(self, typed: str, error: GatewayError) -> None:
        """Log a login that came to nothing; the name only if somebody has it, for it may be a password."""
        name = typed.lower()
        try:
            known = bool(USER_NAME.fullmatch(name)) and await self.services.sessions.knows(name)
        except GatewayError:
            known = False
        whose = f" of {name}" if known else ""
        came_to = "failed" if isinstance(error, (DirectoryUnreachable, ConfigError)) else "refused"
        log.warning("login%s from %s %s: %s", whose, self.request.remote_ip, came_to, error)

    async def _begin_session(self, user: User) -> None:
        cookie = secrets.token_urlsafe(32)
        lifetime = self.services.session_lifetime
        await self.services.sessions.login(user, secret_hash(cookie), self.now() + lifetime)
        self.give_cookie(SESSION_COOKIE, cookie, int(lifetime.total_seconds()))

    async def end_session(self) -> None:
        """End the browser's present session, and all that it was given.

        If the proxy is down nothing goes through it, and it learns of this when it is back.
        """
        if self.session is None:
            return
        session, self.session, self.caller = self.session, None, None
        try:
            await self.services.routing.revoke(session.hash)
        except DataPlaneError as error:
            log.warning(
                "[%s/] the proxy could not be told of the end of a session: %s", session.user.name, error
            )
        finally:
            self.drop_cookie(SESSION_COOKIE)


class Logout(Login):
    """The page that asks, and then logs out: a link alone never does."""

    def get(self) -> None:
        """Ask."""
        if self.session is None:
            self.redirect(self.origins.hub_url("/hub/login"))
        else:
            self.render_page("logout.html", done=False)

    async def post(self) -> None:
        """Log out."""
        name = self.caller.name if self.caller else ""
        await self.end_session()
        if name:
            log.info("[%s/] logged out", name)
        self.render_page("logout.html", done=True)

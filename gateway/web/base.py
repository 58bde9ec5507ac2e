"""What all answers have in common: who asks, security headers, errors as pages, log lines without secrets."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast
from urllib.parse import urlencode

import jinja2
from tornado.web import HTTPError, RequestHandler

from gateway.errors import BadRequest, Forbidden, GatewayError, NotFound
from gateway.model import User
from gateway.origins import SESSION_COOKIE, Origins, is_same_origin
from gateway.store import Session
from gateway.web.services import Services

log = logging.getLogger(__name__)

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: What goes by without anybody doing anything here, and after how many seconds it is worth another try.
_PASSING = frozenset({502, 503, 504})
AGAIN_SECONDS = 10


class WrongMethod(BadRequest):
    """The address is one of ours, but does not take this kind of request."""

    default_public = "This address does not do that, so nothing was done."
    default_advice = "Go on from the list of your servers."
    status = 405


class TooLarge(BadRequest):
    """The request is longer than any of ours."""

    default_public = "That is more than the gateway takes, so nothing was done."
    default_advice = "Send less."
    status = 413


class StaleForm(Forbidden):
    """The form is not from a page of ours in this browser, or the page is too old."""

    default_public = "This page was open for too long, or it was sent from somewhere else. Nothing was done."
    default_advice = "Load the page again and repeat what you wanted to do."


#: What is said of errors that are raised by tornado, not by us.
_OF_STATUS: Mapping[int, type[GatewayError]] = {
    kind.status: kind for kind in (BadRequest, Forbidden, NotFound, WrongMethod, TooLarge)
}


def secret_hash(secret: str) -> str:
    """Return the SHA-256 of a cookie, code or token, in hex: the only form in which one is kept."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class Base(RequestHandler):
    """A request, on whichever origin; it knows nobody."""

    session: Session | None = None
    caller: User | None = None

    @property
    def services(self) -> Services:
        """What the pages work with."""
        return cast("Services", self.settings["services"])

    @property
    def origins(self) -> Origins:
        """The public URLs."""
        return self.services.origins

    def now(self) -> datetime:
        """Return the time."""
        return self.services.clock()

    def set_default_headers(self) -> None:
        """Set the headers that every answer has; a page of ours runs and loads only files of ours."""
        hub = self.services.origins.hub_origin
        sockets = hub.replace("https://", "wss://", 1)
        for name, value in {
            "Content-Security-Policy": (
                f"default-src 'none'; style-src {hub}; script-src {hub}; img-src {hub}; "
                f"connect-src {hub} {sockets}; form-action {self.services.origins.form_targets()}; "
                "base-uri 'none'; frame-ancestors 'none'"
            ),
            "X-Frame-Options": "DENY",
            "X-Content-Type-Options": "nosniff",
            # Not no-referrer: with it browsers send forms with the origin "null".
            "Referrer-Policy": "same-origin",
            "Cache-Control": "no-store",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }.items():
            self.set_header(name, value)
        self.clear_header("Server")

    # --- cookies ---

    def give_cookie(self, name: str, value: str, seconds: int) -> None:
        """Set one of our cookies, as the ``__Host-`` prefix demands and out of scripts' reach."""
        self.set_cookie(name, value, path="/", max_age=seconds, secure=True, httponly=True, samesite="Lax")

    def drop_cookie(self, name: str) -> None:
        """Take one of our cookies back."""
        self.clear_cookie(name, path="/", secure=True, httponly=True, samesite="Lax")

    # --- answers ---

    def is_navigation(self) -> bool:
        """Return whether a person went to this address, rather than a script or a WebSocket of a page."""
        return self.request.method == "GET" and self.wants_page()

    def wants_page(self) -> bool:
        """Return whether the answer is for a person to read. The proxy decides the same of its own pages."""
        headers = self.request.headers
        if "Upgrade" in headers:
            return False
        mode = headers.get("Sec-Fetch-Mode")
        return mode == "navigate" if mode else "text/html" in headers.get("Accept", "")

    def render_page(self, template: str, **context: Any) -> None:
        """Write a page of ``templates/web``."""
        environment: jinja2.Environment = self.settings["pages"]
        page = environment.get_template(template)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(
            page.render(
                user=self.caller,
                origins=self.origins,
                xsrf=lambda: self.xsrf_token.decode("ascii"),
                **context,
            )
        )

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write an error: our own one says what a person may see; of others only the status is told."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, GatewayError):
            status_code = error.status
        else:
            error = _OF_STATUS.get(status_code, GatewayError)()
        if status_code in _PASSING:
            self.set_header("Retry-After", str(AGAIN_SECONDS))
        self.write_refusal(status_code, error.public, error.advice)

    def write_refusal(self, status: int, message: str, advice: str) -> None:
        """Finish with a refusal: what happened and what it means, and what to do next.

        A page for a person, which tries again by itself where that may help; JSON for a program.
        """
        if not self.wants_page():
            self.write_json_refusal(status, message, advice)
            return
        self.set_status(status)
        refresh = AGAIN_SECONDS if status in _PASSING and self.request.method == "GET" else None
        self.render_page("error.html", status=status, message=message, advice=advice, refresh=refresh)

    def write_json_refusal(self, status: int, message: str, advice: str) -> None:
        """Finish with a refusal, as JSON."""
        self.set_status(status)
        self.finish({"status": status, "message": message, "advice": advice})

    # --- log ---

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Log an error, without the query string: it may hold a code."""
        where = f"{self.request.method} {self.request.path}"
        if isinstance(value, GatewayError) and not isinstance(value, NotFound):
            log.log(logging.ERROR if value.status == 500 else logging.WARNING, "%s: %s", where, value)
        elif not isinstance(value, GatewayError | HTTPError):
            log.error("%s failed", where, exc_info=(typ, value, tb))  # type: ignore[arg-type]  # as tornado gives it

    # --- who asks ---

    async def find_session(self) -> None:
        """Learn from the session cookie who asks."""
        cookie = self.get_cookie(SESSION_COOKIE)
        session = await self.services.sessions.session(secret_hash(cookie)) if cookie else None
        if session and session.expires > self.now():
            self.session, self.caller = session, session.user

    def check_same_origin(self) -> None:
        """Refuse what another origin's page sent in this person's name.

        Raises:
            StaleForm: It was, or the form's token is not this browser's.
        """
        if not is_same_origin(self.request.headers, self.origins.hub_origin):
            raise StaleForm("sent by a page of another origin")
        try:
            self.check_xsrf_cookie()
        except HTTPError as error:
            raise StaleForm(f"the form's token: {error.log_message}") from None


class Page(Base):
    """A page on the hub's origin. Without a login it leads to the login page, unless it is ``public``."""

    public = False

    async def prepare(self) -> None:
        """Keep to the hub's own host, find out who asks, and take forms only from our own pages."""
        if not self.origins.is_hub_host(self.request.host):
            self._leave_other_host()
            return
        await self.find_session()
        if self.request.method not in SAFE_METHODS:
            self.check_same_origin()
        if not self.public and self.session is None:
            self.redirect(self.login_url_for(self.request.uri or "/"), status=303)

    def _leave_other_host(self) -> None:
        user = self.origins.user_of_host(self.request.host)
        if user is None or self.request.method not in SAFE_METHODS:
            raise NotFound(f"no page for the host {self.request.host!r}")
        self.redirect(self.origins.hub_origin + (self.request.uri or "/"))

    def login_url_for(self, target: str) -> str:
        """Return the login page's address, from which one goes on to ``target``."""
        if self.request.method != "GET":
            return self.origins.hub_url("/hub/login")
        return self.origins.hub_url("/hub/login?" + urlencode({"next": target}))

    @property
    def user(self) -> User:
        """Who asks; only where a login is needed."""
        if self.caller is None:
            raise Forbidden("no login")
        return self.caller

    def next_url(self) -> str | None:
        """Return where the person wanted to go, if it is a page of ours."""
        return self.origins.safe_next(self.get_argument("next", ""))


class Missing(Page):
    """Any other address."""

    public = True

    async def prepare(self) -> None:
        """Say that there is nothing, on the hub's host; lead there from a user's."""
        await super().prepare()
        if not self._finished:
            raise NotFound(f"no page {self.request.path}")

"""The addresses of the hub, and the server that answers at them."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import jinja2
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler, StaticFileHandler

from gateway import __version__, markdown, options
from gateway.origins import XSRF_COOKIE
from gateway.urls import ENTER
from gateway.web import api, base, callback, clusters, enter, forms, moments, pages, session, sockets, words
from gateway.web.services import Services

access_log = logging.getLogger("gateway.web.access")

TEMPLATES = Path(__file__).resolve().parent.parent / "templates" / "web"
_STATIC = ("gateway.css", "rules.js", "spawn.js", "times.js", "wait.js", "websocket.js", "icon.svg")
#: A pattern of paths, what answers there, and what that is told.
Rule = tuple[Any, ...]
_NAME = r"([^/]+)"
#: The longest form or request that is read, in bytes.
MAX_BODY = 64 * 1024


class Static(StaticFileHandler):
    """The style sheet and the scripts; pages name them with their digest, so they may be kept for long."""

    def set_extra_headers(self, path: str) -> None:
        """Let the pages on users' origins use them too."""
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cross-Origin-Resource-Policy", "same-site")
        self.clear_header("Server")


def make_application(services: Services) -> Application:
    """Return the hub's web application.

    Args:
        services: What it works with.
    """
    return Application(
        _rules(services.origins.base),
        default_handler_class=base.Missing,
        services=services,
        pages=_environment(services),
        login_guard=session.LoginGuard(),
        call_guard=callback.CallGuard(),
        log_function=_log_request,
        xsrf_cookie_name=XSRF_COOKIE,
        xsrf_cookie_kwargs={
            "path": "/",
            "secure": True,
            "httponly": True,
            "samesite": "Lax",
            "expires_days": None,
        },
    )


def _rules(base: str) -> list[Rule]:
    """Return what answers where, all below the base; elsewhere nothing is."""
    user_path = r"/user/[^/]+/(?:[^/]+/)?"
    rules: list[Rule] = [
        (r"/(?:hub/?)?", pages.Root),
        (r"/hub/login", session.Login),
        (r"/hub/logout", session.Logout),
        (r"/hub/home", pages.Home),
        (r"/hub/clusters", clusters.Clusters),
        (rf"/hub/spawn(?:/{_NAME})?", forms.Spawn),
        (rf"/hub/wait(?:/{_NAME})?", pages.Wait),
        (rf"/hub/stop(?:/{_NAME})?", pages.Stop),
        (rf"/hub/keep(?:/{_NAME})?", pages.Keep),
        (r"/hub/enter", enter.Enter),
        (r"/hub/websocket", sockets.Trial),
        (
            rf"/hub/static/({'|'.join(name.replace('.', '[.]') for name in _STATIC)})",
            Static,
            {"path": TEMPLATES},
        ),
        (r"/hub/metrics", api.Metrics),
        (r"/hub/api/?", api.Version),
        (r"/hub/api/health", api.Health),
        (r"/hub/api/user", api.Whoami),
        (rf"/hub/api/users/{_NAME}", api.UserModel),
        (rf"/hub/api/users/{_NAME}/server", api.UserServer),
        (rf"/hub/api/users/{_NAME}/servers/{_NAME}", api.UserServer),
        (rf"/hub/api/users/{_NAME}/server/keep", api.KeepServer),
        (rf"/hub/api/users/{_NAME}/servers/{_NAME}/keep", api.KeepServer),
        (rf"/hub/api/users/{_NAME}/server/progress", api.Progress),
        (rf"/hub/api/users/{_NAME}/servers/{_NAME}/progress", api.Progress),
        (r"/hub/api/orphans", api.Orphans),
        (r"/hub/api/proxy", api.Proxy),
        (r"/hub/api/callback/([a-z2-7]{10})", callback.Callback),
        (rf"/hub/api/clusters/{_NAME}/form", forms.ClusterForm),
        (r"/hub/api/.*", api.NoSuchCall),
        (user_path + ENTER, enter.TakeCode),
        (r"/user/.*", enter.NotGranted),
    ]
    below = base.removesuffix("/")
    found: list[Rule] = [(below + pattern, *handler) for pattern, *handler in rules]
    return [(below, pages.Root), *found] if below else found


def make_server(application: Application) -> HTTPServer:
    """Return the server for the hub's unix socket.

    It trusts ``X-Forwarded-For`` and ``-Proto``: only the proxy can reach the socket, and sets both itself.
    """
    return HTTPServer(
        application, xheaders=True, max_body_size=MAX_BODY, max_buffer_size=2 * MAX_BODY, body_timeout=20
    )


def _environment(services: Services) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "hub": services.origins.hub_url,
        "hub_path": services.origins.hub_path,
        "static": {
            name: services.origins.hub_url(f"/hub/static/{name}?v={_digest(name)}") for name in _STATIC
        },
        "version": __version__,
        "contact": services.contact,
        "describe": words.describe,
        "label": words.label,
        "is_open": words.is_open,
        "is_over": words.is_over,
        "open_url": services.open_url,
        "wait_path": enter.wait_path,
        "walltime": options.format_walltime,
        "memory": options.format_memory,
        "markdown": markdown.to_html,
        "sites_now": services.sites,
        "now": services.clock,
        "until": moments.until,
        "clock_time": moments.clock_time,
    }
    return environment


def _digest(name: str) -> str:
    return hashlib.sha256((TEMPLATES / name).read_bytes()).hexdigest()[:16]


def _log_request(handler: RequestHandler) -> None:
    """Log an answer; without the query string, which may hold a code."""
    request, status = handler.request, handler.get_status()
    access_log.log(
        logging.WARNING if status >= 500 else logging.INFO,
        "%d %s %s%s %.0f ms %s",
        status,
        request.method,
        request.host,
        request.path,
        1000 * request.request_time(),
        request.remote_ip,
    )

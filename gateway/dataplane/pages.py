"""The pages that HAProxy gives itself: for people as HTML that comes back by itself, for programs as JSON.

HAProxy chooses between the two for each request: the bodies are values of a map, one line each, and its
``http-error`` is a format that looks there (2.6, "4.2. http-error"). What is not HTTP at all, or has
a head longer than its buffer, it answers before it looks at any of this, in words of its own (2.6, measured).
"""

from __future__ import annotations

import functools
import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

#: The Content-Type by which HAProxy's rules know a page of its own, and replace it by the right one.
MARK = "gateway/page"
_MAP = "pages.map"


@dataclass(frozen=True, slots=True)
class Page:
    """What happened, what it means, what to do next; ``refresh`` is after how many seconds it looks again."""

    status: int
    title: str
    text: str
    advice: str
    refresh: int | None = None


#: By name: the status, or "hub" for all that goes wrong on the way to the hub.
PAGES: Mapping[str, Page] = {
    "400": Page(
        400,
        "The gateway cannot read this request",
        "What the browser sent is not a request as the gateway knows them. Nothing was done.",
        "Go back and try again, with another browser if that does not help.",
    ),
    "403": Page(
        403,
        "The gateway has refused this request",
        "It came from a page of another site, which may not use your server. Nothing was done.",
        "Open your server from the list of your servers.",
    ),
    "408": Page(
        408,
        "What your browser sent did not arrive in time",
        "The gateway has waited for the rest of it for some seconds. Nothing was done.",
        "Try again; if it stays so, your network is very slow or something in it holds back what you send.",
    ),
    "413": Page(
        413,
        "That is more than the gateway takes",
        "No form of the gateway needs that much. Nothing was done.",
        "Go back and send less.",
    ),
    "429": Page(
        429,
        "Too much at once for this server",
        "Your browsers and programs have more requests open to this server than the gateway lets through at "
        "a time. Your job is untouched.",
        "Close tabs or stop programs that use it, and wait a moment.",
        5,
    ),
    "hub": Page(
        503,
        "One moment",
        "The gateway is being restarted. Running servers go on.",
        "Wait a moment; if it takes more than a few minutes, tell the gateway's administrators.",
        3,
    ),
    "502": Page(
        502,
        "Your server gave no proper answer",
        "The application on the compute node ended the connection, or its answer makes no sense. "
        "Your job is untouched.",
        "Wait a moment; if it stays so, save what you can, stop the server and start it again.",
        5,
    ),
    "503": Page(
        503,
        "Your server is not reachable right now",
        "The gateway has no connection to the application on the compute node. Your job is untouched: "
        "the gateway is connecting again, or your server is just ending.",
        "Wait a moment; if it stays so, look at the list of your servers what has become of it.",
        5,
    ),
    "504": Page(
        504,
        "Your server takes very long to answer",
        "The application on the compute node has not answered in time. Your job is untouched.",
        "Wait, or stop in it what takes so long.",
        15,
    ),
}


@functools.cache
def files() -> Mapping[str, str]:
    """Return the files that HAProxy reads at its start, by name."""
    lines = [f"{name}.{form} {body}\n" for name in PAGES for form, body in _bodies(name).items()]
    return {_MAP: "".join(lines)}


def reply(directory: Path, name: str) -> str:
    """Return the words with which HAProxy's configuration says that an answer is this page.

    Args:
        directory: Where the files are.
        name: As in `PAGES`.
    """
    body = f'"%[str({name}.),concat(,txn.form),map_str({directory}/{_MAP})]"'
    headers = " ".join(f'hdr {key} "{value}"' for key, value in _headers(PAGES[name]).items())
    return f"content-type {MARK} lf-string {body} {headers}"


def _bodies(name: str) -> dict[str, str]:
    """Return a page's bodies: one line of ASCII each, as HAProxy writes nothing else in a format."""
    page = PAGES[name]
    told = {"status": page.status, "message": page.text, "advice": page.advice}
    return {"html": _html(page), "json": json.dumps(told)}


def _html(page: Page) -> str:
    template = _environment().get_template("error.html.j2")
    script = Markup(_script())  # noqa: S704  # a file of ours
    html = template.render(page=page, script=script).encode("ascii", "xmlcharrefreplace").decode()
    return " ".join(html.split())


@functools.cache
def _script() -> str:
    source, _, _ = PackageLoader("gateway", "templates/proxy").get_source(_environment(), "again.js")
    return " ".join(source.split())


def _headers(page: Page) -> dict[str, str]:
    script = b64encode(hashlib.sha256(_script().encode()).digest()).decode()
    allowed = f"; script-src 'sha256-{script}'; connect-src 'self'" if page.refresh else ""
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'unsafe-inline'{allowed}; base-uri 'none'; frame-ancestors 'self'"
        ),
        "X-Content-Type-Options": "nosniff",
        **({"Retry-After": str(page.refresh)} if page.refresh else {}),
    }


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("gateway", "templates/proxy"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )

"""One HTTP request to an application: whether the application answers, and if not, why not."""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass
from enum import StrEnum

from gateway.address import Address, Tcp
from gateway.pki import Authority

_PATH = re.compile(r"/[!-~]*", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+", re.ASCII)
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\r\n]*)?\r?\n")


class Outcome(StrEnum):
    """What came back."""

    READY = "ready"
    NO_TUNNEL = "no tunnel"
    REFUSED = "refused"
    WRONG_PROCESS = "wrong process"
    TIMEOUT = "timeout"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and the same in words for the log.

    ``NO_TUNNEL``: the forward's socket is not there or nobody listens on it. ``REFUSED``: nothing answers at
    the end of the tunnel, or at the address itself. ``WRONG_PROCESS``: somebody answers who is not the
    server. ``FAILING``: the application answers with a status of 500 or more.
    """

    outcome: Outcome
    detail: str

    @property
    def ready(self) -> bool:
        """Whether the application answers requests."""
        return self.outcome is Outcome.READY


def client_context(authority: Authority) -> ssl.SSLContext:
    """Return the TLS with which the gateway speaks to applications: both sides show who they are.

    Raises:
        OSError: The authority's files cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(authority.node_ca)
    context.load_cert_chain(authority.client_pem)
    return context


async def probe(
    address: Address,
    path: str,
    *,
    token: str,
    tls: ssl.SSLContext | None,
    server_name: str | None,
    timeout: float,  # noqa: ASYNC109  (running out of time is an answer)
) -> Answer:
    """Send one GET to an application and say what came back. Any status below 500 means ready.

    Args:
        address: Where the way to it begins: a forward's socket, or the application's own address.
        path: What to ask for, beginning with a slash.
        token: The application's token, sent as ``Authorization: token …``.
        tls: From `client_context`, or None for a node leg without TLS.
        server_name: The name that the certificate must be for; needed with ``tls``.
        timeout: Seconds for the whole.

    Raises:
        ValueError: The path or the token could not stand in a request, or ``tls`` has no name to check.
    """
    if not _PATH.fullmatch(path) or not _TOKEN.fullmatch(token):
        raise ValueError("the path or the token cannot stand in a request")
    if tls and not server_name:
        raise ValueError("a server is known by its name: tls needs server_name")
    request = (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: token {token}\r\nConnection: close\r\n\r\n"
    )
    try:
        async with asyncio.timeout(timeout):
            line = await _first_line(address, request.encode("ascii"), tls, server_name)
    except TimeoutError:
        return Answer(Outcome.TIMEOUT, f"no answer within {timeout:g} s")
    except (FileNotFoundError, ConnectionRefusedError) as error:
        outcome = Outcome.REFUSED if isinstance(address, Tcp) else Outcome.NO_TUNNEL
        return Answer(outcome, f"{address}: {error.strerror}")
    except ssl.SSLEOFError:
        return Answer(Outcome.REFUSED, "the connection ended during the TLS handshake")
    except ssl.SSLError as error:
        return Answer(Outcome.WRONG_PROCESS, f"not {server_name}: {error.reason or error}")
    except OSError as error:
        return Answer(Outcome.REFUSED, f"the connection broke: {error}")
    return _read(line)


def _read(line: bytes) -> Answer:
    if not line:
        return Answer(Outcome.REFUSED, "nothing listens there, or the node cannot be reached")
    found = _STATUS_LINE.fullmatch(line)
    if not found:
        return Answer(Outcome.WRONG_PROCESS, f"the answer is not HTTP: {line[:40]!r}")
    status = int(found[1])
    return Answer(Outcome.READY if status < 500 else Outcome.FAILING, f"HTTP status {status}")


async def _first_line(
    address: Address, request: bytes, tls: ssl.SSLContext | None, server_name: str | None
) -> bytes:
    name = server_name if tls else None
    if isinstance(address, Tcp):
        opening = asyncio.open_connection(address.ip, address.port, ssl=tls, server_hostname=name, limit=4096)
    else:
        opening = asyncio.open_unix_connection(address, ssl=tls, server_hostname=name, limit=4096)
    reader, writer = await opening
    try:
        writer.write(request)
        return await reader.readline()
    except ValueError:  # from readline(): no end of line within the limit
        return b"(a line without an end)"
    finally:
        writer.transport.abort()

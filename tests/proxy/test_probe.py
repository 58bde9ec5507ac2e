"""The probe: only an answer below 500 from the right process is ready; everything else says what it is."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from gateway.dataplane.masters import Masters
from gateway.dataplane.probe import Answer, Outcome, client_context, probe
from gateway.pki import Authority, server_name
from tests.proxy.sshd import Sshd, free_port

pytestmark = pytest.mark.proxy

ALICE, BOB = "aaaaaaaaaa", "bbbbbbbbbb"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gw") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("pki") / "ca")


def node_context(authority: Authority, directory: Path, server_id: str) -> ssl.SSLContext:
    key, certificate = authority.issue(server_id, datetime.now(UTC) + timedelta(hours=1))
    (directory / "node.pem").write_text(key + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "node.pem")
    context.load_verify_locations(authority.client_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class Application:
    """Answers every request with the same bytes and remembers what it was sent."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.received = b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received += await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)


@asynccontextmanager
async def listening(path: Path, serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    serving: list[asyncio.Task[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(cast("asyncio.Task[None]", asyncio.current_task()))
        with suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_unix_server(answer, path, ssl=tls)
    yield
    server.close()
    await asyncio.wait_for(asyncio.gather(*serving), 5)


async def ask(path: Path, tls: ssl.SSLContext | None = None, timeout: float = 5) -> Answer:
    name = server_name(ALICE) if tls else None
    return await probe(path, "/user/alice/api", token="s3cret", tls=tls, server_name=name, timeout=timeout)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", Outcome.READY),
        (b"HTTP/1.1 302 Found\r\n\r\n", Outcome.READY),
        (b"HTTP/1.1 403 \r\n\r\n", Outcome.READY),
        (b"HTTP/1.0 404\r\n\r\n", Outcome.READY),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", Outcome.FAILING),
        (b"HTTP/1.1 200", Outcome.WRONG_PROCESS),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Outcome.WRONG_PROCESS),
        (b"x" * 100_000, Outcome.WRONG_PROCESS),
        (b"", Outcome.REFUSED),
    ],
)
async def test_what_counts_as_an_answer(directory: Path, answer: bytes, outcome: Outcome) -> None:
    async with listening(directory / "s", Application(answer)):
        said = await ask(directory / "s")
    assert said.outcome is outcome, said
    assert said.ready is (outcome is Outcome.READY)


async def test_the_token_goes_in_a_header_and_nowhere_else(directory: Path) -> None:
    application = Application(b"HTTP/1.1 200 OK\r\n\r\n")
    async with listening(directory / "s", application):
        await ask(directory / "s")
    assert application.received.startswith(b"GET /user/alice/api HTTP/1.1\r\n")
    assert b"\r\nAuthorization: token s3cret\r\n" in application.received
    assert application.received.count(b"s3cret") == 1


async def test_a_missing_or_dead_socket_is_no_tunnel(directory: Path) -> None:
    assert (await ask(directory / "s")).outcome is Outcome.NO_TUNNEL
    async with listening(directory / "s", Application(b"")):
        pass
    assert (await ask(directory / "s")).outcome is Outcome.NO_TUNNEL


async def test_a_silent_application_times_out(directory: Path) -> None:
    async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(directory / "s", silence):
        assert (await ask(directory / "s", timeout=0.2)).outcome is Outcome.TIMEOUT


async def test_the_right_server_over_tls_is_ready(authority: Authority, directory: Path) -> None:
    application = Application(b"HTTP/1.1 200 OK\r\n\r\n")
    async with listening(directory / "s", application, node_context(authority, directory, ALICE)):
        assert (await ask(directory / "s", client_context(authority))).ready


async def test_a_neighbour_with_a_certificate_of_his_own_gets_no_byte(
    authority: Authority, directory: Path
) -> None:
    neighbour = Application(b"HTTP/1.1 200 OK\r\n\r\n")
    async with listening(directory / "s", neighbour, node_context(authority, directory, BOB)):
        answer = await ask(directory / "s", client_context(authority))
    assert answer.outcome is Outcome.WRONG_PROCESS
    assert neighbour.received == b""


async def test_a_neighbour_without_tls_never_sees_the_token(authority: Authority, directory: Path) -> None:
    received = b""

    async def neighbour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        received += await reader.read(4096)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

    async with listening(directory / "s", neighbour):
        answer = await ask(directory / "s", client_context(authority))
    assert answer.outcome is Outcome.WRONG_PROCESS
    assert b"s3cret" not in received


async def test_an_end_during_the_handshake_is_a_refusal(authority: Authority, directory: Path) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with listening(directory / "s", hang_up):
        assert (await ask(directory / "s", client_context(authority))).outcome is Outcome.REFUSED


@pytest.mark.parametrize(
    ("path", "token"), [("x", "t"), ("/a b", "t"), ("/a\r\nX: y", "t"), ("/", "t\r\nX: y")]
)
async def test_nothing_is_smuggled_into_the_request(directory: Path, path: str, token: str) -> None:
    with pytest.raises(ValueError, match="cannot stand"):
        await probe(directory / "s", path, token=token, tls=None, server_name=None, timeout=1)


async def test_tls_without_a_name_is_refused(authority: Authority, directory: Path) -> None:
    context = client_context(authority)
    with pytest.raises(ValueError, match="server_name"):
        await probe(directory / "s", "/", token="t", tls=context, server_name=None, timeout=1)


async def test_through_a_tunnel_a_dead_port_and_an_unknown_node_are_refusals(directory: Path) -> None:
    with Sshd(directory) as sshd:
        masters = Masters(sshd.settings())
        try:
            dead = await masters.forward(ALICE, 0, "127.0.0.1", free_port())
            nowhere = await masters.forward(ALICE, 1, "no-such-node.invalid", 8000)
            for path in (dead, nowhere):
                answer = await ask(path)
                assert answer.outcome is Outcome.REFUSED, answer
        finally:
            await masters.stop()

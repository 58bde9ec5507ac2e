"""TLS on both sides of HAProxy: browsers' and the nodes', where only the right process gets a byte."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.dataplane.haproxy import HAProxy, HAProxySettings, Listener
from gateway.errors import ConfigError
from gateway.pki import Authority
from tests.proxy.stage import ALICE, BOB, HOST, Stage, cookie, free_port

pytestmark = pytest.mark.proxy
OWN = f"{ALICE}.1"


@pytest.fixture
def authority(stage: Stage) -> Authority:
    return Authority.open(stage.directory / "ca")


def files(authority: Authority, directory: Path, server_id: str) -> tuple[Path, Path]:
    key, certificate = authority.issue(server_id, datetime.now(UTC) + timedelta(days=1))
    paths = directory / f"{server_id}.key", directory / f"{server_id}.pem"
    for path, text in zip(paths, (key, certificate), strict=True):
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    return paths


def node(authority: Authority, directory: Path, server_id: str) -> ssl.SSLContext:
    """Return what an application of this server is given, and uses."""
    key, certificate = files(authority, directory, server_id)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.client_ca))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    return context


def with_tls(stage: Stage, authority: Authority, *listeners: Listener) -> None:
    stage.settings = HAProxySettings(
        stage.settings.directory,
        stage.settings.hub_socket,
        (*stage.settings.listeners, *listeners),
        authority.node_ca,
        authority.client_pem,
    )
    stage.haproxy = HAProxy(stage.settings)


async def test_an_application_is_reached_with_tls_by_name_and_client_certificate(
    stage: Stage, authority: Authority
) -> None:
    with_tls(stage, authority)
    await stage.backend(OWN, node(authority, stage.directory, ALICE))
    await stage.haproxy.ensure()
    await stage.reach(stage.route(ALICE, "alice", node_tls=True), grants=[stage.grant(ALICE)])
    assert (await stage.haproxy.actual()).servers[OWN].node_tls
    browser = await stage.browser()
    for _ in range(5):
        assert (await browser.ask("/user/alice/", [cookie()])).body == OWN.encode()
    for _ in range(5):
        assert (await stage.ask("/user/alice/", [cookie()])).body == OWN.encode()
    assert stage.backends[OWN].connections <= 2
    await stage.haproxy.reload()
    assert (await stage.ask("/user/alice/", [cookie()])).body == OWN.encode()


@pytest.mark.parametrize("squatter", ["with the certificate of another server", "of another gateway"])
async def test_a_squatter_on_the_node_gets_no_byte_of_a_request(
    stage: Stage, authority: Authority, squatter: str
) -> None:
    with_tls(stage, authority)
    tls: ssl.SSLContext | None = None
    if squatter == "with the certificate of another server":
        tls = node(authority, stage.directory, BOB)
    elif squatter == "of another gateway":
        tls = node(Authority.open(stage.directory / "other"), stage.directory, ALICE)
        tls.verify_mode = ssl.CERT_NONE
    backend = await stage.backend(OWN, tls)
    await stage.haproxy.ensure()
    await stage.reach(stage.route(ALICE, "alice", node_tls=True), grants=[stage.grant(ALICE)])
    assert (await stage.ask("/user/alice/", [cookie()])).status == 503
    assert backend.requests == []


async def test_a_squatter_without_tls_gets_no_byte_of_a_request(stage: Stage, authority: Authority) -> None:
    with_tls(stage, authority)
    received = bytearray()

    async def squat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read(100_000))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        writer.close()

    async with await asyncio.start_unix_server(squat, stage.directory / f"{OWN}.sock"):
        await stage.haproxy.ensure()
        await stage.reach(stage.route(ALICE, "alice", node_tls=True), grants=[stage.grant(ALICE)])
        assert (await stage.ask("/user/alice/secret-path", [cookie()])).status == 503
    assert received
    for secret in (b"GET", b"secret-path", b"token-of", b"gateway-route", b"CERTIFICATE"):
        assert secret not in received


async def test_browsers_come_in_by_tls(stage: Stage, authority: Authority) -> None:
    key, certificate = files(authority, stage.directory, BOB)
    both = stage.directory / "public.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    port = free_port()
    with_tls(stage, authority, Listener(f"127.0.0.1:{port}", both))
    await stage.backend(OWN)
    await stage.haproxy.ensure()
    await stage.reach(stage.route(ALICE, "alice"), grants=[stage.grant(ALICE)])
    context = ssl.create_default_context(cafile=str(authority.node_ca))
    context.check_hostname = False
    context.set_alpn_protocols(["http/1.1"])
    browser = await stage.browser(port, context)
    channel = browser.writer.get_extra_info("ssl_object")
    assert channel.selected_alpn_protocol() == "http/1.1"  # for a browser that does not speak HTTP/2
    assert channel.version() in ("TLSv1.2", "TLSv1.3")
    assert (
        await browser.ask("/user/alice/", [cookie(), ("Origin", f"https://{HOST}")], method="POST")
    ).status == 200


async def test_a_certificate_that_is_not_there_is_named(stage: Stage, authority: Authority) -> None:
    with_tls(stage, authority, Listener(f"127.0.0.1:{free_port()}", stage.directory / "missing.pem"))
    with pytest.raises(ConfigError, match=r"missing\.pem: No such file"):
        await stage.haproxy.ensure()


async def test_a_route_with_tls_is_refused_where_there_are_no_certificates(stage: Stage) -> None:
    await stage.haproxy.ensure()
    with pytest.raises(ConfigError, match="no certificates"):
        await stage.haproxy.write_snapshot(await stage.reach(stage.route(ALICE, "alice", node_tls=True)))

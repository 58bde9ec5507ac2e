"""New certificates are taken up while HAProxy runs: nothing is reloaded, and nothing that is open ends."""

from __future__ import annotations

import shutil
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.dataplane.haproxy import HAProxy, Listener
from gateway.pki import Authority
from tests.proxy.http2 import Http2Browser
from tests.proxy.stage import ALICE, EXP1, HOST, Stage, cookie, free_port, own_certificate, trusting
from tests.proxy.test_haproxy_tls import node, with_tls

pytestmark = pytest.mark.proxy
OWN, STATIC = f"{ALICE}.1", f"{EXP1}.1"


@pytest.fixture
def authority(stage: Stage) -> Authority:
    return Authority.open(stage.directory / "ca")


async def with_https(stage: Stage) -> tuple[int, Path]:
    port, certificate = free_port(), own_certificate(stage.directory)
    listeners = (*stage.settings.listeners, Listener(f"127.0.0.1:{port}", certificate))
    stage.settings = replace(stage.settings, listeners=listeners)
    stage.haproxy = HAProxy(stage.settings)
    await stage.usual()
    return port, certificate


async def shown(port: int) -> str:
    """Return the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    browser = await Stage.browser_at(port, context)
    found = browser.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    await browser.close()
    return ssl.DER_cert_to_PEM_cert(found)


async def test_a_new_public_certificate_is_shown_and_nothing_ends(stage: Stage) -> None:
    port, certificate = await with_https(stage)
    browser = await Http2Browser.open(port, trusting(certificate))
    number, _ = await browser.websocket("/user/alice/api", [cookie(), ("origin", f"https://{HOST}")])
    before = await stage.workers()
    own_certificate(stage.directory)
    await stage.haproxy.ensure()
    assert await shown(port) in certificate.read_text()
    assert await stage.workers() == before
    assert await browser.echo(number, b"more") == b"more"
    await browser.close()
    await stage.kill_all()
    await HAProxy(stage.settings).ensure()
    assert await shown(port) in certificate.read_text()


@pytest.mark.parametrize(
    "text", ["blank lines", "no line end", "words between", "CRLF", "longer than a command"]
)
async def test_a_certificate_is_taken_up_however_its_file_is_written(stage: Stage, text: str) -> None:
    port, certificate = await with_https(stage)
    own_certificate(stage.directory)
    written = certificate.read_text()
    if text == "longer than a command":
        written += written[written.index("-----BEGIN CERT") :] * 30
    certificate.write_text(
        {
            "blank lines": written.replace("-----BEGIN", "\n\n-----BEGIN"),
            "no line end": written.rstrip(),
            "words between": f"Bag Attributes; quit\n{written}# the end\n",
            "CRLF": written.replace("\n", "\r\n"),
        }.get(text, written),
        newline="",
    )
    await stage.haproxy.ensure()
    assert await shown(port) in written
    await stage.haproxy.reload()
    assert await shown(port) in written


@pytest.mark.parametrize("broken", ["rubbish", "another's key", "half", "missing"])
async def test_a_certificate_of_no_use_is_told_of_once_and_the_old_one_stays(
    stage: Stage, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    port, certificate = await with_https(stage)
    old = await shown(port)
    good = own_certificate(stage.directory).read_text()
    other = own_certificate(stage.directory).read_text()
    start = good.index("-----BEGIN CERT")
    texts = {"rubbish": "rubbish", "another's key": other[: other.index("-----BEGIN CERT")] + good[start:]}
    certificate.write_text(texts.get(broken, good[: start + 100]))
    if broken == "missing":
        certificate.unlink()
    for _ in range(3):
        await stage.haproxy.ensure()
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert str(certificate) in errors[0]
    assert "HAProxy goes on with the certificate of before" in errors[0]
    assert await shown(port) == old
    await stage.kill_all()
    await HAProxy(stage.settings).ensure()
    assert await shown(port) == old
    certificate.write_text(good)
    await stage.haproxy.ensure()
    assert await shown(port) in good


async def test_one_that_haproxy_was_not_told_of_is_noticed(stage: Stage) -> None:
    port, certificate = await with_https(stage)
    own_certificate(stage.directory)
    shutil.copyfile(certificate, stage.settings.copy_of(certificate))
    await stage.haproxy.ensure()
    assert await shown(port) in certificate.read_text()


async def test_servers_are_reached_with_a_new_client_certificate(stage: Stage, authority: Authority) -> None:
    with_tls(stage, authority)
    tls = node(authority, stage.directory, ALICE)
    backend = await stage.backend(OWN, tls)
    await stage.haproxy.ensure()
    await stage.reach(stage.route(ALICE, "alice", node_tls=True), grants=[stage.grant(ALICE)])
    websocket = await stage.websocket()
    before, serials = await stage.workers(), set(backend.client_serials)
    authority.client_pem.unlink()
    Authority.open(stage.directory / "ca")
    await stage.haproxy.ensure()
    assert (await stage.ask("/user/alice/", [cookie()])).body == OWN.encode()
    assert len(serials) == 1
    assert backend.client_serials[-1] not in serials
    assert await stage.workers() == before
    assert await websocket.echo(b"more") == b"more"


async def test_servers_of_a_new_authority_are_trusted_and_of_the_old_one_no_more(
    stage: Stage, authority: Authority
) -> None:
    with_tls(stage, authority)
    await stage.haproxy.ensure()
    routes = stage.route(ALICE, "alice", node_tls=True), stage.route(EXP1, "alice", "exp1", node_tls=True)
    await stage.reach(*routes, grants=[stage.grant(ALICE), stage.grant(EXP1)])
    await stage.backend(OWN, node(authority, stage.directory, ALICE))
    other = Authority.open(stage.directory / "other")
    new = node(other, stage.directory, EXP1)
    new.verify_mode = ssl.CERT_NONE
    await stage.backend(STATIC, new)
    shutil.copyfile(other.node_ca, authority.node_ca)
    await stage.haproxy.ensure()
    assert (await stage.ask("/user/alice/exp1/", [cookie()])).body == STATIC.encode()
    assert (await stage.ask("/user/alice/", [cookie()])).status == 503

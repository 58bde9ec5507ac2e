"""Behind a reverse proxy of the site's own: its word counts on who asks, and nobody else's."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from traitlets.config import Config

from gateway import parts
from gateway.config import Settings
from gateway.dataplane.front import Front
from gateway.dataplane.haproxy import HAProxy, Listener
from gateway.doctor.check import Status
from gateway.doctor.host import Host
from gateway.errors import ConfigError
from gateway.pki import Authority
from tests.proxy import fronts
from tests.proxy.conftest import PLACES
from tests.proxy.stage import (
    ALICE,
    HOST,
    UPGRADE,
    Browser,
    Stage,
    cookie,
    free_port,
    own_certificate,
    trusting,
)

pytestmark = pytest.mark.proxy
PROXY, BROWSER, STRANGER = "127.0.0.1", "127.0.0.9", "127.0.0.2"
FORGED = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Proto", "http"), ("Forwarded", "for=6.6.6.6")]


@pytest.fixture(autouse=True)
def _nginx() -> None:
    if not shutil.which("nginx", path=PLACES):
        pytest.skip("needs the program nginx")


@pytest.fixture
async def behind(stage: Stage) -> Stage:
    """Alice's server and the hub, behind a proxy that says with headers who asks."""
    settle(stage, Front((PROXY,)))
    await stage.usual()
    return stage


def settle(stage: Stage, front: Front, *listeners: Listener) -> None:
    stage.settings = replace(
        stage.settings,
        front=front,
        public=f"{HOST}:8443",
        users_below=True,
        listeners=(*stage.settings.listeners, *listeners),
    )
    stage.haproxy = HAProxy(stage.settings)


async def come(stage: Stage, port: int, source: str, tls: ssl.SSLContext | None = None) -> Browser:
    """Return a browser that has an address of its own."""
    opened = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0), ssl=tls)
    stage.browsers.append(Browser(*opened))
    return stage.browsers[-1]


def told(stage: Stage, name: str = "hub") -> tuple[str | None, str | None]:
    """Return what a backend was told last of who asks, and how."""
    request = stage.backends[name].requests[-1]
    assert request.one("forwarded") is None
    return request.one("x-forwarded-for"), request.one("x-forwarded-proto")


async def test_through_nginx_the_browsers_address_comes_in_whatever_it_says(behind: Stage) -> None:
    certificate = own_certificate(behind.directory)
    async with fronts.nginx(behind.directory, behind.port, certificate) as port:
        browser = await come(behind, port, BROWSER, trusting(certificate))
        assert (await browser.ask("/hub/home", FORGED)).body == b"hub"
        assert told(behind) == (BROWSER, "https")
        assert (await browser.ask("/user/alice/", [cookie()])).status == 200
        assert told(behind, f"{ALICE}.1") == (BROWSER, "https")
        sent = [cookie(), *UPGRADE, ("Origin", f"https://{HOST}")]
        assert (await browser.ask("/user/alice/ws", sent)).status == 101
        assert await browser.echo(b"hello") == b"hello"


async def test_each_request_of_a_proxys_connection_is_for_itself(behind: Stage) -> None:
    proxy = await come(behind, behind.port, PROXY)
    for sent, seen in (("192.0.2.1", "192.0.2.1"), ("6.6.6.6, 2001:db8::1", "2001:db8::1"), ("x", PROXY)):
        await proxy.ask("/hub/home", [("X-Forwarded-For", sent)])
        assert told(behind) == (seen, "https")
    await proxy.ask("/hub/home")
    assert told(behind) == (PROXY, "https")


async def test_the_browsers_address_is_in_the_access_log(stage: Stage) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as syslog:
        syslog.bind(("127.0.0.1", 0))
        syslog.setblocking(False)
        stage.settings = replace(stage.settings, access_log=f"127.0.0.1:{syslog.getsockname()[1]}")
        settle(stage, Front((PROXY,)))
        await stage.usual()
        proxy = await come(stage, stage.port, PROXY)
        await proxy.ask("/hub/home", [("X-Forwarded-For", "6.6.6.6, 192.0.2.1")])
        async with asyncio.timeout(5):
            line = await asyncio.get_running_loop().sock_recv(syslog, 9000)
    assert b'"source":"192.0.2.1"' in line


async def test_from_anybody_else_these_headers_are_dropped(behind: Stage) -> None:
    stranger = await come(behind, behind.port, STRANGER)
    assert (await stranger.ask("/hub/home", FORGED)).status == 200
    assert told(behind) == (STRANGER, "https")


@pytest.mark.parametrize(
    ("host", "location"),
    [
        (HOST, f"https://{HOST}:8443/x?y"),
        (f"alice.{HOST}", f"https://alice.{HOST}:8443/x?y"),
        ("evil.example.org", f"https://{HOST}:8443/x?y"),
    ],
)
async def test_who_came_to_the_proxy_without_tls_is_sent_to_https(
    behind: Stage, host: str, location: str
) -> None:
    proxy = await come(behind, behind.port, PROXY)
    answer = await proxy.ask("/x?y", [("X-Forwarded-Proto", "http")], host=host)
    assert (answer.status, answer.one("location")) == (301, location)


@pytest.mark.parametrize("word", ["send-proxy", "send-proxy-v2"])
async def test_the_proxy_protocol_brings_the_browsers_address_also_before_tls(
    stage: Stage, word: str
) -> None:
    certificate, own = own_certificate(stage.directory), free_port()
    settle(stage, Front((PROXY,), proxy_protocol=True), Listener(f"127.0.0.1:{own}", certificate))
    await stage.usual()
    for target, tls in ((stage.port, None), (own, trusting(certificate))):
        async with fronts.haproxy(stage.directory, target, word) as port:
            browser = await come(stage, port, BROWSER, tls)
            await browser.ask("/hub/home", FORGED)
            assert told(stage) == (BROWSER, "https")
    stranger = await come(stage, own, STRANGER, trusting(certificate))
    await stranger.ask("/hub/home", FORGED)
    assert told(stage) == (STRANGER, "https")


async def test_nobody_else_speaks_the_proxy_protocol_and_a_proxy_must(stage: Stage) -> None:
    settle(stage, Front((PROXY,), proxy_protocol=True))
    await stage.usual()
    stranger = await come(stage, stage.port, STRANGER)
    stranger.writer.write(b"PROXY TCP4 6.6.6.6 127.0.0.1 1 1\r\n")
    assert (await stranger.ask("/hub/home")).status == 400
    proxy = await come(stage, stage.port, PROXY)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await proxy.ask("/hub/home")
    assert stage.reached() == []


async def test_without_tls_nobody_but_a_proxy_gets_in_from_the_network(stage: Stage) -> None:
    port = free_port()
    settle(stage, Front((PROXY,)), Listener(f":{port}"))
    await stage.usual()
    assert (await (await come(stage, port, PROXY)).ask("/hub/home")).body == b"hub"
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await (await come(stage, port, STRANGER)).ask("/hub/home")


# --- settings -----------------------------------------------------------------------------------------


def front_of(directory: Path, **settings: object) -> tuple[tuple[Listener, ...], Front]:
    own = {"public_url": f"https://{HOST}/", "bind": [], **settings}
    authority = Authority.open(directory / "ca")
    found = parts.haproxy_settings(Settings(Config({"Gateway": own}), "test"), authority, Path("/run/gw"))
    return found.listeners, found.front


def test_what_the_configuration_says_of_a_proxy(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir(mode=0o700)
    trusted = ["192.0.2.0/24", "2001:db8::7"]
    settings = {"plain_bind": [":8080"], "trusted_proxies": trusted, "proxy_protocol": True}
    assert front_of(tmp_path, **settings) == (
        (Listener(":8080"),),
        Front(("192.0.2.0/24", "2001:db8::7/128"), True),
    )
    assert front_of(tmp_path, plain_bind=["[::1]:8080"])[1] == Front()


async def test_a_certificate_is_needed_only_where_tls_ends_here() -> None:
    own: dict[str, object] = {"public_url": f"https://{HOST}/", "bind": [], "plain_bind": ["127.0.0.1:8080"]}
    settings = Settings(Config({"Gateway": own}), "test")
    parts.require_front(settings)
    host = Host(settings, {})
    assert (await host.configuration()).status is Status.OK
    assert [host._certificate_file().status, host._certificate_names().status] == [Status.OK, Status.SKIPPED]
    with pytest.raises(ConfigError, match="tls_certificate"):
        parts.require_front(Settings(Config({"Gateway": own | {"bind": [":443"]}}), "test"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"plain_bind": [":8080"]}, "without trusted_proxies it must be on the loopback"),
        ({"plain_bind": ["192.0.2.1:8080"]}, "without trusted_proxies it must be on the loopback"),
        ({"plain_bind": ["127.0.0.1:1"], "proxy_protocol": True}, "name the proxies that speak it"),
        ({"plain_bind": [":8080"], "trusted_proxies": ["0.0.0.0/0"]}, "is everybody"),
        ({"plain_bind": [":8080"], "trusted_proxies": ["192.0.2.1/24"]}, "has host bits set"),
        ({"plain_bind": [":8080"], "trusted_proxies": ["www.example.org"]}, "write 192.0.2.7"),
    ],
    ids=["any", "public", "protocol", "everybody", "bits", "name"],
)
def test_a_configuration_that_believes_too_many_is_refused(
    tmp_path: Path, settings: dict[str, object], words: str
) -> None:
    (tmp_path / "ca").mkdir(mode=0o700)
    with pytest.raises(ConfigError, match=words):
        front_of(tmp_path, **settings)

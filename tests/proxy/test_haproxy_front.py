"""Where browsers come in: addresses, ciphers, and that they come by HTTPS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import replace

import pytest

from gateway.dataplane.haproxy import HAProxy, Listener
from gateway.errors import ConfigError
from tests.proxy.stage import HOST, Browser, Stage, cookie, free_port, own_certificate, trusting

pytestmark = pytest.mark.proxy
YEAR = 365 * 24 * 3600


def with_settings(stage: Stage, **changes: object) -> None:
    stage.settings = replace(stage.settings, **changes)  # type: ignore[arg-type]
    stage.haproxy = HAProxy(stage.settings)


async def with_https(stage: Stage) -> tuple[int, ssl.SSLContext]:
    certificate, port = own_certificate(stage.directory), free_port()
    with_settings(stage, listeners=(*stage.settings.listeners, Listener(f"127.0.0.1:{port}", certificate)))
    await stage.haproxy.ensure()
    return port, trusting(certificate)


@pytest.mark.parametrize(
    ("host", "target", "location"),
    [
        (HOST, "/user/alice/lab?x=1", f"https://{HOST}:8443/user/alice/lab?x=1"),
        (f"{HOST}:80", "/", f"https://{HOST}:8443/"),
        (f"alice.{HOST}", "/user/alice/", f"https://alice.{HOST}:8443/user/alice/"),
        (f"ALICE.{HOST}:80", "/", f"https://alice.{HOST}:8443/"),
        ("evil.example.org", "/user/alice/", f"https://{HOST}:8443/user/alice/"),
        (f"evil{HOST}", "/", f"https://{HOST}:8443/"),
        (f"{HOST}.evil.example.org", "/", f"https://{HOST}:8443/"),
        (f"a.b.{HOST}", "/", f"https://{HOST}:8443/"),
        (f"evil@alice.{HOST}", "/", f"https://{HOST}:8443/"),
        (f"evil/.{HOST}", "/", f"https://{HOST}:8443/"),
        (HOST, "//evil.example.org/", f"https://{HOST}:8443//evil.example.org/"),
    ],
)
async def test_plain_http_leads_to_https_at_a_host_of_ours(
    stage: Stage, host: str, target: str, location: str
) -> None:
    port = free_port()
    public = f"{HOST}:8443"
    with_settings(stage, redirects=(f"127.0.0.1:{port}",), public=public, users_below=True)
    await stage.backend("hub")
    await stage.haproxy.ensure()
    browser = await stage.browser(port)
    answer = await browser.ask(target, [cookie()], host=host)
    assert (answer.status, answer.one("location")) == (301, location)
    assert stage.reached() == []


async def test_with_one_origin_no_other_host_is_ours(stage: Stage) -> None:
    port = free_port()
    with_settings(stage, redirects=(f"127.0.0.1:{port}",), public=HOST)
    await stage.haproxy.ensure()
    answer = await (await stage.browser(port)).ask("/x", host=f"alice.{HOST}")
    assert answer.one("location") == f"https://{HOST}/x"


@pytest.mark.parametrize("seconds", [YEAR, 0])
async def test_browsers_are_told_to_come_by_https_in_every_answer_if_at_all(
    stage: Stage, seconds: int
) -> None:
    with_settings(stage, hsts=seconds)
    await stage.usual()
    stage.backends["aaaaaaaaaa.1"].answer_headers = (
        [("Strict-Transport-Security", "max-age=0")] if seconds else []
    )
    expected = f"max-age={seconds}" if seconds else None
    refused = [cookie(), ("Sec-Fetch-Site", "cross-site")]
    for target, headers in (("/hub/home", []), ("/user/alice/", [cookie()]), ("/user/alice/", refused)):
        assert (await stage.ask(target, headers)).one("strict-transport-security") == expected


async def test_old_and_weak_tls_is_refused(stage: Stage) -> None:
    port, context = await with_https(stage)
    await stage.backend("hub")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    browser = await stage.browser(port, context)
    name, _, _ = browser.writer.get_extra_info("cipher")
    assert name.startswith("ECDHE-") and ("GCM" in name or "CHACHA20" in name)  # noqa: PT018
    assert (await browser.ask("/hub/home")).body == b"hub"
    for weak in ("AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA256"):
        context.set_ciphers(f"{weak}:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await stage.browser(port, context)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_tls_before_1_2_is_refused(stage: Stage) -> None:
    port, context = await with_https(stage)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await stage.browser(port, context)


async def ask(stage: Stage, address: str, port: int) -> str:
    browser = Browser(*await asyncio.open_connection(address, port))
    stage.browsers.append(browser)
    assert (await browser.ask("/hub/home")).body == b"hub"
    return stage.backends["hub"].requests[-1].one("x-forwarded-for") or ""


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside-ipv4"])
async def test_ipv6_and_ipv4_come_in(stage: Stage, beside: bool) -> None:
    port = free_port()
    listeners = [Listener(f"[::]:{port}"), *([Listener(f":{port}")] if beside else [])]
    with_settings(stage, listeners=tuple(listeners))
    await stage.backend("hub")
    await stage.haproxy.ensure()
    assert await ask(stage, "::1", port) == "::1"
    assert await ask(stage, "127.0.0.1", port) == "127.0.0.1"
    await stage.haproxy.reload()
    assert await ask(stage, "::1", port) == "::1"


def test_a_redirect_needs_to_know_where_to(stage: Stage) -> None:
    with pytest.raises(ConfigError, match="no host"):
        with_settings(stage, redirects=(":80",))

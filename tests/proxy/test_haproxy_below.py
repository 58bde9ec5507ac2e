"""A gateway that has only a path of a host: what is exactly below it gets to servers, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from gateway.dataplane.front import Front
from gateway.dataplane.haproxy import HAProxy
from gateway.dataplane.haproxyconfig import render
from gateway.errors import ConfigError
from tests.proxy import fronts
from tests.proxy.conftest import PLACES
from tests.proxy.stage import ALICE, EXP1, HOST, UPGRADE, Stage, cookie, own_certificate, trusting

pytestmark = [pytest.mark.proxy, pytest.mark.asyncio(loop_scope="module")]
BASE = "/hpc/gateway/"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Stage]:
    stage = Stage()
    try:
        stage.settings = replace(
            stage.settings, base=BASE, front=Front(("127.0.0.1",)), public=f"{HOST}:8443"
        )
        stage.haproxy = HAProxy(stage.settings)
        await stage.usual()
        yield stage
    finally:
        await stage.close()


@pytest.fixture
def below(running: Stage) -> Stage:
    running.forget()
    return running


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/hpc/gateway/user/alice/", f"{ALICE}.1"),
        ("/hpc/gateway/user/alice/lab?x", f"{ALICE}.1"),
        ("/hpc/gateway/user/alice/exp1/lab", f"{EXP1}.1"),
        ("/hpc/gateway/user/alice//exp1/", f"{ALICE}.1"),
        ("/hpc/gateway/user/alice/hpc/gateway/user/bob/", f"{ALICE}.1"),
        ("/hpc/gateway/user/alice", "hub"),
        ("/hpc/gateway/user/bob/", "hub"),
        ("/hpc/gateway/user/alice/-gateway-enter?code=x", "hub"),
        ("/user/alice/", "hub"),
        ("/hpc/user/alice/", "hub"),
        ("/gateway/user/alice/", "hub"),
        ("/hpc/gatewayx/user/alice/", "hub"),
        ("/hpcx/gateway/user/alice/", "hub"),
        ("/x/hpc/gateway/user/alice/", "hub"),
        ("/a/b/user/alice/", "hub"),
        ("//hpc/gateway/user/alice/", "hub"),
        ("/hpc//gateway/user/alice/", "hub"),
        ("/hpc/gateway//user/alice/", "hub"),
        ("/hpc%2fgateway/user/alice/", "hub"),
        ("/hpc/gateway%2fuser/alice/", "hub"),
        ("/hpc/gateway/user%2falice/", "hub"),
        ("/HPC/gateway/user/alice/", "hub"),
        ("/./hpc/gateway/user/alice/", "hub"),
        ("/hpc/gateway/hub/home", "hub"),
        ("/", "hub"),
    ],
)
async def test_below_a_path_only_exactly_that_leads_to_a_server(
    below: Stage, target: str, expected: str
) -> None:
    answer = await below.ask(target, [cookie()])
    assert (answer.body.decode(), below.reached()) == (expected, [expected])
    assert below.backends[expected].requests[0].target == target


async def test_below_a_path_through_nginx_a_websocket_gets_through(below: Stage) -> None:
    if not shutil.which("nginx", path=PLACES):
        pytest.skip("needs the program nginx")
    certificate = own_certificate(below.directory)
    async with fronts.nginx(below.directory, below.port, certificate) as port:
        browser = await below.browser(port, trusting(certificate))
        sent = [cookie(), *UPGRADE, ("Origin", f"https://{HOST}")]
        assert (await browser.ask("/hpc/gateway/user/alice/ws", sent)).status == 101
        assert await browser.echo(b"hello") == b"hello"


async def test_large_is_what_the_applications_own_path_says(below: Stage) -> None:
    files = replace(below.settings, base="/files/")
    assert "path,bytes(6) -m dir files" in render(files, {}, "none")
    assert "field(4,/)" in render(files, {}, "none")
    with pytest.raises(ConfigError, match="public_url"):
        replace(below.settings, base="/a b/")

"""The one address where no person calls: what it takes, and what it does not even look at."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tornado.testing import bind_unused_port

from gateway.errors import CallRefused, Forbidden, GatewayError
from gateway.origins import Origins
from gateway.web import make_application, make_server
from tests.unit.web_fakes import Browser, FakeServers, World

HUB = "https://gw.example.org"
PROOF = "0123456789abcdef" * 4
ID = "abcdefghij"


class Servers(FakeServers):
    """Servers that take calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str, int]] = []
        self.refusal: GatewayError | None = None

    async def published(self, server_id: str, proof: str, port: int) -> None:
        self.calls.append((server_id, proof, port))
        if self.refusal:
            raise self.refusal


@pytest.fixture
def servers() -> Servers:
    return Servers()


@pytest.fixture
async def browser(servers: Servers) -> AsyncIterator[Browser]:
    world = World.new(Origins.of(HUB + "/"))
    world.servers = servers
    listening, port = bind_unused_port()
    http = make_server(make_application(world.services()))
    http.add_sockets([listening])
    yield Browser(port)
    http.stop()
    await http.close_all_connections()


async def call(
    browser: Browser,
    body: str = "20001",
    authorization: str = f"Bearer {PROOF}",
    path: str = ID,
    hub: str = HUB,
) -> int:
    headers = {"Authorization": authorization, "Content-Type": "text/plain"}
    answer = await browser.fetch(f"{hub}/hub/api/callback/{path}", "POST", body, headers)
    return answer.code


async def test_a_port_and_a_proof_are_passed_on(browser: Browser, servers: Servers) -> None:
    assert await call(browser) == 204
    assert await call(browser, "20002\n") == 204
    assert servers.calls == [(ID, PROOF, 20001), (ID, PROOF, 20002)]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "0",
        "020001",
        "-1",
        "1e4",
        "20001 ",
        "200011",
        "cn1:20001",
        "２０００１",
        "[1]",
        "1" * 60_000,
        "20001\n\n",
        "20001\r\n",
        "\n20001",
        "20001" + "\n" * 20,
        "20001\n" + " " * 20 + "x",
    ],
)
async def test_nothing_but_a_port_is_looked_at(browser: Browser, servers: Servers, body: str) -> None:
    assert await call(browser, body) == 400
    assert servers.calls == []


@pytest.mark.parametrize("authorization", ["", PROOF, f"Bearer {PROOF[1:]}", f"Basic {PROOF}", "Bearer x"])
async def test_nothing_without_the_form_of_a_proof_is_looked_at(
    browser: Browser, servers: Servers, authorization: str
) -> None:
    assert await call(browser, authorization=authorization) == 403
    assert servers.calls == []


async def test_it_is_only_there_on_the_hubs_host_for_posts_and_for_ids(
    browser: Browser, servers: Servers
) -> None:
    assert await call(browser, hub="https://alice.gw.example.org") == 404
    assert (await browser.fetch(f"{HUB}/hub/api/callback/{ID}")).code == 405
    assert await call(browser, path="abc") in (403, 404)
    assert servers.calls == []


@pytest.mark.parametrize(("refusal", "status"), [(CallRefused("x"), 409), (Forbidden("x"), 403)])
async def test_a_refusal_says_whether_it_is_for_ever(
    browser: Browser, servers: Servers, refusal: GatewayError, status: int
) -> None:
    servers.refusal = refusal
    assert await call(browser) == status


async def test_guessing_is_slowed_down_for_the_server_and_not_for_others(
    browser: Browser, servers: Servers
) -> None:
    servers.refusal = Forbidden("wrong")
    answers = [await call(browser) for _ in range(25)]
    assert answers[:20] == [403] * 20
    assert set(answers[20:]) == {429}
    servers.refusal = None
    assert await call(browser, path="jihgfedcba") == 204

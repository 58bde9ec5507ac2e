"""The REST API: who may ask what, and in which shapes it answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.testing import bind_unused_port

from gateway.discovery import Discovery
from gateway.errors import NotFound
from gateway.lifecycle import Phase
from gateway.model import EndReason, JobId, User
from gateway.origins import Origins
from gateway.routing import RouteRow
from gateway.siteview import SiteView
from gateway.store.orphans import Orphan
from gateway.web import api, make_application, make_server
from gateway.web.base import secret_hash
from tests.unit.web_fakes import Browser, World, server, token

HUB = "https://gw.example.org"


@pytest.fixture
def world() -> World:
    world = World.new(Origins.of(HUB + "/"))
    for name in ("alice", "bob", "carol"):
        world.sessions.tokens[secret_hash(f"{name}-token")] = User(name, admin=name == "carol")
    return world


@pytest.fixture
async def browser(world: World) -> AsyncIterator[Browser]:
    listening, port = bind_unused_port()
    http = make_server(make_application(world.services()))
    http.add_sockets([listening])
    yield Browser(port)
    http.stop()
    await http.close_all_connections()


async def call(
    browser: Browser, path: str, method: str = "GET", body: Any = None, who: str = "alice"
) -> tuple[int, Any]:
    sent = None if body is None else json.dumps(body)
    headers = {"Authorization": f"token {who}-token", "Sec-Fetch-Mode": "cors"} if who else {}
    answer = await browser.fetch(f"{HUB}/hub/api{path}", method, sent, headers)
    return answer.code, read(answer)


def read(answer: HTTPResponse) -> Any:
    return json.loads(answer.body) if answer.body else None


async def test_version_and_health_need_nobody(browser: Browser) -> None:
    code, body = await call(browser, "/", who="")
    assert code == 200
    assert body["version"]
    assert (await call(browser, "/health", who=""))[0] == 200


@pytest.mark.parametrize("path", ["/user", "/users/alice", "/users/alice/server/progress"])
async def test_everything_else_needs_a_good_token(browser: Browser, world: World, path: str) -> None:
    world.servers.put(server())
    for who in ("", "mallory"):
        code, body = await call(browser, path, who=who)
        assert code == 403
        assert body["status"] == 403
        assert body["message"].endswith(".")
        assert body["advice"].endswith(".")


async def test_a_person_and_their_servers(browser: Browser, world: World) -> None:
    world.servers.put(server(phase=Phase.QUEUED))
    world.servers.put(server(name="exp1", id="b" * 10))
    world.servers.put(server(name="old", id="c" * 10, phase=Phase.ENDED))
    code, body = await call(browser, "/user")
    assert code == 200
    assert (body["name"], body["admin"], body["server"], body["pending"]) == ("alice", False, None, "spawn")
    assert sorted(body["servers"]) == ["", "exp1"]
    ready = body["servers"]["exp1"]
    assert (ready["ready"], ready["url"], ready["pending"]) == (True, "/user/alice/exp1/", None)
    assert ready["full_url"] == "https://alice.gw.example.org/user/alice/exp1/"
    assert ready["started"].endswith("Z")
    assert ready["progress_url"] == "/hub/api/users/alice/servers/exp1/progress"


async def test_only_the_owner_and_administrators_see_and_stop_a_server(
    browser: Browser, world: World
) -> None:
    world.servers.put(server())
    for path, method in (
        ("/users/alice", "GET"),
        ("/users/alice/server", "DELETE"),
        ("/users/alice/server", "POST"),
    ):
        code, _ = await call(browser, path, method, {} if method == "POST" else None, who="bob")
        assert code == 404, path
    assert world.servers.now["alice", ""].phase is Phase.READY
    assert (await call(browser, "/users/alice", who="carol"))[0] == 200
    assert (await call(browser, "/users/alice/server", "DELETE", who="carol"))[0] == 204


async def test_nobody_starts_a_server_for_a_system_account(browser: Browser, world: World) -> None:
    for name in ("root", "slurm"):
        assert (await call(browser, f"/users/{name}/server", "POST", {}, who="carol"))[0] == 403
    assert (await call(browser, "/users/..%2Falice/server", "POST", {}, who="carol"))[0] == 404
    assert not world.servers.started


@pytest.mark.parametrize(
    "body",
    [
        {"user_options": {"partition": "long", "walltime": "4h", "cores": 3}},
        {"partition": "long", "walltime": ["4h"], "cores": "3"},
    ],
)
async def test_a_server_is_started_with_options(browser: Browser, world: World, body: Any) -> None:
    code, answer = await call(browser, "/users/alice/servers/exp1", "POST", body)
    assert code == 202
    assert (answer["name"], answer["pending"]) == ("exp1", "spawn")
    ((user, name, choices),) = world.servers.started
    assert (user.name, name, choices.partition, choices.walltime, choices.cores) == (
        "alice",
        "exp1",
        "long",
        240,
        3,
    )
    code, answer = await call(browser, "/users/alice/servers/exp1", "POST", body)
    assert (code, answer["status"]) == (409, 409)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/users/alice/server", {"partition": "nosuch"}),
        ("/users/alice/server", {"uid": "0"}),
        ("/users/alice/server", {"cores": True}),
        ("/users/alice/server", {"cores": {"a": 1}}),
        ("/users/alice/server", [1]),
        ("/users/alice/server", {"user_options": "x"}),
        ("/users/alice/servers/lab", {}),
        ("/users/alice/servers/A", {}),
    ],
)
async def test_what_makes_no_sense_is_refused_in_words(
    browser: Browser, world: World, path: str, body: Any
) -> None:
    code, answer = await call(browser, path, "POST", body)
    assert code == 400
    assert answer["message"].endswith(".")
    assert answer["advice"].endswith(".")
    assert not world.servers.started


async def test_a_body_that_is_not_json_or_too_long_is_refused(browser: Browser, world: World) -> None:
    headers = {"Authorization": "Bearer alice-token"}
    url = f"{HUB}/hub/api/users/alice/server"
    assert (await browser.fetch(url, "POST", "{", headers)).code == 400
    assert (await browser.fetch(url, "POST", "x" * 100_000, headers)).code in (400, 413, 599)
    assert not world.servers.started


async def test_stopping_what_is_not_there_is_not_found(browser: Browser) -> None:
    assert (await call(browser, "/users/alice/servers/exp1", "DELETE"))[0] == 404


async def test_a_login_changes_nothing_without_the_forms_token_or_from_another_origin(
    browser: Browser, world: World
) -> None:
    await browser.log_in(world.origins)
    world.servers.put(server())
    xsrf = token(await browser.fetch(f"{HUB}/hub/home"))
    url = f"{HUB}/hub/api/users/alice/server"
    assert (await browser.fetch(url, "DELETE")).code == 403
    evil = {"X-XSRFToken": xsrf, "Origin": "https://bob.gw.example.org"}
    assert (await browser.fetch(url, "DELETE", headers=evil)).code == 403
    assert (await browser.fetch(f"{HUB}/hub/api/user")).code == 200
    assert (await browser.fetch(url, "DELETE", headers={"X-XSRFToken": xsrf, "Origin": HUB})).code == 204


async def test_metrics_are_for_administrators(browser: Browser) -> None:
    for who, code in (("alice", 403), ("carol", 200)):
        answer = await browser.fetch(f"{HUB}/hub/metrics", headers={"Authorization": f"token {who}-token"})
        assert answer.code == code
    assert answer.body == b"gateway_up 1\n"


async def test_the_routing_table_is_for_administrators_and_names_the_master(
    browser: Browser, world: World
) -> None:
    at = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    world.routing.rows = [
        RouteRow(
            "alice.gw.example.org/alice/", "a" * 10, 3, "lab", Path("/run/g/t/lab/0/x.sock"), 0, "login1", ""
        )
    ]
    world.routing.used = {"a" * 10: at}
    for method in ("GET", "POST"):
        assert (await call(browser, "/proxy", method, {} if method == "POST" else None))[0] == 403
    assert world.routing.synced == 0
    code, body = await call(browser, "/proxy", who="carol")
    assert code == 200
    assert body["routes"] == [
        {
            "route": "alice.gw.example.org/alice/",
            "server_id": "a" * 10,
            "generation": 3,
            "cluster": "lab",
            "via": "unix@/run/g/t/lab/0/x.sock",
            "master": 0,
            "login_node": "login1",
            "last_activity": "2026-11-23T12:00:00Z",
            "failure": None,
        }
    ]
    assert (await call(browser, "/proxy", "POST", {}, who="carol")) == (200, body)
    assert world.routing.synced > 0


async def test_an_unknown_call_is_json_too(browser: Browser) -> None:
    assert await call(browser, "/nosuch") == (
        404,
        {"status": 404, "message": NotFound.default_public, "advice": NotFound.default_advice},
    )


class Stream:
    """Reads a stream of events, as an EventSource does."""

    def __init__(self, browser: Browser, path: str) -> None:
        self.text = ""
        request = HTTPRequest(
            f"http://127.0.0.1:{browser._port}/hub/api{path}",
            headers={"Host": "gw.example.org", "Authorization": "token alice-token"},
            streaming_callback=self._read,
        )
        self.answer = asyncio.ensure_future(AsyncHTTPClient().fetch(request, raise_error=False))

    def _read(self, chunk: bytes) -> None:
        self.text += chunk.decode()

    async def seen(self, words: str) -> None:
        async with asyncio.timeout(5):
            while words not in self.text:
                await asyncio.sleep(0.01)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line[6:]) for line in self.text.splitlines() if line.startswith("data: ")]


async def test_progress_tells_each_change_until_the_server_is_ready(browser: Browser, world: World) -> None:
    waiting = world.servers.put(server(phase=Phase.QUEUED, native_reason="Priority"))
    stream = Stream(browser, "/users/alice/server/progress")
    await stream.seen("Priority")
    world.servers.put(replace(waiting, phase=Phase.STARTING, native_reason="", message="Starting on cn1."))
    await stream.seen("cn1")
    world.servers.put(replace(waiting, phase=Phase.READY))
    answer = await asyncio.wait_for(stream.answer, 5)
    assert answer.headers["Content-Type"] == "text/event-stream"
    first, second, last = stream.events()
    assert 0 < first["progress"] < second["progress"] < last["progress"] == 100
    assert "ready" not in second
    assert (last["ready"], last["url"]) == (True, "https://alice.gw.example.org/user/alice/")


async def test_progress_tells_a_failure_in_words(browser: Browser, world: World) -> None:
    world.servers.put(server(phase=Phase.ENDED, reason=EndReason.REFUSED, message="sbatch: no."))
    stream = Stream(browser, "/users/alice/server/progress")
    await asyncio.wait_for(stream.answer, 5)
    (event,) = stream.events()
    assert (event["failed"], event["message"]) == (True, "sbatch: no.")


async def test_progress_shows_signs_of_life_and_lets_go_of_a_browser_that_left(
    browser: Browser, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "SIGN_OF_LIFE", 0.02)
    waiting = world.servers.put(server(phase=Phase.QUEUED))
    stream = Stream(browser, "/users/alice/server/progress")
    await stream.seen(": still here\n\n: still here")
    world.servers.put(replace(waiting, phase=Phase.ENDED))
    await asyncio.wait_for(stream.answer, 5)


async def test_the_progress_of_a_server_that_never_was_is_not_found(browser: Browser) -> None:
    assert (await call(browser, "/users/alice/servers/exp1/progress"))[0] == 404


async def test_how_much_walltime_is_left_is_told_while_the_job_runs(browser: Browser, world: World) -> None:
    ends = world.clock() + timedelta(minutes=5)
    world.servers.put(server(ends=ends))
    _, body = await call(browser, "/users/alice")
    state = body["servers"][""]["state"]
    assert 290 <= state["seconds_left"] <= 300
    assert datetime.fromisoformat(state["ends"]) == ends
    world.servers.put(server(phase=Phase.QUEUED))
    _, body = await call(browser, "/users/alice")
    assert body["servers"][""]["state"]["seconds_left"] is None


class FakeOrphans:
    """One job that no server answers for."""

    async def all(self) -> list[Orphan]:
        return [Orphan("lab", JobId("7"), "gw-abcdef-zzzzzzzzzz", "bob", datetime(2026, 2, 1, tzinfo=UTC))]

    def cancelled_after(self, orphan: Orphan) -> datetime:
        return orphan.first_seen + timedelta(hours=24)


async def test_jobs_that_no_server_answers_for_are_shown_to_administrators_alone(world: World) -> None:
    listening, port = bind_unused_port()
    services = world.services()
    view = SiteView.fixed(next(iter(services.sites().values())))
    services = replace(services, orphans=FakeOrphans(), views={"lab": view})
    http = make_server(make_application(services))
    http.add_sockets([listening])
    code, body = await call(Browser(port), "/orphans", who="carol")
    assert code == 200
    (orphan,) = body["orphans"]
    assert (orphan["cluster"], orphan["job_id"], orphan["owner"]) == ("lab", "7", "bob")
    assert orphan["cancelled_after"] == "2026-02-02T00:00:00Z"
    assert body["not_looked_for_on"] == []
    view.discovery = Discovery(hidden=True)
    _, body = await call(Browser(port), "/orphans", who="carol")
    assert body["not_looked_for_on"] == ["lab"]
    assert (await call(Browser(port), "/orphans", who="alice"))[0] == 403
    assert (await call(Browser(port), "/orphans", who=""))[0] == 403
    http.stop()
    await http.close_all_connections()

"""HAProxy's process and files: started, adopted, reloaded, brought back, and what is said if it cannot be."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.dataplane.front import Front
from gateway.dataplane.haproxy import HAProxy, HAProxySettings, Listener
from gateway.dataplane.limits import Limits
from gateway.dataplane.process import run
from gateway.dataplane.runtime import open_worker
from gateway.errors import ConfigError, DataPlaneError
from gateway.routes import AddEntry, Desired, Map, Step, additions, plan
from tests.processes import lives
from tests.proxy.stage import ALICE, BOB, COOKIE, HOST, Stage, cookie, free_port, newer

pytestmark = pytest.mark.proxy
OWN, OTHERS = f"{ALICE}.1", f"{BOB}.1"


async def test_one_that_runs_is_adopted(stage: Stage) -> None:
    await stage.usual()
    before = await stage.workers()
    websocket = await stage.websocket()
    second = HAProxy(stage.settings)
    await second.ensure()
    assert await stage.workers() == before
    assert (await second.actual()).routes == (await stage.haproxy.actual()).routes
    assert await websocket.echo(b"more") == b"more"


async def test_after_a_crash_it_comes_back_complete_without_the_hubs_knowledge(stage: Stage) -> None:
    desired = await stage.usual()
    await stage.kill_all()
    await HAProxy(stage.settings).ensure()
    assert (await stage.ask("/user/alice/", [cookie()])).body == OWN.encode()
    assert stage.backends[OWN].requests[0].one("authorization") == f"token token-of-{ALICE}"
    assert (await stage.ask("/user/bob/", [cookie()])).body == b"hub"
    await stage.reach(*desired.routes[1:], grants=desired.grants[1:])
    assert OWN not in (await stage.haproxy.actual()).servers


async def test_when_only_the_master_is_killed_all_of_it_is_started_anew(stage: Stage) -> None:
    await stage.usual()
    master, *_ = await stage.workers(master=True)
    os.kill(master, signal.SIGKILL)
    await stage.haproxy.ensure()
    assert (await stage.ask("/user/alice/", [cookie()])).body == OWN.encode()


async def test_other_settings_are_taken_over_by_a_reload_that_cuts_nothing(stage: Stage) -> None:
    await stage.usual()
    websocket = await stage.websocket()
    port = free_port()
    listeners = (*stage.settings.listeners, Listener(f"127.0.0.1:{port}"))
    changed = HAProxy(replace(stage.settings, listeners=listeners))
    await changed.ensure()
    browser = await stage.browser(port)
    assert (await browser.ask("/user/alice/", [cookie()])).body == OWN.encode()
    assert await websocket.echo(b"more") == b"more"


async def test_a_reload_that_fails_is_told_and_the_old_worker_goes_on(stage: Stage) -> None:
    await stage.usual()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listeners = (*stage.settings.listeners, Listener(f"127.0.0.1:{taken.getsockname()[1]}"))
        changed = HAProxy(replace(stage.settings, listeners=listeners))
        with pytest.raises(DataPlaneError, match="address in use"):
            await changed.ensure()
    assert (await stage.ask("/user/alice/", [cookie()])).body == OWN.encode()
    await changed.ensure()
    assert (await stage.ask("/user/alice/", [cookie()])).body == OWN.encode()


@pytest.mark.parametrize("reuse", [False, True])
async def test_a_port_in_use_is_told_in_haproxys_words(stage: Stage, reuse: bool) -> None:
    with socket.socket() as taken:
        if reuse:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", stage.port))
        taken.listen()
        with pytest.raises(
            DataPlaneError, match=rf"cannot bind socket \(Address already in use\).*{stage.port}"
        ):
            await stage.haproxy.ensure()
    await stage.haproxy.ensure()


@pytest.mark.parametrize("program", ["haproxy", *filter(None, [newer()])])
async def test_the_configuration_is_taken_without_a_word(stage: Stage, program: str) -> None:
    """What HAProxy says at its start is shown to people, and stands in front of why it does not start."""
    haproxy = HAProxy(
        replace(
            stage.settings,
            program=program,
            redirects=(f"127.0.0.1:{free_port()}",),
            public=f"{HOST}:8443",
            users_below=True,
            hsts=60,
            access_log="127.0.0.1:514",
            limits=Limits(requests=10, bandwidth=0 if program == "haproxy" else 10**6),
            front=Front(("192.0.2.0/24",)),
        )
    )
    await haproxy.prepare()
    status, said = await run((program, "-c", "-f", str(stage.settings.directory / "haproxy.cfg")))
    assert (status, said.strip()) == (0, "Configuration file is valid")


async def test_a_missing_program_is_told_with_what_to_install(stage: Stage) -> None:
    haproxy = HAProxy(replace(stage.settings, program="no-such-haproxy"))
    with pytest.raises(DataPlaneError, match=r"no-such-haproxy.*apt install haproxy"):
        await haproxy.check_program()


@pytest.mark.parametrize("said", ["HAProxy version 2.4.22-f8e3218 2023/02/14", "something else"])
async def test_an_old_or_other_program_is_refused(stage: Stage, said: str) -> None:
    program = stage.directory / "haproxy-other"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    with pytest.raises(DataPlaneError, match=r"HAProxy 2\.6 or later"):
        await HAProxy(replace(stage.settings, program=str(program))).check_program()


async def test_the_real_program_is_found_where_packages_put_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert tuple(int(part) for part in (await stage.haproxy.check_program()).split(".")[:2]) >= (2, 6)


async def test_nobody_else_can_open_its_files_and_sockets(stage: Stage) -> None:
    await stage.usual()
    await stage.haproxy.reload()
    directory = stage.settings.directory
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in directory.iterdir()}
    pid_file = modes.pop("haproxy.pid")
    assert pid_file in ("0o644", "0o600")
    assert set(modes.values()) == {"0o600"}
    assert {"admin.sock", "master.sock", "haproxy.cfg", "secrets.map", "grants.map"} <= set(modes)


async def test_no_secret_is_in_an_argument_and_no_cookie_in_a_file(stage: Stage) -> None:
    await stage.usual()
    for pid in await stage.workers(master=True):
        assert b"token-of" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    for path in stage.settings.directory.iterdir():
        if path.is_file():
            assert COOKIE not in path.read_text()


async def test_a_snapshot_that_is_right_is_not_written_again(stage: Stage) -> None:
    desired = await stage.usual()
    before = {path: path.stat().st_ino for path in stage.settings.directory.iterdir()}
    await stage.haproxy.write_snapshot(desired)
    assert {path: path.stat().st_ino for path in stage.settings.directory.iterdir()} == before


async def test_a_step_that_fails_stops_its_own_server_and_no_other(stage: Stage) -> None:
    await stage.haproxy.ensure()
    route, other = stage.route(ALICE, "alice"), stage.route(BOB, "bob")
    await stage.haproxy.apply(additions(route))
    steps: list[Step] = [
        *additions(route),
        AddEntry(ALICE, Map.ROUTES, route.key, route.server),
        *additions(other),
        AddEntry(BOB, Map.ROUTES, other.key, other.server),
    ]
    failures = await stage.haproxy.apply(steps)
    assert list(failures) == [ALICE]
    assert "Already exists" in failures[ALICE]
    assert (await stage.haproxy.actual()).routes == {other.key: other.server}


async def test_a_word_that_could_be_more_than_a_word_is_not_sent(stage: Stage) -> None:
    await stage.haproxy.ensure()
    failures = await stage.haproxy.apply([AddEntry(ALICE, Map.ROUTES, "a b; quit", "x")])
    assert "malformed word" in failures[ALICE]
    assert (await stage.haproxy.actual()).routes == {}


async def test_an_entry_that_came_meanwhile_is_not_made_twice(stage: Stage) -> None:
    await stage.haproxy.ensure()
    secrets = str(stage.settings.directory / "secrets.map")
    for meanwhile in ("new", "old"):  # from a hub that has died, whose last order came late
        await stage.order("add", "map", secrets, ALICE, meanwhile)
        assert not await stage.haproxy.apply([AddEntry(ALICE, Map.SECRETS, ALICE, "new")])
        async with open_worker(stage.settings.directory / "admin.sock", 5) as line:
            shown = (await line.ask("show", "map", secrets)).split("\n")
        assert [entry.split()[1:] for entry in shown if entry] == [[ALICE, "new"]]
        await stage.order("del", "map", secrets, ALICE)


async def test_a_map_with_a_key_twice_is_put_right(stage: Stage) -> None:
    desired = await stage.usual()
    secrets = str(stage.settings.directory / "secrets.map")
    await stage.order("add", "map", secrets, ALICE, "another-token-another")
    await stage.reach(*desired.routes, grants=desired.grants)
    assert (await stage.haproxy.actual()).secrets[ALICE] == f"token-of-{ALICE}"
    assert (await stage.ask("/user/alice/", [cookie()])).status == 200


async def test_a_thousand_routes_are_made_and_come_back(stage: Stage) -> None:
    await stage.haproxy.ensure()
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    ids = [f"tttttttt{a}{b}" for a in alphabet for b in alphabet][:1000]
    desired = Desired(tuple(stage.route(i, f"u{i}") for i in ids), tuple(stage.grant(i) for i in ids))
    await stage.reach(*desired.routes, grants=desired.grants)
    assert len((await stage.haproxy.actual()).servers) == 1000
    await stage.haproxy.reload()
    assert (await stage.haproxy.actual()).secrets == desired.entries(Map.SECRETS)


async def test_haproxy_is_in_no_process_group_of_the_hub(stage: Stage) -> None:
    await stage.usual()
    for pid in await stage.workers(master=True):
        assert os.getsid(pid) != os.getsid(0)
        assert os.getpgid(pid) != os.getpgid(0)


async def test_stopping_ends_it_and_stopping_twice_is_no_error(stage: Stage) -> None:
    await stage.usual()
    pids = await stage.workers(master=True)
    await stage.haproxy.stop()
    await stage.haproxy.stop()
    assert not any(lives(pid) for pid in pids)
    with pytest.raises(DataPlaneError, match="does not answer"):
        await stage.haproxy.actual()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"listeners": ()}, "at least one address"),
        ({"listeners": (Listener("no port"),)}, "is no address"),
        ({"listeners": (Listener(":443\n    bind :444"),)}, "is no address"),
        ({"directory": Path("relative")}, "absolute path"),
        ({"directory": Path("/tmp/a b")}, "absolute path"),
        ({"directory": Path("/" + "a" * 90)}, "107 bytes"),
        ({"hub_socket": Path("/x;y")}, "absolute path"),
    ],
)
def test_settings_that_cannot_be_written_are_refused(changes: dict[str, object], sentence: str) -> None:
    values = {"directory": Path("/run/g"), "hub_socket": Path("/run/h"), "listeners": (Listener(":443"),)}
    with pytest.raises(ConfigError, match=sentence):
        HAProxySettings(**(values | changes))  # type: ignore[arg-type]


async def test_a_pause_ends_at_once_when_haproxy_does_and_else_in_time(stage: Stage) -> None:
    await stage.haproxy.ensure()
    clock = asyncio.get_running_loop().time
    began = clock()
    await stage.haproxy.pause(0.3)
    assert clock() - began >= 0.29
    pause = asyncio.create_task(stage.haproxy.pause(30))
    await asyncio.sleep(0.2)
    assert not pause.done()
    await stage.kill_all()
    async with asyncio.timeout(5):
        await pause


async def test_what_was_planned_for_another_worker_is_not_done(stage: Stage) -> None:
    await stage.usual()
    before = await stage.haproxy.actual()
    steps = plan(Desired(), before)
    await stage.haproxy.reload()
    with pytest.raises(DataPlaneError, match="reloaded or started anew"):
        await stage.haproxy.apply(steps, before.worker)
    now = await stage.haproxy.actual()
    assert (now.routes, now.servers) == (before.routes, before.servers)
    assert await stage.haproxy.apply(steps, now.worker) == {}

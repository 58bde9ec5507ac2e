"""The living site config: what is taken up, what is kept, what is said once, what outlives the hub."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway import dropins, siteview
from gateway.discovery import MOST_ROOMS, Discovery, Room
from gateway.dropins import DropInFile, LoginNodes, Look, Reading
from gateway.errors import GatewayError, LoginNodeUnreachable, QueueUnreachable, ScriptNotRendered
from gateway.model import Completed, JobId
from gateway.reload import Reloader
from gateway.renderer import Renderer
from gateway.siteconfig import SiteConfig
from gateway.sitemerge import merge
from gateway.siteview import SiteView, SiteViews
from gateway.ssh.runner import Replay, Runner
from tests.unit.test_dropins import answer, file_line

TRUSTED = """\
version: 1
name: lab
title: The lab
scheduler: slurm
login: {hosts: [login1, login2], user: svc, key: /k, known_hosts: /h, act_as: sudo}
applications: [{name: lab, title: JupyterLab, command: [jupyter, lab]}]
"""
SOURCE = (TRUSTED, "/etc/gateway/sites/lab.yaml")
SHORT = "version: 1\npartitions: [{name: short, max_walltime: 1h, max_cores: 2, max_memory: 2G}]\n"
LOOP = "{% for i in range(99999) %}"
BOMB = f"version: 1\nscript: {{header: '{LOOP}{LOOP}{{% endfor %}}{{% endfor %}}'}}\n"


def file(name: str, text: str) -> DropInFile:
    path = f"/etc/gateway/site.d/{name}"
    return DropInFile(path, path, text, len(text), hashlib.sha256(text.encode()).hexdigest())


def look(*texts: str, host: str = "login1", refused: Sequence[str] = ()) -> Look:
    files = tuple(file(f"{number}.yaml", text) for number, text in enumerate(texts))
    return Look(host, Reading(host, files, tuple(refused)), datetime.now(UTC))


class Looks:
    def __init__(self, *looks: Look) -> None:
        self.now: tuple[Look, ...] | GatewayError = looks
        self.silent: dict[str, str] = {}
        self.everywhere: list[bool] = []

    async def look(self, *, everywhere: bool = False) -> tuple[Look, ...]:
        self.everywhere.append(everywhere)
        if isinstance(self.now, GatewayError):
            raise self.now
        return self.now

    async def close(self) -> None:
        pass


class Memory:
    def __init__(self) -> None:
        self.values: dict[str, Mapping[str, Any]] = {}

    async def load(self, cluster: str) -> tuple[dict[str, Any], datetime] | None:
        return (dict(self.values[cluster]), datetime.now(UTC)) if cluster in self.values else None

    async def save(self, cluster: str, value: Mapping[str, Any]) -> None:
        self.values[cluster] = value


class Scheduler:
    def __init__(self, *rooms: Room) -> None:
        self.now: Discovery | Exception = Discovery(rooms, positions={JobId("1"): 1})
        self.asked = 0

    async def discover(self) -> Discovery:
        self.asked += 1
        if isinstance(self.now, Exception):
            raise self.now
        return self.now


def view(
    looks: Looks | None = None, scheduler: Scheduler | None = None, memory: Memory | None = None
) -> SiteView:
    discover = scheduler.discover if scheduler else None
    return SiteView(SOURCE, merge(SOURCE), looks=looks, discover=discover, memory=memory)


def names(made: SiteView) -> list[str]:
    return [partition.name for partition in made.config.partitions]


async def test_drop_ins_are_taken_up_and_given_up_again() -> None:
    looks = Looks(look(SHORT))
    made = view(looks)
    before = made.config
    await made.refresh_drop_ins()
    assert names(made) == ["short"]
    assert (before.partitions, made.trusted) == ((), before), "a snapshot does not change"
    (source,) = made.sources
    assert (source.host, source.file, source.used) == ("login1", "/etc/gateway/site.d/0.yaml", True)
    looks.now = (look(),)
    await made.refresh_drop_ins()
    assert names(made) == []


BAD = {
    "yaml": "version: 1\npartitions: [",
    "key": "version: 1\npartitoins: []\n",
    "trusted-key": "version: 1\nlogin: {user: mallory}\n",
    "name": "version: 1\nname: other\n",
    "alias": "version: 1\ntitle: &a x\nmessages: {login: *a}\n",
    "tag": "version: 1\ntitle: !!python/name:os.system x\n",
    "brackets": "version: 1\ntitle: " + "[" * 30_000 + "\n",
    "jinja": "version: 1\nscript: {header: '{% if %}'}\n",
    "bomb": BOMB,
    "filter": "version: 1\nscript: {header: '#SBATCH --comment={{ choices.partition }}'}\n",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_bad_file_changes_nothing_and_is_told(bad: str) -> None:
    looks = Looks(look(SHORT))
    made = view(looks)
    await made.refresh_drop_ins()
    good = made.config
    looks.now = (look("version: 1\ntitle: Renamed\n", bad),)
    await made.refresh_drop_ins()
    assert made.config is good
    assert made.faults
    assert not any(source.used for source in made.sources)
    looks.now = (look("version: 1\ntitle: Renamed\n"),)
    await made.refresh_drop_ins()
    assert (made.config.title, made.faults) == ("Renamed", ())


async def test_a_fault_names_the_login_node_the_file_and_the_line() -> None:
    made = view(Looks(look(SHORT, BAD["trusted-key"])))
    await made.refresh_drop_ins()
    (fault,) = made.faults
    assert fault.startswith("login1:/etc/gateway/site.d/1.yaml:2: login")


async def test_a_refused_file_keeps_the_whole_set_out() -> None:
    made = view(Looks(look(SHORT, refused=["/etc/gateway/site.d/9.yaml: belongs to mallory"])))
    await made.refresh_drop_ins()
    assert names(made) == []
    assert made.faults == ("login1:/etc/gateway/site.d/9.yaml: belongs to mallory",)


async def test_what_cannot_be_read_is_not_gone() -> None:
    looks = Looks(look(SHORT))
    made = view(looks)
    await made.refresh_drop_ins()
    looks.now = LoginNodeUnreachable("no route to host")
    with pytest.raises(LoginNodeUnreachable):
        await made.refresh_drop_ins()
    assert (names(made), made.trouble) == (["short"], "no route to host")


async def test_faults_are_logged_once_each_time_that_they_change(caplog: pytest.LogCaptureFixture) -> None:
    looks = Looks(look(BAD["key"]))
    made = view(looks)
    caplog.set_level(logging.INFO, "gateway.siteview")
    for _ in range(3):
        await made.refresh_drop_ins()
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
    looks.now = (look(BAD["yaml"]),)
    await made.refresh_drop_ins()
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 2
    looks.now = (look(SHORT),)
    await made.refresh_drop_ins()
    assert "the drop-ins are good again" in caplog.text


class Tried(Renderer):
    """Finds everything good, or raises what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[SiteConfig] = []
        self.error: GatewayError | None = None

    async def try_out(self, site: SiteConfig) -> None:
        self.sites.append(site)
        if self.error:
            raise self.error


async def test_a_set_that_was_tried_is_not_tried_again_until_somebody_asks_for_it() -> None:
    """Reading YAML and rendering cost seconds at worst; it is done every 30 s."""
    looks, renderer = Looks(look(BOMB)), Tried()
    made = SiteView(SOURCE, merge(SOURCE), looks=looks, renderer=renderer)
    for text in (SHORT, SHORT, "version: 1\n"):
        looks.now = (look(text),)
        await made.refresh_drop_ins()
    assert len(renderer.sites) == 2
    await made.refresh()
    assert len(renderer.sites) == 3


async def test_a_set_that_a_busy_machine_could_not_try_is_no_bad_one() -> None:
    renderer = Tried()
    made = SiteView(SOURCE, merge(SOURCE), looks=Looks(look(SHORT)), renderer=renderer)
    renderer.error = ScriptNotRendered("lab: takes more than 10 s")
    with pytest.raises(ScriptNotRendered):
        await made.refresh_drop_ins()
    assert (names(made), made.faults, made.trouble) == ([], (), "lab: takes more than 10 s")
    renderer.error = None
    await made.refresh_drop_ins()
    assert (names(made), made.trouble) == (["short"], "")


async def test_the_last_good_drop_ins_outlive_the_hub() -> None:
    memory, looks = Memory(), Looks(look(SHORT))
    await view(looks, memory=memory).refresh_drop_ins()
    looks.now = (look(BAD["key"]),)
    again = view(looks, memory=memory)
    await again.recall()
    assert names(again) == ["short"]
    await again.refresh_drop_ins()
    assert names(again) == ["short"]
    assert again.faults


async def test_remembered_drop_ins_that_fit_no_more_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory()
    memory.values["lab"] = {"drop_ins": [[BAD["key"], "login1:/a.yaml"]], "discovery": {"rooms": 3}}
    made = view(memory=memory)
    await made.recall()
    assert made.config == made.trusted
    assert "cannot be used any more" in caplog.text


async def test_login_nodes_that_disagree_are_both_shown_and_the_first_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = view(Looks(look(SHORT), look("version: 1\ntitle: Other\n", host="login2")))
    await made.refresh_drop_ins()
    await made.refresh_drop_ins()
    assert names(made) == ["short"]
    (sentence,) = made.disagreements
    assert "login1" in sentence
    assert "login2" in sentence
    assert caplog.text.count("do not have the same drop-ins") == 1
    assert [(source.host, source.used) for source in made.sources] == [("login1", True), ("login2", False)]


async def test_what_another_login_node_refuses_and_who_does_not_answer_is_said_beside_it() -> None:
    why = "/etc/gateway/site.d/0.yaml: belongs to alice, not to root: chown root"
    looks = Looks(look(SHORT), look(host="login2", refused=[why]))
    looks.silent = {"login3": "login3:22: no route"}
    made = view(looks)
    await made.refresh_drop_ins()
    assert (names(made), made.faults) == (["short"], ())
    assert made.disagreements[0].endswith("those of login1 count; copy them to login2")
    assert made.disagreements[1] == f"login2:{why}"
    assert made.disagreements[2].startswith("Login node login3 does not answer")
    assert made.disagreements[2].endswith(": login3:22: no route")


async def test_a_faulty_set_of_the_first_login_node_is_to_be_mended_before_it_is_copied() -> None:
    looks = Looks(look(SHORT))
    made = view(looks)
    await made.refresh_drop_ins()
    looks.now = (look(BAD["key"]), look(SHORT.replace("short", "other"), host="login2"))
    await made.refresh_drop_ins()
    assert names(made) == ["short"], "the second one's do not take the place of the last good ones"
    (sentence,) = made.disagreements
    assert sentence.endswith("those of login1 count; mend them, and copy them to login2")


# --- the scheduler ----------------------------------------------------------------------------------


async def test_the_scheduler_fills_in_what_nobody_says() -> None:
    memory, scheduler = Memory(), Scheduler(Room("long", max_walltime=600), Room("short", max_cores=8))
    made = view(Looks(look()), scheduler, memory)
    await made.refresh_discovery()
    assert names(made) == ["long", "short"]
    assert made.discovery.at is not None
    again = view(memory=memory)
    await again.recall()
    assert (names(again), again.discovery.rooms) == (["long", "short"], made.discovery.rooms)
    assert not again.discovery.positions, "what changes by the minute is not kept"


async def test_a_silent_scheduler_leaves_what_was_discovered_with_its_age() -> None:
    scheduler = Scheduler(Room("long"))
    made = view(Looks(look()), scheduler)
    await made.refresh_discovery()
    known = made.discovery
    scheduler.now = QueueUnreachable("hung")
    with pytest.raises(QueueUnreachable):
        await made.refresh_discovery()
    assert (made.discovery, names(made), made.discovery_trouble) == (known, ["long"], "hung")


async def test_it_is_kept_up_to_date_and_one_failure_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(siteview, "DROP_INS_EVERY", 0.01)
    monkeypatch.setattr(siteview, "DISCOVERY_EVERY", 0.01)
    looks, scheduler = Looks(look()), Scheduler(Room("long"))
    looks.now = LoginNodeUnreachable("not yet")
    scheduler.now = QueueUnreachable("not yet")
    made = view(looks, scheduler)
    task = asyncio.create_task(made.run())
    async with asyncio.timeout(5):
        while scheduler.asked < 3 or len(looks.everywhere) < 3:
            await asyncio.sleep(0.01)
        looks.now, scheduler.now = (look(SHORT),), Discovery((Room("short", max_cores=2),))
        while names(made) != ["short"] or not made.discovery.rooms:
            await asyncio.sleep(0.01)
    task.cancel()
    assert not any(looks.everywhere)


async def test_a_fixed_view_is_its_site_config() -> None:
    site = merge(SOURCE)
    made = SiteView.fixed(site, Discovery((Room("x"),)))
    await made.refresh()
    assert made.config is site
    assert SiteViews({"lab": made}).sites() == {"lab": site}
    assert SiteViews({"lab": made}).discoveries()["lab"].room("x")


# --- at once ----------------------------------------------------------------------------------------


async def test_a_reload_looks_everywhere_and_says_what_is_wrong(tmp_path: Any) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(TRUSTED)
    looks, scheduler = Looks(look(SHORT)), Scheduler(Room("short"))
    made = SiteView((TRUSTED, str(path)), merge(SOURCE), looks=looks, discover=scheduler.discover)
    reloader = Reloader({"lab": made}, tmp_path, tmp_path)
    good = await reloader.look()
    assert (good.outcomes[0].faults, good.outcomes[0].partitions, good.restart) == ((), 1, ())
    assert good.outcomes[0].used == (str(path), "login1:/etc/gateway/site.d/0.yaml")
    looks.now = LoginNodeUnreachable("no route")
    scheduler.now = QueueUnreachable("hung")
    path.write_text(TRUSTED.replace("The lab", "Our lab"))
    (tmp_path / "new.yaml").write_text(TRUSTED)
    bad = await reloader.look()
    assert bad.outcomes[0].faults == ("the drop-ins could not be read: no route",)
    assert bad.outcomes[0].notes == ("the scheduler does not answer: hung",)
    assert bad.restart == (f"{tmp_path}/new.yaml: is new", f"{path}: has changed")
    assert looks.everywhere == [True, True]


async def test_an_answer_that_nobody_expected_is_told_of_its_cluster_alone(
    caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    odd, good = Scheduler(), Scheduler(Room("short"))
    odd.now = ValueError("year 3170843 is out of range")
    views = {"odd": view(scheduler=odd), "good": view(scheduler=good)}
    good_one, odd_one = (await Reloader(views, tmp_path, tmp_path).look()).outcomes
    assert "could not be read" in odd_one.notes[0]
    assert (good_one.notes, names(views["good"])) == ((), ["short"])
    assert "year 3170843" in caplog.text


async def test_no_more_partitions_are_kept_than_a_form_can_have() -> None:
    made = view(scheduler=Scheduler(*(Room(f"r{number}") for number in range(MOST_ROOMS + 1))))
    await made.refresh_discovery()
    assert len(made.discovery.rooms) == MOST_ROOMS


async def test_who_waits_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(siteview, "AT_ONCE", 0.05)

    async def hung() -> Discovery:
        await asyncio.sleep(60)
        return Discovery()

    made = SiteView(SOURCE, merge(SOURCE), discover=hung)
    await made.refresh()
    assert made.discovery_trouble == "no answer within 0.05 s"


# --- several login nodes ----------------------------------------------------------------------------


class Connections:
    """Connections to login nodes by name, each of which answers as it is told then."""

    def __init__(self, **nodes: Any) -> None:
        self.nodes = nodes
        self.opened: list[str] = []
        self.asked: list[str] = []
        self.closed = 0

    @asynccontextmanager
    async def __call__(self, host: str) -> AsyncIterator[Runner]:
        self.opened.append(host)
        yield cast("Runner", SimpleNamespace(run=partial(self._run, host)))
        self.closed += 1

    async def _run(self, host: str, *_: object, **__: object) -> Completed:
        self.asked.append(host)
        answer = self.nodes[host]
        if isinstance(answer, asyncio.Event):
            await answer.wait()
        if isinstance(answer, GatewayError):
            raise answer
        return cast("Completed", answer)


def texts(looks: Sequence[Look]) -> list[str]:
    return [look.reading.files[0].text for look in looks]


def said(node: str, text: str) -> Any:
    whole = answer(file_line("/d/a.yaml", text.encode()))
    return replace(
        whole, stdout=whole.stdout.replace("bG9naW4x", {"login1": "bG9naW4x", "login2": "bG9naW4y"}[node])
    )


def nodes(connections: Connections, connected: Replay, clock: list[float]) -> LoginNodes:
    from pathlib import Path

    return LoginNodes(["login1", "login2"], Path("/d"), connected, connections, clock=lambda: clock[0])


async def test_every_login_node_is_asked_each_time_over_a_connection_that_is_kept() -> None:
    connections = Connections(login1=said("login1", "a"), login2=said("login2", "a"))
    made = nodes(connections, Replay([]), [0.0])
    assert texts(await made.look()) == ["a", "a"]
    connections.nodes["login1"] = said("login1", "b")
    assert texts(await made.look()) == ["b", "a"], "the first counts, whichever the gateway is connected with"
    connections.nodes["login2"] = said("login2", "b")
    assert texts(await made.look()) == ["b", "b"]
    assert connections.opened == ["login1", "login2"]
    await made.close()
    assert connections.closed == 2


async def test_a_login_node_that_is_down_does_not_count_and_is_asked_less_often() -> None:
    connections = Connections(login1=LoginNodeUnreachable("down"), login2=said("login2", "a"))
    clock = [0.0]
    made = nodes(connections, Replay([]), clock)
    for clock[0] in (0.0, 30.0, 61.0, 90.0, 150.0):
        assert [found.host for found in await made.look()] == ["login2"]
    assert connections.asked.count("login1") == 2
    assert made.silent == {"login1": "down"}
    connections.nodes["login1"] = said("login1", "b")
    assert [found.host for found in await made.look()] == ["login2"]
    clock[0] = 185.0
    assert [found.host for found in await made.look()] == ["login1", "login2"], "it is back"
    assert not made.silent
    connections.nodes = dict.fromkeys(connections.nodes, LoginNodeUnreachable("down"))
    with pytest.raises(LoginNodeUnreachable):
        await made.look(everywhere=True)
    connections.nodes["login1"] = said("login1", "c")
    assert texts(await made.look()) == ["c"], "with no other answer nobody is left out"


async def test_a_login_node_that_hangs_does_not_keep_the_others_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dropins, "_PATIENCE", 0.01)
    connections = Connections(login1=said("login1", "a"), login2=asyncio.Event())
    made = nodes(connections, Replay([]), [0.0])
    assert texts(await made.look()) == ["a"]

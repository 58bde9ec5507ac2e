"""The hub's watch over idle servers: what it asks, writes and stops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.address import Address
from gateway.dataplane.fetch import NoSuchAnswer
from gateway.errors import DataPlaneError
from gateway.lifecycle import Phase
from gateway.model import Server
from gateway.servers import idleness
from gateway.servers.idleness import Idleness
from gateway.servers.tools import Tools
from gateway.siteconfig import Idle, SiteConfig, parse_site_config
from tests.unit.web_fakes import SITE, server

IDLE = "idle: {after: 30m, warn: 10m}\n"
TRAFFIC = "  - {name: web, title: Web, command: [web], activity: traffic}\n"


@dataclass
class World:
    """Everything around the watch, and a clock that only a test moves."""

    config: SiteConfig
    servers: dict[str, Server] = field(default_factory=dict)
    kernels: Any = field(default_factory=list)
    terminals: Any = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    time: datetime = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

    @property
    def site(self) -> SiteConfig:
        return self.config

    @property
    def timeline(self) -> World:
        return self

    @property
    def tunnel(self) -> World:
        return self

    def add(self, _: Server, __: Any, text: str) -> None:
        self.told.append(text)

    def publish(self, server: Server) -> None:
        assert self.servers[server.id] == server

    def address(self, server_id: str, generation: int) -> Address:
        return Path(f"/run/{server_id}.{generation}.sock")

    def probe_context(self, _: str) -> None:
        return None

    async def live(self) -> list[Server]:
        return [each for each in self.servers.values() if each.phase is not Phase.ENDED]

    async def note(self, server_id: str, **changes: Any) -> Server:
        self.servers[server_id] = replace(self.servers[server_id], **changes)
        return self.servers[server_id]

    async def secrets(self, ids: list[str]) -> Any:
        return dict.fromkeys(ids, self)

    token = "a" * 32

    async def stop(self, server: Server) -> None:
        self.stopped.append(server.id)
        await self.note(server.id, wanted=False)

    async def traffic(self) -> Mapping[str, int]:
        return self.totals

    async def fetch(self, _: Address, path: str, **__: Any) -> Any:
        self.asked.append(path)
        answer = self.kernels if path.endswith("kernels") else self.terminals
        if isinstance(answer, Exception):
            raise answer
        return answer

    def put(self, **changes: Any) -> Server:
        made = server(**changes)
        self.servers[made.id] = made
        return made


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(parse_site_config(IDLE + SITE.format(name="lab", title="Lab") + TRAFFIC, "lab.yaml"))

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return world.time

    monkeypatch.setattr(idleness, "datetime", Clock)
    monkeypatch.setattr(idleness, "fetch_json", world.fetch)
    return world


@pytest.fixture
def watch(world: World) -> Idleness:
    parts: Any = world
    tools = Tools("a" * 6, parts, parts, parts, parts, parts, {"lab": parts}, {}, parts, parts)
    return Idleness(tools, world.stop, world.traffic)


async def pass_by(watch: Idleness, world: World, minutes: int) -> None:
    for _ in range(minutes):
        world.time += timedelta(minutes=1)
        await watch.round()


async def test_an_idle_server_is_announced_on_its_row_and_then_stopped(watch: Idleness, world: World) -> None:
    one = world.put()
    await watch.round()
    began = world.time
    await pass_by(watch, world, 20)
    assert world.servers[one.id].idle_end == began + timedelta(minutes=30)
    assert world.told == ["Nothing runs in it: it will be stopped at 12:30 UTC if that stays so."]
    assert not world.stopped
    await pass_by(watch, world, 10)
    assert world.stopped == [one.id]


async def test_who_keeps_it_has_the_whole_time_again(watch: Idleness, world: World) -> None:
    one = world.put()
    await watch.round()
    await pass_by(watch, world, 29)
    kept = await watch.keep(world.servers[one.id])
    assert kept.idle_end is None
    await pass_by(watch, world, 30)
    assert not world.stopped
    await pass_by(watch, world, 2)
    assert world.stopped == [one.id]


async def test_a_kernel_that_works_takes_the_announcement_back(watch: Idleness, world: World) -> None:
    one = world.put()
    await watch.round()
    await pass_by(watch, world, 25)
    assert world.servers[one.id].idle_end
    world.kernels = [{"id": "k", "execution_state": "busy", "last_activity": "t"}]
    await pass_by(watch, world, 60)
    assert world.servers[one.id].idle_end is None
    assert world.servers[one.id].active == world.time
    assert not world.stopped


@pytest.mark.parametrize("silence", [DataPlaneError("no way"), {"not": "a list"}])
async def test_a_server_that_does_not_say_is_never_stopped(
    watch: Idleness, world: World, silence: Any
) -> None:
    world.put()
    world.kernels = silence
    await watch.round()
    await pass_by(watch, world, 100)
    assert not world.stopped
    assert not world.told


async def test_jupyter_without_terminals_is_judged_by_its_kernels(watch: Idleness, world: World) -> None:
    one = world.put()
    world.terminals = NoSuchAnswer("404")
    await watch.round()
    await pass_by(watch, world, 31)
    assert world.stopped == [one.id]


async def test_another_application_is_judged_by_its_traffic_and_not_asked(
    watch: Idleness, world: World
) -> None:
    one = world.put(application="web")
    world.totals = {one.id: 0}
    await watch.round()
    for _ in range(60):
        world.totals[one.id] += 60 * 2000
        await pass_by(watch, world, 1)
    assert not world.stopped
    for _ in range(33):
        world.totals[one.id] += 60 * 100
        await pass_by(watch, world, 1)
    assert world.stopped == [one.id]
    assert not world.asked


async def test_a_site_that_says_nothing_is_left_alone(watch: Idleness, world: World) -> None:
    world.config = world.config.model_copy(update={"idle": None})
    world.put()
    await watch.round()
    await pass_by(watch, world, 200)
    assert not world.asked
    assert not world.stopped


async def test_a_site_that_allows_minutes_is_looked_at_often_also_before_anything_runs(
    watch: Idleness, world: World
) -> None:
    assert await watch.round() == 60
    short = world.config.partitions[0].model_copy(update={"idle": Idle(after="2m")})
    world.config = world.config.model_copy(update={"partitions": (short,)})
    assert await watch.round() == 10


async def test_only_ready_servers_are_looked_at(watch: Idleness, world: World) -> None:
    for number, phase in enumerate((Phase.QUEUED, Phase.STARTING, Phase.UNREACHABLE, Phase.STOPPING)):
        world.put(id="abcd"[number] * 10, name=f"n{number}", phase=phase)
    world.put(id="e" * 10, name="unwanted", wanted=False)
    await watch.round()
    assert not world.asked


def test_a_partition_may_say_otherwise_than_its_cluster() -> None:
    text = IDLE + SITE.format(name="lab", title="Lab").replace("name: gpu,", "name: gpu, idle: {after: 1h},")
    site = parse_site_config(text, "lab.yaml")
    gpu, short = site.idle_policy("gpu"), site.idle_policy("short")
    assert gpu is not None
    assert short is not None
    assert (gpu.after, gpu.warn, short.after) == (60, 15, 30)

"""How many scripts are rendered at once, and for whom."""

from __future__ import annotations

import asyncio

import pytest

from gateway import renderer as module
from gateway.errors import ConfigError, ScriptNotRendered
from gateway.model import Choices
from gateway.renderer import Renderer
from gateway.script import JobFacts
from gateway.siteconfig import Script, SiteConfig
from tests.unit.test_script import CHOICES, JOB, SITE

WRITES = SITE.model_copy(update={"script": Script(header="echo")})


class Children:
    """Stands for what renders: counts who is at it at once, until they may end."""

    def __init__(self) -> None:
        self.now = self.most = self.ended = 0
        self.go = asyncio.Event()

    async def render(self, site: SiteConfig, choices: Choices, job: JobFacts) -> str:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.go.wait()
        finally:
            self.now -= 1
        self.ended += 1
        return "script"

    async def try_out(self, site: SiteConfig) -> None:
        await self.render(site, CHOICES, JOB)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    made = Children()
    monkeypatch.setattr(module, "render", made.render)
    monkeypatch.setattr(module, "try_out", made.try_out)
    return made


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_two_at_once_and_one_place_is_never_for_previews(children: Children) -> None:
    renderer = Renderer()
    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(renderer.preview(f"user{number}", WRITES, CHOICES, JOB))
        await settled()
        assert children.now == 1
        group.create_task(renderer.render(WRITES, CHOICES, JOB))
        await settled()
        assert children.now == 2
        group.create_task(renderer.render(WRITES, CHOICES, JOB))
        group.create_task(renderer.try_out(WRITES))
        await settled()
        children.go.set()
    assert (children.most, children.ended) == (2, 13)


async def test_so_many_previews_wait_and_one_of_each_person(children: Children) -> None:
    renderer = Renderer(waiting=2)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(renderer.preview("alice", WRITES, CHOICES, JOB))
        await settled()
        with pytest.raises(ScriptNotRendered, match="alice waits"):
            await renderer.preview("alice", WRITES, CHOICES, JOB)
        for name in ("bob", "carol"):
            group.create_task(renderer.preview(name, WRITES, CHOICES, JOB))
        await settled()
        with pytest.raises(ScriptNotRendered, match="3 people wait"):
            await renderer.preview("dave", WRITES, CHOICES, JOB)
        first.cancel()
        await settled()
        group.create_task(renderer.preview("alice", WRITES, CHOICES, JOB))
        await settled()
        children.go.set()
    assert (children.most, children.ended) == (1, 3)


async def test_a_failed_preview_leaves_room_and_a_site_that_writes_nothing_needs_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    renderer = Renderer(waiting=0)
    faulty = SITE.model_copy(update={"script": Script(header="{{")})
    for _ in range(3):
        with pytest.raises(ConfigError):
            await renderer.preview("alice", faulty, CHOICES, JOB)
    many = [renderer.preview("alice", SITE, CHOICES, JOB) for _ in range(3)]
    assert len(set(await asyncio.gather(*many))) == 1

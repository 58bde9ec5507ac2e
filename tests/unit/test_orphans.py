"""Jobs that no server answers for: what is taken for one, and above all what is never touched."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.discovery import Discovery
from gateway.errors import QueueUnreachable
from gateway.lifecycle import Event
from gateway.model import Asked, JobId, JobState, JobStatus, Listing, job_name
from gateway.orphans import Orphans
from gateway.store import Database, ServerStore
from gateway.store.orphans import OrphanStore
from gateway.store.sealed import Seal
from tests.unit.test_store import SECRETS, SERVER

INSTANCE = "abcdef"
UNKNOWN = JobStatus(JobId("7"), job_name(INSTANCE, "zzzzzzzzzz"), "alice", JobState.RUNNING, host="cn1")
OURS = JobStatus(JobId("8"), job_name(INSTANCE, SERVER.id), "alice", JobState.RUNNING, host="cn1")


@dataclass
class Queue:
    """A cluster's queue: what it has, and what was cancelled."""

    jobs: list[JobStatus] = field(default_factory=list)
    cancelled: list[tuple[str, str]] = field(default_factory=list)
    silent: bool = False

    async def own_listing(self, user: str, server_id: str, job: Asked) -> Listing:
        if self.silent:
            raise QueueUnreachable("no answer")
        return Listing(tuple(each for each in self.jobs if (each.name, each.user) == (job.name, user)))

    async def cancel(self, user: str, server_id: str, job_id: JobId) -> None:
        self.cancelled.append((user, job_id))


class World:
    """One cluster, the database, and a clock for looks: each look has a new discovery."""

    def __init__(self, database: Database, seal: Seal) -> None:
        self.queue = Queue()
        self.servers = ServerStore(database, seal)
        self.store = OrphanStore(database)
        self.looks = 0

    async def look(
        self, *jobs: JobStatus, grace: timedelta = timedelta(hours=24), again: bool = False
    ) -> Orphans:
        self.queue.jobs = list(jobs)
        self.looks += not again
        at = datetime.now(UTC) + timedelta(seconds=self.looks)
        view = {"lab": Discovery(ours=jobs, at=at)}
        orphans = Orphans(INSTANCE, self.store, {"lab": self.queue}, lambda: view, grace)
        await orphans.look("lab")
        return orphans

    async def known(self) -> list[str]:
        return [orphan.job_id for orphan in await self.store.all()]


@pytest.fixture
async def world(tmp_path: Path, empty_database: Path) -> AsyncIterator[World]:
    shutil.copy(empty_database, tmp_path)
    async with Database(f"sqlite+aiosqlite:///{tmp_path}/gateway.sqlite") as database:
        yield World(database, Seal.open(tmp_path / "secret.key"))


async def test_an_unknown_job_is_kept_from_when_it_was_first_seen_until_it_is_gone(world: World) -> None:
    orphans = await world.look(UNKNOWN)
    (first,) = await orphans.all()
    assert (first.job_id, first.owner, first.name, first.cancelled) == ("7", "alice", UNKNOWN.name, None)
    assert orphans.cancelled_after(first) == first.first_seen + timedelta(hours=24)
    await world.look(UNKNOWN)
    assert list(await world.store.all()) == [first]
    await world.look()
    assert await world.known() == []
    assert world.queue.cancelled == []


async def test_only_after_the_grace_it_is_cancelled_as_its_owner_and_once(world: World) -> None:
    orphans = await world.look(UNKNOWN, grace=timedelta(0))
    assert world.queue.cancelled == [("alice", "7")]
    await orphans.look("lab")
    await world.look(UNKNOWN, grace=timedelta(0))
    assert world.queue.cancelled == [("alice", "7")], "it takes its time to go"
    assert (await world.store.all())[0].cancelled is not None


@pytest.mark.parametrize(
    "job",
    [
        replace(UNKNOWN, name=job_name("ghijkl", "zzzzzzzzzz")),
        replace(UNKNOWN, name=f"gw-{INSTANCE}-zzzzzzzzz0"),
        replace(UNKNOWN, name=f"gw-{INSTANCE}-zzzzzzzzzz-2"),
        replace(UNKNOWN, name="analysis"),
        replace(UNKNOWN, state=JobState.CANCELLED),
    ],
    ids=["another instance's", "no id", "longer", "another job", "ended"],
)
async def test_what_is_not_this_instances_or_has_ended_is_left_alone(world: World, job: JobStatus) -> None:
    await world.look(job, grace=timedelta(0))
    assert await world.known() == []
    assert world.queue.cancelled == []


@pytest.mark.parametrize("job_id", [None, OURS.job_id, JobId("99")])
async def test_a_job_of_a_server_that_has_not_ended_is_never_one(world: World, job_id: JobId | None) -> None:
    await world.servers.create(replace(SERVER, job_id=job_id), SECRETS)
    await world.look(OURS, grace=timedelta(0))
    assert await world.known() == []
    assert world.queue.cancelled == []


async def test_a_job_may_linger_after_its_server_has_ended_but_not_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.servers.create(SERVER, SECRETS)
    await world.servers.move(SERVER.id, Event.STOP)
    await world.look(OURS)
    assert await world.known() == []
    monkeypatch.setattr("gateway.orphans.MAY_LINGER", timedelta(0))
    await world.look(OURS)
    assert await world.known() == ["8"]


async def test_what_one_person_forges_pushes_out_neither_known_ones_nor_others(world: World) -> None:
    def orphan(number: int, owner: str) -> JobStatus:
        name = job_name(INSTANCE, "".join("abcdefghij"[int(digit)] for digit in f"{number:010}"))
        return replace(UNKNOWN, job_id=JobId(str(number)), name=name, user=owner)

    forged = [orphan(number, "mallory") for number in range(100, 800)]
    mallorys, alices, bobs = orphan(900, "mallory"), orphan(901, "alice"), orphan(902, "bob")
    await world.look(mallorys, alices)
    orphans = await world.look(*forged, mallorys, alices, bobs)
    owners = [orphan.owner for orphan in await orphans.all()]
    assert (owners.count("mallory"), owners.count("alice"), owners.count("bob")) == (50, 1, 1)
    assert {"900", "901", "902"} <= set(await world.known())


async def test_one_that_is_gone_or_another_job_by_now_is_not_cancelled(world: World) -> None:
    await world.look(UNKNOWN)
    view = {"lab": Discovery(ours=(UNKNOWN,), at=datetime.now(UTC))}
    for there in ([], [replace(UNKNOWN, state=JobState.CANCELLED)], [replace(UNKNOWN, name="mine")]):
        world.queue.jobs = there
        await Orphans(INSTANCE, world.store, {"lab": world.queue}, lambda: view, timedelta(0)).look("lab")
    assert world.queue.cancelled == []


async def test_a_silent_cluster_forgets_none_and_an_old_look_is_not_repeated(world: World) -> None:
    orphans = await world.look(UNKNOWN)
    for view in (Discovery(), Discovery(ours=None, at=datetime.now(UTC)), Discovery(ours=(), hidden=True)):
        found = {"lab": replace(view, at=datetime.now(UTC))}
        await Orphans(INSTANCE, world.store, {"lab": world.queue}, lambda: found, timedelta(0)).look("lab")  # noqa: B023
    assert await world.known() == ["7"]
    world.queue.silent = True
    await world.look(UNKNOWN, grace=timedelta(0))
    assert world.queue.cancelled == []
    await orphans.look("lab")
    assert await world.known() == ["7"]


async def test_one_that_two_site_configs_of_one_scheduler_show_is_there_once_and_is_cancelled_once(
    world: World,
) -> None:
    world.queue.jobs = [UNKNOWN]
    clusters = {"lab": world.queue, "twin": world.queue}

    async def look(*names: str, grace: timedelta = timedelta(0), **jobs: JobStatus) -> None:
        now = datetime.now(UTC)
        views = {name: Discovery(ours=(jobs[name],) if name in jobs else (), at=now) for name in clusters}
        orphans = Orphans(INSTANCE, world.store, clusters, lambda: views, grace)
        for name in names:
            await orphans.look(name)

    await look("twin", "lab", "twin", lab=UNKNOWN, twin=UNKNOWN)
    assert [orphan.cluster for orphan in await world.store.all()] == ["twin"]
    assert world.queue.cancelled == [("alice", "7")]
    await look("twin", "lab", lab=UNKNOWN)  # the other one shows it no more
    assert [orphan.cluster for orphan in await world.store.all()] == ["lab"]
    another = replace(UNKNOWN, user="bob")  # of the same name and number, and not the same
    await look("lab", "twin", lab=UNKNOWN, twin=another, grace=timedelta(days=1))
    assert [orphan.owner for orphan in await world.store.all()] == ["alice", "bob"]

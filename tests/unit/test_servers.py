"""The conductor on a cluster that is only a dictionary: what is written, and when; what survives a crash."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from gateway import decide
from gateway.dataplane.probe import Answer, Outcome
from gateway.dataplane.tunnel import Tunnel
from gateway.endpoint import token
from gateway.errors import (
    AlreadyRunning,
    CallRefused,
    DataPlaneError,
    Forbidden,
    GatewayError,
    LoginNodeUnreachable,
    NotFound,
    QueueUnreachable,
    StateDirUnwritable,
    SubmitOutcomeUnknown,
    SubmitRefused,
)
from gateway.lifecycle import Event, Phase
from gateway.metrics import Metrics
from gateway.model import (
    Asked,
    Choices,
    EndReason,
    JobEnd,
    JobId,
    JobState,
    JobStatus,
    Listing,
    Server,
    User,
    job_name,
)
from gateway.pki import Authority
from gateway.poller import Poller, Tempo
from gateway.queue import Ending, Queue
from gateway.routing import Routing
from gateway.schedulers import get
from gateway.servers import Cluster, Servers, life, patience, way
from gateway.servers.callback import Callback, proof
from gateway.servers.feed import Feed
from gateway.siteconfig import parse_site_config
from gateway.siteview import SiteView
from gateway.store import Database, ServerStore
from gateway.store.database import DatabaseUnreachable
from gateway.store.sealed import Seal
from tests.unit.test_siteconfig import GOOD
from tests.unit.test_store import SERVER

ALICE = User("alice")
CHOICES = Choices("cascade", "lab", "short", 5, 1, 500)
INSTANCE = "abcdef"


@dataclass
class World:
    """A cluster: jobs by id, what was asked of it, and the faults that are planted."""

    jobs: dict[str, JobStatus] = field(default_factory=dict)
    submits: int = 0
    cancels: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    remove_faults: list[GatewayError] = field(default_factory=list)
    submit_faults: list[GatewayError] = field(default_factory=list)
    lost_answers: int = 0
    listing_fault: GatewayError | None = None
    hides_jobs: bool = False
    silent: frozenset[str] = frozenset()
    endpoint_file: str = ""
    endpoint_reads: int = 0
    answering: bool = True
    listening: set[tuple[str, int]] = field(default_factory=set)
    forwards_made: dict[tuple[str, int], Path] = field(default_factory=dict)
    ends: dict[Path, tuple[str, int]] = field(default_factory=dict)
    leaving: set[tuple[str, int]] = field(default_factory=set)
    synced: int = 0
    files: Mapping[str, bytes] = field(default_factory=dict)
    tell_lost: Any = None

    def owner(self, user: str) -> str:
        return user

    async def submit(self, user: str, server_id: str, files: Mapping[str, bytes]) -> JobId:
        self.submits += 1
        self.files = files
        if self.submit_faults:
            raise self.submit_faults.pop(0)
        job_id = JobId(str(100 + self.submits))
        self.jobs[job_id] = JobStatus(job_id, job_name(INSTANCE, server_id), user, JobState.QUEUED)
        if self.lost_answers:
            self.lost_answers -= 1
            raise SubmitOutcomeUnknown("the connection broke")
        return job_id

    def asked(self, instance: str, server: Server) -> Asked:
        return Asked(job_name(instance, server.id), server.user, server.job_id, server.created)

    async def endpoint(self, user: str, server_id: str) -> str:
        self.endpoint_reads += 1
        return self.endpoint_file

    async def listing(self, asked: Collection[Asked]) -> Listing:
        if self.listing_fault:
            raise self.listing_fault
        if self.hides_jobs:
            return Listing(())
        names = {job.name for job in asked}
        jobs = tuple(job for job in self.jobs.values() if job.name in names - self.silent)
        return Listing(jobs, frozenset(names & self.silent))

    async def own_listing(self, user: str, server_id: str, job: Asked, *, listed: bool = False) -> Listing:
        return Listing(
            tuple(each for each in self.jobs.values() if (each.name, each.user) == (job.name, user))
        )

    async def cancel(self, user: str, server_id: str, job_id: JobId) -> None:
        self.cancels.append(job_id)
        if job_id in self.jobs:
            self.jobs[job_id] = replace(self.jobs[job_id], state=JobState.CANCELLED)

    async def ending(self, user: str, server_id: str, job: Asked, seen: JobEnd | None = None) -> Ending:
        return Ending(seen, None, "the last line of the log")

    async def remove(self, user: str, server_id: str) -> None:
        if self.remove_faults:
            raise self.remove_faults.pop()
        self.removed.append(server_id)

    # the tunnel and the routes

    async def forwards(self) -> Mapping[tuple[str, int], Path]:
        return dict(self.forwards_made)

    def address(self, server_id: str, generation: int) -> Path | None:
        return self.forwards_made.get((server_id, generation))

    async def confirmed(self, server_id: str, generation: int) -> Path | None:
        return self.forwards_made.get((server_id, generation))

    def draining(self, server_id: str, generation: int) -> bool:
        return (server_id, generation) in self.leaving

    async def forward(self, server_id: str, generation: int, host: str, port: int, user: str) -> Path:
        assert user
        path = Path(f"/run/{server_id}.{generation}.sock")
        if self.ends.setdefault(path, (host, port)) != (host, port):
            raise DataPlaneError(f"{path} leads elsewhere than to {host}:{port}")
        return self.forwards_made.setdefault((server_id, generation), path)

    async def sync(self, *_: str) -> None:
        self.synced += 1

    async def traffic(self) -> Mapping[str, int]:
        return {}

    def failure(self, server_id: str) -> str:
        return ""

    def probe_context(self, cluster: str) -> None:
        return None

    def on_lost(self, call: Any) -> None:
        self.tell_lost = call

    async def probe(self, address: Path, *_: Any, **__: Any) -> Answer:
        there = self.answering and self.ends[address] in self.listening
        return Answer(Outcome.READY if there else Outcome.REFUSED, "")

    # what happens on the cluster

    def the_job(self) -> JobStatus:
        (job,) = [job for job in self.jobs.values() if not job.state.ended]
        return job

    def run_job(
        self, server: Server, *, publish: bool = True, port: int = 20001, serves: bool = True
    ) -> None:
        job = self.the_job()
        said = token(server.run, job.restarts, "cn1", port) if publish else ""
        if serves:
            self.listening = {("cn1", port)}
        self.jobs[job.job_id] = replace(job, state=JobState.RUNNING, host="cn1", comment=said)

    def end_job(self, state: JobState) -> None:
        job = self.the_job()
        self.jobs[job.job_id] = replace(job, state=state)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(way, "probe", world.probe)
    for name in ("SETTLE_GAP", "PROBE_WAITING", "PROBE_READY"):
        monkeypatch.setattr(patience, name, 0.02)
    monkeypatch.setattr(life.Life, "_back_off", lambda _: 0.02)
    return world


@pytest.fixture
async def store(tmp_path: Path, empty_database: Path) -> AsyncIterator[ServerStore]:
    shutil.copy(empty_database, tmp_path)
    async with Database(f"sqlite+aiosqlite:///{tmp_path}/gateway.sqlite") as database:
        yield ServerStore(database, Seal.open(tmp_path / "secret.key"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("ca") / "ca")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def conductor(world: World, store: ServerStore, authority: Authority, metrics: Metrics) -> Any:
    """Return a function that makes a hub's conductor; several in turn are a hub's restarts."""

    def make() -> Servers:
        site = parse_site_config(GOOD.replace("login:\n", "login:\n  callback: true\n"), "site.yaml")
        tempo = Tempo(busy=0.01, idle=0.02, slowest=0.02)
        poller, tunnel = Poller(world, tempo), cast("Tunnel", world)
        cluster = Cluster(SiteView.fixed(site), get("slurm"), cast("Queue", world), poller, tunnel)
        callback = Callback("https://gateway.example.org/hub/api/callback/")
        return Servers(
            INSTANCE, store, cast("Routing", world), authority, {"cascade": cluster}, metrics, callback
        )

    return make


async def until(store: ServerStore, server_id: str, *phases: Phase) -> Server:
    async with asyncio.timeout(5):
        while (server := await store.get(server_id)).phase not in phases:
            await asyncio.sleep(0.01)
    return server


async def steps(store: ServerStore, server_id: str) -> list[str]:
    """Return the steps of a server's life that its timeline holds."""
    entries = await store.timeline.of(server_id)
    return [entry.event for entry in entries if entry.event in (*Event, "created")]


async def told(store: ServerStore, server_id: str, text: str) -> None:
    """Wait until a server's timeline says something."""
    async with asyncio.timeout(5):
        while text not in [entry.text for entry in await store.timeline.of(server_id)]:
            await asyncio.sleep(0.02)


async def ready(servers: Servers, store: ServerStore, world: World) -> Server:
    server = await servers.start(ALICE, "", CHOICES)
    await until(store, server.id, Phase.QUEUED)
    world.run_job(server)
    return await until(store, server.id, Phase.READY)


async def test_from_a_start_to_ready_to_stopped(conductor: Any, world: World, store: ServerStore) -> None:
    async with conductor() as servers:
        server = await ready(servers, store, world)
        assert (server.host, server.port, server.generation, server.job_id) == ("cn1", 20001, 1, "101")
        assert sorted(world.files) == [
            *("callback", "cert.pem", "client-ca.pem", "key.pem", "script", "token")
        ]
        await servers.stop("alice", "")
        ended = await until(store, server.id, Phase.ENDED)
        assert ended.reason is EndReason.STOPPED
        assert world.cancels == ["101"]
        async with asyncio.timeout(5):
            while not (await store.get(server.id)).cleaned:
                await asyncio.sleep(0.01)
        assert world.removed == [server.id]
        with pytest.raises(NotFound):
            await servers.stop("alice", "")


@pytest.mark.parametrize("fault", [StateDirUnwritable, LoginNodeUnreachable])
async def test_files_that_could_not_be_removed_are_removed_later(
    conductor: Any,
    world: World,
    store: ServerStore,
    monkeypatch: pytest.MonkeyPatch,
    fault: type[GatewayError],
) -> None:
    monkeypatch.setattr(patience, "CLEAN_AGAIN", 0.02)
    world.remove_faults = [fault("Directory not empty"), fault("Directory not empty")]
    async with conductor() as servers:
        server = await ready(servers, store, world)
        await servers.stop("alice", "")
        async with asyncio.timeout(5):
            while not (await store.get(server.id)).cleaned:
                await asyncio.sleep(0.01)
    assert (world.remove_faults, world.removed) == ([], [server.id])


async def test_the_timeline_tells_each_act_outside_and_what_came_of_it(
    conductor: Any, world: World, store: ServerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "TIMELINE_EVERY", 0.02)
    world.submit_faults = [LoginNodeUnreachable("login1: no route to host")]
    async with conductor() as servers:
        server = await ready(servers, store, world)
    async with conductor() as servers:
        world.answering = False
        await until(store, server.id, Phase.UNREACHABLE)
        world.listing_fault = QueueUnreachable("slurm_load_jobs error")
        await told(store, server.id, QueueUnreachable.default_public)
        world.listing_fault = None
        await told(store, server.id, "The scheduler answers again, after a silence.")
        await servers.stop("alice", "")
        await until(store, server.id, Phase.ENDED)
        async with asyncio.timeout(5):
            while not (await store.get(server.id)).cleaned:
                await asyncio.sleep(0.01)
    entries = await store.timeline.of(server.id)
    said = {(str(entry.event), entry.text) for entry in entries}
    expected = {
        ("created", "lab on cascade: partition short, 5 min, cores 1, 500 MB"),
        ("submission", LoginNodeUnreachable.default_public),
        ("submission", "The scheduler took it as job 102."),
        ("scheduler", "The scheduler says of job 102: running on cn1."),
        ("forward", "There is a way to cn1, port 20001: number 1."),
        ("probe", "Asked for an answer: ready."),
        ("route", "Browsers are led to it."),
        ("found", "The hub was started, and found it."),
        ("probe", "Asked for an answer: refused."),
        ("listing", QueueUnreachable.default_public),
        ("listing", "The scheduler answers again, after a silence."),
        ("wish", "Somebody asked to stop it."),
        ("cancel", "The scheduler was asked to cancel job 102."),
        ("ending", "How job 102 ended: the scheduler says cancelled, the job itself nothing."),
        ("route", "Browsers are not led to it any more."),
        ("cleaning", "Its files on the cluster are removed."),
    }
    assert expected - said == set()
    (refused,) = [
        entry
        for entry in entries
        if entry.text == LoginNodeUnreachable.default_public and entry.event == "submission"
    ]
    assert refused.detail == "LoginNodeUnreachable: login1: no route to host"
    assert refused.seconds is not None
    assert not [entry for entry in entries if entry.event == "trouble"], "the submission has told it"
    seen = [entry.text for entry in entries if entry.event == "scheduler"]
    assert 2 <= len(seen) <= 4, "the scheduler's words are told when they change, not at each poll"


async def test_monitoring_sees_the_steps_and_how_long_a_start_took(
    conductor: Any, world: World, store: ServerStore, metrics: Metrics
) -> None:
    async with conductor() as servers:
        await ready(servers, store, world)
        wanted = (
            'gateway_server_events_total{cluster="cascade",event="answered"} 1.0',
            'gateway_start_seconds_count{cluster="cascade",partition="short"} 1.0',
        )
        async with asyncio.timeout(5):
            while not all(line in metrics.exposition().decode() for line in wanted):
                await asyncio.sleep(0.01)


async def test_no_secret_of_the_server_is_in_its_script(
    conductor: Any, world: World, store: ServerStore
) -> None:
    async with conductor() as servers:
        server = await servers.start(ALICE, "", CHOICES)
        secrets = (await store.secrets([server.id]))[server.id]
        await until(store, server.id, Phase.QUEUED)
    assert world.files["token"].decode() == secrets.token
    script = world.files["script"].decode()
    assert secrets.token not in script
    assert "PRIVATE KEY" not in script


async def test_a_second_start_of_the_same_server_is_refused(conductor: Any, world: World) -> None:
    async with conductor() as servers:
        await servers.start(ALICE, "", CHOICES)
        with pytest.raises(AlreadyRunning):
            await servers.start(ALICE, "", CHOICES)
        await servers.start(ALICE, "second", CHOICES)


async def test_the_schedulers_own_words_end_a_refused_start(
    conductor: Any, world: World, store: ServerStore
) -> None:
    world.submit_faults = [SubmitRefused("rc 1", "Slurm said: Invalid partition name specified.")]
    async with conductor() as servers:
        server = await servers.start(ALICE, "", CHOICES)
        ended = await until(store, server.id, Phase.ENDED)
    assert (ended.reason, ended.message) == (
        EndReason.REFUSED,
        f"Slurm said: Invalid partition name specified. {SubmitRefused.default_advice}",
    )
    assert world.submits == 1


async def test_a_login_node_that_is_down_is_asked_again(
    conductor: Any, world: World, store: ServerStore
) -> None:
    world.submit_faults = [LoginNodeUnreachable("no route"), QueueUnreachable("no answer")]
    async with conductor() as servers:
        server = await servers.start(ALICE, "", CHOICES)
        server = await until(store, server.id, Phase.QUEUED)
    assert server.attempts == 3
    assert len(world.jobs) == 1


async def test_a_lost_answer_is_settled_by_name_and_nothing_is_doubled(
    conductor: Any, world: World, store: ServerStore
) -> None:
    world.lost_answers = 1
    async with conductor() as servers:
        server = await servers.start(ALICE, "", CHOICES)
        server = await until(store, server.id, Phase.QUEUED)
    assert (server.job_id, world.submits) == ("101", 1)


async def test_an_unknown_outcome_without_a_job_is_tried_again_after_two_listings(
    conductor: Any, world: World, store: ServerStore
) -> None:
    world.submit_faults = [SubmitOutcomeUnknown("timed out")]
    async with conductor() as servers:
        server = await servers.start(ALICE, "", CHOICES)
        await until(store, server.id, Phase.QUEUED)
    events = await steps(store, server.id)
    assert events == ["created", "submit", "not-found", "submit", "accepted"]
    assert len(world.jobs) == 1


async def test_while_the_scheduler_is_silent_an_unknown_outcome_stays_unknown(
    conductor: Any, world: World, store: ServerStore
) -> None:
    world.lost_answers, world.listing_fault = 1, QueueUnreachable("hung")
    async with conductor() as servers:
        server = await servers.start(ALICE, "", CHOICES)
        await until(store, server.id, Phase.SUBMITTING)
        await asyncio.sleep(0.3)
        assert (await store.get(server.id)).phase is Phase.SUBMITTING
        world.listing_fault = None
        await until(store, server.id, Phase.QUEUED)
    assert world.submits == 1


async def test_a_stop_during_an_unknown_outcome_leaves_no_job(
    conductor: Any, world: World, store: ServerStore
) -> None:
    world.lost_answers, world.listing_fault = 1, QueueUnreachable("hung")
    async with conductor() as servers:
        server = await servers.start(ALICE, "", CHOICES)
        await until(store, server.id, Phase.SUBMITTING)
        await servers.stop("alice", "")
        world.listing_fault = None
        await until(store, server.id, Phase.ENDED)
    assert [job.state for job in world.jobs.values()] == [JobState.CANCELLED]


async def test_a_job_that_comes_late_after_a_stop_is_cancelled_all_the_same(
    conductor: Any, world: World, store: ServerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "SUBMIT_MAY_TAKE", 0.6)
    down = [LoginNodeUnreachable("no route")] * 200
    world.submit_faults = [SubmitOutcomeUnknown("timed out"), *down]
    async with conductor() as servers:
        server = await servers.start(ALICE, "", CHOICES)
        async with asyncio.timeout(5):
            while world.submits < 2:
                await asyncio.sleep(0.01)
        await servers.stop("alice", "")
        await asyncio.sleep(0.1)
        assert (await store.get(server.id)).phase is not Phase.ENDED
        late = JobStatus(JobId("900"), job_name(INSTANCE, server.id), "alice", JobState.QUEUED)
        world.jobs["900"] = late
        await until(store, server.id, Phase.ENDED)
    assert world.cancels == ["900"]


async def test_a_person_who_waits_is_told_of_a_silent_scheduler_and_of_its_return(
    conductor: Any, world: World, store: ServerStore
) -> None:
    async with conductor() as servers:
        server = await servers.start(ALICE, "", CHOICES)
        await until(store, server.id, Phase.QUEUED)
        world.run_job(server, publish=False)
        await until(store, server.id, Phase.STARTING)
        world.listing_fault = QueueUnreachable("slurmctld is down")
        async with asyncio.timeout(5):
            while "not answering" not in (await store.get(server.id)).message:
                await asyncio.sleep(0.01)
        world.listing_fault = None
        async with asyncio.timeout(5):
            while (await store.get(server.id)).message != "Starting on cn1.":
                await asyncio.sleep(0.01)


async def test_no_news_ends_nothing(conductor: Any, world: World, store: ServerStore) -> None:
    async with conductor() as servers:
        server = await ready(servers, store, world)
        world.listing_fault = QueueUnreachable("slurmctld is down")
        await asyncio.sleep(0.3)
        assert (await store.get(server.id)).phase is Phase.READY


async def test_a_job_that_vanished_ends_after_two_good_listings(
    conductor: Any, world: World, store: ServerStore
) -> None:
    async with conductor() as servers:
        server = await ready(servers, store, world)
        world.jobs.clear()
        ended = await until(store, server.id, Phase.ENDED)
    assert ended.reason is EndReason.LOST


async def test_a_job_that_only_its_owner_may_see_is_not_taken_for_gone(
    conductor: Any, world: World, store: ServerStore
) -> None:
    world.hides_jobs = True
    async with conductor() as servers:
        server = await ready(servers, store, world)
        await asyncio.sleep(0.3)
        assert (await store.get(server.id)).phase is Phase.READY
        await servers.stop("alice", "")
        await until(store, server.id, Phase.ENDED)
    assert world.cancels == ["101"]


async def test_a_failed_job_shows_the_end_of_its_log(
    conductor: Any, world: World, store: ServerStore
) -> None:
    async with conductor() as servers:
        server = await ready(servers, store, world)
        world.end_job(JobState.FAILED)
        ended = await until(store, server.id, Phase.ENDED)
    assert ended.reason is EndReason.FAILED
    assert "the last line of the log" in ended.message


async def test_a_silent_server_keeps_its_route_and_comes_back(
    conductor: Any, world: World, store: ServerStore
) -> None:
    async with conductor() as servers:
        server = await ready(servers, store, world)
        world.answering = False
        await until(store, server.id, Phase.UNREACHABLE)
        world.answering = True
        await until(store, server.id, Phase.READY)
    events = await steps(store, server.id)
    assert events[-2:] == ["silent", "answered"]


async def test_a_lost_forward_is_made_again_under_a_new_path(
    conductor: Any, world: World, store: ServerStore
) -> None:
    async with conductor() as servers:
        server = await ready(servers, store, world)
        world.forwards_made.clear()
        world.tell_lost(server.id)
        async with asyncio.timeout(5):
            while not world.forwards_made:
                await asyncio.sleep(0.01)
        assert list(world.forwards_made) == [(server.id, 2)]


async def test_a_way_that_is_about_to_end_is_replaced_while_it_still_carries(
    conductor: Any, world: World, store: ServerStore
) -> None:
    async with conductor() as servers:
        server = await ready(servers, store, world)
        old, taken = (server.id, 1), Path(f"/run/{server.id}.2.sock")
        world.leaving.add(old)
        world.ends[taken] = ("cn9", 1)  # the tunnel cannot make it now
        world.tell_lost(server.id)
        await asyncio.sleep(0.1)
        now = await store.get(server.id)
        assert (now.phase, now.generation) == (Phase.READY, 1)
        del world.ends[taken]
        world.tell_lost(server.id)
        async with asyncio.timeout(5):
            while (await store.get(server.id)).generation != 2:
                await asyncio.sleep(0.01)
        assert list(world.forwards_made) == [old, (server.id, 2)]
        assert world.ends[taken] == ("cn1", 20001)


async def test_a_port_that_another_application_has_is_left_for_the_one_that_is_published_next(
    conductor: Any, world: World, store: ServerStore
) -> None:
    async with conductor() as servers:
        server = await servers.start(ALICE, "", CHOICES)
        await until(store, server.id, Phase.QUEUED)
        world.run_job(server, port=20001, serves=False)
        async with asyncio.timeout(5):
            while not world.forwards_made:
                await asyncio.sleep(0.01)
        world.run_job(server, port=20002)
        now = await until(store, server.id, Phase.READY)
    assert now.port == 20002
    assert world.ends[world.forwards_made[server.id, now.generation]] == ("cn1", 20002)


@pytest.mark.parametrize("phase", [Phase.READY, Phase.UNREACHABLE])
async def test_a_server_in_use_that_goes_to_another_port_is_followed_at_once(
    conductor: Any, world: World, store: ServerStore, monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    async with conductor() as servers:
        server = await ready(servers, store, world)
        if phase is Phase.UNREACHABLE:
            world.listening = set()
            await until(store, server.id, phase)
        else:
            monkeypatch.setattr(patience, "PROBE_READY", 30.0)
        synced = world.synced
        world.run_job(server, port=20002)
        async with asyncio.timeout(5):
            while world.synced == synced or (await store.get(server.id)).phase is not Phase.READY:
                await asyncio.sleep(0.01)
        now = await store.get(server.id)
    assert world.ends[world.forwards_made[server.id, now.generation]] == ("cn1", 20002)


async def test_a_start_without_an_answer_says_so_in_the_end_and_what_to_do(
    conductor: Any, world: World, store: ServerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "START_PATIENCE", 0.3)
    async with conductor() as servers:
        server = await servers.start(ALICE, "", CHOICES)
        await until(store, server.id, Phase.QUEUED)
        world.run_job(server, serves=False)
        said: list[str] = []
        async with asyncio.timeout(5):
            while not said or "stop it and start again" not in said[-1]:
                said.append((await store.get(server.id)).message)
                await asyncio.sleep(0.01)
        assert any("Wait a little" in text for text in said)
        assert (await store.get(server.id)).phase is Phase.STARTING, "it may be the network: the job goes on"


async def test_a_requeued_job_is_reached_anew(conductor: Any, world: World, store: ServerStore) -> None:
    async with conductor() as servers:
        server = await ready(servers, store, world)
        job = world.the_job()
        world.jobs[job.job_id] = replace(job, state=JobState.QUEUED, host=None, restarts=1)
        queued = await until(store, server.id, Phase.QUEUED)
        assert queued.port is None
        world.run_job(server)
        again = await until(store, server.id, Phase.READY)
    assert again.restarts == 1
    assert again.generation > server.generation


async def test_only_a_job_that_can_never_start_for_a_while_is_refused(
    conductor: Any, world: World, store: ServerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that only its owner may see; a listing that says something else begins the while anew."""
    monkeypatch.setattr(decide, "REFUSAL_TO_BELIEVE", 0.3)
    for world.hides_jobs in (False, True):
        async with conductor() as servers:
            server = await servers.start(ALICE, "", CHOICES)
            await until(store, server.id, Phase.QUEUED)
            job = replace(world.the_job(), state=JobState.CANNOT_START, reason="PartitionTimeLimit")
            world.jobs[job.job_id] = job
            async with asyncio.timeout(5):
                while (waits := await store.get(server.id)).native_reason != "PartitionTimeLimit":
                    await asyncio.sleep(0.01)
            assert (waits.phase, "walltime is longer" in waits.message) == (Phase.QUEUED, True)
            world.jobs[job.job_id] = replace(job, state=JobState.QUEUED, reason="Priority")
            await asyncio.sleep(0.4)
            world.jobs[job.job_id], anew = job, time.monotonic()
            ended = await until(store, server.id, Phase.ENDED)
            assert time.monotonic() - anew >= 0.3
        assert (ended.reason, "walltime is longer" in ended.message) == (EndReason.REFUSED, True)


async def test_another_users_job_of_the_same_name_is_never_taken_for_it(
    conductor: Any, world: World, store: ServerStore
) -> None:
    world.submit_faults = [SubmitOutcomeUnknown("timed out")]
    async with conductor() as servers:
        server = await servers.start(ALICE, "", CHOICES)
        name = job_name(INSTANCE, server.id)
        forged = token(server.run, 0, "cn2", 20002)
        world.jobs["7"] = JobStatus(JobId("7"), name, "bob", JobState.RUNNING, host="cn2", comment=forged)
        await until(store, server.id, Phase.QUEUED)
        assert (await store.get(server.id)).job_id != "7"
    assert "7" not in world.cancels


async def test_a_duplicate_of_ones_own_is_cancelled(conductor: Any, world: World, store: ServerStore) -> None:
    async with conductor() as servers:
        server = await ready(servers, store, world)
        world.jobs["999"] = replace(world.the_job(), job_id=JobId("999"))
        async with asyncio.timeout(5):
            while world.cancels != ["999"]:
                await asyncio.sleep(0.01)
        assert (await store.get(server.id)).phase is Phase.READY


async def starting(servers: Servers, store: ServerStore, world: World) -> tuple[Server, str]:
    """Start a server whose scheduler takes no endpoint; return it and its job's proof."""
    server = await servers.start(ALICE, "", CHOICES)
    await until(store, server.id, Phase.QUEUED)
    world.run_job(server, publish=False)
    await until(store, server.id, Phase.STARTING)
    return server, proof((await store.secrets([server.id]))[server.id].token)


async def test_a_job_gets_what_it_needs_to_call(conductor: Any, world: World, store: ServerStore) -> None:
    async with conductor() as servers:
        server, shown = await starting(servers, store, world)
    assert world.files["callback"] == f"Authorization: Bearer {shown}\n".encode()
    assert f"/hub/api/callback/{server.id}".encode() in world.files["script"]
    assert shown.encode() not in world.files["script"]


async def test_a_starting_job_that_calls_is_reached_where_the_scheduler_says_that_it_runs(
    conductor: Any, world: World, store: ServerStore
) -> None:
    async with conductor() as servers:
        server, shown = await starting(servers, store, world)
        await servers.published(server.id, shown, 20001)
        now = await until(store, server.id, Phase.READY)
        assert (now.host, now.port) == ("cn1", 20001)
        with pytest.raises(CallRefused):
            await servers.published(server.id, shown, 20002)
        assert (await store.get(server.id)).port == 20001


async def test_a_call_that_comes_before_the_scheduler_says_that_the_job_runs_waits_for_that(
    conductor: Any, world: World, store: ServerStore
) -> None:
    async with conductor() as servers:
        server = await servers.start(ALICE, "", CHOICES)
        await until(store, server.id, Phase.QUEUED)
        shown = proof((await store.secrets([server.id]))[server.id].token)
        call = asyncio.create_task(servers.published(server.id, shown, 20001))
        await asyncio.sleep(0.1)
        assert not call.done()
        world.run_job(server, publish=False)
        await call
        await until(store, server.id, Phase.READY)


async def test_a_call_that_is_not_the_jobs_own_changes_nothing(
    conductor: Any, world: World, store: ServerStore
) -> None:
    async with conductor() as servers:
        server, shown = await starting(servers, store, world)
        for server_id, wrong in ((server.id, "0" * 64), (server.id, ""), ("zzzzzzzzzz", shown)):
            with pytest.raises(Forbidden):
                await servers.published(server_id, wrong, 20001)
        for port in (22, 19999, 30000):
            with pytest.raises(CallRefused):
                await servers.published(server.id, shown, port)
        now = await store.get(server.id)
    assert (now.phase, now.port) == (Phase.STARTING, None)


async def test_the_endpoint_file_is_read_only_after_a_while_without_a_word_and_not_often(
    conductor: Any, world: World, store: ServerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FILE_AFTER", 0.3)
    monkeypatch.setattr(patience, "FILE_AGAIN", 0.2)
    async with conductor() as servers:
        server, _ = await starting(servers, store, world)
        await asyncio.sleep(0.1)
        assert world.endpoint_reads == 0
        world.endpoint_file = token("f" * 16, 0, "cn1", 20001)
        await asyncio.sleep(0.6)
        assert 1 <= world.endpoint_reads <= 3
        world.endpoint_file = token(server.run, 0, "cn1", 20001)
        await until(store, server.id, Phase.READY)
        reads = world.endpoint_reads
        await asyncio.sleep(0.5)
        assert world.endpoint_reads == reads


async def test_a_listing_that_says_nothing_of_a_job_is_no_news_of_it(
    conductor: Any, world: World, store: ServerStore
) -> None:
    async with conductor() as servers:
        server = await ready(servers, store, world)
        world.silent = frozenset({job_name(INSTANCE, server.id)})
        await asyncio.sleep(0.3)
        assert (await store.get(server.id)).phase is Phase.READY
        world.jobs.clear()
        await asyncio.sleep(0.1)
        assert (await store.get(server.id)).phase is Phase.READY
        world.silent = frozenset()
        await until(store, server.id, Phase.ENDED)


async def test_how_long_the_walltime_goes_on_is_known_also_where_the_scheduler_does_not_say(
    conductor: Any, world: World, store: ServerStore
) -> None:
    async with conductor() as servers:
        server = await ready(servers, store, world)
    left = (server.ends or server.changed) - datetime.now(UTC)
    assert timedelta(minutes=4) < left <= timedelta(minutes=5)


async def test_a_database_that_fails_for_a_moment_ends_no_life(
    conductor: Any, world: World, store: ServerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with conductor() as servers:
        server = await ready(servers, store, world)
        get, failed = ServerStore.get, asyncio.Event()

        async def failing(self: ServerStore, server_id: str) -> Server:
            failed.set()
            raise DatabaseUnreachable("database is locked")

        monkeypatch.setattr(ServerStore, "get", failing)
        world.tell_lost(server.id)
        await asyncio.wait_for(failed.wait(), 5)
        monkeypatch.setattr(ServerStore, "get", get)
        await servers.stop("alice", "")
        await until(store, server.id, Phase.ENDED)


async def test_a_server_on_a_cluster_that_is_gone_can_be_ended_and_started_anew(
    conductor: Any, world: World, store: ServerStore, authority: Authority, metrics: Metrics
) -> None:
    async with conductor() as servers:
        server = await ready(servers, store, world)
    async with Servers(INSTANCE, store, cast("Routing", world), authority, {}, metrics) as servers:
        await servers.stop("alice", "")
    ended = await store.get(server.id)
    assert (ended.phase, ended.reason) == (Phase.ENDED, EndReason.LOST)
    assert "no longer there" in ended.message
    async with conductor() as servers:
        await servers.start(ALICE, "", CHOICES)


async def test_a_change_while_a_watcher_is_reading_is_not_missed(store: ServerStore) -> None:
    feed, now = Feed(), replace(SERVER, phase=Phase.STARTING)

    async def read(_: str) -> Server:
        feed.publish(replace(now, phase=Phase.ENDED))
        return now

    async with asyncio.timeout(5):
        assert [each.phase async for each in feed.watch(now.id, read)] == [Phase.STARTING, Phase.ENDED]


async def test_watchers_see_every_server_through_to_its_end(
    conductor: Any, world: World, store: ServerStore
) -> None:
    async with conductor() as servers:
        server = await servers.start(ALICE, "", CHOICES)

        async def watch() -> list[Phase]:
            return [now.phase async for now in servers.changes(server.id)]

        watcher = asyncio.create_task(watch())
        await until(store, server.id, Phase.QUEUED)
        world.run_job(server)
        await until(store, server.id, Phase.READY)
        await servers.stop("alice", "")
        async with asyncio.timeout(5):
            seen = await watcher
    assert seen[-1] is Phase.ENDED
    assert [phase for phase in seen if phase in (Phase.READY, Phase.ENDED)][-2:] == [Phase.READY, Phase.ENDED]


EVENTS = [Event.SUBMIT, Event.ACCEPTED, Event.STARTED, Event.ANSWERED, Event.STOP, Event.GONE]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_hub_that_dies_around_any_transition_leaves_one_job_and_no_orphan(
    conductor: Any,
    world: World,
    store: ServerStore,
    monkeypatch: pytest.MonkeyPatch,
    event: Event,
    moment: str,
) -> None:
    move, dead = ServerStore.move, asyncio.Event()

    async def deadly(
        self: ServerStore, server_id: str, what: Event, text: str = "", **changes: Any
    ) -> Server:
        if dead.is_set():
            raise asyncio.CancelledError
        if what is event and moment == "before":
            dead.set()
            raise asyncio.CancelledError
        moved = await move(self, server_id, what, text, **changes)
        if what is event:
            dead.set()
            raise asyncio.CancelledError
        return moved

    async def start_jobs(server: Server) -> None:
        while True:
            if any(job.state is JobState.QUEUED for job in world.jobs.values()):
                world.run_job(server)
            await asyncio.sleep(0.01)

    monkeypatch.setattr(ServerStore, "move", deadly)
    async with conductor() as servers:
        server = await servers.start(ALICE, "", CHOICES)
        cluster = asyncio.create_task(start_jobs(server))
        if event in (Event.STOP, Event.GONE):
            await until(store, server.id, Phase.READY)
            await servers.stop("alice", "")
        await asyncio.wait_for(dead.wait(), 5)
    monkeypatch.setattr(ServerStore, "move", move)
    async with conductor() as servers:
        if event in (Event.STOP, Event.GONE):
            await until(store, server.id, Phase.ENDED)
            assert all(job.state.ended for job in world.jobs.values())
        else:
            again = await until(store, server.id, Phase.READY)
            assert again.job_id == world.the_job().job_id
            await servers.stop("alice", "")
            await until(store, server.id, Phase.ENDED)
    cluster.cancel()
    assert len(world.jobs) == 1

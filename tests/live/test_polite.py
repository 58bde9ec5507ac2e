"""How often the scheduler is asked: counted by a wrapper around Slurm's own squeue on the login node."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import pytest

from gateway.model import Asked, JobState, Listing
from gateway.poller import News, Poller, Tempo
from gateway.queue import Allowance, Queue
from gateway.schedulers.slurm import Slurm
from gateway.siteconfig import SiteConfig
from gateway.ssh.connection import LoginNode
from gateway.ssh.transport import Limits
from tests.lab import Lab
from tests.lab.nodes import wait_until
from tests.live.relay import relayed
from tests.live.test_queue import INSTANCE, asked, files, new_id

BIN = "/srv/polite"
#: All of Slurm's programs as they are, but squeue, which first notes who called it.
INSTALL = f"""\
set -e
mkdir -p -m 755 {BIN}
for name in sbatch scancel sacct scontrol sinfo sacctmgr; do ln -sf /usr/bin/$name {BIN}/$name; done
: >{BIN}/calls
chmod 666 {BIN}/calls
cat >{BIN}/squeue <<'END'
#!/bin/sh
id -un >>{BIN}/calls
exec /usr/bin/squeue "$@"
END
chmod 755 {BIN}/squeue
"""
#: The poller's tempo, quick.
TEMPO = Tempo(busy=0.25, busy_for=1.5, idle=1.0, spread=0.0)


@dataclass(frozen=True)
class Squeue:
    """Whose calls the wrapper noted since the last look."""

    lab: Lab

    def calls(self) -> Counter[str]:
        shown = self.lab.login.run(["sh", "-c", f"cat {BIN}/calls; : >{BIN}/calls"], check=True)
        return Counter(shown.stdout.split())


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteConfig]:
    lab.login.run(["sh", "-c", INSTALL], check=True)
    with relayed(lab, tmp_path_factory.mktemp("ssh")) as site:
        yield site.model_copy(update={"login": site.login.model_copy(update={"bin": BIN})})


@pytest.fixture
async def queue(site: SiteConfig) -> AsyncIterator[Queue]:
    async with LoginNode(site.login, Limits(grace=2.0)) as node:
        yield Queue(site, Slurm(), node, Allowance(scheduler=15, launcher=5))


@pytest.fixture
def squeue(lab: Lab) -> Squeue:
    counted = Squeue(lab)
    counted.calls()
    return counted


@asynccontextmanager
async def polled(poller: Poller, jobs: Sequence[Asked]) -> AsyncIterator[list[News]]:
    news: list[News] = []

    async def all_jobs() -> Collection[Asked]:
        return jobs

    async def take(fresh: News) -> None:
        news.append(fresh)

    task = asyncio.create_task(poller.run(all_jobs, take))
    try:
        yield news
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def shows(news: Sequence[News], job: Asked, state: JobState) -> bool:
    last = news[-1] if news else None
    return isinstance(last, Listing) and [found.state for found in last.named(job.name, job.owner)] == [state]


async def test_a_poll_is_one_command_over_a_start_and_at_rest_for_one_server_and_for_many(
    lab: Lab, queue: Queue, squeue: Squeue
) -> None:
    server_id = new_id()
    job_id = await queue.submit("alice", server_id, files(server_id))
    one = asked(server_id, "alice", job_id)
    assert not squeue.calls()  # to submit, nobody asks
    polls: dict[int, int] = {}
    for jobs in ([one], [one, *(asked(new_id(), user) for user in ("alice", "bob") for _ in range(10))]):
        poller = Poller(queue, TEMPO)
        async with polled(poller, jobs) as news:
            poller.hurry()
            async with asyncio.timeout(20):
                while not shows(news, one, JobState.RUNNING):
                    await asyncio.sleep(0.05)
            before = len(news)
            poller.hurry()
            await asyncio.sleep(TEMPO.busy_for + 2.5 * TEMPO.idle)
        await asyncio.sleep(0.2)
        calls = squeue.calls()
        assert set(calls) == {"svc"}
        assert calls["svc"] - len(news) in (0, 1)  # the last poll may have been cut off
        polls[len(jobs)] = len(news) - before
    around_the_start, at_rest = TEMPO.busy_for / TEMPO.busy, 3
    assert max(polls.values()) <= 1 + around_the_start + at_rest
    assert abs(polls[1] - polls[21]) <= 2
    await queue.cancel("alice", server_id, job_id)


@contextmanager
def private_data(lab: Lab) -> Iterator[None]:
    """Hide jobs from who does not own them."""
    conf = "/etc/slurm/slurm.conf"
    lab.login.run(
        ["sh", "-c", f"echo PrivateData=jobs >>{conf} && /usr/bin/scontrol reconfigure"], check=True
    )
    try:
        yield
    finally:
        lab.login.run(
            ["sh", "-c", f"sed -i /^PrivateData=jobs/d {conf} && /usr/bin/scontrol reconfigure"], check=True
        )


async def test_where_jobs_are_hidden_each_user_is_asked_for_once_in_30_s_and_none_is_lost(
    lab: Lab, queue: Queue, squeue: Squeue
) -> None:
    jobs = []
    for user in ("alice", "bob"):
        server_id = new_id()
        jobs.append(asked(server_id, user, await queue.submit(user, server_id, files(server_id))))
    with private_data(lab):
        assert (await queue.listing(jobs)).jobs == ()  # the service account sees none of them
        squeue.calls()
        assert (await queue.discover(INSTANCE)).hidden is True
        squeue.calls()
        seen = await queue.listing([*jobs, asked(new_id(), "alice")])
        assert {job.name for job in seen.jobs} == {job.name for job in jobs}
        assert not seen.silent
        assert squeue.calls() == {"alice": 1, "bob": 1}
        for _ in range(3):
            later = await queue.listing(jobs)
            assert later == Listing((), frozenset(job.name for job in jobs))  # no news, of nobody
        assert not squeue.calls()
    wait_until(lambda: "PrivateData             = none" in _config(lab), "all see all jobs again")
    assert (await queue.discover(INSTANCE)).hidden is False
    squeue.calls()
    assert {job.name for job in (await queue.listing(jobs)).jobs} == {job.name for job in jobs}
    assert squeue.calls() == {"svc": 1}
    for job in jobs:
        assert job.job_id
        await queue.cancel(job.owner, job.name[-10:], job.job_id)


def _config(lab: Lab) -> str:
    return lab.login.run(["scontrol", "show", "config"]).stdout

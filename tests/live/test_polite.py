"""How often the schedulers are asked: counted by wrappers around their programs on the login nodes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import pytest

from gateway.model import Asked, JobState, Listing, job_name
from gateway.poller import News, Poller, Tempo
from gateway.queue import Allowance, Queue
from gateway.schedulers import get
from gateway.siteconfig import SiteConfig
from gateway.ssh.connection import LoginNode
from gateway.ssh.transport import Limits
from tests.lab import Lab, gateway, pbs, sge
from tests.lab.nodes import Node, wait_until
from tests.live.relay import relayed
from tests.live.test_queue import INSTANCE, asked, new_id

BIN = "/srv/polite"
#: A scheduler's program as it is, which notes its exec (the SSH session) and its caller before and after.
WRAPPER = """\
#!/bin/sh
exec_id=$(cut -d' ' -f6 /proc/$$/stat) caller=$(id -un)
echo "begin $exec_id $caller" >>{calls}
{program} "$@"
status=$?
echo "end $exec_id $caller" >>{calls}
exit $status
"""
#: The poller's tempo, quick.
TEMPO = Tempo(busy=0.25, busy_for=1.5, idle=1.0, spread=0.0)


@dataclass(frozen=True)
class Kind:
    """A cluster: the site config, where its programs are, which of them ask, and what a job's script says."""

    site_config: str
    start: Callable[[Lab], Node]
    stop: Callable[[Lab], object]
    bin: str
    asks: tuple[str, ...]
    directives: str

    def files(self, server_id: str) -> dict[str, bytes]:
        """Return a job's files."""
        directives = self.directives.replace("NAME", job_name(INSTANCE, server_id))
        return {"script": f"#!/bin/sh\n{directives}sleep 300\n".encode()}


def _sge(lab: Lab) -> Node:
    lab.sge.start()
    return lab.sge.login


def _pbs(lab: Lab) -> Node:
    lab.pbs.start()
    return lab.pbs.login


KINDS = {
    "slurm": Kind(
        gateway.SITE_CONFIG,
        lambda lab: lab.login,
        lambda lab: lab.clear_jobs(),
        "/usr/bin",
        ("squeue", "scontrol", "sinfo", "sacctmgr"),
        "#SBATCH --job-name=NAME\n#SBATCH --partition=debug\n#SBATCH --time=5\n#SBATCH --mem=50M\n"
        "#SBATCH --output=log\n",
    ),
    "sge": Kind(
        sge.SITE_CONFIG,
        _sge,
        lambda lab: lab.sge.stop(),
        "/usr/bin",
        ("qstat", "qhost", "qconf", "qrstat"),
        "#$ -clear\n#$ -N NAME\n#$ -q short.q\n#$ -l h_rt=300\n#$ -cwd\n#$ -j y\n#$ -o log\n#$ -S /bin/sh\n",
    ),
    "pbs": Kind(
        pbs.SITE_CONFIG,
        _pbs,
        lambda lab: lab.pbs.stop(),
        f"{pbs.PREFIX}/bin",
        ("qstat", "pbsnodes", "pbs_rstat"),
        "#PBS -N NAME\n#PBS -q workq\n#PBS -l walltime=00:05:00\n#PBS -j oe\n#PBS -S /bin/sh\n",
    ),
}


class Counted:
    """A cluster whose scheduler's programs are wrapped.

    Attributes:
        site: Its site config, with the wrappers.
    """

    def __init__(self, kind: Kind, login: Node, site: SiteConfig) -> None:
        self.kind = kind
        self._login = login
        self._calls = f"{BIN}/calls-{site.name}"
        place = f"{BIN}/{site.name}"
        self.site = site.model_copy(update={"login": site.login.model_copy(update={"bin": place})})
        self._run(f"mkdir -p -m 755 {BIN} {place}; : >{self._calls}; chmod 666 {self._calls}")
        for name in get(site.scheduler).programs:
            program = f"{kind.bin}/{name}"
            if name in kind.asks:
                text = WRAPPER.format(calls=self._calls, program=program)
                words = ["sh", "-c", f"cat >{place}/{name}; chmod 755 {place}/{name}"]
                login.run(words, input=text, check=True)
            else:
                self._run(f"ln -sf {program} {place}/{name}")

    def _run(self, program: str) -> str:
        return self._login.run(["sh", "-c", program], check=True).stdout

    def execs(self) -> list[str]:
        """Return who made the execs since the last look, in their order; two were never in flight at once."""
        callers: dict[str, str] = {}
        running: Counter[str] = Counter()
        for line in self._run(f"cat {self._calls}; : >{self._calls}").splitlines():
            word, exec_id, caller = line.split()
            running[exec_id] += 1 if word == "begin" else -1
            callers.setdefault(exec_id, caller)
            of_one_caller = {each for each in +running if callers[each] == caller}
            assert len(of_one_caller) <= 1, f"{caller} asks twice at once"
        return list(callers.values())

    @asynccontextmanager
    async def queue(self) -> AsyncIterator[Queue]:
        """Give what asks its scheduler."""
        async with LoginNode(self.site.login, Limits(grace=2.0)) as node:
            yield Queue(self.site, get(self.site.scheduler), node, Allowance(scheduler=15, launcher=5))


@contextmanager
def counted(lab: Lab, name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    kind = KINDS[name]
    login = kind.start(lab)
    try:
        with relayed(lab, tmp_path_factory.mktemp("ssh"), kind.site_config, login.name) as site:
            yield Counted(kind, login, site)
    finally:
        kind.stop(lab)


@pytest.fixture(scope="module")
def slurm(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    with counted(lab, "slurm", tmp_path_factory) as cluster:
        yield cluster


@pytest.fixture(scope="module", params=KINDS)
def cluster(
    request: pytest.FixtureRequest, lab: Lab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Counted]:
    with counted(lab, request.param, tmp_path_factory) as cluster:
        yield cluster


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


async def test_a_poll_is_one_exec_over_a_start_and_at_rest_for_one_server_and_for_many(
    cluster: Counted,
) -> None:
    async with cluster.queue() as queue:
        server_id = new_id()
        cluster.execs()
        job_id = await queue.submit("alice", server_id, cluster.kind.files(server_id))
        one = asked(server_id, "alice", job_id)
        assert not cluster.execs()  # to submit, nobody asks
        await queue.discover(INSTANCE)
        assert cluster.execs() == ["svc"]
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
            execs = cluster.execs()
            assert set(execs) == {"svc"}
            assert len(execs) - len(news) in (0, 1)  # the last poll may have been cut off
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
    lab: Lab, slurm: Counted
) -> None:
    async with slurm.queue() as queue:
        jobs = []
        for user in ("alice", "bob"):
            server_id = new_id()
            job_id = await queue.submit(user, server_id, slurm.kind.files(server_id))
            jobs.append(asked(server_id, user, job_id))
        with private_data(lab):
            assert (await queue.listing(jobs)).jobs == ()  # the service account sees none of them
            assert (await queue.discover(INSTANCE)).hidden is True
            slurm.execs()
            seen = await queue.listing([*jobs, asked(new_id(), "alice")])
            assert {job.name for job in seen.jobs} == {job.name for job in jobs}
            assert not seen.silent
            assert sorted(slurm.execs()) == ["alice", "bob"]
            for _ in range(3):
                later = await queue.listing(jobs)
                assert later == Listing((), frozenset(job.name for job in jobs))  # no news, of nobody
            assert not slurm.execs()
        wait_until(lambda: "PrivateData             = none" in _config(lab), "all see all jobs again")
        assert (await queue.discover(INSTANCE)).hidden is False
        slurm.execs()
        assert {job.name for job in (await queue.listing(jobs)).jobs} == {job.name for job in jobs}
        assert slurm.execs() == ["svc"]
        for job in jobs:
            assert job.job_id
            await queue.cancel(job.owner, job.name[-10:], job.job_id)


def _config(lab: Lab) -> str:
    return lab.login.run(["scontrol", "show", "config"]).stdout

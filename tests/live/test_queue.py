"""The queue on the lab: real sshd, sudo, launcher and Slurm, for users whatever their login shell."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.errors import (
    Forbidden,
    LoginNodeRefused,
    LoginNodeUnreachable,
    QueueUnreachable,
    StateDirUnwritable,
    SubmitOutcomeUnknown,
    SubmitRefused,
)
from gateway.model import Asked, JobId, JobState, Listing, job_name
from gateway.queue import Allowance, Queue
from gateway.schedulers.slurm import Slurm
from gateway.siteconfig import SiteConfig
from gateway.ssh.connection import LoginNode
from gateway.ssh.transport import Limits
from tests.lab import Lab
from tests.lab.nodes import wait_until
from tests.live.relay import relayed

INSTANCE = "aaaaaa"


def new_id() -> str:
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(10))


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteConfig]:
    """Return the lab's site config, with its login node behind a relay on this machine's loopback."""
    with relayed(lab, tmp_path_factory.mktemp("ssh")) as site:
        yield site


@pytest.fixture
async def queue(site: SiteConfig) -> AsyncIterator[Queue]:
    async with LoginNode(site.login, Limits(grace=2.0)) as node:
        yield Queue(site, Slurm(), node, Allowance(scheduler=20, launcher=5))


def files(
    server_id: str, text: str = "echo started; sleep 300", partition: str = "debug"
) -> dict[str, bytes]:
    name = job_name(INSTANCE, server_id)
    script = (
        f"#!/bin/sh\n#SBATCH --job-name={name}\n#SBATCH --partition={partition}\n#SBATCH --time=5\n"
        f"#SBATCH --mem=50M\n#SBATCH --output=log\n{text}\n"
    )
    return {"script": script.encode(), "token": b"s3cret-token", "key.pem": b"KEY\n"}


def asked(server_id: str, user: str = "alice", job_id: JobId | None = None) -> Asked:
    return Asked(job_name(INSTANCE, server_id), user, job_id)


async def state_becomes(queue: Queue, server_id: str, user: str, *states: JobState) -> None:
    job = asked(server_id, user)
    for _ in range(100):
        found = (await queue.listing([job])).named(job.name, user)
        if found and found[0].state in states:
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"not {states}: {found}")


@pytest.mark.parametrize("user", ["alice", "tess", "finn", "nora"])
async def test_a_job_is_submitted_seen_cancelled_read_and_removed(lab: Lab, queue: Queue, user: str) -> None:
    server_id = new_id()
    began = time.monotonic()
    job_id = await queue.submit(user, server_id, files(server_id))
    print(f"{user}: submit {time.monotonic() - began:.3f} s")
    assert await queue.submit(user, server_id, files(server_id)) == job_id
    await state_becomes(queue, server_id, user, JobState.RUNNING)
    directory = f"/home/{user}/.gateway/{server_id}"
    shown = lab.run(
        "login", ["stat", "-c", "%n %a %U", directory, f"{directory}/token", f"{directory}/script"]
    )
    assert shown.stdout.splitlines() == [
        f"{directory} 700 {user}",
        f"{directory}/token 600 {user}",
        f"{directory}/script 600 {user}",
    ]
    wait_until(lambda: not lab.run("login", ["test", "-s", f"{directory}/log"]).returncode, "the job writes")
    await queue.cancel(user, server_id, job_id)
    await state_becomes(queue, server_id, user, JobState.CANCELLED)
    await queue.cancel(user, server_id, job_id)
    ending = await queue.ending(user, server_id, asked(server_id, user, job_id))
    assert ending.log_tail.startswith("started\n")
    assert ending.exit is None
    await queue.remove(user, server_id)
    await queue.remove(user, server_id)
    assert lab.run("login", ["ls", directory]).returncode != 0


async def test_a_read_only_home_is_told_from_other_faults(queue: Queue) -> None:
    server_id = new_id()
    with pytest.raises(StateDirUnwritable, match="Read-only file system"):
        await queue.submit("rory", server_id, files(server_id))


async def test_the_scheduler_refuses_in_its_own_words(queue: Queue) -> None:
    server_id = new_id()
    with pytest.raises(SubmitRefused, match="invalid partition") as caught:
        await queue.submit("alice", server_id, files(server_id, partition="nowhere"))
    assert "nvalid partition" in caught.value.public
    assert isinstance(await queue.submit("alice", server_id, files(server_id)), str)
    await queue.remove("alice", server_id)


async def test_nobody_outside_of_the_sites_group_is_acted_for(queue: Queue) -> None:
    with pytest.raises(LoginNodeRefused, match="a password is required"):
        await queue.submit("dave", new_id(), files(new_id()))
    for user in ("root", "slurm", "svc"):
        with pytest.raises(Forbidden):
            await queue.submit(user, new_id(), files(new_id()))


async def test_nobody_cancels_somebody_elses_job(lab: Lab, queue: Queue) -> None:
    server_id = new_id()
    job_id = await queue.submit("alice", server_id, files(server_id))
    await state_becomes(queue, server_id, "alice", JobState.RUNNING)
    with pytest.raises(Exception, match="scancel"):
        await queue.cancel("bob", server_id, job_id)
    await state_becomes(queue, server_id, "alice", JobState.RUNNING)
    await queue.cancel("alice", server_id, job_id)


async def test_a_dead_controller_is_no_news_and_its_jobs_are_there_afterwards(lab: Lab, queue: Queue) -> None:
    server_id = new_id()
    await queue.submit("alice", server_id, files(server_id))
    await state_becomes(queue, server_id, "alice", JobState.RUNNING)
    lab.slurmctld.stop()
    try:
        other = new_id()
        listing, submit = await asyncio.gather(
            queue.listing([asked(server_id)]),
            queue.submit("alice", other, files(other)),
            return_exceptions=True,
        )
        assert isinstance(listing, QueueUnreachable)
        assert isinstance(submit, QueueUnreachable)
    finally:
        lab.slurmctld.start()
    await state_becomes(queue, server_id, "alice", JobState.RUNNING, JobState.UNKNOWN)
    await queue.cancel("alice", server_id, JobId((await queue.listing([asked(server_id)])).jobs[0].job_id))


async def test_connections_that_die_are_no_news_and_new_ones_are_made(lab: Lab, queue: Queue) -> None:
    assert await queue.listing([asked(new_id())]) == Listing(())
    lab.slurmctld.freeze()
    try:
        asking = asyncio.create_task(queue.listing([asked(new_id())]))
        server_id = new_id()
        submitting = asyncio.create_task(queue.submit("alice", server_id, files(server_id)))
        await asyncio.sleep(1.5)
        lab.end_ssh_connections()
        with pytest.raises(LoginNodeUnreachable):
            await asking
        with pytest.raises(SubmitOutcomeUnknown):
            await submitting
    finally:
        lab.slurmctld.thaw()
    assert await queue.listing([asked(new_id())]) == Listing(())
    # The job was taken, or not; the second submit gives the one answer or says that the first is under way.
    for _ in range(60):
        try:
            job_id = await queue.submit("alice", server_id, files(server_id))
            break
        except SubmitOutcomeUnknown:
            await asyncio.sleep(0.5)
    name = job_name(INSTANCE, server_id)
    assert [job.job_id for job in (await queue.listing([asked(server_id)])).named(name, "alice")] == [job_id]
    await queue.cancel("alice", server_id, job_id)


async def test_the_same_works_without_sudo_for_the_service_account(lab: Lab, site: SiteConfig) -> None:
    login = site.login.model_copy(update={"act_as": "service"})
    server_id = new_id()
    async with LoginNode(login) as node:
        queue = Queue(site.model_copy(update={"login": login}), Slurm(), node)
        job_id = await queue.submit("alice", server_id, files(server_id))
        assert queue.owner("alice") == "svc"
        await state_becomes(queue, server_id, "svc", JobState.RUNNING)
        await queue.cancel("alice", server_id, job_id)
        await queue.remove("alice", server_id)

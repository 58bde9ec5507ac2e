"""Puts the steps of the host and of its clusters together, and takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from gateway import parts
from gateway.config import Settings
from gateway.doctor.check import Check, Finding, skipped
from gateway.doctor.cluster import cluster_steps
from gateway.doctor.host import Host
from gateway.doctor.job import JobWalk
from gateway.doctor.patient import Patient
from gateway.doctor.said import Said
from gateway.doctor.scratch import clear_up, scratch
from gateway.doctor.walk import Step, in_thread, walk
from gateway.errors import BadRequest, ConfigError, LoginNodeRefused
from gateway.model import Command, Completed
from gateway.options import check, from_strings
from gateway.siteconfig import SiteConfig
from gateway.sites import read_sites
from gateway.ssh.runner import Runner, Users
from gateway.store.database import random_word


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the doctor.

    Args:
        cluster: The one to examine; None for all, and for no trial of a login that is to be refused.
        user: For whom to act.
        job: Whether to walk the whole path with a job.
        options: The job's fields of the form, ``key=value`` each.
    """

    cluster: str | None = None
    user: str | None = None
    job: bool = False
    options: Sequence[str] = field(default=())


async def examine(settings: Settings, question: Question, report: Callable[[Check], None]) -> list[Check]:
    """Take all steps and return what they found.

    Args:
        settings: The gateway's.
        question: What is asked.
        report: Called with each step in turn.

    Raises:
        BadRequest: There is no such cluster, its form has no such choice, or it is not said whose job.
    """
    files, faults = read_sites(Path(settings.gateway.site_dir))
    sites = {name: site for name, (site, _) in files.items()}
    wanted = _wanted(files, question.cluster)
    steps = Host(settings, sites, "\n".join(faults), question.user).steps()
    async with AsyncExitStack() as stack:
        await in_thread(clear_up)
        place = stack.enter_context(scratch())
        for site, file in wanted:
            steps += await _cluster(stack, settings, site, file, question, place)
        return await walk(steps, report)


def _wanted(
    files: Mapping[str, tuple[SiteConfig, Path]], cluster: str | None
) -> Sequence[tuple[SiteConfig, Path]]:
    if cluster is None:
        return list(files.values())
    if cluster not in files:
        raise BadRequest("", f"There is no cluster {cluster}; there is {', '.join(sorted(files)) or 'none'}.")
    return [files[cluster]]


async def _cluster(
    stack: AsyncExitStack, settings: Settings, site: SiteConfig, file: Path, question: Question, scratch: Path
) -> list[Step]:
    users: Users | None = None
    try:
        node: Runner = await stack.enter_async_context(parts.login_node(site))
    except ConfigError as error:
        node = _Nowhere(error)
    try:
        nodes = parts.user_nodes(site, settings.state_dir, random_word(6))
        users = await stack.enter_async_context(nodes) if nodes is not None else None
    except ConfigError:
        users = None  # the step of the SSH CA says it
    trials = question.cluster is not None
    patient = Patient(site, str(file), node, question.user, scratch, settings, users, trials)
    said = Said(patient)
    steps = cluster_steps(patient, said)
    if question.job:
        if question.user is None and site.login.act_as != "service":
            raise BadRequest("", "Whose job? Name somebody who may use the gateway: --job --user NAME.")
        whole = await said.whole()
        form = from_strings(site.name, question.options)
        form.setdefault("walltime", ["1m"])
        authority = parts.user_authority(settings.state_dir)
        cluster = parts.cluster(whole, node, scratch, users=users, authority=authority)
        job = JobWalk(patient, cluster, check({site.name: whole}, form), said)
        steps += (await stack.enter_async_context(job)).steps(_before_a_job(steps, site))
    else:
        steps.append(Step(f"{site.name}: job", _no_job))
    return steps


async def _no_job() -> Finding:
    return skipped("none is asked for; --job --user NAME tries the nodes, publishing and the tunnel with one")


def _before_a_job(steps: Sequence[Step], site: SiteConfig) -> list[str]:
    needed = {f"{site.name}: {name}" for name in ("state directory", "act as", "scheduler", "login")}
    return [step.name for step in steps if step.name in needed]


class _Nowhere:
    """Stands for a login node on which nothing can be run.

    Args:
        error: Why.
    """

    def __init__(self, error: ConfigError) -> None:
        self._error = error

    async def run(
        self,
        command: Command,
        *,
        stdin: bytes = b"",
        timeout: float,  # noqa: ASYNC109
        output: int | None = None,
    ) -> Completed:
        raise LoginNodeRefused(str(self._error))

"""The queue of one cluster: what can be done there with jobs."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from gateway.discovery import Discovery
from gateway.errors import (
    EndedNotListed,
    GatewayError,
    NoAccounting,
    NotEndedYet,
    QueueUnreachable,
    SubmitOutcomeUnknown,
    SubmitRefused,
)
from gateway.lifecycle import Phase
from gateway.metrics import Timed, untimed
from gateway.model import Asked, Command, Completed, JobEnd, JobId, JobState, Listing, Server, job_name
from gateway.queue.allowance import Allowance
from gateway.queue.asking import Asking
from gateway.queue.launches import EACH, Launches, NoProgram
from gateway.queue.pace import Pace
from gateway.queue.places import Places
from gateway.queue.turns import Turns
from gateway.schedulers import Scheduler
from gateway.script import Exit, read_exit
from gateway.siteconfig import SiteConfig
from gateway.ssh.runner import Runner, Users

log = logging.getLogger(__name__)

#: Characters that are kept of a job's log, and of its exit and endpoint files.
_LOG_TAIL, _EXIT_FILE, _ENDPOINT_FILE = 4096, 200, 400
#: Where users are asked for one by one: how many at once, and seconds after which a listing asks for no more.
_USERS_AT_ONCE, _ROUND = 5, 10.0
#: Endpoint files that are read at once, and seconds between two looks at the same.
_ENDPOINTS_AT_ONCE, _ENDPOINT_EVERY = 5, 3.0
#: Seconds after which ended jobs are asked for again where the scheduler kept none.
_ENDED_AGAIN = 3600.0
#: Seconds after which the accounting is asked again for the first time.
_ACCOUNTING_AGAIN = 1.0

#: Runs several commands in one exec.
_Run = Callable[[Sequence[Command]], Awaitable[Sequence[Completed]]]


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known of a job that has ended.

    ``end`` is the scheduler's word, ``exit`` the job's own; None if nobody says. ``log_tail`` is the end
    of the job's log, of 4096 characters at most.
    """

    end: JobEnd | None
    exit: Exit | None
    log_tail: str

    @property
    def words(self) -> str:
        """What is known, but for the log."""
        left = f"{self.exit.word}, exit status {self.exit.status}" if self.exit else "nothing"
        return f"the scheduler says {self.end.state if self.end else 'nothing'}, the job itself {left}"


class Queue:
    """The queue of one cluster.

    Args:
        site: The cluster.
        scheduler: What to run there, and how to read it.
        runner: Runs it on the login node.
        allowance: How long it may take.
        users: What runs the launcher as each user, for ``act_as: certificate``.
        clock: Seconds, only ever growing.
        timed: Puts down how long each command took.
    """

    def __init__(
        self,
        site: SiteConfig,
        scheduler: Scheduler,
        runner: Runner,
        allowance: Allowance | None = None,
        users: Users | None = None,
        clock: Callable[[], float] = time.monotonic,
        timed: Timed = untimed,
    ) -> None:
        allowance = allowance or Allowance()
        self._site = site
        self._scheduler = scheduler
        self._runner = runner
        self._allowance = allowance
        self._clock = clock
        self._asking = Asking(site.login, runner, allowance, timed)
        self._launches = Launches(site, scheduler.programs, runner, allowance, users, timed)
        self._readers = Places(EACH)
        self._endpoints = Pace(_ENDPOINTS_AT_ONCE, _ENDPOINT_EVERY, clock)
        self._turns = Turns()
        self._hidden = False
        self._ended_from = float("-inf")

    def __repr__(self) -> str:
        return f"<Queue {self._scheduler.name} of {self._site.name} via {self._runner!r}>"

    def owner(self, user: str) -> str:
        """Return the account that a person's jobs belong to on this cluster."""
        return self._site.login.owner(user)

    def asked(self, instance: str, server: Server) -> Asked:
        """Return a server's job as it is asked for.

        One that does not answer where it was is not settled: it may have published another port.
        """
        owner, known = self.owner(server.user), None not in (server.port, server.ends)
        settled = known and server.phase is Phase.READY
        return Asked(job_name(instance, server.id), owner, server.job_id, server.created, settled)

    async def submit(self, user: str, server_id: str, files: Mapping[str, bytes]) -> JobId:
        """Store a server's files in its state directory and submit the ``script`` among them: one exec.

        It is safe to call again: a job that was accepted is not submitted twice for the same ``server_id``.
        What the scheduler says on trial that can never run is not submitted; where it is not clear, it is.

        Args:
            user: Whose server.
            server_id: Names the state directory.
            files: Names and contents; they are stored with mode 0600.

        Raises:
            SubmitRefused: The scheduler said no, in its own words.
            StateDirUnwritable: The files cannot be stored.
            SubmitOutcomeUnknown: The job may exist: look for its name.
            LoginNodeUnreachable, QueueUnreachable: Nothing was submitted; it can be tried again.
            LoginNodeRefused, HostKeyRefused, Forbidden: Nothing was submitted, and trying again is no use.
        """
        words = self._scheduler.submit_command().words
        trial = self._scheduler.dry_run_command()
        dry = trial.words if trial else ()
        exited, tried = await self._launches.submit(user, server_id, words, files, dry)
        if tried is not None:
            self._scheduler.read_dry_run(tried)
            with suppress(SubmitRefused, SubmitOutcomeUnknown):
                self._scheduler.read_submit(tried)  # raises if there is no scheduler to submit to either
            log.info("%r: a trial of %s was not clear (exit status %d)", self, server_id, tried.status)
            exited, _ = await self._launches.submit(user, server_id, words, files, ())
        if exited is None:
            raise QueueUnreachable(f"the launcher tried {server_id}, and was not told to")
        return self._scheduler.read_submit(exited)

    async def listing(self, asked: Collection[Asked]) -> Listing:
        """Return all these jobs, whoever's they are: one exec. The service account asks, not the users.

        Where that account does not see other users' jobs, each user is asked for by a command of their own,
        and not each time: the names of the others are in ``silent``.

        Raises:
            QueueUnreachable: The scheduler did not answer.
            LoginNodeUnreachable, HostKeyRefused, LoginNodeRefused: It could not be asked.
        """
        if not asked:
            return Listing(())
        if self._hidden:
            return await self._by_their_owners(asked)
        return await self._listed(self._ask, asked)

    async def own_listing(self, user: str, server_id: str, job: Asked, *, listed: bool = False) -> Listing:
        """Return a job as its owner sees it, where the service account may see none.

        Args:
            user: Whose job.
            server_id: Names the state directory.
            job: The job.
            listed: Whether it is about what a listing has just shown: where that was made as the owner, its
                answer is given, and nobody asked again.

        Raises:
            QueueUnreachable, LoginNodeUnreachable: Nothing is known; it can be tried again.
            LoginNodeRefused: The gateway is not let in.
        """
        if self._hidden and listed and (answer := self._turns.answer(job.owner, job.name, self._clock())):
            return answer
        began = self._clock()
        answer = await self._owners(user, server_id, [job])
        if self._hidden:
            self._turns.answered(job.owner, [job.name], answer, began)
        return answer

    async def discover(self, instance: str) -> Discovery:
        """Return what the scheduler shows of the cluster: one exec, of the service account.

        Nothing is hidden from one of the scheduler's operators. From then on the listing is made as is needed
        for what that account may see.

        Args:
            instance: This gateway's name in the names of its jobs.

        Raises:
            QueueUnreachable: The scheduler did not answer at all.
            LoginNodeUnreachable, HostKeyRefused, LoginNodeRefused: It could not be asked.
        """
        mark = secrets.token_hex(8)
        commands = self._scheduler.discovery_commands(instance, mark)
        completed = await self._asking.ask(commands, self._allowance.discovery) if commands else ()
        discovery = await asyncio.to_thread(self._scheduler.read_discovery, completed, instance, mark)
        if self._site.login.user in discovery.operators:
            discovery = replace(discovery, hidden=False)
        if discovery.hidden is not None:
            self._hidden = discovery.hidden and self._site.login.act_as != "service"
        return discovery

    async def endpoint(self, user: str, server_id: str) -> str:
        """Return the file in which a job says where it listens; "" if there is none.

        Who comes again within 3 s waits, and so does the sixth at once.

        Raises:
            LoginNodeUnreachable: Nothing is known; it can be tried again.
            LoginNodeRefused, StateDirUnwritable: The gateway is not let in.
        """
        async with self._readers.of(user), self._endpoints.turn(server_id):
            files = await self._launches.read(user, server_id, ["endpoint"])
        return files.get("endpoint", "")[:_ENDPOINT_FILE]

    async def cancel(self, user: str, server_id: str, job_id: JobId) -> None:
        """End a job; return if it is being ended or has ended already.

        Raises:
            CancelRefused: The scheduler will not.
            QueueUnreachable, LoginNodeUnreachable, LoginNodeRefused: Nothing is known; it can be tried again.
        """
        command = self._scheduler.cancel_command(job_id)
        (completed,) = await self._launches.run(user, server_id, [command])
        self._scheduler.read_cancel(completed)

    async def ending(self, user: str, server_id: str, job: Asked, seen: JobEnd | None = None) -> Ending:
        """Return how a job ended, by the accounting and by the files that it left.

        An accounting that does not answer counts as one that knows nothing, if the job itself left word or
        the last listing shows the job's end. It is asked again, for as long as it may lag, if it does not
        know of the job yet, or less than it will: it has the job as one that runs, or not who cancelled it.
        It is not waited for where the job itself has left word and no listing has shown more.

        Args:
            user: Whose server.
            server_id: Names the state directory.
            job: The job.
            seen: What the last listing said of its end.

        Raises:
            QueueUnreachable, LoginNodeUnreachable: Nothing is known; it can be tried again.
            LoginNodeRefused, StateDirUnwritable: The gateway is not let in.
        """
        files = await self._launches.read(user, server_id, ["exit", "log"])
        left = read_exit(files.get("exit", "")[:_EXIT_FILE])
        end = seen
        if seen is None or _lacks_detail(seen):
            told = seen is not None or left is not None
            patient = seen is not None or left is None
            try:
                end = await self._accounting(user, server_id, job, told=told, patient=patient) or seen
            except QueueUnreachable:
                if left is None and seen is None:
                    raise
        return Ending(end, left, _printable(files.get("log", "")[-_LOG_TAIL:]))

    async def remove(self, user: str, server_id: str) -> None:
        """Remove a server's state directory; return also if there is none.

        Raises:
            StateDirUnwritable: It cannot be removed.
            LoginNodeUnreachable, LoginNodeRefused: It could not be asked for.
        """
        await self._launches.remove(user, server_id)

    # --- how ------------------------------------------------------------------------------------------

    async def _ask(self, commands: Sequence[Command]) -> Sequence[Completed]:
        return await self._asking.ask(commands, self._allowance.scheduler)

    async def _listed(self, run: _Run, asked: Collection[Asked]) -> Listing:
        """Return these jobs. Where the scheduler keeps no ended ones, they are not asked for, for an hour."""
        ended = self._clock() >= self._ended_from
        try:
            return await self._once(run, asked, ended=ended)
        except EndedNotListed:
            if not ended:
                raise
        log.info("%r: ended jobs are not kept, so they are not asked for", self)
        self._ended_from = self._clock() + _ENDED_AGAIN
        return await self._once(run, asked, ended=False)

    async def _once(self, run: _Run, asked: Collection[Asked], *, ended: bool) -> Listing:
        mark = secrets.token_hex(8)
        completed = await run(self._scheduler.status_commands(asked, mark, ended=ended))
        # Ten thousand jobs take some tenths of a second to read: pages are served meanwhile.
        return await asyncio.to_thread(self._scheduler.read_status, completed, asked, mark)

    async def _by_their_owners(self, asked: Collection[Asked]) -> Listing:
        """Return the jobs of those whose turn it is, each asked for as their owner.

        An older answer is not given again for the others: nobody could tell it from a new one, and of two
        that say "not there" the second is believed.
        """
        jobs: dict[str, list[Asked]] = defaultdict(list)
        for job in asked:
            jobs[job.owner].append(job)
        began = self._clock()
        due = iter(self._turns.due(jobs, began))
        answers: dict[str, Listing] = {}

        async def work() -> None:
            for owner in due:
                asked_at = self._clock()
                self._turns.note(owner, asked_at)
                try:
                    server_id = jobs[owner][0].name.rpartition("-")[2]  # any of theirs: see model.job_name
                    answers[owner] = await self._owners(owner, server_id, jobs[owner])
                    names = [job.name for job in jobs[owner]]
                    self._turns.answered(owner, names, answers[owner], asked_at)
                except GatewayError as error:
                    self._turns.note(owner, self._clock(), error)
                    log.warning("%r: %s cannot be asked for their jobs: %s", self, owner, error)
                if self._clock() - began >= _ROUND:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_USERS_AT_ONCE, len(jobs))):
                group.create_task(work())
        if trouble := self._turns.trouble(jobs):
            raise type(trouble)(str(trouble), trouble.public, trouble.advice)
        silent = {job.name for owner, theirs in jobs.items() if owner not in answers for job in theirs}
        return Listing(
            tuple(job for answer in answers.values() for job in answer.jobs),
            frozenset(silent),
        )

    async def _owners(self, owner: str, server_id: str, asked: Collection[Asked]) -> Listing:
        """Return somebody's jobs as they see them: nobody's own are hidden, so what is not there is gone."""
        listing = await self._listed(partial(self._launches.run, owner, server_id), asked)
        return replace(listing, silent=frozenset())

    async def _accounting(
        self, user: str, server_id: str, job: Asked, *, told: bool, patient: bool
    ) -> JobEnd | None:
        """Return how the accounting says that a job ended; ``patient``: also if it knows that only later.

        Where something else has ``told`` of the end, the accounting may still say that the job runs, and may
        hear a moment later of the job's start, its end, and who cancelled it.
        """
        command = self._scheduler.accounting_command(job)
        until, pause = self._clock() + self._scheduler.accounting_lag, _ACCOUNTING_AGAIN
        while True:
            late = self._clock() + pause > until
            try:
                (completed,) = await self._launches.run(user, server_id, [command])
                end = self._scheduler.read_accounting(completed, job)
            except (NoProgram, NoAccounting):
                return None
            except NotEndedYet:
                if not told or late:
                    raise
            else:
                whole = end is not None and not (told and _lacks_detail(end))
                if whole or not patient or late:
                    return end
            await asyncio.sleep(pause)
            pause *= 2


def _lacks_detail(end: JobEnd) -> bool:
    """Whether the accounting may say more: who cancelled the job, or how it failed."""
    if end.state is JobState.CANCELLED:
        return not end.by
    return end.state is JobState.FAILED and end.exit_status is None and end.signal is None


def _printable(text: str) -> str:
    """Return a log without control characters, which a job may write at will."""
    return re.sub(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]", "", text)

"""What every scheduler promises, whatever its programs print: see gateway.schedulers.Scheduler.

Each scheduler's own test module has a class that inherits :class:`SchedulerContract` and holds its outputs.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from configparser import ConfigParser
from dataclasses import replace
from functools import cached_property
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import ClassVar

import pytest

from gateway.endpoint import parse
from gateway.errors import (
    CancelRefused,
    ConfigError,
    GatewayError,
    QueueUnreachable,
    SubmitOutcomeUnknown,
    SubmitRefused,
)
from gateway.model import Asked, Choices, Command, Completed, JobId, JobState, JobStatus, Listing
from gateway.schedulers import Scheduler, get, known
from gateway.schedulers.text import FORM, one_line
from gateway.script import JobFacts, render_script
from gateway.siteconfig import parse_site_config

MARK = "5f1e0c4d9ab37f26"
INSTANCE = "inst22"
NAME = "gw-inst22-abcdefghia"
OTHER = "gw-inst22-abcdefghib"
#: What the jobs of a listing have published of themselves.
ENDPOINT = "gw1:0123456789abcdef:0:cn1:20001"
NO_ANSWER = [Completed(-1), Completed(124), Completed(137), Completed(-1, "1\n"), Completed(124, "1\n")]
NOISE = [
    "",
    "x",
    "\x00",
    "1\n2\n",
    "{}\n",
    "[" * 99_999 + "\n",
    '{"end": 1}\n{',
    "<a>" * 9_999,
    "a=b\x1f|c\n",
]


class SchedulerContract:
    """The contract. A scheduler's test module inherits it and says what its programs print."""

    scheduler: Scheduler
    #: Each native state that a listing may show, and what it means.
    states: Mapping[str, JobState]
    #: What a good submit did, and the id of its job.
    submitted: tuple[Completed, JobId]
    #: What a refused submit did, and words of the scheduler that the public sentence holds.
    refused: tuple[Completed, str]
    #: What a refused cancel did; what cancelling a job did that is not there.
    not_cancelled: Completed
    not_there: Completed
    #: The partition that `discovered` shows: its name, its longest walltime in minutes, its nodes' cores.
    room: tuple[str, int | None, int] = ("short", 10, 4)
    #: Directive lines, each of them with one fault.
    bad_directives: Sequence[str]
    #: Directive lines that a site may add.
    good_directives: Sequence[str]
    #: Directive lines that say again what is chosen on the form, by the form's fields.
    chosen_directives: ClassVar[Mapping[str, Sequence[str]]] = {}

    def listing(self, states: Sequence[str]) -> Sequence[Completed]:
        """Return a good answer to the status commands: of each native state one job.

        Their names are NAME, their owner is alice, and their ids differ. Where they are on a node it is cn1,
        and they have published ENDPOINT.
        """
        raise NotImplementedError

    def discovered(self) -> Sequence[Completed]:
        """Return a good answer to the discovery commands.

        There is the partition `room`, and one job of this instance: NAME, of alice.
        """
        raise NotImplementedError

    def job_id(self, number: int) -> JobId:
        """Return an id as the scheduler prints it."""
        return JobId(str(number))

    # --- helpers --------------------------------------------------------------------------------------

    def asked(self, name: str = NAME) -> Asked:
        return Asked(name, "alice", self.job_id(1))

    def read(self, *states: str) -> tuple[JobStatus, ...]:
        return self.scheduler.read_status(self.listing(states), [self.asked()], MARK).jobs

    def readers(self) -> Sequence[Callable[[Completed], object]]:
        statuses = len(self.scheduler.status_commands([self.asked()], MARK))
        looks = len(self.scheduler.discovery_commands(INSTANCE, MARK))
        return (
            self.scheduler.read_submit,
            self.scheduler.read_cancel,
            self.scheduler.read_dry_run,
            lambda answer: self.scheduler.read_accounting(answer, self.asked()),
            lambda answer: self.scheduler.read_status([answer] * statuses, [self.asked()], MARK),
            lambda answer: self.scheduler.read_discovery([answer] * looks, INSTANCE, MARK),
        )

    def commands(self) -> Sequence[Command]:
        dry = self.scheduler.dry_run_command()
        return (
            self.scheduler.submit_command(),
            *([dry] if dry else []),
            *self.scheduler.status_commands([self.asked()], MARK),
            *self.scheduler.status_commands([self.asked()], MARK, ended=False),
            self.scheduler.cancel_command(self.job_id(1)),
            self.scheduler.accounting_command(self.asked()),
            *self.scheduler.discovery_commands(INSTANCE, MARK),
        )

    # --- names ----------------------------------------------------------------------------------------

    def test_it_is_known_by_its_own_name(self) -> None:
        assert type(get(self.scheduler.name)) is type(self.scheduler)
        assert self.scheduler.template == f"{self.scheduler.name}.sh.j2"

    def test_it_runs_only_the_programs_that_it_names(self) -> None:
        programs = {words[0] for each in self.commands() for words in (each.words, each.each) if words}
        of_the_system = {program for program in programs if program.startswith("/")}
        assert programs - of_the_system <= set(self.scheduler.programs)
        for command in self.commands():
            assert all(word and "\0" not in word and "\n" not in word for word in command.words)
            assert all("=" in word for word in command.environment)

    # --- submit ---------------------------------------------------------------------------------------

    def test_a_submit_gives_the_jobs_id(self) -> None:
        completed, job_id = self.submitted
        assert self.scheduler.read_submit(completed) == job_id

    def test_a_refusal_is_told_in_the_schedulers_own_words(self) -> None:
        completed, words = self.refused
        with pytest.raises(SubmitRefused) as caught:
            self.scheduler.read_submit(completed)
        assert words in caught.value.public

    def test_a_submit_that_succeeded_with_something_else_than_an_id_is_not_a_refusal(self) -> None:
        for printed in ("", "0\n", "1 2\n", "-1\n", "job 1\n"):
            with pytest.raises(GatewayError) as caught:
                self.scheduler.read_submit(Completed(0, printed))
            assert not isinstance(caught.value, SubmitRefused)

    @pytest.mark.parametrize("completed", NO_ANSWER)
    def test_a_dry_run_without_an_answer_keeps_nobody_from_submitting(self, completed: Completed) -> None:
        self.scheduler.read_dry_run(completed)

    # --- no answer ------------------------------------------------------------------------------------

    @pytest.mark.parametrize("completed", NO_ANSWER)
    def test_without_an_answer_nothing_is_known(self, completed: Completed) -> None:
        with pytest.raises(SubmitOutcomeUnknown):
            self.scheduler.read_submit(completed)
        with pytest.raises(QueueUnreachable):
            self.scheduler.read_cancel(completed)
        with pytest.raises(QueueUnreachable):
            self.scheduler.read_accounting(completed, self.asked())
        _, _, _, _, status, discovery = self.readers()
        with pytest.raises(QueueUnreachable):
            status(completed)
        with pytest.raises(QueueUnreachable):
            discovery(completed)

    def test_one_command_without_an_answer_makes_no_job_absent(self) -> None:
        """Where a listing takes several commands, each of them may be the one that fails."""
        good = list(self.listing([self._state(JobState.RUNNING)]))
        for i in range(len(good)):
            answers = [*good[:i], Completed(124), *good[i + 1 :]]
            try:
                listing = self.scheduler.read_status(answers, [self.asked()], MARK)
            except QueueUnreachable:
                continue
            assert listing.named(NAME, "alice") or NAME in listing.silent

    @pytest.mark.parametrize("noise", NOISE, ids=range(len(NOISE)))
    @pytest.mark.parametrize("status", [0, 1, 35, 65, 75, 153, 255])
    def test_noise_is_never_more_than_one_of_our_errors(self, noise: str, status: int) -> None:
        for reader in self.readers():
            for completed in (Completed(status, noise, noise), Completed(status, noise)):
                try:
                    reader(completed)
                except GatewayError as error:
                    logged = str(error)
                    assert logged.startswith(self.programs_in_the_log()), "nobody knows what failed"

    def programs_in_the_log(self) -> tuple[str, ...]:
        return (*self.scheduler.programs, "PBS:", "discovery:", "Grid Engine:")

    def test_what_went_wrong_is_logged_in_the_programs_own_words(self) -> None:
        """Whoever looks after the gateway finds there what failed, and what it said."""
        words = "an odd thing has happened"
        for reader in self.readers():
            for completed in (Completed(1, "", words), Completed(-1, "", words)):
                try:
                    reader(completed)
                except GatewayError as error:
                    logged = str(error)
                    assert words in logged
                    assert logged.startswith(self.programs_in_the_log())
        for read, completed in (
            (self.scheduler.read_submit, self.refused[0]),
            (self.scheduler.read_cancel, self.not_cancelled),
        ):
            with pytest.raises((SubmitRefused, CancelRefused)) as caught:
                read(completed)
            assert str(caught.value).startswith(tuple(self.scheduler.programs))
            assert one_line(completed.stderr or completed.stdout) in str(caught.value)
            assert caught.value.public != type(caught.value).default_public

    def test_a_part_that_is_not_there_is_no_crash(self) -> None:
        """Versions and sites differ in what is printed: a line, a field, an attribute may be missing."""
        part = re.compile(
            r"""[\w.]+=[^\s|\x1f]*|\s\w+=(?:"[^"]*"|'[^']*')|^\S+[ \t].*$|<(\w+)>[^<]*</\1>""", re.M
        )
        listing = self.listing([self._state(JobState.RUNNING), self._state(JobState.QUEUED)])
        for answers, read in (
            (listing, lambda found: self.scheduler.read_status(found, [self.asked()], MARK)),
            (self.discovered(), lambda found: self.scheduler.read_discovery(found, INSTANCE, MARK)),
        ):
            for i, completed in enumerate(answers):
                for found in list(part.finditer(completed.stdout))[:300]:
                    text = completed.stdout[: found.start()] + completed.stdout[found.end() :]
                    with contextlib.suppress(GatewayError):
                        read(
                            [
                                *answers[:i],
                                Completed(completed.status, text, completed.stderr),
                                *answers[i + 1 :],
                            ]
                        )

    def test_a_listing_cut_short_never_invents_or_changes_a_job(self) -> None:
        whole = list(
            self.listing([self._state(JobState.RUNNING), self._state(JobState.QUEUED), self._native()[-1]])
        )
        jobs = self._jobs(whole)
        assert len(jobs) == 3
        for i, completed in enumerate(whole):
            for end in range(0, len(completed.stdout), max(1, len(completed.stdout) // 700)):
                cut = Completed(completed.status, completed.stdout[:end], completed.stderr)
                with contextlib.suppress(QueueUnreachable):
                    assert self._jobs([*whole[:i], cut, *whole[i + 1 :]]) <= jobs

    def _jobs(self, answers: Sequence[Completed]) -> frozenset[JobStatus]:
        return frozenset(self.scheduler.read_status(answers, [self.asked()], MARK).jobs)

    # --- states ---------------------------------------------------------------------------------------

    def _native(self) -> Sequence[str]:
        return list(self.states)

    def _state(self, wanted: JobState) -> str:
        return next(native for native, state in self.states.items() if state is wanted)

    def test_every_native_state_has_a_meaning(self) -> None:
        assert [job.state for job in self.read(*self.states)] == list(self.states.values())
        assert {JobState.QUEUED, JobState.RUNNING} <= set(self.states.values())

    def test_a_listing_says_whose_jobs_they_are(self) -> None:
        listing = self.scheduler.read_status(self.listing(self._native()), [self.asked()], MARK)
        assert len(listing.named(NAME, "alice")) == len(listing.jobs) == len(self.states)
        assert listing.named(NAME, "bob") == listing.named(OTHER, "alice") == ()
        assert not listing.silent

    def test_only_a_job_on_its_node_has_a_host(self) -> None:
        for job in self.read(*self.states):
            if job.state.on_node:
                assert job.host == "cn1"
            elif job.state is not JobState.STOPPING:
                assert job.host is None

    def test_a_running_jobs_endpoint_is_read_as_it_was_published(self) -> None:
        (job,) = self.read(self._state(JobState.RUNNING))
        assert parse(job.comment, run="0123456789abcdef", restarts=0, host="cn1", ports=(20000, 20009))

    def test_what_is_wrong_with_a_listing_is_logged(self) -> None:
        """It is cut short, it is something else, or it has a job twice: nothing of it is believed."""
        good = list(self.listing([self._state(JobState.RUNNING)]))
        for i, completed in enumerate(good):
            for stdout in (completed.stdout[:-2], "<x/>\n", "x|y\n", completed.stdout * 2):
                answers = [*good[:i], replace(completed, stdout=stdout), *good[i + 1 :]]
                try:
                    self.scheduler.read_status(answers, [self.asked()], MARK)
                except QueueUnreachable as error:
                    logged = str(error)
                    assert logged.startswith(self.programs_in_the_log())

    def test_an_empty_listing_is_a_good_answer(self) -> None:
        assert self.scheduler.read_status(self.listing([]), [self.asked()], MARK) == Listing(())

    def test_what_ended_badly_has_a_sentence_and_an_odd_reason_is_shown(self) -> None:
        for job in self.read(*self.states):
            if job.state.ended and job.state is not JobState.COMPLETED:
                assert self.scheduler.why(job).endswith(".")
        odd = JobStatus(self.job_id(1), NAME, "alice", JobState.QUEUED, reason="Odd\x1b[31mThing", native="x")
        assert "Odd [31mThing" in self.scheduler.why(odd)
        plain = JobStatus(self.job_id(1), NAME, "alice", JobState.QUEUED, reason="It is X.", native="x")
        assert "reason of its own: It is X." in self.scheduler.why(plain)
        assert ".." not in self.scheduler.why(plain)

    # --- cancel ---------------------------------------------------------------------------------------

    def test_a_cancel_may_be_refused_and_a_job_that_is_not_there_counts_as_cancelled(self) -> None:
        self.scheduler.read_cancel(self.not_there)
        with pytest.raises(CancelRefused):
            self.scheduler.read_cancel(self.not_cancelled)

    # --- what reaches a command line ------------------------------------------------------------------

    @pytest.mark.parametrize(
        "job_id", ["", "0", "-1", "1;2", "1 2", "--help", "1_2", "1\n", "٣", "1[]", "*", "1.a b", "1."]
    )
    def test_only_a_job_id_reaches_a_command_line(self, job_id: str) -> None:
        with pytest.raises(ValueError, match=r"not a .*job id"):
            self.scheduler.cancel_command(JobId(job_id))
        with pytest.raises(ValueError, match=r"not a .*job id"):
            self.scheduler.accounting_command(Asked(NAME, "alice", JobId(job_id)))

    @pytest.mark.parametrize("names", [[], ["gw-inst22-abcdefghia,other"], ["x"], [""], [f"{NAME}\n"], ["*"]])
    def test_only_job_names_reach_a_command_line(self, names: list[str]) -> None:
        with pytest.raises(ValueError, match="not job names"):
            self.scheduler.status_commands([self.asked(name) for name in names], MARK)

    @pytest.mark.parametrize("instance", ["", "INST22", "inst2", "inst221", "inst2*", "inst22\n"])
    def test_only_an_instance_reaches_a_command_line(self, instance: str) -> None:
        with pytest.raises(ValueError, match="not an instance"):
            self.scheduler.discovery_commands(instance, MARK)

    @pytest.mark.parametrize("mark", ["", "abc", MARK.upper(), f"{MARK},", f"{MARK}\n"])
    def test_a_weak_mark_is_refused(self, mark: str) -> None:
        with pytest.raises(ValueError, match="not a mark"):
            self.scheduler.status_commands([self.asked()], mark)
        with pytest.raises(ValueError, match="not a mark"):
            self.scheduler.discovery_commands(INSTANCE, mark)

    # --- discovery ------------------------------------------------------------------------------------

    def test_a_partition_and_our_jobs_are_discovered(self) -> None:
        discovery = self.scheduler.read_discovery(self.discovered(), INSTANCE, MARK)
        name, walltime, cores = self.room
        room = discovery.room(name)
        assert room
        assert (room.max_walltime, room.max_cores) == (walltime, cores)
        assert [(job.name, job.user) for job in discovery.ours or ()] == [(NAME, "alice")]

    def test_each_part_of_a_discovery_stands_for_itself(self) -> None:
        good = list(self.discovered())
        for i in range(len(good) if len(good) > 1 else 0):
            answers = [*good[:i], Completed(124), *good[i + 1 :]]
            assert self.scheduler.read_discovery(answers, INSTANCE, MARK).hidden in (None, True, False)

    # --- header ---------------------------------------------------------------------------------------

    def test_what_a_site_may_add_to_its_scripts_has_no_fault(self) -> None:
        header = "\n".join(
            ["# a comment", *self.good_directives, "", "export A=1  # --array=1-3", f"echo {NAME}"]
        )
        assert self.scheduler.header_faults(header) == ()
        assert self.scheduler.header_faults("") == ()
        assert self.scheduler.header_faults(header, {"a field that it does not know"}) == ()

    def test_what_is_no_line_of_the_script_is_no_directive(self) -> None:
        """A rendered header holds people's text: to the scheduler only a line feed ends a line."""
        for end in ("\u2028", "\u0085", "\x0b", "\x0c", "\x1e"):
            assert self.scheduler.header_faults(f"# {end}{self.bad_directives[0]}") == ()

    def test_what_would_take_our_directives_back_is_a_fault_with_its_line(self) -> None:
        for line in self.bad_directives:
            (fault,) = self.scheduler.header_faults(f"# a comment\n{line}\nexport A=1\n")
            assert "line 2" in fault, line
            assert fault.endswith("."), line

    def test_what_is_chosen_on_the_form_is_not_taken_back(self) -> None:
        always = [line for field in FORM for line in self.chosen_directives.get(field, ())]
        for line in always:
            (fault,) = self.scheduler.header_faults(f"# a comment\n{line}\n")
            assert fault.startswith("line 2: ")
            assert "chosen on the form" in fault, line
            assert self.scheduler.header_faults(line, ()) == (), "a template says it in its own way"
        for field in self.chosen_directives.keys() - FORM:
            for line in self.chosen_directives[field]:
                assert self.scheduler.header_faults(line) == (), "nobody has chosen it"
                (fault,) = self.scheduler.header_faults(line, {field})
                assert "chosen on the form" in fault, line


# --- where schedulers come from -----------------------------------------------------------------------------


def test_a_word_that_no_scheduler_has_is_an_error_that_names_them() -> None:
    with pytest.raises(ConfigError, match=r"'lsf' is not one of .*local.*slurm"):
        get("lsf")


def test_this_packages_schedulers_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, monkeypatch, "slurm = os:getcwd\nbroken = nowhere_at_all:Nothing\n")
    assert get("slurm").name == "slurm"
    assert "broken" in known()
    with pytest.raises(ConfigError, match=r"'broken' cannot be loaded from nowhere_at_all:Nothing"):
        get("broken")


# --- the example of docs/schedulers.rst ---------------------------------------------------------------------

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "tinyq"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the example: what its setup.cfg says makes it known."""
    settings = ConfigParser()
    settings.read(EXAMPLE / "setup.cfg")
    _install(tmp_path, monkeypatch, settings["options.entry_points"]["gateway.schedulers"].strip())
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield
    sys.modules.pop("tinyq", None)


TINY_STATES = {
    "waiting": JobState.QUEUED,
    "running": JobState.RUNNING,
    "done": JobState.COMPLETED,
    "failed": JobState.FAILED,
    "killed": JobState.CANCELLED,
}


@pytest.mark.usefixtures("example")
class TestExample(SchedulerContract):
    submitted = (Completed(0, "7\n"), JobId("7"))
    refused = (Completed(2, "", "no such queue\n"), "no such queue")
    not_cancelled = Completed(2, "", "not yours\n")
    not_there = Completed(0)
    good_directives = ("# TQ",)
    bad_directives = ("#TQ cores=9",)
    states = TINY_STATES

    @cached_property
    def scheduler(self) -> Scheduler:  # type: ignore[override]  # it is not there when this class is made
        return get("tinyq")

    def listing(self, states: Sequence[str]) -> Sequence[Completed]:
        rows = [(str(i), NAME, "alice", state, "cn1", "", ENDPOINT) for i, state in enumerate(states, 1)]
        return [Completed(0, "".join("\t".join(row) + "\n" for row in rows) + f"end {len(rows)}\n")]

    def discovered(self) -> Sequence[Completed]:
        return [Completed(0, "short\t10\t4\nend 1\n"), *self.listing(["running"])]

    def test_its_script_has_its_own_directives_and_the_wrapper(self) -> None:
        site = parse_site_config(SITE, "tiny.yaml")
        facts = JobFacts(INSTANCE, "abcdefghia", "0" * 16, "alice", "", "/user/alice/", node_tls=True)
        script = render_script(site, Choices("tiny", "lab", "short", 5, 2, 100), facts, header="export A=1")
        assert script.startswith(f"#!/bin/sh\n#TQ name={NAME}\n#TQ queue=short\n#TQ minutes=5\n")
        assert "\nexport A=1\n" in script
        assert '/opt/tq/tq note "$TQ_JOB" "$1"' in script
        assert "gw_look()" in script


SITE = """
version: 1
name: tiny
title: Tiny
scheduler: tinyq
login: {hosts: [h], user: svc, key: /k, known_hosts: /h, act_as: sudo, bin: /opt/tq}
partitions: [{name: short, max_walltime: 10m, max_cores: 4, max_memory: 8G}]
applications: [{name: lab, title: Lab, command: [jupyter, lab]}]
"""


def _install(place: Path, monkeypatch: pytest.MonkeyPatch, entries: str) -> None:
    """Make a package known, as pip would."""
    info = place / "other_scheduler-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-scheduler\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gateway.schedulers]\n{entries}")
    assert PathDistribution(info).name == "other-scheduler"
    monkeypatch.setattr(sys, "path", [str(place), *sys.path])

"""Schedulers: what to run on a login node, and how to read what came back.

A scheduler never runs anything: it hands out :class:`~gateway.model.Command` and reads the
:class:`~gateway.model.Completed` of it. A new one is a module, a template and a test file with recordings;
it is found by the entry point group ``gateway.schedulers``.
"""

from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

from gateway.discovery import Discovery
from gateway.errors import ConfigError
from gateway.model import Asked, Command, Completed, JobEnd, JobId, JobStatus, Listing
from gateway.schedulers.text import FORM

#: The group of entry points: a site config's word for a scheduler, and the class that it is.
GROUP = "gateway.schedulers"
#: Those of this package, which are there however it was installed.
_OWN = tuple(
    EntryPoint(name, f"gateway.schedulers.{name}:{kind}", GROUP)
    for name, kind in (("slurm", "Slurm"), ("pbs", "Pbs"), ("local", "Local"), ("sge", "Sge"))
)


class Scheduler(Protocol):
    """One kind of batch system.

    All methods are pure: the same arguments give the same answer, nothing is remembered in between.

    Where several commands are handed out, they are run one after the other in one remote exec, each with a
    time limit of its own, and read together: as many ``Completed``, in the same order.

    A ``Completed`` may stem from a command that never ended properly: ``status`` is 124 if a time limit ended
    it and negative if the connection broke. Neither says anything about jobs, nor does a good exit status if
    the scheduler complains on standard error. **Only a good listing may say "not there".**
    """

    @property
    def name(self) -> str:
        """The word for it in a site config (``scheduler: slurm``)."""

    @property
    def template(self) -> str:
        """The file in ``templates/batch/`` from which job scripts are rendered.

        A scheduler of another package has a directory ``templates`` beside its module, which is looked into
        first.
        """

    @property
    def programs(self) -> tuple[str, ...]:
        """The programs that its commands run, as the launcher must know them."""

    @property
    def directive(self) -> str:
        """What begins a directive line of a job script: ``#SBATCH``."""

    @property
    def resources(self) -> Mapping[str, str]:
        """The scheduler's names that each site may have others for, by what the template calls them.

        A site says its own ones in ``script.resources``. The template has both together as ``resources``:
        ``{{ resources.gpus|directive }}``.
        """

    @property
    def accounting_lag(self) -> float:
        """Seconds after a job's end within which the accounting may not know of it yet; 0 for none."""

    def header_faults(self, header: str, chosen: Collection[str] = FORM) -> tuple[str, ...]:
        """Return what is wrong with the directive lines that a site adds to its scripts, a sentence each.

        Arrays and heterogeneous jobs are refused, and what would take the gateway's own directives back: the
        job's name, its output, requeueing, and what was chosen on the form.

        Args:
            header: The lines, or those of a whole script.
            chosen: The fields of the form that these lines may not say again: those that each job has, and
                of ``account qos reservation constraint exclusive`` what somebody has chosen.
        """

    def submit_command(self) -> Command:
        """Return the command that submits a job.

        It is run as the user with the job's state directory as working directory. The script is the file
        ``script`` there; the job must write its output to ``log`` there and inherit nothing from the
        submitting environment.
        """

    def read_submit(self, completed: Completed) -> JobId:
        """Return the id of the job just submitted.

        Raises:
            SubmitRefused: The scheduler said no. The public sentence holds its own words.
            QueueUnreachable: It cannot have taken the job: there was no connection to it.
            SubmitOutcomeUnknown: It may have taken the job: a time-out, a broken connection, no clear answer.
                The job has to be looked for by its name.
        """

    def dry_run_command(self) -> Command | None:
        """Return what asks whether the ``script`` could ever run, in the same place; None if nothing does."""

    def read_dry_run(self, completed: Completed) -> None:
        """Return if the job could run, and also if there is no answer or it is not clear.

        Raises:
            SubmitRefused: The job can never run as it is.
        """

    def status_commands(
        self, asked: Collection[Asked], mark: str, *, ended: bool = True
    ) -> Sequence[Command]:
        """Return what lists all these jobs, whoever's they are: one command, or a few in one exec.

        Args:
            asked: The jobs, at least one. One without an id is found by its name. Of a settled one only the
                state, the node and the restarts are wanted, if the rest costs a command more.
            mark: 16 to 64 lower-case hexadecimal digits, new and random for each call. Where a scheduler
                prints names and comments raw, the mark is what separates fields and rows: anybody on the
                cluster may put separators and line breaks into the comment of a job of their own.
            ended: Whether to ask for ended jobs too, where that makes a difference.
        """

    def read_status(self, completed: Sequence[Completed], asked: Collection[Asked], mark: str) -> Listing:
        """Return what the scheduler knows of the jobs asked for; an empty listing if it knows none.

        States and reasons that are not known become ``JobState.UNKNOWN``, never an error. A job that another
        account gave one of the names is listed too, under its owner. What cannot be told to be there or not
        is in ``silent``.

        Args:
            completed: What the status commands did.
            asked: What they were made with.
            mark: The one they were made with.

        Raises:
            EndedNotListed: The site keeps no ended jobs, and the answer is good for nothing: ask again with
                ``ended=False``.
            QueueUnreachable: Nothing is known: the scheduler did not answer, the answer is cut short or has
                a job twice (which is a forgery or a fault).
        """

    def cancel_command(self, job_id: JobId) -> Command:
        """Return the command that ends a job, run as its owner."""

    def read_cancel(self, completed: Completed) -> None:
        """Return if the job is being ended, has ended or is not known any more.

        Raises:
            CancelRefused: The scheduler will not end it.
            QueueUnreachable: It did not answer.
        """

    def accounting_command(self, job: Asked) -> Command:
        """Return the command that asks how a job ended that is no longer listed, run as its owner."""

    def read_accounting(self, completed: Completed, job: Asked) -> JobEnd | None:
        """Return how the job ended, or None where there is no such job in the accounting, or not yet.

        Raises:
            NoAccounting: There is none, and never will be.
            NotEndedYet: The accounting has the job as one that runs.
            QueueUnreachable: There is an accounting, but it did not answer.
        """

    def discovery_commands(self, instance: str, mark: str) -> Sequence[Command]:
        """Return what shows partitions, limits, nodes, accounts, downtimes and waiting jobs, in one exec.

        Args:
            instance: This gateway's six letters in its jobs' names.
            mark: As for `status_commands`.
        """

    def read_discovery(self, completed: Sequence[Completed], instance: str, mark: str) -> Discovery:
        """Return what they showed. Each part for itself: what one command did not say is None, or empty.

        Raises:
            QueueUnreachable: The scheduler did not answer at all.
        """

    def why(self, status: JobStatus) -> str:
        """Return a sentence for the job's owner on why it waits or ended; empty if there is nothing to say.

        The native words stay in ``status.reason``, to be shown beside it.
        """


def known() -> Mapping[str, EntryPoint]:
    """Return the schedulers by the words that a site config uses; this package's own cannot be replaced."""
    return {entry.name: entry for entry in (*entry_points(group=GROUP), *_OWN)}


def get(name: str) -> Scheduler:
    """Return the scheduler that a site config calls ``name``.

    Raises:
        ConfigError: There is none, or it cannot be loaded.
    """
    entry = known().get(name)
    if entry is None:
        raise ConfigError(f"scheduler: {name!r} is not one of {', '.join(sorted(known()))}")
    try:
        scheduler: Scheduler = entry.load()()
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(f"scheduler: {name!r} cannot be loaded from {entry.value}: {error}") from error
    return scheduler

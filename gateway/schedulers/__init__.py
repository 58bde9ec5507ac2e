"""Schedulers: what to run on a login node, and how to read what came back.

A scheduler never runs anything: it hands out a :class:`~gateway.model.Command` and reads the
:class:`~gateway.model.Completed` of it. A new one is a module here, a template in ``templates/batch/`` and a
test file with recordings; its line in ``_KNOWN`` makes it known.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from gateway.errors import ConfigError
from gateway.model import Command, Completed, JobId, JobState, JobStatus, Listing
from gateway.schedulers.local import Local
from gateway.schedulers.slurm import Slurm


class Scheduler(Protocol):
    """One kind of batch system.

    All methods are pure: the same arguments give the same answer, nothing is remembered in between.

    A ``Completed`` may stem from a command that never ended properly: ``status`` is 124 if a time limit ended
    it and negative if the connection broke. Neither says anything about jobs, nor does a good exit status if
    the scheduler complains on standard error. **Only a good listing may say "not there".**
    """

    @property
    def name(self) -> str:
        """The word for it in a site config (``scheduler: slurm``)."""

    @property
    def template(self) -> str:
        """The file in ``templates/batch/`` from which job scripts are rendered."""

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

    def status_command(self, names: Collection[str], mark: str) -> Command:
        """Return the one command that lists all jobs of these names, whoever's they are, ended ones too.

        Args:
            names: Job names, at least one, as :func:`gateway.model.job_name` makes them.
            mark: 16 to 64 lower-case hexadecimal digits, new and random for each call. Where a scheduler
                prints names and comments raw, the mark is what separates fields and rows: anybody on the
                cluster may put separators and line breaks into the comment of a job of their own.
        """

    def read_status(self, completed: Completed, mark: str) -> Listing:
        """Return what the scheduler knows of the jobs asked for; an empty listing if it knows none.

        States and reasons that are not known become ``JobState.UNKNOWN``, never an error.

        Args:
            completed: What the status command did.
            mark: The one the command was made with.

        Raises:
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

    def accounting_command(self, job_id: JobId) -> Command:
        """Return the command that asks how a job ended that is no longer listed, run as its owner."""

    def read_accounting(self, completed: Completed) -> JobState | None:
        """Return the accounting's state of the job, or None where there is no accounting or no such job.

        Raises:
            QueueUnreachable: There is an accounting, but it did not answer.
        """

    def why(self, status: JobStatus) -> str:
        """Return a sentence for the job's owner on why it waits or ended; empty if there is nothing to say.

        The native words stay in ``status.reason``, to be shown beside it.
        """


_KNOWN: Mapping[str, Callable[[], Scheduler]] = {"slurm": Slurm, "local": Local}


def get(name: str) -> Scheduler:
    """Return the scheduler that a site config calls ``name``.

    Raises:
        ConfigError: There is none.
    """
    try:
        return _KNOWN[name]()
    except KeyError:
        raise ConfigError(f"scheduler: {name!r} is not one of {', '.join(sorted(_KNOWN))}") from None

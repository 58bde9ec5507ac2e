"""The supervisor of one job: waits for its turn, runs its script, and ends every process that comes of it.

It is the parent of the script's shell and adopts every orphan below it, so nothing that the job starts can
leave it: the job has ended when the supervisor has no child left.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import pwd
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gateway.localqueue.jobs import (
    Job,
    Limits,
    Process,
    Refused,
    Request,
    State,
    Unavailable,
    full,
    waits_for,
)
from gateway.localqueue.processes import (
    MARK,
    adopt_orphans,
    alive,
    descendants,
    find,
    proportional,
    resident,
    send,
)
from gateway.localqueue.spool import PATIENCE, Spool

#: Seconds between two looks: of the first in the queue, of the others, and at how much memory a job uses.
_FIRST, _BEHIND, _LOOK = 0.5, 2.0, 2.0
#: Seconds from TERM to KILL.
_GRACE = 5.0

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SIGNALS = (*_STOPS, signal.SIGCHLD)
#: Python ignores some of these, and whoever started it may ignore others; a program expects the defaults.
_DEFAULTS = (
    *_SIGNALS,
    *(signal.SIGQUIT, signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXFSZ),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
)


def submit(spool: Spool, program: Path, script: str, request: Request) -> Job:
    """Store a job and start its supervisor. The job runs in the working directory and prints into ``log``.

    Args:
        spool: The queue.
        program: The queue's program.
        script: What ``/bin/sh`` is to run.
        request: What the job asks for.

    Raises:
        Refused: The job could never run, or the queue is full.
        Unavailable: The queue is busy, or its configuration is wrong.
    """
    with spool.locked(PATIENCE):
        if sentence := full(spool.refresh()):
            raise Refused(sentence)
        return spool.add(script, request, lambda job_id, place: _start(program, job_id, place))


def _start(program: Path, job_id: int, place: Path) -> Process:
    """Start a supervisor, in a session of its own and without an environment."""
    main = str(Path(__file__).with_name("__main__.py"))
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", main, str(program), "supervise", str(job_id)],
        {},
        setsid=True,
        setsigmask=[],
        setsigdef=_DEFAULTS,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(place / "errors"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        ],
    )
    process = find(pid)
    if process is None:
        raise OSError(f"the supervisor of job {job_id} ended at once")
    return process


def supervise(spool: Spool, job_id: int) -> None:
    """Be a job's supervisor, in the job's directory, until no process of the job is left."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    os.closerange(3, 4096)
    os.umask(0o077)
    adopt_orphans()
    job = _wait_for_turn(spool, job_id)
    if job is None:
        return
    try:
        run = _Run(spool, job)
    except (OSError, KeyError):  # the directory cannot be written, the account has no entry
        _end(spool, job, State.FAILED, "CannotStart")
        raise
    # Ended is what has no process left. Should this process fail before, others find its job and bury it.
    with contextlib.closing(run):
        state, reason = run.watch()
        with contextlib.suppress(OSError), spool.locked():  # a full disk
            spool.change(spool.job(job_id) or job, state=State.ENDING, ending=state, reason=reason)
    _end(spool, job, state, reason)


def _end(spool: Spool, job: Job, state: State, reason: str) -> None:
    with spool.locked():
        spool.change(spool.job(job.id) or job, state=state, reason=reason)
        _wake_first(spool)


# --- the queue -------------------------------------------------------------------------------------------


def _wait_for_turn(spool: Spool, job_id: int) -> Job | None:
    """Return the job once it counts as running, or None if it never shall.

    Only the first in the queue looks at all jobs, under the lock. Every other one looks at the one before it.
    """
    stop, ahead = False, _Ahead(None, too_large=False)
    while True:
        if stop or not ahead.stands(spool):
            try:
                turn = _turn(spool, job_id, stop=stop)
            except Unavailable:
                pass  # somebody is writing queue.json, or has the lock: the next look will do
            except OSError as error:
                # A full disk passes. Without the queue's directory, or told to end, others bury the job.
                if stop or error.errno in (errno.ENOENT, errno.ESTALE):
                    return None
            else:
                if not isinstance(turn, _Ahead):
                    return turn
                ahead = turn
        got = signal.sigtimedwait(_SIGNALS, _FIRST if ahead.job is None else _BEHIND)
        stop = stop or (got is not None and got.si_signo in _STOPS)


def _turn(spool: Spool, job_id: int, *, stop: bool) -> Job | _Ahead | None:
    """Return the job if it runs from now on, what it waits behind, or None if it shall never run.

    Raises:
        Unavailable: The lock was not to be had, or ``queue.json`` cannot be read: nothing has changed.
        OSError: The disk is full, or the queue's directory is gone.
    """
    with spool.locked():
        jobs = spool.refresh()
        job = next((job for job in jobs if job.id == job_id), None)
        if job is None or job.state is not State.QUEUED or job.supervisor != find(os.getpid()):
            return None
        if stop:
            with contextlib.suppress(OSError):
                spool.change(job, state=State.CANCELLED)
            return None
        limits = spool.limits()
        if waits_for(job, jobs, limits):
            return _Ahead.of(job, jobs, limits)
        job = spool.change(job, state=State.RUNNING)
        _wake_first(spool)
        return job


@dataclass(frozen=True, slots=True)
class _Ahead:
    """Why it is no use to look at the whole queue, for as long as it stands.

    Args:
        job: The one that waits just before, or the job itself if it is too large; None for the first, which
            is to look often.
        too_large: Whether that one is too large for what is given out.
    """

    job: Job | None
    too_large: bool

    @classmethod
    def of(cls, job: Job, jobs: Sequence[Job], limits: Limits) -> Self:
        """Return what a job waits behind."""
        if limits.too_much(job.request):
            return cls(job, too_large=True)
        before = [other for other in _waiting(jobs, limits) if other.id < job.id]
        return cls(before[-1] if before else None, too_large=False)

    def stands(self, spool: Spool) -> bool:
        """Whether nothing has changed. It needs no lock: a job's file is replaced as a whole."""
        if self.job is None:
            return False
        try:
            same = spool.job(self.job.id) == self.job and alive(self.job.supervisor)
            return same and bool(spool.limits().too_much(self.job.request)) == self.too_large
        except (Unavailable, OSError):  # it has just been removed
            return False


def _waiting(jobs: Sequence[Job], limits: Limits) -> list[Job]:
    """Return the jobs that wait for their turn, the first first."""
    return [job for job in jobs if job.state is State.QUEUED and not limits.too_much(job.request)]


def _wake_first(spool: Spool) -> None:
    """Let the first in the queue look at once. SIGCHLD does nothing to whoever does not wait for it."""
    with contextlib.suppress(Unavailable, OSError):  # it looks by itself, only later
        first = _waiting(spool.jobs(), spool.limits())[:1]
        send([job.supervisor for job in first], signal.SIGCHLD)


# --- the job's processes ---------------------------------------------------------------------------------


class _Run:
    """The job's processes, from the script's start until none is left. Closing it ends them."""

    def __init__(self, spool: Spool, job: Job) -> None:
        self._job = job
        self._status: int | None = None
        self._log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        script = str(spool.place(job.id) / "script")
        self._shell = os.posix_spawn(
            "/bin/sh",
            ["/bin/sh", script],
            _environment(job),
            setsigmask=[],
            setsigdef=_DEFAULTS,
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, self._log, 1),
                (os.POSIX_SPAWN_DUP2, self._log, 2),
            ],
        )

    def watch(self) -> tuple[State, str]:
        """Return, when the job is to end or its script has ended, what its state will be, and a reason."""
        request, now = self._job.request, time.monotonic()
        end, look = now + request.walltime, now + _LOOK
        warn = end - request.warning if request.warning else math.inf
        while True:
            got = signal.sigtimedwait(_SIGNALS, max(0.0, min(end, look, warn) - time.monotonic()))
            if got is not None and got.si_signo in _STOPS:
                return self._over(State.CANCELLED, "the job was cancelled")
            self._reap()
            if self._status is not None:
                return (State.FAILED, f"ExitStatus:{self._status}") if self._status else (State.COMPLETED, "")
            now = time.monotonic()
            if now >= end:
                return self._over(State.TIMEOUT, "the walltime is used up")
            if now >= warn:
                warn = math.inf
                os.kill(self._shell, signal.SIGUSR1)  # it has not been waited for
            if now >= look:
                look = now + _LOOK
                if self._too_large():
                    return self._over(State.OUT_OF_MEMORY, f"more than {request.memory} MB of memory in use")

    def close(self) -> None:
        """End all processes of the job: TERM, then KILL until no child is left."""
        end, told = time.monotonic() + _GRACE, False
        while self._reap():
            over = time.monotonic() > end
            if over or not told:
                with contextlib.suppress(OSError):  # no file can be opened just now: again in a moment
                    send(descendants([os.getpid()]), signal.SIGKILL if over else signal.SIGTERM)
                    told = True
            signal.sigtimedwait([signal.SIGCHLD], 0.1)
        os.close(self._log)

    def _reap(self) -> bool:
        """Wait for all children that have ended; return whether there are others."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._shell:
                    code = os.waitstatus_to_exitcode(ended[1])
                    self._status = code if code >= 0 else 128 - code
            return True
        return False

    def _too_large(self) -> bool:
        """Whether the job uses more memory than it asked for. The exact sum is taken only when it matters."""
        most = self._job.request.memory << 20
        with contextlib.suppress(OSError):  # no file can be opened just now: the next look will do
            found = descendants([os.getpid()])
            return resident(found) > most and proportional(found) > most
        return False

    def _over(self, state: State, sentence: str) -> tuple[State, str]:
        with contextlib.suppress(OSError):  # a full disk: the state says it all the same
            os.write(self._log, f"gateway-queue: the end of job {self._job.id}: {sentence}\n".encode())
        return state, ""


def _environment(job: Job) -> dict[str, str]:
    entry = pwd.getpwuid(os.getuid())
    return {
        "HOME": entry.pw_dir,
        "USER": entry.pw_name,
        "LOGNAME": entry.pw_name,
        "SHELL": entry.pw_shell or "/bin/sh",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "GATEWAY_JOB": str(job.id),
        MARK: job.mark,
    }

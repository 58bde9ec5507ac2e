"""The supervisor of one job: waits for its turn, runs its script, and ends every process that comes of it.

It is the parent of the script's shell and adopts every orphan below it, so nothing that the job starts can
leave it: the job has ended when the supervisor has no child left.
"""

from __future__ import annotations

import contextlib
import math
import os
import pwd
import signal
import sys
import time
from pathlib import Path

from gateway.localqueue.jobs import Job, Process, Request, State, Unavailable, waits_for
from gateway.localqueue.processes import MARK, adopt_orphans, descendants, find, proportional, resident, send
from gateway.localqueue.spool import PATIENCE, Spool

#: Seconds between two looks: whether it is the job's turn, and how much memory it uses.
_TURN, _LOOK = 0.5, 2.0
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
        Refused: The job could never run.
        Unavailable: The queue is busy, or its configuration is wrong.
    """
    with spool.locked(PATIENCE):
        spool.refresh()
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
    state, reason = State.FAILED, "CannotStart"
    try:
        with contextlib.closing(_Run(spool, job)) as run:
            state, reason = run.watch()
            with spool.locked():
                spool.change(spool.job(job_id) or job, state=State.ENDING, ending=state, reason=reason)
    finally:
        with spool.locked():
            spool.change(spool.job(job_id) or job, state=state, reason=reason)


def _wait_for_turn(spool: Spool, job_id: int) -> Job | None:
    """Return the job once it counts as running, or None if it never shall."""
    stop = False
    while True:
        with contextlib.suppress(Unavailable), spool.locked():  # somebody is writing queue.json
            jobs = spool.refresh()
            job = next((job for job in jobs if job.id == job_id), None)
            if job is None or job.state is not State.QUEUED or job.supervisor != find(os.getpid()):
                return None
            if stop:
                spool.change(job, state=State.CANCELLED)
                return None
            if not waits_for(job, jobs, spool.limits()):
                return spool.change(job, state=State.RUNNING)
        stop = signal.sigtimedwait(_STOPS, _TURN) is not None


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
        end = time.monotonic() + _GRACE
        send(descendants([os.getpid()]), signal.SIGTERM)
        while self._reap():
            if time.monotonic() > end:
                send(descendants([os.getpid()]), signal.SIGKILL)
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
        found, most = descendants([os.getpid()]), self._job.request.memory << 20
        return resident(found) > most and proportional(found) > most

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

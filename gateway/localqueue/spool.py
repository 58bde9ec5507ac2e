"""The spool: a directory for each job, whole or not there, and one lock over all of them.

::

    spool/lock        locked by whoever reads or writes, for moments only
    spool/last        the last id given out
    spool/7/job       the job, JSON
    spool/7/script    its script
    spool/7/errors    what its supervisor had to say

What has a dot in front is half-made or half-removed.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from gateway.localqueue.jobs import Job, Limits, Process, Refused, Request, State, Unavailable
from gateway.localqueue.processes import alive, boot, marked, send

#: Seconds for which a job is listed after its end.
KEPT = 3600.0
#: Seconds that a command waits for the lock.
PATIENCE = 10.0
#: Processes that are left of a job whose supervisor is dead get KILL so often, a little time apart.
_BLOWS, _APART = 40, 0.05


class Spool:
    """A queue's directory: see :mod:`gateway.localqueue`. All but ``locked`` want the lock to be held.

    Args:
        directory: The queue's directory.

    Raises:
        Unavailable: It is not there, or others than this account can get at it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._spool = directory / "spool"
        try:
            found = self._spool.lstat()
        except OSError as error:
            raise Unavailable(f"the queue cannot be used: {error}") from None
        if found.st_uid != os.geteuid() or found.st_mode & 0o077 or not self._spool.is_dir():
            raise Unavailable(f"{self._spool} must be a directory of this account with the mode 0700")

    @contextmanager
    def locked(self, patience: float = math.inf) -> Iterator[None]:
        """Hold the queue's lock; wait for it as long as ``patience``, in seconds.

        Raises:
            Unavailable: Others held it all the time.
        """
        end = time.monotonic() + patience
        with (self._spool / "lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise Unavailable("the queue is busy") from None
                time.sleep(0.02)
            yield

    def limits(self) -> Limits:
        """Return what is given out: the whole machine, or what ``queue.json`` says.

        Raises:
            Unavailable: That file says something else.
        """
        whole = {
            "cores": os.cpu_count() or 1,
            "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        }
        path = self._directory / "queue.json"
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            said = {}
        except ValueError as error:
            raise Unavailable(f"{path} is not JSON: {error}") from None
        if not isinstance(said, dict) or not set(said) <= set(whole):
            raise Unavailable(f'{path}: write {{"cores": NUMBER, "memory": MEGABYTES}}, or one of them')
        if not all(type(value) is int and value > 0 for value in said.values()):
            raise Unavailable(f"{path}: cores and memory are whole numbers above 0")
        return Limits(**whole | said)

    # --- jobs -----------------------------------------------------------------------------------------

    def jobs(self) -> list[Job]:
        """Return all jobs, by id, as they are written."""
        ids = sorted(int(path.name) for path in self._spool.iterdir() if path.name.isdecimal())
        return [self._read(job_id) for job_id in ids]

    def job(self, job_id: int) -> Job | None:
        """Return a job, or None if there is none of this id."""
        return self._read(job_id) if self.place(job_id).is_dir() else None

    def place(self, job_id: int) -> Path:
        """Return a job's directory."""
        return self._spool / str(job_id)

    def change(self, job: Job, **changes: object) -> Job:
        """Write a job with these changes, and return it."""
        changes = {"changed": time.time(), **changes} if "state" in changes else changes
        job = replace(job, **changes)  # type: ignore[arg-type]  # names and values are Job's
        _write(self.place(job.id) / "job", _to_json(job))
        return job

    def refresh(self) -> list[Job]:
        """Return all jobs, by id, as they really are.

        A job whose supervisor is dead is ended, and one that ended long ago is removed. What cannot be
        written is returned all the same, and is found out again the next time.
        """
        for path in self._spool.glob(".[0-9]*"):
            shutil.rmtree(path, ignore_errors=True)
        kept = []
        for job in self.jobs():
            if not job.state.ended and (job.boot != boot() or not alive(job.supervisor)):
                job = self._bury(job)
            if job.state.ended and job.changed < time.time() - KEPT:
                self._remove(job)
            else:
                kept.append(job)
        return kept

    def add(self, script: str, request: Request, supervise: Callable[[int, Path], Process]) -> Job:
        """Store a job, with its supervisor.

        Whatever happens in between, the job is there with its supervisor or not there at all.

        Args:
            script: Its script.
            request: What it asks for.
            supervise: Starts the supervisor of the job with this id. It must wait for the lock before it does
                anything, and end if there is no job then of which it is the supervisor. The path is the
                directory for what it has to say.

        Raises:
            Refused: The job could never run.
        """
        if sentence := self.limits().too_much(request):
            raise Refused(sentence)
        job_id = self._next_id()
        new = self._spool / f".{job_id}"
        new.mkdir(mode=0o700)
        _write(new / "script", script)
        job = Job(job_id, request, secrets.token_hex(16), supervise(job_id, new), boot(), time.time())
        _write(new / "job", _to_json(job))
        new.rename(self.place(job_id))
        return job

    def _next_id(self) -> int:
        last = self._spool / "last"
        job_id = int(last.read_text(encoding="ascii")) + 1 if last.exists() else 1
        _write(last, str(job_id))
        return job_id

    def _bury(self, job: Job) -> Job:
        """End what is left of a job whose supervisor is dead. It may take another call."""
        for _ in range(_BLOWS):
            left = marked(job.mark) if job.boot == boot() else []
            if not left:
                return self._note(job, state=job.ending or State.FAILED, reason="SupervisorDied")
            send(left, signal.SIGKILL)
            time.sleep(_APART)
        return self._note(job, state=State.ENDING)

    def _note(self, job: Job, **changes: object) -> Job:
        """Change a job, if only in what is returned: a full disk keeps nobody from listing and cancelling."""
        try:
            return self.change(job, **changes)
        except OSError:
            return replace(job, **changes)  # type: ignore[arg-type]  # as in change

    def _remove(self, job: Job) -> None:
        gone = self._spool / f".{job.id}"
        self.place(job.id).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _read(self, job_id: int) -> Job:
        path = self.place(job_id) / "job"
        try:
            return _from_json(path.read_text(encoding="ascii"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"{path} cannot be read ({error}): remove its directory") from None


def _to_json(job: Job) -> str:
    return json.dumps(asdict(job))


def _from_json(text: str) -> Job:
    said = json.loads(text)
    said["request"] = Request(**said["request"])
    said["supervisor"] = Process(**said["supervisor"])
    said["state"] = State(said["state"])
    said["ending"] = said["ending"] and State(said["ending"])
    return Job(**said)


def _write(path: Path, text: str) -> None:
    """Write a file of mode 0600, whole or not at all, even if the machine goes down."""
    new = path.with_name(f"{path.name}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)

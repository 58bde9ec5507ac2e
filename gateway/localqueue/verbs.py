"""The program's verbs, its output and its exit statuses.

``submit ./script`` prints the job's id. ``list NAME...`` and ``how ID`` print one JSON object a line for each
job, and last ``{"end": COUNT}``. ``cancel ID`` returns at once; ``stop`` cancels all jobs and waits.

Exit status: 0 done, 64 used wrongly, 65 refused, 75 nothing done, try again later; then the reason is
one line on standard error, ``gateway-queue: ...``. Any other status is a fault, and nothing is known.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gateway.localqueue.jobs import (
    Job,
    Limits,
    QueueError,
    Refused,
    State,
    Unavailable,
    Usage,
    read_request,
    waits_for,
)
from gateway.localqueue.processes import send
from gateway.localqueue.spool import PATIENCE, Spool
from gateway.localqueue.supervisor import submit, supervise

_USAGE = (
    "usage: gateway-queue submit SCRIPT | list NAME... | survey PREFIX | cancel ID | how ID | comment ID TEXT"
    " | stop"
)
#: What a listing says for the machine.
_HOST = "localhost"
_LARGEST_SCRIPT = 1 << 20  # bytes
_LONGEST_COMMENT = 1000
#: Seconds in which all jobs end: KILL comes 5 s after TERM.
_STOP_PATIENCE = 20.0


def main(words: Sequence[str]) -> int:
    """Run the program.

    Args:
        words: The program's own path, which says where the queue is, the verb, and what belongs to it.
    """
    try:
        if len(words) < 2 or words[1] not in _VERBS:
            raise Usage(_USAGE)
        program = Path(words[0]).resolve()
        _VERBS[words[1]](program, Spool(program.parent.parent), words[2:])
        sys.stdout.flush()
    except QueueError as error:
        sys.stderr.write(f"gateway-queue: {error}\n")
        return error.status
    return 0


def _submit(program: Path, spool: Spool, words: Sequence[str]) -> None:
    if len(words) != 1:
        raise Usage(_USAGE)
    _account()
    script = _script(Path(words[0]))
    job = submit(spool, program, script, read_request(script))
    sys.stdout.write(f"{job.id}\n")


def _list(_program: Path, spool: Spool, words: Sequence[str]) -> None:
    if not words:
        raise Usage(_USAGE)
    _print_jobs(spool, lambda job: job.request.name in words)


def _survey(_program: Path, spool: Spool, words: Sequence[str]) -> None:
    if len(words) != 1:
        raise Usage(_USAGE)
    with spool.locked(PATIENCE):
        jobs, limits = spool.refresh(), spool.limits()
    used = [job.request for job in jobs if job.state.holds]
    machine = {
        "cores": limits.cores,
        "memory": limits.memory,
        "free_cores": max(0, limits.cores - sum(request.cores for request in used)),
        "waiting": [str(job.id) for job in jobs if job.state is State.QUEUED],
    }
    _print_counted([machine, *_rows(jobs, limits, lambda job: job.request.name.startswith(words[0]))])


def _how(_program: Path, spool: Spool, words: Sequence[str]) -> None:
    wanted = _id(words, 1)
    _print_jobs(spool, lambda job: job.id == wanted)


def _cancel(_program: Path, spool: Spool, words: Sequence[str]) -> None:
    wanted = _id(words, 1)
    with spool.locked(PATIENCE):
        for job in spool.refresh():
            if job.id == wanted:
                _end(spool, job)


def _stop(_program: Path, spool: Spool, words: Sequence[str]) -> None:
    if words:
        raise Usage(_USAGE)
    end = time.monotonic() + _STOP_PATIENCE
    while time.monotonic() < end:
        with spool.locked(PATIENCE):
            left = [job for job in spool.refresh() if not job.state.ended]
            for job in left:
                _end(spool, job)
        if not left:
            return
        time.sleep(0.1)
    raise Unavailable(f"job {left[0].id} has not ended yet")


def _end(spool: Spool, job: Job) -> None:
    """Tell the supervisor first: whatever goes wrong after that, the job ends, and this can be done again."""
    if not job.state.ended:
        send([job.supervisor], signal.SIGTERM)
    with contextlib.suppress(OSError):  # a full disk, which this very job may have filled
        if job.state is State.QUEUED:
            spool.change(job, state=State.CANCELLED)
        elif job.state is State.RUNNING:
            spool.change(job, state=State.ENDING, ending=State.CANCELLED)


def _comment(_program: Path, spool: Spool, words: Sequence[str]) -> None:
    wanted, text = _id(words, 2), words[1]
    if len(text) > _LONGEST_COMMENT or not text.isprintable():
        raise Refused(f"a comment is one line of text, of {_LONGEST_COMMENT} characters at most")
    with spool.locked(PATIENCE):
        job = spool.job(wanted)
        if job is None or job.state is not State.RUNNING:
            raise Refused(f"job {wanted} does not run")
        spool.change(job, comment=text)


def _supervise(_program: Path, spool: Spool, words: Sequence[str]) -> None:
    supervise(spool, _id(words, 1))


_VERBS: Mapping[str, Callable[[Path, Spool, Sequence[str]], None]] = {
    "submit": _submit,
    "list": _list,
    "survey": _survey,
    "how": _how,
    "cancel": _cancel,
    "comment": _comment,
    "stop": _stop,
    "supervise": _supervise,
}


def _print_jobs(spool: Spool, wanted: Callable[[Job], bool]) -> None:
    with spool.locked(PATIENCE):
        jobs, limits = spool.refresh(), spool.limits()
    _print_counted(_rows(jobs, limits, wanted))


def _rows(jobs: Sequence[Job], limits: Limits, wanted: Callable[[Job], bool]) -> list[Mapping[str, object]]:
    user = _account()
    return [
        {
            "id": str(job.id),
            "name": job.request.name,
            "user": user,
            "state": job.state,
            "reason": waits_for(job, jobs, limits) if job.state is State.QUEUED else job.reason,
            "host": _HOST if job.state.holds else None,
            "comment": job.comment,
            "ends": int(job.changed + job.request.walltime) if job.state is State.RUNNING else None,
        }
        for job in jobs
        if wanted(job)
    ]


def _print_counted(rows: Sequence[object]) -> None:
    sys.stdout.writelines(f"{json.dumps(row)}\n" for row in [*rows, {"end": len(rows)}])


def _account() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise Refused(f"the account with the uid {os.getuid()} has no name on this machine") from None


def _script(path: Path) -> str:
    try:
        data = path.read_bytes()
        if len(data) > _LARGEST_SCRIPT:
            raise Refused(f"{path} is larger than {_LARGEST_SCRIPT} bytes")
        return data.decode()
    except OSError as error:
        raise Unavailable(f"the script cannot be read: {error}") from None
    except UnicodeDecodeError:
        raise Refused(f"{path} is not UTF-8") from None


def _id(words: Sequence[str], count: int) -> int:
    if len(words) != count or not words[0].isdecimal() or not words[0].isascii() or len(words[0]) > 10:
        raise Usage(_USAGE)
    return int(words[0])

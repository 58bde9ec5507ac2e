"""``gateway reload``: SIGHUP has the hub look at all clusters at once; a file says what came of it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gateway.errors import ConfigError
from gateway.files import write_private
from gateway.sites import read_source
from gateway.siteview import SiteView

log = logging.getLogger(__name__)

#: Seconds that the command waits for the hub's answer.
PATIENCE = 30.0
_LOCK, _ANSWER = "hub.lock", "reload.json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a cluster's site config is made of after a reload, and what is wrong with it."""

    cluster: str
    used: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    partitions: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A hub's answer: when it began to look, in nanoseconds since 1970; and what only a restart takes up."""

    began: int
    outcomes: tuple[Outcome, ...] = ()
    restart: tuple[str, ...] = field(default=())


# --- in the hub -------------------------------------------------------------------------------------


class Reloader:
    """Looks at all clusters when it is told to.

    Args:
        views: The clusters' site configs.
        site_dir: Where the trusted ones are, which were read at the start.
        run_dir: Where the answer goes.
    """

    def __init__(self, views: Mapping[str, SiteView], site_dir: Path, run_dir: Path) -> None:
        self._views = views
        self._site_dir = site_dir
        self._answer = run_dir / _ANSWER

    async def run(self, asked: asyncio.Event) -> None:
        """Do so each time that the event is set, until cancelled."""
        while True:
            await asked.wait()
            asked.clear()
            try:
                answer = await self.look()
                await asyncio.to_thread(write_private, self._answer, json.dumps(asdict(answer)).encode())
            except Exception:
                log.exception("a reload failed")

    async def look(self) -> Answer:
        """Look at all clusters at once."""
        began = time.time_ns()
        await asyncio.gather(*(view.refresh() for view in self._views.values()))
        restart = await asyncio.to_thread(_changed, self._views, self._site_dir)
        outcomes = tuple(_outcome(view) for _, view in sorted(self._views.items()))
        log.info(
            "reloaded: %s", ", ".join(f"{o.cluster} {'faulty' if o.faults else 'good'}" for o in outcomes)
        )
        return Answer(began, outcomes, restart)


def _outcome(view: SiteView) -> Outcome:
    unread = (f"the drop-ins could not be read: {view.trouble}",) if view.trouble else ()
    silent = (f"the scheduler does not answer: {view.discovery_trouble}",) if view.discovery_trouble else ()
    used = tuple(f"{source.host}:{source.file}" for source in view.sources if source.used)
    return Outcome(
        view.trusted.name,
        (view.source[1], *used),
        (*view.faults, *unread),
        (*view.disagreements, *silent),
        len(view.config.partitions),
    )


def _changed(views: Mapping[str, SiteView], site_dir: Path) -> tuple[str, ...]:
    """Return which trusted files are not as they were when the hub started."""
    known = {Path(view.source[1]): view.source[0] for view in views.values()}
    there = set(site_dir.glob("*.yaml"))
    found = [f"{path}: is new" for path in sorted(there - known.keys())]
    for path, text in sorted(known.items()):
        if path not in there:
            found.append(f"{path}: is gone")
            continue
        with suppress(ConfigError):
            if read_source(path)[0] == text:
                continue
        found.append(f"{path}: has changed")
    return tuple(found)


def write_pid(descriptor: int) -> None:
    """Say in the hub's lock file, whose lock this process has, who takes SIGHUP as the wish to reload."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


# --- in the command ---------------------------------------------------------------------------------


def ask_hub(run_dir: Path) -> Answer:
    """Have the hub look at all clusters now, and return its answer.

    Args:
        run_dir: The hub's.

    Raises:
        ConfigError: No hub runs there, it is another user's, or it does not answer.
    """
    pid, asked = _hub(run_dir), time.time_ns()
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        raise ConfigError(
            f"the hub (process {pid}) cannot be told: {error.strerror}: run this as its user, or as root"
        ) from None
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        answer = _read_answer(run_dir / _ANSWER)
        if answer is not None and answer.began >= asked:
            return answer
        time.sleep(0.1)
    raise ConfigError(f"the hub (process {pid}) has not answered within {PATIENCE:g} s: see its log")


def _hub(run_dir: Path) -> int:
    """Return the process that has the hub's lock, and reloads."""
    try:
        descriptor = os.open(run_dir / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError(f"no hub has run with {run_dir}: start it first") from None
    except OSError as error:
        raise ConfigError(f"{run_dir / _LOCK}: {error.strerror}: run this as the gateway's user") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    else:
        raise ConfigError(f"no hub runs with {run_dir}: start it; it reads everything at its start")
    finally:
        os.close(descriptor)
    if not text.isdecimal():
        raise ConfigError(f"the hub with {run_dir} is starting, or runs with --dataplane own: restart it")
    return int(text)


def _read_answer(path: Path) -> Answer | None:
    try:
        told = json.loads(path.read_bytes())
        outcomes = tuple(_outcome_of(outcome) for outcome in told["outcomes"])
        return Answer(int(told["began"]), outcomes, tuple(told["restart"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _outcome_of(told: Mapping[str, Any]) -> Outcome:
    lists: Mapping[str, Sequence[str]] = {name: told[name] for name in ("used", "faults", "notes")}
    return Outcome(
        told["cluster"],
        **{name: tuple(words) for name, words in lists.items()},
        partitions=told["partitions"],
    )

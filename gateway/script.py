"""The job script, from the site config, what was chosen and a few facts; and the exit file that it leaves.

Data never becomes syntax: every ``{{ value }}`` in a template is quoted for the shell, a value on a
scheduler's directive line has to pass the filter ``directive``, and nothing undefined or None can be printed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

import jinja2

from gateway.errors import ConfigError
from gateway.model import SERVER_ID, Choices, job_name
from gateway.schedulers import get
from gateway.siteconfig import DIRECTIVE_WORD, Application, SiteConfig

_DIRECTIVE = re.compile(DIRECTIVE_WORD, re.ASCII)
_INSTANCE = re.compile(r"[a-z2-7]{6}", re.ASCII)
_RUN = re.compile(r"[0-9a-f]{16}", re.ASCII)
_EXIT = re.compile(r"([0-9]{1,3}) ([a-z-]{1,20}) ([0-9]{1,6})\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What a job script holds beside the site config and the choices. Nothing in it is secret.

    Args:
        instance: This gateway's six letters, in the job's name.
        server_id: Names the job and its state directory.
        run: The nonce that the job publishes with its endpoint, 16 hexadecimal digits.
        user: The account that the job runs as.
        server_name: "" for the default server.
        base_url: The path under which browsers see the application, ``/user/alice/``.
        node_tls: Whether the application speaks TLS and asks for the gateway's certificate.
    """

    instance: str
    server_id: str
    run: str
    user: str
    server_name: str
    base_url: str
    node_tls: bool


class ExitWord(StrEnum):
    """How a job's wrapper says that it ended."""

    FINISHED = "finished"  # the application ended by itself, with exit status 0
    FAILED = "failed"  # it ended by itself, with another one
    TERMINATED = "terminated"  # the job was cancelled, requeued or preempted
    WALLTIME = "walltime"  # the walltime was about to end; the exit status is 0
    NO_PORT = "no-port"  # others had every port that was tried
    SILENT = "silent"  # the application never listened
    UNPUBLISHED = "unpublished"  # the scheduler did not take the endpoint
    NO_STATE = "no-state"  # the state directory is not there on the node


@dataclass(frozen=True, slots=True)
class Exit:
    """A job's own word on its end: the application's exit status, how, and the requeues until then."""

    status: int
    word: ExitWord
    restarts: int


def read_exit(text: str) -> Exit | None:
    """Return what the file ``exit`` in a state directory says, or None if it cannot be read."""
    found = _EXIT.fullmatch(text)
    if not found or found[2] not in list(ExitWord):
        return None
    return Exit(int(found[1]), ExitWord(found[2]), int(found[3]))


def render_script(site: SiteConfig, choices: Choices, job: JobFacts) -> str:
    """Return the job script.

    Args:
        site: The cluster.
        choices: As ``options.check`` returned them.
        job: The rest.

    Raises:
        ConfigError: A value cannot stand where the template puts it, or there is no such application.
    """
    for pattern, value in ((_INSTANCE, job.instance), (SERVER_ID, job.server_id), (_RUN, job.run)):
        if not pattern.fullmatch(value):
            raise ConfigError(f"job script: {value!r} is not an id")
    application = site.application(choices.application)
    if application is None:
        raise ConfigError(f"{site.name}: there is no application {choices.application!r}")
    state_in_home, state_path = _state(site.login.state_dir, job)
    template = _environment(_directory()).get_template(get(site.scheduler).template)
    return template.render(
        application=application,
        choices=choices,
        job=job,
        job_name=job_name(job.instance, job.server_id),
        login=site.login,
        ports=site.tunnel.ports,
        program=_program(application),
        shell=application.shell.split(" "),
        state_in_home=state_in_home,
        state_path=state_path,
    )


def _program(application: Application) -> str:
    """Return what the application's shell is given: the site's prologue, then the words that follow."""
    prologue = application.prologue.rstrip("\n")
    return f'{prologue}\nexec "$@"' if prologue else 'exec "$@"'


def _state(pattern: str, job: JobFacts) -> tuple[bool, str]:
    """Return whether the state directory is in the home directory, and its path there or from the root."""
    in_home = pattern == "~" or pattern.startswith("~/")
    path = pattern.removeprefix("~").replace("%u", job.user)
    if "%" in path or ".." in path.split("/"):
        raise ConfigError(
            f"login.state_dir: {pattern!r} may hold %u for the user's name, and no other % or .."
        )
    return in_home, f"{path.rstrip('/')}/{job.server_id}"


class _Word(str):
    """Text that is safe as it stands."""

    __slots__ = ()


def _directive(value: object) -> _Word:
    """Return a value for a scheduler's directive line, where no quoting helps."""
    if not isinstance(value, str | int) or not _DIRECTIVE.fullmatch(str(value)):
        raise ConfigError(f"job script: {value!r} cannot stand on a directive line")
    return _Word(value)


def _quoted(value: object) -> str:
    """Return a value as one shell word. sbatch refuses carriage returns, and no word can hold a NUL."""
    if isinstance(value, _Word):
        return value
    if isinstance(value, jinja2.Undefined) or not isinstance(value, str | int):
        raise ConfigError(f"job script: {value!r} is not a value")
    text = str(value)
    if "\0" in text or "\r" in text:
        raise ConfigError(f"job script: {text!r} holds a control character")
    return shlex.quote(text)


def _directory() -> Path:
    return Path(__file__).parent / "templates" / "batch"


@cache
def _environment(directory: Path) -> jinja2.Environment:
    """Return the templates' environment; it only caches what it compiles."""
    finalize: Callable[[object], str] = _quoted
    environment = jinja2.Environment(  # noqa: S701  not HTML: finalize quotes for the shell
        loader=jinja2.FileSystemLoader(directory),
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["directive"] = _directive
    return environment

"""The job script, from the site config, what was chosen and a few facts; and the exit file that it leaves.

Data never becomes syntax: every ``{{ value }}`` in a template is quoted for the shell, a value on a
scheduler's directive line has to pass the filter ``directive``, and nothing undefined or None can be printed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from gateway.errors import ConfigError
from gateway.model import SERVER_ID, Choices, job_name
from gateway.quoting import Quoting, Verbatim
from gateway.schedulers import Scheduler, get
from gateway.siteconfig import DIRECTIVE_WORD, Application, SiteConfig
from gateway.urls import server_path

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
        callback_url: Where the job may say its port, "" where it may not.
    """

    instance: str
    server_id: str
    run: str
    user: str
    server_name: str
    base_url: str
    node_tls: bool
    callback_url: str = ""


def preview_facts(
    user: str, server_name: str, instance: str, site: SiteConfig, callback_url: str = "", base: str = "/"
) -> JobFacts:
    """Return the facts of a script that is shown and not submitted: the id and the run nonce are examples.

    Args:
        user: The person.
        server_name: "" for the default server.
        instance: This gateway's six letters.
        site: The cluster.
        callback_url: As the job would be given it.
        base: The path of the public address.
    """
    return JobFacts(
        instance=instance,
        server_id="a" * 10,
        run="0" * 16,
        user=site.login.owner(user),
        server_name=server_name,
        base_url=server_path(user, server_name, base),
        node_tls=site.tunnel.node_security == "tls",
        callback_url=callback_url,
    )


class ExitWord(StrEnum):
    """How a job's wrapper says that it ended."""

    FINISHED = "finished"  # the application ended by itself, with exit status 0
    FAILED = "failed"  # it ended by itself, with another one
    TERMINATED = "terminated"  # the job was cancelled, requeued or preempted
    WALLTIME = "walltime"  # the walltime was about to end; the exit status is 0
    NO_PORT = "no-port"  # others had every port that was tried
    SILENT = "silent"  # the application never listened
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


def render_script(
    site: SiteConfig, choices: Choices, job: JobFacts, *, header: str = "", front: str | None = None
) -> str:
    """Return the job script, but for what the site itself writes into it: see ``gateway.rendering``.

    Args:
        site: The cluster.
        choices: As ``options.check`` returned them.
        job: The rest.
        header: What stands after the scheduler's directives, rendered.
        front: What stands before the wrapper in place of the scheduler's template, rendered.

    Raises:
        ConfigError: A value cannot stand where the template puts it, or there is no such application.
    """
    for pattern, value in ((_INSTANCE, job.instance), (SERVER_ID, job.server_id), (_RUN, job.run)):
        if not pattern.fullmatch(value):
            raise ConfigError(f"job script: {value!r} is not an id")
    application = site.application(choices.application)
    if application is None:
        raise ConfigError(f"{site.name}: there is no application {choices.application!r}")
    scheduler = get(site.scheduler)
    state_in_home, state_path = _state(site.login.state_dir, job)
    values: Mapping[str, Any] = {
        "application": application,
        "callback_url": job.callback_url or None,
        "choices": choices,
        "header": Verbatim(header.strip("\n")),
        "job": job,
        "job_name": job_name(job.instance, job.server_id),
        "login": site.login,
        "ports": site.tunnel.ports,
        "program": _program(application),
        "resources": {**scheduler.resources, **site.script.resources},
        "sockets": site.tunnel.nodes.directory(job.user) if site.tunnel.nodes else "",
        "shell": application.shell.split(" "),
        "state_in_home": state_in_home,
        "state_path": state_path,
    }
    environment = _environment(_directories(scheduler))
    if front is None:
        return environment.get_template(scheduler.template).render(values)
    return front.strip("\n") + "\n\n" + environment.get_template("wrapper.sh.j2").render(values)


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


def _directories(scheduler: Scheduler) -> tuple[Path, ...]:
    """Return where a scheduler's template is looked for: beside its own module first."""
    own = sys.modules[type(scheduler).__module__].__file__
    beside = (Path(own).parent / "templates",) if own else ()
    return (*beside, Path(__file__).parent / "templates" / "batch")


@cache
def _environment(directories: tuple[Path, ...]) -> jinja2.Environment:
    """Return the templates' environment; it only caches what it compiles."""
    environment = jinja2.Environment(  # noqa: S701  not HTML: every value is quoted for the shell
        loader=jinja2.FileSystemLoader(directories),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    Quoting(DIRECTIVE_WORD).install(environment)
    return environment

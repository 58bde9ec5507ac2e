"""The job script as it is submitted: with what the site itself writes into it, rendered in a child process.

A header and a template of a site config are Jinja from somebody else than the gateway's administrators. They
are rendered in Jinja's sandbox, in a process that has nothing: no environment, no files, a second or two of
CPU, a limit on memory and output. What comes back is text, and is looked at again here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateway import confined
from gateway.errors import ConfigError
from gateway.model import Choices, job_name
from gateway.schedulers import Scheduler
from gateway.schedulers import get as scheduler_named
from gateway.schedulers.text import FORM
from gateway.script import JobFacts, preview_facts, render_script
from gateway.siteconfig import DIRECTIVE_WORD, SiteConfig

__all__ = ["preview_facts", "render", "try_out", "writes"]

log = logging.getLogger(__name__)

#: What the child may take: seconds of CPU, bytes of memory; seconds by the clock; bytes of each text.
CPU, MEMORY, WALL = 1, 256 * 2**20, 10.0
OUTPUT = {"header": 32 * 1024, "template": 256 * 1024}
#: Fields of the form that a job may have or not: a header may say what nobody chose.
_MAYBE_CHOSEN = ("account", "qos", "reservation", "constraint", "exclusive")
_CHILD = Path(__file__).with_name("rendering_child.py")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
#: Reads a script and runs nothing of it. bash, where it is, knows all that a node's sh may know.
_SYNTAX = f"""\
ulimit -c 0 && ulimit -v {MEMORY // 1024} && ulimit -S -t {CPU} || exit 3
[ ! -x /bin/bash ] || exec /bin/bash -n
exec /bin/sh -n
"""


async def render(site: SiteConfig, choices: Choices, job: JobFacts) -> str:
    """Return the job script.

    Args:
        site: The cluster, as it is now.
        choices: As ``options.check`` returned them.
        job: The rest.

    Raises:
        ConfigError: A value cannot stand where a template puts it, there is no such application, or what the
            site writes into its scripts is no good; one sentence says what to do.
        ScriptNotRendered: The machine is too busy; it can be tried again.
    """
    plain = render_script(site, choices, job)
    sources = {name: source for name, source in _sources(site).items() if source}
    if not sources:
        return plain
    scheduler = scheduler_named(site.scheduler)
    texts = await _rendered(site, sources, _values(site, choices, job), scheduler.directive)
    for name, text in texts.items():
        await _check_complete(f"{site.name}: script.{name}", text)
    await asyncio.to_thread(_check_texts, site.name, texts, plain, scheduler, choices)
    return render_script(site, choices, job, header=texts.get("header", ""), front=texts.get("template"))


def writes(site: SiteConfig) -> bool:
    """Return whether a site writes anything into its scripts: if not, rendering needs no process."""
    return any(_sources(site).values())


async def try_out(site: SiteConfig) -> None:
    """Render what a site writes into its scripts for the sake of an example, if it writes anything.

    Raises:
        ConfigError: It is no good.
        ScriptNotRendered: The machine is too busy to know.
    """
    if not writes(site) or not site.applications:
        return
    partition = next((p.name for p in site.partitions if p.default), "example")
    extra = {field.name: field.default or next(iter(field.choices), "") for field in site.form.fields}
    application = site.applications[0].name
    choices = Choices(site.name, application, partition, walltime=60, cores=1, memory=1024, extra=extra)
    await render(site, choices, preview_facts("somebody", "", "a" * 6, site))


def _sources(site: SiteConfig) -> Mapping[str, str]:
    """Return what is rendered, in order: the template may place the header."""
    return {"header": site.script.header, "template": site.script.template}


def _values(site: SiteConfig, choices: Choices, job: JobFacts) -> Mapping[str, Any]:
    """Return what a site's own Jinja may see."""
    application = site.application(choices.application)
    return {
        "application": {"name": choices.application, "title": application.title if application else ""},
        "bin": site.login.bin,
        "choices": asdict(choices) | {"extra": dict(choices.extra)},
        "job": asdict(job),
        "job_name": job_name(job.instance, job.server_id),
    }


# --- the child --------------------------------------------------------------------------------------


async def _rendered(
    site: SiteConfig, sources: Mapping[str, str], values: Mapping[str, Any], directive: str
) -> Mapping[str, str]:
    where = f"{site.name}: script.{' and script.'.join(sources)}"
    request = {
        "path": [*sys.path, str(Path(__file__).parent.parent)],
        "word": DIRECTIVE_WORD,
        "directive": directive,
        "cpu": CPU,
        "memory": MEMORY,
        "output": OUTPUT,
        "sources": sources,
        "values": values,
    }
    most = 6 * sum(OUTPUT.values()) + 2**12  # JSON writes six characters for one at worst
    words = (sys.executable, "-I", "-S", str(_CHILD))
    question = json.dumps(request).encode()
    status, answer = await confined.ask(where, words, question, seconds=WALL, most=most)
    if status == -signal.SIGXCPU:
        raise ConfigError(f"{where}: takes more than {CPU} s to render: make it simpler")
    try:
        told = json.loads(answer)
        if "texts" not in told:
            line = f" line {told['line']}" if told["line"] else ""
            raise ConfigError(f"{site.name}: script.{told['where']}{line}: {told['fault']}")
        texts = {name: told["texts"][name] for name in sources}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{where}: could not be rendered: make it simpler (status {status}: {error})"
        ) from None
    for name, text in texts.items():
        if not isinstance(text, str) or _CONTROL.search(text):
            raise ConfigError(f"{site.name}: script.{name}: holds a control character: take it out")
    return texts


# --- what came back ---------------------------------------------------------------------------------


async def _check_complete(where: str, text: str) -> None:
    """Refuse a text that would swallow what comes after it: an open quote, here-document, block or line."""
    words = ("/bin/sh", "-c", _SYNTAX)
    for end, is_syntax in (("", True), ("\nfi", False)):  # "fi" is wrong wherever a command begins
        status, _ = await confined.ask(where, words, f"{text}{end}\n".encode(), seconds=WALL, most=2**12)
        if status == -signal.SIGXCPU:
            raise ConfigError(f"{where}: takes the shell more than {CPU} s to read: make it simpler")
        if (status == 0) is not is_syntax:
            raise ConfigError(
                f"{where}: is not complete by itself: close every quote, here-document, block and line of it"
            )


def _check_texts(
    name: str, texts: Mapping[str, str], plain: str, scheduler: Scheduler, choices: Choices
) -> None:
    _check_header(name, texts.get("header", ""), scheduler, choices)
    if "template" in texts:
        _check_front(name, texts["template"], plain, scheduler)


def _check_header(name: str, header: str, scheduler: Scheduler, choices: Choices) -> None:
    chosen = FORM.union(field for field in _MAYBE_CHOSEN if getattr(choices, field))
    if faults := scheduler.header_faults(header, chosen):
        raise ConfigError(f"{name}: script.header: {' '.join(faults)}")


def _check_front(name: str, front: str, plain: str, scheduler: Scheduler) -> None:
    """Check that a template of the site's own says all that the gateway needs, and nothing against it.

    The gateway's own directives are those of the usual script that no header may take back, but for what is
    chosen on the form, which a template may say in its own way.
    """
    where = f"{name}: script.template"
    if not front.startswith("#!/bin/sh\n"):
        raise ConfigError(f"{where}: begin with the line #!/bin/sh: the wrapper is for that shell")
    usual, present = _directives(plain, scheduler), _directives(front, scheduler)
    for line in usual:
        if scheduler.header_faults(line, ()) and line not in present:
            raise ConfigError(f"{where}: the line {line} is missing: the gateway needs it")
    if faults := scheduler.header_faults("\n".join(line for line in present if line not in usual), ()):
        raise ConfigError(f"{where}: {' '.join(faults)}")
    for needed in ("gw_restarts=", "gw_node=", "gw_listen=", "gw_publish()"):
        if not re.search(rf"^{re.escape(needed)}", front, re.MULTILINE):
            raise ConfigError(
                f"{where}: {needed} is missing, which the wrapper needs: take it from the usual script"
            )


def _directives(text: str, scheduler: Scheduler) -> list[str]:
    return [line for line in text.split("\n") if line.startswith(scheduler.directive)]

"""The job script as it is submitted: with what the site itself writes into it, rendered in a child process.

A header and a template of a site config are Jinja from somebody else than the gateway's administrators. They
are rendered in Jinja's sandbox, in a process that has nothing: no environment, no files, one second of CPU, a
limit on memory and output. What comes back is text, and is looked at again here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateway.errors import ConfigError
from gateway.model import Choices, job_name
from gateway.schedulers import Scheduler
from gateway.schedulers import get as scheduler_named
from gateway.script import JobFacts, preview_facts, render_script
from gateway.siteconfig import DIRECTIVE_WORD, SiteConfig

__all__ = ["preview_facts", "render", "try_out"]

log = logging.getLogger(__name__)

#: What the child may take: seconds of CPU, bytes of memory, bytes of each text; seconds by the clock.
CPU, MEMORY, OUTPUT, WALL = 1, 256 * 2**20, 256 * 1024, 5.0
_CHILD = Path(__file__).with_name("rendering_child.py")
_MIXED = re.compile(r"{{(?:(?!}}).)*?}}")
_FILTERED = re.compile(r"\|\s*directive\s*-?}}\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


async def render(site: SiteConfig, choices: Choices, job: JobFacts) -> str:
    """Return the job script.

    Args:
        site: The cluster, as it is now.
        choices: As ``options.check`` returned them.
        job: The rest.

    Raises:
        ConfigError: A value cannot stand where a template puts it, there is no such application, or what the
            site writes into its scripts is no good; one sentence says what to do.
    """
    plain = render_script(site, choices, job)
    sources = {name: source for name, source in _sources(site).items() if source}
    if not sources:
        return plain
    scheduler = scheduler_named(site.scheduler)
    for name, source in sources.items():
        _check_filters(f"{site.name}: script.{name}", source, scheduler.directive)
    texts = await _rendered(site, sources, _values(site, choices, job))
    header = texts.get("header", "")
    _check_header(site.name, header, scheduler)
    front = texts.get("template")
    if front is not None:
        _check_front(site.name, front, plain, scheduler)
    return render_script(site, choices, job, header=header, front=front)


async def try_out(site: SiteConfig) -> None:
    """Render what a site writes into its scripts for the sake of an example, if it writes anything.

    Raises:
        ConfigError: It is no good.
    """
    if not any(_sources(site).values()) or not site.applications:
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
    site: SiteConfig, sources: Mapping[str, str], values: Mapping[str, Any]
) -> Mapping[str, str]:
    where = f"{site.name}: script.{' and script.'.join(sources)}"
    request = {
        "path": [*sys.path, str(Path(__file__).parent.parent)],
        "word": DIRECTIVE_WORD,
        "cpu": CPU,
        "memory": MEMORY,
        "output": OUTPUT,
        "sources": sources,
        "values": values,
    }
    status, answer = await _ask_child(where, json.dumps(request).encode())
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
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


async def _ask_child(where: str, request: bytes) -> tuple[int, bytes]:
    """Run the child and return its exit status and its answer; what it started and left behind is killed.

    Raises:
        ConfigError: It took too long, or it says too much.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        str(_CHILD),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd="/",
        env={},
        start_new_session=True,
        limit=2**16,
    )
    try:
        async with asyncio.timeout(WALL):
            return await _conversation(where, child, request)
    except TimeoutError:
        raise ConfigError(f"{where}: takes more than {WALL:g} s to render: make it simpler") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await asyncio.shield(child.wait())


async def _conversation(where: str, child: asyncio.subprocess.Process, request: bytes) -> tuple[int, bytes]:
    stdin, stdout = child.stdin, child.stdout
    assert stdin is not None  # noqa: S101  it was started with pipes
    assert stdout is not None  # noqa: S101
    with suppress(ConnectionError):
        stdin.write(request)
        await stdin.drain()
    stdin.close()
    answer = bytearray()
    while part := await stdout.read(2**16):
        answer += part
        if len(answer) > 2 * 6 * OUTPUT + 2**12:  # two texts; JSON writes six characters for one at worst
            raise ConfigError(f"{where}: writes more than {OUTPUT // 1024} kB: make it shorter")
    return await child.wait(), bytes(answer)


# --- what came back ---------------------------------------------------------------------------------


def _check_filters(where: str, source: str, directive: str) -> None:
    """Refuse a value on a directive line that does not go through the filter for that."""
    for number, line in enumerate(source.split("\n"), 1):
        if directive in line:
            for value in _MIXED.findall(line):
                if not _FILTERED.search(value):
                    raise ConfigError(
                        f"{where} line {number}: write {value.removesuffix('}}').rstrip()}|directive }}}}: "
                        f"on a {directive} line no quoting helps"
                    )


def _check_header(name: str, header: str, scheduler: Scheduler) -> None:
    if faults := scheduler.header_faults(header):
        raise ConfigError(f"{name}: script.header: {' '.join(faults)}")


def _check_front(name: str, front: str, plain: str, scheduler: Scheduler) -> None:
    """Check that a template of the site's own says all that the gateway needs, and nothing against it.

    The gateway's own directives are those of the usual script that no header may take back.
    """
    where = f"{name}: script.template"
    if not front.startswith("#!/bin/sh\n"):
        raise ConfigError(f"{where}: begin with the line #!/bin/sh: the wrapper is for that shell")
    usual, present = _directives(plain, scheduler), _directives(front, scheduler)
    for line in usual:
        if scheduler.header_faults(line) and line not in present:
            raise ConfigError(f"{where}: the line {line} is missing: the gateway needs it")
    if faults := scheduler.header_faults("\n".join(line for line in present if line not in usual)):
        raise ConfigError(f"{where}: {' '.join(faults)}")
    for needed in ("gw_restarts=", "gw_node=", "gw_listen=", "gw_publish()"):
        if not re.search(rf"^{re.escape(needed)}", front, re.MULTILINE):
            raise ConfigError(
                f"{where}: {needed} is missing, which the wrapper needs: take it from the usual script"
            )


def _directives(text: str, scheduler: Scheduler) -> list[str]:
    return [line for line in text.split("\n") if line.startswith(scheduler.directive)]

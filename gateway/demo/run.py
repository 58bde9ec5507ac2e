"""The demonstration from its start to its end."""

from __future__ import annotations

import asyncio
import http.client
import logging
import os
import secrets
import signal
import ssl
import sys
import time
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.app import serve
from gateway.config import Settings, load_settings
from gateway.demo import certificate, directory, machine, place, settings, words
from gateway.demo.jobs import end_jobs, end_proxy
from gateway.demo.place import Place
from gateway.files import write_private
from gateway.localqueue import install

log = logging.getLogger(__name__)

#: Who can log in, and their uidNumbers; no account of this machine needs to have them.
PEOPLE = {"ada": 1815, "grace": 1906}
#: Without the letters and digits that look like others.
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
#: Seconds in which the gateway answers, even on a busy machine.
_WITHIN = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the person who starts the demonstration wants.

    Args:
        directory: Kept for the next time; None for a temporary one.
        port: Where HAProxy listens; None for the usual one, or any.
        browser: Whether to open a browser if there is a screen for one.
    """

    directory: Path | None = None
    port: int | None = None
    browser: bool = True


async def demonstrate(wishes: Wishes, say: Say) -> None:
    """Run the demonstration until SIGINT, SIGTERM or SIGHUP, and end all that it has started.

    Args:
        wishes: What is wanted.
        say: Shows a line to the person.

    Raises:
        GatewayError: Something is missing or does not work; one sentence says what to do. Nothing is left.
        CancelledError: It was to end before the gateway ran.
    """
    began = time.monotonic()
    account = machine.account()
    machine.check_jupyter()
    _end_on_signals()
    await _clear_up(say)
    where = place.named(wishes.directory) if wishes.directory else place.temporary()
    with where.held():
        try:
            await end_proxy(where)
            await _run(where, account, wishes, say, began)
        finally:
            await end_jobs(where)
            if wishes.directory is None:
                where.remove()


def _end_on_signals() -> None:
    """Let SIGTERM and SIGHUP end this task until the gateway takes SIGTERM over, which SIGHUP follows."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  a coroutine runs in one
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    loop.add_signal_handler(signal.SIGHUP, signal.raise_signal, signal.SIGTERM)


async def _clear_up(say: Say) -> None:
    """End and remove what demonstrations left behind that were killed."""
    for old in place.left_behind():
        say(f"Ending a demo that was killed, and removing {old.root} …")
        await end_proxy(old)
        await end_jobs(old)
        old.remove()


async def _run(where: Place, account: str, wishes: Wishes, say: Say, began: float) -> None:
    proxy, origin = await machine.proxy()
    port = machine.free_port(wishes.port)
    say(f"Starting the gateway in {where.root}, with HAProxy {proxy.version} ({origin}) …")
    fingerprint = certificate.prepare(where)
    _write_to(where)
    log.info("HAProxy %s is %s, %s", proxy.version, proxy.path, origin)
    passwords = {name: _password() for name in PEOPLE}
    reader = _password()
    entries = [directory.person(name, uid, passwords[name]) for name, uid in PEOPLE.items()]
    people = directory.serving([directory.reader(reader), *entries], certificate.server_context(where))
    async with people as directory_port:
        write_private(where.reader_password, reader.encode())
        found = _configure(where, account, port, directory_port, proxy.path)
        greeting = asyncio.create_task(_greet(where, port, passwords, fingerprint, wishes, say, began))
        try:
            await serve(found, own_data_plane=True)
        finally:
            greeting.cancel()
            say("Ending what was started …")


def _write_to(where: Place) -> None:
    """Let the log go to a file, and what needs somebody to the terminal as well."""
    file = logging.FileHandler(where.log, encoding="utf-8")
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.WARNING)
    terminal.addFilter(lambda record: record.name != "gateway.sites")  # whose jobs they are, the welcome says
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, handlers=[file, terminal], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _password() -> str:
    """Return a password that can be typed: 12 letters of 31, some 59 bits."""
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(4)) for _ in range(3))


def _configure(where: Place, account: str, port: int, directory_port: int, haproxy: str) -> Settings:
    """Write what the gateway is told, make the queue, and return the settings."""
    for made in (where.sites, where.home, where.servers, where.queue):
        made.mkdir(mode=0o700, exist_ok=True)
    install(where.queue, sys.executable)
    config = settings.gateway_config(where, machine.addresses(), port, directory_port, haproxy)
    write_private(where.config, config.encode())
    write_private(where.sites / "demo.yaml", settings.site_config(where, account).encode())
    return load_settings(where.config)


async def _greet(
    where: Place,
    port: int,
    passwords: Mapping[str, str],
    fingerprint: str,
    wishes: Wishes,
    say: Say,
    began: float,
) -> None:
    """Wait until the gateway answers, and say where it is."""
    context = certificate.client_context(where)
    end = time.monotonic() + _WITHIN
    while not await asyncio.to_thread(_answers, port, context):
        if time.monotonic() > end:
            say(f"The gateway does not answer; {where.log} may say why.")
            return
        await asyncio.sleep(0.1)
    say(f"Ready after {time.monotonic() - began:.1f} s.")
    say(words.welcome(port, passwords, fingerprint, where.root, kept=wishes.directory is not None))
    if wishes.browser and words.has_browser():
        with suppress(webbrowser.Error, OSError):
            await asyncio.to_thread(webbrowser.open, settings.public_url(port))


def _answers(port: int, context: ssl.SSLContext) -> bool:
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=5)
    try:
        connection.request("GET", "/hub/api/health", headers={"Host": f"{settings.HOST}:{port}"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def run(wishes: Wishes, say: Say) -> int:
    """Run the demonstration and return the exit status; see `demonstrate`."""
    os.umask(0o077)
    try:
        asyncio.run(demonstrate(wishes, say))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    return 0

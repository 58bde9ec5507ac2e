"""What a service manager's units run beside the hub: the keeper of the tunnels, and what HAProxy starts with.

Each is a unit of its own, so that starting the hub anew leaves the browsers' connections alone. The hub then
starts neither (``gateway run --dataplane managed``).
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gateway import parts
from gateway.config import Settings
from gateway.dataplane.haproxy import HAProxy
from gateway.dataplane.masters import Duty, Masters
from gateway.dataplane.snapshot import is_whole
from gateway.errors import ConfigError, GatewayError
from gateway.pki import Authority
from gateway.routing import INTERVAL
from gateway.servicemanager import tell_service_manager
from gateway.sites import load_sites

log = logging.getLogger(__name__)


async def prepare_haproxy(settings: Settings) -> None:
    """Write what HAProxy starts with, with the routes that it had last; what is right is left alone.

    Where that fails, and files of before are there, it is logged and HAProxy can start with those.

    Raises:
        ConfigError: Something is missing or does not fit.
        DataPlaneError: HAProxy is missing or too old, or its files cannot be written.
    """
    try:
        await _prepare_haproxy(settings)
    except GatewayError as error:
        if not is_whole(settings.run_dir / "haproxy"):
            raise
        log.error("HAProxy starts with the files of before: %s", error)


async def _prepare_haproxy(settings: Settings) -> None:
    settings.require(settings.gateway, "tls_certificate")
    settings.require_file(settings.gateway, "tls_certificate")
    run_dir = parts.private_directory(settings.run_dir, parts.proxy_group(settings))
    authority = Authority.open(parts.private_directory(settings.state_dir) / "ca")
    haproxy = HAProxy(parts.haproxy_settings(settings, authority, run_dir, managed=True))
    await haproxy.check_program()
    await haproxy.prepare()


async def keep_tunnels(settings: Settings) -> None:
    """Keep every cluster's SSH masters until SIGTERM or SIGINT; the masters go on.

    Raises:
        ConfigError: Something does not fit, or another process keeps them.
    """
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    with only_keeper(settings.run_dir):
        tasks = [asyncio.create_task(_keep(name, each)) for name, each in _tunnels(settings).items()]
        tell_service_manager("READY=1")
        log.info("the tunnels to %d clusters are kept", len(tasks))
        await stopped.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        log.info("nobody keeps the tunnels; those that are there go on")


def end_tunnels(settings: Settings) -> None:
    """End all SSH masters, whatever clusters there are now, and with them all connections to servers.

    Raises:
        ConfigError: Somebody keeps them: they would come back.
    """
    with only_keeper(settings.run_dir):
        parts.end_unclaimed_masters((), settings.run_dir, parts.proxy_group(settings))


@contextmanager
def only_keeper(run_dir: Path) -> Iterator[None]:
    """Be the one process that starts masters; the lock goes with the process, however that ends.

    Raises:
        ConfigError: Another process is, or the directory is not there.
    """
    try:
        descriptor = os.open(run_dir / "tunnels.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{run_dir} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConfigError(
            f"another process keeps the tunnels in {run_dir}: systemctl stop gateway-tunnels first, or run "
            "the hub with --dataplane managed"
        ) from None
    finally:
        os.close(descriptor)


def _tunnels(settings: Settings) -> Mapping[str, Masters]:
    group = parts.proxy_group(settings)
    run_dir = parts.private_directory(settings.run_dir, group)
    directory = parts.private_directory(run_dir / "t", group)
    sites = load_sites(Path(settings.gateway.site_dir))
    parts.end_unclaimed_masters(sites.values(), run_dir, group)
    return {
        name: Masters(parts.tunnel_settings(site, directory, group), Duty.KEEP)
        for name, site in sites.items()
        if site.tunnel.kind == "ssh"
    }


async def _keep(name: str, masters: Masters) -> None:
    while True:
        try:
            await masters.tend()
        except GatewayError as error:
            log.error("the tunnel to %s: %s", name, error)
        except Exception:
            log.exception("the tunnel to %s", name)
        await asyncio.sleep(INTERVAL)

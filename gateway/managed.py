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
from gateway.dataplane import drain
from gateway.dataplane.haproxy import HAProxy
from gateway.dataplane.masters import Duty, Masters
from gateway.dataplane.nodes import NodeTunnel
from gateway.dataplane.snapshot import is_whole
from gateway.dataplane.turns import Turns
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
    parts.require_front(settings)
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


def drain_host(settings: Settings, host: str, *, away: bool) -> list[str]:
    """Have the tunnels leave a login node, or use it again; whoever keeps them does it within seconds.

    What is open there stays until it ends by itself, or for ``tunnel.drain_minutes``. It holds until the
    run directory is emptied: at the next boot.

    Args:
        settings: The gateway's.
        host: The login node, as the site configs call it.
        away: Whether it is to be left.

    Returns:
        The clusters that it concerns.

    Raises:
        ConfigError: No tunnel goes there, or one has no other host.
    """
    group = parts.proxy_group(settings)
    directory = parts.private_directory(parts.private_directory(settings.run_dir, group) / "t", group)
    concerned = []
    for name, site in load_sites(Path(settings.gateway.site_dir)).items():
        hosts = set(site.tunnel.hosts or site.login.hosts)
        if site.tunnel.kind != "ssh" or host not in hosts:
            continue
        if away and hosts == drain.marked(directory / name) | {host}:
            raise ConfigError(
                f"{name}: {host} is the last host of its tunnel: add another to tunnel.hosts first"
            )
        concerned.append(name)
    if not concerned:
        raise ConfigError(
            f"{host} is in no site config's tunnel.hosts or login.hosts: write it as it is there"
        )
    for name in concerned:
        (drain.mark if away else drain.unmark)(directory / name, host)
    return concerned


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


def _tunnels(settings: Settings) -> Mapping[str, Masters | NodeTunnel]:
    group = parts.proxy_group(settings)
    run_dir = parts.private_directory(settings.run_dir, group)
    directory = parts.private_directory(run_dir / "t", group)
    sites = load_sites(Path(settings.gateway.site_dir))
    parts.end_unclaimed_masters(sites.values(), run_dir, group)
    turns, authority = Turns(), parts.user_authority(settings.state_dir)
    return {
        name: parts.ssh_tunnel(site, directory, group, Duty.KEEP, turns, authority)
        for name, site in sites.items()
        if site.tunnel.kind == "ssh"
    }


async def _keep(name: str, masters: Masters | NodeTunnel) -> None:
    said = ""
    while True:
        try:
            await masters.tend()
            said = ""
        except GatewayError as error:
            if said != str(error):  # it tries again every second
                log.error("the tunnel to %s: %s", name, error)
            said = str(error)
        except Exception:
            log.exception("the tunnel to %s", name)
            await asyncio.sleep(INTERVAL)
        await masters.pause(INTERVAL)

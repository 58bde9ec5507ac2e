"""The parts of the gateway, built from the settings: for the hub and for commands that need some of them."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.auth import DENIED_NAMES
from gateway.auth.ldap import LdapAuthenticator, LdapSettings
from gateway.config import Settings
from gateway.dataplane.haproxyconfig import HAProxySettings, Listener
from gateway.dataplane.masters import Masters
from gateway.dataplane.tunnel import TunnelSettings
from gateway.errors import ConfigError
from gateway.pki import Authority
from gateway.poller import Poller
from gateway.queue import Queue
from gateway.schedulers import get as scheduler_named
from gateway.servers import Cluster
from gateway.siteconfig import SiteConfig
from gateway.ssh.connection import LoginNode


def private_directory(path: Path) -> Path:
    """Make a directory that nobody else may look into, and return it.

    Raises:
        ConfigError: It cannot be made, or belongs to somebody else.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_uid != os.getuid():
            raise ConfigError(
                f"{path} belongs to another user: run this as its owner, or chown it to the gateway's user"
            )
        path.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"{path} cannot be used: {error.strerror}") from None
    return path


def login_node(site: SiteConfig) -> LoginNode:
    """Return what runs commands on a login node: an async context manager that connects when asked."""
    return LoginNode(site.login)


def cluster(site: SiteConfig, node: LoginNode, run_dir: Path) -> Cluster:
    """Return the parts that act on one cluster.

    Args:
        site: The cluster.
        node: Its login node.
        run_dir: Below which the masters of all clusters live.
    """
    scheduler = scheduler_named(site.scheduler)
    queue = Queue(site, scheduler, node)
    masters = Masters(tunnel_settings(site, private_directory(run_dir / "t")))
    return Cluster(site, scheduler, queue, Poller(queue), masters)


def tunnel_settings(site: SiteConfig, directory: Path) -> TunnelSettings:
    """Return how a site's tunnel is made: what it does not say is the login node's.

    Args:
        site: The cluster.
        directory: Below which the masters of all clusters live.
    """
    tunnel, login = site.tunnel, site.login
    return TunnelSettings(
        cluster=site.name,
        hosts=tunnel.hosts or login.hosts,
        port=tunnel.port or login.port,
        user=tunnel.user or login.user,
        key=tunnel.key or login.key,
        known_hosts=tunnel.known_hosts or login.known_hosts,
        count=tunnel.masters,
        directory=directory / site.name,
    )


def haproxy_settings(settings: Settings, authority: Authority, run_dir: Path) -> HAProxySettings:
    """Return how HAProxy is set up."""
    certificate = Path(settings.gateway.tls_certificate)
    return HAProxySettings(
        directory=run_dir / "haproxy",
        hub_socket=run_dir / "hub.sock",
        listeners=tuple(Listener(address, certificate) for address in settings.gateway.bind),
        node_ca=authority.node_ca,
        client_pem=authority.client_pem,
        program=settings.gateway.haproxy or "haproxy",
    )


def authenticator(settings: Settings) -> LdapAuthenticator:
    """Return what logs people in.

    Raises:
        ConfigError: A file that it needs cannot be used.
    """
    ldap = settings.ldap
    wanted = LdapSettings(
        servers=tuple(ldap.servers),
        ca_file=Path(ldap.ca_file),
        reader_dn=ldap.reader_dn,
        reader_password_file=Path(ldap.reader_password_file),
        base=ldap.user_base,
        name_attribute=ldap.name_attribute,
        min_uid=ldap.min_uid,
        denied=DENIED_NAMES | frozenset(ldap.denied),
        required_group=ldap.allowed_group,
        admin_group=ldap.admin_group,
        connect_timeout=ldap.timeout,
        receive_timeout=ldap.timeout,
    )
    wanted.check_files()  # now, rather than when the first person logs in
    return LdapAuthenticator(wanted)

"""The parts of the gateway, built from the settings: for the hub and for commands that need some of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial
from pathlib import Path

from gateway.auth import DENIED_NAMES
from gateway.auth.ldap import LdapAuthenticator, LdapSettings
from gateway.config import Settings
from gateway.dataplane.access import find_group, share_directory
from gateway.dataplane.direct import Direct
from gateway.dataplane.front import Front, networks
from gateway.dataplane.haproxyconfig import HAProxySettings, Listener
from gateway.dataplane.limits import Limits
from gateway.dataplane.masters import Duty, Masters
from gateway.dataplane.nodemaster import Credentials, Nodes
from gateway.dataplane.nodes import NodeTunnel
from gateway.dataplane.orphans import clear_all_but
from gateway.dataplane.tunnel import Tunnel, TunnelSettings
from gateway.dataplane.turns import Turns
from gateway.dropins import LoginNodes
from gateway.errors import ConfigError
from gateway.metrics import Timed, untimed
from gateway.origins import Layout, Origins
from gateway.orphans import Orphans
from gateway.pki import Authority
from gateway.poller import Poller
from gateway.queue import Queue
from gateway.renderer import Renderer
from gateway.schedulers import get as scheduler_named
from gateway.servers import Cluster
from gateway.servers.callback import Callback
from gateway.siteconfig import Nodes as SiteNodes
from gateway.siteconfig import SiteConfig
from gateway.sitemerge import Source
from gateway.siteview import Memory, SiteView, SiteViews
from gateway.ssh.authority import Terms, UserAuthority
from gateway.ssh.connection import LoginNode
from gateway.ssh.local import LocalNode
from gateway.ssh.runner import Runner, Users
from gateway.ssh.users import UserNodes
from gateway.store.orphans import OrphanStore


def proxy_group(settings: Settings) -> int | None:
    """Return the id of HAProxy's group, None where HAProxy runs as the gateway's own user.

    Raises:
        ConfigError: There is no such group, or the gateway's user is not in it.
    """
    name = settings.gateway.proxy_group
    return find_group(name) if name else None


def private_directory(path: Path, group: int | None = None) -> Path:
    """Make a directory that nobody else may look into, and return it.

    Args:
        path: Where.
        group: HAProxy's, which may pass through it to what is shared with it by name.

    Raises:
        ConfigError: It cannot be made, or belongs to somebody else.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_uid != os.getuid():
            raise ConfigError(
                f"{path} belongs to another user: run this as its owner, or chown it to the gateway's user"
            )
        share_directory(path, group)
    except OSError as error:
        raise ConfigError(f"{path} cannot be used: {error.strerror}") from None
    return path


def login_node(site: SiteConfig) -> AbstractAsyncContextManager[Runner]:
    """Return what runs commands on a login node: an async context manager that connects when asked.

    Raises:
        ConfigError: The login node is this host, and the gateway runs as another account than ``login.user``.
    """
    return LocalNode(site.login) if site.login.transport == "local" else LoginNode(site.login)


def user_nodes(site: SiteConfig, state_dir: Path, instance: str) -> UserNodes | None:
    """Return the login node as each of its users, where the gateway's certificates let it be them.

    Args:
        site: The cluster.
        state_dir: Below which the SSH CA is.
        instance: Which gateway this is, as in its jobs' names.

    Raises:
        ConfigError: The site wants certificates, and there is no CA.
    """
    if site.login.act_as != "certificate":
        return None
    return UserNodes.of(site.login, user_authority(state_dir), instance, site.name)


def user_authority(state_dir: Path) -> UserAuthority:
    """Return the SSH CA that certifies users; it may have no key yet."""
    return UserAuthority(state_dir / "ssh-ca")


def cluster(
    site: SiteConfig,
    node: Runner,
    run_dir: Path,
    group: int | None = None,
    duty: Duty = Duty.ALL,
    users: Users | None = None,
    timed: Timed = untimed,
    authority: UserAuthority | None = None,
) -> Cluster:
    """Return the parts that act on one cluster.

    Args:
        site: The cluster.
        node: Its login node.
        run_dir: Below which the tunnels of all clusters live.
        group: HAProxy's, where it runs as a user of its own.
        duty: What this process does for the masters.
        users: Its login node as each of its users, for ``act_as: certificate``.
        timed: Puts down how long each command on the login node took.
        authority: The SSH CA, for ``node_security: ssh``.

    Raises:
        ConfigError: It is needed, and has no key.
    """
    scheduler = scheduler_named(site.scheduler)
    queue = Queue(site, scheduler, node, users=users, timed=timed)
    view = SiteView.fixed(site)
    return Cluster(view, scheduler, queue, Poller(queue), tunnel(site, run_dir, group, duty, authority))


def site_view(
    cluster: Cluster, node: Runner, trusted: Source, instance: str, memory: Memory, renderer: Renderer
) -> SiteView:
    """Return a cluster's site config as it will be kept up to date.

    Args:
        cluster: The cluster as its trusted site config has it.
        node: Its login node.
        trusted: The text of that file, and its name.
        instance: Which gateway this is, as in its jobs' names.
        memory: Keeps the last good drop-ins.
        renderer: Tries out what they write into job scripts.
    """
    site = cluster.site
    login = site.login
    looks = None
    if login.dropins is not None:
        hosts = login.hosts or ("localhost",)
        looks = LoginNodes(hosts, login.dropins, node, partial(_one_host, site))
    discover = partial(cluster.queue.discover, instance)
    return SiteView(trusted, site, looks=looks, discover=discover, memory=memory, renderer=renderer)


def orphans(
    settings: Settings,
    instance: str,
    store: OrphanStore,
    clusters: Mapping[str, Cluster],
    views: SiteViews,
) -> Orphans:
    """Return what looks for jobs of this gateway that no server answers for."""
    queues = {name: cluster.queue for name, cluster in clusters.items()}
    grace = timedelta(hours=settings.gateway.orphan_grace_hours)
    return Orphans(instance, store, queues, views.discoveries, grace)


def _one_host(site: SiteConfig, host: str) -> AbstractAsyncContextManager[Runner]:
    return LoginNode(site.login.model_copy(update={"hosts": (host,)}))


def tunnel(
    site: SiteConfig,
    run_dir: Path,
    group: int | None = None,
    duty: Duty = Duty.ALL,
    authority: UserAuthority | None = None,
) -> Tunnel:
    """Return the way to a cluster's nodes. The arguments are those of `cluster`."""
    directory = private_directory(run_dir / "t", group)
    if site.tunnel.kind == "direct":
        return Direct(site.name, directory / site.name)
    return ssh_tunnel(site, directory, group, duty, authority=authority)


def ssh_tunnel(
    site: SiteConfig,
    directory: Path,
    group: int | None = None,
    duty: Duty = Duty.ALL,
    turns: Turns | None = None,
    authority: UserAuthority | None = None,
) -> Masters | NodeTunnel:
    """Return a cluster's way over SSH: to its login nodes, or by these to its compute nodes.

    Args:
        site: The cluster.
        directory: Below which the masters of all clusters live.
        group: HAProxy's, where it runs as a user of its own.
        duty: What this process does for the masters.
        turns: Whose turn it is to connect.
        authority: The SSH CA, for ``node_security: ssh``.

    Raises:
        ConfigError: The settings cannot work, or the CA is needed and has no key.
    """
    settings = tunnel_settings(site, directory, group)
    masters = Masters(settings, duty, turns)
    if site.tunnel.nodes is None:
        return masters
    if authority is None:
        raise ConfigError(f"{site.name}: node_security: ssh needs the SSH CA")
    authority.keys()
    return NodeTunnel(masters, settings, node_settings(site, site.tunnel.nodes, authority), duty)


def node_settings(site: SiteConfig, nodes: SiteNodes, authority: UserAuthority) -> Nodes:
    """Return how the compute nodes of a site are reached as their users.

    Args:
        site: The cluster.
        nodes: What it says of them.
        authority: The SSH CA.
    """

    def certify(user: str, command: str) -> Credentials:
        terms = Terms(
            instance="node-leg",
            cluster=site.name,
            command=command,
            minutes=nodes.certificate_minutes,
            source_addresses=tuple(map(str, nodes.source_addresses)),
            forwarding=True,
        )
        made = authority.certify(user, terms)
        return Credentials(made.private, made.line)

    return Nodes(nodes.known_hosts, nodes.port, nodes.directory, certify)


def end_unclaimed_masters(sites: Iterable[SiteConfig], run_dir: Path, group: int | None = None) -> None:
    """End the masters of clusters that have a tunnel over SSH no more; for the one process that starts any.

    Args:
        sites: All clusters that there are now.
        run_dir: Below which the tunnels of all clusters live.
        group: HAProxy's, where it runs as a user of its own.
    """
    claimed = {site.name for site in sites if site.tunnel.kind == "ssh"}
    clear_all_but(private_directory(run_dir / "t", group), claimed)


def tunnel_settings(site: SiteConfig, directory: Path, group: int | None = None) -> TunnelSettings:
    """Return how a site's tunnel over SSH is made: what it does not say is the login node's.

    Args:
        site: The cluster.
        directory: Below which the masters of all clusters live.
        group: HAProxy's, where it runs as a user of its own.
    """
    tunnel, login = site.tunnel, site.login
    key, known_hosts = tunnel.key or login.key, tunnel.known_hosts or login.known_hosts
    hosts = tunnel.hosts or login.hosts
    return TunnelSettings(
        cluster=site.name,
        hosts=hosts,
        port=tunnel.port or login.port,
        user=tunnel.user or login.user,
        key=key,
        known_hosts=known_hosts,
        count=tunnel.masters * len(hosts),
        directory=directory / site.name,
        group=group,
        jump=tunnel.jump.before(key, known_hosts) if tunnel.jump else login.hop,
        bulk=tunnel.bulk_masters,
        certificate=tunnel.certificate,
        drain=60.0 * tunnel.drain_minutes,
    )


def callback(settings: Settings, origins: Origins) -> Callback:
    """Return where jobs call in their ports, on clusters that let them.

    Raises:
        ConfigError: The CA's file cannot be read.
    """
    ca = settings.gateway.callback_ca
    if ca:
        settings.require_file(settings.gateway, "callback_ca")
    return Callback(origins.hub_url("/hub/api/callback/"), Path(ca).read_bytes() if ca else b"")


def require_front(settings: Settings) -> None:
    """Check that what browsers come in by has been set.

    Raises:
        ConfigError: Something is missing, or the certificate's file cannot be read.
    """
    settings.require(settings.gateway, "public_url")
    if settings.gateway.bind:
        settings.require(settings.gateway, "tls_certificate")
        settings.require_file(settings.gateway, "tls_certificate")


def haproxy_settings(
    settings: Settings, authority: Authority, run_dir: Path, *, managed: bool = False
) -> HAProxySettings:
    """Return how HAProxy is set up; ``managed`` says that a service manager starts it."""
    certificate = Path(settings.gateway.tls_certificate)
    origins = Origins.of(settings.gateway.public_url, settings.gateway.layout)
    front = Front(networks(settings.gateway.trusted_proxies), settings.gateway.proxy_protocol)
    front.check_plain(settings.gateway.plain_bind)
    return HAProxySettings(
        directory=run_dir / "haproxy",
        hub_socket=run_dir / "hub.sock",
        listeners=(
            *(Listener(address, certificate) for address in settings.gateway.bind),
            *(Listener(address) for address in settings.gateway.plain_bind),
        ),
        node_ca=authority.node_ca,
        client_pem=authority.client_pem,
        program=settings.gateway.haproxy or "haproxy",
        managed=managed,
        group=proxy_group(settings),
        redirects=tuple(settings.gateway.http_bind),
        public=origins.hub_origin.removeprefix("https://"),
        users_below=origins.layout is Layout.PER_USER,
        hsts=settings.gateway.hsts_days * 24 * 3600 if origins.may_insist else 0,
        hard_stop=settings.gateway.hard_stop_hours * 3600,
        limits=Limits(
            connections=settings.gateway.server_connections,
            requests=settings.gateway.server_requests,
            bandwidth=settings.gateway.server_bandwidth * 1_000_000,
        ),
        access_log=settings.gateway.access_log,
        front=front,
        base=origins.base,
    )


def directory_settings(settings: Settings) -> LdapSettings:
    """Return how the directory is asked.

    Raises:
        ConfigError: A setting is missing.
    """
    ldap = settings.ldap
    settings.require(ldap, "servers", "ca_file")
    if not ldap.user_dn:
        settings.require(ldap, "reader_dn", "reader_password_file")
    if "=" not in ldap.user_dn:
        settings.require(ldap, "user_base")
    return LdapSettings(
        servers=tuple(ldap.servers),
        ca_file=Path(ldap.ca_file),
        tls=ldap.tls,
        reader_dn=ldap.reader_dn,
        reader_password_file=Path(ldap.reader_password_file) if ldap.reader_password_file else None,
        user_dn=ldap.user_dn,
        base=ldap.user_base,
        user_filter=ldap.user_filter,
        name_attribute=ldap.name_attribute,
        uid_attribute=ldap.uid_attribute,
        min_uid=ldap.min_uid,
        denied=DENIED_NAMES | frozenset(ldap.denied),
        required_group=ldap.allowed_group,
        admin_group=ldap.admin_group,
        group_base=ldap.group_base,
        password_url=ldap.password_url,
        connect_timeout=ldap.timeout,
        receive_timeout=ldap.timeout,
    )


def authenticator(settings: Settings) -> LdapAuthenticator:
    """Return what logs people in.

    Raises:
        ConfigError: A setting is missing or cannot work, or a file that it needs cannot be used.
    """
    wanted = directory_settings(settings)
    wanted.check_files()  # now, rather than when the first person logs in
    return LdapAuthenticator(wanted)

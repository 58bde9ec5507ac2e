"""The only place where objects are built: from the settings to a hub that serves."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import resource
import signal
import ssl
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket

from gateway import parts
from gateway.config import Settings
from gateway.dataplane.access import share_socket
from gateway.dataplane.haproxy import HAProxy
from gateway.dataplane.masters import Duty
from gateway.dataplane.probe import client_context
from gateway.dataplane.tunnel import Tunnel
from gateway.errors import ConfigError, GatewayError
from gateway.managed import only_keeper
from gateway.metrics import Metrics
from gateway.origins import Origins
from gateway.orphans import Orphans
from gateway.pki import Authority
from gateway.reload import Reloader, write_pid
from gateway.renderer import Renderer
from gateway.routing import Routing
from gateway.sampling import Sampling
from gateway.servers import Cluster, Servers
from gateway.servicemanager import tell_service_manager
from gateway.siteconfig import SiteConfig
from gateway.sites import check_together, load_sites, read_sites, read_source
from gateway.siteview import SiteViews
from gateway.ssh.transport import quiet_library_log
from gateway.store import Database, History, ServerStore, SessionStore, SiteViewStore, keep_short, upgrade
from gateway.store.orphans import OrphanStore
from gateway.store.sealed import Seal
from gateway.store.upgrade import current, head
from gateway.web import make_application, make_server
from gateway.web.services import Services

log = logging.getLogger(__name__)

#: Seconds that a hub may still hold its directories after it was told to end.
HUB_ENDS_WITHIN = 5.0


async def prepare_database(url: str) -> None:
    """Make an empty database's schema.

    Raises:
        ConfigError: The database is of another version.
    """
    revision = await current(url)
    if revision is None:
        await upgrade(url)
    elif revision != head():
        raise ConfigError(f"the database has schema {revision}, not {head()}: run gateway db upgrade")


@asynccontextmanager
async def stores(settings: Settings) -> AsyncIterator[tuple[Database, SessionStore, ServerStore]]:
    """Open the database and what is kept in it."""
    parts.private_directory(settings.state_dir)
    await prepare_database(settings.database_url)
    seal = Seal.open(settings.state_dir / "secret.key")
    async with Database(settings.database_url) as database:
        yield database, SessionStore(database), ServerStore(database, seal)


async def serve(settings: Settings, *, own_data_plane: bool, managed: bool = False) -> None:
    """Run the hub until SIGTERM or SIGINT.

    Args:
        settings: Checked.
        own_data_plane: Whether HAProxy and the OpenSSH masters end with the hub; else they go on.
        managed: Whether a service manager starts them, and the hub never does.

    Raises:
        ConfigError: Something is missing or does not fit; nothing has been started.
        DataPlaneError: HAProxy is missing, too old, or cannot start.
    """
    quiet_library_log()
    parts.require_front(settings)
    sites = load_sites(Path(settings.gateway.site_dir))
    check_together(sites.values(), managed=managed)
    group = parts.proxy_group(settings)
    run_dir = parts.private_directory(settings.run_dir, group)
    _allow_many_connections()
    stopped, reload = _signals(reloads=not own_data_plane)
    async with AsyncExitStack() as stack:
        authenticator = parts.authenticator(settings)
        stack.callback(authenticator.close)
        lock = await _keep_to_one_hub(stack, run_dir)
        await _keep_to_one_hub(stack, parts.private_directory(settings.state_dir))
        if not own_data_plane:
            write_pid(lock)
        if not managed:
            stack.enter_context(only_keeper(run_dir))
        database, sessions, records = await stack.enter_async_context(stores(settings))
        authority = await asyncio.to_thread(Authority.open, settings.state_dir / "ca")
        context = client_context(authority)
        origins = Origins.of(settings.gateway.public_url, settings.gateway.layout)
        instance = await database.instance()
        duty = Duty.CARRY if managed else Duty.ALL
        memory = SiteViewStore(database)
        renderer = Renderer()
        metrics = Metrics()
        clusters = await _clusters(
            stack, settings, sites.values(), run_dir, instance, duty, memory, renderer, metrics
        )
        views = SiteViews((name, cluster.view) for name, cluster in clusters.items())
        haproxy = HAProxy(parts.haproxy_settings(settings, authority, run_dir, managed=managed))
        await haproxy.check_program()
        tunnels = {name: cluster.tunnel for name, cluster in clusters.items()}
        if not managed:
            parts.end_unclaimed_masters(sites.values(), run_dir, group)
        if own_data_plane:
            stack.callback(parts.end_unclaimed_masters, (), run_dir, group)  # after those that are known
            stack.push_async_callback(_stop_data_plane, haproxy, tunnels)
        routing = Routing(records, sessions, haproxy, tunnels, origins, _node_contexts(sites, context))
        callback = parts.callback(settings, origins)
        servers = Servers(
            instance, records, routing, authority, clusters, metrics, callback, renderer, origins.base
        )
        orphans = parts.orphans(settings, instance, OrphanStore(database), clusters, views)
        pages = replace(
            Services(authenticator, origins, views.sites, sessions, records, servers, routing),
            discoveries=views.discoveries,
            views=views,
            news=servers.news,
            instance=instance,
            callback_url=callback.url,
            renderer=renderer,
            orphans=orphans,
            metrics=_sampling(metrics, records, haproxy, routing, clusters, orphans).exposition,
            session_lifetime=timedelta(hours=settings.gateway.session_hours),
            contact=settings.gateway.contact,
        )
        stack.push_async_callback(_close_web, _listen(pages, run_dir / "hub.sock", group))
        await stack.enter_async_context(routing)
        await stack.enter_async_context(servers)
        for endless in (
            _keep_renewing(authority, context),
            metrics.watch_loop(),
            keep_short(History(database), settings.gateway.history_days),
            Reloader(views, Path(settings.gateway.site_dir), run_dir).run(reload),
            orphans.run(),
            *(view.run() for view in views.values()),
        ):
            stack.callback(asyncio.create_task(endless).cancel)
        tell_service_manager("READY=1")
        log.info("the gateway is at %s", origins.hub_url("/"))
        await stopped.wait()
        log.info("the hub stops; running servers go on")


def _sampling(
    metrics: Metrics,
    records: ServerStore,
    haproxy: HAProxy,
    routing: Routing,
    clusters: Mapping[str, Cluster],
    orphans: Orphans,
) -> Sampling:
    """Return what monitoring reads from."""
    tunnels = {name: cluster.tunnel for name, cluster in clusters.items()}
    pollers = {name: cluster.poller for name, cluster in clusters.items()}
    return Sampling(metrics, records, haproxy, routing.table, tunnels, pollers, orphans)


async def _keep_to_one_hub(stack: AsyncExitStack, directory: Path) -> int:
    """Lock a directory until this hub ends, however it ends: two would do everything twice. Return the lock.

    Raises:
        ConfigError: Another hub has the directory, and is not just ending.
    """
    descriptor = os.open(directory / "hub.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, descriptor)
    end = asyncio.get_running_loop().time() + HUB_ENDS_WITHIN
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if asyncio.get_running_loop().time() > end:
                raise ConfigError(f"another gateway is running with {directory}: stop it first") from None
            await asyncio.sleep(0.1)
        else:
            os.ftruncate(descriptor, 0)  # the process that had it before is not to be told anything
            return descriptor


def _allow_many_connections() -> None:
    """Let this process, and the masters that it starts, open as many files as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _keep_renewing(authority: Authority, context: ssl.SSLContext) -> None:
    """Renew the client certificate in time, once a day; HAProxy takes up what has changed."""
    while True:
        await asyncio.sleep(24 * 3600)
        try:
            if await asyncio.to_thread(authority.renew_client):
                context.load_cert_chain(authority.client_pem)
        except (GatewayError, OSError):
            log.exception("the client certificate for the compute nodes could not be renewed")


def _signals(*, reloads: bool) -> tuple[asyncio.Event, asyncio.Event]:
    """Return what is set by the wish to stop, and what by SIGHUP, the wish to reload.

    Where the hub's terminal was closed, SIGHUP is the wish to stop.
    """
    stopped, reload = asyncio.Event(), asyncio.Event()
    loop, terminal = asyncio.get_running_loop(), os.isatty(2)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    def hang_up() -> None:
        (stopped if terminal and not os.isatty(2) else reload).set()

    if reloads:
        loop.add_signal_handler(signal.SIGHUP, hang_up)
    return stopped, reload


async def _clusters(
    stack: AsyncExitStack,
    settings: Settings,
    sites: Collection[SiteConfig],
    run_dir: Path,
    instance: str,
    duty: Duty,
    memory: SiteViewStore,
    renderer: Renderer,
    metrics: Metrics,
) -> dict[str, Cluster]:
    """Return the clusters by name, as a hub last knew them; their connections end with the stack."""
    group = parts.proxy_group(settings)
    users = {site.name: parts.user_nodes(site, settings.state_dir, instance) for site in sites}
    authority = parts.user_authority(settings.state_dir)
    files, _ = read_sites(Path(settings.gateway.site_dir))
    found = {}
    for site in sites:
        node = await stack.enter_async_context(parts.login_node(site))
        if (nodes := users[site.name]) is not None:
            await stack.enter_async_context(nodes)
        cluster = parts.cluster(site, node, run_dir, group, duty, nodes, metrics.timed(site.name), authority)
        source = read_source(files[site.name][1])
        view = parts.site_view(cluster, node, source, instance, memory, renderer)
        await view.recall()
        found[site.name] = replace(cluster, view=view)
    return found


def _node_contexts(
    sites: Mapping[str, SiteConfig], context: ssl.SSLContext
) -> Mapping[str, ssl.SSLContext | None]:
    for site in sites.values():
        if site.tunnel.node_security == "plain":
            who = "other users of a compute node"
            if site.tunnel.kind == "direct":
                who += ", and of the network on the way to it,"
            log.warning(
                "%s: node_security is plain: %s can read and stand in for the applications there",
                site.name,
                who,
            )
    return {name: context if site.tunnel.node_security == "tls" else None for name, site in sites.items()}


def _listen(services: Services, path: Path, group: int | None) -> HTTPServer:
    server = make_server(make_application(services))
    server.add_socket(bind_unix_socket(str(path), mode=0o600))
    share_socket(path, group)
    return server


async def _close_web(server: HTTPServer) -> None:
    server.stop()
    try:
        async with asyncio.timeout(2):
            await server.close_all_connections()
    except TimeoutError:
        log.debug("open pages were cut off")


async def _stop_data_plane(haproxy: HAProxy, tunnels: Mapping[str, Tunnel]) -> None:
    try:
        await haproxy.stop()
    finally:
        for tunnel in tunnels.values():
            await tunnel.stop()

"""The steps on the gateway's own host, in the order of the path."""

from __future__ import annotations

import errno
import math
import os
import pwd
import resource
import shutil
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gateway import parts
from gateway.config import Settings
from gateway.dataplane import process
from gateway.dataplane.haproxyconfig import HAProxySettings, Listener
from gateway.dataplane.snapshot import Snapshot
from gateway.doctor import certificate
from gateway.doctor.check import Finding, Status, not_ok, ok, skipped, warning, worst
from gateway.doctor.directory import directory_steps
from gateway.doctor.listening import Holder, holders
from gateway.doctor.patient import STRANGER
from gateway.doctor.reach import resolve
from gateway.doctor.running import Running, open_files
from gateway.doctor.scratch import scratch
from gateway.doctor.walk import Step, in_thread
from gateway.errors import ConfigError, DataPlaneError
from gateway.origins import Layout, Origins
from gateway.pki import Authority
from gateway.siteconfig import SiteConfig
from gateway.sites import faults_together
from gateway.store.upgrade import current, head

#: Open files below which HAProxy takes fewer than about 2,000 browsers' connections.
_FILES = 4096
_NO_TLS = "none is needed: TLS ends in front of the gateway (c.Gateway.bind is empty)"
_INSTALL_SSH = "apt install openssh-client   (Rocky: dnf install openssh-clients)"


@dataclass(frozen=True, slots=True)
class Host:
    """The gateway's host.

    Args:
        settings: The gateway's.
        sites: The site configs that could be read.
        faults: What is wrong with the others, a line each.
        user: Somebody who may use the gateway, if one was named.
    """

    settings: Settings
    sites: Mapping[str, SiteConfig]
    faults: str = ""
    user: str | None = None

    def steps(self) -> list[Step]:
        """Return the steps."""
        running = Running(self.settings)
        return [
            Step("configuration", self.configuration),
            Step("site configs", self.site_configs),
            Step("public name", lambda: in_thread(self._public_name), ("configuration",)),
            Step("state directory", lambda: in_thread(self._state_directory)),
            Step("run directory", lambda: in_thread(self._run_directory), ("configuration",)),
            Step("database", self.database, ("state directory",)),
            Step("certificate file", lambda: in_thread(self._certificate_file), ("configuration",)),
            Step("certificate names", lambda: in_thread(self._certificate_names), ("certificate file",)),
            Step("certificate dates", lambda: in_thread(self._certificate_dates), ("certificate file",)),
            Step("haproxy", self.haproxy),
            Step("haproxy configuration", self.haproxy_configuration, ("haproxy", "certificate file")),
            Step("public port", self.public_port, ("configuration",)),
            Step("the hub runs", running.hub, ("configuration", "state directory", "run directory")),
            Step("HAProxy runs", running.haproxy, ("configuration", "run directory")),
            Step("the tunnels' keeper runs", self.keeper, ("configuration", "run directory")),
            Step("open files", lambda: in_thread(self._open_files)),
            Step("ssh client", self.ssh_client),
            *directory_steps(self.settings),
        ]

    # --- what it is told ------------------------------------------------------------------------------

    async def configuration(self) -> Finding:
        """Say whether the settings that have no default are there, and make sense."""
        settings, source = self.settings, self.settings.source
        try:
            settings.require(settings.gateway, "public_url")
            if settings.gateway.bind:
                settings.require(settings.gateway, "tls_certificate")
            self._origins()
        except ConfigError as error:
            return not_ok(str(error), f"Set it in {source}.")
        return ok(f"{source}: {settings.gateway.public_url}, layout {settings.gateway.layout}")

    def _public_name(self) -> Finding:
        """Say whether browsers' names lead here, as far as this host's own resolver knows."""
        origins = self._origins()
        hosts = dict.fromkeys((origins.host, origins.host_of(self.user or STRANGER)))
        if origins.host.endswith("localhost"):
            return ok(f"{origins.host}: browsers know it by themselves")
        together = worst(resolve(host) for host in hosts)
        if together.status is Status.OK:
            return together
        return warning(
            together.seen,
            f"An A or AAAA record for {origins.host}"
            + (f", and a wildcard for *.{origins.host} with the same address" if len(hosts) > 1 else "")
            + f" (browsers' DNS may know it all the same).\n{together.mend}",
        )

    async def site_configs(self) -> Finding:
        """Say whether all site configs can be used."""
        place = self.settings.gateway.site_dir
        faults = [*filter(None, [self.faults]), *faults_together(self.sites.values())]
        if faults:
            return not_ok("\n".join(faults), f"Mend it, then: gateway check {place}/*.yaml")
        return ok(f"{place}: {', '.join(sorted(self.sites))}")

    def _origins(self) -> Origins:
        return Origins.of(self.settings.gateway.public_url, self.settings.gateway.layout)

    # --- directories and the database -----------------------------------------------------------------

    def _state_directory(self) -> Finding:
        return _private(self.settings.state_dir, "c.Gateway.state_dir", 0)

    def _run_directory(self) -> Finding:
        run_dir = self.settings.run_dir
        try:
            HAProxySettings(run_dir / "haproxy", run_dir / "hub.sock", (Listener(":443"),))
            for site in self.sites.values():
                if site.tunnel.kind == "ssh":
                    parts.tunnel_settings(site, run_dir / "t").check()
        except ConfigError as error:
            return not_ok(str(error), f"Set c.Gateway.run_dir = '/run/gateway' in {self.settings.source}.")
        # HAProxy's group may pass through it, where it is a user of its own.
        return _private(run_dir, "c.Gateway.run_dir", 0o010 if self.settings.gateway.proxy_group else 0)

    async def database(self) -> Finding:
        """Say whether the database answers and has the schema that this version needs."""
        url, source = self.settings.database_url, self.settings.source
        scheme, _, path = url.partition(":///")
        if scheme.startswith("sqlite") and path and not await in_thread(Path(path).exists):
            return ok(f"{path} is not there yet; the hub's first start makes it")
        try:
            revision = await current(url)
        except ConfigError as error:
            return not_ok(str(error), f"See c.Gateway.database_url in {source}, and who owns what it names.")
        if revision is None:
            return ok("it is empty; the hub's first start makes its schema")
        if revision != head():
            return not_ok(
                f"it has schema {revision}, and this version needs {head()}",
                f"gateway db upgrade -f {source}",
            )
        return ok(f"it answers, schema {revision}")

    # --- the certificate ------------------------------------------------------------------------------

    def _certificate_file(self) -> Finding:
        if not self.settings.gateway.bind:
            return ok(_NO_TLS)
        path = self._certificate_path
        try:
            return certificate.pair(path.read_bytes(), path)
        except OSError as error:
            return not_ok(
                f"{path}: {error.strerror}",
                f"install -o {_me()} -m 0600 fullchain-and-key.pem {path}\n"
                f"or set c.Gateway.tls_certificate in {self.settings.source}.",
            )

    def _certificate_names(self) -> Finding:
        if not self.settings.gateway.bind:
            return skipped(_NO_TLS)
        origins, path = self._origins(), self._certificate_path
        names = [origins.host] + ([f"*.{origins.host}"] if origins.layout is Layout.PER_USER else [])
        return certificate.covers(path.read_bytes(), names, path)

    def _certificate_dates(self) -> Finding:
        if not self.settings.gateway.bind:
            return skipped(_NO_TLS)
        path = self._certificate_path
        return certificate.lasts(path.read_bytes(), datetime.now(UTC), path)

    @property
    def _certificate_path(self) -> Path:
        return Path(self.settings.gateway.tls_certificate)

    # --- programs -------------------------------------------------------------------------------------

    async def haproxy(self) -> Finding:
        """Say whether there is an HAProxy that is new enough."""
        source = self.settings.source
        try:
            program = await process.find_program(self.settings.gateway.haproxy or "haproxy")
        except DataPlaneError as error:
            return not_ok(
                str(error),
                "apt install haproxy   (Rocky 9's is too old: see docs/install.rst)\n"
                f"or set c.Gateway.haproxy = '/path/to/haproxy' in {source}.",
            )
        return ok(f"{program.path} {program.version}")

    async def haproxy_configuration(self) -> Finding:
        """Say whether HAProxy takes the configuration that it would get."""
        program = await process.find_program(self.settings.gateway.haproxy or "haproxy")
        with scratch() as directory:
            try:
                authority = await in_thread(lambda: self._authority(directory))
                snapshot = Snapshot(parts.haproxy_settings(self.settings, authority, directory))
                await in_thread(snapshot.rewrite)
                await process.check_config(program, snapshot.config)
            except (ConfigError, DataPlaneError) as error:
                words = str(error).replace(f"{directory}/haproxy", f"{self.settings.run_dir}/haproxy")
                return not_ok(
                    words, f"See what {self.settings.source} says of it (c.Gateway.bind, tls_certificate)."
                )
        return ok("haproxy -c takes the one that it would get")

    def _authority(self, scratch: Path) -> Authority:
        """Return the gateway's own authority, or one that stands in for it before the hub's first start."""
        own = self.settings.state_dir / "ca"
        ours = own.parent.stat().st_uid == os.getuid() and (own / "client.pem").exists()
        return Authority.open(own if ours else scratch / "ca")

    async def ssh_client(self) -> Finding:
        """Say whether there is an OpenSSH client that takes the options of the tunnels."""
        if all(site.tunnel.kind == "direct" for site in self.sites.values()):
            return skipped("no cluster has a tunnel over SSH")
        try:
            _, said = await process.run(("ssh", "-V"), 5)
            options = ("-F", "/dev/null", "-G", "-o", "Ciphers=^aes128-gcm@openssh.com", "login")
            status, answer = await process.run(("ssh", *options), 5)
        except DataPlaneError as error:
            return not_ok(str(error), _INSTALL_SSH)
        version = said.partition(",")[0].strip()
        if status != 0:
            return not_ok(f"{version} is too old: {answer.strip().splitlines()[-1]}", _INSTALL_SSH)
        return ok(f"{shutil.which('ssh')} {version}")

    # --- what the machine gives -----------------------------------------------------------------------

    async def keeper(self) -> Finding:
        """Say whether somebody keeps the tunnels, where there are any over SSH."""
        if all(site.tunnel.kind == "direct" for site in self.sites.values()):
            return skipped("no cluster has a tunnel over SSH")
        return await Running(self.settings).keeper()

    async def public_port(self) -> Finding:
        """Say whether HAProxy listens at its addresses, or could."""
        own, source = str(self.settings.run_dir / "haproxy"), self.settings.source
        answers = await Running(self.settings).haproxy_answers()
        group = parts.proxy_group(self.settings)
        proxy = Proxy(own, group, answers)
        addresses = [*self.settings.gateway.bind, *self.settings.gateway.plain_bind]
        return await in_thread(lambda: worst(_listener(address, proxy, source) for address in addresses))

    def _open_files(self) -> Finding:
        """Say how many files the hub may have open: this process's limits are a shell's."""
        pid = Running(self.settings).hub_pid()
        most = open_files(pid) if pid else None
        whose = "the hub" if most is not None else "this shell (what the units may is not known)"
        if most is None:
            _, here = resource.getrlimit(resource.RLIMIT_NOFILE)
            most = math.inf if here == resource.RLIM_INFINITY else here
        if most < _FILES:
            return warning(
                f"{whose}: at most {most:.0f}: HAProxy takes with so many about "
                f"{max(100, int(most - 300) // 2)} connections of browsers",
                "LimitNOFILE=65536 in the units, or: ulimit -Hn 65536 before gateway run",
            )
        return ok(f"{whose}: at most {'as many as one likes' if most == math.inf else f'{most:.0f}'}")


def _private(path: Path, setting: str, shared: int) -> Finding:
    """Say whether a directory belongs to who runs this, and is closed to others, but for ``shared``."""
    make = f"install -d -o {_me()} -m 0700 {path}"
    try:
        status = path.stat()
    except FileNotFoundError:
        return not_ok(f"{path} does not exist", f"{make}   (or set {setting})")
    except OSError as error:
        return not_ok(f"{path}: {error.strerror}", f"Run this as the gateway's user, or: {make}")
    if status.st_uid != os.getuid():
        owner = _name(status.st_uid)
        return not_ok(
            f"{path} belongs to {owner}, and this runs as {_me()}",
            f"sudo -u {owner} gateway doctor   if {owner} is the gateway's user, "
            f"else as root: chown -R {_me()} {path}",
        )
    if status.st_mode & 0o077 & ~shared:
        return warning(
            f"{path} has mode {status.st_mode & 0o777:04o}: others may look into it", f"chmod 700 {path}"
        )
    return ok(f"{path} belongs to {_me()}, mode {status.st_mode & 0o777:04o}")


@dataclass(frozen=True, slots=True)
class Proxy:
    """The gateway's own HAProxy: a word in its command, the group of its user, and whether it answers."""

    directory: str
    group: int | None
    answers: bool

    def may_be(self, holder: Holder) -> bool:
        """Return whether a process is it, by its user too: anybody can write words into a command."""
        try:
            account = pwd.getpwnam(holder.user)
        except KeyError:
            return False
        ours = account.pw_uid == os.getuid() or (self.group is not None and account.pw_gid == self.group)
        hidden = not holder.command and self.answers  # by /proc's hidepid
        return ours and (hidden or any(self.directory in word for word in holder.command))


def _listener(address: str, proxy: Proxy, source: str) -> Finding:
    """Say whether HAProxy can listen at an address, or does."""
    host, _, number = address.rpartition(":")
    if address.startswith("unix@") or not number.isdecimal():
        return ok(address)
    port = int(number)
    found = holders(port)
    if any(proxy.may_be(holder) for holder in found):
        if proxy.answers:
            return ok(f"{address} is held by the gateway's own HAProxy")
        return warning(
            f"{address} is held by the gateway's own HAProxy, which does not answer at its admin.sock",
            "journalctl -u gateway-haproxy   says why; systemctl restart gateway-haproxy",
        )
    try:
        _bind(host.strip("[]"), port)
    except PermissionError:
        return warning(
            f"{address} is a port for the system's own programs, which {_me()} may not take by itself",
            "AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit (docs/install.rst), "
            f"or a port above 1023 in c.Gateway.bind in {source}.",
        )
    except OSError as error:
        return _taken(address, port, found, error, source)
    return ok(f"{address} is free")


def _taken(address: str, port: int, found: list[Holder], error: OSError, source: str) -> Finding:
    holder = f" by {found[0]}" if found else ""
    if error.errno == errno.EADDRINUSE:
        return not_ok(
            f"{address} is taken{holder}",
            f"ss -ltnp 'sport = :{port}'   says by what; end it, or set another c.Gateway.bind in {source}.",
        )
    return not_ok(f"{address}: {error.strerror}", f"ip address; then correct c.Gateway.bind in {source}.")


def _bind(host: str, port: int) -> None:
    """Take a port for a moment.

    Raises:
        OSError: It cannot be taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(("" if host == "*" else host, port))
        trial.listen(1)


def _me() -> str:
    return _name(os.getuid())


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

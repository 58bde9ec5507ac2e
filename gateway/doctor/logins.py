"""The steps to a login node: its names, its port, its key, and the accounts that log in."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gateway import parts
from gateway.dataplane.masters import Masters
from gateway.dataplane.tunnel import TunnelSettings
from gateway.doctor.check import Finding, Status, any_of, not_ok, ok, warning, worst
from gateway.doctor.patient import Patient, words_of
from gateway.doctor.reach import resolve, tcp
from gateway.doctor.walk import in_thread
from gateway.errors import HostKeyRefused, LoginNodeRefused, LoginNodeUnreachable
from gateway.siteconfig import Jump
from gateway.ssh.hostkey import Trust, shown_key
from gateway.ssh.known_hosts import address
from gateway.ssh.transport import Limits

_LIMITS = Limits(connect=5.0)


@dataclass(frozen=True, slots=True)
class _Place:
    """A login node, the file in which its key should be, and the jump host before it."""

    host: str
    port: int
    known_hosts: Path
    hop: Jump | None = None

    @property
    def first(self) -> _Place:
        """What is reached from here: the jump host, if there is one."""
        hop = self.hop
        return _Place(hop.host, hop.port, hop.known_hosts or self.known_hosts) if hop else self


@dataclass(frozen=True, slots=True)
class Logins:
    """Examines the ways in."""

    patient: Patient

    # --- the hosts ------------------------------------------------------------------------------------

    async def names(self) -> Finding:
        """Say whether the login nodes' names have addresses."""
        found = await self._of_each(lambda place: resolve(place.host), behind=False)
        return worst(any_of(self._in_file(finding) for finding in role) for role in found)

    async def connection(self) -> Finding:
        """Say whether the login nodes take connections."""
        found = await self._of_each(
            lambda place: tcp(place.host, place.port, self.patient.file), behind=False
        )
        return worst(any_of(role) for role in found)

    async def host_key(self) -> Finding:
        """Say whether the login nodes show the keys that known_hosts has, and what to add if not.

        One whose key is not known is not ok although others answer: the gateway stops at it.
        """
        return worst(silent_or_worst(role) for role in await self._of_each(_host_key))

    async def _of_each(
        self, examine: Callable[[_Place], Finding], *, behind: bool = True
    ) -> list[list[Finding]]:
        """Return what is found at the login nodes that commands run on, and at those of the tunnel.

        Jump hosts come before them, and without ``behind`` in place of what is behind them.
        """
        ends = [role for role in (self._login_places(), self._tunnel_places()) if role]
        gates = [list(dict.fromkeys(place.first for place in role)) for role in ends]
        roles = [role for role in gates + (ends if behind else []) if role]
        roles = [role for number, role in enumerate(roles) if role not in roles[:number]]
        places = list(dict.fromkeys(place for role in roles for place in role))
        found = await asyncio.gather(*(in_thread(partial(examine, place)) for place in places))
        findings = dict(zip(places, found, strict=True))
        return [[findings[place] for place in role] for role in roles]

    def _login_places(self) -> list[_Place]:
        login = self.patient.site.login
        return [_Place(host, login.port, login.known_hosts, login.hop) for host in login.hosts]

    def _tunnel_places(self) -> list[_Place]:
        if self.patient.site.tunnel.kind == "direct":
            return []
        tunnel = self._tunnel_settings()
        return [_Place(host, tunnel.port, tunnel.known_hosts, tunnel.jump) for host in tunnel.hosts]

    def _in_file(self, finding: Finding) -> Finding:
        if finding.status.bears:
            return finding
        return replace(
            finding, mend=f"{finding.mend}; login.hosts and tunnel.hosts are in {self.patient.file}."
        )

    # --- the accounts ---------------------------------------------------------------------------------

    async def key_file(self) -> Finding:
        """Say whether the private key of the service account is the gateway's alone."""
        login, file = self.patient.site.login, self.patient.file
        keys = {"login.key": login.key}
        if login.jump and login.jump.key:
            keys["login.jump.key"] = login.jump.key
        return worst([await in_thread(partial(_key_file, key, name, file)) for name, key in keys.items()])

    async def login(self) -> Finding:
        """Say whether the service account can log in and run a command."""
        login = self.patient.site.login
        try:
            answer = await self.patient.ask("id", "-u")
        except LoginNodeRefused as error:
            if login.transport == "local":
                return not_ok(
                    str(error),
                    f"sudo -u {login.user} gateway doctor   (login.user is in {self.patient.file})",
                )
            return not_ok(str(error), _authorize(login.user, login.key, login.hosts[0], login.port))
        if answer.status != 0:
            return not_ok(
                f"id -u: {words_of(answer)}",
                f"By hand: ssh -i {login.key} -p {login.port} {login.user}@{self.patient.where} id -u",
            )
        if answer.stdout.strip() == "0":
            return not_ok(
                f"{login.user} is root there, which may act as anybody",
                f"On {self.patient.where}: useradd --create-home gateway; then login.user: gateway in "
                f"{self.patient.file}.",
            )
        return ok(f"{login.user} runs commands on {self.patient.where}")

    async def tunnel_key_file(self) -> Finding:
        """Say the same of the tunnel's key."""
        key = self._tunnel_settings().key
        return await in_thread(lambda: _key_file(key, "tunnel.key", self.patient.file))

    async def tunnel(self) -> Finding:
        """Say whether an OpenSSH master connects to one of the tunnel's hosts; it is ended at once."""
        settings = self._tunnel_settings()
        settings = replace(settings, count=len(settings.hosts), timeout=7.0)
        settings.directory.parent.mkdir(mode=0o700, exist_ok=True)
        masters = Masters(settings)
        try:
            await masters.tend()
        except LoginNodeRefused as error:
            return not_ok(
                str(error), _authorize(settings.user, settings.key, settings.hosts[0], settings.port)
            )
        finally:
            await masters.stop()
        return ok(f"{settings.user} logs in to {', '.join(settings.hosts)}")

    def _tunnel_settings(self) -> TunnelSettings:
        return parts.tunnel_settings(self.patient.site, self.patient.scratch / "m")


def silent_or_worst(findings: list[Finding]) -> Finding:
    """Return several findings as one, where silence is a warning: not ok if all are silent. Pure."""
    together = worst(findings)
    silent = all(finding.status is Status.WARNING for finding in findings)
    return replace(together, status=Status.NOT_OK) if silent else together


def _host_key(place: _Place) -> Finding:
    name, file = address(place.host, place.port), place.known_hosts
    if file.exists() and not os.access(file, os.R_OK):
        return not_ok(f"{file} cannot be read", f"As root: chown THE-GATEWAY'S-USER {file}")
    try:
        shown = shown_key(place.host, place.port, file, _LIMITS, place.hop)
    except (LoginNodeRefused, HostKeyRefused) as error:  # the jump host's
        return not_ok(
            str(error), f"login.jump and tunnel.jump are in the site config; {_by_hand(place.first)}"
        )
    except LoginNodeUnreachable as error:
        return warning(
            str(error), f"By hand: ssh-keyscan -p {place.port} {place.host}   (does sshd hang there?)"
        )
    seen = f"{name} shows {shown.key.fingerprint} ({shown.key.type})"
    compare = (
        f"Compare it with what its administrators say (on {place.host}: "
        "for f in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $f; done), then:"
    )
    add = f"echo '{shown.line}' >> {file}"
    match shown.trust:
        case Trust.UNKNOWN:
            return not_ok(f"{seen}, which is not in {file}", f"{compare}\n{add}")
        case Trust.CHANGED:
            remove = f"ssh-keygen -f {file} -R '{name}'"
            words = (
                f"{seen}, and {file} has ANOTHER key for it: the host key has changed, or somebody listens"
            )
            return not_ok(words, f"{compare}\n{remove} && {add}")
    return ok(f"{seen}, as in {file}")


def _by_hand(gate: _Place) -> str:
    return f"by hand: ssh -F /dev/null -v -p {gate.port} {gate.host} true"


def _key_file(path: Path, setting: str, file: str) -> Finding:
    own = f"chown $(id -un) {path}; chmod 600 {path}"
    try:
        mode = path.stat().st_mode & 0o777
        head = path.read_bytes()[:100]
    except FileNotFoundError:
        return not_ok(
            f"{path} does not exist",
            f"ssh-keygen -t ed25519 -N '' -f {path}, or correct {setting} in {file}.",
        )
    except OSError as error:
        return not_ok(
            f"{path} cannot be read: {error.strerror}",
            f"As root: chown THE-GATEWAY'S-USER {path}; chmod 600 {path}",
        )
    if b"PRIVATE KEY" not in head:
        return not_ok(
            f"{path} is no private key", f"{setting} in {file} names the private half, not the .pub file."
        )
    if mode & 0o077:
        return not_ok(f"{path} has mode {mode:04o}: ssh refuses a key that others may read", own)
    return ok(f"{path}, mode {mode:04o}")


def _authorize(user: str, key: Path, host: str, port: int) -> str:
    return (
        f"ssh-keygen -y -f {key}   prints a line that belongs into ~{user}/.ssh/authorized_keys on {host} "
        f"(owned by {user}, mode 0600)\n"
        f"by hand: ssh -F /dev/null -v -i {key} -p {port} {user}@{host} true   (sshd's log says why not)"
    )

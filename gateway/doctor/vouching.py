"""The steps of the gateway's SSH CA (``act_as: certificate``): whom it vouches for, and whom it must not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gateway import parts
from gateway.doctor.check import Finding, not_ok, ok, skipped, warning, worst
from gateway.doctor.patient import Patient
from gateway.doctor.walk import in_thread
from gateway.errors import ConfigError, LoginNodeRefused, LoginNodeUnreachable
from gateway.ssh.authority import Terms, UserAuthority
from gateway.ssh.transport import Certified, Limits, connect

_LIMITS = Limits(connect=5.0)
#: Stands for the instance in the certificates' ids, which sshd writes into its log.
_DOCTOR = "doctor"
#: What `connect` says where a key was accepted, and something more is asked for.
_ACCEPTED = "the key was accepted"


@dataclass(frozen=True, slots=True)
class Vouching:
    """Examines what the login nodes make of the CA's certificates."""

    patient: Patient

    async def authority(self) -> Finding:
        """Say whether there is an SSH CA that can vouch for people."""
        try:
            keys = await in_thread(self._authority.keys)
        except ConfigError as error:
            return not_ok(str(error), f"gateway ca init -f {self.patient.settings.source}")
        return ok(f"it signs with {keys.current.fingerprint}")

    async def root_refused(self) -> Finding:
        """Try to log in as root with a certificate of the CA at every login node, and want a no.

        A node may hold failed logins against an address (OpenSSH 9.8: PerSourcePenalties; fail2ban): so not
        each time that somebody looks.
        """
        if not self.patient.trials:
            name = self.patient.site.name
            return skipped(f"a refused login may count against this host: gateway doctor {name} tries it")
        return worst(await self._at_each(self._root_at))

    async def next_key(self) -> Finding:
        """Say whether the login nodes trust the key that signs after ``gateway ca rotate --finish``."""
        user = self.patient.user
        if user is None:
            return skipped("name somebody who may use the gateway: --user NAME")
        if (await in_thread(self._authority.keys)).next is None:
            return skipped("there is none; gateway ca rotate prepares one")
        return worst(await self._at_each(partial(self._next_at, user)))

    @property
    def _authority(self) -> UserAuthority:
        return parts.user_authority(self.patient.settings.state_dir)

    async def _at_each(self, examine: Callable[[str], Finding]) -> list[Finding]:
        hosts = self.patient.site.login.hosts
        return await asyncio.gather(*(in_thread(partial(examine, host)) for host in hosts))

    def _root_at(self, host: str) -> Finding:
        try:
            refusal = self._refusal(host, "root", by_next=False)
        except LoginNodeUnreachable as error:
            return _silent(f"whether {host} refuses root", f"root@{host}", error)
        if refusal is None:
            return not_ok(
                f"{host} lets root in with a certificate of the gateway's CA",
                f"gateway launcher --sshd   prints the Match block for sshd_config on {host}: it begins with "
                "Match User *,!root; TrustedUserCAKeys belongs inside of it, nowhere else.",
            )
        return ok(f"{host} refuses a certificate for root")

    def _next_at(self, user: str, host: str) -> Finding:
        try:
            refusal = self._refusal(host, user, by_next=True)
        except LoginNodeUnreachable as error:
            return _silent(f"whether {host} trusts it", f"{user}@{host}", error)
        if refusal is not None:
            return warning(
                f"{host} does not trust it yet: after gateway ca rotate --finish nobody could start there",
                f"gateway ca show -f {self.patient.settings.source}   prints the lines for the file of "
                f"TrustedUserCAKeys on {host}; gateway ca rotate --finish only when this is ok",
            )
        return ok(f"{host} trusts it: gateway ca rotate --finish can follow")

    def _refusal(self, host: str, user: str, *, by_next: bool) -> LoginNodeRefused | None:
        """Log in with a certificate that allows nothing, and out; None if it was taken. Blocking."""
        login = self.patient.site.login
        terms = Terms(_DOCTOR, self.patient.site.name, "", 1, login.source_addresses)
        certify = partial(self._authority.certify_for_trial, terms=terms, by_next=by_next)
        there = login.model_copy(update={"hosts": (host,)})
        try:
            connect(there, _LIMITS, threading.Event(), Certified(user, certify)).close()
        except LoginNodeRefused as error:
            return None if _ACCEPTED in str(error) else error
        return None


def _silent(what: str, account: str, error: LoginNodeUnreachable) -> Finding:
    return warning(f"{what} is not known: {error}", f"By hand: ssh -v {account}")

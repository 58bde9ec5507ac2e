"""The steps to the directory that people log in with. Of several servers one is enough."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gateway import parts
from gateway.auth.directory import DirectoryServer
from gateway.auth.examine import has_people, try_reader, try_tls
from gateway.auth.ldap import LdapSettings
from gateway.config import Settings
from gateway.doctor.check import Finding, any_of, not_ok, ok, skipped
from gateway.doctor.reach import resolve, tcp
from gateway.doctor.walk import Step, in_thread
from gateway.errors import ConfigError, DirectoryUnreachable, LoginRefused

_PORTS = {"ldaps": 636, "starttls": 389}


def directory_steps(settings: Settings) -> list[Step]:
    """Return the steps: settings, name, port, TLS, reader, people."""
    directory = Directory(settings)
    return [
        Step("directory settings", directory.settled),
        Step("directory name", directory.names, ("directory settings",)),
        Step("directory connection", directory.connection, ("directory name",)),
        Step("directory TLS", directory.tls, ("directory connection",)),
        Step("directory reader", directory.reader, ("directory TLS",)),
        Step("directory people", directory.people, ("directory reader",)),
    ]


@dataclass(frozen=True, slots=True)
class Directory:
    """Examines the directory."""

    settings: Settings

    async def settled(self) -> Finding:
        """Say whether the settings make sense, and the files that they name can be used."""
        try:
            ldap = self._ldap()
            ldap.check()
            ldap.check_files()
        except ConfigError as error:
            return not_ok(str(error), f"Correct c.Ldap in {self.settings.source}.")
        how = f"as {ldap.user_dn}" if ldap.user_dn else f"found by {ldap.reader_dn}"
        return ok(f"{', '.join(ldap.servers)}, {ldap.tls}; people are {how}")

    async def names(self) -> Finding:
        """Say whether the servers' names have addresses."""
        return await self._each(lambda server: resolve(_host(server)))

    async def connection(self) -> Finding:
        """Say whether the servers take connections."""
        return await self._each(lambda server: tcp(_host(server), _port(server), self.settings.source))

    async def tls(self) -> Finding:
        """Say whether the servers show certificates of the CA, for their names."""
        return await self._each(self._try_tls)

    async def reader(self) -> Finding:
        """Say whether the reader may log in."""
        if self.settings.ldap.user_dn:
            return skipped("people log in as themselves (c.Ldap.user_dn)")
        return await self._each(self._try_reader)

    async def people(self) -> Finding:
        """Say whether there is anybody where people are looked for."""
        return await self._each(self._look_for_people)

    def _try_tls(self, server: DirectoryServer) -> Finding:
        host, port = _host(server), _port(server)
        try:
            try_tls(server)
        except DirectoryUnreachable as error:
            start = " -starttls ldap" if server.tls == "starttls" else ""
            return not_ok(
                f"TLS with {error}",
                f"openssl s_client -connect {host}:{port}{start} -CAfile {server.ca_file} "
                f"-verify_hostname {host} -verify_return_error </dev/null   says why\n"
                "correct c.Ldap.ca_file (the CA that signed it) or c.Ldap.servers (a name in its "
                f"certificate) in {self.settings.source}.",
            )
        return ok(f"{server} shows a certificate of {server.ca_file}")

    def _try_reader(self, server: DirectoryServer) -> Finding:
        ldap = self._ldap()
        try:
            try_reader(server, ldap.reader_dn, ldap.reader_password())
        except (LoginRefused, ConfigError) as error:
            return not_ok(
                str(error),
                f"ldapwhoami -x -H {server.tls.replace('starttls', 'ldap')}://{server} -D '{ldap.reader_dn}' "
                f"-y {ldap.reader_password_file}\n"
                f"correct that file, or c.Ldap.reader_dn in {self.settings.source}.",
            )
        return ok(f"{ldap.reader_dn} may log in at {server}")

    def _look_for_people(self, server: DirectoryServer) -> Finding:
        ldap = self._ldap()
        wanted = f"(&{ldap.user_filter}({ldap.name_attribute}=*))"
        url = f"{server.tls.replace('starttls', 'ldap')}://{server}"
        ask = f"ldapsearch -x -H {url} -D '{ldap.reader_dn}' -W -b '{ldap.base}' '{wanted}' dn"
        try:
            found = has_people(server, ldap.reader_dn, ldap.reader_password(), ldap.base, wanted)
        except ConfigError as error:
            return not_ok(str(error), f"Let {ldap.reader_dn} read people, or correct c.Ldap.user_base\n{ask}")
        if not found:
            return not_ok(
                f"{server} has nobody below {ldap.base} who is {wanted}",
                f"Correct c.Ldap.user_base, user_filter or name_attribute in {self.settings.source}\n{ask}",
            )
        return self._look_for_groups(server) or ok(f"there are people below {ldap.base}")

    def _look_for_groups(self, server: DirectoryServer) -> Finding | None:
        """Return what is wrong with where people's groups are looked for; None if nothing is."""
        ldap, anything = self._ldap(), "(objectClass=*)"
        if not ldap.group_base:
            return None
        mend = f"Correct c.Ldap.group_base in {self.settings.source}, or let {ldap.reader_dn} read it."
        try:
            found = has_people(server, ldap.reader_dn, ldap.reader_password(), ldap.group_base, anything)
        except ConfigError as error:
            return not_ok(str(error), mend)
        return None if found else not_ok(f"{server} has nothing at {ldap.group_base}", mend)

    async def _each(self, examine: Callable[[DirectoryServer], Finding]) -> Finding:
        ldap, wait = self._ldap(), min(4, self.settings.ldap.timeout)
        servers = [DirectoryServer(a, ldap.ca_file, ldap.tls, wait, wait) for a in ldap.servers]
        calls: list[Callable[[], Finding]] = [lambda server=server: examine(server) for server in servers]  # type: ignore[misc]
        return any_of(await asyncio.gather(*map(in_thread, calls)))

    def _ldap(self) -> LdapSettings:
        return parts.directory_settings(self.settings)


def _host(server: DirectoryServer) -> str:
    return server.address.partition(":")[0]


def _port(server: DirectoryServer) -> int:
    return int(server.address.partition(":")[2] or _PORTS[server.tls])

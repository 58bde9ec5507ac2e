"""Logging in against LDAP or Active Directory: as the entry that a reader finds, or as a DN with the name."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ldap3 import BASE, SUBTREE, Connection
from ldap3.core.exceptions import LDAPExceptionError, LDAPInvalidDnError, LDAPInvalidFilterError
from ldap3.operation.search import parse_filter
from ldap3.utils.conv import escape_filter_chars
from ldap3.utils.dn import parse_dn, safe_dn

from gateway.auth import DENIED_NAMES, acceptable_name
from gateway.auth.directory import (
    ADDRESS,
    PORTS,
    DirectoryServer,
    NoAnswer,
    Verdict,
    bind,
    result_words,
    search,
    texts,
)
from gateway.errors import (
    ConfigError,
    DirectoryUnreachable,
    LoginNotAllowed,
    LoginRefused,
    PasswordExpired,
)
from gateway.model import USER_NAME, User
from gateway.siteconfig import DIRECTIVE_WORD

log = logging.getLogger(__name__)

NAME = "{name}"
#: What a backslash stands before in a DN's value (RFC 4514, 2.4); blanks and # only at the ends, or anywhere.
_SPECIAL = re.compile(r'([ "#+,;<=>\\])')
#: Active Directory takes this in place of a DN; the entry is searched for afterwards.
_PRINCIPAL = re.compile(r"\{name\}@[A-Za-z0-9.-]+", re.ASCII)
#: Attributes in which case means nothing; the accounts that SSSD makes of them are in lower case.
_WITHOUT_CASE = frozenset({"samaccountname"})
#: What a site config can name as a group, and the most of them that are kept of a person.
_GROUP = re.compile(DIRECTIVE_WORD, re.ASCII)
_MOST_GROUPS = 1000
_NO_ENTRY = "not one entry in the directory"
_UNREADABLE = (
    "Your password is right, but the directory does not show the gateway your account. You are not logged in."
)


@dataclass(frozen=True, slots=True)
class LdapSettings:
    """How to ask a directory.

    ``servers`` are ``HOST`` or ``HOST:PORT``, asked in turn; HOST is a name that the server's certificate
    carries, PORT 636 with LDAPS and 389 with StartTLS if it is left out.

    A person is found in one of two ways. With ``reader_dn`` and ``reader_password_file`` (readable by its
    owner alone) their entry is searched below ``base``, and bound as. With ``user_dn``, a DN or Active
    Directory's ``{name}@DOMAIN`` with ``{name}`` in it, they are bound as that, and read their own entry.

    ``user_filter`` is a whole LDAP filter that a person's entry matches. ``uid_attribute`` holds the numeric
    uid; empty to leave the check against ``min_uid`` out. Groups are DNs; a member is an entry that the group
    lists (``member``, ``uniqueMember``, ``memberUid``) or that lists the group (``memberOf``). A person's
    groups are those below ``group_base``, by their names; without it those that the entry lists. Timeouts are
    whole seconds. No refusal takes less than ``refusal_takes`` seconds: how long a directory thinks about a
    password would tell whether there is such a name. ``password_url`` is where people change a password.
    """

    servers: tuple[str, ...]
    ca_file: Path
    tls: str = "ldaps"
    reader_dn: str = ""
    reader_password_file: Path | None = None
    user_dn: str = ""
    base: str = ""
    name_attribute: str = "uid"
    user_filter: str = "(objectClass=posixAccount)"
    uid_attribute: str = "uidNumber"
    min_uid: int = 1000
    denied: frozenset[str] = DENIED_NAMES
    required_group: str = ""
    admin_group: str = ""
    group_base: str = ""
    password_url: str = ""
    connect_timeout: int = 4
    receive_timeout: int = 6
    workers: int = 4
    refusal_takes: float = 0.5

    def check(self) -> None:
        """Check what can be checked without a directory.

        Raises:
            ConfigError: A setting cannot work; the sentence says which, and what to write.
        """
        for address in self.servers or ("",):
            if not ADDRESS.fullmatch(address):
                raise ConfigError(f"directory server {address!r}: write it as HOST or HOST:PORT")
        if self.tls not in PORTS:
            raise ConfigError(f"c.Ldap.tls {self.tls!r}: write {' or '.join(PORTS)}")
        if self.user_dn and (self.reader_dn or self.reader_password_file):
            raise ConfigError(
                "with c.Ldap.user_dn people bind as themselves: remove c.Ldap.reader_dn and "
                "c.Ldap.reader_password_file, or remove c.Ldap.user_dn"
            )
        check_template(self.user_dn)
        groups = (self.required_group, self.admin_group, self.group_base)
        for dn in filter(None, (self.reader_dn, self.base, *groups)):
            _check_dn(dn)
        try:
            parse_filter(self.user_filter, None, None, None, None, None)
        except LDAPInvalidFilterError as error:
            raise ConfigError(f"c.Ldap.user_filter {self.user_filter!r}: {error}") from None

    def check_files(self) -> None:
        """Check that the files can be used.

        Raises:
            ConfigError: One cannot.
        """
        try:
            ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            words = f"the directory's CA cannot be read: {error.strerror}"
            raise ConfigError(f"{self.ca_file}: {words}") from error
        if not self.user_dn:
            self.reader_password()

    def reader_password(self) -> str:
        """Return the reader's password.

        Raises:
            ConfigError: The file cannot be read, is empty, or others may read it.
        """
        path = self.reader_password_file
        if path is None or not self.reader_dn:
            raise ConfigError("an empty reader's DN or password would bind as nobody: set both, or user_dn")
        try:
            mode = path.stat().st_mode & 0o777
            password = path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            words = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ConfigError(f"{path}: the directory reader's password cannot be read: {words}") from error
        if mode & 0o077:
            raise ConfigError(
                f"{path}: has mode {mode:04o}; the reader's password is for its owner: chmod 600"
            )
        if not password:
            raise ConfigError(f"{path}: is empty; write the reader's password into it")
        return password


def _check_dn(dn: str) -> None:
    try:
        parse_dn(dn)
    except LDAPInvalidDnError as error:
        raise ConfigError(f"DN {dn!r}: {error} (write no blanks after its commas)") from None


def check_template(template: str) -> None:
    """Check what people bind as; empty is nothing.

    Raises:
        ConfigError: ``{name}`` is not in it exactly once, or not in a DN's value or before ``@DOMAIN``.
    """
    if not template or _PRINCIPAL.fullmatch(template):
        return
    right = f"write a DN with {NAME} as a value in it, such as uid={NAME},ou=people,dc=example,dc=org"
    if template.count(NAME) != 1 or template.count("{") != 1 or template.count("}") != 1:
        raise ConfigError(f"c.Ldap.user_dn {template!r}: {right}")
    try:
        parse_dn(template)
    except LDAPInvalidDnError as error:
        raise ConfigError(f"c.Ldap.user_dn {template!r}: {error}: {right}") from None


def bind_name(template: str, name: str) -> str:
    """Return what a person binds as. Pure.

    Args:
        template: As ``check_template`` takes it.
        name: Whatever was typed; in a DN it stays one value (RFC 4514, 2.4).
    """
    if _PRINCIPAL.fullmatch(template):
        return template.replace(NAME, name)
    # Not ldap3's escape_rdn: 2.9.1 gets a NUL and a single blank wrong.
    return template.replace(NAME, _SPECIAL.sub(r"\\\1", name).replace("\0", r"\00"))


@dataclass(frozen=True, slots=True)
class _Entry:
    dn: str
    names: tuple[str, ...]
    uids: tuple[str, ...]
    gids: tuple[str, ...]
    groups: tuple[str, ...]


class LdapAuthenticator:
    """Asks directory servers in turn, in a few threads of its own: a slow one does not stop the hub.

    Args:
        settings: How to ask.

    Raises:
        ConfigError: They cannot work.
    """

    def __init__(self, settings: LdapSettings) -> None:
        settings.check()
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="ldap")

    def __repr__(self) -> str:
        return f"<LdapAuthenticator {', '.join(self._settings.servers)}>"

    async def authenticate(self, name: str, password: str) -> User:
        """Return the person; see ``Authenticator.authenticate``.

        Raises:
            LoginRefused: No such entry, or not its password.
            LoginNotAllowed: The password is right, but: a system account, or not in the required group.
            PasswordExpired: The password is right, but has to be changed.
            DirectoryUnreachable: No server answered in time.
            ConfigError: The reader's password is unusable, or the directory does not let the gateway look.
        """
        typed = acceptable_name(name, password)
        settings = self._settings
        # Four waits (connect, TLS, and a few answers) to a server; more means that all threads are taken.
        patience = len(settings.servers) * 2 * (settings.connect_timeout + settings.receive_timeout)
        loop, begun = asyncio.get_running_loop(), time.monotonic()
        asked = loop.run_in_executor(self._pool, self._ask_in_turn, typed, password)
        try:
            async with asyncio.timeout(patience):
                return await asked
        except LoginRefused:
            await asyncio.sleep(begun + settings.refusal_takes - time.monotonic())
            raise
        except TimeoutError:
            raise DirectoryUnreachable(f"no answer within {patience} s") from None

    def close(self) -> None:
        """Let go of the threads, without waiting for those that still ask."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask_in_turn(self, typed: str, password: str) -> User:
        ask = self._as_themselves if self._settings.user_dn else self._as_found
        failures = []
        for server in self._servers():
            try:
                return ask(server, typed, password)
            except (NoAnswer, LDAPExceptionError, OSError) as error:
                failures.append(f"{server}: {error}")
                log.warning("directory server %s did not answer: %s", server, error)
        raise DirectoryUnreachable("; ".join(failures))

    def _servers(self) -> Iterator[DirectoryServer]:
        settings = self._settings
        for address in settings.servers:
            yield DirectoryServer(
                address, settings.ca_file, settings.tls, settings.connect_timeout, settings.receive_timeout
            )

    def _as_found(self, server: DirectoryServer, typed: str, password: str) -> User:
        """Find the entry as the reader, then bind as it. An unknown name goes the same way as a known one."""
        settings = self._settings
        with server.connection(settings.reader_dn, settings.reader_password()) as reader:
            if bind(reader) is not Verdict.RIGHT:
                words = result_words(reader.result)
                raise ConfigError(f"{server}: refuses the reader {settings.reader_dn}: {words}")
            entry = self._find(reader, typed, settings.base, SUBTREE)
            if entry is None:
                self._check_password(server, f"cn=nobody,{settings.base}", _NO_ENTRY, password)
                raise LoginRefused(_NO_ENTRY)
            self._check_password(server, entry.dn, typed, password)
            return self._judged(reader, entry, typed)

    def _as_themselves(self, server: DirectoryServer, typed: str, password: str) -> User:
        """Bind as what the name makes, then read that entry."""
        template = self._settings.user_dn
        name = bind_name(template, typed)
        with server.connection(name, password) as person:
            verdict = bind(person)
            self._check_verdict(verdict, person, "" if verdict is Verdict.WRONG else typed)
            if _PRINCIPAL.fullmatch(template):
                entry = self._find(person, typed, self._settings.base, SUBTREE)
            else:
                entry = self._find(person, typed, name, BASE)
            if entry is None:
                raise self._not_shown(person, name, typed)
            if entry.dn != name and _PRINCIPAL.fullmatch(template):
                # One person's principal name may be another one's account name.
                self._check_password(server, entry.dn, typed, password)
            return self._judged(person, entry, typed)

    def _find(
        self, connection: Connection, typed: str, base: str, scope: Literal["BASE", "SUBTREE"]
    ) -> _Entry | None:
        settings = self._settings
        name, uid = settings.name_attribute, settings.uid_attribute
        wanted = f"(&{settings.user_filter}({name}={escape_filter_chars(typed)}))"
        wanted_attributes = (name, uid, "gidNumber", "memberOf")
        attributes = [attribute for attribute in wanted_attributes if attribute]
        found = search(connection, base, wanted, scope, attributes)
        if len(found) != 1 or not found[0]["dn"]:
            log.info("%s: %d entries in the directory", typed if found else "a name", len(found))
            return None
        return _Entry(found[0]["dn"], *(texts(found[0], attribute) for attribute in wanted_attributes))

    def _not_shown(self, person: Connection, name: str, typed: str) -> LoginNotAllowed | ConfigError:
        settings = self._settings
        if "=" in name and search(person, name, "(objectClass=*)", BASE, ["1.1"]):
            wanted = f"{settings.user_filter} with {settings.name_attribute}={typed}"
            return LoginNotAllowed(f"{typed}: the entry {name} is not {wanted}, or does not show it")
        where = name if "=" in name else f"{settings.name_attribute}={typed} below {settings.base}"
        return ConfigError(
            f"{typed}: logged in as {name}, which may not read its own entry {where}: let people read "
            "themselves (OpenLDAP: access to * by self read), or use c.Ldap.reader_dn",
            _UNREADABLE,
        )

    def _check_password(self, server: DirectoryServer, dn: str, who: str, password: str) -> None:
        with server.connection(dn, password) as connection:
            self._check_verdict(bind(connection), connection, who)

    def _check_verdict(self, verdict: Verdict, connection: Connection, who: str) -> None:
        """Raise what a verdict means; ``who`` is empty if nobody knows whether there is such an account."""
        if verdict is Verdict.RIGHT:
            return
        words = result_words(connection.result) if connection.result else ""
        detail = ": ".join(filter(None, (who, words)))
        if verdict is Verdict.EXPIRED:
            where = self._settings.password_url
            raise PasswordExpired(detail, advice=f"Change it at {where} and log in again." if where else None)
        if verdict is Verdict.SHUT:
            raise LoginNotAllowed(detail)
        raise LoginRefused(detail)

    def _judged(self, connection: Connection, entry: _Entry, typed: str) -> User:
        """Return the person, whose password was right, under the entry's own name."""
        settings = self._settings
        names = entry.names
        if settings.name_attribute.lower() in _WITHOUT_CASE:
            names = tuple(name.lower() for name in names)
        if names != (typed,) or not USER_NAME.fullmatch(typed):
            found = f"the directory's {settings.name_attribute} is {list(entry.names)}"
            raise LoginNotAllowed(f"{typed}: {found}: not this account's one name")
        if typed in settings.denied or typed in DENIED_NAMES:
            raise LoginNotAllowed(f"{typed}: on the deny list")
        number = int(entry.uids[0]) if len(entry.uids) == 1 and entry.uids[0].isdecimal() else -1
        if settings.uid_attribute and number < settings.min_uid:
            found = f"{settings.uid_attribute} {list(entry.uids)}"
            raise LoginNotAllowed(f"{typed}: {found} is not one number from {settings.min_uid} up")
        if settings.required_group and not _is_member(connection, entry, typed, settings.required_group):
            raise LoginNotAllowed(f"{typed}: not in {settings.required_group}, as far as one may see")
        admin = settings.admin_group and _is_member(connection, entry, typed, settings.admin_group)
        return User(typed, bool(admin), _groups(connection, entry, typed, settings.group_base))


def _is_member(connection: Connection, entry: _Entry, name: str, group: str) -> bool:
    wanted = _normal(group)
    if any(_normal(listed) == wanted for listed in entry.groups):
        return True
    dn, name = escape_filter_chars(entry.dn), escape_filter_chars(name)
    listing = f"(|(member={dn})(uniqueMember={dn})(memberUid={name}))"
    return bool(search(connection, group, listing, BASE, ["cn"]))


def _groups(connection: Connection, entry: _Entry, name: str, base: str) -> frozenset[str]:
    """Return the names of a person's groups: those that list them, and those that their entry lists."""
    names = [group_name(dn) for dn in entry.groups if not base or _normal(dn).endswith(f",{_normal(base)}")]
    if base:
        dn, uid = escape_filter_chars(entry.dn), escape_filter_chars(name)
        primary = [gid for gid in entry.gids if gid.isdecimal()]
        own = "".join(f"(&(objectClass=posixGroup)(gidNumber={gid}))" for gid in primary)
        listing = f"(|(member={dn})(uniqueMember={dn})(memberUid={uid}){own})"
        for found in search(connection, base, listing, SUBTREE, ["cn"], _MOST_GROUPS):
            names += texts(found, "cn")
    return frozenset(sorted(each for each in names if _GROUP.fullmatch(each))[:_MOST_GROUPS])


def group_name(dn: str) -> str:
    """Return a group's name, the value that its DN begins with; empty if there is none. Pure."""
    try:
        return str(parse_dn(dn)[0][1])
    except (LDAPInvalidDnError, IndexError):
        return ""


def _normal(dn: str) -> str:
    try:
        return str(safe_dn(dn)).casefold()
    except LDAPInvalidDnError:
        return dn.casefold()

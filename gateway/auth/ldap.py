"""Logging in against LDAP or Active Directory over LDAPS: find the entry as a reader, then bind as it."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldap3 import BASE, NONE, SUBTREE, Connection, Server, Tls
from ldap3.core.exceptions import (
    LDAPExceptionError,
    LDAPInvalidDnError,
    LDAPPasswordIsMandatoryError,
    LDAPSASLPrepError,
)
from ldap3.utils.conv import escape_filter_chars
from ldap3.utils.dn import safe_dn

from gateway.auth import DENIED_NAMES, acceptable_name
from gateway.errors import ConfigError, DirectoryUnreachable, LoginNotAllowed, LoginRefused
from gateway.model import USER_NAME, User

log = logging.getLogger(__name__)

#: Result codes (RFC 4511, 4.1.9) that say nothing about the password: timeLimitExceeded, busy, unavailable
#: and other.
_NO_ANSWER = frozenset({3, 51, 52, 80})
_ADDRESS = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]{1,5})?", re.ASCII)
_SUCCESS = 0
_TOO_MANY = 4  # sizeLimitExceeded
_NOT_THERE = 32  # noSuchObject


@dataclass(frozen=True, slots=True)
class LdapSettings:
    """How to ask a directory.

    ``servers`` are ``HOST`` or ``HOST:PORT`` (636 if left out), asked in turn; HOST is a name that the
    server's certificate carries. ``reader_password_file`` is readable by its owner alone. ``user_filter`` is
    a whole LDAP filter that a person's entry also matches. ``uid_attribute`` holds the numeric uid; empty to
    leave the check against ``min_uid`` out. Groups are DNs; a member is an entry that the group lists
    (``member``, ``uniqueMember``, ``memberUid``) or that lists the group (``memberOf``). Timeouts are whole
    seconds.
    """

    servers: tuple[str, ...]
    ca_file: Path
    reader_dn: str
    reader_password_file: Path
    base: str
    name_attribute: str = "uid"
    user_filter: str = "(objectClass=posixAccount)"
    uid_attribute: str = "uidNumber"
    min_uid: int = 1000
    denied: frozenset[str] = DENIED_NAMES
    required_group: str = ""
    admin_group: str = ""
    connect_timeout: int = 4
    receive_timeout: int = 6
    workers: int = 4

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
        self.reader_password()

    def reader_password(self) -> str:
        """Return the reader's password.

        Raises:
            ConfigError: The file cannot be read, is empty, or others may read it.
        """
        path = self.reader_password_file
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
        if not password or not self.reader_dn:
            raise ConfigError(f"{path}: an empty reader's password or DN would bind as nobody")
        return password


@dataclass(frozen=True, slots=True)
class _Entry:
    dn: str
    name: str
    uid: int | None
    groups: tuple[str, ...]


class _CheckedTls(Tls):  # type: ignore[misc]  # ldap3 has no types
    """TLS as Python's own defaults have it, the server's name checked by OpenSSL.

    ldap3 2.9.1 compares names itself: without IP addresses on Python 3.12 and later, and leaving the socket
    open when they differ.
    """

    def wrap_socket(self, connection: Connection, do_handshake: bool = False) -> None:
        context = ssl.create_default_context(cafile=self.ca_certs_file)
        connection.socket = context.wrap_socket(connection.socket, server_hostname=connection.server.host)


class _NoAnswer(Exception):
    """This server did not answer; another one may."""


class LdapAuthenticator:
    """Asks directory servers in turn, in a few threads of its own: a slow one does not stop the hub.

    Args:
        settings: How to ask.

    Raises:
        ConfigError: No server is named, one is not ``HOST`` or ``HOST:PORT``, or a DN is malformed.
    """

    def __init__(self, settings: LdapSettings) -> None:
        for address in settings.servers or ("",):
            if not _ADDRESS.fullmatch(address):
                raise ConfigError(f"directory server {address!r}: write it as HOST or HOST:PORT")
        for dn in filter(
            None, (settings.reader_dn, settings.base, settings.required_group, settings.admin_group)
        ):
            try:
                safe_dn(dn)
            except LDAPInvalidDnError as error:
                raise ConfigError(f"DN {dn!r}: {error} (write no blanks after its commas)") from None
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="ldap")

    def __repr__(self) -> str:
        return f"<LdapAuthenticator {', '.join(self._settings.servers)}>"

    async def authenticate(self, name: str, password: str) -> User:
        """Return the person; see ``Authenticator.authenticate``.

        Raises:
            LoginRefused: No such entry, or not its password.
            LoginNotAllowed: A system account, or not in the required group.
            DirectoryUnreachable: No server answered in time.
            ConfigError: The reader's password is unusable, or the directory refuses the reader.
        """
        typed = acceptable_name(name, password)
        settings = self._settings
        # Four waits (connect, TLS, and a few answers) to a server; more means that all threads are taken.
        patience = len(settings.servers) * 2 * (settings.connect_timeout + settings.receive_timeout)
        loop = asyncio.get_running_loop()
        asked = loop.run_in_executor(self._pool, self._ask_in_turn, typed, password)
        try:
            async with asyncio.timeout(patience):
                return await asked
        except TimeoutError:
            raise DirectoryUnreachable(f"{typed}: no answer within {patience} s") from None

    def close(self) -> None:
        """Let go of the threads, without waiting for those that still ask."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask_in_turn(self, typed: str, password: str) -> User:
        reader_password = self._settings.reader_password()
        failures = []
        for address in self._settings.servers:
            try:
                return self._ask(address, typed, password, reader_password)
            except (_NoAnswer, LDAPExceptionError, OSError) as error:
                failures.append(f"{address}: {error}")
                log.warning("directory server %s did not answer: %s", address, error)
        raise DirectoryUnreachable("; ".join(failures))

    def _ask(self, address: str, typed: str, password: str, reader_password: str) -> User:
        settings = self._settings
        with self._connected(address, settings.reader_dn, reader_password) as reader:
            if not _bound(reader):
                raise ConfigError(f"{address}: refuses the reader {settings.reader_dn}: {_result(reader)}")
            entry = self._find(reader, typed)
            self._check_account(entry)
            allowed = not settings.required_group or self._is_member(reader, entry, settings.required_group)
            admin = bool(settings.admin_group) and self._is_member(reader, entry, settings.admin_group)
        self._check_password(address, entry, password)
        if not allowed:
            raise LoginNotAllowed(f"{entry.name}: not in {settings.required_group}")
        return User(entry.name, admin)

    @contextmanager
    def _connected(self, address: str, dn: str, password: str) -> Iterator[Connection]:
        """Open a connection with Nagle's delay off (48 ms to 3 ms for a bind); it is closed at the end."""
        settings = self._settings
        host, _, port = address.partition(":")
        try:
            tls = _CheckedTls(validate=ssl.CERT_REQUIRED, ca_certs_file=str(settings.ca_file))
        except LDAPExceptionError as error:
            raise ConfigError(f"{settings.ca_file}: {error}") from error
        server = Server(
            host,
            port=int(port or 636),
            use_ssl=True,
            tls=tls,
            get_info=NONE,
            connect_timeout=settings.connect_timeout,
        )
        connection = Connection(
            server,
            user=dn,
            password=password,
            receive_timeout=settings.receive_timeout,
            auto_referrals=False,  # a referral would carry the password to another server
            read_only=True,
        )
        try:
            connection.open(read_server_info=False)
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection
        finally:
            connection.strategy.close()  # no unbind: the server may be the silent one
            if connection.socket is not None:
                connection.socket.close()  # ldap3 leaves it open if it could not connect

    def _find(self, reader: Connection, typed: str) -> _Entry:
        settings = self._settings
        name, uid = settings.name_attribute, settings.uid_attribute
        search = f"(&{settings.user_filter}({name}={escape_filter_chars(typed)}))"
        attributes = [a for a in (name, uid) if a] + ["memberOf"]
        found = _search(reader, settings.base, search, SUBTREE, attributes)
        if len(found) != 1:
            raise LoginRefused(f"{typed}: {len(found)} entries in the directory")
        values = found[0]["attributes"]
        names, uids = _texts(values, name), _texts(values, uid)
        if len(names) != 1 or not USER_NAME.fullmatch(names[0]) or names[0] != typed or not found[0]["dn"]:
            raise LoginRefused(f"{typed}: the directory's {name} is {names}: not this account's one name")
        number = int(uids[0]) if len(uids) == 1 and uids[0].isdecimal() else None
        return _Entry(found[0]["dn"], names[0], number, tuple(_texts(values, "memberOf")))

    def _check_account(self, entry: _Entry) -> None:
        settings = self._settings
        if entry.name in settings.denied or entry.name in DENIED_NAMES:
            raise LoginNotAllowed(f"{entry.name}: on the deny list")
        if settings.uid_attribute and (entry.uid is None or entry.uid < settings.min_uid):
            raise LoginNotAllowed(f"{entry.name}: uid {entry.uid} is below {settings.min_uid}")

    def _is_member(self, reader: Connection, entry: _Entry, group: str) -> bool:
        wanted = _normal(group)
        if any(_normal(listed) == wanted for listed in entry.groups):
            return True
        dn, name = escape_filter_chars(entry.dn), escape_filter_chars(entry.name)
        search = f"(|(member={dn})(uniqueMember={dn})(memberUid={name}))"
        return bool(_search(reader, group, search, BASE, ["cn"]))

    def _check_password(self, address: str, entry: _Entry, password: str) -> None:
        with self._connected(address, entry.dn, password) as connection:
            try:
                bound = _bound(connection)
            except (LDAPPasswordIsMandatoryError, LDAPSASLPrepError) as error:
                raise LoginRefused(f"{entry.name}: {error}") from error
            if not bound:
                raise LoginRefused(f"{entry.name}: {_result(connection)}")


def _bound(connection: Connection) -> bool:
    if connection.bind(read_server_info=False):
        return True
    _check_answered(connection)
    return False


def _search(
    reader: Connection, base: str, search: str, scope: str, attributes: Sequence[str]
) -> list[dict[str, Any]]:
    reader.search(base, search, scope, attributes=attributes, size_limit=2, time_limit=reader.receive_timeout)
    _check_answered(reader)
    code = reader.result["result"]
    if code not in (_SUCCESS, _TOO_MANY, _NOT_THERE):
        raise ConfigError(f"the directory refuses to search {base}: {_result(reader)}")
    return [entry for entry in reader.response or () if entry["type"] == "searchResEntry"]


def _check_answered(connection: Connection) -> None:
    if connection.result["result"] in _NO_ANSWER:
        raise _NoAnswer(_result(connection))


def _result(connection: Connection) -> str:
    return f"{connection.result['result']} {connection.result['description']}"


def _texts(attributes: dict[str, Any], name: str) -> list[str]:
    """Return an attribute's values as text: without a schema ldap3 gives bytes, text or a list of them."""
    value: Any = next((v for key, v in attributes.items() if key.lower() == name.lower()), [])
    values = value if isinstance(value, list) else [value]
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values]


def _normal(dn: str) -> str:
    try:
        return str(safe_dn(dn)).casefold()
    except LDAPInvalidDnError:
        return dn.casefold()

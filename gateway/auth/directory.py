"""A conversation with a directory server: TLS before anything else, time limits, no referrals."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from ldap3 import NONE, SIMPLE, Connection, Server, Tls
from ldap3.core.exceptions import LDAPExceptionError, LDAPPasswordIsMandatoryError, LDAPSASLPrepError

from gateway.errors import ConfigError

ADDRESS = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]{1,5})?", re.ASCII)
#: How TLS begins, at once or after a StartTLS request (RFC 4511, 4.14), and the port that goes with it.
PORTS: Mapping[str, int] = {"ldaps": 636, "starttls": 389}

# Result codes: RFC 4511, appendix A.
_SUCCESS = 0
_TOO_MANY = 4  # sizeLimitExceeded
_REFERRAL = 10
_NOT_THERE = 32  # noSuchObject
#: These say nothing about the password: timeLimitExceeded, busy, unavailable and other.
_NO_ANSWER = frozenset({3, 51, 52, 80})
#: These say no: invalidCredentials; and constraintViolation, noSuchObject, inappropriateAuthentication and
#: unwillingToPerform, with which some servers answer for accounts that are locked or have no password.
_WRONG = frozenset({19, 32, 48, 49, 53})

#: The password policy of OpenLDAP, 389 Directory Server and FreeIPA (draft-behera-ldap-password-policy).
_POLICY = "1.3.6.1.4.1.42.2.27.8.5.1"
_POLICY_MUST_CHANGE = frozenset({0, 2})  # passwordExpired, changeAfterReset
#: Active Directory's words beside invalidCredentials. It says these only if the password was right.
_AD_DATA = re.compile(r"\bcomment: AcceptSecurityContext error, data ([0-9a-f]+)\b")
_AD_MUST_CHANGE = frozenset({"532", "773"})
_AD_SHUT = frozenset({"530", "531", "533", "701"})  # not now, not here, disabled, account expired

#: An ExtendedRequest for 1.3.6.1.4.1.1466.20037, the first message of its connection.
_START_TLS = bytes.fromhex("301d02010177188016") + b"1.3.6.1.4.1.1466.20037"
_LONGEST_ANSWER = 4096


class NoAnswer(Exception):
    """This server did not answer; another one may."""


class Verdict(Enum):
    """What a directory says of a password."""

    RIGHT = auto()
    WRONG = auto()
    EXPIRED = auto()
    """It is right, but has to be changed first."""
    SHUT = auto()
    """It is right, but the directory keeps the account out: disabled, expired, not at this time."""


@dataclass(frozen=True, slots=True)
class DirectoryServer:
    """One server of a directory.

    Args:
        address: ``HOST`` or ``HOST:PORT``; HOST is a name that the server's certificate carries.
        ca_file: The CA that signed the certificate.
        tls: One of ``PORTS``; the port that is left out follows from it.
        connect_timeout: Whole seconds.
        receive_timeout: Whole seconds, for each answer.
    """

    address: str
    ca_file: Path
    tls: str
    connect_timeout: int
    receive_timeout: int

    def __str__(self) -> str:
        """Return its address, for logs."""
        return self.address

    @contextmanager
    def connection(self, name: str, password: str) -> Iterator[Connection]:
        """Open a connection with TLS and without Nagle's delay (48 ms to 3 ms for a bind), and close it.

        Args:
            name: Who binds later: a DN, or what else the server takes.
            password: Theirs.

        Raises:
            LDAPExceptionError, OSError: There is no connection, or not with this server.
            ConfigError: The CA cannot be read.
        """
        host, _, port = self.address.partition(":")
        server = Server(
            host,
            port=int(port or PORTS[self.tls]),
            use_ssl=True,  # also for StartTLS: ldap3 never has a connection that `_StartTls` has not wrapped
            tls=self._tls(),
            get_info=NONE,
            connect_timeout=self.connect_timeout,
        )
        connection = Connection(
            server,
            user=name,
            password=password,
            authentication=SIMPLE,
            receive_timeout=self.receive_timeout,
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

    def _tls(self) -> Tls:
        kind = _StartTls if self.tls == "starttls" else _CheckedTls
        try:
            return kind(validate=ssl.CERT_REQUIRED, ca_certs_file=str(self.ca_file))
        except LDAPExceptionError as error:
            raise ConfigError(f"{self.ca_file}: {error}") from error


class _CheckedTls(Tls):  # type: ignore[misc]  # ldap3 has no types
    """TLS as Python's own defaults have it, the server's name checked by OpenSSL.

    ldap3 2.9.1 compares names itself: without IP addresses on Python 3.12 and later, and leaving the socket
    open when they differ.
    """

    def wrap_socket(self, connection: Connection, do_handshake: bool = False) -> None:
        context = ssl.create_default_context(cafile=self.ca_certs_file)
        connection.socket = context.wrap_socket(connection.socket, server_hostname=connection.server.host)


class _StartTls(_CheckedTls):
    """The same after a StartTLS request, which is all that ever goes over the wire in clear.

    ldap3's own ``start_tls`` leaves it to the caller never to bind on a connection without it, and reads on
    in what came before TLS. Here exactly one answer is read; whatever follows it goes to the handshake.
    """

    def wrap_socket(self, connection: Connection, do_handshake: bool = False) -> None:
        connection.socket.sendall(_START_TLS)
        check_start_tls(_one_message(connection.socket))
        super().wrap_socket(connection, do_handshake)


def _one_message(plain: socket.socket) -> bytes:
    head = _received(plain, 2)
    if head[1] & 0x80:
        head += _received(plain, head[1] & 0x7F)
    length = int.from_bytes(head[2:]) if head[1] & 0x80 else head[1]
    if length > _LONGEST_ANSWER:
        raise NoAnswer("its answer to StartTLS is over-long")
    return head + _received(plain, length)


def _received(plain: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        if not (more := plain.recv(count - len(data))):
            raise NoAnswer("it hung up at StartTLS")
        data += more
    return data


def check_start_tls(answer: bytes) -> None:
    """Return if a message grants StartTLS: an ExtendedResponse to the first message, with the code success.

    Raises:
        NoAnswer: It does not.
    """
    try:
        _, message, _ = _element(answer)
        _, number, message = _element(message)
        kind, response, _ = _element(message)
        _, code, _ = _element(response)
    except ValueError as error:
        raise NoAnswer(f"its answer to StartTLS is not LDAP: {error}") from error
    if (number, kind, code) != (b"\x01", 0x78, b"\x00"):
        raise NoAnswer(f"it refuses StartTLS: result code {int.from_bytes(code)}")


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Return the tag and the value of the first BER element, and what follows it (RFC 4511, 5.1)."""
    start = 2 + (data[1] & 0x7F if len(data) > 1 and data[1] & 0x80 else 0)
    if len(data) < start:
        raise ValueError("cut short")
    end = start + (int.from_bytes(data[2:start]) if start > 2 else data[1])
    if len(data) < end:
        raise ValueError("cut short")
    return data[0], data[start:end], data[end:]


def bind(connection: Connection) -> Verdict:
    """Try the connection's name and password.

    Raises:
        NoAnswer, LDAPExceptionError: Nothing is known about the password.
        ConfigError: The server takes no such logins.
    """
    try:
        connection.bind(read_server_info=False, controls=[(_POLICY, False, None)])
    except (LDAPPasswordIsMandatoryError, LDAPSASLPrepError):
        return Verdict.WRONG
    return read_bind(connection.result)


def read_bind(result: Mapping[str, Any]) -> Verdict:
    """Return what the answer to a bind says, as ldap3 gives it. Pure.

    Raises:
        NoAnswer: Nothing about the password.
        ConfigError: The server takes no such logins.
    """
    code = result["result"]
    _check_answered(result)
    if code not in (_SUCCESS, *_WRONG):
        raise ConfigError(f"the directory does not take logins: {result_words(result)}")
    if _policy_error(result) in _POLICY_MUST_CHANGE:
        return Verdict.EXPIRED
    if code == _SUCCESS:
        return Verdict.RIGHT
    found = _AD_DATA.search(result.get("message") or "")
    data = found[1] if found else ""
    if data in _AD_MUST_CHANGE:
        return Verdict.EXPIRED
    return Verdict.SHUT if data in _AD_SHUT else Verdict.WRONG


def _policy_error(result: Mapping[str, Any]) -> int | None:
    """Return the password policy's error: ``SEQUENCE { warning [0] OPTIONAL, error [1] OPTIONAL }``."""
    value = (result.get("controls") or {}).get(_POLICY, {}).get("value")
    try:
        _, rest, _ = _element(bytes(value or b"\x30\x00"))
        while rest:
            tag, content, rest = _element(rest)
            if tag == 0x81:
                return int.from_bytes(content)
    except ValueError:
        return None
    return None


def search(
    connection: Connection,
    base: str,
    search_filter: str,
    scope: str,
    attributes: Sequence[str],
    most: int = 2,
) -> list[dict[str, Any]]:
    """Return at most ``most`` entries; none where the base is not there. References are not followed.

    Raises:
        NoAnswer, LDAPExceptionError: The server did not answer.
        ConfigError: It does not let this connection search there.
    """
    connection.search(
        base,
        search_filter,
        scope,
        attributes=attributes,
        size_limit=most,
        time_limit=connection.receive_timeout,
    )
    _check_answered(connection.result)
    if connection.result["result"] not in (_SUCCESS, _TOO_MANY, _NOT_THERE):
        raise ConfigError(f"the directory does not search {base}: {result_words(connection.result)}")
    return [entry for entry in connection.response or () if entry["type"] == "searchResEntry"]


def texts(entry: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return an attribute's values as text: without a schema ldap3 gives bytes, text or a list of them."""
    attributes: Mapping[str, Any] = entry["attributes"]
    value: Any = next((v for key, v in attributes.items() if key.lower() == name.lower()), [])
    values = value if isinstance(value, list) else [value]
    return tuple(v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values)


def _check_answered(result: Mapping[str, Any]) -> None:
    if result["result"] in _NO_ANSWER:
        raise NoAnswer(result_words(result))


def result_words(result: Mapping[str, Any]) -> str:
    """Return a result for the log, with the mend of a referral: it is never followed."""
    words = f"{result['result']} {result['description']} {result.get('message') or ''}".strip()
    if result["result"] == _REFERRAL:
        words += f" to {result.get('referrals')}: name the server that has these entries in c.Ldap.servers"
    return words

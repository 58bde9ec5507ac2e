"""The gateway as an SSH user CA: for minutes it says to login nodes who somebody is (act_as: certificate).

Its keys and the last serial number lie in one directory. The keys are one file, so that every change of them
happens whole or not at all; it is read at each certificate, so that a hub which is running takes up a new
key at once.
"""

from __future__ import annotations

import logging
import pwd
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
)

from gateway.auth import DENIED_NAMES
from gateway.errors import ConfigError, Forbidden
from gateway.files import locked, write_private
from gateway.model import USER_NAME
from gateway.ssh.cakeys import CaKey, Keys, fingerprint, loaded, parsed, printed, public_line

#: How far a login node's clock may be behind the hub's.
CLOCK_SKEW = timedelta(minutes=1)
#: Accounts below it are the system's.
MIN_UID = 1000

_audit = logging.getLogger("gateway.audit")


@dataclass(frozen=True, slots=True)
class Terms:
    """What the certificates for one cluster say besides the name of the user.

    ``command`` is all that its holder may run, ``minutes`` how long it can be used to log in,
    ``source_addresses`` from where (anywhere if there are none), ``forwarding`` whether one may forward.
    """

    instance: str
    cluster: str
    command: str
    minutes: int
    source_addresses: tuple[str, ...] = ()
    forwarding: bool = False

    def key_id(self, user: str) -> str:
        """Return what sshd writes into its log at each login with the certificate."""
        return f"gateway {self.instance} {self.cluster} {user}"


@dataclass(frozen=True, slots=True)
class UserCertificate:
    """A key that is in memory only, and the certificate (one line) with which it logs in as one user."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    line: str
    serial: int
    authority: str

    @property
    def private(self) -> bytes:
        """The key in OpenSSH's format, for its own programs."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


class UserAuthority:
    """The CA whose files are in one directory.

    Args:
        directory: 0700; each file 0600.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = directory / "keys.json"
        self._serial_file = directory / "serial"

    def __repr__(self) -> str:
        return f"<UserAuthority {self.directory}>"

    def make(self, kind: str, now: datetime | None = None) -> Keys:
        """Make the CA's first key.

        Raises:
            ConfigError: There is one, or it cannot be written.
        """

        def first() -> Keys:
            if self._file.exists():
                raise ConfigError(
                    f"There is an SSH CA already in {self.directory}. "
                    "gateway ca show shows it; gateway ca rotate replaces its key."
                )
            return Keys(CaKey.make(kind, now or datetime.now(UTC)))

        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        return self._change(first)

    def prepare(self, kind: str, now: datetime | None = None) -> Keys:
        """Make the next key; it signs nothing yet. The previous one is forgotten.

        Raises:
            ConfigError: There is a next one already, or the files cannot be used.
        """
        return self._change(lambda: self.keys().prepared(CaKey.make(kind, now or datetime.now(UTC))))

    def finish(self) -> Keys:
        """Sign with the next key from now on.

        Raises:
            ConfigError: There is none, or the files cannot be used.
        """
        return self._change(lambda: self.keys().finished())

    def back(self) -> Keys:
        """Sign with the previous key again; the present one is the next.

        Raises:
            ConfigError: There is none, or the files cannot be used.
        """
        return self._change(lambda: self.keys().taken_back())

    def cancel(self) -> Keys:
        """Forget the next key.

        Raises:
            ConfigError: There is none, or the files cannot be used.
        """
        return self._change(lambda: self.keys().cancelled())

    def keys(self) -> Keys:
        """Return the keys.

        Raises:
            ConfigError: There is no CA, or its file cannot be read.
        """
        try:
            return parsed(self._file.read_bytes())
        except FileNotFoundError:
            raise ConfigError(
                f"There is no SSH CA in {self.directory}, which act_as: certificate and node_security: ssh "
                "need. Make it with the gateway's configuration: gateway ca init -f FILE"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, UnsupportedAlgorithm) as error:
            raise self._unusable(error) from error

    def certify(self, user: str, terms: Terms, now: datetime | None = None) -> UserCertificate:
        """Return a new key and a certificate with which it may log in as ``user``.

        It blocks, for some milliseconds. One line about it goes to the log ``gateway.audit``.

        Args:
            user: A user of the cluster.
            terms: What else it says.
            now: The time (UTC); the clock's if it is not given.

        Raises:
            Forbidden: The gateway never acts for an account of this name.
            ConfigError: The CA's files cannot be used.
        """
        check_user(user)
        return self._signed(user, terms, self.keys().current, now or datetime.now(UTC))

    def certify_for_trial(
        self, user: str, terms: Terms, *, by_next: bool = False, now: datetime | None = None
    ) -> UserCertificate:
        """Return a certificate with which nobody can do anything, to see whether a login node refuses it.

        For root too, and for nobody else whom `certify` refuses. It ends after a minute, and its one command
        is ``/bin/false``. One line about it goes to the log ``gateway.audit``.

        Args:
            user: Root, or a user of the cluster.
            terms: What else it says; not its command and minutes.
            by_next: Whether the next key signs it, which signs nothing else yet.
            now: The time (UTC); the clock's if it is not given.

        Raises:
            Forbidden: The gateway never acts for an account of this name.
            ConfigError: The CA's files cannot be used, or there is no next key.
        """
        if user != "root":
            check_user(user)
        keys = self.keys()
        signer = keys.next if by_next else keys.current
        if signer is None:
            raise ConfigError("There is no next key. Make one first: gateway ca rotate")
        harmless = replace(terms, command="/bin/false", minutes=1)
        return self._signed(user, harmless, signer, now or datetime.now(UTC))

    def _signed(self, user: str, terms: Terms, signer: CaKey, now: datetime) -> UserCertificate:
        ends = now + timedelta(minutes=terms.minutes)
        serial = self._next_serial(now)
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            SSHCertificateBuilder()
            .public_key(key.public_key())
            .serial(serial)
            .type(SSHCertificateType.USER)
            .key_id(terms.key_id(user).encode())
            .valid_principals([user.encode()])
            .valid_after(int((now - CLOCK_SKEW).timestamp()))
            .valid_before(int(ends.timestamp()))
            .add_critical_option(b"force-command", terms.command.encode())
        )
        if terms.source_addresses:
            builder = builder.add_critical_option(
                b"source-address", ",".join(terms.source_addresses).encode()
            )
        if terms.forwarding:
            builder = builder.add_extension(b"permit-port-forwarding", b"")
        signed = builder.sign(loaded(signer.private))
        _audit.info(
            'SSH certificate: serial %d, id "%s", principal %s, cluster %s, valid until %s, key %s, CA %s',
            serial,
            terms.key_id(user),
            user,
            terms.cluster,
            ends.isoformat(timespec="seconds"),
            fingerprint(public_line(key)),
            signer.fingerprint,
        )
        return UserCertificate(key, signed.public_bytes().decode(), serial, signer.fingerprint)

    def _next_serial(self, now: datetime) -> int:
        """Return a number that was never given before, and is on the disk.

        It grows with the clock, so that it is new also where the file is older than the last certificate
        (restored from a backup).
        """
        try:
            with locked(self.directory):
                last = int(self._serial_file.read_text()) if self._serial_file.exists() else 0
                serial = max(last + 1, int(now.timestamp() * 1000))
                write_private(self._serial_file, b"%d\n" % serial)
        except (OSError, ValueError) as error:
            raise self._unusable(error) from error
        return serial

    def _change(self, change: Callable[[], Keys]) -> Keys:
        if not self.directory.exists():
            return self.keys()  # which says so
        try:
            with locked(self.directory):
                keys = change()
                write_private(self._file, printed(keys))
        except OSError as error:
            raise self._unusable(error) from error
        return keys

    def _unusable(self, error: Exception) -> ConfigError:
        return ConfigError(f"{self.directory}: the SSH CA's files cannot be used: {error}")


def check_user(user: str) -> None:
    """Refuse names of accounts that the gateway never acts for.

    Raises:
        Forbidden: It is no account's name, or a system's account: by its name, or by its uid on this host.
    """
    if not USER_NAME.fullmatch(user) or user in DENIED_NAMES:
        raise Forbidden(f"the gateway never acts for the account {user!r}")
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        return
    if uid < MIN_UID:
        raise Forbidden(f"the gateway never acts for {user}: its uid here is {uid}")

"""The gateway's two certificate authorities: who a server on a node is, and who the gateway is to it.

The *node CA* signs one certificate for each server, ``ID.servers.gateway``, for TLS servers only. The *client
CA* signs the gateway's own client certificate, which HAProxy shows to the applications, and nothing else.
They are two so that the certificate of one user's server never passes as the gateway at another's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.errors import ConfigError
from gateway.files import locked, write_private
from gateway.model import SERVER_ID

#: How far a node's clock may be behind the hub's.
CLOCK_SKEW = timedelta(hours=1)
_CA_LIFE = timedelta(days=20 * 365)
_CLIENT_LIFE = timedelta(days=730)
_CLIENT_RENEWED_BEFORE = timedelta(days=180)


def server_name(server_id: str) -> str:
    """Return the DNS name that the certificate of this server is for.

    Raises:
        ValueError: It is no server id.
    """
    if not SERVER_ID.fullmatch(server_id):
        raise ValueError(f"not a server id: {server_id!r}")
    return f"{server_id}.servers.gateway"


@dataclass(frozen=True, slots=True)
class _Issuer:
    """A CA's key and certificate."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class Authority:
    """Both CAs, kept in one directory. Make it with `open`.

    Attributes:
        directory: Where the files are (0700; each file 0600).
    """

    directory: Path
    _node: _Issuer = field(repr=False)
    _client: _Issuer = field(repr=False)

    @classmethod
    def open(cls, directory: Path, now: datetime | None = None) -> Authority:
        """Load the CAs from ``directory``, or make what is missing; safe if two processes do so at once.

        Args:
            directory: Made with mode 0700 if it is not there; its parent must exist.
            now: The time (UTC) for what is made; the clock's if it is not given.

        Raises:
            ConfigError: The files cannot be read or written, or are not what they should be.
        """
        now = now or datetime.now(UTC)
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            directory.chmod(0o700)
            with locked(directory):
                node = _load_or_make(directory, "node-ca", "Gateway node CA", now)
                client = _load_or_make(directory, "client-ca", "Gateway client CA", now)
                authority = cls(directory, node, client)
                authority._write_client_if_due(now)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{directory}: the gateway's certificate authority: {error}") from error
        return authority

    @property
    def node_ca(self) -> Path:
        """The node CA's certificate: what a server's certificate is checked against."""
        return self.directory / "node-ca.pem"

    @property
    def client_ca(self) -> Path:
        """The client CA's certificate: what an application checks the gateway's certificate against."""
        return self.directory / "client-ca.pem"

    @property
    def client_pem(self) -> Path:
        """The gateway's client key and certificate in one file, as HAProxy's ``crt`` takes them."""
        return self.directory / "client.pem"

    def issue(self, server_id: str, not_after: datetime) -> tuple[str, str]:
        """Return a new key and a certificate for a server, both PEM.

        Args:
            server_id: The certificate is for ``ID.servers.gateway``.
            not_after: When it ends (with a time zone): the latest moment at which the job may still run.

        Raises:
            ValueError: It is no server id, or the end is past.
        """
        name = server_name(server_id)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _leaf(
            self._node, key, name, ExtendedKeyUsageOID.SERVER_AUTH, now=datetime.now(UTC), not_after=not_after
        )
        return _key_pem(key).decode(), _certificate_pem(certificate).decode()

    def renew_client(self, now: datetime | None = None) -> bool:
        """Replace the client certificate if it ends within half a year; HAProxy then needs a reload.

        Args:
            now: The time (UTC); the clock's if it is not given.

        Returns:
            Whether it was replaced.

        Raises:
            ConfigError: The file cannot be written.
        """
        try:
            with locked(self.directory):
                return self._write_client_if_due(now or datetime.now(UTC))
        except OSError as error:
            raise ConfigError(f"{self.client_pem}: {error}") from error

    def _write_client_if_due(self, now: datetime) -> bool:
        if self._client_lasts(now):
            return False
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _leaf(
            self._client,
            key,
            "gateway",
            ExtendedKeyUsageOID.CLIENT_AUTH,
            now=now,
            not_after=now + _CLIENT_LIFE,
        )
        write_private(self.client_pem, _key_pem(key) + _certificate_pem(certificate))
        return True

    def _client_lasts(self, now: datetime) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(self.client_pem.read_bytes())
            certificate.verify_directly_issued_by(self._client.certificate)
        except (FileNotFoundError, ValueError, TypeError):
            return False
        return now + _CLIENT_RENEWED_BEFORE < certificate.not_valid_after_utc


def self_signed(names: Sequence[str], addresses: Sequence[str], life: timedelta) -> bytes:
    """Return a new key and a web server's certificate that it has signed itself, both PEM in one.

    It is for a demonstration: a browser warns of it until somebody says that it is the right one.

    Args:
        names: DNS names that it is for; the first one is its subject too.
        addresses: IP addresses that it is for.
        life: How long it lasts from now.
    """
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = _name(names[0])
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    builder = _builder(subject, subject, key, now, now + life)
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), True),
        (x509.SubjectAlternativeName(alternatives), False),
    ):
        builder = builder.add_extension(extension, critical=critical)
    return _key_pem(key) + _certificate_pem(builder.sign(key, hashes.SHA256()))


def _load_or_make(directory: Path, stem: str, common_name: str, now: datetime) -> _Issuer:
    """Return the CA of this name. Its certificate is written last: where it is, the key is."""
    key_file, certificate_file = directory / f"{stem}.key", directory / f"{stem}.pem"
    if certificate_file.exists():
        return _load(key_file, certificate_file)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _ca_certificate(key, common_name, now)
    write_private(key_file, _key_pem(key))
    write_private(certificate_file, _certificate_pem(certificate))
    return _Issuer(key, certificate)


def _load(key_file: Path, certificate_file: Path) -> _Issuer:
    key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError(f"{key_file.name} is not the key of {certificate_file.name}")
    return _Issuer(key, certificate)


def _ca_certificate(key: ec.EllipticCurvePrivateKey, common_name: str, now: datetime) -> x509.Certificate:
    name = _name(common_name)
    builder = _builder(name, name, key, now, now + _CA_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(key_cert_sign=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def _leaf(
    issuer: _Issuer,
    key: ec.EllipticCurvePrivateKey,
    name: str,
    use: x509.ObjectIdentifier,
    *,
    now: datetime,
    not_after: datetime,
) -> x509.Certificate:
    if not_after <= now:
        raise ValueError("the certificate would have ended already")
    builder = _builder(_name(name), issuer.certificate.subject, key, now, not_after)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([use]), True),
        (x509.SubjectAlternativeName([x509.DNSName(name)]), False),
        (authority, False),
    ):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer.key, hashes.SHA256())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)

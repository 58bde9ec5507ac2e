"""What is wrong with the file of the public certificate. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.doctor.check import Finding, not_ok, ok, warning

#: How long before its end a certificate is to be renewed.
RENEW_BEFORE = timedelta(days=14)


def pair(pem: bytes, path: Path) -> Finding:
    """Say whether a file holds a certificate and, after it, the key that belongs to it.

    Args:
        pem: What is in the file.
        path: Its name, for the words.
    """
    put = f"cat fullchain.pem privkey.pem > {path}: the certificate first, its chain, then its key."
    try:
        certificate = leaf(pem)
    except ValueError:
        return not_ok(f"{path} holds no certificate in PEM form", put)
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        return not_ok(
            f"the key in {path} is encrypted", f"openssl pkey -in {path}: store it without a password."
        )
    except (ValueError, UnsupportedAlgorithm):
        return not_ok(f"{path} holds no private key", put)
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        return not_ok(f"the key in {path} does not belong to its first certificate", put)
    return ok(f"{path}: {certificate.subject.rfc4514_string() or 'a certificate'} and its key")


def covers(pem: bytes, names: Iterable[str], path: Path) -> Finding:
    """Say whether the certificate is for all these names; ``*.`` stands for one label of any name."""
    certificate = leaf(pem)
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        listed = [name.lower() for name in extension.value.get_values_for_type(x509.DNSName)]
        listed += [str(address) for address in extension.value.get_values_for_type(x509.IPAddress)]
    except x509.ExtensionNotFound:
        listed = []
    missing = [name for name in names if not _covered(name, listed)]
    if missing:
        return not_ok(
            f"{path} is for {', '.join(listed) or 'no name'}, not for {' and '.join(missing)}",
            f"Get a certificate for {' and '.join(names)} (certbot: "
            f"{' '.join(f'-d {name!r}' for name in names)}; a wildcard needs a DNS challenge)"
            + (
                ", or set c.Gateway.layout = 'single'."
                if any(name.startswith("*.") for name in missing)
                else "."
            ),
        )
    return ok(f"it is for {' and '.join(names)}")


def lasts(pem: bytes, now: datetime, path: Path) -> Finding:
    """Say whether the certificate holds now, and for how long."""
    certificate = leaf(pem)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    renew = (
        f"Renew it and write it to {path} (certbot renew); HAProxy takes it up by itself when the hub starts."
    )
    if now < begins:
        return not_ok(
            f"{path} holds from {begins:%Y-%m-%d %H:%M} UTC on only",
            "See that this host's clock is right: date -u",
        )
    if now > ends:
        return not_ok(f"{path} has EXPIRED on {ends:%Y-%m-%d %H:%M} UTC", renew)
    if ends - now < RENEW_BEFORE:
        return warning(f"{path} expires in {(ends - now).days} days, on {ends:%Y-%m-%d}", renew)
    return ok(f"it holds until {ends:%Y-%m-%d}")


def leaf(pem: bytes) -> x509.Certificate:
    """Return the first certificate in a file.

    Raises:
        ValueError: There is none.
    """
    return x509.load_pem_x509_certificates(pem)[0]


def _covered(name: str, listed: list[str]) -> bool:
    parent = name.partition(".")[2]
    return name in listed or (not name.startswith("*.") and f"*.{parent}" in listed)

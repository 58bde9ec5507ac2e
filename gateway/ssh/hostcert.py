"""Whether a host's certificate is good for it: what ssh(1) asks of one under ``@cert-authority``."""

from __future__ import annotations

import time
from collections.abc import Collection
from fnmatch import fnmatchcase

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
)

_SUFFIX = "-cert-v01@openssh.com"
#: The types of certificate to ask a host for, the best first.
TYPES = tuple(
    f"{kind}{_SUFFIX}"
    for kind in (
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "rsa-sha2-512",
        "rsa-sha2-256",
    )
)


def authority_of(certificate: str) -> tuple[str, str]:
    """Return the type and the base64 text of the key that signed a certificate.

    Args:
        certificate: As a public key's file has it: type and base64.

    Raises:
        ValueError: It is none, or its signature is wrong.
    """
    found = _parsed(certificate)
    kind, text, *_ = (
        found.signature_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode().split()
    )
    return kind, text


def fault(certificate: str, host: str) -> str:
    """Return why a certificate with a good signature is not good for a host now, "" if it is."""
    found = _parsed(certificate)
    if found.type is not SSHCertificateType.HOST:
        return "it is a user's and no host's"
    if not found.valid_after <= time.time() < found.valid_before:
        return "it has expired, or is not valid yet"
    if not _names(found.valid_principals, host):
        return f"it is not for {host}"
    return "it has critical options" if found.critical_options else ""


def _names(principals: Collection[bytes], host: str) -> bool:
    return any(fnmatchcase(host.lower(), each.decode("utf-8", "replace").lower()) for each in principals)


def _parsed(certificate: str) -> SSHCertificate:
    try:
        found = load_ssh_public_identity(certificate.encode())
        if isinstance(found, SSHCertificate):
            found.verify_cert_signature()
            return found
    except InvalidSignature:
        raise ValueError("a certificate whose signature is wrong") from None
    raise ValueError("no certificate where one should be")

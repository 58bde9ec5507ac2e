"""The demonstration's certificate: it has signed itself, and people compare its fingerprint."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from gateway.demo.place import Place
from gateway.files import write_private
from gateway.pki import self_signed

_LIFE, _RENEWED_BEFORE = timedelta(days=30), timedelta(days=2)


def prepare(place: Place) -> str:
    """Return the certificate's SHA-256 fingerprint as browsers show it; make one if none lasts.

    It is for browsers and for the directory of people alike.
    """
    if not _lasts(place):
        write_private(place.certificate, self_signed(["localhost"], ["127.0.0.1", "::1"], _LIFE))
    return _read(place).fingerprint(hashes.SHA256()).hex(":").upper()


def server_context(place: Place) -> ssl.SSLContext:
    """Return what a server with this certificate needs."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(place.certificate)
    return context


def client_context(place: Place) -> ssl.SSLContext:
    """Return what a client needs to know it."""
    return ssl.create_default_context(cafile=place.certificate)


def _lasts(place: Place) -> bool:
    return place.certificate.exists() and _read(place).not_valid_after_utc - _RENEWED_BEFORE > datetime.now(
        UTC
    )


def _read(place: Place) -> x509.Certificate:
    return x509.load_pem_x509_certificate(place.certificate.read_bytes())

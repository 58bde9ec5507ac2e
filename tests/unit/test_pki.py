"""The two authorities: what they sign, who is accepted by whom, and how the files are kept."""

from __future__ import annotations

import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from gateway.errors import ConfigError
from gateway.pki import Authority, server_name

ALICE, BOB = "aaaaaaaaaa", "bbbbbbbbbb"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("pki") / "ca")


def node_context(authority: Authority, directory: Path, server_id: str) -> ssl.SSLContext:
    """The TLS of an application on a node, as Jupyter sets it up with certfile, keyfile and client_ca."""
    key, certificate = authority.issue(server_id, datetime.now(UTC) + timedelta(hours=1))
    (directory / "key.pem").write_text(key)
    (directory / "cert.pem").write_text(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    context.load_verify_locations(authority.client_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def gateway_context(
    authority: Authority, certificate: Path | None, key: Path | None = None
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.node_ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if certificate:
        context.load_cert_chain(certificate, key)
    return context


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bytes:
    """Return what the client reads after the handshake; raise what the client sees."""
    near, far = socket.socketpair()
    for end in (near, far):
        end.settimeout(5)

    def serve() -> None:
        with far, server.wrap_socket(far, server_side=True) as tls:
            tls.sendall(b"hello")

    with ThreadPoolExecutor(1) as pool, near:
        served = pool.submit(serve)
        try:
            with client.wrap_socket(near, server_hostname=name) as tls:
                return tls.recv(5)
        finally:
            near.close()
            served.exception()


def test_the_gateway_and_the_right_server_accept_each_other(authority: Authority, tmp_path: Path) -> None:
    server = node_context(authority, tmp_path, ALICE)
    client = gateway_context(authority, authority.client_pem)
    assert handshake(server, client, server_name(ALICE)) == b"hello"


def test_another_servers_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    server = node_context(authority, tmp_path, BOB)
    client = gateway_context(authority, authority.client_pem)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(server, client, server_name(ALICE))


def test_a_servers_certificate_does_not_pass_as_the_gateway(authority: Authority, tmp_path: Path) -> None:
    server = node_context(authority, tmp_path, ALICE)
    client = gateway_context(authority, tmp_path / "cert.pem", tmp_path / "key.pem")
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
        handshake(server, client, server_name(ALICE))


def test_a_client_without_a_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    server = node_context(authority, tmp_path, ALICE)
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
        handshake(server, gateway_context(authority, None), server_name(ALICE))


def test_another_gateways_server_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = Authority.open(tmp_path / "other")
    server = node_context(other, tmp_path, ALICE)
    client = gateway_context(authority, authority.client_pem)
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        handshake(server, client, server_name(ALICE))


def test_certificates_allow_for_a_slow_clock_and_have_random_serials(authority: Authority) -> None:
    end = datetime.now(UTC) + timedelta(hours=2)
    pair = [x509.load_pem_x509_certificate(authority.issue(ALICE, end)[1].encode()) for _ in range(2)]
    assert pair[0].not_valid_before_utc <= datetime.now(UTC) - timedelta(minutes=59)
    assert pair[0].not_valid_after_utc == end.replace(microsecond=0)
    assert pair[0].serial_number != pair[1].serial_number


@pytest.mark.parametrize("bad", ["", "AAAAAAAAAA", "aaaaaaaaa1", "aaaaaaaaaa.evil", "aaaaaaaaaa\n", "a" * 11])
def test_only_a_server_id_is_certified(authority: Authority, bad: str) -> None:
    with pytest.raises(ValueError, match="not a server id"):
        authority.issue(bad, datetime.now(UTC) + timedelta(hours=1))


def test_a_certificate_that_has_ended_is_not_made(authority: Authority) -> None:
    with pytest.raises(ValueError, match="ended already"):
        authority.issue(ALICE, datetime.now(UTC) - timedelta(seconds=1))


def test_a_second_start_finds_the_same_authorities(tmp_path: Path) -> None:
    first = Authority.open(tmp_path / "ca")
    before = {file.name: file.read_bytes() for file in first.directory.iterdir()}
    Authority.open(tmp_path / "ca")
    assert {file.name: file.read_bytes() for file in first.directory.iterdir()} == before


def test_two_that_start_at_once_share_the_authorities(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: Authority.open(tmp_path / "ca"), range(4)))
    assert len({authority._node.certificate.serial_number for authority in opened}) == 1
    assert len({authority._client.certificate.serial_number for authority in opened}) == 1


def test_a_crash_between_key_and_certificate_is_mended(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "ca")
    authority.node_ca.unlink()
    again = Authority.open(tmp_path / "ca")
    assert again.issue(ALICE, datetime.now(UTC) + timedelta(hours=1))


def test_nobody_else_can_read_the_files(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "ca")
    assert authority.directory.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in authority.directory.iterdir()} == {0o600}


def test_a_key_of_another_certificate_is_a_configuration_error(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "ca")
    (authority.directory / "node-ca.key").write_bytes((authority.directory / "client-ca.key").read_bytes())
    with pytest.raises(ConfigError, match=r"node-ca.key is not the key of node-ca.pem"):
        Authority.open(tmp_path / "ca")


def test_the_client_certificate_is_renewed_only_when_it_ends_soon(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = Authority.open(tmp_path / "ca", now)
    before = authority.client_pem.read_bytes()
    assert not authority.renew_client(now + timedelta(days=500))
    assert authority.client_pem.read_bytes() == before
    assert authority.renew_client(now + timedelta(days=600))
    assert authority.client_pem.read_bytes() != before

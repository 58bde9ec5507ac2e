"""Host certificates: a CA in known_hosts vouches for a login node, for masters and for commands alike."""

from __future__ import annotations

import asyncio
import getpass
import subprocess
import threading

import pytest

from gateway.dataplane.masters import Masters
from gateway.errors import HostKeyRefused
from gateway.siteconfig import Login
from gateway.ssh import hostcert
from gateway.ssh.hostkey import Trust, shown_key
from gateway.ssh.transport import Limits, connect, quiet_library_log
from tests.proxy.sshd import Sshd

pytestmark = pytest.mark.proxy
HOST = "127.0.0.1"
HOUR, PAST = "-1m:+1h", "-2h:-1h"


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet_library_log()


def public(sshd: Sshd, name: str) -> str:
    """Return the type and text of a public key."""
    return " ".join((sshd.directory / f"{name}.pub").read_text().split()[:2])


def certify(sshd: Sshd, name: str, validity: str) -> None:
    """Have sshd show a certificate for a name, of a CA of its own, and nobody know its key."""
    directory = sshd.directory
    sshd.make_key("host_ca")
    words = ["ssh-keygen", "-q", "-s", str(directory / "host_ca"), "-h", "-I", "login", "-n", name]
    subprocess.run([*words, "-V", validity, str(directory / "host_key.pub")], check=True, timeout=20)
    sshd.configure(f"HostCertificate {directory}/host_key-cert.pub")


def logged_in(sshd: Sshd) -> None:
    """Connect as commands do."""
    said = {"hosts": [HOST], "port": sshd.port, "user": getpass.getuser(), "act_as": "service"}
    files = {"key": sshd.directory / "user_key", "known_hosts": sshd.known_hosts}
    login = Login.model_validate({**said, **files})
    connect(login, Limits(connect=5.0), threading.Event()).close()


async def both(masters: Masters, sshd: Sshd) -> list[Exception | None]:
    """Return what a master and a connection for commands come to."""
    found: list[Exception | None] = []
    for attempt in (masters.tend(), asyncio.to_thread(logged_in, sshd)):
        try:
            await attempt
        except HostKeyRefused as error:
            found.append(error)
        else:
            found.append(None)
    return found


@pytest.mark.parametrize("pattern", ["[127.0.0.1]:{port}", "*", "[127.0.0.*]:{port}"])
async def test_a_certified_login_node_is_trusted_whatever_its_key(
    masters: Masters, login_node: Sshd, pattern: str
) -> None:
    certify(login_node, HOST, HOUR)
    line = f"@cert-authority {pattern.format(port=login_node.port)} {public(login_node, 'host_ca')}\n"
    login_node.known_hosts.write_text(line)
    assert await both(masters, login_node) == [None, None]
    assert shown_key(HOST, login_node.port, login_node.known_hosts).trust is Trust.KNOWN


@pytest.mark.parametrize(
    ("name", "validity", "extra", "why"),
    [
        ("elsewhere", HOUR, "", "not a listed principal|not for 127.0.0.1"),
        (HOST, PAST, "", "expired"),
        (HOST, HOUR, "@revoked * {host_ca}", "@revoked"),
        (HOST, HOUR, "@revoked * {host_key}", "@revoked"),
    ],
    ids=["another's", "expired", "revoked CA", "revoked key"],
)
async def test_a_certificate_that_is_not_good_is_refused_and_it_is_said_why(
    masters: Masters, login_node: Sshd, name: str, validity: str, extra: str, why: str
) -> None:
    certify(login_node, name, validity)
    keys = {each: public(login_node, each) for each in ("host_ca", "host_key")}
    login_node.known_hosts.write_text(f"@cert-authority * {keys['host_ca']}\n{extra.format(**keys)}\n")
    for refused in await both(masters, login_node):
        with pytest.raises(HostKeyRefused, match=why):
            raise refused or AssertionError("it was trusted")


async def test_another_ca_vouches_for_nobody(masters: Masters, login_node: Sshd) -> None:
    certify(login_node, HOST, HOUR)
    login_node.make_key("other_ca")
    keys = {"*": public(login_node, "other_ca"), "cn1": public(login_node, "host_ca")}
    lines = (f"@cert-authority {pattern} {key}\n" for pattern, key in keys.items())
    login_node.known_hosts.write_text("".join(lines))
    assert all(isinstance(found, HostKeyRefused) for found in await both(masters, login_node))


async def test_a_known_key_needs_no_certificate(masters: Masters, login_node: Sshd) -> None:
    login_node.make_key("other_ca")
    line = f"@cert-authority * {public(login_node, 'other_ca')}\n"
    login_node.known_hosts.write_text(login_node.known_hosts.read_text() + line)
    assert await both(masters, login_node) == [None, None]


def test_a_users_certificate_is_no_hosts(login_node: Sshd) -> None:
    login_node.make_key("host_ca")
    directory = login_node.directory
    words = ["ssh-keygen", "-q", "-s", str(directory / "host_ca"), "-I", "login", "-n", HOST]
    subprocess.run([*words, str(directory / "host_key.pub")], check=True, timeout=20)
    certificate = public(login_node, "host_key-cert")
    assert " ".join(hostcert.authority_of(certificate)) == public(login_node, "host_ca")
    assert hostcert.fault(certificate, HOST) == "it is a user's and no host's"

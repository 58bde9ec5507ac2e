"""Logging in against a real slapd over LDAPS."""

from __future__ import annotations

import dataclasses
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.auth import MAX_PASSWORD
from gateway.auth.ldap import LdapAuthenticator, LdapSettings
from gateway.errors import ConfigError, DirectoryUnreachable, GatewayError, LoginNotAllowed, LoginRefused
from gateway.model import User

SLAPD = shutil.which("slapd", path="/usr/sbin:/usr/bin")
pytestmark = pytest.mark.skipif(
    SLAPD is None or not shutil.which("slapadd", path="/usr/sbin"), reason="needs slapd"
)

BASE = "dc=example,dc=org"
PEOPLE = [
    ("alice", 10001, ""),
    ("bob", 10002, ""),
    ("carol", 10003, ""),
    ("dave", 10004, ""),
    ("root", 0, ""),
    ("slurm", 10064, ""),
    ("low", 999, ""),
    ("twin", 10005, "uid: twin2\n"),
]

CONFIG = """\
dn: cn=config
objectClass: olcGlobal
cn: config
olcPidFile: {d}/slapd.pid
olcTLSCertificateFile: {d}/server.pem
olcTLSCertificateKeyFile: {d}/server.key
olcTLSCACertificateFile: {d}/ca.pem

dn: cn=module,cn=config
objectClass: olcModuleList
cn: module
olcModulePath: /usr/lib/ldap
olcModuleLoad: back_mdb

dn: cn=schema,cn=config
objectClass: olcSchemaConfig
cn: schema

{schema}
dn: olcDatabase={{1}}mdb,cn=config
objectClass: olcDatabaseConfig
objectClass: olcMdbConfig
olcDatabase: {{1}}mdb
olcDbDirectory: {d}/db
olcDbMaxSize: 16777216
olcSuffix: dc=example,dc=org
olcDbIndex: uid,objectClass eq
olcAccess: {{0}}to attrs=userPassword by self write by anonymous auth by * none
olcAccess: {{1}}to * by self read by dn.exact="cn=hub,{base}" read by * none
"""

HEAD = """\
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: cn=hub,dc=example,dc=org
objectClass: applicationProcess
objectClass: simpleSecurityObject
cn: hub
userPassword: hubpw

dn: cn=hub-users,dc=example,dc=org
objectClass: groupOfNames
cn: hub-users
member: uid=alice,dc=example,dc=org
member: uid=carol,dc=example,dc=org

dn: cn=hub-admins,dc=example,dc=org
objectClass: posixGroup
cn: hub-admins
gidNumber: 10100
memberUid: carol
"""

PERSON = """\

dn: uid={name},dc=example,dc=org
objectClass: inetOrgPerson
objectClass: posixAccount
uid: {name}
{more}cn: {name}
sn: {name}
uidNumber: {uid}
gidNumber: {uid}
homeDirectory: /home/{name}
userPassword: {name}pw
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*words: str | Path, **more: str) -> None:
    subprocess.run(
        [str(word) for word in words], check=True, capture_output=True, timeout=30, text=True, **more
    )  # type: ignore[call-overload]


def certificates(d: Path) -> None:
    """A CA, a server's certificate for localhost only, and another CA."""
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ca", "other"):
        run(
            "openssl",
            "req",
            "-x509",
            *new_key,
            "-keyout",
            d / f"{name}.key",
            "-out",
            d / f"{name}.pem",
            "-days",
            "2",
            "-subj",
            f"/CN={name}",
            "-addext",
            "keyUsage=critical,keyCertSign",
        )
    run(
        "openssl",
        "req",
        "-new",
        *new_key,
        "-keyout",
        d / "server.key",
        "-out",
        d / "server.csr",
        "-subj",
        "/CN=x",
    )
    (d / "names").write_text("subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
    run(
        "openssl",
        "x509",
        "-req",
        "-in",
        d / "server.csr",
        "-CA",
        d / "ca.pem",
        "-CAkey",
        d / "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-out",
        d / "server.pem",
        "-extfile",
        d / "names",
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A slapd of the test's own, as whoever runs the test: its files and its LDAPS port."""
    assert SLAPD is not None
    d = tmp_path_factory.mktemp("slapd")
    (d / "conf").mkdir()
    (d / "db").mkdir()
    certificates(d)
    schema = "\n".join(
        Path(f"/etc/ldap/schema/{name}.ldif").read_text() + "\n"
        for name in ("core", "cosine", "nis", "inetorgperson")
    )
    (d / "config.ldif").write_text(CONFIG.format(d=d, schema=schema, base=BASE))
    people = "".join(PERSON.format(name=name, uid=uid, more=more) for name, uid, more in PEOPLE)
    (d / "data.ldif").write_text(HEAD + people)
    run("/usr/sbin/slapadd", "-n", "0", "-F", d / "conf", "-l", d / "config.ldif")
    run("/usr/sbin/slapadd", "-n", "1", "-F", d / "conf", "-l", d / "data.ldif")
    port = free_port()
    with (d / "log").open("wb") as log:
        slapd = subprocess.Popen(
            [SLAPD, "-F", str(d / "conf"), "-h", f"ldaps://127.0.0.1:{port}/", "-d", "0"],
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield d, port
    finally:
        slapd.terminate()
        slapd.wait(10)


@pytest.fixture
def settings(directory: tuple[Path, int], tmp_path: Path) -> LdapSettings:
    d, port = directory
    password = tmp_path / "reader"
    password.touch(0o600)
    password.write_text("hubpw\n")
    return LdapSettings(
        servers=(f"localhost:{port}",),
        ca_file=d / "ca.pem",
        reader_dn=f"cn=hub,{BASE}",
        reader_password_file=password,
        base=BASE,
        admin_group=f"cn=hub-admins,{BASE}",
        connect_timeout=1,
        receive_timeout=1,
    )


@pytest.fixture
async def ldap(settings: LdapSettings) -> AsyncIterator[LdapAuthenticator]:
    authenticator = LdapAuthenticator(settings)
    yield authenticator
    authenticator.close()


async def outcome(
    settings: LdapSettings, name: str = "alice", password: str = "alicepw"
) -> User | GatewayError:
    authenticator = LdapAuthenticator(settings)
    try:
        return await authenticator.authenticate(name, password)
    except GatewayError as error:
        return error
    finally:
        authenticator.close()


async def test_a_right_password_gives_the_person_and_whether_they_administer(ldap: LdapAuthenticator) -> None:
    assert await ldap.authenticate("alice", "alicepw") == User("alice", admin=False)
    assert await ldap.authenticate("carol", "carolpw") == User("carol", admin=True)


async def test_the_canonical_name_is_the_entrys_whatever_case_was_typed(ldap: LdapAuthenticator) -> None:
    assert await ldap.authenticate("ALICE", "alicepw") == User("alice")


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("alice", "wrong"),
        ("alice", "bobpw"),
        ("nobodyhere", "x"),
        ("alice ", "alicepw"),
        (" alice", "alicepw"),
        ("ａlice", "alicepw"),
        ("ſlurm", "slurmpw"),
        ("*", "alicepw"),
        ("alice)(uid=*", "alicepw"),
        ("a*", "alicepw"),
        ("alice\0", "alicepw"),
        ("alice\n", "alicepw"),
        ("", "alicepw"),
        ("alice", ""),
        ("alice", "alicepw\0"),
        ("alice", "x" * (MAX_PASSWORD + 1)),
        ("twin", "twinpw"),
        ("twin2", "twinpw"),
        ("hub", "hubpw"),
    ],
)
async def test_anything_else_is_refused_in_one_sentence(
    ldap: LdapAuthenticator, name: str, password: str
) -> None:
    with pytest.raises(LoginRefused) as refused:
        await ldap.authenticate(name, password)
    assert refused.value.public == LoginRefused.default_public


@pytest.mark.parametrize("name", ["root", "slurm", "low"])
async def test_system_accounts_are_refused_before_their_password_is_tried(
    ldap: LdapAuthenticator, name: str
) -> None:
    with pytest.raises(LoginNotAllowed):
        await ldap.authenticate(name, "not even its password")


async def test_a_required_group_lets_its_members_in_and_others_only_know_with_their_password(
    settings: LdapSettings,
) -> None:
    grouped = dataclasses.replace(settings, required_group=f"CN=hub-users,{BASE}")
    assert await outcome(grouped) == User("alice")
    assert isinstance(await outcome(grouped, "bob", "bobpw"), LoginNotAllowed)
    assert isinstance(await outcome(grouped, "bob", "wrong"), LoginRefused)
    missing = dataclasses.replace(settings, required_group=f"cn=nosuch,{BASE}")
    assert isinstance(await outcome(missing), LoginNotAllowed)


async def test_a_server_with_another_cas_certificate_or_another_name_is_not_believed(
    settings: LdapSettings, directory: tuple[Path, int]
) -> None:
    d, port = directory
    assert isinstance(
        await outcome(dataclasses.replace(settings, ca_file=d / "other.pem")), DirectoryUnreachable
    )
    named = dataclasses.replace(settings, servers=(f"127.0.0.1:{port}",))
    assert isinstance(await outcome(named), DirectoryUnreachable)


async def test_a_dead_server_is_passed_over(settings: LdapSettings) -> None:
    dead = f"localhost:{free_port()}"
    assert isinstance(await outcome(dataclasses.replace(settings, servers=(dead,))), DirectoryUnreachable)
    assert await outcome(dataclasses.replace(settings, servers=(dead, *settings.servers))) == User("alice")


async def test_a_silent_server_costs_its_timeout_and_no_more(settings: LdapSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"localhost:{silent.getsockname()[1]}"
        begun = time.monotonic()
        assert isinstance(
            await outcome(dataclasses.replace(settings, servers=(address,))), DirectoryUnreachable
        )
        assert time.monotonic() - begun < 4
        assert await outcome(dataclasses.replace(settings, servers=(address, *settings.servers))) == User(
            "alice"
        )


async def test_a_readers_password_that_others_may_read_or_that_is_wrong_is_said_in_the_log(
    settings: LdapSettings,
) -> None:
    settings.reader_password_file.chmod(0o640)
    error = await outcome(settings)
    assert isinstance(error, ConfigError)
    assert "chmod 600" in str(error)
    settings.reader_password_file.chmod(0o600)
    settings.reader_password_file.write_text("wrong")
    error = await outcome(settings)
    assert isinstance(error, ConfigError)
    assert "refuses the reader" in str(error)


async def test_settings_that_cannot_work_are_refused_at_once(settings: LdapSettings) -> None:
    for wrong in ({"servers": ()}, {"servers": ("ldaps://x",)}, {"base": "dc=example, dc=org"}):
        with pytest.raises(ConfigError):
            LdapAuthenticator(dataclasses.replace(settings, **wrong))


async def test_no_password_is_in_what_is_raised(settings: LdapSettings) -> None:
    error = await outcome(settings, "alice", "s3cret-typed")
    assert "s3cret-typed" not in f"{error!r} {error}"
    assert "hubpw" not in repr(LdapAuthenticator(settings))


async def test_asking_does_not_block_the_event_loop(ldap: LdapAuthenticator) -> None:
    await ldap.authenticate("alice", "alicepw")
    threads = {thread.name for thread in threading.enumerate()}
    assert any(name.startswith("ldap") for name in threads)

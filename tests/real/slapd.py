"""A slapd of the test's own, as whoever runs the test: LDAPS and StartTLS on loopback, and its people."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SLAPD = shutil.which("slapd", path="/usr/sbin:/usr/bin")
MISSING = SLAPD is None or not shutil.which("slapadd", path="/usr/sbin")

BASE = "dc=example,dc=org"
#: Name, uidNumber, and further lines of the entry.
PEOPLE = [
    ("alice", 10001, ""),
    ("bob", 10002, ""),
    ("carol", 10003, ""),
    ("dave", 10004, ""),
    ("root", 0, ""),
    ("slurm", 10064, ""),
    ("low", 999, ""),
    ("twin", 10005, "uid: twin2\n"),
    ("hidden", 10006, ""),
    ("stale", 10007, f"pwdPolicySubentry: cn=yearly,{BASE}\npwdChangedTime: 20200101000000Z\n"),
    ("reset", 10008, f"pwdPolicySubentry: cn=yearly,{BASE}\npwdReset: TRUE\n"),
]

_CONFIG = """\
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
olcModuleLoad: ppolicy

dn: cn=schema,cn=config
objectClass: olcSchemaConfig
cn: schema

{schema}
dn: cn=ad,cn=schema,cn=config
objectClass: olcSchemaConfig
cn: ad
olcAttributeTypes: ( 1.2.840.113556.1.4.221 NAME 'sAMAccountName' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
olcAttributeTypes: ( 1.2.840.113556.1.2.102 NAME 'memberOf' EQUALITY distinguishedNameMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.12 )
olcObjectClasses: ( 1.2.840.113556.1.5.9 NAME 'user' SUP organizationalPerson STRUCTURAL
  MAY ( sAMAccountName $ memberOf ) )

dn: olcDatabase={{1}}mdb,cn=config
objectClass: olcDatabaseConfig
objectClass: olcMdbConfig
olcDatabase: {{1}}mdb
olcDbDirectory: {d}/db
olcDbMaxSize: 16777216
olcSuffix: dc=example,dc=org
olcDbIndex: uid,objectClass eq
olcAccess: {{0}}to attrs=userPassword by self write by anonymous auth by * none
olcAccess: {{1}}to dn.exact="uid=hidden,{base}" by dn.exact="cn=hub,{base}" read by * none
olcAccess: {{2}}to dn.regex="^cn=hub-" by users read
olcAccess: {{3}}to * by self read by dn.exact="cn=hub,{base}" read by * none

dn: olcOverlay={{0}}ppolicy,olcDatabase={{1}}mdb,cn=config
objectClass: olcOverlayConfig
objectClass: olcPPolicyConfig
olcOverlay: {{0}}ppolicy
"""

_DATA = """\
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

dn: ou=teams,dc=example,dc=org
objectClass: organizationalUnit
ou: teams

dn: cn=physics,ou=teams,dc=example,dc=org
objectClass: groupOfNames
cn: physics
member: uid=alice,dc=example,dc=org

dn: cn=gpu-users,ou=teams,dc=example,dc=org
objectClass: posixGroup
cn: gpu-users
gidNumber: 10101
memberUid: alice
memberUid: bob

dn: cn=people,ou=teams,dc=example,dc=org
objectClass: posixGroup
cn: people
gidNumber: 10001

dn: cn=two words,ou=teams,dc=example,dc=org
objectClass: groupOfUniqueNames
cn: two words
uniqueMember: uid=alice,dc=example,dc=org

dn: cn=yearly,dc=example,dc=org
objectClass: pwdPolicy
objectClass: applicationProcess
cn: yearly
pwdAttribute: userPassword
pwdMaxAge: 31536000
pwdMustChange: TRUE

dn: cn=Dora Doe,dc=example,dc=org
objectClass: user
cn: Dora Doe
sn: Doe
sAMAccountName: Dora
memberOf: CN=hub-users,DC=example,DC=org
userPassword: dorapw

dn: ou=elsewhere,dc=example,dc=org
objectClass: referral
objectClass: extensibleObject
ou: elsewhere
ref: ldap://127.0.0.1:{elsewhere}/ou=elsewhere,dc=example,dc=org
"""

_PERSON = """\

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


@dataclass(frozen=True)
class Directory:
    """A running slapd: its files, its two ports, and a listener that a referral in it leads to."""

    files: Path
    ldaps: int
    starttls: int
    elsewhere: socket.socket

    def port(self, tls: str) -> int:
        """Return the port for a kind of TLS."""
        return self.ldaps if tls == "ldaps" else self.starttls


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True, timeout=30)


def _certificates(d: Path) -> None:
    """Make a CA, a server's certificate for localhost only, and another CA."""
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ca", "other"):
        files = ("-keyout", d / f"{name}.key", "-out", d / f"{name}.pem")
        usage = ("-addext", "keyUsage=critical,keyCertSign")
        _run("openssl", "req", "-x509", *new_key, *files, "-days", "2", "-subj", f"/CN={name}", *usage)
    request = ("-keyout", d / "server.key", "-out", d / "server.csr", "-subj", "/CN=x")
    _run("openssl", "req", "-new", *new_key, *request)
    (d / "names").write_text("subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
    signed = ("-CA", d / "ca.pem", "-CAkey", d / "ca.key", "-CAcreateserial", "-extfile", d / "names")
    _run("openssl", "x509", "-req", "-in", d / "server.csr", *signed, "-days", "2", "-out", d / "server.pem")


def _fill(d: Path, elsewhere: int) -> None:
    (d / "conf").mkdir()
    (d / "db").mkdir()
    schema = "\n".join(
        Path(f"/etc/ldap/schema/{name}.ldif").read_text() + "\n"
        for name in ("core", "cosine", "nis", "inetorgperson")
    )
    (d / "config.ldif").write_text(_CONFIG.format(d=d, schema=schema, base=BASE))
    people = "".join(_PERSON.format(name=name, uid=uid, more=more) for name, uid, more in PEOPLE)
    (d / "data.ldif").write_text(_DATA.format(elsewhere=elsewhere) + people)
    for number, name in (("0", "config"), ("1", "data")):
        _run("/usr/sbin/slapadd", "-n", number, "-F", d / "conf", "-l", d / f"{name}.ldif")


@contextmanager
def running(d: Path) -> Iterator[Directory]:
    """Run it in a directory of its own, which is empty before."""
    assert SLAPD is not None
    _certificates(d)
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        directory = Directory(d, free_port(), free_port(), elsewhere)
        _fill(d, elsewhere.getsockname()[1])
        urls = f"ldaps://127.0.0.1:{directory.ldaps}/ ldap://127.0.0.1:{directory.starttls}/"
        with (d / "log").open("wb") as log:
            words = [SLAPD, "-F", str(d / "conf"), "-h", urls, "-d", "0"]
            slapd = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            for port in (directory.ldaps, directory.starttls):
                _wait(port)
            yield directory
        finally:
            slapd.terminate()
            slapd.wait(10)


def _wait(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("slapd does not listen")

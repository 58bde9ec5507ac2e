"""The directory: what slapd is told, and the people and groups in it."""

from __future__ import annotations

import base64
import hashlib
import pwd
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.lab.accounts import CLUSTER_GROUP, PEOPLE, Account

BASE = "dc=example,dc=org"
READER = f"cn=gateway,ou=services,{BASE}"
USERS_GROUP = f"cn=gateway-users,ou=groups,{BASE}"
ADMINS_GROUP = f"cn=gateway-admins,ou=groups,{BASE}"
NAME = "ldap.lab"
CONFIG = Path(__file__).with_name("files") / "slapd.ldif"
ADMINS = ("carol",)
OUTSIDERS = ("dave",)

_HEAD = f"""\
dn: {BASE}
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: ou=people,{BASE}
objectClass: organizationalUnit
ou: people

dn: ou=groups,{BASE}
objectClass: organizationalUnit
ou: groups

dn: ou=services,{BASE}
objectClass: organizationalUnit
ou: services

"""


def entries() -> tuple[Account, ...]:
    """Return the people of the directory: the lab's, and three that no gateway may ever act as."""
    return (
        *PEOPLE,
        Account("root", 0, "Root Entry"),
        Account("slurm", pwd.getpwnam("slurm").pw_uid, "Slurm Entry"),
        Account("daemon2", 500, "System Entry"),
    )


def data(passwords: Mapping[str, str], reader_password: str) -> str:
    """Return the directory's content as LDIF for slapadd(8); offline no overlay adds memberOf."""
    people = entries()
    inside = [person for person in people if person.name not in OUTSIDERS]
    admins = [person for person in people if person.name in ADMINS]
    parts = [_HEAD, _reader(reader_password)]
    for person in people:
        groups = [USERS_GROUP] * (person in inside) + [ADMINS_GROUP] * (person in admins)
        parts.append(_person(person, passwords[person.name], groups))
    parts += [_group(USERS_GROUP, inside), _group(ADMINS_GROUP, admins), _posix_group()]
    return "\n".join(parts)


def _dn(person: Account) -> str:
    return f"uid={person.name},ou=people,{BASE}"


def _reader(password: str) -> str:
    return f"""\
dn: {READER}
objectClass: applicationProcess
objectClass: simpleSecurityObject
cn: gateway
userPassword: {_ssha(password)}
"""


def _person(person: Account, password: str, groups: Iterable[str]) -> str:
    member = "".join(f"memberOf: {group}\n" for group in groups)
    return f"""\
dn: {_dn(person)}
objectClass: inetOrgPerson
objectClass: posixAccount
uid: {person.name}
cn: {person.full_name}
sn: {person.full_name.split()[-1]}
mail: {person.name}@example.org
uidNumber: {person.uid}
gidNumber: {person.uid}
homeDirectory: {person.directory}
loginShell: {person.shell}
userPassword: {_ssha(password)}
{member}"""


def _group(dn: str, members: Iterable[Account]) -> str:
    lines = "".join(f"member: {_dn(person)}\n" for person in members)
    return f"dn: {dn}\nobjectClass: groupOfNames\ncn: {dn[3:].partition(',')[0]}\n{lines}"


def _posix_group() -> str:
    name, gid = CLUSTER_GROUP
    members = "".join(f"memberUid: {person.name}\n" for person in PEOPLE if person.cluster)
    return f"dn: cn={name},ou=groups,{BASE}\nobjectClass: posixGroup\ncn: {name}\ngidNumber: {gid}\n{members}"


def _ssha(password: str) -> str:
    salt = secrets.token_bytes(8)
    return "{SSHA}" + base64.b64encode(hashlib.sha1(password.encode() + salt).digest() + salt).decode()

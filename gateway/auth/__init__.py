"""Who somebody is: the contract that every way of logging in keeps, and what all of them refuse."""

from __future__ import annotations

from typing import Protocol

from gateway.errors import LoginNotAllowed, LoginRefused
from gateway.model import USER_NAME, User

#: Accounts of the system and its daemons. They never log in, whatever a directory says of them.
DENIED_NAMES = frozenset(
    {
        "_apt",
        "adm",
        "backup",
        "bin",
        "chrony",
        "daemon",
        "dbus",
        "ftp",
        "games",
        "gateway",
        "gridengine",
        "halt",
        "haproxy",
        "irc",
        "ldap",
        "list",
        "lp",
        "mail",
        "man",
        "messagebus",
        "munge",
        "news",
        "nobody",
        "nslcd",
        "ntp",
        "openldap",
        "operator",
        "pbs",
        "pbsdata",
        "polkitd",
        "postfix",
        "proxy",
        "root",
        "rpc",
        "rpcuser",
        "sge",
        "sgeadmin",
        "shutdown",
        "slurm",
        "slurmdbd",
        "slurmrestd",
        "sshd",
        "sssd",
        "sync",
        "sys",
        "systemd-network",
        "systemd-resolve",
        "systemd-timesync",
        "uucp",
        "www-data",
    }
)
#: The longest password that is passed on, in characters: ldap3 takes seconds over very long ones.
MAX_PASSWORD = 256


class Authenticator(Protocol):
    """A way of logging in."""

    async def authenticate(self, name: str, password: str) -> User:
        """Return the person whom this name and password belong to.

        Args:
            name: As typed.
            password: As typed. It is neither stored nor logged.

        Raises:
            LoginRefused: They do not match, or cannot.
            LoginNotAllowed: The account may not use the gateway.
            DirectoryUnreachable: Nothing is known about the password.

        The detail of an error, which is logged, holds the name only if there is such an account: somebody may
        have typed their password there.
        """
        ...


def acceptable_name(name: str, password: str) -> str:
    """Return ``name`` in lower case if it and the password are worth asking a directory about.

    A name that is not ASCII is refused before it is lowered: some other letters lower to ASCII ones, and
    directories take full-width letters for ASCII ones (seen with slapd 2.5).

    Raises:
        LoginRefused: The name is malformed, or the password is empty, over-long or holds a NUL.
        LoginNotAllowed: It is the name of a system account.
    """
    lowered = name.lower()
    if not name.isascii() or not USER_NAME.fullmatch(lowered):
        raise LoginRefused("malformed user name")
    if not 0 < len(password) <= MAX_PASSWORD or "\0" in password:
        raise LoginRefused("unusable password")
    if lowered in DENIED_NAMES:
        raise LoginNotAllowed(f"{lowered}: a system account")
    return lowered

"""Whether a directory can be asked, step by step, for those who set it up. Blocking."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ldap3 import SUBTREE
from ldap3.core.exceptions import LDAPExceptionError

from gateway.auth.directory import DirectoryServer, NoAnswer, Verdict, bind, result_words, search
from gateway.errors import DirectoryUnreachable, LoginRefused


def try_tls(server: DirectoryServer) -> None:
    """Connect, with TLS and the server's certificate verified.

    Raises:
        DirectoryUnreachable: There is no connection, or not with this server.
        ConfigError: The CA cannot be read.
    """
    with _translated(server), server.connection("", ""):
        return


def try_reader(server: DirectoryServer, reader: str, password: str) -> None:
    """Log the reader in.

    Raises:
        LoginRefused: The directory refuses; the detail holds its words.
        DirectoryUnreachable: It does not answer.
        ConfigError: It takes no such logins.
    """
    with _translated(server), server.connection(reader, password) as connection:
        if bind(connection) is not Verdict.RIGHT:
            raise LoginRefused(f"{server} refuses {reader}: {result_words(connection.result)}")


def has_people(server: DirectoryServer, reader: str, password: str, base: str, wanted: str) -> bool:
    """Return whether the reader finds anybody below a base.

    Args:
        server: Whom to ask.
        reader: The reader's DN.
        password: The reader's.
        base: Where to look.
        wanted: A whole LDAP filter.

    Raises:
        DirectoryUnreachable: It does not answer.
        ConfigError: It does not let the reader search there.
    """
    with _translated(server), server.connection(reader, password) as connection:
        bind(connection)
        return bool(search(connection, base, wanted, SUBTREE, ["1.1"]))


@contextmanager
def _translated(server: DirectoryServer) -> Iterator[None]:
    try:
        yield
    except (NoAnswer, LDAPExceptionError, OSError) as error:
        raise DirectoryUnreachable(f"{server}: {error}") from error

"""The demonstration's directory, asked by the very code that asks a site's."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.auth.ldap import LdapAuthenticator, LdapSettings
from gateway.demo import ber, certificate
from gateway.demo import directory as demo
from gateway.demo.place import Place
from gateway.errors import ConfigError, LoginNotAllowed, LoginRefused
from gateway.model import User

PEOPLE = [
    demo.reader("reader's"),
    demo.person("ada", 1815, "ada's"),
    demo.person("grace", 1906, "grace's"),
    demo.person("low", 20, "low's"),
    demo.person("nobody's", 2000, ""),
]


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    certificate.prepare(Place(tmp_path))
    async with demo.serving(PEOPLE, certificate.server_context(Place(tmp_path))) as port:
        yield port


@pytest.fixture
async def authenticator(port: int, tmp_path: Path) -> AsyncIterator[LdapAuthenticator]:
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text("reader's")
    settings = LdapSettings(
        servers=(f"127.0.0.1:{port}",),
        ca_file=Place(tmp_path).certificate,
        reader_dn=demo.READER,
        reader_password_file=password,
        base=demo.PEOPLE,
    )
    authenticator = LdapAuthenticator(settings)
    yield authenticator
    authenticator.close()


async def test_people_log_in_with_their_own_password_alone(authenticator: LdapAuthenticator) -> None:
    assert await authenticator.authenticate("ada", "ada's") == User("ada")
    assert await authenticator.authenticate("GRACE", "grace's") == User("grace")
    for name, password in (("ada", "grace's"), ("ada", "ada"), ("eve", "ada's"), ("*", "ada's")):
        with pytest.raises(LoginRefused):
            await authenticator.authenticate(name, password)
    with pytest.raises(LoginNotAllowed):
        await authenticator.authenticate("low", "low's")


async def test_who_does_not_know_the_readers_password_finds_nobody(
    authenticator: LdapAuthenticator, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("guessed")
    with pytest.raises(ConfigError, match="refuses the reader"):
        await authenticator.authenticate("ada", "ada's")


async def ask(port: int, tmp_path: Path, *operations: bytes) -> list[tuple[int, bytes]]:
    """Return the directory's answers, operations only, until it hangs up."""
    context = certificate.client_context(Place(tmp_path))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    for number, operation in enumerate(operations, 1):
        writer.write(ber.encode(ber.SEQUENCE, ber.number(number), operation))
    writer.write(ber.encode(ber.SEQUENCE, ber.number(99), ber.encode(0x42)))  # unbind
    async with asyncio.timeout(5):
        said = await reader.read()
    writer.close()
    return [list(ber.elements(message))[1] for _, message in ber.elements(said)]


def bind(name: str, password: str) -> bytes:
    return ber.encode(0x60, ber.number(3), ber.text(name), ber.encode(0x80, password.encode()))


def search(base: str) -> bytes:
    zero = ber.number(0)
    scope = ber.number(2, ber.ENUMERATED)
    everybody = ber.encode(0x87, b"objectClass")
    more = (scope, ber.number(0, ber.ENUMERATED), zero, zero, ber.encode(ber.BOOLEAN, b"\0"), everybody)
    return ber.encode(0x63, ber.text(base), *more, ber.encode(ber.SEQUENCE))


def code(answer: tuple[int, bytes]) -> int:
    return ber.whole_number(next(ber.elements(answer[1]))[1])


async def test_nothing_is_shown_to_whoever_has_not_bound(port: int, tmp_path: Path) -> None:
    for first in (bind("", ""), bind(f"uid=nobody's,{demo.PEOPLE}", ""), bind(demo.READER, "")):
        bound, found = await ask(port, tmp_path, first, search(demo.BASE))
        assert (code(bound), code(found)) == (49, 50)


async def test_who_has_bound_finds_all_without_their_passwords(port: int, tmp_path: Path) -> None:
    answers = await ask(port, tmp_path, bind(demo.READER, "reader's"), search(demo.BASE))
    assert [tag for tag, _ in answers] == [0x61, *[0x64] * len(PEOPLE), 0x65]
    assert b"ada's" not in b"".join(content for _, content in answers)


@pytest.mark.parametrize("rubbish", [b"GET / HTTP/1.1\r\n\r\n", b"0\x84\xff\xff\xff\xff", b"0\x02\x02\x01"])
async def test_rubbish_ends_the_connection_and_nothing_else(
    rubbish: bytes, port: int, tmp_path: Path, authenticator: LdapAuthenticator
) -> None:
    context = certificate.client_context(Place(tmp_path))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(rubbish)
    writer.write_eof() if writer.can_write_eof() else None
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    assert await authenticator.authenticate("ada", "ada's") == User("ada")


async def test_without_tls_nobody_answers(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ber.encode(ber.SEQUENCE, ber.number(1), bind(demo.READER, "reader's")))
    async with asyncio.timeout(5):
        with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
            await reader.readexactly(14)
    writer.close()

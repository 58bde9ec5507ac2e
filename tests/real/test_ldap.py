"""Logging in against a real slapd, by LDAPS or StartTLS, by a reader or as the person."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from gateway.auth import MAX_PASSWORD
from gateway.auth.ldap import LdapAuthenticator, LdapSettings
from gateway.demo.directory import PEOPLE, Entry, person, serving
from gateway.errors import (
    ConfigError,
    DirectoryUnreachable,
    GatewayError,
    LoginNotAllowed,
    LoginRefused,
    PasswordExpired,
)
from gateway.model import User
from tests.real.slapd import BASE, MISSING, Directory, free_port, running

pytestmark = pytest.mark.skipif(MISSING, reason="needs slapd")

START_TLS = bytes.fromhex("301d02010177188016") + b"1.3.6.1.4.1.1466.20037"
#: The answer to a bind that comes as the second message.
BIND_GRANTED = bytes.fromhex("300c02010261070a010004000400")


class Recorder:
    """Passes connections on to slapd, and keeps what came before and in TLS."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.sent: list[bytearray] = []

    @property
    def connections(self) -> int:
        return len(self.sent)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await asyncio.sleep(0.02)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sent.append(kept := bytearray())
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        await self._before(reader, writer, there_reader, there_writer)
        await asyncio.gather(self._pump(reader, there_writer, kept), self._pump(there_reader, writer, None))

    async def _before(self, *ends: Any) -> None:
        """Do something before everything is passed on."""

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray | None
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if kept is not None:
                    kept += data
                writer.write(data)
                await writer.drain()
        writer.close()


class SlippingIn(Recorder):
    """Adds something of its own to slapd's first answer, in the same packet."""

    def __init__(self, target: int, more: bytes) -> None:
        super().__init__(target)
        self._more = more

    async def _before(self, *ends: Any) -> None:
        reader, writer, there_reader, there_writer = ends
        there_writer.write(await reader.read(65536))
        writer.write(await there_reader.read(65536) + self._more)


class Answering(Recorder):
    """Gives one answer to the first words, and keeps what comes."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(0)
        self._answer = answer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sent.append(kept := bytearray())
        kept += await reader.read(65536)
        writer.write(self._answer)
        if self._answer:
            with suppress(ConnectionError, TimeoutError):
                kept += await asyncio.wait_for(reader.read(65536), 0.2)
        writer.close()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directory]:
    with running(tmp_path_factory.mktemp("slapd")) as directory:
        yield directory


@pytest.fixture
def settings(directory: Directory, tmp_path: Path) -> LdapSettings:
    """By LDAPS and a reader."""
    password = tmp_path / "reader"
    password.touch(0o600)
    password.write_text("hubpw\n")
    return LdapSettings(
        servers=(f"localhost:{directory.ldaps}",),
        ca_file=directory.files / "ca.pem",
        reader_dn=f"cn=hub,{BASE}",
        reader_password_file=password,
        base=BASE,
        admin_group=f"cn=hub-admins,{BASE}",
        connect_timeout=1,
        receive_timeout=1,
        refusal_takes=0,
    )


@pytest.fixture(params=["ldaps, reader", "starttls, reader", "ldaps, themselves", "starttls, themselves"])
def way(request: pytest.FixtureRequest, settings: LdapSettings, directory: Directory) -> LdapSettings:
    """By each kind of TLS and each way to find a person."""
    tls, who = request.param.split(", ")
    wanted = dataclasses.replace(settings, tls=tls, servers=(f"localhost:{directory.port(tls)}",))
    return as_themselves(wanted) if who == "themselves" else wanted


def as_themselves(settings: LdapSettings) -> LdapSettings:
    user_dn = f"uid={{name}},{BASE}"
    return dataclasses.replace(settings, user_dn=user_dn, base="", reader_dn="", reader_password_file=None)


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


async def test_each_way_gives_the_person_under_the_entrys_name_and_whether_they_administer(
    way: LdapSettings,
) -> None:
    assert await outcome(way) == User("alice", admin=False)
    assert await outcome(way, "ALICE") == User("alice")
    assert await outcome(way, "carol", "carolpw") == User("carol", admin=True)


async def test_each_way_tells_the_three_kinds_of_no_apart(way: LdapSettings) -> None:
    grouped = dataclasses.replace(way, required_group=f"CN=hub-users,{BASE}")
    dead = dataclasses.replace(way, servers=(f"localhost:{free_port()}",))
    assert await outcome(grouped) == User("alice")
    for name in ("alice", "bob", "dave", "nobodyhere"):
        assert type(await outcome(grouped, name, "wrong")) is LoginRefused
    assert type(await outcome(grouped, "bob", "bobpw")) is LoginNotAllowed
    assert type(await outcome(dead)) is DirectoryUnreachable


async def test_no_way_logs_what_was_typed_as_a_name_that_nobody_has(
    way: LdapSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "gateway")
    for password in ("x", "", "x" * 300):
        error = await outcome(way, "hunter2", password)
        assert type(error) is LoginRefused
        assert "hunter2" not in f"{error} {error.text} {caplog.text}"


@pytest.mark.parametrize("denied", [(), ("bob",)])
async def test_each_way_says_not_allowed_only_after_the_right_password(
    way: LdapSettings, denied: tuple[str, ...]
) -> None:
    more = dataclasses.replace(way, denied=way.denied | set(denied))
    for name in ("low", "twin", *denied):
        assert type(await outcome(more, name, "wrong")) is LoginRefused
        assert type(await outcome(more, name, f"{name}pw")) is LoginNotAllowed


async def test_each_way_says_that_a_password_has_expired_only_to_who_knows_it(way: LdapSettings) -> None:
    there = dataclasses.replace(way, password_url="https://password.example.org/")
    for name in ("stale", "reset"):
        assert type(await outcome(way, name, "wrong")) is LoginRefused
        expired = await outcome(there, name, f"{name}pw")
        assert type(expired) is PasswordExpired
        assert "https://password.example.org/" in expired.advice


async def test_each_way_follows_no_referral(way: LdapSettings, directory: Directory) -> None:
    base = f"ou=elsewhere,{BASE}"
    template = f"uid={{name}},{base}" if way.user_dn else ""
    error = await outcome(dataclasses.replace(way, base=base, user_dn=template))
    if way.reader_dn:
        assert "referral to" in str(error)
    assert type(error) is (ConfigError if way.reader_dn else LoginRefused)
    directory.elsewhere.settimeout(0.05)
    with pytest.raises(TimeoutError):
        directory.elsewhere.accept()


async def test_who_may_not_read_their_own_entry_is_told_so_and_the_log_says_how_to_let_them(
    settings: LdapSettings,
) -> None:
    error = await outcome(as_themselves(settings), "hidden", "hiddenpw")
    assert type(error) is ConfigError
    assert "self read" in str(error)
    assert "password is right" in error.public
    assert await outcome(settings, "hidden", "hiddenpw") == User("hidden")


async def test_an_entry_that_is_no_persons_is_not_allowed(settings: LdapSettings) -> None:
    other = dataclasses.replace(as_themselves(settings), user_filter="(objectClass=user)")
    assert type(await outcome(other)) is LoginNotAllowed


async def test_active_directorys_names_and_groups_are_taken(settings: LdapSettings) -> None:
    ad = dataclasses.replace(
        settings,
        user_filter="(objectClass=user)",
        name_attribute="sAMAccountName",
        uid_attribute="",
        required_group=f"cn=hub-users,{BASE}",
    )
    dora = User("dora", groups=frozenset({"hub-users"}))
    assert await outcome(ad, "dora", "dorapw") == dora
    assert await outcome(ad, "DORA", "dorapw") == dora
    assert type(await outcome(ad, "alice", "alicepw")) is LoginRefused
    elsewhere = dataclasses.replace(ad, group_base=f"ou=teams,{BASE}")
    assert await outcome(elsewhere, "dora", "dorapw") == User("dora"), "only groups below the base count"


async def test_a_persons_groups_are_those_below_the_base_however_they_list_their_members(
    settings: LdapSettings,
) -> None:
    grouped = dataclasses.replace(settings, group_base=f"OU=teams,{BASE}")
    teams = frozenset({"physics", "gpu-users", "people"})  # member, memberUid, the primary one
    assert await outcome(grouped) == User("alice", groups=teams)
    assert await outcome(grouped, "bob", "bobpw") == User("bob", groups=frozenset({"gpu-users"}))
    assert await outcome(as_themselves(grouped)) == User("alice"), "whom the directory does not show them"
    gone = dataclasses.replace(settings, group_base=f"ou=gone,{BASE}")
    assert await outcome(gone) == User("alice")


async def test_active_directorys_principal_names_lead_to_who_has_them_and_to_nobody_else(
    settings: LdapSettings, directory: Directory
) -> None:
    entries = [
        Entry("alice@example.org", {}, "alicepw"),
        person("alice", 10001, "alicepw"),
        Entry("bob@example.org", {}, "evepw"),  # eve's, who is not the account bob
        person("bob", 10002, "bobpw"),
    ]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory.files / "server.pem", directory.files / "server.key")
    async with serving(entries, context) as port:
        there = dataclasses.replace(
            as_themselves(settings),
            servers=(f"localhost:{port}",),
            user_dn="{name}@example.org",
            base=PEOPLE,
            admin_group="",
        )
        assert await outcome(there) == User("alice")
        assert type(await outcome(there, "alice", "wrong")) is LoginRefused
        assert type(await outcome(there, "bob", "evepw")) is LoginRefused


async def test_an_unknown_name_costs_the_directory_what_a_wrong_password_costs(
    settings: LdapSettings, directory: Directory
) -> None:
    sizes = {}
    for name in ("alice", "nosuc"):
        async with Recorder(directory.ldaps) as recorder:
            there = dataclasses.replace(settings, servers=(f"localhost:{recorder.port}",))
            assert type(await outcome(there, name, "wrong")) is LoginRefused
        sizes[name] = [len(sent) for sent in recorder.sent]
    assert len(sizes["alice"]) == 2, "the reader's connection, and one to try the password"
    assert sizes["alice"] == sizes["nosuc"]


async def test_no_refusal_is_quicker_than_another(settings: LdapSettings) -> None:
    slowed = dataclasses.replace(settings, refusal_takes=0.3)
    for name in ("alice", "nosuchname"):
        begun = time.monotonic()
        assert type(await outcome(slowed, name, "wrong")) is LoginRefused
        assert time.monotonic() - begun >= 0.3


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
        ("hub", "hubpw"),
    ],
)
async def test_anything_else_is_refused_in_one_sentence(
    ldap: LdapAuthenticator, name: str, password: str
) -> None:
    with pytest.raises(LoginRefused) as refused:
        await ldap.authenticate(name, password)
    assert refused.value.public == LoginRefused.default_public


@pytest.mark.parametrize("name", ["root", "slurm"])
async def test_system_accounts_are_refused_before_their_password_is_tried(
    ldap: LdapAuthenticator, name: str
) -> None:
    with pytest.raises(LoginNotAllowed):
        await ldap.authenticate(name, "not even its password")


async def test_a_group_that_is_not_there_lets_nobody_in(settings: LdapSettings) -> None:
    missing = dataclasses.replace(settings, required_group=f"cn=nosuch,{BASE}")
    assert isinstance(await outcome(missing), LoginNotAllowed)


@pytest.mark.parametrize("tls", ["ldaps", "starttls"])
async def test_a_server_with_another_cas_certificate_or_another_name_is_not_believed(
    settings: LdapSettings, directory: Directory, tls: str
) -> None:
    port = directory.port(tls)
    right = dataclasses.replace(settings, tls=tls, servers=(f"localhost:{port}",))
    assert await outcome(right) == User("alice")
    other = dataclasses.replace(right, ca_file=directory.files / "other.pem")
    assert isinstance(await outcome(other), DirectoryUnreachable)
    named = dataclasses.replace(right, servers=(f"127.0.0.1:{port}",))
    assert isinstance(await outcome(named), DirectoryUnreachable)


@pytest.mark.parametrize("themselves", [False, True])
async def test_with_starttls_nothing_but_the_request_is_sent_in_clear(
    settings: LdapSettings, directory: Directory, themselves: bool
) -> None:
    async with Recorder(directory.starttls) as recorder:
        there = dataclasses.replace(settings, tls="starttls", servers=(f"localhost:{recorder.port}",))
        assert await outcome(as_themselves(there) if themselves else there) == User("alice")
    assert recorder.connections == (1 if themselves else 2)
    for sent in recorder.sent:
        assert sent[:31] == START_TLS
        assert sent[31:33] == b"\x16\x03", "a TLS handshake follows at once"
        assert not any(word in sent for word in (b"alice", b"hubpw", b"cn=hub", BASE.encode()))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        bytes.fromhex("300c02010178070a010204000400"),  # protocolError: it knows no StartTLS
        bytes.fromhex("300c02010178070a013404000400"),  # unavailable
        bytes.fromhex("300c02010078070a010004000400"),  # success, but to another message
        bytes.fromhex("300c02010161070a010004000400"),  # success, but of a bind
        bytes.fromhex("30847fffffff"),  # two gigabytes to come
    ],
)
async def test_a_server_that_does_not_do_starttls_properly_gets_nothing_else(
    settings: LdapSettings, answer: bytes
) -> None:
    async with Answering(answer) as server:
        there = dataclasses.replace(settings, tls="starttls", servers=(f"localhost:{server.port}",))
        assert isinstance(await outcome(there), DirectoryUnreachable)
        assert isinstance(await outcome(as_themselves(there)), DirectoryUnreachable)
    for sent in server.sent:
        assert bytes(sent) == START_TLS


async def test_what_is_slipped_in_before_tls_is_never_taken_for_an_answer(
    settings: LdapSettings, directory: Directory
) -> None:
    for slipped_in, expected in ((b"", User), (BIND_GRANTED, DirectoryUnreachable)):
        async with SlippingIn(directory.starttls, slipped_in) as relay:
            there = dataclasses.replace(settings, tls="starttls", servers=(f"localhost:{relay.port}",))
            assert type(await outcome(there)) is expected
            assert type(await outcome(as_themselves(there))) is expected


async def test_a_dead_server_is_passed_over(settings: LdapSettings) -> None:
    dead = f"localhost:{free_port()}"
    assert isinstance(await outcome(dataclasses.replace(settings, servers=(dead,))), DirectoryUnreachable)
    assert await outcome(dataclasses.replace(settings, servers=(dead, *settings.servers))) == User("alice")


@pytest.mark.parametrize("tls", ["ldaps", "starttls"])
async def test_a_silent_server_costs_its_timeout_and_no_more(
    settings: LdapSettings, directory: Directory, tls: str
) -> None:
    settings = dataclasses.replace(settings, tls=tls, servers=(f"localhost:{directory.port(tls)}",))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"localhost:{silent.getsockname()[1]}"
        begun = time.monotonic()
        assert await outcome(dataclasses.replace(settings, servers=(address, *settings.servers))) == User(
            "alice"
        )
        assert 1 <= time.monotonic() - begun < 4


async def test_a_readers_password_that_others_may_read_or_that_is_wrong_is_said_in_the_log(
    settings: LdapSettings,
) -> None:
    assert settings.reader_password_file
    settings.reader_password_file.chmod(0o640)
    error = await outcome(settings)
    assert isinstance(error, ConfigError)
    assert "chmod 600" in str(error)
    settings.reader_password_file.chmod(0o600)
    settings.reader_password_file.write_text("wrong")
    error = await outcome(settings)
    assert isinstance(error, ConfigError)
    assert "refuses the reader" in str(error)


async def test_no_password_is_in_what_is_raised(settings: LdapSettings) -> None:
    error = await outcome(settings, "alice", "s3cret-typed")
    assert "s3cret-typed" not in f"{error!r} {error}"
    assert "hubpw" not in repr(LdapAuthenticator(settings))


async def test_asking_does_not_block_the_event_loop(settings: LdapSettings) -> None:
    gaps = []

    async def tick() -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - begun)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        there = dataclasses.replace(settings, servers=(f"localhost:{silent.getsockname()[1]}",))
        ticker = asyncio.create_task(tick())
        begun = time.monotonic()
        assert type(await outcome(there)) is DirectoryUnreachable
        assert time.monotonic() - begun >= 1, "the server kept somebody waiting"
        ticker.cancel()
    assert gaps
    assert max(gaps) < 0.5

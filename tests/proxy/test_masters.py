"""The tunnel on a real sshd: it carries, it is adopted, it comes back, it refuses the wrong host."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.dataplane import openssh, orphans
from gateway.dataplane.masters import Masters
from gateway.dataplane.tunnel import FORWARDS_MAX, TunnelSettings
from gateway.errors import (
    ConfigError,
    DataPlaneError,
    HostKeyRefused,
    LoginNodeRefused,
    LoginNodeUnreachable,
)
from tests.proxy.sshd import Sshd, free_port

pytestmark = pytest.mark.proxy

ALICE, BOB = "aaaaaaaaaa", "bbbbbbbbbb"
#: A hub that starts the masters of the settings on its command line.
_START = """
import asyncio, sys
from pathlib import Path, PosixPath
from gateway.dataplane.masters import Masters
from gateway.dataplane.tunnel import TunnelSettings
asyncio.run(Masters(eval(sys.argv[1])).tend())
"""


@pytest.fixture
def login_node() -> Iterator[Sshd]:
    with tempfile.TemporaryDirectory(prefix="gw") as directory, Sshd(Path(directory)) as sshd:
        yield sshd


@pytest.fixture
async def masters(login_node: Sshd) -> AsyncIterator[Masters]:
    masters = Masters(login_node.settings())
    yield masters
    await masters.stop()
    assert not list(login_node.settings().directory.glob("*"))


@pytest.fixture
async def echo_port() -> AsyncIterator[int]:
    """The port of an application: it sends everything back."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    yield port
    server.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """The port of a login node that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


async def echoes(path: Path, text: bytes = b"hello") -> bool:
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(text)
        answer = await reader.read(len(text))
        writer.close()
        return answer == text


def pid_of(settings: TunnelSettings, index: int = 0) -> int:
    return int((settings.directory / str(index) / "pid").read_text())


async def gone(pid: int, within: float = 5.0) -> bool:
    """Whether the process ends within a few seconds; a zombie has ended."""
    for _ in range(round(within / 0.05) + 1):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        await asyncio.sleep(0.05)
    return False


async def ssh_process(settings: TunnelSettings) -> int:
    """Return the ssh that somebody has started for a tunnel."""
    async with asyncio.timeout(20):
        while True:
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):  # it has ended in the meantime
                    if os.fsencode(settings.directory / "0/ctl") in file.read_bytes().split(b"\0"):
                        return int(file.parent.name)
            await asyncio.sleep(0.05)


async def test_a_forward_carries_bytes_and_nobody_else_may_use_it(masters: Masters, echo_port: int) -> None:
    path = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    assert path.name == f"{ALICE}.0.sock"
    assert await echoes(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert dict(await masters.forwards()) == {(ALICE, 0): path}


async def test_a_forward_is_made_once(masters: Masters, echo_port: int) -> None:
    paths = [await masters.forward(ALICE, 0, "127.0.0.1", echo_port) for _ in range(2)]
    together = await asyncio.gather(*(masters.forward(BOB, 1, "127.0.0.1", echo_port) for _ in range(4)))
    assert paths[0] == paths[1]
    assert len(set(together)) == 1
    assert len(await masters.forwards()) == 2


async def test_a_generation_never_changes_its_endpoint(masters: Masters, echo_port: int) -> None:
    await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    with pytest.raises(DataPlaneError, match="leads elsewhere"):
        await masters.forward(ALICE, 0, "127.0.0.1", free_port())


async def test_the_first_session_is_opened_before_forwards(
    masters: Masters, login_node: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, ...]] = []
    run = openssh._run

    async def watch(words: list[str], *rest: object) -> object:
        ran.append(tuple(words))
        return await run(words, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(openssh, "_run", watch)
    await masters.forward(ALICE, 0, "127.0.0.1", 9)
    asked = [
        "true" if words[-1] == "true" else words[words.index("-O") + 1] for words in ran if "-M" not in words
    ]
    assert asked.index("true") < asked.index("forward")
    assert not any(word for words in ran for word in words if "PRIVATE" in word)


async def test_the_cipher_is_aes_gcm(masters: Masters, login_node: Sshd) -> None:
    with (login_node.directory / "sshd_config").open("a") as config:
        config.write("LogLevel DEBUG1\n")
    login_node.stop()
    login_node.start()
    await masters.tend()
    assert "cipher: aes128-gcm@openssh.com" in (login_node.directory / "sshd.log").read_text()


async def test_another_object_adopts_masters_and_forwards(
    masters: Masters, login_node: Sshd, echo_port: int
) -> None:
    path = await masters.forward(ALICE, 3, "127.0.0.1", echo_port)
    pid = pid_of(login_node.settings())
    heir = Masters(login_node.settings())
    await heir.tend()
    assert dict(await heir.forwards()) == {(ALICE, 3): path}
    assert await heir.forward(ALICE, 3, "127.0.0.1", echo_port) == path
    assert pid_of(login_node.settings()) == pid
    assert await echoes(path)
    await heir.cancel(ALICE, 3)
    assert not await heir.forwards()


async def test_a_master_of_other_settings_is_not_adopted(
    masters: Masters, login_node: Sshd, echo_port: int
) -> None:
    await masters.tend()
    await masters.forward(ALICE, 1, "127.0.0.1", echo_port)
    other = Masters(replace(login_node.settings(), hosts=("localhost",)))
    assert await other.forwards() == {}
    again = Masters(login_node.settings())
    await again.tend()
    assert await echoes(await again.forward(ALICE, 2, "127.0.0.1", echo_port))


async def test_a_master_is_no_child_of_the_hub(masters: Masters, login_node: Sshd) -> None:
    await masters.tend()
    pid = pid_of(login_node.settings())
    assert os.getsid(pid) not in {os.getsid(0), os.getpid()}
    assert os.getpgid(pid) != os.getpgid(0)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


async def test_a_killed_master_is_noticed_and_made_anew(
    masters: Masters, login_node: Sshd, echo_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    old = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    pid = pid_of(login_node.settings())
    os.kill(pid, signal.SIGKILL)
    assert await gone(pid)
    with caplog.at_level(logging.WARNING):
        assert not await masters.forwards()
    assert "[test] master 0 is gone, with 1 forwards" in caplog.text
    assert not old.exists()
    await masters.tend()
    new = await masters.forward(ALICE, 1, "127.0.0.1", echo_port)
    assert new.name == f"{ALICE}.1.sock"
    assert await echoes(new)


async def test_a_forward_after_an_unnoticed_death_still_works(
    masters: Masters, login_node: Sshd, echo_port: int
) -> None:
    await masters.tend()
    pid = pid_of(login_node.settings())
    os.kill(pid, signal.SIGKILL)
    assert await gone(pid)
    assert await echoes(await masters.forward(ALICE, 1, "127.0.0.1", echo_port))


async def test_a_master_that_owes_an_answer_keeps_its_forwards_and_gets_no_new_ones(
    login_node: Sshd, echo_port: int
) -> None:
    settings = dataclasses.replace(login_node.settings(), timeout=1.0)
    masters = Masters(settings)
    try:
        old = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
        silent = pid_of(settings)
        os.kill(silent, signal.SIGSTOP)
        for _ in range(openssh.SILENCES_TO_BELIEVE):
            assert dict(await masters.forwards()) == {(ALICE, 0): old}
        new = await masters.forward(BOB, 0, "127.0.0.1", echo_port)
        assert new.parent != old.parent
        assert await echoes(new)
        os.kill(silent, signal.SIGCONT)
        assert dict(await masters.forwards()) == {(ALICE, 0): old, (BOB, 0): new}
        assert await echoes(old)
        assert pid_of(settings) == silent
    finally:
        await masters.stop()


async def test_a_master_that_stays_silent_is_killed_and_replaced(
    login_node: Sshd, echo_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (openssh.SILENCES_TO_BELIEVE, openssh.SILENT_FOR) == (3, 30)
    monkeypatch.setattr(openssh, "SILENT_FOR", 1.0)
    settings = dataclasses.replace(login_node.settings(), timeout=0.5)
    masters = Masters(settings)
    try:
        await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
        hung = pid_of(settings)
        os.kill(hung, signal.SIGSTOP)
        for _ in range(2):
            assert len(await masters.forwards()) == 1
        assert await masters.forwards() == {}
        assert await gone(hung)
        await masters.tend()
        assert pid_of(settings) != hung
        assert await echoes(await masters.forward(ALICE, 1, "127.0.0.1", echo_port))
    finally:
        await masters.stop()


async def test_an_interrupted_start_is_completed_at_the_next_look(masters: Masters, login_node: Sshd) -> None:
    await masters.tend()
    pid = pid_of(login_node.settings())
    (login_node.settings().directory / "0" / "pid").unlink()
    await masters.forwards()
    assert pid_of(login_node.settings()) == pid


async def test_cancel_removes_the_socket_and_the_others_stay(masters: Masters, echo_port: int) -> None:
    alice = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    bob = await masters.forward(BOB, 0, "127.0.0.1", echo_port)
    await masters.cancel(ALICE, 0)
    await masters.cancel(ALICE, 0)
    assert not alice.exists()
    assert dict(await masters.forwards()) == {(BOB, 0): bob}
    assert await echoes(bob)
    assert [file.name for file in alice.parent.glob(f"{ALICE}*")] == []


async def test_an_interrupted_cancel_is_finished(masters: Masters, echo_port: int) -> None:
    path = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    path.unlink()
    assert not await masters.forwards()
    assert not path.with_suffix(".to").exists()
    assert await echoes(await masters.forward(ALICE, 0, "127.0.0.1", echo_port))


async def test_an_open_connection_survives_cancel(masters: Masters, echo_port: int) -> None:
    path = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"one")
    assert await asyncio.wait_for(reader.read(3), 5) == b"one"
    await masters.cancel(ALICE, 0)
    writer.write(b"two")
    assert await asyncio.wait_for(reader.read(3), 5) == b"two"
    writer.close()


async def test_forwards_are_spread_and_full_masters_get_company(
    login_node: Sshd, echo_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FORWARDS_MAX == 256
    monkeypatch.setattr("gateway.dataplane.masters.FORWARDS_MAX", 2)
    masters = Masters(login_node.settings(count=2))
    try:
        for generation in range(5):
            await masters.forward(ALICE, generation, "127.0.0.1", echo_port)
        paths = await masters.forwards()
        assert [path.parent.name for path in paths.values()].count("0") == 2
        assert [path.parent.name for path in paths.values()].count("1") == 2
        assert [path.parent.name for path in paths.values()].count("2") == 1
        assert repr(masters) == "<Masters test: 3 of 2 alive, 5 forwards>"
        os.kill(pid_of(login_node.settings(), 2), signal.SIGKILL)
        assert await gone(pid_of(login_node.settings(), 2))
        await masters.tend()
        assert await echoes(await masters.forward(ALICE, 5, "127.0.0.1", echo_port))
    finally:
        await masters.stop()


async def test_a_stopped_sshd_is_unreachable_and_then_recovers(
    masters: Masters, login_node: Sshd, echo_port: int
) -> None:
    login_node.stop()
    with pytest.raises(LoginNodeUnreachable, match="Connection refused"):
        await masters.tend()
    with pytest.raises(LoginNodeUnreachable):
        await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    login_node.start()
    await asyncio.sleep(0.2)
    assert await echoes(await masters.forward(ALICE, 0, "127.0.0.1", echo_port))


async def test_what_is_open_outlives_the_listening_sshd(
    masters: Masters, login_node: Sshd, echo_port: int
) -> None:
    path = await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    login_node.stop()
    await masters.tend()
    assert await echoes(path)


async def test_failures_back_off(login_node: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    login_node.stop()
    masters = Masters(dataclasses.replace(login_node.settings(), retry=(60, 60)))
    with pytest.raises(LoginNodeUnreachable):
        await masters.tend()

    async def never(*_: object) -> None:
        raise AssertionError("it was tried again at once")

    monkeypatch.setattr(openssh.Master, "start", never)
    with pytest.raises(LoginNodeUnreachable):
        await masters.tend()


async def test_the_next_login_node_has_its_turn(login_node: Sshd, echo_port: int) -> None:
    login_node.known_hosts.write_text(
        login_node.known_hosts.read_text().replace("[127.0.0.1]", "[127.0.0.*]")
    )
    masters = Masters(dataclasses.replace(login_node.settings(), hosts=("127.0.0.2", "127.0.0.1")))
    try:
        with pytest.raises(LoginNodeUnreachable):
            await masters.tend()
        await asyncio.sleep(0.05)
        await masters.tend()
    finally:
        await masters.stop()


async def test_an_unknown_host_key_is_refused_and_says_how_to_add_it(
    masters: Masters, login_node: Sshd
) -> None:
    login_node.known_hosts.write_text("")
    with pytest.raises(HostKeyRefused) as caught:
        await masters.tend()
    assert f"ssh-keyscan -p {login_node.port} 127.0.0.1 >> {login_node.known_hosts}" in str(caught.value)
    login_node.know("host_key")
    await asyncio.sleep(0.05)
    await masters.tend()


async def test_a_changed_host_key_is_refused_and_says_what_it_saw(masters: Masters, login_node: Sshd) -> None:
    login_node.make_key("other_key")
    login_node.know("other_key")
    with pytest.raises(HostKeyRefused, match=r"is not the one in .*: it shows SHA256:[\w+/]+\. If") as caught:
        await masters.tend()
    assert f"ssh-keygen -f {login_node.known_hosts} -R '[127.0.0.1]:{login_node.port}'" in str(caught.value)


async def test_a_refused_key_is_not_an_outage(masters: Masters, login_node: Sshd) -> None:
    (login_node.directory / "authorized_keys").write_text("")
    with pytest.raises(LoginNodeRefused, match="Permission denied"):
        await masters.tend()


async def test_a_silent_login_node_costs_the_timeout(login_node: Sshd, silent_port: int) -> None:
    masters = Masters(dataclasses.replace(login_node.settings(), port=silent_port, timeout=1.0))
    with pytest.raises(LoginNodeUnreachable):
        await asyncio.wait_for(masters.tend(), 8)


async def test_a_cancelled_start_leaves_no_process(login_node: Sshd, silent_port: int) -> None:
    settings = dataclasses.replace(login_node.settings(), port=silent_port)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Masters(settings).tend(), 0.5)
    mark = os.fsencode(settings.directory)
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended in the meantime
            assert mark not in file.read_bytes()


async def test_a_hub_killed_while_it_connects_leaves_no_process_to_the_next(
    masters: Masters, login_node: Sshd, silent_port: int
) -> None:
    settings = dataclasses.replace(login_node.settings(), port=silent_port)
    hub = subprocess.Popen([sys.executable, "-c", _START, repr(settings)], start_new_session=True)
    orphan = await ssh_process(settings)
    hub.kill()
    hub.wait(10)
    assert not await gone(orphan, within=0.2)  # it still wants to connect
    await masters.tend()
    assert await gone(orphan)
    assert not await gone(pid_of(settings), within=0)


async def test_a_silent_master_without_a_pid_file_is_ended_too(login_node: Sshd) -> None:
    masters = Masters(dataclasses.replace(login_node.settings(), timeout=0.5))
    await masters.tend()
    pid = pid_of(login_node.settings())
    (login_node.settings().directory / "0" / "pid").unlink()
    os.kill(pid, signal.SIGSTOP)
    await masters.stop()
    assert await gone(pid)


async def test_only_masters_of_this_very_directory_are_ended(
    masters: Masters, login_node: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    await masters.tend()
    pid = pid_of(login_node.settings())
    here = login_node.settings().directory / "0"
    assert orphans._is_master(pid, here)
    assert not orphans._is_master(pid, here.with_name("1"))
    assert not orphans._is_master(os.getpid(), here)
    monkeypatch.setattr(Path, "samefile", lambda *_: False)  # the same path in another mount namespace
    assert not orphans._is_master(pid, here)
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert not orphans._is_master(pid, here)


async def test_a_missing_ssh_client_is_named(login_node: Sshd) -> None:
    masters = Masters(dataclasses.replace(login_node.settings(), program="no-such-ssh"))
    with pytest.raises(DataPlaneError, match=r"no-such-ssh cannot be run.*Install the OpenSSH client"):
        await masters.tend()


async def test_a_client_that_does_not_know_an_option_is_named(login_node: Sshd) -> None:
    old = login_node.directory / "old-ssh"
    old.write_text('#!/bin/sh\necho "command-line: line 0: Bad configuration option: x" >&2\nexit 255\n')
    old.chmod(0o755)
    with pytest.raises(DataPlaneError, match=r"old-ssh: .*Bad configuration option"):
        await Masters(dataclasses.replace(login_node.settings(), program=str(old))).tend()


async def test_a_directory_too_long_for_a_socket_is_a_configuration_error(login_node: Sshd) -> None:
    fits = login_node.directory / (
        "x" * (107 - len(str(login_node.directory)) - len("//99/aaaaaaaaaa.99999.sock"))
    )
    Masters(dataclasses.replace(login_node.settings(), directory=fits))
    with pytest.raises(ConfigError, match=r"1 bytes too long.*Choose a shorter run_dir"):
        Masters(dataclasses.replace(login_node.settings(), directory=Path(f"{fits}x")))


async def test_the_longest_directory_really_works(login_node: Sshd, echo_port: int) -> None:
    room = 107 - len(str(login_node.directory)) - len("//99/aaaaaaaaaa.99999.sock")
    masters = Masters(
        dataclasses.replace(login_node.settings(), directory=login_node.directory / ("x" * room))
    )
    try:
        assert await echoes(await masters.forward(ALICE, 99_999, "127.0.0.1", echo_port))
    finally:
        await masters.stop()


@pytest.mark.parametrize(
    "change",
    [
        {"key": Path("/keys/%h")},
        {"known_hosts": Path("/a b")},
        {"directory": Path("relative")},
        {"directory": Path("/run/a:b")},
        {"hosts": ("-oProxyCommand=x",)},
        {"hosts": ()},
        {"user": "-x"},
        {"port": 0},
    ],
)
def test_settings_that_ssh_would_read_otherwise_are_refused(
    login_node: Sshd, change: dict[str, object]
) -> None:
    with pytest.raises(ConfigError):
        Masters(dataclasses.replace(login_node.settings(), **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("server_id", "generation", "host", "port"),
    [
        ("../aaaaaaa", 0, "cn1", 8000),
        (ALICE, -1, "cn1", 8000),
        (ALICE, 100_000, "cn1", 8000),
        (ALICE, 0, "cn1:22", 8000),
        (ALICE, 0, "", 8000),
        (ALICE, 0, "/run/x.sock", 8000),
        (ALICE, 0, "cn1\n", 8000),
        (ALICE, 0, "cn1", 0),
        (ALICE, 0, "cn1", 65536),
    ],
)
async def test_a_malformed_forward_never_reaches_ssh(
    login_node: Sshd, server_id: str, generation: int, host: str, port: int
) -> None:
    with pytest.raises(ValueError, match="not a"):
        await Masters(login_node.settings()).forward(server_id, generation, host, port)
    assert not login_node.settings().directory.exists()


async def test_stop_ends_everything_twice_safely(login_node: Sshd, echo_port: int) -> None:
    settings = login_node.settings(count=2)
    masters = Masters(settings)
    await masters.forward(ALICE, 0, "127.0.0.1", echo_port)
    pids = [pid_of(settings, index) for index in range(2)]
    await masters.stop()
    await masters.stop()
    assert all([await gone(pid) for pid in pids])
    assert list(settings.directory.iterdir()) == []
    shutil.rmtree(settings.directory)
    assert not await masters.forwards()

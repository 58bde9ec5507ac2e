"""Connections that cannot be made: what is said, when it is tried again, what is never tried at all."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.dataplane import openssh
from gateway.dataplane.masters import Masters
from gateway.errors import (
    ConfigError,
    DataPlaneError,
    HostKeyRefused,
    LoginNodeRefused,
    LoginNodeUnreachable,
)
from tests.proxy.sshd import Sshd
from tests.proxy.tunnels import ALICE, echoes, gone, pid_of, ssh_process

pytestmark = pytest.mark.proxy

#: A hub that starts the masters of the settings on its command line.
_START = """
import asyncio, sys
from pathlib import Path, PosixPath
from gateway.dataplane.masters import Masters
from gateway.dataplane.tunnel import TunnelSettings
asyncio.run(Masters(eval(sys.argv[1])).tend())
"""


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
        "x" * (107 - len(str(login_node.directory)) - len("//99/aaaaaaaaaa.99999b.sock"))
    )
    Masters(dataclasses.replace(login_node.settings(), directory=fits))
    with pytest.raises(ConfigError, match=r"1 bytes too long.*Choose a shorter run_dir"):
        Masters(dataclasses.replace(login_node.settings(), directory=Path(f"{fits}x")))


async def test_the_longest_directory_really_works(login_node: Sshd, echo_port: int) -> None:
    room = 107 - len(str(login_node.directory)) - len("//99/aaaaaaaaaa.99999b.sock")
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

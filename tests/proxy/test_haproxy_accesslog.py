"""The access log: a line of JSON for each request, and nothing in it that opens anything."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace
from typing import Any

import pytest

from gateway.dataplane.haproxy import HAProxy
from gateway.dataplane.process import check_config, find_program
from gateway.errors import ConfigError
from tests.proxy.stage import ALICE, COOKIE, Stage, cookie

pytestmark = pytest.mark.proxy


class Syslog:
    """Listens as a syslog does, and keeps what comes."""

    def __init__(self, stage: Stage) -> None:
        self.path = stage.directory / "log"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(self.path))
        stage.settings = replace(stage.settings, access_log=str(self.path))
        stage.haproxy = HAProxy(stage.settings)

    async def line(self) -> str:
        async with asyncio.timeout(5):
            data = await asyncio.get_running_loop().sock_recv(self._socket, 1 << 16)
        return data.decode()

    async def entry(self) -> dict[str, Any]:
        line = await self.line()
        found: dict[str, Any] = json.loads(line[line.index("{") :])
        return found

    def close(self) -> None:
        self._socket.close()


async def test_a_line_tells_who_what_where_and_how_long(stage: Stage) -> None:
    syslog = Syslog(stage)
    await stage.usual()
    await stage.ask("/user/alice/lab/tree/a%20b.ipynb?token=s3cret&x=1", [cookie(), ("X-Token", "s3cret")])
    entry = await syslog.entry()
    syslog.close()
    assert entry["time"] > 1.7e9
    assert (entry["user"], entry["server"], entry["host"]) == ("alice", ALICE, "gw.example.org")
    assert (entry["method"], entry["path"], entry["status"]) == (
        "GET",
        "/user/alice/lab/tree/a%20b.ipynb",
        200,
    )
    assert (entry["source"], entry["tls"], entry["end"]) == ("127.0.0.1", "-", "----")
    assert entry["bytes_out"] > 0 <= entry["ms"]


@pytest.mark.parametrize(
    "target",
    [
        "/user/alice/-gateway-enter?code=s3cret",
        "/hub/login?next=/s3cret",
        "/user/alice/x?token=s3cret",
        "/user/alice/?s3cret&code=s3cret",
        '/user/alice/"},{"a":"?s3cret',
        "/user/alice/" + "x" * 5000 + "s3cret",
    ],
)
async def test_nothing_that_opens_anything_is_in_it_and_it_is_always_json(stage: Stage, target: str) -> None:
    syslog = Syslog(stage)
    await stage.usual()
    await stage.ask(target, [cookie(), ("Authorization", "token s3cret"), ("Referer", "https://x/?s3cret")])
    line = await syslog.line()
    syslog.close()
    for secret in ("s3cret", COOKIE, f"token-of-{ALICE}"):
        assert secret not in line
    path = json.loads(line[line.index("{") :])["path"]
    assert path == target.partition("?")[0][:1000]


async def test_a_request_that_cannot_be_read_is_a_line_too(stage: Stage) -> None:
    syslog = Syslog(stage)
    await stage.usual()
    browser = await stage.browser()
    browser.writer.write(b'GET /"\x01 s3cret HTTP/1.1\r\nHo"st: s3cret\r\n\r\n')
    await browser.reader.read()
    line = await syslog.line()
    syslog.close()
    assert "s3cret" not in line
    assert json.loads(line[line.index("{") :])["status"] == 400


async def test_who_does_not_read_the_log_holds_up_nobody(stage: Stage) -> None:
    syslog = Syslog(stage)
    await stage.usual()
    browser = await stage.browser()
    for _ in range(500):
        assert (await browser.ask("/user/alice/", [cookie()])).status == 200
    syslog.close()
    syslog.path.unlink()
    assert (await stage.ask("/user/alice/", [cookie()])).status == 200


@pytest.mark.parametrize("target", ["log", "/dev/log x", "host", "host:port", "stdout", "/a\nb", "fd@1"])
async def test_what_is_no_syslog_is_refused(stage: Stage, target: str) -> None:
    with pytest.raises(ConfigError, match="access_log: "):
        replace(stage.settings, access_log=target)


@pytest.mark.parametrize("target", ["stdout", "/dev/log", "[::1]:514", "localhost:514"])
async def test_haproxy_takes_each_kind_of_target(stage: Stage, target: str) -> None:
    settings = replace(stage.settings, access_log=target, managed=True)
    await HAProxy(settings).prepare()
    await check_config(await find_program("haproxy"), settings.directory / "haproxy.cfg")

"""The fixtures of the tests with real programs."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.dataplane.masters import Masters
from tests.proxy.sshd import Sshd
from tests.proxy.stage import Stage

PLACES = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))


@pytest.fixture(scope="session", autouse=True)
def _programs() -> None:
    """Skip where the real programs are not there, and say which."""
    if lacks := [name for name in ("haproxy", "ssh", "sshd") if not shutil.which(name, path=PLACES)]:
        pytest.skip(f"needs the programs {', '.join(lacks)}")


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """HAProxy's stage, not yet started."""
    found = Stage()
    yield found
    await found.close()


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

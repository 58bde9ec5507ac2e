"""Reverse proxies that a site may have in front of the gateway: nginx, and an HAProxy of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.proxy.stage import free_port

_NGINX = """\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        location / {{
            proxy_pass http://127.0.0.1:{target};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            {upgrades}
        }}
    }}
}}
"""
_UPGRADES = """\
proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 1d;"""
_HAPROXY = """\
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
listen front
    bind 127.0.0.1:{port}
    server gateway 127.0.0.1:{target} {word}
"""


@asynccontextmanager
async def nginx(
    directory: Path, target: int, certificate: Path, *, upgrades: bool = True
) -> AsyncIterator[int]:
    """Run nginx with TLS before a port; yield its own. Without ``upgrades`` no WebSocket gets through."""
    port, config = free_port(), directory / "nginx.conf"
    words = _UPGRADES if upgrades else ""
    config.write_text(
        _NGINX.format(directory=directory, port=port, certificate=certificate, target=target, upgrades=words)
    )
    async with _running(port, "nginx", "-p", str(directory), "-c", str(config)):
        yield port


@asynccontextmanager
async def haproxy(directory: Path, target: int, word: str) -> AsyncIterator[int]:
    """Run an HAProxy that carries bytes to a port, and begins with the PROXY protocol; yield its own."""
    port, config = free_port(), directory / "front.cfg"
    config.write_text(_HAPROXY.format(port=port, target=target, word=word))
    async with _running(port, "haproxy", "-db", "-q", "-f", str(config)):
        yield port


@asynccontextmanager
async def _running(port: int, *words: str) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(10):
            while not await _listens(port):
                assert process.returncode is None, f"{words[0]} has ended"
                await asyncio.sleep(0.02)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True

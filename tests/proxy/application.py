"""A user's application: a little HTTP server on TCP that does all that HTTP allows."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Self

from tests.proxy.stage import Message, accept

BLOCK = bytes(1 << 18)
Writer = asyncio.StreamWriter


class Application:
    """Serves on loopback; what comes before ``do`` in a path means nothing: ``/user/alice/do/events/3``."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.port = 0
        self.sent = 0
        self.requests: list[Message] = []
        self.ended = asyncio.Event()
        self.open = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.open += 1
        try:
            while True:
                request = await _head(reader)
                self.requests.append(request)
                word, *arguments = request.target.partition("?")[0].rpartition("/do/")[2].split("/")
                do: Callable[..., Coroutine[Any, Any, None]] = getattr(self, f"do_{word.replace('-', '_')}")
                await do(request, reader, writer, *map(int, arguments))
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            self.ended.set()
        finally:
            self.open -= 1
            writer.transport.abort()

    async def do_count(self, request: Message, reader: asyncio.StreamReader, writer: Writer) -> None:
        """Tell how much came, and its digest; after ``Expect`` the go-ahead is given first."""
        if request.one("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        found, count = hashlib.sha256(), 0
        async for part in body(request, reader):
            found.update(part[:100])
            count += len(part)
        _answer(writer, f"{count} {found.hexdigest()}".encode())

    async def do_bytes(self, _: Message, __: asyncio.StreamReader, writer: Writer, count: int) -> None:
        self.sent = 0
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n".encode())
        while self.sent < count:
            writer.write(BLOCK[: count - self.sent])
            await writer.drain()
            self.sent += min(len(BLOCK), count - self.sent)

    async def do_events(self, _: Message, __: asyncio.StreamReader, writer: Writer, count: int) -> None:
        """Send so many events, one each 100 ms, each with the time when it was sent."""
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _number in range(count):
            writer.write(_chunk(f"data: {asyncio.get_running_loop().time()}\n\n".encode()))
            await writer.drain()
            await asyncio.sleep(0.1)
        writer.write(b"0\r\n\r\n")

    async def do_silent(self, _: Message, __: asyncio.StreamReader, writer: Writer, ms: int) -> None:
        await asyncio.sleep(ms / 1000)
        _answer(writer, b"at last")

    async def do_chunks(self, _: Message, __: asyncio.StreamReader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
        writer.write(_chunk(b"first ") + _chunk(b"second") + b"0\r\nX-Sum: 12\r\n\r\n")

    async def do_status(self, _: Message, __: asyncio.StreamReader, writer: Writer, status: int) -> None:
        writer.write(f'HTTP/1.1 {status} So\r\nETag: "a"\r\n\r\n'.encode())

    async def do_head(self, _: Message, __: asyncio.StreamReader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")

    async def do_range(self, request: Message, _: asyncio.StreamReader, writer: Writer) -> None:
        assert request.one("range") == "bytes=2-4"
        writer.write(b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 2-4/10\r\nContent-Length: 3\r\n\r\ncde")

    async def do_refuse(self, _: Message, __: asyncio.StreamReader, writer: Writer) -> None:
        """Answer without reading the body, as for an upload that is too large, and close."""
        writer.write(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nstop")
        await writer.drain()
        await asyncio.sleep(0.2)
        raise ConnectionResetError

    async def do_long_header(self, request: Message, _: asyncio.StreamReader, writer: Writer, n: int) -> None:
        size = len("".join(request.all("x-long")))
        writer.write(f"HTTP/1.1 200 OK\r\nX-Back: {'y' * n}\r\nContent-Length: 5\r\n\r\n{size:5}".encode())

    async def do_echo(self, request: Message, reader: asyncio.StreamReader, writer: Writer) -> None:
        head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        writer.write(
            f"{head}Sec-WebSocket-Accept: {accept(request.one('sec-websocket-key') or '')}\r\n\r\n".encode()
        )
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


async def body(request: Message, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Give a message's body, in pieces as they come."""
    if request.one("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            yield (await reader.readexactly(size + 2))[:-2]
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            name, _, value = line.decode().strip().partition(": ")
            request.headers.append((name, value))
        return
    left = int(request.one("content-length") or 0)
    while left:
        part = await reader.read(min(left, 1 << 18))
        if not part:
            raise asyncio.IncompleteReadError(part, left)
        left -= len(part)
        yield part


async def _head(reader: asyncio.StreamReader) -> Message:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, *lines = head[:-4].split("\r\n")
    return Message(start, [(k, v.strip()) for k, _, v in (line.partition(":") for line in lines)])


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _answer(writer: Writer, text: bytes) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))

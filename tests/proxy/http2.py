"""A browser that speaks HTTP/2, WebSockets over it (RFC 8441) included, and sends what it is told to."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes

from tests.proxy.stage import HOST, Headers


@dataclass
class Stream:
    """What came for one request. ``reset`` is the error code with which the other end broke it off."""

    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None

    def one(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


class Http2Browser:
    """One connection with as many streams as are asked for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        config = H2Configuration(
            header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self._connection = H2Connection(config)
        self._streams: dict[int, Stream] = {}
        self._changed = asyncio.Condition()
        self._settings_seen = asyncio.Event()
        self.told_to_go = False
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, port: int, tls: ssl.SSLContext, address: str = "127.0.0.1") -> Self:
        tls.set_alpn_protocols(["h2"])
        browser = cls(*await asyncio.open_connection(address, port, ssl=tls))
        assert browser._writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        browser._connection.initiate_connection()
        browser._flush()
        browser._task = asyncio.create_task(browser._read())
        async with asyncio.timeout(5):
            await browser._settings_seen.wait()
        return browser

    @property
    def websockets_offered(self) -> bool:
        """Whether the other end takes WebSockets over HTTP/2."""
        return self._connection.remote_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL) == 1

    async def ask(
        self,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        *,
        method: str = "GET",
        host: str = HOST,
    ) -> Stream:
        """Return the whole answer."""
        start = [(":method", method), (":scheme", "https"), (":authority", host), (":path", target)]
        number = self.send([*start, *headers], end=True)
        return await self.until(number, ended=True)

    async def websocket(
        self,
        target: str,
        headers: Iterable[tuple[str, str]],
        *,
        host: str = HOST,
        protocol: str = "websocket",
    ) -> tuple[int, Stream]:
        """Return the stream's number and how the answer begins."""
        start = [(":method", "CONNECT"), (":protocol", protocol), (":scheme", "https")]
        number = self.send([*start, (":authority", host), (":path", target), *headers])
        return number, await self.until(number)

    async def echo(self, number: int, data: bytes) -> bytes:
        """Return what comes back for bytes sent within a stream; nothing if it was ended."""
        stream = self._streams[number]
        before = len(stream.body)
        if not stream.ended:
            self._connection.send_data(number, data)
            self._flush()
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: len(stream.body) > before or stream.ended)
        return stream.body[before:]

    def send(self, headers: Headers, *, end: bool = False) -> int:
        """Send the head of a request as it is and return its stream's number."""
        number = self._connection.get_next_available_stream_id()
        self._streams[number] = Stream()
        self._connection.send_headers(number, [(k.lower(), v) for k, v in headers], end_stream=end)
        self._flush()
        return number

    async def until(self, number: int, *, ended: bool = False) -> Stream:
        """Return a stream as soon as it has an answer, or all of it."""
        stream = self._streams[number]
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: stream.ended or (stream.status and not ended))
        return stream

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    def _flush(self) -> None:
        self._writer.write(self._connection.data_to_send())

    async def _read(self) -> None:
        with suppress(OSError):
            while data := await self._reader.read(1 << 16):
                for event in self._connection.receive_data(data):
                    self._take(event)
                self._flush()
                async with self._changed:
                    self._changed.notify_all()
        for stream in self._streams.values():
            stream.ended = True
        async with self._changed:
            self._changed.notify_all()

    def _take(self, event: Event) -> None:
        match event:
            case ConnectionTerminated():
                # "No new streams": open ones go on (RFC 9113, 6.8), which the library does not know.
                self.told_to_go = True
                self._connection.state_machine.state = ConnectionState.CLIENT_OPEN
            case RemoteSettingsChanged():
                self._settings_seen.set()
            case ResponseReceived(stream_id=number, headers=headers):
                pairs = [(str(key), str(value)) for key, value in headers]
                self._streams[number].status = int(dict(pairs)[":status"])
                self._streams[number].headers = pairs
            case DataReceived(stream_id=number, data=data, flow_controlled_length=length):
                self._streams[number].body += data
                self._connection.acknowledge_received_data(length, number)
            case StreamEnded(stream_id=number):
                self._streams[number].ended = True
            case StreamReset(stream_id=number, error_code=code):
                self._streams[number].ended = True
                self._streams[number].reset = int(code)

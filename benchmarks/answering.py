"""An application that is every server at once: it answers with the id of the one that it was asked for.

The id is the one in the name that HAProxy asks for in TLS (SNI), and the certificate is that server's. After
an upgrade it says the id and echoes what it gets. ``python benchmarks/answering.py PORT CA_DIRECTORY``.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a script from anywhere

from benchmarks.websocket import accept_key
from gateway.pki import Authority

_KEY = re.compile(rb"sec-websocket-key: *(\S+)", re.IGNORECASE)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Application:
    """Answers for every server.

    Args:
        authority: Signs their certificates.
    """

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.context = self._context("aaaaaaaaaa")
        self.context.sni_callback = self._called

    def _called(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name:
            connection.context = self._context(name.partition(".")[0])

    def _context(self, server_id: str) -> ssl.SSLContext:
        if server_id not in self._contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            with tempfile.NamedTemporaryFile("w") as file:
                file.writelines(self._authority.issue(server_id, datetime.now(UTC) + timedelta(days=1)))
                file.flush()
                context.load_cert_chain(file.name)
            context.load_verify_locations(self._authority.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
            self._contexts[server_id] = context
        return self._contexts[server_id]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests until it ends."""
        context = writer.get_extra_info("ssl_object").context
        server_id = next(name for name, each in self._contexts.items() if each is context).encode()
        with suppress(asyncio.IncompleteReadError, OSError, ssl.SSLError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if key := _KEY.search(head):
                    await _echo(reader, writer, server_id, key[1].decode())
                    break
                if length := _LENGTH.search(head):
                    await reader.readexactly(int(length[1]))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + server_id)
                await writer.drain()
        writer.close()


async def _echo(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server_id: bytes, key: str
) -> None:
    head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    writer.write(f"{head}Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode() + server_id)
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


async def main(port: int, directory: Path) -> None:
    """Listen on a port of the loopback until the process is ended."""
    application = Application(Authority.open(directory))
    server = await asyncio.start_server(
        application.serve, "127.0.0.1", port, ssl=application.context, backlog=1000
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))

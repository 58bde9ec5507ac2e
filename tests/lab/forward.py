"""Relays an already listening socket to a port of 127.0.0.1: ``forward.py FD PORT``.

A socket stays in the network namespace where it was made: the lab makes one on the machine's loopback and
hands it to this program on the hub's node, so that a browser on the machine reaches the gateway.
"""

from __future__ import annotations

import asyncio
import socket
import sys


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction to its end and pass the end on."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Relay one connection; an error on either side ends both."""
    writers = [writer]
    try:
        far_reader, far_writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 5)
        writers.append(far_writer)
        async with asyncio.TaskGroup() as group:
            group.create_task(pump(reader, far_writer))
            group.create_task(pump(far_reader, writer))
    except* OSError:
        for each in writers:
            each.transport.abort()
    finally:
        for each in writers:
            each.close()


async def serve(listening: socket.socket, port: int) -> None:
    """Relay every connection of ``listening``."""
    server = await asyncio.start_server(lambda r, w: relay(r, w, port), sock=listening)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])))

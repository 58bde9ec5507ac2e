"""The loads: what is asked of a way to the node, for a few seconds, and the figure that comes out."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass

from benchmarks.processes import output
from benchmarks.websocket import KEY, message, receive


@dataclass(frozen=True, slots=True)
class Way:
    """A way to the node's two servers.

    Attributes:
        name: As the table shows it.
        small, stream: The addresses of the two, as (port, path).
        cookie: The browser's cookie.
    """

    name: str
    small: tuple[int, str]
    stream: tuple[int, str]
    cookie: str


def requests(way: Way, connections: int, seconds: float) -> float:
    """Return the answers of 1 KiB per second over keep-alive connections.

    Raises:
        SystemExit: wrk is missing, or an answer was an error.
    """
    port, path = way.small
    said = output(
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "-H",
        f"Cookie: {way.cookie}",
        f"http://127.0.0.1:{port}{path}",
        timeout=seconds + 30,
    )
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if rate is None or "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"{way.name}: {said}")
    return float(rate[1])


def bulk(way: Way, seconds: float) -> float:
    """Return the megabytes (10**6) per second of one download."""
    with _connected(way, way.stream[1] + "bulk", "") as connection:
        buffer = bytearray(1 << 20)
        _head(connection, b"200")
        received, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            received += _some(connection.recv_into(buffer), way)
        return received / spent / 1e6


def websocket(way: Way, seconds: float) -> float:
    """Return the round trips per second of a 64-byte message over one WebSocket."""
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += f"Sec-WebSocket-Key: {KEY}\r\n"
    payload = message(b"x" * 64)
    with _connected(way, way.stream[1] + "echo", upgrade) as connection:
        _head(connection, b"101")
        trips, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            connection.sendall(payload)
            trips += _some(len(receive(connection) or b"") // 64, way)
        return trips / spent


def _connected(way: Way, path: str, headers: str) -> socket.socket:
    """Return a connection on which one request was sent; the Origin is the proxy's own, as a page's is."""
    port = way.stream[0]
    connection = socket.create_connection(("127.0.0.1", port), 30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    here = f"127.0.0.1:{port}"
    own = f"Host: {here}\r\nOrigin: http://{here}\r\nCookie: {way.cookie}\r\n"
    connection.sendall(f"GET {path} HTTP/1.1\r\n{own}{headers}\r\n".encode())
    return connection


def _head(connection: socket.socket, status: bytes) -> None:
    """Read an answer's head, and not a byte more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            break
        head += byte
    if head.split(b" ")[1:2] != [status]:
        raise SystemExit(f"expected {status.decode()}, got {head[:200]!r}")


def _some(count: int, way: Way) -> int:
    if not count:
        raise SystemExit(f"{way.name}: the connection ended")
    return count

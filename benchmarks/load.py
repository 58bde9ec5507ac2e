"""The loads: what is asked of a way to the node, for a few seconds, and the figure that comes out."""

from __future__ import annotations

import re
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Protocol

from benchmarks.processes import output
from benchmarks.websocket import KEY, message, receive


@dataclass(frozen=True, slots=True)
class Way:
    """A way to the node's two servers.

    Attributes:
        name: As the table shows it.
        small, stream: The addresses of the two, as (port, path).
        cookie: The browser's cookie.
        tls: Whether the browser's leg is TLS; whose certificate it is does not matter here.
    """

    name: str
    small: tuple[int, str]
    stream: tuple[int, str]
    cookie: str
    tls: bool = False


class Stop(Protocol):
    """Tells a load to end."""

    def is_set(self) -> bool:
        """Return whether it is to."""
        ...


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
        f"http{'s' * way.tls}://127.0.0.1:{port}{path}",
        timeout=seconds + 30,
    )
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if rate is None or "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"{way.name}: {said}")
    return float(rate[1])


def bulk(
    way: Way, seconds: float, *, path: str = "bulk", stop: Stop | None = None, most: float = 1e15
) -> float:
    """Return the megabytes (10**6) per second of one download: so long, until told, or so much."""
    with _connected(way, way.stream[1] + path, "") as connection:
        buffer = bytearray(1 << 20)
        _head(connection, b"200")
        received, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds and received < most:
            if stop and stop.is_set():
                break
            received += _some(connection.recv_into(buffer), way)
        return received / spent / 1e6


def upload(way: Way, count: int) -> float:
    """Return the megabytes (10**6) per second of one upload of so many bytes."""
    with _connected(way, way.stream[1] + "files/upload", f"Content-Length: {count}\r\n", "PUT") as connection:
        block, left, start = bytes(1 << 20), count, time.perf_counter()
        while left:
            left -= connection.send(block[:left])
        _head(connection, b"200")
        return count / (time.perf_counter() - start) / 1e6


def whole_answer(connection: socket.socket) -> None:
    """Read one answer that has a length."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += _part(connection)
    head, _, body = found.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    if not head.startswith(b"HTTP/1.1 200") or not length:
        raise SystemExit(f"expected 200, got {head[:200]!r}")
    left = int(length[1]) - len(body)
    while left > 0:
        left -= len(_part(connection))


def _part(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise SystemExit("the connection ended")
    return data


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


def _connected(way: Way, path: str, headers: str, method: str = "GET") -> socket.socket:
    """Return a connection on which one request was sent; the Origin is the proxy's own, as a page's is."""
    port = way.stream[0]
    connection = socket.create_connection(("127.0.0.1", port), 30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    here = f"127.0.0.1:{port}"
    if way.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = context.wrap_socket(connection)
    own = f"Host: {here}\r\nOrigin: http://{here}\r\nCookie: {way.cookie}\r\n"
    connection.sendall(f"{method} {path} HTTP/1.1\r\n{own}{headers}\r\n".encode())
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

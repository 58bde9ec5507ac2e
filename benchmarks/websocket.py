"""As much of RFC 6455 as an echo of short binary messages needs. The mask is zero: bytes stay as they are."""

from __future__ import annotations

import base64
import hashlib
import socket

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY = base64.b64encode(b"0123456789abcdef").decode()


def accept_key(key: str) -> str:
    """Return the answer to a client's ``Sec-WebSocket-Key``."""
    return base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()


def message(payload: bytes) -> bytes:
    """Return a client's binary message of at most 125 bytes."""
    return bytes([0x82, 0x80 | len(payload)]) + bytes(4) + payload


def receive(connection: socket.socket) -> bytes | None:
    """Return the next message's payload (at most 125 bytes), None if the connection has ended."""
    head = _exactly(connection, 2)
    if head is None:
        return None
    masked, length = head[1] & 0x80, head[1] & 0x7F
    rest = _exactly(connection, length + (4 if masked else 0))
    return rest[4:] if rest and masked else rest


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        try:
            part = connection.recv(count - len(data))
        except ConnectionResetError:
            return None
        if not part:
            return None
        data += part
    return data

"""What is said to an OpenSSH master over its control socket, in its own words, without starting an ``ssh``.

Source: PROTOCOL.mux of OpenSSH, protocol version 4, which 5.9 (2011) to 10 speak. Measured with 9.2: a
question takes 0.3 ms and a forward 0.45 ms, an ``ssh -O`` more than 5 ms of a processor.
"""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

from gateway.errors import DataPlaneError

_HELLO, _VERSION = 0x00000001, 4
_ALIVE_CHECK, _TERMINATE = 0x10000004, 0x10000005
_OPEN_FORWARD, _CLOSE_FORWARD = 0x10000006, 0x10000007
_OK, _DENIED, _FAILURE, _ALIVE = 0x80000001, 0x80000002, 0x80000003, 0x80000005
_LOCAL = 1
#: Stands for a port where a socket's path stands for a host (PORT_STREAMLOCAL in misc.h).
PATH = 0xFFFFFFFE
#: Bytes that an answer of a master may have; the longest is a failure's reason.
_ANSWER_MAX = 65_536
_REQUEST = 1


class MasterGoneError(Exception):
    """Nobody listens at the control socket, or whoever did went away in mid-sentence."""


class Control:
    """A master's control socket. Each call is a conversation of its own.

    Args:
        path: The socket.
        timeout: Seconds that a conversation may take.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._timeout = timeout

    async def pid(self, timeout: float | None = None) -> int:  # noqa: ASYNC109  (it is the conversation's)
        """Return the master's process id.

        Raises:
            MasterGoneError: There is none.
            TimeoutError: It does not answer.
            DataPlaneError: It speaks another protocol.
        """
        kind, rest = await self._ask(_ALIVE_CHECK, b"", timeout)
        if kind != _ALIVE or len(rest) < 4:
            raise DataPlaneError(f"{self._path}: an answer that is none: {kind:#x}")
        return int(struct.unpack(">I", rest[:4])[0])

    async def open(self, path: Path, host: str, port: int) -> None:
        """Have the master listen at a path and connect to a port; one that is there already is left alone.

        With the port `PATH` the host is a socket's path at the other end.

        Raises:
            MasterGoneError, TimeoutError: As `pid`.
            DataPlaneError: It cannot, or may not.
        """
        self._agreed(await self._ask(_OPEN_FORWARD, _forward(path, host, port)))

    async def close(self, path: Path, host: str, port: int) -> bool:
        """Have the master listen there no more, and return whether it did. The path stays on disk.

        Raises:
            MasterGoneError, TimeoutError: As `pid`.
        """
        kind, _ = await self._ask(_CLOSE_FORWARD, _forward(path, host, port))
        return kind == _OK

    async def terminate(self) -> None:
        """Have the master end.

        Raises:
            MasterGoneError, TimeoutError: As `pid`.
            DataPlaneError: It refuses.
        """
        self._agreed(await self._ask(_TERMINATE, b""))

    def _agreed(self, answer: tuple[int, bytes]) -> None:
        kind, rest = answer
        if kind != _OK:
            reason = rest[4:].decode("utf-8", "replace") if kind in (_FAILURE, _DENIED) else f"{kind:#x}"
            raise DataPlaneError(f"{self._path}: {reason or 'refused'}")

    async def _ask(
        self,
        kind: int,
        body: bytes,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> tuple[int, bytes]:
        """Return the answer's kind and what follows the request's number in it."""
        try:
            async with asyncio.timeout(timeout or self._timeout):
                reader, writer = await asyncio.open_unix_connection(self._path)
                try:
                    writer.write(_packet(struct.pack(">II", _HELLO, _VERSION)))
                    writer.write(_packet(struct.pack(">II", kind, _REQUEST) + body))
                    hello = await _read(reader)
                    if hello[:8] != struct.pack(">II", _HELLO, _VERSION):
                        raise DataPlaneError(f"{self._path}: the ssh client is too old or too new")
                    answer = await _read(reader)
                finally:
                    writer.close()
        except TimeoutError:
            raise
        except (OSError, EOFError) as error:
            raise MasterGoneError(str(error)) from None
        if len(answer) < 8 or answer[4:8] != struct.pack(">I", _REQUEST):
            raise DataPlaneError(f"{self._path}: an answer to another question")
        return int.from_bytes(answer[:4]), answer[8:]


def _packet(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def _forward(path: Path, host: str, port: int) -> bytes:
    listen, connect = (_packet(str(text).encode()) for text in (path, host))
    return struct.pack(">I", _LOCAL) + listen + struct.pack(">I", PATH) + connect + struct.pack(">I", port)


async def _read(reader: asyncio.StreamReader) -> bytes:
    length = int.from_bytes(await reader.readexactly(4))
    if length > _ANSWER_MAX:
        raise DataPlaneError(f"a master's answer of {length} bytes")
    return await reader.readexactly(length)

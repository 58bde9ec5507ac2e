"""One JSON answer of an application, asked for by the hub itself through the server's way."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
from typing import Any

from gateway.address import Address, Tcp
from gateway.errors import DataPlaneError

#: Bytes of an answer: thousands of kernels fit.
_MOST = 1 << 20


class NoSuchAnswer(DataPlaneError):
    """The application answers, but not this."""


class _Connection(http.client.HTTPConnection):
    """Goes to an `Address`, with TLS where the node leg has it."""

    def __init__(
        self, address: Address, within: float, tls: ssl.SSLContext | None, server_name: str | None
    ) -> None:
        super().__init__("localhost", timeout=within)
        self._address = address
        self._tls = tls
        self._server_name = server_name

    def connect(self) -> None:
        if isinstance(self._address, Tcp):
            plain = socket.create_connection((self._address.ip, self._address.port), self.timeout)
        else:
            plain = socket.socket(socket.AF_UNIX)
            plain.settimeout(self.timeout)
            plain.connect(str(self._address))
        try:
            self.sock = (
                self._tls.wrap_socket(plain, server_hostname=self._server_name) if self._tls else plain
            )
        except OSError:
            plain.close()
            raise


async def fetch_json(
    address: Address,
    path: str,
    *,
    token: str,
    tls: ssl.SSLContext | None,
    server_name: str | None,
    timeout: float,  # noqa: ASYNC109  (of each of the socket's operations, in a thread)
) -> Any:
    """Return what an application answers to a GET.

    Args:
        address: Where the way to it begins.
        path: What to ask for.
        token: The application's token.
        tls: As for `gateway.dataplane.probe.probe`.
        server_name: The name that the certificate must be for; needed with ``tls``.
        timeout: Seconds that each step may take; the whole takes three times as long at most.

    Raises:
        NoSuchAnswer: The answer is no JSON, or its status is not 200.
        DataPlaneError: There is no answer.
    """

    def ask() -> bytes:
        connection = _Connection(address, timeout, tls, server_name)
        try:
            connection.request("GET", path, headers={"Authorization": f"token {token}"})
            answer = connection.getresponse()
            body = answer.read(_MOST + 1)
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK or len(body) > _MOST:
            raise NoSuchAnswer(f"{path}: status {answer.status}, {len(body)} bytes")
        return body

    try:
        async with asyncio.timeout(3 * timeout):
            return json.loads(await asyncio.to_thread(ask))
    except (OSError, http.client.HTTPException) as error:
        raise DataPlaneError(f"{path}: {error!r}") from error
    except ValueError as error:
        raise NoSuchAnswer(f"{path}: not JSON") from error

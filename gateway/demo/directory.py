"""A directory of people in memory that speaks LDAPS: just enough for :mod:`gateway.auth.ldap`, and no more.

Binding is simple, searching is for whoever has bound, and everything else ends the connection. Section
numbers are those of RFC 4511.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gateway.demo import ber

log = logging.getLogger(__name__)

#: Below which everybody is.
BASE = "dc=demo"
#: Who looks people up for the gateway.
READER = f"cn=gateway,{BASE}"
PEOPLE = f"ou=people,{BASE}"

#: Bytes that a message may have: a name, a password of 256 characters, a filter.
_LARGEST = 4096
#: Seconds that somebody may stay silent.
_PATIENCE = 30.0

# Operations (4.2, 4.5).
_BIND, _BIND_ANSWER, _SEARCH, _FOUND, _SEARCH_DONE = 0x60, 0x61, 0x63, 0x64, 0x65
_SIMPLE = 0x80
# Filters (4.5.1.7).
_AND, _OR, _EQUAL, _PRESENT = 0xA0, 0xA1, 0xA3, 0x87
# Result codes (4.1.9).
_SUCCESS, _SIZE_LIMIT, _NOT_THERE, _WRONG_PASSWORD, _NOT_ALLOWED = 0, 4, 32, 49, 50
_BASE_OBJECT = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """What the directory holds of somebody. ``attributes`` have lower-case names; no password: no bind."""

    dn: str
    attributes: Mapping[str, Sequence[str]]
    password: str = field(default="", repr=False)


def reader(password: str) -> Entry:
    """Return the entry that the gateway searches as."""
    return Entry(READER, {"objectclass": ["applicationProcess"], "cn": ["gateway"]}, password)


def person(name: str, uid: int, password: str) -> Entry:
    """Return a person's entry.

    Args:
        name: What they type.
        uid: Their ``uidNumber``.
        password: Theirs.
    """
    attributes = {
        "objectclass": ["inetOrgPerson", "posixAccount"],
        "uid": [name],
        "cn": [name],
        "uidnumber": [str(uid)],
    }
    return Entry(f"uid={name},{PEOPLE}", attributes, password)


@asynccontextmanager
async def serving(entries: Iterable[Entry], context: ssl.SSLContext) -> AsyncIterator[int]:
    """Run the directory on loopback, and give its port.

    Args:
        entries: All that it holds.
        context: With its certificate.
    """
    directory = _Directory(entries)
    server = await asyncio.start_server(directory.serve, "127.0.0.1", 0, ssl=context)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await directory.end()


class _Directory:
    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {entry.dn.casefold(): entry for entry in entries}
        self._open: set[asyncio.Task[None]] = set()

    async def end(self) -> None:
        """Cut off whoever is still there."""
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until it ends."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a coroutine runs in one
        self._open.add(task)
        try:
            await self._converse(reader, writer)
        except asyncio.IncompleteReadError:
            log.debug("a connection to the directory ended")
        except (ValueError, OSError, TimeoutError, RecursionError) as error:
            log.debug("a connection to the directory is cut off: %s", error)
        except asyncio.CancelledError:
            log.debug("the directory ends")
        finally:
            self._open.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bound = False
        while True:
            number, operation, content = await _read(reader)
            if operation == _BIND:
                bound = self._binds(content)
                answers = [_result(_BIND_ANSWER, _SUCCESS if bound else _WRONG_PASSWORD)]
            elif operation == _SEARCH:
                answers = self._found(content) if bound else [_result(_SEARCH_DONE, _NOT_ALLOWED)]
            else:  # an unbind, or something that this directory does not know
                return
            writer.writelines(ber.encode(ber.SEQUENCE, ber.number(number), answer) for answer in answers)
            await writer.drain()

    def _binds(self, content: bytes) -> bool:
        _, (_, name), (how, password) = list(ber.elements(content))[:3]
        entry = self._entries.get(name.decode().casefold())
        # An empty password is a bind as nobody (RFC 4513, 5.1.2), which proves nothing.
        if entry is None or not entry.password or how != _SIMPLE:
            return False
        return hmac.compare_digest(password, entry.password.encode())

    def _found(self, content: bytes) -> list[bytes]:
        values = list(ber.elements(content))
        (_, base), (_, scope), _, (_, most), _, _, wanted, (_, names) = values
        below = base.decode().casefold()
        near = [entry for dn, entry in self._entries.items() if dn == below or dn.endswith(f",{below}")]
        if ber.whole_number(scope) == _BASE_OBJECT:
            near = [entry for entry in near if entry.dn.casefold() == below]
        found = [entry for entry in near if _matches(entry, *wanted)]
        limit = ber.whole_number(most) or len(found)
        attributes = {name.decode().casefold() for _, name in ber.elements(names)}
        code = _NOT_THERE if not near else _SUCCESS if len(found) <= limit else _SIZE_LIMIT
        return [*(_shown(entry, attributes) for entry in found[:limit]), _result(_SEARCH_DONE, code)]


async def _read(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    """Return the next message (4.1.1): its number, its operation's tag and content.

    Raises:
        ValueError: It is none, or too large.
        TimeoutError: Nobody said anything.
        IncompleteReadError: The end.
    """
    async with asyncio.timeout(_PATIENCE):
        tag, length = await reader.readexactly(2)
        if length & 0x80:
            length = int.from_bytes(await reader.readexactly(length & 0x7F))
        if tag != ber.SEQUENCE or length > _LARGEST:
            raise ValueError(f"tag {tag}, {length} bytes: not a message for this directory")
        parts = list(ber.elements(await reader.readexactly(length)))
    (_, number), (operation, content) = parts[:2]
    return ber.whole_number(number), operation, content


def _matches(entry: Entry, kind: int, content: bytes) -> bool:
    """Return whether an entry is what a filter asks for; a kind of filter that is not known never is."""
    if kind == _AND:
        return all(_matches(entry, *part) for part in ber.elements(content))
    if kind == _OR:
        return any(_matches(entry, *part) for part in ber.elements(content))
    if kind == _EQUAL:
        name, value = (part.decode().casefold() for _, part in ber.elements(content))
        return value in (held.casefold() for held in entry.attributes.get(name, ()))
    return kind == _PRESENT and content.decode().casefold() in entry.attributes


def _shown(entry: Entry, wanted: Set[str]) -> bytes:
    """Return an entry with the attributes that are wanted; none named means all (4.5.1.8)."""
    attributes = (
        ber.encode(ber.SEQUENCE, ber.text(name), ber.encode(ber.SET, *map(ber.text, values)))
        for name, values in entry.attributes.items()
        if not wanted or wanted & {"*", name}
    )
    return ber.encode(_FOUND, ber.text(entry.dn), ber.encode(ber.SEQUENCE, *attributes))


def _result(operation: int, code: int) -> bytes:
    """Return an answer that holds no more than a result code (4.1.9)."""
    return ber.encode(operation, ber.number(code, ber.ENUMERATED), ber.text(""), ber.text(""))

"""HAProxy's runtime API: one connection to a command socket, commands as checked words, answers as text.

Source: "Unix Socket commands" in HAProxy's management guide; the answers are as 2.6.12 gives them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from gateway.address import Tcp
from gateway.errors import DataPlaneError
from gateway.routes import Actual, Map, ServerState

#: Nothing that ends a word, a command or a line, quotes, or starts a payload or a comment.
_WORD = re.compile(r"[A-Za-z0-9_.:/@$!()\[\]~+=-]+", re.ASCII)
_PAYLOAD = re.compile(r"(?:[A-Za-z0-9+/= -]+\n)+", re.ASCII)
_PROMPT = b"\n> "
_FAILED = re.compile(r"\[[0-4]\]: ")
_SESSION = re.compile(r"^(0x[0-9a-f]+): .*? be=users-\w srv=(\S+) ", re.MULTILINE)
#: The whole answer of a worker that a reload has replaced to a command about a server (2.6.12).
OLD_WORKER = "Proxy is disabled."
#: How the answers begin that mean that there is nothing (more) to be done; no words mean done.
NOTHING_THERE = ("No such server", "Can't find the target")
#: How the master's answer begins when a worker no longer listens: an old one, about to end.
ENDING = "Can't connect to the target CLI"
#: Commands in one conversation with the master.
_AT_ONCE = 50
_WORKER = re.compile(r"^(Pid|Start_time_sec): (\d+)$", re.MULTILINE)
_PROC_ROW = re.compile(r"^(\d+)\s+(master|worker)\s+(\d+)(?: \[failed: (\d+)\])?", re.MULTILINE)


def command(*words: str) -> bytes:
    """Return a command line.

    Raises:
        DataPlaneError: A word could be taken for more than a word.
    """
    for word in words:
        if not _WORD.fullmatch(word):
            raise DataPlaneError(f"a command for HAProxy was refused: malformed word in {words[0]!r}")
    return " ".join(words).encode() + b"\n"


class CommandLine:
    """An open conversation with a worker. Errors never hold a command's words: some are secrets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, within: float) -> None:
        self._reader = reader
        self._writer = writer
        self._within = within

    async def ask(self, *words: str, payload: str = "") -> str:
        """Return the answer to a command, stripped, whatever it says.

        Args:
            words: The command.
            payload: PEM that goes with it, without an empty line.

        Raises:
            DataPlaneError: No answer came in time.
        """
        self._writer.write(command(*words) if not payload else _with_payload(words, payload))
        try:
            async with asyncio.timeout(self._within):
                await self._writer.drain()
                return await self._answer()
        except (OSError, TimeoutError) as error:
            self._writer.transport.abort()  # a late answer must not be taken for the next command's
            raise DataPlaneError(f"HAProxy gave no answer to {words[0]!r}: {error!r}") from error

    async def order(self, *words: str, payload: str = "") -> None:
        """Have something done; ``payload`` is PEM that goes with it.

        Raises:
            DataPlaneError: HAProxy says that it was not.
        """
        answer = await self.ask(*words, payload=payload)
        if failed(answer):
            raise DataPlaneError(f"HAProxy refused {' '.join(words[:2])!r}: {answer}")

    async def _answer(self) -> str:
        found = bytearray()
        while not found.endswith(_PROMPT):
            if not (more := await self._reader.read(1 << 16)):
                raise ConnectionResetError("the connection was closed")
            found += more
        # While it takes a payload HAProxy answers each line with "+ ".
        return found[: -len(_PROMPT)].decode(errors="replace").strip("+ \r\n")


def _with_payload(words: Sequence[str], payload: str) -> bytes:
    if not _PAYLOAD.fullmatch(payload):
        raise DataPlaneError(f"a command for HAProxy was refused: malformed payload of {words[0]!r}")
    return command(*words)[:-1] + b" <<\n" + payload.encode() + b"\n"


def failed(answer: str) -> bool:
    """Whether an answer says that the command was not carried out."""
    return bool(_FAILED.match(answer)) or answer.startswith("Unknown command")


@asynccontextmanager
async def open_worker(path: Path, within: float) -> AsyncIterator[CommandLine]:
    """Talk with the worker behind a command socket.

    Args:
        path: The socket.
        within: For connecting and for each answer, in seconds.

    Raises:
        DataPlaneError: Nobody answers there.
    """
    reader, writer = await _connect(path, within)
    try:
        line = CommandLine(reader, writer, within)
        await line.ask("prompt")
        await line.ask("set", "severity-output", "number")
        yield line
    finally:
        await _close(writer)


async def ask_master(path: Path, within: float, *words: str) -> str:
    """Return the master process's answer to one command; ``@!PID`` as the first word passes it to a worker.

    Raises:
        DataPlaneError: Nobody answers there.
    """
    return await _converse(path, within, command(*words), words[0])


async def _converse(path: Path, within: float, lines: bytes, first: str) -> str:
    reader, writer = await _connect(path, within)
    try:
        async with asyncio.timeout(within):
            writer.write(lines)
            writer.write_eof()
            return (await reader.read(-1)).decode(errors="replace").strip()
    except (OSError, TimeoutError) as error:
        raise DataPlaneError(f"HAProxy's master gave no answer to {first!r}: {error!r}") from error
    finally:
        await _close(writer)


async def tell_worker(path: Path, within: float, pid: int, commands: Sequence[Sequence[str]]) -> None:
    """Give an old worker commands by the master's socket, whatever it answers: it may end at any moment.

    Raises:
        DataPlaneError: The master does not answer.
    """
    for start in range(0, len(commands), _AT_ONCE):
        lines = b"".join(command(f"@!{pid}", *words) for words in commands[start : start + _AT_ONCE])
        await _converse(path, within, lines, f"@!{pid}")


async def until_closed(path: Path) -> None:
    """Return when the process behind a command socket closes the connection, at once if nobody listens."""
    with suppress(OSError):
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            await reader.read(1)
        finally:
            writer.close()


async def _connect(path: Path, within: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(within):
            return await asyncio.open_unix_connection(path)
    except (OSError, TimeoutError) as error:
        raise DataPlaneError(f"HAProxy does not answer at {path}: {error!r}") from error


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


class Processes:
    """What ``show proc`` says.

    Attributes:
        master: The master's pid; None if the answer makes no sense.
        workers: The pids of all workers, old ones too, the current one first.
        failed_reloads: How many reloads have failed since the last good one.
    """

    def __init__(self, text: str) -> None:
        rows = _PROC_ROW.findall(text)
        self.master = next((int(pid) for pid, kind, _, _ in rows if kind == "master"), None)
        self.workers = tuple(int(pid) for pid, kind, _, _ in rows if kind == "worker")
        self.failed_reloads = next((int(fails or 0) for _, kind, _, fails in rows if kind == "master"), 0)


def sessions_of(text: str, servers: Collection[str]) -> tuple[str, ...]:
    """Return the ids of the sessions in the answer to ``show sess`` that are with these servers."""
    return tuple(session for session, name in _SESSION.findall(text) if name in servers)


def read_servers_state(text: str, backends: str) -> dict[str, ServerState]:
    """Read the answer to ``show servers state``: those of the backends whose names begin so."""
    rows = [line.split() for line in text.splitlines()]
    header = next((row[1:] for row in rows if row[:1] == ["#"]), [])
    servers = (dict(zip(header, row, strict=False)) for row in rows if row and row[0] != "#" and len(row) > 1)
    return {
        server["srv_name"]: ServerState(
            weight=int(server["srv_uweight"]),
            enabled=server["srv_admin_state"] == "0",
            node_tls=server["srv_use_ssl"] == "1",
            tcp=_read_tcp(server["srv_addr"], server["srv_port"]),
        )
        for server in servers
        if server["be_name"].startswith(backends)
    }


def _read_tcp(address: str, port: str) -> Tcp | None:
    """Return where a server leads to, None if that is a Unix socket: "-" and 0 stand for all of them."""
    try:
        return Tcp(str(ipaddress.ip_address(address)), int(port))
    except ValueError:
        return None


def read_map(text: str) -> dict[str, str]:
    """Read the answer to ``show map``. A key with several values gets ``""``, which is never one's own."""
    entries: dict[str, str] = {}
    for line in text.splitlines():
        _, _, entry = line.partition(" ")
        key, _, value = entry.partition(" ")
        if key:
            entries[key] = value if entries.get(key, value) == value else ""
    return entries


async def read_actual(line: CommandLine, directory: Path, backends: str) -> Actual:
    """Return all that a worker holds of ours.

    Raises:
        DataPlaneError: It does not say.
    """
    answers = {map_: await line.ask("show", "map", map_path(directory, map_)) for map_ in Map}
    answers_servers = await line.ask("show", "servers", "state")
    for answer in (*answers.values(), answers_servers):
        if failed(answer):
            raise DataPlaneError(f"HAProxy does not say what it holds: {answer}")
    return Actual(
        servers=read_servers_state(answers_servers, backends),
        **{map_.value: read_map(answers[map_]) for map_ in Map},
        worker=await read_worker(line),
    )


async def read_worker(line: CommandLine) -> str:
    """Return which process answers: a reload and a start make others, which may hold something else.

    A process id alone would not do: in a container the next start may have the same.

    Raises:
        DataPlaneError: It does not say.
    """
    found = _WORKER.findall(await line.ask("show", "info"))
    if not found:
        raise DataPlaneError("HAProxy does not say which of its processes answers")
    return " ".join(value for _, value in found)


def map_path(directory: Path, map_: Map) -> str:
    """Return a map's file, by which it is also named at run time."""
    return str(directory / f"{map_}.map")

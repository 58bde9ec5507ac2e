# ruff: noqa: PTH115, UP006, UP035  (it runs on compute nodes, by Python 3.6 and later)
"""The relay of one job: TLS in front of an application that has none. It is sent with the job to its node.

    python3 -IS relay.py STATE HOST PORT PATH PRIVATE SHELL... gateway-app COMMAND...

It starts the application and listens on HOST:PORT once the application listens. Whoever connects there must
show the gateway's certificate; then bytes go both ways, whatever they are. Only the standard library is used.
Where HOST is a path, it listens on a Unix socket in a directory of this user's own, and there is no TLS.

In the words of the command, after ``gateway-app``, ``{socket}`` and ``{port}`` are where the application is
to listen: a socket in PRIVATE, a directory that only this user can enter, or a port of 127.0.0.1. ``{path}``
is the server's own path, ``/user/alice``; ``{token_file}`` the file with the token that the gateway sends.
STATE holds token, key.pem, cert.pem and client-ca.pem.

Its exit status is the application's, or 1 if it could not do its work.
"""

import errno
import ipaddress
import os
import selectors
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Set, Tuple

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
#: Bytes that are read at once, and so the most that waits in one direction of a connection.
CHUNK = 65536
#: Turns that a connection has before the others have theirs.
TURNS = 8
#: Connections at once; more wait until one has ended. A process may have 1,024 open files on most systems.
MOST = 400
#: Seconds for a TLS handshake; of silence once one side has said its last; for the other to notice the end.
SHAKING, HALF_OPEN, LINGERING = 10.0, 60.0, 5.0
#: Seconds between two looks at who has the application's port.
RECHECK = 1.0
#: Seconds between two lines of the log about connections that were not carried.
SILENT = 60.0
#: The name in the gateway's certificate.
GATEWAY = ("DNS", "gateway")


class Refusal(Exception):
    """The application cannot be served: why, in words for the job's log."""


def say(text: str) -> None:
    """Write a line into the job's log."""
    sys.stderr.write(time.strftime("%Y-%m-%d %H:%M:%S") + " gateway: " + text + "\n")
    sys.stderr.flush()


# --- where the application listens --------------------------------------------------------------------


class Private:
    """An application that listens on a socket in a directory which only this user can enter."""

    family = socket.AF_UNIX

    def __init__(self, directory: str) -> None:
        self.address: Any = directory + "/app.sock"
        self.where = self.address
        if Path(self.address).exists():
            Path(self.address).unlink()

    def ready(self) -> bool:
        """Return whether it listens."""
        with socket.socket(self.family) as probe:
            return probe.connect_ex(self.address) == 0


class Loopback:
    """An application that listens on 127.0.0.1, where every user of the node can connect, or listen first.

    Each second in which somebody connects it is looked whether the listener is still this job's.
    """

    family = socket.AF_INET

    def __init__(self, mark: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.address: Any = ("127.0.0.1", self.port)
        self.where = str(self.port)
        self._mark = mark.encode()
        self._known: Set[str] = set()
        self._looked = 0.0

    def ready(self) -> bool:
        """Return whether it listens there, and nobody else.

        Raises:
            Refusal: Somebody else does, or the network can reach it too.
        """
        if time.monotonic() - self._looked < RECHECK and self._known:
            return True
        rows = list(listeners(self.port))
        for address, uid, inode in rows:
            if uid != os.getuid():
                raise Refusal(f"another user of the node has taken port {self.where}")
            if address != "127.0.0.1":
                raise Refusal(
                    f"the application listens on {address} and not on 127.0.0.1 alone: "
                    "others could reach it without the gateway"
                )
            if inode not in self._known and not self._own(inode):
                raise Refusal(f"another job has taken port {self.where}")
        self._known = {inode for _, _, inode in rows}
        self._looked = time.monotonic()
        return bool(rows)

    def _own(self, inode: str) -> bool:
        """Return whether a process of this job has a socket; if none can be seen to have it, it is."""
        holders = list(holding(f"socket:[{inode}]"))
        return not holders or any(map(self._belongs, holders))

    def _belongs(self, pid: str) -> bool:
        """Return whether a process descends from this one, or was given this job's token to read."""
        try:
            if self._mark in Path("/proc/" + pid + "/environ").read_bytes().split(b"\0"):
                return True
            while pid not in ("0", "1"):
                if pid == str(os.getpid()):
                    return True
                pid = Path("/proc/" + pid + "/stat").read_text().rpartition(") ")[2].split()[1]
        except OSError:
            pass  # it has just ended, or nobody may know
        return False


def listeners(port: int) -> Iterator[Tuple[str, int, str]]:
    """Yield address, uid and inode of who would get a connection to a port of 127.0.0.1."""
    for name in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net/" + name).read_text().split("\n")[1:]
        except OSError:  # a node without IPv6
            continue
        for line in lines:
            found = line.split()
            if len(found) > 9 and found[3] == "0A" and found[1].endswith(f":{port:04X}"):
                address = spelled(found[1].partition(":")[0])
                if address in ("127.0.0.1", "0.0.0.0", "::"):  # noqa: S104
                    yield address, int(found[7]), found[9]


def spelled(text: str) -> str:
    """Return an address of /proc/net/tcp as people write it; IPv4 in IPv6 (Java has it) as IPv4."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    address = ipaddress.ip_address(packed)
    return str(getattr(address, "ipv4_mapped", None) or address)


def holding(target: str) -> Iterator[str]:
    """Yield the ids of processes with this open file, of those that this user may look at."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if any(os.readlink(str(file)) == target for file in (process / "fd").iterdir()):
                    yield process.name
            except OSError:
                continue  # another user's, or it has just ended


# --- one connection -----------------------------------------------------------------------------------


Wants = Dict[socket.socket, int]


def attempt(action: Callable[[], Any], waits: int) -> Tuple[Any, int]:
    """Do something on a socket that does not block; return the result, and what it has to wait for or 0."""
    try:
        return action(), 0
    except ssl.SSLWantReadError:
        return None, READ
    except ssl.SSLWantWriteError:
        return None, WRITE
    except BlockingIOError:
        return None, waits


class Flow:
    """One direction of a connection: no more is read than has been passed on."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self._source, self._sink = source, sink
        self._held = memoryview(b"")
        self.ended = False

    def move(self, wants: Wants) -> bool:
        """Read and write once; return whether that moved anything, else add to what has to happen first."""
        if self.ended:
            return False
        if not self._held:
            data, want = attempt(lambda: self._source.recv(CHUNK), READ)
            if want:
                wants[self._source] = wants.get(self._source, 0) | want
                return False
            if not data:
                self.ended = True
                return True
            self._held = memoryview(data)
        sent, want = attempt(lambda: self._sink.send(self._held), WRITE)
        if want:
            wants[self._sink] = wants.get(self._sink, 0) | want
            return False
        self._held = self._held[sent:]
        return True


class Link:
    """A connection of the gateway's, from its handshake to its end.

    Where the gateway has said its last, the application is told, and may go on. An application that closes
    has ended the connection: what still comes is thrown away, or it would cost the gateway the answer.
    """

    def __init__(self, front: socket.socket, behind: Any) -> None:
        self.front = front
        self.back = socket.socket(behind.family)
        self.back.setblocking(False)
        self.masks: Wants = {}
        self.until = time.monotonic() + SHAKING
        self.shaking, self.carrying = True, False
        self._behind = behind
        self._step = self._shake
        self._up, self._down = Flow(front, self.back), Flow(self.back, front)
        self._told = False

    def run(self) -> Tuple[Wants, bool]:
        """Do what can be done now; return what has to happen first, and whether there is more to do at once.

        Raises:
            OSError: It is over.
            Refusal: It is over, and nobody is to be served any more.
        """
        for _ in range(TURNS):
            wants: Wants = {}
            if not self._step(wants):
                return wants, False
        return {}, True

    def close(self) -> None:
        """End it, whatever its state."""
        self.front.close()
        self.back.close()

    def _shake(self, wants: Wants) -> bool:
        if isinstance(self.front, ssl.SSLSocket):
            _, want = attempt(self.front.do_handshake, READ)
            if want:
                wants[self.front] = want
                return False
            certificate: Any = self.front.getpeercert() or {}
            if GATEWAY not in certificate.get("subjectAltName", ()):
                raise ConnectionAbortedError("the certificate is not the gateway's")
        if isinstance(self._behind, Loopback) and not self._behind.ready():
            raise ConnectionRefusedError("the application does not listen any more")
        self.shaking, self._step = False, self._connect
        return True

    def _connect(self, wants: Wants) -> bool:
        code = self.back.connect_ex(self._behind.address)
        if code in (errno.EINPROGRESS, errno.EALREADY):
            wants[self.back] = WRITE
            return False
        if code == errno.EAGAIN:  # a Unix socket whose queue is full: there is nothing to wait for but time
            return False
        if code not in (0, errno.EISCONN):
            raise OSError(code, "the application takes no connection")
        if self._behind.family == socket.AF_INET:
            self.back.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.carrying, self.until, self._step = True, float("inf"), self._carry
        return True

    def _carry(self, wants: Wants) -> bool:
        moved = False
        for flow in (self._up, self._down):
            try:
                moved = flow.move(wants) or moved
            except (BrokenPipeError, ConnectionResetError):  # one is gone; its answer may still be there
                flow.ended = moved = True
        if self._up.ended and not self._told:
            self._told = True
            with suppress(OSError):  # it has gone
                self.back.shutdown(socket.SHUT_WR)
        if self._up.ended and moved:
            self.until = time.monotonic() + HALF_OPEN
        if self._down.ended:
            self._end()
        return moved

    def _end(self) -> None:
        with suppress(OSError, ValueError):  # it has been said; the other side's word is not waited for
            if isinstance(self.front, ssl.SSLSocket):
                self.front.unwrap()
        self.front.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            self.back.shutdown(socket.SHUT_RDWR)
        self.until, self._step = time.monotonic() + LINGERING, self._linger

    def _linger(self, wants: Wants) -> bool:
        """Read what still comes, as it came, until the other side has closed too."""
        data, want = attempt(lambda: socket.socket.recv(self.front, CHUNK), READ)
        if want:
            wants[self.front] = want
            return False
        if not data:
            raise ConnectionResetError("the end")
        return True


# --- all connections ----------------------------------------------------------------------------------


class Relay:
    """Takes connections and carries them, in one thread; without a context as they are."""

    def __init__(self, listener: socket.socket, context: Any, behind: Any) -> None:
        self._listener, self._context, self._behind = listener, context, behind
        self._links: Dict[Link, None] = {}
        self._ready: deque[Link] = deque()
        self._patient: Set[Link] = set()
        self._selector = selectors.DefaultSelector()
        self._accepting = False
        self._silent_until = 0.0
        self._swept = 0.0
        self._woken, waker = socket.socketpair()
        self._waker = waker  # kept open
        self._woken.setblocking(False)
        waker.setblocking(False)
        self._selector.register(self._woken, READ, None)
        signal.set_wakeup_fd(waker.fileno())

    def serve(self, going_on: Callable[[], bool], taking: Callable[[], bool]) -> None:
        """Carry what comes, as long as one says so; take no new connection once the other does not."""
        while going_on():
            self._listen(taking() and len(self._links) < MOST)
            # Bytes that TLS has decrypted already are told by no event; a full queue only empties with time.
            events = self._selector.select(0.0 if self._ready else 0.05 if self._patient else 1.0)
            turn, self._ready = self._ready, deque()
            for key, _ in events:
                if key.fileobj is self._listener:
                    self._take()
                elif key.fileobj is self._woken:
                    self._woken.recv(64)
                elif key.data in self._links:
                    turn.append(key.data)
            for link in dict.fromkeys(turn):
                self._run(link)
            self._sweep()

    def drain(self, seconds: float) -> None:
        """Carry on with what is open, for so long at most."""
        end = time.monotonic() + seconds
        self.serve(lambda: bool(self._links) and time.monotonic() < end, lambda: False)

    def _listen(self, wanted: bool) -> None:
        if wanted and not self._accepting:
            self._selector.register(self._listener, READ, None)
        elif self._accepting and not wanted:
            self._selector.unregister(self._listener)
        self._accepting = wanted

    def _take(self) -> None:
        """Take who waits. Who does not get on with its handshake makes room for who comes."""
        for _ in range(16):
            if len(self._links) >= MOST:
                return
            try:
                plain, _ = self._listener.accept()
            except OSError:  # nobody any more, or no room for another file: it is tried again
                return
            try:
                plain.setblocking(False)
                link = Link(self._front(plain), self._behind)
            except OSError:
                plain.close()
                continue
            self._links[link] = None
            self._run(link)
        shaking = [link for link in self._links if link.shaking]
        for link in shaking[: -MOST // 4]:
            self._drop(link)

    def _front(self, plain: socket.socket) -> socket.socket:
        """Return a connection as it is served: with TLS, unless it came over a Unix socket."""
        if self._context is None:
            return plain
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        front: socket.socket = self._context.wrap_socket(
            plain, server_side=True, do_handshake_on_connect=False
        )
        return front

    def _run(self, link: Link) -> None:
        if link not in self._links:
            return
        try:
            wants, more = link.run()
        except OSError as error:
            self._complain(link, error)
            self._drop(link)
            return
        if more:
            self._ready.append(link)
        else:
            self._watch(link, wants)
            if not wants:
                self._patient.add(link)

    def _watch(self, link: Link, wants: Wants) -> None:
        if wants == link.masks:
            return
        for sock in link.masks:
            if sock not in wants:
                self._forget(sock)
        for sock, mask in wants.items():
            if sock not in link.masks:
                self._selector.register(sock, mask, link)
            elif link.masks[sock] != mask:
                self._selector.modify(sock, mask, link)
        link.masks = wants

    def _forget(self, sock: socket.socket) -> None:
        with suppress(KeyError, ValueError):  # it was closed in between, and the kernel has forgotten it
            self._selector.unregister(sock)

    def _drop(self, link: Link) -> None:
        for sock in link.masks:
            self._forget(sock)
        link.masks = {}
        link.close()
        self._links.pop(link, None)

    def _complain(self, link: Link, error: OSError) -> None:
        """Say why somebody was not let in or the application not reached, but not all the time."""
        gone = isinstance(error, (ssl.SSLEOFError, ConnectionResetError))
        if not link.carrying and not gone and time.monotonic() > self._silent_until:
            self._silent_until = time.monotonic() + SILENT
            say(f"a connection was not carried: {error}")

    def _sweep(self) -> None:
        """End what has had its time, and try again what waits for time alone."""
        now = time.monotonic()
        patient, self._patient = self._patient, set()
        for link in patient:
            self._run(link)
        if now - self._swept < 1:
            return
        self._swept = now
        for link in [link for link in self._links if link.until < now]:
            self._drop(link)


# --- the job ------------------------------------------------------------------------------------------


def tls(state: Path) -> ssl.SSLContext:
    """Return the TLS of a server that only the gateway may talk to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if hasattr(context, "minimum_version"):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    else:  # Python 3.6
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    context.load_cert_chain(str(state / "cert.pem"), str(state / "key.pem"))
    context.load_verify_locations(str(state / "client-ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def filled(words: Sequence[str], values: Dict[str, str]) -> List[str]:
    """Return a program's words with what is known now; the prologue, before the command, stays as it is."""
    at = words.index("gateway-app") + 1
    command = []
    for word in words[at:]:
        for name, value in values.items():
            word = word.replace("{" + name + "}", value)
        command.append(word)
    return [*words[:at], *command]


def bound(host: str, port: int) -> socket.socket:
    """Return a socket at an address, or at a path where nobody else may make one."""
    if host.startswith("/"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(host)
    else:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    listener.setblocking(False)
    return listener


def run(arguments: Sequence[str]) -> int:
    """Start the application and serve it until it ends; return its exit status."""
    directory, host, port, path, private, *words = arguments
    state = Path(directory)
    context = None if host.startswith("/") else tls(state)
    listener = bound(host, int(port))
    mark = f"JUPYTER_TOKEN_FILE={state}/token"
    in_port = any("{port}" in word for word in words[words.index("gateway-app") :])
    behind: Any = Loopback(mark) if in_port else Private(private)
    values = {"port" if in_port else "socket": behind.where}
    values.update(path=path.rstrip("/"), token_file=str(state / "token"))
    ending: List[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: ending.append(number))  # the application has it too
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    child = subprocess.Popen(filled(words, values))
    try:
        while child.poll() is None and (ending or not behind.ready()):
            time.sleep(0.1)
        if child.poll() is None:
            listener.listen(128)
            relay = Relay(listener, context, behind)
            relay.serve(lambda: child.poll() is None, lambda: not ending)
            listener.close()
            relay.drain(2)
    finally:
        stop(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def stop(child: "subprocess.Popen[bytes]") -> None:
    """See that the application has ended."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def main() -> int:
    """Run the program."""
    try:
        return run(sys.argv[1:])
    except (Refusal, OSError) as error:
        say(f"the application could not be served: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())

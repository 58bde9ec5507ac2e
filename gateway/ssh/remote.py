"""What is sent to a login node's shell, and how its answer is cut out of what comes back. No I/O.

The only words sent as SSH "exec" are ``exec /bin/sh``: every login shell (tcsh, fish, a bash whose .bashrc
prints) understands them, and none sees anything else. The program follows on standard input. It is one brace
group, so that a program cut short by a broken connection is a syntax error and nothing of it runs (dash
0.5.12, bash 5.2). Its data is a quoted here-document: dash reads its standard input in blocks, so data that
just followed the program would be swallowed.

Where sshd runs the launcher by a ForceCommand, the words are the launcher's own, and its standard input
begins with a line that asks for the frame. It starts by way of the user's login shell: a start-up file that
reads standard input takes that line, and then nothing runs.

Both output streams are framed by lines with a nonce. What comes before is a shell's noise; an answer without
its last line is no answer.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from gateway.model import SERVER_ID, Command, Completed
from gateway.ssh.runner import AnswerLost

#: The words of the SSH "exec" request.
EXEC = "exec /bin/sh"
_LAUNCHERS_WORDS = re.compile(rf"version|[a-z]+ {SERVER_ID.pattern}", re.ASCII)

_PROGRAM = b"""{
LC_ALL=C PATH=/usr/bin:/bin:/usr/sbin:/sbin
export LC_ALL PATH
unset ENV BASH_ENV CDPATH
cd /
printf '\\n%%s\\n' gw1-begin-%(nonce)s
printf '\\n%%s\\n' gw1-begin-%(nonce)s >&2
timeout -k 5 %(limit)d %(words)s %(input)s
status=$?
printf '\\n%%s %%s\\n' gw1-end-%(nonce)s "$status"
printf '\\n%%s %%s\\n' gw1-end-%(nonce)s "$status" >&2
exit 0
}
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """What goes to the login node: the words of the SSH "exec" request, then standard input."""

    words: str
    stdin: bytes


def by_shell(command: Command, *, stdin: bytes, limit: int, nonce: str) -> Sent:
    """Return what makes a login shell run ``command``: see ``program``."""
    return Sent(EXEC, program(command, stdin=stdin, limit=limit, nonce=nonce))


def by_launcher(command: Command, *, stdin: bytes, limit: int, nonce: str) -> Sent:
    """Return what makes a launcher that is sshd's ForceCommand do as it is told.

    Args:
        command: The launcher's words: a verb and an ID, or "version".
        stdin: The launcher's sections.
        limit: Whole seconds after which it is ended.
        nonce: Lower-case hexadecimal, new for every call.

    Raises:
        ValueError: These are no such words.
    """
    words = " ".join(command.words)
    if not _LAUNCHERS_WORDS.fullmatch(words):
        raise ValueError(f"not the launcher's words: {command.words}")
    return Sent(words, b"gw1 frame %s %d\n%s" % (nonce.encode(), limit, stdin))


def program(command: Command, *, stdin: bytes, limit: int, nonce: str) -> bytes:
    """Return the shell program that runs ``command`` and frames its answer.

    Args:
        command: The words; each is quoted here and reaches the program as it is.
        stdin: The command's standard input. A newline is added if it does not end with one.
        limit: Whole seconds after which the command is ended (status 124; 137 if it had to be killed).
        nonce: An unguessable word of letters and digits, new for every call.

    Raises:
        ValueError: The input holds a NUL byte, which no shell carries, or the nonce.
    """
    delimiter = b"gw1-data-" + nonce.encode()
    if b"\0" in stdin or delimiter in stdin:
        raise ValueError("the input of a remote command holds a NUL byte or the nonce")
    if any("\0" in word for word in command.words):
        raise ValueError("a word of a remote command holds a NUL byte")
    source = b"</dev/null"
    if stdin:
        newline = b"" if stdin.endswith(b"\n") else b"\n"
        source = b"<<'%s'\n%s%s%s" % (delimiter, stdin, newline, delimiter)
    return _PROGRAM % {
        b"nonce": nonce.encode(),
        b"limit": limit,
        b"words": shlex.join(command.words).encode(),
        b"input": source,
    }


class _Stream:
    """One output stream: keeps what comes and finds the frame in it."""

    def __init__(self, nonce: str) -> None:
        self._begin = re.compile(rb"(?:\A|\n)gw1-begin-%s\n" % nonce.encode())
        self._end = re.compile(rb"\ngw1-end-%s (\d{1,3})\n" % nonce.encode())
        self._data = bytearray()
        self._found: re.Match[bytes] | None = None

    def feed(self, data: bytes) -> None:
        searched = max(0, len(self._data) - 100)
        self._data += data
        if self._found is None:
            # A copy: a match on the bytearray itself would forbid that it grows.
            self._found = self._end.search(bytes(self._data[searched:]))

    def __len__(self) -> int:
        return len(self._data)

    @property
    def begun(self) -> bool:
        return self._begin.search(self._data) is not None

    @property
    def noise(self) -> str:
        return " ".join(bytes(self._data[-400:]).decode("utf-8", "replace").split())

    @property
    def status(self) -> int | None:
        return int(self._found[1]) if self._found else None

    def text(self) -> str | None:
        """Return what stands between the two lines, or None if one is missing."""
        begin = self._begin.search(self._data)
        end = self._end.search(self._data, begin.end()) if begin else None
        if not begin or not end:
            return None
        return bytes(self._data[begin.end() : end.start()]).decode("utf-8", "replace")


class Answer:
    """Collects the two output streams of one ``program``.

    Args:
        nonce: The program's.
        largest: Bytes on either stream beyond which the answer is refused.
    """

    def __init__(self, nonce: str, largest: int = 16 * 2**20) -> None:
        self._stdout, self._stderr = _Stream(nonce), _Stream(nonce)
        self._largest = largest

    def feed(self, *, stdout: bytes = b"", stderr: bytes = b"") -> None:
        """Take what has just come.

        Raises:
            AnswerLost: It is too much.
        """
        self._stdout.feed(stdout)
        self._stderr.feed(stderr)
        if max(len(self._stdout), len(self._stderr)) > self._largest:
            raise AnswerLost(f"a remote command answered with more than {self._largest} bytes")

    @property
    def complete(self) -> bool:
        """Whether the last line of both streams is there."""
        return self._stdout.status is not None and self._stderr.status is not None

    @property
    def begun(self) -> bool:
        """Whether the first line of a stream is there: before it, nothing runs."""
        return self._stdout.begun or self._stderr.begun

    @property
    def noise(self) -> str:
        """The end of what came, on one line, for the log."""
        return self._stderr.noise or self._stdout.noise

    def completed(self) -> Completed:
        """Return what the command did. Bytes that are not UTF-8 become U+FFFD.

        Raises:
            AnswerLost: The answer is not complete.
        """
        status, stdout, stderr = self._stdout.status, self._stdout.text(), self._stderr.text()
        if status is None or stdout is None or stderr is None:
            raise AnswerLost("the connection was lost before a remote command's whole answer came")
        return Completed(status, stdout, stderr)

"""Drop-in files: how the answer of the program on the login node is read."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from gateway import dropins
from gateway.dropins import Reading, read, read_drop_ins
from gateway.errors import LoginNodeUnreachable
from gateway.model import Command, Completed
from gateway.ssh.runner import Replay


def field(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return base64.b64encode(data).decode() + "."


def answer(*lines: str, end: str = "gw1 end\n") -> Completed:
    return Completed(0, "".join(f"{line}\n" for line in (f"gw1 node {field('login1')}", *lines)) + end)


def file_line(path: str, data: bytes, size: int | None = None) -> str:
    return f"gw1 file {field(path)} {field(path)} {len(data) if size is None else size} {field(data)}"


def test_a_file_comes_back_byte_for_byte() -> None:
    data = "title: \u00e9\r\ngw1 end\n\n".encode()
    (file,) = read(answer(file_line("/d/10.yaml", data))).files
    assert (file.path, file.text.encode(), file.size) == ("/d/10.yaml", data, len(data))
    assert file.sha256 == hashlib.sha256(data).hexdigest()


def test_a_good_answer_without_files_says_that_there_are_none() -> None:
    assert read(answer()) == Reading("login1")


@pytest.mark.parametrize(
    "completed",
    [
        answer(end=""),
        answer(end="gw1 end"),
        Completed(124, answer().stdout),
        Completed(0, ""),
        answer("gw1 what is this"),
        answer("gw1 file YQ== YQ==. 1 YQ==."),
        answer("gw1 file YQ==. YQ==. x YQ==."),
        answer("gw1 refused surprise YQ==. YQ==. ."),
        answer(file_line("/d/a.yaml", b"x") + "\ngw1 end\n\x00"),
        answer(file_line("/d/a.yaml", b"#" * (dropins.LARGEST + 3))),
        answer(*[file_line(f"/d/{n}.yaml", b"#" * dropins.LARGEST) for n in range(5)]),
        answer(*[file_line(f"/d/{n}.yaml", b"#") for n in range(dropins.MOST + 1)]),
        answer(*[f"gw1 refused kind {field(f'/d/{n}')} {field('/d')} ." for n in range(dropins.MOST + 1)]),
        answer(f"gw1 refused kind {field('/d' * 3000)} {field('/d')} ."),
        answer(f"gw1 refused mode {field('/d')} {field('/d')} {field('-rwxrwxrwx' * 100)}"),
        answer(file_line("/d" * 3000, b"#")),
    ],
    ids=[
        *("cut", "cut-short", "time", "empty", "word", "field", "size", "reason", "noise"),
        *("large", "together", "many", "many-refused", "long-refused", "long-detail", "long-name"),
    ],
)
def test_an_answer_that_is_not_whole_says_nothing(completed: Completed) -> None:
    with pytest.raises(LoginNodeUnreachable):
        read(completed)


def test_a_file_that_is_not_utf8_or_was_cut_is_refused_with_its_line() -> None:
    reading = read(answer(file_line("/d/a.yaml", b"a: 1\nb: \xff\n"), file_line("/d/b.yaml", b"a", 2)))
    assert reading.files == ()
    assert reading.refused == (
        "/d/a.yaml:2: not UTF-8: write it in UTF-8",
        "/d/b.yaml: changed while it was read: it is read again soon",
    )


def test_an_odd_name_is_shown_on_one_line() -> None:
    odd = field("/d/a\n\x1b[1m")
    (fault,) = read(answer(f"gw1 refused kind {odd} {odd} .")).refused
    assert fault.isprintable()


def test_login_nodes_agree_if_files_and_refusals_do() -> None:
    one = read(answer(file_line("/d/a.yaml", b"x")))
    assert one.same_as(Reading("login2", one.files))
    assert not one.same_as(Reading("login2"))
    assert not Reading("a").same_as(Reading("a", (), ("a fault",)))


class Limited(Replay):
    """Notes how much each answer may be."""

    def __init__(self, answers: list[Completed]) -> None:
        super().__init__(answers)
        self.outputs: list[int | None] = []

    async def run(
        self, command: Command, *, stdin: bytes = b"", timeout: float, output: int | None = None
    ) -> Completed:
        self.outputs.append(output)
        return await super().run(command, stdin=stdin, timeout=timeout)


async def test_one_command_reads_a_login_node() -> None:
    runner = Limited([answer()])
    await read_drop_ins(runner, Path("/etc/gateway/site.d"))
    (call,) = runner.calls
    assert call.command.words[-1] == "/etc/gateway/site.d"
    assert runner.outputs == [dropins._OUTPUT], "whoever is root there decides what comes, but not how much"


def test_the_largest_answer_is_let_through() -> None:
    path = "/" + "d" * 4095
    size = dropins.TOGETHER // dropins.MOST
    largest = answer(*[file_line(path, b"#" * size) for _ in range(dropins.MOST)])
    assert len(read(largest).files) == dropins.MOST
    assert len(largest.stdout) < dropins._OUTPUT


def test_the_program_is_one_word_that_ssh_can_carry() -> None:
    assert "\0" not in dropins.PROGRAM
    assert len(dropins.PROGRAM) < 64 * 1024

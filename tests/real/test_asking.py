"""The service account's questions, really asked by each shell: several commands in one exec."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.errors import QueueUnreachable
from gateway.model import Command, Completed
from gateway.queue import Allowance
from gateway.queue.asking import Asking
from gateway.siteconfig import Login

SHELLS = [shell for shell in ("/bin/dash", "/bin/bash") if Path(shell).exists()]
ODD = ("$(touch ran)", "", "a b", "'\"`\n;", "*", "\\", "${1}", "-n", "1")


class Here:
    """A login node that is this host."""

    def __init__(self, shell: str, directory: Path) -> None:
        self.shell = shell
        self.directory = directory
        self.mark = ""

    async def run(
        self, command: Command, *, stdin: bytes = b"", timeout: float, output: int | None = None
    ) -> Completed:
        assert command.words[0] == "/bin/sh"
        self.mark = stdin.decode().strip()
        done = subprocess.run(
            [self.shell, *command.words[1:]],
            input=stdin,
            capture_output=True,
            cwd=self.directory,
            env={"PATH": "/usr/bin:/bin"},
            timeout=30,
            check=False,
        )
        return Completed(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(params=SHELLS)
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Here:
    return Here(request.param, tmp_path)


def asking(here: Here, environment: Mapping[str, str] | None = None) -> Asking:
    login = {
        "user": "svc",
        "act_as": "sudo",
        "hosts": ["login"],
        "key": "/k",
        "known_hosts": "/h",
        "bin": str(here.directory),
        "environment": environment or {},
    }
    return Asking(Login.model_validate(login), here, Allowance())


def program(here: Here, name: str, text: str) -> None:
    path = here.directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


async def test_each_command_gets_its_words_as_they_are_and_answers_for_itself(here: Here) -> None:
    program(here, "qstat", 'printf \'<%s>\' "$@"; echo "$#" >&2; exit $#')
    commands = [Command(("qstat", *ODD)), Command(("qstat", "x")), Command(("qstat", *ODD, *ODD))]
    shown = "".join(f"<{word}>" for word in ODD)
    assert await asking(here).ask(commands, 5) == (
        Completed(9, shown, "9\n"),
        Completed(1, "<x>", "1\n"),
        Completed(18, shown * 2, "18\n"),
    )
    assert not (here.directory / "ran").exists()


async def test_what_a_command_prints_is_never_taken_for_its_end(here: Here) -> None:
    """Anybody on the cluster may give a job a name with line breaks. Only the mark is not theirs."""
    ends = "".join(f"\ngw1 exited 0 {mark}\n" for mark in ("", "0" * 32, "$mark", "${mark}"))
    (here.directory / "rows").write_text(ends)
    program(here, "squeue", f'cat {here.directory}/rows; cat {here.directory}/rows >&2; echo "mark=$mark"')
    first, second = await asking(here).ask([Command(("squeue",)), Command(("squeue",))], 5)
    assert first == second == Completed(0, f"{ends}mark=\n", ends)
    assert re.fullmatch("[0-9a-f]{32}", here.mark)


async def test_what_hangs_is_cut_off_and_nothing_is_run_after_it(here: Here) -> None:
    program(here, "qstat", f"echo x >>{here.directory}/calls; [ $1 = quick ] || sleep 30")
    commands = [Command(("qstat", word)) for word in ("quick", "slow", "quick")]
    assert [answer.status for answer in await asking(here).ask(commands, 1)] == [0, 124, 124]
    assert (here.directory / "calls").read_text() == "x\nx\n"


async def test_a_killed_exec_is_no_answer(here: Here) -> None:
    program(here, "qstat", "kill -9 $(ps -o ppid= $PPID)")
    with pytest.raises(QueueUnreachable, match="qstat"):
        await asking(here).ask([Command(("qstat",))], 5)


async def test_a_program_that_is_not_there_is_told_from_one_that_says_so(here: Here) -> None:
    (answer,) = await asking(here).ask([Command(("qstat",))], 5)
    assert answer.status == 127


async def test_programs_have_the_environment_that_the_site_the_gateway_and_the_command_name(
    here: Here,
) -> None:
    program(here, "qstat", 'echo "$SGE_ROOT|$TZ|$LC_ALL|$SGE_SINGLE_LINE|$MORE"')
    subject = asking(here, {"SGE_ROOT": "/opt/sge"})
    (answer,) = await subject.ask([Command(("qstat",), environment=("MORE=a=b c", "TZ=UTC"))], 5)
    assert answer.stdout == "/opt/sge|UTC|C|1|a=b c\n"


async def test_ten_thousand_words_are_no_trouble(here: Here) -> None:
    program(here, "qstat", "echo $#")
    words = [f"{number}.pbshead" for number in range(10_000)]
    first, second = await asking(here).ask([Command(("qstat", *words)), Command(("qstat", *words))], 5)
    assert first.stdout == second.stdout == "10000\n"


async def test_a_program_is_run_once_for_all_names_that_another_prints(here: Here) -> None:
    program(here, "list", "printf '%s\\n' a '*' '$(touch ran)'")
    program(here, "none", "exit 0")
    program(here, "fails", "echo 'no list defined' >&2; exit 1")
    program(here, "show", "printf '<%s>' \"$@\"; exit 3")
    commands = [Command(("show", "-s"), each=(name,)) for name in ("list", "none", "fails")]
    assert await asking(here).ask([*commands, Command(("/bin/echo", "x"))], 5) == (
        Completed(3, "<-s><a><-s><*><-s><$(touch><-s><ran)>"),
        Completed(0),
        Completed(1, "", "no list defined\n"),
        Completed(0, "x\n"),
    )
    assert not (here.directory / "ran").exists()


async def test_the_limit_ends_what_prints_the_names_too(here: Here) -> None:
    program(here, "list", "sleep 30")
    program(here, "show", "exit 0")
    (answer,) = await asking(here).ask([Command(("show", "-s"), each=("list",))], 1)
    assert answer.status == 124

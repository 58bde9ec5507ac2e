"""What the service account itself asks the scheduler: several commands in one remote exec."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from gateway.errors import QueueUnreachable
from gateway.launcher import ENVIRONMENT
from gateway.launcher.wire import read_marked
from gateway.metrics import Timed, untimed
from gateway.model import Command, Completed
from gateway.queue.allowance import Allowance
from gateway.siteconfig import Login
from gateway.ssh.runner import Runner

#: Bytes that the scheduler may print: Grid Engine shows 10,000 jobs in 40 MB (8.1.9, qstat -j -xml).
_OUTPUT = 64 * 2**20
#: Runs commands one after the other. Its arguments are a limit in seconds, then for each command how many
#: words it has and the words; the mark comes on standard input, where no other account of the host sees it.
#: After each command both streams have a line with its exit status and the mark. After one that hung, none is
#: tried any more.
PROGRAM = """\
IFS= read -r mark
limit=$1 status=
shift
while [ $# -gt 0 ]; do
    count=$1
    shift
    case $status in
        124 | 137) status=124 ;;
        *)
            # Nothing but "${1}" "${2}"...: no word is read as shell.
            words=$(i=1; while [ $i -le "$count" ]; do printf ' "${%d}"' $i; i=$((i + 1)); done)
            eval "timeout -k 5 \\"\\$limit\\" $words" </dev/null
            status=$?
            ;;
    esac
    printf '\\ngw1 exited %s %s\\n' "$status" "$mark"
    printf '\\ngw1 exited %s %s\\n' "$status" "$mark" >&2
    shift "$count"
done
"""
#: Runs a program with an option for each of the names that another one prints. Its arguments are the program,
#: the option, and the other one's words.
EACH = """\
program=$1 option=$2
shift 2
names=$("$@") || exit
set -f --
for name in $names; do set -- "$@" "$option" "$name"; done
[ $# -eq 0 ] || exec "$program" "$@"
"""


class Asking:
    """Asks one cluster's scheduler as the service account.

    Args:
        login: Where its programs are, and what they have to know.
        runner: Runs it on the login node.
        allowance: How long it may take.
        timed: Puts down how long it took.
    """

    def __init__(self, login: Login, runner: Runner, allowance: Allowance, timed: Timed = untimed) -> None:
        self._login = login
        self._runner = runner
        self._allowance = allowance
        self._timed = timed

    async def ask(self, commands: Sequence[Command], limit: int) -> tuple[Completed, ...]:
        """Return what each command did; status 124 for one that was ended by its limit, and all after it.

        Args:
            commands: They are run one after the other.
            limit: Seconds for each.

        Raises:
            QueueUnreachable: There is no whole answer.
            LoginNodeUnreachable, HostKeyRefused, LoginNodeRefused: They could not be asked.
        """
        with self._timed("+".join(dict.fromkeys(command.words[0] for command in commands))):
            return await self._asked(commands, limit)

    async def _asked(self, commands: Sequence[Command], limit: int) -> tuple[Completed, ...]:
        mark = secrets.token_hex(16)
        completed = await self._runner.run(
            Command(("/bin/sh", "-c", PROGRAM, "sh", str(limit), *self._words(commands))),
            stdin=f"{mark}\n".encode(),
            timeout=limit * len(commands) + self._allowance.launcher,
            output=_OUTPUT,
        )
        answers = read_marked(completed, mark, len(commands))
        if answers is None:
            raise QueueUnreachable(
                f"{', '.join(command.words[0] for command in commands)}: no whole answer, exit status "
                f"{completed.status}: {' '.join(completed.stderr.split())[-400:]}"
            )
        return answers

    def _words(self, commands: Sequence[Command]) -> list[str]:
        words: list[str] = []
        for command in commands:
            given = dict(word.split("=", 1) for word in command.environment)
            environment = {**self._login.environment, **ENVIRONMENT, **given}
            one = ["/usr/bin/env", *(f"{name}={value}" for name, value in environment.items())]
            one += ["/bin/sh", "-c", EACH, "sh"] if command.each else []
            one += [*self._program(command.words), *(self._program(command.each) if command.each else ())]
            words += [str(len(one)), *one]
        return words

    def _program(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return words with their program's whole path: one of the scheduler's, or one of the system's."""
        place = "" if words[0].startswith("/") else f"{self._login.bin.rstrip('/')}/"
        return (f"{place}{words[0]}", *words[1:])

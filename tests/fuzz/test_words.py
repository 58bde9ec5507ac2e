"""Job scripts with hostile values, run by dash and bash: each arrives as one word and does nothing."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.rendering import render
from gateway.script import render_script
from gateway.siteconfig import Script, SiteConfig
from tests.fuzz import directives
from tests.fuzz.hostile import CONTROL, FILE_NAME, FORBIDDEN, GOOD_WORD, ONE_LINE, PRINTABLE, VALUE, many
from tests.unit.test_script import CHOICES, JOB, SHELLS, SITE

SCHEDULERS = ("slurm", "pbs", "sge", "local")
#: Scripts for each scheduler and shell, and hostile values in each.
SCRIPTS, IN_COMMAND, IN_HEADER = 10, 100, 110
LIMIT = 30.0
#: Every program that a script calls, but for coreutils, awk, sed, grep and the like.
PROGRAMS = ("squeue", "scontrol", "qstat", "qalter", "gateway-queue")
STUB = """#!/bin/sh
printf '%s\\0' "$@" >{calls}/"${{0##*/}}"
case ${{0##*/}} in
    squeue) echo '(null)' ;;
    qstat) echo 'Job Id: 7|run_count=1|x=y' ;;
    curl) exit 7 ;;
esac
"""
#: The short ones are waited for; the long one would be the walltime.
SLEEP = "#!/bin/sh\ncase $1 in 0.*) exec /bin/sleep 0.01 ;; esac\nexit 1\n"
#: Before the wrapper begins its work, it says where it would listen: to the scheduler, and to the gateway.
BEGIN = '\ncd "$gw_state" && rm -f exit endpoint'
TOKEN = "gw1:0123456789abcdef:0:n1:20000"
SAY = f"\ngw_port=20000\ngw_publish {TOKEN}\ngw_call\n"
#: What scheduler's program is called to publish, and with what.
PUBLISHED = {
    "slurm": ("scontrol", ["update", "JobId=7", f"Comment={TOKEN}"]),
    "pbs": ("qalter", ["-N", "gw-inst22-abcdefghij.0123456789abcdef.0.20000.n1", "7"]),
    "sge": ("qalter", ["-ac", f"gw={TOKEN}", "7"]),
    "local": ("gateway-queue", ["comment", "7", TOKEN]),
}
#: A header's line with a form's value, and the option that the scheduler finds.
DIRECTIVE = {"slurm": "#SBATCH --comment=", "pbs": "#PBS -M ", "sge": "#$ -A "}


@dataclass(frozen=True)
class Hostile:
    """What people and site configs say in one script."""

    words: Sequence[str]
    extra: Sequence[str]
    prologue: str
    state: str
    user: str
    base_url: str
    callback: str
    programs: str
    directive: str
    in_home: bool
    real_shell: bool


HOSTILE = st.builds(
    Hostile,
    words=many(PRINTABLE, IN_COMMAND),
    extra=many(ONE_LINE, IN_HEADER),
    prologue=PRINTABLE,
    state=FILE_NAME,
    user=FILE_NAME,
    base_url=PRINTABLE,
    callback=PRINTABLE,
    programs=FILE_NAME,
    directive=GOOD_WORD,
    in_home=st.booleans(),
    real_shell=st.booleans(),
)


@dataclass(frozen=True)
class Place:
    """An empty home directory, and programs that only write down how they were called."""

    root: Path
    said: Hostile

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def bin(self) -> Path:
        return self.root / self.said.programs

    @property
    def shell(self) -> Path:
        return self.root / "shell" / "sh"

    @property
    def prologue(self) -> str:
        """The site's own lines: any text for a stub of a shell, text in quotes for a real one."""
        return f"true {shlex.quote(self.said.prologue)}" if self.said.real_shell else self.said.prologue

    @property
    def command(self) -> tuple[str, ...]:
        first = (str(self.root / "stubs" / "app"),) if self.said.real_shell else ()
        return (*first, *self.said.words)

    @property
    def state_dir(self) -> str:
        """As the site config says it; the user's name is part of it."""
        name = self.said.state.replace("%", "")
        return f"~/{name}/%u" if self.in_home else f"{self.root}/{name}/%u"

    @property
    def in_home(self) -> bool:
        return self.said.in_home

    @property
    def user(self) -> str:
        return self.said.user.replace("%", "")

    @property
    def state(self) -> Path:
        above = self.home if self.in_home else self.root
        return above / self.said.state.replace("%", "") / self.user / "abcdefghij"

    def make(self) -> None:
        for directory in (self.home, self.root / "calls", self.root / "stubs", self.shell.parent, self.bin):
            directory.mkdir()
        self.state.mkdir(parents=True)
        (self.state / "callback").write_text("Authorization: Bearer 5ec2e7\n")
        stub = STUB.format(calls=shlex.quote(str(self.root / "calls")))
        stubs = [self.root / "stubs" / name for name in ("curl", "python3", "app")]
        for path in (*stubs, self.shell, *(self.bin / name for name in PROGRAMS)):
            executable(path, stub)
        executable(self.root / "stubs" / "sleep", SLEEP)

    def site(self, scheduler: str) -> SiteConfig:
        application = SITE.applications[0].model_copy(
            update={
                "command": self.command,
                "prologue": self.prologue,
                "shell": "/bin/sh" if self.said.real_shell else f"{self.shell} -l",
            }
        )
        login = SITE.login.model_copy(update={"state_dir": self.state_dir, "bin": str(self.bin)})
        words = "".join(f" \\\n  {{{{ choices.extra.f{number} }}}}" for number in range(len(self.said.extra)))
        begin = DIRECTIVE.get(scheduler)
        line = f"{begin}{{{{ choices.extra.word|directive }}}}\n" if begin else ""
        header = f"{line}printf '%s\\0'{words} >{self.root}/calls/header"
        return SITE.model_copy(
            update={
                "scheduler": scheduler,
                "applications": (application,),
                "login": login,
                "script": Script(header=header),
            }
        )

    def run(self, shell: str, script: str) -> None:
        """Run a script to its end, and kill what it left behind."""
        environment = {
            "HOME": str(self.home),
            "PATH": f"{self.root}/stubs:/usr/bin:/bin",
            **dict.fromkeys(("SLURM_JOB_ID", "PBS_JOBID", "JOB_ID", "GATEWAY_JOB"), "7"),
        }
        with (self.root / "log").open("wb") as log:
            process = subprocess.Popen(
                [shell],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.state,
                start_new_session=True,
            )
            try:
                process.communicate(script.encode(), timeout=LIMIT)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def called(self, name: str) -> list[str]:
        """Return the words that a program was given the last time."""
        path = self.root / "calls" / name
        assert path.exists(), (self.root / "log").read_text(errors="replace")[-2000:]
        return path.read_text().split("\0")[:-1]


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def files(root: Path) -> set[str]:
    """Return all that is there."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def first_different(found: Sequence[str], meant: Sequence[str]) -> object:
    """Return None where both are the same: lists of hundreds of words say nothing to a reader."""
    for number, pair in enumerate(zip(found, meant, strict=False)):
        if pair[0] != pair[1]:
            return (number, *pair)
    return None if len(found) == len(meant) else (len(found), len(meant))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("shell", SHELLS)
@settings(
    max_examples=SCRIPTS,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)
@given(said=HOSTILE)
def test_every_value_arrives_as_it_is_and_none_becomes_shell(
    scheduler: str, shell: str, said: Hostile
) -> None:
    with tempfile.TemporaryDirectory(prefix="gw-fuzz-") as root:
        place = Place(Path(root), said)
        place.make()
        script = rendered(place, scheduler)
        begin, end = script.split(BEGIN)
        before = files(place.root)
        place.run(shell, begin + SAY + BEGIN + end)
        check_application(place)
        check_scheduler(place, scheduler)
        assert first_different(place.called("header"), said.extra) is None
        new = files(place.root) - before
        ended = str((place.state / "exit").relative_to(place.root))
        assert {path for path in new if not path.startswith("calls/")} == {"log", ended}
        assert (place.root / ended).read_text() == "0 finished 0\n"


def rendered(place: Place, scheduler: str) -> str:
    """Return the script, and look at its directives."""
    names = {f"f{number}": value for number, value in enumerate(place.said.extra)}
    choices = replace(CHOICES, extra={**names, "word": place.said.directive})
    job = replace(
        JOB, user=place.user, base_url=place.said.base_url, callback_url=f"https://{place.said.callback}"
    )
    site = place.site(scheduler)
    script = asyncio.run(render(site, choices, job))
    found = {name: list(values) for name, values in directives.of(scheduler, script).items()}
    if begin := DIRECTIVE.get(scheduler):
        option = begin.split()[1].rstrip("=")
        assert found.pop(option) == [place.said.directive]
    plain = render_script(SITE.model_copy(update={"scheduler": scheduler}), CHOICES, JOB)
    assert found == directives.of(scheduler, plain)
    return script


def check_application(place: Place) -> None:
    """Check what the site's shell, or the application behind it, was given."""
    if place.said.real_shell:
        words, meant = place.called("app"), list(place.said.words)
    else:
        words = place.called("sh")
        program = (
            f'{place.prologue.rstrip(chr(10))}\nexec "$@"' if place.prologue.strip("\n") else 'exec "$@"'
        )
        meant = ["-l", "-c", program, "gateway-app", *place.said.words]
    assert first_different(words[: len(meant)], meant) is None
    options = words[len(meant) :]
    assert f"--ServerApp.base_url={place.said.base_url}" in options
    assert f"--ServerApp.certfile={place.state}/cert.pem" in options
    assert len(options) == 12


def check_scheduler(place: Place, scheduler: str) -> None:
    """Check how the scheduler's program, curl and python3 were called to publish the endpoint."""
    program, words = PUBLISHED[scheduler]
    assert place.called(program) == words
    callback = f"https://{place.said.callback}"
    assert place.called("curl")[-3:] == ["-K", "-", callback]
    assert place.called("python3")[-3:] == [str(place.state), "20000", callback]


@settings(max_examples=300)
@given(value=VALUE)
@pytest.mark.parametrize("where", ["command", "prologue", "callback"])
def test_what_no_shell_word_can_hold_is_refused_before_anything_is_submitted(where: str, value: str) -> None:
    changes = {"command": ("app", value)} if where == "command" else {"prologue": f"{value}\ntrue"}
    application = SITE.applications[0].model_copy(update=changes if where != "callback" else {})
    site = SITE.model_copy(update={"applications": (application,)})
    job = replace(JOB, callback_url=value if where == "callback" else "")
    if FORBIDDEN.search(value):
        with pytest.raises(ConfigError, match="control character"):
            render_script(site, CHOICES, job)
    else:
        assert "\0" not in render_script(site, CHOICES, job)


@settings(max_examples=8, phases=[Phase.explicit, Phase.generate])
@given(value=VALUE.filter(CONTROL.search), line=st.sampled_from(["echo {}", "#SBATCH --comment={}"]))
def test_a_form_never_puts_a_line_of_its_own_into_a_header(value: str, line: str) -> None:
    by = "|directive" if "#SBATCH" in line else ""
    site = SITE.model_copy(update={"script": Script(header=line.format(f"{{{{ choices.extra.x{by} }}}}"))})
    with pytest.raises(ConfigError):
        asyncio.run(render(site, replace(CHOICES, extra={"x": value}), JOB))


@settings(max_examples=8, phases=[Phase.explicit, Phase.generate])
@given(header=VALUE)
def test_any_text_is_a_header_or_a_fault(header: str) -> None:
    """A drop-in's own text is Jinja in a sandbox: it can do no more than be text or be refused."""
    site = SITE.model_copy(update={"script": Script(header=f"true\n{header}")})
    try:
        script = asyncio.run(render(site, CHOICES, JOB))
    except ConfigError as error:
        fault = str(error)
        assert fault.startswith("lab: script.header")
        return
    assert directives.of("slurm", script) == directives.of("slurm", render_script(SITE, CHOICES, JOB))

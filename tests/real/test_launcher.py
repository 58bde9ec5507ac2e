"""The launcher, really run under each shell as an unprivileged user, with a stub in the scheduler's place."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.auth import DENIED_NAMES
from gateway.errors import ConfigError
from gateway.launcher import LauncherStatus, launcher_text, sshd_text, sudoers_text
from gateway.launcher.wire import read_exited, read_files, read_marked, read_tried, sections
from gateway.model import Command, Completed
from gateway.ssh.remote import Answer, by_launcher

ID = "abcdefgh23"
UID = 54321
SHELLS = [shell for shell in ("/bin/dash", "/bin/bash") if Path(shell).exists()]

SBATCH = """#!/bin/sh
echo "$PWD" "$@" >>"$HOME/calls"
cat "$HOME/refuse" >&2 2>/dev/null && exit 1
[ ! -f "$HOME/slow" ] || sleep 30
echo 4711
"""


@dataclass
class Account:
    """A home directory and a way to run the launcher as its owner."""

    shell: str
    root: Path
    name: str
    in_front: tuple[str, ...]

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def state(self) -> Path:
        return self.home / ".gateway" / ID

    def launch(
        self, *words: str, stdin: bytes = b"", home: str | None = None, **environment: str
    ) -> Completed:
        argv = [*self.in_front, self.shell, str(self.root / "gateway-launcher"), *words]
        env = {"HOME": home or str(self.home), "PATH": "/nowhere:/usr/bin:/bin", **environment}
        done = subprocess.run(argv, input=stdin, capture_output=True, env=env, timeout=60, check=False)
        return Completed(done.returncode, done.stdout.decode(), done.stderr.decode())

    def submit(
        self,
        *words: str,
        files: dict[str, bytes] | None = None,
        state_dir: str = "~/.gateway",
        limit: str = "20",
        dry: tuple[str, ...] = (),
    ) -> Completed:
        text = sections(
            [
                ("statedir", state_dir.encode()),
                ("bin", str(self.root / "bin").encode()),
                ("limit", limit.encode()),
                *(("try", word.encode()) for word in dry),
                *(("word", word.encode()) for word in words or ("sbatch", "--parsable", "./script")),
                *((f"file:{name}", data) for name, data in (files or {"script": b"#!/bin/sh\n"}).items()),
            ]
        )
        return self.launch("submit", ID, stdin=text)

    @property
    def calls(self) -> list[str]:
        path = self.home / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def in_front(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, tuple[str, ...]]:
    """Return an account's name and what to put before a command to run it as that account."""
    if os.getuid() != 0:
        entry = pwd.getpwuid(os.getuid())
        if entry.pw_uid < 1000 or entry.pw_name in DENIED_NAMES:
            pytest.skip("needs an account with uid >= 1000, or root")
        return entry.pw_name, ()
    passwd = tmp_path_factory.mktemp("passwd") / "passwd"
    passwd.write_text(f"{Path('/etc/passwd').read_text()}tina:x:{UID}:{UID}::/nonexistent:/bin/sh\n")
    passwd.chmod(0o644)
    enter = (
        f'mount --bind {passwd} /etc/passwd && exec setpriv --reuid {UID} --regid {UID} --clear-groups "$@"'
    )
    words = ("unshare", "--mount", "/bin/sh", "-c", enter, "sh")
    if subprocess.run([*words, "id", "-un"], capture_output=True, check=False).stdout != b"tina\n":
        pytest.skip("needs mount namespaces")
    return "tina", words


@pytest.fixture(params=SHELLS)
def account(request: pytest.FixtureRequest, in_front: tuple[str, tuple[str, ...]]) -> Iterator[Account]:
    # Not tmp_path: that is below a directory that only root may enter.
    with tempfile.TemporaryDirectory(prefix="launcher-") as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "home").mkdir(mode=0o755)
        (root / "bin").mkdir(mode=0o755)
        for program in ("sbatch", "scancel"):
            (root / "bin" / program).write_text(SBATCH)
            (root / "bin" / program).chmod(0o755)
        (root / "gateway-launcher").write_text(launcher_text())
        (root / "gateway-launcher").chmod(0o755)
        if os.getuid() == 0:
            os.chown(root / "home", UID, UID)
        yield Account(request.param, root, *in_front)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_submit_stores_the_files_privately_and_runs_the_command_there(account: Account) -> None:
    raw = bytes(range(1, 256)) * 3
    done = account.submit(
        files={"script": b"#!/bin/sh\nexit\n", "token": raw, "key.pem": b"", "log2": b"\n\n"}
    )
    assert read_exited(done) == Completed(0, "4711", "")
    assert account.calls == [f"{account.state} --parsable ./script"]
    assert (account.state / "token").read_bytes() == raw
    assert (account.state / "log2").read_bytes() == b"\n\n"
    assert (account.state / "key.pem").read_bytes() == b""
    assert mode(account.state) == mode(account.state.parent) == 0o700
    assert {mode(path) for path in account.state.iterdir()} == {0o600}
    assert not list(account.state.glob(".new*"))


def test_a_second_submit_of_an_id_repeats_the_first_answer(account: Account) -> None:
    account.submit()
    again = account.submit(files={"script": b"other"})
    assert read_exited(again) == Completed(0, "4711", "")
    assert len(account.calls) == 1
    assert (account.state / "script").read_bytes() == b"#!/bin/sh\n"


def test_of_two_submits_at_once_the_later_does_nothing(account: Account) -> None:
    script = ("file:script", b"#!/bin/sh\n")
    settings = [("statedir", b"~/.gateway"), ("bin", str(account.root / "bin").encode()), ("limit", b"9")]
    text = sections([*settings, ("word", b"sbatch"), script, script])
    argv = [*account.in_front, account.shell, str(account.root / "gateway-launcher"), "submit", ID]
    env = {"HOME": str(account.home)}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as slow:
        assert slow.stdin
        assert slow.stdout
        slow.stdin.write(text[:-20])
        slow.stdin.flush()
        while not (account.state / "script").exists():
            time.sleep(0.01)
        assert account.submit(files={"script": b"other"}).status == LauncherStatus.BUSY
        slow.stdin.write(text[-20:])
        slow.stdin.close()
        assert slow.stdout.read() == b"4711\ngw1 exited 0\n"
    assert len(account.calls) == 1
    assert (account.state / "script").read_bytes() == b"#!/bin/sh\n"


def test_a_submit_whose_caller_has_gone_is_finished_and_its_answer_kept(account: Account) -> None:
    (account.root / "bin" / "sbatch").write_text(SBATCH.replace("echo 4711", "sleep 0.3; echo 4711"))
    settings = [("statedir", b"~/.gateway"), ("bin", str(account.root / "bin").encode()), ("limit", b"9")]
    text = sections([*settings, ("word", b"sbatch"), ("file:script", b"#!/bin/sh\n")])
    argv = [*account.in_front, account.shell, str(account.root / "gateway-launcher"), "submit", ID]
    reading, writing = os.pipe()
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=writing, env={"HOME": str(account.home)}
    ) as lost:
        os.close(writing)
        os.close(reading)
        lost.communicate(text, timeout=20)
    assert read_exited(account.submit()) == Completed(0, "4711", "")
    assert len(account.calls) == 1


def test_a_refused_submit_passes_on_the_schedulers_words_and_may_be_tried_again(account: Account) -> None:
    (account.home / "refuse").write_text("sbatch: error: no such partition\n")
    done = account.submit()
    assert done.status == 0
    assert read_exited(done) == Completed(1, "", "sbatch: error: no such partition\n")
    (account.home / "refuse").unlink()
    assert read_exited(account.submit()) == Completed(0, "4711", "")


def test_a_submit_while_another_is_under_way_is_not_run(account: Account) -> None:
    (account.home / ".gateway").mkdir()
    account.state.mkdir()
    (account.state / "submitting").mkdir()
    for path in (account.home / ".gateway", account.state, account.state / "submitting"):
        if os.getuid() == 0:
            os.chown(path, UID, UID)
    assert account.submit().status == LauncherStatus.BUSY
    assert not account.calls
    then = time.time() - 4 * 60  # a trial and a submit of 100 s each may still be under way
    os.utime(account.state / "submitting", (then, then))
    assert account.submit(limit="100").status == LauncherStatus.BUSY
    os.utime(account.state / "submitting", (0, 0))  # left behind by a host that went down
    assert read_exited(account.submit()) == Completed(0, "4711", "")


def test_a_command_that_hangs_is_ended(account: Account) -> None:
    (account.home / "slow").touch()
    exited = read_exited(account.submit(limit="1"))
    assert exited is not None
    assert exited.status == 124
    assert not (account.state / "jobid").exists()


def test_an_input_cut_short_submits_nothing(account: Account) -> None:
    whole = sections(
        [
            ("statedir", b"~/.gateway"),
            ("bin", str(account.root / "bin").encode()),
            ("limit", b"5"),
            ("word", b"sbatch"),
            ("file:script", b"#!/bin/sh\n"),
        ]
    )
    for length in range(0, len(whole) - 1, 7):
        done = account.launch("submit", ID, stdin=whole[:length])
        assert done.status in (LauncherStatus.CUT_SHORT, LauncherStatus.USAGE), whole[:length]
    assert not account.calls


def test_words_reach_the_program_as_they_are(account: Account) -> None:
    odd = ["scancel", "", " a  b", "*", "$(touch canary)", "`x`", "'\"\\", "--", "-n", "ä"]
    items = [("bin", str(account.root / "bin").encode()), ("limit", b"5")]
    (account.root / "bin" / "scancel").write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    done = account.launch("run", ID, stdin=sections([*items, *(("word", w.encode()) for w in odd)]))
    assert read_exited(done) == Completed(0, "".join(f"<{w}>" for w in odd[1:]), "")


def test_the_log_and_exit_file_are_read_and_nothing_else(account: Account) -> None:
    account.submit()
    (account.state / "log").write_text("x" * 5000 + "\nlast\ngw1 end\n gw1 forged")
    (account.state / "exit").write_text("3 failed\n")
    (account.state / "link").symlink_to("/etc/passwd")
    names = ["exit", "log", "absent", "link"]
    if os.getuid() == 0:
        (account.state / "theirs").write_text("of another account")
        names.append("theirs")
        for name in ("log", "exit"):
            os.chown(account.state / name, UID, UID)
    text = sections([("statedir", b"~/.gateway"), *(("name", n.encode()) for n in names)])
    files = read_files(account.launch("read", ID, stdin=text))
    assert files is not None
    assert files["exit"].strip() == "3 failed"
    assert files["log"].rstrip("\n").endswith("x\nlast\ngw1 end\n gw1 forged")
    assert len(files["log"]) <= 4097
    assert set(files) == {"exit", "log"}
    for name in ("token", "key.pem", "callback", "../x", "/etc/passwd", ".hidden", ""):
        text = sections([("statedir", b"~/.gateway"), ("name", name.encode())])
        assert account.launch("read", ID, stdin=text).status in (LauncherStatus.REFUSED, LauncherStatus.USAGE)


def test_remove_takes_the_directory_of_the_id_and_nothing_else(account: Account) -> None:
    account.submit()
    (account.state.parent / "other").mkdir()
    text = sections([("statedir", b"~/.gateway")])
    for _ in range(2):
        done = account.launch("remove", ID, stdin=text)
        assert read_files(done) == {}
        assert not account.state.exists()
    assert (account.state.parent / "other").exists()


def test_a_missing_state_directory_reads_as_empty(account: Account) -> None:
    text = sections([("statedir", b"~/.gateway"), ("name", b"log")])
    assert read_files(account.launch("read", ID, stdin=text)) == {}
    assert not account.state.parent.exists()


def test_a_state_directory_that_is_a_symbolic_link_is_refused(account: Account) -> None:
    (account.root / "elsewhere").mkdir()
    (account.home / ".gateway").symlink_to(account.root / "elsewhere")
    done = account.submit()
    assert done.status == LauncherStatus.STATE_DIR
    assert "symbolic link" in done.stderr
    assert not list((account.root / "elsewhere").iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="needs a second account")
def test_a_state_directory_of_somebody_else_is_refused(account: Account) -> None:
    (account.home / ".gateway").mkdir()
    (account.home / ".gateway").chmod(0o777)
    done = account.submit()
    assert done.status == LauncherStatus.STATE_DIR
    assert "does not belong to" in done.stderr


def test_a_home_that_cannot_be_written_says_why(account: Account) -> None:
    account.home.chmod(0o555)
    done = account.submit()
    assert done.status == LauncherStatus.STATE_DIR
    assert "Permission denied" in done.stderr
    account.home.chmod(0o755)


def test_a_full_disk_says_why(account: Account) -> None:
    (account.root / "gateway-launcher").write_text(launcher_text().replace('>"./.new-$1")', ">/dev/full)"))
    done = account.submit()
    assert done.status == LauncherStatus.STATE_DIR
    assert "No space left on device" in done.stderr


def test_the_state_directory_may_hold_the_users_name(account: Account) -> None:
    template = f"{account.home}/scratch/%u/gw"
    assert read_exited(account.submit(state_dir=template)) is not None
    assert (account.home / "scratch" / account.name / "gw" / ID / "jobid").read_text() == "4711\n"


@pytest.mark.parametrize(
    "state_dir", ["relative", "~/../x", "/tmp/../etc", "~bob/x", "/", "", "/x/%h", "$HOME/x"]
)
def test_odd_state_directories_are_refused(account: Account, state_dir: str) -> None:
    done = account.submit(state_dir=state_dir)
    assert done.status == LauncherStatus.USAGE, state_dir
    assert not account.calls


@pytest.mark.parametrize("server_id", ["", "short", "ABCDEFGH23", "abcdefgh2/", "../../../x", "abcdefgh231"])
def test_an_odd_id_is_refused(account: Account, server_id: str) -> None:
    assert account.launch("remove", server_id).status == LauncherStatus.REFUSED


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("sh", LauncherStatus.REFUSED),
        ("../sbatch", LauncherStatus.REFUSED),
        ("squeue", LauncherStatus.NO_PROGRAM),
    ],
)
def test_only_a_schedulers_program_is_run(account: Account, word: str, status: LauncherStatus) -> None:
    assert account.submit(word).status == status
    assert not account.calls


@pytest.mark.parametrize("words", [(), ("submit",), ("shell", ID), ("version", ID), ("run", ID, "more")])
def test_other_words_are_refused(account: Account, words: tuple[str, ...]) -> None:
    assert account.launch(*words).status == LauncherStatus.USAGE


def test_the_service_account_does_not_act_for_itself(account: Account) -> None:
    done = account.launch("remove", ID, stdin=sections([]), SUDO_USER=account.name)
    assert done.status == LauncherStatus.REFUSED


def test_through_sudo_no_program_runs_that_others_could_have_put_there(account: Account) -> None:
    (account.root / "bin").chmod(0o777)
    text = sections([("bin", str(account.root / "bin").encode()), ("limit", b"20"), ("word", b"sbatch")])
    assert account.launch("run", ID, stdin=text, SUDO_USER="svc").status == LauncherStatus.REFUSED
    assert account.launch("run", ID, stdin=text).status == LauncherStatus.DONE


@pytest.mark.skipif(os.getuid() != 0, reason="needs other accounts")
@pytest.mark.parametrize(
    ("owner", "group", "bits", "status"),
    [
        (2, 0, 0o755, LauncherStatus.REFUSED),  # the service account's own: useradd --system makes such ones
        (0, 2, 0o775, LauncherStatus.REFUSED),
        (0, 2, 0o755, LauncherStatus.DONE),
        (0, 0, 0o775, LauncherStatus.DONE),
        (0, 990, 0o2775, LauncherStatus.DONE),  # such as staff, or slurm
        (0, 54399, 0o775, LauncherStatus.REFUSED),
        (1, 1, 0o755, LauncherStatus.DONE),
        (54399, 0, 0o755, LauncherStatus.REFUSED),
        (65534, 0, 0o755, LauncherStatus.REFUSED),  # anybody's, on a file system exported with all_squash
    ],
)
@pytest.mark.parametrize("what", ["bin", "bin/sbatch"])
def test_through_sudo_the_service_account_can_have_put_no_program_there(
    account: Account, what: str, owner: int, group: int, bits: int, status: LauncherStatus
) -> None:
    os.chown(account.root / what, owner, group)
    (account.root / what).chmod(bits)
    text = sections([("bin", str(account.root / "bin").encode()), ("limit", b"20"), ("word", b"sbatch")])
    done = account.launch("run", ID, stdin=text, SUDO_USER="bin", SUDO_UID="2")
    assert done.status == status, done.stderr
    assert bool(account.calls) == (status is LauncherStatus.DONE)


@pytest.mark.skipif(os.getuid() != 0, reason="needs other accounts")
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("slurm", LauncherStatus.DONE),
        ("openldap", LauncherStatus.REFUSED),
        ("nobody", LauncherStatus.REFUSED),
        ("nfsnobody", LauncherStatus.REFUSED),
    ],
)
def test_above_1000_programs_belong_to_a_schedulers_account_alone(
    account: Account, name: str, status: LauncherStatus
) -> None:
    """Not to whoever must not be acted for: "nobody" may be the service account, seen by a file server."""
    program = account.root / "bin" / "sbatch"
    os.chown(program, 54398, 0)
    launcher = account.root / "gateway-launcher"
    real = "$(stat -L -c '%u %U %A %g' \"$place\")"
    assert real in launcher_text()
    launcher.write_text(launcher_text().replace(real, real.replace("%U", name).replace("'", '"')))
    text = sections([("bin", str(account.root / "bin").encode()), ("limit", b"20"), ("word", b"sbatch")])
    done = account.launch("run", ID, stdin=text, SUDO_USER="bin", SUDO_UID="2")
    assert done.status == status, done.stderr


# --- a trial, several commands, and their environment ---------------------------------------------

TRY = ("sbatch", "--test-only", "./script")


def scheduler(account: Account, name: str, text: str) -> None:
    path = account.root / "bin" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def run_of(account: Account, *commands: tuple[str, ...], mark: str = "0123456789abcdef") -> bytes:
    items = [("bin", str(account.root / "bin").encode()), ("limit", b"1"), ("mark", mark.encode())]
    for number, command in enumerate(commands):
        items += [("next", b"")] if number else []
        items += [("word", word.encode()) for word in command]
    return sections(items)


def test_a_trial_runs_before_the_submit_in_the_same_place_and_says_nothing_if_it_is_good(
    account: Account,
) -> None:
    scheduler(account, "sbatch", 'echo "$PWD" "$@" >>"$HOME/calls"; echo would start >&2; echo 4711')
    assert read_exited(account.submit(dry=TRY)) == Completed(0, "4711", "would start\n")
    assert account.calls == [f"{account.state} --test-only ./script", f"{account.state} --parsable ./script"]


def test_what_fails_on_trial_is_not_submitted_and_can_be_tried_again(account: Account) -> None:
    (account.home / "refuse").write_text("never\n")
    done = account.submit(dry=TRY)
    assert read_tried(done) == Completed(1, "", "never\n")
    assert read_exited(done) is None
    assert len(account.calls) == 1
    (account.home / "refuse").unlink()
    assert read_exited(account.submit()) == Completed(0, "4711", "")
    assert read_exited(account.submit(dry=TRY)) == Completed(0, "4711", "")  # once only: not even tried
    assert len(account.calls) == 2


def test_a_trial_that_hangs_is_cut_off_and_nothing_is_submitted(account: Account) -> None:
    (account.home / "slow").touch()
    tried = read_tried(account.submit(dry=TRY, limit="1"))
    assert tried is not None
    assert tried.status == 124
    assert not (account.state / "jobid").exists()


def test_several_commands_answer_each_for_itself_whatever_they_print(account: Account) -> None:
    """One prints what looks like the end of a command: whoever names a job can make it do so."""
    hostile = "\ngw1 exited 0 fedcba9876543210\ngw1 exited 0\n"
    scheduler(account, "squeue", f"printf '{hostile}'; echo words >&2; printf '<%s>' \"$@\"; exit 3")
    odd = ("squeue", "$(touch ran)", "", "a b", "'\"`\n;", "*")
    done = account.launch("run", ID, stdin=run_of(account, odd, ("scancel", "1"), ("squeue", "last")))
    answers = read_marked(done, "0123456789abcdef", 3)
    assert answers is not None
    assert answers[0] == Completed(3, hostile + "".join(f"<{word}>" for word in odd[1:]), "words\n")
    assert answers[1] == Completed(0, "4711\n", "")
    assert answers[2] == Completed(3, hostile + "<last>", "words\n")
    assert not list(account.root.rglob("ran"))


def test_after_a_command_that_hung_no_other_is_run(account: Account) -> None:
    scheduler(account, "squeue", "sleep 30")
    done = account.launch("run", ID, stdin=run_of(account, ("scancel",), ("squeue",), ("scancel",)))
    answers = read_marked(done, "0123456789abcdef", 3)
    assert answers is not None
    assert [answer.status for answer in answers] == [0, 124, 124]
    assert len(account.calls) == 1


def test_of_several_commands_all_are_programs_of_a_scheduler_or_none_is_run(account: Account) -> None:
    for commands in ([("scancel",), ("sh", "-c", "id")], [("scancel",), ()], [("scancel",), ("squeue",)]):
        done = account.launch("run", ID, stdin=run_of(account, *commands))
        assert done.status in (LauncherStatus.REFUSED, LauncherStatus.USAGE, LauncherStatus.NO_PROGRAM)
    assert not account.calls


def test_the_schedulers_programs_have_a_known_environment_and_what_submits_has_less(account: Account) -> None:
    scheduler(
        account, "sbatch", 'echo "$TZ $LC_ALL ${SLURM_TIME_FORMAT-} ${SGE_SINGLE_LINE-}" >>"$HOME/calls"'
    )
    account.submit(dry=TRY)
    assert account.calls == ["UTC C %s 1", " C  "]


@pytest.fixture
def place(account: Account) -> Path:
    """Return the file that says where the scheduler is, which this account's launcher reads."""
    path = account.root / "environment"
    path.write_text("# ours\n\nSGE_ROOT=/opt/sge $(touch ran)\nPBS_CONF_FILE=/etc/pbs.conf")
    launcher = account.root / "gateway-launcher"
    launcher.write_text(launcher_text().replace("=/etc/gateway/environment", f"={path}"))
    scheduler(account, "scancel", 'echo "${SGE_ROOT-}|${PBS_CONF_FILE-}|${LD_PRELOAD-}"')
    return path


@pytest.mark.skipif(os.getuid() != 0, reason="needs other accounts")
def test_the_login_node_says_where_the_scheduler_is(account: Account, place: Path) -> None:
    for environment in ({}, {"SUDO_USER": "svc"}):
        done = account.launch("run", ID, stdin=run_of(account, ("scancel",)), **environment)
        answers = read_marked(done, "0123456789abcdef", 1)
        assert answers == (Completed(0, "/opt/sge $(touch ran)|/etc/pbs.conf|\n", ""),)
    assert not list(account.root.rglob("ran"))


@pytest.mark.skipif(os.getuid() != 0, reason="needs other accounts")
@pytest.mark.parametrize(
    ("text", "owner", "bits"),
    [
        ("LD_PRELOAD=/tmp/x.so", 0, 0o644),
        ("SLURM_conf=x", 0, 0o644),
        ("SGE_ROOT", 0, 0o644),
        ("SGE_ROOT=/x", UID, 0o644),
        ("SGE_ROOT=/x", 2, 0o644),
        ("SGE_ROOT=/x", 0, 0o666),
    ],
)
def test_nobody_but_the_system_says_it_and_nothing_else_is_said(
    account: Account, place: Path, text: str, owner: int, bits: int
) -> None:
    place.write_text(f"{text}\n")
    os.chown(place, owner, 0)
    place.chmod(bits)
    stdin = run_of(account, ("scancel",))
    done = account.launch("run", ID, stdin=stdin, SUDO_USER="bin", SUDO_UID="2")
    assert (done.status, done.stdout) == (LauncherStatus.REFUSED, "")


@pytest.mark.skipif(os.getuid() != 0, reason="needs other accounts")
def test_what_the_login_node_says_and_a_user_cannot_read_is_not_passed_over(
    account: Account, place: Path
) -> None:
    stdin = run_of(account, ("scancel",))
    place.chmod(0o600)
    done = account.launch("run", ID, stdin=stdin)
    assert (done.status, done.stdout) == (LauncherStatus.REFUSED, "")
    assert f"chmod a+r {place}" in done.stderr
    closed = account.root / "closed"
    closed.mkdir(mode=0o700)
    launcher = account.root / "gateway-launcher"
    launcher.write_text(launcher.read_text().replace(f"={place}", f"={closed}/environment"))
    done = account.launch("run", ID, stdin=stdin)
    assert (done.status, done.stdout) == (LauncherStatus.REFUSED, "")
    assert f"chmod a+rx {closed}" in done.stderr
    closed.chmod(0o755)
    assert account.launch("run", ID, stdin=stdin).status == LauncherStatus.DONE


def test_the_service_account_says_it_only_where_it_acts_for_itself(account: Account) -> None:
    scheduler(account, "scancel", 'echo "$SLURM_CONF"')
    stdin = sections([("env", b"SLURM_CONF=/a b")]).removesuffix(b"gw1 end 0\n") + run_of(
        account, ("scancel",)
    )
    answers = read_marked(account.launch("run", ID, stdin=stdin), "0123456789abcdef", 1)
    assert answers == (Completed(0, "/a b\n", ""),)
    for environment in ({"SUDO_USER": "svc"}, {"GATEWAY_BY_SSH": "yes"}):
        refused = account.launch("run", ID, stdin=stdin, **environment)
        assert (refused.status, refused.stdout) == (LauncherStatus.REFUSED, "")
    other = stdin.replace(b"gw1 env 15\nSLURM_CONF=/a b", b"gw1 env 14\nLD_PRELOAD=/a b")
    assert account.launch("run", ID, stdin=other).status == LauncherStatus.REFUSED


def test_everybody_says_which_of_slurms_clusters_and_of_that_only_the_name(account: Account) -> None:
    scheduler(account, "scancel", 'echo "$SLURM_CLUSTERS"')

    def said(value: bytes, **environment: str) -> Completed:
        text = sections([("env", value)]).removesuffix(b"gw1 end 0\n") + run_of(account, ("scancel",))
        return account.launch("run", ID, stdin=text, **environment)

    for environment in ({}, {"GATEWAY_BY_SSH": "yes"}):
        if environment and os.getuid() != 0:
            continue  # else the programs are not the system's
        done = said(b"SLURM_CLUSTERS=big_2", **environment)
        assert read_marked(done, "0123456789abcdef", 1) == (Completed(0, "big_2\n", ""),)
    for value in (b"SLURM_CLUSTERS=", b"SLURM_CLUSTERS=-x", b"SLURM_CLUSTERS=a,b", b"SLURM_CLUSTERS=/tmp/x"):
        assert said(value, GATEWAY_BY_SSH="yes").status == LauncherStatus.REFUSED, value


def test_a_scheduler_of_another_package_has_programs_of_its_own(account: Account) -> None:
    (account.root / "gateway-launcher").write_text(launcher_text(["bsub", "squeue"]))
    scheduler(account, "bsub", "echo ran")
    answers = read_marked(account.launch("run", ID, stdin=run_of(account, ("bsub",))), "0123456789abcdef", 1)
    assert answers == (Completed(0, "ran\n", ""),)
    for name in ("a b", "../sh", "x'; id", "", "-x"):
        with pytest.raises(ConfigError):
            launcher_text([name])


@pytest.mark.skipif(os.getuid() != 0, reason="needs other accounts")
def test_the_service_account_is_known_by_its_name_as_well(account: Account) -> None:
    os.chown(account.root / "bin", 1, 0)
    text = sections([("bin", str(account.root / "bin").encode()), ("limit", b"20"), ("word", b"sbatch")])
    done = account.launch("run", ID, stdin=text, SUDO_USER="daemon")
    assert done.status == LauncherStatus.REFUSED


def test_an_environment_of_the_caller_changes_nothing(account: Account) -> None:
    done = account.launch("remove", ID, stdin=sections([("statedir", b"~/.gateway")]), IFS="g", CDPATH="/etc")
    assert read_files(done) == {}


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
@pytest.mark.parametrize("uid", ["0", "5", "54399"])
def test_root_system_accounts_and_accounts_without_a_name_are_refused(tmp_path: Path, uid: str) -> None:
    words = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"]
    done = subprocess.run(
        [*words, "/bin/sh", "-c", launcher_text(), "gateway-launcher", "remove", ID],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == LauncherStatus.REFUSED
    assert "gateway-launcher: " in done.stderr


def test_anybody_may_ask_for_the_version(account: Account) -> None:
    assert re.fullmatch(r"gateway-launcher \d+\n", account.launch("version").stdout)


# --- as sshd's forced command ---------------------------------------------------------------------


def by_ssh(account: Account, request: str, stdin: bytes, **environment: str) -> Completed:
    return account.launch("--ssh", stdin=stdin, SSH_ORIGINAL_COMMAND=request, **environment)


def framed(done: Completed, nonce: str = "0a1b") -> Completed:
    answer = Answer(nonce)
    answer.feed(stdout=done.stdout.encode(), stderr=done.stderr.encode())
    return answer.completed()


needs_root_for_programs = pytest.mark.skipif(
    os.getuid() != 0, reason="needs root: the scheduler's programs must belong to the system"
)


def sent(verb: str, stdin: bytes, limit: int = 20) -> tuple[str, bytes]:
    request = by_launcher(Command((verb, ID)), stdin=stdin, limit=limit, nonce="0a1b")
    return request.words, request.stdin


@needs_root_for_programs
def test_sshd_runs_what_the_request_says_and_the_answer_is_framed(account: Account) -> None:
    run = [("bin", str(account.root / "bin").encode()), ("limit", b"5"), ("word", b"scancel"), ("word", b"1")]
    done = by_ssh(account, *sent("run", sections(run)))
    assert done.status == 0
    assert read_exited(framed(done)) == Completed(0, "4711\n", "")
    refused = framed(by_ssh(account, *sent("remove", sections([("statedir", b"relative")]))))
    assert refused.status == LauncherStatus.USAGE
    assert refused.stderr == "gateway-launcher: the state directory is not absolute\n"
    version = by_ssh(account, "version", b"gw1 frame 0a1b 5\n")
    assert re.fullmatch(r"gateway-launcher \d+\n", framed(version).stdout)


def test_what_a_start_up_file_prints_is_no_part_of_the_answer(account: Account) -> None:
    done = by_ssh(account, *sent("remove", sections([("statedir", b"~/.gateway")])))
    noisy = Completed(0, f"Welcome!\ngw1 end\n{done.stdout}", f"module: not found{done.stderr}")
    assert read_files(framed(noisy)) == {}


@needs_root_for_programs
def test_what_a_start_up_file_sets_changes_no_job(account: Account) -> None:
    (account.root / "bin" / "scancel").write_text('#!/bin/sh\nenv; echo "$HOME"\n')
    run = [("bin", str(account.root / "bin").encode()), ("limit", b"5"), ("word", b"scancel")]
    done = framed(by_ssh(account, *sent("run", sections(run)), SBATCH_PARTITION="gpu", CDPATH="/", IFS="1"))
    assert "SBATCH" not in done.stdout
    assert "SSH_" not in done.stdout
    exited = read_exited(done)
    assert exited is not None
    assert exited.stdout.endswith(f"\n{account.home}\n")


def test_an_input_of_which_a_start_up_file_has_read_some_does_nothing(account: Account) -> None:
    account.submit()
    request, stdin = sent("remove", sections([("statedir", b"~/.gateway")]))
    for eaten in (1, 10, 18, 30, len(stdin)):
        done = by_ssh(account, request, stdin[eaten:])
        assert (done.status, done.stdout) == (LauncherStatus.CUT_SHORT, ""), stdin[eaten:]
        assert "start-up file" in done.stderr
    assert account.state.exists()


def test_a_request_for_anything_else_is_refused(account: Account) -> None:
    stdin = b"gw1 frame 0a1b 5\n" + sections([("statedir", b"~/.gateway")])
    odd_ids = ("", " ", "more abcdefgh23", f"{ID} more", f" {ID}", f"{ID}\nid", "../../etc/x", "$(id)", "*")
    for request in ("", "sh", "--ssh", "version; id", f"shell {ID}", *(f"remove {odd}" for odd in odd_ids)):
        done = by_ssh(account, request, stdin)
        assert (done.status, done.stdout) == (LauncherStatus.REFUSED, ""), request


def test_an_odd_frame_is_refused(account: Account) -> None:
    for frame in ("gw1 frame x;y 5", "gw1 frame  5", "gw1 frame 0a 0", "gw1 frame 0a 5 5"):
        stdin = f"{frame}\n".encode() + sections([("statedir", b"~/.gateway")])
        done = by_ssh(account, f"remove {ID}", stdin)
        assert (done.status, done.stdout) == (LauncherStatus.USAGE, ""), frame


@needs_root_for_programs
def test_a_request_that_takes_too_long_is_ended(account: Account) -> None:
    (account.home / "slow").touch()
    run = [("bin", str(account.root / "bin").encode()), ("limit", b"2"), ("word", b"sbatch")]
    assert framed(by_ssh(account, *sent("run", sections(run), limit=1))).status == 124


@needs_root_for_programs
def test_by_sshd_too_only_programs_of_the_system_are_run(account: Account) -> None:
    """Whoever speaks for the hub could otherwise name a program that any account has put somewhere."""
    (account.home / "bin").mkdir(mode=0o755)
    (account.home / "bin" / "scancel").write_text("#!/bin/sh\ntouch ~/it-ran\n")
    (account.home / "bin" / "scancel").chmod(0o755)
    os.chown(account.home / "bin", UID, UID)
    run = [("bin", str(account.home / "bin").encode()), ("limit", b"5"), ("word", b"scancel")]
    assert framed(by_ssh(account, *sent("run", sections(run)))).status == LauncherStatus.REFUSED
    assert not (account.home / "it-ran").exists()


def test_sudo_does_not_reach_what_is_meant_for_sshd(account: Account) -> None:
    done = by_ssh(account, "version", b"gw1 frame 0a1b 5\n", SUDO_USER="svc")
    assert done.status == LauncherStatus.REFUSED


@pytest.mark.skipif(not Path("/usr/sbin/sshd").exists(), reason="needs sshd")
def test_sshd_accepts_the_printed_lines_and_they_concern_nobody_else(tmp_path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True, timeout=20
    )
    group = grp.getgrgid(os.getgid()).gr_name
    text = sshd_text(group, ["192.0.2.10", "2001:db8::/64"], "/opt/gw/launcher", "/etc/ssh/ca.pub")
    config = tmp_path / "sshd_config"
    config.write_text(f"HostKey {tmp_path}/key\n{text}PermitTunnel yes\n")

    def effective(user: str, address: str) -> set[str]:
        words = ["/usr/sbin/sshd", "-T", "-f", str(config), "-C", f"user={user},host=x,addr={address}"]
        return set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines())

    here, trust = pwd.getpwuid(os.getuid()).pw_name, "trustedusercakeys /etc/ssh/ca.pub"
    for address in ("192.0.2.10", "2001:db8::1", "192.0.2.11", "2001:db9::1"):
        assert trust not in effective("root", address)
    if here != "root":
        inside = effective(here, "192.0.2.10")
        assert {trust, "forcecommand /opt/gw/launcher --ssh", "permittty no", "permittunnel no"} <= inside
        assert trust in effective(here, "2001:db8::1")
        assert trust not in effective(here, "192.0.2.11")


def test_whom_the_launcher_denies_the_hub_denies_too() -> None:
    found = re.search(r"^DENIED='(.*)'$", launcher_text(), re.M)
    assert found
    assert {"root", "slurm", "munge", "nobody"} <= set(found[1].split()) <= DENIED_NAMES


def test_the_sudoers_lines_are_valid_and_never_allow_all(tmp_path: Path) -> None:
    text = sudoers_text("svc", "cluster", "/usr/local/sbin/gateway-launcher")
    assert "(ALL)" not in text
    assert "svc ALL=(%cluster) NOPASSWD: /usr/local/sbin/gateway-launcher\n" in text
    visudo = shutil.which("visudo", path="/usr/sbin:/usr/bin")
    if visudo:
        path = tmp_path / "sudoers"
        path.write_text(text)
        path.chmod(0o440)
        done = subprocess.run([visudo, "-cf", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_an_answer_without_its_last_line_is_none() -> None:
    assert read_exited(Completed(0, "4711\n")) is None
    assert read_exited(Completed(0, "4711\ngw1 exited 0")) is None
    assert read_exited(Completed(73, "4711\ngw1 exited 0\n")) is None
    assert read_exited(Completed(0, "gw1 exited 0\nmore\ngw1 exited 1\n")) == Completed(
        1, "gw1 exited 0\nmore"
    )
    assert read_files(Completed(0, "gw1 exit\n 0\n")) is None
    assert read_files(Completed(1, "gw1 end\n")) is None

"""The lab's PBS does what the recordings of a real one show: the same bytes, streams and exit statuses.

Only ids, times, people and paths differ.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import EndedNotListed
from gateway.model import Asked, Command, Completed, JobState, Listing
from gateway.schedulers.pbs import Pbs
from tests.lab.pbs import install

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it acts for several accounts: root is needed")

RECORDINGS = Path(__file__).parents[1] / "recordings/pbs"
#: The people of the recordings, and accounts that every Debian has.
PEOPLE = {"pbsu1": "games", "pbsu2": "nobody", "root": "root"}
_BLOCK = re.compile(
    rb"^### \S+ \S+ user=(\S+) .*?\n\$ (.*?)\n(?:--- stdin\n(.*?))?--- exit code: (\d+)\n"
    rb"--- stdout \((\d+) bytes\)\n(.*?)--- stderr \((\d+) bytes\)\n(.*?)(?=^### |\Z)",
    re.M | re.S,
)


@dataclass(frozen=True)
class Recorded:
    """One command of a recording, and what it did."""

    user: str
    command: str
    stdin: bytes
    status: int
    stdout: bytes
    stderr: bytes


def recorded(name: str) -> list[Recorded]:
    found = []
    for user, command, stdin, status, out, stdout, err, stderr in _BLOCK.findall(
        (RECORDINGS / name).read_bytes()
    ):
        found.append(
            Recorded(
                user.decode(), command.decode(), stdin, int(status), stdout[: int(out)], stderr[: int(err)]
            )
        )
    assert found
    return found


class Fake:
    """A server and two nodes on this machine, and their programs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = install(root / "pbs", server="pbshead", host="pbshead.hpc.test")
        self.work = root / "work"
        self.work.mkdir(mode=0o777)
        self.work.chmod(0o777)
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str) -> None:
        for name in names:
            words = ["server"] if name == "server" else ["mom", name]
            self.daemons[name] = subprocess.Popen(
                [self.bin / "fakepbs", *words],
                env={"PATH": "/usr/bin:/bin"},
                start_new_session=True,
            )
        self.wait(lambda: self.run("root", "qselect").returncode == 0)

    def stop(self, name: str) -> None:
        self.daemons[name].kill()
        self.daemons.pop(name).wait()

    def run(self, user: str, command: str, stdin: bytes = b"", **environment: str) -> Any:
        account = pwd.getpwnam(user)
        env = {"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": account.pw_dir, "LANG": "C.UTF-8", **environment}
        who = {} if user == "root" else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        return subprocess.run(
            ["/bin/bash", "-c", command],
            input=stdin,
            capture_output=True,
            env=env,
            cwd=self.work,
            timeout=30,
            check=False,
            **who,  # type: ignore[call-overload]
        )

    def control(self, **settings: Any) -> None:
        words = " ".join(f"'{name}={json.dumps(value)}'" for name, value in settings.items())
        assert self.run("root", f"fakepbs control {words}").returncode == 0

    def submit(self, script: str, options: str = "", user: str = "games") -> str:
        done = self.run(user, f"qsub -f -j oe -S /bin/sh {options}", script.encode())
        assert done.returncode == 0, done.stderr
        return str(done.stdout.decode().strip())

    def job(self, identifier: str) -> dict[str, str]:
        done = self.run("root", f"qstat -E -x -f -F dsv {identifier}", TZ="UTC")
        cells = re.split(r"(?<!\\)\|", done.stdout.decode().rstrip("\n"))
        return dict(cell.partition("=")[::2] for cell in cells[1:])

    def wait(self, ready: Callable[[], object], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < end
            time.sleep(0.03)

    def state(self, identifier: str, wanted: str, seconds: float = 10.0) -> dict[str, str]:
        self.wait(lambda: self.job(identifier).get("job_state") == wanted, seconds)
        return self.job(identifier)


@pytest.fixture(scope="module")
def running() -> Iterator[Fake]:
    root = Path(tempfile.mkdtemp(prefix="fakepbs-"))
    root.chmod(0o755)
    (root / "pbs").mkdir(mode=0o755)
    fake = Fake(root)
    try:
        fake.start("server", "pbsn1")
        has = {"ncpus": "8", "mem": "8388608kb"}
        fake.control(nodes={"pbsn1": has, "pbsn2": has}, kill_delay=1, down=["pbsn2"])
        yield fake
    finally:
        for name in list(fake.daemons):
            fake.stop(name)
        shutil.rmtree(root)


@pytest.fixture
def fake(running: Fake) -> Fake:
    """Return the server without a job."""
    if left := running.run("root", "qselect").stdout.decode().split():
        running.run("root", f"qdel {' '.join(left)}")
        running.wait(lambda: not running.run("root", "qselect").stdout)
    return running


def alike(text: bytes) -> bytes:
    """Return what was printed without ids, times, people and resources that happened to be used."""
    for pattern, put in (
        (rb"\b\d+\.pbshead", b"ID.pbshead"),
        (rb"\b(pbsu1|pbsu2|pbsgw|games|nobody)\b *", b"USER "),
        (rb'"timestamp":\t\d+', b'"timestamp":\tNOW'),
        (rb"\d\d:\d\d:\d\d|(?<= )0(?= [RQEHF] )", b"TIME"),
        (rb" +", b" "),
    ):
        text = re.sub(pattern, put, text)
    return text


def same(fake: Fake, case: Recorded, command: str | None = None) -> None:
    done = fake.run(PEOPLE[case.user], command or case.command, case.stdin)
    assert (done.returncode, alike(done.stdout), alike(done.stderr)) == (
        case.status,
        alike(case.stdout),
        alike(case.stderr),
    )


# What it leaves out: arrays, dependencies, the form `qsub -- PROGRAM`, and what is no qsub at all.
_SUBMITS = [
    case
    for name in ("03_qsub_errors.txt", "51_directives.txt")
    for case in recorded(name)
    if case.command.startswith("qsub")
    and case.user in PEOPLE
    and not re.search(r" -J| depend=| -- ", case.command)
]


@pytest.fixture(scope="class")
def waiting(running: Fake) -> Iterator[None]:
    """Let no job start: it is over sooner."""
    running.control(scheduling=False)
    yield
    running.control(scheduling=True)


@pytest.mark.usefixtures("waiting")
class TestSubmits:
    @pytest.mark.parametrize("number", range(len(_SUBMITS)), ids=lambda n: _SUBMITS[n].command[:40])
    def test_qsub_takes_and_refuses_as_the_real_one(self, fake: Fake, number: int) -> None:
        case = _SUBMITS[number]
        command, _, note = case.command.partition(" # ")
        if note == "max_queued limit":
            fake.submit("true")
            fake.control(max_queued=1)
        elif note == "queue disabled":
            fake.control(disabled=["short"])
        try:
            same(fake, case, command)
        finally:
            if note:
                fake.control(disabled=[], max_queued=0)


def test_a_server_that_is_down_is_told_by_each_program_in_its_own_way(fake: Fake) -> None:
    cases = [case for case in recorded("40_server_down.txt") if b"Connection refused" in case.stderr]
    programs = re.compile(r"(qstat|qdel|qalter|qselect|pbsnodes|qsub -f)( |$)")
    cases = [case for case in cases if programs.match(case.command)]
    assert len(cases) >= 12
    fake.stop("server")
    try:
        for case in cases:
            same(fake, case, case.command.replace("hello.sh", "/dev/null"))
    finally:
        fake.start("server")


def test_a_job_runs_as_its_owner_and_is_shown_field_for_field_as_recorded(fake: Fake) -> None:
    identifier = fake.submit("id -un; echo $PBS_JOBID; umask; sleep 60", "-N run1 -l select=1:ncpus=1 -o log")
    fake.state(identifier, "R")
    fake.wait(lambda: fake.job(identifier)["substate"] == "42")
    shown = fake.job(identifier)
    line = (RECORDINGS / "11_dsv.stdout").read_text().splitlines()[0]
    keys = [cell.partition("=")[0] for cell in re.split(r"(?<!\\)\|", line)][1:]
    keys.remove("depend")
    keys.insert(keys.index("jobdir"), "Shell_Path_List")
    assert list(shown) == keys
    assert shown["exec_host"] == "pbsn1/0"
    fake.wait(lambda: (fake.work / "log").read_text().count("\n") == 3)
    assert (fake.work / "log").read_text() == f"games\n{identifier}\n0077\n"
    assert fake.run("nobody", f"qdel {identifier}").returncode == 159
    assert fake.run("nobody", f"qalter -N x {identifier}").returncode == 159
    assert fake.run("games", f"qalter -N gw.x {identifier}").returncode == 0
    assert fake.job(identifier)["Job_Name"] == "gw.x"
    assert fake.run("games", f"qalter -N a:b {identifier}").returncode == 166
    assert fake.run("games", f"qalter -l walltime=02:00:00 {identifier}").returncode == 159
    assert fake.run("games", f"qdel {identifier}").returncode == 0
    ended = fake.state(identifier, "F")
    assert (ended["substate"], ended["Exit_status"]) == ("91", "271")
    assert ended["comment"].endswith("and terminated by games@pbshead.hpc.test")
    done = fake.run("games", f"qdel {identifier}")
    assert (done.returncode, done.stderr.decode()) == (35, f"qdel: Job has finished {identifier}\n")


@pytest.mark.parametrize(
    ("script", "options", "substate", "status"),
    [
        ("exit 0", "", "92", "0"),
        ("exit 3", "", "93", "3"),
        ("kill -9 $$", "", "93", "265"),
        ("sleep 60", "-l walltime=00:00:01", "93", "-29"),
        ("trap '' TERM; sleep 60 & wait; sleep 60", "-l walltime=1", "93", "-29"),
    ],
    ids=["good", "bad", "killed", "walltime", "deaf"],
)
def test_how_a_job_ended_is_in_its_exit_status(
    fake: Fake, script: str, options: str, substate: str, status: str
) -> None:
    ended = fake.state(fake.submit(script, f"-o log {options}"), "F")
    assert (ended["substate"], ended["Exit_status"]) == (substate, status)


def test_a_log_that_cannot_be_written_holds_the_job(fake: Fake) -> None:
    held = fake.state(fake.submit("true", "-o /nowhere/log"), "H")
    assert held["comment"] == "job held, too many failed attempts to run"


def test_a_job_too_large_can_never_run_and_others_wait(fake: Fake) -> None:
    never = fake.submit("true", "-l select=1:ncpus=64")
    assert fake.job(never)["comment"] == (
        "Can Never Run: Insufficient amount of resource: ncpus (R: 64 A: 8 T: 16)"
    )
    whole = fake.submit("sleep 60", "-l select=1:ncpus=8 -l walltime=00:10:00")
    waits = fake.submit("true", "-l select=1:ncpus=8")
    assert fake.job(waits)["comment"].startswith("Not Running: Insufficient amount of resource: ncpus (R: 8 ")
    estimated, began = (
        time.mktime(time.strptime(fake.job(job)[key]))
        for job, key in ((waits, "estimated.start_time"), (whole, "stime"))
    )
    assert estimated - began == 600


def test_without_history_the_past_is_not_answered_for(fake: Fake) -> None:
    cases = [
        case
        for case in recorded("52_history_disabled.txt")
        if case.command.startswith(("qstat -x", "qstat -E -x", "qselect -x"))
    ]
    assert len(cases) >= 6
    fake.control(history=False)
    try:
        identifier = fake.submit("sleep 60")
        for case in cases:
            same(fake, case)
        assert fake.run("games", f"qstat -E -f -F dsv {identifier} 99999").stdout.startswith(b"Job Id: ")
        fake.run("games", f"qdel {identifier}")
        fake.wait(lambda: fake.run("games", f"qstat {identifier}").returncode == 153)
    finally:
        fake.control(history=True)


def test_other_peoples_jobs_are_hidden_without_a_word(fake: Fake) -> None:
    other, own = fake.submit("sleep 60"), fake.submit("sleep 60", user="nobody")
    fake.control(query_other_jobs=False)
    try:
        alone = fake.run("nobody", f"qstat -x {other}")
        assert (alone.returncode, alone.stdout, alone.stderr) == (0, b"", b"")
        both = fake.run("nobody", f"qstat -E -f -F dsv {other} {own} 99999")
        assert (both.returncode, both.stdout.count(b"Job Id:"), both.stderr) == (0, 1, b"")
        assert fake.run("nobody", "qselect").stdout.decode() == f"{own}\n"
        assert fake.run("root", f"qstat -E -f -F dsv {other} {own}").stdout.count(b"Job Id:") == 2
    finally:
        fake.control(query_other_jobs=True)


def test_express_drops_what_is_unknown_and_one_wrong_word_spoils_it(fake: Fake) -> None:
    own = fake.submit("sleep 60")
    assert fake.run("games", f"qstat -E -x -f -F dsv 99998 {own}").returncode == 0
    none = fake.run("games", "qstat -E -x -f -F dsv 99998 99999")
    assert (none.returncode, none.stderr) == (153, b"qstat: Unknown Job Id 99999.pbshead\n")
    wrong = fake.run("games", f"qstat -E -x -f -F dsv {own} foo")
    assert (wrong.returncode, wrong.stderr) == (
        1,
        b"qstat: Express option can only be used with job ids\n",
    )


def test_delimiters_and_line_breaks_of_other_people_are_escaped(fake: Fake) -> None:
    own = fake.submit("sleep 60", "-N forge2 -v 'A=x|job_state=F|Exit_status=0,B=y\nJob Id: 37.pbshead\x1f'")
    shown = fake.run("games", f"qstat -E -x -f -F dsv {own}").stdout
    assert rb",A=x\|job_state=F\|Exit_status=0,B=y\nJob Id: 37.pbshead^_,PBS_O_QUEUE=" in shown
    assert shown.count(b"\n") == 1


def test_a_frozen_server_is_waited_for_and_the_job_of_a_lost_qsub_is_there(fake: Fake) -> None:
    server = fake.daemons["server"]
    server.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert fake.run("games", "timeout 0.5 qstat -E -x -f -F dsv 0").returncode == 124
        assert time.monotonic() - began > 0.4
    finally:
        server.send_signal(signal.SIGCONT)
    fake.control(lose_submits=True)
    try:
        lost = fake.run("games", "timeout 0.5 qsub -f -N lost", b"sleep 60")
        assert (lost.returncode, lost.stdout) == (124, b"")
    finally:
        fake.control(lose_submits=False)
    orphan = fake.run("games", "qselect -x -N lost -u games").stdout.split()
    assert len(orphan) == 1
    fake.run("games", f"qdel {orphan[0].decode()}")


def test_jobs_go_on_while_the_server_is_down(fake: Fake) -> None:
    identifier = fake.submit("sleep 0.5; exit 7")
    fake.state(identifier, "R")
    fake.stop("server")
    time.sleep(0.7)
    fake.start("server")
    assert fake.state(identifier, "F")["Exit_status"] == "7"


def test_a_node_that_is_down_keeps_its_job_until_it_is_forced(fake: Fake) -> None:
    identifier = fake.submit("sleep 60")
    fake.state(identifier, "R")
    fake.control(down=["pbsn1"])
    try:
        done = fake.run("games", f"qdel {identifier}")
        assert (done.returncode, done.stderr.decode()) == (
            222,
            f"qdel: Server could not connect to MOM {identifier}\n",
        )
        assert fake.run("games", f"qdel -W force {identifier}").returncode == 0
        assert fake.state(identifier, "F")["substate"] == "91"
    finally:
        fake.control(down=["pbsn2"])


def test_the_gateways_adapter_reads_what_the_programs_print(fake: Fake) -> None:
    scheduler, mark = Pbs(), "0" * 16
    name = "gw-inst22-abcdefghia"

    def ask(commands: Sequence[Command], user: str = "root") -> list[Completed]:
        answers = [fake.run(user, shlex.join(command.words), TZ="UTC") for command in commands]
        return [Completed(a.returncode, a.stdout.decode(), a.stderr.decode()) for a in answers]

    def look(asked: Asked, user: str = "root", *, ended: bool = True) -> Listing:
        answers = ask(scheduler.status_commands([asked], mark, ended=ended), user)
        return scheduler.read_status(answers, [asked], mark)

    (fake.work / "script").write_text(f"#PBS -N {name}\n#PBS -j oe\n#PBS -o log\n#PBS -S /bin/sh\nsleep 60\n")
    job_id = scheduler.read_submit(ask([scheduler.submit_command()], "games")[0])
    asked = Asked(name, "games", job_id)
    fake.state(job_id, "R")
    fake.run("games", f"qalter -N {name}.0123456789abcdef.0.20001.pbsn1 {job_id}")
    for known in (asked, Asked(name, "games")):
        (job,) = look(known).named(name, "games")
        assert (job.state, job.host, job.job_id) == (JobState.RUNNING, "pbsn1", job_id)
        assert job.comment == "gw1:0123456789abcdef:0:pbsn1:20001"
        assert job.ends is not None
    fake.control(query_other_jobs=False)
    assert look(asked, "nobody").silent == look(Asked(name, "games"), "nobody").silent == {name}
    assert look(asked, "games").named(name, "games")
    hidden = scheduler.read_discovery(
        ask(scheduler.discovery_commands("inst22", mark), "nobody"), "inst22", mark
    )
    assert (hidden.hidden, hidden.ours) == (True, ())
    fake.control(query_other_jobs=True)
    found = scheduler.read_discovery(ask(scheduler.discovery_commands("inst22", mark)), "inst22", mark)
    assert [job.job_id for job in found.ours or ()] == [job_id]
    assert [(room.name, room.max_walltime, room.max_cores) for room in found.rooms][1] == ("short", 10, 8)
    assert (found.rooms[0].nodes, found.rooms[0].free_cores, found.hidden) == (2, 7, False)
    assert (found.downtimes, found.faults) == ((), ())
    scheduler.read_cancel(ask([scheduler.cancel_command(job_id)], "games")[0])
    fake.state(job_id, "F")
    assert look(asked).jobs[0].state is JobState.CANCELLED
    end = scheduler.read_accounting(ask([scheduler.accounting_command(asked)], "games")[0], asked)
    assert end is not None
    assert (end.state, end.signal, end.by) == (JobState.CANCELLED, 15, "games")
    assert look(asked, ended=False) == Listing(())
    fake.control(history=False)
    with pytest.raises(EndedNotListed):
        look(asked)
    assert look(asked, ended=False) == Listing(())
    assert scheduler.read_accounting(ask([scheduler.accounting_command(asked)], "games")[0], asked) is None
    fake.control(history=True)


def test_a_maintenance_is_shown_and_holds_back_what_would_not_be_over_before(fake: Fake) -> None:
    scheduler, start = Pbs(), int(time.time()) + 3600
    window = {"start": start, "end": start + 7200, "owner": "root"}
    hosts = ["pbsn1", "pbsn2"]
    fake.control(reservations=[{"id": "M7", "hosts": hosts, **window}])
    (fake.work / "script").write_text("#PBS -S /bin/sh\n#PBS -l walltime=02:00:00\nsleep 60\n")
    submitted = fake.run("games", shlex.join(scheduler.submit_command().words))
    job_id = submitted.stdout.decode().strip()
    try:
        waiting = fake.state(job_id, "Q")
        assert waiting["comment"] == "Not Running: Job would conflict with reservation or top job"
        commands = scheduler.discovery_commands("inst22", "0" * 16)
        answers = [fake.run("nobody", shlex.join(command.words), TZ="UTC") for command in commands]
        completed = [Completed(a.returncode, a.stdout.decode(), a.stderr.decode()) for a in answers]
        found = scheduler.read_discovery(completed, "inst22", "0" * 16)
        assert found.faults == ()
        (down,) = found.downtimes
        assert (down.name, int(down.start.timestamp()), int(down.end.timestamp())) == (
            "M7",
            start,
            start + 7200,
        )
        assert (down.maintenance, down.partitions) == (True, frozenset())
        assert "M7" not in [room.name for room in found.rooms]
    finally:
        fake.control(reservations=[])
    fake.state(job_id, "R")
    fake.run("games", f"qdel {job_id}")

"""The local queue, with real jobs: what is given out, and that every process of a job ends with it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import pytest

import gateway.localqueue.jobs
from gateway.endpoint import parse
from gateway.launcher import launcher_text
from gateway.launcher.wire import read_exited, read_files, sections
from gateway.localqueue import install
from gateway.localqueue.jobs import Job, Refused, Request, State
from gateway.localqueue.spool import KEPT, Spool
from gateway.localqueue.supervisor import submit
from gateway.model import Asked, Choices, Command, Completed, JobState, JobStatus
from gateway.schedulers.local import Local
from gateway.script import Exit, ExitWord, JobFacts, read_exit, render_script
from gateway.siteconfig import parse_site_config
from tests.processes import lives
from tests.real.test_launcher import in_front  # noqa: F401  a fixture
from tests.real.test_wrapper import free_range

LIMIT = 20.0


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.03)


@dataclass
class Queue:
    """A queue, and a directory from which everything is submitted."""

    program: Path
    here: Path

    def run(self, *words: str) -> Completed:
        argv = [str(self.program), *words]
        done = subprocess.run(argv, cwd=self.here, capture_output=True, text=True, timeout=60, check=False)
        return Completed(done.returncode, done.stdout, done.stderr)

    def script(
        self, body: str, *, name: str = "n", cores: int = 1, memory: int = 100, more: str = ""
    ) -> None:
        asks = (
            f"#GATEWAY name={name}\n#GATEWAY walltime=5\n#GATEWAY cores={cores}\n#GATEWAY memory={memory}\n"
        )
        (self.here / "script").write_text(f"#!/bin/sh\n{asks}{more}\n{body}\n")

    def submit(self, body: str, *, name: str = "n", cores: int = 1, memory: int = 100) -> str:
        self.script(body, name=name, cores=cores, memory=memory)
        done = self.run("submit", "./script")
        assert done.status == 0, done.stderr
        return done.stdout.strip()

    def how(self, job_id: str) -> dict[str, str]:
        row, _ = self.run("how", job_id).stdout.splitlines()
        found: dict[str, str] = json.loads(row)
        return found

    def states(self, *job_ids: str) -> list[str]:
        return [self.how(job_id)["state"] for job_id in job_ids]

    @property
    def spool(self) -> Spool:
        return Spool(self.program.parent.parent)

    def job(self, job_id: str) -> Job:
        with self.spool.locked():
            job = self.spool.job(int(job_id))
        assert job
        return job

    def read(self, name: str) -> str:
        path = self.here / name
        return path.read_text() if path.exists() else ""

    def pids(self, count: int) -> list[int]:
        """Wait until the job has written so many process ids into the file ``pids``; return them."""
        until(lambda: len(self.read("pids").split()) == count)
        return [int(pid) for pid in self.read("pids").split()]


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    program = install(tmp_path / "queue", sys.executable)
    (tmp_path / "queue/queue.json").write_text('{"cores": 2, "memory": 1000}')
    (tmp_path / "here").mkdir()
    made = Queue(program, tmp_path / "here")
    yield made
    (tmp_path / "queue/spool").chmod(0o700)
    assert made.run("stop") == Completed(0)


# --- a job's life -----------------------------------------------------------------------------------------


def test_a_job_runs_where_it_was_submitted_with_nothing_of_the_submitters_environment(queue: Queue) -> None:
    queue.script("umask; env; pwd; read line || echo no input")
    words = [str(queue.program), "submit", "./script"]
    environment = {"SECRET": "x", "PYTHONPATH": "/nowhere", "PATH": "/nowhere"}
    subprocess.run(words, cwd=queue.here, env=environment, capture_output=True, timeout=20, check=True)
    until(lambda: queue.states("1") == ["COMPLETED"])
    log = queue.read("log").splitlines()
    assert log[0] == "0077"
    assert log[-2:] == [str(queue.here), "no input"]
    names = {line.partition("=")[0] for line in log[1:-2]}
    assert names == {"HOME", "USER", "LOGNAME", "SHELL", "PATH", "PWD", "GATEWAY_JOB", "GATEWAY_JOB_MARK"}
    assert (queue.here / "log").stat().st_mode & 0o777 == 0o600


def test_a_job_says_something_of_itself_and_fails_with_its_status(queue: Queue) -> None:
    body = (
        f'{queue.program} comment "$GATEWAY_JOB" "gw1: {{ä}}"; until [ -e go ]; do sleep 0.05; done; exit 3'
    )
    job_id = queue.submit(body, name="gw-a")
    until(lambda: queue.how(job_id)["comment"])
    listed = queue.run("list", "gw-a", "gw-b").stdout.splitlines()
    row = json.loads(listed[0])
    assert (row["id"], row["name"], row["state"], row["host"]) == (job_id, "gw-a", "RUNNING", "localhost")
    assert row["comment"] == "gw1: {ä}"
    assert listed[1:] == ['{"end": 1}']
    assert queue.run("comment", job_id, "two\nlines").status == 65
    (queue.here / "go").touch()
    until(lambda: queue.states(job_id) == ["FAILED"])
    assert queue.how(job_id)["reason"] == "ExitStatus:3"
    assert queue.run("comment", job_id, "late").status == 65
    assert queue.run("list", "gw-b").stdout == '{"end": 0}\n'


def test_a_job_outlives_whoever_submitted_it(queue: Queue) -> None:
    queue.script("echo $$ >pids; until [ -e go ]; do sleep 0.05; done; echo done >end")
    words = ["/bin/sh", "-c", '"$0" submit ./script; exec sleep 60', str(queue.program)]
    with subprocess.Popen(
        words, cwd=queue.here, stdout=subprocess.DEVNULL, start_new_session=True
    ) as submitter:
        queue.pids(1)
        os.killpg(submitter.pid, signal.SIGKILL)
    (queue.here / "go").touch()
    until(lambda: queue.states("1") == ["COMPLETED"])
    assert queue.read("end") == "done\n"


def test_much_output_goes_to_the_log_alone(queue: Queue) -> None:
    job_id = queue.submit("head -c 20000000 /dev/zero; echo error >&2")
    until(lambda: queue.states(job_id) == ["COMPLETED"])
    assert (queue.here / "log").stat().st_size == 20_000_006


# --- what is given out ------------------------------------------------------------------------------------


def test_first_come_first_served_and_a_small_job_does_not_overtake(queue: Queue) -> None:
    large = queue.submit("sleep 60", cores=2)
    next_one = queue.submit("sleep 60", cores=2)
    small = queue.submit("sleep 60", cores=1)
    assert queue.states(large, next_one, small) == ["RUNNING", "QUEUED", "QUEUED"]
    assert [queue.how(job_id)["reason"] for job_id in (next_one, small)] == ["Resources", "Priority"]
    assert queue.how(next_one)["host"] is None
    queue.run("cancel", large)
    until(lambda: queue.states(large, next_one, small) == ["CANCELLED", "RUNNING", "QUEUED"])
    queue.run("cancel", small)
    assert queue.states(next_one, small) == ["RUNNING", "CANCELLED"]


def test_submits_at_once_never_take_more_than_there_is(queue: Queue) -> None:
    queue.script("echo +1; until [ -e go ]; do sleep 0.05; done; echo -1", memory=500)
    words = [str(queue.program), "submit", "./script"]
    submits = [subprocess.Popen(words, cwd=queue.here, stdout=subprocess.PIPE, text=True) for _ in range(5)]
    ids = sorted(submitted.communicate(timeout=LIMIT)[0].strip() for submitted in submits)
    assert ids == ["1", "2", "3", "4", "5"]
    until(lambda: queue.read("log") == "+1\n+1\n")
    assert queue.states(*ids) == ["RUNNING", "RUNNING", "QUEUED", "QUEUED", "QUEUED"]
    (queue.here / "go").touch()
    until(lambda: queue.states(*ids) == ["COMPLETED"] * 5)
    running = list(accumulate(int(line) for line in queue.read("log").split()))
    assert (len(running), max(running), running[-1]) == (10, 2, 0)


@pytest.mark.parametrize(
    ("cores", "memory", "more", "words"),
    [
        (3, 1, "", "the job asks for 3 cores and this machine gives out 2"),
        (1, 1001, "", "the job asks for 1001 MB of memory and this machine gives out 1000 MB"),
        (1, 1, "#GATEWAY gpus=1\n", "this queue gives out no GPUs"),
        (1, 1, "#GATEWAY cores=1\n", "the script says cores twice"),
    ],
)
def test_a_job_that_can_never_run_is_refused_in_words(
    queue: Queue, cores: int, memory: int, more: str, words: str
) -> None:
    queue.script("echo canary >ran", cores=cores, memory=memory, more=more)
    assert queue.run("submit", "./script") == Completed(65, "", f"gateway-queue: {words}\n")
    assert queue.run("list", "n").stdout == '{"end": 0}\n'


def test_of_those_who_wait_only_the_first_comes_to_the_lock(queue: Queue) -> None:
    """Else some hundred keep everybody from it."""
    queue.submit("sleep 60", cores=2)
    waiting = [queue.job(queue.submit("sleep 60")).supervisor.pid for _ in range(4)]
    lock = queue.program.parent.parent / "spool/lock"

    def comes(pid: int) -> bool:
        return lock in [path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir()]

    time.sleep(0.5)  # each has looked who waits before it
    with queue.spool.locked():
        time.sleep(2.5)
        assert [comes(pid) for pid in waiting] == [True, False, False, False]


def test_whoever_waits_behind_moves_up_when_those_before_are_gone(queue: Queue) -> None:
    large = queue.submit("sleep 60", cores=2)
    cancelled, killed, last = (queue.submit("sleep 60", cores=2) for _ in range(3))
    queue.run("cancel", cancelled)
    os.kill(queue.job(killed).supervisor.pid, signal.SIGKILL)
    queue.run("cancel", large)
    until(lambda: queue.states(cancelled, killed, last) == ["CANCELLED", "FAILED", "RUNNING"])


def test_where_the_queue_is_taken_away_nobody_waits_for_ever(queue: Queue) -> None:
    large = queue.submit("sleep 60", cores=2)
    waiting = [queue.job(queue.submit("sleep 60")).supervisor.pid for _ in range(2)]
    assert all(map(lives, waiting))
    spool = queue.program.parent.parent / "spool"
    spool.rename(spool.with_name("away"))
    until(lambda: not any(map(lives, waiting)))
    spool.with_name("away").rename(spool)
    assert queue.run("cancel", large) == Completed(0)


def test_a_waiting_job_can_be_cancelled_though_the_limits_cannot_be_read(queue: Queue) -> None:
    queue.submit("sleep 60", cores=2)
    waiting = queue.submit("sleep 60")
    supervisor = queue.job(waiting).supervisor.pid
    assert lives(supervisor)
    limits = queue.program.parent.parent / "queue.json"
    text = limits.read_text()
    limits.write_text("{")
    queue.run("cancel", waiting)
    until(lambda: not lives(supervisor))
    limits.write_text(text)
    assert queue.states(waiting) == ["CANCELLED"]


def test_a_queue_takes_so_many_jobs_and_says_so(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(queue.here)
    monkeypatch.setattr(gateway.localqueue.jobs, "MOST_JOBS", 1)
    queue.submit("sleep 60")
    with pytest.raises(Refused, match="1 jobs wait or run here already"):
        submit(queue.spool, queue.program, "#!/bin/sh\n", Request("n", 60, cores=1, memory=100))
    queue.run("stop")
    submit(queue.spool, queue.program, "#!/bin/sh\n", Request("n", 60, cores=1, memory=100))


def test_a_spool_that_is_open_to_others_is_not_used(queue: Queue) -> None:
    queue.script("true")
    (queue.program.parent.parent / "spool").chmod(0o750)
    done = queue.run("submit", "./script")
    assert (done.status, done.stdout) == (75, "")
    assert "must be a directory of this account with the mode 0700" in done.stderr


def test_jobs_are_forgotten_an_hour_after_their_end_and_ids_are_not_used_again(queue: Queue) -> None:
    job_id = queue.submit("true")
    until(lambda: queue.states(job_id) == ["COMPLETED"])
    with queue.spool.locked():
        queue.spool.change(queue.spool.jobs()[0], changed=time.time() - KEPT - 1)
    assert queue.run("how", job_id) == Completed(0, '{"end": 0}\n')
    assert queue.run("cancel", job_id) == Completed(0)
    assert queue.submit("true") == "2"


# --- the end ------------------------------------------------------------------------------------------------

#: Leaves its parent, its session and its environment, and does not listen to TERM.
RUNAWAY = "setsid sh -c 'trap \"\" TERM; echo $$ >>pids; (env -i sleep 61 & echo $! >>pids); sleep 62' & "


def test_cancel_ends_every_process_of_a_job_wherever_it_went(queue: Queue) -> None:
    job_id = queue.submit(f"{RUNAWAY} echo $$ >>pids; sleep 60")
    pids = queue.pids(3)
    assert queue.run("cancel", job_id) == Completed(0)
    assert queue.states(job_id) == ["ENDING"]
    until(lambda: queue.states(job_id) == ["CANCELLED"])
    assert not any(map(lives, pids))
    assert "the job was cancelled" in queue.read("log")


def test_a_cancel_that_was_killed_half_way_can_be_repeated(queue: Queue) -> None:
    job_id = queue.submit("sleep 60")
    until(lambda: queue.states(job_id) == ["RUNNING"])
    with queue.spool.locked():
        job = queue.spool.jobs()[0]
        queue.spool.change(job, state=State.ENDING, ending=State.CANCELLED)
    assert queue.run("cancel", job_id) == Completed(0)
    until(lambda: queue.states(job_id) == ["CANCELLED"])


def test_a_job_that_has_filled_the_disk_can_be_cancelled(queue: Queue) -> None:
    job_id = queue.submit("echo $$ >pids; sleep 60")
    pids = queue.pids(1)
    words = ["/bin/sh", "-c", 'ulimit -f 0; exec "$0" cancel 1', str(queue.program)]  # no file may grow
    assert subprocess.run(words, timeout=20, check=False).returncode == 0
    until(lambda: queue.states(job_id) == ["CANCELLED"])
    assert not any(map(lives, pids))


def test_a_supervisor_that_can_open_no_file_ends_its_job_all_the_same(queue: Queue) -> None:
    """And as long as it cannot, the job has not ended."""
    job_id = queue.submit("(env -i setsid sleep 61 & echo $! >>pids); echo $$ >>pids; sleep 60")
    pids = queue.pids(2)
    supervisor = queue.job(job_id).supervisor.pid
    limits = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, limits[1]))
    assert queue.run("cancel", job_id) == Completed(0)
    time.sleep(1)
    assert queue.states(job_id) == ["ENDING"]
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, limits)
    until(lambda: queue.states(job_id) == ["CANCELLED"])
    assert not any(map(lives, pids))


def test_a_script_that_ends_takes_with_it_what_it_started(queue: Queue) -> None:
    job_id = queue.submit("setsid sleep 60 & echo $! >>pids")
    until(lambda: queue.states(job_id) == ["COMPLETED"])
    assert not lives(queue.pids(1)[0])


def test_a_supervisor_that_is_killed_is_noticed_and_nothing_goes_on_without_it(queue: Queue) -> None:
    job_id = queue.submit(f"{RUNAWAY} echo $$ >>pids; sleep 60", cores=2)
    waiting = queue.submit("sleep 60", cores=2)
    pids = queue.pids(3)
    os.kill(queue.job(job_id).supervisor.pid, signal.SIGKILL)
    until(lambda: queue.states(job_id) == ["FAILED"])
    assert queue.how(job_id)["reason"] == "SupervisorDied"
    assert not any(map(lives, pids))
    until(lambda: queue.states(waiting) == ["RUNNING"])


def test_a_submit_that_is_killed_anywhere_leaves_a_whole_job_or_none(queue: Queue) -> None:
    queue.script("echo $GATEWAY_JOB >>ran")
    for step in range(16):
        with subprocess.Popen(
            [str(queue.program), "submit", "./script"], cwd=queue.here, stdout=subprocess.DEVNULL
        ) as submitter:
            time.sleep(0.02 + step * 0.006)
            submitter.kill()
    queue.submit("echo $GATEWAY_JOB >>ran")

    def jobs() -> list[Job]:
        with queue.spool.locked():
            return queue.spool.refresh()

    until(lambda: all(job.state.ended for job in jobs()))
    assert {job.state for job in jobs()} == {State.COMPLETED}
    assert sorted(map(int, queue.read("ran").split())) == [job.id for job in jobs()]


def test_the_walltime_is_warned_of_and_then_ends_the_job(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a script a walltime is in minutes."""
    monkeypatch.chdir(queue.here)
    script = "#!/bin/sh\ntrap 'echo warned; date +%s.%N' USR1; while :; do sleep 0.1; done"
    request = Request("n", walltime=2.4, cores=1, memory=100, warning=1.4)
    began = time.time()
    job_id = str(submit(queue.spool, queue.program, script, request).id)
    until(lambda: queue.states(job_id) == ["TIMEOUT"])
    assert time.time() - began >= 2.4
    first, warned, second = queue.read("log").splitlines()
    assert first == "warned"
    assert float(warned) - began >= 1.0
    assert second.endswith("the walltime is used up")


EATS = "x = bytearray(80 << 20); import time; time.sleep(60)"
#: Five processes with the same 40 MB.
SHARES = """
import os, time
x = bytearray(40 << 20)
for _ in range(4):
    os.fork() or time.sleep(60)
time.sleep(60)
"""


def test_a_job_that_uses_more_memory_than_it_asked_for_is_ended(queue: Queue) -> None:
    shares = queue.submit(f"exec {sys.executable} -ISc '{SHARES}'", memory=120)
    eats = queue.submit(f"exec {sys.executable} -ISc '{EATS}'", memory=60)
    until(lambda: queue.states(eats) == ["OUT_OF_MEMORY"])
    assert "more than 60 MB of memory in use" in queue.read("log")
    time.sleep(1)
    assert queue.states(shares) == ["RUNNING"]


# --- the whole way ------------------------------------------------------------------------------------------

RUN, ID = "0123456789abcdef", "abcdefgh23"
APPLICATION = """
import socket, sys, time
said = dict(word.split("=", 1) for word in sys.argv if "=" in word)
listener = socket.create_server((said["--ServerApp.ip"], int(said["--ServerApp.port"])))
time.sleep(60)
"""
INSTALL = """
import sys
from pathlib import Path
sys.path.append(sys.argv[1])
from gateway.localqueue import install
install(Path(sys.argv[2]), sys.executable)
"""


@dataclass
class Machine:
    """A queue of an unprivileged account, reached through the launcher."""

    root: Path
    user: str
    in_front: tuple[str, ...]

    @property
    def python(self) -> str:
        """Return a Python that this account can run: the tests' own may be where only root can go."""
        new = "import sys; sys.exit(sys.version_info < (3, 11))"
        for path in (str(Path(sys.executable).resolve()), "/usr/bin/python3"):
            if self.run("/bin/sh", "-c", '"$0" -ISc "$1"', path, new).status == 0:
                return path
        pytest.skip("needs a Python 3.11 that other accounts can run")

    def run(self, *words: str, stdin: bytes = b"") -> Completed:
        argv = [*self.in_front, *words]
        done = subprocess.run(
            argv, input=stdin, capture_output=True, env={"HOME": str(self.root)}, timeout=60, check=False
        )
        return Completed(done.returncode, done.stdout.decode(), done.stderr.decode())

    def launch(self, verb: str, *items: tuple[str, bytes]) -> Completed:
        state = ("statedir", f"{self.root}/state".encode())
        text = sections([state, *items] if verb != "run" else items)
        return self.run("/bin/sh", "-c", launcher_text(), "gateway-launcher", verb, ID, stdin=text)

    def schedule(self, verb: str, command: Command, *items: tuple[str, bytes]) -> Completed:
        words = [("word", word.encode()) for word in command.words]
        bins = [("bin", f"{self.root}/queue/bin".encode()), ("limit", b"20")]
        exited = read_exited(self.launch(verb, *bins, *words, *items))
        assert exited
        return exited

    def status(self) -> JobStatus:
        asked, mark = [Asked(f"gw-inst22-{ID}", self.user)], "0" * 16
        (command,) = Local().status_commands(asked, mark)
        listing = Local().read_status([self.schedule("run", command)], asked, mark)
        (job,) = listing.named(f"gw-inst22-{ID}", self.user)
        return job


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    user, words = request.getfixturevalue("in_front")
    with tempfile.TemporaryDirectory(prefix="queue-") as name:
        root = Path(name)
        made = Machine(root, user, words)
        package = Path(gateway.localqueue.__file__).parent
        shutil.copytree(
            package, root / "code/gateway/localqueue", ignore=shutil.ignore_patterns("__pycache__")
        )
        if os.getuid() == 0:
            shutil.chown(root, 54321, 54321)
        done = made.run(made.python, "-ISc", INSTALL, f"{root}/code", f"{root}/queue")
        assert done.status == 0, done.stderr
        yield made
        assert made.run(f"{root}/queue/bin/gateway-queue", "stop").status == 0


@pytest.mark.skipif(os.getuid() != 0, reason="needs to mount /proc")
def test_where_the_processes_of_others_are_hidden_a_job_ends_whole(machine: Machine) -> None:
    mount = 'mount -t proc -o hidepid=1 proc /proc && exec "$@"'
    hidden = replace(
        machine, in_front=("unshare", "--mount", "/bin/sh", "-c", mount, "sh", *machine.in_front)
    )
    if hidden.run("cat", "/proc/1/stat").status == 0:
        pytest.skip("this system does not hide processes")
    program, pids = f"{machine.root}/queue/bin/gateway-queue", machine.root / "pids"
    asks = "".join(f"#GATEWAY {word}\n" for word in ("name=n", "walltime=5", "cores=1", "memory=100"))
    body = f"(env -i setsid sleep 61 & echo $! >>{pids}); echo $$ >>{pids}; sleep 60\n"
    (machine.root / "script").write_text(f"#!/bin/sh\n{asks}{body}")
    submit_there = ("/bin/sh", "-c", 'cd "$1" && exec "$0" submit script', program, str(machine.root))
    assert hidden.run(*submit_there) == Completed(0, "1\n")
    until(lambda: pids.exists() and pids.read_text().count("\n") == 2)
    assert hidden.run(program, "cancel", "1").status == 0
    until(lambda: '"CANCELLED"' in hidden.run(program, "how", "1").stdout)
    assert not any(lives(int(pid)) for pid in pids.read_text().split())


def test_a_rendered_script_goes_the_whole_way_through_the_launcher(machine: Machine) -> None:
    ports = free_range()
    (machine.root / "application.py").write_text(APPLICATION)
    site = parse_site_config(
        f"""
version: 1
name: here
title: Here
scheduler: local
login: {{hosts: [h], user: svc, key: /k, known_hosts: /h, act_as: service, bin: {machine.root}/queue/bin}}
tunnel: {{ports: {ports[0]}-{ports[1]}}}
partitions: [{{name: all, max_walltime: 10m, max_memory: 1G}}]
applications:
  - {{name: lab, title: Stub, command: [{machine.python}, -IS, {machine.root}/application.py]}}
""",
        "here.yaml",
    )
    site = site.model_copy(
        update={"login": site.login.model_copy(update={"state_dir": f"{machine.root}/state"})}
    )
    facts = JobFacts("inst22", ID, RUN, machine.user, "", "/user/alice/", node_tls=True)
    script = render_script(site, Choices("here", "lab", "all", 5, 1, 200), facts)
    scheduler = Local()
    submitted = machine.schedule("submit", scheduler.submit_command(), ("file:script", script.encode()))
    job_id = scheduler.read_submit(submitted)

    until(lambda: machine.status().comment)
    job = machine.status()
    assert (job.job_id, job.state) == (job_id, JobState.RUNNING)
    assert job.ends
    (command,) = scheduler.discovery_commands("inst22", "0" * 16)
    survey = scheduler.read_discovery([machine.schedule("run", command)], "inst22", "0" * 16)
    assert survey.ours == (job,)
    (room,) = survey.rooms
    assert room.cores == (room.free_cores or 0) + 1
    endpoint = parse(job.comment, run=RUN, restarts=0, host=job.host, ports=ports)
    assert endpoint
    assert endpoint.host == "localhost"
    listening = {
        line.split()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()
        if line.split()[1].endswith(f":{endpoint.port:04X}") and line.split()[3] == "0A"
    }
    assert listening == {f"0100007F:{endpoint.port:04X}"}  # 127.0.0.1 alone

    scheduler.read_cancel(machine.schedule("run", scheduler.cancel_command(job_id)))
    until(lambda: machine.status().state is JobState.CANCELLED)
    ended = Asked(job.name, job.user, job_id)
    how = scheduler.read_accounting(machine.schedule("run", scheduler.accounting_command(ended)), ended)
    assert how
    assert how.state is JobState.CANCELLED
    left = read_files(machine.launch("read", ("name", b"exit"), ("name", b"log")))
    assert left
    assert read_exit(left["exit"]) == Exit(143, ExitWord.TERMINATED, 0)
    assert f"listening on localhost:{endpoint.port}" in left["log"]

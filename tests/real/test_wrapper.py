"""The wrapper in a job script, run for real by dash and bash, with a stub application and a stub Slurm."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from gateway.endpoint import parse
from gateway.launcher import relay_files
from gateway.model import Choices, Endpoint
from gateway.pki import Authority, self_signed
from gateway.script import Exit, ExitWord, JobFacts, read_exit, render_script
from gateway.siteconfig import Application, parse_site_config
from tests.processes import lives

RUN = "0123456789abcdef"
SHELLS = [shell for shell in ("dash", "bash") if shutil.which(shell)]
LIMIT = 20.0

#: Listens as Jupyter would, and does what its first arguments say.
APPLICATION = """
import os, pathlib, signal, socket, subprocess, sys, time
here, how = pathlib.Path(sys.argv[1]), sys.argv[2]
port = int(next(a for a in sys.argv if a.startswith("--ServerApp.port=")).split("=")[1])
(here / "environ").write_text("\\n".join(f"{k}={v}" for k, v in os.environ.items()))
(here / "ignored").write_text(next(l for l in open("/proc/self/status") if l.startswith("SigIgn")).split()[1])
if how == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "300"])
(here / "pids").write_text(f"{os.getpid()} {child.pid}")
with open(here / "started", "a") as file:
    print(port, file=file, flush=True)
if how == "dies":
    child.kill()
    sys.exit(3)
if how == "slow" and len((here / "started").read_text().split()) == 1:
    time.sleep(1.5)
LISTEN = f"import socket, time; s = socket.create_server(('0.0.0.0', {port})); time.sleep(300)"
if how == "child":  # a container's own session and environment
    subprocess.Popen([sys.executable, "-IS", "-c", LISTEN], env={}, start_new_session=True)
elif how == "daemon":  # not in our family any more
    start = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)"
    subprocess.run([sys.executable, "-IS", "-c", start, sys.executable, "-IS", "-c", LISTEN])
elif how == "both":  # right after each other, as servers do that listen on all addresses of a name
    listeners = [socket.socket(family) for family in (socket.AF_INET, socket.AF_INET6)]
    listeners[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    for listener, address in zip(listeners, ("0.0.0.0", "::")):
        listener.bind((address, port))
    for listener in listeners:
        listener.listen()
elif how != "mute":
    listener = socket.create_server(("127.0.0.1" if "--local" in sys.argv else "0.0.0.0", port))
while how != "finishes" or not (here / "comment").exists():
    time.sleep(0.05)
"""
SQUEUE = '#!/bin/sh\ncat "${0%/*}/../comment" 2>/dev/null || echo "(null)"\n'
SCONTROL = """#!/bin/sh
[ ! -e "${0%/*}/../refuse" ] || exit 1
[ "$1 $2" = 'update JobId=7' ] || exit 1
printf '%s\\n' "${3#Comment=}" >>"${0%/*}/../said"
printf '%s\\n' "${3#Comment=}" >"${0%/*}/../comment.new" && mv "${0%/*}/../comment.new" "${0%/*}/../comment"
"""


@dataclass
class Job:
    """A job script as Slurm would run it."""

    home: Path
    shell: str
    ports: tuple[int, int]
    how: str = "serves"
    requeue: bool = False
    restarts: int = 0
    site_shell: str = "/bin/sh"
    callback_url: str = ""
    tls: str = "jupyter"
    files: dict[str, str] = field(default_factory=dict)
    faster: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def state(self) -> Path:
        return self.home / ".gateway" / "abcdefghij"

    def start(self) -> Job:
        (self.home / "bin").mkdir(exist_ok=True)
        for name, text in (("squeue", SQUEUE), ("scontrol", SCONTROL)):
            (self.home / "bin" / name).write_text(text)
            (self.home / "bin" / name).chmod(0o700)
        (self.home / "application.py").write_text(APPLICATION)
        self.state.mkdir(parents=True, exist_ok=True)
        for name in ("token", "key.pem", "cert.pem"):
            (self.state / name).write_text("SECRET")
        (self.state / "callback").write_text("Authorization: Bearer 5ec2e7\n")
        for name, text in self.files.items():
            (self.state / name).write_text(text)
        text = self.script()
        for old, new in self.faster.items():
            assert old in text
            text = text.replace(old, new)
        (self.state / "script").write_text(text)
        self.process = self._run()
        return self

    def script(self) -> str:
        more = ', --local, "--ServerApp.port={port}"' if self.tls == "relay" else ""
        site = parse_site_config(
            f"""
version: 1
name: lab
title: The lab
scheduler: slurm
login: {{hosts: [l], user: svc, key: /k, known_hosts: /h, act_as: sudo, bin: {self.home}/bin}}
tunnel: {{ports: {self.ports[0]}-{self.ports[1]}}}
partitions: [{{name: short, max_walltime: 10m, max_memory: 1G}}]
applications:
  - name: lab
    title: Stub
    command: [{sys.executable}, -IS, {self.home}/application.py, {self.home}, {self.how}{more}]
    tls: {self.tls}
    prologue: "export FROM_PROLOGUE=\\"it's $HOME\\""
    shell: {self.site_shell}
    requeue: {str(self.requeue).lower()}
""",
            "lab.yaml",
        )
        facts = JobFacts(
            "inst22",
            "abcdefghij",
            RUN,
            "alice",
            "",
            "/user/alice/",
            node_tls=True,
            callback_url=self.callback_url,
        )
        return render_script(site, Choices("lab", "lab", "short", 5, 1, 100), facts)

    def _run(self) -> subprocess.Popen[bytes]:
        environment = {
            "HOME": str(self.home),
            "PATH": f"{self.home}/path:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURMD_NODENAME": "cn1",
            "SUDO_COMMAND": "/usr/local/sbin/gateway-launcher",
        }
        if self.restarts:
            environment["SLURM_RESTART_COUNT"] = str(self.restarts)
        with (self.state / "log").open("ab") as log:
            return subprocess.Popen(
                [self.shell, "./script"],
                cwd=self.state,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    # --- what can be seen -----------------------------------------------------------------------------

    def comment(self) -> str:
        return self._read("comment")

    def started(self) -> list[int]:
        return [int(port) for port in self._read("started").split()]

    def environ(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self._read("environ").split("\n"))

    def pids(self) -> list[int]:
        return [int(pid) for pid in self._read("pids").split()]

    def _read(self, name: str) -> str:
        path = self.home / name
        return path.read_text() if path.exists() else ""

    def endpoint(self) -> Endpoint | None:
        return parse(self.comment(), run=RUN, restarts=self.restarts, host="cn1", ports=self.ports)

    def published(self) -> Endpoint:
        until(lambda: self.endpoint() is not None, self)
        endpoint = self.endpoint()
        assert endpoint
        return endpoint

    # --- what can be done -----------------------------------------------------------------------------

    def kill(self, number: int) -> None:
        assert self.process
        os.kill(self.process.pid, number)

    def ended(self) -> Exit | None:
        assert self.process
        self.process.wait(LIMIT)
        return read_exit((self.state / "exit").read_text())

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.kill(signal.SIGTERM)
            self.process.wait(LIMIT)


def until(true: Callable[[], bool], job: Job) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, (job.state / "log").read_text()
        time.sleep(0.02)


def free_range() -> tuple[int, int]:
    """Return ten successive ports on which nobody listens."""
    listening = {
        int(line.split()[1].rpartition(":")[2], 16)
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().split("\n")[1:]
        if line.strip()
    }
    start = 20000 + os.getpid() % 900 * 10
    return next((p, p + 9) for p in range(start, 32000, 10) if not listening & set(range(p, p + 10)))


@pytest.fixture(params=SHELLS)
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path, request.param, free_range())
    yield made
    made.stop()


def test_it_publishes_where_the_application_listens(job: Job) -> None:
    (job.home / "comment").write_text("my own | text gw1:ffffffffffffffff:0:cn2:20001\n")
    endpoint = job.start().published()
    assert job.ports[0] <= endpoint.port <= job.ports[1]
    assert job.comment() == f"my own | text gw1:{RUN}:0:cn1:{endpoint.port}\n"
    socket.create_connection(("127.0.0.1", endpoint.port), 5).close()


def test_the_application_gets_a_clean_environment_and_the_prologue(job: Job) -> None:
    job.start().published()
    environ = job.environ()
    assert environ["JUPYTER_TOKEN_FILE"] == str(job.state / "token")
    assert environ["JUPYTER_RUNTIME_DIR"] == str(job.state / "runtime")
    assert environ["FROM_PROLOGUE"] == f"it's {job.home}"
    assert not [key for key in environ if key.startswith(("SUDO_", "gw_"))]
    assert environ["PWD"] == str(job.home)
    assert (job.state / "runtime").stat().st_mode & 0o777 == 0o700
    seen = "".join(environ.values()) + "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in job.pids())
    assert "SECRET" not in seen


def test_the_application_can_be_interrupted(job: Job) -> None:
    """A background command of a shell ignores INT and QUIT for ever; a kernel must not."""
    job.start().published()
    assert int(job._read("ignored"), 16) & (1 << signal.SIGINT - 1 | 1 << signal.SIGQUIT - 1) == 0


@pytest.mark.skipif("bash" not in SHELLS, reason="needs bash")
def test_an_old_env_program_is_made_up_for_by_bashs_job_control(tmp_path: Path) -> None:
    """RHEL 8 has coreutils 8.30, and bash as /bin/sh."""
    job = Job(tmp_path, "bash", free_range())
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "env").write_text("#!/bin/sh\nexit 125\n")
    (tmp_path / "path" / "env").chmod(0o700)
    try:
        job.start().published()
        assert int(job._read("ignored"), 16) & (1 << signal.SIGINT - 1) == 0
        job.kill(signal.SIGTERM)
        assert job.ended() == Exit(143, ExitWord.TERMINATED, 0)
        until(lambda: not any(map(lives, job.pids())), job)
    finally:
        job.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ending_the_job_ends_everything_and_leaves_no_secret(job: Job, number: int) -> None:
    job.start().published()
    job.kill(number)
    assert job.ended() == Exit(143, ExitWord.TERMINATED, 0)
    until(lambda: not any(map(lives, job.pids())), job)
    assert not {"token", "key.pem", "runtime", "exit.new"} & {path.name for path in job.state.iterdir()}


def test_the_warning_before_the_end_of_the_walltime_is_a_word_of_its_own(job: Job) -> None:
    job.start().published()
    job.kill(signal.SIGUSR1)
    assert job.ended() == Exit(0, ExitWord.WALLTIME, 0)
    until(lambda: not any(map(lives, job.pids())), job)


def test_an_application_that_does_not_listen_to_reason_is_killed(job: Job) -> None:
    job.how, job.faster = "stubborn", {"gw_left=40": "gw_left=3"}
    job.start().published()
    job.kill(signal.SIGTERM)
    assert job.ended() == Exit(143, ExitWord.TERMINATED, 0)
    until(lambda: not any(map(lives, job.pids())), job)


def test_the_end_is_noted_before_the_application_has_ended(job: Job) -> None:
    """The scheduler may kill the wrapper soon after its first signal."""
    job.how = "stubborn"
    job.start().published()
    job.kill(signal.SIGTERM)
    until((job.state / "exit").exists, job)
    assert all(map(lives, job.pids()))
    os.killpg(job.pids()[0], signal.SIGKILL)
    assert job.ended() == Exit(143, ExitWord.TERMINATED, 0)


def test_an_application_that_dies_before_it_listens_is_not_tried_again(job: Job) -> None:
    job.how = "dies"
    assert job.start().ended() == Exit(3, ExitWord.FAILED, 0)
    assert len(job.started()) == 1
    assert "gw1:" not in job.comment()


def test_an_application_that_ends_by_itself_has_finished(job: Job) -> None:
    job.how = "finishes"
    assert job.start().ended() == Exit(0, ExitWord.FINISHED, 0)
    assert len(job.started()) == 1
    until(lambda: not any(map(lives, job.pids())), job)


def test_an_application_that_never_listens_is_given_up(job: Job) -> None:
    job.how, job.faster = "mute", {"gw_left=3000": "gw_left=5"}
    assert job.start().ended() == Exit(1, ExitWord.SILENT, 0)
    until(lambda: not any(map(lives, job.pids())), job)


def test_ports_that_others_have_are_not_chosen(job: Job) -> None:
    taken = [socket.create_server(("127.0.0.1", port)) for port in range(job.ports[0], job.ports[1])]
    try:
        assert job.start().published().port == job.ports[1]
        assert job.started() == [job.ports[1]]
    finally:
        for listener in taken:
            listener.close()


def test_no_free_port_is_an_end_of_its_own(job: Job) -> None:
    taken = [socket.create_server(("127.0.0.1", port)) for port in range(job.ports[0], job.ports[1] + 1)]
    try:
        assert job.start().ended() == Exit(1, ExitWord.NO_PORT, 0)
    finally:
        for listener in taken:
            listener.close()


def test_a_port_lost_to_another_job_of_ones_own_is_not_kept(job: Job) -> None:
    """The other listener has the same uid: it is known by who has its socket."""
    job.how = "slow"
    job.start()
    until(lambda: bool(job.started()), job)
    port = job.started()[0]
    with socket.create_server(("0.0.0.0", port)):
        until(lambda: len(job.started()) > 1, job)
        until(lambda: (found := job.endpoint()) is not None and found.port == job.started()[-1] != port, job)
    socket.create_connection(("127.0.0.1", job.published().port), 5).close()
    assert f":{port}" not in job._read("said"), "not for a moment"


def test_where_nobody_sees_who_has_a_socket_it_is_known_by_outliving_the_application(job: Job) -> None:
    job.how = "slow"
    (job.home / "path").mkdir()
    (job.home / "path" / "ls").write_text("#!/bin/sh\nexit 2\n")
    (job.home / "path" / "ls").chmod(0o700)
    job.start()
    until(lambda: bool(job.started()), job)
    port = job.started()[0]
    with socket.create_server(("0.0.0.0", port)):
        until(lambda: (found := job.endpoint()) is not None and found.port == job.started()[-1] != port, job)


@pytest.mark.parametrize("how", ["child", "daemon"])
def test_a_server_that_the_application_starts_is_its_own(job: Job, how: str) -> None:
    job.how = how
    try:
        port = job.start().published().port
        assert job.started() == [port]
    finally:
        job.stop()
        for pid in [pid for port in job.started() for pid in holders(port)]:
            os.kill(pid, signal.SIGKILL)


def holders(port: int) -> list[int]:
    """Return the processes that were started to listen on a port."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"create_server(('0.0.0.0', {port}))" in (entry / "cmdline").read_text():
                found.append(int(entry.name))
    return found


def test_a_listener_on_both_address_families_is_not_published(job: Job) -> None:
    """It cannot be told which of them the traffic would reach."""
    job.how = "both"
    assert job.start().ended() == Exit(1, ExitWord.NO_PORT, 0)
    assert len(job.started()) == 5
    assert "gw1:" not in job.comment()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the thief has another uid")
@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_another_users_listener_is_never_published(job: Job, address: str) -> None:
    job.how = "slow"
    job.start()
    until(lambda: bool(job.started()), job)
    port = job.started()[0]
    thief = subprocess.Popen(
        ["/usr/bin/python3", "-ISc", THIEF, address, str(port)], user=65534, group=65534, extra_groups=[]
    )
    try:
        endpoint = job.published()
        assert endpoint.port == job.started()[-1] != port
        assert thief.poll() is None
    finally:
        thief.kill()
        thief.wait()


THIEF = """
import socket, sys, time
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
if ":" in sys.argv[1]:
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
s.bind((sys.argv[1], int(sys.argv[2])))
s.listen()
time.sleep(60)
"""


def test_a_scheduler_that_does_not_take_the_endpoint_is_asked_again(job: Job) -> None:
    job.faster = {"sleep 15": "sleep 0.1", "gw_left=20": "gw_left=2000"}
    (job.home / "refuse").touch()
    job.start()
    until(lambda: bool(job.started()), job)
    time.sleep(0.5)
    assert job.endpoint() is None
    (job.home / "refuse").unlink()
    assert job.published()


def test_a_healthy_application_goes_on_where_it_cannot_be_published_and_leaves_a_file(job: Job) -> None:
    job.faster = {"sleep 15": "sleep 0.1", "gw_left=20": "gw_left=3"}
    (job.home / "refuse").touch()
    job.start()
    until((job.state / "endpoint").exists, job)
    time.sleep(1)
    (port,) = job.started()
    assert (job.state / "endpoint").read_text() == f"gw1:{RUN}:0:cn1:{port}\n"
    assert (job.state / "endpoint").stat().st_mode & 0o777 == 0o600
    assert all(map(lives, job.pids()))
    assert 'it is in the file "endpoint"' in (job.state / "log").read_text()
    job.kill(signal.SIGTERM)
    assert job.ended() == Exit(143, ExitWord.TERMINATED, 0)
    assert not (job.state / "endpoint").exists()


def test_a_signal_does_not_wait_for_the_next_try_to_publish(job: Job) -> None:
    (job.home / "refuse").touch()
    job.start()
    until(lambda: "endpoint" in (job.state / "log").read_text(), job)
    begun = time.monotonic()
    job.kill(signal.SIGTERM)
    assert job.ended() == Exit(143, ExitWord.TERMINATED, 0)
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("way", ["curl", "python3"])
@pytest.mark.parametrize("answer", [204, 403])
def test_where_the_scheduler_does_not_take_it_the_gateway_is_told_the_port(
    job: Job, way: str, answer: int
) -> None:
    (job.home / "path").mkdir()
    if way == "python3":
        (job.home / "path" / "curl").write_text("#!/bin/sh\nexit 127\n")
        (job.home / "path" / "curl").chmod(0o700)
    (job.home / "refuse").touch()
    (job.home / ".curlrc").write_text("user-agent = FROM_CURLRC\n")
    with hub(job.home, answer) as (url, calls):
        job.callback_url = f"{url}/hub/api/callback/abcdefghij"
        job.state.mkdir(parents=True)
        shutil.copy(job.home / "hub.pem", job.state / "hub-ca.pem")
        job.start()
        until(lambda: "the scheduler did not take" in (job.state / "log").read_text(), job)
    call = calls[0]
    assert (call.path, call.body) == ("/hub/api/callback/abcdefghij", str(job.started()[0]))
    assert (call.proof, call.kind) == ("Bearer 5ec2e7", "text/plain")
    assert "FROM_CURLRC" not in call.agent
    told = f"the gateway was told port {job.started()[0]}"
    assert (told in (job.state / "log").read_text()) == (answer == 204)
    job.kill(signal.SIGTERM)
    job.ended()
    assert not (job.state / "callback").exists()
    assert "5ec2e7" not in (job.state / "log").read_text()


def test_nobody_is_told_who_cannot_show_that_it_is_the_gateway(job: Job) -> None:
    (job.home / "refuse").touch()
    with hub(job.home, 204) as (url, calls):
        job.callback_url = f"{url}/hub/api/callback/abcdefghij"
        job.start()
        until(lambda: 'it is in the file "endpoint"' in (job.state / "log").read_text(), job)
    assert not calls


@dataclass(frozen=True)
class Call:
    path: str
    proof: str
    kind: str
    agent: str
    body: str


@contextmanager
def hub(place: Path, answer: int) -> Iterator[tuple[str, list[Call]]]:
    """Listen as the gateway would, with the certificate hub.pem, and give one answer to all."""
    calls: list[Call] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            proof, kind, agent = (
                self.headers[k] or "" for k in ("Authorization", "Content-Type", "User-Agent")
            )
            calls.append(Call(self.path, proof, kind, agent, body))
            self.send_response(answer)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    (place / "hub.pem").write_bytes(self_signed(["localhost"], ["127.0.0.1"], timedelta(hours=1)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / "hub.pem")
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who does not trust us hangs up
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}", calls
        server.shutdown()


@pytest.mark.parametrize(("status", "seen"), [(99, 1), (100, 1), (98, 98)])
def test_no_exit_status_tells_grid_engine_to_run_the_job_again(job: Job, status: int, seen: int) -> None:
    job.how = "dies"
    job.start()
    assert job.process
    assert job.ended() == Exit(3, ExitWord.FAILED, 0)
    (job.home / "application.py").write_text(f"raise SystemExit({status})")
    job.process = job._run()
    assert job.ended() == Exit(status, ExitWord.FAILED, 0)
    assert job.process.returncode == seen


def test_a_requeued_job_starts_afresh_and_publishes_its_count(job: Job) -> None:
    job.requeue = True
    first = job.start().published()
    job.kill(signal.SIGTERM)
    assert job.ended() == Exit(143, ExitWord.TERMINATED, 0)
    assert {"token", "key.pem"} < {path.name for path in job.state.iterdir()}
    assert not (job.state / "runtime").exists()
    job.restarts = 1
    job.process = job._run()
    assert job.published().restarts == 1
    assert not (job.state / "exit").exists()
    assert f":0:cn1:{first.port}" not in job.comment()
    job.kill(signal.SIGTERM)
    assert job.ended() == Exit(143, ExitWord.TERMINATED, 1)


@pytest.mark.skipif("bash" not in SHELLS, reason="needs bash")
def test_the_prologue_runs_under_the_sites_shell(job: Job) -> None:
    job.site_shell = "/bin/bash -l"
    (job.home / ".bash_profile").write_text("export FROM_PROFILE=yes\necho noise\n")
    job.start().published()
    assert job.environ()["FROM_PROFILE"] == "yes"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("ca") / "ca")


@pytest.fixture
def relayed(job: Job, authority: Authority) -> Job:
    """A job of an application without TLS."""
    key, certificate = authority.issue("abcdefghij", datetime.now(UTC) + timedelta(days=1))
    job.tls = "relay"
    files = relay_files(Application(name="web", title="Web", command=("web",), tls="relay"))
    job.files = {name: data.decode() for name, data in files.items()}
    job.files |= {"key.pem": key, "cert.pem": certificate, "client-ca.pem": authority.client_ca.read_text()}
    return job


def relays(job: Job) -> list[list[str]]:
    """Return the arguments of the relays that run for a job."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_text().split("\0")
            if f"{job.state}/relay.py" in words:
                found.append(words[words.index(f"{job.state}/relay.py") + 1 :])
    return found


def test_an_application_without_tls_is_published_by_its_relay(relayed: Job, authority: Authority) -> None:
    port = relayed.start().published().port
    assert relayed.started() != [port]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.node_ca)
    context.load_cert_chain(authority.client_pem)
    with socket.create_connection(("127.0.0.1", port), 5) as plain:
        with context.wrap_socket(plain, server_hostname="abcdefghij.servers.gateway"):
            pass
    ((state, _, _, path, private, *_),) = relays(relayed)
    assert (state, path) == (str(relayed.state), "/user/alice/")
    assert Path(private).stat().st_mode & 0o777 == 0o700
    assert relayed.environ()["JUPYTER_TOKEN_FILE"] == f"{relayed.state}/token"
    relayed.kill(signal.SIGTERM)
    assert relayed.ended() == Exit(143, ExitWord.TERMINATED, 0)
    until(lambda: not any(map(lives, relayed.pids())) and not relays(relayed), relayed)
    assert not Path(private).exists()
    assert not {"token", "key.pem"} & {path.name for path in relayed.state.iterdir()}


def test_an_application_without_tls_ends_as_it_ends(relayed: Job) -> None:
    relayed.how = "dies"
    assert relayed.start().ended() == Exit(3, ExitWord.FAILED, 0)
    assert len(relayed.started()) == 1


def test_a_relay_that_has_lost_its_port_takes_another(relayed: Job) -> None:
    relayed.how = "slow"
    relayed.start()
    until(lambda: bool(relays(relayed)) and bool(relayed.started()), relayed)
    port = int(relays(relayed)[0][2])
    with socket.create_server(("0.0.0.0", port)):
        assert relayed.published().port != port
        assert len(relayed.started()) == 2
    assert f":{port}" not in relayed._read("said"), "not for a moment"


def test_a_removed_state_directory_does_not_hold_up_the_end(job: Job) -> None:
    job.start().published()
    shutil.rmtree(job.state)
    job.kill(signal.SIGTERM)
    assert job.process
    assert job.process.wait(LIMIT) == 143
    until(lambda: not any(map(lives, job.pids())), job)

"""The lab itself: what the other live tests take for granted."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.__main__ import main
from tests.lab.directory import BASE
from tests.lab.nodes import LabError, processes, wait_until

LAB_PYTHON = "/opt/gateway-lab/bin/python3"


def submit(lab: Lab, user: str, *words: str) -> str:
    argv = ["sbatch", "--parsable", "--export=NIL", "-t", "5", "-o", "out", *words]
    return lab.run("login", argv, user=user, check=True).stdout.strip()


def state_of(lab: Lab, job_id: str) -> str:
    return lab.run("login", ["squeue", "-h", "-t", "all", "-j", job_id, "-o", "%T"]).stdout.strip()


def connects(lab: Lab, node: str, user: str, host: str, port: int) -> str:
    """Return "open", or the error that a TCP connection from inside of a node meets."""
    program = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 3); print('open')\n"
        "except OSError as error: print(error.strerror)"
    )
    done = lab.run(node, [LAB_PYTHON, "-c", program, host, str(port)], user=user, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("node", ["cn1", "cn2"])
def test_a_users_job_runs_on_the_compute_nodes(lab: Lab, node: str) -> None:
    job_id = submit(lab, "alice", "-w", node, "--wrap", "hostname; id -Gn")
    wait_until(lambda: state_of(lab, job_id) == "COMPLETED", "the job completes", 20)
    assert lab.run(node, ["cat", "out"], user="alice").stdout == f"{node}\nalice cluster\n"


def test_the_hub_reaches_the_login_nodes_sshd_and_nothing_else(lab: Lab) -> None:
    assert connects(lab, "hub", "gateway", "login", 22) == "open"
    for host in ("10.78.0.1", "10.78.0.11", "10.78.0.12", "192.0.2.1"):
        assert connects(lab, "hub", "gateway", host, 22) == "Network is unreachable"
    for port in (6817, 6818, 80):
        assert connects(lab, "hub", "gateway", "login", port) == "Connection refused"
    assert connects(lab, "login", "svc", "cn1", 6818) == "open"


def test_the_service_account_acts_through_the_launcher_only(lab: Lab) -> None:
    assert lab.install_launcher()
    refused = "sudo: a password is required\n"
    assert lab.run("login", ["sudo", "-n", "-u", "alice", "id"], user="svc").stderr == refused
    for outsider in ("root", "dave"):
        words = ["sudo", "-n", "-u", outsider, "/usr/local/sbin/gateway-launcher", "version"]
        assert lab.run("login", words, user="svc").stderr == refused
    words = ["sudo", "-n", "-H", "-u", "alice", "/usr/local/sbin/gateway-launcher", "version"]
    assert lab.run("login", words, user="svc").returncode == 0


def ssh(lab: Lab, user: str, key: str, *words: str) -> tuple[int, str]:
    trust = "-oUserKnownHostsFile=/etc/gateway/ssh/known_hosts"
    options = ["-F/dev/null", "-oBatchMode=yes", "-oStrictHostKeyChecking=yes", trust]
    argv = ["ssh", *options, "-i", f"/etc/gateway/ssh/{key}", f"{user}@login", *words]
    done = lab.run("hub", argv, user="gateway")
    return done.returncode, done.stdout + done.stderr


def test_the_gateways_keys_open_the_login_node(lab: Lab) -> None:
    assert ssh(lab, "svc", "svc", "id", "-un") == (0, "svc\n")
    assert ssh(lab, "svc-tunnel", "tunnel", "id", "-un") == (0, "")
    assert ssh(lab, "svc", "tunnel", "true")[0] == 255


def test_a_changed_host_key_is_refused_until_it_is_trusted(lab: Lab) -> None:
    lab.change_host_key()
    status, said = ssh(lab, "svc", "svc", "true")
    assert status == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in said
    lab.trust_host_key()
    assert ssh(lab, "svc", "svc", "true")[0] == 0


def test_people_bind_to_the_directory_with_their_own_passwords(lab: Lab) -> None:
    def whoami(password: str) -> str:
        words = ["ldapwhoami", "-x", "-H", "ldaps://ldap.lab", "-D", f"uid=alice,ou=people,{BASE}", "-y"]
        trust = {"LDAPTLS_CACERT": "/etc/gateway/ca.pem"}
        argv = ["sh", "-c", 'umask 077; printf %s "$0" >~/.p; "$@" ~/.p; rm ~/.p', password, *words]
        return lab.run("hub", argv, user="gateway", env=trust).stdout

    assert whoami(lab.passwords["alice"]) == f"dn:uid=alice,ou=people,{BASE}\n"
    assert whoami(lab.passwords["bob"]) == ""


def test_another_user_of_the_hub_sees_nothing_of_the_gateway(lab: Lab) -> None:
    for path in ("/etc/gateway", "/run/gateway", "/var/lib/gateway", str(lab.state)):
        assert lab.run("hub", ["ls", path], user="mallory").returncode != 0


def test_a_read_only_home_is_read_only_everywhere(lab: Lab) -> None:
    for node in ("login", "cn1", "cn2"):
        assert "Read-only file system" in lab.run(node, ["touch", "x"], user="rory").stderr


def test_jupyterlabs_kernels_start_on_a_compute_node(lab: Lab) -> None:
    program = (
        "from jupyter_client.manager import start_new_kernel\n"
        "manager, client = start_new_kernel(kernel_name='python3')\n"
        "client.execute_interactive('import socket; print(socket.gethostname())', timeout=20)\n"
        "manager.shutdown_kernel(now=True)"
    )
    done = lab.run("cn1", [LAB_PYTHON, "-c", program], user="alice", timeout=60, check=True)
    assert done.stdout == "cn1\n"
    assert lab.run("cn1", [LAB_PYTHON, "-m", "jupyterlab", "--version"], user="tess").returncode == 0


def test_a_requeued_job_runs_again_at_once(lab: Lab) -> None:
    job_id = submit(lab, "bob", "--requeue", "--wrap", "sleep 600")
    wait_until(lambda: state_of(lab, job_id) == "RUNNING", "the job runs", 20)
    lab.requeue(job_id)
    wait_until(lambda: state_of(lab, job_id) == "RUNNING", "the job runs again", 20)
    lab.clear_jobs()
    assert state_of(lab, job_id) in ("CANCELLED", "")


def test_the_machine_reaches_the_gateways_port_on_the_hub(lab: Lab) -> None:
    lab.end_gateway_processes()  # a test before may have left it running; whoever needs it starts it again
    words = [LAB_PYTHON, "-m", "http.server", "--bind", "127.0.0.1", "--directory", "/etc/ldap/schema"]
    with lab.popen("hub", [*words, str(lab.port)], user="mallory", stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: lab.hub.listens(lab.port), "the server listens")
            body = urllib.request.urlopen(f"http://127.0.0.1:{lab.port}/core.schema", timeout=5).read()
        finally:
            server.kill()
    assert body == Path("/etc/ldap/schema/core.schema").read_bytes()


def test_a_daemon_can_be_killed_frozen_and_started_again(lab: Lab) -> None:
    before = lab.slurmctld.pid
    lab.slurmctld.freeze()
    with pytest.raises(subprocess.TimeoutExpired):
        lab.run("login", ["sinfo"], timeout=1)
    lab.slurmctld.thaw()
    lab.slurmctld.stop(signal.SIGKILL)
    assert lab.slurmctld.pid is None
    lab.slurmctld.start()
    assert lab.slurmctld.pid not in (None, before)


def test_the_command_line_leaves_a_whole_gateway_and_says_where_it_is(lab: Lab, tmp_path: Path) -> None:
    written = tmp_path / "lab.env"
    assert main(["up", "--gateway", "--state", str(tmp_path / "state"), "--env", str(written)]) == 0
    try:
        said = dict(line.split("=", 1) for line in written.read_text().splitlines())
        assert written.stat().st_mode & 0o777 == 0o600
        assert {"GATEWAY_CA", "LAB_STATE", "PASSWORD_alice", "PASSWORD_carol"} <= said.keys()
        context = ssl.create_default_context(cafile=said["GATEWAY_CA"])
        port = int(said["GATEWAY_URL"].rstrip("/").rpartition(":")[2])
        with closing(socket.create_connection(("127.0.0.1", port), 5)) as plain:
            with context.wrap_socket(plain, server_hostname="gw.localhost") as secured:
                token = said["GATEWAY_ADMIN_TOKEN"]
                lines = ("GET /hub/api/user HTTP/1.0", "Host: gw.localhost", f"Authorization: token {token}")
                secured.sendall("\r\n".join((*lines, "", "")).encode())
                answer = b"".join(iter(lambda: secured.recv(65536), b""))
        assert b'"name": "carol", "admin": true' in answer
        assert main(["up", "--state", str(tmp_path / "second"), "--env", str(written)]) == 1
    finally:
        assert main(["down", "--env", str(written)]) == 0
    assert not written.exists()
    assert not (tmp_path / "state").exists()


def test_two_labs_stand_side_by_side_and_one_goes_without_a_trace(lab: Lab) -> None:
    began = time.monotonic()
    with Lab.up() as other:
        print(f"up in {time.monotonic() - began:.2f} s")
        assert other.port != lab.port
        job_id = submit(other, "alice", "--wrap", "sleep 600")
        wait_until(lambda: state_of(other, job_id) == "RUNNING", "the job runs", 20)
        leftover = other.popen("login", ["sh", "-c", "trap '' TERM INT HUP; sleep 600"], user="bob")
        assert "sleep" not in lab.run("login", ["squeue"]).stdout
        began = time.monotonic()
    print(f"down in {time.monotonic() - began:.2f} s")
    assert leftover.wait(5) == -9
    assert list(processes(other.mark)) == []
    assert not other.state.exists()
    assert lab.run("login", ["sinfo", "-h", "-p", "debug", "-o", "%D"]).stdout.split() == ["2"]
    with pytest.raises(LabError, match="is gone"):
        other.run("hub", ["true"])


def test_a_lab_that_fails_to_come_up_leaves_nothing(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = []

    def fail(self: Lab) -> None:
        marks.append(self.mark)
        raise LabError("no directory today")

    monkeypatch.setattr(Lab, "_start_directory", fail)
    with pytest.raises(LabError, match="no directory today"):
        Lab.up(tmp_path / "state")
    assert list(processes(marks[0])) == []
    assert not (tmp_path / "state").exists()

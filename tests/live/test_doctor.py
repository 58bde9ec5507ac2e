"""``gateway doctor`` on a lab in which all is well, and with parts that hang."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab, gateway
from tests.lab.nodes import wait_until
from tests.live.faults.trial import Trial, faults_of

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
PHASES = ("submitted", "started", "published", "tunnelled", "answered", "cancelled", "gone")


@pytest.fixture
def trial(lab: Lab) -> Iterator[Trial]:
    trial = Trial(lab)
    yield trial
    trial.remove()


def jobs_of(lab: Lab, user: str) -> str:
    return lab.login.run(["squeue", "-h", "-u", user, "-o", "%i %j"], check=True).stdout


def files_of(lab: Lab, user: str) -> set[str]:
    """What servers have left in a user's home: that of earlier tests is there while their jobs end."""
    return {path.name for path in (lab.state / f"home/{user}/.gateway").glob("*")}


def test_all_is_well_in_the_lab_whose_hub_runs(gateway: Lab) -> None:
    begun = time.monotonic()
    done = gateway.gateway_command("doctor", "-f", "/etc/gateway/gateway_config.py", "--user", "alice")
    print(f"{time.monotonic() - begun:.1f} s: {done.stdout.splitlines()[-1]}")
    assert (done.returncode, faults_of(done.stderr)) == (0, [])
    assert "principal root" not in done.stderr
    lines = done.stdout.splitlines()
    bad = [line for line in lines[:-1] if not line.startswith(("ok      ", "skipped "))]
    assert bad == [], done.stdout
    assert any("is held by the gateway's own HAProxy" in line for line in lines)
    assert any(line.startswith("skipped labcert: root: ") for line in lines)
    assert any(line.startswith("ok      the tunnels' keeper runs: it is the hub") for line in lines)
    assert any(
        line == "ok      lab: forwarding: it leads to cn1, and is refused to login's own localhost"
        for line in lines
    )


def test_root_is_tried_at_a_cluster_that_is_named(gateway: Lab) -> None:
    done = gateway.gateway_command("doctor", "labcert", "-f", "/etc/gateway/gateway_config.py")
    assert 'id "gateway doctor labcert root", principal root' in done.stderr
    assert "ok      labcert: root: login refuses a certificate for root" in done.stdout.splitlines()


def test_a_job_goes_all_the_way_and_leaves_nothing_while_the_hub_runs(gateway: Lab) -> None:
    processes = {process.pid for process in gateway.gateway_processes()}
    files = files_of(gateway, "bob")
    words = ("doctor", "lab", "-f", "/etc/gateway/gateway_config.py", "--user", "bob", "--job", "--json")
    done = gateway.gateway_command(*words, timeout=150)
    found = json.loads(done.stdout)
    phases = {check["name"]: check for check in found["checks"] if ": job " in check["name"]}
    print(
        ", ".join(f"{name.partition(': job ')[2]} {check['seconds']:.2f} s" for name, check in phases.items())
    )
    assert [name.removeprefix("lab: job ") for name in phases] == list(PHASES)
    assert {check["status"] for check in phases.values()} == {"ok"}, phases
    assert set(found) == {"version", "ok", "seconds", "checks"}
    assert found["ok"] is True
    assert all(set(check) == {"name", "status", "seen", "mend", "seconds"} for check in found["checks"])
    assert jobs_of(gateway, "bob") == ""
    assert files_of(gateway, "bob") <= files
    assert {process.pid for process in gateway.gateway_processes()} == processes
    secret = (gateway.state / "hub/ldap-password").read_text().strip()
    assert secret not in done.stdout


@pytest.mark.parametrize(("name", "answers"), [("sge", "Grid Engine answers"), ("pbs", "PBS answers")])
def test_other_schedulers_are_examined_too(lab: Lab, name: str, answers: str) -> None:
    cluster = getattr(lab, name)
    cluster.start()
    try:
        words = ("doctor", f"lab{name}", "-f", "/etc/gateway/gateway_config.py", "--user", "alice")
        lines = lab.gateway_command(*words).stdout.splitlines()
    finally:
        (lab.state / f"hub/sites/lab{name}.yaml").unlink()  # for the tests of the other clusters
    ours = {
        line[8:].removeprefix(f"lab{name}: ").partition(": ")[0]: line
        for line in lines
        if f"lab{name}: " in line
    }
    assert answers in ours["scheduler"]
    # The replayed PBS has no daemon on its node.
    bad = [step for step, line in ours.items() if not line.startswith(("ok ", "skipped "))]
    assert set(bad) <= {"forwarding"}, lines
    assert ours["state directory"].startswith("ok ")


@pytest.mark.parametrize(("sent", "status"), SIGNALS)
def test_a_job_is_taken_away_if_it_is_interrupted(lab: Lab, trial: Trial, sent: int, status: int) -> None:
    trial.site = trial.site.replace(", -m, ipykernel]", ", -c, 'import time; time.sleep(60)']")
    trial.configure()
    files = files_of(lab, "alice")
    words = [gateway.PYTHON, "-m", "gateway.cli", "doctor", "-f", trial.config, "--job", "--user", "alice"]
    with lab.popen("hub", words, user="gateway", env={"PYTHONPATH": gateway.SOURCE}, stdout=-1) as doctor:
        wait_until(lambda: jobs_of(lab, "alice") != "", "the job is there", 30, 0.1)
        doctor.send_signal(sent)
        assert doctor.wait(40) == status
    wait_until(lambda: jobs_of(lab, "alice") == "", "the job is gone", 20, 0.1)
    wait_until(lambda: files_of(lab, "alice") <= files, "its files are gone", 10, 0.1)


@pytest.mark.parametrize(
    "hanging",
    [
        {"slapd": "directory TLS", "slurmctld": "lab: scheduler"},
        {"sshd": "lab: host key"},
    ],
    ids=" and ".join,
)
def test_parts_that_hang_are_named_within_some_seconds(
    lab: Lab, trial: Trial, hanging: dict[str, str]
) -> None:
    for name in hanging:
        lab.daemon(name).freeze()
    try:
        found = trial.doctor()
    finally:
        for name in hanging:
            lab.daemon(name).thaw()
    print(f"{found['seconds']:.1f} s")
    bad = [check["name"] for check in found["checks"] if check["status"] == "not ok"]
    assert bad == list(hanging.values())
    assert found["seconds"] < 15

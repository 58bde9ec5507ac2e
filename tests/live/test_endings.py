"""How servers end on real Slurm and Grid Engine, and what their owners are told: what happened, what next."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, gateway, sge
from tests.lab.nodes import wait_until
from tests.lab.staging import COMPUTE_NODES
from tests.live.calls import Admin

_APPLICATIONS = """\
  - {name: fails, title: It fails, command: [/srv/fails]}
  - {name: mute, title: It says nothing, command: [/srv/mute]}
  - {name: eats, title: It takes all memory, command: [/srv/eats]}
"""
#: What Grid Engine itself ends a job for: its resource for free memory is a promise only.
_LIMITED = "script: {resources: {memory: h_vmem}}\n"
_PROGRAMS = {
    "fails": "#!/bin/sh\necho 'no such module: numpy' >&2\nexit 3\n",
    "mute": "#!/bin/sh\nexec sleep 300\n",
    # Each of them has less than its limit: it is Grid Engine that adds up.
    "eats": "#!/bin/sh\n"
    + 3 * "python3 -c 'import time; taken = bytes(1) * 150_000_000; time.sleep(300)' &\n"
    + "wait\n",
}


@pytest.fixture(scope="module")
def admin(lab: Lab) -> Iterator[Admin]:
    """Run a gateway with small applications that end badly."""
    for name, text in _PROGRAMS.items():
        path = lab.state / "srv" / name
        path.write_text(text)
        path.chmod(0o755)
    lab.sge.start()
    lab.sge.write_site_config(sge.SITE_CONFIG + _APPLICATIONS + _LIMITED)
    lab.stop_gateway()
    lab.write_gateway_config(gateway.SITE_CONFIG + _APPLICATIONS)
    lab.start_gateway()
    try:
        yield Admin(lab)
    finally:
        lab.login.run(["scontrol", "update", "NodeName=cn2", "State=RESUME"])
        lab.stop_gateway()
        lab.sge.stop()
        lab.clear_jobs()
        lab.write_gateway_config()
        lab.start_gateway()


@pytest.fixture(scope="module")
def on_grid_engine(admin: Admin) -> dict[str, str]:
    """Servers on Grid Engine, by how they are to end: one takes a minute."""
    choices = {"cluster": "labsge", "partition": "short.q", "walltime": "5m", "gpus": "0"}
    special = {
        "walltime": {"walltime": "1m"},
        "memory": {"application": "eats", "memory": "300M"},
        "fails": {"application": "fails"},
    }
    return {
        name: admin.start("bob", name, **(choices | {"application": "mute"} | special.get(name, {})))
        for name in ("walltime", "memory", "fails", "deleted")
    }


def kill_application(lab: Lab, server_id: str) -> bool:
    """Kill a server's application as the kernel does when memory is short; return whether it was there."""
    for node in COMPUTE_NODES:
        for process in lab.nodes[node].processes("alice"):
            # the wrapper has a sleep of its own
            if process.argv == ("sleep", "300") and server_id in _environment(process.pid):
                process.kill(signal.SIGKILL)
                return True
    return False


def _environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


@pytest.mark.usefixtures("on_grid_engine")
def test_each_end_is_told_with_its_reason_and_the_next_step(lab: Lab, admin: Admin) -> None:
    choices = {"application": "mute", "memory": "50M", "walltime": "10m"}
    ids = {name: admin.start("alice", name, **choices) for name in ("cancelled", "killed")}
    ids["fails"] = admin.start("alice", "fails", **(choices | {"application": "fails"}))
    ids["node"] = admin.start("alice", "node", **(choices | {"partition": "gpu"}))
    rows = {name: admin.wait(ids[name], "starting") for name in ("cancelled", "killed", "node")}
    left = admin.call("GET", "/users/alice").json["servers"]["node"]["state"]
    assert 500 < left["seconds_left"] <= 600
    assert left["ends"]
    lab.login.run(["scancel", rows["cancelled"]["job_id"]], check=True)
    wait_until(lambda: kill_application(lab, ids["killed"]), "there is something to kill", 10)
    lab.login.run(["scontrol", "update", "NodeName=cn2", "State=DOWN", "Reason=test"], check=True)
    ended: dict[str, Any] = {name: admin.wait(server_id, "ended") for name, server_id in ids.items()}
    lab.login.run(["scontrol", "update", "NodeName=cn2", "State=RESUME"])  # it may be back by itself
    told = {name: (row["reason"], row["message"].partition("\n")[0]) for name, row in ended.items()}
    expected = {
        "cancelled": ("cancelled", "was cancelled on the cluster"),
        "killed": ("failed", "needed more memory"),
        "fails": ("failed", "failed with exit status 3"),
        "node": ("node-failed", "node that ran the job has failed"),
    }
    for name, (reason, words) in expected.items():
        assert told[name][0] == reason, told[name]
        assert words in told[name][1], told[name]
    assert "no such module: numpy" in ended["fails"]["message"]


def test_a_job_that_waits_says_why_its_place_and_what_is_in_its_way(lab: Lab, admin: Admin) -> None:
    words = ["scontrol", "create", "reservation", "ReservationName=downtime", "StartTime=now+60minutes"]
    words += ["Duration=120", "Nodes=ALL", "Users=root", "Flags=MAINT,IGNORE_JOBS"]
    lab.login.run(words, check=True)
    try:
        done = lab.gateway_command("reload", "-f", gateway.CONFIG)
        assert "lab: ok" in done.stdout, done.stdout + done.stderr
        server_id = admin.start(
            "alice", "waits", application="mute", memory="50M", partition="gpu", walltime="2h"
        )

        def message() -> str:
            return str(admin.row(server_id)["message"])

        wait_until(lambda: "downtime" in message(), "the downtime is named", 20, 0.2)
        assert message().startswith("2 h cannot start before"), message()
        assert " 50 min can." in message() or " 40 min can." in message(), message()
        assert admin.row(server_id)["native_reason"]
        admin.stop("alice", "waits")
        admin.wait(server_id, "ended")
    finally:
        lab.login.run(["scontrol", "delete", "ReservationName=downtime"], check=True)


def test_grid_engines_accounting_tells_what_has_ended_a_job(
    lab: Lab, admin: Admin, on_grid_engine: dict[str, str]
) -> None:
    """It has one number for all limits, and does not say who has deleted a job (8.1.9)."""
    deleted = admin.wait(on_grid_engine["deleted"], "starting")["job_id"]
    lab.sge.login.run(["qdel", deleted], check=True)
    rows = {name: admin.wait(server_id, "ended", 90) for name, server_id in on_grid_engine.items()}
    expected = {
        "walltime": ("walltime", "failed +37 .*", "exit_status +137 .*", "with a longer walltime"),
        "memory": ("out-of-memory", "failed +37 .*", "exit_status +137 .*", "Start again with more."),
        "fails": ("failed", "failed +0", "exit_status +3", "failed with exit status 3"),
        "deleted": ("cancelled", "failed +100 .*", "exit_status +137 .*", "was cancelled on the cluster"),
    }
    for name, (reason, failed, status, words) in expected.items():
        assert rows[name]["reason"] == reason, rows[name]["message"]
        assert words in rows[name]["message"], name
        told = lab.sge.login.run(["qacct", "-j", rows[name]["job_id"]], check=True).stdout
        assert "deleted_by" not in told
        for line in (failed, status):
            assert re.search(rf"^{line} *$", told, re.M), told

"""Where a server is, said in three ways, each with real JupyterLab; and every way of lying about it."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.lab import Lab, gateway
from tests.lab.accounts import BY_NAME
from tests.lab.nodes import wait_until
from tests.lab.staging import COMPUTE_NODES
from tests.live.callback import Calls, calling, told
from tests.live.calls import Admin
from tests.live.client import Person
from tests.live.lies import MUTE, install_mute

_BIN = "/srv/denying"
_SITE_CONFIG = gateway.SITE_CONFIG.replace(
    "act_as: sudo\n", f"act_as: sudo\n  callback: true\n  bin: {_BIN}\n", 1
)
_DENYING = """\
#!/bin/sh
[ "$1" != update ] || { echo 'slurm_update error: Access/permission denied' >&2; exit 1; }
exec /usr/bin/scontrol "$@"
"""
_PROGRAMS = ("sbatch", "squeue", "scancel", "sacct", "sinfo", "sacctmgr")


@pytest.fixture(scope="module")
def relays(lab: Lab) -> Iterator[Mapping[str, subprocess.Popen[Any]]]:
    """Run a gateway whose jobs may not change themselves, but may call."""
    srv = lab.state / "srv"
    (srv / "denying").mkdir()
    for name in _PROGRAMS:
        (srv / "denying" / name).symlink_to(f"/usr/bin/{name}")
    (srv / "denying/scontrol").write_text(_DENYING)
    (srv / "denying/scontrol").chmod(0o755)
    install_mute(lab)
    lab.stop_gateway()
    lab.write_gateway_config(_SITE_CONFIG + MUTE)
    try:
        with calling(lab, *COMPUTE_NODES) as running:
            lab.start_gateway()
            yield running
    finally:
        lab.stop_gateway()
        lab.clear_jobs()
        lab.write_gateway_config()
        lab.start_gateway()


@pytest.fixture(scope="module")
def admin(lab: Lab, relays: object) -> Admin:
    return Admin(lab)


def test_a_job_that_may_not_publish_calls_and_one_that_cannot_call_is_read(
    lab: Lab, admin: Admin, relays: Mapping[str, subprocess.Popen[Any]]
) -> None:
    relays["cn2"].kill()
    relays["cn2"].wait()
    people = {"file": Person(lab, "bob").login(), "callback": Person(lab, "alice").login()}
    ids = {"file": admin.start("bob", "work", memory="500M", partition="gpu")}  # which is cn2
    admin.wait(ids["file"], "starting")
    lab.login.run(["scontrol", "update", "NodeName=cn2", "State=DRAIN", "Reason=test"], check=True)
    ids["callback"] = admin.start("alice", "work", memory="500M")
    admin.wait(ids["callback"], "starting")
    lab.login.run(["scontrol", "update", "NodeName=cn2", "State=RESUME"], check=True)
    calls = Calls(lab)
    for way, server_id in reversed(ids.items()):
        row = admin.wait(server_id, "ready")
        assert row["host"] == ("cn1" if way == "callback" else "cn2")
        (said,) = told(admin, server_id)
        assert said.startswith("The job has called" if way == "callback" else "The job's endpoint file")
        shown = lab.login.run(["squeue", "-h", "-j", row["job_id"], "-o", "%k"], check=True)
        assert "gw1:" not in shown.stdout
        person = people[way]
        person.enter("work")
        assert person.call("GET", "api/status", server="work").status == 200
        assert calls.call(server_id, calls.proof(server_id, person.name), "20001") == 409
        admin.stop(person.name, "work")


#: What a job's owner may write into its comment: RUN and HOST stand for what is true.
_COMMENTS = {
    "wrong-run": "gw1:0123456789abcdef:0:HOST:20001",
    "wrong-restart": "gw1:RUN:1:HOST:20001",
    "wrong-host": "gw1:RUN:0:login:20001",
    "wrong-port": "gw1:RUN:0:HOST:6817",
    "no-port": "gw1:RUN:0:HOST:http",
    "true-then-false": "gw1:RUN:0:HOST:20001 gw1:RUN:0:login:20001",
}
#: What may stand at the place of the endpoint file.
_FILES = ("a-symlink", "of-another-user", "with-a-lie")


@pytest.fixture(scope="module")
def mute(lab: Lab, admin: Admin) -> Iterator[dict[str, dict[str, Any]]]:
    """Start a server for each lie, all at once; yield their rows when all are starting."""
    for node in ("debug", "short"):
        setting = [f"PartitionName={node}", "OverSubscribe=FORCE:8"]
        lab.login.run(["scontrol", "update", *setting], check=True)
    names = [*_COMMENTS, *_FILES, "true-file", "called"]
    ids = {name: admin.start("alice", name, application="mute", memory="50M") for name in names}
    try:
        yield {name: admin.wait(server_id, "starting") for name, server_id in ids.items()}
    finally:
        for name in names:
            admin.stop("alice", name)
        for server_id in ids.values():
            admin.wait(server_id, "ended")
        for node in ("debug", "short"):
            setting = [f"PartitionName={node}", "OverSubscribe=NO"]
            lab.login.run(["scontrol", "update", *setting], check=True)


def true_token(row: Mapping[str, Any]) -> str:
    return f"gw1:{row['run']}:0:{row['host']}:20001\n"


def test_no_lie_in_a_comment_or_in_the_endpoint_file_is_believed(
    lab: Lab, admin: Admin, mute: dict[str, dict[str, Any]]
) -> None:
    for name, comment in _COMMENTS.items():
        row = mute[name]
        text = comment.replace("RUN", row["run"]).replace("HOST", row["host"])
        lab.run(
            "login",
            ["scontrol", "update", f"JobId={row['job_id']}", f"Comment={text}"],
            user="alice",
            check=True,
        )
    homes = lab.state / "home/alice/.gateway"
    places = {name: homes / row["id"] / "endpoint" for name, row in mute.items()}
    for name in (*_FILES, "true-file"):
        places[name].unlink(missing_ok=True)
    elsewhere = homes / "elsewhere"
    elsewhere.write_text(true_token(mute["a-symlink"]))
    elsewhere.chmod(0o600)
    os.chown(elsewhere, BY_NAME["alice"].uid, -1)
    places["a-symlink"].symlink_to("../elsewhere")
    planted = {
        "of-another-user": ("bob", true_token(mute["of-another-user"])),
        "with-a-lie": ("alice", true_token(mute["true-file"])),
        "true-file": ("alice", true_token(mute["true-file"])),
    }
    for name, (owner, text) in planted.items():
        places[name].write_text(text)
        os.chown(places[name], BY_NAME[owner].uid, -1)
    wait_until(lambda: admin.row(mute["true-file"]["id"])["port"] == 20001, "the true file is read", 40)
    time.sleep(5.5)  # two listings, and one more read of each file
    for name, row in mute.items():
        now = admin.row(row["id"])
        assert now["phase"] == "starting", name
        assert now["port"] == (20001 if name == "true-file" else None), name
        assert now["host"] == row["host"], name


def test_no_call_but_the_jobs_own_is_taken(lab: Lab, admin: Admin, mute: dict[str, dict[str, Any]]) -> None:
    calls, row = Calls(lab), mute["called"]
    server_id = row["id"]
    own, other = calls.proof(server_id), calls.proof(mute["wrong-run"]["id"])
    refused = {
        "no proof": (None, "20001", 403),
        "an empty proof": ("", "20001", 403),
        "a wrong proof": (secrets.token_hex(32), "20001", 403),
        "another server's": (other, "20001", 403),
        "a privileged port": (own, "22", 409),
        "a port of another range": (own, "30000", 409),
        "an endpoint": (own, "login:20001", 400),
        "not a number": (own, "http", 400),
    }
    for what, (proof, body, status) in refused.items():
        assert calls.call(server_id, proof, body) == status, what
    assert admin.row(server_id)["port"] is None
    assert calls.call(server_id, own, "20002") == 204
    now = admin.row(server_id)
    assert (now["host"], now["port"], now["phase"]) == (row["host"], 20002, "starting")
    admin.stop("alice", "called")
    assert calls.call(server_id, own, "20003") in (403, 409)
    admin.wait(server_id, "ended")
    assert calls.call(server_id, own, "20003") == 403
    assert admin.row(server_id)["port"] in (None, 20002)

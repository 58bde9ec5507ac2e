"""Slurm with its accounting: how servers end by slurmdbd's word, and who may use which account and QOS.

The cluster hides people's jobs and accounts from all but its operators, its slurmdbd knows another cluster
too, and the gateway reaches it by SLURM_CLUSTERS.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.lab import Lab, gateway
from tests.lab.accounting import SITE_CONFIG, AccountingCluster
from tests.lab.nodes import wait_until
from tests.live.calls import Admin
from tests.live.client import Person

_APPLICATIONS = """\
applications:
  - {name: mute, title: It says nothing, command: [/srv/mute]}
  - {name: again, title: It may be started again, command: [/srv/mute], requeue: true}
  - {name: eats, title: It takes all memory, command: [/srv/eats]}
  - {name: fails, title: It fails, command: [/srv/fails]}
"""
_PROGRAMS = {
    "mute": "exec sleep 300",
    "eats": "exec /usr/bin/python3 -c 'import time; taken = bytes(1) * 300_000_000; time.sleep(300)'",
    "fails": "exit 3",
}
_CHOICES = {
    "cluster": "labacct",
    "application": "mute",
    "partition": "main",
    "walltime": "10m",
    "cores": "1",
    "memory": "50M",
}
#: How each server ends, and what its owner is told: what happened, and the next step.
_ENDS = {
    "walltime": ("walltime", "The walltime that you chose is over", "with a longer walltime"),
    "memory": ("out-of-memory", "needed more memory than the job had", "Start again with more."),
    "root": ("cancelled", "An administrator of the cluster cancelled the job", "before you start it again"),
    "owner": ("cancelled", "You cancelled the job on the cluster", "Start it when you need it."),
    "operator": ("cancelled", "Somebody else (uid 10003) cancelled the job", "Ask the cluster's"),
    "exit": ("failed", "failed with exit status 3", ""),
    "node": ("node-failed", "The node that ran the job has failed", "start it again"),
    "preempted": ("preempted", "took the node for a job of higher priority", "Start it again"),
}


@pytest.fixture(scope="module")
def slurm(lab: Lab) -> Iterator[AccountingCluster]:
    """The cluster, known to the gateway; afterwards neither runs."""
    cluster = lab.accounting
    cluster.start()
    for name, text in _PROGRAMS.items():
        path = lab.state / "srv" / name
        path.write_text(f'#!/bin/sh\n[ "$1" != --version ] || exit 0\n{text}\n')
        path.chmod(0o755)
    acting = "  act_as: sudo\n"
    site = SITE_CONFIG.replace(acting, f"{acting}  environment: {{SLURM_CLUSTERS: labacct}}\n")
    cluster.write_site_config(site.partition("applications:\n")[0] + _APPLICATIONS)
    lab.stop_gateway()
    lab.start_gateway()
    try:
        yield cluster
    finally:
        lab.stop_gateway()
        cluster.stop()


@pytest.fixture(scope="module")
def admin(lab: Lab, slurm: AccountingCluster) -> Admin:
    return Admin(lab)


@contextmanager
def changed(slurm: AccountingCluster, user: str, setting: str, back: str) -> Iterator[None]:
    """Have the accounting say something else of somebody."""
    slurm.sacctmgr("modify", "user", user, "set", setting)
    try:
        yield
    finally:
        slurm.sacctmgr("modify", "user", user, "set", back)


def offered(person: Person) -> dict[str, list[str]]:
    """Return what the form offers somebody, by field."""
    page = person.request("GET", f"{person.hub}/hub/spawn?cluster=labacct").text
    found = re.search(r'<script[^>]* id="form-description">(.*?)</script>', page, re.S)
    assert found, page
    fields = json.loads(found[1])["fields"]
    return {field["name"]: [choice["value"] for choice in field["choices"]] for field in fields}


def start(admin: Admin, name: str, **choices: str) -> str:
    """Start a server of alice's; return its id."""
    answer = admin.call("POST", f"/users/alice/servers/{name}", _CHOICES | choices)
    assert answer.status == 202, answer.text
    return str(answer.json["state"]["id"])


def preempt(slurm: AccountingCluster) -> None:
    """Have a job of carol's take a whole node from jobs of lower priority."""
    words = ["sbatch", "--parsable", "--export=NIL", "--qos=urgent", "--partition=small", "--cpus-per-task=8"]
    words += ["--mem=100M", "--time=5", "--output=/dev/null"]
    job = slurm.login.run(words, "carol", "#!/bin/sh\nsleep 300\n", check=True).stdout.strip()
    state = ["squeue", "-h", "-j", job, "-o", "%T"]
    wait_until(lambda: slurm.login.run(state).stdout.strip() == "RUNNING", "carol's job runs", 30, 0.1)
    slurm.login.run(["scancel", job], check=True)


def home_of(person: Person) -> str:
    """Return the words of somebody's home page."""
    return html.unescape(re.sub(r"<[^>]+>", "", person.open(f"{person.hub}/hub/home").text))


def test_each_is_offered_their_own_accounts_and_qos_of_this_cluster(
    lab: Lab, slurm: AccountingCluster
) -> None:
    alice, bob = Person(lab, "alice").login(), Person(lab, "bob").login()
    wait_until(lambda: "account" in offered(alice), "slurmdbd has been asked", 20, 0.2)
    form = offered(alice)
    assert (form["account"], form["qos"]) == (["proj1", "proj2"], ["", "again", "cheap", "normal"])
    form = offered(bob)
    assert (form["account"], form["qos"]) == (["proj2"], ["", "normal"])
    for field, value, words in (("account", "proj1", "account"), ("qos", "cheap", "quality of service")):
        refused = bob.submit("/hub/spawn", **_CHOICES, **{field: value})
        assert refused.status == 400
        assert f"There is no {words} '{value}'." in html.unescape(refused.text)
    assert slurm.login.run(["squeue", "-h"], check=True).stdout == ""


def test_a_qos_that_sbatch_refuses_is_told_in_its_words(slurm: AccountingCluster, admin: Admin) -> None:
    """It was hers when the hub last asked."""
    with changed(slurm, "alice", "qos-=cheap", "qos+=cheap"):
        row = admin.wait(start(admin, "refused", qos="cheap"), "ended")
    assert row["reason"] == "refused"
    assert row["message"].startswith("The cluster did not accept the job: Invalid qos specification. Start")


def checks_of(lab: Lab) -> dict[str, dict[str, str]]:
    """Return what doctor finds of the cluster, for alice."""
    words = ("doctor", "labacct", "-f", gateway.CONFIG, "--user", "alice", "--json")
    found = json.loads(lab.gateway_command(*words).stdout)["checks"]
    return {check["name"].removeprefix("labacct: "): check for check in found}


def test_what_an_operator_sees_is_not_said_to_be_hidden_or_missing(
    lab: Lab, slurm: AccountingCluster
) -> None:
    """Nobody has a job now: Slurm's operators are known by the accounting."""
    names = ("other users' jobs", "accounts", "qos")
    checks = checks_of(lab)
    assert [checks[name]["seen"] for name in names] == [
        "svc sees them",
        "alice has proj1, proj2",
        "alice has again, cheap, normal",
    ]
    alice = Person(lab, "alice").login()
    with changed(slurm, "svc", "adminlevel=none", "adminlevel=operator"):
        checks = checks_of(lab)
        assert [checks[name]["status"] for name in names] == ["warning", "skipped", "skipped"]
        assert "sacctmgr modify user svc set AdminLevel=Operator" in checks["other users' jobs"]["mend"]
        lab.gateway_command("reload", "-f", gateway.CONFIG)
        assert not {"account", "qos"} & offered(alice).keys(), "what she may use is not known"
    lab.gateway_command("reload", "-f", gateway.CONFIG)
    assert "account" in offered(alice)


def test_each_end_is_told_by_the_accounting_and_on_the_page(
    lab: Lab, slurm: AccountingCluster, admin: Admin
) -> None:
    special: dict[str, dict[str, str]] = {
        "memory": {"application": "eats"},
        "exit": {"application": "fails", "account": "proj2"},
        "node": {"partition": "other"},
        "preempted": {"partition": "small", "qos": "cheap"},
    }
    ids = {name: start(admin, name, **special.get(name, {})) for name in _ENDS}
    ids["again"] = start(admin, "again", application="again", partition="small", qos="again")
    jobs = {
        name: admin.wait(ids[name], "starting")["job_id"]
        for name in ("walltime", "root", "owner", "operator", "node", "preempted", "again")
    }
    # Nobody can choose less than a minute, and Slurm looks every half a minute.
    over = datetime.now(UTC) + timedelta(seconds=2)
    words = ["scontrol", "update", f"JobId={jobs['walltime']}", f"EndTime={over:%Y-%m-%dT%H:%M:%S}"]
    slurm.login.run(words, env={"TZ": "UTC"}, check=True)
    for name, user in (("root", None), ("owner", "alice"), ("operator", "carol")):
        slurm.login.run(["scancel", jobs[name]], user, check=True)
    slurm.login.run(["scontrol", "update", "NodeName=acctn3", "State=DOWN", "Reason=test"], check=True)
    preempt(slurm)
    rows: dict[str, Any] = {name: admin.wait(ids[name], "ended", 120) for name in _ENDS}
    page = home_of(Person(lab, "alice").login())
    for name, (reason, what, next_step) in _ENDS.items():
        message = rows[name]["message"]
        assert rows[name]["reason"] == reason, (name, message)
        assert what in message, name
        assert next_step in message, name
        assert message.partition("\n")[0] in page, name
    row = admin.row(ids["again"])
    assert (row["phase"], row["restarts"], row["job_id"]) == ("queued", 1, jobs["again"])
    slurm.login.run(["scontrol", "update", f"JobId={jobs['again']}", "StartTime=now"], check=True)
    assert admin.wait(ids["again"], "starting")["job_id"] == jobs["again"]
    admin.stop("alice", "again")
    admin.wait(ids["again"], "ended")

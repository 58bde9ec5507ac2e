"""Grid Engine and PBS where a job may not publish: it calls, or its file is read; and both may lie.

Grid Engine takes no qalter from a node that is neither an administrative nor a submit host.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import pytest

from tests.lab import Lab, pbs, sge
from tests.lab.accounts import BY_NAME
from tests.lab.clusters import PBS, SGE
from tests.lab.nodes import wait_until
from tests.live.callback import Calls, calling, told
from tests.live.calls import Admin
from tests.live.client import Person
from tests.live.lies import MUTE, install_mute

#: PBS's programs, of which one refuses (its exit status is the server's error 15007, modulo 256).
_BIN = "/srv/denying-pbs"
_DENYING = "#!/bin/sh\necho 'qalter: Unauthorized Request ' >&2\nexit 159\n"


@dataclass(frozen=True)
class Place:
    """A cluster: a partition, the node, and the command of its login node that shows the jobs whole."""

    name: str
    partition: str
    node: str
    login: str
    shown: tuple[str, ...]


PLACES = (
    Place(SGE.name, "long.q", SGE.compute[0], SGE.login, ("qstat", "-j", "*")),
    Place(PBS.name, "workq", PBS.compute[0], PBS.login, (f"{pbs.PREFIX}/bin/qstat", "-f", "-F", "dsv")),
)


@pytest.fixture(scope="module")
def relays(lab: Lab) -> Iterator[Mapping[str, subprocess.Popen[Any]]]:
    """Run a gateway whose jobs may not change themselves, but may call."""
    install_mute(lab)
    with ExitStack() as after:
        for cluster in (lab.sge, lab.pbs):
            after.callback(cluster.stop)
            cluster.start()
        for kind in ("s", "h"):
            lab.sge.login.run(["qconf", f"-d{kind}", PLACES[0].node], check=True)
            after.callback(lab.sge.login.run, ["qconf", f"-a{kind}", PLACES[0].node], check=True)
        denying = lab.state / "srv/denying-pbs"
        denying.mkdir()
        for name in pbs.PROGRAMS:
            (denying / name).symlink_to(f"{pbs.PREFIX}/bin/{name}")
        (denying / "qalter").unlink()
        (denying / "qalter").write_text(_DENYING)
        (denying / "qalter").chmod(0o755)
        calls = "act_as: sudo\n  callback: true\n"
        lab.sge.write_site_config(sge.SITE_CONFIG.replace("act_as: sudo\n", calls, 1) + MUTE)
        there = pbs.SITE_CONFIG.replace(f"bin: {pbs.PREFIX}/bin", f"bin: {_BIN}", 1)
        lab.pbs.write_site_config(there.replace("act_as: sudo\n", calls, 1) + MUTE)
        lab.stop_gateway()
        after.callback(lab.write_gateway_config)
        after.callback(lab.stop_gateway)
        running = after.enter_context(calling(lab, *(place.node for place in PLACES)))
        lab.start_gateway()
        yield running


@pytest.fixture(scope="module")
def admin(lab: Lab, relays: object) -> Admin:
    return Admin(lab)


#: Servers by name, and by the cluster that each of that name is on.
Rows = dict[str, dict[Place, dict[str, Any]]]


def start(admin: Admin, user: str, names: Sequence[str], phase: str, application: str) -> Rows:
    """Start servers, each on both clusters, all at once; return their rows when they are in a phase."""
    ids: dict[str, dict[Place, str]] = {name: {} for name in names}
    for name, place in product(names, PLACES):
        choices = {"cluster": place.name, "partition": place.partition, "memory": "400M"}
        ids[name][place] = admin.start(user, f"{name}-{place.name}", application=application, **choices)
    return {
        name: {place: admin.wait(server_id, phase) for place, server_id in servers.items()}
        for name, servers in ids.items()
    }


def end(admin: Admin, user: str, rows: Rows) -> None:
    servers = [row for each in rows.values() for row in each.values()]
    for row in servers:
        admin.stop(user, row["name"])
    for row in servers:
        admin.wait(row["id"], "ended")


#: What an endpoint file may say that is not so: RUN and HOST stand for what is true.
_LIES = {
    "run": "gw1:0123456789abcdef:0:HOST:20001",
    "host": "gw1:RUN:0:login:20001",
    "port": "gw1:RUN:0:HOST:30000",
}
_TRUTH = "gw1:RUN:0:HOST:20001"


def test_no_lie_in_a_call_or_in_the_endpoint_file_is_believed(lab: Lab, admin: Admin) -> None:
    rows = start(admin, "alice", ["called", *_LIES], "starting", "mute")
    read = [(_LIES[name], row) for name in _LIES for row in rows[name].values()]
    for text, row in read:
        write_endpoint(lab, row, text)
    for place, row in rows["called"].items():
        calls = Calls(lab, place.node)
        own, other = calls.proof(row["id"]), calls.proof(rows["run"][place]["id"])
        refused = (("0" * 64, "20001", 403), (other, "20001", 403), (own, "30000", 409), (own, "x", 400))
        for proof, body, status in refused:
            assert calls.call(row["id"], proof, body) == status, (place, body)
        assert admin.row(row["id"])["port"] is None
        assert calls.call(row["id"], own, "20002") == 204
        now = admin.row(row["id"])
        assert (now["host"], now["port"]) == (place.node, 20002)
    for _, row in read:
        wait_until(partial(was_read, lab, row), "the file is read", 40)
    time.sleep(0.5)  # what was read is judged
    assert {admin.row(row["id"])["port"] for _, row in read} == {None}
    for _, row in read:
        write_endpoint(lab, row, _TRUTH)
    for _, row in read:
        wait_until(partial(believed, admin, row), "the truth is believed", 40)
    end(admin, "alice", rows)


def believed(admin: Admin, row: Mapping[str, Any]) -> bool:
    return bool(admin.row(row["id"])["port"] == 20001)


def write_endpoint(lab: Lab, row: Mapping[str, Any], text: str) -> None:
    """Write a server's endpoint file as its user may; nobody has read it so far."""
    path = lab.state / f"home/alice/.gateway/{row['id']}/endpoint"
    path.write_text(text.replace("RUN", row["run"]).replace("HOST", row["host"]) + "\n")
    os.chown(path, BY_NAME["alice"].uid, -1)
    os.utime(path, (1, path.stat().st_mtime))


def was_read(lab: Lab, row: Mapping[str, Any]) -> bool:
    """Return whether somebody has read it since: the time of access says so."""
    return (lab.state / f"home/alice/.gateway/{row['id']}/endpoint").stat().st_atime > 1


def test_a_job_that_its_owner_renames_is_still_its_servers_and_says_nothing(lab: Lab, admin: Admin) -> None:
    choices = {"cluster": PBS.name, "partition": "workq", "memory": "400M", "application": "mute"}
    row = admin.wait(admin.start("alice", "renamed", **choices), "starting")
    own = lab.pbs.run("qstat", "-f", "-F", "dsv", row["job_id"]).partition("Job_Name=")[2].partition("|")[0]
    assert own.endswith(f"-{row['id']}")
    said = f"{row['run']}.0.20001.{row['host']}"
    for name in (said, "mine"):
        lab.pbs.run("qalter", "-N", name, row["job_id"], user="alice")
        time.sleep(2.6)  # a listing comes every 2 s
        now = admin.row(row["id"])
        assert (now["phase"], now["port"], now["job_id"]) == ("starting", None, row["job_id"]), name
    lab.pbs.run("qalter", "-N", f"{own}.{said}", row["job_id"], user="alice")
    wait_until(partial(believed, admin, row), "the truth is believed", 10)
    end(admin, "alice", {"renamed": {PLACES[1]: row}})


def test_a_job_that_may_not_publish_calls_and_one_that_cannot_call_is_read(
    lab: Lab, admin: Admin, relays: Mapping[str, subprocess.Popen[Any]]
) -> None:
    check_way(lab, admin, "alice", "The job has called")
    for relay in relays.values():
        relay.kill()
        relay.wait()
    check_way(lab, admin, "bob", "The job's endpoint file")


def check_way(lab: Lab, admin: Admin, user: str, words: str) -> None:
    """Start JupyterLab on both clusters, and check how its place was learnt, and that it lets its user in."""
    person = Person(lab, user).login()
    rows = start(admin, user, ["work"], "ready", "lab")
    for place, row in rows["work"].items():
        (said,) = told(admin, row["id"])
        assert said.startswith(words), said
        assert row["host"] == place.node
        shown = lab.run(place.login, place.shown, check=True).stdout
        assert row["id"] in shown
        assert row["run"] not in shown, "the job has published nothing"
        person.enter(row["name"])
        assert person.call("GET", "api/status", server=row["name"]).status == 200
    end(admin, user, rows)

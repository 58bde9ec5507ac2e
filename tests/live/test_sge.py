"""Grid Engine on the lab's second cluster: from the form to a kernel, and what its faults do to servers."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest

from tests.lab import Lab
from tests.lab.nodes import wait_until
from tests.lab.sge import SgeCluster
from tests.live.calls import Admin
from tests.live.client import Person
from tests.live.lies import check_no_lie_is_believed
from tests.live.ondemand import check_that_the_downtime_is_named, known, logged_in, refresh, soon

CHOICES: dict[str, Any] = {"cluster": "labsge", "partition": "short.q", "walltime": "5m", "memory": "400M"}


@pytest.fixture(scope="module")
def sge(lab: Lab) -> Iterator[SgeCluster]:
    with known(lab, lab.sge):
        yield lab.sge


@pytest.fixture
def alice(lab: Lab, sge: SgeCluster) -> Iterator[Person]:
    with logged_in(lab, "alice") as person:
        yield person


def jobs(sge: SgeCluster) -> list[tuple[str, str]]:
    """Return the ids and the owners of all jobs."""
    lines = sge.login.run(["qstat", "-u", "*"], check=True).stdout.splitlines()[2:]
    return [(line.split()[0], line.split()[3]) for line in lines]


def shown(sge: SgeCluster, job_id: str) -> str:
    return sge.login.run(["qstat", "-j", job_id], check=True).stdout


@contextmanager
def hidden_home(sge: SgeCluster, user: str) -> Iterator[None]:
    """Take a user's home directory away from the compute node."""
    sge.node.run(["mount", "-t", "tmpfs", "tmpfs", f"/home/{user}"], check=True)
    try:
        yield
    finally:
        sge.node.run(["umount", f"/home/{user}"], check=True)


def test_the_hub_reaches_the_login_nodes_sshd_and_nothing_else(lab: Lab, sge: SgeCluster) -> None:
    program = (
        "import socket\n"
        "for port in (22, 6444):\n"
        "    try: socket.create_connection(('sgelogin', port), 1); print('open')\n"
        "    except OSError as error: print(error)"
    )
    done = lab.hub.run(["/usr/bin/python3", "-c", program], user="gateway", check=True)
    assert done.stdout == "open\ntimed out\n"
    assert sge.qmaster.node.listens(6444)


def test_from_the_form_to_a_kernel_on_the_node_and_back(sge: SgeCluster, alice: Person) -> None:
    sge.login.run(["sh", "-c", "echo '-N other -t 1-3 -h' >~/.sge_request"], user="alice", check=True)
    try:
        state = alice.start(**CHOICES, cores="2")
    finally:
        sge.login.run(["sh", "-c", "rm ~/.sge_request"], user="alice")
    assert state["host"] == "sgen1"
    assert state["ends"]
    text = shown(sge, state["job_id"])
    assert re.search(r"^context: +gw=gw1:[0-9a-f]{16}:0:sgen1:\d{5}$", text, re.M)
    assert re.search(rf"^job_name: +gw-[a-z2-7]{{6}}-{state['id']}$", text, re.M)
    assert "h_rt=300" in text
    alice.enter()
    with alice.kernel() as kernel:
        printed = kernel.run("import os, getpass\nprint(os.uname().nodename, getpass.getuser())")
    assert printed == "sgen1 alice\n"
    alice.stop()
    assert jobs(sge) == []
    wait_until(lambda: not sge.node.processes("alice"), "nothing of it runs on the node")


def test_no_lie_in_a_jobs_context_is_believed(lab: Lab, sge: SgeCluster) -> None:
    def publish(row: dict[str, Any], run: str, restarts: str, host: str, port: str) -> None:
        words = ["qalter", "-ac", f"gw=gw1:{run}:{restarts}:{host}:{port}", row["job_id"]]
        sge.login.run(words, user="alice", check=True)

    check_no_lie_is_believed(Admin(lab), publish, **CHOICES)
    assert jobs(sge) == []


def test_what_can_never_run_is_refused_with_the_schedulers_reason(sge: SgeCluster, alice: Person) -> None:
    sge.login.run(["qconf", "-mattr", "queue", "h_rt", "0:1:0", "short.q"], check=True)
    try:
        assert alice.spawn("never", **CHOICES).status == 303
        alice.wait_for("ended", "never")
    finally:
        sge.login.run(["qconf", "-mattr", "queue", "h_rt", "0:10:0", "short.q"], check=True)
    page = alice.open(f"{alice.hub}/hub/home").text
    assert "cannot run in queue" in page
    assert jobs(sge) == []


def test_a_job_in_error_is_shown_with_its_reason_and_deleted(sge: SgeCluster, alice: Person) -> None:
    """By its owner: by itself the gateway believes only after a minute that it can never start."""

    def shown_why() -> bool:
        return "The compute node does not see your job" in alice.open(f"{alice.hub}/hub/home").text

    with hidden_home(sge, "alice"):
        assert alice.spawn("error", **CHOICES).status == 303
        wait_until(shown_why, "the reason is shown", 30, 0.2)
        alice.stop("error")
    assert jobs(sge) == []


def test_no_server_is_lost_or_doubled_while_the_qmaster_is_down_or_hung(
    sge: SgeCluster, alice: Person
) -> None:
    first = alice.start(**CHOICES)
    alice.enter()
    with alice.kernel() as kernel:
        sge.qmaster.stop(signal.SIGKILL)
        try:
            assert alice.spawn("late", **CHOICES).status == 303
            time.sleep(2.5)
            assert kernel.run("print(6 * 7)") == "42\n"
            assert alice.state()["phase"] == "ready"
            assert alice.state("late")["phase"] in ("intent", "submitting")
        finally:
            sge.restart()
        late = alice.wait_for("ready", "late")
        sge.qmaster.freeze()
        try:
            time.sleep(2.5)
            assert kernel.run("print(6 * 7)") == "42\n"
            assert {alice.state(name)["phase"] for name in ("", "late")} == {"ready"}
        finally:
            sge.qmaster.thaw()
    assert sorted(jobs(sge)) == sorted((state["job_id"], "alice") for state in (first, late))
    sge.clear_jobs()  # an execd that was started again takes a minute to end the jobs that it found


def test_a_job_that_somebody_deletes_ends_as_cancelled(sge: SgeCluster, alice: Person) -> None:
    state = alice.start("gone", **CHOICES)
    sge.login.run(["qdel", state["job_id"]], user="alice", check=True)
    alice.wait_for("ended", "gone", 60)
    assert "cancelled" in alice.open(f"{alice.hub}/hub/home").text


@contextmanager
def configured(sge: SgeCluster, *, ahead: int) -> Iterator[None]:
    """Have the scheduler look ahead, as sites do that have long jobs or calendars."""
    files = sge.lab.state / "srv/sge/files"
    settings = (files / "scheduler").read_text()
    (files / "ahead").write_text(re.sub(r"(?m)^(max_reservation +)0$", rf"\g<1>{ahead}", settings))
    sge.login.run(["qconf", "-Msconf", "/srv/sge/files/ahead"], check=True)
    try:
        yield
    finally:
        sge.login.run(["qconf", "-Msconf", "/srv/sge/files/scheduler"], check=True)


@contextmanager
def closed(sge: SgeCluster, queue: str, start: datetime, end: datetime) -> Iterator[None]:
    """Have a calendar close a queue for a while."""
    day, last = (f"{each.day}.{each.month}.{each.year}" for each in (start, end))
    first, then = (f"{each:%H:%M}" for each in (start, end))
    year = f"{day}={first}-{then}" if day == last else f"{day}={first}-24 {last}=0-{then}:01"
    text = f"calendar_name down\nyear {year}\nweek NONE\n"
    (sge.lab.state / "srv/sge/files/down").write_text(text)
    sge.login.run(["qconf", "-Acal", "/srv/sge/files/down"], check=True)
    sge.login.run(["qconf", "-mattr", "queue", "calendar", "down", queue], check=True)
    try:
        yield
    finally:
        sge.login.run(["qconf", "-mattr", "queue", "calendar", "NONE", queue], check=True)
        sge.login.run(["qconf", "-dcal", "down"], check=True)


def test_a_calendar_that_closes_the_queue_is_named_with_a_walltime_that_can_start(
    lab: Lab, sge: SgeCluster, alice: Person
) -> None:
    with configured(sge, ahead=10), closed(sge, "long.q", *soon()):
        check_that_the_downtime_is_named(lab, alice, **{**CHOICES, "partition": "long.q"})
    assert jobs(sge) == []


@contextmanager
def project(sge: SgeCluster, name: str, *users: str) -> Iterator[None]:
    """Have a project that only some may use."""
    files = sge.lab.state / "srv/sge/files"
    (files / "list").write_text(f"name chemists\ntype ACL\nfshare 0\noticket 0\nentries {','.join(users)}\n")
    (files / "project").write_text(f"name {name}\noticket 0\nfshare 0\nacl chemists\nxacl NONE\n")
    sge.login.run(["qconf", "-Au", "/srv/sge/files/list"], check=True)
    sge.login.run(["qconf", "-Aprj", "/srv/sge/files/project"], check=True)
    try:
        yield
    finally:
        sge.login.run(["qconf", "-dprj", name], check=True)
        sge.login.run(["qconf", "-dul", "chemists"], check=True)


@contextmanager
def reservation(sge: SgeCluster, user: str, queue: str) -> Iterator[str]:
    """Have an advance reservation of somebody's that has begun, with what jobs ask for; its id."""
    sge.login.run(["qconf", "-au", user, "arusers"], check=True)
    words = ["qrsub", "-d", "1:0:0", "-q", queue, "-l", "mem_free=1G"]
    done = sge.login.run(words, user=user, check=True)
    (number,) = re.findall(r"reservation (\d+) has been granted", done.stdout)
    try:
        yield number
    finally:
        sge.login.run(["qrdel", number], check=True)
        sge.login.run(["qconf", "-du", user, "arusers"], check=True)


def test_a_project_and_a_reservation_are_offered_to_those_who_may_use_them_and_reach_the_job(
    lab: Lab, sge: SgeCluster, alice: Person
) -> None:
    with project(sge, "chemistry", "alice"), reservation(sge, "alice", "short.q") as number:
        refresh(lab)
        with logged_in(lab, "bob") as bob:
            form = bob.open(f"{bob.hub}/hub/spawn?cluster=labsge").text
            assert 'value="chemistry"' not in form
            assert bob.spawn("other", **CHOICES, account="chemistry").status == 400
        form = alice.open(f"{alice.hub}/hub/spawn?cluster=labsge").text
        assert 'value="chemistry"' in form
        choices = {**CHOICES, "application": "mute", "account": "chemistry", "reservation": number}
        assert alice.spawn("paid", **choices).status == 303
        text = shown(sge, alice.wait_for("starting", "paid")["job_id"])
        assert re.search(r"^project: +chemistry$", text, re.M)
        assert re.search(rf"^ar_id: +{number}$", text, re.M)
        alice.stop("paid")
    assert jobs(sge) == []

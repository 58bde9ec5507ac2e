"""PBS on the lab's third login node: from the form to a kernel, and what its faults do to servers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Lab
from tests.lab.nodes import wait_until
from tests.lab.pbs import PREFIX, PbsCluster
from tests.live.calls import Admin
from tests.live.client import Person
from tests.live.lies import check_no_lie_is_believed
from tests.live.ondemand import check_that_the_downtime_is_named, known, logged_in, soon

CHOICES: dict[str, Any] = {"cluster": "labpbs", "partition": "workq"}


@pytest.fixture(scope="module")
def pbs(lab: Lab) -> Iterator[PbsCluster]:
    with known(lab, lab.pbs):
        yield lab.pbs
        lab.pbs.server.start()


@pytest.fixture
def alice(lab: Lab, pbs: PbsCluster) -> Iterator[Person]:
    with logged_in(lab, "alice") as person:
        yield person


def jobs(pbs: PbsCluster) -> dict[str, list[str]]:
    """Return the names of all jobs, of the past too, by state."""
    found: dict[str, list[str]] = {}
    for line in pbs.run("qstat", "-f", "-F", "dsv").splitlines():
        values = dict(cell.partition("=")[::2] for cell in line.split("|"))
        found.setdefault(values["job_state"], []).append(values["Job_Name"])
    return found


def test_from_the_form_to_a_kernel_on_the_node_and_back(pbs: PbsCluster, alice: Person) -> None:
    state = alice.start(**CHOICES)
    assert (state["host"], state["job_id"].partition(".")[2]) == ("pbsn1", "pbslogin")
    ((published,),) = jobs(pbs).values()
    assert re.fullmatch(rf"gw-[a-z2-7]{{6}}-{state['id']}\.[0-9a-f]{{16}}\.0\.\d{{5}}\.pbsn1", published)
    alice.enter()
    with alice.kernel() as kernel:
        printed = kernel.run("import os, getpass\nprint(os.uname().nodename, getpass.getuser())")
    assert printed == "pbsn1 alice\n"
    alice.stop()
    ended = pbs.run("qstat", "-x", "-f", "-F", "dsv", state["job_id"])
    assert "|job_state=F|" in ended
    assert "|substate=91|" in ended


def test_no_lie_in_a_jobs_name_is_believed(lab: Lab, pbs: PbsCluster) -> None:
    def publish(row: dict[str, Any], run: str, restarts: str, host: str, port: str) -> None:
        own = next(name.partition(".")[0] for names in jobs(pbs).values() for name in names)
        name = f"{own}.{run}.{restarts}.{port}.{host}"
        words = [f"{PREFIX}/bin/qalter", "-N", name, row["job_id"]]
        pbs.login.run(words, user="alice", check=True)
        assert name in jobs(pbs)["R"]

    check_no_lie_is_believed(Admin(lab), publish, **CHOICES)
    assert jobs(pbs) == {}


def test_no_server_is_lost_while_pbs_is_down_hung_or_forgets_the_past(
    lab: Lab, pbs: PbsCluster, alice: Person
) -> None:
    alice.start(**CHOICES)
    alice.enter()
    with alice.kernel() as kernel:
        for fail, mend in (
            (pbs.server.stop, pbs.server.start),
            (pbs.server.freeze, pbs.server.thaw),
            (
                lambda: pbs.control(history=False, query_other_jobs=False),
                lambda: pbs.control(query_other_jobs=True),
            ),
        ):
            fail()
            try:
                time.sleep(2.3)  # a poll comes each 2 s
                assert kernel.run("print(6 * 7)") == "42\n"
                assert alice.state()["phase"] == "ready"
            finally:
                mend()
    assert [len(names) for names in jobs(pbs).values()] == [1]
    assert "ended jobs are not kept" in lab.gateway_log.read_text()
    alice.stop()
    assert jobs(pbs) == {}
    pbs.control(history=True)


def test_a_job_whose_qsub_was_killed_is_found_and_not_started_twice(pbs: PbsCluster, alice: Person) -> None:
    pbs.control(lose_submits=True)
    assert alice.spawn("two", **CHOICES).status == 303

    def asking() -> list[int]:
        return [p.pid for p in pbs.login.processes("alice") if f"{PREFIX}/bin/qsub" in p.argv]

    wait_until(lambda: bool(asking()) and bool(jobs(pbs)), "qsub waits for the server's word")
    pbs.control(lose_submits=False)
    for process in pbs.login.processes("alice"):
        if f"{PREFIX}/bin/qsub" in process.argv and process.argv[0] != "timeout":
            process.kill()
    alice.wait_for("ready", "two")
    assert [len(names) for names in jobs(pbs).values()] == [1]


def test_of_a_job_that_can_never_run_it_is_said_at_once(pbs: PbsCluster, alice: Person) -> None:
    """Its owner ends it: by itself the gateway believes only after a minute that it can never start."""
    pbs.control(nodes={"pbsn1": {"ncpus": "1", "mem": "4194304kb"}})
    try:
        assert alice.spawn("large", **CHOICES, cores="4").status == 303
        wait_until(lambda: "can ever run" in alice.state("large")["message"], "it is said", 30, 0.2)
        alice.stop("large")
    finally:
        pbs.control(nodes={"pbsn1": {"ncpus": "4", "mem": "4194304kb", "ngpus": "2"}})
    assert jobs(pbs) == {}


def test_a_maintenance_reservation_is_named_with_a_walltime_that_can_start(
    lab: Lab, pbs: PbsCluster, alice: Person
) -> None:
    start, end = (int(moment.timestamp()) for moment in soon())
    maintenance = {"id": "M7", "owner": "root", "hosts": ["pbsn1"], "start": start, "end": end}
    pbs.control(reservations=[maintenance])
    try:
        check_that_the_downtime_is_named(lab, alice, **CHOICES)
    finally:
        pbs.control(reservations=[])
    assert jobs(pbs) == {}

"""A database from an hour ago over Grid Engine and PBS: what is known goes on, what is not is shown first."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, pbs, sge
from tests.lab.nodes import wait_until
from tests.live.calls import Admin
from tests.live.lies import MUTE, install_mute
from tests.live.test_orphans import restore

PLACES = {"labsge": "long.q", "labpbs": "workq"}
#: A job as another gateway names its own.
THEIRS = "gw-aaaaaa-bbbbbbbbbb"


@pytest.fixture(scope="module")
def admin(lab: Lab) -> Iterator[Admin]:
    """Run a gateway with both clusters; afterwards there is neither, nor their jobs."""
    install_mute(lab)
    with ExitStack() as after:
        for cluster, text in ((lab.sge, sge.SITE_CONFIG), (lab.pbs, pbs.SITE_CONFIG)):
            after.callback(cluster.stop)
            cluster.start()
            cluster.write_site_config(text + MUTE)
        lab.stop_gateway()
        after.callback(lab.write_gateway_config)
        after.callback(lab.stop_gateway)
        lab.start_gateway()
        yield Admin(lab)


def start(admin: Admin, user: str, name: str) -> dict[str, dict[str, Any]]:
    """Start a server on each cluster; return their rows by cluster once their jobs run."""
    ids = {
        cluster: admin.start(
            user, f"{name}-{cluster}", application="mute", memory="50M", cluster=cluster, partition=partition
        )
        for cluster, partition in PLACES.items()
    }
    return {cluster: admin.wait(server_id, "starting") for cluster, server_id in ids.items()}


def submit_theirs(lab: Lab) -> None:
    """Submit a job of another gateway's to each cluster."""
    words = ["-N", THEIRS, "-o", "/dev/null", "-j"]
    script = "#!/bin/sh\nsleep 300\n"
    lab.sge.login.run(["qsub", *words, "y", "-q", "long.q"], "alice", input=script, check=True)
    lab.pbs.login.run([f"{pbs.PREFIX}/bin/qsub", *words, "oe", "-q", "workq"], "alice", script, check=True)


def jobs(lab: Lab) -> dict[str, set[str]]:
    """Return the last parts of the names of all jobs that there are, by cluster."""
    words = "qstat -u * -xml | sed -n 's:.*<JB_name>\\(.*\\)</JB_name>.*:\\1:p'"
    there = lab.sge.login.run(["sh", "-fc", words], check=True).stdout.split()
    rows = lab.pbs.run("qstat", "-f", "-F", "dsv").splitlines()
    named = [row.partition("Job_Name=")[2].partition("|")[0] for row in rows]
    return {"labsge": {name[-10:] for name in there}, "labpbs": {name[-10:] for name in named}}


def restart(lab: Lab, kept: Path | None = None, config: str = "") -> None:
    """Start the gateway again, with another database and with more in its config."""
    lab.stop_gateway()
    if kept:
        restore(lab, kept)
    with (lab.state / "hub/gateway_config.py").open("a") as file:
        file.write(config)
    lab.start_gateway()


def test_what_the_old_database_does_not_know_is_shown_and_cancelled_after_the_grace_and_no_one_elses(
    lab: Lab, admin: Admin, tmp_path: Path
) -> None:
    known = start(admin, "alice", "known")
    database = lab.state / "nodes/hub/lib/gateway/gateway.sqlite"
    with closing(sqlite3.connect(database)) as now, closing(sqlite3.connect(tmp_path / "kept")) as kept:
        now.backup(kept)
    lost = start(admin, "bob", "lost")
    submit_theirs(lab)
    restart(lab, tmp_path / "kept")

    def shown() -> dict[str, dict[str, Any]]:
        return {orphan["cluster"]: orphan for orphan in admin.call("GET", "/orphans").json["orphans"]}

    wait_until(lambda: shown().keys() == lost.keys(), "the lost jobs are shown", 25, 0.5)
    for cluster, orphan in shown().items():
        row = lost[cluster]
        assert (orphan["job_id"], orphan["owner"], orphan["cancelled"]) == (row["job_id"], "bob", None)
    mine, others = {c: {row["id"]} for c, row in known.items()}, {THEIRS[-10:]}
    assert jobs(lab) == {cluster: mine[cluster] | others | {lost[cluster]["id"]} for cluster in PLACES}

    restart(lab, config="c.Gateway.orphan_grace_hours = 0\n")
    kept_jobs = {cluster: mine[cluster] | others for cluster in PLACES}
    wait_until(lambda: jobs(lab) == kept_jobs, "the lost jobs alone are cancelled", 30, 0.5)
    for row in known.values():
        now_row = admin.row(row["id"])
        assert (now_row["phase"], now_row["job_id"]) == ("starting", row["job_id"])
        admin.stop("alice", row["name"])
    for row in known.values():
        admin.wait(row["id"], "ended")
    assert jobs(lab) == dict.fromkeys(PLACES, others)

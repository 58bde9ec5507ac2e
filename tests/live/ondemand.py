"""The lab's clusters on demand, known to its gateway, and people on them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from tests.lab import Lab
from tests.lab.nodes import wait_until
from tests.lab.pbs import PbsCluster
from tests.lab.sge import SgeCluster
from tests.live.client import Person
from tests.live.lies import MUTE, install_mute


@contextmanager
def known(lab: Lab, cluster: SgeCluster | PbsCluster) -> Iterator[None]:
    """Have the gateway know a cluster, with an application that says nothing; afterwards neither runs."""
    cluster.start()
    install_mute(lab)
    cluster.write_site_config(cluster.site_config + MUTE)
    lab.stop_gateway()
    lab.start_gateway()
    try:
        yield
    finally:
        lab.stop_gateway()
        cluster.stop()


@contextmanager
def logged_in(lab: Lab, name: str) -> Iterator[Person]:
    """Give somebody with a browser; afterwards none of their servers runs."""
    person = Person(lab, name).login()
    try:
        yield person
    finally:
        for server in person.servers():
            person.stop(server)


def refresh(lab: Lab) -> None:
    """Have the gateway look at its clusters now."""
    carol = Person(lab, "carol").login()
    carol.submit(f"{carol.hub}/hub/clusters")


def soon() -> tuple[datetime, datetime]:
    """Return when a downtime in 45 minutes begins and ends, in whole minutes."""
    start = (datetime.now(UTC) + timedelta(minutes=45)).replace(second=0, microsecond=0)
    return start, start + timedelta(hours=2)


def check_that_the_downtime_is_named(lab: Lab, person: Person, **choices: str) -> None:
    """Start a server that would not be over before the downtime, and one that is; the first one waits."""
    refresh(lab)
    choices = {"application": "mute", **choices}
    assert person.spawn("long", **{**choices, "walltime": "2h"}).status == 303
    wait_until(
        lambda: (
            re.search(
                r"^2 h cannot start before .* downtime \(.*\); 30 min can\.", person.state("long")["message"]
            )
            is not None
        ),
        "the downtime is named",
        30,
        0.2,
    )
    assert person.spawn("short", **{**choices, "walltime": "30m"}).status == 303
    person.wait_for("starting", "short")
    assert person.state("long")["phase"] == "queued"
    for server in ("long", "short"):
        person.ask_to_stop(server)
    for server in ("long", "short"):
        person.wait_for("ended", server)

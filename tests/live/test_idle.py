"""Idle servers with a real JupyterLab: announced, kept, stopped; and what monitoring says of what runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.lab import Lab, gateway
from tests.lab.nodes import wait_until
from tests.live.calls import Admin
from tests.live.client import Person

#: A minute is the least that a site can say; it is announced at once.
POLICY = "idle: {after: 1m, warn: 1m}\n"


@pytest.fixture(scope="module")
def admin(lab: Lab) -> Iterator[Admin]:
    """Run a gateway that stops idle servers after a minute."""
    lab.stop_gateway()
    lab.write_gateway_config(POLICY + gateway.SITE_CONFIG)
    lab.start_gateway()
    try:
        yield Admin(lab)
    finally:
        lab.stop_gateway()
        lab.clear_jobs()
        lab.write_gateway_config()
        lab.start_gateway()


def exposed(admin: Admin) -> dict[str, float]:
    """Return the hub's metrics, each with its labels."""
    found = {}
    for family in text_string_to_metric_families(admin.metrics()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def idle_end(person: Person, name: str) -> datetime | None:
    """Return when a server will be stopped, as its owner is told."""
    said = person.state(name).get("idle_end")
    return datetime.fromisoformat(said) if said else None


def test_what_works_goes_on_what_is_idle_is_announced_kept_once_and_stopped(lab: Lab, admin: Admin) -> None:
    alice = Person(lab, "alice").login()
    alice.start("works")
    alice.start("rests")
    alice.enter("works")
    alice.enter("rests")
    with alice.kernel("works") as working, alice.kernel("rests") as resting:
        for kernel in (working, resting):
            assert kernel.run("print(6 * 7)").strip() == "42"
        working.begin("import time; time.sleep(200)")  # both have an open WebSocket, as a tab has
        wait_until(lambda: idle_end(alice, "rests") is not None, "it is announced", 30, 1)
        wait_until(lambda: idle_end(alice, "works") is None, "what works is not, or no longer", 30, 1)
        announced = idle_end(alice, "rests")
        assert announced is not None
        assert 0 < (announced - datetime.now(UTC)).total_seconds() < 70
        page = alice.open(f"{alice.hub}/hub/home").text
        assert "Nothing runs in it, so it will be stopped" in page
        assert "stopped after 1 min" in page
        assert page.count("Keep it") == 1
        alice.keep("rests")
        assert idle_end(alice, "rests") is None
        kept = time.monotonic()
        wait_until(lambda: alice.state("rests")["phase"] == "ended", "it is stopped in the end", 140, 1)
        assert time.monotonic() - kept > 60
        assert alice.state("works")["phase"] == "ready"
        assert idle_end(alice, "works") is None
    assert "Nothing had run in it" in alice.open(f"{alice.hub}/hub/wait/rests").text
    alice.stop("works")


def test_monitoring_and_administrators_see_what_runs_where_and_by_which_connection(
    lab: Lab, admin: Admin
) -> None:
    lab.clear_jobs()
    alice = Person(lab, "alice").login()
    alice.start("seen")
    alice.enter("seen")
    table = admin.call("GET", "/proxy").json["routes"]
    (row,) = [row for row in table if row["route"].endswith("/alice/seen")]
    assert row["login_node"] == "login"
    assert row["failure"] is None
    assert row["via"].startswith("unix@")
    assert row["last_activity"] is not None
    assert admin.call("POST", "/proxy", {}).json["routes"], "reconciled, and told again"
    found = exposed(admin)
    assert found["gateway_servers{cluster=lab,phase=ready}"] == 1
    assert found["gateway_proxy_up{}"] == 1
    assert found["gateway_proxy_requests_total{to=servers}"] > 0
    assert found["gateway_phase_seconds_count{cluster=lab,phase=starting}"] >= 1
    assert found["gateway_command_seconds_count{cluster=lab,command=submit}"] >= 1
    assert any(name.startswith("gateway_command_seconds_count{cluster=lab,command=squeue") for name in found)
    up = [name for name, value in found.items() if name.startswith("gateway_tunnel_master_up") and value == 1]
    assert len(up) >= 3, "two for interaction and one for bulk"
    assert found["gateway_answer_seconds_count{cluster=lab}"] >= 1
    assert "alice" not in "".join(found)
    alice.stop("seen")

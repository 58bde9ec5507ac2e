"""What monitoring reads, and that docs, dashboard and alerts name what exists."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.dataplane.figures import read_figures, read_last_used
from gateway.errors import DataPlaneError, QueueUnreachable
from gateway.lifecycle import Event, Phase
from gateway.metrics import MasterSample, Metrics, ProxySample, Sample
from gateway.sampling import Sampling
from tests.unit.web_fakes import server

DOCS = Path(__file__).parents[2] / "docs"
PROXY = ProxySample(
    7,
    1000,
    60.0,
    {"hub": 3, "servers": 9},
    {("hub", "2xx"): 3},
    {"hub": 10, "servers": 20},
    {"hub": 30, "servers": 40},
)
SAMPLE = Sample(
    servers={("lab", "ready"): 2},
    silence={"lab": 0.0},
    masters=[MasterSample("lab", 0, "login1", "interactive", True, False, 2, 1)],
    proxy=PROXY,
    routes=2,
    routes_failing=1,
    orphans={"lab": 0},
)


def values(text: bytes) -> dict[str, float]:
    """Return each sample as it is written, with its labels, without prometheus_client's own extras."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def filled() -> Metrics:
    """Return metrics in which every kind of thing has happened once."""
    metrics = Metrics()
    metrics.moved(Phase.INTENT, server(phase=Phase.SUBMITTING), Event.SUBMIT)
    metrics.moved(Phase.STARTING, server(phase=Phase.READY), Event.ANSWERED)
    metrics.answered("lab", 0.02)
    with pytest.raises(QueueUnreachable), metrics.timed("lab")("squeue"):
        raise QueueUnreachable("no answer")
    return metrics


def names(text: bytes) -> set[str]:
    """Return the names under which samples are stored."""
    return {name.partition("{")[0] for name in values(text)}


def test_the_phases_of_a_start_are_timed_one_by_one() -> None:
    metrics, created = Metrics(), datetime.now(UTC) - timedelta(seconds=3)
    steps = (
        (Phase.INTENT, Phase.SUBMITTING, Event.SUBMIT),
        (Phase.SUBMITTING, Phase.QUEUED, Event.ACCEPTED),
        (Phase.QUEUED, Phase.STARTING, Event.STARTED),
        (Phase.STARTING, Phase.READY, Event.ANSWERED),
        (Phase.READY, Phase.UNREACHABLE, Event.SILENT),
    )
    for before, after, event in steps:
        metrics.moved(before, server(phase=after, created=created), event)
    found = values(metrics.exposition())
    counts = {
        phase: found.get(f"gateway_phase_seconds_count{{cluster=lab,phase={phase}}}") for phase in Phase
    }
    assert {phase for phase, count in counts.items() if count == 1} == {
        Phase.INTENT,
        Phase.SUBMITTING,
        Phase.QUEUED,
        Phase.STARTING,
    }
    assert found["gateway_phase_seconds_sum{cluster=lab,phase=intent}"] >= 3
    assert found["gateway_phase_seconds_sum{cluster=lab,phase=queued}"] < 3


def test_a_start_that_a_hub_before_this_one_saw_is_not_timed_from_nowhere() -> None:
    metrics = Metrics()
    metrics.moved(Phase.QUEUED, server(phase=Phase.STARTING), Event.STARTED)
    assert "gateway_phase_seconds_count{cluster=lab,phase=queued}" not in values(metrics.exposition())


def test_a_command_that_fails_is_timed_and_counted_by_the_kind_of_error() -> None:
    found = values(filled().exposition())
    assert found["gateway_command_seconds_count{cluster=lab,command=squeue}"] == 1
    assert found["gateway_command_failures_total{cluster=lab,command=squeue,error=QueueUnreachable}"] == 1


def test_a_sample_says_what_is_true_now_and_nothing_of_before() -> None:
    metrics = Metrics()
    found = values(metrics.exposition(SAMPLE))
    master = "{cluster=lab,kind=interactive,login_node=login1,master=0}"
    assert found["gateway_servers{cluster=lab,phase=ready}"] == 2
    assert found[f"gateway_tunnel_master_up{master}"] == 1
    assert found[f"gateway_tunnel_forwards{master}"] == 2
    assert found["gateway_tunnel_reconnects_total{cluster=lab,kind=interactive}"] == 1
    assert found["gateway_proxy_responses_total{code=2xx,to=hub}"] == 3
    later = values(metrics.exposition(replace(SAMPLE, servers={}, masters=(), proxy=None)))
    assert later["gateway_proxy_up{}"] == 0
    assert not [
        name
        for name in later
        if name.startswith(("gateway_servers{", "gateway_tunnel_master", "gateway_proxy_c"))
    ]


def test_nothing_names_a_person() -> None:
    text = filled().exposition(SAMPLE).decode()
    assert "alice" not in text
    assert "a" * 10 not in text


async def test_a_loop_that_is_held_up_is_late() -> None:
    metrics = Metrics()
    watch = asyncio.create_task(metrics.watch_loop(0.01))
    await asyncio.sleep(0.005)
    end = asyncio.get_running_loop().time() + 0.15
    while asyncio.get_running_loop().time() < end:
        pass
    await asyncio.sleep(0.02)
    watch.cancel()
    found = values(metrics.exposition())
    assert found["gateway_loop_lag_seconds_count{}"] > found["gateway_loop_lag_seconds_bucket{le=0.1}"]


class Silent:
    """HAProxy that does not answer, and all other parts with nothing."""

    silent_since = datetime.now(UTC) - timedelta(seconds=90)

    async def figures(self) -> ProxySample:
        raise DataPlaneError("HAProxy does not answer")

    async def live(self) -> list[object]:
        return []

    async def all(self) -> list[object]:
        return []

    def masters(self) -> list[MasterSample]:
        return []


async def test_what_does_not_answer_is_told_and_does_not_keep_the_rest_from_being_read() -> None:
    parts: Any = Silent()
    sampling = Sampling(Metrics(), parts, parts, list, {"lab": parts}, {"lab": parts}, parts)
    found = values(await sampling.exposition())
    assert found["gateway_proxy_up{}"] == 0
    assert found["gateway_scheduler_silence_seconds{cluster=lab}"] >= 90
    assert found["gateway_orphans{cluster=lab}"] == 0


STAT = (
    "# pxname,svname,scur,stot,bin,bout,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,req_tot,lastsess,\n"
    "public,FRONTEND,2,40,100,200,0,30,1,5,4,40,,\n"
    "hub,hub,0,9,1,2,0,9,0,0,0,,3,\n"
    "hub,BACKEND,0,10,11,22,0,9,1,0,0,,3,\n"
    "users-a,aaaaaaaaaa.0,0,5,1,2,0,5,0,0,0,,17,\n"
    "users-a,BACKEND,0,20,30,40,1,15,0,2,2,,17,\n"
    "users-b,BACKEND,0,1,3,4,0,0,0,0,1,,-1,\n"
)


def test_haproxys_counters_are_summed_over_the_backends_of_servers() -> None:
    info = "Name: HAProxy\nUptime_sec: 61\nMaxconn: 500\nCurrConns: 2\n"
    found = read_figures(info, STAT)
    assert (found.connections, found.connections_max, found.uptime) == (2, 500, 61.0)
    assert dict(found.requests) == {"hub": 10, "servers": 21}
    assert dict(found.bytes_out) == {"hub": 22, "servers": 44}
    assert found.codes["servers", "5xx"] == 3
    assert found.codes["servers", "2xx"] == 15


def test_a_server_that_nobody_has_used_has_no_last_use() -> None:
    unused = STAT + "users-c,cccccccccc.1,0,0,0,0,0,0,0,0,0,,-1,\n"
    assert read_last_used(unused) == {"hub": 3, "aaaaaaaaaa.0": 17}


def exists(expression: str, known: set[str]) -> list[str]:
    """Return the metrics in a query that nothing writes."""
    return [name for name in re.findall(r"\bgateway_\w+", expression) if name not in known]


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_exist() -> None:
    known = names(filled().exposition(SAMPLE))
    dashboard = json.loads((DOCS / "grafana" / "gateway.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    alerts = yaml.safe_load((DOCS / "grafana" / "alerts.yaml").read_text())
    queries += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    assert len(queries) >= 15
    assert [missing for query in queries for missing in exists(query, known)] == []
    assert all("gateway_" in query for query in queries)


def test_the_docs_list_every_metric_and_no_other() -> None:
    written = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in names(filled().exposition(SAMPLE))
        if not name.endswith("_created")
    }
    listed = set(re.findall(r"^``(gateway_\w+)``", (DOCS / "metrics.rst").read_text(), re.MULTILINE))
    assert listed == written

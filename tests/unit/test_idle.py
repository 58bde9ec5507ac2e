"""When a server that nobody uses is stopped: never unannounced, never for what was not seen."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.idle import Policy, Use, Verdict, Watch, look, of_jupyter, of_traffic, stops_at, verdict

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PAUSE = timedelta(minutes=1)
POLICY = Policy(timedelta(minutes=30), timedelta(minutes=10))


def minutes(count: float) -> datetime:
    return START + timedelta(minutes=count)


def play(*uses: Use, policy: Policy = POLICY) -> list[tuple[int, Verdict]]:
    """Return what followed from a look a minute, with its minute; a warning is remembered as the hub does."""
    watch: Watch | None = None
    found: list[tuple[int, Verdict]] = []
    for minute, use in enumerate(uses):
        watch = look(watch, use, minutes(minute), PAUSE)
        follows = verdict(watch, policy)
        if follows is Verdict.WARN:
            watch = replace(watch, warned=watch.looked)
        if follows is not Verdict.NOTHING:
            found.append((minute, follows))
        if follows is Verdict.STOP:
            break
    return found


def test_an_idle_server_is_announced_and_then_stopped() -> None:
    assert play(*[Use.IDLE] * 60) == [(20, Verdict.WARN), (30, Verdict.STOP)]


def test_what_is_in_use_is_not_announced_even_where_the_whole_time_is() -> None:
    policy = Policy(timedelta(minutes=1), timedelta(minutes=1))
    assert play(*[Use.ACTIVE] * 9, policy=policy) == []
    assert play(Use.ACTIVE, Use.IDLE, Use.ACTIVE, Use.ACTIVE, policy=policy) == [(1, Verdict.WARN)]


def test_use_after_the_announcement_takes_it_back() -> None:
    assert play(*[Use.IDLE] * 25, Use.ACTIVE, *[Use.IDLE] * 21) == [(20, Verdict.WARN), (45, Verdict.WARN)]


def test_the_time_in_which_nothing_is_known_does_not_count() -> None:
    assert play(*[Use.IDLE] * 19, *[Use.UNKNOWN] * 100, *[Use.IDLE] * 12)[0] == (120, Verdict.WARN)


def test_the_time_in_which_nobody_looked_does_not_count() -> None:
    watch = look(look(None, Use.IDLE, START, PAUSE), Use.IDLE, minutes(1), PAUSE)
    late = look(watch, Use.IDLE, minutes(600), PAUSE)
    assert verdict(late, POLICY) is Verdict.NOTHING
    assert stops_at(late, POLICY) == minutes(600) + timedelta(minutes=29)


def test_what_is_announced_late_is_stopped_late() -> None:
    watch = Watch(START, minutes(45), warned=minutes(44))
    assert verdict(watch, POLICY) is Verdict.NOTHING
    assert stops_at(watch, POLICY) == minutes(54)


@given(st.lists(st.sampled_from(Use), max_size=150), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=150)
def test_nobody_is_stopped_without_a_warning_and_enough_idle_looks_before_it(
    uses: list[Use], after: int, warn: int
) -> None:
    policy = Policy(timedelta(minutes=after), timedelta(minutes=min(warn, after)))
    found = play(*uses, policy=policy)
    stops = [minute for minute, what in found if what is Verdict.STOP]
    for stop in stops:
        told = max(minute for minute, what in found if what is Verdict.WARN)
        assert stop - told >= policy.warn / PAUSE
        last_use = max((i for i in range(stop) if uses[i] is Use.ACTIVE), default=0)
        assert sum(use is Use.IDLE for use in uses[last_use + 1 : stop + 1]) >= after


def kernel(state: str = "idle", at: str = "2026-11-23T12:00:00Z", connections: int = 0) -> dict[str, Any]:
    return {"id": "k1", "execution_state": state, "last_activity": at, "connections": connections}


def test_a_busy_kernel_is_use_though_nothing_else_moves() -> None:
    _, marker = of_jupyter([kernel("busy")], [], None)
    assert of_jupyter([kernel("busy")], [], marker)[0] is Use.ACTIVE


def test_an_open_tab_is_no_use() -> None:
    _, marker = of_jupyter([kernel(connections=0)], [], None)
    assert of_jupyter([kernel(connections=3)], [], marker)[0] is Use.IDLE


@pytest.mark.parametrize(
    ("kernels", "terminals"),
    [
        ([kernel(at="2026-11-23T12:00:07Z")], [{"name": "1", "last_activity": "x"}]),
        ([kernel()], [{"name": "1", "last_activity": "y"}]),
        ([kernel()], []),
        ([kernel(), kernel() | {"id": "k2"}], [{"name": "1", "last_activity": "x"}]),
    ],
)
def test_a_kernel_or_terminal_that_did_something_came_or_went_is_use(kernels: Any, terminals: Any) -> None:
    _, marker = of_jupyter([kernel()], [{"name": "1", "last_activity": "x"}], None)
    assert of_jupyter(kernels, terminals, marker)[0] is Use.ACTIVE


def test_the_first_look_finds_use_and_a_wrong_clock_makes_none() -> None:
    old = kernel(at="1999-01-01T00:00:00Z")
    use, marker = of_jupyter([old], None, None)
    assert use is Use.ACTIVE
    assert of_jupyter([old], None, marker)[0] is Use.IDLE


@pytest.mark.parametrize("answer", [{}, "no", [1], [{"id": "k"}], None])
def test_what_is_not_jupyters_answer_is_refused(answer: Any) -> None:
    with pytest.raises(ValueError, match="kernel"):
        of_jupyter(answer, [], None)


@pytest.mark.parametrize(
    ("total", "before", "use"),
    [
        (700_000, 100_000, Use.ACTIVE),
        (100_500, 100_000, Use.IDLE),
        (100, 100_000, Use.UNKNOWN),
        (None, 100, Use.UNKNOWN),
        (100, None, Use.UNKNOWN),
    ],
)
def test_an_applications_traffic_decides_but_for_a_reload(total: Any, before: Any, use: Use) -> None:
    assert of_traffic(total, before, 60, 2000) is use

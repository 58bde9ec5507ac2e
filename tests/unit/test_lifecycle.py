"""The lifecycle's table: every cell, and what must always be possible."""

import re
from itertools import product
from pathlib import Path

import pytest

from gateway.lifecycle import NEXT, ROUTED, WITH_JOB, Event, Phase, UnexpectedEvent, after


@pytest.mark.parametrize(("phase", "event"), list(product(Phase, Event)))
def test_every_cell_is_a_phase_or_an_error(phase: Phase, event: Event) -> None:
    if (phase, event) in NEXT:
        assert after(phase, event) in Phase
    else:
        with pytest.raises(UnexpectedEvent, match=f"{event} cannot happen while {phase}"):
            after(phase, event)


def reachable(start: Phase) -> set[Phase]:
    found, todo = {start}, [start]
    while todo:
        here = todo.pop()
        for (phase, _), following in NEXT.items():
            if phase is here and following not in found:
                found.add(following)
                todo.append(following)
    return found


def test_every_phase_is_reached_and_leads_to_the_end() -> None:
    assert reachable(Phase.INTENT) == set(Phase)
    for phase in Phase:
        assert Phase.ENDED in reachable(phase)


def test_nothing_happens_after_the_end() -> None:
    assert reachable(Phase.ENDED) == {Phase.ENDED}


def test_whatever_has_a_job_can_be_stopped_and_can_be_gone() -> None:
    for phase in WITH_JOB - {Phase.STOPPING}:
        assert after(phase, Event.STOP) is Phase.STOPPING
    for phase in WITH_JOB:
        assert after(phase, Event.GONE) is Phase.ENDED


def test_a_stop_never_skips_the_settling_of_an_unknown_submit() -> None:
    assert (Phase.SUBMITTING, Event.STOP) not in NEXT
    assert (Phase.SUBMITTING, Event.GONE) not in NEXT


def test_an_unreachable_server_keeps_its_route() -> None:
    assert Phase.UNREACHABLE in ROUTED


def test_there_is_a_job_from_its_id_to_its_end_and_a_route_from_the_first_answer_on() -> None:
    after_accepted = reachable(after(Phase.SUBMITTING, Event.ACCEPTED)) - {Phase.ENDED}
    assert after_accepted == WITH_JOB
    assert {after(Phase.STARTING, Event.ANSWERED), after(Phase.READY, Event.SILENT)} == ROUTED


def test_the_documents_diagram_is_the_tables() -> None:
    text = (Path(__file__).parents[2] / "docs" / "architecture.rst").read_text()
    rows = re.findall(r"^    (\w+) +([\w-]+) +(\w+)$", text, re.MULTILINE)
    assert {(Phase(here), Event(event)): Phase(then) for here, event, then in rows} == NEXT

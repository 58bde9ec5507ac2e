"""What is said to somebody whose job waits: at most three sentences, and what could be done."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gateway.discovery import Discovery, Downtime
from gateway.model import Choices, JobId, JobState, JobStatus
from gateway.waiting import why_it_waits

NOW = datetime(2026, 2, 1, 10, 0, tzinfo=UTC)  # a Sunday
JOB = JobStatus(JobId("42"), "gw-abcdef-abcdefghij", "alice", JobState.QUEUED, reason="Priority")
CHOICES = Choices("lab", "lab", "short", 8 * 60, 1, 500)
SAID = "The cluster is busy. Yours starts by itself."
DOWN = Downtime("maintenance", NOW.replace(hour=16), NOW.replace(hour=23))


def said(discovery: Discovery = Discovery(), job: JobStatus = JOB, choices: Choices = CHOICES) -> str:  # noqa: B008
    return why_it_waits(job, SAID, choices, discovery, NOW)


@pytest.mark.parametrize(
    ("position", "starts", "tail"),
    [
        (None, None, ""),
        (1, None, " No job is before yours."),
        (2, None, " One job is before yours."),
        (4, None, " 3 jobs are before yours."),
        (4, 7200, " 3 jobs are before yours, and it is expected to start in about 2 hours."),
        (None, 60, " The scheduler expects it to start in a minute or two."),
        (None, 13 * 60, " The scheduler expects it to start in about 15 minutes."),
        (None, 3600, " The scheduler expects it to start in about an hour."),
        (None, 50 * 3600, " The scheduler expects it to start in about 2 days."),
        (None, -60, ""),
    ],
)
def test_place_and_estimate_follow_the_reason(position: int | None, starts: int | None, tail: str) -> None:
    job = replace(JOB, starts=None if starts is None else NOW + timedelta(seconds=starts))
    discovery = Discovery(positions={} if position is None else {JOB.job_id: position})
    assert said(discovery, job) == SAID + tail


def test_an_estimate_does_not_change_with_every_look() -> None:
    job = replace(JOB, starts=NOW + timedelta(hours=3))
    texts = {why_it_waits(job, SAID, CHOICES, Discovery(), NOW + timedelta(minutes=m)) for m in range(20)}
    assert len(texts) == 1


def test_a_downtime_in_the_way_is_named_with_what_still_fits() -> None:
    assert said(Discovery(downtimes=(DOWN,), positions={JOB.job_id: 2})) == (
        "8 h cannot start before today's downtime (Sun 1 Feb, 16:00 to 23:00 UTC); 5 h can. "
        "The cluster is busy. One job is before yours."
    )


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        (
            timedelta(minutes=50),
            timedelta(hours=5),
            "today's downtime (Sun 1 Feb, 10:50 to 15:00 UTC); 40 min can.",
        ),
        (timedelta(minutes=5), timedelta(hours=5), "today's downtime (Sun 1 Feb, 10:05 to 15:00 UTC). "),
        (
            timedelta(hours=100),
            timedelta(hours=130),
            "Thursday's downtime (Thu 5 Feb, 14:00 to Fri 6 Feb, 20:00 UTC); 94 h",
        ),
    ],
)
def test_a_downtimes_day_and_what_fits_before_it(start: timedelta, end: timedelta, words: str) -> None:
    down = replace(DOWN, start=NOW + start, end=NOW + end)
    text = said(Discovery(downtimes=(down,)), choices=replace(CHOICES, walltime=120 * 60))
    assert words in text


@pytest.mark.parametrize(
    "down",
    [
        replace(DOWN, maintenance=False),
        replace(DOWN, partitions=frozenset({"long"})),
        replace(DOWN, start=NOW + timedelta(hours=9)),
        replace(DOWN, start=NOW - timedelta(hours=9), end=NOW),
    ],
    ids=["a reservation", "another partition", "after the job", "over"],
)
def test_what_is_not_in_the_way_is_not_spoken_of(down: Downtime) -> None:
    assert said(Discovery(downtimes=(down,))) == SAID


def test_a_job_that_is_expected_too_late_for_the_downtime_is_told_so() -> None:
    down = replace(DOWN, start=NOW + timedelta(hours=9), end=NOW + timedelta(hours=20))
    text = said(Discovery(downtimes=(down,)), replace(JOB, starts=NOW + timedelta(hours=20)))
    assert text.startswith(
        "8 h cannot start before today's downtime (Sun 1 Feb, 19:00 to Mon 2 Feb, 06:00 UTC). "
    )


def test_during_a_downtime_nothing_starts() -> None:
    now_down = replace(DOWN, start=NOW - timedelta(hours=1))
    assert said(Discovery(downtimes=(now_down,))).startswith("Nothing starts during the downtime (Sun 1 Feb")


@pytest.mark.parametrize("state", [JobState.HELD, JobState.CANNOT_START])
def test_a_job_that_is_not_in_line_is_told_its_reason_alone(state: JobState) -> None:
    job = replace(JOB, state=state, starts=NOW + timedelta(hours=1))
    assert said(Discovery(downtimes=(DOWN,), positions={JOB.job_id: 1}), job) == SAID


@pytest.mark.parametrize(
    ("minutes", "words"),
    [
        (2, "in a minute or two"),
        (2.1, "in about 5 minutes"),
        (54.9, "in about 55 minutes"),
        (55, "in about an hour"),
        (89.9, "in about an hour"),
        (90, "in about 2 hours"),
        (36 * 60 - 1, "in about 36 hours"),
        (36 * 60, "in about 2 days"),
    ],
)
def test_an_estimate_grows_coarser_with_the_time_until_then(minutes: float, words: str) -> None:
    job = replace(JOB, starts=NOW + timedelta(minutes=minutes))
    assert said(job=job).endswith(f"The scheduler expects it to start {words}.")


@pytest.mark.parametrize("position", [0, -1])
def test_a_place_that_is_none_is_not_spoken_of(position: int) -> None:
    assert said(Discovery(positions={JOB.job_id: position})) == SAID


def test_an_estimate_that_is_over_is_not_spoken_of() -> None:
    assert said(job=replace(JOB, starts=NOW)) == SAID


def test_the_next_downtime_is_the_one_that_is_named() -> None:
    later = replace(DOWN, start=NOW.replace(hour=17), end=NOW.replace(hour=18))
    for both in ((DOWN, later), (later, DOWN)):
        assert "16:00 to 23:00" in said(Discovery(downtimes=both))


def test_a_job_that_ends_as_the_downtime_begins_may_start() -> None:
    assert said(Discovery(downtimes=(replace(DOWN, start=NOW + timedelta(hours=8)),))) == SAID
    early = replace(DOWN, start=NOW + timedelta(hours=8) - timedelta(seconds=1))
    assert said(Discovery(downtimes=(early,))) != SAID


@pytest.mark.parametrize(
    ("minutes", "fits"),
    [
        (15, ""),  # 9 minutes: not worth a start
        (16, "; 10 min can"),
        (67, "; 50 min can"),
        (69, "; 1 h can"),
        (193, "; 2 h 30 min can"),
        (195, "; 3 h can"),
        (330, "; 5 h can"),
    ],
)
def test_what_fits_before_a_downtime_is_a_walltime_that_people_type(minutes: int, fits: str) -> None:
    down = replace(DOWN, start=NOW + timedelta(minutes=minutes))
    assert f"UTC){fits}. " in said(Discovery(downtimes=(down,)))


def test_a_downtime_a_week_away_is_the_next_one() -> None:
    week = replace(DOWN, start=NOW + timedelta(days=7), end=NOW + timedelta(days=8))
    month = replace(CHOICES, walltime=30 * 24 * 60)
    assert "before the next downtime (Sun 8 Feb" in said(Discovery(downtimes=(week,)), choices=month)
    sooner = replace(week, start=week.start - timedelta(minutes=1))
    assert "before Sunday's downtime" in said(Discovery(downtimes=(sooner,)), choices=month)


def test_a_downtime_that_begins_now_has_begun() -> None:
    assert said(Discovery(downtimes=(replace(DOWN, start=NOW),))).startswith("Nothing starts during")


def test_a_downtime_of_the_jobs_own_partition_is_in_its_way() -> None:
    own = replace(DOWN, partitions=frozenset({"short", "long"}))
    assert said(Discovery(downtimes=(own,))) != SAID


def test_of_a_long_reason_two_sentences_are_said() -> None:
    text = why_it_waits(JOB, "One. Two. Three.", CHOICES, Discovery(), NOW)
    assert text == "One. Two."
    assert why_it_waits(JOB, " ", CHOICES, Discovery(), NOW) == ""
    place = Discovery(positions={JOB.job_id: 1})
    assert why_it_waits(JOB, " ", CHOICES, place, NOW) == "No job is before yours."

"""Grid Engine's projects, calendars and advance reservations. The recordings are a real qmaster's."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateway.discovery import EVERYBODY, Discovery, Downtime
from gateway.errors import InvalidChoice
from gateway.model import Choices, Completed, JobId, JobState, JobStatus, User
from gateway.options import check, fields
from gateway.schedulers.sge import Sge
from gateway.schedulers.sge_calendars import calendar, windows
from gateway.schedulers.sge_closings import Clock, closings
from gateway.siteconfig import parse_site_config
from gateway.sitemerge import complete
from gateway.waiting import why_it_waits
from tests.unit.test_schedulers import INSTANCE, MARK, NAME

RECORDINGS = Path(__file__).parents[1] / "recordings/sge"
BERLIN = ZoneInfo("Europe/Berlin")
NO_ANSWER = Completed(124)
#: A time zone's file without the end of its last line.
CUT_SHORT = Path("/usr/share/zoneinfo/Europe/Berlin").read_bytes()[:-1]
NO_RESERVATIONS = Completed(0, "<?xml version='1.0'?>\n<qrstat>\n</qrstat>\n")
#: When `CLOSED` was measured, a Monday.
MEASURED = datetime(2026, 11, 23, 23, 40, tzinfo=UTC)
#: Years and weeks of calendars, and whether the qmaster had the queue closed then.
CLOSED: Sequence[tuple[str, str, bool]] = (
    ("NONE", "NONE", False),
    ("NONE", "mon-fri=6-20 sat-sun=on", False),
    ("NONE", "off", True),
    ("NONE", "12-11", True),
    ("NONE", "fri-mon", True),
    ("NONE", "0-24", True),
    ("NONE", "22-24=suspended", True),
    ("NONE", "monday=off", True),
    ("NONE", "mond=off", True),
    ("NONE", "MON=OFF", True),
    ("NONE", "sun-tue=20-6", True),
    ("NONE", "0-24 mon=23-24=on", False),
    ("NONE", "22:30:15-23:59:59", True),
    ("NONE", "mon,wed=22-24=off tue", True),
    ("NONE", "mon=22-24=suspended 23-24=off", True),
    ("23.11.2026", "NONE", True),
    ("23.november.2026", "NONE", True),
    ("23.nov.2026=on", "off", False),
    ("23.11.2026-24.11.2026=off", "NONE", True),
    ("20.11.2026-30.11.2026=0-1", "off", True),
    ("1.1.2026,23.11.2026=22-24,1-2=suspended", "mon", True),
    ("off", "NONE", True),
    ("on", "mon", False),
    ("23.11.2026=off 23.11.2026=23-24=on", "NONE", False),
    # for each time, not for whole days
    ("23.11.2026=0-1=on", "off", True),
    ("23.11.2026=0-1=off", "mon=23-24", True),
    ("23.11.2026=0-1=off", "on", False),
    ("23.11.2026=23-24=off", "on", True),
    ("23.11.2026=23-24=on", "off", False),
)
#: What the qmaster refused.
REFUSED: Sequence[tuple[str, str]] = (
    ("23.11.26", "NONE"),
    ("24.11.2026-23.11.2026", "NONE"),
    ("NONE", "25-26"),
    ("NONE", "mon=0-24:0:1"),
    ("NONE", "5-5"),
    ("NONE", "mo"),
    ("NONE", "mondayx=off"),
    ("NONE", "mon = off"),
    ("NONE", "mon=off|tue"),
    ("NONE", "mon=22-24=suspended,tue"),
)


def recorded(name: str) -> Completed:
    return Completed(0, (RECORDINGS / name).read_text())


def at(now: datetime, zone: str = "UTC") -> tuple[Completed, Completed]:
    """Return what a login node says of its clock."""
    data = base64.encodebytes(Path("/usr/share/zoneinfo", zone).read_bytes()).decode()
    return Completed(0, f"{int(now.timestamp())}\n"), Completed(0, data)


def discovered(now: datetime = MEASURED, zone: str = "UTC", /, **changes: Completed) -> Discovery:
    """Return what a discovery says; the two queues' calendars are ``soon`` and ``nights``."""
    date, localtime = at(now, zone)
    answers = {
        "queues": recorded("qconf-sq-calendars.txt"),
        "hosts": NO_ANSWER,
        "complexes": NO_ANSWER,
        "ours": NO_ANSWER,
        "jobs": NO_ANSWER,
        "projects": recorded("qconf-sprj.txt"),
        "lists": recorded("qconf-su.txt"),
        "calendars": recorded("qconf-scal.txt"),
        "settings": recorded("qconf-ssconf.txt"),
        "reservations": recorded("qrstat.xml"),
        "date": date,
        "localtime": localtime,
    }
    return Sge().read_discovery([*(answers | changes).values()], INSTANCE, MARK)


def on(day: int, hour: int, minute: int = 0, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


def maintenance(found: Discovery) -> list[Downtime]:
    return [each for each in found.downtimes if each.maintenance]


# --- calendars ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("year", "week", "closed"), CLOSED)
def test_a_calendar_closes_a_queue_when_the_qmaster_does(year: str, week: str, closed: bool) -> None:
    found = windows(calendar(year, week), MEASURED, UTC)
    assert any(start <= MEASURED < end for start, end in found) is closed


@pytest.mark.parametrize(("year", "week"), REFUSED)
def test_what_the_qmaster_refuses_is_not_guessed_at(year: str, week: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        calendar(year, week)


@pytest.mark.parametrize("times", ["12:60-14", "12-13:0:60", "12:0:99-13", "24:1-5", "12-"])
def test_what_is_no_time_of_a_day_is_not_guessed_at(times: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        calendar("NONE", times)


def test_a_window_begins_and_ends_to_the_second_and_goes_round_midnight() -> None:
    exact = calendar("24.12.2026=6:30-7:45:30 1.december.2026=22-6", "NONE")
    begin = datetime(2026, 12, 24, 6, 30, tzinfo=UTC)
    assert windows(exact, MEASURED, UTC) == [
        (on(1, 0, month=12), on(1, 6, month=12)),
        (on(1, 22, month=12), on(2, 0, month=12)),
        (begin, begin + timedelta(hours=1, minutes=15, seconds=30)),
    ]


def test_what_goes_on_over_midnight_and_the_weekend_is_one_window() -> None:
    day = calendar("NONE", "mon-fri=20-6 sat-sun")
    friday = on(27, 12)
    assert windows(day, friday, UTC)[:2] == [(on(27, 20), on(30, 6)), (on(30, 20), on(1, 6, month=12))]
    ends_a_second_early = calendar("23.11.2026=8-23:59:59 24.11.2026=0-7", "NONE")
    assert windows(ends_a_second_early, MEASURED, UTC) == [(on(23, 8), on(24, 7))]


def test_a_range_of_weekdays_goes_over_the_weeks_end_and_no_further() -> None:
    assert windows(calendar("NONE", "fri-mon"), on(25, 12), UTC)[0] == (on(27, 0), on(1, 0, month=12))


def test_a_window_is_in_the_clusters_time_also_where_its_clocks_change() -> None:
    nights = calendar("NONE", "22-6")
    saturday = datetime(2026, 10, 24, 12, tzinfo=UTC)
    first, second = windows(nights, saturday, BERLIN)[:2]
    assert first == (datetime(2026, 10, 24, 20, tzinfo=UTC), datetime(2026, 10, 25, 5, tzinfo=UTC))
    assert second == (datetime(2026, 10, 25, 21, tzinfo=UTC), datetime(2026, 10, 26, 5, tzinfo=UTC))


def test_what_is_over_is_no_window_and_what_began_before_keeps_its_start() -> None:
    year = calendar("1.11.2026=8-18 20.11.2026-25.11.2026=off 1.6.2027", "NONE")
    assert windows(year, MEASURED, UTC) == [(on(20, 0), on(26, 0))]


# --- downtimes ----------------------------------------------------------------------------------------------


def test_a_real_clusters_calendars_and_reservations_are_downtimes() -> None:
    found = discovered()
    mine, roots, *closings = found.downtimes
    assert (mine.name, mine.maintenance, mine.users) == ("7", False, frozenset({"alice"}))
    assert (mine.start, mine.end) == (on(24, 21), on(24, 22))
    assert (roots.name, roots.users) == ("8", frozenset({"root"}))
    assert Downtime("soon", on(24, 8), on(24, 18), frozenset({"long.q"})) in closings
    nights = [each for each in closings if each.name == "nights"]
    assert nights[0] == Downtime("nights", on(24, 6), on(24, 20), frozenset({"short.q"}))
    assert {each.start.weekday() for each in nights} == set(range(5))
    assert found.faults == ()


def test_the_calendar_is_read_in_the_login_nodes_zone() -> None:
    (soon,) = (each for each in maintenance(discovered(MEASURED, "Europe/Berlin")) if each.name == "soon")
    assert (soon.start, soon.end) == (on(24, 7), on(24, 17))
    nowhere = Completed(1, "", "base64: /etc/localtime: No such file or directory\n")
    assert discovered(localtime=nowhere) == discovered()


@pytest.mark.parametrize("ahead", [0, 32])
def test_what_is_to_come_is_in_a_jobs_way_only_where_the_scheduler_looks_ahead(ahead: int) -> None:
    """Measured: with max_reservation 0 and no advance reservation, what is too long starts all the same."""
    text = recorded("qconf-ssconf.txt").stdout
    settings = Completed(0, text.replace("max_reservation                   0", f"max_reservation {ahead}"))
    before = maintenance(discovered(settings=settings, reservations=NO_RESERVATIONS))
    assert bool(before) is bool(ahead)
    within = discovered(on(24, 12), settings=settings, reservations=NO_RESERVATIONS)
    open_now = [each for each in maintenance(within) if each.start <= on(24, 12)]
    assert {each.name for each in open_now} == {"soon", "nights"}
    assert bool(ahead) is (len(maintenance(within)) > len(open_now))


def test_a_calendar_of_all_queues_is_everywhere() -> None:
    queues = recorded("qconf-sq-calendars.txt").stdout.replace("nights", "soon")
    (soon,) = maintenance(discovered(queues=Completed(0, queues)))
    assert soon.partitions == frozenset()


def test_what_cannot_be_read_is_told_and_takes_nothing_else_away() -> None:
    text = recorded("qconf-scal.txt").stdout
    odd = discovered(calendars=Completed(0, text.replace("mon-fri=6-20", "mo-fr=6-20")))
    assert odd.faults == ("calendar nights: cannot be read: mo",)
    assert {each.name for each in maintenance(odd)} == {"soon"}
    of_nodes = recorded("qconf-sq-calendars.txt").stdout.replace("  soon", "  NONE,[sgen1=soon]")
    single = discovered(queues=Completed(0, of_nodes))
    assert single.faults == ("queue long.q: the calendars of single nodes are not looked at",)
    assert {each.name for each in maintenance(single)} == {"nights"}


class Nowhere(tzinfo):
    """A zone that is none: tzfile(5) holds any number."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(days=2)

    def dst(self, _: datetime | None) -> None:
        return None

    def tzname(self, _: datetime | None) -> None:
        return None


def test_of_each_calendar_is_told_that_there_is_no_time_for_it() -> None:
    faults: list[str] = []
    known = {name: calendar("off", "NONE") for name in ("a", "b")}
    queues = {"one.q": "a", "two.q": "b"}
    assert not list(closings(queues, known, Clock(MEASURED, Nowhere()), ahead=True, faults=faults))
    assert [fault.partition(":")[0] for fault in faults] == ["calendar a", "calendar b"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"localtime": Completed(1, "", "base64: /etc/localtime: Permission denied\n")}, "Permission denied"),
        ({"calendars": Completed(1, "", "denied: no manager\n")}, "denied: no manager"),
        (
            {"settings": Completed(0, "algorithm default\n"), "reservations": NO_RESERVATIONS},
            "max_reservation",
        ),
        ({"date": Completed(0, "soon\n")}, "date: soon"),
        ({"date": Completed(127, "", "env: /bin/date: not there")}, "date: exit status 127"),
        ({"localtime": Completed(0, "!!!!\n")}, "base64: /etc/localtime is no time zone"),
        ({"localtime": Completed(0, base64.b64encode(b"TZif2" + b"\xff" * 200).decode())}, "no time zone"),
        ({"localtime": Completed(0, base64.b64encode(CUT_SHORT).decode())}, "it is cut short"),
        ({"calendars": NO_ANSWER}, "qconf: exit status 124"),
    ],
)
def test_without_a_clock_or_calendars_nothing_is_said_of_them(
    changes: dict[str, Completed], fault: str
) -> None:
    found = discovered(**changes)
    assert maintenance(found) == []
    assert [fault in told for told in found.faults] == [True]
    assert found.accounts


def test_a_cluster_without_calendars_projects_and_reservations_has_no_fault() -> None:
    found = discovered(
        projects=Completed(1, "", "no project list defined\n"),
        calendars=Completed(1, "", "no calendar defined\n"),
        reservations=NO_RESERVATIONS,
    )
    assert (found.accounts, found.downtimes, found.faults) == (None, (), ())


@pytest.mark.parametrize(
    ("state", "there"), [("w", True), ("W", True), ("r", True), ("E", False), ("d", False)]
)
def test_a_reservation_counts_from_its_making_to_its_end(state: str, there: bool) -> None:
    text = recorded("qrstat.xml").stdout.replace("<state>w</state>", f"<state>{state}</state>")
    found = discovered(reservations=Completed(0, text)).downtimes
    assert [each.name for each in found if not each.maintenance] == (["7", "8"] if there else [])


def test_a_queues_limit_is_that_of_all_its_nodes() -> None:
    queues = recorded("qconf-sq-calendars.txt").stdout
    assert queues.count("2:0:0") == 1
    limited = discovered(queues=Completed(0, queues.replace("2:0:0", "2:0:0,[sgen1=1:0:0]")))
    assert {room.name: room.max_walltime for room in limited.rooms}["long.q"] == 120


def test_a_reservation_that_has_failed_or_has_no_times_is_none() -> None:
    text = recorded("qrstat.xml").stdout.replace("<state>w</state>", "<state>E</state>", 1)
    text = text.replace("2026-11-25T02:00:00", "soon")
    assert [
        each for each in discovered(reservations=Completed(0, text)).downtimes if not each.maintenance
    ] == []


def test_a_shorter_walltime_that_can_start_is_named() -> None:
    job = JobStatus(JobId("1"), NAME, "alice", JobState.QUEUED, native="qw")
    reason = (
        'cannot run in queue "long.q@sgen1" because it offers only qc:slots=0.000000 due to a reservation'
    )
    said = Sge().why(JobStatus(JobId("1"), NAME, "alice", JobState.QUEUED, reason=reason, native="qw"))
    assert "reserved before it would end" in said
    choices = Choices("sge", "lab", "long.q", 600, 1, 100)
    told = why_it_waits(job, said, choices, discovered(), MEASURED)
    assert "10 h cannot start before Tuesday's downtime (Tue 24 Nov, 08:00 to 18:00 UTC); 7 h can." in told
    in_time = Choices("sge", "lab", "long.q", 60, 1, 100)
    assert "downtime (" not in why_it_waits(job, said, in_time, discovered(), MEASURED)


# --- projects -----------------------------------------------------------------------------------------------

SITE = """\
version: 1
name: sge
title: Lab
scheduler: sge
login: {hosts: [login], user: svc, key: /k, known_hosts: /h, act_as: sudo}
tunnel: {user: tunnel, key: /k, ports: 20000-20009}
partitions:
  - {name: long.q, title: Long, max_walltime: 4h, max_cores: 4, max_memory: 8G, gpus: {gpu: 2}, default: true}
  - {name: short.q, title: Short, max_walltime: 1h, max_cores: 4, max_memory: 8G}
applications: [{name: lab, title: JupyterLab, command: [jupyter, lab], url: /lab}]
"""


def test_projects_are_theirs_who_are_in_their_lists_and_everybodys_without_one() -> None:
    """Measured: a project that is not here is refused by qsub, and those that are here are taken."""
    found = discovered()
    assert found.accounts == {
        EVERYBODY: ("p_open",),
        "@staff": ("p_chem",),
        "alice": ("p_chem", "p_open"),
        "bob": ("p_chem", "p_open", "p_phys"),
    }
    assert found.accounts_of("carol") == ("p_open",)
    assert found.accounts_of("carol", ["guests", "staff"]) == ("p_open", "p_chem")
    assert found.accounts_of("alice", ["staff"]) == ("p_chem", "p_open")
    assert Discovery().accounts_of("alice") is None


def test_who_is_in_an_xacl_may_not_use_a_project_that_others_may() -> None:
    projects = recorded("qconf-sprj.txt").stdout.replace("acl NONE\nxacl NONE", "acl NONE\nxacl phys")
    found = discovered(projects=Completed(0, projects))
    assert found.accounts_of("bob") == ("p_chem", "p_phys")
    assert found.accounts_of("carol") == ("p_open",)


@pytest.mark.parametrize("part", ["projects", "lists"])
def test_projects_that_are_not_answered_are_not_known(part: str) -> None:
    found = discovered(**{part: Completed(1, "", "p_chem is not known as a project\n")})
    assert found.accounts is None
    assert found.faults == ("qconf: exit status 1: p_chem is not known as a project",)


def test_the_form_offers_the_usual_project_and_a_persons_own() -> None:
    found = discovered()
    site = complete(parse_site_config(SITE, "sge.yaml"), found)
    user = User("carol", groups=frozenset({"staff"}))
    (account,) = (field for field in fields(site, user, found) if field.name == "account")
    assert [option.value for option in account.choices] == ["", "p_open", "p_chem"]
    asked = {"cluster": ["sge"], "partition": ["short.q"], "application": ["lab"]}
    discoveries = {"sge": found}
    assert check({"sge": site}, asked, user, discoveries).account is None
    chosen = check({"sge": site}, {**asked, "account": ["p_chem"]}, user, discoveries)
    assert chosen.account == "p_chem"
    with pytest.raises(InvalidChoice):
        check({"sge": site}, {**asked, "account": ["p_phys"]}, user, discoveries)


def test_a_kind_of_gpus_that_says_only_that_they_are_is_said_once() -> None:
    site = parse_site_config(SITE, "sge.yaml")
    (partition,) = (field for field in fields(site, None) if field.name == "partition")
    assert "2 GPUs" in partition.choices[0].label


def test_the_questions_are_of_all_names_that_there_are() -> None:
    each = {
        command.words: command.each for command in Sge().discovery_commands(INSTANCE, MARK) if command.each
    }
    assert each == {
        ("qconf", "-sprj"): ("qconf", "-sprjl"),
        ("qconf", "-su"): ("qconf", "-sul"),
        ("qconf", "-scal"): ("qconf", "-scall"),
    }


def test_a_look_far_ahead_takes_no_time() -> None:
    long = calendar("NONE", " ".join(f"{hour}-{hour + 1}" for hour in range(0, 24, 2)))
    found = windows(long, MEASURED, UTC)
    assert len(found) <= 200
    assert found[-1][0] - MEASURED < timedelta(days=62)

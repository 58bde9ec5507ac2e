"""Grid Engine's calendars: calendar_conf(5), in the cluster's own time. Measured with 8.1.9."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

#: Days before and after now that are looked at; the start of what began before is cut off.
_BACK, _AHEAD = 31, 62
_WEEK = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_STATES = ("on", "off", "suspended")
_DATE = re.compile(r"(\d{1,2})\.(\d{1,2}|[a-z]+)\.(\d{4})", re.ASCII)
_TIMES = re.compile(r"(\d{1,2})(?::(\d{1,2}))?(?::(\d{1,2}))?", re.ASCII)
_DAY = 24 * 3600
#: The most windows of a calendar, and reservations, that are looked at.
MOST = 200

#: A stretch of a day, in seconds since its midnight.
_Span = tuple[int, int]
_Window = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class _Entry:
    """An area of a calendar: weekdays (0 is Monday) or ranges of dates, or all days; and what holds then."""

    weekdays: frozenset[int] | None
    dates: tuple[tuple[date, date], ...] | None
    spans: tuple[_Span, ...]
    state: str

    def holds(self, day: date) -> bool:
        if self.dates is not None:
            return any(first <= day <= last for first, last in self.dates)
        return self.weekdays is None or day.weekday() in self.weekdays


@dataclass(frozen=True, slots=True)
class Calendar:
    """What a calendar says of days of the year, and of the week where the year says nothing."""

    year: tuple[_Entry, ...]
    week: tuple[_Entry, ...]

    def closed(self, day: date) -> list[_Span]:
        """Return when nothing starts on a day.

        The year's word counts wherever it has one, and else the week's: for each time, not for whole days as
        calendar_conf(5) has it.
        """
        year, week = ([entry for entry in entries if entry.holds(day)] for entries in (self.year, self.week))
        said = [span for entry in year for span in entry.spans]
        return sorted([*_closed(year), *_without(_closed(week), said)])


def _closed(entries: Sequence[_Entry]) -> list[_Span]:
    """Return the spans that are closed: ``on`` overrides all else."""
    spans, opened = (
        [span for entry in entries if (entry.state == "on") is on for span in entry.spans]
        for on in (False, True)
    )
    return _without(spans, opened)


def _without(spans: list[_Span], others: Sequence[_Span]) -> list[_Span]:
    for first, last in others:
        pieces = [piece for a, b in spans for piece in ((a, min(b, first)), (max(a, last), b))]
        spans = [(a, b) for a, b in pieces if a < b]
    return spans


def calendar(year: str, week: str) -> Calendar:
    """Return a calendar from its two lines.

    Raises:
        ValueError: They say something that calendar_conf(5) does not know.
    """
    return Calendar(*(tuple(_entry(word) for word in _entries(text)) for text in (year, week)))


def _entries(text: str) -> list[str]:
    words = text.lower().split()
    return [] if words == ["none"] else words


def _entry(text: str) -> _Entry:
    parts = text.split("=")
    state = parts.pop() if parts[-1] in _STATES else "off"
    spans: tuple[_Span, ...] = ((0, _DAY),)
    if parts and re.fullmatch(r"[\d:,-]+", parts[-1], re.ASCII):
        spans = tuple(span for item in parts.pop().split(",") for span in _spans(item))
    if not parts:
        return _Entry(None, None, spans, state)
    if len(parts) > 1:
        raise ValueError(text)
    days = [item.partition("-") for item in parts[0].split(",")]
    if "." in parts[0]:
        return _Entry(None, tuple(_dates(a, b if dash else a) for a, dash, b in days), spans, state)
    return _Entry(
        frozenset(day for a, dash, b in days for day in _days(a, b if dash else a)), None, spans, state
    )


def _spans(text: str) -> Iterator[_Span]:
    """Yield a range of times; what ends before it begins is both ends of the day."""
    first, last = (_seconds(part) for part in text.split("-"))
    if first == last:
        raise ValueError(text)
    yield from ((first, last),) if first < last else ((0, last), (first, _DAY))


def _seconds(text: str) -> int:
    found = _TIMES.fullmatch(text)
    if not found:
        raise ValueError(text or "a time is missing")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    if minutes > 59 or seconds > 59 or 3600 * hours + 60 * minutes + seconds > _DAY:
        raise ValueError(text)
    return 3600 * hours + 60 * minutes + seconds


def _dates(first: str, last: str) -> tuple[date, date]:
    begin, end = _date(first), _date(last)
    if begin > end:
        raise ValueError(f"{first}-{last}")
    return begin, end


def _date(text: str) -> date:
    found = _DATE.fullmatch(text)
    if not found:
        raise ValueError(text)
    month = int(found[2]) if found[2].isdecimal() else _named(found[2], _MONTHS) + 1
    return date(int(found[3]), month, int(found[1]))


def _days(first: str, last: str) -> Iterator[int]:
    """Yield a range of weekdays, which may go over the week's end."""
    begin, end = _named(first, _WEEK), _named(last, _WEEK)
    yield from ((begin + days) % 7 for days in range((end - begin) % 7 + 1))


def _named(text: str, names: Sequence[str]) -> int:
    """Return which of the names a word is, which may be cut off after three letters or more."""
    for number, name in enumerate(names):
        if len(text) >= 3 and name.startswith(text):
            return number
    raise ValueError(text)


def windows(found: Calendar, now: datetime, zone: tzinfo) -> list[_Window]:
    """Return when a calendar closes its queues, from now on, in UTC.

    Raises:
        ValueError: The time zone is none: it has an offset of more than a day.
    """
    today = now.astimezone(zone).date()
    joined: list[_Window] = []
    for day in (today + timedelta(days=number) for number in range(-_BACK, _AHEAD)):
        midnight = datetime.combine(day, time(), zone)
        for span in found.closed(day):
            # wall-clock time: what is added is not what passes where clocks change
            start, end = ((midnight + timedelta(seconds=seconds)).astimezone(UTC) for seconds in span)
            if joined and start - joined[-1][1] <= timedelta(seconds=1):  # 23:59:59 is the day's end too
                joined[-1] = joined[-1][0], max(end, joined[-1][1])
            else:
                joined.append((start, end))
    return [window for window in joined if window[1] > now][:MOST]

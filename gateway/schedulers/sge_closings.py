"""When Grid Engine's queues are closed, and its advance reservations. Measured with 8.1.9.

Nothing starts in a queue while its calendar says ``off`` or ``suspended``. A job that would not be over by
then is held back only where the scheduler looks ahead: with max_reservation in sched_conf(5), or with an
advance reservation anywhere.
"""

import binascii
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from io import BytesIO
from itertools import islice
from zoneinfo import ZoneInfo

from gateway.discovery import Downtime
from gateway.errors import QueueUnreachable
from gateway.model import Completed
from gateway.schedulers.sge_calendars import MOST, Calendar, calendar, windows
from gateway.schedulers.sge_documents import answered, document, text_of
from gateway.schedulers.sge_qconf import records
from gateway.schedulers.text import one_line

_EPOCH = re.compile(r"[1-9][0-9]{8,9}\n?", re.ASCII)
_ISO = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d", re.ASCII)


@dataclass(frozen=True, slots=True)
class Clock:
    """The login node's: what time it is, and in which zone Grid Engine's calendars are."""

    now: datetime
    zone: tzinfo


class _Whole(BytesIO):
    """A file that is not read beyond its end: zoneinfo would, for ever (CPython 3.11, load_data())."""

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        if size and size > len(found):
            raise EOFError("it is cut short")
        return found


def clock(seconds: Completed, localtime: Completed) -> Clock:
    """Return what ``date +%s`` and ``base64 /etc/localtime`` printed; without that file it is UTC (tzset(3)).

    Raises:
        QueueUnreachable: They cannot be read.
    """
    if not _EPOCH.fullmatch(answered(seconds, "date")):
        raise QueueUnreachable(f"date: {one_line(seconds.stdout)}")
    now = datetime.fromtimestamp(int(seconds.stdout), UTC)
    if localtime.status and "No such file" in localtime.stderr:
        return Clock(now, UTC)
    try:
        zone = ZoneInfo.from_file(_Whole(binascii.a2b_base64(answered(localtime, "base64"))))
    except (ValueError, struct.error, IndexError, OverflowError, EOFError, AssertionError) as error:
        raise QueueUnreachable(f"base64: /etc/localtime is no time zone: {error}") from None
    return Clock(now, zone)


def looks_ahead(settings: Completed, reservations: Sequence[Downtime]) -> bool:
    """Return whether the scheduler holds back what would not be over before a queue closes.

    Args:
        settings: ``qconf -ssconf``.
        reservations: The advance reservations.

    Raises:
        QueueUnreachable: It is not known.
    """
    if reservations:
        return True
    found = re.search(r"^max_reservation\s+(\d+)\s*$", answered(settings, "qconf"), re.M | re.ASCII)
    if not found:
        raise QueueUnreachable("qconf: -ssconf does not say max_reservation")
    return found[1].strip("0") != ""


def calendars(completed: Completed, faults: list[str]) -> Mapping[str, Calendar]:
    """Return the calendars that ``qconf -scal`` showed; of one that cannot be read is told in ``faults``.

    Raises:
        QueueUnreachable: It did not answer.
    """
    if completed.status == 1 and "no calendar defined" in completed.stderr:
        return {}
    found: dict[str, Calendar] = {}
    for fields in records(answered(completed, "qconf"), "calendar_name"):
        name = fields["calendar_name"]
        try:
            found[name] = calendar(fields.get("year", ""), fields.get("week", ""))
        except ValueError as error:
            faults.append(f"calendar {one_line(name)}: cannot be read: {one_line(str(error))}")
    return found


def closings(
    of_queues: Mapping[str, str], known: Mapping[str, Calendar], at: Clock, *, ahead: bool, faults: list[str]
) -> Iterator[Downtime]:
    """Yield when queues are closed: of those to come only where jobs are held back for them.

    Args:
        of_queues: By queue what ``qconf -sq`` says of its calendar.
        known: The calendars.
        at: The login node's clock.
        ahead: Whether jobs are.
        faults: Is told of what cannot be read.
    """
    shared: dict[str, list[str]] = {}
    for queue, name in of_queues.items():
        if ",[" in name:
            faults.append(f"queue {one_line(queue)}: the calendars of single nodes are not looked at")
        elif name in known:
            shared.setdefault(name, []).append(queue)
    for name, queues in shared.items():
        everywhere = len(queues) == len(of_queues)
        try:
            found = windows(known[name], at.now, at.zone)
        except (ValueError, OverflowError) as error:
            faults.append(f"calendar {one_line(name)}: cannot be read: {error}")
            continue
        for start, end in found:
            if ahead or start <= at.now:
                yield Downtime(name, start, end, frozenset() if everywhere else frozenset(queues))


def reservations(completed: Completed) -> tuple[Downtime, ...]:
    """Return the advance reservations of ``qrstat -u * -xml``; a job asks for one by its id.

    Whose jobs may use one besides its owner's, and which queues it is in, is said of one at a time only.

    Raises:
        QueueUnreachable: It did not answer.
    """
    found = []
    for each in islice(document(completed, "qrstat", "qrstat").iterfind("ar_summary"), MOST):
        number, owner, state, *times = (
            text_of(each, tag) for tag in ("id", "owner", "state", "start_time", "end_time")
        )
        if state in ("w", "W", "r") and all(_ISO.fullmatch(text) for text in times):
            start, end = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in times)
            found.append(Downtime(number, start, end, maintenance=False, users=frozenset({owner})))
    return tuple(found)

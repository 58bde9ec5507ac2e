"""HAProxy's own counters: which of them are asked for, and what they say. Pure.

Source: "show info" and "show stat" in HAProxy's management guide; the answers are as 2.6.12 gives them.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from gateway.metrics import ProxySample

#: All proxies (-1), frontends and backends (1 + 2), all of them (-1): not a row for each server.
TOTALS = ("show", "stat", "-1", "3", "-1")
#: The same for servers alone (4).
SERVERS = ("show", "stat", "-1", "4", "-1")
_SIDES = {"hub": "hub", "users": "servers"}
_INFO = re.compile(r"^(\w+): (.*)$", re.MULTILINE)
_CODE = re.compile(r"hrsp_([1-5]xx)")


def read_figures(info: str, stat: str) -> ProxySample:
    """Return what the answers to ``show info`` and to `TOTALS` say; what they leave out is 0."""
    facts = dict(_INFO.findall(info))
    requests, received, sent = Counter[str](), Counter[str](), Counter[str]()
    codes = Counter[tuple[str, str]]()
    for row in _rows(stat):
        side = _SIDES.get(row["pxname"].partition("-")[0])
        if row["svname"] != "BACKEND" or side is None:
            continue
        requests[side] += _number(row.get("req_tot") or row.get("stot"))
        received[side] += _number(row.get("bin"))
        sent[side] += _number(row.get("bout"))
        for name, value in row.items():
            if found := _CODE.fullmatch(name or ""):
                codes[side, found[1]] += _number(value)
    return ProxySample(
        connections=_number(facts.get("CurrConns")),
        connections_max=_number(facts.get("Maxconn")),
        uptime=float(_number(facts.get("Uptime_sec"))),
        requests=requests,
        codes=codes,
        bytes_in=received,
        bytes_out=sent,
    )


def read_last_used(stat: str) -> Mapping[str, int]:
    """Return for each server, ``ID.G``, how many seconds ago a request began; none where there was none.

    Args:
        stat: The answer to `SERVERS`.
    """
    found = {row["svname"]: row.get("lastsess", "") for row in _rows(stat)}
    return {
        name: int(seconds)
        for name, seconds in found.items()
        if re.fullmatch(r"\d{1,12}", seconds or "", re.ASCII)
    }


def read_traffic(stat: str) -> Mapping[str, int]:
    """Return for each server, ``ID.G``, the bytes that went through it, both ways.

    Args:
        stat: The answer to `SERVERS`.
    """
    return {row["svname"]: _number(row.get("bin")) + _number(row.get("bout")) for row in _rows(stat)}


def _rows(stat: str) -> Iterator[dict[str, str]]:
    text = stat.removeprefix("# ")
    for row in csv.DictReader(text.splitlines()):
        if row.get("pxname") and row.get("svname"):
            yield row


def _number(text: str | None) -> int:
    return int(text) if text and re.fullmatch(r"\d{1,19}", text, re.ASCII) else 0

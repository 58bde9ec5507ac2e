"""qstat: jobs, queues and the server, in a table, separated by a delimiter (-F dsv) or as JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from . import wire
from .program import job_id

_TIMES = ("ctime", "etime", "stime", "obittime", "mtime", "qtime", "Execution_Time", "estimated.start_time")
_ESCAPED = "\\'\","


class Options:
    """What the command line says."""

    def __init__(self, words: list[str]) -> None:
        self.letters: set[str] = set()
        self.format, self.delimiter, self.users = "default", "|", ""
        self.ids: list[str] = []
        while words:
            word = words.pop(0)
            if not word.startswith("-"):
                self.ids.append(word)
            elif word == "-F":
                self.format = words.pop(0)
            elif word == "-D":
                self.delimiter = words.pop(0)
            elif word == "-u":
                self.users = words.pop(0)
            else:
                self.letters |= set(word[1:])

    def __contains__(self, letter: str) -> bool:
        return letter in self.letters


def main(words: list[str]) -> int:
    """Print what is asked for and return the exit status."""
    options = Options(words)
    if "Q" in options or "B" in options:
        return _others(options)
    ids = [job_id(word) for word in options.ids]
    if None in ids:
        return _not_an_id(options, options.ids[ids.index(None)])
    if options.format == "json" and "f" in options:
        status, found = _collect(options, [one for one in ids if one])
        _print_json(found)
        return status
    status, found = _collect(options, [one for one in ids if one])
    if "f" not in options and found:
        print("Job id            Name             User              Time Use S Queue")
        print("----------------  ---------------- ----------------  -------- - -----")
    for identifier, job in found:
        _print_full(options, identifier, job) if "f" in options else _print_row(identifier, job)
    return status


def _not_an_id(options: Options, word: str) -> int:
    if "E" not in options:
        if options.format == "json":
            _print_json([])
        wire.complain(f"qstat: Unknown queue destination {word}")
        return 170
    if word[0].isdigit():
        wire.complain(f"qstat: illegally formed job identifier: {word}")
    wire.complain("qstat: Express option can only be used with job ids")
    return 1


def _collect(options: Options, ids: list[str]) -> tuple[int, list[tuple[str, dict[str, str]]]]:
    """Return the exit status and the jobs; complaints are made here.

    With -E all ids go in one request, and those that are not known are left out in silence if any is.
    """
    history = "x" in options
    requests: list[list[str] | None] = [None] if not ids else [ids] if "E" in options else [[i] for i in ids]
    found: list[tuple[str, dict[str, str]]] = []
    status = 0
    for request in requests:
        try:
            answer = wire.ask("status", ids=request, history=history)
        except wire.Unreachable:
            wire.complain("Connection refused")
            wire.complain(f"qstat: cannot connect to server {wire.config()['PBS_SERVER']} (errno=15010)")
            return 255, found
        if answer.get("error") == 15140:
            wire.complain(f"qstat: {wire.TEXTS[15140]} {request[0] if request else ''}")
            continue
        found += answer["jobs"]
        failed = answer["errors"]
        if failed and not answer["jobs"]:
            identifier, number = failed[-1]
            hint = ", use -x or -H to obtain historical job information" if number == 15139 else ""
            wire.complain(
                f"qstat: {identifier} {wire.TEXTS[number]}{hint}"
                if hint
                else f"qstat: {wire.TEXTS[number]} {identifier}"
            )
            status = wire.status_of(number)
    return status, found


def escape(value: str, delimiter: str) -> str:
    """Return a value as -F dsv prints it: the delimiter after a backslash, no line break, no control byte."""
    text, position = "", 0
    while position < len(value):
        letter = value[position]
        if letter == "\\" and value[position + 1 : position + 2] not in tuple(_ESCAPED):
            text += "\\\\"
            position += 1
        elif value.startswith(delimiter, position):
            text += "\\" + delimiter
            position += len(delimiter)
        else:
            text += letter
            position += 1
    text = text.replace("\n", "\\n").replace("\f", "\\f")
    return "".join(f"^{chr(ord(c) + 64)}" if ord(c) < 32 and c not in ("\t", delimiter) else c for c in text)


def _shown(key: str, value: str) -> str:
    return time.ctime(int(value)) if key in _TIMES else value


def _print_full(options: Options, identifier: str, job: dict[str, str]) -> None:
    if options.format == "dsv":
        cells = [f"{k}={escape(_shown(k, v), options.delimiter)}" for k, v in job.items()]
        sys.stdout.write(options.delimiter.join([f"Job Id: {identifier}", *cells]) + "\n")
        return
    print(f"Job Id: {identifier}")
    print("".join(f"    {key} = {_shown(key, value)}\n" for key, value in job.items()))


def _print_row(identifier: str, job: dict[str, str]) -> None:
    name = job["Job_Name"] if len(job["Job_Name"]) <= 16 else job["Job_Name"][:15] + "*"
    owner = job["Job_Owner"].partition("@")[0]
    used = job.get("resources_used.cput", "0")
    state = job["job_state"]
    print(f"{identifier:<17.17} {name:<16} {owner:<16}  {used:>8} {state} {job['queue']:<16}")


def _print_json(found: list[tuple[str, dict[str, str]]]) -> None:
    """Print valid JSON, which has no "Jobs" where there are none, also if the server did not answer."""
    document: dict[str, Any] = {
        "timestamp": int(time.time()),
        "pbs_version": "23.06.06",
        "pbs_server": wire.config()["PBS_SERVER"],
    }
    if found:
        document["Jobs"] = {
            identifier: {key: _shown(key, value) for key, value in job.items()} for identifier, job in found
        }
    text = json.dumps(document, indent="\t", separators=(",", ":\t"))
    print(text)


def _others(options: Options) -> int:
    try:
        answer = wire.ask("queues")
    except wire.Unreachable:
        wire.complain("Connection refused")
        wire.complain(f"qstat: cannot connect to server {wire.config()['PBS_SERVER']} (errno=15010)")
        return 255
    things = answer["queues"] if "Q" in options else {wire.config()["PBS_SERVER"]: answer["server"]}
    kind = "Queue" if "Q" in options else "Server"
    for name, attributes in things.items():
        cells = [f"{key}={escape(value, options.delimiter)}" for key, value in attributes.items()]
        if options.format == "dsv":
            print(options.delimiter.join([f"{kind}: {name}", *cells]))
        else:
            print(f"{kind}: {name}")
            print("".join(f"    {key} = {value}\n" for key, value in attributes.items()))
    return 0

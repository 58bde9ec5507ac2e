"""qsub: the options and the script's directives, checked as far as the real program checks them itself."""

from __future__ import annotations

import getopt
import os
import re
import sys
from pathlib import Path
from typing import Any

from . import wire

USAGE = """\
usage: qsub [-a date_time] [-A account_string] [-c interval]
	[-C directive_prefix] [-e path] [-f ] [-h ] [-I [-X]] [-j oe|eo] [-J X-Y[:Z]]
	[-k keep] [-l resource_list] [-m mail_options] [-M user_list]
	[-N jobname] [-o path] [-p priority] [-P project] [-q queue] [-r y|n]
	[-R o|e|oe] [-S path] [-u user_list] [-W otherattributes=value...]
	[-v variable_list] [-V ] [-z] [script | -- command [arg1 ...]]
       qsub --version
"""
_OPTIONS = "a:A:c:C:e:fhIj:J:k:l:m:M:N:o:p:P:q:r:R:S:u:W:v:VXz"
_NAME = re.compile(r"[A-Za-z0-9_+.-]*")
_LONGEST_NAME = 230
_SELECT_ALONE = ("ncpus", "mem", "ngpus", "vmem", "mpiprocs")


class Refused(Exception):
    """qsub says no: ``args`` are what it prints and its exit status."""


def main(words: list[str]) -> int:
    """Submit a job and return the exit status."""
    try:
        command = _options(words)
        script, name = _script(command)
        if "\r\n" in script:
            raise Refused("qsub: script contains cr, lf", 1)
        prefix = command["options"].get("C", "#PBS")
        directives = _directives(script, prefix) if prefix else []
        job = _merge(directives, command["options"], command["resources"])
        job.setdefault("N", name)
        _check(job)
        return _submit(job, script, words)
    except Refused as refusal:
        sys.stderr.write(refusal.args[0] + "\n")
        return int(refusal.args[1])
    except wire.Unreachable:
        wire.complain("Connection refused")
        wire.complain(f"qsub: cannot connect to server {wire.config()['PBS_SERVER']} (errno=15010)")
        return 162


def _options(words: list[str]) -> dict[str, Any]:
    try:
        pairs, rest = getopt.getopt(words, _OPTIONS)
    except getopt.GetoptError as error:
        raise Refused(f"qsub: invalid option -- '{error.opt}'\n{USAGE.rstrip()}", 2) from None
    return {**_sort(pairs), "rest": rest}


def _sort(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    resources: dict[str, str] = {}
    options: dict[str, str] = {}
    for option, value in pairs:
        if option == "-l":
            for part in re.split(r",(?=[a-z_]+=)", value):
                key, _, amount = part.partition("=")
                resources[key] = amount
        else:
            options[option[1]] = value
    return {"options": options, "resources": resources}


def _script(command: dict[str, Any]) -> tuple[str, str]:
    """Return the script's text and the job's name that follows from where it came."""
    if not command["rest"]:
        return sys.stdin.buffer.read().decode(errors="surrogateescape"), "STDIN"
    path = Path(command["rest"][0])
    try:
        text = path.read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        raise Refused("qsub: script file:: No such file or directory", 1) from None
    except IsADirectoryError:
        raise Refused("qsub: script not a file", 1) from None
    return text, path.name


def _directives(script: str, prefix: str) -> list[tuple[str, str]]:
    """Return the options on the directive lines before the first command."""
    found: list[tuple[str, str]] = []
    for line in script.split("\n"):
        if line.startswith(prefix):
            text = line.removeprefix(prefix).strip()
            try:
                pairs, rest = getopt.getopt(text.split(), _OPTIONS)
            except getopt.GetoptError:
                wrong = "".join(f"qsub: invalid option -- '{letter}'\n" for letter in text[1:3])
                raise Refused(f"{wrong}qsub: directive error: {text} ", 1) from None
            if rest:
                raise Refused(f"qsub: directive error: {text} ", 1)
            found += pairs
        elif line.strip() and not line.lstrip().startswith(("#", ":")):
            break
    return found


def _merge(
    directives: list[tuple[str, str]], options: dict[str, str], resources: dict[str, str]
) -> dict[str, Any]:
    """Return all options; the command line wins, resource by resource."""
    written = _sort(directives)
    return {**written["options"], **options, "resources": {**written["resources"], **resources}}


def _check(job: dict[str, Any]) -> None:
    if len(job["N"]) > _LONGEST_NAME:
        raise Refused("qsub: Job name is too long ", 2)
    for letter, allowed in (("N", _NAME), ("r", re.compile(r"y|n")), ("a", re.compile(r"\d{8,14}(\.\d\d)?"))):
        if letter in job and not allowed.fullmatch(job[letter]):
            raise Refused(f"qsub: illegal -{letter} value\n{USAGE.rstrip()}", 2)
    if "BAD" in job.get("v", "").split(","):
        raise Refused("qsub: cannot send environment with the job", 1)
    if "," in job.get("P", ""):
        raise Refused("qsub: Illegal attribute or resource value project", 166)
    alone = [key for key in _SELECT_ALONE if key in job["resources"]]
    if "select" in job["resources"] and alone:
        raise Refused(
            f'qsub: "-lresource=" cannot be used with "select" or "place", resource is: {alone[0]}', 5
        )
    if "@" in job.get("q", ""):
        server = wire.config()["PBS_SERVER"]
        raise Refused(f"Unknown Host.\nqsub: cannot connect to server {server} (errno=15008)", 160)


def _submit(job: dict[str, Any], script: str, words: list[str]) -> int:
    own = {name: os.environ.get(name) for name in ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TZ")}
    answer = wire.ask(
        "submit",
        job=job,
        script=script,
        cwd=str(Path.cwd()),
        environment={key: value for key, value in own.items() if value},
        arguments=" ".join(word for word in words if word),
    )
    if number := answer.get("error"):
        about = answer.get("about", "")
        wire.complain(f"qsub: {wire.TEXTS[number]}{about}")
        return wire.status_of(number)
    if answer.get("id"):
        print(answer["id"])
    return 0

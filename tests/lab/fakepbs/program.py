"""The one program under its several names."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from . import wire

_USAGE = {
    "qalter": """\
usage: qalter [-a date_time] [-A account_string] [-c interval] [-e path]
	[-h hold_list] [-j y|n] [-k keep] [-l resource_list]
	[-m mail_options] [-M user_list] [-N jobname] [-o path] [-p priority]
	[-R o|e|oe] [-r y|n] [-S path] [-u user_list] [-W dependency_list]
	[-P project_name] job_identifier...
       qalter --version
""",
    "qdel": """\
usage:
	qdel [-W force|suppress_email=X] [-x] job_identifier...
	qdel --version
""",
    "qselect": """\
usage: qselect [-a [op]date_time] [-A account_string] [-c [op]interval]
	[-h hold_list] [-H] [-J] [-l resource_list] [-N name] [-p [op]priority]
	[-q destination] [-r y|n] [-s states] [-t subopt[op]date_time] [-T] [-P project_name]
	[-x] [-u user_name]
       qselect --version
""",
}
#: The attributes that qalter's options set, and whether they can be while the job runs.
_ALTERABLE = {
    "A": ("Account_Name", False),
    "a": ("Execution_Time", True),
    "c": ("Checkpoint", True),
    "e": ("Error_Path", True),
    "h": ("Hold_Types", True),
    "j": ("Join_Path", False),
    "k": ("Keep_Files", False),
    "M": ("Mail_Users", True),
    "m": ("Mail_Points", True),
    "N": ("Job_Name", True),
    "o": ("Output_Path", True),
    "P": ("project", False),
    "p": ("Priority", True),
    "R": ("Remove_Files", False),
    "r": ("Rerunable", True),
    "S": ("Shell_Path_List", True),
    "u": ("User_List", False),
}


def main() -> None:
    """Do what the name that this was called by says, and exit."""
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    name, words = Path(sys.argv[0]).name, sys.argv[1:]
    if name == "fakepbs" and words:
        name, *words = words
    if words == ["--version"]:
        print("pbs_version = 23.06.06")
        sys.exit(0)
    status = _run(name, words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _run(name: str, words: list[str]) -> int:
    if name == "server":
        from .server import serve

        return serve()
    if name == "mom":
        from .mom import serve as serve_node

        return serve_node(words[0])
    if name == "qsub":
        from .qsub import main as submit

        return submit(words)
    if name == "qstat":
        from .qstat import main as show

        return show(words)
    if name == "pbs_rstat":
        from .rstat import main as show_reservations

        return show_reservations(words)
    programs = {
        "qdel": qdel,
        "qalter": qalter,
        "qselect": qselect,
        "pbsnodes": pbsnodes,
        "control": control,
        "forge": forge,
    }
    try:
        return programs[name](words)
    except wire.Unreachable:
        return _unreachable(name)


def _unreachable(name: str) -> int:
    server = wire.config()["PBS_SERVER"]
    wire.complain("Connection refused")
    if name == "qdel":
        wire.complain(f"Couldn't connect to cluster: {server}")
        return 162
    if name == "pbsnodes":
        wire.complain(f"pbsnodes: cannot connect to server {server}, error=15010")
        return 1
    wire.complain(f"{name}: cannot connect to server {server} (errno=15010)")
    return 162


def job_id(word: str) -> str | None:
    """Return a job's whole id, with the server's name, or None if the word is no id."""
    number, _, server = word.partition(".")
    own = wire.config()["PBS_SERVER"]
    digits = number[:-2] if number.endswith("[]") else number
    return f"{number}.{own}" if digits.isdecimal() and server in ("", own) else None


def qdel(words: list[str]) -> int:
    """End jobs: those that can be are, whatever the status says."""
    force = remove = False
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if option == "-W" and words:
            force = words.pop(0) == "force"
        elif option == "-x":
            remove = True
        else:
            break
    if not words:
        sys.stderr.write(_USAGE["qdel"])
        return 2
    ids = [job_id(word) for word in words]
    for word, known in zip(words, ids, strict=True):
        if known is None:
            wire.complain(f"qdel: illegally formed job identifier: {word}")
            return 1
    failed = wire.ask("delete", ids=ids, force=force, remove=remove)["errors"]
    order = {15001: 0, 15139: 1}
    for identifier, number in sorted(failed, key=lambda pair: order.get(pair[1], 2)):
        wire.complain(f"qdel: {wire.TEXTS[number]} {identifier}")
    numbers = {number for _, number in failed}
    return wire.status_of(15007 if 15007 in numbers else failed[-1][1]) if failed else 0


def qalter(words: list[str]) -> int:
    """Change attributes of jobs."""
    changes: list[tuple[str, str, bool]] = []
    while words and words[0].startswith("-"):
        letter = words.pop(0)[1:]
        if (letter not in _ALTERABLE and letter not in ("l", "W")) or not words:
            wire.complain(f"qalter: invalid option -- '{letter[:1]}'")
            sys.stderr.write(_USAGE["qalter"])
            return 2
        value = words.pop(0)
        if letter == "l":
            key, _, value = value.partition("=")
            changes.append((f"Resource_List.{key}", value, key == "walltime"))
        elif letter == "W":
            key, _, value = value.partition("=")
            changes.append((key, value, False))
        else:
            attribute, running = _ALTERABLE[letter]
            changes.append((attribute, value, running))
    if not words:
        sys.stderr.write(_USAGE["qalter"])
        return 2
    status = 0
    for word in words:
        identifier = job_id(word)
        if identifier is None:
            wire.complain(f"qalter: illegally formed job identifier: {word}")
            status = 1
            continue
        answer = wire.ask("alter", id=identifier, changes=changes)
        if number := answer.get("error"):
            about = f" {answer['about']}" if answer.get("about") else ""
            wire.complain(f"qalter: {wire.TEXTS[number]}{about} {identifier}")
            status = wire.status_of(number)
    return status


def qselect(words: list[str]) -> int:
    """Print the ids of jobs with a name (-N), an owner (-u), states (-s), a queue (-q), of the past (-x)."""
    chosen: dict[str, str] = {}
    history = False
    while words:
        option = words.pop(0)
        if option == "-x":
            history = True
        elif option in ("-N", "-u", "-s", "-q") and words:
            chosen[option[1]] = words.pop(0)
        else:
            wire.complain(f"qselect: illegal {option} value")
            sys.stderr.write(_USAGE["qselect"])
            return 2
    answer = wire.ask("status", ids=None, history=history)
    if answer.get("error") == 15140:
        wire.complain(f"qselect: {wire.TEXTS[15140]}")
        return 0
    if "q" in chosen and chosen["q"] not in wire.ask("queues")["queues"]:
        wire.complain("qselect: Unknown queue destination")
        return 170
    for identifier, job in answer["jobs"]:
        owner = job["Job_Owner"].partition("@")[0]
        matches = (
            chosen.get("N", job["Job_Name"]) == job["Job_Name"],
            owner in chosen.get("u", owner).split(","),
            job["job_state"] in chosen.get("s", job["job_state"]),
            chosen.get("q", job["queue"]) == job["queue"],
        )
        if all(matches):
            print(identifier)
    return 0


def pbsnodes(words: list[str]) -> int:
    """Print the nodes, with -F dsv or as the manual's example has them."""
    nodes = wire.ask("nodes")["nodes"]
    for name, attributes in nodes.items():
        if "dsv" in words:
            print("|".join([f"Name={name}", *(f"{key}={value}" for key, value in attributes.items())]))
        else:
            print(name)
            print("".join(f"     {key} = {value}\n" for key, value in attributes.items()))
    return 0


def control(words: list[str]) -> int:
    """Change how the server behaves, for root: NAME=VALUE…, values as JSON; see server.SETTINGS."""
    answer = wire.ask("control", settings=dict(word.split("=", 1) for word in words))
    if answer.get("error"):
        wire.complain(f"fakepbs control: {answer['error']}")
        return 1
    return 0


def forge(words: list[str]) -> int:
    """Change a job behind everybody's back, for root: ID ATTRIBUTE=VALUE…, an empty value removes it."""
    changes = dict(word.split("=", 1) for word in words[1:])
    answer = wire.ask("forge", id=job_id(words[0]), changes=changes)
    return 1 if answer.get("error") else 0

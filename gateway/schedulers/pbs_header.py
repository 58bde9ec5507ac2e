"""What a site's own ``#PBS`` lines may not say: they come after the gateway's, and the later one wins."""

from __future__ import annotations

import getopt
from collections.abc import Collection

from gateway.schedulers.text import CHOSEN

#: qsub's options (qsub(1B)).
_OPTIONS = "a:A:c:C:e:fhIj:J:k:l:m:M:N:o:p:P:q:r:R:S:u:W:v:VXz"
#: What qsub passes over before a directive: isspace(3) in the C locale.
_BLANKS = " \t\v\f\r"
_OURS = {
    "a": "a job starts as soon as it can",
    "N": "the job's name is the gateway's",
    "o": "the job's output is the gateway's",
    "e": "the job's output is the gateway's",
    "j": "the job's output is the gateway's",
    "k": "the job's output is the gateway's",
    "R": "the job's output is the gateway's",
    "r": "whether a job is requeued is said by the application's requeue",
    "J": "job arrays are not for servers",
    "I": "the job is no interactive one",
    "X": "the job is no interactive one",
    "C": "the lines begin with #PBS",
    "h": "a held job never starts",
    "S": "the job's script is for /bin/sh; say shell with the application",
    "u": "the job's account is the user's",
    "V": "the job inherits nothing from the login node",
    "z": "the gateway needs the job's id",
}
_BESIDE_SELECT = frozenset({"ncpus", "mem", "vmem", "ngpus", "mpiprocs", "nodes", "nodect"})
#: What says the form's fields: options, and keys of -l.
_CHOSEN = {
    "partition": ("q",),
    "walltime": ("walltime", "min_walltime", "max_walltime"),
    "cores": ("select",),
    "account": ("A",),
    "reservation": ("q",),
    "exclusive": ("place",),
}
_OTHERS = {
    "block": "the gateway does not wait for jobs",
    "umask": "the job's umask is the gateway's",
    "run_count": "the count of starts is the scheduler's",
    "array": "job arrays are not for servers",
}


def header_faults(header: str, chosen: Collection[str]) -> tuple[str, ...]:
    """Return a sentence for each directive line that would break a job, with the line's number.

    ``chosen`` are the form's fields that the lines may not say again.
    """
    said = frozenset(word for field in chosen for word in _CHOSEN.get(field, ()))
    found = []
    for number, text in enumerate(header.split("\n"), 1):
        line = text.lstrip(_BLANKS)
        if line.startswith("#PBS") and (fault := _fault(line.removeprefix("#PBS").split(), said)):
            found.append(f"line {number}: {fault}.")
    return tuple(found)


def _fault(words: list[str], said: Collection[str]) -> str:
    """Return what is wrong with a directive line, "" if nothing is; ``said`` are options and keys of -l."""
    try:
        options, rest = getopt.getopt(words, _OPTIONS)
    except getopt.GetoptError as error:
        return f"qsub does not take this: {error}"
    if rest and not any("{" in word for word in words):
        return f"qsub takes no more after an option's value: {rest[0]}"
    for option, value in options:
        if reason := _OURS.get(option[1]):
            return f"#PBS {option}: {reason}"
        if option[1] in said:
            return f"#PBS {option}: this {CHOSEN}"
        parts = value.split(",")
        keys = [part.partition("=")[0] for part in parts]
        if option == "-l" and (beside := _BESIDE_SELECT.intersection(keys)):
            return f"#PBS -l {min(beside)}: this cannot stand beside select, by which the gateway asks"
        if option == "-l" and (again := set(said).intersection(keys)):
            return f"#PBS -l {min(again)}: this {CHOSEN}"
        if option == "-l" and any("+" in part for part in parts if part.startswith("select=")):
            return "#PBS -l select: a job of several kinds of nodes is not for servers"
        if option == "-W" and (others := _OTHERS.keys() & set(keys)):
            return f"#PBS -W {min(others)}: {_OTHERS[min(others)]}"
    return ""

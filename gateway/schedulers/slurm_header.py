"""The ``#SBATCH`` lines that a site adds to its job scripts, and which of them would break ours.

sbatch reads a script's options with getopt_long(3), which takes any beginning of a long option's name that is
not ambiguous, and several short ones in one word. It reads ``#PBS`` lines too, and needs no blank after
``#SBATCH`` (measured with 22.05).
"""

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from gateway.schedulers.text import CHOSEN

_ARRAY = "an array has no one place where its application listens"
_ANSWER = "it changes what sbatch answers to the gateway"
_LOG = "the gateway reads the job's log where its own lines put it"
_HETEROGENEOUS = "a job of several components has no one place where its application listens"
_OWNER = "a job runs as the person who asked for it"
_REQUEUE = "say requeue: true or false of the application"

#: Options that take the gateway's own lines back, or its command line, and why.
_REFUSED = {
    "array": _ARRAY,
    "begin": "a job starts as soon as it can",
    "chdir": "the job starts in the directory that holds its files",
    "cluster-constraint": "the gateway looks for its jobs on one cluster only",
    "clusters": "the gateway looks for its jobs on one cluster only",
    "error": _LOG,
    "export": "jobs inherit nothing from whoever hands them in",
    "export-file": "jobs inherit nothing from whoever hands them in",
    "gid": _OWNER,
    "help": _ANSWER,
    "hold": "a job on hold never starts",
    "job-name": "the gateway finds its jobs by their names",
    "no-requeue": _REQUEUE,
    "open-mode": _LOG,
    "output": _LOG,
    "parsable": _ANSWER,
    "quiet": _ANSWER,
    "requeue": _REQUEUE,
    "signal": "the gateway's own line warns the application before the end of the walltime",
    "test-only": _ANSWER,
    "uid": _OWNER,
    "usage": _ANSWER,
    "version": _ANSWER,
    "wait": _ANSWER,
    "wrap": "the script is what the gateway has rendered",
}
#: Options for what the form has, by its fields. A second --gres takes the first one back, whatever it is for.
_CHOSEN = {
    "partition": ("partition",),
    "walltime": ("time", "time-min"),
    "cores": (
        "nodes",
        "ntasks",
        "cpus-per-task",
        "cpus-per-gpu",
        "ntasks-per-core",
        "ntasks-per-gpu",
        "ntasks-per-node",
        "ntasks-per-socket",
    ),
    "memory": ("mem", "mem-per-cpu", "mem-per-gpu"),
    "gpus": ("gres", "gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task"),
    "account": ("account",),
    "qos": ("qos",),
    "reservation": ("reservation",),
    "constraint": ("constraint",),
    "exclusive": ("exclusive",),
}
_SHORT = {
    "a": "array",
    "A": "account",
    "b": "begin",
    "c": "cpus-per-task",
    "C": "constraint",
    "D": "chdir",
    "e": "error",
    "G": "gpus",
    "h": "help",
    "H": "hold",
    "J": "job-name",
    "M": "clusters",
    "n": "ntasks",
    "N": "nodes",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "Q": "quiet",
    "t": "time",
    "V": "version",
    "W": "wait",
}
#: Short options without a value, after which another one may follow in the same word.
_FLAGS = "hHkOQsvVW"
_DIRECTIVE = re.compile(r"#(SBATCH|PBS|BSUB)(.*)")


def faults(header: str, chosen: Collection[str]) -> tuple[str, ...]:
    """Return what is wrong with the directive lines, at most one sentence a line, each with its number.

    ``chosen`` are the form's fields that the lines may not say again.
    """
    refused = _REFUSED | {name: f"it {CHOSEN}" for field in chosen for name in _CHOSEN.get(field, ())}
    found = []
    for number, line in enumerate(header.split("\n"), 1):
        directive = _DIRECTIVE.match(line)
        if directive and (fault := next(_faults_of(directive[1], directive[2], refused), None)):
            found.append(f"line {number}: {fault}.")
    return tuple(found)


def _faults_of(word: str, text: str, refused: Mapping[str, str]) -> Iterator[str]:
    if word != "SBATCH":
        yield f"sbatch reads #{word} lines too: write it as #SBATCH, or take it out"
    try:
        words = shlex.split(re.sub(r"(?:^|\s)#.*", "", text))
    except ValueError:
        yield "a quote is not closed"
        return
    if words[:1] in (["hetjob"], ["packjob"]):
        yield f"#SBATCH {words[0]} is not supported, {_HETEROGENEOUS}"
    for option, name in _refused(words, refused):
        yield f"{option} cannot stand here, {refused[name]}"


def _refused(words: Sequence[str], refused: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Return the options that are refused: as they are written, and their full names."""
    for word in words:
        if word.startswith("--"):
            written = word.partition("=")[0]
            beginning = written.removeprefix("--")
            if beginning in refused:
                yield written, beginning
            elif name := _meant(beginning, refused):
                yield f"{written} (--{name})", name
        elif word.startswith("-"):
            names = ((letter, _SHORT.get(letter, "")) for letter in _letters(word[1:]))
            yield from ((f"-{letter}", name) for letter, name in names if name in refused)


def _meant(beginning: str, refused: Mapping[str, str]) -> str | None:
    """Return a refused option of this beginning, unless it is all of another one's name."""
    if not beginning or any(beginning in names for names in _CHOSEN.values()):
        return None
    return next((name for name in refused if name.startswith(beginning)), None)


def _letters(cluster: str) -> Iterable[str]:
    """Return the short options of one word: flags, and the first that takes the rest as its value."""
    for letter in cluster:
        yield letter
        if letter not in _FLAGS:
            return

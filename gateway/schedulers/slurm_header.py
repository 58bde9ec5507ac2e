"""The ``#SBATCH`` lines that a site adds to its job scripts, and which of them would break ours.

sbatch reads a script's options with getopt_long(3), which takes any beginning of a long option's name that is
not ambiguous, and several short ones in one word. It reads ``#PBS`` lines too, and needs no blank after
``#SBATCH`` (measured with 22.05).
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence

_ARRAY = "an array has no one place where its application listens"
_ANSWER = "it changes what sbatch answers to the gateway"
_LOG = "the gateway reads the job's log where its own lines put it"
_CHOSEN = "it is chosen on the form: offer one partition, or fix the field there"
_HETEROGENEOUS = "a job of several components has no one place where its application listens"
_OWNER = "a job runs as the person who asked for it"
_REQUEUE = "say requeue: true or false of the application"

#: Options that take the gateway's own lines back, or its command line, and why.
_REFUSED = {
    "array": _ARRAY,
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
    "partition": _CHOSEN,
    "quiet": _ANSWER,
    "requeue": _REQUEUE,
    "signal": "the gateway's own line warns the application before the end of the walltime",
    "test-only": _ANSWER,
    "time": _CHOSEN,
    "time-min": _CHOSEN,
    "uid": _OWNER,
    "usage": _ANSWER,
    "version": _ANSWER,
    "wait": _ANSWER,
    "wrap": "the script is what the gateway has rendered",
}
_SHORT = {
    "a": "array",
    "D": "chdir",
    "e": "error",
    "h": "help",
    "H": "hold",
    "J": "job-name",
    "M": "clusters",
    "o": "output",
    "p": "partition",
    "Q": "quiet",
    "t": "time",
    "V": "version",
    "W": "wait",
}
#: Short options without a value, after which another one may follow in the same word.
_FLAGS = "hHkOQsvVW"
_DIRECTIVE = re.compile(r"#(SBATCH|PBS|BSUB)(.*)")


def faults(header: str) -> tuple[str, ...]:
    """Return what is wrong with the directive lines, at most one sentence a line, each with its number."""
    found = []
    for number, line in enumerate(header.split("\n"), 1):
        directive = _DIRECTIVE.match(line)
        if directive and (fault := next(_faults_of(directive[1], directive[2]), "")):
            found.append(f"line {number}: {fault}.")
    return tuple(found)


def _faults_of(word: str, text: str) -> Iterator[str]:
    if word != "SBATCH":
        yield f"sbatch reads #{word} lines too: write it as #SBATCH, or take it out"
    try:
        words = shlex.split(re.sub(r"(?:^|\s)#.*", "", text))
    except ValueError:
        yield "a quote is not closed"
        return
    if words[:1] in (["hetjob"], ["packjob"]):
        yield f"#SBATCH {words[0]} is not supported, {_HETEROGENEOUS}"
    for option, name in _refused(words):
        yield f"{option} cannot stand here, {_REFUSED[name]}"


def _refused(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return the options that are refused: as they are written, and their full names."""
    for word in words:
        if word.startswith("--"):
            written = word.partition("=")[0]
            beginning = written.removeprefix("--")
            if beginning in _REFUSED:
                yield written, beginning
            elif name := next((name for name in _REFUSED if beginning and name.startswith(beginning)), None):
                yield f"{written} (--{name})", name
        elif word.startswith("-"):
            yield from ((f"-{letter}", _SHORT[letter]) for letter in _letters(word[1:]) if letter in _SHORT)


def _letters(cluster: str) -> Iterable[str]:
    """Return the short options of one word: flags, and the first that takes the rest as its value."""
    for letter in cluster:
        yield letter
        if letter not in _FLAGS:
            return

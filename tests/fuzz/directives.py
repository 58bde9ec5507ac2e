"""What a scheduler takes from a job script, by its manual page: readers that know nothing of the gateway."""

from __future__ import annotations

import getopt
import shlex
from collections.abc import Iterator, Mapping, Sequence

#: Of each scheduler: the options that it found, in order, as pairs.
Options = Sequence[tuple[str, str]]
_QSUB = "a:A:c:C:e:fhIj:J:k:l:m:M:N:o:p:P:q:r:R:S:u:v:VW:Xz"


def slurm(text: str) -> Options:
    """sbatch(1): up to the first line that is neither empty nor a comment; #PBS and #BSUB count, too."""
    found = []
    for line in _head(text):
        for prefix in ("#SBATCH", "#PBS", "#BSUB"):
            if line.startswith(prefix):
                for word in shlex.split(line.removeprefix(prefix)):
                    name, _, value = word.partition("=")
                    found.append((name if prefix == "#SBATCH" else prefix, value))
    return found


def pbs(text: str) -> Options:
    """qsub(1B): up to the first line that is neither empty nor a comment; blanks may come first."""
    found: list[tuple[str, str]] = []
    for line in _head("\n".join(line.lstrip(" \t\f") for line in text.split("\n"))):
        if line.startswith("#PBS"):
            options, rest = getopt.getopt(line.removeprefix("#PBS").split(), _QSUB)
            assert not rest, line
            found += options
    return found


def sge(text: str) -> Options:
    """qsub(1): on every line of the file."""
    found = []
    for line in text.split("\n"):
        if line.startswith("#$"):
            name, *values = line.removeprefix("#$").split()
            found.append((name, " ".join(values)))
    return found


def local(text: str) -> Options:
    """The gateway's own queue: up to the first line that is neither empty nor a comment."""
    found = []
    for line in _head(text):
        if line.startswith("#GATEWAY"):
            name, _, value = line.removeprefix("#GATEWAY ").partition("=")
            found.append((name, value))
    return found


READERS = {"slurm": slurm, "pbs": pbs, "sge": sge, "local": local}


def of(scheduler: str, text: str) -> Mapping[str, Sequence[str]]:
    """Return the options and all their values, in order."""
    found: dict[str, list[str]] = {}
    for name, value in READERS[scheduler](text):
        found.setdefault(name, []).append(value)
    return found


def _head(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        if line.strip() and not line.startswith("#"):
            return
        yield line

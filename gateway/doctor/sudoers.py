"""What ``sudo -l`` lists for the service account, and whether it gives too much. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

#: sudo breaks long lines of its list, and indents what follows.
_CONTINUED = re.compile(r"\n {5,}")
_RULE = re.compile(r"\s*\(([^)]*)\)\s+(.*)")
_COMMA = re.compile(r"(?<!\\),\s*")
#: Before a command (sudoers(5)): options with a value, digests, and tags, which hold for those after it too.
_PREFIX = re.compile(r"(?:[A-Z]+=\S+|sha\d+:\S+)\s+|([A-Z_]+):\s*")
_DEFAULTS = re.compile(r"Matching Defaults entries[^\n]*\n(.*?)(?:\n\S|\n\n|\Z)", re.DOTALL)
_LOOSE = re.compile(r"(?:!env_reset|setenv|env_keep\s*\+?=.*\b(?:LD_\w+|BASH_ENV|ENV)\b.*)")


@dataclass(frozen=True, slots=True)
class Rule:
    """One command that sudo allows.

    ``runas`` is as whom, as sudo writes it; ``asks`` whether for the password; ``setenv`` whether with an
    environment of the caller's choice.
    """

    runas: str
    command: str
    asks: bool
    setenv: bool

    @property
    def _path(self) -> str:
        return self.command.split(" ")[0]

    def covers(self, program: str) -> bool:
        """Return whether it allows a program, among others perhaps."""
        path = self._path
        in_directory = path.endswith("/") and program.rpartition("/")[0] + "/" == path
        return path in (program, "ALL") or in_directory or fnmatchcase(program, path)

    def too_much(self, program: str) -> str:
        """Return what a rule that covers the program allows beyond it, in words; empty if that is nothing."""
        if self._path == "ALL":
            return f"any program as ({self.runas})"
        if self._path != program:
            return f"all of {self._path} as ({self.runas})"
        if "ALL" in re.split(r"[\s,]+", self.runas.partition(":")[0]):
            return f"it as ({self.runas}): as root too"
        if self.setenv:
            return f"it as ({self.runas}) in any environment (SETENV): LD_PRELOAD is any program"
        return ""


def rules(listed: str) -> list[Rule]:
    """Return the rules in the output of ``sudo -l``."""
    found = map(_RULE.fullmatch, _CONTINUED.sub(" ", listed).splitlines())
    return [rule for line in found if line for rule in _of_line(line[1], line[2])]


def loose_defaults(listed: str) -> list[str]:
    """Return the Defaults in the output of ``sudo -l`` that let the caller choose the environment."""
    entries = _DEFAULTS.search(listed)
    words = _COMMA.split(" ".join(entries[1].split())) if entries else []
    return [word for word in words if _LOOSE.fullmatch(word)]


def _of_line(runas: str, commands: str) -> list[Rule]:
    found, tags = [], {"PASSWD": True, "SETENV": False}
    for word in _COMMA.split(commands):
        command = word.strip()
        while prefix := _PREFIX.match(command):
            if tag := prefix[1]:
                tags[tag.removeprefix("NO")] = not tag.startswith("NO")
            command = command[prefix.end() :]
        if not command.startswith("!"):
            found.append(Rule(runas, command, tags["PASSWD"], tags["SETENV"]))
    return found

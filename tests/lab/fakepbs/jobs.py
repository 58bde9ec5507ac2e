"""A job as the server keeps it: what is shown of it, what it asks for, and the words for its states."""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass, field
from typing import Any

#: The order in which attributes are shown.
ORDER = """
    Job_Name Job_Owner resources_used.cpupercent resources_used.cput resources_used.mem resources_used.ncpus
    resources_used.vmem resources_used.walltime job_state queue server Account_Name Checkpoint ctime depend
    Error_Path exec_host exec_vnode Execution_Time Hold_Types Join_Path Keep_Files Mail_Points Mail_Users
    mtime Output_Path Priority qtime Rerunable Resource_List.mem Resource_List.mpiprocs Resource_List.ncpus
    Resource_List.ngpus Resource_List.nodect Resource_List.place Resource_List.select Resource_List.walltime
    stime obittime session_id Shell_Path_List jobdir substate Variable_List comment etime umask run_count
    Stageout_status Exit_status Submit_arguments history_timestamp estimated.exec_vnode estimated.start_time
    project Submit_Host
""".split()  # noqa: SIM905
_SCALES = {"": 1, "b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40}


class Illegal(Exception):
    """A job cannot be taken: the number of the error, and what it is about."""


@dataclass
class Job:
    """``attributes`` is what is shown, times as seconds since 1970; ``uid`` is the owner's."""

    id: str
    uid: int
    attributes: dict[str, str]
    shell: str = ""
    cwd: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    deleted: float = 0.0
    ended: float = 0.0

    def shown(self) -> dict[str, str]:
        """Return the attributes in PBS's order."""
        return {key: self.attributes[key] for key in ORDER if key in self.attributes}

    def saved(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)

    @property
    def state(self) -> str:
        """The state's letter."""
        return self.attributes["job_state"]

    @property
    def chunks(self) -> list[tuple[int, dict[str, str]]]:
        """What ``select`` asks for: how often, and which resources."""
        return chunks(self.attributes["Resource_List.select"])

    def change(self, **attributes: str | None) -> None:
        """Set attributes (``__`` stands for a dot), or remove them (None)."""
        for key, value in attributes.items():
            name = key.replace("__", ".")
            if value is None:
                self.attributes.pop(name, None)
            else:
                self.attributes[name] = value
        self.attributes["mtime"] = now()

    def walltime(self) -> int:
        """Return the seconds that it may run."""
        return seconds(self.attributes["Resource_List.walltime"])


def now() -> str:
    """Return the time as the server keeps it."""
    return str(int(time.time()))


def minute() -> str:
    """Return the time as it stands in comments."""
    return time.strftime("%a %b %d at %H:%M")


def chunks(select: str) -> list[tuple[int, dict[str, str]]]:
    """Return what a ``select`` value asks for.

    Raises:
        Illegal: It is not legal.
    """
    found = []
    for chunk in select.split("+"):
        count, *parts = chunk.split(":")
        if not count.isdecimal():
            count, parts = "1", [count, *parts]
        wanted = {"ncpus": "1"} | dict(part.partition("=")[::2] for part in parts)
        for key, value in wanted.items():
            if key not in ("ncpus", "mem", "ngpus", "mpiprocs", "host"):
                raise Illegal(15035, f": {key}")
            if key in ("ncpus", "ngpus", "mpiprocs") and not value.isdecimal():
                raise Illegal(15014, f" select.{key}")
            if key == "mem":
                size(value, "select.mem")
        found.append((int(count), wanted))
    return found


def size(value: str, about: str) -> int:
    """Return bytes.

    Raises:
        Illegal: It is not a size.
    """
    found = re.fullmatch(r"(\d+)([kmgt]?b?)", value.lower())
    if not found:
        raise Illegal(15014, f" {about}")
    scale = found[2] if found[2].endswith("b") or not found[2] else f"{found[2]}b"
    return int(found[1]) * _SCALES[scale]


def seconds(value: str) -> int:
    """Return the seconds of a duration such as 01:00:00.

    Raises:
        Illegal: It is none.
    """
    if not re.fullmatch(r"\d+(:\d+){0,2}", value):
        raise Illegal(15014, " Resource_List.walltime")
    total = 0
    for part in value.split(":"):
        total = total * 60 + int(part)
    return total


def duration(total: int) -> str:
    """Return seconds as PBS prints them."""
    return f"{total // 3600:02d}:{total // 60 % 60:02d}:{total % 60:02d}"


def resources(asked: dict[str, str]) -> dict[str, str]:
    """Return the Resource_List of what -l asks for, with what follows from it.

    Raises:
        Illegal: A resource is unknown, or its value is not legal.
    """
    for key in asked:
        if key not in ("select", "place", "walltime", "ncpus", "mem", "ngpus", "mpiprocs", "nodect"):
            raise Illegal(15035, f" Resource_List.{key}")
    plain = {key: asked[key] for key in ("ncpus", "ngpus", "mem") if key in asked}
    if "mem" in plain:
        size(plain["mem"], "Resource_List.mem")
    select = asked.get("select") or "1:" + ":".join(
        f"{key}={value}" for key, value in ({"ncpus": "1"} | plain).items()
    )
    found = chunks(select)
    walltime = duration(seconds(asked.get("walltime", "01:00:00")))
    listed = {
        "ncpus": str(sum(count * int(one["ncpus"]) for count, one in found)),
        "nodect": str(sum(count for count, _ in found)),
        "place": asked.get("place") or ("free" if "select" in asked else "pack"),
        "select": select,
        "walltime": walltime,
    }
    for key in ("mpiprocs", "ngpus"):
        if any(key in one for _, one in found):
            listed[key] = str(sum(count * int(one.get(key, 0)) for count, one in found))
    if any("mem" in one for _, one in found):
        if len(found) == 1 and found[0][0] == 1:
            listed["mem"] = found[0][1]["mem"]
        else:
            total = sum(count * size(one.get("mem", "0"), "select.mem") for count, one in found)
            listed["mem"] = f"{total // 2**20}mb"
    return {f"Resource_List.{key}": value for key, value in listed.items()}

"""A compute node to try the tunnel with, and the port on which the scheduler's daemon listens there."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gateway.doctor.batch import read_settings
from gateway.doctor.patient import Patient

_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*", re.ASCII)
_USABLE = ("idle", "mixed", "allocated", "completing")
_PBS_NODE = re.compile(
    r"^Name=([^|]+)\|(?:.*\|)?state=(?:free|job-busy|job-exclusive|resv-exclusive)(?:\||$)", re.M
)
#: Ports of pbs_mom and sge_execd, as they are unless a site says otherwise.
_PBS_PORT, _SGE_PORT = 15002, 6445


async def compute_node(patient: Patient, partitions: Iterable[str]) -> tuple[str, int] | None:
    """Return a node that is up, and its daemon's port; None if none is, or if that is not known.

    Args:
        patient: The cluster.
        partitions: Whose nodes, where the scheduler can be asked for them.
    """
    match patient.site.scheduler:
        case "slurm":
            return await _slurm(patient, ",".join(partitions))
        case "pbs":
            answer = await patient.schedule("pbsnodes", "-a", "-F", "dsv")
            return _first(_PBS_NODE.findall(answer.stdout), _PBS_PORT)
        case "sge":
            answer = await patient.schedule("qconf", "-sel")
            port = patient.site.login.environment.get("SGE_EXECD_PORT", "")
            return _first(answer.stdout.split(), int(port) if port.isdecimal() else _SGE_PORT)
    return None


async def _slurm(patient: Patient, partitions: str) -> tuple[str, int] | None:
    only = ("-p", partitions) if partitions else ()
    answer = await patient.schedule("sinfo", "-h", "-N", *only, "-o", "%N %T")
    rows = [row.split() for row in answer.stdout.splitlines()]
    up = [row[0] for row in rows if len(row) == 2 and row[1].startswith(_USABLE)]
    config = await patient.schedule("scontrol", "show", "config")
    port = read_settings(config.stdout).get("SlurmdPort", "").partition("-")[0]
    return _first(up, int(port) if port.isdecimal() else 6818)


def _first(names: Iterable[str], port: int) -> tuple[str, int] | None:
    return next(((name, port) for name in names if _NODE.fullmatch(name)), None)

"""The contract of all schedulers over the real ones: Slurm and Grid Engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.schedulers import get
from tests.lab import Lab
from tests.live.contract import LiveScheduler, check


def slurm(lab: Lab) -> LiveScheduler:
    return LiveScheduler(
        get("slurm"),
        lab.login,
        lambda name, minutes: (
            f"#!/bin/sh\n#SBATCH --job-name={name}\n#SBATCH --partition=short\n#SBATCH --time={minutes}\n"
            "#SBATCH --mem=50M\n#SBATCH --output=log\n#SBATCH --export=NIL\nsleep 300\n"
        ),
        lambda job_id, token: ["scontrol", "update", f"JobId={job_id}", f"Comment={token}"],
        "short",
        10,
    )


def sge(lab: Lab) -> LiveScheduler:
    lab.sge.start()
    return LiveScheduler(
        get("sge"),
        lab.sge.login,
        lambda name, minutes: (
            f"#!/bin/sh\n#$ -clear\n#$ -N {name}\n#$ -q short.q\n#$ -l h_rt={minutes * 60}\n#$ -cwd\n"
            "#$ -j y\n#$ -o log\n#$ -S /bin/sh\n#$ -w e\nsleep 300\n"
        ),
        lambda job_id, token: ["qalter", "-ac", f"gw={token}", job_id],
        "short.q",
        10,
    )


@pytest.mark.parametrize("make", [slurm, sge], ids=["slurm", "sge"])
def test_a_real_scheduler_keeps_the_contract(lab: Lab, make: Callable[[Lab], LiveScheduler]) -> None:
    try:
        check(make(lab))
    finally:
        lab.clear_jobs()
        if make is sge:
            lab.sge.stop()

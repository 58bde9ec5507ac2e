"""What is run on a login node, word by word: the readers read the answers to just these."""

from collections.abc import Sequence

import pytest

from gateway.model import Asked, JobId
from gateway.schedulers import get

ID = {"slurm": "7", "pbs": "7.head", "sge": "7", "local": "7"}
#: Of each scheduler: submit, dry run, cancel, accounting; "" for none.
COMMANDS = {
    "slurm": (
        "sbatch --parsable --export=NIL ./script",
        "sbatch --parsable --export=NIL --test-only ./script",
        "scancel 7",
        "sacct -X -L -n -P -j 7 -o JobID,UID,State,ExitCode,Reason,NodeList,JobName",
    ),
    "pbs": ("qsub -f -C #PBS ./script", "", "qdel 7.head", "qstat -x -f -F dsv 7.head"),
    "sge": ("qsub -terse ./script", "qsub -w v ./script", "qdel 7", "qacct -j 7"),
    "local": ("gateway-queue submit ./script", "", "gateway-queue cancel 7", "gateway-queue how 7"),
}
#: What shows a cluster.
DISCOVERY = {
    "slurm": (
        "scontrol -a -o show partition",
        "sinfo -h -a -O PartitionName:|,CPUsState:|,Gres:|,GresUsed:|,Memory:|,CPUs:|,NodeAIOT:|,Features:|",
        "squeue -h -a -O JobID:|,State:|,Partition:|,PriorityLong:|,UserName:|,Reason:~MARK~,Name:~MARK.",
        "scontrol -o show reservation",
        "sacctmgr -nP show user withassoc format=cluster,user,admin,account,partition,qos",
        "scontrol show config",
    ),
    "pbs": (
        "qstat -Q -f -F dsv",
        "pbsnodes -a -F dsv",
        "qstat -B -f -F dsv",
        "qstat -f -F dsv",
        "pbs_rstat -f",
    ),
    "sge": (
        "qconf -sq *",
        "qhost -q -F -xml",
        "qconf -sc",
        "qstat -j gw-inst22-* -xml",
        "qstat -u * -s prs -r -xml",
        "qconf -sprj",
        "qconf -su",
        "qconf -scal",
        "qconf -ssconf",
        "qrstat -u * -xml",
        "/bin/date +%s",
        "/usr/bin/base64 /etc/localtime",
    ),
    "local": ("gateway-queue survey gw-inst22-",),
}
MARK = "5f1e0c4d9ab37f26"


@pytest.mark.parametrize(("name", "lines"), COMMANDS.items(), ids=COMMANDS)
def test_a_jobs_commands(name: str, lines: Sequence[str]) -> None:
    scheduler, job_id = get(name), JobId(ID[name])
    asked = Asked("gw-inst22-abcdefghia", "alice", job_id)
    dry_run = scheduler.dry_run_command()
    found = (
        " ".join(scheduler.submit_command().words),
        " ".join(dry_run.words) if dry_run else "",
        " ".join(scheduler.cancel_command(job_id).words),
        " ".join(scheduler.accounting_command(asked).words),
    )
    assert found == lines


@pytest.mark.parametrize(("name", "lines"), DISCOVERY.items(), ids=DISCOVERY)
def test_a_clusters_commands(name: str, lines: Sequence[str]) -> None:
    found = [" ".join(command.words) for command in get(name).discovery_commands("inst22", MARK)]
    assert found == [line.replace("MARK", MARK) for line in lines]


#: What shows two jobs, of which the second one's id is not known.
STATUS = {
    "slurm": (
        (
            "squeue -h -a -t all --name=gw-inst22-abcdefghia,gw-inst22-abcdefghib -O JobID:~MARK~,"
            "State:~MARK~,"
            "Reason:~MARK~,BatchHost:~MARK~,UserName:~MARK~,RestartCnt:~MARK~,StartTime:~MARK~,"
            "EndTime:~MARK~,Comment:~MARK~,Name:~MARK."
        ),
    ),
    "pbs": ("qstat -x -f -F dsv", "qstat -B -f -F dsv"),
    "sge": (
        "qstat -j gw-inst22-abcdefghia,gw-inst22-abcdefghib -xml",
        "qstat -u alice,bob -s prs -xml",
    ),
    "local": ("gateway-queue list gw-inst22-abcdefghia gw-inst22-abcdefghib",),
}


@pytest.mark.parametrize(("name", "lines"), STATUS.items(), ids=STATUS)
def test_what_shows_jobs(name: str, lines: Sequence[str]) -> None:
    asked = [
        Asked("gw-inst22-abcdefghia", "alice", JobId(ID[name])),
        Asked("gw-inst22-abcdefghib", "bob"),
    ]
    commands = get(name).status_commands(asked, MARK)
    assert [" ".join(command.words) for command in commands] == [line.replace("MARK", MARK) for line in lines]
    assert [command.environment for command in commands if command.environment] == (
        [("SLURM_TIME_FORMAT=%s",)] if name == "slurm" else []
    )


def test_times_come_as_seconds_and_values_in_one_line() -> None:
    slurm, sge = (get(name).discovery_commands("inst22", MARK) for name in ("slurm", "sge"))
    seconds = ("SLURM_TIME_FORMAT=%s",)
    assert [command.environment for command in slurm] == [seconds] * 4 + [()] * 2
    assert sge[0].environment == ("SGE_SINGLE_LINE=1",)

"""What the steps to a scheduler say and ask, for each kind of scheduler. Nouns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.schedulers import get


@dataclass(frozen=True, slots=True)
class Kind:
    """What is particular about one kind of scheduler.

    Args:
        title: What people call it.
        vital: The programs without which nothing works.
        lacks: Of the others, what is not known without them.
        version: Words that say its version, in the first line.
        ping: Words that only work if the scheduler answers.
        up: What they must say.
        restart: What to type if it does not answer.
        partitions: What lists the partitions.
        longer: What lets a partition's jobs run longer; ``{}`` is its name.
        opens: What opens a partition.
        hides: What hides other people's jobs, by the scheduler's own word.
        shows: What shows them.
        job: What shows a job; ``{}`` is its id.
        publishing: What a job's owner must be able to do, so that the job can say where it listens.
    """

    title: str
    vital: tuple[str, ...]
    lacks: Mapping[str, str] = field(default_factory=dict)
    version: tuple[str, ...] = ()
    ping: tuple[str, ...] = ()
    up: str = ""
    restart: str = "Ask the administrators of the scheduler."
    partitions: str = ""
    longer: str = ""
    opens: str = ""
    hides: str = "The scheduler"
    shows: str = ""
    job: str = ""
    publishing: str = "Let owners change their jobs' comments"


_HOW_ENDED = "which knows how jobs ended"
_RESERVED = "which knows the reservations"
_KINDS = {
    "slurm": Kind(
        title="Slurm",
        vital=("sbatch", "squeue", "scancel", "scontrol", "sinfo"),
        lacks={"sacct": _HOW_ENDED, "sacctmgr": "which knows people's accounts"},
        version=("sinfo", "--version"),
        ping=("scontrol", "ping"),
        up=" is UP",
        restart="On the controller's host: systemctl status slurmctld; tail /var/log/slurmctld.log",
        partitions="sinfo -a -o %R",
        longer="scontrol update PartitionName={} MaxTime=...",
        opens="scontrol update PartitionName={} State=UP",
        hides="PrivateData = jobs",
        shows="sacctmgr modify user {} set AdminLevel=Operator   (with accounting)\n"
        "or take jobs out of PrivateData in slurm.conf, then: scontrol reconfigure",
        job="scontrol show job {}",
        publishing="Let owners change their jobs' comments: scontrol update JobId=$SLURM_JOB_ID Comment=x   "
        "(a job_submit plugin's slurm_job_modify may refuse it)",
    ),
    "pbs": Kind(
        title="PBS",
        vital=("qsub", "qstat", "qdel", "qalter"),
        lacks={
            "pbsnodes": "which knows the nodes",
            "qselect": "which finds jobs by their names",
            "pbs_rstat": _RESERVED,
        },
        version=("qstat", "--version"),
        ping=("qstat", "-B"),
        restart="On the server's host: systemctl status pbs; tail /var/spool/pbs/server_logs/$(date +%Y%m%d)",
        partitions="qstat -Q",
        longer="qmgr -c 'set queue {} resources_max.walltime = ...'",
        opens="qmgr -c 'set queue {} enabled = True, started = True'",
        hides="query_other_jobs = False",
        shows="qmgr -c 'set server query_other_jobs = True'   (everybody sees all jobs)\n"
        "or only the gateway: qmgr -c 'set server operators += {}@*'",
        job="qstat -xf {}",
        publishing="Let owners rename their jobs on the compute nodes: qalter -N x $PBS_JOBID",
    ),
    "sge": Kind(
        title="Grid Engine",
        vital=("qsub", "qstat", "qdel", "qalter", "qconf"),
        lacks={"qacct": _HOW_ENDED, "qhost": "which knows the nodes", "qrstat": _RESERVED},
        version=("qstat", "-help"),
        ping=("qconf", "-sql"),
        restart="On the master's host: systemctl status sgemaster; "
        "tail $SGE_ROOT/$SGE_CELL/spool/qmaster/messages   (is login.environment: SGE_ROOT right?)",
        partitions="qconf -sql",
        longer="qconf -mattr queue h_rt H:MM:SS {}",
        opens="qmod -e {}",
        job="qstat -j {}   or, once it has ended: qacct -j {}",
        publishing="Let owners change their jobs' contexts: qalter -ac x=y $JOB_ID   (compute nodes must be "
        "submit hosts: qconf -as NODE)",
    ),
    "local": Kind(title="the local queue", vital=("gateway-queue",), job="{}'s state directory has its log"),
}


def kind_of(scheduler: str) -> Kind:
    """Return what is particular about a scheduler; of another package's only its programs are known."""
    return _KINDS.get(scheduler) or Kind(title=scheduler, vital=get(scheduler).programs)

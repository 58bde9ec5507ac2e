"""The steps to Slurm, asked on the login node by the service account. Measured with 22.05."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.doctor.check import Finding, not_ok, ok, skipped, warning, worst
from gateway.doctor.patient import Patient, hung, words_of
from gateway.model import Completed
from gateway.options import format_walltime
from gateway.siteconfig import Partition

_NEEDED = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")
_SETTING = re.compile(r"^(\w+)\s+= (.*?)\s*$", re.MULTILINE)
_TIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)|(\d+)")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*", re.ASCII)
_USABLE = ("idle", "mixed", "allocated", "completing")


@dataclass(frozen=True, slots=True)
class Slice:
    """What sinfo says of a partition's nodes of one kind: minutes (None: no limit), cores, megabytes."""

    partition: str
    up: bool
    minutes: int | None
    cores: int
    memory: int


def read_slices(text: str) -> list[Slice]:
    """Return the rows of ``sinfo -o '%R|%a|%l|%c|%m'``. What cannot be read is left out."""
    found = []
    for row in text.splitlines():
        fields = row.strip().split("|")
        if len(fields) == 5:
            name, up, limit, cores, memory = fields
            found.append(Slice(name, up == "up", read_limit(limit), _number(cores), _number(memory)))
    return found


def read_limit(text: str) -> int | None:
    """Return minutes, rounded down, of ``D-HH:MM:SS``, ``HH:MM:SS`` or ``MM:SS``; None for ``infinite``."""
    found = _TIME.fullmatch(text)
    if not found:
        return None
    days, hours, minutes, _, plain = found.groups()
    return int(plain) if plain else (int(days or 0) * 24 + int(hours or 0)) * 60 + int(minutes)


def read_settings(text: str) -> Mapping[str, str]:
    """Return what ``scontrol show config`` prints, by the setting's name."""
    return dict(_SETTING.findall(text))


def compare(wanted: Partition, slices: Iterable[Slice], file: str) -> Finding:
    """Say whether a partition of the site config is the scheduler's, and asks for no more than there is."""
    found = [row for row in slices if row.partition == wanted.name]
    if not found:
        return not_ok(
            f"Slurm has no partition {wanted.name}",
            f"sinfo -a -o %R   lists them; correct partitions in {file}.",
        )
    limits = [row.minutes for row in found if row.minutes is not None]
    if limits and min(limits) < wanted.max_walltime:
        return not_ok(
            f"{wanted.name}: the form offers {format_walltime(wanted.max_walltime)}, "
            f"and Slurm allows {format_walltime(max(1, min(limits)))}",
            f"partitions: name: {wanted.name}: max_walltime: {min(limits)}m in {file}"
            f" (or: scontrol update PartitionName={wanted.name} MaxTime=...)",
        )
    if not any(row.up for row in found):
        return warning(f"{wanted.name} is down", f"scontrol update PartitionName={wanted.name} State=UP")
    for word, most, there in (
        ("cores", wanted.max_cores, max(row.cores for row in found)),
        ("MB of memory", wanted.max_memory, max(row.memory for row in found)),
    ):
        if there and most > there:
            return warning(
                f"{wanted.name}: the form offers {most} {word}, and its largest node has {there}",
                f"Lower it in partitions: name: {wanted.name} in {file}.",
            )
    return ok(wanted.name)


@dataclass(frozen=True, slots=True)
class SlurmSteps:
    """Examines Slurm."""

    patient: Patient

    async def programs(self) -> Finding:
        """Say whether the scheduler's programs are where the site config says, and which version they are."""
        patient = self.patient
        place = patient.site.login.bin
        listed = await patient.ask("stat", "-L", "-c", "%n", "--", *map(patient.program, (*_NEEDED, "sacct")))
        there = listed.stdout.split()
        missing = [name for name in _NEEDED if patient.program(name) not in there]
        if missing:
            return not_ok(
                f"{place} on {patient.where} has no {', '.join(missing)}", await self._other_place()
            )
        version = await patient.ask(patient.program("sinfo"), "--version")
        if version.status != 0:
            return hung(version, f"{place}/sinfo --version") or not_ok(
                f"sinfo does not run: {words_of(version)}", f"Run it by hand on {patient.where}."
            )
        if patient.program("sacct") not in there:
            return warning(
                f"{version.stdout.strip()} in {place}, without sacct, which knows how jobs ended",
                "Install Slurm's sacct there too.",
            )
        return ok(f"{version.stdout.strip()} in {place}")

    async def _other_place(self) -> str:
        answer = await self.patient.ask("/bin/sh", "-lc", "command -v sbatch")
        found = answer.stdout.strip().rpartition("/")[0]
        if answer.status == 0 and found.startswith("/"):
            return f"login.bin: {found}   in {self.patient.file}: sbatch is there."
        return f"On {self.patient.where}: type -a sbatch; then login.bin: DIRECTORY in {self.patient.file}."

    async def controller(self) -> Finding:
        """Say whether the scheduler answers."""
        answer = await self.patient.ask(self.patient.program("scontrol"), "ping")
        restart = "On the controller's host: systemctl status slurmctld; tail /var/log/slurmctld.log"
        if answer.status != 0 or " is UP" not in answer.stdout:
            slow = hung(answer, "scontrol ping")
            return not_ok(slow.seen if slow else f"scontrol ping: {words_of(answer)}", restart)
        return ok(answer.stdout.strip().splitlines()[0])

    async def other_jobs(self) -> Finding:
        """Say whether the service account sees the jobs of others, without which it polls in vain."""
        answer = await self._config()
        private = read_settings(answer.stdout).get("PrivateData", "")
        user = self.patient.site.login.user
        if answer.status != 0 or not private:
            return hung(answer, "scontrol show config") or not_ok(
                words_of(answer), "Run scontrol show config by hand."
            )
        if "jobs" not in private.split(",") or self.patient.site.login.act_as == "service":
            return ok(f"PrivateData = {private}")
        level = await self.patient.ask(
            self.patient.program("sacctmgr"), "-nP", "show", "user", user, "format=AdminLevel"
        )
        if level.stdout.strip() in ("Operator", "Administrator"):
            return ok(f"PrivateData = {private}, and {user} is {level.stdout.strip()}")
        return not_ok(
            f"PrivateData = {private} hides other users' jobs from {user}",
            f"sacctmgr modify user {user} set AdminLevel=Operator   (with accounting)\n"
            "or take jobs out of PrivateData in slurm.conf, then: scontrol reconfigure",
        )

    async def partitions(self) -> Finding:
        """Say whether the partitions of the form exist and allow what it offers."""
        answer = await self.patient.ask(self.patient.program("sinfo"), "-h", "-a", "-o", "%R|%a|%l|%c|%m")
        if answer.status != 0:
            return hung(answer, "sinfo") or not_ok(f"sinfo: {words_of(answer)}", "Run sinfo by hand.")
        slices = read_slices(answer.stdout)
        return worst(compare(wanted, slices, self.patient.file) for wanted in self.patient.site.partitions)

    async def accounts(self) -> Finding:
        """Say whether the person may use the accounts of the form, where the scheduler knows."""
        wanted, user = self.patient.site.accounts, self.patient.user
        if not wanted:
            return skipped("the site config names none: everybody has a default account")
        if user is None:
            return skipped("name somebody who may use the gateway: --user NAME")
        if "none" in read_settings((await self._config()).stdout).get("AccountingStorageType", "none"):
            return skipped("Slurm has no accounting here that would know")
        words = ("-nP", "show", "assoc", "where", f"user={user}", "format=account")
        answer = await self.patient.ask(self.patient.program("sacctmgr"), *words)
        if answer.status != 0:
            return skipped(f"sacctmgr does not say: {words_of(answer)}")
        theirs = answer.stdout.split()
        if not set(theirs) & set(wanted):
            return warning(
                f"{user} has the accounts {', '.join(theirs) or '(none)'}, the form {', '.join(wanted)}",
                f"sacctmgr add user {user} account={wanted[0]}, or correct accounts in {self.patient.file}.",
            )
        return ok(f"{user} has {', '.join(sorted(set(theirs) & set(wanted)))}")

    async def compute_node(self) -> tuple[str, int] | None:
        """Return a node of the partitions that is up, and slurmd's port on it; None: none is."""
        names = ",".join(partition.name for partition in self.patient.site.partitions)
        answer = await self.patient.ask(self.patient.program("sinfo"), "-h", "-N", "-p", names, "-o", "%N %T")
        rows = [row.split() for row in answer.stdout.splitlines()]
        up = [
            row[0] for row in rows if len(row) == 2 and row[1].startswith(_USABLE) and _NODE.fullmatch(row[0])
        ]
        if not up:
            return None
        port = read_settings((await self._config()).stdout).get("SlurmdPort", "6818").partition("-")[0]
        return up[0], _number(port) or 6818

    async def _config(self) -> Completed:
        return await self.patient.ask(self.patient.program("scontrol"), "show", "config")


def _number(text: str) -> int:
    digits = text.rstrip("+")
    return int(digits) if digits.isdecimal() else 0

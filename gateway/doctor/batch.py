"""The steps to the scheduler, asked on the login node by the service account."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gateway import schedulers
from gateway.discovery import Discovery, Room
from gateway.doctor.check import Finding, not_ok, ok, skipped, warning, worst
from gateway.doctor.kinds import Kind, kind_of
from gateway.doctor.patient import hung, words_of
from gateway.doctor.said import Said
from gateway.model import Completed
from gateway.options import format_memory, format_walltime
from gateway.siteconfig import Partition

_SETTING = re.compile(r"^(\w+)\s+= (.*?)\s*$", re.MULTILINE)
_HISTORY = re.compile(r"\bjob_history_enable ?= ?True\b")
#: What it means that each person with a server is asked for alone: see gateway.queue.
_COSTS = (
    "the gateway then asks with one command for each person who has a server, at most every 30 s: a start is "
    "noticed later, and so is an end"
)


class Batch:
    """Examines the scheduler.

    Args:
        said: What it says, and what is said of it.
    """

    def __init__(self, said: Said) -> None:
        self._said = said
        self._patient = said.patient
        self._kind = kind_of(said.patient.site.scheduler)

    async def programs(self) -> Finding:
        """Say whether the scheduler's programs are where the site config says, and which version they are."""
        patient, kind, place = self._patient, self._kind, self._patient.site.login.bin
        wanted = tuple(dict.fromkeys((*kind.vital, *kind.lacks)))
        listed = await patient.ask("stat", "-L", "-c", "%n", "--", *map(patient.program, wanted))
        there = listed.stdout.split()
        missing = [name for name in wanted if patient.program(name) not in there]
        if vital := [name for name in missing if name in kind.vital]:
            seen = f"{place} on {patient.where} has no {', '.join(vital)}"
            return hung(listed, "stat") or not_ok(seen, await self._other_place(vital[0]))
        version = await self._version()
        if isinstance(version, Finding):
            return version
        if missing:
            words = " and ".join(f"{name}, {kind.lacks[name]}" for name in missing)
            return warning(f"{version}, without {words}", f"Install {', '.join(missing)} in {place} too.")
        return ok(version)

    async def _version(self) -> str | Finding:
        """Return the version and where it is, or what is wrong with a program that cannot say it."""
        words, place = self._kind.version, self._patient.site.login.bin
        if not words:
            return f"all in {place}"
        answer = await self._patient.schedule(*words)
        first = (answer.stdout.strip() or answer.stderr.strip()).partition("\n")[0].strip()
        # qstat -help of Grid Engine prints it, and ends with 1.
        if not first or answer.status not in (0, 1):
            return hung(answer, f"{place}/{' '.join(words)}") or not_ok(
                f"{words[0]} does not run: {words_of(answer)}", f"Run it by hand on {self._patient.where}."
            )
        return f"{first} in {place}"

    async def _other_place(self, program: str) -> str:
        answer = await self._patient.ask("/bin/sh", "-lc", f"command -v {program}")
        found = answer.stdout.strip().rpartition("/")[0]
        if answer.status == 0 and found.startswith("/"):
            return f"login.bin: {found}   in {self._patient.file}: {program} is there."
        return (
            f"On {self._patient.where}: type -a {program}; then login.bin: DIRECTORY in {self._patient.file}."
        )

    async def answers(self) -> Finding:
        """Say whether the scheduler answers."""
        kind = self._kind
        if not kind.ping:
            found = await self._said.discovery()
            return ok(f"{kind.title} answers: {len(found.rooms)} partitions")
        answer = await self._patient.schedule(*kind.ping)
        if answer.status != 0 or kind.up not in answer.stdout:
            words = " ".join(kind.ping)
            slow = hung(answer, words)
            return not_ok(slow.seen if slow else f"{words}: {words_of(answer)}", kind.restart)
        return ok(answer.stdout.strip().splitlines()[0] if kind.up else f"{kind.title} answers")

    async def other_jobs(self) -> Finding:
        """Say whether the service account sees the jobs of others; if not, polling costs more."""
        user, kind = self._patient.site.login.user, self._kind
        if self._patient.site.login.act_as == "service":
            return ok(f"all jobs are {user}'s own (act_as: service)")
        hidden = (await self._said.discovery()).hidden
        if hidden:
            return warning(
                f"{kind.hides} hides other users' jobs from {user}: {_COSTS}", kind.shows.format(user)
            )
        return ok(f"{user} sees them" if hidden is False else "nothing is said of them")

    async def ended_jobs(self) -> Finding:
        """Say whether PBS remembers jobs that have ended."""
        answer = await self._patient.schedule("qstat", "-B", "-f")
        if answer.status != 0:
            return hung(answer, "qstat -B -f") or not_ok(words_of(answer), "Run qstat -B -f by hand.")
        if not _HISTORY.search(answer.stdout):
            return warning(
                "PBS forgets jobs as soon as they end (job_history_enable is not True): how one ended is "
                "known from its own files alone, and not if it was killed",
                "qmgr -c 'set server job_history_enable = True'",
            )
        return ok("job_history_enable = True")

    async def partitions(self) -> Finding:
        """Say whether the partitions of the form exist and allow what it offers."""
        discovery, site = await self._said.discovery(), await self._said.site()
        if not discovery.rooms:
            return not_ok(
                f"{self._kind.title} shows no partition: {'; '.join(discovery.faults) or 'it has none'}",
                f"{self._kind.partitions}   by hand on {self._patient.where}",
            )
        if not site.partitions:
            shown = ", ".join(room.name for room in discovery.rooms)
            return worst([ok(f"the scheduler's own: {shown}"), *self._unread(discovery)])
        found = [await self._compared(wanted, discovery) for wanted in site.partitions]
        together = worst([*found, *self._unread(discovery)])
        note = await self._note()
        return ok(together.seen + note) if together.status == "ok" and note else together

    async def _compared(self, wanted: Partition, discovery: Discovery) -> Finding:
        room = discovery.room(wanted.name)
        if room is None and self._patient.site.scheduler == "slurm":
            # The listing leaves out those that are marked as hidden.
            answer = await self._patient.schedule("sinfo", "-h", "-a", "-p", wanted.name, "-o", "%R")
            if wanted.name in answer.stdout.split():
                return ok(f"{wanted.name} (hidden: its limits are not compared)")
        return compare(wanted, room, self._kind, self._patient.file)

    def _unread(self, discovery: Discovery) -> list[Finding]:
        """Return what of the cluster could not be read."""
        mend = f"Run it by hand on {self._patient.where} as {self._patient.site.login.user}."
        return [warning(f"not all of the cluster can be seen: {fault}", mend) for fault in discovery.faults]

    async def _note(self) -> str:
        """Return what is to be known of limits, though nothing is wrong."""
        if self._patient.site.scheduler != "slurm":
            return ""
        enforced = read_settings((await self._config()).stdout).get("EnforcePartLimits", "")
        words = (
            "; EnforcePartLimits = NO: Slurm takes jobs above a limit, which wait for ever; the form has none"
        )
        return words if enforced == "NO" else ""

    async def accounts(self) -> Finding:
        """Say whether the person may use one of the form's accounts, where the scheduler knows."""
        theirs = (await self._said.discovery()).accounts_of(self._owner)
        return await self._compared_words("accounts", "account", theirs, "sacctmgr add user {} account={}")

    async def qos(self) -> Finding:
        """Say whether the person may use one of the form's QOS, where the scheduler knows."""
        known = (await self._said.discovery()).qos
        theirs = None if known is None else known.get(self._owner, ())
        return await self._compared_words("qos", "qos", theirs, "sacctmgr modify user {} set qos+={}")

    async def _compared_words(
        self, several: str, one: str, theirs: Sequence[str] | None, give: str
    ) -> Finding:
        """Compare what the scheduler has for a person with the form's list, or the one that it fixes."""
        site, user, kind = await self._said.site(), self._owner, self._kind
        if not user:
            return skipped("name somebody who may use the gateway: --user NAME")
        if theirs is None:
            asking = self._patient.site.login.user
            return skipped(f"{kind.title} does not tell {asking} of people's {several}")
        listed: tuple[str, ...] = getattr(site, several)
        fixed = site.form.fix.get(one)
        wanted = listed if fixed is None else (str(fixed),) if fixed else ()
        if wanted and not set(theirs) & set(wanted):
            add = f"{give.format(user, wanted[0])}, or " if "sacctmgr" in self._programs else ""
            place = several if fixed is None else f"form.fix.{one}"
            return warning(
                f"{user} has the {several} {', '.join(theirs) or '(none)'}, the form {', '.join(wanted)}",
                f"{add}correct {place} in {self._patient.file}.",
            )
        return ok(f"{user} has {', '.join(sorted(theirs)) or 'none'}")

    @property
    def _owner(self) -> str:
        """Whose the person's jobs are; "" if nobody is named."""
        return self._patient.site.login.owner(self._patient.user) if self._patient.user else ""

    @property
    def _programs(self) -> tuple[str, ...]:
        return schedulers.get(self._patient.site.scheduler).programs

    async def _config(self) -> Completed:
        return await self._patient.schedule("scontrol", "show", "config")


def read_settings(text: str) -> Mapping[str, str]:
    """Return what ``scontrol show config`` prints, by the setting's name."""
    return dict(_SETTING.findall(text))


def compare(wanted: Partition, room: Room | None, kind: Kind, file: str) -> Finding:
    """Say whether a partition of the site config is the scheduler's, and offers no more than there is. Pure.

    Args:
        wanted: The site config's.
        room: The scheduler's; None if it has none of this name.
        kind: What kind of scheduler it is.
        file: The site config's.
    """
    if room is None:
        return not_ok(
            f"{kind.title} has no partition {wanted.name}",
            f"{kind.partitions}   lists them; correct partitions in {file}.",
        )
    if wanted.max_walltime and room.max_walltime and room.max_walltime < wanted.max_walltime:
        return not_ok(
            f"{wanted.name}: the form offers {format_walltime(wanted.max_walltime)}, "
            f"and {kind.title} allows {format_walltime(room.max_walltime)}",
            f"partitions: name: {wanted.name}: max_walltime: {room.max_walltime}m in {file}"
            + (f" (or: {kind.longer.format(wanted.name)})" if kind.longer else ""),
        )
    if room.closed:
        return warning(f"{wanted.name} is closed: {room.closed}", kind.opens.format(wanted.name))
    if more := _more(wanted, room):
        return warning(
            f"{wanted.name}: the form offers {more}",
            f"Lower it in partitions: name: {wanted.name} in {file}.",
        )
    return ok(wanted.name)


def _more(wanted: Partition, room: Room) -> str:
    """Return what is offered that no node has."""
    if wanted.max_cores and room.max_cores and wanted.max_cores > room.max_cores:
        return f"{wanted.max_cores} cores, and its largest node has {room.max_cores}"
    if wanted.max_memory and room.max_memory and wanted.max_memory > room.max_memory:
        return (
            f"{format_memory(wanted.max_memory)} of memory, and its largest node has "
            f"{format_memory(room.max_memory)}"
        )
    if not room.gpus and room.free_gpus:
        return ""  # Grid Engine says how many are free, and not of how many
    for kind, count in wanted.gpus.items():
        there = room.gpus.get(kind, room.gpus.get("", 0))
        if count > there:
            return f"{count} GPUs{f' of type {kind}' if kind else ''}, and no node has more than {there}"
    return ""

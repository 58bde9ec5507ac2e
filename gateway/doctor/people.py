"""The steps of acting for people on a login node: the launcher, sudo, and what may never be."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from gateway.auth import DENIED_NAMES
from gateway.doctor.check import Finding, not_ok, ok, skipped, warning
from gateway.doctor.disk import explain
from gateway.doctor.patient import COMMAND, STRANGER, Patient, hung, never_ran, words_of
from gateway.doctor.sudoers import Rule, loose_defaults, rules
from gateway.doctor.vouching import Vouching
from gateway.errors import Forbidden, GatewayError, LoginNodeRefused, StateDirUnwritable
from gateway.launcher import LauncherStatus, launcher_text, sudoers_text
from gateway.launcher.wire import sections
from gateway.model import Asked, Command, Completed, JobId, job_name
from gateway.queue import Queue
from gateway.schedulers import Scheduler
from gateway.schedulers.local import Local
from gateway.schedulers.pbs import Pbs
from gateway.schedulers.sge import Sge
from gateway.schedulers.slurm import Slurm
from gateway.store.database import random_word

_VERSION = re.compile(r"^VERSION=(\d+)$", re.MULTILINE)
_SAID_VERSION = re.compile(r"gateway-launcher (\d+)\s*")
_GROUP = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
#: Bytes of the file that is written to see whether there is room: about what a job's files are.
_PROBE = 16 * 1024


class _Version:
    """Makes of a scheduler one that submits nothing: a program of its own only says its version."""

    says: ClassVar[tuple[str, ...]]

    def submit_command(self) -> Command:
        """Return the command that says it."""
        return Command(self.says)

    def dry_run_command(self) -> Command | None:
        """Return that nothing is asked before: there is no script."""
        return None

    def read_submit(self, completed: Completed) -> JobId:
        """Return what it said."""
        return JobId(completed.stdout.strip().partition("\n")[0].strip() or words_of(completed))


class _SlurmVersion(_Version, Slurm):
    """Slurm's sbatch."""

    says = ("sbatch", "--version")


class _PbsVersion(_Version, Pbs):
    """PBS's qstat: qsub of some sites is a script that wants one."""

    says = ("qstat", "--version")


class _SgeVersion(_Version, Sge):
    """Grid Engine's qstat, which says it above its options."""

    says = ("qstat", "-help")


class _LocalListing(Local):
    """The local queue, asked to submit nothing: it only lists a job that is not there."""

    def submit_command(self) -> Command:
        """Return the command that lists."""
        asked = [Asked(job_name(random_word(6), random_word(10)), "nobody")]
        return self.status_commands(asked, secrets.token_hex(8))[0]

    def read_submit(self, completed: Completed) -> JobId:
        """Return what was run."""
        return JobId("gateway-queue" if completed.status == 0 else words_of(completed))


#: For each scheduler one whose submit writes the state directory as a real one does, and starts nothing.
_HARMLESS: Mapping[str, Callable[[], Scheduler]] = {
    "slurm": _SlurmVersion,
    "pbs": _PbsVersion,
    "sge": _SgeVersion,
    "local": _LocalListing,
}


@dataclass(frozen=True, slots=True)
class People:
    """Examines how the gateway acts for people."""

    patient: Patient

    async def launcher(self) -> Finding:
        """Say whether the launcher is installed, is this version's, and can only be changed by root."""
        path = self.patient.site.login.launcher
        install = (
            f"gateway launcher > gateway-launcher; on every login node as root: "
            f"install -o root -g root -m 0755 gateway-launcher {path}"
        )
        stat = await self.patient.ask("stat", "-L", "-c", "%u %a %n", "--", *_with_parents(path))
        if not any(line.endswith(f" {path}") for line in stat.stdout.splitlines()):
            return not_ok(f"there is no {path} on {self.patient.where}: {words_of(stat)}", install)
        if open_to := [line.split(" ", 2) for line in stat.stdout.splitlines() if _open_to_others(line)]:
            words = ", ".join(f"{name} (owner uid {uid}, mode {mode})" for uid, mode, name in open_to)
            names = " ".join(name for _, _, name in open_to)
            return not_ok(
                f"others than root can change {words}, and with it what runs as everybody",
                f"On {self.patient.where} as root: chown root:root {names}; chmod go-w {names}",
            )
        answer = await self.patient.ask(path, "version")
        said = _SAID_VERSION.fullmatch(answer.stdout)
        if answer.status != 0 or not said:
            return hung(answer, f"{path} version") or not_ok(
                f"{path} does not work: {words_of(answer)}", install
            )
        wanted = _VERSION.search(launcher_text())
        assert wanted is not None  # noqa: S101  the launcher says its version
        if int(said[1]) < int(wanted[1]):
            return not_ok(f"{path} is version {said[1]}, and this gateway needs {wanted[1]}", install)
        if int(said[1]) > int(wanted[1]):
            return warning(f"{path} is version {said[1]}, newer than this gateway's {wanted[1]}", install)
        return ok(f"{path} version {said[1]}, root's")

    async def sudo(self) -> Finding:
        """Say whether sudo lets the service account run the launcher, as whom, and nothing more."""
        login = self.patient.site.login
        answer = await self.patient.ask("sudo", "-n", "-l")
        if never_ran(answer):
            return not_ok(
                f"there is no sudo on {self.patient.where}", "apt install sudo (Rocky: dnf install sudo)"
            )
        listed = [rule for rule in rules(answer.stdout) if not rule.asks]
        ours = [rule for rule in listed if rule.covers(login.launcher)]
        install = _sudoers(login.user, ours, login.launcher)
        if not ours:
            words = words_of(answer) if answer.status else "sudo -l does not list it"
            return hung(answer, "sudo -n -l") or not_ok(
                f"sudo does not let {login.user} run {login.launcher} ({words})", install
            )
        if much := list(filter(None, (rule.too_much(login.launcher) for rule in ours))):
            return not_ok(f"sudo lets {login.user} run {'; '.join(much)}", install)
        if loose := loose_defaults(answer.stdout):
            return not_ok(
                f"sudo lets {login.user} set the launcher's environment (Defaults {', '.join(loose)}): "
                "LD_PRELOAD is any program",
                install,
            )
        if others := [rule for rule in listed if not rule.covers(login.launcher)]:
            words = "; ".join(f"{rule.command} as ({rule.runas})" for rule in others)
            return warning(f"sudo lets {login.user} run other programs too: {words}", install)
        return ok(f"{login.user} may run it as ({', '.join(rule.runas for rule in ours)})")

    async def root_refused(self) -> Finding:
        """Try to act as root, and want a no."""
        login = self.patient.site.login
        if login.act_as == "service":
            return skipped(f"act_as: service: all jobs are {login.user}'s")
        if login.act_as == "certificate":
            return await Vouching(self.patient).root_refused()
        words = ("sudo", "-n", "-H", "-u", "root", "--", login.launcher, "run", random_word(10))
        answer = await self.patient.ask(*words, stdin=sections([]))
        if answer.status == LauncherStatus.REFUSED:
            return warning(
                "sudo would let the gateway act as root; only the launcher refuses",
                "Name a group in /etc/sudoers.d/gateway, never ALL: gateway launcher --sudoers --group GROUP",
            )
        if answer.status == 1 and answer.stderr.startswith("sudo: "):
            return ok(f"sudo refuses: {words_of(answer).removeprefix('sudo: ')}")
        if never_ran(answer):
            return ok("there is nothing to act with")
        return hung(answer, " ".join(words[:6])) or not_ok(
            f"it is NOT refused: the launcher ended with status {answer.status} as root",
            "gateway launcher; gateway launcher --sudoers --group GROUP   Install both; never ALL.",
        )

    async def act_as(self) -> Finding:
        """Say whether the launcher runs as the person."""
        user, login = self.patient.user, self.patient.site.login
        if login.act_as == "service":
            return ok(f"all jobs are {login.user}'s own (act_as: service)")
        if user is None:
            return skipped("name somebody who may use the gateway: --user NAME")
        if user in DENIED_NAMES or user == login.user:
            return not_ok(
                f"the gateway never acts for {user}", "Name somebody who may use the gateway: --user NAME"
            )
        account = await self.patient.ask("id", "-u", "--", user)
        if account.status != 0 or not account.stdout.strip().isdecimal():
            return not_ok(
                f"there is no account {user} on {self.patient.where}",
                f"On {self.patient.where}: getent passwd {user}",
            )
        if int(account.stdout) < 1000:
            return not_ok(
                f"{user} has uid {account.stdout.strip()}: below 1000 are system accounts",
                "Name somebody else: --user NAME",
            )
        if login.act_as == "certificate":
            return await self._certified(user)
        answer = await self.patient.ask("sudo", "-n", "-H", "-u", user, "--", login.launcher, "version")
        if answer.status == 0 and _SAID_VERSION.fullmatch(answer.stdout):
            return ok(f"the launcher runs as {user}")
        return hung(answer, f"sudo -u {user}") or await self._not_in_group(user, answer)

    async def _certified(self, user: str) -> Finding:
        """Log in as the person with a certificate, and ask the forced command for its version."""
        assert self.patient.users is not None  # noqa: S101  the step before this one has seen the CA
        try:
            async with self.patient.users.as_user(user) as runner:
                answer = await runner.run(Command(("version",)), timeout=COMMAND)
        except (LoginNodeRefused, Forbidden) as error:
            mend = "gateway launcher --sshd   prints the Match block for sshd_config; sshd's log says why not"
            return not_ok(str(error), mend)
        if answer.status == 0 and _SAID_VERSION.fullmatch(answer.stdout):
            return ok(f"a certificate lets the gateway run the launcher as {user}")
        return hung(answer, "version") or not_ok(
            f"as {user} the launcher says: {words_of(answer)}",
            "gateway launcher --sshd   prints the Match block, with its ForceCommand",
        )

    async def _not_in_group(self, user: str, answer: Completed) -> Finding:
        listed = await self.patient.ask("sudo", "-n", "-l")
        groups = re.findall(r"\(%([^):\s]+)", listed.stdout)
        member = (await self.patient.ask("id", "-Gn", "--", user)).stdout.split()
        if groups and not set(groups) & set(member):
            return not_ok(
                f"sudo refuses {user}, who is not in the group {' or '.join(groups)}",
                f"On {self.patient.where} as root: usermod -aG {groups[0]} {user}   (or in the directory)",
            )
        return not_ok(
            f"sudo refuses {user}: {words_of(answer)}",
            f"On {self.patient.where}: sudo -l -U {self.patient.site.login.user}",
        )

    async def state_directory(self) -> Finding:
        """Write into the state directory as the person does before a submit, and take it away again."""
        site = self.patient.site
        user = self.patient.user or STRANGER
        if site.scheduler not in _HARMLESS:
            return skipped(f"nothing is known of {site.scheduler} that starts no job; --job tries it")
        queue = Queue(site, _HARMLESS[site.scheduler](), self.patient.node, users=self.patient.users)
        server_id = random_word(10)
        try:
            said = await queue.submit(user, server_id, {"probe": b"x" * (_PROBE - 1) + b"\n"})
        except StateDirUnwritable as error:
            words = str(error).partition("gateway-launcher: ")[2] or str(error)
            meaning, mend = explain(words, site.login.state_dir, queue.owner(user), self.patient.file)
            return not_ok(f"{meaning} ({words})", mend)
        finally:
            await self._remove(queue, user, server_id)
        return ok(f"{queue.owner(user)} can write {site.login.state_dir} and run {said}")

    async def _remove(self, queue: Queue, user: str, server_id: str) -> None:
        try:
            await queue.remove(user, server_id)
        except GatewayError:
            return  # it could not be made, or the next step will say what is wrong


def _sudoers(account: str, ours: Sequence[Rule], launcher: str) -> str:
    """Return what to type for the rules that a login node needs, and for no others."""
    named = (rule.runas.removeprefix("%") for rule in ours if rule.runas.startswith("%"))
    group = next((name for name in named if _GROUP.fullmatch(name)), "GROUP")
    return (
        f"gateway launcher --sudoers --account {account} --group {group} --path {launcher} "
        "> gateway-sudoers; on every login node as root: "
        "install -o root -g root -m 0440 gateway-sudoers /etc/sudoers.d/gateway && visudo -c\n"
        f"Of {account} there are to be these lines, and no others (sudo -l -U {account} lists them all):\n"
        + sudoers_text(account, group, launcher).rstrip()
    )


def _with_parents(path: str) -> list[str]:
    parts = path.rstrip("/").split("/")
    return ["/".join(parts[:end]) or "/" for end in range(len(parts), 0, -1)]


def _open_to_others(line: str) -> bool:
    uid, mode, _ = line.split(" ", 2)
    sticky_directory = len(mode) == 4 and int(mode[0]) & 1
    return uid != "0" or (bool(int(mode[-2:], 8) & 0o22) and not sticky_directory)

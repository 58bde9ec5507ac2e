"""The steps that look around on the login node: its clock, its ports, and the applications."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass

from gateway.doctor.check import Finding, ok, warning, worst
from gateway.doctor.patient import COMMAND, Patient, hung, never_ran, words_of
from gateway.doctor.said import Said
from gateway.siteconfig import Application

#: Seconds by which the clocks may differ.
_SKEW = 30.0
#: Ports below which a node may run out of them.
_FEW_PORTS = 100
#: Seconds that an application may take to say its version.
_VERSION = 4
#: Printed once the prologue has ended and the command is found.
_FOUND = "gateway-doctor: found"
_PORT_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"


@dataclass(frozen=True, slots=True)
class Here:
    """Examines the login node."""

    patient: Patient
    said: Said

    async def clock(self) -> Finding:
        """Say whether the clocks agree; half of the time of the way there and back is taken off."""
        asked = time.time()
        answer = await self.patient.ask("date", "+%s.%N")
        answered = time.time()
        try:
            skew = float(answer.stdout) - (asked + answered) / 2
        except ValueError:
            return hung(answer, "date") or warning(f"date says {words_of(answer)}", "Run date by hand there.")
        return read_skew(skew, (answered - asked) / 2, self.patient.where)

    async def ports(self) -> Finding:
        """Say whether the applications' ports are apart from those that outgoing connections take."""
        low, high = self.patient.site.tunnel.ports
        answer = await self.patient.ask("cat", _PORT_RANGE)
        words = answer.stdout.split()
        ephemeral = (int(words[0]), int(words[1])) if len(words) == 2 and answer.status == 0 else None
        return read_ports((low, high), ephemeral, self.patient.file)

    async def applications(self) -> Finding:
        """Say whether the applications are found on the login node; compute nodes may differ."""
        named = (await self.said.site()).applications
        if not named:
            return warning(
                "there is none: nobody can start anything",
                f"applications:   in {self.patient.file}, or in a drop-in on {self.patient.where}",
            )
        applications = {(a.shell, a.prologue, a.command): a for a in named[::-1]}
        return worst([await self._application(application) for application in applications.values()])

    async def _application(self, application: Application) -> Finding:
        shell = shlex.split(application.shell)
        # What a relay fills in is not known here.
        started = application.command if application.tls == "jupyter" else application.command[:1]
        ask = f'command -v "$1" >/dev/null || exit 127\necho "{_FOUND}"\ntimeout {_VERSION} "$@" --version'
        check = f"{application.prologue}\n{ask}"
        answer = await self.patient.ask(*shell, "-c", check, "gateway-doctor", *started)
        command = shlex.join(started)
        _, found, version = answer.stdout.rpartition(f"{_FOUND}\n")
        if found and answer.status == 0:
            said = (version.strip() or answer.stderr.strip()).splitlines()
            return ok(f"{application.name}: {command} {said[-1][:60] if said else ''}".rstrip())
        if found and hung(answer, command):
            return ok(
                f"{application.name}: {command} is there, and takes more than {_VERSION} s to say its version"
            )
        if hung(answer, command):
            words = f"the prologue takes more than {COMMAND:g} s"
        elif answer.status == 0:
            words = f"the prologue ends the shell before {command}"
        elif never_ran(answer) or "No module named" in answer.stderr:
            words = f"{command} is not there"
        else:
            words = words_of(answer)
        return warning(
            f"{application.name}: {words} on {self.patient.where} (compute nodes may differ: --job tells)",
            f"By hand on {self.patient.where}, after its prologue: {command} --version\n"
            f"applications: name: {application.name}: prologue and command are in {self.patient.file}.",
        )


def read_skew(seconds: float, error: float, where: str) -> Finding:
    """Return what it means that a login node's clock is so many seconds ahead. Pure."""
    if abs(seconds) - error > _SKEW:
        direction = "ahead of" if seconds > 0 else "behind"
        return warning(
            f"the clock of {where} is {abs(seconds):.0f} s {direction} this host's",
            "chronyc tracking   on both hosts; start chronyd or ntpd where it does not run",
        )
    return ok(f"{where}'s differs by {abs(seconds):.1f} s")


def read_ports(wanted: tuple[int, int], ephemeral: tuple[int, int] | None, file: str) -> Finding:
    """Return what is to be said of the applications' ports. Pure.

    Args:
        wanted: The lowest and the highest.
        ephemeral: Those that the kernel takes for outgoing connections; None if that is not known.
        file: The site config's.
    """
    low, high = wanted
    if ephemeral is None:
        return warning(
            f"which ports the nodes' own connections take is not known: {_PORT_RANGE} cannot be read",
            f"sysctl net.ipv4.ip_local_port_range   on a node; {low}-{high} have to be apart from it "
            f"(tunnel.ports in {file})",
        )
    if low <= ephemeral[1] and ephemeral[0] <= high:
        return warning(
            f"{low}-{high} overlaps {ephemeral[0]}-{ephemeral[1]}, which the nodes' own connections take",
            f"tunnel.ports: 20000-29999   in {file} (what sysctl net.ipv4.ip_local_port_range leaves free)",
        )
    if high - low + 1 < _FEW_PORTS:
        return warning(
            f"{low}-{high} are {high - low + 1} ports: so many applications at most run on one node",
            f"tunnel.ports: 20000-29999   in {file}",
        )
    return ok(f"{low}-{high}")

"""The steps of one cluster, in the order of the path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gateway.doctor.check import Finding
from gateway.doctor.forwards import Forwards
from gateway.doctor.here import Here
from gateway.doctor.logins import Logins
from gateway.doctor.patient import Patient
from gateway.doctor.people import People
from gateway.doctor.slurm import SlurmSteps
from gateway.doctor.vouching import Vouching
from gateway.doctor.walk import Step


@dataclass(slots=True)
class _Path:
    """Collects the steps of one cluster: the names of its steps bear the cluster's."""

    cluster: str
    steps: list[Step] = field(default_factory=list)

    def add(self, name: str, examine: Callable[[], Awaitable[Finding]], *needs: str, host: str = "") -> None:
        """Add a step. Of those that it needs, the ones that this site has count, and ``host``, the host's."""
        there = {step.name for step in self.steps}
        needed = tuple(name for name in map(self._full, needs) if name in there)
        self.steps.append(Step(self._full(name), examine, (*needed, host) if host else needed))

    def _full(self, name: str) -> str:
        return f"{self.cluster}: {name}"


def cluster_steps(patient: Patient) -> list[Step]:
    """Return the steps of a cluster. A step that its kind of site does not have is not among them."""
    site, path, logins, people = patient.site, _Path(patient.site.name), Logins(patient), People(patient)
    here, forwards = Here(patient), Forwards(patient)
    if site.login.transport == "ssh" or site.tunnel.kind == "ssh":
        path.add("names", logins.names)
        path.add("connection", logins.connection, "names")
        path.add("host key", logins.host_key, "connection")
    if site.login.transport == "ssh":
        path.add("key file", logins.key_file)
    path.add("login", logins.login, "host key", "key file")
    if site.login.transport == "ssh":
        path.add("clock", here.clock, "login")
    _add_acting(path, patient, people)
    if site.scheduler == "slurm":
        slurm = SlurmSteps(patient)
        path.add("programs", slurm.programs, "login")
        path.add("scheduler", slurm.controller, "programs")
        path.add("other users' jobs", slurm.other_jobs, "scheduler")
        path.add("partitions", slurm.partitions, "scheduler")
        path.add("accounts", slurm.accounts, "scheduler")
    path.add("state directory", people.state_directory, "act as", "programs")
    if site.tunnel.kind == "ssh":
        path.add("tunnel key file", logins.tunnel_key_file)
        path.add("tunnel", logins.tunnel, "host key", "tunnel key file")
    if site.scheduler == "slurm":
        path.add("forwarding", forwards.examine, "tunnel", "scheduler")
    path.add("ports", here.ports, "login")
    path.add("applications", here.applications, "login")
    return path.steps


def _add_acting(path: _Path, patient: Patient, people: People) -> None:
    """Add the steps of acting for people."""
    act_as, vouching = patient.site.login.act_as, Vouching(patient)
    if act_as != "service":
        path.add("launcher", people.launcher, "login")
    if act_as == "sudo":
        path.add("sudo", people.sudo, "login")
    if act_as == "certificate":
        # A certificate's number is written there.
        path.add("SSH CA", vouching.authority, host="state directory")
    path.add("root", people.root_refused, "SSH CA", "login")
    path.add("act as", people.act_as, "sudo", "launcher", "SSH CA", "login")
    if act_as == "certificate":
        path.add("next SSH CA key", vouching.next_key, "act as")

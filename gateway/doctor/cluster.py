"""The steps of one cluster, in the order of the path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gateway.doctor.batch import Batch
from gateway.doctor.check import Finding
from gateway.doctor.forwards import Forwards
from gateway.doctor.here import Here
from gateway.doctor.logins import Logins
from gateway.doctor.patient import Patient
from gateway.doctor.people import People
from gateway.doctor.said import Said
from gateway.doctor.vouching import Vouching
from gateway.doctor.walk import WITHIN, Step

#: Seconds for what shows a whole cluster: several commands, one after the other.
_DISCOVERY = 30.0


@dataclass(slots=True)
class _Path:
    """Collects the steps of one cluster: the names of its steps bear the cluster's."""

    cluster: str
    steps: list[Step] = field(default_factory=list)

    def add(
        self,
        name: str,
        examine: Callable[[], Awaitable[Finding]],
        *needs: str,
        host: str = "",
        within: float = WITHIN,
    ) -> None:
        """Add a step. Of those that it needs, the ones that this site has count, and ``host``, the host's."""
        there = {step.name for step in self.steps}
        needed = tuple(name for name in map(self._full, needs) if name in there)
        self.steps.append(Step(self._full(name), examine, (*needed, host) if host else needed, within))

    def _full(self, name: str) -> str:
        return f"{self.cluster}: {name}"


def cluster_steps(patient: Patient, said: Said | None = None) -> list[Step]:
    """Return the steps of a cluster. A step that its kind of site does not have is not among them.

    Args:
        patient: The cluster.
        said: What is known of it already.
    """
    said = said or Said(patient)
    site, path, logins, people = patient.site, _Path(patient.site.name), Logins(patient), People(patient)
    here, forwards, batch = Here(patient, said), Forwards(patient, said), Batch(said)
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
    path.add("drop-ins", said.drop_ins, "login", within=_DISCOVERY)
    path.add("programs", batch.programs, "login")
    if site.scheduler != "local":
        path.add("scheduler", batch.answers, "programs", within=_DISCOVERY)
        path.add("other users' jobs", batch.other_jobs, "scheduler", within=_DISCOVERY)
        path.add("partitions", batch.partitions, "scheduler", within=_DISCOVERY)
        path.add("accounts", batch.accounts, "scheduler", within=_DISCOVERY)
    if site.scheduler == "slurm":
        path.add("qos", batch.qos, "scheduler", within=_DISCOVERY)
    if site.scheduler == "pbs":
        path.add("ended jobs", batch.ended_jobs, "scheduler")
    path.add("state directory", people.state_directory, "act as", "programs")
    if site.tunnel.kind == "ssh":
        path.add("tunnel key file", logins.tunnel_key_file)
        path.add("tunnel", logins.tunnel, "host key", "tunnel key file")
    if site.scheduler != "local":
        path.add("forwarding", forwards.examine, "tunnel", "scheduler")
    path.add("ports", here.ports, "login")
    path.add("applications", here.applications, "login", within=_DISCOVERY)
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

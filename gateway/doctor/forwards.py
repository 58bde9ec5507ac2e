"""The step that tries where the tunnel leads: to a compute node, and not elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from gateway import parts
from gateway.doctor.check import Finding, not_ok, ok, skipped, warning
from gateway.doctor.nodes import compute_node
from gateway.doctor.patient import Patient
from gateway.doctor.reach import tcp
from gateway.doctor.said import Said
from gateway.doctor.walk import in_thread
from gateway.ssh.forwarding import Outcome, Target, try_forwards
from gateway.ssh.transport import Limits

_LIMITS = Limits(connect=2.5)


@dataclass(frozen=True, slots=True)
class Forwards:
    """Examines the tunnel's ends."""

    patient: Patient
    said: Said

    async def examine(self) -> Finding:
        """Say whether the tunnel leads to a compute node, and is refused elsewhere."""
        site = self.patient.site
        partitions = [partition.name for partition in (await self.said.site()).partitions]
        found = await compute_node(self.patient, partitions)
        if found is None:
            return skipped("no compute node of the site config's partitions is up")
        node, port = found
        if site.tunnel.kind == "direct":
            return await in_thread(lambda: tcp(node, port, self.patient.file))
        tunnel = parts.tunnel_settings(site, self.patient.scratch / "m")
        wanted: Target = (node, site.tunnel.ports[0])
        daemon: Target = (node, port)
        forbidden: Target = ("localhost", tunnel.port)
        names = ("hosts", "port", "user", "key", "known_hosts", "jump")
        update = {name: getattr(tunnel, name) for name in names}
        login = site.login.model_copy(update={"transport": "ssh", **update})
        outcomes = await in_thread(lambda: try_forwards(login, (wanted, daemon, forbidden), _LIMITS))
        return self._judge(
            tunnel.user, wanted, outcomes[wanted], (daemon, outcomes[daemon]), outcomes[forbidden]
        )

    def _judge(
        self, user: str, wanted: Target, allowed: Outcome, daemon: tuple[Target, Outcome], forbidden: Outcome
    ) -> Finding:
        node, where = wanted[0], self.patient.where
        end = f"{node}:{daemon[0][1]}"
        line = f'restrict,port-forwarding,permitopen="{node}:*",command="/bin/true" ssh-ed25519 AAAA...'
        options = f"in ~{user}/.ssh/authorized_keys on {where}, a permitopen for each compute node: {line}"
        if allowed is Outcome.PROHIBITED:
            return not_ok(
                f"{where} does not forward to {wanted[0]}:{wanted[1]} for {user}",
                f"{options}\nand in sshd_config there AllowTcpForwarding local or yes, no PermitOpen or "
                f"DisableForwarding against it: sshd -T -C user={user} | grep -iE 'forward|permit'",
            )
        if Outcome.OPEN not in (allowed, daemon[1]):
            return warning(
                f"{where} forwards for {user}, but the scheduler's daemon at {end} does not answer",
                f"On {where}: nc -vz {node} {daemon[0][1]}   (a firewall between login and compute nodes?)",
            )
        if forbidden is not Outcome.PROHIBITED:
            return warning(
                f"it leads to {node}, but {user} may forward everywhere, {where}'s own localhost too",
                f"Let its key lead to compute nodes only: {options}",
            )
        return ok(f"it leads to {node}, and is refused to {where}'s own localhost")

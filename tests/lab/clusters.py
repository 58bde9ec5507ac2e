"""The lab's clusters: their nodes, addresses, and what every login node is given before its sshd starts."""

from __future__ import annotations

from dataclasses import dataclass

#: The hub has this address on its link to each of the login nodes.
HUB_ADDRESS = "10.77.0.1"


@dataclass(frozen=True)
class Cluster:
    """A login node and the compute nodes behind it.

    ``name`` is the site config's, ``number`` makes the addresses, ``link`` is the hub's interface to it.
    """

    name: str
    number: int
    login: str
    compute: tuple[str, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of all nodes, the login node first."""
        return (self.login, *self.compute)

    @property
    def link(self) -> str:
        """The hub's interface to the login node."""
        return f"eth{self.number}"

    @property
    def outside(self) -> str:
        """The login node's address on its link to the hub."""
        return f"10.77.0.{4 * self.number + 2}"

    @property
    def inside(self) -> dict[str, str]:
        """The addresses within the cluster, by node."""
        network = f"10.{78 + self.number}.0"
        hosts = (1, *range(11, 11 + len(self.compute)))
        return {node: f"{network}.{host}" for node, host in zip(self.nodes, hosts, strict=True)}


#: Slurm: always there.
SLURM = Cluster("lab", 0, "login", ("cn1", "cn2"))
#: Grid Engine and PBS: started on demand, see Lab.add_cluster().
SGE = Cluster("labsge", 1, "sgelogin", ("sgen1",))
PBS = Cluster("labpbs", 2, "pbslogin", ("pbsn1",))
#: Slurm with its accounting: started on demand too.
ACCOUNTING = Cluster("labacct", 3, "acctlogin", ("acctn1", "acctn2", "acctn3"))
#: Another login node of the first cluster, see Lab.add_login_node().
SECOND = Cluster("lab", 9, "otherlogin", ())
CLUSTERS = (SLURM, SGE, PBS, ACCOUNTING, SECOND)


def hosts_inside() -> str:
    """Return /etc/hosts of the clusters' nodes."""
    lines = (f"{address} {node}\n" for c in CLUSTERS for node, address in c.inside.items())
    return f"127.0.0.1 localhost\n{''.join(lines)}"


def hosts_outside() -> str:
    """Return the lines of the hub's /etc/hosts: it knows the login nodes alone."""
    return "".join(f"{c.outside} {c.login}\n" for c in CLUSTERS)

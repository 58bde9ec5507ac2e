"""What a cluster that is started on demand has, whatever its scheduler: nodes, and a site config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tests.lab.accounts import BY_NAME, write_private
from tests.lab.clusters import Cluster
from tests.lab.nodes import Node

if TYPE_CHECKING:
    from tests.lab.lab import Lab


class OnDemand:
    """A cluster of a lab; ``cluster`` and ``site_config`` are its kind's."""

    cluster: ClassVar[Cluster]
    site_config: ClassVar[str]

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @property
    def login(self) -> Node:
        """The login node: sshd and the scheduler's server."""
        return self.lab.nodes[self.cluster.login]

    @property
    def node(self) -> Node:
        """The compute node."""
        return self.lab.nodes[self.cluster.compute[0]]

    def write_site_config(self, text: str | None = None) -> None:
        """Write the gateway's site config of this cluster."""
        write_private(self._site_file, text or self.site_config, BY_NAME["gateway"].uid)

    def remove_site_config(self) -> None:
        """Take it away: a gateway that starts then does not know the cluster."""
        self._site_file.unlink(missing_ok=True)

    @property
    def _site_file(self) -> Path:
        return self.lab.state / "hub/sites" / f"{self.cluster.name}.yaml"

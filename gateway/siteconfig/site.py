"""A cluster's site config as a whole: what the gateway's own file says, and what was added to it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from gateway.siteconfig.dropin import Application, DropIn, Idle, Partition
from gateway.siteconfig.trusted import Login, Tunnel
from gateway.siteconfig.words import Title


class SiteConfig(DropIn):
    """A cluster: the trusted file of the gateway's site directory, which may say all that a drop-in may.

    The one that the pages and the job scripts work with also holds what the drop-ins say and what was
    discovered.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")]
    """The word for it in URLs, on the command line and in the database."""
    title: Title
    """What people call the cluster."""
    scheduler: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,30}$")]
    """``slurm``, ``pbs``, ``sge``, ``local``, or one of another package."""
    login: Login
    """How the hub reaches the login node, and as whom it acts there."""
    tunnel: Tunnel = Field(Tunnel(), validate_default=True)
    """How the traffic reaches the compute nodes."""

    @field_validator("tunnel")
    @classmethod
    def _leads_somewhere(cls, tunnel: Tunnel, info: ValidationInfo) -> Tunnel:
        login = info.data.get("login")
        missing = [name for name in ("hosts", "user", "key", "known_hosts") if not getattr(tunnel, name)]
        if login and login.transport == "local" and tunnel.kind == "ssh" and missing:
            raise ValueError(f"transport: local needs {', '.join(missing)} here, or tunnel: direct")
        return tunnel

    def partition(self, name: str) -> Partition | None:
        """Return the partition of this name, if there is one."""
        return next((p for p in self.partitions if p.name == name), None)

    def idle_policy(self, partition: str) -> Idle | None:
        """Return when idle servers of a partition are stopped, None if they never are."""
        own = self.partition(partition)
        return own.idle if own and own.idle else self.idle

    def application(self, name: str) -> Application | None:
        """Return the application of this name, if there is one."""
        return next((a for a in self.applications if a.name == name), None)

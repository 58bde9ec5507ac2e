"""What only the gateway's own site directory may say: how a cluster is reached, and as whom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

from gateway.siteconfig.words import AbsolutePath, Account, Host, Network, Port, PortRange, Strict

#: What stands where no file is: a key and known hosts are an SSH connection's.
_NO_FILE = Path("/dev/null")
#: So that the path of a socket in it, with the longest user's name, fits into the 107 bytes that it may have.
_SOCKETS_MAX = 50


#: A variable that a scheduler's programs read.
EnvironmentName = Annotated[str, StringConstraints(pattern=r"^(?:SLURM|SGE|PBS)_[A-Z0-9_]{1,60}$")]
EnvironmentValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./:@,+=-]{1,500}$")]


class Jump(Strict):
    """A host through which another is reached over SSH. It forwards, and runs nothing."""

    host: Host
    """The jump host."""
    port: Port = 22
    """sshd's port there."""
    user: Account
    """The account there; it needs nothing but forwarding."""
    key: AbsolutePath | None = None
    """The file of its private key; the key of the login behind it if it is left out."""
    known_hosts: AbsolutePath | None = None
    """The file with the jump host's key; that of the login behind it if it is left out."""

    def before(self, key: Path, known_hosts: Path) -> Jump:
        """Return it with what is left out: that of the login behind it."""
        update = {"key": self.key or key, "known_hosts": self.known_hosts or known_hosts}
        return self.model_copy(update=update)


class Login(Strict):
    """How the hub reaches the login node, and as whom it acts there."""

    transport: Literal["ssh", "local"] = "ssh"
    """``local`` if the hub itself runs on a login node, as ``user``: there are no hosts, and no key."""
    hosts: tuple[Host, ...] = Field((), validate_default=True)
    """The login nodes, equal to each other; the first that answers is used."""
    port: Port = 22
    """sshd's port on them."""
    user: Account
    """The service account, which asks the scheduler about all jobs."""
    key: AbsolutePath = Field(_NO_FILE, validate_default=True)
    """The file of its private key, readable by the gateway alone."""
    known_hosts: AbsolutePath = Field(_NO_FILE, validate_default=True)
    """The file with the login nodes' host keys; a key that is not in it is refused."""
    jump: Jump | None = None
    """The host through which they are reached, if they cannot be reached directly."""
    act_as: Literal["sudo", "certificate", "service"]
    """How jobs are people's own: by sudo, or by a certificate; with ``service`` all are the account's."""
    source_addresses: tuple[Network, ...] = ()
    """From where certificates are good: the gateway, or the jump host, as the login nodes see it."""
    certificate_minutes: Annotated[int, Field(ge=1, le=60)] = 5
    """How long a certificate can be used to log in."""
    launcher: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_./-]+$")] = (
        "/usr/local/sbin/gateway-launcher"
    )
    """Where the launcher is installed."""
    state_dir: Annotated[
        str, StringConstraints(pattern=r"^(?:~|/[A-Za-z0-9_.-]+)(?:/[A-Za-z0-9_.%-]+)*$")
    ] = "~/.gateway"
    """Where a job's files are, on a file system that compute nodes share; ``%u`` is the user."""
    bin: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_./-]*$")] = "/usr/bin"
    """The directory of the scheduler's programs."""
    environment: dict[EnvironmentName, EnvironmentValue] = Field(default_factory=dict)
    """What the scheduler's programs need: ``SGE_ROOT``, ``PBS_CONF_FILE``, ``SLURM_CONF``, ``SLURM_CLUSTERS``
    (one name)."""
    callback: bool = False
    """Whether jobs can reach the hub by HTTPS, where they may not publish through the scheduler."""
    dropins: AbsolutePath | None = Path("/etc/gateway/site.d")
    """The directory on the login node with drop-in files; ``null`` for none."""

    @field_validator("hosts", "key", "known_hosts", "port")
    @classmethod
    def _as_the_transport_wants(cls, value: Any, info: ValidationInfo) -> Any:
        transport = info.data.get("transport")
        given = value not in ((), _NO_FILE)
        if transport == "local" and given:
            raise ValueError(f"transport: local takes no {info.field_name}")
        if transport == "ssh" and not given:
            raise ValueError(f"transport: ssh needs {info.field_name}")
        return value

    @field_validator("environment")
    @classmethod
    def _one_cluster(cls, value: dict[str, str]) -> dict[str, str]:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", value.get("SLURM_CLUSTERS", "one"), re.ASCII):
            raise ValueError("SLURM_CLUSTERS is one cluster's name: write a site config for each cluster")
        return value

    @field_validator("jump")
    @classmethod
    def _only_over_ssh(cls, value: Jump | None, info: ValidationInfo) -> Jump | None:
        if value is not None and info.data.get("transport") == "local":
            raise ValueError("transport: local takes no jump")
        return value

    @field_validator("act_as")
    @classmethod
    def _certificates_go_by_ssh(cls, value: str, info: ValidationInfo) -> str:
        if value == "certificate" and info.data.get("transport") == "local":
            raise ValueError("certificate is a way to log in: it needs transport: ssh")
        return value

    @property
    def hop(self) -> Jump | None:
        """The jump host with all that is needed to log in there; None if there is none."""
        return self.jump.before(self.key, self.known_hosts) if self.jump else None

    def owner(self, user: str) -> str:
        """Return the account that a person's jobs belong to."""
        return self.user if self.act_as == "service" else user


class Nodes(Strict):
    """How the compute nodes' sshd let people in, for ``node_security: ssh``."""

    known_hosts: AbsolutePath
    """The file with the nodes' host keys, by the scheduler's names, or with a line ``@cert-authority``."""
    port: Port = 22
    """sshd's port on them."""
    source_addresses: tuple[Network, ...] = ()
    """From where the certificates are good: the login nodes as the compute nodes see them."""
    certificate_minutes: Annotated[int, Field(ge=1, le=60)] = 5
    """How long a certificate can be used to log in; each connection gets a new one."""
    sockets: Annotated[str, StringConstraints(pattern=r"^(?:/[A-Za-z0-9_-]*(?:%u)?[A-Za-z0-9_-]*){1,5}$")] = (
        "/tmp/gateway-%u"  # noqa: S108  it must be the user's own there
    )
    """The directory on a node in which a user's applications listen; made if need be, for the user alone."""

    @field_validator("sockets")
    @classmethod
    def _own(cls, value: str) -> str:
        if "%u" not in value or len(value) > _SOCKETS_MAX:
            raise ValueError(
                f"it must hold %u, the user's name, and be no longer than {_SOCKETS_MAX} characters"
            )
        return value

    def directory(self, user: str) -> str:
        """Return the directory of a user's sockets."""
        return self.sockets.replace("%u", user)


class Tunnel(Strict):
    """How the traffic reaches the compute nodes. What is left out is the login node's.

    ``tunnel: direct`` is short for ``kind: direct``.
    """

    kind: Literal["ssh", "direct"] = "ssh"
    """``direct`` if the hub's host has a route to the compute nodes itself."""
    hosts: tuple[Host, ...] = ()
    """The hosts that forward, in turn."""
    port: Port | None = None
    """sshd's port on them."""
    user: Account | None = None
    """The account there; it needs nothing but forwarding."""
    key: AbsolutePath | None = None
    """The file of its private key."""
    known_hosts: AbsolutePath | None = None
    """The file with their host keys."""
    jump: Jump | None = None
    """The host through which they are reached."""
    ports: Annotated[PortRange, Field(json_schema_extra={"default": "20000-29999"})] = (20000, 29999)
    """In which applications listen on the compute nodes."""
    node_security: Literal["tls", "plain", "ssh"] = "tls"
    """``ssh`` goes to a Unix socket, by SSH to the node as the user. ``plain`` shows the traffic to the
    cluster's network, and trusts every user of a node."""
    nodes: Nodes | None = Field(None, validate_default=True)
    """How to log in to the compute nodes, for ``node_security: ssh``."""
    masters: Annotated[int, Field(ge=1, le=16)] = 2
    """How many SSH connections to each host share the traffic; more are made as servers need them."""
    bulk_masters: Annotated[int, Field(ge=0, le=16)] = 1
    """How many more carry large downloads and uploads alone, out of the way of all else."""
    certificate: AbsolutePath | None = None
    """The file of the key's certificate; once it is renewed, new connections replace the old ones."""
    drain_minutes: Annotated[int, Field(ge=0, le=10080)] = 15
    """How long what is open may stay on a connection that is to end: to a host that is left, for example."""

    @model_validator(mode="before")
    @classmethod
    def _one_word(cls, data: Any) -> Any:
        return {"kind": data} if isinstance(data, str) else data

    @field_validator(
        "hosts",
        "port",
        "user",
        "key",
        "known_hosts",
        "jump",
        "masters",
        "bulk_masters",
        "certificate",
        "drain_minutes",
    )
    @classmethod
    def _as_the_kind_wants(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("kind") == "direct":
            raise ValueError(f"tunnel: direct takes no {info.field_name}")
        return value

    @field_validator("nodes")
    @classmethod
    def _as_the_security_wants(cls, value: Nodes | None, info: ValidationInfo) -> Nodes | None:
        by_ssh = info.data.get("node_security") == "ssh"
        if by_ssh and info.data.get("kind") == "direct":
            raise ValueError("node_security: ssh goes by the login nodes: it needs kind: ssh")
        if by_ssh and value is None:
            raise ValueError(
                "node_security: ssh needs nodes.known_hosts: the file with the compute nodes' host keys, "
                "or with a line @cert-authority"
            )
        if not by_ssh and value is not None:
            raise ValueError("nodes is for node_security: ssh")
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return the schema: one word, or the mapping."""
        reference = handler(schema)
        mapping = handler.resolve_ref_schema(reference)
        whole = dict(mapping)
        mapping.clear()
        mapping["anyOf"] = [{"enum": ["ssh", "direct"]}, whole]
        return reference

"""What a site config may say, as pydantic models, and how one is read: data only."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from gateway.errors import ConfigError

#: A word that is safe on a scheduler's directive line (partition, account, GPU type).
DIRECTIVE_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}"
#: One line of text for people: no control characters.
ONE_LINE = r"[^\x00-\x1f\x7f]{1,200}"
#: A DNS name or an IPv4 address.
HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?"

Name = Annotated[str, StringConstraints(pattern=rf"^{DIRECTIVE_WORD}$")]
Title = Annotated[str, StringConstraints(pattern=rf"^{ONE_LINE}$")]
Host = Annotated[str, StringConstraints(pattern=rf"^{HOST}$")]
Account = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_.-]{0,31}$")]
Port = Annotated[int, Field(ge=1, le=65535)]

_WALLTIME = re.compile(r"(\d{1,5})\s*(m|min|h|d)|(?:(\d{1,3})-)?(\d{1,3}):(\d{2})(?::(\d{2}))?", re.ASCII)
_MEMORY = re.compile(r"(\d{1,7})\s*([MGT])(?:i?B)?", re.ASCII)
_MINUTES = {"m": 1, "min": 1, "h": 60, "d": 24 * 60}
_MEGABYTES = {"M": 1, "G": 1024, "T": 1024 * 1024}

#: What stands where no file is: a key and known hosts are an SSH connection's.
_NO_FILE = Path("/dev/null")


def parse_walltime(text: object) -> int:
    """Return a walltime in whole minutes, at least 1.

    Args:
        text: ``90m``, ``4h``, ``2d``, ``HH:MM``, ``HH:MM:SS`` (rounded up) or ``D-HH:MM[:SS]``.

    Raises:
        ValueError: It is none of these.
    """
    found = _WALLTIME.fullmatch(str(text).strip())
    if not found:
        raise ValueError("write a walltime as 30m, 4h, 2d, HH:MM:SS or D-HH:MM:SS")
    amount, unit, days, hours, minutes, seconds = found.groups()
    if unit:
        total = int(amount) * _MINUTES[unit]
    else:
        total = (int(days or 0) * 24 + int(hours)) * 60 + int(minutes) + (1 if int(seconds or 0) else 0)
    if total < 1:
        raise ValueError("a walltime is at least one minute")
    return total


def parse_memory(text: object) -> int:
    """Return an amount of memory in megabytes (2**20 bytes), at least 1.

    Args:
        text: A whole number with a unit: ``512M``, ``4G``, ``1T``.

    Raises:
        ValueError: It is not.
    """
    found = _MEMORY.fullmatch(str(text).strip())
    if not found or int(found[1]) < 1:
        raise ValueError("write memory as a whole number and a unit: 512M, 4G, 1T")
    return int(found[1]) * _MEGABYTES[found[2]]


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("write an absolute path")
    return path


def _port_range(text: object) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{4,5})-(\d{4,5})", str(text))
    if not found or not 1024 <= int(found[1]) <= int(found[2]) - 9 < 65536 or int(found[2]) > 65535:
        raise ValueError("write a range of at least ten ports above 1023, as 20000-29999")
    return int(found[1]), int(found[2])


def _network(text: str) -> str:
    # sshd takes no host bits below the mask: with them the whole certificate would be refused.
    try:
        return str(ipaddress.ip_network(text)) if "/" in text else str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError(f"write an IP address or a network in CIDR form: {error}") from None


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Walltime = Annotated[int, BeforeValidator(parse_walltime)]
Memory = Annotated[int, BeforeValidator(parse_memory)]
Network = Annotated[str, AfterValidator(_network)]
PortRange = Annotated[tuple[int, int], BeforeValidator(_port_range)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_max_length=20_000)


class Login(_Strict):
    """How the hub reaches the login node, and as whom it acts there.

    With ``transport: local`` it runs on one itself, as ``user``: there are no hosts, and no key.
    """

    transport: Literal["ssh", "local"] = "ssh"
    hosts: tuple[Host, ...] = Field((), validate_default=True)
    port: Port = 22
    user: Account
    key: AbsolutePath = Field(_NO_FILE, validate_default=True)
    known_hosts: AbsolutePath = Field(_NO_FILE, validate_default=True)
    act_as: Literal["sudo", "certificate", "service"]
    source_addresses: tuple[Network, ...] = ()
    certificate_minutes: Annotated[int, Field(ge=1, le=60)] = 5
    launcher: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_./-]+$")] = (
        "/usr/local/sbin/gateway-launcher"
    )
    state_dir: Annotated[
        str, StringConstraints(pattern=r"^(?:~|/[A-Za-z0-9_.-]+)(?:/[A-Za-z0-9_.%-]+)*$")
    ] = "~/.gateway"
    bin: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_./-]*$")] = "/usr/bin"

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

    @field_validator("act_as")
    @classmethod
    def _certificates_go_by_ssh(cls, value: str, info: ValidationInfo) -> str:
        if value == "certificate" and info.data.get("transport") == "local":
            raise ValueError("certificate is a way to log in: it needs transport: ssh")
        return value

    def owner(self, user: str) -> str:
        """Return the account that a person's jobs belong to."""
        return self.user if self.act_as == "service" else user


class Tunnel(_Strict):
    """How the traffic reaches the compute nodes. What is left out is the login node's.

    With ``kind: direct``, for short ``tunnel: direct``, the hub's host has a route to them itself.
    """

    kind: Literal["ssh", "direct"] = "ssh"
    hosts: tuple[Host, ...] = ()
    port: Port | None = None
    user: Account | None = None
    key: AbsolutePath | None = None
    known_hosts: AbsolutePath | None = None
    ports: PortRange = (20000, 29999)
    node_security: Literal["tls", "plain"] = "tls"
    masters: Annotated[int, Field(ge=1, le=16)] = 2

    @model_validator(mode="before")
    @classmethod
    def _one_word(cls, data: Any) -> Any:
        return {"kind": data} if isinstance(data, str) else data

    @field_validator("hosts", "port", "user", "key", "known_hosts", "masters")
    @classmethod
    def _as_the_kind_wants(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("kind") == "direct":
            raise ValueError(f"tunnel: direct takes no {info.field_name}")
        return value


class Partition(_Strict):
    """A partition (Slurm) or queue (PBS, Grid Engine) on the form, with the most that may be asked of it."""

    name: Name
    title: Title | None = None
    max_walltime: Walltime
    default_walltime: Walltime | None = None
    max_cores: Annotated[int, Field(ge=1, le=100_000)] = 1
    max_memory: Memory
    gpus: dict[Name, Annotated[int, Field(ge=1, le=1000)]] = {}
    default: bool = False


class Application(_Strict):
    """A web application that users may run."""

    name: Name
    title: Title
    command: tuple[Annotated[str, StringConstraints(min_length=1, max_length=1000)], ...] = Field(
        min_length=1
    )
    prologue: str = ""
    shell: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_./-]*/(?:ba|da|k|z|)sh(?: -l)?$")] = (
        "/bin/sh"
    )
    url: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_./-]*$")] = "/"
    requeue: bool = False


class SiteConfig(_Strict):
    """A cluster."""

    version: Literal[1]
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")]
    title: Title
    scheduler: Literal["slurm", "local"]
    login: Login
    tunnel: Tunnel = Field(Tunnel(), validate_default=True)
    partitions: tuple[Partition, ...] = Field(min_length=1)
    accounts: tuple[Name, ...] = ()
    applications: tuple[Application, ...] = Field(min_length=1)

    @field_validator("partitions", "applications")
    @classmethod
    def _names_are_unique(cls, items: tuple[Partition | Application, ...]) -> tuple[Any, ...]:
        names = [item.name for item in items]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{', '.join(sorted(twice))} is there twice")
        return items

    @field_validator("tunnel")
    @classmethod
    def _leads_somewhere(cls, tunnel: Tunnel, info: ValidationInfo) -> Tunnel:
        login = info.data.get("login")
        missing = [name for name in ("hosts", "user", "key", "known_hosts") if not getattr(tunnel, name)]
        if login and login.transport == "local" and tunnel.kind == "ssh" and missing:
            raise ValueError(f"transport: local needs {', '.join(missing)} here, or tunnel: direct")
        return tunnel

    @field_validator("partitions")
    @classmethod
    def _one_default(cls, partitions: tuple[Partition, ...]) -> tuple[Partition, ...]:
        if sum(partition.default for partition in partitions) > 1:
            raise ValueError("only one can be the default")
        return partitions

    def partition(self, name: str) -> Partition | None:
        """Return the partition of this name, if there is one."""
        return next((p for p in self.partitions if p.name == name), None)

    def application(self, name: str) -> Application | None:
        """Return the application of this name, if there is one."""
        return next((a for a in self.applications if a.name == name), None)


class _OneValuePerKey(yaml.SafeLoader):
    """The safe loader, without aliases and with an error where a key stands twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it bare
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise yaml.composer.ComposerError(
                        None, None, f"{key.value} is there twice", key.start_mark
                    )
                seen.add(str(key.value))
        return node


def parse_site_config(text: str, source: str) -> SiteConfig:
    """Return the site config that ``text`` holds.

    Args:
        text: YAML.
        source: The file's name, for errors.

    Raises:
        ConfigError: One line for each fault, ``file:line: where: what``.
    """
    try:
        node, data = _load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{source}:{line}: {error.problem or 'not YAML'}") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ConfigError(f"{source}:{line}: {error.reason}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{source}:1: a site config is a mapping of keys to values")
    try:
        return SiteConfig.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False)
        faults = [_fault(source, node, details) for details in found if not _follows(details, found)]
        raise ConfigError("\n".join(faults)) from None


def _load(text: str) -> tuple[yaml.Node | None, Any]:
    loader = _OneValuePerKey(text)
    try:
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _follows(details: ErrorDetails, found: list[ErrorDetails]) -> bool:
    """Return whether a list only seems too short because of the faults inside of it."""
    here = details["loc"]
    return details["type"] == "too_short" and any(
        len(other["loc"]) > len(here) and other["loc"][: len(here)] == here for other in found
    )


def _fault(source: str, root: yaml.Node | None, details: ErrorDetails) -> str:
    where = ""
    for part in details["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    what = details["msg"].removeprefix("Value error, ")
    if details["type"] == "extra_forbidden":
        what = "there is no such key"
    elif details["type"] == "too_short":
        what = "there must be at least one"
    elif details["type"] == "string_pattern_mismatch":
        what = f"{details['input']!r} is not allowed here"
    separator = ": " if where else ""
    return f"{source}:{_line_of(root, details['loc'])}: {where}{separator}{what}"


def _line_of(node: Any, location: tuple[int | str, ...]) -> int:
    """Return the line (from 1) of the deepest part of ``location`` that is in the text."""
    line: int = node.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        else:
            break
    return line

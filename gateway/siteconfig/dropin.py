"""What a cluster's own administrators may say, on its login node too: about the form and the job."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from gateway.siteconfig.words import (
    FieldName,
    GpuType,
    Memory,
    Name,
    Strict,
    Text,
    Title,
    Typed,
    Version,
    Walltime,
)


class Idle(Strict):
    """When servers that nobody uses are stopped.

    A kernel that is busy, or a kernel or terminal that does something, is use; an open page is not. Their
    owners see beforehand when it will be, and can keep them.
    """

    after: Walltime
    """For how long nothing may run in one."""
    warn: Walltime = 15
    """How long before its end that is announced, on the person's own page of servers."""
    bytes_per_second: Annotated[int, Field(ge=1, le=10**9)] = 2000
    """The traffic, both ways, that counts as use of an application with ``activity: traffic``."""


class Partition(Strict):
    """A partition (Slurm) or queue (PBS, Grid Engine) on the form, with the most that may be asked of it.

    What nobody says is the scheduler's to limit.
    """

    name: Name
    """What the scheduler calls it."""
    title: Title | None = None
    """What people see."""
    max_walltime: Walltime | None = None
    """The longest walltime."""
    default_walltime: Walltime | None = None
    """What the form starts with."""
    max_cores: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """The most cores of a job, which has one node."""
    max_memory: Memory | None = None
    """The most memory of a job."""
    gpus: dict[GpuType, Annotated[int, Field(ge=1, le=1000)]] = Field(default_factory=dict)
    """The most GPUs of a job, by their type; ``""`` where the scheduler does not tell types apart."""
    groups: tuple[Name, ...] = ()
    """Who sees it: whoever is in one of these groups of the directory; everybody if there are none."""
    default: bool = False
    """Whether the form starts with it."""
    idle: Idle | None = None
    """When idle servers there are stopped, if not as elsewhere on the cluster."""


class Application(Strict):
    """A web application that people may run."""

    name: Name
    """The word for it in the API and in a script's header."""
    title: Title
    """What people see."""
    command: tuple[Annotated[str, StringConstraints(min_length=1, max_length=1000)], ...] = Field(
        min_length=1
    )
    """The program and its arguments, which no shell reads."""
    prologue: str = ""
    """Shell lines that are run before it: ``module load jupyter``."""
    shell: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_./-]*/(?:ba|da|k|z|)sh(?: -l)?$")] = (
        "/bin/sh"
    )
    """The shell that runs them; ``/bin/bash -l`` where a login shell knows ``module``."""
    url: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_./-]*$")] = "/"
    """Where the browser goes first, below the server's own path."""
    tls: Literal["jupyter", "relay"] = "jupyter"
    """Who speaks TLS on the node: the application, by Jupyter's options; or a relay before one that cannot.
    Its command says where it is by ``{socket}`` or ``{port}``, and may hold ``{path}``, ``{token_file}``."""
    activity: Literal["jupyter", "traffic"] = "jupyter"
    """What tells that it is in use: Jupyter's kernels and terminals, or the traffic."""
    requeue: bool = False
    """Whether the scheduler may start the job again, after a node was lost."""
    groups: tuple[Name, ...] = ()
    """Who sees it, as for a partition."""


class AddedField(Strict):
    """A field that a site adds to the form. A script's header has its value as ``choices.extra.NAME``."""

    name: FieldName
    """The word for it in rules, scripts and the API; not that of a field which is there anyway."""
    label: Title
    """What people see."""
    kind: Literal["text", "choice", "number", "checkbox"] = "text"
    """What it looks like. A checkbox has the value ``true``, or none."""
    choices: dict[Typed, Title] = Field(default_factory=dict)
    """Of a choice: the values, and what people see."""
    default: Typed = ""
    """What it starts with."""
    minimum: int | None = None
    """The least number."""
    maximum: int | None = None
    """The largest number."""
    pattern: Annotated[str, StringConstraints(max_length=200)] = ""
    """A regular expression that the whole text must match, without nested repetitions."""
    required: bool = False
    """Whether it must be filled in."""
    help: Title | None = None
    """A line below it."""


class Preset(Strict):
    """A button that fills in several fields at once."""

    name: FieldName
    """The word for it in links: ``?preset=NAME``."""
    title: Title
    """What stands on it."""
    values: dict[FieldName, Typed]
    """Fields, and what is filled in."""


class Rule(Strict):
    """What a field may hold, depending on others.

    It counts where each field of ``when`` holds one of the values given, and not each of ``unless`` does.
    """

    field: FieldName
    """The field that it limits."""
    when: dict[FieldName, tuple[Typed, ...]] = Field(default_factory=dict)
    """Fields, and the values with which the rule counts; always, if there are none."""
    unless: dict[FieldName, tuple[Typed, ...]] = Field(default_factory=dict)
    """Fields, and the values with which it does not."""
    at_least: Typed | None = None
    """The least, written as the field's value is: ``4``, ``2h``, ``8G``."""
    at_most: Typed | None = None
    """The most."""
    one_of: tuple[Typed, ...] | None = None
    """All values that are allowed; ``""`` stands for nothing."""
    message: Title
    """What people read beside the field: why, and what to choose."""


class Form(Strict):
    """What a site changes about the form."""

    fields: tuple[AddedField, ...] = ()
    """Fields of the site's own."""
    hide: tuple[FieldName, ...] = ()
    """Fields that are not shown; they have their default, or what ``fix`` says."""
    rename: dict[FieldName, Title] = Field(default_factory=dict)
    """Fields, and what they are called instead."""
    fix: dict[FieldName, Typed] = Field(default_factory=dict)
    """Fields, and the one value that they have."""
    help: dict[FieldName, Title] = Field(default_factory=dict)
    """Fields, and a line below them."""
    presets: tuple[Preset, ...] = ()
    """Buttons that fill in several fields."""
    rules: tuple[Rule, ...] = ()
    """What fields may hold, depending on others."""


class Script(Strict):
    """What a site puts into job scripts: Jinja, with ``choices`` and ``job``; every value is shell-quoted."""

    header: str = ""
    """Lines after the gateway's own directives: directives of the site, then shell lines."""
    template: str = ""
    """What takes the place of the whole part before the wrapper, directives included."""
    resources: dict[FieldName, Name] = Field(default_factory=dict)
    """The site's own names of what jobs ask for. Grid Engine: ``pe`` (else ``smp``), ``memory``
    (``mem_free``, counted for each slot), ``gpus`` (``gpu``; those of a type have its name), ``exclusive``.
    PBS: ``gpus`` (``ngpus``), ``gpu_type``."""


class Messages(Strict):
    """What a site says to people, in a small subset of Markdown; links are http(s) only."""

    login: Text = ""
    """On the page where people log in."""
    form: Text = ""
    """Above the form."""


class DropIn(Strict):
    """What may be said of a cluster on its own login node. What nobody says is asked of the scheduler."""

    version: Version
    """The language of this file: 1."""
    title: Title | None = None
    """What people call the cluster."""
    partitions: tuple[Partition, ...] = ()
    """Those on the form; all that the scheduler has, if none is named."""
    accounts: tuple[Name, ...] = ()
    """Those on the form, where the scheduler does not know which ones a person has."""
    qos: tuple[Name, ...] = ()
    """Those on the form, in the same way. The scripts for PBS and Grid Engine name it only in a header."""
    reservations: tuple[Name, ...] = ()
    """Those on the form: of those that the scheduler tells of, a person's own. PBS: the reservation's queue;
    Grid Engine: its number."""
    constraints: tuple[Name, ...] = ()
    """Kinds of node on the form, in place of all that the scheduler has: features of Slurm's nodes, resources
    of PBS and Grid Engine that are true or false."""
    idle: Idle | None = None
    """When idle servers are stopped; never, if it is left out."""
    applications: tuple[Application, ...] = ()
    """What people may run."""
    form: Form = Form()
    """What a site changes about the form."""
    script: Script = Script()
    """What a site puts into job scripts."""
    messages: Messages = Messages()
    """What a site says to people."""

    @field_validator("partitions", "applications")
    @classmethod
    def _names_are_unique(cls, items: tuple[Partition | Application, ...]) -> tuple[Any, ...]:
        names = Counter(item.name for item in items)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"{', '.join(sorted(twice))} is there twice")
        return items

    @field_validator("partitions")
    @classmethod
    def _one_default(cls, partitions: tuple[Partition, ...]) -> tuple[Partition, ...]:
        if sum(partition.default for partition in partitions) > 1:
            raise ValueError("only one can be the default")
        return partitions

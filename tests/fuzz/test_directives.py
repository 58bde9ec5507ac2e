"""What a scheduler reads in a rendered script is what was chosen, whatever the choices say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.model import Choices
from gateway.script import render_script
from tests.fuzz import directives
from tests.fuzz.hostile import CLAIMED_WORD, PRINTABLE, WORD
from tests.unit.test_script import CHOICES, JOB, SITE

#: Examples for each scheduler, of eight values each.
EXAMPLES = 200
NAME = "gw-inst22-abcdefghij"
Meant = Mapping[str, Sequence[str]]

MAYBE = st.none() | CLAIMED_WORD
CHOSEN = st.builds(
    Choices,
    cluster=st.just("lab"),
    application=st.just("lab"),
    partition=CLAIMED_WORD,
    walltime=st.integers(1, 100_000),
    cores=st.integers(1, 1000),
    memory=st.integers(1, 10**7),
    gpus=st.integers(0, 8),
    gpu_type=MAYBE,
    account=MAYBE,
    qos=MAYBE,
    reservation=MAYBE,
    constraint=MAYBE,
    exclusive=st.booleans(),
)


def said(**options: str | None) -> Meant:
    """Return long options with their values, but for those that are None."""
    return {f"--{name.replace('_', '-')}": [value] for name, value in options.items() if value is not None}


def for_slurm(chosen: Choices, requeue: bool) -> Meant:
    gpu_type = f"{chosen.gpu_type}:" if chosen.gpu_type is not None else ""
    return said(
        job_name=NAME,
        partition=chosen.partition,
        account=chosen.account,
        qos=chosen.qos,
        reservation=chosen.reservation,
        constraint=chosen.constraint,
        exclusive="" if chosen.exclusive else None,
        time=str(chosen.walltime),
        nodes="1",
        ntasks="1",
        cpus_per_task=str(chosen.cores),
        mem=f"{chosen.memory}M",
        gres=f"gpu:{gpu_type}{chosen.gpus}" if chosen.gpus else None,
        output="log",
        open_mode="append",
        export="NIL",
        signal="B:USR1@10" if chosen.walltime >= 3 else None,
        **{"requeue" if requeue else "no_requeue": ""},
    )


def for_pbs(chosen: Choices, requeue: bool) -> Meant:
    chunk = [f"select=1:ncpus={chosen.cores}", f"mem={chosen.memory}mb"]
    if chosen.gpus:
        chunk.append(f"ngpus={chosen.gpus}")
        chunk += [f"gpu_type={chosen.gpu_type}"] if chosen.gpu_type is not None else []
    chunk += [f"{chosen.constraint}=True"] if chosen.constraint is not None else []
    hours, minutes = divmod(chosen.walltime, 60)
    place = ["place=exclhost"] if chosen.exclusive else []
    return {
        "-N": [NAME],
        "-q": [chosen.reservation if chosen.reservation is not None else chosen.partition],
        **({"-A": [chosen.account]} if chosen.account is not None else {}),
        "-l": [":".join(chunk), *place, f"walltime={hours:02}:{minutes:02}:00"],
        "-r": ["y" if requeue else "n"],
        "-m": ["n"],
        "-j": ["oe"],
        "-k": ["oed"],
        "-o": ["log"],
        "-W": ["umask=0077"],
        "-S": ["/bin/sh"],
    }


def for_sge(chosen: Choices, requeue: bool) -> Meant:
    seconds = chosen.walltime * 60
    asked = [f"h_rt={seconds}"]
    asked += [f"s_rt={seconds - 20}"] if chosen.walltime >= 3 else []
    asked.append(f"mem_free={-(-chosen.memory // chosen.cores)}M")
    asked += [f"{chosen.gpu_type or 'gpu'}={chosen.gpus}"] if chosen.gpus else []
    asked += [f"{chosen.constraint}=true"] if chosen.constraint is not None else []
    asked += ["exclusive=true"] if chosen.exclusive else []
    return {
        "-clear": [""],
        "-N": [NAME],
        "-q": [chosen.partition],
        **({"-P": [chosen.account]} if chosen.account is not None else {}),
        **({"-ar": [chosen.reservation]} if chosen.reservation is not None else {}),
        **({"-pe": [f"smp {chosen.cores}"]} if chosen.cores > 1 else {}),
        "-l": asked,
        "-cwd": [""],
        "-j": ["y"],
        "-o": ["log"],
        "-S": ["/bin/sh"],
        "-m": ["n"],
        "-r": ["y" if requeue else "n"],
        "-w": ["e"],
    }


def for_local(chosen: Choices, requeue: bool) -> Meant:
    return {
        "name": [NAME],
        "walltime": [str(chosen.walltime)],
        "cores": [str(chosen.cores)],
        "memory": [str(chosen.memory)],
        **({"gpus": [str(chosen.gpus)]} if chosen.gpus else {}),
        **({"warning": ["10"]} if chosen.walltime >= 3 else {}),
    }


MEANT = {"slurm": for_slurm, "pbs": for_pbs, "sge": for_sge, "local": for_local}


def words(scheduler: str, chosen: Choices) -> list[str]:
    """Return the words that this scheduler's lines hold."""
    gpu_type = chosen.gpu_type if chosen.gpus else None
    used = {
        "slurm": (
            chosen.partition,
            chosen.account,
            chosen.qos,
            chosen.reservation,
            chosen.constraint,
            gpu_type,
        ),
        "pbs": (
            chosen.partition if chosen.reservation is None else chosen.reservation,
            chosen.account,
            chosen.constraint,
            gpu_type,
        ),
        "sge": (chosen.partition, chosen.account, chosen.reservation, chosen.constraint, gpu_type or None),
        "local": (),
    }
    return [word for word in used[scheduler] if word is not None]


@settings(max_examples=EXAMPLES)
@given(chosen=CHOSEN, requeue=st.booleans(), text=PRINTABLE)
@pytest.mark.parametrize("scheduler", list(MEANT))
def test_the_directives_are_those_meant_or_the_script_is_refused(
    scheduler: str, chosen: Choices, requeue: bool, text: str
) -> None:
    application = SITE.applications[0].model_copy(
        update={"requeue": requeue, "command": ("jupyter", text), "prologue": f"true {text}\n{text}"}
    )
    site = SITE.model_copy(update={"scheduler": scheduler, "applications": (application,)})
    if all(WORD.fullmatch(word) for word in words(scheduler, chosen)):
        script = render_script(site, chosen, JOB)
        assert directives.of(scheduler, script) == MEANT[scheduler](chosen, requeue)
    else:
        with pytest.raises(ConfigError, match="cannot stand on a directive line"):
            render_script(site, chosen, JOB)


@pytest.mark.parametrize(
    ("scheduler", "line"),
    [("slurm", "#SBATCH --uid=0"), ("pbs", "#PBS -N x"), ("sge", "#$ -N x"), ("local", "#GATEWAY name=x")],
)
def test_the_readers_of_this_test_see_a_directive_more(scheduler: str, line: str) -> None:
    site = SITE.model_copy(update={"scheduler": scheduler})
    script = render_script(site, replace(CHOICES, gpus=0), JOB, header=line)
    assert directives.of(scheduler, script) != MEANT[scheduler](CHOICES, False)

"""The job script: what stands in it, and that no value becomes shell."""

import importlib
import re
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import script
from gateway.errors import ConfigError
from gateway.launcher import relay_files
from gateway.model import Choices
from gateway.script import Exit, ExitWord, JobFacts, read_exit, render_script
from gateway.siteconfig import Application, SiteConfig, parse_site_config

SITE = parse_site_config(
    """
version: 1
name: lab
title: The lab
scheduler: slurm
login: {hosts: [login], user: svc, key: /k, known_hosts: /h, act_as: sudo, bin: /opt/slurm/bin}
partitions: [{name: gpu, max_walltime: 1h, max_cores: 4, max_memory: 4G, gpus: {a100: 2}}]
applications: [{name: lab, title: JupyterLab, command: [/opt/lab/bin/python3, -m, jupyterlab]}]
""",
    "lab.yaml",
)
CHOICES = Choices("lab", "lab", "gpu", 60, 2, 2048)
JOB = JobFacts("inst22", "abcdefghij", "0123456789abcdef", "alice", "", "/user/alice/", node_tls=True)
SHELLS = [shell for shell in ("dash", "bash") if shutil.which(shell)]


def with_application(**changes: object) -> SiteConfig:
    application = SITE.applications[0].model_copy(update=changes)
    return SITE.model_copy(update={"applications": (application,)})


def with_state(pattern: str) -> SiteConfig:
    return SITE.model_copy(update={"login": SITE.login.model_copy(update={"state_dir": pattern})})


def directives(text: str) -> list[str]:
    lines = text.split("\n")[1:]
    return [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]


def test_a_job_asks_for_what_was_chosen_and_no_more() -> None:
    assert directives(render_script(SITE, CHOICES, JOB)) == [
        "--job-name=gw-inst22-abcdefghij",
        "--partition=gpu",
        "--time=60",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=2",
        "--mem=2048M",
        "--output=log",
        "--open-mode=append",
        "--export=NIL",
        "--no-requeue",
        "--signal=B:USR1@10",
    ]


def test_what_is_optional_stands_only_if_it_was_chosen() -> None:
    site = with_application(requeue=True)
    choices = replace(CHOICES, gpus=2, gpu_type="a100", account="proj1", walltime=2)
    found = directives(render_script(site, choices, JOB))
    assert {"--gres=gpu:a100:2", "--account=proj1", "--requeue"} < set(found)
    assert "--no-requeue" not in found
    assert not [line for line in found if line.startswith("--signal")]
    assert "--gres=gpu:1" in directives(render_script(site, replace(CHOICES, gpus=1), JOB))


def test_directives_stand_before_the_first_command() -> None:
    """sbatch(1) reads them only up to there: a prologue cannot add any."""
    text = render_script(with_application(prologue="#SBATCH --uid=0\n"), CHOICES, JOB)
    lines = text.split("\n")
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first:] if line.startswith("#SBATCH")]
    assert [line for line in lines[first:] if "#SBATCH --uid=0" in line]


def test_tls_arguments_only_where_the_node_leg_has_tls() -> None:
    arguments = (
        '--ServerApp.certfile="$gw_state/cert.pem"',
        '--ServerApp.client_ca="$gw_state/client-ca.pem"',
    )
    secure, plain = (
        render_script(SITE, CHOICES, JOB),
        render_script(SITE, CHOICES, replace(JOB, node_tls=False)),
    )
    assert all(argument in secure for argument in arguments)
    assert not any(argument in plain for argument in arguments)


def test_an_application_without_tls_is_started_by_the_relay_and_told_nothing_of_jupyters() -> None:
    text = render_script(with_application(tls="relay", command=("/bin/x", "{port}", "a b")), CHOICES, JOB)
    assert '"$gw_state/relay.py" "$gw_state" "$gw_listen" "$gw_port" /user/alice/ "$gw_private"' in text
    assert "gateway-app \\\n/bin/x '{port}' 'a b' </dev/null &" in text
    assert "ServerApp" not in text
    assert relay_files(with_application(tls="relay").applications[0]).keys() == {"relay.py"}
    assert relay_files(SITE.applications[0]) == {}


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        ("~/.gateway", 'gw_state="$HOME"/.gateway/abcdefghij'),
        ("~", 'gw_state="$HOME"/abcdefghij'),
        ("/scratch/%u/gw", "gw_state=/scratch/alice/gw/abcdefghij"),
    ],
)
def test_the_state_directory_is_the_launchers(pattern: str, line: str) -> None:
    assert line in render_script(with_state(pattern), CHOICES, JOB).split("\n")


@pytest.mark.parametrize("pattern", ["~/%h", "/scratch/../etc", "/x/%", "/x/.."])
def test_an_odd_state_directory_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="state_dir"):
        render_script(with_state(pattern), CHOICES, JOB)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("requeue", [True, False])
@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("kind", ["jupyter", "relay"])
def test_every_variant_is_correct_shell(shell: str, requeue: bool, tls: bool, kind: str) -> None:
    site = with_application(requeue=requeue, prologue="module load 'x'\n", shell="/bin/bash -l", tls=kind)
    text = render_script(site, CHOICES, replace(JOB, node_tls=tls))
    subprocess.run([shell, "-n"], input=text, text=True, check=True, timeout=10)
    assert "{{" not in text
    assert "/bin/bash -l -c 'module load" in text


@pytest.mark.parametrize(
    "value", ["a b", "a\n#SBATCH -x", "", "-x", "a'b", "$(id)", "`id`", "a;b", "é", "a\0", "x" * 65]
)
@pytest.mark.parametrize("field", ["partition", "account", "gpu_type"])
def test_nothing_odd_gets_onto_a_directive_line(field: str, value: str) -> None:
    changes: dict[str, Any] = {"gpus": 1, field: value}
    with pytest.raises(ConfigError, match="directive line"):
        render_script(SITE, replace(CHOICES, **changes), JOB)


@pytest.mark.parametrize("field", ["instance", "server_id", "run"])
@pytest.mark.parametrize("value", ["", "x", "../../../..", "abcdefghij\n", "ABCDEFGHIJ"])
def test_ids_are_checked(field: str, value: str) -> None:
    changes: dict[str, Any] = {field: value}
    with pytest.raises(ConfigError, match="is not an id"):
        render_script(SITE, CHOICES, replace(JOB, **changes))


@pytest.mark.parametrize("text", ["a\rb", "a\0b"])
def test_control_characters_that_no_quoting_helps_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="control character"):
        render_script(with_application(command=(text,)), CHOICES, JOB)


def test_no_line_of_a_value_begins_like_a_directive() -> None:
    """Grid Engine's qsub reads them on any line, and inside of words too."""
    text = render_script(with_application(prologue="true\n#$ -q other\n#SBATCH --uid=0\n"), CHOICES, JOB)
    assert not re.search(r"^#(?:\$|SBATCH --uid)", text, re.M)


def test_where_a_job_may_not_call_nothing_is_said_of_it() -> None:
    url = "https://gateway.example.org/hub/api/callback/abcdefghij"
    assert url in render_script(SITE, CHOICES, replace(JOB, callback_url=url))
    assert "/hub/api/callback/" not in render_script(SITE, CHOICES, JOB)


def test_a_scheduler_of_another_package_has_its_template_beside_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "toque.sh.j2").write_text('{{ job_name }} {% include "wrapper.sh.j2" %}')
    (tmp_path / "toque.py").write_text("class Toque:\n    template, resources = 'toque.sh.j2', {}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("toque")
    monkeypatch.setattr(script, "get", lambda _: module.Toque())
    assert render_script(SITE, CHOICES, JOB).startswith("gw-inst22-abcdefghij # The wrapper:")


def test_an_unknown_application_is_refused() -> None:
    with pytest.raises(ConfigError, match="no application 'x'"):
        render_script(SITE, replace(CHOICES, application="x"), JOB)


NASTY = st.text(st.sampled_from("'\"$`\\\n;&|<>(){}[]*?!#~ \tab=%{}-"), min_size=1, max_size=30).filter(
    str.strip
)
#: The part of the script that starts the application: it holds the site's and the users' text.
START = re.compile(r"^gw_start\(\) \{$.*?^\}$", re.M | re.S)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(NASTY, max_size=3), base=NASTY, user=NASTY)
@pytest.mark.parametrize("shell", SHELLS)
def test_no_value_becomes_shell(tmp_path: Path, shell: str, words: list[str], base: str, user: str) -> None:
    """The application's real start, run by a shell: the words arrive as they are, and nothing else runs."""
    (tmp_path / "shown").unlink(missing_ok=True)
    show = tmp_path / "show"
    show.write_text('#!/bin/sh\nprintf "%s\\0" "$@" >"${0%/*}/shown"\n')
    show.chmod(0o700)
    canary = f"$(touch {tmp_path}/canary)`touch {tmp_path}/canary`;touch {tmp_path}/canary"
    command = (str(show), *words, canary, f"'{canary}", f'"{canary}', f"\n{canary}\n")
    site = with_application(command=command, title=canary)
    facts = replace(JOB, base_url=base + canary, user=user + canary)
    state = site.login.model_copy(update={"state_dir": f"{tmp_path}/%u"})
    if re.search(r"%|(^|/)\.\.(/|$)", f"{tmp_path}/{facts.user}"):
        return
    text = render_script(site.model_copy(update={"login": state}), CHOICES, facts)
    found = START.search(text)
    assert found
    setting = text.partition("umask 077")[2].partition("\ngw_app=")[0]
    program = f"{setting}\ngw_own_group= gw_port=1\n{found[0]}\ngw_start; wait\n"
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    run = partial(subprocess.run, text=True, env=home, timeout=20, check=False, cwd=tmp_path)
    run([shell], input=program, capture_output=True)
    shown = (tmp_path / "shown").read_text().split("\0")
    assert tuple(shown[: len(command) - 1]) == command[1:]
    assert f"--ServerApp.base_url={base}{canary}" in shown
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0 finished 0\n", Exit(0, ExitWord.FINISHED, 0)),
        ("143 terminated 2\n", Exit(143, ExitWord.TERMINATED, 2)),
        ("0 walltime 0", Exit(0, ExitWord.WALLTIME, 0)),
        ("0 odd 0\n", None),
        ("finished\n", None),
        ("", None),
        ("0 finished 0\n0 finished 0\n", None),
    ],
)
def test_the_exit_file_is_read_or_ignored(text: str, value: Exit | None) -> None:
    assert read_exit(text) == value


def test_the_shells_of_a_site_config_are_one_program_and_an_option() -> None:
    shell = Application(name="x", title="x", command=("x",), shell="/bin/bash -l").shell
    assert shell.split(" ") == ["/bin/bash", "-l"]

"""What a site writes into its job scripts: where it stands, what it may not, what it cannot take."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway import rendering
from gateway.errors import ConfigError, ScriptNotRendered
from gateway.rendering import preview_facts, render, try_out
from gateway.script import render_script
from gateway.siteconfig import Script, SiteConfig
from tests.unit.test_script import CHOICES, JOB, SHELLS, SITE, directives


def with_script(**texts: str) -> SiteConfig:
    return SITE.model_copy(update={"script": Script(**texts)})


async def test_a_site_that_writes_nothing_gets_the_usual_script_without_a_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rendering, "_CHILD", Path("/nowhere"))
    assert await render(SITE, CHOICES, JOB) == render_script(SITE, CHOICES, JOB)


async def test_a_header_stands_after_the_directives_and_before_the_wrapper() -> None:
    header = (
        "#SBATCH --comment={{ choices.extra.project|directive }}\n"
        "{% if choices.cores > 1 %}\n"
        "export OMP_NUM_THREADS={{ choices.cores }} WHO={{ job.user }}\n"
        "{% endif %}\n"
    )
    choices = replace(CHOICES, extra={"project": "physics"})
    lines = (await render(with_script(header=header), choices, JOB)).split("\n")
    places = [
        lines.index(line)
        for line in (
            "#SBATCH --partition=gpu",
            "#SBATCH --comment=physics",
            "export OMP_NUM_THREADS=2 WHO=alice",
            "umask 077",
        )
    ]
    assert places == sorted(places)


FAULTS = {
    "undefined": ("echo\n{{ choices.nothing }}", "line 2: 'choices object' has no attribute 'nothing'"),
    "none": ("{{ choices.account }}", "line 1: None is not a value"),
    "syntax": ("\n\n{% if %}", "line 3: Expected an expression"),
    "unfiltered": (
        "\n#SBATCH --comment={{ choices.partition }}",
        "line 2: write {{ choices.partition|directive }}: on a #SBATCH line no quoting helps",
    ),
    "directive": ("#SBATCH --comment={{ 'a b'|directive }}", "'a b' cannot stand on a directive line"),
    "line": ("echo {{ 'a\\n#PBS --uid=0' }}", "holds a control character"),
    "range": ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    "output": ("{% for i in range(99999) %}aaaaaaaaaa{% endfor %}", "it writes more than 32 kB"),
    "memory": ("{% set x = 'a' * 10**9 %}", "it takes too much memory"),
    "format": ("{{ '%1000000000d'|format(1) }}", "it takes too much memory"),
    "depth": ("{% macro a(n) %}{{ a(n) }}{% endmacro %}{{ a(1) }}", "it goes round in circles"),
    "class": ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__'"),
    "globals": ("{{ cycler.__init__.__globals__ }}", "is unsafe"),
    "include": ("{% include 'wrapper.sh.j2' %}", "no loader"),
    "files": ("{{ lipsum(1) }}", "'lipsum' is undefined"),
}


@pytest.mark.parametrize(("header", "sentence"), FAULTS.values(), ids=FAULTS)
async def test_a_header_that_is_no_good_is_one_sentence_that_names_the_cluster(
    header: str, sentence: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        await render(with_script(header=header), CHOICES, JOB)
    text = str(raised.value)
    assert text.startswith("lab: script.header")
    assert sentence in text
    assert "\n" not in text


LOOP = "{% for i in range(99999) %}"


@pytest.mark.parametrize(
    "header",
    [f"{LOOP}{LOOP}{{% endfor %}}{{% endfor %}}", "{{ (9 ** (9 ** 9))|string|length }}"],
    ids=["loops", "digits"],
)
async def test_a_bomb_ends_after_a_second_and_the_loop_goes_on(
    header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "WALL", 30.0)
    task = asyncio.create_task(render(with_script(header=header), CHOICES, JOB))
    begun, longest = time.monotonic(), 0.0
    while not task.done():
        before = time.monotonic()
        await asyncio.sleep(0.01)
        longest = max(longest, time.monotonic() - before)
    assert time.monotonic() - begun < rendering.WALL
    assert longest < 0.5
    with pytest.raises(ConfigError, match="make it simpler"):
        await task


async def test_one_that_sleeps_or_is_gone_for_good_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = tmp_path / "child.py"
    child.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(rendering, "_CHILD", child)
    monkeypatch.setattr(rendering, "WALL", 0.3)
    with pytest.raises(ScriptNotRendered, match=r"takes more than 0.3 s"):
        await render(with_script(header="x"), CHOICES, JOB)
    child.write_text("import sys\nwhile True: sys.stdout.write('x' * 65536)\n")
    monkeypatch.setattr(rendering, "WALL", 5.0)
    with pytest.raises(ConfigError, match="writes too much"):
        await render(with_script(header="x"), CHOICES, JOB)


async def test_what_the_machine_does_to_it_says_nothing_of_the_script(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = tmp_path / "child.py"
    child.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setattr(rendering, "_CHILD", child)
    with pytest.raises(ScriptNotRendered, match="signal 9"):
        await render(with_script(header="x"), CHOICES, JOB)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ScriptNotRendered, match="could not be started"):
        await render(with_script(header="x"), CHOICES, JOB)
    assert ScriptNotRendered.transient


LYING = {
    "nothing": "",
    "list": "[]",
    "missing": '{"texts": {}}',
    "number": '{"texts": {"header": 1}}',
    "control": '{"texts": {"header": "a\\\\u0000"}}',
    "return": '{"texts": {"header": "a\\\\r"}}',
}


@pytest.mark.parametrize("told", LYING.values(), ids=LYING)
async def test_what_the_child_says_is_not_believed(
    told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = tmp_path / "child.py"
    child.write_text(f"print('{told}')")
    monkeypatch.setattr(rendering, "_CHILD", child)
    with pytest.raises(ConfigError):
        await render(with_script(header="x"), CHOICES, JOB)


async def test_what_a_rendered_header_asks_for_is_looked_at_again() -> None:
    header = "#SBATCH --{{ 'array'|directive }}=1-9\n"
    with pytest.raises(ConfigError, match=r"lab: script\.header: "):
        await render(with_script(header=header), CHOICES, JOB)


# --- it ends where it ends --------------------------------------------------------------------------

OPEN = {
    "quote": "echo 'it",
    "double": 'echo "it',
    "here-document": "cat <<EOF\nwords",
    "here-document-like-the-test": "cat <<fi\nwords",
    "backtick": "echo `date",
    "substitution": "echo $(date",
    "if": "if true; then\necho",
    "function": "f()",
    "pipe": "echo |",
    "line": "echo \\",
    "end": "echo\n}",
}


@pytest.mark.parametrize("text", OPEN.values(), ids=OPEN)
async def test_a_header_that_would_swallow_what_comes_after_it_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"lab: script\.header: is not complete by itself"):
        await render(with_script(header="{{ '' and choices }}\n" + text), CHOICES, JOB)
    with pytest.raises(ConfigError, match=r"lab: script\.template: is not complete by itself"):
        await render(with_script(template=own_template() + "\n" + text), CHOICES, JOB)


WHOLE = {
    "comment": "# it's \\",
    "here-document": "cat <<EOF\nit's $(\nEOF",
    "function": 'f() {\n  if true; then\n    echo "a\n b"\n  fi\n}\nf',
    "directives": "#SBATCH --comment=it\n#SBATCH --exclude=n1",
    "bash": "[[ -d /x ]] && a=(1 2)",
}


@pytest.mark.parametrize("text", WHOLE.values(), ids=WHOLE)
async def test_a_header_that_is_complete_is_not(text: str, tmp_path: Path) -> None:
    assert text in await render(with_script(header=f"{text}\n\n"), CHOICES, JOB)
    await render(with_script(header=f"touch {tmp_path}/it-ran"), CHOICES, JOB)
    assert not list(tmp_path.iterdir()), "it is read, not run"


# --- values on directive lines ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    ["{{ 'a'|directive }}", "{{'a' | directive-}}", "{{ 'a'|upper|directive }}{{ 'b'|directive }}"],
)
async def test_a_value_that_goes_through_the_filter_may_stand_on_a_directive_line(value: str) -> None:
    await render(with_script(header=f"#SBATCH --comment={value}\n"), CHOICES, JOB)


@pytest.mark.parametrize(
    "value",
    [
        "{{ 'a' }}",
        "{{ 'a'|directive|upper }}",
        "{{ 'b'|directive }}{{ 'a' }}",
        "{{ 'a'\n|directive }}",
        "{{}}",
    ],
    ids=["bare", "before", "second", "lines", "empty"],
)
async def test_one_that_does_not_may_not(value: str) -> None:
    with pytest.raises(ConfigError, match=r"line 1: write .*on a #SBATCH line no quoting helps"):
        await render(with_script(header=f"#SBATCH --comment={value}\n"), CHOICES, JOB)


@pytest.mark.parametrize(
    "line",
    [
        "{{" * 9_900,
        "{{ 'a'|directive }}" * 1_000 + "{{ 1",
        "{{ a" + " |" * 9_900 + " }}",
        "{{ |" + " " * 19_000,
    ],
    ids=["open", "many", "bars", "blanks"],
)
async def test_a_long_directive_line_does_not_hold_up_the_loop(line: str) -> None:
    task = asyncio.create_task(render(with_script(header=f"#SBATCH {line}"), CHOICES, JOB))
    longest = 0.0
    while not task.done():
        before = time.monotonic()
        await asyncio.sleep(0.01)
        longest = max(longest, time.monotonic() - before)
    assert longest < 0.5
    with pytest.raises(ConfigError, match="no quoting helps"):
        await task


# --- a template of the site's own -------------------------------------------------------------------


def front_of(text: str) -> str:
    return text.partition("\n# The wrapper:")[0]


def own_template() -> str:
    """Return the usual front with the job's name as a template has it."""
    front = front_of(render_script(SITE, CHOICES, JOB))
    return front.replace("gw-inst22-abcdefghij", "{{ job_name|directive }}").replace("{%", "{{ '{%' }}")


async def test_a_template_takes_the_place_of_all_before_the_wrapper() -> None:
    template = own_template() + "\n{{ header }}\n"
    text = await render(with_script(template=template, header="echo ours"), CHOICES, JOB)
    usual = render_script(SITE, CHOICES, JOB)
    assert text.partition("# The wrapper:")[2] == usual.partition("# The wrapper:")[2]
    assert "\necho ours\n" in front_of(text)


async def test_a_header_does_not_take_back_what_somebody_has_chosen() -> None:
    site = with_script(header="#SBATCH --account=everybody")
    assert "#SBATCH --account=everybody" in await render(site, CHOICES, JOB)
    with pytest.raises(ConfigError, match=r"script\.header: line 1: --account .* chosen on the form"):
        await render(site, replace(CHOICES, account="proj42"), JOB)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("#!/bin/sh", "#!/bin/bash", "begin with the line #!/bin/sh"),
        ("#SBATCH --output=log\n", "", "the line #SBATCH --output=log is missing"),
        ("{{ job_name|directive }}", "mine", "the line #SBATCH --job-name=gw-inst22-abcdefghij is missing"),
        ("gw_publish()", "publish()", "gw_publish() is missing"),
        ("#SBATCH --nodes=1\n", "#SBATCH --nodes=1\n#SBATCH --array=1-2\n", "array"),
    ],
    ids=["shell", "output", "name", "publish", "array"],
)
async def test_a_template_says_what_the_gateway_needs(old: str, new: str, sentence: str) -> None:
    template = own_template()
    assert old in template
    with pytest.raises(ConfigError, match=re.escape("lab: script.template: ")) as raised:
        await render(with_script(template=template.replace(old, new, 1)), CHOICES, JOB)
    assert sentence in str(raised.value)


# --- previews and tries -----------------------------------------------------------------------------


async def test_a_preview_differs_from_what_is_submitted_by_the_id_and_the_nonce_alone() -> None:
    site = with_script(header="echo {{ job.user }} {{ job.server_name }}")
    preview = await render(site, CHOICES, preview_facts("alice", "big", JOB.instance, site))
    submitted = replace(JOB, server_name="big", base_url="/user/alice/big/")
    text = await render(site, CHOICES, submitted)
    assert preview == text.replace(JOB.server_id, "a" * 10).replace(JOB.run, "0" * 16)


async def test_a_try_uses_the_fields_that_the_site_adds() -> None:
    site = with_script(header="echo {{ choices.extra.project }}")
    with pytest.raises(ConfigError, match="'extra object' has no attribute 'project'"):
        await try_out(site)
    fields: Any = type(site.form).model_validate({"fields": [{"name": "project", "label": "Project"}]})
    await try_out(site.model_copy(update={"form": fields}))


# --- no value becomes shell -------------------------------------------------------------------------

#: A piece to a line.
NASTY = """\
'
"
$(touch canary)
`touch canary`
;touch canary
\\
#SBATCH --uid=0
#$ -q x
{{ 7*7 }}
{% raw %}
$HOME
*
~
!x
&
>canary
\u2028
\u00e9
-n
%s
"""
PIECES = [*NASTY.split("\n")[:-1], " ", "|"]


@settings(max_examples=8, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(seed=st.integers())
@pytest.mark.parametrize("shell", SHELLS)
def test_no_value_of_an_added_field_becomes_shell_or_a_directive(
    tmp_path: Path, shell: str, seed: int
) -> None:
    """Each of 1,000 arrives as one word, whatever is in it, and no line of the script begins a directive."""
    chance = random.Random(seed)
    values = ["".join(chance.choices(PIECES, k=chance.randint(0, 4))) for _ in range(1000)]
    extra = {f"f{number}": value for number, value in enumerate(values)}
    words = "".join(f" \\\n{{{{ choices.extra.{name} }}}}" for name in extra)
    script = Script.model_construct(header=f"printf '%s\\0'{words}")  # longer than any that a file may have
    site = SITE.model_copy(update={"script": script})
    text = asyncio.run(render(site, replace(CHOICES, extra=extra), JOB))
    assert directives(text) == directives(render_script(SITE, CHOICES, JOB))
    header = text[text.index("printf '%s\\0'") : text.index("umask 077")]
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [shell], input=header.encode(), capture_output=True, env=home, cwd=tmp_path, timeout=20, check=False
    )
    assert done.stdout.decode().split("\0")[: len(values)] == values
    assert not list(tmp_path.iterdir())

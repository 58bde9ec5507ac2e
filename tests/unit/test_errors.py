"""Whatever a person may see of an error has one form: what happened, what it means, what to do next."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import gateway
from gateway.dataplane import pages
from gateway.decide import _WORDS, ENDS
from gateway.errors import GatewayError, InvalidChoice
from gateway.schedulers import slurm_why
from gateway.web.session import TooManyTries
from gateway.web.words import _ENDS

#: A sentence, and perhaps one or two more. Names in code have no place in it.
_SENTENCES = re.compile(r"[A-Z“'].*\.", re.DOTALL)
_JARGON = re.compile(
    r"traceback|exception|errno|stderr|stdout|socket|null|\bNone\b|exit code|\bEOF\b|timed out|daemon"
    r"|slurmctld|squeue|sbatch|[a-z]\w*_\w+|[a-z]+Error\b",
    re.IGNORECASE,
)
_LONGEST = 250
#: What is written there is for a terminal, in one line.
_COMMANDS = ("commands", "doctor")


def fault(text: str) -> str:
    """Return what is wrong with the form of a text for people; nothing if it is well."""
    if not _SENTENCES.fullmatch(text):
        return "does not begin like a sentence and end with a period"
    if len(text) > _LONGEST:
        return f"has {len(text)} characters"
    if found := _JARGON.search(text):
        return f"says {found[0]!r}"
    return "" if text == " ".join(text.split()) else "has odd blanks"


def parts(text: str) -> int:
    """Return how many things a text says."""
    return len(re.findall(r"[.:;!?](?:\s|$)", text))


def kinds() -> list[type[GatewayError]]:
    """Return every class of error, wherever it is defined."""
    for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if not re.search(r"__main__|migrations", module.name):
            importlib.import_module(module.name)
    found, new = [GatewayError], [GatewayError]
    while new:
        new = [below for kind in new for below in kind.__subclasses__()]
        found += [kind for kind in new if kind.__module__.startswith("gateway.") and kind not in found]
    return found


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_error_says_what_happened_and_what_to_do_next(kind: type[GatewayError]) -> None:
    assert not fault(kind.default_public), kind.default_public
    assert not fault(kind.default_advice), kind.default_advice
    assert not fault(f"{kind.default_public} {kind.default_advice}")
    assert 400 <= kind.status < 600
    assert kind.default_public != GatewayError.default_public or kind.status == 500, (
        "it says nothing of its own"
    )


def test_an_error_has_its_own_words_or_its_kinds() -> None:
    usual = GatewayError("exit status 3")
    assert (str(usual), usual.public) == ("exit status 3", GatewayError.default_public)
    own = GatewayError("exit status 3", "It failed.", "Wait.")
    assert (own.public, own.advice, own.text) == ("It failed.", "Wait.", "It failed. Wait.")
    assert InvalidChoice("cores", "Too many.").text.startswith("Too many. Nothing was started")
    assert not fault(TooManyTries(timedelta(minutes=3)).text)


def _texts() -> Iterator[tuple[str, str]]:
    """Give each text for people that is written where an error is raised or a refusal sent, and where."""
    names = {kind.__name__ for kind in kinds()}
    for path in sorted(Path(gateway.__path__[0]).rglob("*.py")):
        if path.parent.name in _COMMANDS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            named = [word.value for word in node.keywords if word.arg in ("public", "advice")]
            if called in names or called in ("write_json_refusal", "write_refusal"):
                for written in [*node.args[1:], *named]:
                    if isinstance(written, ast.Constant | ast.JoinedStr):
                        yield f"{path.name}:{written.lineno}", _plain(written)


def _plain(written: ast.Constant | ast.JoinedStr) -> str:
    values = written.values if isinstance(written, ast.JoinedStr) else [written]
    return "".join(str(value.value) if isinstance(value, ast.Constant) else "X" for value in values)


def test_texts_that_are_written_where_an_error_is_raised_have_the_form_too() -> None:
    found = list(_texts())
    assert len(found) > 40
    faults = [f"{where}: {text!r} {fault(text)}" for where, text in found if fault(text)]
    assert not faults, "\n".join(faults)


def test_why_a_job_waits_or_ended_says_what_comes_next() -> None:
    texts = [text for _, text in slurm_why.WHY] + list(slurm_why.ENDED_WHY.values())
    assert not [text for text in texts if fault(text) or parts(text) < 2]


def test_how_a_server_ended_says_what_comes_next() -> None:
    assert ENDS.keys() == _ENDS.keys()
    texts = [*ENDS.values(), *(text for _, text in _WORDS.values())]
    assert not [text for text in texts if fault(text) or parts(text) < 2]


@pytest.mark.parametrize("name", pages.PAGES)
def test_every_page_of_the_proxy_has_the_parts(name: str) -> None:
    page = pages.PAGES[name]
    assert not fault(f"{page.title}.")
    assert not fault(page.text)
    assert not fault(page.advice)
    shown = next(line for line in pages.files()["pages.map"].splitlines() if line.startswith(f"{name}.html "))
    assert shown.index("<h1>") < shown.index("<p>") < shown.index(page.advice.split("'")[0])

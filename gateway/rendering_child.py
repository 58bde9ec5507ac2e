"""The process in which a site's own Jinja is rendered, so that it can take nothing from the hub.

It is run as a file, by `gateway.rendering`: one request in JSON on standard input, one answer in JSON on
standard output. It imports all that it needs, gives up what a process can give up, and only then looks at the
templates.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

#: Characters that no value may hold: a line break would begin a directive line of its own.
_CONTROL = "".join(map(chr, (*range(32), 127)))
#: What the gateway writes around a fault, and no more of what the template had said.
_WORDS = 300
#: Characters of a value in a fault.
_SHOWN = 100


def main() -> None:
    """Read a request, render, answer."""
    request = json.load(sys.stdin.buffer)
    sys.path[:] = request["path"]
    environment = _environment(request["word"])  # imports
    _give_up(request["cpu"], request["memory"])
    json.dump(_rendered(environment, request), sys.stdout)
    sys.stdout.flush()


def _give_up(cpu: int, memory: int) -> None:
    """Limit this process from now on: CPU seconds, bytes of memory; and no file, no process, no core dump."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + cpu  # imports take longer on a busy machine
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # SIGXCPU tells this from other ends
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def _environment(word: str) -> ImmutableSandboxedEnvironment:
    import jinja2  # noqa: PLC0415  only now is it known where it is
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    from gateway.quoting import Quoting  # noqa: PLC0415

    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    Quoting(word, _CONTROL).install(environment)
    with suppress(jinja2.UndefinedError):
        environment.from_string(
            "{{ 'a'|directive }}{{ nothing.at_all }}"
        ).render()  # what faults need is imported
    del environment.globals["lipsum"]  # it reads a file
    return environment


def _rendered(environment: ImmutableSandboxedEnvironment, request: dict[str, Any]) -> dict[str, Any]:
    """Return each text by its name, in order, or the first fault. A later one may place the earlier ones."""
    from gateway.quoting import Verbatim  # noqa: PLC0415

    values = {name: _facts(name, value) for name, value in request["values"].items()}
    texts: dict[str, str] = {}
    for name, source in request["sources"].items():
        if unfiltered := next(_unfiltered(source, request["directive"]), None):
            return {"where": name, "line": unfiltered[0], "fault": unfiltered[1]}
        try:
            texts[name] = _limited(environment.from_string(source), values, request["output"][name])
        except Exception as error:  # whatever a template can bring about is told
            return {"where": name, "line": _line(error), "fault": _told(error)}
        values[name] = Verbatim(texts[name].strip("\n"))
    return {"texts": texts}


def _unfiltered(source: str, directive: str) -> Iterator[tuple[int, str]]:
    """Give each value on a directive line that does not go through the filter for that, and its line."""
    for number, line in enumerate(source.split("\n"), 1):
        for value in _values(line) if directive in line else ():
            before, _, word = value.rpartition("|")
            if not before or word.strip() != "directive":
                shown = f"{{{{{value[:_SHOWN].rstrip()}|directive }}}}"
                yield number, f"write {shown}: on a {directive} line no quoting helps"


def _values(line: str) -> Iterator[str]:
    """Give what stands between the braces of a line; of one that is not closed on it, what follows it."""
    begin = line.find("{{")
    while begin >= 0:
        end = line.find("}}", begin + 2)
        if end < 0:
            yield f"{line[begin + 2 :]}..."
            return
        yield line[begin + 2 : end].removesuffix("-")
        begin = line.find("{{", end + 2)


def _limited(template: jinja2.Template, values: dict[str, Any], most: int) -> str:
    parts, length = [], 0
    for part in template.generate(values):
        length += len(part.encode())
        if length > most:
            raise ValueError(f"it writes more than {most // 1024} kB")
        parts.append(part)
    return "".join(parts)


def _facts(name: str, value: Any) -> Any:
    """Return a mapping as something of which a template sees the keys as attributes and nothing else.

    ``name`` is what a fault calls it.
    """
    if not isinstance(value, dict):
        return value
    kind = type(name, (SimpleNamespace,), {"__module__": "builtins"})
    return kind(**{key: _facts(key, item) for key, item in value.items()})


def _told(error: Exception) -> str:
    kinds = {
        "MemoryError": "it takes too much memory",
        "RecursionError": "it goes round in circles",
        "OSError": "it uses a part of Jinja that is not there",
    }
    text = kinds.get(type(error).__name__) or str(error) or type(error).__name__
    return " ".join(text.removeprefix("job script: ").split())[:_WORDS]


def _line(error: Exception) -> int:
    """Return the line of the template at which an error arose, 0 if that is not known."""
    if isinstance(line := getattr(error, "lineno", None), int):
        return line
    found, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            found = trace.tb_lineno
        trace = trace.tb_next
    return found


if __name__ == "__main__":
    main()

"""Starts the program, whether the package is installed or not: ``python3 -I -S __main__.py PROGRAM VERB``."""

import sys
from pathlib import Path


def _run() -> int:
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    from gateway.localqueue.verbs import main  # noqa: PLC0415  found by the line above

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(_run())

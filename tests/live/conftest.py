"""The lab, once for the whole session."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab, environment

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory: it needs root and the lab."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A running lab; taken down at the end of the session, whatever happened."""
    if "root" in (lacks := environment.missing()):
        pytest.skip("the lab needs root")
    if lacks:
        pytest.fail(f"the lab needs {', '.join(lacks)}: make packages installs them")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # so that the lab is taken down then too
    with Lab.up() as running:
        yield running


@pytest.fixture
def gateway(lab: Lab) -> Lab:
    """The lab with the gateway running: started where no test before left it so."""
    lab.start_gateway()
    return lab

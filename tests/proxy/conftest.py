"""The fixtures of the tests with real programs."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator

import pytest

from tests.proxy.stage import Stage

PLACES = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))


@pytest.fixture(scope="session", autouse=True)
def _programs() -> None:
    """Skip where the real programs are not there, and say which."""
    if lacks := [name for name in ("haproxy", "ssh", "sshd") if not shutil.which(name, path=PLACES)]:
        pytest.skip(f"needs the programs {', '.join(lacks)}")


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """HAProxy's stage, not yet started."""
    found = Stage()
    yield found
    await found.close()

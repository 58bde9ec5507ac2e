"""The fixtures of the tests with real programs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.proxy.stage import Stage


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """HAProxy's stage, not yet started."""
    found = Stage()
    yield found
    await found.close()

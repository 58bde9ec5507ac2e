"""What several of the pure tests use."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.store import upgrade


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an SQLite file with the schema and nothing in it, to be copied."""
    path = tmp_path_factory.mktemp("schema") / "gateway.sqlite"
    asyncio.run(upgrade(f"sqlite+aiosqlite:///{path}"))
    return path

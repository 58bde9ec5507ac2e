"""The last drop-in files of each cluster that were good, so that they outlive the hub."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, insert, select

from gateway.store.database import Database, whole
from gateway.store.tables import site_views


class SiteViewStore:
    """One value per cluster, in JSON.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, cluster: str) -> tuple[dict[str, Any], datetime] | None:
        """Return what was saved last for a cluster, and when; None if nothing was."""
        row = await self._database.row(select(site_views).where(site_views.c.cluster == cluster))
        return None if row is None else (row.value, row.at)

    @whole
    async def save(self, cluster: str, value: Mapping[str, Any]) -> None:
        """Keep a value in place of the cluster's last one."""
        row = {"cluster": cluster, "value": dict(value), "at": datetime.now(UTC)}
        async with self._database.writing() as connection:
            await connection.execute(delete(site_views).where(site_views.c.cluster == cluster))
            await connection.execute(insert(site_views).values(row))

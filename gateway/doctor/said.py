"""What is said of the cluster by all who say something: the site config, its drop-ins and its scheduler.

Asked once, and shared by the steps.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway import schedulers
from gateway.discovery import Discovery
from gateway.doctor.check import Finding, not_ok, ok, skipped
from gateway.doctor.patient import COMMAND, Patient
from gateway.dropins import Reading, read_drop_ins, sources
from gateway.errors import ConfigError, GatewayError
from gateway.queue import Allowance, Queue
from gateway.rendering import try_out
from gateway.siteconfig import SiteConfig
from gateway.sitemerge import complete, merge
from gateway.sites import read_source
from gateway.store.database import random_word


class Said:
    """The drop-ins of one cluster, and its discovery.

    Args:
        patient: The cluster.
    """

    def __init__(self, patient: Patient) -> None:
        self.patient = patient
        self._reading: Reading | None = None
        self._discovery: Discovery | None = None
        self._looking, self._asking = asyncio.Lock(), asyncio.Lock()

    async def drop_ins(self) -> Finding:
        """Say whether the drop-ins on the login node can be used."""
        directory, where = self.patient.site.login.dropins, self.patient.where
        if directory is None:
            return skipped("login.dropins: null")
        reading = await self._read()
        if reading.refused:
            return not_ok(
                "; ".join(reading.refused),
                f"On {where} as root; then: gateway reload   (until then none is new)",
            )
        try:
            await try_out(self._merged(reading))
        except ConfigError as error:
            return not_ok(
                "; ".join(str(error).splitlines()),
                f"Correct them on {where}: gateway check {self.patient.file} --drop-in FILE...   "
                "Until then the last good ones stay in use.",
            )
        return ok(", ".join(file.path for file in reading.files) or f"none in {directory} on {where}")

    async def site(self) -> SiteConfig:
        """Return the site config with the drop-ins, or without them if they cannot be used."""
        if self.patient.site.login.dropins is None:
            return self.patient.site
        try:
            return self._merged(await self._read())
        except GatewayError:
            return self.patient.site

    async def whole(self) -> SiteConfig:
        """Return the same with what the scheduler says, if it says anything."""
        site = await self.site()
        try:
            return complete(site, await self.discovery())
        except GatewayError:
            return site

    async def discovery(self) -> Discovery:
        """Return what the scheduler says.

        Raises:
            QueueUnreachable, LoginNodeUnreachable, LoginNodeRefused, HostKeyRefused: It says nothing.
        """
        async with self._asking:
            if self._discovery is None:
                site = self.patient.site
                allowance = Allowance(discovery=round(COMMAND))
                queue = Queue(site, schedulers.get(site.scheduler), self.patient.node, allowance)
                self._discovery = await queue.discover(random_word(6))
            return self._discovery

    async def _read(self) -> Reading:
        async with self._looking:
            if self._reading is None:
                directory = self.patient.site.login.dropins
                assert directory is not None  # noqa: S101  asked before
                self._reading = await read_drop_ins(self.patient.node, directory)
            return self._reading

    def _merged(self, reading: Reading) -> SiteConfig:
        if not reading.files:
            return self.patient.site
        return merge(read_source(Path(self.patient.file)), sources(reading, self.patient.where))

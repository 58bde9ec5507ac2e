"""A cluster's site config as it is now: the gateway's own file, the drop-ins, what the scheduler says.

Whoever works with it takes `SiteView.config`: an immutable snapshot, replaced as a whole.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import starmap
from typing import Any, Protocol, Self

from pydantic import TypeAdapter, ValidationError

from gateway.discovery import MOST_ROOMS, Discovery
from gateway.dropins import Look, sources
from gateway.errors import ConfigError, GatewayError
from gateway.renderer import Renderer
from gateway.siteconfig import SiteConfig
from gateway.sitemerge import Source, complete, merge

log = logging.getLogger(__name__)

#: Seconds between two looks at the drop-ins, and at the scheduler's partitions; the longest after failures.
DROP_INS_EVERY, DISCOVERY_EVERY, SLOWEST = 30.0, 60.0, 300.0
#: Seconds that a look may take for which somebody waits.
AT_ONCE = 25.0
#: The share by which pauses vary, so that clusters and gateways do not march in step.
SPREAD = 0.2
#: What is told of a fault of the gateway's own, whose traceback is in the log.
UNREADABLE = "the answer could not be read; the gateway's log says more"
_DISCOVERY = TypeAdapter(Discovery)


class Looks(Protocol):
    """Reads the drop-ins; ``gateway.dropins.LoginNodes``."""

    @property
    def silent(self) -> Mapping[str, str]:
        """The login nodes that did not answer, and why."""
        ...

    async def look(self, *, everywhere: bool = False) -> tuple[Look, ...]:
        """Return what the login nodes say that answer, at least one."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...


class Memory(Protocol):
    """Keeps one value for each cluster; ``gateway.store.SiteViewStore``."""

    async def load(self, cluster: str) -> tuple[dict[str, Any], datetime] | None:
        """Return what was saved last for a cluster, and when."""
        ...

    async def save(self, cluster: str, value: Mapping[str, Any]) -> None:
        """Keep a value in place of the cluster's last one."""
        ...


@dataclass(frozen=True, slots=True)
class DropInSource:
    """A drop-in file as one login node has it: whether it is used, and if not, why."""

    host: str
    file: str
    sha256: str
    size: int
    read: datetime
    used: bool
    why: str = ""


class SiteView:
    """One cluster's site config, kept up to date while it runs.

    A set of drop-ins with a fault in it changes nothing: the last good set counts, also after a restart. What
    cannot be read is not known to be gone.

    Args:
        trusted: The text of the file in the gateway's site directory, and its name.
        site: What that file says.
        looks: Reads the drop-ins; None where there are none.
        discover: Asks the scheduler; None where nobody does.
        memory: Keeps the last good set.
        renderer: Tries out what a set writes into job scripts.
    """

    def __init__(
        self,
        trusted: Source,
        site: SiteConfig,
        *,
        looks: Looks | None = None,
        discover: Callable[[], Awaitable[Discovery]] | None = None,
        memory: Memory | None = None,
        renderer: Renderer | None = None,
    ) -> None:
        self.source = trusted
        self.trusted = self.config = self._said = site
        self.discovery = Discovery()
        self.faults: tuple[str, ...] = ()
        self.disagreements: tuple[str, ...] = ()
        self.sources: tuple[DropInSource, ...] = ()
        self.read_at: datetime | None = None
        self.trouble = self.discovery_trouble = ""
        self._looks = looks
        self._discover = discover
        self._memory = memory
        self._renderer = renderer or Renderer()
        self._good: Sequence[Source] = ()
        self._tried: tuple[Sequence[Source], tuple[str, ...]] | None = None
        self._looking, self._discovering = asyncio.Lock(), asyncio.Lock()

    @classmethod
    def fixed(cls, site: SiteConfig, discovery: Discovery | None = None) -> Self:
        """Return the view of a site config that nothing is added to; for tests and commands.

        Args:
            site: All of it.
            discovery: What the scheduler says, for those who ask for it.
        """
        view = cls(("", f"{site.name}.yaml"), site)
        view.discovery = discovery or view.discovery
        return view

    def __repr__(self) -> str:
        state = "faulty" if self.faults else "good"
        return f"<SiteView {self.trusted.name} {len(self._good)} drop-ins, {state}>"

    # --- what is remembered ---

    async def recall(self) -> None:
        """Take up the drop-ins and the discovery that were good last, from before a restart."""
        saved = await self._memory.load(self.trusted.name) if self._memory else None
        if saved is None:
            return
        value, _ = saved
        try:
            self.discovery = _DISCOVERY.validate_python(value.get("discovery") or {})
            good = [(str(text), str(source)) for text, source in value.get("drop_ins", ())]
            self._said = await asyncio.to_thread(merge, self.source, good)
            self._good = good
        except (ConfigError, ValidationError, TypeError, ValueError) as error:
            log.warning("%s: the drop-ins of before cannot be used any more: %s", self.trusted.name, error)
        self.config = complete(self._said, self.discovery)

    async def _remember(self) -> None:
        if self._memory is None:
            return
        kept = replace(self.discovery, positions={}, ours=None)
        discovery = _DISCOVERY.dump_python(kept, mode="json")
        value = {"drop_ins": [list(source) for source in self._good], "discovery": discovery}
        await self._memory.save(self.trusted.name, value)

    # --- the drop-ins ---

    async def refresh_drop_ins(self, *, everywhere: bool = False) -> None:
        """Read the drop-ins, and use them if they are good.

        Args:
            everywhere: Whether to ask all login nodes.

        Raises:
            LoginNodeUnreachable, HostKeyRefused, LoginNodeRefused: Nothing is known; what was good counts.
            ScriptNotRendered: The machine was too busy to try them out; the same.
        """
        if self._looks is None:
            return
        async with self._looking:
            if everywhere:
                self._tried = None
            try:
                await self._take(await self._looks.look(everywhere=everywhere))
            except GatewayError as error:
                self.trouble = str(error)
                raise
            self.trouble = ""

    async def _take(self, looks: Sequence[Look]) -> None:
        first = looks[0]
        new = sources(first.reading, first.host)
        faults = tuple(f"{first.host}:{fault}" for fault in first.reading.refused)
        if not faults:
            faults = await self._try(new)
        others = [look for look in looks[1:] if not look.reading.same_as(first.reading)]
        said = [sentence for look in others for sentence in _disagreement(first, look, faults)]
        disagreements = (*said, *starmap(_silence, self._looks.silent.items() if self._looks else ()))
        self._tell(faults, disagreements)
        self.faults, self.disagreements, self.read_at = faults, disagreements, first.at
        self.sources = tuple(source for look in looks for source in _described(look, first, faults))

    async def _try(self, new: Sequence[Source]) -> tuple[str, ...]:
        """Use a set of drop-ins, or return its faults. What was tried is not tried again before a reload."""
        if self._tried is not None and self._tried[0] == new:
            return self._tried[1]
        faults: tuple[str, ...] = ()
        try:
            said = await asyncio.to_thread(_merged, self.source, new)
            await self._renderer.try_out(complete(said, self.discovery))
        except ConfigError as error:
            faults = tuple(str(error).split("\n"))
        else:
            changed = list(new) != list(self._good)
            self._said, self._good = said, new
            self.config = complete(said, self.discovery)
            if changed:
                names = ", ".join(source for _, source in new) or "none"
                log.info("%s: the drop-ins in use: %s", self.trusted.name, names)
                await self._remember()
        self._tried = (new, faults)
        return faults

    def _tell(self, faults: tuple[str, ...], disagreements: tuple[str, ...]) -> None:
        """Log faults and disagreements, once each time that they change."""
        if faults != self.faults:
            for fault in faults:
                log.error(
                    "%s: a drop-in is refused, and the last good ones stay: %s", self.trusted.name, fault
                )
            if not faults:
                log.info("%s: the drop-ins are good again", self.trusted.name)
        if disagreements != self.disagreements:
            for sentence in disagreements:
                log.warning("%s: %s", self.trusted.name, sentence)

    # --- the scheduler ---

    async def refresh_discovery(self) -> None:
        """Ask the scheduler what there is.

        Raises:
            GatewayError: Nothing is known; what was discovered before still counts, with its age.
        """
        if self._discover is None:
            return
        async with self._discovering:
            try:
                discovery = await self._discover()
            except GatewayError as error:
                self.discovery_trouble = str(error)
                raise
            except Exception:
                self.discovery_trouble = UNREADABLE
                raise
            self.discovery_trouble = ""
            self.discovery = replace(discovery, rooms=discovery.rooms[:MOST_ROOMS], at=datetime.now(UTC))
            config = complete(self._said, self.discovery)
            if config != self.config:
                self.config = config
                await self._remember()

    # --- at once, and over and over ---

    async def refresh(self) -> None:
        """Look at everything now, on all login nodes; raise nothing: see ``trouble``."""
        looks = partial(self.refresh_drop_ins, everywhere=True)
        troubles = await asyncio.gather(self._in_time(looks), self._in_time(self.refresh_discovery))
        self.trouble, self.discovery_trouble = troubles

    async def _in_time(self, refresh: Callable[[], Awaitable[None]]) -> str:
        """Return why there is no news, "" if there is."""
        try:
            async with asyncio.timeout(AT_ONCE):
                await refresh()
        except TimeoutError:
            return f"no answer within {AT_ONCE:g} s"
        except GatewayError as error:
            return str(error)
        except Exception:
            log.exception("%s: an answer could not be read", self.trusted.name)
            return UNREADABLE
        return ""

    async def run(self) -> None:
        """Keep both up to date until cancelled; never two commands of a kind at once."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep("the drop-ins", self.refresh_drop_ins, DROP_INS_EVERY))
                tasks.create_task(self._keep("the partitions", self.refresh_discovery, DISCOVERY_EVERY))
        finally:
            if self._looks is not None:
                await self._looks.close()

    async def _keep(self, what: str, refresh: Callable[[], Awaitable[None]], every: float) -> None:
        failures = 0
        while True:
            try:
                await refresh()
            except GatewayError as error:
                if not failures:
                    log.warning("%s: no news of %s: %s", self.trusted.name, what, error)
                failures += 1
            except Exception:
                log.exception("%s: %s", self.trusted.name, what)
                failures += 1
            else:
                if failures:
                    log.info("%s: there is news of %s again", self.trusted.name, what)
                failures = 0
            pause = min(SLOWEST, every * 2.0 ** min(failures, 8))
            await asyncio.sleep(pause * random.uniform(1 - SPREAD, 1 + SPREAD))  # noqa: S311  no secret


def _merged(trusted: Source, drop_ins: Sequence[Source]) -> SiteConfig:
    try:
        return merge(trusted, drop_ins)
    except RecursionError:
        names = ", ".join(source for _, source in drop_ins)
        raise ConfigError(f"{names}: brackets are nested too deeply in one of them") from None


def _disagreement(first: Look, other: Look, faults: Sequence[str]) -> Sequence[str]:
    what = (
        f"Login nodes {first.host} and {other.host} do not have the same drop-ins: those of {first.host} "
        f"count; {'mend them, and ' if faults else ''}copy them to {other.host}"
    )
    return [what, *(f"{other.host}:{fault}" for fault in other.reading.refused)]


def _silence(host: str, why: str) -> str:
    return f"Login node {host} does not answer, so nobody knows whether its drop-ins are the same: {why}"


def _described(look: Look, first: Look, faults: Sequence[str]) -> Sequence[DropInSource]:
    why = ""
    if not look.reading.same_as(first.reading):
        why = f"{first.host} says something else"
    elif faults:
        why = "one of the files is refused"
    return [
        DropInSource(look.host, file.path, file.sha256, file.size, look.at, used=not why, why=why)
        for file in look.reading.files
    ]


class SiteViews(dict[str, SiteView]):
    """The views of all clusters, by their names."""

    def sites(self) -> Mapping[str, SiteConfig]:
        """Return the site configs as they are now."""
        return {name: view.config for name, view in self.items()}

    def discoveries(self) -> Mapping[str, Discovery]:
        """Return what the schedulers have said last."""
        return {name: view.discovery for name, view in self.items()}

"""Who may render when: a script into which a site writes costs processes, and anybody may ask for one."""

from __future__ import annotations

import asyncio

from gateway.errors import ScriptNotRendered
from gateway.model import Choices
from gateway.rendering import render, try_out, writes
from gateway.script import JobFacts
from gateway.siteconfig import SiteConfig


class Renderer:
    """Renders for a whole process, a few scripts at once. One place is never for previews.

    Args:
        at_once: Scripts that are rendered at once; two at least.
        waiting: Previews that may wait. The others are refused, to be asked for again.
    """

    def __init__(self, at_once: int = 2, waiting: int = 20) -> None:
        self._room = asyncio.Semaphore(at_once)
        self._previews = asyncio.Semaphore(at_once - 1)
        self._most = at_once - 1 + waiting
        self._users: set[str] = set()

    def __repr__(self) -> str:
        return f"<Renderer {len(self._users)} previews>"

    async def render(self, site: SiteConfig, choices: Choices, job: JobFacts) -> str:
        """Return the job script that is submitted: see ``rendering.render``.

        Raises:
            ConfigError: What the site writes into it is no good.
            ScriptNotRendered: The machine is too busy; it can be tried again.
        """
        if not writes(site):
            return await render(site, choices, job)
        async with self._room:
            return await render(site, choices, job)

    async def preview(self, user: str, site: SiteConfig, choices: Choices, job: JobFacts) -> str:
        """Return a job script that is only shown: at most one at a time to each person.

        Raises:
            ConfigError: What the site writes into it is no good.
            ScriptNotRendered: So many wait, or this person does, or the machine is too busy.
        """
        if not writes(site):
            return await render(site, choices, job)
        if user in self._users:
            raise ScriptNotRendered(
                f"{user} waits for a preview already",
                "The gateway is still writing a job script that you asked for, so this one is not shown.",
                "Wait a few seconds, then ask for it again.",
            )
        if len(self._users) >= self._most:
            raise ScriptNotRendered(
                f"{len(self._users)} people wait for previews",
                "Many people are looking at job scripts, so yours is not shown.",
                "Wait a few seconds, then ask for it again. You can start the server without it.",
            )
        self._users.add(user)
        try:
            async with self._previews, self._room:
                return await render(site, choices, job)
        finally:
            self._users.discard(user)

    async def try_out(self, site: SiteConfig) -> None:
        """Render for the sake of an example: see ``rendering.try_out``.

        Raises:
            ConfigError: It is no good.
            ScriptNotRendered: The machine is too busy; it can be tried again.
        """
        async with self._room:
            await try_out(site)

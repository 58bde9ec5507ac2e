"""A WebSocket with which pages try whether the network lets any through."""

from __future__ import annotations

from typing import cast

from tornado.websocket import WebSocketHandler

from gateway.web.services import Services


class Trial(WebSocketHandler):
    """``/hub/websocket``: says a word to a page of the hub, and closes."""

    def set_default_headers(self) -> None:
        """Do not say what answers here."""
        self.clear_header("Server")

    def check_origin(self, origin: str) -> bool:
        """Return whether a page of the hub asks."""
        services = cast("Services", self.settings["services"])
        return origin == services.origins.hub_origin

    async def open(self) -> None:
        """Say it."""
        await self.write_message("through")
        self.close()

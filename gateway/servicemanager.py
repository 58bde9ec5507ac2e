"""What a service manager is told, in systemd's way: a datagram to the socket that it names (sd_notify(3))."""

from __future__ import annotations

import os
import socket


def tell_service_manager(state: str) -> None:
    """Tell the service manager of this process how it is, if there is one that wants to know.

    Args:
        state: ``READY=1`` or another word of sd_notify(3).
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(1.0)
        channel.sendto(state.encode(), address.replace("@", "\0", 1))

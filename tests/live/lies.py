"""What a job's owner may publish of it that is not so."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.lab import Lab
from tests.lab.nodes import wait_until
from tests.live.calls import Admin

#: An application that listens nowhere, so that its job publishes nothing.
MUTE = "  - {name: mute, title: It says nothing, command: [/srv/mute]}\n"
#: Run, restarts, host and port: RUN and HOST stand for what is true.
_LIES = (
    ("0123456789abcdef", "0", "HOST", "20001"),
    ("RUN", "1", "HOST", "20001"),
    ("RUN", "0", "login", "20001"),
    ("RUN", "0", "HOST", "6817"),
    ("RUN", "0", "HOST", "30000"),
    ("RUN", "0", "HOST", "http"),
)
#: Seconds in which there is a listing: they come every 2 s while a server starts.
_A_LISTING = 2.6


def install_mute(lab: Lab) -> None:
    """Install the application for all nodes."""
    path = lab.state / "srv/mute"
    path.write_text("#!/bin/sh\nexec sleep 300\n")
    path.chmod(0o755)


def check_no_lie_is_believed(
    admin: Admin, publish: Callable[[dict[str, Any], str, str, str, str], object], **choices: str
) -> None:
    """Start alice's server, publish lie after lie as she could, and then the truth, which is believed."""
    server_id = admin.start("alice", "mute", application="mute", **choices)
    row = admin.wait(server_id, "starting")
    for lie in (*_LIES, ("RUN", "0", "HOST", "20001")):
        assert admin.row(server_id)["port"] is None, lie
        run, restarts, host, port = ({"RUN": row["run"], "HOST": row["host"]}.get(word, word) for word in lie)
        publish(row, run, restarts, host, port)
        if lie in _LIES:
            time.sleep(_A_LISTING)
    wait_until(lambda: admin.row(server_id)["port"] == 20001, "the truth is believed", 10)
    assert admin.row(server_id)["host"] == row["host"]
    admin.stop("alice", "mute")
    admin.wait(server_id, "ended")

"""Two gateways on one cluster, and a database from before: whose jobs are whose, and what stays."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import sqlite3
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, gateway
from tests.lab import forward as forward_module
from tests.lab.accounts import BY_NAME, write_private
from tests.lab.daemons import Daemon
from tests.lab.nodes import wait_until
from tests.lab.staging import HOST
from tests.live.calls import Admin
from tests.live.client import CHOICES

_SITE_CONFIG = f"{gateway.SITE_CONFIG}  - {{name: mute, title: It says nothing, command: [/srv/mute]}}\n"
_SECOND = f"{gateway.ETC}/second.py"
_GRACE = "c.Gateway.orphan_grace_hours = 0\n"
_UID = BY_NAME["gateway"].uid


class Second:
    """Another gateway for the same cluster, on the same host, that cancels its orphans at once."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        listening = socket.create_server(("127.0.0.1", 0))
        self._port = listening.getsockname()[1]
        with listening:
            text, fd = Path(forward_module.__file__).read_text(), listening.fileno()
            words = [gateway.PYTHON, "-I", "-c", text, str(fd), str(self._port)]
            self._relay = lab.popen("hub", words, pass_fds=(fd,), stdin=subprocess.DEVNULL)
        config = gateway.gateway_config(self._port)
        for old, new in (
            ('"/var/lib/gateway"', '"/var/lib/gateway/second"'),
            ('"/run/gateway"', '"/run/gateway/2"'),
            (f'"{gateway.ETC}/sites"', f'"{gateway.ETC}/second"'),
        ):
            assert old in config
            config = config.replace(old, new)
        (lab.state / "hub/second").mkdir()
        os.chown(lab.state / "hub/second", _UID, -1)
        write_private(lab.state / "hub/second.py", config + _GRACE, _UID)
        write_private(lab.state / "hub/second/lab.yaml", _SITE_CONFIG, _UID)
        words = [gateway.PYTHON, "-m", "gateway.cli", "run", "-f", _SECOND, "--dataplane", "own"]
        self._daemon = Daemon(
            "second",
            lab.hub,
            words,
            lab.state / "pids/second",
            lab.state / "hub/second.log",
            ready=lambda: gateway.answers(self._port, lab.authority),
            user="gateway",
            env={"PYTHONPATH": gateway.SOURCE},
        )
        self._daemon.start(30)
        done = lab.gateway_command("token", "carol", "--admin", "-f", _SECOND)
        self._token = done.stdout.split()[-1]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call its REST API."""
        context = ssl.create_default_context(cafile=str(self._lab.authority))
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, context=context, timeout=20)
        headers = {"Host": f"{HOST}:{self._port}", "Authorization": f"token {self._token}"}
        try:
            connection.request(method, f"/hub/api{path}", json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        assert answer.status < 300, text
        return json.loads(text) if text else None

    def close(self) -> None:
        """End it; what it started stays."""
        self._daemon.stop()
        self._relay.kill()
        self._relay.wait()
        shutil.rmtree(self._lab.state / "hub/second")


@pytest.fixture
def second(lab: Lab) -> Iterator[Second]:
    """Run both gateways; put the first one's database back as it was, afterwards."""
    path = lab.state / "srv/mute"
    path.write_text("#!/bin/sh\nexec sleep 300\n")
    path.chmod(0o755)
    lab.stop_gateway()
    lab.write_gateway_config(_SITE_CONFIG)
    lab.start_gateway()
    second = Second(lab)
    try:
        yield second
    finally:
        second.close()
        lab.stop_gateway()
        lab.clear_jobs()
        shutil.rmtree(lab.state / "nodes/hub/lib/gateway/second")
        lab.write_gateway_config()
        lab.start_gateway()


def jobs(lab: Lab) -> set[str]:
    """Return the names of the gateways' jobs that run, or wait to."""
    words = ["squeue", "-h", "-t", "PENDING,RUNNING", "-o", "%j"]
    return {name for name in lab.login.run(words, check=True).stdout.split() if name.startswith("gw-")}


def restore(lab: Lab, kept: Path) -> None:
    """Put a database in place of the present one."""
    database = lab.state / "nodes/hub/lib/gateway/gateway.sqlite"
    for end in ("-wal", "-shm"):
        database.with_name(f"{database.name}{end}").unlink(missing_ok=True)
    shutil.copy(kept, database)
    os.chown(database, _UID, -1)


def test_a_job_from_after_the_backup_is_shown_and_only_after_the_grace_cancelled_and_nobody_elses(
    lab: Lab, second: Second, tmp_path: Path
) -> None:
    admin, choices = Admin(lab), {"application": "mute", "memory": "50M"}
    known = admin.start("alice", "known", **choices)
    admin.wait(known, "starting")
    database = lab.state / "nodes/hub/lib/gateway/gateway.sqlite"
    with closing(sqlite3.connect(database)) as now, closing(sqlite3.connect(tmp_path / "kept")) as kept:
        now.backup(kept)
    lost = admin.start("bob", "lost", **choices)
    row = admin.wait(lost, "starting")
    theirs = second.call("POST", "/users/alice/servers/theirs", {**CHOICES, **choices})["state"]["id"]

    def theirs_starts() -> bool:
        state = second.call("GET", "/users/alice")["servers"]["theirs"]["state"]
        return bool(state["id"] == theirs and state["phase"] == "starting")

    wait_until(theirs_starts, "the other gateway's starts", 20, 0.2)
    lab.stop_gateway()
    restore(lab, tmp_path / "kept")
    lab.start_gateway()

    def orphans() -> list[dict[str, Any]]:
        found = admin.call("GET", "/orphans").json["orphans"]
        return [orphan for orphan in found if orphan["cluster"] == "lab"]

    wait_until(lambda: bool(orphans()), "the lost job is shown", 25, 0.5)
    (orphan,) = orphans()
    assert (orphan["job_id"], orphan["owner"], orphan["name"][-10:]) == (row["job_id"], "bob", lost)
    assert orphan["cancelled"] is None
    assert {name[-10:] for name in jobs(lab)} == {known, lost, theirs}

    lab.stop_gateway()
    with (lab.state / "hub/gateway_config.py").open("a") as config:
        config.write(_GRACE)
    lab.start_gateway()
    wait_until(lambda: orphan["name"] not in jobs(lab), "the lost job is cancelled", 25, 0.5)
    assert {name[-10:] for name in jobs(lab)} == {known, theirs}
    assert admin.row(known)["phase"] == "starting"
    assert theirs_starts()
    assert second.call("GET", "/orphans") == {"not_looked_for_on": [], "orphans": []}
    admin.stop("alice", "known")
    admin.wait(known, "ended")

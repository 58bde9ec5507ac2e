"""What live tests of single servers share: the REST API with carol's token, and a server's rows."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

from tests.lab import Lab
from tests.lab.nodes import LabError, wait_until
from tests.live.client import CHOICES, Answer, Person


class Admin:
    """Carol, an administrator, at the REST API."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._person = Person(lab, "carol")
        self._token = lab.variables()["GATEWAY_ADMIN_TOKEN"]

    def call(self, method: str, path: str, body: Any = None) -> Answer:
        """Call the API; any answer will do."""
        headers = {"Authorization": f"token {self._token}"}
        url = f"{self._person.hub}/hub/api{path}"
        return self._person.request(method, url, json.dumps(body) if body else b"", headers)

    def metrics(self) -> str:
        """Return what monitoring reads."""
        headers = {"Authorization": f"token {self._token}"}
        return self._person.request("GET", f"{self._person.hub}/hub/metrics", headers=headers).text

    def start(self, user: str, name: str, **choices: str) -> str:
        """Start a server; return its id."""
        answer = self.call("POST", f"/users/{user}/servers/{name}", {**CHOICES, "memory": "100M", **choices})
        assert answer.status == 202, answer.text
        return str(answer.json["state"]["id"])

    def stop(self, user: str, name: str) -> None:
        """Ask for a server's end."""
        self.call("DELETE", f"/users/{user}/servers/{name}")

    def row(self, server_id: str) -> dict[str, Any]:
        """Return a server as the hub's database has it."""
        database = self.lab.state / "nodes/hub/lib/gateway/gateway.sqlite"
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            (row,) = connection.execute("SELECT * FROM servers WHERE id = ?", (server_id,)).fetchall()
        return dict(row)

    def story(self, server_id: str) -> dict[str, list[str]]:
        """Return what the timeline has told of a server, by kind."""
        database = self.lab.state / "nodes/hub/lib/gateway/gateway.sqlite"
        found: dict[str, list[str]] = {}
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            query = "SELECT event, text FROM timeline WHERE server_id = ? ORDER BY number"
            for event, text in connection.execute(query, (server_id,)):
                found.setdefault(event, []).append(text)
        return found

    def wait(self, server_id: str, phase: str, timeout: float = 40.0) -> dict[str, Any]:
        """Wait until a server is in a phase; return its row."""

        def there() -> bool:
            now = self.row(server_id)
            if now["phase"] == "ended" != phase:
                raise LabError(f"{server_id} has ended instead of being {phase}: {now['message']}")
            return bool(now["phase"] == phase)

        wait_until(there, f"{server_id} is {phase}", timeout, 0.1)
        return self.row(server_id)

"""A gateway of its own beside the lab's, for one fault: its own configuration, keys and certificate."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.lab import Lab, gateway
from tests.lab.accounts import BY_NAME, own, write_private

#: Where it would listen.
PORT = 18555
#: Starts faster than JupyterLab does, and says its version too.
_APPLICATION = f"""\
applications:
  - name: kernel
    title: A kernel
    command: [{gateway.PYTHON}, -m, ipykernel]
"""
_FILES = ("tls.pem", "ca.pem", "ldap-password", "ssh/svc", "ssh/tunnel", "ssh/known_hosts")


def faults_of(stderr: str) -> list[str]:
    """Return the lines of a command's standard error that are no audit lines."""
    return [line for line in stderr.splitlines() if not line.startswith("SSH certificate: ")]


class Trial:
    """The configuration of one gateway, which is never started.

    ``inside`` is its directory as the hub's node sees it, ``path`` the same as this machine sees it; ``site``
    is the text of its site config, ``settings`` what is written below its other settings.
    """

    def __init__(self, lab: Lab) -> None:
        name = f"d-{secrets.token_hex(4)}"
        self.lab = lab
        self.inside = f"/tmp/{name}"
        self.path = lab.state / "nodes/hub/tmp" / name
        self.user = "alice"
        self.words: tuple[str, ...] = ()
        self.settings = ""
        self.site = gateway.SITE_CONFIG.partition("applications:")[0] + _APPLICATION
        self.site = self.site.replace(f"{gateway.ETC}/ssh/", f"{self.inside}/")
        for directory in ("", "sites", "state", "run"):
            (self.path / directory).mkdir(mode=0o700)
        for file in _FILES:
            shutil.copy2(lab.state / "hub" / file, self.path / Path(file).name)
        own(self.path, BY_NAME["gateway"].uid)

    def file(self, name: str) -> Path:
        """Return one of its own copies: tls.pem, ca.pem, ldap-password, svc, tunnel, known_hosts."""
        return self.path / name

    def write(self, name: str, text: str) -> None:
        """Write one of its files anew, for the gateway's user alone."""
        write_private(self.path / name, text, BY_NAME["gateway"].uid)

    def change(self, old: str, new: str) -> None:
        """Change the site config."""
        assert self.site.count(old) == 1, old
        self.site = self.site.replace(old, new)

    @property
    def config(self) -> str:
        """The gateway's configuration, as the hub's node sees it."""
        return f"{self.inside}/gateway_config.py"

    def configure(self) -> None:
        """Write the configuration and the site config."""
        self.write("sites/lab.yaml", self.site)
        self.write("gateway_config.py", self._config())

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Write the configuration, and run ``gateway WORDS…`` with it as the gateway's user."""
        self.configure()
        done = self.lab.gateway_command(*words, "-f", self.config, timeout=150)
        assert faults_of(done.stderr) == [], done.stderr
        return done

    def doctor(self) -> dict[str, Any]:
        """Run ``gateway doctor --json`` as the gateway's user and return what it prints."""
        done = self.run("doctor", "lab", "--json", "--user", self.user, *self.words)
        found: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if found["ok"] else 1)
        return found

    def _config(self) -> str:
        inside = self.inside
        return (
            gateway.gateway_config(self.lab.port)
            .replace(f'bind = ["127.0.0.1:{self.lab.port}"]', f'bind = ["127.0.0.1:{PORT}"]')
            .replace("/var/lib/gateway", f"{inside}/state")
            .replace("/run/gateway", f"{inside}/run")
            .replace(f"{gateway.ETC}/", f"{inside}/")
            + self.settings
        )

    def remove(self) -> None:
        """Remove its files."""
        shutil.rmtree(self.path)

"""What the demonstration's gateway is told: the files that a site would write."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import yaml

from gateway.demo import directory
from gateway.demo.place import Place

#: The name that browsers know without any DNS.
HOST = "localhost"


def public_url(port: int) -> str:
    """Return the address that people type."""
    return f"https://{HOST}:{port}/"


def gateway_config(
    place: Place, addresses: tuple[str, ...], port: int, directory_port: int, haproxy: str
) -> str:
    """Return ``gateway_config.py``.

    The layout is ``single``: ``localhost`` is there in every browser, also at the other end of ``ssh -L``,
    and a browser asks only once about the certificate; ``ada.localhost`` is not known everywhere. All jobs of
    the demonstration run as one account, so separate origins would protect nobody.

    Args:
        place: Where everything is.
        addresses: What HAProxy listens at.
        port: Its port there.
        directory_port: Where the directory of people listens.
        haproxy: HAProxy's path.
    """
    bind = [f"[{address}]:{port}" if ":" in address else f"{address}:{port}" for address in addresses]
    values = {
        "Gateway.public_url": public_url(port),
        "Gateway.layout": "single",
        "Gateway.bind": bind,
        "Gateway.tls_certificate": str(place.certificate),
        "Gateway.state_dir": str(place.state),
        "Gateway.run_dir": str(place.run),
        "Gateway.site_dir": str(place.sites),
        "Gateway.haproxy": haproxy,
        "Ldap.servers": [f"127.0.0.1:{directory_port}"],
        "Ldap.ca_file": str(place.certificate),
        "Ldap.reader_dn": directory.READER,
        "Ldap.reader_password_file": str(place.reader_password),
        "Ldap.user_base": directory.PEOPLE,
    }
    lines = [f"c.{name} = {value!r}" for name, value in values.items()]
    return "\n".join(["# Written by gateway demo, each time.", "c = get_config()  # noqa: F821", *lines, ""])


def site_config(place: Place, account: str) -> str:
    """Return the site config: this machine as a cluster, with the local queue.

    Args:
        place: Where everything is.
        account: Whom the jobs run as.
    """
    cores = os.cpu_count() or 1
    memory = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 20}M"
    most = {"max_cores": cores, "max_memory": memory}
    home = shlex.quote(str(place.home))
    site = {
        "version": 1,
        "name": "demo",
        "title": "This machine",
        "scheduler": "local",
        "login": {
            "transport": "local",
            "user": account,
            "act_as": "service",
            "state_dir": str(place.servers),
            "bin": str(place.queue / "bin"),
            "dropins": None,
        },
        "tunnel": "direct",
        "partitions": [
            {
                "name": "short",
                "title": "Short",
                "max_walltime": "1h",
                "default_walltime": "30m",
                "default": True,
            }
            | most,
            {"name": "long", "title": "Long", "max_walltime": "8h", "default_walltime": "2h"} | most,
        ],
        "applications": [
            {
                "name": "lab",
                "title": "JupyterLab",
                "command": [sys.executable, "-m", "jupyterlab"],
                # What Jupyter and notebooks write stays in the demonstration's own directory.
                "prologue": f"export HOME={home} PATH={_programs()}:$PATH\ncd",
                "url": "/lab",
            }
        ],
    }
    return f"# Written by gateway demo, each time.\n{yaml.safe_dump(site, sort_keys=False)}"


def _programs() -> str:
    """Return where this Python's programs are, quoted for the shell."""
    return shlex.quote(str(Path(sys.executable).parent))

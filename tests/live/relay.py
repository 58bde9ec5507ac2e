"""A login node of the lab, as this machine reaches it: behind a relay on the loopback."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.siteconfig import SiteConfig, parse_site_config
from gateway.ssh.transport import quiet_library_log
from tests.lab import Lab, gateway
from tests.lab import forward as forward_module


@contextmanager
def relayed(
    lab: Lab, directory: Path, text: str = gateway.SITE_CONFIG, name: str = "login"
) -> Iterator[SiteConfig]:
    """Give a site config of the lab's with an address that this process can connect to.

    Args:
        lab: The lab; its login node gets the launcher.
        directory: For known_hosts.
        text: The site config.
        name: The login node that it names.
    """
    quiet_library_log()
    lab.install_launcher(node=name)
    known_hosts = directory / "known_hosts"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        lines = lab.keys.known_hosts.read_text().splitlines()
        key = next(line for line in lines if line.startswith(f"{name} "))
        known_hosts.write_text(f"[127.0.0.1]:{port} {key.split(maxsplit=1)[1]}\n")
        words = [gateway.PYTHON, "-I", "-c", Path(forward_module.__file__).read_text()]
        fd = listening.fileno()
        relay = lab.popen(name, [*words, str(fd), "22"], pass_fds=(fd,), stdin=subprocess.DEVNULL)
    whole = parse_site_config(text, f"{name}.yaml")
    changes = {"hosts": ("127.0.0.1",), "port": port, "key": lab.keys.svc, "known_hosts": known_hosts}
    try:
        yield whole.model_copy(update={"login": whole.login.model_copy(update=changes)})
    finally:
        relay.kill()
        relay.wait()

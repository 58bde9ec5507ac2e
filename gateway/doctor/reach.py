"""Whether a host has an address, and takes a connection. Used for the directory and for login nodes."""

from __future__ import annotations

import socket
from contextlib import closing

from gateway.doctor.check import Finding, not_ok, ok

#: Seconds that a connection may take.
CONNECT = 5.0


def resolve(host: str) -> Finding:
    """Say which addresses a host's name has. Blocking."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        return not_ok(
            f"{host} has no address here ({error.strerror})",
            f"getent hosts {host}   (a wrong name? then /etc/resolv.conf, /etc/hosts)",
        )
    return ok(f"{host} is {', '.join(sorted(map(str, found)))}")


def tcp(host: str, port: int, where: str) -> Finding:
    """Say whether something takes a connection. Blocking, at most `CONNECT` seconds for each address.

    Args:
        host: Its name.
        port: TCP.
        where: The file in which host and port are written.
    """
    try:
        with closing(socket.create_connection((host, port), timeout=CONNECT)):
            return ok(f"{host}:{port} takes connections")
    except ConnectionRefusedError:
        return not_ok(
            f"{host}:{port} refuses connections: nothing listens there",
            f"On {host}: ss -ltn 'sport = :{port}'; start the service, or correct the port in {where}.",
        )
    except TimeoutError:
        return not_ok(
            f"{host}:{port} does not answer within {CONNECT:g} s: a firewall, or the host is down",
            f"Ask its administrators to let this host in to TCP port {port}; check: nc -vz {host} {port}",
        )
    except OSError as error:
        return not_ok(
            f"{host}:{port}: {error.strerror}", f"ip route get $(getent hosts {host} | cut -d' ' -f1)"
        )

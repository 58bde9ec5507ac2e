"""The access log: one JSON object a request, without query strings, which HAProxy itself sends to syslog.

No token, cookie or header is in it. HAProxy never waits for who reads it: what cannot be taken is lost.
"""

from __future__ import annotations

import re

from gateway.errors import ConfigError

#: The longest message in bytes: a path is cut at 1,000, of which JSON makes at most six times as many.
LONGEST = 8192
#: The longest path that is written whole.
PATH = 1000

_SYSLOG = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}", re.ASCII)
_SOCKET = re.compile(r"/[A-Za-z0-9_./-]{1,100}", re.ASCII)

#: The fields, and what HAProxy puts there (2.6, "8.2.4. Custom log format"). Times are in milliseconds: of
#: the whole request, for the answer's head, for a connection to the server, in its queue; -1: did not happen.
_FIELDS = {
    "time": "%Ts.%ms",
    "source": '"%ci"',
    "tls": '"%sslv"',
    "host": '"%[var(txn.host),json(utf8s)]"',
    "user": '"%[var(txn.owner),json(utf8s)]"',
    "server": '"%[var(txn.to)]"',
    "method": '"%HM"',
    "path": '"%[var(txn.path)]"',
    "status": "%ST",
    "bytes_in": "%U",
    "bytes_out": "%B",
    "ms": "%Ta",
    "ms_answer": "%Tr",
    "ms_connect": "%Tc",
    "ms_queue": "%Tw",
    "end": '"%tsc"',
}
FORMAT = "{" + ",".join(f'"{name}":{value}' for name, value in _FIELDS.items()) + "}"


def log_words(target: str, *, managed: bool) -> tuple[str, ...]:
    """Return the words of HAProxy's ``log`` line; none if there is to be no log.

    Args:
        target: Empty, a syslog socket's path, HOST:PORT of a syslog by UDP, or ``stdout``.
        managed: Whether a service manager has HAProxy's standard output: else nobody does.

    Raises:
        ConfigError: It is none of them.
    """
    if not target:
        return ()
    if target == "stdout":
        if not managed:
            raise ConfigError(
                "access_log: stdout is for HAProxy under systemd; write a syslog's address: /dev/log"
            )
        return ("stdout", "len", str(LONGEST), "format", "raw", "daemon")
    if _SOCKET.fullmatch(target) or _SYSLOG.fullmatch(target):
        return (target, "len", str(LONGEST), "format", "local" if target[0] == "/" else "rfc5424", "daemon")
    raise ConfigError(f"access_log: {target!r} is no address of a syslog: write /dev/log or loghost:514")

"""What a user's server, and a browser, may take up of HAProxy and of the tunnels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.errors import ConfigError

#: The first version of HAProxy that can limit how much is carried: its filters ``bwlim-in``, ``bwlim-out``.
BANDWIDTH_SINCE = (2, 7)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of each user's server, and of what a browser may keep waiting.

    Args:
        connections: Requests and WebSockets to one server at a time. As many again wait for some seconds; of
            even more each is told so (429). OpenSSH lets 128 new ones wait at a forward's socket and no more.
        requests: Requests to one server per second, over ten seconds; 0 for no limit.
        bandwidth: Bytes per second from one server, and as many to it; 0 for no limit. HAProxy 2.7 or later.
        patience: Seconds that a browser may take to send a request's head, and a form to the hub.
    """

    connections: int = 128
    requests: int = 0
    bandwidth: int = 0
    patience: int = 15

    @property
    def words(self) -> tuple[str, ...]:
        """The words that each server has."""
        return ("maxconn", str(self.connections))

    def check(self, program: str, version: str) -> None:
        """See that a version of HAProxy can do all this.

        Raises:
            ConfigError: It cannot.
        """
        major, minor = (int(number) for number in version.split(".")[:2])
        if self.bandwidth and (major, minor) < BANDWIDTH_SINCE:
            raise ConfigError(
                f"server_bandwidth needs HAProxy 2.7 or later, and {program} is {version}: "
                "leave it out, or install a newer one and name it with c.Gateway.haproxy"
            )

    def lines(self) -> Iterator[str]:
        """Return what each of the users' backends says itself: it cannot inherit a filter."""
        if self.bandwidth:
            for name, way in (("bwlim-out", "response"), ("bwlim-in", "request")):
                yield f"filter {name} {name} limit {self.bandwidth} key var(txn.id) table {name}"
                yield f"http-{way} set-bandwidth-limit {name}"

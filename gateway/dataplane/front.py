"""A reverse proxy of the site's own in front of HAProxy: whose word counts on who asks, and how."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Front:
    """Which proxies are believed what they say of browsers; by default none.

    Args:
        trusted: Their addresses and networks, as ``192.0.2.0/24``.
        proxy_protocol: Whether they say it in the PROXY protocol (version 1 or 2), which each of their
            connections then begins with, also before TLS; else with ``X-Forwarded-For`` and ``-Proto``, of
            which the last value counts.

    Raises:
        ConfigError: A network is none, or everybody's; or there is none to speak the protocol.
    """

    trusted: tuple[str, ...] = ()
    proxy_protocol: bool = False

    def __post_init__(self) -> None:
        for text in self.trusted:
            _check_network(text)
        if self.proxy_protocol and not self.trusted:
            raise ConfigError(
                "proxy_protocol: name the proxies that speak it in trusted_proxies: nobody else may"
            )

    def check_plain(self, addresses: Iterable[str]) -> None:
        """See that nobody but a proxy reaches addresses without TLS.

        Raises:
            ConfigError: Others could.
        """
        for address in addresses:
            if not (self.trusted or is_loopback(address)):
                raise ConfigError(
                    f"plain_bind: {address}: without trusted_proxies it must be on the loopback, "
                    "as 127.0.0.1:8080"
                )


def is_loopback(address: str) -> bool:
    """Return whether only this machine reaches an address to listen at."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def networks(texts: Sequence[str]) -> tuple[str, ...]:
    """Return networks in their usual form.

    Raises:
        ConfigError: One is none.
    """
    return tuple(str(_check_network(text)) for text in texts)


def _check_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(f"trusted_proxies: {error}: write 192.0.2.7 or 192.0.2.0/24") from None
    if network.prefixlen == 0:
        raise ConfigError(f"trusted_proxies: {text} is everybody, who would be believed to be anybody")
    return network

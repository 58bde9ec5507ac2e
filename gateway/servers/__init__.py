"""The conductor: takes every server along the lifecycle's table."""

from gateway.servers.cluster import Cluster
from gateway.servers.conductor import Servers

__all__ = ["Cluster", "Servers"]

"""The lab's network: hub and login nodes see each other, login and compute nodes too; nobody the world."""

from __future__ import annotations

from collections.abc import Mapping

from tests.lab.clusters import HUB_ADDRESS, Cluster
from tests.lab.nodes import Node


def connect(nodes: Mapping[str, Node], cluster: Cluster) -> None:
    """Join a cluster's nodes to each other, and the login node to the hub.

    The hub keeps one address on all of its links; a link ends at the login node. There is no route beyond.
    Links are made inside of the namespaces: the machine's network is untouched.
    """
    login, inside = cluster.login, cluster.inside
    lines = [
        f"link add hub0 type veth peer name {cluster.link} netns {nodes['hub'].pid}",
        f"addr add {cluster.outside} peer {HUB_ADDRESS} dev hub0",
        "link set hub0 up",
        "link add br0 type bridge forward_delay 0",
        f"addr add {inside[login]}/24 dev br0",
        "link set br0 up",
    ]
    for name in cluster.compute:
        lines += [
            f"link add v{name} type veth peer name eth0 netns {nodes[name].pid}",
            f"link set v{name} master br0 up",
        ]
    _ip(nodes[login], lines)
    peer = f"addr add {HUB_ADDRESS} peer {cluster.outside} dev {cluster.link}"
    _ip(nodes["hub"], [peer, f"link set {cluster.link} up"])
    for name in cluster.compute:
        _ip(nodes[name], [f"addr add {inside[name]}/24 dev eth0", "link set eth0 up"])


def join(nodes: Mapping[str, Node], cluster: Cluster, other: Cluster) -> None:
    """Let a login node see the inside of another cluster, as that one's second login node."""
    node, (subnet, _, _) = nodes[other.login], cluster.inside[cluster.login].rpartition(".")
    lines = [
        f"link add v{node.name} type veth peer name eth0 netns {node.pid}",
        f"link set v{node.name} master br0 up",
    ]
    _ip(nodes[cluster.login], lines)
    _ip(node, [f"addr add {subnet}.2/24 dev eth0", "link set eth0 up"])


def only_sshd(login: Node) -> None:
    """Let the hub reach nothing of a login node but its sshd, whatever else listens there on every address.

    What the node would answer from another port has no way back: the connection is never made.
    """
    _ip(
        login,
        [
            f"rule add pref 100 to {HUB_ADDRESS} ipproto tcp sport 22 lookup main",
            f"rule add pref 101 to {HUB_ADDRESS} blackhole",
        ],
    )


def _ip(node: Node, lines: list[str]) -> None:
    node.run(["ip", "-batch", "-"], input="".join(f"{line}\n" for line in lines), check=True)

"""The lab's network: hub and login see each other, login and the compute nodes too; nobody the world."""

from __future__ import annotations

from collections.abc import Mapping

from tests.lab.nodes import Node
from tests.lab.staging import COMPUTE_NODES


def connect(nodes: Mapping[str, Node]) -> None:
    """Join the nodes: 10.77.0.0/30 from hub to login, 10.78.0.0/24 from login to the others.

    There is no route beyond. Links are made inside of the namespaces: the machine's network is untouched.
    """
    lines = [
        f"link add hub0 type veth peer name eth0 netns {nodes['hub'].pid}",
        "addr add 10.77.0.2/30 dev hub0",
        "link set hub0 up",
        "link add br0 type bridge forward_delay 0",
        "addr add 10.78.0.1/24 dev br0",
        "link set br0 up",
    ]
    for name in COMPUTE_NODES:
        lines += [
            f"link add v{name} type veth peer name eth0 netns {nodes[name].pid}",
            f"link set v{name} master br0 up",
        ]
    _ip(nodes["login"], lines)
    _ip(nodes["hub"], ["addr add 10.77.0.1/30 dev eth0", "link set eth0 up"])
    for number, name in enumerate(COMPUTE_NODES, 11):
        _ip(nodes[name], [f"addr add 10.78.0.{number}/24 dev eth0", "link set eth0 up"])


def _ip(node: Node, lines: list[str]) -> None:
    node.run(["ip", "-batch", "-"], input="".join(f"{line}\n" for line in lines), check=True)

"""Ways without a tunnel: what was made is found again, and leads where it was asked to and nowhere else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.address import Address, Tcp, address_word, parse_address
from gateway.dataplane import direct
from gateway.dataplane.direct import Direct
from gateway.errors import DataPlaneError

ALICE, BOB = "aaaaaaaaaa", "bbbbbbbbbb"


class Names:
    """A resolver: names and their addresses; one that is missing cannot be resolved."""

    def __init__(self) -> None:
        self.known: dict[str, Sequence[str]] = {"cn1": ["192.0.2.1"], "cn2": ["192.0.2.2"]}
        self.asked: list[str] = []

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.known:
            raise OSError(-2, "Name or service not known")
        return self.known[host]


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def ways(tmp_path: Path, names: Names) -> Direct:
    return Direct("test", tmp_path / "test", names)


async def test_a_way_is_made_once_and_another_object_finds_it(
    ways: Direct, names: Names, tmp_path: Path
) -> None:
    address = await ways.forward(ALICE, 1, "cn1", 20001)
    assert address == Tcp("192.0.2.1", 20001)
    assert await ways.forward(ALICE, 1, "cn1", 20001) == address
    heir = Direct("test", tmp_path / "test", names)
    assert heir.address(ALICE, 1) == address
    assert await heir.forwards() == {(ALICE, 1): address}
    assert await heir.forward(ALICE, 1, "cn1", 20001) == address
    assert names.asked == ["cn1"]
    assert repr(heir) == "<Direct test: 1 ways>"


async def test_a_generation_never_changes_its_endpoint(ways: Direct) -> None:
    await ways.forward(ALICE, 1, "cn1", 20001)
    for host, port in (("cn2", 20001), ("cn1", 20002)):
        with pytest.raises(DataPlaneError, match="leads elsewhere"):
            await ways.forward(ALICE, 1, host, port)
    assert await ways.forward(ALICE, 2, "cn2", 20001) == Tcp("192.0.2.2", 20001)


async def test_a_name_that_cannot_be_resolved_is_an_error_of_this_server_alone(ways: Direct) -> None:
    await ways.forward(BOB, 1, "cn1", 20001)
    with pytest.raises(DataPlaneError, match="no-such-node cannot be resolved"):
        await ways.forward(ALICE, 1, "no-such-node", 20001)
    assert ways.address(ALICE, 1) is None
    assert list(await ways.forwards()) == [(BOB, 1)]


async def test_a_resolver_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "_TIMEOUT", 0.05)
    answer = threading.Event()

    def hang(_: str) -> Sequence[str]:
        answer.wait(5)
        return ["192.0.2.1"]

    ways = Direct("test", tmp_path / "test", hang)
    before = resolvers()
    for _ in range(12):
        with pytest.raises(DataPlaneError, match="cn1 could not be resolved within"):
            await ways.forward(ALICE, 1, "cn1", 20001)
    hanging = resolvers() - before
    answer.set()
    assert len(hanging) == 2


def resolvers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("resolver")}


@pytest.mark.parametrize("unusable", ["0.0.0.0", "::", "224.0.0.1", "fe80::1%eth0", "cn1", ""])
async def test_only_the_address_of_one_host_is_taken(ways: Direct, names: Names, unusable: str) -> None:
    names.known["cn1"] = [unusable]
    with pytest.raises(DataPlaneError, match="no address that can be used"):
        await ways.forward(ALICE, 1, "cn1", 20001)
    names.known["cn1"] = [unusable, "2001:db8::1"]
    assert await ways.forward(ALICE, 1, "cn1", 20001) == Tcp("2001:db8::1", 20001)


async def test_after_silence_an_address_that_the_host_has_no_more_is_forgotten(
    ways: Direct, names: Names
) -> None:
    address = await ways.forward(ALICE, 1, "cn1", 20001)
    assert await ways.confirmed(ALICE, 1) == address
    del names.known["cn1"]  # nobody knows it now: no news
    assert await ways.confirmed(ALICE, 1) == address
    names.known["cn1"] = ["192.0.2.7"]
    assert await ways.confirmed(ALICE, 1) is None
    assert await ways.forwards() == {}
    assert await ways.forward(ALICE, 2, "cn1", 20001) == Tcp("192.0.2.7", 20001)


class Network:
    """Which addresses accept connections, and which were asked."""

    def __init__(self, *open_to: str) -> None:
        self.open_to = set(open_to)
        self.asked: list[str] = []

    async def __call__(self, address: Tcp) -> bool:
        self.asked.append(address.ip)
        return address.ip in self.open_to


TWO = ["192.0.2.1", "198.51.100.1"]


async def test_of_a_nodes_addresses_the_one_that_the_hub_reaches_is_taken(
    tmp_path: Path, names: Names
) -> None:
    names.known["cn1"] = TWO
    ways = Direct("test", tmp_path / "test", names, Network(TWO[1]))
    assert await ways.forward(ALICE, 1, "cn1", 20001) == Tcp(TWO[1], 20001)
    both = Direct("test", tmp_path / "test", names, Network(*TWO))
    assert await both.forward(BOB, 1, "cn1", 20001) == Tcp(TWO[0], 20001)


async def test_after_silence_another_address_of_the_node_is_taken_only_if_it_is_better(
    tmp_path: Path, names: Names
) -> None:
    names.known["cn1"] = TWO
    network = Network()
    ways = Direct("test", tmp_path / "test", names, network)
    first = await ways.forward(ALICE, 1, "cn1", 20001)
    assert first == Tcp(TWO[0], 20001)
    assert await ways.confirmed(ALICE, 1) == first, "none is better"
    network.open_to = set(TWO)
    assert await ways.confirmed(ALICE, 1) == first, "it is the application that is silent"
    network.open_to = {TWO[1]}
    assert await ways.confirmed(ALICE, 1) is None
    assert await ways.forward(ALICE, 2, "cn1", 20001) == Tcp(TWO[1], 20001)
    network.open_to = set(TWO)
    assert await ways.confirmed(ALICE, 2) == Tcp(TWO[1], 20001), "nor does it go back without need"


async def test_a_node_with_one_address_is_not_asked_whether_it_accepts(tmp_path: Path, names: Names) -> None:
    network = Network()
    ways = Direct("test", tmp_path / "test", names, network)
    await ways.forward(ALICE, 1, "cn1", 20001)
    assert await ways.confirmed(ALICE, 1)
    assert network.asked == []


async def test_what_is_cancelled_is_forgotten_and_the_others_stay(ways: Direct, tmp_path: Path) -> None:
    await ways.forward(ALICE, 1, "cn1", 20001)
    await ways.forward(BOB, 1, "cn2", 20001)
    await ways.cancel(ALICE, 1)
    await ways.cancel(ALICE, 1)
    assert list(await ways.forwards()) == [(BOB, 1)]
    await ways.stop()
    await ways.stop()
    assert list((tmp_path / "test").iterdir()) == []


@pytest.mark.parametrize(
    "left", ["", "cn1 20001 192.0.2", "cn1 20001 192.0.2.1", "a b\n", "-x 1 192.0.2.1\n"]
)
async def test_what_a_crash_left_half_written_is_no_way(ways: Direct, tmp_path: Path, left: str) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / f"{ALICE}.1.to").write_text(left)
    assert ways.address(ALICE, 1) is None
    assert await ways.forwards() == {}
    assert await ways.forward(ALICE, 1, "cn1", 20001) == Tcp("192.0.2.1", 20001)


@pytest.mark.parametrize(
    ("server_id", "generation", "host", "port"),
    [
        ("../../etc/x", 1, "cn1", 20001),
        (ALICE, -1, "cn1", 20001),
        (ALICE, 1, "cn1 weight 1", 20001),
        (ALICE, 1, "-cn1", 20001),
        (ALICE, 1, "cn1", 0),
    ],
)
async def test_arguments_are_checked_before_anything_is_done(
    ways: Direct, names: Names, server_id: str, generation: int, host: str, port: int
) -> None:
    with pytest.raises(ValueError, match="not a"):
        await ways.forward(server_id, generation, host, port)
    assert names.asked == []


async def test_a_connection_is_accepted_where_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert await direct.accepts(Tcp("127.0.0.1", port))
        assert not await direct.accepts(Tcp("127.0.0.2", port))


def test_a_real_name_is_resolved_ipv4_first() -> None:
    assert direct.resolve("localhost")[0] == "127.0.0.1"
    assert direct.resolve("192.0.2.9") == ["192.0.2.9"]


@pytest.mark.parametrize(
    ("address", "word"),
    [
        (Path("/run/gateway/t/lab/0/a.sock"), "unix@/run/gateway/t/lab/0/a.sock"),
        (Tcp("192.0.2.1", 8888), "192.0.2.1:8888"),
        (Tcp("2001:db8::1", 8888), "[2001:db8::1]:8888"),
    ],
)
def test_an_address_is_read_as_it_is_written(address: Address, word: str) -> None:
    assert address_word(address) == word
    assert parse_address(word) == address


@pytest.mark.parametrize(
    "word",
    [
        "",
        "cn1:80",
        "192.0.2.1",
        "192.0.2.1:0",
        "192.0.2.1:65536",
        "192.0.2.1:80 weight 1",
        "192.0.2.256:80",
        "127.1:80",
        "2001:db8::1:80",
        "[2001:DB8::1]:80",
        "[::]:80",
        "unix@relative",
        "unix@/a b",
    ],
)
def test_what_is_no_address_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_address(word)

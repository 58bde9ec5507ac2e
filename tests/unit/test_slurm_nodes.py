"""Slurm's lists of nodes: what they stand for, and that no list costs more than its own length."""

import tracemalloc

import pytest

from gateway.schedulers.slurm_nodes import Budget, Nodes, read, within


def nodes(text: str) -> Nodes:
    return read(text, Budget())


@pytest.mark.parametrize(
    ("some", "others"),
    [
        ("cn2", "cn[1-3]"),
        ("cn[8-12]", "cn8,cn9,cn[10-12]"),
        ("cn8,cn9,cn[10-12]", "cn[8-12]"),
        ("cn[1,3,2]", "cn[1-3]"),
        ("cn[01-03],login", "login,cn[01-99]"),
        ("rack[1-2]node[1-4]", "rack[1-2]node[1-4],cn1"),
        ("a[1-99999999]", "a[1-999999999]"),
    ],
)
def test_nodes_are_among_others_however_they_are_written(some: str, others: str) -> None:
    assert within(nodes(some), nodes(others))


@pytest.mark.parametrize(
    ("some", "others"),
    [
        ("", "cn1"),
        ("(null)", "cn1"),
        ("cn1", ""),
        ("cn[1-3]", "cn[1,3]"),
        ("cn[1-3]", "cn[01-03]"),
        ("cn1", "gpu1"),
        ("login", "login1"),
        ("cn[1-4]", "cn[1-2],cn[4-9]"),
        ("rack[1-2]node[1-4]", "rack[1-2]node[1-3]"),
        ("a[1-9999999999]", "a[1-999999999]"),
    ],
)
def test_nodes_that_are_not_all_there_are_not_among_others(some: str, others: str) -> None:
    assert not within(nodes(some), nodes(others))


def test_a_list_costs_no_more_memory_than_its_text() -> None:
    text = ",".join(f"a{i}x[1-999999999]" for i in range(100)) + f",b[{'0' * 4000}9-{'9' * 4000}]"
    tracemalloc.start()
    try:
        found = nodes(text)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert len(found) == 901


@pytest.mark.parametrize("part", ["b", "[", "1", "a[", "a]", "a1", "[1-", "a[1-"])
def test_no_text_takes_more_time_than_its_length(part: str) -> None:
    assert not within(nodes(part * 400_000), nodes("cn1"))


def test_a_text_with_too_many_lists_says_nothing_of_the_rest() -> None:
    budget = Budget(3)
    assert read("a1,a2,a3", budget)
    assert not read("a4", budget)
    assert not read("a1", budget)

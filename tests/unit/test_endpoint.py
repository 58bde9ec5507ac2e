"""Endpoint tokens: what is believed of a job's public comment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.endpoint import parse, token
from gateway.model import Endpoint

RUN = "0123456789abcdef"
PORTS = (20000, 29999)


def found(comment: str, *, restarts: int = 0, host: str | None = "cn1") -> Endpoint | None:
    return parse(comment, run=RUN, restarts=restarts, host=host, ports=PORTS)


def test_a_token_is_found_between_other_words() -> None:
    assert found(token(RUN, 0, "cn1", 24265)) == Endpoint(RUN, 0, "cn1", 24265)
    assert found(f"my job | x, y\n{token(RUN, 0, 'cn1', 24265)} more") == Endpoint(RUN, 0, "cn1", 24265)


def test_the_last_token_counts_even_if_it_is_not_believed() -> None:
    good, stale = token(RUN, 0, "cn1", 20001), token("f" * 16, 0, "cn1", 20002)
    assert found(f"{stale} {good}") == Endpoint(RUN, 0, "cn1", 20001)
    assert found(f"{good} {stale}") is None


def test_the_scheduler_names_the_host() -> None:
    assert found(token(RUN, 0, "CN1.cluster.example.org", 20000), host="cn1") == Endpoint(
        RUN, 0, "cn1", 20000
    )
    assert found(token(RUN, 0, "cn1", 20000), host="cn1.other") == Endpoint(RUN, 0, "cn1.other", 20000)
    for host in ("cn2", "cn11", "", None):
        assert found(token(RUN, 0, "cn1", 20000), host=host) is None


def test_another_run_or_another_restart_is_not_believed() -> None:
    assert found(token("f" * 16, 0, "cn1", 20000)) is None
    assert found(token(RUN, 0, "cn1", 20000), restarts=1) is None
    assert found(token(RUN, 1, "cn1", 20000), restarts=1) is not None


@pytest.mark.parametrize(
    "port", ["19999", "30000", "0", "22", "99999", "-1", "+20000", "020000", "2000O", ""]
)
def test_ports_outside_the_sites_range_are_not_believed(port: str) -> None:
    assert found(f"gw1:{RUN}:0:cn1:{port}") is None


@pytest.mark.parametrize(
    "text",
    [
        f"xgw1:{RUN}:0:cn1:20000",
        f"gw1:{RUN}:0:cn1:20000x",
        f"gw1:{RUN}:0:cn1:20000:1",
        f"gw2:{RUN}:0:cn1:20000",
        f"gw1:{RUN.upper()}:0:cn1:20000",
        f"gw1:{RUN}:0:cn 1:20000",
        f"gw1:{RUN}:0:-oProxyCommand=x:20000",
        f"gw1:{RUN}:0:cn1:٢٠٠٠٠",
        "(null)",
        "",
    ],
)
def test_nothing_like_a_token_is_a_token(text: str) -> None:
    assert found(text) is None


@pytest.mark.parametrize(
    ("run", "host", "port"), [("x", "cn1", 1), (RUN, "a b", 1), (RUN, "", 1), (RUN, "cn1", 123456)]
)
def test_a_token_that_could_not_be_read_back_is_not_made(run: str, host: str, port: int) -> None:
    with pytest.raises(ValueError, match="not an endpoint"):
        token(run, 0, host, port)


@given(st.text(), st.text())
def test_no_text_around_a_token_changes_what_it_says(before: str, after: str) -> None:
    comment = f"{before} {token(RUN, 3, 'cn1', 20000)} {after}"
    assert found(comment, restarts=3) in (Endpoint(RUN, 3, "cn1", 20000), None)
    if "gw1:" not in after:
        assert found(comment, restarts=3) is not None

"""Which server a path belongs to, and which names servers may have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.model import SERVER_NAME, USER_NAME
from gateway.urls import (
    RESERVED_NAMES,
    ServerPath,
    check_server_name,
    enter_path,
    parse_server_path,
    server_path,
)


@pytest.mark.parametrize(
    ("path", "user", "server"),
    [
        ("/user/alice/", "alice", ""),
        ("/user/alice", "alice", ""),
        ("/user/alice/lab/tree", "alice", ""),
        ("/user/alice/exp1/", "alice", "exp1"),
        ("/user/alice/exp1/lab", "alice", "exp1"),
        ("/user/alice/-gateway-enter", "alice", ""),
        ("/user/alice/exp1/-gateway-enter", "alice", "exp1"),
        ("/user/alice/Exp1/", "alice", ""),
        ("/user/alice//exp1/", "alice", ""),
    ],
)
def test_a_path_is_taken_as_the_proxy_takes_it(path: str, user: str, server: str) -> None:
    found = parse_server_path(path)
    assert found is not None
    assert (found.user, found.server) == (user, server)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/user",
        "/user/",
        "//user/alice/",
        "/User/alice/",
        "/user/Alice/",
        "/user/al%69ce/",
        "/user%2falice/",
        "user/alice/",
        "/hub/home",
        "/user/../alice/",
        "/user/alice\n/",
        "/x/user/alice/",
    ],
)
def test_a_path_that_is_no_servers_finds_none(path: str) -> None:
    assert parse_server_path(path) is None


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/hpc/gw/user/alice/exp1/lab", ServerPath("alice", "exp1", "/hpc/gw/")),
        ("/hpc/gw/user/alice", ServerPath("alice", "", "/hpc/gw/")),
        ("/user/alice/", None),
        ("/hpc/gwx/user/alice/", None),
        ("/hpc/gw//user/alice/", None),
        ("//hpc/gw/user/alice/", None),
        ("/hpc%2fgw/user/alice/", None),
        ("/Hpc/gw/user/alice/", None),
        ("/hpc/gw/hpc/gw/user/alice/", None),
        ("/hpc/gw", None),
    ],
)
def test_below_a_base_a_path_is_a_servers_only_with_exactly_that_before_it(
    path: str, found: ServerPath | None
) -> None:
    assert parse_server_path(path, "/hpc/gw/") == found


@given(st.from_regex(USER_NAME, fullmatch=True), st.just("") | st.from_regex(SERVER_NAME, fullmatch=True))
def test_every_servers_path_leads_back_to_it(user: str, server: str) -> None:
    if server in RESERVED_NAMES:
        return
    for path in (server_path(user, server), enter_path(user, server)):
        found = parse_server_path(path)
        assert found is not None
        assert (found.user, found.server) == (user, server)
        assert str(found) == server_path(user, server)


@pytest.mark.parametrize(
    "name", ["lab", "api", "tree", "static", "-a", "a-", "A", "a" * 33, "a/b", "a b", "é", "a\n"]
)
def test_a_name_that_would_hide_a_page_or_is_malformed_is_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        check_server_name(name)
    assert refused.value.public.endswith(".")


def test_ordinary_names_and_the_default_servers_are_taken() -> None:
    assert [check_server_name(name) for name in ("", "exp-1", "2026", "a")] == ["", "exp-1", "2026", "a"]

"""Origins keep users apart, and nothing leads away from them."""

from __future__ import annotations

import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.model import USER_NAME
from gateway.origins import Layout, Origins, is_same_origin, label_of
from gateway.urls import ServerPath

PER_USER = Origins.of("https://gw.example.org:8443/")
SINGLE = Origins.of("https://GW.example.org/", "single")
BELOW = Origins.of("https://gw.example.org/hpc/gateway")
NAMES = st.from_regex(USER_NAME, fullmatch=True)


def test_urls_of_both_layouts() -> None:
    assert PER_USER.hub_url() == "https://gw.example.org:8443/hub/home"
    assert PER_USER.server_url("alice", "exp1") == "https://alice.gw.example.org:8443/user/alice/exp1/"
    assert PER_USER.host_of("alice") == "alice.gw.example.org"
    assert SINGLE.server_url("alice", "") == "https://gw.example.org/user/alice/"
    assert SINGLE.host_of("alice") == "gw.example.org"
    assert Origins.of("https://gw.example.org:443").hub_origin == "https://gw.example.org"


@pytest.mark.parametrize(
    ("url", "layout"),
    [
        ("http://gw.example.org/", "per-user"),
        ("https://gw.example.org/base/?a", "per-user"),
        ("https://me@gw.example.org/", "per-user"),
        ("https://gw.example.org/?a", "per-user"),
        ("https://192.0.2.1/", "per-user"),
        ("https://gw_x.example.org/", "single"),
        ("https://gw.example.org:99999/", "single"),
        ("gw.example.org", "single"),
        ("https://gw.example.org/", "both"),
    ],
)
def test_a_public_url_that_cannot_serve_is_refused(url: str, layout: str) -> None:
    with pytest.raises(ConfigError):
        Origins.of(url, layout)


@pytest.mark.parametrize(
    "path",
    ["/a//b/", "//", "/../", "/a/../b/", "/./", "/a%2fb/", "/%61/", "/a.b/", "/a;b/", "/é/", "/-a/", "/a b/"],
)
def test_a_path_that_could_be_read_in_two_ways_is_refused_by_the_settings_name(path: str) -> None:
    with pytest.raises(ConfigError, match=r"public_url: .*write it as /gateway/"):
        Origins.of(f"https://gw.example.org{path}")


def test_below_a_path_are_all_pages_and_servers_of_both_layouts() -> None:
    single = replace(BELOW, layout=Layout.SINGLE)
    assert BELOW.base == "/hpc/gateway/"
    assert BELOW.hub_origin == "https://gw.example.org"
    assert BELOW.hub_url("/hub/login?next=x") == "https://gw.example.org/hpc/gateway/hub/login?next=x"
    assert BELOW.server_url("alice", "exp1") == "https://alice.gw.example.org/hpc/gateway/user/alice/exp1/"
    assert single.server_url("alice", "") == "https://gw.example.org/hpc/gateway/user/alice/"
    assert single.enter_url("alice", "") == "https://gw.example.org/hpc/gateway/user/alice/-gateway-enter"
    assert BELOW.host_of("alice") == "alice.gw.example.org"
    assert PER_USER.base == SINGLE.base == "/"
    assert not BELOW.may_insist, "what else is at this host may need plain HTTP"


@pytest.mark.parametrize(
    ("target", "leads_to"),
    [
        ("/hpc/gateway/hub/home", "https://gw.example.org/hpc/gateway/hub/home"),
        ("/hpc/gateway/user/alice/lab?x", "https://alice.gw.example.org/hpc/gateway/user/alice/lab?x"),
        ("/hub/home", None),
        ("/user/alice/", None),
        ("/hpc/gatewayx/hub/home", None),
        ("/hpc/gatewayhub/home", None),
        ("/hpc/gateway/../hub/home", None),
        ("/hpc/gateway//hub/home", None),
        ("/HPC/gateway/hub/home", None),
        ("//hpc/gateway/hub/home", None),
        ("/hpc%2fgateway/hub/home", None),
        ("/elsewhere", None),
    ],
)
def test_below_a_path_a_login_leads_to_our_own_pages_and_not_to_the_hosts_others(
    target: str, leads_to: str | None
) -> None:
    assert BELOW.safe_next(target) == leads_to
    assert BELOW.safe_next(f"https://gw.example.org{target}") == (
        leads_to if "/user/" not in target else None
    )


@given(NAMES)
def test_every_user_has_a_valid_host_that_names_them_alone(user: str) -> None:
    label = label_of(user)
    assert len(label) <= 63
    assert set(label) <= set(string.ascii_lowercase + string.digits + "-")
    assert not label.startswith("-")
    assert not label.endswith("-")
    assert PER_USER.user_of_host(PER_USER.host_of(user) + ":8443") == user
    assert not PER_USER.is_hub_host(PER_USER.host_of(user))


@given(NAMES, NAMES)
def test_two_users_never_share_a_host(one: str, other: str) -> None:
    assert (label_of(one) == label_of(other)) == (one == other)


@pytest.mark.parametrize(
    "user", ["www", "hub", "a.b", "a_b", "u--mfwgsy3f", "xn--bcher-kva", "svc$", "a-", "_x"]
)
def test_names_that_are_no_labels_or_mean_something_else_are_escaped(user: str) -> None:
    assert label_of(user).startswith("u--")
    assert label_of(user) != user


@pytest.mark.parametrize(
    "host",
    [
        "gw.example.org",
        "evil.org",
        "alice.evil.org",
        "x.alice.gw.example.org",
        "alicegw.example.org",
        ".gw.example.org",
        "u--.gw.example.org",
        "u--zzzz!.gw.example.org",
        "u--mfwgsy3f.gw.example.org",
        "hub.gw.example.org",
        "alice.gw.example.org:x",
        "",
    ],
)
def test_a_host_that_is_no_users_names_nobody(host: str) -> None:
    assert PER_USER.user_of_host(host) is None


def test_a_server_is_at_its_own_users_host_only() -> None:
    assert PER_USER.serves("Alice.gw.example.org:8443", ServerPath("alice", ""))
    assert not PER_USER.serves("bob.gw.example.org:8443", ServerPath("alice", ""))
    assert not PER_USER.serves("gw.example.org:8443", ServerPath("alice", ""))
    assert SINGLE.serves("gw.example.org", ServerPath("alice", ""))


@pytest.mark.parametrize(
    ("target", "leads_to"),
    [
        ("/hub/home", "https://gw.example.org:8443/hub/home"),
        ("/hub/enter?to=/user/alice/", "https://gw.example.org:8443/hub/enter?to=/user/alice/"),
        ("/user/alice/lab?x=1#a", "https://alice.gw.example.org:8443/user/alice/lab?x=1#a"),
        ("https://alice.gw.example.org:8443/user/alice/", "https://alice.gw.example.org:8443/user/alice/"),
    ],
)
def test_a_login_leads_to_our_own_pages(target: str, leads_to: str) -> None:
    assert PER_USER.safe_next(target) == leads_to


@pytest.mark.parametrize(
    "target",
    [
        "",
        "//evil.org/hub/",
        "/\\evil.org",
        "\\\\evil.org",
        "https://evil.org/hub/home",
        "https:evil.org",
        "javascript:alert(1)",
        "https://gw.example.org:8443@evil.org/hub/home",
        "https://gw.example.org.evil.org/hub/home",
        "http://gw.example.org:8443/hub/home",
        "https://gw.example.org/hub/home",
        "https://bob.gw.example.org:8443/user/alice/",
        "/hub/../evil",
        "/hub/%2e%2E/x",
        "/evil",
        "/user/",
        "/hub/home\r\nX: y",
        "/hub/\thome",
        " /hub/home",
        "data:text/html,x",
        "hub/home",
        "/hub/" + "a" * 2000,
        "https://gw.example.org:8443//hub/home",
        "/hub/é",
    ],
)
def test_a_login_leads_nowhere_else(target: str) -> None:
    assert PER_USER.safe_next(target) is None


@given(st.text(max_size=60))
def test_whatever_is_typed_a_login_stays_with_us(target: str) -> None:
    for origins in (PER_USER, SINGLE):
        url = origins.safe_next(target)
        assert url is None or url.split("/")[2].removesuffix(":8443").endswith("gw.example.org")


ORIGIN = "https://gw.example.org"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": ORIGIN},
        {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
        {},
    ],
)
def test_what_our_own_page_sends_is_taken(headers: dict[str, str]) -> None:
    assert is_same_origin(headers, ORIGIN)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://bob.gw.example.org"},
        {"Origin": "null"},
        {"Origin": ORIGIN, "Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": ORIGIN + ":8443"},
        {"Origin": ""},
    ],
)
def test_what_another_users_page_sends_is_not(headers: dict[str, str]) -> None:
    assert not is_same_origin(headers, ORIGIN)


def test_forms_may_lead_to_users_origins_where_there_are_some() -> None:
    assert PER_USER.form_targets() == "'self' https://*.gw.example.org:8443"
    assert SINGLE.form_targets() == "'self'"
    assert SINGLE.layout is Layout.SINGLE


@pytest.mark.parametrize(
    ("public_url", "layout", "may"),
    [
        ("https://gw.example.org/", "per-user", True),
        ("https://gw.example.org:443/", "single", True),
        ("https://gw.example.org:8443/", "per-user", False),
        ("https://gateway/", "single", False),
        ("https://localhost/", "single", False),
        ("https://gw.localhost/", "per-user", False),
        ("https://192.0.2.1/", "single", False),
    ],
)
def test_https_is_insisted_on_only_where_it_can_cut_off_nobody_else(
    public_url: str, layout: str, may: bool
) -> None:
    assert Origins.of(public_url, layout).may_insist is may

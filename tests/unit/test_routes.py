"""The plan of routes: applied to any proxy it ends in what is desired, and no step on the way is unsafe."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.address import Tcp
from gateway.routes import (
    HUB,
    WANTED,
    Actual,
    AddEntry,
    AddServer,
    DeleteEntry,
    Desired,
    EnableServer,
    Grant,
    Map,
    RemoveServer,
    Route,
    ServerState,
    SetEntry,
    ShutSessions,
    Step,
    additions,
    carried_out,
    hash_cookie,
    id_of,
    plan,
    refused,
)

#: What goes before all else.
FIRST = (Map.ROUTES, Map.BULK)
IDS = ["aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc"]
HOSTS = ["alice.gw.example.org", "bob.gw.example.org"]
NODES = [Tcp("192.0.2.1", 20001), Tcp("2001:db8::1", 20001)]


def route(server_id: str = IDS[0], generation: int = 1, **changes: object) -> Route:
    values: dict[str, object] = {
        "host": HOSTS[0],
        "user": "alice",
        "name": "",
        "address": Path(f"/run/gateway/t/{server_id}.{generation}.sock"),
        "node_tls": True,
        "token": f"token-of-{server_id}",
    }
    return Route(server_id=server_id, generation=generation, **(values | changes))  # type: ignore[arg-type]


def state_of(route: Route) -> ServerState:
    tcp = route.address if isinstance(route.address, Tcp) else None
    return ServerState(0, True, route.node_tls, tcp)


@dataclass
class Simulated:
    """HAProxy as far as the plan touches it: an addition of what is there fails, as in 2.6."""

    servers: dict[str, ServerState]
    maps: dict[Map, dict[str, str]]
    shut: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, actual: Actual) -> Simulated:
        return cls(dict(actual.servers), {map_: dict(actual.entries(map_)) for map_ in Map})

    def actual(self) -> Actual:
        routes, grants, secrets, bulk = (dict(self.maps[map_]) for map_ in Map)
        return Actual(dict(self.servers), routes, grants, secrets, bulk)

    def take(self, step: Step) -> None:
        match step:
            case AddServer(name=name, address=address, node_tls=node_tls):
                assert name not in self.servers
                tcp = address if isinstance(address, Tcp) else None
                self.servers[name] = ServerState(0, True, node_tls, tcp)
            case EnableServer(name=name):
                self.servers[name] = replace(self.servers[name], enabled=True)
            case RemoveServer(name=name):
                assert self.shut[-1] == name
                del self.servers[name]
            case ShutSessions(name=name):
                self.shut.append(name)
            case AddEntry(map=map_, key=key, value=value):
                assert key not in self.maps[map_]
                self.maps[map_][key] = value
            case SetEntry(map=map_, key=key, value=value):
                assert key in self.maps[map_]
                self.maps[map_][key] = value
            case DeleteEntry(map=map_, key=key):
                del self.maps[map_][key]


def assert_safe(proxy: Simulated, desired: Desired) -> None:
    tokens = desired.entries(Map.SECRETS)
    for name in set(proxy.maps[Map.ROUTES].values()) - {HUB}:
        assert name in proxy.servers, "a route to a server that is not there"
        assert proxy.servers[name].weight == 0
        token = proxy.maps[Map.SECRETS].get(id_of(name))
        assert token, "a route to a server without a secret"
        assert token == tokens.get(id_of(name), token), "a route to a server that gets another one's token"
    for server_id, name in proxy.maps[Map.BULK].items():
        assert name == WANTED or (name in proxy.servers and id_of(name) == server_id), "bulk goes astray"


generations = st.integers(1, 2)
names = st.builds(
    lambda i, g, b: f"{i}.{g}{b}", st.sampled_from(IDS), generations, st.sampled_from("b") | st.just("")
)
routes = st.builds(
    route,
    st.sampled_from(IDS),
    generations,
    host=st.sampled_from(HOSTS),
    name=st.sampled_from(["", "exp1"]),
    address=st.sampled_from([Path("/run/gateway/t/a.sock"), *NODES]),
    bulk=st.sampled_from([None, Path("/run/gateway/t/ab.sock")]),
)
keys = st.sampled_from([f"{host}/alice/{name}" for host in HOSTS for name in ("", "exp1")])
grants = st.builds(Grant, st.sampled_from("abc").map(hash_cookie), st.sampled_from(IDS), st.integers(1, 3))


@st.composite
def desireds(draw: st.DrawFn) -> Desired:
    drawn = draw(st.lists(routes, max_size=4, unique_by=lambda r: r.key))
    one_route_per_id = {r.server_id: r for r in drawn}
    held = draw(st.lists(keys, max_size=2, unique=True))
    return Desired(tuple(one_route_per_id.values()), tuple(draw(st.lists(grants, max_size=4))), tuple(held))


states = st.builds(
    ServerState,
    st.sampled_from([0, 0, 0, 1]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, *NODES]),
)
actuals = st.builds(
    Actual,
    st.dictionaries(names, states),
    st.dictionaries(keys, st.one_of(names, st.sampled_from(["", HUB]))),
    st.dictionaries(grants.map(lambda g: g.key), st.sampled_from(["1", "2", ""])),
    st.dictionaries(st.sampled_from(IDS), st.sampled_from([f"token-of-{i}" for i in IDS] + [""])),
    st.dictionaries(st.sampled_from(IDS), st.one_of(names, st.sampled_from(["", WANTED]))),
)


def bulk_after(desired: Desired, actual: Actual) -> dict[str, str]:
    """Return the ways for bulk, and the wishes for one that nothing came of yet."""
    live = {route.server_id for route in desired.routes}
    wishes = {key: WANTED for key, value in actual.bulk.items() if value == WANTED and key in live}
    return wishes | desired.entries(Map.BULK)


@given(desireds(), actuals)
def test_any_proxy_ends_in_what_is_desired_and_a_second_plan_is_empty(
    desired: Desired, actual: Actual
) -> None:
    proxy = Simulated.of(actual)
    for step in plan(desired, actual):
        proxy.take(step)
    bulk = {Map.BULK: bulk_after(desired, actual)}
    assert proxy.maps == {map_: desired.entries(map_) for map_ in Map} | bulk
    assert proxy.servers == {
        step.name: ServerState(
            0, True, step.node_tls, step.address if isinstance(step.address, Tcp) else None
        )
        for route in desired.routes
        for step in additions(route)
    }
    assert carried_out(actual, plan(desired, actual)) == proxy.actual()
    assert plan(desired, proxy.actual()) == ()


@given(desireds(), actuals)
def test_no_step_leaves_a_route_that_is_unsafe(desired: Desired, actual: Actual) -> None:
    proxy, steps = Simulated.of(actual), plan(desired, actual)
    first_addition = next(
        (i for i, step in enumerate(steps) if not isinstance(step, DeleteEntry) or step.map not in FIRST),
        len(steps),
    )
    for number, step in enumerate(steps):
        if number >= first_addition:
            assert_safe(proxy, desired)
        proxy.take(step)
    assert_safe(proxy, desired)


@given(desireds(), desireds())
def test_between_two_good_states_every_step_is_safe(before: Desired, after: Desired) -> None:
    proxy = Simulated.of(Actual())
    for desired in (before, after):
        for step in plan(desired, proxy.actual()):
            assert_safe(proxy, desired)
            proxy.take(step)


@given(actuals)
def test_every_revoked_grant_ends_the_sessions_of_its_servers(actual: Actual) -> None:
    proxy = Simulated.of(actual)
    for step in plan(Desired(), actual):
        proxy.take(step)
    assert set(actual.servers) <= set(proxy.shut)


def test_a_new_server_comes_in_the_order_server_secret_grant_route() -> None:
    grant = Grant(hash_cookie("c"), IDS[0], 10)
    steps = plan(Desired((route(),), (grant,)), Actual())
    assert [getattr(step, "map", type(step)) for step in steps] == [
        AddServer,
        Map.SECRETS,
        Map.GRANTS,
        Map.ROUTES,
    ]


def test_a_new_generation_takes_over_by_one_set_and_the_old_one_goes_after() -> None:
    old, new = route(generation=1), route(generation=2)
    proxy = Simulated.of(Actual())
    for step in plan(Desired((old,)), proxy.actual()):
        proxy.take(step)
    assert plan(Desired((new,)), proxy.actual()) == (
        *additions(new),
        SetEntry(IDS[0], Map.ROUTES, new.key, new.server),
        ShutSessions(IDS[0], old.server),
        RemoveServer(IDS[0], old.server),
    )


def test_a_server_that_is_left_stays_without_a_route_until_it_is_not_kept_any_more() -> None:
    old, new = route(generation=1, bulk=Path("/run/gateway/t/b.sock")), route(generation=2)
    proxy = Simulated.of(Actual())
    kept = tuple(old.servers)
    for desired in (Desired((old,)), Desired((new,), kept=kept)):
        for step in plan(desired, proxy.actual()):
            proxy.take(step)
    assert (proxy.shut, sorted(proxy.servers)) == ([], sorted([*old.servers, new.server]))
    assert (proxy.maps[Map.ROUTES], proxy.maps[Map.BULK]) == ({new.key: new.server}, {})
    for step in plan(Desired((new,)), proxy.actual()):
        proxy.take(step)
    assert list(proxy.servers) == [new.server]


def test_a_server_that_leads_elsewhere_is_made_anew_and_has_no_route_meanwhile() -> None:
    wanted = route(address=NODES[0])
    there = {wanted.server: replace(state_of(wanted), tcp=NODES[1])}
    steps = plan(Desired((wanted,)), Actual(there, {wanted.key: wanted.server}, {}, {IDS[0]: wanted.token}))
    assert steps == (
        DeleteEntry(IDS[0], Map.ROUTES, wanted.key),
        ShutSessions(IDS[0], wanted.server),
        RemoveServer(IDS[0], wanted.server),
        *additions(wanted),
        AddEntry(IDS[0], Map.ROUTES, wanted.key, wanted.server),
    )


def test_a_server_with_a_weight_is_named_and_loses_its_route_first() -> None:
    actual = Actual({"aaaaaaaaaa.1": ServerState(1, True, True)}, {route().key: "aaaaaaaaaa.1"})
    assert refused(actual) == ("aaaaaaaaaa.1",)
    steps = plan(Desired((route(),)), actual)
    assert steps[0] == DeleteEntry(IDS[0], Map.ROUTES, route().key)
    assert steps[2] == RemoveServer(IDS[0], "aaaaaaaaaa.1")


def test_a_held_key_keeps_the_default_server_from_answering_for_another_one() -> None:
    default = route()
    held = Desired((default,), held=(f"{default.host}/alice/exp1",))
    proxy = Simulated.of(Actual())
    for step in plan(held, proxy.actual()):
        proxy.take(step)
    assert proxy.maps[Map.ROUTES][f"{default.host}/alice/exp1"] == HUB
    running = Desired((default, route(IDS[1], name="exp1")), held=held.held)
    assert running.entries(Map.ROUTES)[f"{default.host}/alice/exp1"] == f"{IDS[1]}.1"


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "gw.example.org evil"},
        {"host": "GW.example.org"},
        {"host": "gw/x"},
        {"user": "alice;quit"},
        {"user": "../bob"},
        {"name": "a b"},
        {"name": "a\nshow map"},
        {"server_id": "short"},
        {"address": Path("relative.sock")},
        {"address": Path("/run/a b.sock")},
        {"address": Path("/" + "a" * 107)},
        {"token": "with space and more"},
        {"token": "line\nfeed-feed-feed-feed"},
        {"token": ""},
        {"generation": -1},
    ],
)
def test_values_that_could_be_syntax_are_refused(changes: dict[str, object]) -> None:
    values: dict[str, object] = {"server_id": IDS[0], "generation": 1} | changes
    with pytest.raises(ValueError, match=r"route's|malformed|socket"):
        route(**values)  # type: ignore[arg-type]


def test_secrets_are_not_in_what_is_printed() -> None:
    desired = Desired((route(),), ())
    actual = Actual(secrets={IDS[0]: "old-token-old-token"})
    assert "token-of" not in repr(plan(desired, actual))
    assert "old-token" not in repr(actual)


def test_a_cookie_is_hashed_as_haproxy_prints_it() -> None:
    assert hash_cookie("c") == "2E7D2C03A9507AE265ECF5B5356885A53393A2029D241394997265A1A25AEFC6"

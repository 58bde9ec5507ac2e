"""One person's part: changing it alone comes to the same as comparing all, and touches nobody else's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.routes import HUB, Actual, Desired, Grant, Route, carried_out, hash_cookie, plan, route_key
from gateway.scope import Scope
from tests.unit.test_routes import route

#: Whose each start of a server is.
OWNERS = {"aaaaaaaaaa": "alice", "cccccccccc": "alice", "bbbbbbbbbb": "bob", "dddddddddd": "bob"}


def host_of(user: str) -> str:
    return f"{user}.gw.example.org"


def of(server_id: str, generation: int, name: str) -> Route:
    user = OWNERS[server_id]
    return route(server_id, generation, user=user, host=host_of(user), name=name)


routes = st.builds(of, st.sampled_from(list(OWNERS)), st.integers(1, 2), st.sampled_from(["", "exp1"]))
cookies = st.sampled_from("abc").map(hash_cookie)
held = st.builds(
    lambda user, name: route_key(host_of(user), user, name),
    st.sampled_from(["alice", "bob"]),
    st.sampled_from(["exp1", "exp2"]),
)


@st.composite
def desireds(draw: st.DrawFn) -> Desired:
    one_of_each = {r.server_id: r for r in draw(st.lists(routes, max_size=4, unique_by=lambda r: r.key))}
    granted = st.builds(
        Grant, cookies, st.sampled_from(list(one_of_each) or ["aaaaaaaaaa"]), st.integers(1, 3)
    )
    grants = {grant.key: grant for grant in draw(st.lists(granted, max_size=4)) if one_of_each}
    return Desired(
        tuple(one_of_each.values()), tuple(grants.values()), tuple(draw(st.lists(held, max_size=3)))
    )


def part_of(desired: Desired, user: str) -> Desired:
    return Desired(
        tuple(route for route in desired.routes if route.user == user),
        tuple(grant for grant in desired.grants if OWNERS[grant.server_id] == user),
        tuple(key for key in desired.held if key.startswith(route_key(host_of(user), user, ""))),
    )


@given(desireds(), desireds())
def test_part_after_part_comes_to_the_same_as_all_at_once(before: Desired, after: Desired) -> None:
    actual = carried_out(Actual(), plan(before, Actual()))
    desired = before
    for user in ("alice", "bob"):
        ids = [server_id for server_id, owner in OWNERS.items() if owner == user]
        scope = Scope.of([user], ids, host_of)
        steps = plan(part_of(after, user), scope.of_actual(actual))
        assert {step.server_id for step in steps} <= {*ids, HUB}
        actual = carried_out(actual, steps)
        desired = scope.replaced(desired, part_of(after, user))
    assert plan(after, actual) == ()
    assert plan(desired, actual) == ()

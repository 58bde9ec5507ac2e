"""The connections of the users: one each, kept while in use, closed when idle, never too many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.errors import Forbidden
from gateway.model import Command
from gateway.siteconfig import Login
from gateway.ssh import remote
from gateway.ssh.authority import UserCertificate
from gateway.ssh.users import UserNodes

LOGIN = Login.model_validate(
    {
        "hosts": ["login1"],
        "user": "svc",
        "key": Path("/k"),
        "known_hosts": Path("/h"),
        "act_as": "certificate",
    }
)


def certify(user: str) -> UserCertificate:
    raise AssertionError(f"nobody connects here, not even {user}")


@pytest.fixture
async def users() -> AsyncIterator[UserNodes]:
    async with UserNodes(LOGIN, certify, idle=0.2, most=2) as opened:
        yield opened


async def used(users: UserNodes, user: str) -> str:
    """Use a user's connection once; return which it was."""
    async with users.as_user(user) as node:
        return f"{id(node)} {node!r}".partition(" not ")[0]


async def test_a_user_keeps_one_connection_which_is_nobody_elses(users: UserNodes) -> None:
    alice = await used(users, "alice")
    assert await used(users, "alice") == alice
    assert alice.endswith("<LoginNode alice@login1")
    assert await used(users, "bob") != alice


async def test_the_connection_that_was_used_the_longest_ago_makes_room(users: UserNodes) -> None:
    async with users.as_user("alice") as alice:
        pass
    bob = await used(users, "bob")
    await used(users, "carol")
    assert repr(alice).endswith(" closed>")
    assert await used(users, "bob") == bob
    assert repr(users).endswith(": 2 connections>")


async def test_a_connection_in_use_is_never_closed_for_another(users: UserNodes) -> None:
    async with users.as_user("alice") as alice:
        await used(users, "bob")
        await used(users, "carol")
        await asyncio.sleep(0.4)
        assert not repr(alice).endswith(" closed>")


async def test_who_finds_no_room_waits_for_it(users: UserNodes) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(users.as_user("alice"))
        await stack.enter_async_context(users.as_user("bob"))
        waiting = asyncio.create_task(used(users, "carol"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
    assert "carol" in await waiting


async def test_one_user_holds_up_nobody_else() -> None:
    async with UserNodes(LOGIN, certify, most=3) as users, AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(users.as_user("alice"))
        waiting = [asyncio.create_task(used(users, "alice")) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert "bob" in await used(users, "bob")
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_an_idle_connection_is_closed(users: UserNodes) -> None:
    async with users.as_user("alice") as alice:
        pass
    for _ in range(40):
        await asyncio.sleep(0.05)
        if repr(alice).endswith(" closed>"):
            break
    assert repr(users).endswith(": 0 connections>")
    assert "alice" in await used(users, "alice")


async def test_an_unused_connection_does_not_outlive_its_certificate(
    users: UserNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with users.as_user("alice") as first:
        monkeypatch.setattr(UserNodes, "_lifetime", -1.0)
        async with users.as_user("alice") as second:
            assert second is first  # what runs on it is not cut off
    async with users.as_user("alice") as third:
        assert third is not first
    assert repr(first).endswith(" closed>")


async def test_closing_closes_all_twice_safely(users: UserNodes) -> None:
    async with users.as_user("alice") as alice:
        pass
    await users.aclose()
    await users.aclose()
    assert repr(alice).endswith(" closed>")


@pytest.mark.parametrize("user", ["root", "slurm", "", "alice,bob", "alice\n"])
async def test_nobody_connects_as_an_account_of_the_system(users: UserNodes, user: str) -> None:
    with pytest.raises(Forbidden):
        await used(users, user)
    assert repr(users).endswith(": 0 connections>")


# --- what is sent ---------------------------------------------------------------------------------


def test_the_launchers_words_are_the_request_and_the_frame_is_the_first_line() -> None:
    sent = remote.by_launcher(Command(("run", "abcdefgh23")), stdin=b"gw1 end 0\n", limit=60, nonce="0a")
    assert sent == remote.Sent("run abcdefgh23", b"gw1 frame 0a 60\ngw1 end 0\n")


@pytest.mark.parametrize(
    "words",
    [("run",), ("run", "x; id"), ("run", "abcdefgh23", "-v"), ("$(id)", "abcdefgh23"), (), ("sh", "-c")],
)
def test_nothing_but_a_verb_and_an_id_is_ever_sent(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="launcher's words"):
        remote.by_launcher(Command(words), stdin=b"", limit=60, nonce="0a")

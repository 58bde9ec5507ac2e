"""The poller: when it asks, never twice at once, and what it makes of failures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import pytest

from gateway.errors import QueueUnreachable
from gateway.model import Asked, Listing
from gateway.poller import News, Poller, Tempo

QUICK = Tempo(busy=0.01, busy_for=0.2, idle=0.05, spread=0.0, slowest=0.1)


class FakeQueue:
    """Answers listings; counts how many are under way."""

    def __init__(self, failing: int = 0, takes: float = 0.0) -> None:
        self.asked: list[Collection[Asked]] = []
        self.failing = failing
        self.takes = takes
        self.under_way = self.most_under_way = 0

    async def listing(self, asked: Collection[Asked]) -> Listing:
        self.asked.append(asked)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.takes)
            if self.failing:
                self.failing -= 1
                raise QueueUnreachable("no answer")
            return Listing(())
        finally:
            self.under_way -= 1


@asynccontextmanager
async def running(poller: Poller, names: Sequence[str] = ("gw-a",)) -> AsyncIterator[list[News]]:
    news: list[News] = []

    async def get_names() -> Collection[Asked]:
        return [Asked(name, "alice") for name in names]

    async def take(fresh: News) -> None:
        news.append(fresh)

    task = asyncio.create_task(poller.run(get_names, take))
    try:
        yield news
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def at_rest(queue: FakeQueue, clock: Clock) -> Poller:
    return Poller(queue, clock=clock, spread=lambda low, high: high)


def test_it_is_idle_fast_around_an_expected_start_and_idle_again() -> None:
    clock = Clock()
    poller = at_rest(FakeQueue(), clock)
    assert poller._pause() == pytest.approx(18.0)
    poller.hurry()
    clock.now += 59
    assert poller._pause() == 2.0
    clock.now += 2
    assert poller._pause() == pytest.approx(18.0)
    poller.expect(40.0)
    assert poller._pause() == pytest.approx(10.0)  # until half a minute before
    clock.now += 10
    assert poller._pause() == 2.0
    clock.now += 61
    assert poller._pause() == pytest.approx(18.0)


def test_of_several_expected_starts_the_earliest_counts() -> None:
    clock = Clock()
    poller = at_rest(FakeQueue(), clock)
    poller.expect(1000.0)
    assert poller._pause() == pytest.approx(18.0)
    poller.expect(35.0)
    poller.expect(500.0)
    assert poller._pause() == pytest.approx(5.0)


def test_after_failures_it_backs_off_even_in_a_hurry() -> None:
    clock = Clock()
    poller = at_rest(FakeQueue(), clock)
    pauses = []
    for _ in range(8):
        poller._note(QueueUnreachable("no answer"))
        poller.hurry()
        pauses.append(poller._pause() / 1.2)
    assert pauses == pytest.approx([4, 8, 16, 32, 60, 60, 60, 60])
    assert poller.silent_since is not None
    poller._note(None)
    assert poller._pause() == 2.0
    assert poller.silent_since is None


async def test_a_hurry_breaks_a_back_off_once_and_does_not_shorten_the_next() -> None:
    queue = FakeQueue(failing=99)
    poller = Poller(queue, Tempo(busy=0.05, busy_for=60, spread=0.0, slowest=10))
    async with running(poller):
        await asyncio.sleep(0.02)
        poller._failures = 6  # a pause of 3.2 s from now on
        for _ in range(40):  # many people want something, all the time
            poller.hurry()
            await asyncio.sleep(0.01)
        assert len(queue.asked) == 2
        assert poller._pause() == pytest.approx(3.2)
        queue.failing = 0
        poller._may_break = True  # as after the whole pause
        poller.hurry()
        await asyncio.sleep(0.2)
        assert len(queue.asked) >= 4  # there is an answer: it polls fast
        assert poller.silent_since is None


async def test_a_hurry_while_a_poll_is_under_way_breaks_the_pause_after_it() -> None:
    queue = FakeQueue(failing=99, takes=0.03)
    poller = Poller(queue, Tempo(busy=0.05, spread=0.0, slowest=10))
    poller._failures = 6
    async with running(poller):
        await asyncio.sleep(0.01)
        poller.hurry()
        await asyncio.sleep(0.15)
        assert len(queue.asked) == 2
        assert poller._failures == 7


async def test_every_poll_asks_for_all_names_and_hands_its_listing_on() -> None:
    queue = FakeQueue()
    async with running(Poller(queue, QUICK), ("gw-a", "gw-b")) as news:
        await asyncio.sleep(0.2)
    assert 2 <= len(news) <= 5
    assert set(news) == {Listing(())}
    assert all([job.name for job in asked] == ["gw-a", "gw-b"] for asked in queue.asked)


async def test_without_live_servers_nothing_is_run() -> None:
    queue = FakeQueue()
    async with running(Poller(queue, QUICK), ()) as news:
        await asyncio.sleep(0.15)
    assert not queue.asked
    assert not news


async def test_a_failure_is_handed_on_as_such_and_does_not_end_the_polling() -> None:
    queue = FakeQueue(failing=1)
    poller = Poller(queue, QUICK)
    async with running(poller) as news:
        await asyncio.sleep(0.01)
        assert poller.silent_since is not None
        await asyncio.sleep(0.15)
    assert isinstance(news[0], QueueUnreachable)
    assert news[1] == Listing(())
    assert poller.silent_since is None


async def test_never_two_at_once_and_callers_share_the_next_poll() -> None:
    queue = FakeQueue(takes=0.03)
    poller = Poller(queue, Tempo(idle=60))
    async with running(poller):
        await asyncio.sleep(0.01)  # the first is under way: it may have begun too early for these
        assert await asyncio.gather(*(poller.now() for _ in range(20))) == [Listing(())] * 20
    assert queue.most_under_way == 1
    assert len(queue.asked) == 2


async def test_a_caller_that_is_cancelled_takes_the_poll_from_nobody() -> None:
    queue = FakeQueue(takes=0.02)
    poller = Poller(queue, Tempo(idle=60))
    async with running(poller):
        first, second = asyncio.create_task(poller.now()), asyncio.create_task(poller.now())
        await asyncio.sleep(0)
        first.cancel()
        assert await second == Listing(())


async def test_a_hurry_brings_the_next_poll_nearer_but_is_no_poll_itself() -> None:
    queue = FakeQueue()
    poller, began = Poller(queue, Tempo(busy=0.2, idle=60)), time.monotonic()
    async with running(poller):
        await asyncio.sleep(0.01)
        for _ in range(50):
            poller.hurry()
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            while len(queue.asked) < 2:
                await asyncio.sleep(0.01)
        assert len(queue.asked) <= 1 + (time.monotonic() - began) / 0.2


async def test_what_fails_in_taking_the_news_does_not_end_the_polling(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = FakeQueue()
    poller = Poller(queue, QUICK)

    async def names() -> Collection[Asked]:
        return [Asked("gw-a", "alice")]

    async def take(news: News) -> None:
        raise KeyError("a fault")

    task = asyncio.create_task(poller.run(names, take))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(queue.asked) >= 2
    assert "a poll failed" in caplog.text


async def test_after_run_nothing_is_left_running() -> None:
    queue = FakeQueue(takes=10)
    poller = Poller(queue, QUICK)
    async with running(poller):
        waiting = asyncio.create_task(poller.now())
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert queue.under_way == 0
    assert len(asyncio.all_tasks()) == 1

"""Whatever ends, at whatever moment: after it there is one job and one route for each server, and no orphan.

The hub is killed before and after every step of the lifecycle's table and every act on the outside. Each of
these tests starts servers that are named for the point that the hub dies at, many of them at one death.
"""

from __future__ import annotations

import hashlib
import http.client
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager

import pytest

from gateway.lifecycle import NEXT
from tests.lab import Lab
from tests.lab.nodes import wait_until
from tests.live.client import Kernel, Person
from tests.live.scene import NOBODYS, Points, Scene

STARTING = ("intent/submit", "submitting/accepted", "queued/started", "starting/answered")
STARTING_ACTS = ("submit", "forward")
REFUSED = ("submitting/refused",)
NEVER_SUBMITTED = ("submitting/not-found", "intent/stop")
WAITING = ("queued/stop", "queued/gone")
NOT_YET_ANSWERING = ("starting/stop", "starting/gone", "starting/requeued")
RUNNING = ("ready/stop", "ready/gone", "ready/requeued", "stopping/gone")
STOPPING_ACTS = ("cancel", "remove")
SILENT = ("ready/silent",)
UNREACHABLE = ("unreachable/answered", "unreachable/stop", "unreachable/gone", "unreachable/requeued")
GIVEN_UP = ("intent/refused",)
BIG = 96 << 20
#: Also remembers which kernel it is.
WRITE_BIG_FILE = f"""
import hashlib, os
from pathlib import Path
me, data = os.getpid(), os.urandom(1 << 20) * {BIG >> 20}
Path("big.bin").write_bytes(data)
print(hashlib.sha256(data).hexdigest())
"""


def both(*acts: str) -> Points:
    """Return two servers for each act: the hub dies before it and after it."""
    moments = (("alice", "before"), ("bob", "after"))
    return {f"{user}/{act.replace('/', '-')}-{when}": (act, when) for act in acts for user, when in moments}


def those(points: Points, *ends: str) -> list[str]:
    """Return the servers whose act is one of these, or ends like one of them."""
    return [key for key, (act, _) in points.items() if act.endswith(ends)]


@pytest.fixture(scope="module")
def whole_scene(lab: Lab) -> Iterator[Scene]:
    scene = Scene(lab)
    try:
        scene.prepare()
        yield scene
    finally:
        scene.restore()


@pytest.fixture
def scene(whole_scene: Scene) -> Iterator[Scene]:
    """The hub without a plan and without servers; after the test every server is stopped."""
    whole_scene.begin()
    yield whole_scene
    whole_scene.end()


@contextmanager
def seconds(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.1f} s")


def test_every_step_of_the_table_has_its_deaths() -> None:
    every = {f"{phase}/{event}" for phase, event in NEXT}
    here = [*STARTING, *REFUSED, *NEVER_SUBMITTED, *WAITING, *NOT_YET_ANSWERING]
    here += [*RUNNING, *SILENT, *UNREACHABLE, *GIVEN_UP]
    assert sorted(here) == sorted(every)


def test_a_death_after_each_order_to_haproxy(scene: Scene) -> None:
    keys = ["alice/routed", "bob/routed"]
    scene.start(keys)
    scene.check(ready=keys)
    before = scene.forwards()
    scene.kill()
    scene.lose_forwards()
    died = die_at_each_order(scene, keys)
    assert set(before).isdisjoint(scene.forwards())
    scene.stop(keys[:1])
    died += die_at_each_order(scene, keys[1:])
    print(f"{died} deaths")
    assert died > 4


def die_at_each_order(scene: Scene, ready: Collection[str]) -> int:
    """Let the hub die after 0, 1, 2 … orders to HAProxy until it is through; return how often it died."""

    def through() -> bool:
        return scene.serves() and scene.is_as_it_should(ready) and statuses() == {200}

    def statuses() -> set[int]:
        return {scene.answer(key, enter=False)[0] for key in ready}

    for orders in range(30):
        scene.kill()
        scene.launch(orders=orders)
        wait_until(lambda: not scene.lives() or through(), "it dies, or is through", 40, 0.1)
        if scene.lives():
            scene.check(ready=ready)
            return orders
        assert all(weight == "0" for _, weight in scene.proxy_servers().values())
        for key in ready:
            status, who = scene.answer(key, enter=False)
            assert (status, who.get("id")) in ((200, scene.ids[key]), (503, None), (502, None))
    raise AssertionError("it always dies")


def test_a_death_while_servers_start(scene: Scene) -> None:
    points = both(*STARTING, *STARTING_ACTS, *REFUSED)
    refused = those(points, *REFUSED)
    starting = points.keys() - set(refused)
    scene.plan(points)
    scene.start(starting)
    scene.start(refused, account=NOBODYS)
    scene.die(points)
    scene.boot()
    scene.check(ready=starting, never=refused)


def test_a_death_before_it_is_known_whether_there_is_a_job(scene: Scene) -> None:
    again = both(*NEVER_SUBMITTED)
    not_found, stopped = those(again, "/not-found"), those(again, "/stop")
    unknown = {
        "alice/stopped-unsubmitted": ("submit", "before"),
        "bob/stopped-submitted": ("submit", "after"),
    }
    first = dict.fromkeys(not_found, ("submit", "before")) | dict.fromkeys(
        stopped, ("intent/submit", "before")
    )
    scene.plan(first | unknown)
    scene.start(first | unknown)
    scene.wait_at_points(first | unknown)
    scene.stop([*stopped, *unknown])
    scene.die(first | unknown)
    scene.boot(again)
    scene.die(again)
    scene.boot(life={"SUBMIT_MAY_TAKE": 12})
    scene.check(ready=not_found, never=[*stopped, "alice/stopped-unsubmitted"])


def test_a_death_while_servers_end_or_are_requeued(scene: Scene) -> None:
    points = both(*RUNNING, *STOPPING_ACTS, *NOT_YET_ANSWERING, *WAITING)
    running, silent, waiting = (
        those(points, *acts) for acts in ((*RUNNING, *STOPPING_ACTS), NOT_YET_ANSWERING, WAITING)
    )
    scene.set_quiet(silent)
    scene.start(running + silent)
    with scene.closed_partition("short"):
        scene.start(waiting, partition="short")
        scene.wait(running, "ready")
        scene.wait(silent, "starting")
        scene.wait(waiting, "queued")
        scene.plan(points)
        change(scene, points)
        scene.die(points)
        scene.set_quiet(silent, quiet=False)
        scene.boot()
        scene.check(ready=those(points, "/requeued"))


def change(scene: Scene, points: Points) -> None:
    """Have happen to the servers what leads to their points."""
    scene.stop(those(points, "/stop", "cancel", "remove", "stopping/gone"))
    scene.cancel_jobs([key for key in those(points, "/gone") if key not in those(points, "stopping/gone")])
    scene.requeue_jobs(those(points, "/requeued"))


def test_a_death_while_servers_do_not_answer(scene: Scene) -> None:
    silent, points = both(*SILENT), both(*UNREACHABLE)
    everyone = [*silent, *points]
    scene.start(everyone)
    scene.wait(everyone, "ready")
    scene.set_quiet(everyone)
    scene.kill()
    scene.boot(silent)
    scene.wait(points.keys(), "unreachable")
    scene.die(silent)
    scene.boot()
    scene.check(unreachable=everyone)
    scene.plan(points)
    scene.set_quiet(those(points, "/answered"), quiet=False)
    change(scene, points)
    scene.die(points)
    scene.set_quiet(everyone, quiet=False)
    scene.boot()
    scene.check(ready=[*silent, *those(points, "/answered", "/requeued")])


def test_a_death_while_the_scheduler_hangs(scene: Scene) -> None:
    scene.start(["alice/stays"])
    scene.check(ready=["alice/stays"])
    with scene.frozen_scheduler():
        scene.start(["bob/in-flight"])
        wait_until(lambda: scene.runs_on_login("sbatch"), "sbatch runs")
        scene.kill()
        points = {"alice/unanswered": ("submit", "after")}
        scene.boot(points)
        scene.start(points)
        scene.die(points)
        assert scene.answer("alice/stays")[0] == 200
        scene.boot()
        assert scene.answer("alice/stays")[0] == 200
    scene.check(ready=["alice/stays", "bob/in-flight", "alice/unanswered"])


def test_a_death_while_the_scheduler_is_down(scene: Scene) -> None:
    points = both(*GIVEN_UP)
    scene.start(["alice/stays"])
    scene.check(ready=["alice/stays"])
    with scene.stopped_scheduler():
        scene.kill()
        impatient = {"SUBMIT_PATIENCE": 2}
        scene.boot(points, life=impatient)
        scene.start(points)
        scene.die(points)
        assert scene.answer("alice/stays")[0] == 200
        scene.boot(life=impatient)
        scene.wait(points.keys(), "ended")
        assert scene.answer("alice/stays")[0] == 200
        scene.wait(["alice/stays"], "ready")
    scene.check(ready=["alice/stays"], never=points)


# --- what outlives the hub ------------------------------------------------------------------------------


@pytest.fixture
def alice(scene: Scene) -> Iterator[Person]:
    """Alice in her JupyterLab, with a file to download."""
    alice = Person(scene.lab, "alice").login()
    alice.start("work")
    alice.enter("work")
    yield alice
    alice.stop("work")


@contextmanager
def download(alice: Person, name: str) -> Iterator[http.client.HTTPResponse]:
    """Begin a download; the answer is read by whoever wants it."""
    with closing(http.client.HTTPConnection(alice.host)) as connection:
        connection.sock = alice.connect(alice.host, 60)
        path, cookies = f"/user/alice/work/files/{name}", alice.cookies(alice.host)
        connection.request("GET", path, headers={"Cookie": cookies})
        with connection.getresponse() as answer:
            yield answer


def test_kernels_and_downloads_go_on_while_the_hub_dies_and_comes_back(scene: Scene, alice: Person) -> None:
    received = hashlib.sha256()
    with alice.kernel("work") as kernel:
        digest = kernel.run(WRITE_BIG_FILE).strip()
        with download(alice, "big.bin") as answer:
            received.update(answer.read(BIG // 4))
            scene.kill()
            assert alice.request("GET", f"{alice.hub}/hub/home").status == 503
            assert_same_kernel(kernel)
            received.update(answer.read(BIG // 4))
            with seconds("the hub is back"):
                scene.boot()
            assert_same_kernel(kernel)
            received.update(answer.read())
        assert received.hexdigest() == digest
        assert alice.wait_for("ready", "work")
        assert_same_kernel(kernel)


def assert_same_kernel(kernel: Kernel) -> None:
    assert kernel.run("print(os.getpid() == me)") == "True\n"


def back(scene: Scene, keys: Collection[str]) -> Callable[[], bool]:
    return lambda: all(scene.answer(key)[0] == 200 for key in keys)


def test_haproxy_killed_comes_back_with_its_routes(scene: Scene) -> None:
    keys = ["alice/routed", "bob/routed"]
    scene.start(keys)
    scene.check(ready=keys)
    before = scene.forwards()
    for process in scene.processes("haproxy"):
        process.kill()
    wait_until(lambda: not scene.serves(), "HAProxy is gone", 5)
    with seconds("HAProxy is back"):
        wait_until(scene.serves, "HAProxy is back", 20)
        wait_until(back(scene, keys), "the servers answer", 20)
    scene.check(ready=keys)
    assert scene.forwards() == before


def test_haproxy_killed_with_the_hub_comes_back_with_it(scene: Scene) -> None:
    keys = ["alice/routed", "bob/routed"]
    scene.start(keys)
    scene.check(ready=keys)
    scene.kill()
    for process in scene.processes("haproxy"):
        process.kill()
    with seconds("both are back"):
        scene.boot()
        wait_until(back(scene, keys), "the servers answer", 20)
    scene.check(ready=keys)


def test_a_killed_master_is_replaced_with_all_its_forwards(scene: Scene) -> None:
    keys = ["alice/routed", "bob/routed"]
    scene.start(keys)
    scene.check(ready=keys)
    before = scene.forwards()
    masters = scene.processes("ssh", "-M")
    for process in masters:
        process.kill()
    with seconds("the servers answer again"):
        wait_until(back(scene, keys), "the servers answer", 5)
    scene.check(ready=keys)
    assert scene.forwards() == before
    wait_until(lambda: len(scene.processes("ssh", "-M")) == len(masters), "all masters are back", 10)


def test_the_hub_comes_back_while_sshd_is_down(scene: Scene) -> None:
    scene.start(["alice/stays"])
    scene.check(ready=["alice/stays"])
    before = scene.forwards()
    with scene.stopped_sshd():
        scene.kill()
        scene.boot()
        scene.start(["bob/asked-meanwhile"])
        scene.wait(["alice/stays"], "ready")
        assert scene.answer("alice/stays")[0] == 200
        assert scene.forwards() == before
        scene.lab.end_ssh_connections()
        scene.kill()
        scene.boot()
    with seconds("all is as it was"):
        scene.check(ready=["alice/stays", "bob/asked-meanwhile"])
    # Each has a way, by its old number or by a new one; nobody else has.
    assert len({each.partition(".")[0] for each in scene.forwards()}) == 2


def test_a_hub_told_to_end_leaves_everything_in_place(scene: Scene) -> None:
    scene.start(["alice/stays"])
    scene.check(ready=["alice/stays"])
    before = scene.forwards()
    scene.kill(signal.SIGTERM)
    assert scene.answer("alice/stays")[0] == 200
    scene.boot()
    scene.check(ready=["alice/stays"])
    assert scene.forwards() == before

"""Any process may be killed at any moment: no byte goes astray meanwhile, and after it all is as it was."""

from __future__ import annotations

import http.client
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack

import pytest

from tests.lab import Lab
from tests.lab.nodes import wait_until
from tests.live.client import Person
from tests.live.scene import Scene

#: Seconds for which processes are killed; the seed that decides which and when, to see the same again.
SECONDS, SEED = 90.0, "GATEWAY_CHAOS_SEED"
SERVERS = [f"{user}/n{number}" for user in ("alice", "bob") for number in range(10)]
BROWSERS = 4


@pytest.fixture(scope="module")
def scene(lab: Lab) -> Iterator[Scene]:
    scene = Scene(lab)
    try:
        scene.prepare()
        scene.begin()
        yield scene
        scene.end()
    finally:
        scene.restore()


class Browsing(threading.Thread):
    """Somebody who goes from server to server, whatever is killed, and notes who it was that answered."""

    def __init__(self, people: Collection[Person], ids: dict[str, str], keys: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self._people = {p.name: Person(p.lab, p.name, {h: dict(j) for h, j in p.jar.items()}) for p in people}
        self._ids = ids
        self._keys = keys
        self._over = threading.Event()
        self.statuses: dict[int, int] = {}
        self.right = 0
        self.astray: list[str] = []

    def run(self) -> None:
        while not self._over.is_set():
            for key in self._keys:
                status = self._ask(key)
                self.statuses[status] = self.statuses.get(status, 0) + 1
                self._over.wait(0.02 if status == 200 else 0.1)

    def _ask(self, key: str) -> int:
        user, _, name = key.partition("/")
        person = self._people[user]
        try:
            answer = person.request("GET", person.url("which", name), timeout=5)
        except (OSError, http.client.HTTPException):
            return 0  # cut off
        if answer.headers.get("Server", "").startswith("BaseHTTP"):  # it is an application's
            who = answer.json.get("id", "one that does not know her token")
            if who == self._ids[key]:
                self.right += 1
            else:
                self.astray.append(f"{key}, {self._ids[key]}, was answered by {who}")
        return answer.status

    def __enter__(self) -> Browsing:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self.join(30)


class Chaos:
    """Kills one thing after the other; starts what nobody else would: the hub, the cluster's daemons."""

    def __init__(self, scene: Scene, chance: random.Random) -> None:
        self._scene = scene
        self._chance = chance
        self._deeds: dict[str, Callable[[], None]] = {
            "hub": self._hub,
            "haproxy": lambda: self._kill("haproxy", all_=True),
            "a haproxy": lambda: self._kill("haproxy"),
            "an ssh": lambda: self._kill("ssh"),
            "every ssh": lambda: self._kill("ssh", all_=True),
            "an sshd session": self._session,
            "every sshd session": scene.lab.end_ssh_connections,
            "sshd": lambda: self._anew("sshd"),
            "slurmctld": lambda: self._anew("slurmctld"),
            "everything": self._everything,
        }
        self.done: list[str] = []

    def strike(self) -> None:
        """Kill something."""
        name = self._chance.choice(list(self._deeds))
        self.done.append(name)
        self._deeds[name]()

    def revive(self) -> None:
        """Start the hub where it is dead, as a service manager does."""
        if not self._scene.lives():
            self._scene.launch()

    def _hub(self) -> None:
        if self._scene.lives():
            self._scene.kill(self._chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))

    def _kill(self, program: str, *, all_: bool = False) -> None:
        found = self._scene.processes(program)
        for process in found if all_ else found and [self._chance.choice(found)]:
            process.kill()

    def _session(self) -> None:
        lab, listening = self._scene.lab, self._scene.lab.sshd.pid
        found = [p for p in lab.login.processes() if p.argv[0].startswith("sshd:") and p.pid != listening]
        if found:
            self._chance.choice(found).kill()

    def _anew(self, daemon: str) -> None:
        self._scene.lab.daemon(daemon).stop(signal.SIGKILL)
        time.sleep(self._chance.uniform(0, 2))
        self._scene.lab.daemon(daemon).start()

    def _everything(self) -> None:
        self._hub()
        self._kill("haproxy", all_=True)
        self._kill("ssh", all_=True)


def test_whatever_is_killed_every_answer_is_the_right_servers_and_all_is_well_afterwards(
    scene: Scene,
) -> None:
    seed = int(os.environ.get(SEED) or random.SystemRandom().randrange(10**6))
    chance = random.Random(seed)
    print(f"{SEED}={seed}")
    scene.start(SERVERS)
    scene.check(ready=SERVERS)
    before = processes(scene)
    chaos = Chaos(scene, chance)
    with ExitStack() as stack:
        share = [SERVERS[number::BROWSERS] for number in range(BROWSERS)]
        browsers = [stack.enter_context(Browsing(scene.people, scene.ids, keys)) for keys in share]
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            chaos.strike()
            time.sleep(chance.uniform(0.2, 3))
            chaos.revive()
        chaos.revive()
        began = time.monotonic()
        wait_until(lambda: scene.serves() and all_answer(scene), "all answer", 30, 0.2)
        print(f"all answer {time.monotonic() - began:.1f} s after the last: {', '.join(chaos.done)}")
    statuses = {
        status: sum(b.statuses.get(status, 0) for b in browsers) for b in browsers for status in b.statuses
    }
    print(f"answers by status: {statuses}")
    assert not [line for browser in browsers for line in browser.astray]
    assert sum(browser.right for browser in browsers) > 10 * len(SERVERS)
    scene.check(ready=SERVERS)
    wait_until(lambda: processes(scene) == before, "no process is left over", 20)


def processes(scene: Scene) -> dict[str, int]:
    """Return how many there are of the gateway's programs."""
    return {program: len(scene.processes(program)) for program in ("haproxy", "ssh")}


def all_answer(scene: Scene) -> bool:
    return all(scene.answer(key, enter=False)[0] == 200 for key in SERVERS)

"""Many small servers behind a hub that dies where it is told to; and what of them is really there."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from glob import glob
from pathlib import Path
from typing import Any

from gateway.origins import ENTERED_COOKIE
from gateway.routes import HUB
from tests.lab import Lab, gateway
from tests.lab.accounts import BY_NAME, write_private
from tests.lab.daemons import Daemon
from tests.lab.nodes import LabError, Process, wait_until
from tests.lab.staging import COMPUTE_NODES, HOST
from tests.live.client import CHOICES, Person

STAND_IN = "/usr/local/sbin/stand-in"
#: What the lab's job_submit plugin lets each of them use; anybody else's account is refused.
ACCOUNTS = {"alice": "proj1", "bob": "proj2"}
NOBODYS = "proj3"
SITE_CONFIG = f"""\
{gateway.SITE_CONFIG}\
  - name: stand-in
    title: A small application
    command: [{STAND_IN}]
    requeue: true
accounts: [{", ".join((*ACCOUNTS.values(), NOBODYS))}]
"""
#: A server, ``USER/NAME``, and where the hub dies: an act, and "before" or "after" it.
Points = Mapping[str, tuple[str, str]]
_LIVE = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED")


class Scene:
    """The hub, run by tests.live.deadly_hub, and servers that a test starts. A key is ``USER/NAME``."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.ids: dict[str, str] = {}
        self._plan = lab.state / "hub/deadly.json"
        self._people = {name: Person(lab, name) for name in ACCOUNTS}
        self._admin = Person(lab, "carol")
        self._token = ""
        self._before = 0

    @property
    def people(self) -> Collection[Person]:
        """Those whose servers these are."""
        return self._people.values()

    # --- before and after ---

    def prepare(self) -> None:
        """Install the small application, let nodes take many jobs, and start the hub."""
        text = Path(__file__).with_name("standin.py").read_text()
        for node in COMPUTE_NODES:
            words = ["install", "-m", "755", "/dev/stdin", STAND_IN]
            self.lab.run(node, words, input=text, check=True)
        self.set_partition("debug", "OverSubscribe=FORCE:8")
        self.lab.stop_gateway()
        self.lab.write_gateway_config(SITE_CONFIG)
        self.boot()
        self._token = self.lab.variables()["GATEWAY_ADMIN_TOKEN"]
        for person in self._people.values():
            person.login()

    def restore(self) -> None:
        """Leave the lab with its own hub and no job."""
        self.set_partition("debug", "OverSubscribe=NO")
        self.set_partition("short", "State=UP")
        self.lab.stop_gateway()
        self.lab.clear_jobs()
        self.lab.write_gateway_config()
        self.lab.start_gateway()
        for path in self._plan.parent.glob("deadly.*"):
            path.unlink()
        for node in COMPUTE_NODES:
            self.lab.run(node, ["rm", "-f", STAND_IN], check=True)

    def begin(self) -> None:
        """Have the hub run without a plan; count from now on."""
        self.plan()
        self._hub.start(30)
        self.ids.clear()
        self._before = self._submitted()

    def end(self) -> None:
        """Stop all servers, also those that still wait for the hub's death, and wait until all have ended."""
        if self.arrived():
            self.kill()
        self._plan.with_suffix(".there").unlink(missing_ok=True)
        self.plan()
        self._hub.start(30)
        self.stop(key for key, state in self.states(self.ids).items() if state["phase"] != "ended")
        self.wait(self.ids, "ended")

    def set_partition(self, name: str, setting: str) -> None:
        self.lab.login.run(["scontrol", "update", f"PartitionName={name}", setting], check=True)

    # --- the hub ---

    def plan(self, points: Points | None = None, **more: Any) -> None:
        """Say where the hub dies from now on; ``go`` says that it may."""
        text = json.dumps({"points": dict(points or {}), "go": False, **more})
        new = self._plan.with_suffix(".plan")
        write_private(new, text, BY_NAME["gateway"].uid)
        new.replace(self._plan)

    def launch(self, points: Points | None = None, **more: Any) -> None:
        """Start the hub with a plan, and do not wait: it may die before it serves."""
        self._plan.with_suffix(".there").unlink(missing_ok=True)
        self.plan(points, **more)
        self._hub.launch()

    def boot(self, points: Points | None = None, **more: Any) -> None:
        """Start the hub with a plan and wait until it serves."""
        self.launch(points, **more)
        self._hub.wait(30)

    @property
    def _hub(self) -> Daemon:
        words = (gateway.PYTHON, "-m", "tests.live.deadly_hub", f"{gateway.ETC}/deadly.json")
        return self.lab.gateway_daemon(wrapper=words)

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Kill the hub here and now."""
        self.lab.stop_gateway(sig)

    def lives(self) -> bool:
        """Return whether the hub's process is there."""
        return self.lab.gateway_daemon().pid is not None

    def serves(self) -> bool:
        """Return whether the hub answers through HAProxy."""
        return bool(self._hub.ready())

    def arrived(self) -> set[str]:
        with suppress(FileNotFoundError):
            return set(json.loads(self._plan.with_suffix(".there").read_text()))
        return set()

    def wait_at_points(self, points: Points, timeout: float = 60.0) -> None:
        """Wait until all these servers are where the hub is to die."""
        try:
            wait_until(lambda: self.arrived() >= points.keys(), "all are at their points", timeout)
        except LabError:
            missing = {key: points[key] for key in points.keys() - self.arrived()}
            states = {key: self.state(key) for key in missing}
            raise LabError(f"not at their points: {missing}; they are {states}") from None

    def die(self, points: Points, timeout: float = 60.0) -> None:
        """Wait until all are at their points, let the hub die, and wait until it has."""
        self.wait_at_points(points, timeout)
        self.plan(points, go=True)
        self.wait_for_death()

    def wait_for_death(self, timeout: float = 60.0) -> None:
        wait_until(lambda: not self.lives(), "the hub dies", timeout)

    # --- servers ---

    def start(self, keys: Iterable[str], **choices: str) -> None:
        """Ask for servers, by the REST API."""
        for key in keys:
            user, _, name = key.partition("/")
            chosen = (
                CHOICES | {"application": "stand-in", "memory": "100M", "account": ACCOUNTS[user]} | choices
            )
            self.ids[key] = self._call("POST", f"/users/{user}/servers/{name}", chosen).json["state"]["id"]

    def stop(self, keys: Iterable[str]) -> None:
        """Ask for the end of servers, by the REST API."""
        for key in keys:
            user, _, name = key.partition("/")
            self._call("DELETE", f"/users/{user}/servers/{name}")

    def state(self, key: str) -> dict[str, Any]:
        """Return what the API says of a server: its id, phase, job_id, message …"""
        return self.states([key])[key]

    def states(self, keys: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return the same of many servers; the phase of one that is not told of is "ended"."""
        found: dict[str, dict[str, Any]] = {key: {"phase": "ended"} for key in keys}
        for user in {key.partition("/")[0] for key in keys}:
            for name, server in self._call("GET", f"/users/{user}").json["servers"].items():
                if (key := f"{user}/{name}") in found:
                    found[key] = server["state"]
        return found

    def wait(self, keys: Collection[str], phase: str, timeout: float = 60.0) -> None:
        """Wait until servers are in a phase."""

        def there() -> bool:
            return all(state["phase"] == phase for state in self.states(keys).values())

        try:
            wait_until(there, f"all are {phase}", timeout, 0.1)
        except LabError as error:
            others = {k: v for k, v in self.states(keys).items() if v["phase"] != phase}
            raise LabError(f"{error}: {others}") from None

    def set_quiet(self, keys: Iterable[str], *, quiet: bool = True) -> None:
        """Have servers answer with errors, or properly again."""
        for key in keys:
            user, _, name = key.partition("/")
            path = self.lab.state / "home" / user / f".quiet-{name}"
            path.touch() if quiet else path.unlink(missing_ok=True)

    def cancel_jobs(self, keys: Iterable[str]) -> None:
        """Cancel jobs behind the gateway's back."""
        jobs = self.jobs()
        self.lab.login.run(["scancel", *(job for key in keys for job in jobs[self.ids[key]])], check=True)

    def requeue_jobs(self, keys: Iterable[str]) -> None:
        """Requeue jobs, as an administrator does, and let them start at once."""
        jobs = self.jobs()
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.lab.requeue, [job for key in keys for job in jobs[self.ids[key]]]))

    # --- the cluster ---

    @contextmanager
    def closed_partition(self, name: str) -> Iterator[None]:
        """Have a partition take jobs and start none."""
        self.set_partition(name, "State=DOWN")
        try:
            yield
        finally:
            self.set_partition(name, "State=UP")

    @contextmanager
    def frozen_scheduler(self) -> Iterator[None]:
        """Have the scheduler hang, and go on afterwards."""
        self.lab.slurmctld.freeze()
        try:
            yield
        finally:
            self.lab.slurmctld.thaw()

    @contextmanager
    def stopped_scheduler(self) -> Iterator[None]:
        """End the scheduler, and start it again afterwards."""
        self.lab.slurmctld.stop()
        try:
            yield
        finally:
            self.lab.slurmctld.start()

    @contextmanager
    def stopped_sshd(self) -> Iterator[None]:
        """End the login node's sshd, and start it again afterwards; open connections stay."""
        self.lab.sshd.stop()
        try:
            yield
        finally:
            self.lab.sshd.start()

    def runs_on_login(self, program: str) -> bool:
        """Return whether a program runs on the login node."""
        return any(Path(process.argv[0]).name == program for process in self.lab.login.processes())

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"token {self._token}"}
        url = f"{self._admin.hub}/hub/api{path}"
        answer = self._admin.request(method, url, json.dumps(body) if body else b"", headers)
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.text}"
        return answer

    # --- what is really there ---

    def jobs(self) -> dict[str, list[str]]:
        """Return the ids of the jobs that have not ended, by server id."""
        rows = self.lab.login.run(["squeue", "-h", "-t", "all", "-o", "%i|%j|%T"], check=True).stdout.split()
        found: dict[str, list[str]] = {}
        for job, name, state in (row.split("|") for row in rows):
            if name.startswith("gw-") and state in _LIVE:
                found.setdefault(name.rpartition("-")[2], []).append(job)
        return found

    def _submitted(self) -> int:
        """Return how many jobs the scheduler has ever taken. Their ids do not tell: trials use some up."""
        log = self.lab.state / "nodes/login/log/slurmctld.log"
        return log.read_text(errors="replace").count("_slurm_rpc_submit_batch_job: JobId=")

    def ask_proxy(self, *words: str) -> list[list[str]]:
        """Return HAProxy's answer to a command, as rows of words."""
        path = f"/proc/{self.lab.hub.pid}/root/run/gateway/haproxy/admin.sock"
        with socket.socket(socket.AF_UNIX) as conversation:
            conversation.settimeout(5)
            conversation.connect(path)
            conversation.sendall(f"{' '.join(words)}\n".encode())
            answer = b"".join(iter(lambda: conversation.recv(1 << 16), b""))
        return [line.split() for line in answer.decode().splitlines() if line and not line.startswith("#")]

    def proxy_servers(self) -> dict[str, tuple[str, str]]:
        """Return HAProxy's servers, without those for what is large: name to state (0: up) and weight."""
        rows = self.ask_proxy("show", "servers", "state")
        ours = (row for row in rows if len(row) > 7 and row[1].startswith("users"))
        return {row[3]: (row[6], row[7]) for row in ours if row[3][-1].isdecimal()}  # one way of each

    def proxy_map(self, name: str) -> list[tuple[str, ...]]:
        """Return a map's entries, sorted."""
        rows = self.ask_proxy("show", "map", f"/run/gateway/haproxy/{name}.map")
        return sorted(tuple(row[1:]) for row in rows)

    def forwards(self) -> list[str]:
        """Return the forwards that have a socket, as ID.G; not those for what is large."""
        tunnels = f"/proc/{self.lab.hub.pid}/root/run/gateway/t/lab"
        # glob() of glob, and not Path's: a master's directory may go while it is looked into.
        found = glob(f"{tunnels}/*/*[0-9].sock")  # noqa: PTH207  (see above)
        return sorted(Path(name).name.removesuffix(".sock") for name in found)

    def lose_forwards(self) -> None:
        """Remove all forwards' files: they have to be made anew, under new names."""
        for path in Path(f"/proc/{self.lab.hub.pid}/root/run/gateway/t/lab").glob("*/*.[0-9]*.*"):
            path.unlink()

    def state_dirs(self) -> set[str]:
        """Return the ids that have a state directory on the cluster."""
        homes = (self.lab.state / "home" / user / ".gateway" for user in ACCOUNTS)
        return {path.name for home in homes if home.exists() for path in home.iterdir()}

    def processes(self, *words: str) -> list[Process]:
        """Return the gateway's processes whose command line begins like this."""
        found = self.lab.gateway_processes()
        return [p for p in found if Path(p.argv[0]).name == words[0] and set(words[1:]) <= set(p.argv)]

    def answer(self, key: str, *, enter: bool = True) -> tuple[int, dict[str, Any]]:
        """Return what a server answers its owner through HAProxy: the status, and which server it is.

        Args:
            key: Which server.
            enter: Whether to go by way of the hub where the browser was not let in so far.
        """
        user, _, name = key.partition("/")
        person = self._people[user]
        answer = person.request("GET", person.url("which", name))
        if enter and answer.status in (302, 403):
            person.jar[person.host].pop(ENTERED_COOKIE, None)
            answer = person.open(person.url("which", name))
        try:
            return answer.status, dict(answer.json)
        except ValueError:
            return answer.status, {}

    def is_as_it_should(self, ready: Collection[str], unreachable: Collection[str] = ()) -> bool:
        """Return whether just these servers are there: one job, one forward, one route for each."""
        return self._facts() == self._expected([*ready, *unreachable])

    def check(
        self, ready: Collection[str] = (), unreachable: Collection[str] = (), never: Collection[str] = ()
    ) -> None:
        """Check that these servers and nothing else are there, and that they answer with their own ids.

        A server that this test has started and that is not named has ended, without a trace.

        Args:
            ready: Keys of servers that answer.
            unreachable: Keys of servers that answer with errors.
            never: Keys of servers that never had a job; each of the others had one, and only one.

        Raises:
            AssertionError: It is not so after a while, or a job was submitted that nobody asked for.
        """
        routed = [*ready, *unreachable]
        self.wait(ready, "ready")
        self.wait(unreachable, "unreachable")
        self.wait(self.ids.keys() - set(routed), "ended")
        with suppress(LabError):
            wait_until(lambda: self.is_as_it_should(routed), "all is as it should be", 20, 0.2)
        facts, expected = self._facts(), self._expected(routed)
        assert not (wrong := {k: (facts[k], expected[k]) for k in facts if facts[k] != expected[k]}), wrong
        submitted, wanted = self._submitted() - self._before, len(self.ids) - len(never)
        assert submitted == wanted, f"{submitted} jobs were submitted, not {wanted}"
        told = {key: (state["id"], state["job_id"]) for key, state in self.states(routed).items()}
        for key in routed:
            status, who = self.answer(key)
            assert status == (200 if key in ready else 500), f"{key}: {status}"
            assert (who["id"], who["job"]) == told[key]

    def _expected(self, routed: Collection[str]) -> dict[str, Any]:
        ids = {key: self.ids[key] for key in routed}
        return {
            "jobs": dict.fromkeys(ids.values(), 1),
            "state directories": set(ids.values()),
            "forwards": sorted(ids.values()),
            "servers": dict.fromkeys(ids.values(), ("0", "0")),
            "routes": {f"{key.partition('/')[0]}.{HOST}/{key}": server_id for key, server_id in ids.items()},
            "one generation": True,
            "secrets": sorted(ids.values()),
        }

    def _facts(self) -> dict[str, Any]:
        servers = self.proxy_servers()
        routes = {key: value for key, value in self.proxy_map("routes") if value != HUB}
        return {
            "jobs": {server_id: len(jobs) for server_id, jobs in self.jobs().items()},
            "state directories": self.state_dirs(),
            "forwards": sorted(name.partition(".")[0] for name in self.forwards()),
            "servers": {name.partition(".")[0]: state for name, state in servers.items()},
            "routes": {key: value.partition(".")[0] for key, value in routes.items()},
            "one generation": sorted(servers) == sorted(routes.values()) == self.forwards(),
            "secrets": [key for key, _ in self.proxy_map("secrets")],
        }

"""Faults of schedulers, login nodes and compute nodes, on the three clusters at once.

Through all of it alice has a kernel on each of them. No fault takes it from her, none makes two jobs of one
server, and the page of a server that has to wait says why.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from tests.lab import Lab
from tests.lab.nodes import LabError, wait_until
from tests.lab.staging import COMPUTE_NODES
from tests.live import batch
from tests.live.batch import Batch, SgeBatch, SlurmBatch
from tests.live.client import NAVIGATION, Kernel, Person

_WORDS = re.compile(r'id="(?:title|message)"[^>]*>(.*?)</(?:strong|p)>', re.S)


@dataclass
class Stage:
    """Alice, the three clusters, and her kernel on each of them."""

    lab: Lab
    alice: Person
    clusters: Mapping[str, Batch]
    kernels: dict[str, Kernel] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)
    seen: dict[str, set[str]] = field(default_factory=dict)

    # --- servers: one on each cluster, named NAME-CLUSTER ---

    def each(self, act: Callable[[Batch], None], those: Collection[str] = ()) -> None:
        """Do something to the clusters, to all at once."""
        chosen = [cluster for name, cluster in self.clusters.items() if not those or name in those]
        with ThreadPoolExecutor() as pool:
            list(pool.map(act, chosen))

    def ask(self, name: str, those: Collection[str] = (), **choices: str) -> list[str]:
        """Ask for a small server on each cluster; return their names."""
        servers = []
        for cluster in self.clusters.values():
            if not those or cluster.name in those:
                chosen = {"partition": cluster.partition, "application": batch.SMALL, "memory": "60M"}
                servers.append(f"{name}-{cluster}")
                answer = self.alice.spawn(servers[-1], cluster=cluster.name, **(chosen | choices))
                assert answer.status == 303, f"{answer.status} {answer.text}"
        return servers

    def wait(self, servers: Collection[str], phase: str, timeout: float = 40.0) -> dict[str, dict[str, Any]]:
        """Wait until all these servers are in a phase; return their states by cluster."""
        states: dict[str, dict[str, Any]] = {}

        def there() -> bool:
            states.update(self.alice.servers())
            return all(states.get(server, {"phase": "ended"})["phase"] == phase for server in servers)

        try:
            wait_until(there, f"all are {phase}", timeout, 0.1)
        except LabError as error:
            states = self.alice.servers()
            told = {server: (states.get(server), self.says(server)) for server in servers}
            raise LabError(f"{error}: {told}") from None
        return {server.partition("-")[2]: states[server] for server in servers if server in states}

    def says(self, server: str) -> str:
        """Return what the page of a server says."""
        page = self.alice.request("GET", f"{self.alice.hub}/hub/wait/{server}", headers=NAVIGATION)
        words = _WORDS.findall(page.text)
        return html.unescape(re.sub(r"<[^>]+>|\s+", " ", "; ".join(words)))

    def expect(self, servers: Collection[str], pattern: str, timeout: float = 30.0) -> None:
        """Wait until the pages of all these servers say something like that."""
        said: dict[str, str] = {}

        def all_say() -> bool:
            said.update({server: self.says(server) for server in servers})
            return all(re.search(pattern, words, re.I) for words in said.values())

        try:
            wait_until(all_say, f"the pages say {pattern}", timeout, 0.2)
        except LabError as error:
            raise LabError(f"{error}: {said}") from None
        print(said)

    def opens(self, server: str) -> bool:
        """Return whether a server lets alice in."""
        return self.alice.open(self.alice.url("", server)).status == 200

    def end(self, servers: Collection[str]) -> None:
        """Stop servers, and do not wait for their end."""
        for server in servers:
            self.alice.ask_to_stop(server)

    @property
    def slurm(self) -> SlurmBatch:
        """The one of them with two nodes."""
        (slurm,) = (cluster for cluster in self.clusters.values() if isinstance(cluster, SlurmBatch))
        return slurm

    # --- what must be so, whatever happens ---

    def check_kernels(self, phase: str = "ready") -> None:
        """Check that her kernels compute, over the WebSockets that were opened in the beginning."""
        states = self.alice.servers()
        for name, kernel in self.kernels.items():
            assert kernel.run("print(os.getpid() == me)") == "True\n", name
            state = states[f"kernel-{name}"]
            assert (state["phase"], state["job_id"]) == (phase, self.jobs[name]), name

    @contextmanager
    def jobs_taken(self, number: int, those: Collection[str] = ()) -> Iterator[None]:
        """Check that in the block each scheduler took so many jobs."""
        before = {name: self._taken(name) for name in self.clusters}
        yield
        for name in self.clusters:
            new = self._taken(name) - before[name]
            assert len(new) == (number if not those or name in those else 0), f"{name}: {new}"

    def _taken(self, name: str) -> set[str]:
        """Return the jobs ever taken, those too that Grid Engine neither lists nor accounts for yet."""
        self.seen[name] = self.seen.get(name, set()) | self.clusters[name].taken()
        return self.seen[name]


@pytest.fixture(scope="module")
def stage(lab: Lab) -> Iterator[Stage]:
    """The three clusters with a kernel each; afterwards the lab is as it was."""
    with ExitStack() as after:
        clusters = {cluster.name: cluster for cluster in batch.every(lab)}
        batch.install_small(lab)
        lab.stop_gateway()
        after.callback(lab.start_gateway)
        for cluster in clusters.values():
            after.callback(cluster.restore)
            cluster.prepare()
        lab.start_gateway()
        stage = Stage(lab, Person(lab, "alice").login(), clusters)
        after.callback(lab.stop_gateway)
        choices = {"application": "lab", "memory": "500M", "walltime": "1h"}
        states = stage.wait(stage.ask("kernel", **choices), "ready", 60)
        for name, state in states.items():
            wait_until(partial(stage.opens, f"kernel-{name}"), f"kernel-{name} opens", 30)
            stage.jobs[name] = state["job_id"]
            stage.kernels[name] = after.enter_context(stage.alice.kernel(f"kernel-{name}"))
            stage.kernels[name].run("import os; me = os.getpid()")
        yield stage


def test_while_schedulers_are_stopped_pages_say_so_and_jobs_wait_for_them(stage: Stage) -> None:
    with stage.jobs_taken(1):
        stage.each(lambda cluster: cluster.stop())
        try:
            late = stage.ask("late")
            quick = [server for server in late if server != f"late-{stage.slurm}"]  # sbatch tries for 15 s
            stage.expect(quick, r"scheduler is not answering.*goes on trying")
            stage.check_kernels()
        finally:
            stage.each(lambda cluster: cluster.start())
        stage.wait(late, "ready")
        stage.check_kernels()
    stage.end(late)


def test_sshd_killed_while_schedulers_hang_doubles_nothing(stage: Stage) -> None:
    with stage.jobs_taken(1):
        stage.each(lambda cluster: cluster.scheduler.freeze())
        try:
            cut = stage.ask("cut")
            for cluster in stage.clusters.values():
                for program in cluster.programs:
                    wait_until(partial(cluster.busy_with, program), f"{program} runs on {cluster}", 30)
            stage.check_kernels()
            stage.each(lambda cluster: cluster.cut_sessions())
            stage.expect(cut, r"has not said whether it took your job|login node is not answering")
            stage.check_kernels()
        finally:
            stage.each(lambda cluster: cluster.scheduler.thaw())
            stage.each(lambda cluster: cluster.sshd.start())
        stage.wait(cut, "ready", 60)
        stage.check_kernels()
    stage.end(cut)


def test_a_job_on_hold_waits_until_it_is_released(stage: Stage) -> None:
    with stage.jobs_taken(1):
        stage.each(lambda cluster: cluster.close())
        servers = [f"held-{name}" for name in stage.clusters]
        try:
            for cluster in stage.clusters.values():
                stage.ask("held", [cluster.name], partition=cluster.closing, walltime="5m")
            states = stage.wait(servers, "queued")
            for name, cluster in stage.clusters.items():
                cluster.hold(states[name]["job_id"])
        finally:
            stage.each(lambda cluster: cluster.open())
        stage.expect(servers, r"\bon hold\b|\bheld\b")
        stage.check_kernels()
        for name, cluster in stage.clusters.items():
            cluster.release(states[name]["job_id"])
        again = stage.wait(servers, "ready")
        assert {n: s["job_id"] for n, s in again.items()} == {n: s["job_id"] for n, s in states.items()}
    stage.end(servers)


def test_a_job_that_is_requeued_and_held_comes_back_as_the_same_server(stage: Stage) -> None:
    those = [c for c in stage.clusters.values() if isinstance(c, SlurmBatch | SgeBatch)]
    names = [cluster.name for cluster in those]
    with stage.jobs_taken(1, names):
        servers = stage.ask("again", names)
        states = stage.wait(servers, "ready")
        for cluster in those:
            cluster.requeue_held(states[cluster.name]["job_id"])
        stage.wait(servers, "queued")
        stage.expect(servers, r"\bon hold\b|\bheld\b")
        stage.check_kernels()
        for cluster in those:
            cluster.release(states[cluster.name]["job_id"])
        again = stage.wait(servers, "ready")
        for name, state in again.items():
            assert (state["id"], state["job_id"]) == (states[name]["id"], states[name]["job_id"])
    stage.end(servers)


def test_a_node_that_nobody_reaches_for_a_while_keeps_its_server(stage: Stage) -> None:
    """What is asked of the servers by the hub that starts is not answered."""
    servers = [f"kernel-{name}" for name in stage.clusters]
    with stage.jobs_taken(0):
        hosts = {name: stage.alice.state(f"kernel-{name}")["host"] for name in stage.clusters}
        stage.each(lambda cluster: cluster.cut_node(hosts[cluster.name]))
        try:
            stage.lab.stop_gateway()
            stage.lab.start_gateway()
            stage.wait(servers, "unreachable")
            stage.expect(servers, r"does not answer.*job goes on")
        finally:
            stage.each(lambda cluster: cluster.join_node(hosts[cluster.name]))
        stage.wait(servers, "ready")
        stage.check_kernels()


def test_a_job_of_a_lost_node_is_requeued_and_found_where_it_runs_again(stage: Stage) -> None:
    slurm = stage.slurm
    kept = stage.alice.state(f"kernel-{slurm}")["host"]
    (lost,) = {*COMPUTE_NODES} - {kept}
    with stage.jobs_taken(1, [slurm.name]):
        with slurm.drained(kept):
            servers = stage.ask("moves", [slurm.name])
            before = stage.wait(servers, "ready")[slurm.name]
        assert before["host"] == lost
        slurm.cut_node(lost)
        try:
            slurm.set_node(lost, "DOWN")
            stage.wait(servers, "queued")
            stage.expect(servers, r"starts by itself")
            slurm.start_now(before["job_id"])
            after = stage.wait(servers, "ready")[slurm.name]
        finally:
            slurm.join_node(lost)
            wait_until(lambda: slurm.is_up(lost), f"{lost} is back")
        assert (after["host"], after["id"], after["job_id"]) == (kept, before["id"], before["job_id"])
        stage.check_kernels()
    stage.end(servers)


def test_a_job_over_the_limits_that_slurm_takes_is_said_never_to_start(stage: Stage) -> None:
    slurm = stage.slurm
    with stage.jobs_taken(1, [slurm.name]), slurm.configured("EnforcePartLimits=NO"):
        slurm.run("scontrol", "update", "PartitionName=short", "MaxTime=1")
        servers = stage.ask("over", [slurm.name], partition="short", walltime="5m")
        stage.expect(servers, r"walltime is longer than allowed.*can never start")
        stage.check_kernels()
    stage.end(servers)


def test_where_jobs_are_hidden_from_the_service_account_servers_start_and_stay(stage: Stage) -> None:
    slurm = stage.slurm
    with stage.jobs_taken(1, [slurm.name]), slurm.configured("PrivateData=jobs"):
        servers = stage.ask("hidden", [slurm.name])
        stage.wait(servers, "ready", 60)
        stage.check_kernels()
        assert slurm.login.run(["squeue", "-h"], "svc", check=True).stdout == ""
    stage.end(servers)

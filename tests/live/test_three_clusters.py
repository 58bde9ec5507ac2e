"""The three clusters as people see them: Chromium, from the form of each to a kernel's output there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.lab import Lab
from tests.lab.nodes import wait_until
from tests.live import chromium
from tests.live.chromium import Person, Stopwatch, launcher, run_first_cell

pytestmark = pytest.mark.browser


@dataclass(frozen=True)
class Place:
    """A cluster: its title on the form, a partition, the nodes of that, and the command that lists jobs."""

    name: str
    title: str
    partition: str
    nodes: tuple[str, ...]
    login: str
    jobs: tuple[str, ...]

    @property
    def server(self) -> str:
        """The name of the server on it."""
        return f"on-{self.name}"


SLURM = Place("lab", "The lab's cluster", "short", ("cn1", "cn2"), "login", ("squeue", "--noheader"))
SGE = Place("labsge", "The lab's Grid Engine", "short.q", ("sgen1",), "sgelogin", ("qstat", "-u", "*"))
PBS = Place("labpbs", "The lab's PBS", "short", ("pbsn1",), "pbslogin", ("/srv/pbs/bin/qselect",))
PLACES = (SLURM, SGE, PBS)


@pytest.fixture(scope="module")
def clusters(lab: Lab) -> Iterator[Lab]:
    """The lab with three clusters that the gateway knows; afterwards with one again."""
    with ExitStack() as after:
        for cluster in (lab.sge, lab.pbs):
            after.callback(cluster.stop)
            cluster.start()
        lab.stop_gateway()
        lab.start_gateway()
        after.callback(lab.start_gateway)
        yield lab
        lab.clear_jobs()
        lab.stop_gateway()


@pytest.fixture
def browser(clusters: Lab) -> Iterator[Browser]:
    """A fresh Chromium."""
    if not chromium.PROGRAM.exists():
        pytest.skip("the browser tests need Debian's package chromium")
    chromium.SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    certificate = clusters.state / "tls/gateway.pem"
    with sync_playwright() as playwright, chromium.launch(playwright, certificate) as browser:
        yield browser


@pytest.fixture
def alice(clusters: Lab, browser: Browser) -> Iterator[Person]:
    with Person(browser, clusters, "alice") as alice:
        yield alice


def no_jobs(lab: Lab, place: Place) -> Callable[[], bool]:
    return lambda: not lab.run(place.login, place.jobs, check=True).stdout.strip()


def spawn(alice: Person, place: Place) -> Page:
    """Start a server on a cluster, in a tab of its own, by the cluster's tab of the form."""
    page = alice.page = alice.new_tab()
    page.goto(alice.hub(f"spawn/{place.server}"))
    tab = page.get_by_role("navigation", name="Cluster").get_by_role("link", name=place.title, exact=True)
    tab.click()
    expect(tab).to_have_attribute("aria-current", "page")
    page.get_by_label("Partition").select_option(place.partition)
    page.get_by_label("Walltime").fill("7m")
    alice.screenshots(f"form-{place.name}")
    page.get_by_role("button", name="Start", exact=True).click()
    page.locator("#title").wait_for()
    alice.screenshot(f"wait-{place.name}")
    return page


def test_from_each_clusters_form_to_a_cell_that_runs_on_its_node(clusters: Lab, alice: Person) -> None:
    watch = Stopwatch()
    alice.log_in()
    alice.page.get_by_role("heading", name="Your servers").wait_for()
    home, tabs = alice.page, {place: spawn(alice, place) for place in PLACES}
    for place, page in tabs.items():
        page.wait_for_url(
            re.compile(re.escape(alice.server(path=f"{place.server}/lab"))), wait_until="commit"
        )
        watch.lap(f"{place.name}: the server answers")
    for page in tabs.values():  # what the three share, one home, is to hold no notebook until all are there
        page.bring_to_front()
        launcher(page).wait_for()
    for place, page in tabs.items():
        page.bring_to_front()
        output = run_first_cell(page, "import socket; socket.gethostname()").strip("'")
        watch.lap(f"{place.name}: the first cell's output: {output}")
        assert output in place.nodes
        alice.screenshot(f"jupyterlab-{place.name}", page)
        page.close()
    for place in PLACES:
        home.goto(alice.hub("home"))
        assert not no_jobs(clusters, place)()
        home.get_by_role("button", name=f"Stop {place.server}", exact=True).click()
    for place in PLACES:
        home.goto(alice.hub(f"wait/{place.server}"))
        home.locator(".phase").get_by_text("Stopped", exact=True).wait_for()
        wait_until(no_jobs(clusters, place), f"{place.name} has no job")
    watch.lap("all have ended")
    assert alice.complaints == []


def test_an_administrator_sees_what_every_cluster_has(clusters: Lab, browser: Browser) -> None:
    with Person(browser, clusters, "carol") as carol:
        carol.log_in()
        carol.page.get_by_role("link", name="Clusters").click()
        carol.page.get_by_role("button", name="Read again now").click()
        for place in PLACES:
            table = carol.page.get_by_role("region", name=f"Partitions of {place.name}", exact=True)
            table.get_by_role("cell", name=place.partition, exact=True).wait_for()
        carol.screenshots("clusters")
        assert carol.complaints == []

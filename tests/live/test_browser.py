"""The gateway as people see it: real Chromium, from the login page to a cell's output, on the lab."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.lab import Lab
from tests.lab.nodes import wait_until
from tests.live import chromium
from tests.live.chromium import Person, Stopwatch, computes, run_first_cell, seconds_until_closed

pytestmark = pytest.mark.browser

NODES = ("cn1", "cn2")
#: Seconds within which an open WebSocket must have ended after its right to be open has.
SOON = 5.0

Meet = Callable[..., Person]


@pytest.fixture(scope="module")
def browser(lab: Lab) -> Iterator[Browser]:
    """Chromium, for all the tests here."""
    if not chromium.PROGRAM.exists():
        pytest.skip("the browser tests need Debian's package chromium")
    lab.start_gateway()
    chromium.SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    certificate = lab.state / "tls/gateway.pem"
    with sync_playwright() as playwright, chromium.launch(playwright, certificate) as running:
        yield running


@pytest.fixture
def meet(browser: Browser, lab: Lab) -> Iterator[Meet]:
    """Make people with a browser each; in the end their jobs are gone, whatever happened."""
    lab.start_gateway()
    people: list[Person] = []
    with ExitStack() as stack:

        def make(name: str, **options: object) -> Person:
            people.append(stack.enter_context(Person(browser, lab, name, **options)))
            return people[-1]

        yield make
    for person in people:
        if person.jobs():
            lab.run("login", ["scancel", f"--user={person.name}"])
            wait_until(lambda p=person: not p.jobs(), f"{person.name} has no job")  # type: ignore[misc]


def test_from_the_login_page_to_a_cell_that_runs_on_a_compute_node(meet: Meet) -> None:
    alice = meet("alice")
    alice.page.goto(alice.lab.url)
    alice.screenshots("login")
    alice.log_in()
    alice.page.get_by_role("link", name="Start Default server").wait_for()
    alice.screenshots("home-empty")
    alice.start("short", "5m")
    watch = Stopwatch()
    alice.page.locator("#title").wait_for()
    alice.screenshot("waiting")
    alice.page.locator("#title").get_by_text("Starting", exact=True).wait_for()
    watch.lap("the job runs")
    alice.screenshot("waiting-starting")
    assert alice.jobs("%P %l %T") == ["short 5:00 RUNNING"]
    alice.arrive()
    watch.lap("the server answers")
    assert alice.requests.count(alice.hub("wait")) == 1, "the page is kept up to date without a reload"
    output = run_first_cell(alice.page, "import socket; socket.gethostname()")
    watch.lap(f"the first cell's output: {output}")
    assert output.strip("'") in NODES
    assert alice.jobs("%N") == [output.strip("'")]
    alice.screenshot("jupyterlab")

    home = alice.new_tab()
    home.goto(alice.hub("home"))
    alice.screenshot("home", home)
    kernel = alice.page.evaluate("async () => (await (await fetch('/user/alice/api/kernels')).json())[0].id")
    alice.page.evaluate(chromium.OPEN_KERNEL, kernel)
    began = time.time()
    alice.stop(home)
    seconds = seconds_until_closed(alice.page, began)
    print(f"{seconds:6.2f} s  from Stop to the close event of a kernel's WebSocket")
    assert seconds < SOON
    alice.screenshot("stopping", home)
    alice.wait_until_ended(home)
    wait_until(lambda: not alice.jobs(), "squeue is empty")
    assert alice.complaints == []


def test_whatever_the_login_shell_does_jupyterlab_opens_and_computes(meet: Meet) -> None:
    people = [meet(name) for name in ("tess", "finn", "nora")]  # tcsh, fish, a .bashrc that talks and sleeps
    for person in people:
        person.log_in()
        person.start()
    for person in people:
        person.arrive()
        person.page.get_by_role("menuitem", name="File").wait_for()
        assert computes(person.page) in NODES
        person.stop()
    for person in people:
        person.wait_until_ended()


def test_a_home_that_cannot_be_written_is_told_in_a_sentence(meet: Meet) -> None:
    rory = meet("rory")
    rory.log_in()
    rory.start()
    rory.page.locator(".phase").get_by_text("Not started", exact=True).wait_for()
    rory.screenshot("ended")
    assert "read-only" in rory.page.locator("main").inner_text().lower()
    assert rory.jobs() == []


def test_all_of_it_works_without_javascript(meet: Meet) -> None:
    bob = meet("bob", java_script_enabled=False)
    bob.log_in()
    bob.start()
    bob.page.get_by_role("heading", name="Default server").wait_for()
    bob.screenshot("waiting-without-javascript")
    bob.arrive()
    bob.stop()
    bob.wait_until_ended()
    bob.page.goto(bob.server())
    bob.page.get_by_role("heading", name="is not running").wait_for()
    bob.screenshot("not-running")
    bob.page.goto(bob.hub("logout"))
    bob.screenshot("logout")
    bob.page.get_by_role("main").get_by_role("button", name="Log out").click()
    bob.page.get_by_role("heading", name="You are logged out").wait_for()
    bob.screenshot("logged-out")
    bob.page.goto(bob.hub("home"))
    bob.page.wait_for_url(re.compile("/hub/login"))


def test_all_of_it_works_by_keyboard(meet: Meet) -> None:
    carol = meet("carol")
    page, keys = carol.page, carol.page.keyboard
    page.goto(carol.hub("login"))
    carol.tab_to(page.get_by_label("User name"))
    keys.type("carol")
    keys.press("Tab")
    keys.type(carol.lab.passwords["carol"])
    keys.press("Enter")
    page.get_by_role("heading", name="Your servers").wait_for()
    carol.tab_to(page.get_by_role("link", name="Start Default server"))
    carol.screenshot("home-focus")
    keys.press("Enter")
    page.get_by_label("Partition").wait_for()
    carol.tab_to(page.get_by_label("Partition"))
    keys.type("Short")
    carol.tab_to(page.get_by_label("Walltime"))
    keys.press("Control+A")
    keys.type("3m")
    carol.tab_to(page.get_by_role("button", name="Start", exact=True))
    keys.press("Enter")
    page.locator("#title").wait_for()
    wait_until(lambda: carol.jobs("%P %l") == ["short 3:00"], "the job is in the queue")
    carol.tab_to(page.get_by_role("button", name="Cancel"))
    keys.press("Enter")
    page.locator(".phase").get_by_text("Stopped", exact=True).wait_for()


def test_logout_ends_open_websockets_and_without_the_hub_the_proxy_explains(meet: Meet, lab: Lab) -> None:
    carol, bob = meet("carol"), meet("bob")
    carol.log_in()
    carol.start()
    bob.log_in()
    carol.arrive()
    bob.page.goto(bob.server("carol"))
    bob.page.get_by_text("This server belongs to carol, and you are logged in as bob.").wait_for()
    bob.screenshot("error-403")

    assert computes(carol.page) in NODES
    other = carol.new_tab()
    other.goto(carol.hub("home"))
    began = time.time()
    other.get_by_role("button", name="Log out").click()
    seconds = seconds_until_closed(carol.page, began)
    print(f"{seconds:6.2f} s  from Log out to the close event of a kernel's WebSocket")
    assert seconds < SOON
    assert carol.page.evaluate("async () => (await fetch('/user/carol/api/kernels')).status") == 403
    carol.page.goto(carol.server())
    carol.page.wait_for_url(re.compile("/hub/login"))
    carol.log_in()
    carol.arrive()

    lab.stop_gateway()
    carol.page.goto(carol.hub("home"))
    carol.screenshot("proxy-hub-down")
    assert carol.page.goto(carol.server(path="api")).status == 200, "a server needs no hub"  # type: ignore[union-attr]
    lab.run("login", ["scancel", f"--user={carol.name}"], check=True)
    wait_until(lambda: not carol.jobs(), "the job is gone")
    answer = carol.page.goto(carol.server())
    assert answer is not None
    assert answer.status in (502, 503)
    carol.screenshot("proxy-server-gone")
    lab.start_gateway()
    # The proxy's page tries again by itself.
    carol.page.get_by_role("heading", name="is not running").wait_for()
    carol.screenshot("not-running-cancelled")
    carol.page.get_by_role("link", name="What happened").click()
    carol.page.locator(".phase").get_by_text("Cancelled", exact=True).wait_for()
    carol.screenshot("ended-cancelled")


def test_a_mistake_gets_a_sentence_and_loses_nothing(meet: Meet) -> None:
    bob = meet("bob")
    bob.log_in("not the password")
    bob.page.get_by_role("alert").wait_for()
    assert bob.page.get_by_label("User name").input_value() == "bob"
    bob.screenshots("login-failed")
    bob.log_in()
    bob.page.get_by_role("heading", name="Your servers").wait_for()
    bob.page.get_by_role("link", name="Start Default server").click()
    bob.screenshots("form")
    bob.page.get_by_label("Partition").select_option("short")
    bob.page.get_by_label("Walltime").fill("3h")
    bob.page.get_by_role("button", name="Start", exact=True).click()
    bob.page.get_by_role("alert").wait_for()
    assert bob.page.get_by_label("Walltime").input_value() == "3h"
    assert bob.page.get_by_label("Partition").input_value() == "short"
    bob.screenshots("form-error")
    bob.page.goto(bob.hub("home"))
    bob.page.get_by_label("Name").fill("Not a name!")
    bob.page.get_by_role("button", name="Start…").click()
    bob.screenshots("home-error")
    answer = bob.page.goto(bob.hub("nothing"))
    assert answer is not None
    assert answer.status == 404
    bob.screenshot("error-404")
    assert bob.jobs() == []

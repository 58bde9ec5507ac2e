"""The form as a site shapes it, in Chromium: rules, presets, what is free, the job script, messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.lab import Lab, gateway
from tests.lab.accounts import BY_NAME, write_private
from tests.lab.nodes import wait_until
from tests.live import chromium
from tests.live.chromium import Person

pytestmark = pytest.mark.browser

#: The lab's cluster, as a site would shape its form.
SHAPED = (
    gateway.SITE_CONFIG.replace("name: lab\n", "name: labform\n", 1)
    .replace("title: The lab's cluster", "title: The lab, shaped", 1)
    .replace("    gpus: {fake: 2}", "    gpus: {fake: 2}\n    groups: [Gateway-Admins]", 1)
    + """\
form:
  fields:
    - name: course
      label: Course
      help: As it is in the timetable, such as PH101.
      pattern: "[A-Z]{2}[0-9]{3}"
    - {name: notify, label: Tell me by mail, kind: checkbox}
  rename: {walltime: For how long}
  fix: {application: lab}
  presets:
    - {name: lecture, title: A lecture, values: {partition: short, walltime: 5m, course: PH101}}
    - {name: graphics, title: Graphics, values: {partition: gpu, walltime: 1h, gpus: "1", exclusive: "true"}}
  rules:
    - {field: gpus, unless: {partition: [gpu]}, at_most: 0, message: GPUs are for the partition GPU.}
    - field: cores
      when: {course: [PH101]}
      at_most: 2
      message: A lecture has two cores for each.
messages:
  login: "**Maintenance** on *Tuesday*: see the [news](https://example.org/news)."
  form: |
    New here? Read these first:

    - the [handbook](https://example.org/handbook)
    - how to `module load` <b>things</b>
"""
)


@pytest.fixture(scope="module")
def shaped(lab: Lab) -> Iterator[Lab]:
    """The lab with a gateway that has one more cluster: the same one with a shaped form."""
    file = lab.state / "hub/sites/labform.yaml"
    lab.start_gateway()
    lab.stop_gateway()
    write_private(file, SHAPED, BY_NAME["gateway"].uid)
    lab.start_gateway()
    yield lab
    lab.stop_gateway()
    file.unlink()


@pytest.fixture(scope="module")
def browser(shaped: Lab) -> Iterator[Browser]:
    """Chromium, for all the tests here."""
    if not chromium.PROGRAM.exists():
        pytest.skip("the browser tests need Debian's package chromium")
    chromium.SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    certificate = shaped.state / "tls/gateway.pem"
    with sync_playwright() as playwright, chromium.launch(playwright, certificate) as running:
        yield running


@pytest.fixture
def people(browser: Browser, shaped: Lab) -> Iterator[ExitStack]:
    """Whoever is met goes home in the end."""
    with ExitStack() as stack:
        yield stack


def form_of(person: Person) -> Page:
    """Log in, and open the shaped form once the scheduler has been asked what is free."""
    person.page.goto(person.hub("login"))
    person.log_in()
    person.page.get_by_role("heading", name="Your servers").wait_for()

    def has_news() -> bool:
        person.page.goto(person.hub("spawn?cluster=labform"))
        return person.page.get_by_text("What is free and what waits").count() > 0

    wait_until(has_news, "the form shows what is free")
    return person.page


def test_messages_and_rules_that_hide_limit_and_tell_as_one_types(
    people: ExitStack, browser: Browser, shaped: Lab
) -> None:
    carol = people.enter_context(Person(browser, shaped, "carol"))
    page = carol.page
    page.goto(carol.hub("login"))
    expect(
        page.get_by_role("region", name="The lab, shaped").get_by_role("link", name="news")
    ).to_be_visible()
    carol.screenshots("login-message")
    form_of(carol)
    carol.screenshots("form-shaped")
    expect(page.get_by_text("<b>things</b>")).to_be_visible()

    gpus, cores = page.get_by_label("GPUs"), page.get_by_label("Cores")
    expect(gpus).to_be_hidden()
    page.get_by_label("Partition").select_option("gpu")
    expect(gpus).to_be_visible()
    expect(page.get_by_label("For how long")).to_have_value("10m")  # gpu's default
    expect(page.get_by_label("GPU type")).to_be_hidden()
    gpus.fill("2")
    expect(page.get_by_label("GPU type")).to_be_visible()
    page.get_by_label("Partition").select_option("short")
    expect(gpus).to_be_hidden()
    page.get_by_label("Partition").select_option("gpu")
    expect(gpus).to_have_value("2")

    page.get_by_role("button", name="A lecture").click()
    expect(page.get_by_label("Partition")).to_have_value("short")
    cores.fill("3")
    expect(page.get_by_text("A lecture has two cores for each.")).to_be_visible()
    page.get_by_label("For how long").fill("11m")
    page.get_by_label("Course").fill("ph101")
    page.get_by_label("Course").fill("PH1010")
    expect(page.get_by_text("The longest walltime on short is 10 minutes.")).to_be_visible()
    expect(page.get_by_text("This is not what Course may be.")).to_be_visible()
    expect(page.get_by_text("A lecture has two cores for each.")).to_be_hidden()
    carol.screenshots("form-rules")
    page.get_by_role("button", name="Show job script").click()
    page.get_by_role("alert").wait_for()
    expect(page.get_by_text("The longest walltime on short is 10 minutes.")).to_be_visible()
    carol.screenshots("form-rules-refused")
    # What is refused is a 400, whose reason HTTP/2 does not carry.
    assert [each for each in carol.complaints if "status of 400 (" not in each] == []


def test_a_preset_and_the_job_script_lead_to_a_job_whose_end_is_known(
    people: ExitStack, browser: Browser, shaped: Lab
) -> None:
    carol = people.enter_context(Person(browser, shaped, "carol"))
    page = form_of(carol)
    page.get_by_role("button", name="Graphics").click()
    carol.screenshots("form-preset")
    page.get_by_label("For how long").fill("7m")
    page.get_by_label("A whole node").uncheck()
    page.get_by_role("button", name="Show job script").click()
    script = page.get_by_role("region", name="Job script").inner_text()
    assert "#SBATCH --partition=gpu" in script
    assert "#SBATCH --time=7" in script
    carol.screenshots("script")
    page.get_by_role("button", name="Back to the form").click()
    expect(page.get_by_label("For how long")).to_have_value("7m")
    page.get_by_role("button", name="Start", exact=True).click()
    wait_until(lambda: carol.jobs("%P %l") == ["gpu 7:00"], "the job is in the queue")
    carol.arrive()
    page.goto(carol.hub("home"))
    assert carol.complaints == []
    ends = page.get_by_text(re.compile(r", in [5-7] min"))
    wait_until(lambda: (page.reload(), ends.count())[1] > 0, "the walltime left is shown")
    carol.screenshots("home-ends")
    carol.stop()
    carol.wait_until_ended()


def test_without_javascript_and_without_the_group(people: ExitStack, browser: Browser, shaped: Lab) -> None:
    bob = people.enter_context(Person(browser, shaped, "bob", java_script_enabled=False))
    page = form_of(bob)
    options = page.get_by_label("Partition").locator("option")
    assert [text.partition(" ")[0] for text in options.all_inner_texts()] == ["Debug", "Short"]
    assert page.get_by_role("link", name="Graphics").count() == 0
    page.get_by_role("link", name="A lecture").click()
    expect(page.get_by_label("Course")).to_have_value("PH101")
    page.get_by_label("Cores").fill("3")
    bob.screenshot("form-without-javascript")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_text("A lecture has two cores for each.")).to_be_visible()
    page.get_by_label("Cores").fill("2")
    page.get_by_role("button", name="Show job script").click()
    assert "--cpus-per-task=2" in page.get_by_role("region", name="Job script").inner_text()
    assert bob.jobs() == []


def test_by_keyboard_alone(people: ExitStack, browser: Browser, shaped: Lab) -> None:
    carol = people.enter_context(Person(browser, shaped, "carol"))
    page, keys = form_of(carol), carol.page.keyboard
    carol.tab_to(page.get_by_role("button", name="Graphics"))
    keys.press("Space")
    expect(page.get_by_label("Partition")).to_have_value("gpu")
    expect(page.get_by_label("A whole node")).to_be_checked()
    carol.tab_to(page.get_by_label("A whole node"))
    keys.press("Space")
    expect(page.get_by_label("A whole node")).not_to_be_checked()
    carol.tab_to(page.get_by_text("More choices"))
    keys.press("Enter")
    expect(page.get_by_label("A whole node")).to_be_hidden()
    carol.tab_to(page.get_by_role("button", name="Show job script"))
    keys.press("Enter")
    page.get_by_role("region", name="Job script").wait_for()

"""People with a real Chromium: what they do with the gateway's pages and with JupyterLab."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Browser, Locator, Page, Playwright, Request, expect

from tests.lab import Lab, environment

PROGRAM = Path("/usr/bin/chromium")
SCREENSHOTS = environment.REPOSITORY / "var" / "screenshots"
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
#: Milliseconds that a page, a job's start or JupyterLab may take on a busy machine.
PATIENCE = 60_000.0

#: Opens a WebSocket to a kernel, a new one or the one given; its end is noted as window.closedAt.
OPEN_KERNEL = """async (kernel) => {
  const kernels = location.pathname.split("/").slice(0, 3).join("/") + "/api/kernels";
  kernel ||= (await (await fetch(kernels, {method: "POST"})).json()).id;
  window.closedAt = null;
  window.channel = new WebSocket(`wss://${location.host}${kernels}/${kernel}/channels`);
  window.channel.addEventListener("close", () => { window.closedAt = Date.now(); });
  await new Promise((resolve, reject) => {
    window.channel.onopen = resolve;
    window.channel.onerror = reject;
  });
  return kernel;
}"""
#: Runs code in that kernel and returns what it prints (Jupyter's messages, version 5.3).
PRINTED_BY_KERNEL = """(code) => new Promise((resolve, reject) => {
  const id = crypto.randomUUID();
  window.channel.onclose = () => reject(new Error("the WebSocket closed"));
  window.channel.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.parent_header.msg_id !== id) return;
    if (message.msg_type === "stream") resolve(message.content.text);
    if (message.msg_type === "error") reject(new Error(message.content.evalue));
  };
  const header = {msg_id: id, msg_type: "execute_request", session: id, username: "", version: "5.3"};
  const content = {code, silent: false, store_history: false, user_expressions: {}, allow_stdin: false};
  window.channel.send(JSON.stringify({channel: "shell", header, parent_header: {}, metadata: {}, content}));
})"""


@contextmanager
def launch(playwright: Playwright, certificate: Path) -> Iterator[Browser]:
    """Start Chromium with an empty profile; of untrusted certificates it takes this one's key alone."""
    trusted = f"--ignore-certificate-errors-spki-list={_key_hash(certificate)}"
    browser = playwright.chromium.launch(
        executable_path=PROGRAM,
        headless=True,
        args=[
            *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"),
            *("--disable-component-update", trusted),
        ],
    )
    try:
        yield browser
    finally:
        browser.close()


class Visitor:
    """Somebody with a browser of their own, where all share one origin. ``page`` is their first tab.

    Args:
        browser: The running Chromium.
        url: Where the gateway is, with a slash at the end.
        name: Who it is.
        password: Theirs.
        options: Of Playwright's ``Browser.new_context``.
    """

    def __init__(self, browser: Browser, url: str, name: str, password: str, **options: Any) -> None:
        self.url, self.name, self.password = url, name, password
        self.context = browser.new_context(**{"viewport": DESK, **options})
        self.context.set_default_timeout(PATIENCE)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context.on("request", self._note_request)
        self.page = self.new_tab()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.context.close()

    def _note_request(self, request: Request) -> None:
        self.requests.append(request.url)

    def new_tab(self) -> Page:
        """Open a tab; what Chromium complains of on the hub's own pages goes into ``complaints``."""
        page = self.context.new_page()

        def note(message: Any) -> None:
            if message.type in ("error", "warning") and page.url.startswith(self.url):
                self.complaints.append(f"{page.url}: {message.text}")

        page.on("console", note)
        return page

    # --- addresses ---

    def hub(self, path: str) -> str:
        """Return the address of a page of the hub; ``path`` is as in ``home``."""
        return f"{self.url}hub/{path}"

    def server(self, owner: str | None = None, path: str = "lab") -> str:
        """Return an address in a person's default server."""
        owner = owner or self.name
        return f"{self.origin(owner)}user/{owner}/{path}"

    def origin(self, owner: str) -> str:
        """Return where a person's servers are, with a slash at the end."""
        return self.url

    # --- what one does ---

    def log_in(self, password: str | None = None) -> None:
        """Fill in the login form and send it."""
        if not self.page.url.startswith(self.hub("login")):
            self.page.goto(self.hub("login"))
        self.page.get_by_label("User name").fill(self.name)
        self.page.get_by_label("Password").fill(password or self.password)
        self.page.get_by_role("button", name="Log in", exact=True).click()

    def start(self, partition: str = "debug", walltime: str = "10m") -> None:
        """Go home, open the form, choose, and send it."""
        self.page.goto(self.hub("home"))
        self.page.get_by_role("link", name="Start Default server").click()
        self.page.get_by_label("Partition").select_option(partition)
        self.page.get_by_label("Walltime").fill(walltime)
        self.page.get_by_role("button", name="Start", exact=True).click()

    def arrive(self) -> None:
        """Wait until the browser has been led into the server, to JupyterLab's address."""
        self.page.wait_for_url(re.compile(re.escape(self.server())), wait_until="commit")

    def stop(self, page: Page | None = None) -> None:
        """Press Stop on the home page, in the given tab."""
        page = page or self.page
        page.goto(self.hub("home"))
        page.get_by_role("button", name=re.compile("^(Stop|Cancel) Default server$")).click()

    def wait_until_ended(self, page: Page | None = None, says: str = "Stopped") -> None:
        """Wait until the page of the server says how it ended."""
        page = page or self.page
        page.goto(self.hub("wait"))
        page.locator(".phase").get_by_text(says, exact=True).wait_for()

    # --- what one sees ---

    def screenshot(self, name: str, page: Page | None = None) -> None:
        """Keep the whole page as var/screenshots/NAME.png."""
        (page or self.page).screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    def screenshots(self, name: str) -> None:
        """Keep the page as it is at a desk and on a phone, where nothing may stick out to the side."""
        self.screenshot(name)
        self.page.set_viewport_size(PHONE)  # type: ignore[arg-type]  # a ViewportSize
        self.screenshot(f"{name}-phone")
        wide = self.page.evaluate("document.documentElement.scrollWidth > innerWidth")
        assert not wide, f"{self.page.url} is wider than a phone"
        self.page.set_viewport_size(DESK)  # type: ignore[arg-type]

    def tab_to(self, wanted: Locator) -> None:
        """Press Tab until ``wanted`` has the focus."""
        for _ in range(40):
            if wanted.evaluate("element => element === document.activeElement"):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"{wanted} is not reached by Tab")


class Person(Visitor):
    """Somebody at the lab's gateway, where each has an origin.

    Args:
        browser: The running Chromium.
        lab: The lab with the gateway.
        name: Who it is.
        options: Of Playwright's ``Browser.new_context``.
    """

    def __init__(self, browser: Browser, lab: Lab, name: str, **options: Any) -> None:
        super().__init__(browser, lab.url, name, lab.passwords[name], **options)
        self.lab = lab
        # JupyterLab would open what an earlier test has left open, in place of its launcher.
        shutil.rmtree(lab.state / "home" / name / ".jupyter/lab/workspaces", ignore_errors=True)

    def origin(self, owner: str) -> str:
        """Return where a person's servers are, with a slash at the end."""
        return self.lab.url.replace("://", f"://{owner}.")

    def jobs(self, format: str = "%i") -> list[str]:  # noqa: A002  # as squeue(1) calls it
        """Return this person's jobs, as ``squeue --format`` writes them."""
        words = ["squeue", "--noheader", f"--user={self.name}", f"--format={format}"]
        return self.lab.run("login", words, check=True).stdout.splitlines()


def launcher(page: Page) -> Locator:
    """Return what makes a notebook on the first page of a JupyterLab that has nothing open."""
    return page.locator(".jp-LauncherCard[data-category=Notebook]").first


def run_first_cell(page: Page, code: str) -> str:
    """Make a notebook from JupyterLab's launcher, run ``code`` in its first cell, return its output."""
    launcher(page).click()
    # The status bar has its name only once the kernel is there; without it Shift+Enter asks which to take.
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    cell = page.locator(".jp-Notebook .jp-Cell .cm-content").first
    cell.click()
    page.keyboard.type(code)
    expect(cell).to_have_text(code)
    page.keyboard.press("Shift+Enter")
    return page.locator(".jp-Notebook .jp-OutputArea-output").first.inner_text().strip()


def computes(page: Page) -> str:
    """Start a kernel from a page of a server and return the name of the node that it runs on."""
    page.evaluate(OPEN_KERNEL, None)
    return str(page.evaluate(PRINTED_BY_KERNEL, "import socket; print(socket.gethostname())")).strip()


def seconds_until_closed(page: Page, since: float) -> float:
    """Wait for the close event of the WebSocket of OPEN_KERNEL; ``since`` is time.time() at the cause."""
    closed = page.wait_for_function("window.closedAt").json_value()
    return float(closed) / 1000 - since


class Stopwatch:
    """Prints how long each of several steps took."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def lap(self, what: str) -> None:
        """Print the seconds since the beginning."""
        print(f"{time.monotonic() - self._began:6.2f} s  {what}")


def _key_hash(path: Path) -> str:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(key).digest()).decode("ascii")

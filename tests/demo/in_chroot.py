"""``make demo`` as somebody new meets it: a Debian with python3 and make alone, an account without rights.

Run as root, by ``make demo-chroot``: it makes the Debian with debootstrap below /var/tmp, copies the source
tree into it, measures, and removes it. pip gets this machine's own settings, whatever they are.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from playwright.sync_api import sync_playwright

from tests.demo.started import Talk
from tests.lab.environment import REPOSITORY
from tests.live import chromium
from tests.live.chromium import Visitor, run_first_cell

SUITE = "bookworm"
PACKAGES = "python3,python3-venv,make,ca-certificates"
#: What this machine may tell pip and TLS, beside PIP_... in the environment.
SETTINGS = (
    "/etc/pip.conf",
    "/etc/xdg/pip",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/ssl/certs/ca-certificates.crt",
)
USER_SETTINGS = (".config/pip", ".pip")
HOME = "/home/newcomer"
VARIABLES = ("PIP_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
#: Seconds for the worst of it: nothing in the cache, on a slow network.
PATIENCE = 600.0


def run(*words: str | Path, **more: object) -> None:
    subprocess.run([str(word) for word in words], check=True, **more)  # type: ignore[call-overload]


@contextmanager
def debian() -> Iterator[Path]:
    """Make a Debian and remove it; what is mounted in it goes with this process's own namespace."""
    root = Path(tempfile.mkdtemp(prefix="gateway-chroot-", dir="/var/tmp"))
    root.chmod(0o755)
    try:
        began = time.monotonic()
        words = ("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, root)
        run(*words, stdout=subprocess.DEVNULL)
        print(f"{time.monotonic() - began:6.1f} s  debootstrap")
        run("mount", "-t", "proc", "proc", root / "proc")
        run("mount", "--rbind", "/dev", root / "dev")
        yield root
    finally:
        for process in inside(root):
            process.kill()
        psutil.wait_procs(inside(root), timeout=10)
        for mounted in (root / "dev", root / "proc"):
            if mounted.is_mount():
                run("umount", "--recursive", "--lazy", mounted)
            assert not mounted.is_mount(), "what is mounted here is not to be removed"
        shutil.rmtree(root)


def inside(root: Path) -> list[psutil.Process]:
    """Return the processes whose root directory this is."""

    def lives_there(process: psutil.Process) -> bool:
        try:
            return Path(f"/proc/{process.pid}/root").readlink() == root
        except OSError:
            return False

    return [process for process in psutil.process_iter() if lives_there(process)]


def move_in(root: Path) -> Path:
    """Make the account, give it the sources and this machine's settings for pip, and return its home."""
    run("chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", "newcomer")
    home = root / HOME[1:]
    pairs = [(Path(name), root / name[1:]) for name in SETTINGS]
    pairs += [(Path.home() / name, home / name) for name in USER_SETTINGS]
    for source, target in pairs:
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            shutil.copyfile(source, target)
    files = ("git", "-C", REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run([str(word) for word in files], check=True, capture_output=True).stdout
    (home / "gateway").mkdir()
    pack = ["tar", "-C", str(REPOSITORY), "--null", "--files-from=-", "--ignore-failed-read", "--create"]
    packed = subprocess.run(pack, check=True, input=listed, capture_output=True).stdout
    run("tar", "-C", home / "gateway", "--extract", input=packed)
    run("chroot", root, "chown", "-R", "newcomer:", HOME)
    return home


def words(root: Path, *command: str) -> list[str]:
    """Return the words that run a command in there as the newcomer, who knows nothing but pip's settings."""
    kept = {name: value for name, value in os.environ.items() if name.upper().startswith(VARIABLES)}
    known = {"HOME": HOME, "PATH": "/usr/bin:/bin"} | kept
    enter = ("chroot", "--userspec=newcomer:newcomer", str(root), "env", "-i", f"--chdir={HOME}/gateway")
    return [*enter, *(f"{name}={value}" for name, value in known.items()), *command]


@contextmanager
def demo(root: Path, what: str, *command: str) -> Iterator[Talk]:
    """Start the demonstration and print how long it takes until it says where it is."""
    output = root / "home/output"
    began = time.monotonic()
    with output.open("wb") as file:
        process = subprocess.Popen(
            words(root, *command),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    talk = Talk(process, output)
    talk.wait(PATIENCE)
    print(f"{time.monotonic() - began:6.1f} s  {' '.join(command)} until it says where it is: {what}")
    try:
        yield talk
    finally:
        began = time.monotonic()
        talk.end(signal.SIGINT)
        print(f"{time.monotonic() - began:6.1f} s  Ctrl-C to its end")
        print(talk.said[talk.said.index("Starting the gateway") :])
        assert inside(root) == []
        assert list((root / "tmp").iterdir()) == []


def first_kernel(talk: Talk, root: Path) -> None:
    """Do what the newcomer does, as fast as one can, and print how long that takes."""
    with (
        sync_playwright() as playwright,
        chromium.launch(playwright, root / talk.root.relative_to("/") / "tls.pem") as browser,
    ):
        ada = Visitor(browser, talk.url, "ada", talk.passwords["ada"])
        began = time.monotonic()
        ada.page.goto(talk.url)
        print(f"{time.monotonic() - began:6.1f} s  the login page")
        ada.log_in()  # click 1
        ada.page.get_by_role("link", name="Start Default server").click()  # click 2
        ada.page.get_by_role("button", name="Start", exact=True).click()  # click 3
        ada.arrive()
        assert run_first_cell(ada.page, "6 * 7") == "42"  # click 4 makes the notebook
        print(f"{time.monotonic() - began:6.1f} s  and 4 clicks from there to the first cell's output")


def main() -> None:
    """Measure ``make demo`` with nothing there, with pip's cache, with all there; then a wheel."""
    if os.environ.get("GATEWAY_CHROOT") != "inside":
        os.environ["GATEWAY_CHROOT"] = "inside"
        again = ("unshare", "--mount", sys.executable, "-m", "tests.demo.in_chroot")
        os.execvp(again[0], again)
    with debian() as root:
        home = move_in(root)
        with demo(root, "nothing there", "make", "demo") as talk:
            first_kernel(talk, root)
        shutil.rmtree(home / "gateway/.venv")
        with demo(root, "with pip's cache", "make", "demo"):
            pass
        with demo(root, "all there", "make", "demo"):
            pass
        run(*words(root, "python3", "-m", "venv", f"{HOME}/venv"))
        run(*words(root, f"{HOME}/venv/bin/pip", "install", "--quiet", ".[demo]"), stderr=subprocess.DEVNULL)
        shutil.rmtree(home / "gateway")
        (home / "gateway").mkdir()
        with demo(root, "from a wheel", f"{HOME}/venv/bin/gateway", "demo") as talk:
            first_kernel(talk, root)


if __name__ == "__main__":
    main()

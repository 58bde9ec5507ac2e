"""docs/install.rst says what works: its commands are run in their order, on a machine that is thrown away."""

from __future__ import annotations

import configparser
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import systemd
from tests.lab.nodes import wait_until
from tests.lab.systemd import Systemd
from tests.packaging.test_wheel import Builder

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs/install.rst"
_BLOCK = re.compile(
    r"^(?P<indent> *)\.\. code-block:: \w+\n(?P=indent)   :class: (?P<kind>[\w-]+)\n\n"
    r"(?P<text>(?:(?P=indent)   .*\n|\n)+)",
    re.MULTILINE,
)
#: Where the machine has this process's packages: the units see nothing below /home, /root and /tmp.
_DEPENDENCIES = "/opt/dependencies"
_PYTHON = "/usr/bin/python3"
_NEEDS = (_PYTHON, "haproxy", "curl", "openssl", "ssh-keygen", "apt-get", "setpriv")
pytestmark = [pytest.mark.live, pytest.mark.xdist_group("install")]


def blocks(kind: str) -> list[str]:
    """Return the document's blocks of a kind, in their order."""
    found = _BLOCK.finditer(DOCUMENT.read_text())
    return [textwrap.dedent(match["text"]).strip() + "\n" for match in found if match["kind"] == kind]


def block(kind: str, words: str) -> str:
    """Return the one block of a kind that holds these words."""
    (found,) = [text for text in blocks(kind) if words in text]
    return found


class Install:
    """A machine, and how far the document has been followed on it."""

    def __init__(self, machine: Systemd, environment: dict[str, str]) -> None:
        self.machine = machine
        self._environment = environment
        self._todo = blocks("run")

    def follow_to(self, words: str) -> str:
        """Run the blocks up to and with the next one that holds these words; return what that one printed."""
        while self._todo:
            text = self._todo.pop(0)
            said = self.machine.shell(text, timeout=120, env=self._environment)
            installed = Path(f"/proc/{self.machine.pid}/root/opt/gateway")
            for home in installed.glob("*/lib/python3*/site-packages"):
                (home / "dependencies.pth").write_text(f"{_DEPENDENCIES}\n")
            if words in text:
                return said
        raise AssertionError(f"no block holds {words!r} any more")

    def left(self) -> int:
        """Return how many blocks have not been run."""
        return len(self._todo)


@pytest.fixture(scope="module")
def install(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Install]:
    """A copy of this machine without network; dependencies are not installed but borrowed."""
    lacks = [program for program in _NEEDS if not shutil.which(program)]
    if why := systemd.missing() or ", ".join(lacks):
        pytest.skip(f"missing: {why}")
    this = f"{sys.version_info.major}.{sys.version_info.minor}"
    said = subprocess.run([_PYTHON, "-V"], capture_output=True, text=True, check=True).stdout
    if not said.startswith(f"Python {this}."):
        pytest.skip(f"{_PYTHON} is not {this}, for which this process has the dependencies")
    directory = tmp_path_factory.mktemp("install")
    builder = Builder(directory)
    builder.fetch_tools()
    environment = {
        "PYTHONPATH": str(directory / "tools"),
        **dict.fromkeys(("PIP_NO_INDEX", "PIP_NO_DEPS", "PIP_DISABLE_PIP_VERSION_CHECK"), "1"),
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads the options that begin with "no" the other way round
        "DEBIAN_FRONTEND": "noninteractive",
    }
    mark = f"gateway-install-{secrets.token_hex(4)}"
    enter = ["unshare", "--net", "--uts", "--mount", "--propagation=private", "--"]
    with systemd.booted(enter, mark, directory / "systemd.log", "etc opt var usr root home") as machine:
        machine.shell(
            f"mkdir {_DEPENDENCIES}; mount --bind {sysconfig.get_path('purelib')} {_DEPENDENCIES}; "
            f"ip link set lo up; cp -a {directory}/source /usr/src/gateway; "
            "cp -a /usr/src/gateway /usr/src/gateway-0.2.0; rm -rf /opt/gateway; "
            "sed -i 's/0\\.1\\.0/0.2.0/' /usr/src/gateway-0.2.0/gateway/__init__.py"
        )
        yield Install(machine, environment)


def version(install: Install) -> str:
    """Return the version that the hub says it is, through HAProxy."""
    words = ("curl", "-sS", "--fail", "--cacert", "/root/cert.pem")
    there = ("--resolve", "gateway.example.org:443:127.0.0.1", "https://gateway.example.org/hub/api/")
    return install.machine.run(*words, *there).stdout


def test_the_debian_section_ends_with_a_gateway_that_answers(install: Install) -> None:
    install.follow_to("gateway generate-config")
    install.machine.shell("echo secret >/etc/gateway/ldap-password")
    install.follow_to("systemctl enable --now")
    assert '"status": "ok"' in install.follow_to("/hub/api/health")
    owners = "stat -c '%U %a' /etc/gateway/tls.pem /run/gateway /var/lib/gateway"
    assert install.machine.shell(owners).split() == ["gateway", "600", "gateway", "710", "gateway", "700"]
    assert '"0.1.0"' in version(install)


def test_the_renewal_hook_gives_haproxy_the_new_certificate(install: Install) -> None:
    hook = "/etc/letsencrypt/renewal-hooks/deploy/gateway"
    install.machine.shell(
        f"""
        d=/root/live/gateway.example.org
        mkdir -p $d /root/live/other
        cp /root/cert.pem $d/fullchain.pem
        cp /root/key.pem $d/privkey.pem
        echo '# renewed' >>$d/privkey.pem
        RENEWED_LINEAGE=/root/live/other {hook}
        if grep -q '# renewed' /etc/gateway/tls.pem; then exit 1; fi
        RENEWED_LINEAGE=$d {hook}
        stat -c '%U %a' /etc/gateway/tls.pem | grep -qx 'gateway 600'
        """
    )
    copy = ("grep", "-q", "# renewed", "/run/gateway/haproxy/public-0.pem")
    wait_until(
        lambda: not install.machine.run(*copy, check=False).returncode, "HAProxy has it", timeout=15, step=0.1
    )


def test_a_backup_is_restored(install: Install) -> None:
    install.follow_to("gateway backup /var/backups/gateway/monday")
    kept = """
        cd /var/lib/gateway
        find . -name '*.key' -o -name '*.pem' | sort | xargs sha256sum
        stat -c '%n %U %G %a' . ca ca/* secret.key gateway.sqlite
        echo 'import sqlite3; database = sqlite3.connect("gateway.sqlite")' >/root/meta.py
        echo 'print(*database.execute("select value from meta"))' >>/root/meta.py
        python3 /root/meta.py
    """
    before = install.machine.shell(kept)
    install.follow_to("tar --extract")
    assert install.machine.shell(kept) == before
    assert '"0.1.0"' in version(install)


def test_an_upgrade_and_the_way_back(install: Install) -> None:
    install.follow_to("gateway db upgrade")
    assert '"0.2.0"' in version(install)
    install.follow_to("ln -sfn /opt/gateway/0.1.0")
    assert '"0.1.0"' in version(install)


def test_monitoring_gets_its_figures(install: Install) -> None:
    assert install.follow_to("/hub/metrics").startswith("# HELP gateway_")
    assert install.left() == 0


def test_the_supervisor_example_ends_the_hub_alone() -> None:
    (text,) = blocks("supervisor")
    parser = configparser.ConfigParser()
    parser.read_string(text)
    program = parser["program:gateway"]
    assert program["command"].split()[:2] == ["/usr/local/bin/gateway", "run"]
    assert not program.getboolean("killasgroup")
    assert not program.getboolean("stopasgroup")


def test_logrotate_understands_its_example(tmp_path: Path) -> None:
    if not (logrotate := shutil.which("logrotate") or shutil.which("logrotate", path="/usr/sbin")):
        pytest.skip("logrotate is not installed")
    (text,) = blocks("logrotate")
    (tmp_path / "gateway").write_text(text)
    words = [logrotate, "--debug", "--state", str(tmp_path / "state"), str(tmp_path / "gateway")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 0
    assert "error" not in done.stderr

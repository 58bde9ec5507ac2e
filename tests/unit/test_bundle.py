"""``gateway bundle``: what helps is in it, no secret is, and names only where they are wanted."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import secrets
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.config import SECTIONS
from gateway.lifecycle import Event
from gateway.model import Secrets, User
from gateway.pki import Authority
from gateway.store import Database, ServerStore, SessionStore, upgrade
from gateway.store.sealed import Seal
from gateway.support.archive import Archive
from gateway.support.contents import SHOWN
from gateway.timeline import Happening
from tests.unit.test_cli import SITE
from tests.unit.test_store import SERVER

BOB = replace(SERVER, id="bbbbbbbbbb", user="bob", name="exp1")


@dataclass
class Planted:
    """A gateway's directories with a secret of every kind wherever one could stand."""

    directory: Path
    password: str = "c0rrect horse"
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    cookie_hash: str = field(default_factory=lambda: secrets.token_hex(32))
    key_pem: str = (
        "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0waw\n-----END PRIVATE KEY-----\n"
    )
    database_password: str = "p@ss/w0rd%"

    def __post_init__(self) -> None:
        self.state, self.run = self.directory / "state", self.directory / "run"
        for place in (self.state, self.run / "t/cascade/0", self.directory / "sites"):
            place.mkdir(parents=True, mode=0o700)
        Authority.open(self.state / "ca")
        (self.directory / "password").write_text(self.password + "\n")
        (self.directory / "tls.pem").write_text(self.key_pem)
        sentence = self.everything()
        (self.directory / "sites/cascade.yaml").write_text(f"{SITE}# token: {self.token}\n")
        (self.run / "t/cascade/0/log").write_text(f"ssh: no route\n{sentence}\n")
        (self.run / "t/cascade/0/aaaaaaaaaa.1.to").write_text("cn1 20001")
        (self.directory / "hub.log").write_text(
            f"INFO [alice/ lab] is wanted\n{sentence}\n[mallory/] refused\n"
        )
        self.configure()
        asyncio.run(self._fill())

    def configure(self, url: str = "") -> None:
        config = self.directory / "gateway_config.py"
        config.write_text(
            f"c.Gateway.state_dir = '{self.state}'\nc.Gateway.run_dir = '{self.run}'\n"
            f"c.Gateway.site_dir = '{self.directory}/sites'\nc.Gateway.database_url = {url!r}\n"
            f"c.Gateway.tls_certificate = '{self.directory}/tls.pem'\nc.Ldap.user_base = 'ou=people'\n"
            f"c.Ldap.reader_password_file = '{self.directory}/password'\n# {self.everything()!r}\n"
        )

    def everything(self) -> str:
        """Return a line of a log that tells all that it should not."""
        words = [
            f"bind with {self.password} failed; /lab?token={self.token}",
            f"Cookie: __Host-gateway-route={self.cookie} grant {self.cookie_hash} {self.token}",
            f"{self.key_pem}{self.key_pem.splitlines()[1]} {self.database_password}",
        ]
        return " ".join(words)

    async def _fill(self) -> None:
        url = f"sqlite+aiosqlite:///{self.state}/gateway.sqlite"
        await upgrade(url)
        later = datetime.now(UTC) + timedelta(hours=1)
        async with Database(url) as database:
            sessions = SessionStore(database)
            store = ServerStore(database, Seal.open(self.state / "secret.key"))
            await sessions.login(User("alice"), self.cookie_hash, later)
            for server in (SERVER, BOB):
                await store.create(server, Secrets(self.token, self.key_pem, "certificate"))
                await store.move(server.id, Event.SUBMIT, f"Handing it over. {self.token}")
                store.timeline.add(server, Happening.TROUBLE, "No answer.", self.everything())
            await sessions.add_grants(self.cookie_hash, self.cookie_hash, [SERVER.id], later)
            await store.timeline.write()

    def secrets(self) -> list[str]:
        keys = [path.read_text() for path in (self.state / "ca").iterdir() if "PRIVATE" in path.read_text()]
        lines = [line for key in keys for line in key.splitlines() if "-----" not in line and len(line) > 60]
        assert lines
        own = [self.password, self.token, self.cookie, self.cookie_hash, self.key_pem.splitlines()[1]]
        return [*own, (self.state / "secret.key").read_text().strip(), *lines]


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path)


Bundle = Callable[..., dict[str, str]]


@pytest.fixture
def bundle(planted: Planted, capsys: pytest.CaptureFixture[str]) -> Bundle:
    def run(*words: str) -> dict[str, str]:
        """Return what is in the archive, by path; words after the usual ones."""
        path = planted.directory / "out.tar.gz"
        path.unlink(missing_ok=True)
        config = str(planted.directory / "gateway_config.py")
        log = str(planted.directory / "hub.log")
        words = ("bundle", "-f", config, "-o", str(path), "--log", log, "--no-doctor", *words)
        assert main(words) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert str(path) in out
        assert path.stat().st_mode & 0o777 == 0o600
        with tarfile.open(path) as archive:
            members = {member.name: archive.extractfile(member) for member in archive.getmembers()}
            return {name: file.read().decode() for name, file in members.items() if file}

    return run


def test_no_secret_is_in_it_wherever_it_was_planted(planted: Planted, bundle: Bundle) -> None:
    texts = bundle()
    found = gzip.decompress((planted.directory / "out.tar.gz").read_bytes()).decode()
    for secret in planted.secrets():
        assert secret not in found
    assert "[hidden]" in texts["gateway-bundle/hub.log"]
    assert "[hidden]" in texts["gateway-bundle/timelines.txt"]
    assert "[hidden]" in texts["gateway-bundle/sites/cascade.yaml"]


@pytest.mark.parametrize("port", [1, "not-a-port"])
def test_a_password_in_the_databases_address_is_in_none_of_its_errors(
    planted: Planted, bundle: Bundle, port: object
) -> None:
    quoted = "p%40ss%2Fw0rd%25"
    planted.configure(f"postgresql+asyncpg://gw:{quoted}@127.0.0.1:{port}/gw?password=0ther-pw")
    texts = bundle()
    assert "not available" in texts["gateway-bundle/database.json"]
    everything = "".join(texts.values())
    for secret in (quoted, planted.database_password, "0ther-pw"):
        assert secret not in everything


def test_what_helps_is_in_it(planted: Planted, bundle: Bundle) -> None:
    texts = {name.removeprefix("gateway-bundle/"): text for name, text in bundle().items()}
    assert re.search(r"^gateway: \S+\n(?:.*\n)*python: 3\.\d+\.\d+ ", texts["about.txt"])
    assert "sqlalchemy: 2." in texts["about.txt"]
    assert f"c.Gateway.state_dir = '{planted.state}'" in texts["settings.txt"]
    assert f"c.Ldap.reader_password_file = '{planted.directory}/password'" in texts["settings.txt"]
    assert "c.Gateway.database_url = (not set)" in texts["settings.txt"]
    assert "name: cascade" in texts["sites/cascade.yaml"]
    assert re.search(rf"^100600 \S+ +\d+ \S+ {planted.state}/secret.key$", texts["files.txt"], re.MULTILINE)
    rows = json.loads(texts["database.json"])["rows"]
    assert (rows["servers"], rows["grants"], rows["servers submitting"]) == (2, 1, 2)
    assert "alice/ on lab: submitting" in texts["timelines.txt"]
    assert "bob/exp1 on lab: submitting" in texts["timelines.txt"]
    assert "ssh: no route" in texts["tunnels.txt"]
    assert "process: not there" in texts["tunnels.txt"]
    assert "is wanted" in texts["hub.log"]
    assert texts["haproxy.txt"].startswith("not available: HAProxy does not answer")
    assert "doctor.json" not in texts


def test_one_servers_timeline_is_told_on_request(bundle: Bundle) -> None:
    told = bundle("--server", "bob/exp1")["gateway-bundle/timelines.txt"]
    assert "bob/exp1" in told
    assert "alice/" not in told


def test_people_are_called_the_same_everywhere_and_not_by_their_names(bundle: Bundle) -> None:
    texts = bundle("--anonymous")
    everything = "".join(texts.values())
    for name in ("alice", "bob", "mallory"):
        assert name not in everything
    assert "user-1/ on lab: submitting" in texts["gateway-bundle/timelines.txt"]
    assert "INFO [user-1/ lab] is wanted" in texts["gateway-bundle/hub.log"]
    assert "user-2/exp1 on lab" in texts["gateway-bundle/timelines.txt"]


def test_a_setting_is_shown_only_if_somebody_has_said_that_it_may_be() -> None:
    for name, section in SECTIONS.items():
        assert SHOWN[name] <= set(section.class_trait_names(config=True)), "a name that is no setting"
    assert "database_url" not in SHOWN["Gateway"]


def test_a_file_that_is_there_is_not_overwritten(
    planted: Planted, capsys: pytest.CaptureFixture[str]
) -> None:
    path = planted.directory / "precious"
    path.write_text("precious")
    config = str(planted.directory / "gateway_config.py")
    assert main(["bundle", "-f", config, "-o", str(path), "--no-doctor"]) == 1
    assert "name another file with -o" in capsys.readouterr().err
    assert path.read_text() == "precious"


def test_another_user_is_told_whom_to_be(
    planted: Planted, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 65_123)
    assert main(["bundle", "-f", str(planted.directory / "gateway_config.py")]) == 1
    assert "run this with sudo -u" in capsys.readouterr().err


def test_names_of_people_are_replaced_as_words_only() -> None:
    archive = Archive(())
    archive.add(
        "a", "al at https://al.gw.example.org/user/al/lab, not at all; /home/zoe/x [joe.doe/exp1 lab]"
    )
    archive.forget_names(["al"])
    said = "user-1 at https://user-1.gw.example.org/user/user-1/lab, not at all; "
    assert archive._texts == {"a": f"{said}/home/user-3/x [user-2/exp1 lab]"}


def anonymous(text: str, *people: str) -> str:
    archive = Archive(())
    archive.add("a", text)
    archive.forget_names(people)
    return archive._texts["a"]


@pytest.mark.parametrize(
    "said",
    [
        "connected to zoe@login1:22",
        "zoe@10.1.2.3: refused",
        'SSH certificate: serial 1, id "x", principal zoe, cluster lab',
        "Forbidden: the gateway never acts for the account 'zoe'",
        "login of zoe from 10.1.2.3 refused: zoe: 49 invalidCredentials",
        "login from 2001:db8::7 refused: zoe: not in cn=gateway",
        "login of 'zoe' from 10.1.2.3: 49",
        "login of 'Tr0ub4dor&3' from 10.1.2.3: malformed user name",
        "[zoe/] logged in from ::ffff:10.1.2.3",
        "10.1.2.3:51234 [01/Mar/2026:12:00:00.000] public",
        "2001:db8::7:51234 [01/Mar/2026:12:00:00.000] public",
    ],
)
def test_no_form_of_a_log_tells_who_somebody_was_or_where(said: str) -> None:
    told = anonymous(said)
    for name in ("zoe", "Tr0ub4dor", "10.1.2.3", "2001:db8"):
        assert name not in told


def test_an_address_has_one_new_name_and_this_hosts_own_stay() -> None:
    said = "login of zoe from 10.1.2.3 refused: x; 10.1.2.3:99, ::ffff:10.1.2.3, 2001:db8::7, 127.0.0.1:1"
    told = anonymous(said + " [::1]:2 at 12:00:00 on HAProxy 2.6.12; from 10.1.2.4.")
    assert told == (
        "login of user-1 from address-1 refused: x; address-1:99, address-1, address-2, 127.0.0.1:1 [::1]:2"
        " at 12:00:00 on HAProxy 2.6.12; from address-3."
    )


def test_what_was_typed_in_place_of_a_name_is_called_by_the_name_or_hidden() -> None:
    assert anonymous("login of 'Alice' from ::1: x", "alice") == "login of 'user-1' from ::1: x"
    assert anonymous('login of "it\'s" from ::1: x') == "login of '[hidden]' from ::1: x"


JOURNALCTL = """\
#!/bin/sh
case "$1" in
--unit=gateway-hub) seq 30000 | sed 's/^/a line of the hub, number /' | tac;;
--unit=gateway-haproxy) echo "$*"; exit 0;;
*) echo "-- No entries --"; echo "Hint: You are currently not seeing messages from other users" >&2;;
esac
"""


def test_of_the_units_the_newest_lines_are_in_it_and_where_there_are_none_what_to_do(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = planted.directory / "bin/journalctl"
    program.parent.mkdir()
    program.write_text(JOURNALCTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    path = planted.directory / "out.tar.gz"
    config = str(planted.directory / "gateway_config.py")
    assert main(["bundle", "-f", config, "-o", str(path), "--no-doctor"]) == 0
    with tarfile.open(path) as archive:
        files = {
            name: archive.extractfile(f"gateway-bundle/{name}.log") for name in ("hub", "haproxy", "tunnels")
        }
        texts = {name: file.read().decode() for name, file in files.items() if file}
    lines = texts["hub"].splitlines()
    assert lines[-1] == "a line of the hub, number 30000"
    assert 5000 < len(lines) < 30000
    assert lines == [f"a line of the hub, number {number}" for number in range(30001 - len(lines), 30001)]
    assert "--reverse" in texts["haproxy"]
    assert texts["tunnels"].startswith(
        "not available: the journal shows nothing of gateway-tunnels (Hint: You"
    )
    assert "usermod --append --groups systemd-journal" in texts["tunnels"]


def test_without_a_journal_it_is_said_what_to_do(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    texts = bundle()
    assert "journalctl: No such file" in texts["gateway-bundle/haproxy.log"]
    assert "--log FILE" in texts["gateway-bundle/tunnels.log"]

"""The command line: what each command prints, and that a fault is one sentence and exit status 1."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from gateway import __version__, rendering
from gateway.cli import main
from gateway.discovery import Discovery, Room
from gateway.errors import ConfigError, InvalidChoice
from gateway.model import Choices, User
from gateway.options import check, from_strings
from gateway.parts import user_nodes
from gateway.pki import Authority
from gateway.script import preview_facts
from gateway.siteconfig import parse_site_config
from gateway.sitemerge import complete, merge
from gateway.sites import check_together, read_source
from gateway.store import Database, SessionStore, SiteViewStore

SITE = """\
version: 1
name: cascade
title: Cascade
scheduler: slurm
login: {hosts: [login1], user: svc, key: /etc/k, known_hosts: /etc/h, act_as: sudo}
partitions:
  - {name: short, max_walltime: 1h, max_cores: 4, max_memory: 8G}
applications:
  - {name: lab, title: JupyterLab, command: [jupyter, lab]}
"""


class Console:
    """Runs commands in this process; the configuration's files are in ``directory``."""

    def __init__(self, directory: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.config = directory / "gateway_config.py"
        self.state = directory / "state"
        self._capture = capture

    def configure(self, text: str = "") -> None:
        sites = self.directory / "sites"
        sites.mkdir(exist_ok=True)
        (sites / "cascade.yaml").write_text(SITE)
        self.config.write_text(
            f"c.Gateway.state_dir = '{self.state}'\nc.Gateway.run_dir = '{self.directory}/run'\n"
            f"c.Gateway.site_dir = '{sites}'\n{text}"
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        """Return the exit status, standard output and standard error."""
        try:
            status = main(words)
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = self._capture.readouterr()
        return status, out, err

    def output(self, *words: str) -> str:
        status, out, err = self.run(*words)
        assert (status, err) == (0, "")
        return out

    def fault(self, *words: str) -> str:
        """Return the one line on standard error of a command that fails."""
        status, out, err = self.run(*words)
        assert (status, out) == (1, "")
        assert err.count("\n") == 1
        return err.strip()


@pytest.fixture
def console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Console]:
    console = Console(tmp_path, capsys)
    console.configure()
    umask = os.umask(0o022)
    yield console
    os.umask(umask)


# --- help, version --------------------------------------------------------------------------------------


def test_the_version_is_the_packages(console: Console) -> None:
    assert console.output("--version") == f"gateway {__version__}\n"


@pytest.mark.parametrize(
    "command", ["", "run", "check", "render", "launcher", "ca", "token", "db", "db upgrade"]
)
def test_each_command_tells_what_it_does(console: Console, command: str) -> None:
    text = console.output(*command.split(), "--help")
    assert text.startswith(f"usage: gateway {command}".rstrip())


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word() -> None:
    words = [sys.executable, "-m", "gateway", "schema"]  # far more than the pipe holds
    pipe = subprocess.PIPE
    with subprocess.Popen(words, bufsize=0, pipesize=4096, stdout=pipe, stderr=pipe) as command:
        assert command.stdout is not None  # it was asked for
        assert command.stderr is not None
        assert command.stdout.read(1) == b"{"
        command.stdout.close()
        assert command.stderr.read() == b""
    assert command.returncode == 128 + signal.SIGPIPE


def test_all_commands_are_listed(console: Console) -> None:
    text = console.output("--help")
    for command in ("run", "check", "render", "launcher", "token", "db"):
        assert f"\n    {command} " in text


def test_a_word_that_is_no_command_is_told(console: Console) -> None:
    assert console.run("serve")[0] == 2
    assert console.run()[0] == 2


# --- run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("", "{config}: set c.Gateway.public_url: "),
        ("c.Gateway.public_url = 'https://gw.example.org'\n", "{config}: set c.Gateway.tls_certificate: "),
        (
            "c.Gateway.public_url = 'https://gw'\nc.Gateway.tls_certificate = '/nonexistent.pem'\n",
            "{config}: c.Gateway.tls_certificate: /nonexistent.pem: No such file or directory",
        ),
        ("c.Gateway.bind = [\n", "{config}:4: '[' was never closed"),
    ],
)
def test_a_gateway_that_cannot_start_says_why_and_makes_nothing(
    console: Console, settings: str, words: str
) -> None:
    console.configure(settings)
    assert console.fault("run", "-f", str(console.config)).startswith(words.format(config=console.config))
    assert not console.state.exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("c.Ldap.ca_file = '{0}/none.pem'", "the directory's CA cannot be read: No such file or directory"),
        ("c.Ldap.reader_password_file = '{0}/none'", "the directory reader's password cannot be read: "),
        (
            "c.Ldap.servers = ['ldaps://directory/']",
            "directory server 'ldaps://directory/': write it as HOST",
        ),
        ("c.Ldap.user_base = 'people'", "DN 'people': "),
        (
            "c.Ldap.user_dn = 'uid={{name}},dc=example,dc=org'",
            "remove c.Ldap.reader_dn and c.Ldap.reader_password_file, or remove c.Ldap.user_dn",
        ),
        ("c.Ldap.reader_dn = ''", "set c.Ldap.reader_dn: Who looks people up, if user_dn is not set."),
        ("c.Gateway.public_url = 'http://gw/'", "public_url: http://gw/: write it as https://"),
        ("c.Gateway.site_dir = '{0}/none'", "there is no site config (*.yaml) in this directory"),
        ("c.Gateway.state_dir = '{0}/tls.pem'", "/tls.pem cannot be used: File exists"),
    ],
)
def test_what_the_hub_needs_is_checked_before_anything_starts(
    console: Console, setting: str, words: str
) -> None:
    here = console.directory
    (here / "tls.pem").touch()
    (here / "password").touch(0o600)
    (here / "password").write_text("secret")
    authority = Authority.open(here / "ca").node_ca
    console.configure(
        "c.Gateway.public_url = 'https://gw.example.org/'\n"
        f"c.Gateway.tls_certificate = '{here}/tls.pem'\n"
        "c.Ldap.servers = ['ldap.example.org']\n"
        f"c.Ldap.ca_file = '{authority}'\n"
        "c.Ldap.reader_dn = 'cn=reader,dc=example,dc=org'\n"
        f"c.Ldap.reader_password_file = '{here}/password'\n"
        "c.Ldap.user_base = 'ou=people,dc=example,dc=org'\n"
        f"{setting.format(here)}\n"
    )
    assert words in console.fault("run", "-f", str(console.config))
    assert not (here / "run/hub.sock").exists()


LOCAL = """
version: 1
name: workstation
title: Workstation
scheduler: local
login: {transport: local, user: gateway, act_as: service, bin: /q/bin, state_dir: /s}
tunnel: direct
partitions: [{name: all, max_walltime: 1h, max_cores: 4, max_memory: 8G}]
applications: [{name: lab, title: JupyterLab, command: [jupyter, lab]}]
"""


@pytest.mark.parametrize(
    ("site", "beside", "words", "said"),
    [
        (LOCAL, SITE, (), "can read its keys, those of cascade too: give workstation a gateway of its own"),
        (LOCAL, None, ("--dataplane", "managed"), '"Without systemd" in docs/install.rst'),
        (LOCAL.replace("service", "sudo"), SITE, ("--dataplane", "managed"), '"Without systemd"'),
    ],
)
def test_a_cluster_on_the_gateways_own_host_is_refused_where_it_does_harm(
    console: Console, site: str, beside: str | None, words: tuple[str, ...], said: str
) -> None:
    (console.directory / "tls.pem").touch()
    console.configure(
        "c.Gateway.public_url = 'https://gw.example.org/'\n"
        f"c.Gateway.tls_certificate = '{console.directory}/tls.pem'\n"
    )
    for name, text in (("workstation", site), ("cascade", beside)):
        path = console.directory / f"sites/{name}.yaml"
        path.write_text(text) if text else path.unlink()
    fault = console.fault("run", "-f", str(console.config), *words)
    assert fault.startswith("workstation: ")
    assert said in fault
    assert not console.state.exists()


def test_jobs_of_the_gateways_own_account_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    local = parse_site_config(LOCAL, "workstation.yaml")
    check_together([local], managed=False)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "every user's job is the gateway's own account" in record.message
    caplog.clear()
    by_sudo = parse_site_config(LOCAL.replace("service", "sudo"), "workstation.yaml")
    check_together([by_sudo, parse_site_config(SITE, "cascade.yaml")], managed=False)
    assert not caplog.records


# --- check ----------------------------------------------------------------------------------------------


def test_good_site_configs_are_named_each(console: Console) -> None:
    path = console.directory / "sites/cascade.yaml"
    assert console.output("check", str(path)) == f"{path}: ok: Cascade (cascade, slurm), 1 partition\n"


def test_certificates_that_are_good_from_anywhere_are_warned_of(console: Console) -> None:
    path = console.directory / "sites/cascade.yaml"
    path.write_text(SITE.replace("act_as: sudo", "act_as: certificate"))
    ok, warning = console.output("check", str(path)).splitlines()
    assert ok.startswith(f"{path}: ok: ")
    assert warning.startswith(f"{path}: warning: set login.source_addresses")
    path.write_text(SITE.replace("act_as: sudo", "act_as: certificate, source_addresses: [192.0.2.10]"))
    assert console.output("check", str(path)).count("\n") == 1


def test_faults_of_all_files_are_told_with_their_lines(console: Console) -> None:
    good, bad, none = (console.directory / name for name in ("sites/cascade.yaml", "bad.yaml", "none.yaml"))
    bad.write_text(SITE.replace("1h", "soon").replace("jupyter, lab", ""))
    status, out, err = console.run("check", str(bad), str(good), str(none))
    assert (status, err) == (1, "")
    assert out.splitlines() == [
        f"{bad}:7: partitions[0].max_walltime: write a walltime as 30m, 4h, 2d, HH:MM:SS or D-HH:MM:SS",
        f"{bad}:9: applications[0].command: there must be at least one",
        f"{good}: ok: Cascade (cascade, slurm), 1 partition",
        f"{none}:1: cannot be read: No such file or directory",
    ]


def test_clusters_that_one_gateway_must_not_serve_are_told_before_the_hub_refuses(console: Console) -> None:
    slurm, local = (console.directory / f"sites/{name}.yaml" for name in ("cascade", "workstation"))
    local.write_text(LOCAL)
    assert console.run("check", str(local), str(local))[::2] == (0, "")
    status, out, err = console.run("check", str(local), str(slurm))
    assert (status, err) == (1, "")
    fault = out.splitlines()[-1]
    assert fault.startswith("workstation: ")
    assert "can read its keys, those of cascade too: give workstation a gateway of its own" in fault


# --- render ---------------------------------------------------------------------------------------------


def test_the_script_of_a_cluster_is_printed_with_what_was_chosen(console: Console) -> None:
    words = ("--user", "alice", "-o", "walltime=25m", "-o", "cores=2", "-f", str(console.config))
    script = console.output("render", "cascade", *words)
    assert script.startswith("#!/bin/sh\n")
    for line in ("--partition=short", "--time=25", "--cpus-per-task=2", "--job-name=gw-aaaaaa-aaaaaaaaaa"):
        assert f"\n#SBATCH {line}\n" in script
    assert "/user/alice/" in script


def test_a_site_configs_file_needs_no_configuration(console: Console) -> None:
    path = str(console.directory / "sites/cascade.yaml")
    assert console.output("render", path, "--user", "alice", "-f", "/nonexistent") == console.output(
        "render", "cascade", "--user", "alice", "-f", str(console.config)
    )


def test_a_further_server_has_its_own_address(console: Console) -> None:
    path = str(console.directory / "sites/cascade.yaml")
    assert "/user/alice/exp-1/" in console.output("render", path, "--user", "alice", "--server", "exp-1")


def test_where_the_service_account_runs_the_jobs_the_script_is_its(console: Console) -> None:
    path = console.directory / "service.yaml"
    path.write_text(SITE.replace("act_as: sudo", "act_as: service, state_dir: /scratch/%u"))
    script = console.output("render", str(path), "--user", "alice")
    assert "/scratch/svc/aaaaaaaaaa" in script
    assert "/scratch/alice" not in script


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nowhere", "--user", "alice"), "There is no cluster nowhere; there is cascade."),
        (("cascade", "--user", "Alice Adams"), "'Alice Adams' is not an account's name."),
        (
            ("cascade", "--user", "alice", "-o", "partition=x"),
            "There is no partition 'x'. There is: short.",
        ),
        (("cascade", "--user", "alice", "-o", "uid=0"), "Cascade has no such field: 'uid'."),
        (
            ("cascade", "--user", "alice", "-o", "walltime=2h"),
            "The longest walltime on short is 1 hour.",
        ),
        (
            ("cascade", "--user", "alice", "-o", "walltime"),
            "Write an option as key=value, not as 'walltime'.",
        ),
        (
            ("cascade", "--user", "alice", "-o", "cores=1", "-o", "cores=2"),
            "'cores' is there more than once.",
        ),
    ],
)
def test_what_cannot_be_submitted_is_not_rendered(
    console: Console, words: tuple[str, ...], sentence: str
) -> None:
    assert console.fault("render", *words, "-f", str(console.config)) == sentence


class Remembered:
    """A hub's memory: what the scheduler said, and that alice has logged in."""

    def __init__(self, console: Console, empty: Path) -> None:
        console.state.mkdir(mode=0o700)
        shutil.copy(empty, console.state / "gateway.sqlite")
        path = console.directory / "sites/cascade.yaml"
        closed = "partitions: [{name: long, max_walltime: 1d, groups: [staff]}]\n"
        path.write_text(SITE + "qos: [gold]\n")
        self.drop_in = ("version: 1\n" + closed, "login1:/etc/gateway/site.d/1.yaml")
        rooms = (Room("short", max_cores=4),)
        self.discovery = Discovery(rooms, accounts={"alice": ("p1",)}, qos={"alice": ("gold",), "bob": ()})
        self.alice = User("alice", groups=frozenset({"guests"}))
        self.site = complete(merge(read_source(path), [self.drop_in]), self.discovery)
        asyncio.run(self._keep(f"sqlite+aiosqlite:///{console.state}/gateway.sqlite"))

    async def _keep(self, url: str) -> None:
        async with Database(url) as database:
            said = TypeAdapter(Discovery).dump_python(self.discovery, mode="json")
            value = {"drop_ins": [list(self.drop_in)], "discovery": said}
            await SiteViewStore(database).save("cascade", value)
            await SessionStore(database).login(self.alice, "hash", datetime.now(UTC) + timedelta(hours=1))

    def chosen(self, words: list[str]) -> Choices | str:
        """Return what the form makes of alice's words: choices, or why not."""
        sites, discoveries = {"cascade": self.site}, {"cascade": self.discovery}
        try:
            return check(sites, from_strings("cascade", words), self.alice, discoveries)
        except InvalidChoice as error:
            return error.public


@pytest.mark.parametrize(
    "words",
    [
        ["qos=gold", "cores=4"],
        ["account=p1"],
        ["account=p2"],
        ["partition=long"],
        ["cores=5"],
        ["qos=lead"],
        ["constraint=ssd"],
    ],
    ids=",".join,
)
def test_what_a_hub_knows_of_is_checked_as_the_form_checks_it(
    console: Console, empty_database: Path, words: list[str]
) -> None:
    known = Remembered(console, empty_database)
    options = [text for word in words for text in ("-o", word)]
    said = ("render", "cascade", "--user", "alice", *options, "-f", str(console.config))
    choices = known.chosen(words)
    if isinstance(choices, str):
        assert console.fault(*said) == choices
        return
    script = console.output(*said)
    facts = re.search(r"--job-name=gw-([a-z2-7]{6})", script)
    assert facts
    form = preview_facts("alice", "", facts[1], known.site, "")
    assert script == asyncio.run(rendering.render(known.site, choices, form))


def test_of_somebody_who_has_never_logged_in_no_group_is_asked_for(
    console: Console, empty_database: Path
) -> None:
    Remembered(console, empty_database)
    words = ("--user", "bob", "-f", str(console.config))
    status, script, said = console.run("render", "cascade", "-o", "partition=long", *words)
    assert (status, "--partition=long\n" in script) == (0, True)
    assert "bob has never logged in" in said
    status, _, said = console.run("render", "cascade", "-o", "qos=gold", *words)
    assert (status, "qos" in said) == (1, True), "what the scheduler has for bob is known"


def test_a_server_that_may_not_be_called_so_is_not_rendered(console: Console) -> None:
    path = str(console.directory / "sites/cascade.yaml")
    said = console.fault("render", path, "--user", "alice", "--server", "A B")
    assert said.startswith("A server's name has 1 to 32 small letters")


# --- launcher -------------------------------------------------------------------------------------------


def test_the_launcher_is_printed_as_it_is_installed(console: Console) -> None:
    source = Path(main.__code__.co_filename).parent / "launcher/gateway-launcher"
    assert console.output("launcher") == source.read_text()


def test_the_sudoers_lines_name_account_group_and_path(console: Console) -> None:
    words = ("--sudoers", "--account", "svc", "--group", "hpc-users", "--path", "/opt/gw/launcher")
    text = console.output("launcher", *words)
    assert "\nsvc ALL=(%hpc-users) NOPASSWD: /opt/gw/launcher\n" in text
    assert "\nDefaults!/opt/gw/launcher !log_input, !log_output\n" in text


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("--group", "ALL"),
        ("--group", "users\nroot ALL"),
        ("--account", "svc,root"),
        ("--path", "/bin/sh, /x"),
        ("--path", "launcher"),
    ],
)
def test_what_would_be_syntax_in_a_sudoers_file_is_refused(console: Console, option: str, word: str) -> None:
    said = console.fault("launcher", "--sudoers", option, word)
    assert said == f"{word!r} cannot stand in a sudoers file."


def test_the_lines_for_sshd_name_group_addresses_and_files(console: Console) -> None:
    words = ("--sshd", "--group", "hpc-users", "--path", "/opt/gw/launcher", "--ca-file", "/etc/ssh/gw.pub")
    text = console.output("launcher", *words, "--address", "192.0.2.10", "--address", "2001:db8::/64")
    lines = [line.strip() for line in text.splitlines() if not line.startswith("#")]
    assert lines[0] == "Match User *,!root Group hpc-users Address 192.0.2.10,2001:db8::/64"
    assert lines[-1] == "Match all"
    for line in (
        "TrustedUserCAKeys /etc/ssh/gw.pub",
        "ForceCommand /opt/gw/launcher --ssh",
        "PermitTTY no",
        "AllowTcpForwarding no",
        "AllowStreamLocalForwarding no",
        "AllowAgentForwarding no",
        "PermitTunnel no",
        "PermitUserRC no",
    ):
        assert line in lines
    assert "#     PerSourcePenaltyExemptList 192.0.2.10,2001:db8::/64\n" in text
    assert "ignoreip in jail.local:\n#     192.0.2.10 2001:db8::/64\n" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "Name the gateway's address, as the login nodes see it: --address 192.0.2.10"),
        (("--address", "gw.example.org"), "--address gw.example.org: "),
        (("--address", "192.0.2.1/24"), "--address 192.0.2.1/24: "),
        (("--address", "192.0.2.1", "--group", "a,b"), "'a,b' cannot stand in sshd's configuration."),
        (("--address", "192.0.2.1", "--ca-file", "/x y"), "'/x y' cannot stand in sshd's configuration."),
    ],
)
def test_what_would_be_syntax_in_sshds_configuration_is_refused(
    console: Console, words: tuple[str, ...], sentence: str
) -> None:
    assert console.fault("launcher", "--sshd", *words).startswith(sentence)


# --- ca -------------------------------------------------------------------------------------------------


def test_a_ca_is_made_shown_and_replaced(console: Console) -> None:
    config = ("-f", str(console.config))
    made = console.output("ca", "init", *config)
    assert console.output("ca", "show", *config) == made
    rotated = console.output("ca", "rotate", *config)
    assert rotated.startswith(made)
    (new,) = set(public_keys(rotated)) - set(public_keys(made))
    finished = console.output("ca", "rotate", "--finish", *config)
    assert public_keys(finished) == [new, *public_keys(made)]
    assert "PRIVATE" not in made + rotated + finished


def public_keys(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_steps_of_a_ca_out_of_turn_say_which_comes_first(console: Console) -> None:
    config = ("-f", str(console.config))
    assert "gateway ca init" in console.fault("ca", "show", *config)
    assert "gateway ca init" in console.fault("ca", "rotate", *config)
    console.output("ca", "init", "--type", "ed25519", *config)
    assert "gateway ca rotate" in console.fault("ca", "init", *config)
    assert "gateway ca rotate" in console.fault("ca", "rotate", "--finish", *config)


def test_a_site_that_wants_certificates_needs_a_ca(console: Console) -> None:
    site = parse_site_config(SITE.replace("act_as: sudo", "act_as: certificate"), "cascade.yaml")
    with pytest.raises(ConfigError, match="gateway ca init"):
        user_nodes(site, console.state, "aaaaaa")
    console.output("ca", "init", "-f", str(console.config))
    assert user_nodes(site, console.state, "aaaaaa") is not None
    assert user_nodes(parse_site_config(SITE, "cascade.yaml"), console.state, "aaaaaa") is None


# --- token, db ------------------------------------------------------------------------------------------


def user_of(console: Console, token: str) -> User | None:
    async def ask() -> User | None:
        async with Database(f"sqlite+aiosqlite:///{console.state}/gateway.sqlite") as database:
            return await SessionStore(database).token_user(hashlib.sha256(token.encode()).hexdigest())

    return asyncio.run(ask())


def test_a_token_is_printed_once_and_only_its_hash_is_kept(console: Console) -> None:
    token = console.output("token", "alice", "-f", str(console.config)).strip()
    assert len(token) >= 43
    assert user_of(console, token) == User("alice")
    assert all(token.encode() not in path.read_bytes() for path in console.state.iterdir())
    assert all(path.stat().st_mode & 0o077 == 0 for path in (console.state, *console.state.iterdir()))


def test_a_token_of_an_administrator_is_asked_for(console: Console) -> None:
    token = console.output("token", "carol", "--admin", "-f", str(console.config)).strip()
    assert user_of(console, token) == User("carol", admin=True)


def test_a_token_ends_after_the_days_that_were_asked_for(console: Console) -> None:
    console.output("token", "alice", "--days", "2", "-f", str(console.config))
    with sqlite3.connect(console.state / "gateway.sqlite") as connection:
        ((expires,),) = connection.execute("select expires from tokens").fetchall()
    connection.close()
    left = datetime.fromisoformat(expires).replace(tzinfo=UTC) - datetime.now(UTC)
    assert left.total_seconds() == pytest.approx(2 * 86400, abs=60)


def test_a_token_for_no_account_or_no_time_is_not_made(console: Console) -> None:
    config = ("-f", str(console.config))
    assert console.fault("token", "Alice Adams", *config) == "'Alice Adams' is not an account's name."
    for days in ("0", "-1", "9" * 20, "x"):
        status, _, err = console.run("token", "alice", "--days", days, *config)
        assert status == 2
        assert "a token holds for 1 to 3660 days" in err
    assert not console.state.exists()


def test_an_upgrade_makes_the_schema_and_a_second_one_finds_it(console: Console) -> None:
    first = console.output("db", "upgrade", "-f", str(console.config))
    assert first.startswith("the schema was empty and is ")
    head = first.split()[-1]
    assert console.output("db", "upgrade", "-f", str(console.config)) == (
        f"the schema was {head} and is {head}\n"
    )


def test_a_database_of_another_version_is_not_touched(console: Console) -> None:
    console.output("db", "upgrade", "-f", str(console.config))
    with sqlite3.connect(console.state / "gateway.sqlite") as connection:
        connection.execute("update alembic_version set version_num = '9999'")
    connection.close()
    said = console.fault("token", "alice", "-f", str(console.config))
    assert said.startswith("the database has schema 9999, not ")
    assert said.endswith(": run gateway db upgrade")


@pytest.mark.parametrize("command", [("token", "alice"), ("db", "upgrade")])
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "the database cannot be used: Could not parse SQLAlchemy URL from given URL string"),
        ("sqlite+aiosqlite:////nonexistent/x", "the database cannot be used: unable to open database file"),
        ("sqlite+nosuch:////tmp/x", "the database cannot be used: Can't load plugin: sqlalchemy.dialects:"),
        ("mysql+aiomysql://gateway:secret@db/x", "database_url: the driver aiomysql is not installed"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_without_its_password(
    console: Console, command: tuple[str, ...], url: str, words: str
) -> None:
    console.configure(f"c.Gateway.database_url = '{url}'\n")
    said = console.fault(*command, "-f", str(console.config))
    assert said.startswith(words)
    assert "secret" not in said


@pytest.mark.parametrize("command", [("token", "alice"), ("db", "upgrade")])
def test_a_file_that_is_no_database_is_told(console: Console, command: tuple[str, ...]) -> None:
    console.state.mkdir()
    (console.state / "gateway.sqlite").write_text("not a database\n" * 1000)
    said = console.fault(*command, "-f", str(console.config))
    assert said == "the database cannot be used: file is not a database"


def test_a_database_of_a_newer_version_is_not_upgraded(console: Console) -> None:
    console.output("db", "upgrade", "-f", str(console.config))
    with sqlite3.connect(console.state / "gateway.sqlite") as connection:
        connection.execute("update alembic_version set version_num = '9999'")
    connection.close()
    said = console.fault("db", "upgrade", "-f", str(console.config))
    assert said == "the database cannot be used: Can't locate revision identified by '9999'"


@pytest.mark.parametrize("command", [("token", "alice"), ("db", "upgrade")])
def test_a_state_directory_that_cannot_be_used_is_told(console: Console, command: tuple[str, ...]) -> None:
    console.state.touch()
    said = console.fault(*command, "-f", str(console.config))
    assert said == f"{console.state} cannot be used: File exists"

"""What is wrong gets one clear sentence, for whom it concerns, and nothing is lost or half done."""

from __future__ import annotations

import html
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.errors import (
    DirectoryUnreachable,
    HostKeyRefused,
    LoginNodeUnreachable,
    LoginNotAllowed,
    LoginRefused,
)
from gateway.origins import SESSION_COOKIE
from tests.lab import Lab, gateway
from tests.lab.accounts import BY_NAME, own
from tests.lab.nodes import Process, wait_until
from tests.live.client import Answer, Person

#: proj1 is alice's, proj2 is bob's: the lab's job_submit plugin refuses anybody else's.
SITE = f"{gateway.SITE_CONFIG}accounts: [proj1, proj2]\n"
#: Where the gateways listen that are only tried.
PORT = 18443
_SENTENCE = re.compile(r'<\w+[^>]*(?:role="alert"|class="wrong")[^>]*>([^<]*)<')


@pytest.fixture(scope="module", autouse=True)
def hub(lab: Lab) -> Iterator[Lab]:
    """The lab with a hub that offers accounts; afterwards it is the lab's own again."""
    lab.stop_gateway()
    lab.write_gateway_config(SITE)
    lab.start_gateway()
    yield lab
    lab.stop_gateway()
    lab.clear_jobs()
    lab.write_gateway_config()
    lab.start_gateway()


@pytest.fixture(scope="module")
def alice(hub: Lab) -> Person:
    return Person(hub, "alice").login()


def sentences(page: Answer) -> list[str]:
    """Return what a page says is wrong."""
    return [html.unescape(text).strip() for text in _SENTENCE.findall(page.text)]


def try_login(lab: Lab, name: str, password: str) -> tuple[int, list[str]]:
    """Try to log in with a new browser; return the status and what the page says is wrong."""
    person = Person(lab, name)
    answer = person.submit("/hub/login", username=name, password=password)
    cookies = person.jar[next(iter(person.jar))]
    assert (answer.status == 303) == (SESSION_COOKIE in cookies)
    return answer.status, sentences(answer)


def jobs_of(lab: Lab, user: str) -> list[str]:
    """Return the ids of a person's jobs that have not ended."""
    return lab.login.run(["squeue", "-h", "-u", user, "-o", "%i"], check=True).stdout.split()


def state_dirs_of(lab: Lab, user: str) -> list[str]:
    """Return the names of a person's servers' directories on the cluster."""
    return [path.name for path in (lab.state / "home" / user / ".gateway").glob("*")]


def says(person: Person, words: str) -> bool:
    """Return whether the page of a person's default server holds these words."""
    return words in html.unescape(person.open(f"{person.hub}/hub/wait").text)


# --- logging in -----------------------------------------------------------------------------------------


def test_a_wrong_password_is_told_and_the_right_one_still_works(hub: Lab) -> None:
    assert try_login(hub, "bob", hub.passwords["alice"]) == (403, [LoginRefused.default_public])
    assert try_login(hub, "bob", hub.passwords["bob"])[0] == 303


@pytest.mark.parametrize("name", ["root", "slurm", "daemon2", "dave"])
def test_system_accounts_and_outsiders_may_not_use_it_even_with_the_right_password(
    hub: Lab, name: str
) -> None:
    assert try_login(hub, name, hub.passwords[name]) == (403, [LoginNotAllowed.default_public])


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("alice;id", "x"),
        ("../alice", "x"),
        ("älice", "x"),
        ("al*ce", "x"),
        ("alice)(uid=*", "x"),
        ("a" * 100, "x"),
        ("-alice", "x"),
        ("alice\nbob", "x"),
        ("", "x"),
        ("alice", ""),
        ("alice", "x" * 257),
        ("alice", "x" * 60_000),
    ],
)
def test_malformed_names_and_passwords_are_refused_before_the_directory_is_asked(
    hub: Lab, name: str, password: str
) -> None:
    asked = hub.slapd.log.stat().st_size
    assert try_login(hub, name, password) == (403, [LoginRefused.default_public])
    assert hub.slapd.log.stat().st_size == asked


def test_ten_megabytes_of_password_are_refused_before_they_are_sent(hub: Lab) -> None:
    with Person(hub, "alice").connect() as connection:
        connection.sendall(
            f"POST /hub/login HTTP/1.1\r\nHost: gw.localhost:{hub.port}\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {10 << 20}\r\n\r\n"
            "username=alice&password=xxxx".encode()
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    assert answer.startswith("HTTP/1.1 413 ")
    assert "No form of the gateway needs that much" in answer
    assert gateway.answers(hub.port, hub.authority)


def test_a_directory_that_is_down_is_told_and_who_is_logged_in_goes_on(hub: Lab, alice: Person) -> None:
    hub.slapd.stop()
    try:
        told = try_login(hub, "bob", hub.passwords["bob"])
        assert told == (503, [DirectoryUnreachable.default_public])
        assert "directory server ldap.lab:636 did not answer" in hub.gateway_log.read_text()
        assert alice.open(f"{alice.hub}/hub/home").status == 200
    finally:
        hub.slapd.start()
    assert try_login(hub, "bob", hub.passwords["bob"])[0] == 303


def test_a_directory_that_hangs_holds_nobody_up_who_does_not_need_it(hub: Lab, alice: Person) -> None:
    waits = []
    hub.slapd.freeze()
    try:
        with ThreadPoolExecutor(5) as pool:
            tries = [pool.submit(try_login, hub, "bob", hub.passwords["bob"]) for _ in range(5)]
            while not all(login.done() for login in tries):
                begun = time.monotonic()
                assert alice.open(f"{alice.hub}/hub/home").status == 200
                waits.append(time.monotonic() - begun)
                time.sleep(0.1)
            told = [login.result() for login in tries]
    finally:
        hub.slapd.thaw()
    assert told == [(503, [DirectoryUnreachable.default_public])] * 5
    assert len(waits) > 10
    assert max(waits) < 2
    assert try_login(hub, "bob", hub.passwords["bob"])[0] == 303


# --- the form -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"partition": "nope"}, "There is no partition 'nope'. There is: debug, short, gpu."),
        ({"partition": "debug\n#SBATCH --uid=0"}, "There is no partition 'debug\\n#SBATCH --uid=0'."),
        ({"uid": "0"}, "The lab's cluster has no such field: 'uid'."),
        ({"walltime": "2h"}, "The longest walltime on debug is 1 hour."),
        ({"partition": "short", "walltime": "11m"}, "The longest walltime on short is 10 minutes."),
        ({"walltime": "soon"}, "Write a walltime as 30m, 4h, 2d, HH:MM:SS or D-HH:MM:SS."),
        ({"memory": "900G"}, "The most memory on debug is 2000 MB."),
        ({"cores": "0"}, "Write the number of cores as a whole number, at least 1."),
        ({"gpus": "3"}, "The most GPUs on debug is 2."),
        ({"account": "proj3"}, "There is no account 'proj3'. There is: proj1, proj2."),
        ({"application": "rm"}, "There is no application 'rm'. There is: lab, lab-requeue."),
        ({"cluster": "other"}, "There is no cluster 'other'. There is: lab, labcert."),
    ],
)
def test_what_the_form_does_not_offer_is_refused_and_nothing_begins(
    hub: Lab, alice: Person, choices: dict[str, str], sentence: str
) -> None:
    answer = alice.spawn(**choices)
    assert answer.status == 400
    assert any(said.startswith(sentence) for said in sentences(answer)), sentences(answer)
    assert alice.state() == {"phase": "ended"}
    assert jobs_of(hub, "alice") == []


@pytest.mark.parametrize("name", ["BAD_NAME", "-x", "a" * 33, "a%2fb", "%2e%2e"])
def test_a_malformed_server_name_gets_a_sentence(alice: Person, name: str) -> None:
    answer = alice.open(f"{alice.hub}/hub/spawn/{name}")
    assert answer.status == 400
    assert "A server's name has 1 to 32 small letters" in html.unescape(answer.text)


# --- the cluster ----------------------------------------------------------------------------------------


def test_what_sbatch_refuses_is_shown_in_its_own_words_and_leaves_nothing(hub: Lab, alice: Person) -> None:
    assert alice.spawn(account="proj2").status == 303
    wait_until(lambda: says(alice, "account 'proj2' is not yours"), "the page says why", 20, 0.1)
    assert says(alice, "The cluster did not accept the job: ")
    assert alice.state() == {"phase": "ended"}
    assert jobs_of(hub, "alice") == []
    wait_until(lambda: not state_dirs_of(hub, "alice"), "its files are gone", 20, 0.1)


def test_a_login_node_that_is_down_is_told_and_the_job_is_submitted_when_it_is_back(
    hub: Lab, alice: Person
) -> None:
    hub.sshd.stop()
    try:
        hub.end_ssh_connections()
        assert alice.spawn().status == 303
        wait_until(lambda: says(alice, LoginNodeUnreachable.default_public), "the page says so", 20, 0.1)
    finally:
        hub.sshd.start()
    state = alice.wait_for("ready")
    assert jobs_of(hub, "alice") == [state["job_id"]]
    assert alice.enter().status == 200
    alice.stop()


def test_a_changed_host_key_stops_all_until_an_administrator_has_confirmed_it(
    hub: Lab, alice: Person
) -> None:
    bob = Person(hub, "bob").login()
    before = alice.start()
    written = hub.gateway_log.stat().st_size
    line = hub.change_host_key()
    try:
        hub.end_ssh_connections()
        assert bob.spawn(account="proj2").status == 303
        wait_until(lambda: says(bob, HostKeyRefused.default_public), "the page says so", 20, 0.1)
        wait_until(lambda: alice.open(alice.url("")).status == 503, "her server is out of reach", 20, 0.2)
        assert jobs_of(hub, "alice") == [before["job_id"]]
        assert jobs_of(hub, "bob") == []
        log = hub.gateway_log.read_text()[written:]
        assert f"replace the old line there by: {line}" in log
        assert "has CHANGED" in log
        assert f"{gateway.ETC}/ssh/known_hosts" in log
    finally:
        hub.trust_host_key()
    bob.start(account="proj2")
    wait_until(lambda: alice.open(alice.url("")).status == 200, "her server is back", 20, 0.2)
    assert alice.state()["job_id"] == before["job_id"]
    alice.stop()
    bob.stop()


# --- starting the gateway -------------------------------------------------------------------------------


class Trial:
    """A gateway of its own beside the lab's: another state directory, run directory and port.

    ``inside`` is its directory as the hub's node sees it, ``path`` the same as this machine sees it.
    """

    def __init__(self, lab: Lab) -> None:
        name = f"trial-{secrets.token_hex(4)}"
        self.lab = lab
        self.inside = f"/tmp/{name}"
        self.path = lab.state / "nodes/hub/tmp" / name
        (self.path / "sites").mkdir(parents=True)
        (self.path / "sites/lab.yaml").write_text(gateway.SITE_CONFIG)

    def write_config(self, settings: str = "") -> list[str]:
        """Write these settings over good ones; return the words after ``gateway`` that run it."""
        config = self.path / "gateway_config.py"
        config.write_text(
            f"{gateway.gateway_config(PORT)}"
            f"c.Gateway.state_dir = '{self.inside}/state'\n"
            f"c.Gateway.run_dir = '{self.inside}/run'\n"
            f"c.Gateway.site_dir = '{self.inside}/sites'\n"
            f"{settings}\n"
        )
        own(self.path, BY_NAME["gateway"].uid)
        return ["run", "-f", f"{self.inside}/gateway_config.py"]

    def processes(self) -> list[Process]:
        """Return what runs of it: the hub, HAProxy and the masters all name its directory."""
        return [p for p in self.lab.gateway_processes() if any(self.inside in word for word in p.argv)]

    def refusal(self, settings: str = "") -> str:
        """Return the one line with which the gateway ends at once, and nothing of it runs on."""
        done = self.lab.gateway_command(*self.write_config(settings))
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert self.processes() == []
        return done.stderr.removesuffix("\n")


@pytest.fixture
def trial(hub: Lab) -> Trial:
    return Trial(hub)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("c.Gateway.bind = [", ":LAST: '[' was never closed"),
        (
            "c.Gateway.pubic_url = 'https://gw'",
            ": c.Gateway.pubic_url: there is no such setting; did you mean public_url?",
        ),
        (
            "c.Gateway.session_hours = 'a week'",
            ": c.Gateway.session_hours expected an int, not the str 'a week'.",
        ),
        (
            "c.Gateway.public_url = ''",
            (
                ": set c.Gateway.public_url: The address that people type. It may have a path, where the "
                "host is another web server's: https://www.example.org/gateway/. "
                "For example 'https://gateway.example.org/'."
            ),
        ),
    ],
)
def test_a_broken_config_ends_the_start_with_file_and_mend(
    trial: Trial, settings: str, sentence: str
) -> None:
    said = trial.refusal(settings)
    last = (trial.path / "gateway_config.py").read_text().count("\n")
    assert said == f"{trial.inside}/gateway_config.py{sentence}".replace("LAST", str(last))


def test_a_broken_site_config_ends_the_start_with_its_line(trial: Trial) -> None:
    broken = gateway.SITE_CONFIG.replace("max_walltime: 1h", "max_walltime: soon")
    (trial.path / "sites/lab.yaml").write_text(broken)
    line = 1 + broken[: broken.index("max_walltime: soon")].count("\n")
    assert trial.refusal() == (
        f"{trial.inside}/sites/lab.yaml:{line}: partitions[0].max_walltime: "
        "write a walltime as 30m, 4h, 2d, HH:MM:SS or D-HH:MM:SS"
    )


def test_a_missing_haproxy_ends_the_start(trial: Trial) -> None:
    said = trial.refusal("c.Gateway.haproxy = '/nonexistent'")
    assert said.startswith("there is no program '/nonexistent'. Install HAProxy 2.6 or later")


def test_an_old_haproxy_ends_the_start(trial: Trial) -> None:
    stub = trial.path / "haproxy"
    stub.write_text("#!/bin/sh\necho 'HAProxy version 2.4.22-0 2023/02/14 - https://haproxy.org/'\n")
    stub.chmod(0o755)
    said = trial.refusal(f"c.Gateway.haproxy = '{trial.inside}/haproxy'")
    assert said.startswith(f"{trial.inside}/haproxy is HAProxy 2.4.22-0, which is too old. Install HAProxy")


def test_a_port_that_another_program_has_ends_the_start(trial: Trial, hub: Lab) -> None:
    said = trial.refusal(f"c.Gateway.bind = ['127.0.0.1:{hub.port}']")
    assert said.startswith("HAProxy did not start: ")
    assert said.endswith(f"cannot bind socket (Address already in use) for [127.0.0.1:{hub.port}]")


def test_a_state_directory_of_another_user_ends_the_start(trial: Trial) -> None:
    said = trial.refusal("c.Gateway.state_dir = '/var/lib/ldap'")
    assert (
        said
        == "/var/lib/ldap belongs to another user: run this as its owner, or chown it to the gateway's user"
    )


def test_a_run_directory_too_long_for_a_sockets_path_ends_the_start(trial: Trial) -> None:
    said = trial.refusal(f"c.Gateway.run_dir = '{trial.inside}/{'r' * 90}'")
    assert re.search(r": \d+ bytes too long: .* Choose a shorter run_dir, such as /run/gateway$", said)


def test_a_second_hub_ends_at_once_and_the_first_goes_on(hub: Lab) -> None:
    done = hub.gateway_command("run", "-f", gateway.CONFIG)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "another gateway is running with /run/gateway: stop it first\n"
    assert gateway.answers(hub.port, hub.authority)


def test_what_failed_to_start_starts_once_it_is_mended(trial: Trial, hub: Lab) -> None:
    trial.refusal("c.Gateway.haproxy = '/nonexistent'")
    words = trial.write_config()
    running = hub.popen(
        "hub",
        [gateway.PYTHON, "-m", "gateway.cli", *words, "--dataplane", "own"],
        user="gateway",
        env={"PYTHONPATH": gateway.SOURCE},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: hub.hub.listens(PORT), "it serves", 20, 0.1)
    finally:
        running.send_signal(signal.SIGTERM)
        status = running.wait(20)
    assert status == 0
    assert trial.processes() == []

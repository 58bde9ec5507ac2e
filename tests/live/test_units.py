"""The systemd units as they are, under a real systemd: users, sandboxes, order, and what outlives what."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.lab import Lab, gateway, systemd
from tests.lab.accounts import write_private
from tests.lab.nodes import wait_until
from tests.lab.systemd import Systemd
from tests.live.client import Person

HUB, HAPROXY, TUNNELS = (f"gateway-{name}.service" for name in ("hub", "haproxy", "tunnels"))
CONFIG = "/etc/gateway/managed_config.py"
#: What a sysadmin does, less what the lab has done; the lab's gateway is run from its source.
_INSTALL = f"""
useradd --system --no-create-home --shell /usr/sbin/nologin gateway-proxy
usermod --append --groups gateway-proxy gateway
cd /
PYTHONPATH={gateway.SOURCE} {gateway.PYTHON} -m gateway units -f {CONFIG} --root /
for unit in hub haproxy tunnels; do
    mkdir /etc/systemd/system/gateway-$unit.service.d
    cd /etc/systemd/system/gateway-$unit.service.d
    printf '[Service]\\nEnvironment=PYTHONPATH={gateway.SOURCE}\\nRestartSec=1\\n' >lab.conf
done
systemd-tmpfiles --create /etc/tmpfiles.d/gateway.conf
systemctl daemon-reload
"""


@pytest.fixture(scope="module")
def machine(lab: Lab) -> Iterator[Systemd]:
    """The lab's hub with the units installed, none of them running; afterwards the lab is as before."""
    if why := systemd.missing():
        pytest.skip(why)
    lab.stop_gateway()
    lab.end_gateway_processes()
    config = lab.state / "hub/managed_config.py"
    uid = (lab.state / "hub/gateway_config.py").stat().st_uid
    text = (lab.state / "hub/gateway_config.py").read_text()
    write_private(config, f'{text}c.Gateway.proxy_group = "gateway-proxy"\n', uid)
    enter = lab.hub.command([])
    with systemd.booted(enter, f"{lab.hub.mark}-systemd", lab.state / "nodes/hub/systemd.log") as machine:
        machine.shell(_INSTALL)
        yield machine
    config.unlink()


@pytest.fixture(scope="module")
def logged_in(lab: Lab, machine: Systemd) -> Iterator[Person]:
    """Alice, who has started a server under the units."""
    machine.run("systemctl", "start", HUB)
    alice = Person(lab, "alice").login()
    alice.start()
    alice.enter()
    yield alice
    machine.run("systemctl", "start", HUB)
    alice.stop()


@pytest.fixture
def alice(machine: Systemd, logged_in: Person) -> Person:
    """Alice with a running server that she reaches, whatever a test has done before."""
    machine.run("systemctl", "start", HUB)
    wait_until(lambda: reaches(logged_in), "alice reaches her server", 30, 0.2)
    return logged_in


def reaches(person: Person) -> bool:
    return person.call("GET", "api/status").status == 200


def test_they_come_up_in_any_order_and_each_as_its_own_user(lab: Lab, machine: Systemd) -> None:
    machine.run("systemctl", "start", HAPROXY)
    first = Person(lab, "bob").request("GET", lab.url)
    assert (first.status, "being restarted" in first.text) == (503, True)
    machine.run("systemctl", "start", HUB)
    assert all(machine.is_active(unit) for unit in (HUB, HAPROXY, TUNNELS))
    assert Person(lab, "bob").request("GET", f"{lab.url}hub/login").status == 200
    owners = {unit: _owner(machine, unit) for unit in (HUB, HAPROXY, TUNNELS)}
    assert owners == {HUB: "gateway", HAPROXY: "gateway-proxy", TUNNELS: "gateway"}


def test_a_restart_of_hub_or_keeper_cuts_no_connection(machine: Systemd, alice: Person) -> None:
    haproxy = machine.processes(HAPROXY)
    ssh = masters(machine)
    with alice.kernel() as kernel:
        assert kernel.run("x = 6 * 7; print(x)") == "42\n"
        machine.run("systemctl", "restart", HUB)
        assert kernel.run("print(x)") == "42\n"
        machine.run("systemctl", "restart", TUNNELS)
        kill(machine, TUNNELS)
        kill(machine, HUB)
        assert kernel.run("print(x)") == "42\n"
        wait_until(lambda: machine.is_active(TUNNELS), "the keeper is started again", 20, 0.1)
        wait_until(lambda: machine.is_active(HUB), "the hub is started again", 20, 0.1)
        assert kernel.run("print(x)") == "42\n"
    assert (masters(machine), machine.processes(HAPROXY)) == (ssh, haproxy)
    assert alice.state()["phase"] == "ready"


def test_reload_takes_up_a_drop_in_and_fails_where_one_is_bad(
    lab: Lab, machine: Systemd, alice: Person
) -> None:
    """Its header is rendered in a process of its own, which the hub's unit must let limit itself."""
    words = ["install", "-D", "-m", "644", "/dev/stdin", "/etc/gateway/site.d/10.yaml"]
    text = "version: 1\nscript: {header: 'echo {{ choices.cores }}'}\n"
    try:
        lab.login.run(words, input=text, check=True)
        machine.run("systemctl", "reload", HUB)
        assert "ok: 3 partitions, from /etc/gateway/sites/lab.yaml, login:" in machine.journal()
        lab.login.run(words, input="version: 2\n", check=True)
        assert machine.run("systemctl", "reload", HUB, check=False).returncode
        assert "/etc/gateway/site.d/10.yaml:1: version" in machine.journal()
    finally:
        lab.login.run(["rm", "-rf", "/etc/gateway"], check=True)
    machine.run("systemctl", "reload", HUB)
    assert reaches(alice)


def test_a_master_that_dies_comes_back_and_the_server_with_it(machine: Systemd, alice: Person) -> None:
    before = masters(machine)
    for pid in before:
        machine.run("kill", "-KILL", str(pid))
    wait_until(lambda: reaches(alice), "her server is reached again", 30, 0.2)
    assert not before & masters(machine)
    said = machine.run("journalctl", "--no-pager", "-o", "cat", "-u", TUNNELS).stdout
    assert "Traceback" not in said, "the keeper may read all that it needs"


def test_a_master_that_nobody_can_speak_with_is_ended(machine: Systemd, alice: Person) -> None:
    before = masters(machine)
    machine.run("systemctl", "restart", TUNNELS)  # in another mount namespace than the masters now
    machine.shell("rm -f /run/gateway/t/lab/*/ctl /run/gateway/t/lab/*/pid")
    wait_until(lambda: not before & machine.processes(TUNNELS), "the keeper ends them", 20, 0.1)
    wait_until(lambda: reaches(alice), "her server is reached again", 30, 0.2)


def test_haproxy_comes_back_complete_and_the_hub_says_when_it_is_not_there(
    machine: Systemd, alice: Person
) -> None:
    machine.run("systemctl", "stop", HUB)
    machine.run("systemctl", "restart", HAPROXY)
    assert reaches(alice)  # its routes are in what it starts with
    machine.run("systemctl", "stop", HAPROXY)
    drop_in = f"/run/systemd/system/{HAPROXY}.d/never.conf"
    machine.shell(f"mkdir -p {drop_in[:-11]}; printf '[Unit]\nConditionPathExists=/no' >{drop_in}")
    machine.run("systemctl", "daemon-reload")
    try:
        assert machine.run("systemctl", "start", HUB, check=False).returncode
        assert "systemctl start gateway-haproxy" in machine.journal()
    finally:
        machine.shell(f"rm {drop_in}; systemctl daemon-reload")
    machine.run("systemctl", "start", HUB)
    assert reaches(alice)


@pytest.mark.parametrize("lost", ["hub/tls.pem", "hub/managed_config.py"])
def test_haproxy_comes_back_complete_without_certificate_or_configuration(
    lab: Lab, machine: Systemd, alice: Person, lost: str
) -> None:
    file = lab.state / lost
    held = file.read_text()
    machine.run("systemctl", "stop", HUB)
    try:
        file.write_text("damaged [\n")
        machine.run("systemctl", "restart", HAPROXY)
        assert reaches(alice)
    finally:
        file.write_text(held)


def test_a_new_certificate_is_served_without_a_command(lab: Lab, machine: Systemd, alice: Person) -> None:
    pem = lab.state / "hub/tls.pem"
    old, workers = pem.read_text(), machine.processes(HAPROXY)
    try:
        pem.write_text(old + "\n# renewed\n")
        copy = "/run/gateway/haproxy/public-0.pem"
        wait_until(lambda: "renewed" in machine.run("cat", copy).stdout, "HAProxy has the new one", 15)
        assert machine.processes(HAPROXY) == workers
        pem.write_text("not a certificate\n")
        wait_until(lambda: "not a certificate" in machine.journal(), "the hub says that it is none", 15, 0.2)
        assert reaches(alice)
        machine.run("grep", "-q", "renewed", "/run/gateway/haproxy/public-0.pem")
    finally:
        pem.write_text(old)


@pytest.mark.parametrize(
    "path",
    [
        "/var/lib/gateway/secret.key",
        "/var/lib/gateway/gateway.sqlite",
        "/var/lib/gateway/ca/node-ca.key",
        "/etc/gateway/ldap-password",
        "/run/gateway/t/lab/0/ctl",
    ],
)
def test_haproxys_user_cannot_read_what_is_the_hubs(machine: Systemd, alice: Person, path: str) -> None:
    machine.run("test", "-e", path)
    as_proxy = ("setpriv", "--reuid=gateway-proxy", "--regid=gateway-proxy", "--init-groups")
    assert machine.run(*as_proxy, "head", "-c", "1", path, check=False).returncode


def test_nobody_else_gets_at_sockets_and_files(machine: Systemd, alice: Person) -> None:
    as_other = ("setpriv", "--reuid=mallory", "--regid=mallory", "--init-groups")
    for path in ("hub.sock", "haproxy/s/admin.sock", "haproxy/s/master.sock", "haproxy/haproxy.cfg", "t/lab"):
        machine.run("test", "-e", f"/run/gateway/{path}")
        assert machine.run(*as_other, "test", "-e", f"/run/gateway/{path}", check=False).returncode, path
    found = machine.run("find", "/run/gateway", "-perm", "/o=rwx", "!", "-type", "l").stdout
    assert found == ""
    names = machine.run("find", "/run/gateway", "-perm", "/g=rw", "-type", "s").stdout.split()
    assert all(re.search(r"(hub|admin|master|\.\d+b?)\.sock$", name) for name in names)


def test_stopping_the_keeper_leaves_the_masters_and_one_command_ends_them(
    machine: Systemd, alice: Person
) -> None:
    machine.run("systemctl", "stop", TUNNELS)
    assert masters(machine)
    assert reaches(alice)
    as_gateway = ("setpriv", "--reuid=gateway", "--regid=gateway", "--init-groups")
    end = (gateway.PYTHON, "-m", "gateway", "tunnels", "--end", "-f", CONFIG)
    machine.run(*as_gateway, *end, env={"PYTHONPATH": gateway.SOURCE})
    assert not masters(machine)
    machine.run("systemctl", "start", TUNNELS)
    wait_until(lambda: reaches(alice), "her server is reached again", 30, 0.2)


def test_a_restored_backup_finds_the_servers_that_run(machine: Systemd, alice: Person) -> None:
    server = alice.state()["id"]
    machine.shell(
        "cd /; export PYTHONPATH=/opt/gateway-src; rm -f /tmp/backup.tar.gz; "
        f"setpriv --reuid=gateway --regid=gateway --init-groups {gateway.PYTHON} -m gateway "
        f"backup -f {CONFIG} /tmp/backup.tar.gz; "
        "systemctl stop gateway-hub; find /var/lib/gateway -mindepth 1 -delete; "
        "tar --extract --gzip --preserve-permissions --same-owner -C /var/lib/gateway -f /tmp/backup.tar.gz; "
        "rm /tmp/backup.tar.gz; systemctl start gateway-hub"
    )
    assert (alice.state()["id"], alice.state()["phase"]) == (server, "ready")
    assert reaches(alice)


def kill(machine: Systemd, unit: str) -> None:
    """Kill a unit's main process, and return when systemd has seen it."""
    machine.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", unit)
    wait_until(lambda: not machine.is_active(unit), f"{unit} has been killed", 5)


def masters(machine: Systemd) -> set[int]:
    """Return the SSH masters that run."""
    script = "for file in /run/gateway/t/lab/*/pid; do [ ! -e $file ] || { cat $file; echo; }; done"
    return {int(pid) for pid in machine.shell(script).split()} & machine.processes(TUNNELS)


def _owner(machine: Systemd, unit: str) -> str:
    return machine.run("stat", "-c", "%U", f"/proc/{machine.main_pid(unit)}").stdout.strip()

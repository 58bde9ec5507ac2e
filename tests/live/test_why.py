"""A way that is lost and comes back: what an open page is told meanwhile, and a sysadmin afterwards."""

from __future__ import annotations

import base64
import io
import json
import re
import tarfile

import pytest
import websocket

from gateway.origins import ROUTE_COOKIE
from tests.lab import Lab
from tests.lab.gateway import CONFIG
from tests.lab.nodes import wait_until
from tests.live.client import Person

#: The events of a start, a loss of the way, its return and a stop, in this order among others.
STORY = [
    "created",
    "submit",
    "submission",
    "accepted",
    "started",
    "forward",
    "answered",
    "route",
    "wish",
    "stop",
    "cancel",
    "ending",
    "gone",
    "cleaning",
]


def why(lab: Lab, *words: str) -> str:
    done = lab.gateway_command("why", "-f", CONFIG, *words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def kill_masters(lab: Lab) -> None:
    for process in lab.gateway_processes():
        if "-M" in process.argv:
            process.kill()


def test_a_page_waits_while_its_way_is_lost_and_why_tells_of_it_without_the_hub(gateway: Lab) -> None:
    alice = Person(gateway, "alice").login()
    server = alice.start()
    alice.enter()
    assert alice.call("GET", "api/kernels").status == 200
    gateway.sshd.stop()
    try:
        kill_masters(gateway)
        wait_until(lambda: alice.call("GET", "api/kernels").status == 503, "the way is lost")
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            alice.websocket("api/events/subscribe")
        assert refused.value.status_code == 503
        stranger = Person(gateway, "alice")
        stranger.jar[stranger.host] = {ROUTE_COOKIE: "x" * 43}
        assert stranger.call("GET", "api/kernels").status == 403
    finally:
        gateway.sshd.start()
    wait_until(lambda: alice.call("GET", "api/kernels").status == 200, "there is a way again", 40)
    alice.stop()
    wait_until(lambda: "files on the cluster are removed" in why(gateway, "alice/"), "its files are removed")

    gateway.stop_gateway()
    said = why(gateway, "alice/")
    print(said)
    (told,) = json.loads(why(gateway, "alice/", "--json"))
    assert told["id"] == server["id"]
    events = [entry["event"] for entry in told["timeline"]]
    story = iter(events)
    assert all(event in story for event in STORY), events
    text = "\n".join(entry["text"] for entry in told["timeline"])
    assert f"The scheduler says of job {server['job_id']}: RUNNING on {server['host']}." in text
    assert re.search(rf"There is a way to {server['host']}, port \d+: number 1", text)
    gateway.start_gateway()


def test_an_archive_for_those_who_help_holds_no_secret(gateway: Lab) -> None:
    alice = Person(gateway, "alice").login()
    path = "/var/lib/gateway/bundle.tar.gz"
    try:
        done = gateway.gateway_command("bundle", "-f", CONFIG, "-o", path, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        packed = gateway.hub.run(["base64", path], check=True).stdout
    finally:
        gateway.hub.run(["rm", "-f", path], check=True)
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed))) as archive:
        files = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive}
        texts = {name: file.read().decode() for name, file in files.items() if file}
    missing = {name for name, text in texts.items() if text.startswith("not available")}
    assert missing <= {"hub.log", "haproxy.log", "tunnels.log"}  # there are no units here
    assert "name: lab" in texts["sites/lab.yaml"]
    assert re.search(r"^process \d+: there", texts["tunnels.txt"], re.MULTILINE)
    checks = {check["name"]: check["status"] for check in json.loads(texts["doctor.json"])["checks"]}
    assert checks["labcert: root"] == "skipped"  # a login that is to fail is not tried
    everything = "".join(texts.values())
    cookies = [value for jar in alice.jar.values() for value in jar.values()]
    files_of_secrets = ("/etc/gateway/ldap-password", "/var/lib/gateway/secret.key")
    contents = [gateway.hub.run(["cat", name], check=True).stdout.strip() for name in files_of_secrets]
    for secret in (*gateway.passwords.values(), *cookies, *contents):
        assert secret not in everything

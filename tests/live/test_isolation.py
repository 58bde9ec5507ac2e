"""Bob, with a login, a server and a grant of his own, does not get to alice's server through the gateway."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urljoin

import pytest
import websocket

from tests.lab import Lab
from tests.lab.nodes import wait_until
from tests.lab.staging import HOST
from tests.live.client import NAVIGATION, Person

ROUTE = "__Host-gateway-route"
#: What a smuggled request would come from, if the hub believed its headers.
FALSE_ADDRESS = "192.0.2.66"


@dataclass(frozen=True)
class Stage:
    """Two people with a running server each, both let in; ``secret`` is what only alice's server can tell."""

    lab: Lab
    alice: Person
    bob: Person
    secret: str
    alice_log: Path
    never: list[str] = field(default_factory=list)

    def raw(self, request: str, server_name: str = f"bob.{HOST}") -> bytes:
        """Send bytes as they are; return what comes back until the connection ends or is silent for 0.5 s."""
        received = b""
        with self.bob.connect(server_name) as connection:
            connection.sendall(request.encode("latin-1"))
            connection.settimeout(0.5)
            with suppress(TimeoutError, ConnectionError):
                while part := connection.recv(65536):
                    received += part
        return received

    def oracle(self) -> str:
        """Return her server's log, with all that it was asked up to now.

        It logs a request for what is not there after it has answered: one of hers, the last, shows that those
        before are in it.
        """
        last = secrets.token_hex(8)
        assert self.alice.call("GET", f"api/contents/{last}").status == 404
        wait_until(lambda: last in self.alice_log.read_text(), "her server logs what it was asked", 10)
        return self.alice_log.read_text()


@pytest.fixture(scope="module")
def stage(lab: Lab) -> Iterator[Stage]:
    lab.start_gateway()
    alice, bob = Person(lab, "alice").login(), Person(lab, "bob").login()
    for person in (alice, bob):
        assert person.spawn().status == 303
    server_id = alice.wait_for("ready")["id"]
    bob.wait_for("ready")
    for person in (alice, bob):
        person.enter()
    secret = f"secret-{secrets.token_hex(8)}"
    note = {"type": "file", "format": "text", "content": secret}
    assert alice.call("PUT", "api/contents/note.txt", note).status == 201
    log = lab.state / f"home/alice/.gateway/{server_id}/log"
    try:
        yield Stage(lab, alice, bob, secret, log)
    finally:
        for person in (alice, bob):
            person.stop()


@pytest.fixture(autouse=True)
def undisturbed(stage: Stage) -> Iterator[None]:
    """After each attempt alice's server works and was asked nothing by bob, and what bob got is not hers."""
    yield
    asked = stage.oracle()
    assert [nonce for nonce in stage.never if nonce in asked] == []
    stage.never.clear()
    assert stage.secret in stage.alice.call("GET", "api/contents/note.txt").text
    assert stage.bob.call("GET", "api/status").status == 200


def status_of(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    return int(found[1]) if found else 0


def check_refused(stage: Stage, answer: bytes, nonce: str) -> None:
    assert stage.secret.encode() not in answer
    assert status_of(answer) in (0, 302, 303, 400, 403, 404, 405, 424), answer[:300]
    if status_of(answer) in (302, 303):
        check_redirect(stage, answer)
    stage.never.append(nonce)


def check_redirect(stage: Stage, answer: bytes) -> None:
    """A redirect stays at the gateway, and following it does not help either."""
    found = re.search(rb"(?i)^location: (\S+)", answer, re.M)
    assert found
    target = urljoin(stage.bob.origin, found[1].decode())
    assert target.startswith(
        tuple(f"{origin}/" for origin in (stage.bob.hub, stage.alice.origin, stage.bob.origin))
    )
    assert stage.secret not in stage.bob.open(target).text


def test_the_oracle_sees_what_reaches_her_server(stage: Stage) -> None:
    nonce = secrets.token_hex(8)
    assert stage.alice.call("GET", f"api/contents/{nonce}").status == 404
    assert nonce in stage.oracle()


COOKIES = {
    "none": "",
    "his grant": f"{ROUTE}={{bob}}",
    "all of his": "{all}",
    "his grant, other case": f"{ROUTE.lower()}={{bob}}",
    "his grant, quoted": f'{ROUTE}="{{bob}}"',
    "his grant twice": f"{ROUTE}={{bob}}; {ROUTE}={{bob}}",
    "hers guessed, then his": f"{ROUTE}=x; {ROUTE}={{bob}}",
    "in two headers": f"{ROUTE}={{bob}}\r\nCookie: {ROUTE}={{bob}}",
    "folded": f"a=b;\r\n {ROUTE}={{bob}}",
    "the hash of hers": f"{ROUTE}={{alice_hash}}",
    "the key of hers in the map": f"{ROUTE}={{alice_hash}}.{{alice_id}}",
    "his, with her server's id": f"{ROUTE}={{bob}}.{{alice_id}}",
    "empty": f"{ROUTE}=",
    "a session as a grant": f"{ROUTE}={{bob_session}}",
}


@pytest.mark.parametrize("cookies", COOKIES.values(), ids=COOKIES)
def test_no_cookie_of_his_opens_her_server(stage: Stage, cookies: str) -> None:
    jar = stage.bob.jar
    value = cookies.format(
        bob=jar[stage.bob.host][ROUTE],
        bob_session=jar[HOST]["__Host-gateway-session"],
        all="; ".join(f"{name}={value}" for each in jar.values() for name, value in each.items()),
        alice_hash=hashlib.sha256(stage.alice.jar[stage.alice.host][ROUTE].encode()).hexdigest().upper(),
        alice_id=stage.alice.state()["id"],
    )
    nonce = secrets.token_hex(8)
    for path in (f"/user/alice/api/contents/{nonce}", f"/user/alice/api/contents/note.txt?{nonce}"):
        lines = f"Host: {stage.alice.host}:{stage.lab.port}\r\nCookie: {value}\r\nAccept: text/html"
        for server_name in (stage.alice.host, stage.bob.host):
            answer = stage.raw(f"GET {path} HTTP/1.1\r\n{lines}\r\nConnection: close\r\n\r\n", server_name)
            check_refused(stage, answer, nonce)


TARGETS = [
    "/user/alice/",
    "//user/alice/",
    "/user//alice/",
    "///user/alice/",
    "/user%2falice/",
    "/user%2Falice/",
    "/user/%61lice/",
    "/%75ser/alice/",
    "/user/bob/../alice/",
    "/user/bob/%2e%2e/alice/",
    "/user/bob/..%2falice/",
    "/user/bob/%2e%2e%2falice/",
    "/user/bob/..;/alice/",
    "/user/bob\\..\\alice/",
    "/user/bob/.././alice/",
    "/user/../user/alice/",
    "/./user/alice/",
    "/user/./alice/",
    "/user/Alice/",
    "/USER/alice/",
    "/User/Alice/",
    "/user/alice;bob/",
    "/user/alice%00/",
    "/user/alice%20/",
    "/user/alice/bob/../",
    "/user/bob/alice/",
    "/user/bob?/user/alice/",
    "/user/bob%3f/../alice/",
    "/hub/../user/alice/",
    "/hub/%2e%2e/user/alice/",
    "https://{alice}/user/alice/",
    "http://{alice}/user/alice/",
    "https://{bob}/user/alice/",
    "{alice}/user/alice/",
    "user/alice/",
    "*/user/alice/",
]


@pytest.mark.parametrize("target", TARGETS)
def test_no_way_of_writing_the_address_leads_him_to_her_server(stage: Stage, target: str) -> None:
    nonce = secrets.token_hex(8)
    port = stage.lab.port
    hosts = {"alice": f"{stage.alice.host}:{port}", "bob": f"{stage.bob.host}:{port}"}
    line = target.format(**hosts) + f"api/contents/note.txt?{nonce}"
    cookie = stage.bob.cookies(stage.bob.host)
    for host in (*hosts.values(), f"{HOST}:{port}"):
        head = f"GET {line} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n"
        answer = stage.raw(f"{head}Accept: text/html\r\nConnection: close\r\n\r\n")
        if host == hosts["bob"] and target.startswith("/user/bob/"):
            assert stage.secret.encode() not in answer  # it is his own server's to answer
            stage.never.append(nonce)
        else:
            check_refused(stage, answer, nonce)


HOSTS = [
    "ALICE.GW.LOCALHOST:{port}",
    "alice.gw.localhost.:{port}",
    "alice.gw.localhost",
    "alice.gw.localhost:443",
    "alice.gw.localhost:",
    "alice.gw.localhost:{port}:1",
    "bob.gw.localhost:{port}, alice.gw.localhost:{port}",
    "bob.gw.localhost:{port}\r\nHost: alice.gw.localhost:{port}",
    "alice.gw.localhost:{port}\r\nHost: bob.gw.localhost:{port}",
    "bob.gw.localhost:{port}\r\n Host: alice.gw.localhost:{port}",
    "bob@alice.gw.localhost:{port}",
    "alice.gw.localhost/user/alice/",
    "bob.gw.localhost/../alice.gw.localhost",
    "\talice.gw.localhost:{port}",
    "alice.gw.localhost\x00.bob.gw.localhost",
    "gw.localhost:{port}",
    "localhost:{port}",
    "127.0.0.1:{port}",
    "[::1]:{port}",
    "",
]


@pytest.mark.parametrize("host", HOSTS)
def test_no_host_header_leads_him_to_her_server(stage: Stage, host: str) -> None:
    nonce = secrets.token_hex(8)
    cookie = stage.bob.cookies(stage.bob.host)
    for version in ("1.1", "1.0"):
        head = f"GET /user/alice/api/contents/{nonce} HTTP/{version}\r\n"
        lines = f"Host: {host.format(port=stage.lab.port)}\r\nCookie: {cookie}\r\nAccept: text/html\r\n"
        for server_name in (stage.alice.host, stage.bob.host):
            answer = stage.raw(f"{head}{lines}Connection: close\r\n\r\n", server_name)
            check_refused(stage, answer, nonce)


HEADERS = [
    "X-Gateway-Route: {id}.1",
    "X-Gateway-User: alice",
    "X-Gateway-Grant: {id}",
    "X-Forwarded-Host: alice.gw.localhost",
    "X-Forwarded-User: alice",
    "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-Prefix: /user/alice/",
    "X-Remote-User: alice",
    "Remote-User: alice",
    "Forwarded: host=alice.gw.localhost;proto=https",
    "X-Original-URL: /user/alice/",
    "X-Rewrite-URL: /user/alice/",
    "X-HTTP-Method-Override: GET",
    "Authorization: token {token}",
    "Authorization: Bearer {token}",
    "Connection: close, Cookie",
    "Connection: close, Host",
    "Connection: close, Authorization",
    "Origin: https://alice.gw.localhost:{port}",
]


@pytest.mark.parametrize("header", HEADERS)
def test_no_header_lets_him_in(stage: Stage, header: str) -> None:
    bobs_id = stage.bob.state()["id"]
    extra = header.format(
        id=stage.alice.state()["id"],
        port=stage.lab.port,
        token=(stage.lab.state / f"home/bob/.gateway/{bobs_id}/token").read_text().strip(),
    )
    for host in (stage.alice.host, stage.bob.host):
        nonce = secrets.token_hex(8)
        head = f"GET /user/alice/api/contents/{nonce} HTTP/1.1\r\nHost: {host}:{stage.lab.port}\r\n"
        cookie = stage.bob.cookies(stage.bob.host)
        close = "" if extra.startswith("Connection:") else "Connection: close\r\n"
        answer = stage.raw(f"{head}Cookie: {cookie}\r\n{extra}\r\nAccept: text/html\r\n{close}\r\n")
        check_refused(stage, answer, nonce)


INNER = (
    "GET /user/alice/api/contents/{nonce} HTTP/1.1\r\nHost: alice.gw.localhost:{port}\r\n"
    f"X-Forwarded-For: {FALSE_ADDRESS}\r\nAccept: text/html\r\n\r\n"
)
FRAMINGS = {
    "length and chunks": "Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
    "chunks and length": "Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n0\r\n\r\n{inner}",
    "length 4 and chunks": (
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n{hex}\r\n{inner}\r\n0\r\n\r\n"
    ),
    "two lengths": "Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{inner}",
    "list of lengths": "Content-Length: 0, {length}\r\n\r\n{inner}",
    "signed length": "Content-Length: +0\r\n\r\n{inner}",
    "length in hex": "Content-Length: 0x0\r\n\r\n{inner}",
    "folded coding": "Content-Length: {length}\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{inner}",
    "blank before colon": "Content-Length: {length}\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n{inner}",
    "tab before coding": "Content-Length: {length}\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n{inner}",
    "vertical tab": "Content-Length: {length}\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n{inner}",
    "odd coding": "Content-Length: {length}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{inner}",
    "two codings": "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{inner}",
    "coding list": "Content-Length: {length}\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n{inner}",
    "chunk size overflow": "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n{inner}",
    "bare linefeed": "Content-Length: {length}\nTransfer-Encoding: chunked\n\n0\n\n{inner}",
    "bare return": "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
    "upgrade": "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n{inner}",
    "http2 upgrade": (
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n{inner}"
    ),
    "body of a get": "Content-Length: {length}\r\n\r\n{inner}",
}


OUTER = [
    "{bob} POST /user/bob/api/contents",
    "{bob} GET /user/bob/api/status",
    "{hub} POST /hub/api/health",
    "{hub} GET /hub/api/health",
]


@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
def test_no_request_can_be_hidden_in_another(stage: Stage, framing: str) -> None:
    """What HAProxy takes for two requests it checks as two; what it takes for one reaches nobody as two."""
    port, cookie = stage.lab.port, stage.bob.cookies(stage.bob.host)
    log_size = stage.lab.gateway_log.stat().st_size
    nonce = secrets.token_hex(8)
    inner = INNER.format(nonce=nonce, port=port)
    rest = framing.format(length=5 + len(inner), hex=f"{len(inner):x}", inner=inner)

    def attempt(line: str) -> bytes:
        host, method_and_path = line.split(maxsplit=1)
        return stage.raw(f"{method_and_path} HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: {cookie}\r\n{rest}")

    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(attempt, (line.format(hub=HOST, bob=stage.bob.host) for line in OUTER)))
    assert all(stage.secret.encode() not in answer for answer in answers)
    stage.never.append(nonce)
    with stage.lab.gateway_log.open() as log:
        log.seek(log_size)
        assert FALSE_ADDRESS not in log.read()


@pytest.mark.parametrize(
    ("host", "origin"),
    [("alice", "alice"), ("alice", "bob"), ("bob", "bob"), ("bob", "alice")],
    ids=str,
)
def test_no_websocket_of_his_reaches_her_kernel(stage: Stage, host: str, origin: str) -> None:
    kernel = stage.alice.call("POST", "api/kernels", {"name": "python3"}).json["id"]
    url = f"wss://{host}.{HOST}:{stage.lab.port}/user/alice/api/kernels/{kernel}/channels"
    attempt = websocket.WebSocket()
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        attempt.connect(  # type: ignore[no-untyped-call]
            url,
            origin=f"https://{origin}.{HOST}:{stage.lab.port}",
            cookie=stage.bob.cookies(stage.bob.host),
            socket=stage.bob.connect(f"{host}.{HOST}"),
        )
    assert refused.value.status_code in (403, 404)
    assert stage.alice.call("DELETE", f"api/kernels/{kernel}").status == 204


def test_her_own_websocket_from_a_page_of_his_is_refused(stage: Stage) -> None:
    """A page of bob's server in alice's browser: the cookies are hers, the origin is his."""
    kernel = stage.alice.call("POST", "api/kernels", {"name": "python3"}).json["id"]
    attempt = websocket.WebSocket()
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        attempt.connect(  # type: ignore[no-untyped-call]
            stage.alice.url(f"api/kernels/{kernel}/channels").replace("https://", "wss://"),
            origin=stage.bob.origin,
            cookie=stage.alice.cookies(stage.alice.host),
            socket=stage.alice.connect(stage.alice.host),
        )
    assert refused.value.status_code == 403
    for site in ("same-site", "cross-site"):
        headers = {"Origin": stage.bob.origin, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "cors"}
        for method in ("GET", "POST", "DELETE"):
            url = stage.alice.url(f"api/kernels/{kernel}")
            assert stage.alice.request(method, url, headers=headers).status == 403
    assert stage.alice.call("DELETE", f"api/kernels/{kernel}").status == 204


# --- the way in ---


def test_a_person_is_refused_at_the_hub_on_the_way_to_somebody_elses_server(stage: Stage) -> None:
    asked = stage.bob.open(stage.alice.url("lab"))
    assert asked.status == 403
    assert asked.url.startswith(f"{stage.bob.hub}/hub/enter?")
    assert ROUTE not in stage.bob.jar.get(stage.alice.host, {})
    state = hashlib.sha256(b"x").hexdigest()
    for target in ("/user/alice/", "/user/alice/lab", "//user/alice/", "/user/bob/../alice/", "/user/Alice/"):
        query = urlencode({"to": target, "state": state})
        answer = stage.bob.request("GET", f"{stage.bob.hub}/hub/enter?{query}", headers=NAVIGATION)
        assert answer.status in (400, 403), target


def test_her_code_is_worth_nothing_in_his_browser_and_nothing_after(stage: Stage) -> None:
    stage.bob.open(stage.alice.url("lab"))  # gives him a state cookie on her origin
    url = stage.alice.code_url()
    taken = stage.bob.request("GET", url, headers=NAVIGATION)
    assert taken.status == 403
    assert ROUTE not in stage.bob.jar.get(stage.alice.host, {})
    again = stage.alice.request("GET", url, headers=NAVIGATION)  # used up: once means once
    assert ROUTE not in (again.headers["Set-Cookie"] or "")
    assert again.location == stage.alice.url("lab"), "the way in begins anew"


def test_a_code_works_once_even_in_the_browser_it_is_for(stage: Stage) -> None:
    url = stage.alice.code_url()
    assert stage.alice.request("GET", url, headers=NAVIGATION).status == 302
    cookie = stage.alice.jar[stage.alice.host][ROUTE]
    again = stage.alice.request("GET", url, headers=NAVIGATION)
    assert ROUTE not in (again.headers["Set-Cookie"] or "")
    assert again.location == stage.alice.url("lab"), "the way in begins anew"
    assert stage.alice.jar[stage.alice.host][ROUTE] == cookie


@pytest.mark.parametrize("name", ["alice", "carol", ""])
def test_his_code_is_worth_nothing_at_another_host_or_path(stage: Stage, name: str) -> None:
    host = f"{name}.{HOST}" if name else HOST
    user = name or "alice"
    for source, target in ((stage.bob.host, host), (f"{stage.bob.host}", stage.bob.host)):
        url = stage.bob.code_url().replace(source, target).replace("/user/bob/", f"/user/{user}/", 1)
        state = stage.bob.jar[stage.bob.host]["__Host-gateway-state"]
        headers = NAVIGATION | {"Cookie": f"__Host-gateway-state={state}"}
        answer = stage.bob.request("GET", url, headers=headers)
        assert answer.status in (403, 404)
        assert ROUTE not in (answer.headers["Set-Cookie"] or "")


def test_a_code_leads_only_to_pages_of_the_gateway(stage: Stage) -> None:
    for target in (
        "https://evil.example/",
        "//evil.example/",
        "/user/alice/",
        "/\\evil.example",
        "javascript:1",
    ):
        url = stage.bob.code_url().partition("&to=")[0] + "&" + urlencode({"to": target})
        answer = stage.bob.request("GET", url, headers=NAVIGATION)
        assert answer.status == 302
        assert answer.location == stage.bob.url("lab")


# --- the hub ---


def test_he_can_do_nothing_with_her_servers_at_the_hub(stage: Stage) -> None:
    xsrf = re.search(
        r'name="_xsrf" value="([^"]+)"',
        stage.bob.request("GET", f"{stage.bob.hub}/hub/home", headers=NAVIGATION).text,
    )
    assert xsrf
    own = {"Origin": stage.bob.hub, "Sec-Fetch-Site": "same-origin", "X-XSRFToken": xsrf[1]}
    before = stage.alice.state()
    for path in (
        "users/alice",
        "users/alice/server/progress",
        "users/%61lice",
        "users/alice%2f",
        "users/Alice",
    ):
        answer = stage.bob.request("GET", f"{stage.bob.hub}/hub/api/{path}")
        assert answer.status == 404, path
        assert before["id"] not in answer.text
    for method in ("POST", "DELETE"):
        url = f"{stage.bob.hub}/hub/api/users/alice/server"
        assert stage.bob.request(method, url, json.dumps({}), own).status in (403, 404)
    assert stage.bob.request("GET", f"{stage.bob.hub}/hub/metrics").status == 403
    assert stage.alice.state() == before


def test_after_logout_his_old_cookies_open_nothing(stage: Stage) -> None:
    other = Person(stage.lab, "bob").login()
    other.enter()
    jar = {host: dict(cookies) for host, cookies in other.jar.items()}
    assert other.submit("/hub/logout").status == 200
    other.jar = jar
    end = time.monotonic() + 5
    while other.call("GET", "api/status").status == 200:
        assert time.monotonic() < end
    assert other.request("GET", f"{other.hub}/hub/api/users/bob").status == 403

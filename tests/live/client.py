"""One person at the gateway: a browser's cookies and habits, without the browser."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any, Self
from urllib.parse import urlencode, urljoin, urlsplit

import websocket

from tests.lab import Lab
from tests.lab.nodes import LabError, wait_until
from tests.lab.staging import HOST

_XSRF = re.compile(r'name="_xsrf" value="([^"]+)"')
#: What a browser sends when a person goes to an address.
NAVIGATION = {
    "Accept": "text/html",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Site": "none",
}
#: What the form asks for where a test does not care.
CHOICES = {
    "cluster": "lab",
    "application": "lab",
    "partition": "debug",
    "walltime": "10m",
    "cores": "1",
    "memory": "500M",
    "gpus": "0",
}


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    url: str

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def location(self) -> str:
        """Where it leads, as a full URL; "" if it does not."""
        target = self.headers.get("Location")
        return urljoin(self.url, target) if target else ""


@dataclass
class Person:
    """Somebody with a browser of their own. ``jar`` holds the cookies of each host."""

    lab: Lab
    name: str
    jar: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def hub(self) -> str:
        """The hub's origin."""
        return f"https://{HOST}:{self.lab.port}"

    @property
    def origin(self) -> str:
        """The origin of this person's servers."""
        return f"https://{self.host}:{self.lab.port}"

    @property
    def host(self) -> str:
        return f"{self.name}.{HOST}"

    # --- requests ---

    def connect(self, server_name: str = HOST, timeout: float = 20.0) -> ssl.SSLSocket:
        """Return a TLS connection to the gateway, its certificate checked."""
        context = ssl.create_default_context(cafile=str(self.lab.authority))
        plain = socket.create_connection(("127.0.0.1", self.lab.port), timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(plain, server_hostname=server_name)

    def request(
        self,
        method: str,
        url: str,
        body: bytes | str = b"",
        headers: Mapping[str, str] | None = None,
        timeout: float = 20.0,
    ) -> Answer:
        """Send one request with this browser's cookies and keep those that come back; follow nothing."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        target = parts._replace(scheme="", netloc="", fragment="").geturl()
        all_headers = {"Host": parts.netloc, **(headers or {})}
        if (cookies := self.cookies(host)) and "Cookie" not in all_headers:
            all_headers["Cookie"] = cookies
        connection = http.client.HTTPConnection(host, timeout=timeout)
        connection.sock = self.connect(host, timeout)
        try:
            connection.request(method, target, body or None, all_headers)
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read(), url)
        finally:
            connection.close()
        self._keep_cookies(host, answer.headers)
        return answer

    def cookies(self, host: str) -> str:
        """Return the ``Cookie`` header for a host."""
        return "; ".join(f"{name}={value}" for name, value in self.jar.get(host, {}).items())

    def _keep_cookies(self, host: str, headers: http.client.HTTPMessage) -> None:
        kept = self.jar.setdefault(host, {})
        for line in headers.get_all("Set-Cookie") or []:
            for name, morsel in SimpleCookie(line).items():
                if morsel.value and morsel["max-age"] != "0":
                    kept[name] = morsel.value
                else:
                    kept.pop(name, None)

    def open(self, url: str, timeout: float = 20.0) -> Answer:
        """Go to a page as a person does, and on to where it leads."""
        for _ in range(12):
            answer = self.request("GET", url, headers=NAVIGATION, timeout=timeout)
            if answer.status not in (301, 302, 303, 307, 308):
                return answer
            url = answer.location
        raise AssertionError(f"no end of redirects at {url}")

    def submit(self, page: str, **fields: str) -> Answer:
        """Open a page of the hub and send its form, with the form's token; follow nothing."""
        url = urljoin(self.hub, page)
        found = _XSRF.search(self.request("GET", url, headers=NAVIGATION).text)
        assert found, f"no form at {url}"
        return self.post(page, found[1], **fields)

    def post(self, path: str, xsrf: str, **fields: str) -> Answer:
        """Send a form to the hub."""
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": self.hub,
            "Sec-Fetch-Site": "same-origin",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document",
        }
        return self.request("POST", urljoin(self.hub, path), urlencode({"_xsrf": xsrf, **fields}), headers)

    # --- the hub's pages ---

    def login(self, password: str | None = None) -> Self:
        """Log in by the form."""
        word = self.lab.passwords[self.name] if password is None else password
        answer = self.submit("/hub/login", username=self.name, password=word)
        assert answer.status == 303, f"{answer.status} {answer.text}"
        return self

    def spawn(self, server: str = "", **choices: str) -> Answer:
        """Send the form that starts a server; ``choices`` over CHOICES."""
        return self.submit(_page("/hub/spawn", server), **{**CHOICES, **choices})

    def start(self, server: str = "", timeout: float = 60.0, **choices: str) -> dict[str, Any]:
        """Start a server by the form, wait until it is ready, and return what the API says of it."""
        answer = self.spawn(server, **choices)
        assert answer.status == 303, f"{answer.status} {answer.text}"
        return self.wait_for("ready", server, timeout)

    def stop(self, server: str = "", timeout: float = 40.0) -> None:
        """Stop a server by the button on the home page, and wait until it has ended."""
        self.ask_to_stop(server)
        self.wait_for("ended", server, timeout)

    def ask_to_stop(self, server: str = "") -> None:
        """Press the button that stops a server."""
        self._press("/hub/stop", server)

    def keep(self, server: str = "") -> None:
        """Press the button that keeps an idle server."""
        self._press("/hub/keep", server)

    def _press(self, path: str, server: str) -> None:
        found = _XSRF.search(self.request("GET", f"{self.hub}/hub/home", headers=NAVIGATION).text)
        assert found, "no form on the home page"
        assert self.post(_page(path, server), found[1]).status == 303

    def state(self, server: str = "") -> dict[str, Any]:
        """Return id, phase, job_id, host … of a server, as the API tells; phase "ended" if there is none."""
        return self.servers().get(server, {"phase": "ended"})

    def servers(self) -> dict[str, dict[str, Any]]:
        """Return the states of all servers that have not ended, by name."""
        answer = self.request("GET", f"{self.hub}/hub/api/users/{self.name}")
        assert answer.status == 200, f"{answer.status} {answer.text}"
        return {name: dict(server["state"]) for name, server in answer.json["servers"].items()}

    def wait_for(self, phase: str, server: str = "", timeout: float = 60.0) -> dict[str, Any]:
        """Wait until a server is in a phase; fail at once if it ends instead."""

        state: dict[str, Any] = {}

        def there() -> bool:
            state.clear()
            state.update(self.state(server))
            if state["phase"] == "ended" != phase:
                raise LabError(f"{self.name}'s server has ended instead of being {phase}")
            return bool(state["phase"] == phase)

        wait_until(there, f"{self.name}'s server is {phase}", timeout, 0.1)
        return state

    # --- in a server ---

    def enter(self, server: str = "") -> Answer:
        """Open a server as a person does, login and grant included; return its page."""
        answer = self.open(self.url("", server))
        assert answer.status == 200, f"{answer.status} at {answer.url}"
        assert answer.url.startswith(self.origin), f"not let in, but led to {answer.url}"
        return answer

    def code_url(self, server: str = "") -> str:
        """Go the way into a server up to the one-time code; return the address that takes the code."""
        first = self.request("GET", self.url("lab", server), headers={**NAVIGATION, "Cookie": ""})
        assert first.location.startswith(f"{self.hub}/hub/enter?"), f"{first.status} {first.location}"
        second = self.request("GET", first.location, headers=NAVIGATION)
        assert "/-gateway-enter?code=" in second.location, f"{second.status} {second.location}"
        return second.location

    def url(self, path: str, server: str = "") -> str:
        """Return the URL of a path of a server."""
        return f"{self.origin}{_page(f'/user/{self.name}', server)}/{path}"

    def call(self, method: str, path: str, body: Any = None, server: str = "") -> Answer:
        """Call Jupyter's REST API as a page of the server does."""
        data = b"" if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Origin": self.origin, "Sec-Fetch-Site": "same-origin"}
        return self.request(method, self.url(path, server), data, headers)

    def websocket(self, path: str, server: str = "", timeout: float = 20.0) -> websocket.WebSocket:
        """Open a WebSocket to a server as its pages do."""
        url = self.url(path, server).replace("https://", "wss://")
        ws = websocket.WebSocket()
        ws.settimeout(timeout)
        ws.connect(  # type: ignore[no-untyped-call]
            url, origin=self.origin, cookie=self.cookies(self.host), socket=self.connect(self.host)
        )
        return ws

    @contextmanager
    def kernel(self, server: str = "") -> Iterator[Kernel]:
        """Start a kernel and open its WebSocket; both end with the block."""
        kernel_id = self.call("POST", "api/kernels", {"name": "python3"}, server).json["id"]
        ws = self.websocket(f"api/kernels/{kernel_id}/channels", server)
        try:
            yield Kernel(ws)
        finally:
            ws.close()
            self.call("DELETE", f"api/kernels/{kernel_id}", server=server)


@dataclass(frozen=True)
class Kernel:
    """An open WebSocket to a kernel."""

    socket: websocket.WebSocket

    def begin(self, code: str) -> str:
        """Send code to run, and return the message's id; do not wait for it."""
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "username": "",
            "session": uuid.uuid4().hex,
            "version": "5.3",
            "date": "",
        }
        content = {"code": code, "silent": False, "allow_stdin": False, "stop_on_error": True}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        self.socket.send(json.dumps({**message, "channel": "shell", "buffers": []}))
        return header["msg_id"]

    def run(self, code: str, timeout: float = 30.0) -> str:
        """Run code and return what it printed."""
        message_id = self.begin(code)
        printed, end = "", time.monotonic() + timeout
        while time.monotonic() < end:
            received = json.loads(self.socket.recv())
            if received["parent_header"].get("msg_id") != message_id:
                continue
            if received["msg_type"] == "stream":
                printed += received["content"]["text"]
            elif received["msg_type"] == "error":
                raise AssertionError("\n".join(received["content"]["traceback"]))
            elif received["msg_type"] == "status" and received["content"]["execution_state"] == "idle":
                return printed
        raise AssertionError(f"no answer after {timeout:g} s; so far: {printed}")


def _page(path: str, server: str) -> str:
    return f"{path}/{server}" if server else path

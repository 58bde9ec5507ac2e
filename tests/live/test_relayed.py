"""An application that has no TLS, from the form to its page: through the relay in its job, and only so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab, gateway
from tests.lab.nodes import wait_until
from tests.live.client import Person

#: A web application as people write them: a page, an upload that is counted, a WebSocket that echoes.
APPLICATION = r"""
import sys
from tornado import httpserver, ioloop, netutil, web, websocket
where, path = sys.argv[1:]

class Page(web.RequestHandler):
    def get(self):
        self.write("<title>Web</title>at " + where + " for " + self.request.headers["Authorization"][:6])

@web.stream_request_body
class Upload(web.RequestHandler):
    def prepare(self):
        self.total = 0
        self.request.connection.set_max_body_size(1 << 30)
    def data_received(self, data):
        self.total += len(data)
    def post(self):
        self.write(str(self.total))

class Echo(websocket.WebSocketHandler):
    def on_message(self, message):
        self.write_message(message, binary=True)

pages = web.Application([(path + "/", Page), (path + "/upload", Upload), (path + "/echo", Echo)])
server = httpserver.HTTPServer(pages)
if where.startswith("/"):
    server.add_socket(netutil.bind_unix_socket(where))
else:
    server.listen(int(where), "127.0.0.1")
ioloop.IOLoop.current().start()
"""


def applications() -> str:
    """Return the site config with that application, on a Unix socket and on a port."""
    code = "".join(f"        {line}\n" for line in APPLICATION.strip().split("\n"))
    return gateway.SITE_CONFIG + "".join(
        f"""\
  - name: web-{where}
    title: Web
    tls: relay
    activity: traffic
    command:
      - {gateway.PYTHON}
      - -c
      - |
{code}      - "{{{where}}}"
      - "{{path}}"
"""
        for where in ("socket", "port")
    )


@pytest.fixture(scope="module")
def web(lab: Lab) -> Iterator[Lab]:
    """The lab with an application that has no TLS."""
    lab.stop_gateway()
    lab.write_gateway_config(applications())
    lab.start_gateway()
    try:
        yield lab
    finally:
        lab.stop_gateway()
        lab.clear_jobs()
        lab.write_gateway_config()
        lab.start_gateway()


@pytest.mark.parametrize("where", ["socket", "port"])
def test_an_application_without_tls_from_the_form_to_its_end(web: Lab, where: str) -> None:
    alice = Person(web, "alice").login()
    state = alice.start("web", application=f"web-{where}")
    page = alice.enter("web").text
    assert "<title>Web</title>" in page
    assert page.endswith(" for token ")
    private = page.partition("at ")[2].partition(" ")[0]
    body = os.urandom(1 << 20) * 20
    headers = {"Origin": alice.origin, "Sec-Fetch-Site": "same-origin"}
    assert alice.request("POST", alice.url("upload", "web"), body, headers).text == str(len(body))
    echo = alice.websocket("echo", "web")
    for size in (1, 100_000, 4 << 20):
        echo.send_binary(body[:size])
        assert echo.recv() == body[:size]
    echo.close()
    node = web.nodes[state["host"]]
    if where == "socket":
        asked = node.run(["runuser", "-u", "bob", "--", "ls", str(Path(private).parent)])
        assert "Permission denied" in asked.stderr
    alice.stop("web")
    if where == "socket":
        wait_until(lambda: node.run(["test", "-e", private]).returncode == 1, "nothing is left in /tmp")

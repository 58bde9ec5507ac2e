"""A gateway below a path of a host that is the site's own nginx: in real Chromium, on the lab."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.lab import Lab, gateway
from tests.lab.accounts import BY_NAME, write_private
from tests.lab.nodes import wait_until
from tests.live import chromium
from tests.live.chromium import Person, Stopwatch, run_first_cell

pytestmark = pytest.mark.browser

BASE = "/hpc/gateway/"
_PLAIN = 18080
_PLACES = "/usr/sbin:/usr/local/sbin:/usr/bin"
_NGINX = """\
daemon off;
master_process off;
pid /tmp/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path /tmp/nginx-body;
    proxy_temp_path /tmp/nginx-proxy;
    fastcgi_temp_path /tmp/nginx-fastcgi;
    uwsgi_temp_path /tmp/nginx-uwsgi;
    scgi_temp_path /tmp/nginx-scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {etc}/tls.pem;
        ssl_certificate_key {etc}/tls.pem;
        location / {{ return 200 "the institution's own page"; }}
        location {base} {{
            proxy_pass http://127.0.0.1:{plain};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}
}}
"""


class Below(Person):
    """Somebody who finds the gateway below a path."""

    def __init__(self, browser: Browser, lab: Lab, name: str, **options: Any) -> None:
        super().__init__(browser, lab, name, **options)
        self.url = lab.url.removesuffix("/") + BASE

    def origin(self, owner: str) -> str:
        """Return what the addresses of a person's servers begin with."""
        return super().origin(owner).removesuffix("/") + BASE


@pytest.fixture
def below(lab: Lab) -> Iterator[Lab]:
    """The lab's gateway without TLS, below a path, and nginx where it was."""
    if not (chromium.PROGRAM.exists() and shutil.which("nginx", path=_PLACES)):
        pytest.skip("needs Debian's packages chromium and nginx")
    chromium.SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    lab.stop_gateway()
    lab.end_gateway_processes()
    config = gateway.gateway_config(lab.port)
    config += f'c.Gateway.public_url += "{BASE[1:]}"\n'
    config += f'c.Gateway.bind = []\nc.Gateway.plain_bind = ["127.0.0.1:{_PLAIN}"]\n'
    config += 'c.Gateway.trusted_proxies = ["127.0.0.1"]\n'
    write_private(lab.state / "hub/gateway_config.py", config, BY_NAME["gateway"].uid)
    text = _NGINX.format(port=lab.port, etc=gateway.ETC, base=BASE, plain=_PLAIN)
    lab.hub.run(["install", "-m", "644", "/dev/stdin", "/tmp/nginx.conf"], input=text, check=True)
    nginx = lab.make_daemon("nginx", "hub", ["nginx", "-c", "/tmp/nginx.conf"], port=lab.port)
    try:
        nginx.start()
        ready = replace(lab.gateway_daemon(), ready=lambda: gateway.answers(lab.port, lab.authority, BASE))
        ready.start(30)
        yield lab
    finally:
        lab.stop_gateway()
        lab.end_gateway_processes()
        nginx.stop()
        lab.write_gateway_config()


def test_below_a_path_from_the_login_page_to_a_cells_output(below: Lab) -> None:
    watch = Stopwatch()
    with (
        sync_playwright() as playwright,
        chromium.launch(playwright, below.state / "tls/gateway.pem") as browser,
        Below(browser, below, "alice") as alice,
    ):
        alice.page.goto(alice.url)
        alice.page.wait_for_url(re.compile(f"{BASE}hub/login"))
        alice.log_in()
        alice.page.get_by_role("heading", name="Your servers").wait_for()
        alice.start("short", "5m")
        alice.page.locator("#title").wait_for()
        alice.screenshot("waiting-below")
        alice.arrive()
        watch.lap("the server answers")
        assert alice.requests.count(alice.hub("wait")) == 1, "the page is kept up to date without a reload"
        output = run_first_cell(alice.page, "import socket; socket.gethostname()")
        watch.lap(f"the first cell's output: {output}")
        assert alice.jobs("%N") == [output.strip("'")]
        alice.screenshot("jupyterlab-below")
        outside = [url for url in alice.requests if url.startswith("https://") and BASE not in url]
        assert outside == [], "nothing is asked of the institution's own pages"
        answer = alice.page.goto(below.url)
        assert answer is not None
        assert "institution" in answer.text()
        alice.stop()
        alice.wait_until_ended()
        wait_until(lambda: not alice.jobs(), "squeue is empty")
        assert alice.complaints == []
        watch.lap("it has ended")

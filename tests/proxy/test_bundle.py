"""What a support archive tells of a real HAProxy: routes and counts, and neither tokens nor grants."""

from __future__ import annotations

from pathlib import Path

import pytest
from traitlets.config import Config

from gateway.config import Settings
from gateway.routes import hash_cookie
from gateway.support.archive import Archive
from gateway.support.contents import Contents, Wanted
from tests.proxy.stage import ALICE, COOKIE, HOST, Stage

pytestmark = pytest.mark.proxy


async def test_routes_are_told_and_no_token_and_no_hash_of_a_cookie(stage: Stage, tmp_path: Path) -> None:
    await stage.usual()
    places = {"run_dir": str(stage.directory), "state_dir": str(tmp_path), "site_dir": str(tmp_path)}
    archive = Archive(())
    await Contents(Settings(Config({"Gateway": places}), "test"), Wanted(doctor=False)).fill(archive)
    told = archive._texts["haproxy.txt"]
    assert f"> routes\n{HOST}/alice/ {ALICE}.1\n" in told
    assert "> grants: 4" in told
    assert "CurrConns: " in told
    everything = "".join(archive._texts.values())
    assert "token-of-" not in everything
    assert hash_cookie(COOKIE) not in everything

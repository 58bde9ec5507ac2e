"""What commands write to standard error: audit lines always, and of an error what to do next."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import cli
from gateway.errors import BadRequest, ConfigError, DataPlaneError, GatewayError, NotFound

_SAY = "import logging; [logging.getLogger(name).info(name) for name in ('gateway', 'gateway.audit')]"
_HUB = """
from pathlib import Path
from gateway.commands.base import log_to_stderr
from gateway.config import load_settings
log_to_stderr(load_settings(Path({config!r})))
"""
_DOCTOR = "from gateway.commands import doctor; doctor._quiet()\n"


@pytest.mark.parametrize("setup", [_HUB, _DOCTOR])
def test_a_certificate_leaves_its_line_at_every_log_level(tmp_path: Path, setup: str) -> None:
    config = tmp_path / "gateway_config.py"
    config.write_text("c.Gateway.log_level = 'WARNING'\n")
    script = setup.format(config=str(config)) + _SAY
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    (line,) = done.stderr.splitlines()
    assert line.endswith("gateway.audit")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigError("x.py:1: wrong"), "x.py:1: wrong\n"),
        (NotFound("alice has no server x."), "alice has no server x.\n"),
        (DataPlaneError("no HAProxy"), "no HAProxy\n"),
        (BadRequest("detail", "Write it so."), "Write it so.\n"),
        (DataPlaneError("no HAProxy", advice="Start it."), "no HAProxy\nStart it.\n"),
        (DataPlaneError("no HAProxy. Start it.", advice="Start it."), "no HAProxy. Start it.\n"),
    ],
)
def test_an_error_is_told_with_its_advice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: GatewayError, said: str
) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise error

    parser = argparse.ArgumentParser()
    parser.set_defaults(call=fail)
    monkeypatch.setattr(cli, "_parser", lambda: parser)
    assert cli.main([]) == 1
    assert capsys.readouterr().err == said

"""HAProxy and the masters are run by somebody else: the hub never starts one, and shares what it must."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from traitlets.config import Config

from gateway.config import Settings
from gateway.dataplane import drain
from gateway.dataplane.haproxy import HAProxy, HAProxySettings, Listener
from gateway.dataplane.masters import Duty, Masters
from gateway.dataplane.process import lives
from gateway.dataplane.tunnel import TunnelSettings
from gateway.errors import ConfigError, DataPlaneError, LoginNodeUnreachable
from gateway.managed import drain_host, end_tunnels, keep_tunnels, only_keeper, prepare_haproxy
from tests.proxy.sshd import Sshd
from tests.proxy.stage import ALICE, Stage, cookie

pytestmark = pytest.mark.proxy


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def certificate(path: Path, name: str) -> None:
    """Write a certificate for ``name`` and its key."""
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    words += ["-days", "2", "-subj", f"/CN={name}", "-out", "-", "-keyout", "-"]
    made = subprocess.run(words, capture_output=True, check=True, timeout=20)
    path.write_bytes(made.stdout)


async def test_one_that_is_not_there_is_prepared_for_and_not_started(stage: Stage) -> None:
    haproxy = HAProxy(replace(stage.settings, managed=True))
    with pytest.raises(DataPlaneError, match="systemctl start gateway-haproxy"):
        await haproxy.ensure()
    before = {path: path.stat().st_ino for path in stage.settings.directory.iterdir()}
    assert {"haproxy.cfg", "pages.map", "routes.map"} <= {path.name for path in before}
    await haproxy.prepare()
    assert {path: path.stat().st_ino for path in stage.settings.directory.iterdir()} == before
    await stage.usual()  # somebody starts it
    await haproxy.ensure()
    assert (await stage.ask("/user/alice/", [cookie()])).body == f"{ALICE}.1".encode()


async def test_with_a_group_it_is_shared_what_haproxy_needs_and_nothing_else(stage: Stage) -> None:
    tls = stage.directory / "tls.pem"
    certificate(tls, "one")
    listeners = (Listener(stage.settings.listeners[0].address, tls),)
    stage.settings = replace(stage.settings, group=os.getgid(), listeners=listeners)
    stage.haproxy = HAProxy(stage.settings)
    await stage.haproxy.ensure()
    directory = stage.settings.directory
    assert (mode(directory), mode(directory / "s")) == (0o710, 0o770)
    files = [path for path in directory.iterdir() if path.is_file() and path.name != "haproxy.pid"]
    assert {mode(path) for path in files} == {0o640}
    assert {mode(path) for path in (directory / "s").iterdir()} == {0o660}
    assert (directory / "public-0.pem").read_bytes() == tls.read_bytes()
    assert str(tls) not in (directory / "haproxy.cfg").read_text()


async def test_a_damaged_certificate_replaces_no_good_one(stage: Stage) -> None:
    tls = stage.directory / "tls.pem"
    certificate(tls, "one")
    settings: HAProxySettings = replace(
        stage.settings, listeners=(Listener(stage.settings.listeners[0].address, tls),)
    )
    stage.haproxy = HAProxy(settings)
    await stage.haproxy.ensure()
    good, workers = tls.read_bytes(), await stage.workers()
    certificate(tls, "two")
    other_key = tls.read_bytes()
    for damaged in (b"", good[: len(good) // 2], good[: good.index(b"-----END PRIVATE")] + other_key):
        tls.write_bytes(damaged)
        await stage.haproxy.ensure()
        assert (settings.directory / "public-0.pem").read_bytes() == good
    assert await stage.workers() == workers
    tls.write_bytes(other_key)
    await stage.haproxy.ensure()
    assert (settings.directory / "public-0.pem").read_bytes() == other_key


async def test_haproxy_is_left_what_it_has_where_nothing_better_can_be_made(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with tempfile.TemporaryDirectory(prefix="gw", dir="/tmp") as name:
        tls, run_dir = Path(name) / "tls.pem", Path(name) / "run"
        values = {
            "tls_certificate": str(tls),
            "bind": ["127.0.0.1:1"],
            "public_url": "https://gw.example.org/",
        }
        values |= {"run_dir": str(run_dir), "state_dir": f"{name}/state"}
        settings = Settings(Config({"Gateway": values}), "test")
        with pytest.raises(ConfigError, match="No such file"):
            await prepare_haproxy(settings)
        certificate(tls, "one")
        await prepare_haproxy(settings)
        before = {path: path.read_bytes() for path in (run_dir / "haproxy").iterdir()}
        for damaged in (b"", None):
            tls.unlink() if damaged is None else tls.write_bytes(damaged)
            caplog.clear()
            await prepare_haproxy(settings)
            assert "of before" in caplog.text
            assert "tls.pem" in caplog.text
        assert {path: path.read_bytes() for path in (run_dir / "haproxy").iterdir()} == before
        for path, content in before.items():  # with less than all of them it could not start
            path.unlink()
            with pytest.raises(ConfigError, match="No such file"):
                await prepare_haproxy(settings)
            path.write_bytes(content)


def test_a_process_of_another_user_lives_though_proc_may_hide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_words: object) -> str:
        raise FileNotFoundError

    def not_ours(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", unreadable)
    assert not lives(2**22)
    monkeypatch.setattr(os, "kill", not_ours)
    assert lives(1)


@pytest.fixture
def settings() -> Iterator[TunnelSettings]:
    with tempfile.TemporaryDirectory(prefix="gw") as directory, Sshd(Path(directory)) as sshd:
        yield replace(sshd.settings(), group=os.getgid())


async def test_one_keeps_the_masters_and_another_carries(settings: TunnelSettings) -> None:
    keeper, hub = Masters(settings, Duty.KEEP), Masters(settings, Duty.CARRY)
    try:
        with pytest.raises(LoginNodeUnreachable, match="journalctl -u gateway-tunnels"):
            await hub.tend()
        assert not settings.directory.exists()
        await keeper.tend()
        await hub.tend()
        path = await hub.forward(ALICE, 0, "127.0.0.1", 9)
        assert (mode(path), mode(path.parent), mode(settings.directory)) == (0o660, 0o710, 0o710)
        assert mode(path.parent / "ctl") == 0o600
        path.with_name(f"{ALICE}.7.to").write_text("127.0.0.1 9\n")  # the hub is about to make one
        await keeper.tend()
        assert path.with_name(f"{ALICE}.7.to").exists()
        master = int((path.parent / "pid").read_text())
        os.kill(master, signal.SIGKILL)
        await asyncio.sleep(0.1)
        assert await hub.confirmed(ALICE, 0) is None
        before = path.stat().st_mtime_ns
        await keeper.tend()
        assert path.stat().st_mtime_ns != before
        assert (mode(path), await hub.confirmed(ALICE, 0)) == (0o660, path)
    finally:
        await keeper.stop()


async def test_a_forward_that_its_maker_did_not_come_to_share_is_shared(settings: TunnelSettings) -> None:
    keeper = Masters(settings, Duty.KEEP)
    try:
        await keeper.tend()
        path = await Masters(replace(settings, group=None), Duty.CARRY).forward(ALICE, 0, "127.0.0.1", 9)
        hub = Masters(settings, Duty.CARRY)
        assert mode(path) == 0o600
        assert (hub.address(ALICE, 0), mode(path)) == (path, 0o660)
        path.chmod(0o600)
        assert (await hub.forwards(), mode(path)) == ({(ALICE, 0): path}, 0o660)
        for directory in (path.parent, settings.directory):  # it was the first hub to have a group
            directory.chmod(0o700)
        path.chmod(0o600)
        await keeper.tend()
        assert (mode(path), mode(path.parent), mode(settings.directory)) == (0o660, 0o710, 0o710)
    finally:
        await keeper.stop()


@pytest.fixture
async def three_tunnels(settings: TunnelSettings) -> AsyncIterator[dict[str, Masters]]:
    """Masters of three clusters that an earlier gateway has left in its run directory."""
    run_dir = settings.directory.parent / "run"
    (run_dir / "t").mkdir(parents=True, mode=0o700)
    names = ("stays", "direct", "removed")
    tunnels = {
        name: Masters(replace(settings, cluster=name, directory=run_dir / "t" / name)) for name in names
    }
    try:
        for masters in tunnels.values():
            await masters.tend()
        yield tunnels
    finally:
        for masters in tunnels.values():
            await masters.stop()


def pids(run_dir: Path) -> dict[str, int]:
    return {file.parts[-3]: int(file.read_text()) for file in run_dir.glob("t/*/0/pid")}


def configured(settings: TunnelSettings) -> Settings:
    """Return the settings of a gateway with two clusters, one of them without a tunnel over SSH."""
    directory = settings.directory.parent
    (directory / "sites").mkdir()
    login = {"hosts": ["127.0.0.1"], "port": settings.port, "user": settings.user, "act_as": "service"}
    files = {"key": str(settings.key), "known_hosts": str(settings.known_hosts)}
    for name, tunnel in (("stays", {"masters": 1}), ("direct", "direct")):
        site = {
            "version": 1,
            "name": name,
            "title": name,
            "scheduler": "slurm",
            "login": {**login, **files},
            "tunnel": tunnel,
            "partitions": [{"name": "short", "max_walltime": "4h", "max_cores": 1, "max_memory": "1G"}],
            "applications": [{"name": "lab", "title": "JupyterLab", "command": ["true"], "url": "/lab"}],
        }
        (directory / f"sites/{name}.yaml").write_text(json.dumps(site))  # which is YAML too
    places = {"run_dir": str(directory / "run"), "site_dir": str(directory / "sites")}
    return Settings(Config({"Gateway": places}), "test")


async def test_a_keeper_ends_masters_that_no_site_wants_any_more(
    settings: TunnelSettings, three_tunnels: dict[str, Masters], caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = settings.directory.parent / "run"
    way = run_dir / "t/direct" / f"{ALICE}.0.to"
    way.write_text("cn1 8000 127.0.0.1\n")
    before = pids(run_dir)
    assert len(before) == 3
    keeping = asyncio.create_task(keep_tunnels(configured(settings)))
    try:
        async with asyncio.timeout(10):
            while lives(before["direct"]) or lives(before["removed"]):
                await asyncio.sleep(0.05)
    finally:
        await asyncio.sleep(0.2)  # the keeper has begun to keep
        signal.raise_signal(signal.SIGTERM)
        await keeping
    assert pids(run_dir) == {"stays": before["stays"]}
    assert lives(before["stays"])
    assert way.exists()
    assert not (run_dir / "t/removed").exists()
    assert "[removed] its 1 SSH masters are ended" in caplog.text


async def test_all_masters_can_be_ended_also_without_any_site_config(
    settings: TunnelSettings, three_tunnels: dict[str, Masters]
) -> None:
    gateway = configured(settings)
    run_dir = settings.directory.parent / "run"
    before = pids(run_dir)
    for file in (settings.directory.parent / "sites").iterdir():
        file.unlink()
    with only_keeper(run_dir), pytest.raises(ConfigError, match="systemctl stop gateway-tunnels"):
        end_tunnels(gateway)
    assert pids(run_dir) == before
    end_tunnels(gateway)
    async with asyncio.timeout(5):
        while any(map(lives, before.values())):
            await asyncio.sleep(0.05)
    assert list((run_dir / "t").iterdir()) == []


def test_a_host_is_drained_for_the_clusters_that_it_leads_to_if_they_have_another(
    settings: TunnelSettings,
) -> None:
    gateway = configured(settings)
    file = settings.directory.parent / "sites/stays.yaml"
    with pytest.raises(ConfigError, match=r"stays: 127\.0\.0\.1 is the last host of its tunnel"):
        drain_host(gateway, "127.0.0.1", away=True)
    site = json.loads(file.read_text())
    site["tunnel"]["hosts"] = ["127.0.0.1", "localhost"]
    file.write_text(json.dumps(site))
    assert drain_host(gateway, "localhost", away=True) == ["stays"]
    masters = settings.directory.parent / "run/t/stays"
    assert drain.marked(masters) == {"localhost"}
    with pytest.raises(ConfigError, match="last host"):
        drain_host(gateway, "127.0.0.1", away=True)
    assert drain_host(gateway, "localhost", away=False) == ["stays"]
    assert drain.marked(masters) == set()
    with pytest.raises(ConfigError, match=r"elsewhere is in no site config's tunnel\.hosts"):
        drain_host(gateway, "elsewhere", away=True)


def test_only_one_process_keeps_them(tmp_path: Path) -> None:
    with only_keeper(tmp_path), pytest.raises(ConfigError, match="systemctl stop gateway-tunnels"):
        with only_keeper(tmp_path):
            pytest.fail("two keep them")
    with only_keeper(tmp_path):
        pass

"""What many routes cost: to add one, to take one back, to compare all, to start again; and their memory.

Run ``python benchmarks/routes.py [--counts N …] [--adds N] [--json]``; README.rst says more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a script from anywhere

from benchmarks.processes import output
from benchmarks.stage import DOMAIN, Hub, hub, placed
from gateway.dataplane.haproxy import HAProxy, HAProxySettings
from gateway.dataplane.runtime import Processes, ask_master
from gateway.lifecycle import Event, Phase
from gateway.model import Server
from gateway.origins import ROUTE_COOKIE
from gateway.routes import Desired

COUNTS = (10, 100, 1000, 5000)
#: Goals: milliseconds (p99) from an application that answers to a browser that gets there, with so many
#: routes; kB of RSS for each route, of HAProxy's worker and the SSH masters together.
ADD_MS, AT_MOST_ROUTES, ROUTE_KB = 50.0, 1000, 25.0
SHARED_MEMORY = Path("/dev/shm")
TITLES = {
    "routes": "routes",
    "forward_ms": "way",
    "add_p50_ms": "add p50",
    "add_p99_ms": "p99",
    "enter_p50_ms": "let in p50",
    "enter_p99_ms": "p99",
    "revoke_ms": "revoke",
    "all_ms": "all",
    "snapshot_ms": "snapshot",
    "first_ms": "from none",
    "reload_ms": "reload",
    "start_ms": "start",
    "haproxy_kB": "haproxy kB",
    "ssh_kB": "ssh kB",
    "route_kB": "kB/route",
}


async def answer(here: Hub, server: Server) -> tuple[int, str]:
    """Return the status of a server's answer to its person's browser, and which server gave it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.place.port)
    lines = (
        f"GET /user/{server.user}/api HTTP/1.1",
        f"Host: {server.user}.{DOMAIN}",
        f"Cookie: {ROUTE_COOKIE}={here.cookies[server.id]}",
        "Connection: close\r\n\r\n",
    )
    writer.write("\r\n".join(lines).encode())
    said = await reader.read(-1)
    writer.close()
    return int(said.split()[1]), said.rpartition(b"\r\n\r\n")[2].decode(errors="replace")


async def reach(here: Hub, servers: Iterable[Server]) -> None:
    """See that each of these answers its person's browser, and nobody else does.

    Raises:
        SystemExit: It is not so.
    """
    for server in servers:
        if (said := await answer(here, server)) != (200, server.id):
            raise SystemExit(f"{server.id} of {server.user} answered {said}")


async def memory(here: Hub) -> dict[str, int]:
    """Return the kB of RSS of HAProxy's current worker, and of the SSH masters."""
    said = await ask_master(here.haproxy.settings.sockets / "master.sock", 5, "show", "proc")
    masters = [int(path.read_text()) for path in here.tunnel_directory.glob("*/pid")]
    return {"haproxy_kB": _rss(Processes(said).workers[:1]), "ssh_kB": _rss(masters)}


def _rss(pids: Iterable[int]) -> int:
    texts = (Path(f"/proc/{pid}/status").read_text() for pid in pids)
    return sum(int(found[1]) for text in texts if (found := re.search(r"VmRSS:\s+(\d+)", text)))


class Timed:
    """How many milliseconds a ``with`` block took; may be used again."""

    def __init__(self) -> None:
        self.all: list[float] = []

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        self.all.append(1000 * (time.perf_counter() - self._began))

    @property
    def middle(self) -> float:
        """The median."""
        return median(self.all)

    @property
    def late(self) -> float:
        """The 99th percentile."""
        return quantiles(self.all, n=100, method="inclusive")[98]


class Watched(HAProxy):
    """HAProxy, with a watch on how long the snapshots take."""

    def __init__(self, settings: HAProxySettings) -> None:
        super().__init__(settings)
        self.writing = Timed()

    async def write_snapshot(self, desired: Desired) -> None:
        with self.writing:
            await super().write_snapshot(desired)


async def measure(here: Hub, count: int, adds: int) -> dict[str, float]:
    """Return the figures of a stage without routes, brought to so many."""
    empty = await memory(here)
    await here.grow(count)
    way, add, enter, revoke, all_, first, reload, start = (Timed() for _ in range(8))
    with first:
        await here.routing.sync()
    used = await memory(here)  # before anything goes through: what connections take is not the routes'
    for _ in range(5):
        with all_:
            await here.routing.sync()
    assert isinstance(here.haproxy, Watched)
    here.haproxy.writing = Timed()
    for _ in range(adds):
        server = await here.start(Phase.STARTING)
        with way:
            await here.forward(server)
        with add:
            await here.store.move(server.id, Event.ANSWERED)
            await here.routing.sync(server.user)
            await here.let_in(server)
            await reach(here, [server])
    for server in here.servers[-adds:]:
        with revoke:
            await here.routing.revoke(here.session(server))
        if (await answer(here, server))[0] == 200:
            raise SystemExit(f"{server.id} answers a browser that may not reach it any more")
        with enter:
            await here.log_in(server)
            await here.let_in(server)
            await reach(here, [server])
    for _ in range(3):
        with reload:
            await here.haproxy.reload()
        await here.haproxy.stop()
        with start:
            await here.haproxy.ensure()
    await reach(here, here.servers)
    return {
        "routes": count,
        "forward_ms": way.middle,
        "add_p50_ms": add.middle,
        "add_p99_ms": add.late,
        "enter_p50_ms": enter.middle,
        "enter_p99_ms": enter.late,
        "revoke_ms": revoke.late,
        "all_ms": all_.middle,
        "snapshot_ms": here.haproxy.writing.late,
        "first_ms": first.middle,
        "reload_ms": reload.middle,
        "start_ms": start.middle,
        **used,
        "route_kB": (sum(used.values()) - sum(empty.values())) / count,
    }


async def run(count: int, adds: int) -> dict[str, float]:
    """Return the figures with so many routes, all programs started for them alone."""
    tmpfs = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="gwb") as directory,
        tempfile.TemporaryDirectory(prefix="gw", dir=tmpfs) as run_dir,
        placed(Path(directory), Path(run_dir), count + adds, tls=False) as place,
    ):
        async with hub(place, Watched) as here:
            try:
                await here.haproxy.ensure()
                await here.masters_alive()
                return await measure(here, count, adds)
            finally:
                await here.haproxy.stop()
                await here.tunnel.stop()


def versions() -> dict[str, str]:
    """Return what was measured with what."""
    return {
        "haproxy": output("haproxy", "-v").split()[2],
        "ssh": output("ssh", "-V").split(",")[0],
        "python": platform.python_version(),
        "kernel": platform.release(),
        "CPUs": str(os.cpu_count()),
    }


def missed(figures: Iterable[Mapping[str, float]]) -> list[str]:
    """Return which goals were not reached."""
    found = []
    for row in figures:
        if row["routes"] <= AT_MOST_ROUTES and row["add_p99_ms"] > ADD_MS:
            found.append(
                f"{row['routes']} routes: adding one takes {row['add_p99_ms']:.0f} ms, not {ADD_MS:g}"
            )
        if row["routes"] >= AT_MOST_ROUTES and row["route_kB"] > ROUTE_KB:
            found.append(f"{row['routes']} routes: each takes {row['route_kB']:.1f} kB, not {ROUTE_KB:g}")
    return found


def table(figures: Iterable[Mapping[str, float]]) -> str:
    """Return the figures for people, in milliseconds where nothing else is said."""
    rows = ["".join(f"{_shown(row[name]):>12}" for name in TITLES) for row in figures]
    return "\n".join(["".join(f"{title:>12}" for title in TITLES.values()), *rows])


def _shown(figure: float) -> str:
    return f"{figure:,.1f}" if figure < 100 and figure % 1 else f"{figure:,.0f}"


def main() -> None:
    """Measure and print; exit with 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="how many routes")
    parser.add_argument("--adds", type=int, default=100, help="how many more are added to each (100)")
    options = parser.parse_args()
    figures = []
    for count in options.counts:
        print(f"{count:,} routes …", file=sys.stderr)
        figures.append(asyncio.run(run(count, options.adds)))
    if options.json:
        print(json.dumps({"versions": versions(), "figures": figures}, indent=2))
    else:
        print(", ".join(f"{program} {version}" for program, version in versions().items()) + "\n")
        print(table(figures))
    if found := missed(figures):
        sys.exit("missed: " + "; ".join(found))


if __name__ == "__main__":
    main()

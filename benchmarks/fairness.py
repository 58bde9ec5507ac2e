"""What a download at full rate does to a neighbour: on the same SSH connection, and on one of its own.

Run ``python benchmarks/fairness.py [--rounds N] [--seconds S] [--shared] [--json]``; README.rst says more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median, quantiles

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a script from anywhere

from benchmarks import load, ways
from benchmarks.processes import Sides, move

#: The neighbour's p99 during a download by a way of its own, against idle.
TARGET = 2.0
#: Between two of the neighbour's requests, in seconds: as somebody who types.
_PAUSE = 0.002

Figures = Mapping[str, Mapping[str, float]]


@contextmanager
def downloading(way: load.Way, path: str, cpus: frozenset[int]) -> Iterator[list[float]]:
    """Have another process download without end; the list holds the MB/s once the block has ended."""
    processes, rate = multiprocessing.get_context("spawn"), [0.0]
    stop, (answer, tell) = processes.Event(), processes.Pipe(duplex=False)
    process = processes.Process(target=_download, args=(way, path, stop, tell, cpus))
    process.start()
    try:
        answer.recv()  # it has begun
        time.sleep(0.3)
        yield rate
    finally:
        stop.set()
        rate[0] = answer.recv()
        process.join(30)


def _download(way: load.Way, path: str, stop: Event, tell: Connection, cpus: frozenset[int]) -> None:
    move(cpus)
    tell.send("begun")
    tell.send(load.bulk(way, 3600, path=path, stop=stop))


def part(directory: Path, sides: Sides) -> None:
    """Move what carries the neighbour's requests to HAProxy's CPUs: his ssh, its sshd, and the small server.

    What carries the download stays on the others. In use the login node and the compute node are machines of
    their own, and the gateway's host has CPUs for more than one ssh: one waits for the connection alone.
    """
    processes = list(psutil.process_iter(["name", "cmdline"]))
    masters = [each for each in processes if f"{directory}/plain/0/ctl" in (each.info["cmdline"] or ())]
    here = {socket_.laddr for each in masters for socket_ in each.net_connections("tcp")}
    for each in processes:
        is_small = each.info["name"] == "nginx"
        is_sshd = each.info["name"].startswith("sshd") and any(
            socket_.raddr in here for socket_ in each.net_connections("tcp")
        )
        if is_small or is_sshd or each in masters:
            os.sched_setaffinity(each.pid, sides.near)


def latencies(way: load.Way, seconds: float) -> list[float]:
    """Return how many milliseconds each small request took, one at a time over one connection."""
    port, path = way.small
    own = f"Host: 127.0.0.1:{port}\r\nCookie: {way.cookie}\r\n"
    request = f"GET {path} HTTP/1.1\r\n{own}\r\n".encode()
    found = []
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            connection.sendall(request)
            load.whole_answer(connection)
            found.append((time.perf_counter() - began) * 1000)
            time.sleep(_PAUSE)
    return found


def figures(found: Sequence[float], rate: float = 0.0) -> dict[str, float]:
    """Return the median and the 99th percentile in milliseconds, and the download's MB/s."""
    cuts = quantiles(found, n=100)
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3), "MB/s": round(rate)}


def one_round(neighbour: load.Way, seconds: float, cpus: frozenset[int]) -> Figures:
    """Measure idle, beside a download on the same SSH connection, and beside one on its own."""
    result = {"idle": figures(latencies(neighbour, seconds))}
    for name, path in (("same connection", "bulk"), ("own connection", "files/bulk")):
        with downloading(neighbour, path, cpus) as rate:
            found = latencies(neighbour, seconds)
        result[name] = figures(found, rate[0])
    return result


async def measure(rounds: int, seconds: float, sides: Sides) -> list[Figures]:
    """Return the figures of each round."""
    with tempfile.TemporaryDirectory(prefix="gwbench") as directory:
        async with ways.built(Path(directory), sides, compared=()) as all_ways:
            gateway = next(way for way in all_ways if way.name == "gateway")
            part(Path(directory), sides)
            return [one_round(gateway, seconds, sides.far) for _ in range(rounds)]


def main() -> None:
    """Measure and print; exit with 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--shared", action="store_true", help="let all processes share all CPUs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sides = Sides.of_this_machine(apart=not options.shared)
    rounds = asyncio.run(measure(options.rounds, options.seconds, sides))
    names = list(rounds[0])
    table = {
        name: {key: median(each[name][key] for each in rounds) for key in rounds[0][name]} for name in names
    }
    ratio = {
        name: round(median(each[name]["p99"] / each["idle"]["p99"] for each in rounds), 2) for name in names
    }
    if options.json:
        print(
            json.dumps({"rounds": rounds, "medians": table, "p99_vs_idle": ratio, "target": TARGET}, indent=2)
        )
    else:
        print(f"{'neighbour':<18}{'p50 ms':>10}{'p99 ms':>10}{'p99/idle':>10}{'download MB/s':>16}")
        for name, row in table.items():
            figures_ = f"{row['p50']:>10.2f}{row['p99']:>10.2f}{ratio[name]:>10.2f}{row['MB/s']:>16,.0f}"
            print(f"{name:<18}{figures_}")
    if ratio["own connection"] > TARGET:
        sys.exit(f"missed: the neighbour's p99 is {ratio['own connection']} times idle, not {TARGET} at most")


if __name__ == "__main__":
    main()

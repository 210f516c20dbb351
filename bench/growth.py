"""``make bench-growth``: the same load over 1, 10, 100 and 200 volumes, idle volumes, and a start with all of them.

    python -m bench.growth                   about five minutes
    python -m bench.growth --volumes 1 20    fewer of them

One node and one replica for the load and the start: what is looked for is what a volume costs, not what a copy costs.
Three nodes and 100 volumes of three replicas, each with an initiator logged in, for what idle volumes cost.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from bench.client.run import Load, LoadFailed, build_client, run_client
from bench.cpus import DATA, cpu_seconds, on_server_cpu, placement
from tests.support.cluster import Cluster, NodeProc
from tests.support.leave import end_on_sigterm

MIB: Final = 1 << 20
VOLUME: Final = 64 * MIB
#: All volumes together: the cache and the flusher have the same to do however many there are.
TOTAL: Final = 64 * MIB
DEPTH: Final = 32
RUNS: Final = 3
SECONDS: Final = 2.0
IDLE_VOLUMES: Final = 100
IDLE_S: Final = 10.0
#: What follows a start or a load and is none of idling: checkpoints, first grants.
SETTLE_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Medians of one load over so many volumes and connections; processor time is counted once all are connected."""

    volumes: int
    connections: int
    write: bool
    iops: float
    p99_us: float
    cpu_us: float


def load_over(
    program: Path, cluster: Cluster, urls: Sequence[str], connections: int, *, write: bool
) -> Point:
    """The volumes take the connections in turn; every request goes over one that is drawn at random."""
    span = TOTAL // len(urls) // 4096 * 4096
    load = Load(write=write, sequential=False, block=4096, depth=DEPTH, span=span)
    target = one_on_each([urls[n % len(urls)] for n in range(connections)])
    node = next(iter(cluster.nodes.values()))

    def clock() -> float:
        return cpu_seconds((node.pid,))

    runs = [run_client(program, target, load, seconds=SECONDS, clock=clock) for _ in range(RUNS)]
    return Point(
        volumes=len(urls),
        connections=connections,
        write=write,
        iops=median(run.iops for run in runs),
        p99_us=median(run.p99_us for run in runs),
        cpu_us=median(run.used / run.ios_all for run in runs) * 1e6,
    )


def growth(program: Path, folder: Path, counts: Sequence[int]) -> tuple[list[Point], float]:
    """A point per number of volumes and kind of load; seconds from a start to the last volume served again.

    As many connections to few volumes as to many: what a connection costs is not what a volume costs. What it does cost
    say the points before, one volume over fewer connections.
    """
    points: list[Point] = []
    urls: list[str] = []
    most = max(DEPTH, counts[-1])
    with on_server_cpu():
        cluster = Cluster(folder, nodes=1).start()
    try:
        for count in counts:
            make_volumes(cluster, len(urls), count, replicas=1)
            urls = [cluster.url(f"v{n}") for n in range(count)]
            for connections in sorted({DEPTH, most} if count == counts[0] else {most}):
                for write in (False, True):
                    points.append(load_over(program, cluster, urls, connections, write=write))
                    say(point_line(points[-1]))
        node = next(iter(cluster.nodes.values()))
        return points, time_to_serve(node, counts[-1])
    finally:
        cluster.stop()


def time_to_serve(node: NodeProc, volumes: int) -> float:
    """Killed and started: until it has said of every volume that it serves it."""
    node.kill()
    seen = len(node.log_events("gate.opened"))
    began = time.monotonic()
    with on_server_cpu():
        node.start()
    while len(node.log_events("gate.opened")) - seen < volumes:
        if time.monotonic() - began > 120:
            raise LoadFailed(f"not all of {volumes} volumes were served 120 s after the start")
        # Another process's log: nothing tells that there is a new line.
        time.sleep(0.02)
    return time.monotonic() - began


def make_volumes(cluster: Cluster, have: int, want: int, *, replicas: int) -> None:
    for n in range(have, want):
        cluster.create_volume(f"v{n}", size=VOLUME, replicas=replicas)
    for n in range(have, want):
        cluster.wait_healthy(f"v{n}")


@contextmanager
def connected(program: Path, target: Sequence[str]) -> Iterator[None]:
    """Initiators that ask for nothing; ``target`` are the client's arguments that say where and how many."""
    arguments = [str(program), *target, "--op", "nothing", "--depth", "1"]
    arguments += ["--span", "4096", "--cpu", str(placement().client)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        if not client.stdout.readline():
            raise LoadFailed("the idle initiators did not get in")
        yield
        client.stdin.close()


def one_on_each(urls: Sequence[str]) -> tuple[str, ...]:
    """An iSCSI initiator for each of these volumes."""
    return ("--proto", "iscsi", "--spread", *(word for url in urls for word in ("--url", url)))


def idle(program: Path, folder: Path, volumes: int) -> tuple[float, float]:
    """Of the busiest node: the part of one processor it uses, and its resident MiB."""
    with on_server_cpu():
        cluster = Cluster(folder, nodes=3).start()
    try:
        make_volumes(cluster, 0, volumes, replicas=3)
        with connected(program, one_on_each([cluster.url(f"v{n}") for n in range(volumes)])):
            # No event tells that checkpoints and first grants are over; the second sleep is what is measured.
            time.sleep(SETTLE_S)
            before = {node.pid: cpu_seconds((node.pid,)) for node in cluster.nodes.values()}
            time.sleep(IDLE_S)
            used = max(cpu_seconds((pid,)) - was for pid, was in before.items()) / IDLE_S
            return used, max(resident_mib(pid) for pid in before)
    finally:
        cluster.stop()


def resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LoadFailed(f"process {pid} has ended")


def point_line(point: Point) -> str:
    kind = "durable write" if point.write else "read"
    return (
        f"{point.volumes:>4} volumes  {point.connections:>4} connections  4 KiB random {kind:<13} "
        f"{point.iops:>9,.0f}/s  p99 {point.p99_us:>8,.0f} us  "
        f"{point.cpu_us:6.1f} us CPU"
    )


def spread(points: Sequence[Point], *, write: bool) -> float:
    """The slowest number of volumes over the rate of the smallest, all over as many connections."""
    most = points[-1].connections
    rates = [point.iops for point in points if point.write == write and point.connections == most]
    return min(rates) / rates[0]


def connections_cost(points: Sequence[Point], *, write: bool) -> float:
    """The smallest number of volumes over all connections, over its rate with few."""
    rates = [
        point.iops
        for point in points
        if point.write == write and point.volumes == points[0].volumes
    ]
    return rates[-1] / rates[0]


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--volumes", type=int, nargs="+", default=[1, 10, 100, 200])
    parser.add_argument("--idle", type=int, default=IDLE_VOLUMES, help="0 leaves that part out")
    options = parser.parse_args()
    end_on_sigterm()
    counts = sorted(set(options.volumes))
    if counts[0] < 1 or counts[-1] > 200:
        parser.error("--volumes takes numbers from 1 to 200")
    with tempfile.TemporaryDirectory(prefix="sparrow-bench-", dir=DATA) as name:
        program = build_client(Path(name))
        (load_folder := Path(name) / "one").mkdir()
        points, start_s = growth(program, load_folder, counts)
        used, mib = 0.0, 0.0
        if options.idle:
            (idle_folder := Path(name) / "three").mkdir()
            used, mib = idle(program, idle_folder, options.idle)
    say(
        f"volumes: {counts[-1]} read_ratio: {spread(points, write=False):.2f} "
        f"write_ratio: {spread(points, write=True):.2f} connections_read_ratio: "
        f"{connections_cost(points, write=False):.2f} connections_write_ratio: "
        f"{connections_cost(points, write=True):.2f} start_s: {start_s:.2f} "
        f"idle_volumes: {options.idle} idle_cpu_percent: {used * 100:.2f} rss_mib: {mib:.0f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

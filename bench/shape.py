"""``make bench-shape``: how the cost of a request grows with depth, block size and sessions, and what reaches the disk.

    python -m bench.shape                    about three minutes
    python -m bench.shape --replicas 1 --data /mnt/empty

One volume over NBD, random reads and durable writes: at 4 KiB with 1 to 64 requests outstanding, at depth 8 with blocks
of 4 to 256 KiB, and at depth 1 over 1 to 64 connections. Processor time is that of all processes of the server. "To
disk" is what the disk has written (log, extents, checksums, superblocks, the file system's journal) over what the
client wrote: with three replicas on one disk, three times what each node writes. It is the disk's own counter, so
nobody else may write meanwhile; with ``--data`` on a file system of its own, nobody does.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.client.run import Load, Outcome, build_client, run_client
from bench.cpus import DATA
from bench.report import Run
from bench.servers import Server, sparrow
from bench.table import SETTLE_S, SPAN, charge, prepare, say
from tests.support.leave import end_on_sigterm

KIB: Final = 1 << 10
BASE: Final = Load(write=True, sequential=False, block=4 * KIB, depth=1, span=SPAN)
DEPTHS: Final = (1, 4, 16, 64)
BLOCKS: Final = (4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB)
BLOCK_DEPTH: Final = 8
CONNECTIONS: Final = (1, 8, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run; ``to_disk`` is bytes the disk wrote for each byte of the client, 0 for reads."""

    load: Load
    run: Run
    to_disk: float


def loads(*, write: bool) -> Iterator[tuple[str, Load]]:
    """Every load with the name of what grows in it."""
    base = replace(BASE, write=write)
    for depth in DEPTHS:
        yield "depth", replace(base, depth=depth)
    for block in BLOCKS:
        yield "block", replace(base, block=block, depth=BLOCK_DEPTH)
    for connections in CONNECTIONS[1:]:
        yield "connections", replace(base, connections=connections)


def written_bytes(folder: Path) -> int:
    """What the disk below a folder has written since it is there, all that is dirty now included.

    Not /proc/PID/io: a page that is written into a large folio of the page cache counts as the whole folio there.
    """
    os.sync()
    number = folder.stat().st_dev
    return written_of(
        Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat").read_text()
    )


def written_of(stat: str) -> int:
    """Bytes written, from a disk's counters. Source: Linux, Documentation/block/stat.rst."""
    # Sectors of 512 bytes, whatever the disk has.
    return int(stat.split()[6]) * 512


def measure(
    program: Path, folder: Path, server: Server, load: Load, *, seconds: float, idle: float
) -> Point:
    """One run of a load; ``folder`` lies on the disk that the server writes to."""

    def run() -> Outcome:
        return run_client(program, server.target, load, seconds=seconds)

    before = written_bytes(folder)
    found = charge(server.pids, run, idle=idle, settle_s=SETTLE_S if load.write else 0.0)
    # Behind the settling: the flusher has written what it put off.
    written = written_bytes(folder) - before
    asked = found.outcome.ios_all * load.block if load.write else 0
    return Point(load=load, run=found, to_disk=written / asked if asked else 0.0)


def line_of(point: Point) -> str:
    load, run = point.load, point.run
    kind = "durable write" if load.write else "read"
    written = f"{point.to_disk:.2f}" if load.write else ""
    return (
        f"| {kind} | {load.block // KIB} | {load.depth} | {load.connections} | {run.outcome.iops:,.0f} | "
        f"{run.outcome.p50_us:,.0f} | {run.outcome.p99_us:,.0f} | {run.cpu_us:.1f} | {written} |"
    )


def tables(
    folder: Path, counts: Sequence[int], seconds: float
) -> dict[int, list[tuple[str, Point]]]:
    """Points by number of replicas, printed as they come."""
    found: dict[int, list[tuple[str, Point]]] = {}
    program = build_client(folder)
    for replicas in counts:
        say(f"replicas: {replicas}")
        print("| load | KiB | depth | connections | IOPS | p50 us | p99 us | CPU us | to disk |")
        print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
        with sparrow(folder, size_bytes=SPAN, replicas=replicas) as servers:
            server = next(server for server in servers if server.name.endswith("NBD"))
            idle = prepare(program, {server.name: server})[server.name]
            points = found.setdefault(replicas, [])
            for write in (False, True):
                for axis, load in loads(write=write):
                    point = measure(program, folder, server, load, seconds=seconds, idle=idle)
                    points.append((axis, point))
                    print(line_of(point), flush=True)
    return found


def summary(found: dict[int, list[tuple[str, Point]]]) -> str:
    """Of durable writes at 4 KiB: processor time and bytes to the disk at the least and the greatest depth."""
    words = []
    for replicas, points in found.items():
        ends = [
            point
            for axis, point in points
            if axis == "depth" and point.load.write and point.load.depth in (DEPTHS[0], DEPTHS[-1])
        ]
        cpu = " ".join(f"cpu_{end.load.depth}: {end.run.cpu_us:.1f}" for end in ends)
        disk = " ".join(f"to_disk_{end.load.depth}: {end.to_disk:.2f}" for end in ends)
        words.append(f"replicas: {replicas} {cpu} {disk}")
    return f"shape: {', '.join(words)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.shape", description=__doc__)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 3], choices=(1, 2, 3))
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--data", type=Path, default=DATA, help="where the files lie meanwhile")
    options = parser.parse_args()
    end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="sparrow-bench-", dir=options.data) as name:
        found = tables(Path(name), sorted(set(options.replicas)), options.seconds)
    print(summary(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

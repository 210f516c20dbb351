"""``make bench-recovery``: how fast a replica reads its log again after its node was killed.

    python -m bench.recovery --runs 3

A real node takes writes of one volume of 4 GiB, whose log has 256 MiB, and is killed right behind the last answer:
once after writes of 128 KiB, many to a batch, once after single pages, one to a batch. Its files are opened by a core
of this process, which walks the log from its tail, checks every batch and page, and puts into memory what is not in the
extents yet. Time is that of the opening alone; the log is read past the page cache.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.client.run import Load, build_client, run_client
from bench.cpus import DATA, on_server_cpu
from sparrow.dataplane.files.folders import find_replicas
from sparrow.dataplane.native.plane import NativeDataPlane
from tests.support.cluster import Cluster
from tests.support.leave import end_on_sigterm
from tests.support.replica_files import ReplicaFiles

MIB: Final = 1 << 20
VOLUME: Final = 4096 * MIB
#: Written again and again.
SPAN: Final = 512 * MIB
GOAL_MIB: Final = 500.0
#: By what a batch of the log holds; seconds enough to go around the log more than once.
LOADS: Final = {
    "large": (Load(write=True, sequential=True, block=128 << 10, depth=8, span=SPAN), 3.0),
    "small": (Load(write=True, sequential=False, block=4096, depth=1, span=SPAN), 15.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """One recovery: bytes of log that were read, the batches in them, and seconds it took."""

    log_bytes: int
    batches: int
    seconds: float

    @property
    def rate_mib(self) -> float:
        return self.log_bytes / MIB / self.seconds


@contextmanager
def one_node(folder: Path) -> Iterator[Cluster]:
    with on_server_cpu():
        cluster = Cluster(folder, nodes=1).start()
    try:
        cluster.create_volume("log", size=VOLUME, replicas=1)
        cluster.wait_healthy("log")
        yield cluster
    finally:
        cluster.stop()


async def open_again(pool: Path) -> Opening:
    """What a node that starts does with the only volume of its pool, without the node."""
    ((volume, _),) = find_replicas(pool)
    found = ReplicaFiles(pool, volume).batches()
    plane = NativeDataPlane(pool, node_id="n1")
    plane.start(lambda _event: None)
    try:
        began = time.monotonic()
        await plane.open_replica(volume)
        seconds = time.monotonic() - began
    finally:
        await plane.stop()
    return Opening(
        log_bytes=sum(batch.end - batch.offset for batch in found),
        batches=len(found),
        seconds=seconds,
    )


def measure(program: Path, cluster: Cluster, kind: str) -> Opening:
    load, seconds = LOADS[kind]
    (node,) = cluster.nodes.values()
    run_client(program, ("--proto", "iscsi", "--url", cluster.url("log")), load, seconds=seconds)
    node.kill()
    opening = asyncio.run(open_again(node.pool))
    with on_server_cpu():
        node.start()
    cluster.wait_serving("log")
    return opening


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of each kind; medians count")
    options = parser.parse_args()
    end_on_sigterm()
    figures: list[str] = []
    missed = 0
    with tempfile.TemporaryDirectory(prefix="sparrow-bench-", dir=DATA) as name:
        program = build_client(Path(name))
        (folder := Path(name) / "cluster").mkdir()
        with one_node(folder) as cluster:
            for kind in LOADS:
                runs = [measure(program, cluster, kind) for _ in range(options.runs)]
                for run in runs:
                    print(
                        f"{kind}: {run.log_bytes / MIB:.0f} MiB in {run.batches} batches read in "
                        f"{run.seconds * 1000:.0f} ms: {run.rate_mib:.0f} MiB/s",
                        flush=True,
                    )
                rate = statistics.median(run.rate_mib for run in runs)
                missed += rate < GOAL_MIB
                figures.append(f"{kind}_mib_per_s: {rate:.0f}")
    print(f"recovery: {' '.join(figures)} goal: {GOAL_MIB:.0f} missed: {missed}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

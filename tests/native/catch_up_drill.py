"""``make bench-catch-up``: how fast a replica that was away comes back from the log, with the machine to itself.

    python -m tests.native.catch_up_drill --runs 3 [--primary-in-memory] [--no-budget]

Two cores of this process, each with files and a thread of its own, joined by TCP over loopback; the node's part is
played here. A volume of 4 GiB, whose log has 256 MiB. The follower's link is dropped, so much is written that the log
still has all of it, the follower joins anew and takes it: once after writes of 128 KiB, many to a batch, once after
single pages, one to a batch. Time is from before the join until the follower has acknowledged the last entry. It is
held against the slower of the disk (one file written in order, durable at the end) and one loopback connection,
measured just before. The bytes compared are those shipped; the follower writes each twice meanwhile, into its log and
into its extents. Where the kernel's trace points may be used one more run of each kind is traced, which does not count
for the rate, and says where its time went (``tests/support/catch_up_budget.py``).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sparrow.authority.types import Term
from sparrow.dataplane.machine import CoreSizes
from sparrow.ports.dataplane import PeerLost
from tests.support.catch_up_budget import Budget, budget, counters
from tests.support.core_cluster import DEMO, PAGE, PAGES, CoreCluster, CoreNode, core_cluster
from tests.support.leave import end_on_sigterm
from tests.support.rates import MIB, disk_rate, loopback_rate
from tests.support.ring_trace import Operation, TraceUnavailable, ring_trace
from tests.support.waiting import until

VOLUME_BYTES: Final = 4096 * MIB
GOAL: Final = 0.7
#: Of a file, and of a connection, for the rates that the catch-up is held against.
RATE_BYTES: Final = 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """What is written while the follower is away: bytes in all, pages of a write, writes in flight, bytes per second.

    A log that is overwritten within seconds keeps less, so writing is slow.
    """

    total: int
    run: int
    depth: int
    rate: int


KINDS: Final = {
    "large": Missed(total=48 * MIB, run=32, depth=32, rate=1 << 40),
    "paced": Missed(total=128 * MIB, run=32, depth=8, rate=20 * MIB),
    "small": Missed(total=16 * MIB, run=1, depth=1, rate=20 * MIB),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CatchUp:
    """One return: MiB shipped, entries and seconds it took, and MiB per second of disk and loopback then."""

    shipped_mib: float
    entries: int
    seconds: float
    disk_mib: float
    loopback_mib: float
    #: Of the run that was traced.
    budget: Budget | None

    @property
    def rate_mib(self) -> float:
        return self.shipped_mib / self.seconds

    @property
    def share(self) -> float:
        return self.rate_mib / min(self.disk_mib, self.loopback_mib)


async def shipped(primary: CoreNode) -> int:
    """Bytes of the log sent to the only peer so far."""
    (peer,) = (await primary.plane.status(DEMO)).peers
    return peer.log_bytes


async def fall_behind(cluster: CoreCluster, missed: Missed) -> None:
    primary, follower = cluster.nodes
    await primary.plane.drop_peer(DEMO, follower.number)
    await cluster.set_needed(primary, [])
    load = await cluster.load(
        primary,
        pages=range(PAGES),
        depth=missed.depth,
        run=missed.run,
        limit=missed.total,
        rate=missed.rate,
    )
    await load.wait_written(missed.total)
    await load.stop()
    assert load.failed is None, load.failed


async def quiet(node: CoreNode) -> None:
    """Everything committed is in the extents: nothing is left to be written."""

    async def applied() -> bool:
        log = (await node.plane.status(DEMO)).log
        return log.applied_lsn >= log.commit_lsn

    await until(applied)


async def come_back(cluster: CoreCluster, term: Term, missed: Missed, *, trace: bool) -> CatchUp:
    primary, follower = cluster.nodes
    await fall_behind(cluster, missed)
    await quiet(primary)
    disk = disk_rate(follower.pool, RATE_BYTES)
    loopback = loopback_rate(RATE_BYTES)
    files = open_files(cluster)
    last, sent = await primary.commit_lsn(), await shipped(primary)
    os.sync()
    before = counters(follower.pool)
    operations: list[Operation] = []
    with ring_trace() if trace else contextlib.nullcontext(operations) as operations:
        began = time.monotonic()
        joined = await cluster.join_and_ship(primary, follower, term)
        await primary.plane.peer_acked(DEMO, follower.number, last)
        ended = time.monotonic()
        at_ack = counters(follower.pool)
    size = await shipped(primary) - sent
    await cluster.set_needed(primary, [follower])
    await quiet(follower)
    os.sync()
    found = CatchUp(
        shipped_mib=size / MIB,
        entries=last - joined,
        seconds=ended - began,
        disk_mib=disk,
        loopback_mib=loopback,
        budget=budget(
            operations,
            files,
            span=(began, ended),
            shipped=size,
            before=before,
            at_ack=at_ack,
            at_end=counters(follower.pool),
        )
        if trace
        else None,
    )
    await cluster.assert_same(primary, follower)
    assert not primary.heard(PeerLost), "the log did not have all of it"
    return found


def open_files(cluster: CoreCluster) -> dict[int, tuple[str, str]]:
    """Whose replica's file each descriptor of this process is, and which."""
    primary, follower = cluster.nodes
    folders = {primary.files(): "primary", follower.files(): "follower"}
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            path = entry.readlink()
            if path.parent in folders:
                found[int(entry.name)] = (folders[path.parent], path.name)
    return found


@contextlib.contextmanager
def primary_place(*, memory: bool) -> Iterator[Path | None]:
    """For the primary's files: None for beside the follower's, or memory, which leaves the disk to the follower."""
    if not memory:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="sparrow-catch-up-", dir="/dev/shm") as name:
        yield Path(name)


async def measure(kind: str, runs: int, *, memory: bool, trace: bool) -> list[CatchUp]:
    """The last run is the traced one, if any is."""
    with primary_place(memory=memory) as place:
        return await measure_at(kind, runs, place, trace=trace)


async def measure_at(kind: str, runs: int, place: Path | None, *, trace: bool) -> list[CatchUp]:
    async with core_cluster(nodes=0, blank=True, sizes=CoreSizes()) as cluster:
        await cluster.add_node(place)
        await cluster.add_node()
        for node in cluster.nodes:
            await node.plane.format_replica(
                DEMO, node.replica, size_bytes=VOLUME_BYTES, block_size=PAGE
            )
            await node.plane.open_replica(DEMO)
        primary, follower = cluster.nodes
        term = await cluster.open_term(primary, followers=[follower])
        found = [await come_back(cluster, term, KINDS[kind], trace=False) for _ in range(runs)]
        if trace:
            found.append(await come_back(cluster, term, KINDS[kind], trace=True))
        return found


def may_trace() -> bool:
    """Whether the kernel's trace points can be used here; if not, it says why."""
    try:
        with ring_trace():
            return True
    except TraceUnavailable as error:
        print(f"no budget: {error}", file=sys.stderr)
        return False


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.native.catch_up_drill", description=__doc__
    )
    parser.add_argument("--runs", type=int, default=3, help="of each kind; medians count")
    parser.add_argument("--kinds", default=",".join(KINDS), help="comma separated")
    parser.add_argument(
        "--primary-in-memory",
        action="store_true",
        help="the follower has the disk to itself, as where each node has its own",
    )
    parser.add_argument(
        "--budget", action=argparse.BooleanOptionalAction, default=True, help="trace one more run"
    )
    options = parser.parse_args()
    end_on_sigterm()
    trace = options.budget and may_trace()
    kinds = options.kinds.split(",")
    if not set(kinds) <= set(KINDS):
        parser.error(f"kinds are {', '.join(KINDS)}")
    figures: list[str] = []
    missed = 0
    for kind in kinds:
        found = asyncio.run(
            measure(kind, options.runs, memory=options.primary_in_memory, trace=trace)
        )
        runs = [run for run in found if run.budget is None]
        for run in runs:
            print(
                f"{kind}: {run.shipped_mib:.0f} MiB in {run.entries} entries taken in {run.seconds * 1000:.0f} ms: "
                f"{run.rate_mib:.0f} MiB/s; disk {run.disk_mib:.0f}, loopback {run.loopback_mib:.0f}: "
                f"{run.share:.2f}",
                flush=True,
            )
        for run in found:
            if run.budget is not None:
                print(f"{kind}, one more run, traced:")
                print("\n".join(run.budget.lines(run.disk_mib)), flush=True)
        share = statistics.median(run.share for run in runs)
        rate = statistics.median(run.rate_mib for run in runs)
        # Single pages are bound by one durable write after the other, on both replicas alike.
        missed += kind == "large" and share < GOAL
        figures.append(f"{kind}_mib_per_s: {rate:.0f} share: {share:.2f}")
    print(f"catch_up: {' '.join(figures)} goal: {GOAL} missed: {missed}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

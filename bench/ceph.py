"""``make bench-ceph``: durable writes to three replicas, by Ceph's block device and by sparrow over NBD, in one run.

    python -m bench.ceph                     about four minutes
    python -m bench.ceph --media ssd         Ceph's settings for disks without moving parts

Both keep three replicas on files of the same file system, all their processes on one processor and their client on
the other; the raw disk is beside them. Columns take turns as in ``bench.table``.

The client of Ceph is fio with its rbd engine, so librbd runs in the client and its processor time is not Ceph's here.
The other columns' client could speak NBD to qemu-nbd or nbdkit in front of librbd, but that would add a hop which
nobody who uses Ceph has to take.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.ceph_cluster import MEDIA, OSDS, CephCluster, CephFailed, ceph_cluster
from bench.client.fio import run_fio_job
from bench.client.run import Load, LoadFailed, Outcome
from bench.cpus import DATA, cpu_seconds, cpus, placement
from bench.goals import CEPH, DURABLE_1, DURABLE_32, RF3_NBD, judge, median
from bench.machine import describe_machine, machine_name, package_version
from bench.report import Cell, Run, Table, render, save
from bench.servers import ServerFailed
from bench.table import (
    BASELINES,
    IDLE_S,
    LARGE,
    ROWS,
    SETTLE_S,
    SPAN,
    Bench,
    charge,
    measure,
    say,
    start_bench,
)
from tests.support.cluster import ClusterError
from tests.support.leave import end_on_sigterm

OURS: Final = ("raw disk", RF3_NBD)
FILL_S: Final = 150.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CephColumn:
    """The image under load, as a column; ``idle`` is processor seconds per second of all daemons."""

    cluster: CephCluster
    idle: float

    def run(self, load: Load, *, seconds: float) -> Run:
        return charge(
            self.cluster.pids,
            lambda: run_rbd(self.cluster, load, seconds=seconds),
            idle=self.idle,
            # BlueStore puts small writes off, and RocksDB tidies up later.
            settle_s=SETTLE_S if load.write else 0.0,
        )


def run_rbd(cluster: CephCluster, load: Load, *, seconds: float | None) -> Outcome:
    """A run of fio on the image; ``seconds`` is None for the whole span once, in order.

    No time to warm up: the daemons' processor time is that of all requests, so all are counted. A write without
    durability is as durable as any other: there is no cache. ``client_load`` counts the threads of librbd too.
    """
    bound = () if seconds is None else ("--time_based", f"--runtime={round(seconds * 1000)}ms")
    before, began = used_by_children(), time.monotonic()
    found = run_fio_job(
        cluster.fio_engine,
        load,
        cpu=placement().client,
        bound=bound,
        environment=cluster.environment,
        longest_s=FILL_S if seconds is None else seconds + 60,
    )
    client_load = (used_by_children() - before) / (time.monotonic() - began)
    return replace(found.outcome, client_load=client_load)


def used_by_children() -> float:
    """Processor seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def filled_ceph(folder: Path, media: str) -> Iterator[CephColumn]:
    """The cluster, its image written once, and what it costs when idle."""
    with ceph_cluster(folder / "ceph", size_bytes=SPAN, media=media) as cluster:
        whole = Load(write=True, sequential=True, block=LARGE, depth=8, span=SPAN)
        fill = run_rbd(cluster, whole, seconds=None)
        say(
            f"ceph: filled at {fill.iops * LARGE / (1 << 20):.0f} MiB/s; processes "
            f"{', '.join(map(str, cluster.pids))}"
        )
        time.sleep(SETTLE_S)  # no event tells that what the filling put off is done
        before = cpu_seconds(cluster.pids)
        time.sleep(IDLE_S)  # what is measured
        yield CephColumn(cluster=cluster, idle=(cpu_seconds(cluster.pids) - before) / IDLE_S)


def columns_of(bench: Bench, ceph: CephColumn, rows: Sequence[str], runs: int) -> list[Cell]:
    def run(column: str, load: Load) -> Run:
        return ceph.run(load, seconds=bench.seconds) if column == CEPH else bench.run(column, load)

    return measure(run, rows, (*OURS, CEPH), runs)


def summary(cells: Sequence[Cell]) -> str:
    """One line: writes per second and processor time of both, at both depths, and the goals."""
    figures = {(cell.row, cell.column): median(cell) for cell in cells if cell.runs}
    words = [
        f"{name}_{depth}: {run.outcome.iops:.0f}/s p50 {run.outcome.p50_us:.0f} us cpu {run.cpu_us:.0f} us"
        for depth, row in ((1, DURABLE_1), (32, DURABLE_32))
        for name, column in (("ceph", CEPH), ("sparrow", RF3_NBD))
        if (run := figures.get((row, column))) is not None
    ]
    return f"bench-ceph: {', '.join(words)}; {judge(cells)[-1]}"


def run_table(folder: Path, rows: Sequence[str], options: argparse.Namespace) -> Table:
    now = dt.datetime.now(dt.UTC)
    machine = describe_machine(folder)
    machine["ceph"] = (
        f"{package_version('ceph-osd')}, {OSDS} OSDs on BlueStore in files, settings for {options.media}, "
        "no authentication, no cache in librbd; client: fio's rbd engine"
    )
    machine["placement"] = (
        f"servers and fio on the raw disk on processor {placement().server}, clients on processor "
        f"{placement().client}"
    )
    say(f"{machine['placement']}; data in {folder}")
    with (
        filled_ceph(folder, options.media) as ceph,
        start_bench(folder, OURS, seconds=options.seconds) as bench,
    ):
        cells = columns_of(bench, ceph, rows, options.runs)
    return Table(
        machine=machine,
        taken_at=f"{now:%Y-%m-%d %H:%M} UTC",
        seconds=options.seconds,
        idle={**bench.idle, CEPH: ceph.idle},
        cells=cells,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ceph", description=__doc__)
    parser.add_argument("--rows", default=r"random durable write, depth", help="loads that match")
    parser.add_argument("--media", choices=sorted(MEDIA), default="hdd", help="Ceph's settings")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--runs", type=int, default=3, help="per cell; the table has medians")
    parser.add_argument(
        "--json", type=Path, help="instead of bench/baselines/DATE-MACHINE-ceph.json"
    )
    options = parser.parse_args()
    rows = [name for name in ROWS if re.search(options.rows, name)]
    if not rows:
        parser.error(f"no load of that name: {', '.join(ROWS)}")
    if len(cpus()) < 2:
        print("make bench-ceph needs two processors: servers on one, clients on the other.")
        return 1
    end_on_sigterm()
    try:
        with tempfile.TemporaryDirectory(prefix="sparrow-bench-", dir=DATA) as name:
            table = run_table(Path(name), rows, options)
    except (CephFailed, ClusterError, ServerFailed, LoadFailed) as error:
        print(f"bench-ceph: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench-ceph: stopped; its processes and files are gone", file=sys.stderr)
        return 130
    path = (
        options.json or BASELINES / f"{dt.datetime.now(dt.UTC).date()}-{machine_name()}-ceph.json"
    )
    save(table, path)
    print(render(table))
    print("\n".join(("", *judge(table.cells)[:-1])))
    say(f"kept in {path}")
    print(summary(table.cells))
    return 1 if any(cell.failure for cell in table.cells) else 0


if __name__ == "__main__":
    sys.exit(main())

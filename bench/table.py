"""``make bench``: raw disk, an NBD server in memory, peers and sparrow under the same loads, measured in one run.

    python -m bench.table                          everything, about a quarter of an hour
    python -m bench.table --rows 'write' --columns 'sparrow' --seconds 1 --runs 1

All servers run at once and the columns take turns within each row, so a slow minute of the machine falls on all of them
alike. Servers run on one processor, their client on the other. The table goes to standard output, and with all single
runs and the machine's facts as JSON to ``bench/baselines/``.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.client.run import Load, LoadFailed, Outcome, build_client, run_client, touch_span
from bench.cpus import (
    DATA,
    allowed_cpus,
    cpu_seconds,
    cpus,
    disk_interrupts,
    disk_of,
    placement,
)
from bench.goals import judge
from bench.machine import describe_machine, machine_name
from bench.raw import run_fio
from bench.report import Cell, Run, Table, render, save
from bench.servers import (
    Server,
    alone,
    ceiling,
    make_image,
    nbdkit,
    qemu_storage_daemon,
    sparrow,
    tgt,
)
from tests.support.leave import end_on_sigterm

MIB = 1 << 20
#: The part of each volume that is used, and its size.
SPAN = 512 * MIB
BASELINES = Path(__file__).with_name("baselines")
#: A quiet volume of sparrow is flushed after one second; then the flush itself.
SETTLE_S = 1.5
#: Over which a server's cost of being idle is measured.
IDLE_S = 2.0

PAGE, LARGE = 4096, 128 << 10
ROWS = {
    "4 KiB random read, depth 1": Load(
        write=False, sequential=False, block=PAGE, depth=1, span=SPAN
    ),
    "4 KiB random read, depth 32": Load(
        write=False, sequential=False, block=PAGE, depth=32, span=SPAN
    ),
    "4 KiB random write, depth 32": Load(
        write=True, durable=False, sequential=False, block=PAGE, depth=32, span=SPAN
    ),
    "4 KiB random durable write, depth 1": Load(
        write=True, sequential=False, block=PAGE, depth=1, span=SPAN
    ),
    "4 KiB random durable write, 8 connections": Load(
        write=True, sequential=False, block=PAGE, depth=1, span=SPAN, connections=8
    ),
    "4 KiB random durable write, depth 32": Load(
        write=True, sequential=False, block=PAGE, depth=32, span=SPAN
    ),
    "128 KiB sequential read, depth 8": Load(
        write=False, sequential=True, block=LARGE, depth=8, span=SPAN
    ),
    "128 KiB sequential write, depth 8": Load(
        write=True, durable=False, sequential=True, block=LARGE, depth=8, span=SPAN
    ),
    "128 KiB sequential durable write, depth 8": Load(
        write=True, sequential=True, block=LARGE, depth=8, span=SPAN
    ),
}
#: What is started for the columns, in their order; each gives one or more.
STARTERS: dict[tuple[str, ...], Callable[[Path], AbstractContextManager[Sequence[Server]]]] = {
    ("in memory",): lambda folder: alone(ceiling(folder, size_bytes=SPAN)),
    ("tgt",): lambda folder: alone(tgt(folder, size_bytes=SPAN)),
    ("nbdkit",): lambda folder: alone(nbdkit(folder, size_bytes=SPAN)),
    ("qemu-storage-daemon",): lambda folder: alone(qemu_storage_daemon(folder, size_bytes=SPAN)),
    ("sparrow RF 1 iSCSI", "sparrow RF 1 NBD"): lambda folder: sparrow(
        folder, size_bytes=SPAN, replicas=1
    ),
    ("sparrow RF 3 iSCSI", "sparrow RF 3 NBD"): lambda folder: sparrow(
        folder, size_bytes=SPAN, replicas=3
    ),
}
COLUMNS = ("raw disk", *(name for names in STARTERS for name in names))


@dataclass(slots=True, kw_only=True)
class Bench:
    """What is up for one table. ``idle`` is processor seconds per second by server name."""

    folder: Path
    client: Path
    seconds: float
    servers: dict[str, Server]
    idle: dict[str, float]

    def run(self, column: str, load: Load) -> Run:
        """One run of one cell."""
        if column == "raw disk":
            outcome, cpu_us = run_fio(self.folder / "raw.img", load, seconds=self.seconds)
            return Run(outcome=outcome, cpu_us=cpu_us)
        server = self.servers[column]
        return charge(
            server.pids,
            lambda: run_client(self.client, server.target, load, seconds=self.seconds),
            idle=self.idle[column],
            settle_s=SETTLE_S if load.write and server.defers else 0.0,
        )


def charge(pids: Sequence[int], run: Callable[[], Outcome], *, idle: float, settle_s: float) -> Run:
    """One run, with the processor time that these processes used for each of its requests.

    Args:
        idle: processor seconds per second the processes use anyway; taken off for ``settle_s``.
        settle_s: how long after the last answer work counts that was put off.
    """
    before = cpu_seconds(pids)
    outcome = run()
    # No event tells from outside that the deferred work is done; sparrow's is started by a timer of one second.
    time.sleep(settle_s)
    used = cpu_seconds(pids) - before - idle * settle_s
    return Run(outcome=outcome, cpu_us=used / max(outcome.ios_all, 1) * 1e6)


@contextlib.contextmanager
def start_bench(folder: Path, columns: Sequence[str], *, seconds: float) -> Iterator[Bench]:
    """Start, fill and warm what the columns need."""
    with contextlib.ExitStack() as stack:
        client = build_client(folder)
        if "raw disk" in columns:
            make_image(folder / "raw.img", SPAN)
        started = [
            server
            for names, starter in STARTERS.items()
            if set(names) & set(columns)
            for server in stack.enter_context(starter(folder))
        ]
        servers = {server.name: server for server in started if server.name in columns}
        idle = prepare(client, servers)
        yield Bench(folder=folder, client=client, seconds=seconds, servers=servers, idle=idle)


def prepare(client: Path, servers: dict[str, Server]) -> dict[str, float]:
    """Fill and warm every volume, then measure what an idle server costs."""
    whole = Load(write=True, sequential=True, block=LARGE, depth=8, span=SPAN)
    for name, server in servers.items():
        fill = touch_span(client, server.target, whole)
        allowed = set[int]().union(*(allowed_cpus(pid) for pid in server.pids))
        say(
            f"{name}: filled at {fill.iops * LARGE / MIB:.0f} MiB/s; processes "
            f"{', '.join(map(str, server.pids))} may run on processor {sorted(allowed)}"
        )
    time.sleep(SETTLE_S)
    for server in servers.values():
        touch_span(client, server.target, replace(whole, write=False))
    before = {name: cpu_seconds(server.pids) for name, server in servers.items()}
    time.sleep(IDLE_S)
    return {
        name: (cpu_seconds(server.pids) - before[name]) / IDLE_S for name, server in servers.items()
    }


def measure(
    run: Callable[[str, Load], Run], rows: Sequence[str], columns: Sequence[str], runs: int
) -> list[Cell]:
    """All cells; within a row the columns take turns. A server that fails is told in its cells.

    ``run`` is one run of a column under a load.
    """
    cells: list[Cell] = []
    for row in rows:
        found: dict[str, list[Run]] = {column: [] for column in columns}
        failures: dict[str, str] = {}
        for _ in range(runs):
            for column in columns:
                try:
                    found[column].append(run(column, ROWS[row]))
                except LoadFailed as error:
                    failures[column] = str(error)
        for column in columns:
            failure = failures.get(column, "")
            done = () if failure else tuple(found[column])
            cells.append(Cell(row=row, column=column, runs=done, failure=failure))
        say(f"measured: {row}")
    return cells


def interrupts() -> dict[int, int]:
    return disk_interrupts(disk_of(DATA), Path("/proc/interrupts").read_text())


def say(text: str) -> None:
    """Progress goes to stderr: standard output is the table."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.table", description=__doc__)
    parser.add_argument("--rows", default="", help="only loads whose name matches this pattern")
    parser.add_argument("--columns", default="", help="only servers whose name matches")
    parser.add_argument("--seconds", type=float, default=2.5, help="of each run")
    parser.add_argument("--runs", type=int, default=3, help="per cell; the table has medians")
    parser.add_argument("--json", type=Path, help="instead of bench/baselines/DATE-MACHINE.json")
    options = parser.parse_args()
    end_on_sigterm()
    rows = [name for name in ROWS if re.search(options.rows, name)]
    columns = [name for name in COLUMNS if re.search(options.columns, name)]
    if not rows or not columns:
        parser.error(f"no load or no server of that name: {', '.join((*ROWS, *COLUMNS))}")
    if len(cpus()) < 2:
        print("make bench needs two processors: servers on one, clients on the other.")
        return 1
    now = dt.datetime.now(dt.UTC)
    with tempfile.TemporaryDirectory(prefix="sparrow-bench-", dir=DATA) as name:
        folder = Path(name)
        machine = describe_machine(folder)
        machine["placement"] = (
            f"servers and fio on processor {placement().server}, the servers' client on processor "
            f"{placement().client}; interrupts of the disk by processor: {interrupts()}"
        )
        say(f"{machine['placement']}; data in {name}")
        with start_bench(folder, columns, seconds=options.seconds) as bench:
            cells = measure(bench.run, rows, columns, options.runs)
            table = Table(
                machine=machine,
                taken_at=f"{now:%Y-%m-%d %H:%M} UTC",
                seconds=options.seconds,
                idle=bench.idle,
                cells=cells,
            )
    path = options.json or BASELINES / f"{now:%Y-%m-%d}-{machine_name()}.json"
    save(table, path)
    print(render(table))
    print("\n".join(("", *judge(cells))))
    say(f"kept in {path}")
    return 1 if any(cell.failure for cell in cells) else 0


if __name__ == "__main__":
    sys.exit(main())

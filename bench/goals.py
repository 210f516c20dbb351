"""What the table is held to: ratios of figures of one run, each printed with what was asked of it and what came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bench.report import Cell, Run

READ: Final = "4 KiB random read, depth 32"
DURABLE_1: Final = "4 KiB random durable write, depth 1"
DURABLE_32: Final = "4 KiB random durable write, depth 32"
READ_128K: Final = "128 KiB sequential read, depth 8"
WRITE_128K: Final = "128 KiB sequential write, depth 8"
DURABLE_128K: Final = "128 KiB sequential durable write, depth 8"
#: Servers whose durable writes are as durable as ours, over the network.
PEERS: Final = ("tgt", "nbdkit", "qemu-storage-daemon")
RF1_NBD: Final = "sparrow RF 1 NBD"
RF1_ISCSI: Final = "sparrow RF 1 iSCSI"
RF3_NBD: Final = "sparrow RF 3 NBD"
#: Only in the table of ``make bench-ceph``.
CEPH: Final = "Ceph RBD"
#: Beyond the disk and one loopback round trip (20 us), microseconds.
DURABLE_BUDGET_US: Final = 60.0

Figures = dict[tuple[str, str], Run]


def iops(run: Run) -> float:
    return run.outcome.iops


def cpu(run: Run) -> float:
    return run.cpu_us


def p50(run: Run) -> float:
    return run.outcome.p50_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """``ours`` over the best of ``others`` in one figure: at least ``bound``, or at most where ``most``.

    Attributes:
        row: of ours; ``other_row`` of the others where it differs.
    """

    row: str
    ours: str
    figure: Callable[[Run], float]
    others: tuple[str, ...]
    bound: float
    most: bool = False
    other_row: str = ""


GOALS: Final = (
    Goal(row=READ, ours=RF1_NBD, figure=iops, others=PEERS, bound=1.25),
    Goal(row=READ, ours=RF1_NBD, figure=cpu, others=PEERS, bound=0.7, most=True),
    Goal(row=READ, ours=RF1_NBD, figure=iops, others=("in memory",), bound=0.7),
    Goal(row=READ, ours=RF1_ISCSI, figure=iops, others=("tgt",), bound=1.6),
    Goal(row=READ, ours=RF1_ISCSI, figure=cpu, others=("tgt",), bound=0.4, most=True),
    Goal(row=DURABLE_1, ours=RF1_NBD, figure=iops, others=PEERS, bound=1.15),
    Goal(row=DURABLE_32, ours=RF1_NBD, figure=iops, others=PEERS, bound=2.5),
    Goal(row=DURABLE_1, ours=RF3_NBD, figure=p50, others=(RF1_NBD,), bound=2.0, most=True),
    Goal(row=READ_128K, ours=RF1_NBD, figure=iops, others=("nbdkit",), bound=1.2),
    Goal(row=DURABLE_128K, ours=RF1_NBD, figure=iops, others=("tgt",), bound=1.5),
    Goal(
        row=DURABLE_128K,
        ours=RF1_NBD,
        figure=iops,
        others=("nbdkit",),
        other_row=WRITE_128K,
        bound=0.8,
    ),
    Goal(row=DURABLE_1, ours=RF3_NBD, figure=iops, others=(CEPH,), bound=4.0),
    Goal(row=DURABLE_1, ours=RF3_NBD, figure=cpu, others=(CEPH,), bound=0.1, most=True),
    Goal(row=DURABLE_32, ours=RF3_NBD, figure=iops, others=(CEPH,), bound=8.0),
    Goal(row=DURABLE_32, ours=RF3_NBD, figure=cpu, others=(CEPH,), bound=0.1, most=True),
)


def judge(cells: Sequence[Cell]) -> list[str]:
    """One line for each goal whose figures are in the table, and one that counts those reached."""
    figures = {(cell.row, cell.column): median(cell) for cell in cells if cell.runs}
    lines: list[str] = []
    reached = 0
    for goal in GOALS:
        found = _ratio(goal, figures)
        if found is None:
            continue
        ratio, other = found
        good = ratio <= goal.bound if goal.most else ratio >= goal.bound
        reached += good
        lines.append(
            f"- {'reached' if good else 'MISSED '} {goal.row}: {goal.figure.__name__} of {goal.ours} is "
            f"{ratio:.2f} x {other} (goal: {'at most' if goal.most else 'at least'} {goal.bound})"
        )
    budget = _over_the_disk(figures)
    if budget is not None:
        good = budget <= DURABLE_BUDGET_US
        reached += good
        lines.append(
            f"- {'reached' if good else 'MISSED '} {DURABLE_1}: p50 of {RF1_NBD} is {budget:.0f} us above the raw "
            f"disk's (goal: at most {DURABLE_BUDGET_US:.0f})"
        )
    return [*lines, f"goals: {len(lines)} reached: {reached}"]


def _ratio(goal: Goal, figures: Figures) -> tuple[float, str] | None:
    """The ratio and whom it is over: the best of the others, or the least where less is better."""
    ours = figures.get((goal.row, goal.ours))
    row = goal.other_row or goal.row
    others = {name: figures[row, name] for name in goal.others if (row, name) in figures}
    if ours is None or not others:
        return None
    # The peer to beat is the fastest; its CPU is what ours is held against.
    best = max(others, key=lambda name: others[name].outcome.iops)
    return goal.figure(ours) / goal.figure(others[best]), best


def _over_the_disk(figures: Figures) -> float | None:
    ours, disk = figures.get((DURABLE_1, RF1_NBD)), figures.get((DURABLE_1, "raw disk"))
    return None if ours is None or disk is None else p50(ours) - p50(disk)


def median(cell: Cell) -> Run:
    """The run in the middle by IOPS."""
    return sorted(cell.runs, key=iops)[len(cell.runs) // 2]

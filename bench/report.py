"""What is printed and kept of a table: medians as markdown, every run as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.client.run import Outcome

FORMAT = 1
#: Above this part of its processor the client, not the server, may be what is measured.
CLIENT_BUSY = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of one cell. ``cpu_us`` is processor time of all server processes per completed request."""

    outcome: Outcome
    cpu_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A load on a server: all its runs, or why there are none."""

    row: str
    column: str
    runs: tuple[Run, ...]
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """``idle`` is processor seconds per second of each server that has nothing to do."""

    machine: Mapping[str, str]
    taken_at: str
    seconds: float
    idle: Mapping[str, float]
    cells: Sequence[Cell]


def render(table: Table) -> str:
    """Markdown: one line per load and server, medians of the runs."""
    lines = [
        f"Taken {table.taken_at}; medians of runs of {table.seconds:g} s.",
        "CPU: processor microseconds of all server processes per request; of fio for the raw disk.",
        "",
        *(f"- {name}: {text}" for name, text in table.machine.items()),
        "- idle, one processor: "
        + ", ".join(f"{name} {part * 100:.2f} %" for name, part in table.idle.items()),
        "",
        "| load | server | IOPS | runs | p50 us | p99 us | CPU us | client |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    last = ""
    for cell in table.cells:
        row = "" if cell.row == last else cell.row
        last = cell.row
        lines.append(f"| {row} | {cell.column} | {_numbers(cell)} |")
    if any(_client_busy(cell) for cell in table.cells):
        lines += ["", f"`!`: the client used over {CLIENT_BUSY:.0%} of its processor."]
    return "\n".join(lines)


def save(table: Table, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"format": FORMAT, **asdict(table)}, indent=1) + "\n")


def load(path: Path) -> Table:
    """Read back what :func:`save` wrote. Raises ValueError for another format."""
    found = json.loads(path.read_text())
    if found.pop("format") != FORMAT:
        raise ValueError(f"{path} is of another format")
    cells = tuple(
        Cell(
            row=cell["row"],
            column=cell["column"],
            failure=cell["failure"],
            runs=tuple(
                Run(outcome=Outcome(**run["outcome"]), cpu_us=run["cpu_us"]) for run in cell["runs"]
            ),
        )
        for cell in found.pop("cells")
    )
    return Table(cells=cells, **found)


def _numbers(cell: Cell) -> str:
    if not cell.runs:
        return f"failed: {cell.failure} | | | | |"
    iops = [run.outcome.iops for run in cell.runs]
    middle = {
        name: statistics.median(getattr(run.outcome, name) for run in cell.runs)
        for name in ("p50_us", "p99_us", "client_load")
    }
    return " | ".join(
        (
            f"{statistics.median(iops):,.0f}",
            f"{min(iops):,.0f}-{max(iops):,.0f}",
            f"{middle['p50_us']:,.0f}",
            f"{middle['p99_us']:,.0f}",
            f"{statistics.median(run.cpu_us for run in cell.runs):.1f}",
            f"{middle['client_load']:.0%}" + (" !" if _client_busy(cell) else ""),
        )
    )


def _client_busy(cell: Cell) -> bool:
    return any(run.outcome.client_load > CLIENT_BUSY for run in cell.runs)

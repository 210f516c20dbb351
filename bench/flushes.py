"""Durable writes to 1 to 200 logs, each flushing by itself or sharing flushes: where the second begins to win.

    make bench-flushes                                  on the disk of the other benchmarks
    .venv/bin/python -m bench.flushes --folder FOLDER   on another file system

With as many outstanding as there are logs, and, as when clients of many volumes ask for little each, with fewer.

The threshold is ``sparrow.dataplane.durability.SHARE_FROM``. Rounds alternate, so that a disk whose speed drifts is as
unfair to both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Final

from bench.client.run import LoadFailed, compile_c
from bench.cpus import DATA, placement
from sparrow.dataplane.durability import SHARE_FROM, share_from
from tests.support.leave import end_on_sigterm

SOURCE: Final = Path(__file__).with_name("client") / "flushes.c"
#: Logs, and appends outstanding over all of them together; by the latter.
SHAPES: Final = (
    (1, 1),
    *((files, depth) for depth in (2, 4, 8, 16, 32, 64) for files in (depth, 200)),
    *((files, files) for files in (128, 200)),
)
ROUNDS: Final = 3
SECONDS: Final = 0.7
WAYS: Final = ("single", "shared")


def run_once(program: Path, folder: Path, files: int, depth: int, way: str) -> dict[str, float]:
    """Figures of one run, as ``flushes.c`` prints them."""
    done = subprocess.run(
        [str(program), str(folder), str(files), str(depth), way, str(SECONDS)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LoadFailed(done.stderr.strip())
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> int:
    """Print a line per shape, then the smallest number outstanding from which sharing wins in every shape."""
    parser = argparse.ArgumentParser(prog="python -m bench.flushes", description=__doc__)
    parser.add_argument("--folder", default=DATA, type=Path, help="where the logs are made")
    options = parser.parse_args()
    end_on_sigterm()
    os.sched_setaffinity(0, {placement().server})
    with tempfile.TemporaryDirectory(prefix="sparrow-bench-", dir=options.folder) as name:
        folder = Path(name)
        program = compile_c(SOURCE, folder, "-luring")
        print(
            f"{'logs':>5} {'outstanding':>11} {'single/s':>9} {'us CPU':>7} {'shared/s':>9} {'us CPU':>7} {'ratio':>6}"
        )
        wins: list[int] = []
        for files, depth in SHAPES:
            runs = {way: [] for way in WAYS}  # type: dict[str, list[dict[str, float]]]
            for _ in range(ROUNDS):
                for way in WAYS:
                    runs[way].append(run_once(program, folder, files, depth, way))
            rate = {way: median(run["per_s"] for run in runs[way]) for way in WAYS}
            used = {way: median(run["cpu_us"] for run in runs[way]) for way in WAYS}
            ratio = rate["shared"] / rate["single"]
            wins = [*wins, depth] if ratio > 1 else []
            print(
                f"{files:5d} {depth:11d} {rate['single']:9.0f} {used['single']:7.1f} "
                f"{rate['shared']:9.0f} {used['shared']:7.1f} {ratio:6.2f}"
            )
        print(
            f"sharing_wins_from: {wins[0] if wins else 'never'} share_from: {SHARE_FROM} "
            f"used_on_this_disk: {'yes' if share_from(folder) else 'no'}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

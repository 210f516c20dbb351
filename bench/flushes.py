"""Durable writes to 1 to 200 logs at once, each flushing by itself or sharing flushes: where the second begins to win.

    make bench-flushes

The threshold is ``sparrow.dataplane.durability.SHARE_FROM``. Rounds alternate, so that a disk whose speed drifts is as
unfair to both.
"""

from __future__ import annotations

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

SOURCE: Final = Path(__file__).with_name("client") / "flushes.c"
FILES: Final = (1, 4, 16, 32, 64, 128, 200)
ROUNDS: Final = 3
SECONDS: Final = 0.7
WAYS: Final = ("single", "shared")


def run_once(program: Path, folder: Path, files: int, way: str) -> dict[str, float]:
    """Figures of one run, as ``flushes.c`` prints them."""
    done = subprocess.run(
        [str(program), str(folder), str(files), way, str(SECONDS)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LoadFailed(done.stderr.strip())
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> int:
    """Print a line per number of logs, then the smallest number from which sharing wins."""
    os.sched_setaffinity(0, {placement().server})
    with tempfile.TemporaryDirectory(prefix="sparrow-bench-", dir=DATA) as name:
        folder = Path(name)
        program = compile_c(SOURCE, folder, "-luring")
        print(
            f"{'logs':>5} {'single/s':>9} {'us CPU':>7} {'shared/s':>9} {'us CPU':>7} {'ratio':>6}"
        )
        wins: list[int] = []
        for files in FILES:
            runs = {way: [] for way in WAYS}  # type: dict[str, list[dict[str, float]]]
            for _ in range(ROUNDS):
                for way in WAYS:
                    runs[way].append(run_once(program, folder, files, way))
            rate = {way: median(run["per_s"] for run in runs[way]) for way in WAYS}
            used = {way: median(run["cpu_us"] for run in runs[way]) for way in WAYS}
            ratio = rate["shared"] / rate["single"]
            wins = [*wins, files] if ratio > 1 else []
            print(
                f"{files:5d} {rate['single']:9.0f} {used['single']:7.1f} "
                f"{rate['shared']:9.0f} {used['shared']:7.1f} {ratio:6.2f}"
            )
        print(
            f"sharing_wins_from: {wins[0] if wins else 'never'} share_from: {SHARE_FROM} "
            f"used_on_this_disk: {'yes' if share_from(folder) else 'no'}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

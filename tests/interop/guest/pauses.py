"""What a database in the guest felt of each strike: the longest time between two of its commits."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path


def pauses_of(files: Path) -> list[float]:
    """Seconds, one for each strike.

    Args:
        files: has `commits` (one line for each commit: number, seconds) and `strikes` (seconds of each strike); both by
            the guest's clock.
    """
    commits = [float(line.split()[1]) for line in (files / "commits").read_text().splitlines()]
    strikes = [float(line) for line in (files / "strikes").read_text().splitlines()]
    found = []
    for begin, end in pairwise([*strikes, float("inf")]):
        gaps = [
            after - before for before, after in pairwise(commits) if after >= begin and before < end
        ]
        found.append(max(gaps, default=float("inf")))
    return found


def tell(what: str, pauses_s: list[float]) -> str:
    """One line for a person."""
    ordered = sorted(pauses_s)
    shown = " ".join(f"{pause:.1f}" for pause in pauses_s)
    middle = ordered[len(ordered) // 2]
    return f"{what}: pauses in s: {shown} (median {middle:.1f}, longest {ordered[-1]:.1f})"

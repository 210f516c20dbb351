"""Whole runs from seeds: those that failed once, some that nobody has tried yet, and the same one again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from sparrow.sim.run import STEPS as STEPS_USUAL
from sparrow.sim.run import fresh_seeds, run_seed

HERE = Path(__file__).parent
#: Of the test run; ``make sim-authority`` tries more.
FRESH = 4
STEPS = 8_000
#: A seed that is not reached in this time is left to the next run.
FRESH_S = 15.0
DIGEST = "from sparrow.sim.run import run_seed; print(run_seed({seed}, steps={steps}).digest)"


def past(file: str) -> list[tuple[int, int]]:
    """Seeds with their steps: ``seed`` or ``seed/steps``, then the commit and what went wrong."""
    lines = (HERE / file).read_text().splitlines()
    named = [line.split()[0].partition("/") for line in lines if line and not line.startswith("#")]
    return [(int(seed), int(steps or STEPS_USUAL)) for seed, _, steps in named]


def commit() -> int:
    """A number that changes with every commit."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return 1
    return int(found[:12], 16)


@pytest.mark.parametrize(("seed", "steps"), past("seeds.txt"))
def test_a_seed_that_failed_once_does_not_fail_again(seed: int, steps: int) -> None:
    outcome = run_seed(seed, steps=steps)
    assert outcome.violation == "", "\n".join(outcome.events)


def test_fresh_seeds_of_this_commit_violate_nothing() -> None:
    end = time.monotonic() + FRESH_S
    for seed in islice(fresh_seeds(commit()), FRESH):
        if time.monotonic() > end:
            break
        outcome = run_seed(seed, steps=STEPS)
        assert outcome.violation == "", f"seed {seed}\n" + "\n".join(outcome.events)
        assert outcome.minted > 0


def test_one_seed_is_one_history_whatever_python_hashes() -> None:
    seed, steps = 7, 6_000
    here = run_seed(seed, steps=steps)
    assert run_seed(seed, steps=steps).digest == here.digest
    for hash_seed in ("0", "4711"):
        there = subprocess.run(
            [sys.executable, "-c", DIGEST.format(seed=seed, steps=steps)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.strip() == here.digest


def test_another_seed_is_another_history() -> None:
    assert run_seed(1, steps=1000).digest != run_seed(2, steps=1000).digest

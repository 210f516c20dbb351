"""Whole runs on the compiled core: seeds that failed once, fresh ones of this commit, and the same one again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import islice

from sparrow.sim.compiled.run import COMPILED
from sparrow.sim.run import fresh_seeds, run_seed
from tests.sim.test_seeds import commit, past

FRESH = 6
STEPS = 5_000
#: A seed that is not reached in this time is left to the next run.
FRESH_S = 25.0
DIGEST = (
    "from sparrow.sim.run import run_seed; from sparrow.sim.compiled.run import COMPILED; "
    "print(run_seed({seed}, steps={steps}, kind=COMPILED).digest)"
)


def test_seeds_that_failed_once_do_not_fail_again() -> None:
    """One test for all: there may be none, and a test that is skipped for want of seeds is a failure in CI."""
    for seed, steps in past("seeds_native.txt"):
        outcome = run_seed(seed, steps=steps, kind=COMPILED)
        assert outcome.violation == "", f"seed {seed}\n" + "\n".join(outcome.events)


def test_fresh_seeds_of_this_commit_violate_nothing() -> None:
    end = time.monotonic() + FRESH_S
    for seed in islice(fresh_seeds(commit()), FRESH):
        if time.monotonic() > end:
            break
        outcome = run_seed(seed, steps=STEPS, kind=COMPILED)
        assert outcome.violation == "", f"seed {seed}\n" + "\n".join(outcome.events)
        assert outcome.minted > 0


def test_one_seed_is_one_history_in_every_process() -> None:
    seed, steps = 7, 2_000
    here = run_seed(seed, steps=steps, kind=COMPILED)
    assert here.acked > 0
    assert run_seed(seed, steps=steps, kind=COMPILED).digest == here.digest
    there = subprocess.run(
        [sys.executable, "-c", DIGEST.format(seed=seed, steps=steps)],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here.digest

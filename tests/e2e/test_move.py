"""A primary is moved on purpose: clients find the new one at once, nothing is lost, nothing is stale."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sparrow.base.constants import GRANT_S
from tests.e2e import move_drill
from tests.support.needs import needs_io_uring

pytestmark = [needs_io_uring(), pytest.mark.timeout(300)]

MOVES = 5


def test_clients_do_not_wait_for_a_grant_when_a_primary_is_moved(place: Path) -> None:
    """Of several, so that one stall of a busy machine says nothing; a wait for the promise would be in all of them."""
    outcome = move_drill.run(place / "cluster", count=MOVES, tell=print)
    print(outcome.line())
    assert outcome.trouble == []
    assert (outcome.moves, outcome.lost, outcome.stale) == (MOVES, 0, 0)
    assert outcome.acked > MOVES * move_drill.ACKS, "writes were in flight"
    assert min(outcome.pauses_s) < GRANT_S * 0.8


def test_a_drill_that_is_told_to_end_leaves_no_process_and_no_file(place: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.move_drill", "--count", "1000", "--dir", str(place)],
        stderr=subprocess.PIPE,
        text=True,
    ) as drill:
        assert drill.stderr is not None
        assert drill.stderr.readline().startswith("turn 1: ")
        assert processes_of(place)
        drill.terminate()
        drill.stderr.read()
    assert drill.returncode == 128 + signal.SIGTERM
    assert processes_of(place) == []
    assert list(place.iterdir()) == []


def processes_of(place: Path) -> list[str]:
    """Masters and nodes whose command names that directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = process.read_bytes().decode(errors="replace").split("\0")
            if "run" in words and any(str(place) in word for word in words):
                found.append(" ".join(words))
    return found

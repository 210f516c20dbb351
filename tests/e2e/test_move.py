"""A primary is moved on purpose: clients find the new one at once, nothing is lost, nothing is stale."""

from __future__ import annotations

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

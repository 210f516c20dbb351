"""The short form of `make bitflips`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.bitflips import flip_bits
from tests.support.needs import needs_io_uring

pytestmark = [needs_io_uring(), pytest.mark.timeout(400)]


def test_flipped_bits_are_never_read_and_one_scrub_repairs_them_all(place: Path) -> None:
    outcome = flip_bits(place, 120, seed=20)
    assert outcome.trouble == []
    assert (outcome.wrong_pages, outcome.failed_reads, outcome.unrepaired) == (0, 0, 0)
    assert outcome.flips == 120
    assert outcome.flips - outcome.unused > 60, "most of them hit something"

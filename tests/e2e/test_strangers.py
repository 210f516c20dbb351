"""A short run of ``make fuzz-living``: mutated sessions on the portals of a node that serves somebody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.living import run_against
from tests.support.needs import needs_io_uring

pytestmark = [needs_io_uring(), pytest.mark.timeout(300)]


def test_mutated_sessions_leave_a_node_and_its_client_as_they_were(place: Path) -> None:
    """That client has one session and no wrong answer; no descriptor, memory or part of the core is left in use."""
    problems, played = run_against(place, 1, range(600))
    assert problems == []
    assert played == 600

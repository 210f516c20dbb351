"""The clock of waits for other nodes' promises."""

from __future__ import annotations

import time


def raw_clock() -> float:
    """CLOCK_MONOTONIC_RAW, seconds: no time daemon slews it, and it stands still while the machine sleeps.

    Both make a wait longer, never shorter than it was promised to be.
    """
    return time.clock_gettime(time.CLOCK_MONOTONIC_RAW)

"""The clock of every process: goes on while the machine sleeps, never goes back."""

from __future__ import annotations

import time


class BoottimeClock:
    """``ports.clock.Clock`` over CLOCK_BOOTTIME, seconds."""

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

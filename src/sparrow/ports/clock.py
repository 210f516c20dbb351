"""Time, as the processes hand it to the machines."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Seconds that never go back and go on while the machine sleeps (CLOCK_BOOTTIME); the origin means nothing."""

    def now(self) -> float: ...

"""A clock for processes that share an event loop with those they wait for."""

from __future__ import annotations

import asyncio
from typing import Final

#: Between two looks at the loop's own clock.
LOOK_S: Final = 0.02
#: What passes between two looks at most.
STEP_S: Final = 0.1


class LoopClock:
    """``ports.clock.Clock`` that stands still when the event loop does.

    A master and its fake nodes in one loop stand still together. By a clock that goes on meanwhile a node is silent
    that had no chance to speak, and what a test has built up is over: nodes are lost, and volumes not served.
    """

    def __init__(self) -> None:
        """Begins to look; what it has planned goes with the loop."""
        self._loop = asyncio.get_running_loop()
        self._now, self._looked_at = 1000.0, self._loop.time()
        self._look()

    def now(self) -> float:
        return self._now + min(self._loop.time() - self._looked_at, STEP_S)

    def _look(self) -> None:
        self._now, self._looked_at = self.now(), self._loop.time()
        self._loop.call_later(LOOK_S, self._look)

"""An event loop whose time jumps: when nothing is ready, the clock moves to the next timer at once.

Only for code without real sockets or threads. A loop with no timer and nothing ready is stuck for ever, and says so.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

START_S = 1000.0


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = START_S

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise AssertionError("every task waits for something that cannot happen any more")
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on virtual time, starting at 1000 s."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # Timers this close together fire in one turn; virtual time has no jitter to allow for.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._jumping.now


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end on a loop of its own; the wall clock hardly moves."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)

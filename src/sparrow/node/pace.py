"""How fast one peer acknowledges: out of the set when it holds everybody up, back when it is well (L6).

A peer that is taken out and in again at every hiccup costs a line each time. So it is slow only when the middle of a
whole window says so, and comes back only after a long calm and a pause that doubles with every time it had to leave.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Final

#: An acknowledgement that takes longer than this, in the middle of a window, makes a peer slow.
SLOW_S: Final = 1.0
WINDOW_S: Final = 1.0
#: Looks in a window, at least; a window must be covered by looks to this part.
LOOKS_MIN: Final = 3
COVERED: Final = 0.7
#: To come back, every acknowledgement took less than this, for so long.
CALM_ACK_S: Final = SLOW_S / 4
CALM_S: Final = 10.0
#: For CALM_S after one that took this long it is not called quick.
LATE_ACK_S: Final = SLOW_S / 2
PAUSE_FIRST_S: Final = 10.0
PAUSE_LAST_S: Final = 600.0
LOOKS_MAX: Final = 64

assert CALM_S >= WINDOW_S, "a peer that comes back has not been slow for a whole window"


class GrowingPause:
    """A pause that is twice as long each time, up to ``PAUSE_LAST_S``; after a long time without one it is short again.

    Args:
        first_s: its length the first time.
    """

    def __init__(self, first_s: float) -> None:
        self._first_s = first_s
        self._times = 0
        self.begun_at: float | None = None
        self.until = 0.0

    def begin(self, now: float) -> None:
        if self.begun_at is not None and now - self.begun_at > 2 * PAUSE_LAST_S:
            self._times = 0
        self._times += 1
        self.begun_at = now
        self.go_on(now)

    def go_on(self, now: float) -> None:
        """What began it lasts: the whole pause is still to come."""
        self.until = now + min(self._first_s * 2 ** (self._times - 1), PAUSE_LAST_S)


class Pace:
    """One peer's pace, from looks at the core's figures. Times are the machine's clock, seconds; bounded memory."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, float]] = deque(maxlen=LOOKS_MAX)
        self._calm_since: float | None = None
        self._late_at = -math.inf
        #: For how long it stays out; begins each time it has to leave.
        self._out = GrowingPause(PAUSE_FIRST_S)

    def seen(self, *, lag_s: float, worst_s: float, now: float) -> None:
        """One look: the age of what it owes, and its slowest acknowledgement lately."""
        self._looks.append((now, lag_s))
        if max(lag_s, worst_s) >= LATE_ACK_S:
            self._late_at = now
        if max(lag_s, worst_s) >= CALM_ACK_S:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now

    def forget(self) -> None:
        """Its link is gone: what was seen says nothing about the next one."""
        self._looks.clear()
        self._calm_since = None

    def slow(self, now: float) -> bool:
        """Whether it held everybody up for a whole window."""
        window = [(at, lag) for at, lag in self._looks if at > now - WINDOW_S]
        covered = len(window) >= LOOKS_MIN and window[-1][0] - window[0][0] >= COVERED * WINDOW_S
        return covered and statistics.median(lag for _, lag in window) > SLOW_S

    def quick(self, now: float) -> bool:
        """Whether every acknowledgement of a whole window was quick, and none was late for long before.

        The window alone says little: who gets nothing new, because it is another that holds commits up, is soon calm.
        """
        calm = self._calm_since is not None and now - self._calm_since >= WINDOW_S
        return calm and now - self._late_at >= CALM_S

    def left(self, now: float) -> None:
        """A line took it out because it was slow."""
        self._out.begin(now)

    def may_return(self, now: float) -> bool:
        """Whether it may be grown: always, for one that never had to leave."""
        return now >= (self.returns_at(now) or now)

    def returns_at(self, now: float) -> float | None:
        """When it may be grown if it stays calm; None when nothing holds it back, or only its own pace does."""
        if self._out.begun_at is None:
            return None
        if self._calm_since is None:
            return now + CALM_S
        at = max(self._out.until, self._calm_since + CALM_S)
        return at if at > now else None

"""What clients saw of each page, and whether one register could have given those answers.

Every write has a value of its own, so a history is linearizable if and only if its values can be put in an order: of
each value take the operations that wrote or read it; with ``first_end`` the earliest end among them and ``last_start``
the latest start, the value was there for all of ``[first_end, last_start]`` when that is an interval, else at one
moment at least of ``[last_start, first_end]``. No two intervals of the first sort may meet, and none of the second may
lie within one of the first (Gibbons and Korach, Testing Shared Memories, 1997, section 4.3).

A write that was never answered may have happened at any time from its start on, or never: it ends with the world.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sparrow.base.ids import NodeId
    from sparrow.sim.compiled.survival import Mark

NEVER: Final = math.inf
BEGINNING: Final = -math.inf


@dataclass(slots=True)
class Value:
    """One value of one page: 0 is what was there before anybody wrote."""

    start: float
    first_end: float
    last_start: float
    #: When it was first seen by a reader; a write that was never answered and never seen need not have happened.
    seen: bool = False
    answered: bool = False


def _first() -> dict[int, Value]:
    value = Value(BEGINNING, BEGINNING, BEGINNING, answered=True)
    return {0: value}


@dataclass(slots=True)
class PageHistory:
    """All operations on one page."""

    values: dict[int, Value] = field(default_factory=_first)
    strange: str = ""
    #: What the read that ended last gave.
    last_read: int = 0

    def write_began(self, value: int, at: float) -> None:
        self.values[value] = Value(at, NEVER, at)

    def tried(self, value: int, node: NodeId) -> None:
        """An attempt of a write went there."""

    def write_answered(self, value: int, at: float, _mark: Mark | None = None) -> None:
        one = self.values[value]
        one.first_end = min(one.first_end, at)
        one.answered = True

    def read(self, value: int, start: float, end: float, _mark: Mark | None = None) -> None:
        one = self.values.get(value)
        if one is None:
            self.strange = self.strange or f"value {value} was read, which nobody wrote"
            return
        if end < one.start:
            self.strange = self.strange or f"value {value} was read before it was written"
        self.last_read = value
        one.first_end = min(one.first_end, end)
        one.last_start = max(one.last_start, start)
        one.seen = True

    @property
    def settled(self) -> bool:
        """Whether it will never again be as nobody had written it."""
        return True

    def fault(self) -> str:
        """Why no register can have given these answers; empty when one can."""
        if self.strange:
            return self.strange
        counted = [(n, v) for n, v in self.values.items() if v.answered or v.seen]
        held = sorted(
            (v.first_end, v.last_start, n) for n, v in counted if v.first_end < v.last_start
        )
        for (_, end, a), (begin, _, b) in pairwise(held):
            if begin < end:
                return f"values {a} and {b} were both there, one after the other and back again"
        starts = [begin for begin, _, _ in held]
        for number, value in counted:
            if value.first_end < value.last_start:
                continue
            # It was there at some moment of [last_start, first_end]: not possible within another's interval.
            at = bisect.bisect_left(starts, value.last_start) - 1
            if at >= 0 and value.first_end < held[at][1] and value.last_start > held[at][0]:
                return (
                    f"value {number} came and went between {value.last_start:.6f} and "
                    f"{value.first_end:.6f}, while {held[at][2]} was there"
                )
        return ""

"""Names of volumes in order, to be looked at from any place on while they come and go.

A list of the master's volumes is given in pages, and between two pages volumes are made and deleted. A page goes on
behind the last name of the one before it, so what is there all the while comes exactly once, and what comes or goes
meanwhile once or not at all.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from sparrow.base.ids import VolumeId

#: Names that a walk takes at a time; what changes meanwhile is seen by the next ones.
STRIDE: Final = 64


class OrderedNames(Collection[VolumeId]):
    """A sorted set. A change costs a search and a move of pointers: some 20 us among 100,000 names."""

    def __init__(self, names: Iterable[VolumeId] = ()) -> None:
        self._names = sorted(set(names))

    def add(self, name: VolumeId) -> None:
        """Nothing happens when it is there."""
        if name not in self:
            insort(self._names, name)

    def discard(self, name: VolumeId) -> None:
        """Nothing happens when it is not there."""
        if name in self:
            del self._names[bisect_left(self._names, name)]

    def after(self, name: str, count: int) -> list[VolumeId]:
        """The next ``count`` names above ``name``; all are above an empty one."""
        at = bisect_right(self._names, VolumeId(name))
        return self._names[at : at + count]

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        at = bisect_left(self._names, VolumeId(name))
        return at < len(self._names) and self._names[at] == name

    def __iter__(self) -> Iterator[VolumeId]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def walk(after: str, *orders: OrderedNames) -> Iterator[VolumeId]:
    """Every name above ``after`` that is in one of ``orders``, in order, once; they may change meanwhile.

    Of the union no more than a stride is taken at a time: beyond it a name of another order could lie between two.
    """
    while found := sorted({name for order in orders for name in order.after(after, STRIDE)}):
        yield from found[:STRIDE]
        after = found[:STRIDE][-1]

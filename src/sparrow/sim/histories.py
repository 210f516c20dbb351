"""What clients saw of each page, and whether one register per page explains it.

Values are numbers that grow with each write. One client per volume sends to whoever serves, so of one page a newer
write has a higher number and logs keep that order. A history is linearizable then exactly if every read gives a value
that was written to this page before, in this life of the volume, and none older than the newest that a finished write
or a finished read has shown. A deleted volume ends its life: what is made anew under its name begins with nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sparrow.base.ids import Epoch, Lsn


@dataclass(slots=True)
class _Page:
    #: Value -> epoch under which it was sent. Bounded by the writes of one run.
    sent: dict[int, Epoch] = field(default_factory=dict)
    floor: int = 0


class Histories:
    """Of one volume. Each answer is judged when it comes; a complaint is a sentence, empty when all is well."""

    def __init__(self) -> None:
        self._pages: dict[int, _Page] = {}
        self._over = Epoch(0)
        #: Acknowledged writes that must be there: LSN, page, value.
        self._kept: list[tuple[Lsn, int, int]] = []

    def deleted(self, epoch: Epoch) -> None:
        """A tombstone of this epoch is durable: nothing of it or before belongs to what comes."""
        self._over = epoch
        self._kept.clear()
        for page in self._pages.values():
            page.floor = 0

    def lost_above(self, lsn: Lsn) -> None:
        """An operator gave up what was written after this LSN; what was acknowledged before it must be there."""
        self._kept = [one for one in self._kept if one[0] <= lsn]
        for page in self._pages.values():
            page.floor = 0
        for _, number, value in self._kept:
            self._pages[number].floor = max(value, self._pages[number].floor)

    def sends(self, page: int, value: int, epoch: Epoch) -> None:
        """A write goes out to a primary of this epoch."""
        self._pages.setdefault(page, _Page()).sent[value] = epoch

    def wrote(self, page: int, value: int, lsn: Lsn) -> None:
        """A write was acknowledged."""
        held = self._pages[page]
        if held.sent[value] > self._over:
            held.floor = max(held.floor, value)
            self._kept.append((lsn, page, value))

    def read(
        self, page: int, value: int, epoch: Epoch, *, least: int = 0, shows: bool = True
    ) -> str:
        """A primary of this epoch answered a read; 0 is a page nobody wrote.

        Args:
            least: what the reader knows besides.
            shows: later reads must not be older.
        """
        held = self._pages.setdefault(page, _Page())
        if value and value not in held.sent:
            return f"read {value} from page {page}, which nobody wrote there"
        if epoch <= self._over:
            return (
                ""  # the old life has not ended everywhere yet; nothing is promised of it any more
            )
        if value and held.sent[value] <= self._over:
            return f"read {value} from page {page}, written before the volume was deleted"
        if value < max(held.floor, least):
            return f"read {value} from page {page}, {max(held.floor, least)} was seen before"
        if shows:
            held.floor = value
        return ""

"""Which answered writes the next primary may be without under ack=local, and which not.

A write is answered when its primary has it on its own disk, and commits when every replica in sync has it. So, at each
opening of another term, judged by the table of terms of whoever opens, for ``(term, LSN)`` names one content for ever:

- what was committed is there;
- of what was answered and not committed a suffix in the order of logs may be missing, no more: what is there is a
  history that once was;
- nothing at all may be missing when every epoch in between was led by the replica that answered: its disk has it.

What is missing once is missing for good. What is there at the opening of a term has committed with the start of that
term, and counts as committed from then on.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sparrow.authority.types import Term
from sparrow.base.ids import Epoch, NodeId, VolumeId
from sparrow.dataplane.events import Mail

START_BITS: Final = 32


class Mark(NamedTuple):
    """Of an answer: the term that gave it, the LSN of the write (0: a read), and what was committed there by then."""

    term: Term
    lsn: int
    commit: int


def mark_of(mail: Mail) -> Mark:
    """What a frontend without a protocol says besides (``_native/front/direct.pyx``)."""
    term = Term(epoch=Epoch(mail.b >> START_BITS), start=mail.b & ((1 << START_BITS) - 1))
    return Mark(term, mail.a, mail.c)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Somebody began to serve in a term of its own."""

    node: NodeId
    term: Term
    start_lsn: int
    #: Its table of terms, oldest first, the own one last.
    terms: tuple[Term, ...]
    firsts: tuple[int, ...]

    def has(self, term: Term, lsn: int) -> bool:
        """Whether this entry is in the log that the term began with. What is older than the table is."""
        if lsn >= self.start_lsn:
            return False
        at = bisect.bisect_right(self.firsts, lsn) - 1
        return at < 0 or self.terms[at] == term


@dataclass(slots=True)
class Survival:
    """Of one volume.

    Args:
        leaders: uuid of the files that lead in each epoch that was minted.
        fail: told of a violation.
    """

    volume_id: VolumeId
    leaders: Mapping[Epoch, str]
    fail: Callable[[str], None]
    openings: list[Opening] = field(default_factory=list)
    #: Newest entry that is known to be committed.
    committed: tuple[Term, int] = (Term(epoch=Epoch(0), start=0), 0)
    #: Answered writes that an opening was without.
    lost: int = 0
    _pending: list[Mark] = field(default_factory=list)
    #: By opening: the newest that is there and the oldest that is not.
    _edges: dict[Term, tuple[tuple[Term, int], tuple[Term, int] | None]] = field(
        default_factory=dict
    )

    def opened(self, node: NodeId, table: Sequence[tuple[int, int, int]]) -> None:
        """A gate opened; perhaps only again."""
        terms = tuple(Term(epoch=Epoch(epoch), start=start) for epoch, start, _ in table)
        term, start_lsn = terms[-1], table[-1][2]
        newest = self.openings[-1].term if self.openings else None
        if newest is not None and term <= newest:
            if term < newest:
                self.fail(
                    f"{node} serves {self.volume_id} in {say(term)}, and {say(newest)} had begun"
                )
            return
        firsts = tuple(first for _, _, first in table)
        opening = Opening(node=node, term=term, start_lsn=start_lsn, terms=terms, firsts=firsts)
        if self.committed[1] and not opening.has(*self.committed):
            self.fail(
                f"{node} serves {self.volume_id} in {say(term)} from LSN {start_lsn} without LSN "
                f"{self.committed[1]} of {say(self.committed[0])}, which was committed"
            )
        self.openings.append(opening)
        self.committed = (term, start_lsn)
        pending, self._pending = self._pending, []
        for mark in pending:
            self._take(mark)

    def saw(self, mark: Mark) -> None:
        """An answer came: what it says is committed is so whatever comes."""
        after = self._after(mark.term)
        if after is not None and not after.has(mark.term, mark.commit):
            self.fail(
                f"LSN {mark.commit} of {self.volume_id} was committed in {say(mark.term)}, and is gone "
                f"in {say(after.term)}"
            )
        if mark.commit > self.committed[1]:
            self.committed = (mark.term, mark.commit)

    def acknowledged(self, mark: Mark) -> None:
        """A client has the answer to a write."""
        self.saw(mark)
        self._take(mark)

    def lost_by(self, mark: Mark) -> Opening | None:
        """The opening that was without this write; None when there is none yet, or it was there."""
        after = self._after(mark.term)
        return after if after is not None and not after.has(mark.term, mark.lsn) else None

    def opening(self, term: Term) -> Opening | None:
        """None when nobody saw it."""
        at = bisect.bisect_left(self.openings, term, key=lambda one: one.term)
        found = self.openings[at] if at < len(self.openings) else None
        return found if found is not None and found.term == term else None

    def newest_of(self, nodes: set[NodeId], by: Term) -> Term | None:
        """The newest term up to this one that one of these nodes served in."""
        found = [one.term for one in self.openings if one.node in nodes and one.term <= by]
        return found[-1] if found else None

    def settled(self, mark: Mark) -> bool:
        """Whether nothing takes this write away any more."""
        return mark.lsn <= self.committed[1] and self.lost_by(mark) is None

    def _after(self, term: Term) -> Opening | None:
        at = bisect.bisect_right(self.openings, term, key=lambda one: one.term)
        return self.openings[at] if at < len(self.openings) else None

    def _take(self, mark: Mark) -> None:
        """Judge one answer by the opening that came after its term, if there was one."""
        after = self._after(mark.term)
        if after is None:
            self._pending.append(mark)
            return
        where = (mark.term, mark.lsn)
        kept, lost = self._edges.get(after.term, ((mark.term, 0), None))
        if after.has(*where):
            kept = max(kept, where)
        else:
            self.lost += 1
            lost = where if lost is None else min(lost, where)
            if not self._changed_hands(mark.term.epoch, after.term.epoch):
                self.fail(
                    f"LSN {mark.lsn} of {self.volume_id} was acknowledged in {say(mark.term)}, and is gone in "
                    f"{say(after.term)} although the same replica led all along"
                )
        self._edges[after.term] = (kept, lost)
        if lost is not None and lost < kept:
            self.fail(
                f"{self.volume_id} lost LSN {lost[1]} of {say(lost[0])} at {say(after.term)} and kept "
                f"{kept[1]} of {say(kept[0])}, which came after it"
            )

    def _changed_hands(self, first: Epoch, last: Epoch) -> bool:
        """Whether other files led in one of the epochs after this one."""
        ours = self.leaders.get(first)
        return any(first < epoch <= last and uuid != ours for epoch, uuid in self.leaders.items())


def say(term: Term) -> str:
    return f"term {term.epoch}.{term.start}"

"""What clients saw of one page under ack=local, where a change of primary takes answered writes back.

Three things must be so of it:

- in each term for itself the page is one register: it begins with what was there before, and every write that was
  answered in the term is seen by every read after it (``history``);
- what a term begins with is the newest of the answered writes that were there at its opening, or a write that nobody
  has an answer to and that may have come after that one. What was lost once is not read any more;
- answered writes that were never lost, over all terms together, are the writes of one register, by the clock of their
  clients: so an attempt that was given up and takes effect late is seen.

Only at the end is known which writes were answered in which term, so all is judged then.
"""

from __future__ import annotations

from typing import NamedTuple

from sparrow.authority.types import Term
from sparrow.base.ids import NodeId
from sparrow.sim.compiled.history import PageHistory
from sparrow.sim.compiled.survival import Mark, Survival, say


class Read(NamedTuple):
    value: int
    start: float
    end: float
    term: Term


class ReignHistory(PageHistory):
    """All operations on one page."""

    def __init__(self, survival: Survival) -> None:
        super().__init__()
        self._survival = survival
        self._began: dict[int, float] = {}
        #: Where each attempt of a write went.
        self._tried: dict[int, list[NodeId]] = {}
        self._answers: dict[int, tuple[float, Mark]] = {}
        self._reads: list[Read] = []

    def write_began(self, value: int, at: float) -> None:
        self._began[value] = at

    def tried(self, value: int, node: NodeId) -> None:
        self._tried.setdefault(value, []).append(node)

    def write_answered(self, value: int, at: float, mark: Mark | None = None) -> None:
        assert mark is not None, "an answer says where it stands"
        self._answers[value] = (at, mark)

    def read(self, value: int, start: float, end: float, mark: Mark | None = None) -> None:
        assert mark is not None, "an answer says where it stands"
        self._survival.saw(mark)
        self.last_read = value
        if value and value not in self._began:
            self.strange = self.strange or f"value {value} was read, which nobody wrote"
            return
        self._reads.append(Read(value, start, end, mark.term))

    @property
    def settled(self) -> bool:
        """Whether it will never again be as nobody had written it."""
        return any(self._survival.settled(mark) for _, mark in self._answers.values())

    def fault(self) -> str:
        if self.strange:
            return self.strange
        terms = {read.term for read in self._reads}
        terms |= {mark.term for _, mark in self._answers.values()}
        for term in sorted(terms):
            found = self._fault_in(term)
            if found:
                return f"in {say(term)}: {found}"
        return self._fault_of_all()

    def _fault_in(self, term: Term) -> str:
        """One term: 0 stands for what it began with."""
        page, before = PageHistory(), self._before(term)
        for value, (at, mark) in self._answers.items():
            if mark.term == term:
                page.write_began(value, self._began[value])
                page.write_answered(value, at)
        first: int | None = None
        for read in self._reads:
            if read.term != term:
                continue
            value, found = read.value, ""
            answer = self._answers.get(value)
            inherited = answer is not None and answer[1].term < term
            if value == 0 or (inherited and not self._of_another_attempt(value, term)):
                found = self._inherited(value, term, before)
                if first not in (None, value):
                    found = found or f"values {first} and {value} were both there when it began"
                first, value = value, 0
            elif value not in page.values:
                # Nobody has an answer to it, or only to a later attempt.
                found = self._unanswered(value, term, before)
                page.write_began(value, self._began[value])
            if found:
                return found
            page.read(value, read.start, read.end)
        return page.fault()

    def _of_another_attempt(self, value: int, term: Term) -> bool:
        """The attempt that was answered is lost, and one that was given up before it may be there."""
        lost = self._survival.lost_by(self._answers[value][1])
        return lost is not None and lost.term <= term and len(self._tried.get(value, ())) > 1

    def _before(self, term: Term) -> tuple[Term, int, int] | None:
        """The newest answered write that was there when the term began: its term, LSN and value."""
        if self._survival.opening(term) is None:
            return None
        return max(
            (
                (mark.term, mark.lsn, value)
                for value, (_, mark) in self._answers.items()
                if mark.term < term and self._survival.lost_by(mark) is None
            ),
            default=None,
        )

    def _inherited(self, value: int, term: Term, before: tuple[Term, int, int] | None) -> str:
        if value:
            lost = self._survival.lost_by(self._answers[value][1])
            if lost is not None and lost.term <= term:
                return f"value {value} was read, which was lost when {say(lost.term)} began"
        if before is not None and before[2] != value:
            return f"value {value} was read, and {before[2]} was acknowledged after it and kept"
        return ""

    def _unanswered(self, value: int, term: Term, before: tuple[Term, int, int] | None) -> str:
        """Whoever it was sent to must have been able to log it after what was there."""
        logged = self._survival.newest_of(set(self._tried.get(value, ())), term)
        if logged is None or before is None or before[0] <= logged:
            return ""
        return (
            f"value {value} was read, which can have been logged in {say(logged)} at the latest, "
            f"and {before[2]} was acknowledged in {say(before[0])} and kept"
        )

    def _fault_of_all(self) -> str:
        page = PageHistory()
        for value, (at, mark) in self._answers.items():
            if self._survival.lost_by(mark) is None:
                page.write_began(value, self._began[value])
                page.write_answered(value, at)
        for read in self._reads:
            if read.value in page.values:
                page.read(read.value, read.start, read.end)
        return page.fault()

"""What a change of primary may take under ack=local, and what clients may see of it."""

from __future__ import annotations

import pytest

from sparrow.authority.types import Term
from sparrow.base.ids import Epoch, NodeId, VolumeId
from sparrow.sim.compiled.reigns import ReignHistory
from sparrow.sim.compiled.survival import Mark, Survival

A, B = NodeId("a"), NodeId("b")
LEADERS = {Epoch(1): "files of a", Epoch(2): "files of b", Epoch(3): "files of a"}


def term(epoch: int, start: int = 1) -> Term:
    return Term(epoch=Epoch(epoch), start=start)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def survival(said: list[str]) -> Survival:
    """a serves in term 1 from LSN 1."""
    built = Survival(VolumeId("v1"), LEADERS, said.append)
    built.opened(A, [(1, 1, 1)])
    return built


def answered(survival: Survival, *lsns: int, epoch: int = 1, commit: int) -> list[Mark]:
    marks = [Mark(term(epoch), lsn, commit) for lsn in lsns]
    for mark in marks:
        survival.acknowledged(mark)
    return marks


# ---------------------------------------------------------------- what the next primary has


def test_another_primary_may_lack_what_was_not_committed(
    survival: Survival, said: list[str]
) -> None:
    kept, lost = answered(survival, 5, 8, commit=4)
    survival.opened(B, [(1, 1, 1), (2, 1, 7)])
    assert said == []
    assert survival.lost == 1
    assert survival.lost_by(kept) is None
    assert survival.lost_by(lost) is not None


def test_nothing_committed_is_missing(survival: Survival, said: list[str]) -> None:
    answered(survival, 5, 8, commit=8)
    survival.opened(B, [(1, 1, 1), (2, 1, 7)])
    assert "without LSN 8" in said[0]


def test_an_entry_of_another_term_in_its_place_is_not_it(
    survival: Survival, said: list[str]
) -> None:
    """b's log is longer, and parts from a's before what was committed."""
    answered(survival, 8, commit=8)
    survival.opened(B, [(1, 1, 1), (1, 2, 7), (2, 1, 20)])
    assert "without LSN 8" in said[0]


def test_the_same_replica_lacks_nothing(survival: Survival, said: list[str]) -> None:
    """It starts again in its epoch: what it answered was on its disk."""
    answered(survival, 5, 8, commit=4)
    survival.opened(A, [(1, 1, 1), (1, 2, 8)])
    assert "although the same replica led all along" in said[0]


def test_it_may_when_another_one_led_in_between(survival: Survival, said: list[str]) -> None:
    answered(survival, 5, 8, commit=4)
    survival.opened(A, [(1, 1, 1), (3, 2, 6)])
    assert said == []
    assert survival.lost == 1


def test_what_is_missing_is_a_suffix(survival: Survival, said: list[str]) -> None:
    """Terms 1.1 and 1.2 were both answered in before anybody saw an opening; the first is cut short."""
    answered(survival, 8, commit=4)
    survival.acknowledged(Mark(term(1, 2), 12, 4))
    survival.opened(B, [(1, 1, 1), (1, 2, 7), (2, 1, 20)])
    assert "and kept 12 of term 1.2" in said[0]


def test_an_answer_that_is_heard_late_is_judged_too(survival: Survival, said: list[str]) -> None:
    survival.opened(B, [(1, 1, 1), (2, 1, 7)])
    answered(survival, 8, commit=5)
    assert said == []
    answered(survival, 9, commit=9)
    assert "LSN 9 of v1 was committed in term 1.1, and is gone" in said[0]


def test_nobody_serves_in_a_term_that_is_over(survival: Survival, said: list[str]) -> None:
    survival.opened(B, [(1, 1, 1), (2, 1, 7)])
    survival.opened(A, [(1, 1, 1)])
    assert "a serves v1 in term 1.1, and term 2.1 had begun" in said[0]


# ---------------------------------------------------------------- what clients see


class Page:
    """One page and a clock that goes on by itself; an answer commits nothing, unless told."""

    def __init__(self, survival: Survival) -> None:
        self.survival = survival
        self.history = ReignHistory(survival)
        self.now = 0.0

    def _later(self) -> float:
        self.now += 1.0
        return self.now

    def begin(self, value: int, node: NodeId) -> None:
        self.history.write_began(value, self._later())
        self.history.tried(value, node)

    def write(self, value: int, lsn: int, *, epoch: int = 1, commit: int = 1) -> None:
        if value not in self.history._began:
            self.begin(value, A if epoch != 2 else B)
        mark = Mark(term(epoch), lsn, commit)
        self.history.write_answered(value, self._later(), mark)
        self.survival.acknowledged(mark)

    def read(self, value: int, *, epoch: int = 1, commit: int = 1) -> None:
        self.history.read(value, self._later(), self._later(), Mark(term(epoch), 0, commit))

    def fault(self) -> str:
        return self.history.fault()


@pytest.fixture
def page(survival: Survival) -> Page:
    return Page(survival)


def test_what_was_lost_is_as_before(page: Page, said: list[str]) -> None:
    page.write(1, 5)
    page.write(2, 8)
    page.read(2)
    page.survival.opened(B, [(1, 1, 1), (2, 1, 7)])
    page.read(1, epoch=2, commit=7)
    page.write(3, 9, epoch=2, commit=9)
    page.read(3, epoch=2, commit=9)
    assert page.fault() == ""
    assert said == []


def test_an_answered_write_is_seen_in_its_term(page: Page) -> None:
    page.write(1, 5)
    page.write(2, 8)
    page.read(1)
    assert "came and went" in page.fault() or "back again" in page.fault()


def test_what_was_kept_is_seen_after_the_opening(page: Page) -> None:
    page.write(1, 5)
    page.write(2, 8)
    page.survival.opened(B, [(1, 1, 1), (2, 1, 20)])
    page.read(1, epoch=2, commit=20)
    assert "value 1 was read, and 2 was acknowledged after it and kept" in page.fault()


def test_what_was_lost_does_not_come_back(page: Page) -> None:
    page.write(1, 5)
    page.write(2, 8)
    page.survival.opened(B, [(1, 1, 1), (2, 1, 7)])
    page.read(1, epoch=2, commit=7)
    page.survival.opened(A, [(1, 1, 1), (2, 1, 7), (3, 2, 30)])
    page.read(2, epoch=3, commit=30)
    assert "which was lost when term 2.1 began" in page.fault()


def test_an_attempt_that_was_given_up_may_be_what_is_left(page: Page) -> None:
    """1 is sent twice: the first is kept and was never answered, the second was, and is lost."""
    page.begin(1, A)
    page.history.tried(1, A)
    page.write(1, 8)
    page.survival.opened(B, [(1, 1, 1), (2, 1, 7)])
    page.read(1, epoch=2, commit=7)
    assert page.fault() == ""
    page.write(2, 9, epoch=2, commit=9)
    page.read(1, epoch=2, commit=9)
    assert page.fault()


def test_a_term_begins_with_one_value(page: Page) -> None:
    page.write(1, 5)
    page.survival.opened(B, [(1, 1, 1), (2, 1, 7)])
    page.read(1, epoch=2, commit=7)
    page.read(0, epoch=2, commit=7)
    assert "value 0 was read, and 1 was acknowledged after it" in page.fault()


def test_a_write_nobody_heard_of_may_have_come_last(page: Page) -> None:
    page.begin(1, A)
    page.write(2, 5)
    page.survival.opened(B, [(1, 1, 1), (2, 1, 7)])
    page.read(1, epoch=2, commit=7)
    assert page.fault() == ""


def test_it_did_not_when_nobody_could_log_it_any_more(page: Page) -> None:
    """Sent to a in term 1; in term 2 b answered a write of the same page. It shows in term 3."""
    page.begin(1, A)
    page.survival.opened(B, [(1, 1, 1), (2, 1, 7)])
    page.write(2, 9, epoch=2, commit=9)
    survival = page.survival
    survival.opened(NodeId("c"), [(1, 1, 1), (2, 1, 7), (3, 1, 12)])
    page.read(1, epoch=3, commit=12)
    assert "can have been logged in term 1.1 at the latest" in page.fault()


def test_an_attempt_that_takes_effect_late_is_seen(page: Page) -> None:
    """1 is sent twice and answered once; 2 replaces it, and then the other attempt of 1."""
    page.write(1, 5)
    page.write(2, 6)
    page.read(2)
    page.survival.opened(B, [(1, 1, 1), (2, 1, 7)])
    page.history.tried(1, B)
    page.read(2, epoch=2, commit=7)
    page.read(1, epoch=2, commit=7)
    assert page.fault()


def test_what_was_committed_never_becomes_unwritten_again(page: Page) -> None:
    assert not page.history.settled
    page.write(1, 5, commit=3)
    assert not page.history.settled
    page.read(1, commit=5)
    assert page.history.settled

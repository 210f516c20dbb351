"""The judge judged: a ledger finds each kind of fault, and none where there is none."""

from __future__ import annotations

import pytest

from tests.support.ledger import PAGE_BYTES, Ledger
from tests.support.traffic import percentile

ZEROS = bytes(PAGE_BYTES)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(1)


def read(ledger: Ledger, data: bytes, *, at_rest: bool = True) -> list[str]:
    basis = ledger.begin_read(0, 1)
    return [fault.kind for fault in ledger.check(basis, data, at_rest=at_rest)]


def test_an_unacknowledged_write_may_be_there_or_not(ledger: Ledger) -> None:
    _, data = ledger.begin_write(0, 1)
    assert read(ledger, ZEROS) == []
    assert read(ledger, data) == []


def test_a_write_that_was_read_may_not_vanish(ledger: Ledger) -> None:
    _, data = ledger.begin_write(0, 1)
    assert read(ledger, data) == []
    assert read(ledger, ZEROS) == ["stale"]


def test_an_acknowledged_write_that_is_gone_is_lost(ledger: Ledger) -> None:
    first, older = ledger.begin_write(0, 1)
    ledger.acknowledge(first)
    second, newer = ledger.begin_write(0, 1)
    ledger.acknowledge(second)
    assert read(ledger, newer) == []
    assert read(ledger, older) == ["lost"]
    assert read(ledger, ZEROS) == ["lost"]
    assert ledger.count("lost") == 2


def test_an_old_answer_while_writes_go_on_is_stale(ledger: Ledger) -> None:
    version, _ = ledger.begin_write(0, 1)
    ledger.acknowledge(version)
    assert read(ledger, ZEROS, at_rest=False) == ["stale"]


def test_a_read_sent_before_the_acknowledgement_may_miss_the_write(ledger: Ledger) -> None:
    version, _ = ledger.begin_write(0, 1)
    basis = ledger.begin_read(0, 1)
    ledger.acknowledge(version)
    assert ledger.check(basis, ZEROS) == []


def test_pages_that_nobody_wrote_there_are_lost(ledger: Ledger) -> None:
    _, data = ledger.begin_write(0, 2)
    assert read(ledger, data[PAGE_BYTES:]) == ["lost"], "the next page's content"
    assert read(ledger, Ledger(2).content(0, 1)) == ["lost"], "another ledger's"
    assert read(ledger, ledger.content(0, 7)) == ["lost"], "a version never sent"
    damaged = bytearray(data[:PAGE_BYTES])
    damaged[2000] ^= 1
    assert read(ledger, bytes(damaged)) == ["lost"], "a flipped bit"


def test_everything_written_is_listed_once(ledger: Ledger) -> None:
    for page, pages in ((5, 2), (6, 3), (20, 1), (0, 1)):
        ledger.begin_write(page, pages)
    assert list(ledger.extents(3)) == [(0, 1), (5, 3), (8, 1), (20, 1)]


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile(list(range(1, 101)), 0.99) == 99
    assert percentile([], 0.5) == 0

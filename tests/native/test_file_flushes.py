"""What a flush of a file counts for: one at a time, shared by who waits, and none after one that failed."""

from __future__ import annotations

import errno

import pytest

from sparrow._native.extent.testbed import SyncBed

EIO = -errno.EIO


def test_a_flush_ends_for_who_asked_for_it() -> None:
    bed = SyncBed()
    bed.ask(0)
    assert bed.result(0) is None
    bed.ended()
    assert (bed.result(0), bed.busy) == (0, False)


def test_who_comes_during_a_flush_shares_the_next() -> None:
    bed = SyncBed()
    bed.ask(0)
    for who in (1, 2, 3):
        bed.ask(who)
    assert bed.flushes == 1
    bed.ended()
    assert [bed.result(who) for who in range(4)] == [0, None, None, None]
    bed.ended()
    assert [bed.result(who) for who in range(4)] == [0, 0, 0, 0]
    assert (bed.flushes, bed.busy) == (2, False)


def test_a_flush_that_fails_fails_for_who_waits_for_the_next_and_for_who_comes_later() -> None:
    bed = SyncBed()
    bed.ask(0)
    bed.ask(1)
    bed.ended(EIO)
    bed.ask(2)
    assert [bed.result(who) for who in range(3)] == [EIO, EIO, EIO]
    assert (bed.flushes, bed.busy) == (1, False)


@pytest.mark.parametrize("good", [1, 2])
def test_what_was_told_before_a_failure_stays(good: int) -> None:
    bed = SyncBed()
    for who in range(good):
        bed.ask(who)
        bed.ended()
    bed.ask(good)
    bed.ended(EIO)
    assert [bed.result(who) for who in range(good + 1)] == [0] * good + [EIO]

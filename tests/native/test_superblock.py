"""Updates of the superblock: one copy after the other, one update after the other, none once a replica is condemned."""

from __future__ import annotations

import errno

from sparrow._native.wal.testbed import SuperblockBed

EIO = -errno.EIO


def test_who_asks_is_told_when_both_copies_say_so() -> None:
    bed = SuperblockBed()
    bed.ask(0, cursor=64)
    assert bed.writing == (0, 64)
    bed.written()
    assert (bed.writing, bed.result(0)) == ((1, 64), None)
    bed.written()
    assert (bed.writing, bed.result(0)) == (None, 0)


def test_whom_one_copy_is_enough_is_told_when_the_first_of_his_update_says_so() -> None:
    bed = SuperblockBed()
    bed.ask(0, cursor=64, first=True)
    assert (bed.writing, bed.result(0)) == ((0, 64), None)
    bed.written()
    assert (bed.writing, bed.result(0)) == ((1, 64), 0)
    bed.ask(1, cursor=128, first=True)
    bed.written()
    assert (bed.writing, bed.result(1)) == ((0, 128), None)
    bed.written()
    assert (bed.writing, bed.result(1)) == ((1, 128), 0)


def test_whom_one_copy_is_enough_waits_for_the_update_that_is_begun_as_the_one_before_ends() -> (
    None
):
    """Whoever is told that both copies hold one update asks for the next at once."""
    bed = SuperblockBed()
    bed.ask(0, cursor=64, then=1)
    bed.written()
    bed.written()
    assert (bed.result(0), bed.result(1), bed.writing) == (0, None, (0, 64))
    bed.written()
    assert (bed.writing, bed.result(1)) == ((1, 64), 0)


def test_what_comes_during_an_update_is_one_update_behind_it() -> None:
    """The copies of one update are the same, whatever changed in memory meanwhile."""
    bed = SuperblockBed()
    bed.ask(0, cursor=64)
    bed.ask(1, cursor=128)
    bed.written()
    bed.ask(2, cursor=192)
    assert bed.writing == (1, 64)
    bed.written()
    assert [bed.result(who) for who in (0, 1, 2)] == [0, None, None]
    assert bed.writing == (0, 192)
    bed.written()
    bed.written()
    assert [bed.result(who) for who in (1, 2)] == [0, 0]
    assert bed.copies == 4


def test_a_condemned_replica_writes_no_superblock_any_more() -> None:
    """A mark of a copy whose flush ends after another's has failed: what it claims may not be on the disk."""
    bed = SuperblockBed()
    bed.condemn()
    bed.ask(0, cursor=64)
    assert (bed.writing, bed.copies, bed.result(0)) == (None, 0, EIO)


def test_who_waits_behind_an_update_during_which_the_replica_is_condemned_is_told_of_a_failure() -> (
    None
):
    """A promise that waits behind the mark of a copy is in neither file, so it is not given."""
    bed = SuperblockBed()
    bed.ask(0, cursor=64)
    bed.ask(1, cursor=128)
    bed.ask(2, cursor=128, first=True)
    bed.condemn()
    bed.written()
    bed.written()
    assert (bed.result(0), bed.result(1), bed.result(2)) == (0, EIO, EIO)
    assert (bed.writing, bed.copies) == (None, 2)

"""When a batch counts as durable: by a write that flushes, or by a flush submitted after its write had completed."""

from __future__ import annotations

import errno

from sparrow._native.wal.testbed import DurableBed

EIO = -errno.EIO


def test_few_writes_flush_by_themselves() -> None:
    bed = DurableBed(share_from=3)
    assert [bed.write(0), bed.write(1, volume=1)] == ["dsync", "dsync"]
    bed.written(1)
    assert (bed.result(0), bed.result(1)) == (None, 4096)
    assert bed.flushing is None


def test_zero_never_shares() -> None:
    bed = DurableBed(share_from=0)
    assert {bed.write(batch, volume=batch % 4) for batch in range(32)} == {"dsync"}


def test_from_the_threshold_on_a_write_waits_for_a_flush() -> None:
    bed = DurableBed(share_from=2)
    assert [bed.write(0), bed.write(1, volume=1)] == ["dsync", "plain"]
    bed.written(1)
    assert bed.flushing == 1
    assert bed.result(1) is None
    bed.flushed()
    assert bed.result(1) == 4096


def test_one_flush_serves_the_logs_of_all_volumes() -> None:
    bed = DurableBed(share_from=1)
    for batch in range(4):
        bed.write(batch, volume=batch)
    bed.written(0)
    for batch in (1, 2, 3):
        bed.written(batch)
    bed.flushed()
    assert [bed.result(batch) for batch in range(4)] == [4096, None, None, None]
    assert bed.flushing is not None
    bed.flushed()
    assert [bed.result(batch) for batch in range(4)] == [4096] * 4
    assert bed.flushing is None


def test_a_file_that_nobody_writes_is_flushed_instead_of_a_log() -> None:
    bed = DurableBed(share_from=1, flush_fd=9)
    bed.write(0, volume=3)
    bed.written(0)
    assert bed.flushing == 9
    bed.flushed()
    assert bed.result(0) == 4096


def test_a_log_that_no_shared_flush_reaches_flushes_by_its_own_writes() -> None:
    bed = DurableBed(share_from=1, apart=2)
    assert [bed.write(volume, volume=volume) for volume in (1, 2, 3)] == ["plain", "dsync", "plain"]
    bed.written(2)
    assert bed.result(2) == 4096
    assert bed.flushing is None


def test_a_write_that_completes_during_a_flush_is_not_covered_by_it() -> None:
    bed = DurableBed(share_from=1)
    bed.write(0)
    bed.write(1, volume=1)
    bed.written(0)
    bed.written(1)
    bed.flushed()
    assert bed.result(0) == 4096
    assert bed.result(1) is None, "the flush was submitted before this write had completed"


def test_a_failed_flush_fails_everyone_who_may_have_lost_something() -> None:
    bed = DurableBed(share_from=1)
    for batch in range(3):
        bed.write(batch, volume=batch)
    bed.written(0)
    bed.written(1)
    bed.flushed(EIO)
    assert (bed.result(0), bed.result(1)) == (EIO, EIO)
    assert bed.flushing is None
    bed.written(2)
    bed.flushed()
    assert bed.result(2) == 4096, "written after the failure, it has a flush of its own"


def test_a_write_that_failed_waits_for_no_flush() -> None:
    bed = DurableBed(share_from=1)
    bed.write(0)
    bed.written(0, EIO)
    assert bed.result(0) == EIO
    assert bed.flushing is None


def test_a_short_write_is_told_as_it_was() -> None:
    bed = DurableBed(share_from=1)
    bed.write(0)
    bed.written(0, 512)
    bed.flushed()
    assert bed.result(0) == 512


def test_sharing_ends_when_half_of_the_threshold_is_left() -> None:
    bed = DurableBed(share_from=4)
    kinds = [bed.write(batch) for batch in range(4)]
    assert kinds == ["dsync", "dsync", "dsync", "plain"]
    bed.written(0)
    assert bed.write(4) == "plain"
    bed.written(1)
    bed.written(2)
    # Batches 3 and 4 are under way.
    assert bed.write(5) == "plain"
    for batch in (3, 4, 5):
        bed.written(batch)
    bed.flushed()
    bed.flushed()
    assert bed.write(6) == "dsync"

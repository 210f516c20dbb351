"""L10: the last copy whose disk fails, on the compiled core; see ``test_core_schedules``.

One flush of its extents ends with EIO: of what was to be written some is on the disk, and what is not is gone when the
machine stops. With another copy that would be the end of this one; without any it is frozen.
"""

from __future__ import annotations

import errno

from tests.support.compiled import SECOND_NS, CompiledStage, compiled_stage
from tests.support.stage import V

#: The flusher goes about its work once a second.
FLUSHED_S = 4.0
ALL_FAIL = 1_000_000


def a_flush_fails(s: CompiledStage, *, told_s: float = 0.001) -> None:
    """Of a's extents, the next one; a hears of it so much later."""
    extents = s.files(s.a).extents_fd
    s.cluster.room.fail_flush(extents, int(told_s * SECOND_NS))
    s.until(lambda: s.cluster.room.flush_failed(extents), seconds=FLUSHED_S, look_s=told_s / 2)


def refused(s: CompiledStage, page: int) -> int:
    """A write on a ends with an error, at once: with which one."""
    _value, answer = s.write(s.a, page)
    s.turn(s.a)
    assert answer.done()
    return answer.result().rc


def test_l10_a_page_that_cannot_be_read_takes_nothing_away() -> None:
    """One replica, and its disk gives nothing for a while: one read fails, later ones and all writes do not.

    Rule: what cannot be read is that page's fault; it says nothing of the replica.
    """
    with compiled_stage(1, 1) as s:
        s.client.quiet = True
        s.run(0.5)
        values = {page: s.written(s.a, page) for page in range(4)}
        s.until(lambda: s.look(s.a).applied == s.look(s.a).commit)
        s.cluster.room.faults(s.host(s.a), eio_read=ALL_FAIL)
        answer = s.client.read(s.plane(s.a), 0, 1)
        assert answer is not None
        s.until(answer.done)
        assert answer.result().rc == -errno.EIO
        values[1] = s.written(s.a, 1)
        s.works_again(s.a)
        assert {page: s.last_read(s.a, page) for page in values} == values
        assert not s.status(s.a).disk_failed
        s.ends_well()


def test_l10_the_only_copy_is_read_when_its_disk_has_failed() -> None:
    """One replica; what was acknowledged, applied or not, is there, before and after the machine is switched off.

    Rule: extents that fail freeze the last copy: no more writes but those in the log, nothing applied any more, and
    every read as ever.
    """
    with compiled_stage(1, 1) as s:
        s.client.quiet = True
        s.run(0.5)
        values = {page: s.written(s.a, page) for page in range(4)}
        s.until(lambda: s.look(s.a).applied == s.look(s.a).commit)
        values |= {page: s.written(s.a, page) for page in (2, 3, 128, 129)}
        a_flush_fails(s, told_s=0.3)
        # Logged when the disk has failed, before anybody knows.
        values[4] = s.written(s.a, 4)
        s.slow_disk(s.a, 2.0)
        values[130], answer = s.write(s.a, 130)
        s.until(lambda: s.status(s.a).frozen, seconds=1)
        assert not answer.done()
        s.works_again(s.a)
        applied = s.look(s.a).applied
        assert refused(s, 0) == -errno.EIO
        s.until(answer.done)
        assert answer.result().rc == 0
        s.run(3)
        assert s.serves(s.a)
        assert s.look(s.a).applied == applied
        assert s.heard("replica.frozen", volume=V) == 1
        assert {page: s.last_read(s.a, page) for page in values} == values
        # Nothing of the failed round counts as applied.
        s.lose_power(s.a)
        s.world.start_node(s.a)
        s.until(lambda: s.serves(s.a), seconds=30)
        assert {page: s.last_read(s.a, page) for page in values} == values
        s.ends_well()


def test_l10_the_last_copy_feeds_the_one_that_takes_over() -> None:
    """b is away when a's disk fails; it comes back, is fed by the frozen a, and leads without anybody's word.

    Rule: as above, and a fence of its successor ends the frozen one like any failed replica.
    """
    with compiled_stage(2, 1) as s:
        s.to_one()
        s.client.quiet = True
        s.run(0.5)
        values = {page: s.written(s.a, page) for page in range(4)}
        a_flush_fails(s)
        s.run(0.1)
        assert refused(s, 0) == -errno.EIO
        s.world.start_node(s.b)
        s.until(lambda: s.serves(s.b), seconds=30)
        assert not s.serves(s.a)
        s.until(lambda: s.in_sync == {s.b}, seconds=5)
        assert {page: s.last_read(s.b, page) for page in values} == values
        s.written(s.b, 0)
        s.world.wipe_node(s.a)
        s.ends_well()


def test_l10_a_failed_log_stops_the_last_copy_too() -> None:
    """One replica whose disk takes nothing any more: a write is under way, and what comes later finds no replica.

    Rule: the log is what an acknowledgement means, so its failure is the end of the process's replica, the last or not.
    """
    with compiled_stage(1, 1) as s:
        s.client.quiet = True
        s.run(3)
        value = s.written(s.a, 0)
        s.cluster.room.faults(s.host(s.a), eio_write=ALL_FAIL)
        under_way, answer = s.write(s.a, 0)
        s.until(answer.done)
        assert answer.result().rc == -errno.EIO
        assert not s.serves(s.a)
        assert not s.status(s.a).frozen
        s.world.kill_node(s.a)
        s.works_again(s.a)
        s.world.start_node(s.a)
        s.until(lambda: s.serves(s.a), seconds=30)
        assert s.last_read(s.a, 0) in (value, under_way)
        s.ends_well()


def test_l10_a_copy_that_is_not_the_last_one_stops() -> None:
    """The same disk, and b is in sync: a's clients are sent to b, which serves within seconds.

    Rule: only a primary whose commits need nobody else is frozen; clients of any other hear of no failed disk.
    """
    with compiled_stage(2, 1) as s:
        s.client.quiet = True
        s.run(0.5)
        value = s.written(s.a, 0)
        a_flush_fails(s)
        s.run(0.002)
        assert refused(s, 0) == -errno.ESTALE
        s.until(lambda: s.serves(s.b), seconds=5)
        assert s.last_read(s.b, 0) == value
        s.written(s.b, 0)
        s.world.wipe_node(s.a)
        s.ends_well()

"""Commands of NVMe/TCP I/O queues that are taken back, by their host or by who preempted it."""

from __future__ import annotations

from typing import Final

import pytest

from tests.support.front_bed import HOLD_FREE, HOLD_LOGGED, HOLD_NOT, HOLD_READING, Bed, pattern
from tests.support.needs import needs_io_uring
from tests.support.nvme_bed import (
    COMPARE,
    DATASET,
    FLUSH,
    FUSE_FIRST,
    FUSE_SECOND,
    IN_CAPSULE,
    R2T,
    READ,
    VERIFY,
    WRITE,
    WRITE_ZEROES,
    Host,
    dataset,
    sqe,
)

pytestmark = needs_io_uring()

ABORT_REQUESTED: Final = 0x07
PREEMPTED: Final = 0x1B


def begun(host: Host, opcode: int) -> int:
    """A command to the first eight blocks, with all that belongs to it; its identifier."""
    if opcode == DATASET:
        cid = host.take_cid()
        host.capsule(*dataset(cid, [(0, 8)]))
    elif opcode == WRITE:
        cid = host.take_cid()
        host.capsule(sqe(WRITE, cid, blocks=8, length=4096, sgl=IN_CAPSULE), bytes(4096))
    else:
        cid = host.start(opcode, blocks=8, length=4096 if opcode == READ else 0)
    return cid


def aborted(bed: Bed, host: Host, cid: int) -> bool:
    bed.core.abort(host.key, cid)
    return bool(bed.wait("aborted")[1])


@pytest.mark.parametrize("opcode", [READ, WRITE, FLUSH, WRITE_ZEROES, DATASET, VERIFY])
def test_a_command_without_an_lsn_is_taken_back(bed: Bed, host: Host, opcode: int) -> None:
    host.write(0, pattern(4096))
    before = bed.counts()[2]
    bed.core.hold(HOLD_FREE)
    cid = begun(host, opcode)
    bed.wait_requests(before + 1)
    assert aborted(bed, host, cid)
    assert host.finish(cid).status == ABORT_REQUESTED
    assert not aborted(bed, host, cid), "it has ended"
    bed.core.hold(HOLD_NOT)
    bed.core.release()
    assert host.read(0, 8).data == pattern(4096), "and nothing of it was done"


@pytest.mark.parametrize("opcode", [READ, WRITE, FLUSH, WRITE_ZEROES, DATASET, VERIFY])
def test_who_was_preempted_loses_its_commands(bed: Bed, host: Host, opcode: int) -> None:
    host.write(0, pattern(4096))
    before = bed.counts()[2]
    bed.core.hold(HOLD_FREE)
    cid = begun(host, opcode)
    bed.wait_requests(before + 1)
    bed.core.preempt(host.key)
    assert host.finish(cid).status == PREEMPTED
    bed.core.hold(HOLD_NOT)
    bed.core.release()
    assert host.read(0, 8).data == pattern(4096), "and nothing of it was done"


def test_who_was_preempted_loses_what_waits_for_its_data(bed: Bed, host: Host) -> None:
    """What is on its way finds its command, which is over by then."""
    cid = host.start(WRITE, blocks=16, length=8192)
    asked = host.receive()
    assert asked.kind == R2T
    bed.core.preempt(host.key)
    host.send_data(asked, pattern(8192))
    assert host.finish(cid).status == PREEMPTED
    assert host.read(0, 16).data == bytes(8192)


@pytest.mark.parametrize("opcode", [READ, COMPARE, VERIFY])
def test_who_was_preempted_gets_nothing_of_what_was_being_read(
    bed: Bed, host: Host, opcode: int
) -> None:
    """The disk has been asked already, and answers later, with the data."""
    host.write(0, pattern(4096))
    before = bed.counts()[2]
    bed.core.hold(HOLD_READING)
    if opcode == COMPARE:
        cid = host.take_cid()
        host.capsule(sqe(COMPARE, cid, blocks=8, length=4096, sgl=IN_CAPSULE), pattern(4096))
    else:
        cid = host.start(opcode, blocks=8, length=4096 if opcode == READ else 0)
    bed.wait_requests(before + 1)
    bed.core.preempt(host.key)
    bed.core.hold(HOLD_NOT)
    bed.core.release()
    result = host.finish(cid)
    assert (result.status, result.data) == (PREEMPTED, b"")
    assert host.read(0, 8).data == pattern(4096), "its queue goes on"
    assert bed.free_pages() == bed.pages_at_start


def test_who_was_preempted_keeps_what_is_in_the_log(bed: Bed, host: Host) -> None:
    bed.core.hold(HOLD_LOGGED)
    cid = host.take_cid()
    host.capsule(sqe(WRITE, cid, blocks=8, length=4096, sgl=IN_CAPSULE), pattern(4096))
    bed.wait_requests(1)
    bed.core.preempt(host.key)
    bed.core.release()
    assert host.finish(cid).status == 0
    bed.core.hold(HOLD_NOT)
    assert host.read(0, 8).data == pattern(4096)


def test_a_command_in_the_log_ends_as_it_would_have(bed: Bed, host: Host) -> None:
    bed.core.hold(HOLD_LOGGED)
    cid = host.take_cid()
    entry = sqe(WRITE, cid, blocks=8, length=4096, sgl=IN_CAPSULE)
    host.capsule(entry, pattern(4096))
    bed.wait_requests(1)
    assert not aborted(bed, host, cid)
    bed.core.release()
    assert host.finish(cid).status == 0
    bed.core.hold(HOLD_NOT)
    assert host.read(0, 8).data == pattern(4096)


def test_an_abort_of_what_is_not_there_or_waits_for_data_says_so(bed: Bed, host: Host) -> None:
    assert not aborted(bed, host, 77)
    cid = host.start(WRITE, blocks=16, length=8192)
    asked = host.receive()
    assert asked.kind == R2T
    assert not aborted(bed, host, cid), "its data is on the way and must find it"
    host.send_data(asked, pattern(8192))
    assert host.finish(cid).status == 0
    bed.core.abort(host.key + 1, cid)
    assert bed.wait("aborted") == ("aborted", 0), "no such queue"


def test_halves_of_a_fused_pair_are_not_taken_back_alone(bed: Bed, host: Host) -> None:
    bed.core.hold(HOLD_FREE)
    first, second = host.take_cid(), host.take_cid()
    for cid, opcode, fuse in ((first, COMPARE, FUSE_FIRST), (second, WRITE, FUSE_SECOND)):
        entry = sqe(opcode, cid, blocks=8, length=4096, sgl=IN_CAPSULE, flags=fuse)
        host.capsule(entry, bytes(4096))
    bed.wait_requests(1)
    assert not aborted(bed, host, first)
    assert not aborted(bed, host, second)
    bed.core.hold(HOLD_NOT)
    bed.core.release()
    assert {pdu.cid: pdu.status for pdu in (host.receive(), host.receive())} == {
        first: 0,
        second: 0,
    }

"""Commands of NVMe/TCP I/O queues in the core: zeroes, hints, compare, fused pairs, refusals, the gate."""

from __future__ import annotations

import random

import pytest

from tests.support.front_bed import HOLD_FREE, HOLD_LOGGED, HOLD_NOT, Bed, pattern
from tests.support.needs import needs_io_uring
from tests.support.nvme_bed import (
    ATOMIC,
    C2H_DATA,
    CAPSULE_CMD,
    COMPARE,
    CONFLICT,
    DNR,
    FABRICS,
    FIELD,
    FLUSH,
    FUSE_FIRST,
    FUSE_SECOND,
    FUSED_FAILED,
    FUSED_MISSING,
    IN_CAPSULE,
    INACCESSIBLE,
    INTERRUPTED,
    NAMESPACE,
    OPCODE,
    R2T,
    READ,
    SGL,
    SGL_LENGTH,
    SGL_OFFSET,
    SGL_TYPE,
    TRANSIENT,
    TRANSITION,
    TRANSPORT,
    VERIFY,
    WRITE,
    WRITE_ZEROES,
    Host,
    dataset,
    sqe,
)
from tests.support.nvme_pdus import CAPSULE_RESP, Pdu

pytestmark = needs_io_uring()

RANGE, CAPACITY, INTERNAL, READ_ERROR, COMPARE_FAILURE = 0x80, 0x81, 6, 0x281, 0x285


def test_write_zeroes_and_deallocate_leave_zeros(bed: Bed, host: Host) -> None:
    expected = bytearray(pattern(4 << 20))
    bed.core.fill(0, bytes(expected))
    assert host.finish(host.start(WRITE_ZEROES, lba=3, blocks=2000, sgl=TRANSPORT)).status == 0
    expected[3 * 512 : 2003 * 512] = bytes(2000 * 512)
    assert bed.core.memory(0, 4 << 20) == bytes(expected)
    for length in (0, 4096):
        entry, rows = dataset(9, [(2500, 1), (3001, 30), (4096, 512)], length=length)
        host.capsule(entry, rows)
        assert host.finish(9).status == 0
    for lba, blocks in [(2500, 1), (3001, 30), (4096, 512)]:
        expected[lba * 512 : (lba + blocks) * 512] = bytes(blocks * 512)
    assert bed.core.memory(0, 4 << 20) == bytes(expected)


def test_ranges_that_are_hints_change_nothing(bed: Bed, host: Host) -> None:
    bed.core.fill(0, pattern(8192))
    entry, rows = dataset(9, [(0, 8)], ad=0)
    host.capsule(entry, rows)
    assert host.finish(9).status == 0
    assert bed.core.memory(0, 8192) == pattern(8192)


def test_one_range_beyond_the_end_deallocates_nothing(bed: Bed, host: Host) -> None:
    bed.core.fill(0, pattern(8192))
    entry, rows = dataset(9, [(0, 8), (8190, 3)])
    host.capsule(entry, rows)
    assert host.finish(9).status == RANGE | DNR
    assert bed.core.memory(0, 8192) == pattern(8192)


def test_compare_tells_equal_from_different(bed: Bed, host: Host) -> None:
    data = pattern(65536)
    bed.core.fill(0, data)
    assert host.with_data(COMPARE, 3, data[1536 : 1536 + 40960]).status == 0
    wrong = bytearray(data[1536 : 1536 + 40960])
    wrong[-1] ^= 1
    assert host.with_data(COMPARE, 3, bytes(wrong)).status == COMPARE_FAILURE | DNR
    assert host.with_data(COMPARE, 0, data[:4096], in_capsule=True).status == 0


def test_verify_reads_and_sends_nothing(bed: Bed, host: Host) -> None:
    result = host.finish(host.start(VERIFY, lba=1, blocks=5000))
    assert (result.status, result.data) == (0, b"")
    bed.core.fail_with(-5)
    assert host.finish(host.start(VERIFY, lba=1, blocks=8)).status == READ_ERROR


def fused(host: Host, lba: int, old: bytes, new: bytes, *, in_capsule: bool = True) -> list[Pdu]:
    """Send a pair, serve it, give its two responses."""
    sgl = IN_CAPSULE if in_capsule else TRANSPORT
    blocks = len(old) // 512
    first, second = host.take_cid(), host.take_cid()
    host.capsule(
        sqe(COMPARE, first, lba=lba, blocks=blocks, length=len(old), sgl=sgl, flags=FUSE_FIRST),
        old if in_capsule else b"",
    )
    host.capsule(
        sqe(WRITE, second, lba=lba, blocks=blocks, length=len(new), sgl=sgl, flags=FUSE_SECOND),
        new if in_capsule else b"",
    )
    answers: list[Pdu] = []
    while len(answers) < 2:
        pdu = host.receive()
        if pdu.kind == R2T:
            host.send_data(pdu, old if pdu.cid == first else new)
        else:
            answers.append(pdu)
    assert [pdu.cid for pdu in answers] == [first, second]
    return answers


@pytest.mark.parametrize("in_capsule", [True, False])
@pytest.mark.parametrize(("lba", "length"), [(0, 512), (8, 4096), (5, 4096)])
def test_a_fused_pair_writes_only_over_what_it_expects(
    bed: Bed, host: Host, in_capsule: bool, lba: int, length: int
) -> None:
    old, new = pattern(length), random.Random(1).randbytes(length)
    bed.core.fill(0, bytes(lba * 512) + old)
    answers = fused(host, lba, old, new, in_capsule=in_capsule)
    assert [pdu.status for pdu in answers] == [0, 0]
    assert bed.core.memory(lba * 512, length) == new
    answers = fused(host, lba, old, old, in_capsule=in_capsule)
    assert [pdu.status for pdu in answers] == [COMPARE_FAILURE | DNR, FUSED_FAILED | DNR]
    assert bed.core.memory(lba * 512, length) == new


def test_a_half_without_the_other_is_refused(bed: Bed, host: Host) -> None:
    host.capsule(sqe(COMPARE, 1, length=512, sgl=IN_CAPSULE, flags=FUSE_FIRST), bytes(512))
    host.capsule(sqe(READ, 2, length=512))
    answers = [host.receive() for _ in range(3)]
    assert [(pdu.cid, pdu.kind) for pdu in answers] == [
        (1, CAPSULE_RESP),
        (2, C2H_DATA),
        (2, CAPSULE_RESP),
    ]
    assert answers[0].status == FUSED_MISSING | DNR
    host.capsule(sqe(WRITE, 3, length=512, sgl=IN_CAPSULE, flags=FUSE_SECOND), bytes(512))
    assert host.finish(3).status == FUSED_MISSING | DNR
    # One that waits for its data is answered when that is here.
    host.capsule(sqe(COMPARE, 4, length=512, flags=FUSE_FIRST))
    r2t = host.receive()
    assert r2t.kind == R2T
    assert host.finish(host.start(FLUSH)).status == 0
    host.send_data(r2t, bytes(512))
    assert host.finish(4).status == FUSED_MISSING | DNR


def test_halves_that_do_not_fit_write_nothing(bed: Bed, host: Host) -> None:
    host.capsule(sqe(COMPARE, 1, length=512, sgl=IN_CAPSULE, flags=FUSE_FIRST), bytes(512))
    host.capsule(sqe(WRITE, 2, lba=1, length=512, sgl=IN_CAPSULE, flags=FUSE_SECOND), pattern(512))
    answers = [host.receive(), host.receive()]
    assert [pdu.status for pdu in answers] == [FUSED_FAILED | DNR, FIELD | DNR]
    answers = fused(host, 0, bytes(8192), bytes(8192))
    assert [pdu.status for pdu in answers] == [ATOMIC | DNR, FUSED_FAILED | DNR]
    assert bed.core.memory(0, 8192) == bytes(8192)


def test_each_refusal_has_its_status(bed: Bed, host: Host) -> None:
    def status(opcode: int, **fields: int) -> int:
        return host.finish(host.start(opcode, **fields)).status

    assert status(0x7E) == OPCODE | DNR
    assert status(READ, length=512, nsid=2) == NAMESPACE | DNR
    assert status(FLUSH, nsid=0xFFFFFFFF) == 0
    assert status(FLUSH, nsid=3) == NAMESPACE | DNR
    assert status(READ, length=512, flags=0) == FIELD | DNR
    assert status(READ, length=512, flags=SGL | 3) == FIELD | DNR
    assert status(READ, length=512, flags=FUSE_FIRST) == FIELD | DNR
    assert status(READ, lba=8192, length=512) == RANGE | DNR
    assert status(READ, lba=8191, blocks=2, length=1024) == RANGE | DNR
    assert status(READ, lba=1 << 63, length=512) == RANGE | DNR
    assert status(READ, blocks=1025, length=1025 * 512) == FIELD | DNR
    assert status(READ, length=1024) == SGL_LENGTH | DNR
    assert status(READ, length=512, sgl=0x00) == SGL_TYPE | DNR
    assert status(READ, length=512, sgl=IN_CAPSULE) == SGL_TYPE | DNR
    assert status(WRITE, length=512, sgl=IN_CAPSULE) == SGL_LENGTH | DNR
    assert status(WRITE, length=512, sgl=IN_CAPSULE, address=4) == SGL_OFFSET | DNR
    assert status(WRITE_ZEROES, lba=8000, blocks=193) == RANGE | DNR
    assert status(FABRICS) == OPCODE | DNR
    assert host.read(0, 8).status == 0, "and the queue goes on"


def test_failures_of_the_volume_have_their_status(bed: Bed, host: Host) -> None:
    for errno, opcode, expected in [
        (28, WRITE, CAPACITY),
        (5, READ, READ_ERROR),
        (5, WRITE, INTERNAL | DNR),
        (22, READ, RANGE | DNR),
        (12, READ, INTERRUPTED),
        (116, READ, TRANSITION),
        (116, WRITE, TRANSITION),
    ]:
        bed.core.fail_with(-errno)
        result = host.write(0, bytes(512)) if opcode == WRITE else host.read(0, 1)
        assert result.status == expected
    bed.core.promise(10_000_000_000)
    bed.core.fail_with(-116)
    assert host.write(0, bytes(512)).status == INACCESSIBLE


def test_an_identifier_in_use_is_refused(bed: Bed, host: Host) -> None:
    bed.core.hold(HOLD_FREE)
    host.capsule(sqe(READ, 5, length=512))
    host.capsule(sqe(READ, 5, length=512))
    assert host.finish(5).status == CONFLICT | DNR
    bed.core.release()
    assert host.finish(5).status == 0


def test_a_wrong_data_digest_is_that_command_alone(bed: Bed) -> None:
    host = Host.connect(bed, data_digest=True)
    raw = bytearray(host.pdu(CAPSULE_CMD, sqe(WRITE, 3, length=512, sgl=IN_CAPSULE), pattern(512)))
    raw[-1] ^= 1
    host.send(bytes(raw))
    assert host.finish(3).status == TRANSIENT
    assert bed.core.memory(0, 512) == bytes(512)
    assert host.write(0, pattern(512)).status == 0


def test_a_closed_gate_gives_neither_data_nor_success(bed: Bed, host: Host) -> None:
    bed.core.fill(0, pattern(4096))
    bed.core.set_gate(False)
    result = host.read(0, 8)
    assert (result.status, result.data) == (TRANSITION, b"")
    assert host.write(0, bytes(512)).status == TRANSITION
    assert host.finish(host.start(FLUSH)).status == TRANSITION
    bed.core.promise(10_000_000_000)
    assert host.read(0, 8).status == INACCESSIBLE


def test_a_gate_that_closes_before_the_answer_stops_it(bed: Bed, host: Host) -> None:
    bed.core.hold(HOLD_LOGGED)
    cid = host.start(READ, blocks=8, length=4096)
    bed.wait_requests(1)
    bed.core.set_gate(False)
    bed.core.hold(HOLD_NOT)
    bed.core.release()
    result = host.finish(cid)
    assert (result.status, result.data) == (TRANSITION, b"")


@pytest.mark.parametrize("rc", [0, -5, -12, -116])
def test_a_command_is_given_to_the_volume_once(bed: Bed, host: Host, rc: int) -> None:
    """Also one that fails: to try again is the host's decision."""
    bed.core.fail_with(rc)
    for number in range(1, 4):
        done = host.write(0, pattern(4096)) if number == 2 else host.read(0, 8)
        assert (done.status == 0) == (rc == 0)
        assert bed.counts()[2] == number

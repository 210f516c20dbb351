"""NVMe/TCP I/O queues in the core, over a socket pair against a volume in memory."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Iterator
from typing import Final

import pytest

from tests.support.front_bed import (
    ASKED,
    CLOSED,
    DIGEST,
    HOLD_FREE,
    HOLD_LOGGED,
    HOLD_NOT,
    HOLD_READING,
    LOGOUT_CAUSE,
    PROTOCOL,
    VOLUME,
    Bed,
    pattern,
)
from tests.support.needs import needs_io_uring
from tests.support.nvme_bed import (
    C2H_DATA,
    C2H_TERM,
    CAPSULE_CMD,
    CAPSULE_RESP,
    COMPARE,
    DATASET,
    DDGST,
    DISCONNECT,
    DNR,
    FABRICS,
    FLUSH,
    FUSE_FIRST,
    FUSE_SECOND,
    H2C_DATA,
    H2C_TERM,
    HDGST,
    ICREQ,
    IN_CAPSULE,
    LAST,
    R2T,
    READ,
    SGL,
    SUCCESS,
    TRANSPORT,
    VERIFY,
    WRITE,
    WRITE_ZEROES,
    Host,
    Pdu,
    dataset,
    sqe,
)

pytestmark = needs_io_uring()

OPCODE, FIELD, CONFLICT, FUSED_FAILED, FUSED_MISSING, NAMESPACE = 1, 2, 3, 9, 10, 11
SGL_LENGTH, SGL_TYPE, SGL_OFFSET, ATOMIC, INTERRUPTED, TRANSIENT = (
    0x0F,
    0x11,
    0x16,
    0x14,
    0x21,
    0x22,
)
ABORT_REQUESTED: Final = 0x07
PREEMPTED: Final = 0x1B
RANGE, CAPACITY, INTERNAL, READ_ERROR, COMPARE_FAILURE = 0x80, 0x81, 6, 0x281, 0x285
INACCESSIBLE, TRANSITION = 0x302, 0x303
HEADER, SEQUENCE, HEADER_DIGEST, OUT_OF_RANGE, LIMIT = 1, 2, 3, 4, 5


@pytest.fixture
def bed() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.close()


@pytest.fixture
def host(bed: Bed) -> Host:
    return Host.connect(bed)


# ---------------------------------------------------------------- data


@pytest.mark.parametrize("in_capsule", [True, False])
def test_what_was_written_is_read(bed: Bed, host: Host, in_capsule: bool) -> None:
    data = pattern(8192)
    result = host.write(8, data, in_capsule=in_capsule)
    assert result.status == 0
    kinds = [pdu.kind for pdu in result.pdus]
    assert kinds == ([CAPSULE_RESP] if in_capsule else [R2T, CAPSULE_RESP])
    assert bed.core.memory(4096, 8192) == data
    result = host.read(8, 16)
    assert (result.status, result.data) == (0, data)
    assert [pdu.kind for pdu in result.pdus] == [C2H_DATA, CAPSULE_RESP]


@pytest.mark.parametrize(
    ("lba", "blocks"), [(0, 1), (3, 5), (7, 2), (1, 1024), (8191, 1), (5, 8 * 127 + 3)]
)
def test_data_may_begin_and_end_anywhere(bed: Bed, host: Host, lba: int, blocks: int) -> None:
    data = bytearray(pattern(4 << 20))
    bed.core.fill(0, bytes(data))
    assert host.read(lba, blocks).data == data[lba * 512 : (lba + blocks) * 512]
    fresh = random.Random(lba).randbytes(blocks * 512)
    assert host.write(lba, fresh).status == 0
    data[lba * 512 : (lba + blocks) * 512] = fresh
    assert bed.core.memory(0, 4 << 20) == bytes(data)


@pytest.mark.parametrize("header_digest", [False, True])
@pytest.mark.parametrize("data_digest", [False, True])
@pytest.mark.parametrize("data_align", [4, 32, 128])
def test_digests_and_alignment_as_agreed(
    bed: Bed, header_digest: bool, data_digest: bool, data_align: int
) -> None:
    host = Host.connect(
        bed, header_digest=header_digest, data_digest=data_digest, data_align=data_align
    )
    host.chunk = 5000 * 4
    data = pattern(65536)
    assert host.write(3, data).status == 0
    assert host.write(600, data[:8192], in_capsule=True).status == 0
    result = host.read(3, 128)
    assert result.data == data
    assert result.pdus[0].head[3] % data_align == 0
    assert host.read(600, 16).data == data[:8192]


def test_every_byte_may_come_alone(bed: Bed) -> None:
    host = Host.connect(bed, header_digest=True, data_digest=True)
    host.trickle = True
    data = pattern(4096)
    assert host.write(1, data, in_capsule=True).status == 0
    assert host.write(9, data).status == 0
    assert host.read(1, 16).data == data * 2


def test_padding_before_data_is_taken(bed: Bed, host: Host) -> None:
    data = pattern(512)
    host.capsule(sqe(WRITE, 7, lba=1, length=512, sgl=IN_CAPSULE), data, pad=48)
    assert host.finish(7).status == 0
    assert bed.core.memory(512, 512) == data


def test_without_flow_control_data_carries_the_completion(bed: Bed) -> None:
    host = Host.connect(bed, flow_control=False)
    bed.core.fill(0, pattern(4096))
    result = host.read(0, 8)
    assert [pdu.kind for pdu in result.pdus] == [C2H_DATA]
    assert result.pdus[0].flags == SUCCESS | LAST
    assert host.start(FLUSH, blocks=1)
    assert host.receive().status == 0


def test_sqhd_counts_completions_and_wraps(bed: Bed) -> None:
    host = Host.connect(bed, depth=5, sq_head=1)
    heads = [host.finish(host.start(FLUSH)).pdus[-1].sqhd for _ in range(12)]
    assert heads == [(2 + i) % 5 for i in range(12)]


def test_bytes_that_came_with_connect_are_looked_at(bed: Bed) -> None:
    framing = Host(socket.socket(), {})
    framing.socket.close()
    pending = framing.pdu(CAPSULE_CMD, sqe(READ, 5, blocks=8, length=4096))
    bed.core.fill(0, pattern(4096))
    host = Host.connect(bed, pending=pending)
    assert host.finish(5).data == pattern(4096)


def test_many_commands_at_once_are_all_answered(bed: Bed, host: Host) -> None:
    content = pattern(4 << 20)
    bed.core.fill(0, content)
    cids = {}
    for i in range(127):
        cids[host.start(READ, lba=i * 8, blocks=8, length=4096)] = i
    for _ in range(127):
        data, answer = host.receive(), host.receive()
        assert (data.kind, answer.status, data.cid) == (C2H_DATA, 0, answer.cid)
        at = cids.pop(answer.cid) * 4096
        assert data.data == content[at : at + 4096]
    assert not cids


def test_answers_come_in_the_order_of_their_ends(bed: Bed, host: Host) -> None:
    bed.core.hold(HOLD_FREE)
    held = host.start(READ, blocks=8, length=4096)
    bed.wait_requests(1)
    bed.core.hold(HOLD_NOT)
    assert host.finish(host.start(FLUSH)).status == 0
    bed.core.release()
    assert host.finish(held).status == 0


# ---------------------------------------------------------------- other commands


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


# ---------------------------------------------------------------- fused


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


# ---------------------------------------------------------------- refusals


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


# ---------------------------------------------------------------- gate


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


# ---------------------------------------------------------------- pages


def test_without_pages_a_command_waits(bed: Bed, host: Host) -> None:
    bed.core.leave_pages(4)
    cid = host.start(READ, blocks=8, length=4096)
    bed.core.leave_pages(1 << 30)
    assert host.finish(cid).status == 0


def test_queues_that_starve_each_other_are_told_to_try_again(bed: Bed) -> None:
    host = Host.connect(bed)
    first = host.take_cid()
    host.capsule(sqe(WRITE, first, blocks=1024, length=524288))
    r2t = host.receive()
    assert r2t.kind == R2T
    bed.core.leave_pages(4)
    second = host.take_cid()
    host.capsule(sqe(WRITE, second, lba=2048, blocks=8, length=4096))
    host.send_data(r2t, pattern(524288))
    answers = {pdu.cid: pdu.status for pdu in (host.receive(), host.receive())}
    assert answers == {first: 0, second: INTERRUPTED}


# ---------------------------------------------------------------- broken hosts


def common(kind: int, flags: int, hlen: int, pdo: int, plen: int) -> bytes:
    return struct.pack("<BBBBI", kind, flags, hlen, pdo, plen)


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (common(ICREQ, 0, 128, 0, 128), (SEQUENCE, 0)),
        (common(C2H_DATA, 0, 24, 24, 32), (HEADER, 0)),
        (common(0x55, 0, 24, 0, 24), (HEADER, 0)),
        (common(CAPSULE_CMD, 0, 71, 0, 72), (HEADER, 2)),
        (common(H2C_DATA, 0, 72, 72, 80), (HEADER, 2)),
        (common(CAPSULE_CMD, HDGST, 72, 0, 76), (HEADER, 1)),
        (common(CAPSULE_CMD, DDGST, 72, 72, 80), (HEADER, 1)),
        (common(CAPSULE_CMD, 0, 72, 0, 71), (HEADER, 4)),
        (common(CAPSULE_CMD, 0, 72, 60, 600), (HEADER, 3)),
        (common(CAPSULE_CMD, 0, 72, 73, 600), (HEADER, 3)),
        (common(CAPSULE_CMD, 0, 72, 200, 150), (HEADER, 4)),
        (common(CAPSULE_CMD, 0, 72, 72, 72 + 8193), (HEADER, 4)),
        (common(CAPSULE_CMD, 0, 72, 72, 0xFFFFFFFF), (HEADER, 4)),
        (common(H2C_DATA, 0, 24, 24, 24), (HEADER, 4)),
        (common(H2C_DATA, 0, 24, 24, 24 + 131073), (LIMIT, 0)),
        (common(H2C_DATA, 0, 24, 24, 32) + struct.pack("<HHII4x", 1, 5, 0, 8), (SEQUENCE, 0)),
        (common(H2C_DATA, 0, 24, 24, 32) + struct.pack("<HHII4x", 1, 5, 0, 9), (HEADER, 16)),
    ],
)
def test_a_broken_pdu_ends_the_connection_with_its_reason(
    bed: Bed, raw: bytes, fault: tuple[int, int]
) -> None:
    host = Host.connect(bed)
    host.send(raw)
    pdu = host.receive()
    assert (pdu.kind, pdu.fault) == (C2H_TERM, fault)
    assert raw.startswith(pdu.data)
    assert len(pdu.data) >= 8
    host.socket.close()
    assert bed.wait("ended")[1:] == (host.key, PROTOCOL)


def test_a_host_that_does_not_hang_up_is_hung_up_on(bed: Bed, host: Host) -> None:
    host.send(common(0x55, 0, 24, 0, 24))
    assert host.receive().kind == C2H_TERM
    assert host.closed()
    assert bed.wait("ended")[1:] == (host.key, PROTOCOL)


def test_a_wrong_header_digest_ends_it(bed: Bed) -> None:
    host = Host.connect(bed, header_digest=True)
    raw = bytearray(host.pdu(CAPSULE_CMD, sqe(FLUSH, 1)))
    raw[20] ^= 1
    host.send(bytes(raw))
    assert host.receive().fault == (HEADER_DIGEST, struct.unpack("<I", raw[-4:])[0])
    host.socket.close()
    assert bed.wait("ended")[1:] == (host.key, DIGEST)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"offset": 4}, (HEADER, 12)),
        ({"length": 1028}, (OUT_OF_RANGE, 0)),
        ({"last": 0}, (HEADER, 1)),
        ({"tag": 1}, (SEQUENCE, 0)),
        ({"cid": 1}, (SEQUENCE, 0)),
    ],
)
def test_data_out_of_place_ends_it(
    bed: Bed, host: Host, change: dict[str, int], fault: tuple[int, int]
) -> None:
    host.capsule(sqe(WRITE, 5, blocks=2, length=1024))
    r2t = host.receive()
    length = change.get("length", 1024)
    head = struct.pack(
        "<HHII4x",
        5 + change.get("cid", 0),
        r2t.ttag + change.get("tag", 0),
        change.get("offset", 0),
        length,
    )
    host.send(host.pdu(H2C_DATA, head, bytes(length), flags=change.get("last", LAST)))
    assert host.receive().fault == fault
    host.socket.close()
    assert bed.wait("ended")[1:] == (host.key, PROTOCOL)


def test_more_commands_than_entries_end_it(bed: Bed) -> None:
    host = Host.connect(bed, depth=4)
    bed.core.hold(HOLD_FREE)
    for cid in range(5):
        host.capsule(sqe(READ, cid, length=512))
    assert host.receive().fault == (SEQUENCE, 0)
    host.socket.close()
    assert bed.wait("ended")[1:] == (host.key, PROTOCOL)


def test_noise_never_harms_more_than_its_own_connection(bed: Bed) -> None:
    rng = random.Random(40)
    other = Host.connect(bed)
    for _ in range(60):
        host = Host.connect(bed, header_digest=rng.random() < 0.3)
        raw = bytearray(
            host.pdu(CAPSULE_CMD, sqe(WRITE, 1, blocks=8, length=4096, sgl=IN_CAPSULE), bytes(4096))
        )
        for _ in range(rng.randrange(1, 6)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        with contextlib.suppress(OSError):
            host.send(bytes(raw) + rng.randbytes(rng.randrange(300)))
        host.socket.close()
        bed.wait("ended")
    assert other.read(0, 8).status == 0


# ---------------------------------------------------------------- the end


def test_disconnect_is_answered_and_then_closed(bed: Bed, host: Host) -> None:
    host.capsule(struct.pack("<BBHB59x", FABRICS, SGL, 9, DISCONNECT))
    assert host.receive().status == 0
    assert host.closed()
    assert bed.wait("ended")[1:] == (host.key, LOGOUT_CAUSE)


@pytest.mark.parametrize("rc", [0, -5, -12, -116])
def test_a_command_is_given_to_the_volume_once(bed: Bed, host: Host, rc: int) -> None:
    """Also one that fails: to try again is the host's decision."""
    bed.core.fail_with(rc)
    for number in range(1, 4):
        done = host.write(0, pattern(4096)) if number == 2 else host.read(0, 8)
        assert (done.status == 0) == (rc == 0)
        assert bed.counts()[2] == number


@pytest.mark.parametrize("chunk", [1, 511, 4096, 5000, 65536, 131072])
def test_data_may_come_in_pieces_of_any_size(bed: Bed, host: Host, chunk: int) -> None:
    length = 4096 if chunk == 1 else 131072
    host.chunk = chunk
    assert host.write(3, pattern(length, 9)).status == 0
    assert host.read(3, length // 512).data == pattern(length, 9)


def test_the_largest_write_comes_whole_and_a_larger_one_is_refused(bed: Bed, host: Host) -> None:
    """It begins and ends within a page, so it touches one page more than it is long."""
    content = pattern(524288, 3)
    written = host.write(5, content)
    assert [pdu.kind for pdu in written.pdus] == [R2T, CAPSULE_RESP], "one R2T asks for all of it"
    assert written.status == 0
    assert host.read(5, 1024).data == content
    assert host.write(5, bytes(524288 + 512)).status == FIELD | DNR
    assert host.read(5, 1024).data == content


def aborted(bed: Bed, host: Host, cid: int) -> bool:
    bed.core.abort(host.key, cid)
    return bool(bed.wait("aborted")[1])


@pytest.mark.parametrize("opcode", [READ, WRITE, FLUSH, WRITE_ZEROES, DATASET, VERIFY])
def test_a_command_without_an_lsn_is_taken_back(bed: Bed, host: Host, opcode: int) -> None:
    host.write(0, pattern(4096))
    before = bed.counts()[2]
    bed.core.hold(HOLD_FREE)
    if opcode == DATASET:
        cid = host.take_cid()
        host.capsule(*dataset(cid, [(0, 8)]))
    elif opcode == WRITE:
        cid = host.take_cid()
        entry = sqe(WRITE, cid, blocks=8, length=4096, sgl=IN_CAPSULE)
        host.capsule(entry, bytes(4096))
    else:
        cid = host.start(opcode, blocks=8, length=4096 if opcode == READ else 0)
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
    if opcode == DATASET:
        cid = host.take_cid()
        host.capsule(*dataset(cid, [(0, 8)]))
    elif opcode == WRITE:
        cid = host.take_cid()
        host.capsule(sqe(WRITE, cid, blocks=8, length=4096, sgl=IN_CAPSULE), bytes(4096))
    else:
        cid = host.start(opcode, blocks=8, length=4096 if opcode == READ else 0)
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


def test_requests_without_an_lsn_die_with_their_connection(bed: Bed, host: Host) -> None:
    bed.core.hold(HOLD_FREE)
    host.capsule(sqe(WRITE, 1, length=512, sgl=IN_CAPSULE), pattern(512))
    bed.wait_requests(1)
    host.socket.close()
    assert bed.wait("ended")[1:] == (host.key, CLOSED)
    bed.core.release()
    bed.counts()
    assert bed.core.memory(0, 512) == bytes(512)


def test_a_request_with_an_lsn_is_waited_for(bed: Bed, host: Host) -> None:
    bed.core.hold(HOLD_LOGGED)
    host.capsule(sqe(WRITE, 1, length=512, sgl=IN_CAPSULE), pattern(512))
    bed.wait_requests(1)
    bed.core.end(host.key)
    assert bed.outlives_a_turn()
    bed.core.hold(HOLD_NOT)
    bed.core.release()
    assert bed.wait("ended")[1:] == (host.key, ASKED)
    assert bed.core.memory(0, 512) == pattern(512)


def test_a_host_that_goes_between_r2t_and_data_leaves_nothing(bed: Bed, host: Host) -> None:
    for cid in range(4):
        host.capsule(sqe(WRITE, cid, lba=cid * 8, blocks=8, length=4096))
    for _ in range(4):
        assert host.receive().kind == R2T
    host.socket.close()
    assert bed.wait("ended")[1:] == (host.key, CLOSED)


def test_the_control_side_and_the_volume_end_it(bed: Bed) -> None:
    first, second = Host.connect(bed), Host.connect(bed)
    bed.core.end(first.key)
    assert bed.wait("ended")[1:] == (first.key, ASKED)
    bed.core.end_all()
    assert bed.wait("ended")[1:] == (second.key, VOLUME)


def test_a_host_told_it_was_wrong_by_the_host_is_left(bed: Bed, host: Host) -> None:
    host.send(common(H2C_TERM, 0, 24, 0, 24) + bytes(16))
    assert bed.wait("ended")[1:] == (host.key, PROTOCOL)


# ---------------------------------------------------------------- reservations


def reserving(
    opcode: int, cid: int, length: int, *, sgl: int = IN_CAPSULE, cdw10: int = 0
) -> bytes:
    return struct.pack(
        "<BBHI8xQQI3xBIIIIII",
        opcode, SGL, cid, 1, 0, 0, length, sgl, cdw10, 0x55, 0, 0, 0, 0,
    )  # fmt: skip


@pytest.mark.parametrize("in_capsule", [True, False])
@pytest.mark.parametrize(("opcode", "length"), [(0x0D, 16), (0x11, 16), (0x15, 8), (0x15, 24)])
def test_commands_of_reservations_go_up_with_their_data(
    bed: Bed, host: Host, opcode: int, length: int, in_capsule: bool
) -> None:
    entry = reserving(opcode, 7, length, sgl=IN_CAPSULE if in_capsule else TRANSPORT, cdw10=3)
    host.capsule(entry, pattern(length) if in_capsule else b"")
    if not in_capsule:
        r2t = host.receive()
        assert r2t.kind == R2T
        host.send_data(r2t, pattern(length))
    _, key, tag, head, data = bed.wait("upcall")
    assert (key, head, data) == (host.key, entry[:48], pattern(length))
    bed.core.answer(key, tag, status=0x083 | DNR)
    assert host.finish(7).status == 0x083 | DNR
    bed.core.answer(key, tag, status=0)
    assert host.read(0, 8).status == 0, "an answer too many is nobody's"


@pytest.mark.parametrize("flow_control", [True, False])
def test_a_report_brings_its_data(bed: Bed, flow_control: bool) -> None:
    host = Host.connect(bed, flow_control=flow_control, data_digest=True)
    host.capsule(reserving(0x0E, 7, 4096, sgl=TRANSPORT, cdw10=1023))
    _, key, tag, _, data = bed.wait("upcall")
    assert data == b""
    bed.core.answer(key, tag, data_in=pattern(4096))
    result = host.finish(7)
    assert (result.status, result.data) == (0, pattern(4096))


@pytest.mark.parametrize(
    ("opcode", "length", "cdw10"),
    [(0x0D, 15, 0), (0x11, 8, 0), (0x15, 7, 0), (0x0E, 4096, 1024), (0x0E, 4096, 0xFFFFFFFF)],
)
def test_commands_of_reservations_need_room_for_their_data(
    bed: Bed, host: Host, opcode: int, length: int, cdw10: int
) -> None:
    assert (
        finish(host, reserving(opcode, 7, length, sgl=TRANSPORT, cdw10=cdw10)) == SGL_LENGTH | DNR
    )
    assert host.finish(host.start(FLUSH)).status == 0


def finish(host: Host, entry: bytes) -> int:
    host.capsule(entry)
    return host.finish(int.from_bytes(entry[2:4], "little")).status


def test_commands_of_reservations_meet_the_gate_twice(bed: Bed, host: Host) -> None:
    bed.core.set_gate(False)
    host.capsule(reserving(0x15, 7, 8), bytes(8))
    assert host.finish(7).status == TRANSITION
    bed.core.set_gate(True)
    host.capsule(reserving(0x15, 8, 8), bytes(8))
    _, key, tag, _, _ = bed.wait("upcall")
    bed.core.set_gate(False)
    bed.core.answer(key, tag, status=0)
    assert host.finish(8).status == TRANSITION


def test_a_host_that_goes_while_python_has_its_command_leaves_nothing(bed: Bed, host: Host) -> None:
    host.capsule(reserving(0x0D, 7, 16), bytes(16))
    _, key, tag, _, _ = bed.wait("upcall")
    host.socket.close()
    assert bed.wait("ended")[1:] == (host.key, CLOSED)
    bed.core.answer(key, tag, status=0, data_in=b"late")
    assert bed.free_pages() == bed.pages_at_start

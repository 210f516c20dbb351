"""Reads, writes, their residuals and the gate, over a socket pair against a volume in memory."""

from __future__ import annotations

import struct

import pytest

from tests.support.front_bed import (
    COMMAND,
    DATA_IN,
    FINAL,
    HOLD_LOGGED,
    NO_TAG,
    NOP_OUT,
    R2T,
    READS,
    WRITES,
    Bed,
    Peer,
    compare_and_write,
    pattern,
    read_16,
    write_16,
)
from tests.support.needs import needs_io_uring

pytestmark = needs_io_uring()

GOOD, CHECK, BUSY, TASK_ABORTED = 0, 2, 8, 0x40
TEST_UNIT_READY = bytes(6)
FLUSH = bytes([0x35]) + bytes(9)
TRANSITION, STANDBY = (2, 4, 0x0A), (2, 4, 0x0B)


# ---------------------------------------------------------------- data


def test_what_was_written_is_read(bed: Bed, peer: Peer) -> None:
    data = pattern(16384)
    result = peer.write(8, data)
    assert (result.status, result.overflow, result.underflow) == (GOOD, 0, 0)
    assert bed.core.memory(4096, 16384) == data
    result = peer.read(8, 32)
    assert (result.status, result.data) == (GOOD, data)
    assert [pdu.opcode for pdu in result.pdus] == [DATA_IN], "the status comes with the data"


@pytest.mark.parametrize(
    ("lba", "blocks"), [(0, 1), (3, 5), (7, 2), (1, 2000), (8191, 1), (5, 8 * 255 + 3)]
)
def test_a_read_may_begin_and_end_anywhere(bed: Bed, peer: Peer, lba: int, blocks: int) -> None:
    data = pattern(4 << 20)
    bed.core.fill(0, data)
    result = peer.read(lba, blocks)
    assert (result.status, result.underflow) == (GOOD, 0)
    assert result.data == data[lba * 512 : (lba + blocks) * 512]


@pytest.mark.parametrize(
    ("cdb", "at", "length"),
    [
        (bytes([0x08, 0, 0, 8, 8, 0]), 4096, 4096),
        (bytes([0x08, 0, 0, 8, 0, 0]), 4096, 256 * 512),
        (struct.pack(">BBIBHB", 0x28, 0x18, 8, 0, 8, 0), 4096, 4096),
        (struct.pack(">BBIIBB", 0xA8, 0, 8, 8, 0, 0), 4096, 4096),
        (read_16(8, 8), 4096, 4096),
    ],
)
def test_every_length_of_cdb_reads(bed: Bed, peer: Peer, cdb: bytes, at: int, length: int) -> None:
    data = pattern(4 << 20)
    bed.core.fill(0, data)
    assert peer.finish(peer.command(cdb, expected=length)).data == data[at : at + length]


@pytest.mark.parametrize(
    "cdb",
    [
        bytes([0x0A, 0, 0, 8, 8, 0]),
        struct.pack(">BBIBHB", 0x2A, 0x08, 8, 0, 8, 0),
        struct.pack(">BBIIBB", 0xAA, 0, 8, 8, 0, 0),
        write_16(8, 8),
    ],
)
def test_every_length_of_cdb_writes(bed: Bed, peer: Peer, cdb: bytes) -> None:
    data = pattern(4096, 9)
    assert peer.finish(peer.command(cdb, data=data)).status == GOOD
    assert bed.core.memory(4096, 4096) == data


@pytest.mark.parametrize("immediate", [0, 4096, 65536])
def test_a_mebibyte_is_written_with_r2t(bed: Bed, immediate: int) -> None:
    peer = bed.connect(max_burst=262144)
    data = pattern(1 << 20, 3)
    result = peer.write(0, data, immediate=immediate)
    assert result.status == GOOD
    asked = [pdu for pdu in result.pdus if pdu.opcode == R2T]
    assert [pdu.word(36) for pdu in asked] == list(range(len(asked))), "R2TSN counts"
    assert asked[0].word(40) == immediate
    assert max(pdu.word(44) for pdu in asked) == 262144
    assert sum(pdu.word(44) for pdu in asked) == len(data) - immediate
    assert result.pdus[-1].word(36) == len(asked), "ExpDataSN"
    assert bed.core.memory(0, 1 << 20) == data


def test_unsolicited_data_comes_before_the_first_r2t(bed: Bed, peer: Peer) -> None:
    data = pattern(131072, 4)
    itt = peer.request(
        COMMAND, flags=WRITES | 1, word20=len(data), specific=write_16(0, 256), data=data[:8192]
    )
    peer.data_out(itt, NO_TAG, 8192, data[8192:20000], final=False)
    peer.data_out(itt, NO_TAG, 20000, data[20000:65536], data_sn=1)
    result = peer.finish(itt, data)
    assert [pdu.word(40) for pdu in result.pdus if pdu.opcode == R2T] == [65536]
    assert bed.core.memory(0, len(data)) == data


def test_a_read_is_cut_by_segment_and_burst(bed: Bed) -> None:
    peer = bed.connect(initiator_recv=5000, max_burst=16384)
    data = pattern(65536, 5)
    bed.core.fill(0, data)
    result = peer.read(0, 128)
    assert result.data == data
    assert max(len(pdu.data) for pdu in result.pdus) == 5000
    assert [pdu.word(36) for pdu in result.pdus] == list(range(len(result.pdus))), "DataSN counts"
    ends = [pdu.word(40) + len(pdu.data) for pdu in result.pdus if pdu.flags & FINAL]
    assert ends == [16384, 32768, 49152, 65536]


def test_one_send_does_not_hold_a_read_of_many_small_pdus(bed: Bed) -> None:
    peer = bed.connect(initiator_recv=512)
    data = pattern(1 << 20, 6)
    bed.core.fill(0, data)
    result = peer.read(0, 2048)
    assert result.data == data
    assert len(result.pdus) == 2048


@pytest.mark.parametrize("trickle", [False, True])
@pytest.mark.parametrize("digests", [False, True])
def test_pdus_may_come_one_byte_at_a_time(bed: Bed, trickle: bool, digests: bool) -> None:
    peer = bed.connect(
        header_digest=digests, data_digest=digests, first_burst=4096, initiator_recv=4096
    )
    peer.trickle = trickle
    data = pattern(12288, 7)
    assert peer.write(8, data).status == GOOD
    assert peer.read(9, 20).data == data[512 : 512 * 21]
    itt = peer.request(NOP_OUT, data=b"odd", immediate=True)
    assert peer.receive().data == b"odd"
    itt = peer.command(TEST_UNIT_READY)
    assert peer.finish(itt).status == GOOD


def test_bytes_read_with_the_login_come_first(bed: Bed) -> None:
    writer = bed.connect()
    data = pattern(8192, 8)
    assert writer.write(0, data).status == GOOD
    bhs = struct.pack(">BB6xQIIII16s", 1, FINAL | READS | 1, 0, 7, 8192, 5, 1, read_16(0, 16))
    peer = bed.connect(exp_cmd_sn=5, stat_sn=77, pending=bhs[:60] + bytes(0))
    assert peer.finish(7).data == data


def test_a_volume_of_4096_byte_blocks_counts_in_them() -> None:
    bed = Bed(block_size=4096)
    peer = bed.connect()
    data = pattern(8192, 1)
    assert peer.write(2, data).status == GOOD
    assert bed.core.memory(8192, 8192) == data
    assert peer.read(3, 1).data == data[4096:]
    assert peer.read(1023, 1).status == GOOD
    assert peer.read(1023, 2).sense == (5, 0x21, 0)
    bed.close()


# ---------------------------------------------------------------- residuals and refusals


def test_residuals_say_what_did_not_fit(bed: Bed, peer: Peer) -> None:
    data = pattern(8192, 2)
    bed.core.fill(0, data)
    over = peer.finish(peer.command(read_16(0, 16), expected=4096))
    assert (over.status, over.data, over.overflow) == (GOOD, data[:4096], 4096)
    under = peer.finish(peer.command(read_16(0, 8), expected=8192))
    assert (under.status, under.data, under.underflow) == (GOOD, data[:4096], 4096)
    odd = peer.finish(peer.command(read_16(0, 8), expected=1001))
    assert (odd.data, odd.overflow) == (data[:1001], 4096 - 1001)
    none = peer.finish(peer.command(read_16(0, 8)))
    assert (none.status, none.data, none.overflow) == (GOOD, b"", 4096)
    over = peer.finish(peer.command(write_16(0, 16), data=bytes(4096)))
    assert (over.status, over.overflow) == (GOOD, 4096)
    assert bed.core.memory(0, 8192) == bytes(4096) + data[4096:], "only what was sent is written"
    under = peer.finish(peer.command(write_16(0, 8), data=bytes([1]) * 8192))
    assert (under.status, under.underflow) == (GOOD, 4096)
    assert bed.core.memory(0, 8192) == bytes([1]) * 4096 + data[4096:]


def test_nothing_asked_is_nothing_done(bed: Bed, peer: Peer) -> None:
    before = bed.counts()[2]
    result = peer.finish(peer.command(read_16(0, 0), expected=512))
    assert (result.status, result.data, result.underflow) == (GOOD, b"", 512)
    result = peer.finish(peer.command(write_16(0, 0), data=bytes(512)))
    assert (result.status, result.underflow) == (GOOD, 512)
    assert bed.counts()[2] == before


@pytest.mark.parametrize(
    ("cdb", "sense"),
    [
        (read_16(8192, 1), (5, 0x21, 0)),
        (read_16((1 << 64) - 1, 2), (5, 0x21, 0)),
        (read_16(0, 0xFFFFFFFF), (5, 0x21, 0)),
        (read_16(0, 2049), (5, 0x24, 0)),
        (read_16(1, 2048), (5, 0x24, 0)),
        (struct.pack(">BBIBHB", 0x28, 0x20, 0, 0, 1, 0), (5, 0x24, 0)),
        (struct.pack(">BBIBHB", 0x28, 0, 0, 0, 1, 4), (5, 0x24, 0)),
        (struct.pack(">BBIBHB", 0x35, 0, 8190, 0, 3, 0), (5, 0x21, 0)),
    ],
)
def test_what_cannot_be_done_is_refused(
    peer: Peer, cdb: bytes, sense: tuple[int, int, int]
) -> None:
    result = peer.finish(peer.command(cdb, expected=512))
    assert (result.status, result.sense, result.data) == (CHECK, sense, b"")
    assert result.underflow == 512
    assert peer.read(0, 1).status == GOOD


def test_a_refused_write_drains_its_data_first(bed: Bed, peer: Peer) -> None:
    itt = peer.request(
        COMMAND, flags=WRITES | 1, word20=65536, specific=write_16(8190, 128), data=bytes(4096)
    )
    peer.data_out(itt, NO_TAG, 4096, bytes(30000), final=False)
    ping = peer.request(NOP_OUT, immediate=True)
    assert peer.receive().itt == ping, "no status while data is still to come"
    peer.data_out(itt, NO_TAG, 34096, bytes(65536 - 34096), data_sn=1)
    result = peer.finish(itt)
    assert (result.status, result.sense) == (CHECK, (5, 0x21, 0))


def test_a_write_of_part_of_a_page_leaves_the_rest(bed: Bed, peer: Peer) -> None:
    bed.core.fill(0, b"\x07" * 32768)
    for lba, length in ((1, 4096), (0, 512), (23, 1024), (34, 512)):
        assert peer.write(lba, bytes([9]) * length).status == GOOD
    expected = bytearray(b"\x07" * 32768)
    for lba, length in ((1, 4096), (0, 512), (23, 1024), (34, 512)):
        expected[lba * 512 : lba * 512 + length] = bytes([9]) * length
    assert bytes(bed.core.memory(0, 32768)) == bytes(expected)


def test_data_of_a_write_within_a_page_comes_in_any_pieces(bed: Bed) -> None:
    peer = bed.connect(max_burst=1024, first_burst=1024, initial_r2t=True, immediate_data=False)
    data = pattern(10240, 3)
    itt = peer.request(COMMAND, flags=FINAL | WRITES | 1, word20=10240, specific=write_16(5, 20))
    assert peer.finish(itt, data, segment=512).status == GOOD
    assert bytes(bed.core.memory(2560, 10240)) == data
    assert bytes(bed.core.memory(0, 2560)) == bytes(2560)


def test_compare_and_write_writes_only_over_what_it_names(bed: Bed, peer: Peer) -> None:
    bed.core.fill(0, b"\x07" * 16384)
    new = pattern(4096, 8)
    cdb = compare_and_write(3, 8)
    assert peer.finish(peer.command(cdb, data=b"\x07" * 4096 + new)).status == GOOD
    assert bytes(bed.core.memory(1536, 4096)) == new
    wrong = new[:1000] + bytes([new[1000] ^ 1]) + new[1001:]
    result = peer.finish(peer.command(cdb, data=wrong + bytes(4096)))
    assert result.sense == (0xE, 0x1D, 0)
    sense = result.pdus[-1].data[2:]
    assert sense[0] & 0x80
    assert int.from_bytes(sense[3:7], "big") == 1000
    assert bytes(bed.core.memory(1536, 4096)) == new
    assert peer.finish(peer.command(compare_and_write(0, 0))).status == GOOD
    for cdb, data in (
        (compare_and_write(0, 9), bytes(9216)),
        (compare_and_write(0, 2), bytes(1536)),
        (compare_and_write(0, 0), bytes(1024)),
    ):
        assert peer.finish(peer.command(cdb, data=data)).sense == (5, 0x24, 0)


@pytest.mark.parametrize(
    ("rc", "read", "write"),
    [
        (-116, TRANSITION, TRANSITION),
        (-28, (7, 0x27, 7), (7, 0x27, 7)),
        (-5, (3, 0x11, 0), (4, 0x44, 0)),
        (-22, (5, 0x21, 0), (5, 0x21, 0)),
    ],
)
def test_failures_of_the_volume_have_their_sense(
    bed: Bed,
    peer: Peer,
    rc: int,
    read: tuple[int, int, int],
    write: tuple[int, int, int],
) -> None:
    bed.core.fail_with(rc)
    assert peer.read(0, 8).sense == read
    assert peer.write(0, bytes(4096)).sense == write
    bed.core.fail_with(0)
    assert peer.write(0, bytes(4096)).status == GOOD


def test_unexpected_data_aborts_the_command(bed: Bed) -> None:
    peer = bed.connect(initial_r2t=True, immediate_data=False)
    assert peer.write(0, bytes(4096)).sense == (0xB, 0x0C, 0x0C)
    itt = peer.request(COMMAND, flags=WRITES | 1, word20=8192, specific=write_16(0, 16))
    peer.data_out(itt, NO_TAG, 0, bytes(8192))
    assert peer.finish(itt).sense == (0xB, 0x0C, 0x0C)
    assert peer.write(0, bytes(8192), immediate=0).status == GOOD


# ---------------------------------------------------------------- the gate


def test_a_closed_gate_gives_neither_data_nor_success(bed: Bed, peer: Peer) -> None:
    bed.core.set_gate(False)
    for result in (
        peer.read(0, 8),
        peer.write(0, bytes(4096)),
        peer.finish(peer.command(FLUSH)),
        peer.finish(peer.command(TEST_UNIT_READY)),
        peer.finish(peer.command(read_16(0, 0))),
    ):
        assert (result.status, result.sense, result.data) == (CHECK, TRANSITION, b"")
    bed.core.promise(60_000_000_000)
    assert peer.finish(peer.command(TEST_UNIT_READY)).sense == STANDBY
    bed.core.set_gate(True)
    assert peer.read(0, 8).status == GOOD


def test_a_gate_that_closes_before_the_answer_stops_it(bed: Bed, peer: Peer) -> None:
    bed.core.hold(HOLD_LOGGED)
    read = peer.command(read_16(0, 8), expected=4096)
    bed.wait_requests(1)
    bed.core.set_gate(False)
    bed.core.release()
    result = peer.finish(read)
    assert (result.sense, result.data, result.underflow) == (TRANSITION, b"", 4096)

"""iSCSI full-feature phase in the core, over a socket pair against a volume in memory."""

from __future__ import annotations

import contextlib
import random
import struct
import time
from collections.abc import Iterator

import pytest

from tests.support.front_bed import (
    ASKED,
    CLOSED,
    COMMAND,
    DATA_IN,
    DIGEST,
    FINAL,
    HOLD_FREE,
    HOLD_LOGGED,
    HOLD_NOT,
    LOGGED_OUT,
    LOGIN,
    LOGOUT,
    LOGOUT_CAUSE,
    MANAGE,
    MANAGED,
    NO_TAG,
    NOP_IN,
    NOP_OUT,
    PROTOCOL,
    R2T,
    READS,
    REJECT,
    SILENT,
    SNACK,
    TEXT,
    TEXT_RESPONSE,
    VOLUME,
    WRITES,
    Bed,
    Peer,
    Result,
    compare_and_write,
    pattern,
    read_16,
    unmap,
    write_16,
    write_same_16,
)
from tests.support.needs import needs_io_uring

pytestmark = needs_io_uring()

GOOD, CHECK, BUSY, TASK_ABORTED = 0, 2, 8, 0x40
TEST_UNIT_READY = bytes(6)
FLUSH = bytes([0x35]) + bytes(9)
INQUIRY = struct.pack(">BBBHB", 0x12, 0, 0, 96, 0)
MODE_SELECT = struct.pack(">BBxxxxxHB", 0x55, 0x10, 24, 0)
TRANSITION, STANDBY = (2, 4, 0x0A), (2, 4, 0x0B)
ABORT_TASK, ABORT_TASK_SET, CLEAR_TASK_SET, LUN_RESET, WARM_RESET = 1, 2, 4, 5, 6
#: As session.pxd has them.
POWER_ON, NEXUS_LOSS = 1, 2


@pytest.fixture
def bed() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.close()


@pytest.fixture
def peer(bed: Bed) -> Peer:
    return bed.connect()


def manage(peer: Peer, function: int, *, task: int = NO_TAG, lun: int = 0) -> int:
    return peer.request(MANAGE, flags=FINAL | function, lun=lun, word20=task, immediate=True)


# ---------------------------------------------------------------- data


def test_what_was_written_is_read(bed: Bed, peer: Peer) -> None:
    data = pattern(16384)
    result = peer.write(8, data)
    assert (result.status, result.overflow, result.underflow) == (GOOD, 0, 0)
    assert bed.core.memory(4096, 16384) == data
    result = peer.read(8, 32)
    assert (result.status, result.data) == (GOOD, data)
    assert [pdu.opcode for pdu in result.pdus] == [DATA_IN], "the status comes with the data"


def verify(peer: Peer, cdb: bytes, data: bytes) -> Result:
    first = data[: peer.first_burst]
    itt = peer.request(
        COMMAND, flags=FINAL | WRITES | 1, word20=len(data), specific=cdb, data=first
    )
    return peer.finish(itt, data)


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


# ---------------------------------------------------------------- numbering


def test_a_queue_of_64_commands_is_served_in_one_go(bed: Bed, peer: Peer) -> None:
    data = pattern(4096 * 64, 11)
    bed.core.hold(HOLD_FREE)
    for i in range(64):
        peer.command(write_16(i * 8, 8), data=data[i * 4096 : (i + 1) * 4096], itt=1000 + i)
    bed.wait_requests(64)
    # The window is closed now: one more is ignored without a word.
    peer.command(read_16(0, 8), expected=4096, itt=2000, cmd_sn=peer.cmd_sn)
    peer.request(NOP_OUT, immediate=True)
    pong = peer.receive()
    assert pong.word(32) == pong.word(28) - 1, "MaxCmdSN = ExpCmdSN - 1"
    bed.core.hold(HOLD_NOT)
    bed.core.release()
    seen = {(pdu := peer.receive()).itt: pdu.status for _ in range(64)}
    assert seen == {1000 + i: GOOD for i in range(64)}
    assert peer.max_cmd_sn == peer.cmd_sn + 63, "the whole window is open again"
    assert bed.core.memory(0, len(data)) == data


def test_pipelined_commands_wrap_around_the_sequence_numbers(bed: Bed) -> None:
    peer = bed.connect(exp_cmd_sn=0xFFFFFFE0, stat_sn=0xFFFFFFF0)
    data = pattern(4096, 12)
    assert peer.write(0, data).status == GOOD
    for _ in range(8):
        tags = [peer.command(read_16(0, 8), expected=4096) for _ in range(32)]
        for tag in tags:
            assert peer.finish(tag).data == data


def test_a_gap_in_the_numbers_ends_the_session(bed: Bed, peer: Peer) -> None:
    peer.command(TEST_UNIT_READY, cmd_sn=peer.cmd_sn + 1)
    assert bed.wait("ended") == ("ended", peer.key, PROTOCOL)
    assert peer.at_end()


def test_a_tag_in_use_is_rejected(bed: Bed, peer: Peer) -> None:
    bed.core.hold(HOLD_FREE)
    itt = peer.command(read_16(0, 8), expected=4096)
    peer.command(read_16(0, 8), expected=4096, itt=itt, cmd_sn=peer.cmd_sn)
    rejected = peer.receive()
    assert (rejected.opcode, rejected.response) == (REJECT, 7)
    bed.core.hold(HOLD_NOT)
    bed.core.release()
    assert len(peer.finish(itt).data) == 4096


# ---------------------------------------------------------------- upcalls


def test_an_unknown_command_goes_up_and_its_answer_down(bed: Bed, peer: Peer) -> None:
    itt = peer.command(INQUIRY, expected=96)
    _, key, tag, bhs, data = bed.wait("upcall")
    assert (key, bhs[32:38], data) == (peer.key, INQUIRY, b"")
    bed.core.answer(key, tag, data_in=b"i" * 66)
    result = peer.finish(itt)
    assert (result.status, result.data, result.underflow) == (GOOD, b"i" * 66, 30)
    bed.core.answer(key, tag, data_in=b"twice")
    itt = peer.command(INQUIRY, expected=36)
    _, key, tag, _, _ = bed.wait("upcall")
    bed.core.answer(key, tag, data_in=b"j" * 66)
    result = peer.finish(itt)
    assert (result.data, result.overflow) == (b"j" * 36, 30)
    itt = peer.command(INQUIRY, expected=36)
    _, key, tag, _, _ = bed.wait("upcall")
    sense = bytes([0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0])
    bed.core.answer(key, tag, status=CHECK, sense=sense)
    result = peer.finish(itt)
    assert (result.status, result.sense, result.underflow) == (CHECK, (5, 0x20, 0), 36)


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("asked_open", [False, True])
def test_g12_a_closed_gate_calls_no_port_group_optimized(
    bed: Bed, peer: Peer, extended: bool, asked_open: bool
) -> None:
    """Whatever it was when the answer was made: what leaves while the gate is closed says that it changes."""
    group = bytes([0x80, 0x8D, 0, 1, 0, 2, 0, 1, 0, 0, 0, 1])
    head = struct.pack(">I", len(group)) if not extended else struct.pack(">IBB2x", 16, 0x10, 2)
    cdb = bytes([0xA3, 0x2A if extended else 0x0A, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0])
    for closed in (False, True):
        bed.core.set_gate(asked_open)
        itt = peer.command(cdb, expected=64)
        _, key, tag, _, _ = bed.wait("upcall")
        bed.core.set_gate(not closed)
        bed.core.answer(key, tag, data_in=head + group)
        result = peer.finish(itt)
        assert result.data[: len(head)] == head
        assert result.data[len(head)] == (0x8F if closed else 0x80)
        assert result.data[len(head) + 1 :] == group[1:]
    bed.core.set_gate(True)


def test_another_lun_is_python_s_business(bed: Bed, peer: Peer) -> None:
    peer.command(read_16(0, 8), expected=4096, lun=1 << 48)
    _, _, _, bhs, _ = bed.wait("upcall")
    assert bhs[8:16] == (1 << 48).to_bytes(8, "big")


@pytest.mark.parametrize("immediate", [0, 10, 24])
def test_data_of_an_upcall_is_collected(bed: Bed, peer: Peer, immediate: int) -> None:
    data = bytes(range(24))
    itt = peer.request(
        COMMAND,
        flags=FINAL | WRITES | 1,
        word20=24,
        specific=MODE_SELECT,
        data=data[:immediate],
    )
    if immediate < 24:
        r2t = peer.receive()
        assert (r2t.opcode, r2t.word(40), r2t.word(44)) == (R2T, immediate, 24 - immediate)
        peer.data_out(itt, r2t.word(20), immediate, data[immediate:])
    _, key, tag, _, got = bed.wait("upcall")
    assert got == data
    bed.core.answer(key, tag)
    result = peer.finish(itt)
    assert (result.status, result.underflow, result.overflow) == (GOOD, 0, 0)


def test_too_much_data_for_an_upcall_is_refused(peer: Peer) -> None:
    itt = peer.request(COMMAND, flags=FINAL | WRITES | 1, word20=65537, specific=MODE_SELECT)
    assert peer.finish(itt).sense == (5, 0x24, 0)


def test_text_is_python_s_business(bed: Bed, peer: Peer) -> None:
    itt = peer.request(TEXT, data=b"SendTargets=All\0")
    _, key, tag, bhs, data = bed.wait("upcall")
    assert (bhs[0], data) == (TEXT, b"SendTargets=All\0")
    answer = struct.pack(">BB14xII24x", TEXT_RESPONSE, FINAL, itt, NO_TAG)
    bed.core.answer_raw(key, tag, answer, b"TargetName=x\0")
    pdu = peer.receive()
    assert (pdu.opcode, pdu.itt, pdu.data) == (TEXT_RESPONSE, itt, b"TargetName=x\0")


def test_answers_to_a_session_that_is_gone_are_ignored(bed: Bed, peer: Peer) -> None:
    peer.command(INQUIRY, expected=96)
    _, key, tag, _, _ = bed.wait("upcall")
    peer.socket.close()
    assert bed.wait("ended") == ("ended", key, CLOSED)
    bed.core.answer(key, tag, data_in=bytes(96))
    bed.core.answer_raw(key, tag, bytes(48))
    assert bed.counts()[1] == 0


# ---------------------------------------------------------------- task management


def test_an_aborted_command_is_never_answered(bed: Bed, peer: Peer) -> None:
    bed.core.hold(HOLD_FREE)
    write = peer.command(write_16(0, 8), data=bytes([1]) * 4096)
    abort = manage(peer, ABORT_TASK, task=write)
    pdu = peer.receive()
    assert (pdu.opcode, pdu.itt, pdu.response) == (MANAGED, abort, 0)
    bed.core.hold(HOLD_NOT)
    bed.core.release()
    assert peer.read(0, 8).data == bytes(4096)


def test_s26_a_held_command_ends_with_its_session(bed: Bed, peer: Peer) -> None:
    """Nobody is left to be answered; the write must not be carried out later."""
    bed.core.hold(HOLD_FREE)
    peer.command(write_16(0, 8), data=bytes([1]) * 4096)
    peer.request(NOP_OUT, immediate=True)
    peer.receive()
    peer.socket.close()
    assert bed.wait("ended")


def test_an_abort_waits_for_a_command_with_an_lsn(bed: Bed, peer: Peer) -> None:
    bed.core.hold(HOLD_LOGGED)
    write = peer.command(write_16(0, 8), data=bytes([1]) * 4096)
    abort = manage(peer, ABORT_TASK, task=write)
    ping = peer.request(NOP_OUT, immediate=True)
    assert peer.receive().itt == ping, "no answer while the write may still commit"
    bed.core.hold(HOLD_NOT)
    bed.core.release()
    assert peer.receive().itt == write
    pdu = peer.receive()
    assert (pdu.itt, pdu.response) == (abort, 1), "it has ended by itself"
    assert peer.read(0, 8).data == bytes([1]) * 4096


def test_aborting_what_does_not_exist_says_so(peer: Peer) -> None:
    manage(peer, ABORT_TASK, task=4711)
    assert peer.receive().response == 1
    manage(peer, LUN_RESET, lun=1 << 48)
    assert peer.receive().response == 2


def test_a_command_that_waits_for_data_can_be_aborted(bed: Bed, peer: Peer) -> None:
    write = peer.request(COMMAND, flags=FINAL | WRITES | 1, word20=8192, specific=write_16(0, 16))
    r2t = peer.receive()
    manage(peer, ABORT_TASK_SET)
    assert peer.receive().response == 0
    peer.data_out(write, r2t.word(20), 0, bytes(8192))
    assert peer.read(0, 8).status == GOOD
    assert bed.free_pages() == bed.pages_at_start


def test_a_reset_reaches_the_other_sessions(bed: Bed, peer: Peer) -> None:
    other = bed.connect()
    bed.core.hold(HOLD_FREE)
    peer.command(read_16(0, 8), expected=4096)
    theirs = other.command(write_16(0, 8), data=bytes(4096))
    waiting = other.request(COMMAND, flags=FINAL | WRITES | 1, word20=512, specific=MODE_SELECT)
    assert other.receive().opcode == R2T
    bed.wait_requests(2)
    reset = manage(peer, LUN_RESET)
    pdu = peer.receive()
    assert (pdu.opcode, pdu.itt, pdu.response) == (MANAGED, reset, 0)
    ended = {(pdu := other.receive()).itt: pdu.status for _ in range(2)}
    assert ended == {theirs: TASK_ABORTED, waiting: TASK_ABORTED}
    peer.request(NOP_OUT, immediate=True)
    assert peer.receive().opcode == NOP_IN, "our own is not answered"


@pytest.mark.parametrize("function", [LUN_RESET, WARM_RESET])
def test_a_reset_is_told_to_every_session_once(bed: Bed, peer: Peer, function: int) -> None:
    other = bed.connect()
    manage(peer, function)
    assert peer.receive().response == 0
    for one in (peer, other):
        assert one.read(0, 8).sense == (6, 0x29, 0x03)
        assert one.read(0, 8).status == GOOD


@pytest.mark.parametrize(("attention", "ascq"), [(POWER_ON, 0x00), (NEXUS_LOSS, 0x07)])
def test_a_session_begins_with_its_unit_attention(bed: Bed, attention: int, ascq: int) -> None:
    """Told once, before any other, by a command that is not carried out; INQUIRY neither tells nor ends it."""
    bed.connect().write(0, pattern(4096))
    peer = bed.connect(attention=attention)
    peer.command(INQUIRY, expected=96)
    assert bed.wait("upcall")[3][32] == 0x12, "it goes up like any other"
    manage(peer, LUN_RESET)
    assert peer.receive().response == 0
    before = bed.counts()[2]
    assert peer.write(0, bytes(4096)).sense == (6, 0x29, ascq)
    assert bed.counts()[2] == before, "the volume was not asked"
    assert peer.read(0, 8).sense == (6, 0x29, 0x03), "the reset comes after it"
    assert peer.read(0, 8).data == pattern(4096)


@pytest.mark.parametrize(("which", "qualifier"), [(32, 3), (64, 4), (128, 5)])
def test_what_happened_to_reservations_is_told_once(
    bed: Bed, peer: Peer, which: int, qualifier: int
) -> None:
    """And before the answer to whatever was sent after it was raised."""
    other = bed.connect()
    itt = peer.command(INQUIRY, expected=96)
    _, key, tag, _, _ = bed.wait("upcall")
    bed.core.attention(other.key, which)
    bed.core.answer(key, tag, data_in=b"i" * 66)
    assert peer.finish(itt).status == GOOD
    assert other.read(0, 8).sense == (6, 0x2A, qualifier)
    assert other.read(0, 8).status == GOOD
    assert peer.read(0, 8).status == GOOD


def test_a_function_the_core_does_not_know_goes_up(bed: Bed, peer: Peer) -> None:
    manage(peer, 8)
    _, _, _, bhs, _ = bed.wait("upcall")
    assert (bhs[0] & 0x3F, bhs[1] & 0x7F) == (MANAGE, 8)


# ---------------------------------------------------------------- nop, logout, reject, end


@pytest.mark.parametrize("length", [0, 1, 4, 5, 8000])
def test_a_ping_is_echoed(peer: Peer, length: int) -> None:
    data = pattern(length)
    itt = peer.request(NOP_OUT, data=data, immediate=length % 2 == 0)
    pdu = peer.receive()
    assert (pdu.opcode, pdu.itt, pdu.word(20), pdu.data) == (NOP_IN, itt, NO_TAG, data)


def test_a_ping_longer_than_the_initiator_takes_is_cut(bed: Bed) -> None:
    peer = bed.connect(initiator_recv=512)
    peer.request(NOP_OUT, data=pattern(1000))
    assert peer.receive().data == pattern(512)


def test_a_silent_initiator_is_asked_and_then_dropped(bed: Bed) -> None:
    peer = bed.connect(keepalive_ns=100_000_000)
    for _ in range(2):
        pdu = peer.receive()
        assert (pdu.opcode, pdu.itt) == (NOP_IN, NO_TAG)
        peer.request(NOP_OUT, itt=NO_TAG, word20=pdu.word(20), immediate=True)
    started = time.monotonic()
    assert peer.receive().opcode == NOP_IN
    assert bed.wait("ended") == ("ended", peer.key, SILENT)
    assert time.monotonic() - started >= 0.19
    assert peer.at_end()


def test_logout_is_answered_and_closes(bed: Bed) -> None:
    peer = bed.connect(cid=3)
    peer.request(LOGOUT, flags=FINAL | 1, word20=9 << 16)
    assert (pdu := peer.receive()).opcode == LOGGED_OUT
    assert pdu.response == 1, "no such connection"
    peer.request(LOGOUT, flags=FINAL | 2, word20=3 << 16)
    assert peer.receive().response == 2, "no recovery"
    assert peer.read(0, 8).status == GOOD
    itt = peer.request(LOGOUT, flags=FINAL | 1, word20=3 << 16)
    pdu = peer.receive()
    assert (pdu.opcode, pdu.itt, pdu.response) == (LOGGED_OUT, itt, 0)
    assert peer.at_end()
    assert bed.wait("ended") == ("ended", peer.key, LOGOUT_CAUSE)


@pytest.mark.parametrize(
    ("opcode", "reason"), [(LOGIN, 4), (SNACK, 4), (0x1C, 5), (0x3F, 5), (NOP_IN, 5)]
)
def test_a_pdu_that_means_nothing_is_rejected(peer: Peer, opcode: int, reason: int) -> None:
    peer.request(opcode, data=b"abcde", cmd_sn=peer.cmd_sn)
    pdu = peer.receive()
    assert (pdu.opcode, pdu.response, pdu.itt) == (REJECT, reason, NO_TAG)
    assert (pdu.data[0], len(pdu.data)) == (opcode, 48), "the header comes back"
    assert peer.read(0, 8).status == GOOD


def test_additional_headers_are_passed_over(peer: Peer) -> None:
    itt = peer.command(read_16(0, 8), expected=4096, ahs=bytes(1020))
    assert len(peer.finish(itt).data) == 4096


def test_a_segment_longer_than_declared_ends_the_session(bed: Bed) -> None:
    peer = bed.connect(target_recv=8192)
    peer.request(NOP_OUT, data=bytes(8193))
    assert bed.wait("ended") == ("ended", peer.key, PROTOCOL)


#: ABORTED COMMAND, protocol service CRC error: what RFC 7143, 7.8 wants without recovery within a command.
OUT_OF_SEQUENCE = (0xB, 0x47, 0x05)


@pytest.mark.parametrize(
    ("offset", "size", "data_sn"),
    [(512, 512, 0), (0, 16384, 0), (0, 8192, 1), (0, 8192, 0xFFFFFFFF), (0, 4096, 0)],
    ids=["place", "too much", "number ahead", "number behind", "too little"],
)
def test_data_out_of_sequence_fails_its_command_and_no_other(
    bed: Bed, peer: Peer, offset: int, size: int, data_sn: int
) -> None:
    bed.core.fill(0, b"\x07" * 8192)
    itt = peer.request(COMMAND, flags=FINAL | WRITES | 1, word20=8192, specific=write_16(0, 16))
    peer.data_out(itt, peer.receive().word(20), offset, bytes(size), data_sn=data_sn)
    assert peer.finish(itt).sense == OUT_OF_SEQUENCE
    assert peer.read(0, 16).data == b"\x07" * 8192
    assert bed.free_pages() == bed.pages_at_start


def test_a_command_out_of_sequence_is_told_when_all_its_data_is_here(bed: Bed, peer: Peer) -> None:
    itt = peer.request(COMMAND, flags=FINAL | WRITES | 1, word20=8192, specific=write_16(0, 16))
    tag = peer.receive().word(20)
    peer.data_out(itt, tag, 4096, bytes(4096), data_sn=1, final=False)
    ping = peer.request(NOP_OUT, immediate=True)
    assert peer.receive().itt == ping, "more is to come"
    peer.data_out(itt, tag, 0, bytes(4096), data_sn=0)
    assert peer.finish(itt).sense == OUT_OF_SEQUENCE
    assert peer.write(0, bytes([9]) * 4096).status == GOOD


@pytest.mark.parametrize("at", [10, 50, 60, 101])
def test_a_wrong_digest_ends_the_session(bed: Bed, at: int) -> None:
    peer = bed.connect(header_digest=True, data_digest=True)
    bhs = struct.pack(">BB14xIII16x4x", NOP_OUT | 0x40, FINAL, 5, NO_TAG, peer.cmd_sn)
    wire = bytearray(peer.frame(bhs, bytes(45)))
    assert len(wire) == 52 + 48 + 4
    wire[at] ^= 1
    peer.send_raw(bytes(wire))
    assert bed.wait("ended") == ("ended", peer.key, DIGEST)


@pytest.mark.parametrize("how", ["peer", "asked", "volume"])
def test_a_session_that_ends_with_requests_under_way_leaks_nothing(bed: Bed, how: str) -> None:
    peer = bed.connect()
    peer.socket.setsockopt(1, 8, 4096)
    bed.core.fill(0, pattern(1 << 20))
    for i in range(3):
        peer.command(read_16(0, 2048), expected=1 << 20, itt=100 + i)
    bed.wait_requests(3)
    bed.core.hold(HOLD_FREE)
    for i in range(8):
        peer.command(write_16(0, 8), data=bytes(4096), itt=200 + i)
    peer.request(COMMAND, flags=FINAL | WRITES | 1, word20=65536, specific=write_16(0, 128))
    peer.command(INQUIRY, expected=96)
    bed.wait("upcall")
    if how == "peer":
        peer.socket.close()
    elif how == "asked":
        bed.core.end(peer.key)
    else:
        bed.core.end_all()
    cause = {"peer": CLOSED, "asked": ASKED, "volume": VOLUME}[how]
    assert bed.wait("ended") == ("ended", peer.key, cause)
    assert bed.free_pages() == bed.pages_at_start


def test_the_end_waits_for_writes_with_an_lsn(bed: Bed, peer: Peer) -> None:
    bed.core.hold(HOLD_LOGGED)
    peer.command(write_16(0, 8), data=bytes([3]) * 4096)
    bed.wait_requests(1)
    bed.core.end(peer.key)
    assert peer.at_end()
    assert bed.counts()[1] == 1, "it is still there"
    bed.core.release()
    assert bed.wait("ended") == ("ended", peer.key, ASKED)
    assert bed.core.memory(0, 1) == b"\x03"


# ---------------------------------------------------------------- pages


def test_without_pages_the_socket_waits(bed: Bed, peer: Peer) -> None:
    bed.core.leave_pages(256)
    data = pattern(65536, 13)
    itt = peer.command(write_16(0, 128), data=data)
    peer.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        peer.receive()
    peer.socket.settimeout(10)
    bed.core.leave_pages(1 << 30)
    assert peer.finish(itt).status == GOOD
    assert bed.core.memory(0, 65536) == data


def test_a_session_that_would_hold_up_itself_says_busy(bed: Bed, peer: Peer) -> None:
    first = peer.request(COMMAND, flags=FINAL | WRITES | 1, word20=65536, specific=write_16(0, 128))
    r2t = peer.receive()
    bed.core.leave_pages(256)
    second = peer.command(write_16(128, 128), data=bytes(65536))
    # The data of the first is behind the second in the stream.
    peer.data_out(first, r2t.word(20), 0, bytes([7]) * 65536)
    assert peer.finish(second).status == BUSY
    assert peer.finish(first).status == GOOD
    assert bed.core.memory(0, 65536) == bytes([7]) * 65536


def test_a_slow_reader_is_not_given_more_than_it_takes(bed: Bed, peer: Peer) -> None:
    data = pattern(1 << 20, 14)
    bed.core.fill(0, data)
    tags = []
    peer.socket.setblocking(False)
    for _ in range(64):
        tags.append(peer.command(read_16(0, 2048), expected=1 << 20))
    time.sleep(0.05)
    peer.socket.settimeout(10)
    for tag in tags:
        assert peer.finish(tag).data == data


def test_one_slow_reader_leaves_pages_to_the_others(bed: Bed, peer: Peer) -> None:
    for _ in range(16):
        peer.command(read_16(0, 2048), expected=1 << 20)
    other = bed.connect()
    assert other.read(0, 2048).status == GOOD
    assert bed.free_pages() > bed.pages_at_start // 3


def test_an_initiator_that_never_reads_is_dropped(bed: Bed) -> None:
    peer = bed.connect(keepalive_ns=50_000_000)
    for _ in range(16):
        peer.command(read_16(0, 2048), expected=1 << 20)
    assert bed.wait("ended") == ("ended", peer.key, SILENT)
    assert bed.free_pages() == bed.pages_at_start


# ---------------------------------------------------------------- garbage


@pytest.mark.parametrize("seed", range(12))
def test_garbage_never_stops_the_core(bed: Bed, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        digests = chance.random() < 0.2
        peer = bed.connect(header_digest=digests, target_recv=chance.choice([512, 8192, 1 << 24]))
        wire = bytearray()
        for _ in range(chance.randrange(1, 40)):
            bhs = bytearray(chance.randbytes(48))
            bhs[0] = chance.choice([0, 1, 2, 4, 5, 6, 0x41, 0x42, bhs[0]])
            if chance.random() < 0.9:
                bhs[4] = chance.choice([0, 0, 0, 1, 255])
                bhs[5:8] = chance.choice([0, 0, 3, 48, 500]).to_bytes(3, "big")
            if chance.random() < 0.7:
                bhs[24:28] = chance.randrange(1, 5).to_bytes(4, "big")
                bhs[16:24] = struct.pack(
                    ">II", chance.randrange(6), chance.choice([0, 512, NO_TAG])
                )
                bhs[8:16] = bytes(8)
                bhs[32] = chance.choice([0, 0x28, 0x2A, 0x88, 0x8A, 0x35, 0x12, bhs[32]])
            wire += bhs + chance.randbytes(int.from_bytes(bhs[5:8], "big") % 4096)
        with contextlib.suppress(ConnectionError):
            peer.socket.sendall(wire)
        if chance.random() < 0.5:
            bed.counts()
        peer.socket.close()
        bed._events = [event for event in bed._events if event[0] not in ("ended", "upcall")]
    bed.settle()
    survivor = bed.connect()
    assert survivor.read(0, 8).status == GOOD


def test_flipped_bits_of_a_good_conversation_never_stop_the_core(bed: Bed) -> None:
    chance = random.Random(99)
    for _ in range(150):
        peer = bed.connect()
        wire = bytearray()
        peer.send_raw = wire.extend  # type: ignore[assignment]
        for _ in range(6):
            peer.command(write_16(0, 8), data=bytes(4096))
            peer.command(read_16(0, 8), expected=4096)
            peer.command(INQUIRY, expected=96)
            manage(peer, ABORT_TASK, task=chance.randrange(20))
            itt = peer.request(
                COMMAND, flags=FINAL | WRITES | 1, word20=8192, specific=write_16(0, 16)
            )
            peer.data_out(itt, chance.randrange(4), 0, bytes(8192))
        for _ in range(chance.randrange(1, 30)):
            wire[chance.randrange(len(wire))] ^= 1 << chance.randrange(8)
        with contextlib.suppress(ConnectionError):
            peer.socket.sendall(wire)
        peer.socket.close()
        bed._events.clear()
    bed.settle()


# ---------------------------------------------------------------- UNMAP, WRITE SAME, VERIFY


def test_unmap_zeroes_its_ranges_to_the_block(bed: Bed, peer: Peer) -> None:
    bed.core.fill(0, b"\x07" * 65536)
    assert peer.unmap((1, 17), (24, 8), (64, 0), (80, 3)).status == GOOD
    found = bytes(bed.core.memory(0, 65536))
    expected = bytearray(b"\x07" * 65536)
    for lba, blocks in ((1, 17), (24, 8), (80, 3)):
        expected[lba * 512 : (lba + blocks) * 512] = bytes(blocks * 512)
    assert found == expected


@pytest.mark.parametrize(
    ("ranges", "sense"),
    [
        ([(8191, 2)], (5, 0x21, 0)),
        ([(8, 8), (9000, 1)], (5, 0x21, 0)),
        ([(0, 1)] * 65, (5, 0x24, 0)),
    ],
)
def test_an_unmap_that_cannot_be_done_whole_is_not_begun(
    bed: Bed, peer: Peer, ranges: list[tuple[int, int]], sense: tuple[int, int, int]
) -> None:
    bed.core.fill(0, b"\x07" * 8192)
    assert peer.unmap(*ranges).sense == sense
    assert bytes(bed.core.memory(0, 8192)) == b"\x07" * 8192


def test_unmap_lists_that_are_short_or_empty(bed: Bed, peer: Peer) -> None:
    cdb = struct.pack(">BB5xHB", 0x42, 0, 0, 0)
    assert peer.finish(peer.command(cdb)).status == GOOD
    cdb = struct.pack(">BB5xHB", 0x42, 0, 4, 0)
    assert peer.finish(peer.command(cdb, data=bytes(4))).sense == (5, 0x1A, 0)
    cdb = struct.pack(">BB5xHB", 0x42, 1, 8, 0)
    assert peer.finish(peer.command(cdb, data=bytes(8))).sense == (5, 0x24, 0)
    # A descriptor that is cut off is not one.
    cdb, listed = unmap((0, 8))
    short = cdb[:7] + bytes([0, 20]) + cdb[9:]
    bed.core.fill(0, b"\x07" * 4096)
    assert peer.finish(peer.command(short, data=listed[:20])).status == GOOD
    assert bytes(bed.core.memory(0, 4096)) == b"\x07" * 4096


def test_write_same_writes_the_block_everywhere(bed: Bed, peer: Peer) -> None:
    block = pattern(512, 5)
    assert peer.finish(peer.command(write_same_16(8, 24), data=block)).status == GOOD
    assert bytes(bed.core.memory(0, 20480)) == bytes(4096) + block * 24 + bytes(4096)
    assert peer.finish(peer.command(write_same_16(16, 8, flags=9))).status == GOOD
    assert bytes(bed.core.memory(8192, 4096)) == bytes(4096)
    assert peer.finish(peer.command(write_same_16(8, 8, flags=8), data=bytes(512))).status == GOOD
    assert bytes(bed.core.memory(4096, 4096)) == bytes(4096)


def test_write_same_begins_and_ends_within_pages(bed: Bed, peer: Peer) -> None:
    bed.core.fill(0, b"\x07" * 32768)
    block = pattern(512, 5)
    assert peer.finish(peer.command(write_same_16(3, 40), data=block)).status == GOOD
    expected = b"\x07" * 1536 + block * 40 + b"\x07" * (32768 - 43 * 512)
    assert bytes(bed.core.memory(0, 32768)) == expected
    assert peer.finish(peer.command(write_same_16(9, 3, flags=9))).status == GOOD
    assert bytes(bed.core.memory(9 * 512, 2048)) == bytes(3 * 512) + block


def test_write_same_says_what_it_does_not_take(peer: Peer) -> None:
    for cdb, data in (
        (write_same_16(0, 0), bytes(512)),
        (write_same_16(0, 8, flags=0x10), bytes(512)),
        (write_same_16(0, 8), b""),
        (write_same_16(0, 8), bytes(256)),
    ):
        assert peer.finish(peer.command(cdb, data=data)).sense == (5, 0x24, 0)
    assert peer.finish(peer.command(write_same_16(8184, 16), data=bytes(512))).sense == (5, 0x21, 0)


def test_an_aborted_write_same_ends_after_the_step_under_way(bed: Bed, peer: Peer) -> None:
    bed.core.hold(HOLD_LOGGED)
    itt = peer.command(write_same_16(0, 8192), data=pattern(512))
    time.sleep(0.05)
    before = bed.counts()[2]
    manage = peer.request(MANAGE, flags=FINAL | ABORT_TASK, word20=itt, immediate=True)
    bed.core.hold(HOLD_NOT)
    bed.core.release()
    answer = peer.receive()
    assert (answer.itt, answer.status) == (itt, TASK_ABORTED)
    assert peer.receive().itt == manage
    assert bed.counts()[2] == before, "no further step"


def verify_16(lba: int, blocks: int, check: int) -> bytes:
    return struct.pack(">BBQIBB", 0x8F, check << 1, lba, blocks, 0, 0)


@pytest.mark.parametrize(
    ("lba", "blocks"), [(0, 1), (0, 8), (3, 1), (3, 13), (7, 2), (8, 64), (5, 2035), (0, 2048)]
)
def test_verify_compares_what_is_sent(bed: Bed, peer: Peer, lba: int, blocks: int) -> None:
    there = pattern(2048 * 512, 3)
    bed.core.fill(0, there)
    sent = there[lba * 512 : (lba + blocks) * 512]
    assert verify(peer, verify_16(lba, blocks, 1), sent).status == GOOD
    for at in {0, len(sent) // 2, len(sent) - 1}:
        wrong = bytearray(sent)
        wrong[at] ^= 1
        result = verify(peer, verify_16(lba, blocks, 1), bytes(wrong))
        assert result.sense == (0xE, 0x1D, 0)
        assert result.pdus[-1].data[2] == 0xF0, "VALID"
        assert int.from_bytes(result.pdus[-1].data[5:9], "big") == at
    assert bytes(bed.core.memory(0, len(there))) == there
    assert bed.free_pages() == bed.pages_at_start


def test_verify_compares_one_block_with_each(bed: Bed, peer: Peer) -> None:
    block = pattern(512, 9)
    bed.core.fill(0, block * 64)
    assert peer.finish(peer.command(verify_16(3, 50, 3), data=block)).status == GOOD
    bed.core.fill(20 * 512, b"\x01" * 512)
    assert peer.finish(peer.command(verify_16(3, 50, 3), data=block)).sense == (0xE, 0x1D, 0)
    assert peer.finish(peer.command(verify_16(21, 8, 3), data=block)).status == GOOD
    assert bed.free_pages() == bed.pages_at_start


def test_verify_says_what_it_does_not_take(peer: Peer) -> None:
    for cdb, data in (
        (verify_16(0, 1, 2), bytes(512)),
        (verify_16(0, 2, 1), bytes(512)),
        (verify_16(0, 1, 1), b""),
        (verify_16(0, 2, 3), bytes(1024)),
        (verify_16(0, 2049, 1), bytes(512)),
    ):
        assert peer.finish(peer.command(cdb, data=data)).sense == (5, 0x24, 0)
    assert peer.finish(peer.command(verify_16(8191, 2, 1), data=bytes(1024))).sense == (5, 0x21, 0)
    assert peer.finish(peer.command(verify_16(0, 0, 1))).status == GOOD


def test_twelve_byte_verify_and_write_and_verify_are_served(bed: Bed, peer: Peer) -> None:
    data = pattern(1024, 4)
    write = struct.pack(">BBIIBB", 0xAE, 0, 8, 2, 0, 0)
    assert peer.finish(peer.command(write, data=data)).status == GOOD
    assert bytes(bed.core.memory(4096, 1024)) == data
    compare = struct.pack(">BBIIBB", 0xAF, 2, 8, 2, 0, 0)
    assert peer.finish(peer.command(compare, data=data)).status == GOOD


def test_verify_and_prefetch_move_nothing(bed: Bed, peer: Peer) -> None:
    verify = struct.pack(">BBQIBB", 0x8F, 0, 0, 8192, 0, 0)
    assert peer.finish(peer.command(verify)).status == GOOD
    prefetch = struct.pack(">BBQIBB", 0x90, 0, 0, 8192, 0, 0)
    assert peer.finish(peer.command(prefetch)).status == GOOD
    bed.core.fail_with(-5)
    assert peer.finish(peer.command(verify)).sense == (3, 0x11, 0)


def test_write_atomic_is_a_write_of_one_entry(bed: Bed, peer: Peer) -> None:
    data = pattern(65536, 3)
    cdb = struct.pack(">BBQHHBB", 0x9C, 0, 16, 0, 128, 0, 0)
    before = bed.counts()[2]
    itt = peer.request(COMMAND, flags=FINAL | WRITES | 1, word20=65536, specific=cdb, data=data)
    assert peer.finish(itt, data).status == GOOD
    assert bed.counts()[2] == before + 1
    assert bytes(bed.core.memory(8192, 65536)) == data
    bounded = struct.pack(">BBQHHBB", 0x9C, 0, 16, 8, 8, 0, 0)
    assert peer.finish(peer.command(bounded, data=bytes(4096))).sense == (5, 0x24, 0)

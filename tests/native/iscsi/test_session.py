"""Numbering, upcalls, task management, pings, logout and the end of a session."""

from __future__ import annotations

import struct
import time

import pytest

from tests.support.front_bed import (
    ASKED,
    CLOSED,
    COMMAND,
    DIGEST,
    FINAL,
    HOLD_FREE,
    HOLD_LOGGED,
    HOLD_NOT,
    HOLD_READING,
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
    REJECT,
    SILENT,
    SNACK,
    TEXT,
    TEXT_RESPONSE,
    VOLUME,
    WRITES,
    Bed,
    Peer,
    pattern,
    read_16,
    write_16,
)
from tests.support.needs import needs_io_uring

pytestmark = needs_io_uring()

GOOD, CHECK, BUSY, TASK_ABORTED = 0, 2, 8, 0x40
TEST_UNIT_READY = bytes(6)
INQUIRY = struct.pack(">BBBHB", 0x12, 0, 0, 96, 0)
MODE_SELECT = struct.pack(">BBxxxxxHB", 0x55, 0x10, 24, 0)
ABORT_TASK, ABORT_TASK_SET, CLEAR_TASK_SET, LUN_RESET, WARM_RESET = 1, 2, 4, 5, 6
#: As session.pxd has them.
POWER_ON, NEXUS_LOSS = 1, 2
#: An answer is in time although the machine stands still for a while before it.
KEEPALIVE_NS = 2_500_000_000


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
    abort = peer.manage(ABORT_TASK, task=write)
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
    abort = peer.manage(ABORT_TASK, task=write)
    ping = peer.request(NOP_OUT, immediate=True)
    assert peer.receive().itt == ping, "no answer while the write may still commit"
    bed.core.hold(HOLD_NOT)
    bed.core.release()
    assert peer.receive().itt == write
    pdu = peer.receive()
    assert (pdu.itt, pdu.response) == (abort, 1), "it has ended by itself"
    assert peer.read(0, 8).data == bytes([1]) * 4096


def test_aborting_what_does_not_exist_says_so(peer: Peer) -> None:
    peer.manage(ABORT_TASK, task=4711)
    assert peer.receive().response == 1
    peer.manage(LUN_RESET, lun=1 << 48)
    assert peer.receive().response == 2


def test_a_command_that_waits_for_data_can_be_aborted(bed: Bed, peer: Peer) -> None:
    write = peer.request(COMMAND, flags=FINAL | WRITES | 1, word20=8192, specific=write_16(0, 16))
    r2t = peer.receive()
    peer.manage(ABORT_TASK_SET)
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
    reset = peer.manage(LUN_RESET)
    pdu = peer.receive()
    assert (pdu.opcode, pdu.itt, pdu.response) == (MANAGED, reset, 0)
    ended = {(pdu := other.receive()).itt: pdu.status for _ in range(2)}
    assert ended == {theirs: TASK_ABORTED, waiting: TASK_ABORTED}
    peer.request(NOP_OUT, immediate=True)
    assert peer.receive().opcode == NOP_IN, "our own is not answered"


def test_who_was_preempted_loses_its_commands(bed: Bed, peer: Peer) -> None:
    """PREEMPT AND ABORT of another initiator: TASK ABORTED, as TAS=1 promises; nothing of it is done later."""
    other = bed.connect()
    bed.core.hold(HOLD_FREE)
    ours = peer.command(read_16(0, 8), expected=4096)
    theirs = {
        other.command(read_16(0, 8), expected=4096),
        other.command(write_16(0, 8), data=pattern(4096)),
    }
    bed.wait_requests(3)
    waiting = other.request(COMMAND, flags=FINAL | WRITES | 1, word20=512, specific=MODE_SELECT)
    asked = other.receive()
    assert asked.opcode == R2T
    bed.core.preempt(other.key)
    ended = {(pdu := other.receive()).itt: pdu.status for _ in range(3)}
    assert ended == dict.fromkeys((*theirs, waiting), TASK_ABORTED)
    bed.core.hold(HOLD_NOT)
    bed.core.release()
    assert peer.finish(ours).data == bytes(4096)
    assert other.read(0, 8).data == bytes(4096), "its session goes on"


def test_who_was_preempted_gets_nothing_of_what_was_being_read(bed: Bed, peer: Peer) -> None:
    """The disk has been asked already, and answers later, with the data."""
    other = bed.connect()
    assert peer.write(0, pattern(4096)).status == GOOD
    bed.core.hold(HOLD_READING)
    ours = peer.command(read_16(0, 8), expected=4096)
    theirs = other.command(read_16(0, 8), expected=4096)
    bed.wait_requests(3)
    bed.core.preempt(other.key)
    bed.core.hold(HOLD_NOT)
    bed.core.release()
    ended = other.finish(theirs)
    assert (ended.status, ended.data) == (TASK_ABORTED, b"")
    assert peer.finish(ours).data == pattern(4096)
    assert other.read(0, 8).data == pattern(4096), "its session goes on"
    assert bed.free_pages() == bed.pages_at_start


def test_who_was_preempted_keeps_what_is_in_the_log(bed: Bed, peer: Peer) -> None:
    bed.core.hold(HOLD_LOGGED)
    itt = peer.command(write_16(0, 8), data=pattern(4096))
    bed.wait_requests(1)
    bed.core.preempt(peer.key)
    peer.request(NOP_OUT, immediate=True)
    assert peer.receive().opcode == NOP_IN
    bed.core.release()
    assert peer.finish(itt).status == GOOD
    bed.core.hold(HOLD_NOT)
    assert peer.read(0, 8).data == pattern(4096)


@pytest.mark.parametrize("function", [LUN_RESET, WARM_RESET])
def test_a_reset_is_told_to_every_session_once(bed: Bed, peer: Peer, function: int) -> None:
    other = bed.connect()
    peer.manage(function)
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
    peer.manage(LUN_RESET)
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
    peer.manage(8)
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
    peer = bed.connect(keepalive_ns=KEEPALIVE_NS)
    for _ in range(2):
        pdu = peer.receive()
        assert (pdu.opcode, pdu.itt) == (NOP_IN, NO_TAG)
        # From before the answer leaves: it counts from when it comes.
        started = time.monotonic_ns()
        peer.request(NOP_OUT, itt=NO_TAG, word20=pdu.word(20), immediate=True)
    assert peer.receive().opcode == NOP_IN
    assert bed.wait("ended") == ("ended", peer.key, SILENT)
    assert time.monotonic_ns() - started >= 2 * KEEPALIVE_NS
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

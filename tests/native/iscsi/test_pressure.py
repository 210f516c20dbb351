"""Sessions that want more pages than there are, read too slowly, or send garbage."""

from __future__ import annotations

import contextlib
import random
import struct
import time

import pytest

from tests.support.front_bed import (
    COMMAND,
    FINAL,
    NO_TAG,
    SILENT,
    WAIT_S,
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
INQUIRY = struct.pack(">BBBHB", 0x12, 0, 0, 96, 0)
ABORT_TASK, ABORT_TASK_SET, CLEAR_TASK_SET, LUN_RESET, WARM_RESET = 1, 2, 4, 5, 6


# ---------------------------------------------------------------- pages


def test_without_pages_the_socket_waits(bed: Bed, peer: Peer) -> None:
    bed.core.leave_pages(256)
    data = pattern(65536, 13)
    itt = peer.command(write_16(0, 128), data=data)
    peer.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        peer.receive()
    peer.socket.settimeout(WAIT_S)
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
    peer.socket.settimeout(WAIT_S)
    for tag in tags:
        assert peer.finish(tag).data == data


def test_one_slow_reader_leaves_pages_to_the_others(bed: Bed, peer: Peer) -> None:
    for _ in range(16):
        peer.command(read_16(0, 2048), expected=1 << 20)
    other = bed.connect()
    assert other.read(0, 2048).status == GOOD
    assert bed.free_pages() > bed.pages_at_start // 3


def test_an_initiator_that_never_reads_is_dropped(bed: Bed) -> None:
    asking = bed.connect()
    wire = bytearray()
    asking.send_raw = wire.extend  # type: ignore[assignment]
    for _ in range(16):
        asking.command(read_16(0, 2048), expected=1 << 20)
    # All of it is there when the session begins: whoever asks one by one may be found silent before the last.
    peer = bed.connect(keepalive_ns=50_000_000, pending=bytes(wire))
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
            peer.manage(ABORT_TASK, task=chance.randrange(20))
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

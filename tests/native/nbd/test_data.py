"""Data of NBD in the core: any offset and length, in any pieces, one reply or many."""

from __future__ import annotations

import random
import select
import struct

import pytest

from tests.support.front_bed import HOLD_FREE, HOLD_NOT, Bed, pattern
from tests.support.nbd_bed import (
    CACHE,
    CLOSED,
    FAST,
    FLUSH,
    FUA,
    MIB,
    NO_HOLE,
    PAGE,
    READ,
    SIZE,
    TRIM,
    WRITE,
    ZEROES,
    NbdPeer,
)
from tests.support.needs import needs_io_uring

pytestmark = needs_io_uring()


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, PAGE),
        (512, 512),
        (1, 1),
        (4095, 2),
        (100, 10000),
        (0, 2 * MIB),
        (3 * PAGE + 7, MIB + 1),
        (SIZE - 1, 1),
    ],
)
def test_what_was_written_is_read(peer: NbdPeer, offset: int, length: int) -> None:
    data = pattern(length)
    peer.good(WRITE, offset, data=data)
    assert peer.good(READ, offset, length).data == data
    assert peer.bed.core.memory(offset, length) == data


def test_the_rest_of_a_page_stays(peer: NbdPeer) -> None:
    peer.bed.core.fill(0, pattern(2 * PAGE))
    peer.good(WRITE, 4000, data=b"x" * 200)
    want = bytearray(pattern(2 * PAGE))
    want[4000:4200] = b"x" * 200
    assert peer.good(READ, 0, 2 * PAGE).data == want


def test_one_byte_at_a_time_is_the_same(peer: NbdPeer) -> None:
    peer.trickle = True
    peer.good(WRITE, 5, data=pattern(300), flags=FUA)
    assert peer.good(READ, 5, 300).data == pattern(300)
    peer.good(FLUSH)


def test_large_writes_in_pieces_of_any_size_leave_what_was_sent(peer: NbdPeer) -> None:
    """The core sees every piece by itself: headers that are cut, data that ends in the middle of a page."""
    dice = random.Random(11)
    want = bytearray(SIZE)
    wire = b""
    cookies = []
    for n in range(12):
        length = dice.choice([32768, 131072, 131072, 200_001, 4096, 17])
        offset = dice.randrange(0, SIZE - length, 1 if n % 3 == 0 else PAGE)
        data = dice.randbytes(length)
        want[offset : offset + length] = data
        cookies.append(1000 + n)
        peer.expect(cookies[-1])
        wire += peer.frame(WRITE, offset, cookie=cookies[-1], data=data)
        # The next may lie on the same pages: only one that is answered is surely before it.
        while wire:
            part = dice.choice([1, 27, 4096, 4097, 60_000, len(wire)])
            peer.send_raw(wire[:part])
            wire = wire[part:]
            # Seen by the core as a piece of its own, not only by the socket.
            peer.bed.counts()
        assert peer.reply(cookies[-1]).error == 0
    assert peer.bed.core.memory(0, SIZE) == bytes(want)
    # Many headers behind large writes.
    several = [peer.start(WRITE, n * PAGE, data=pattern(n * 997 + 131072)) for n in range(4)]
    several += [peer.start(READ, n * PAGE, 512) for n in range(64)]
    assert [peer.reply(cookie).error for cookie in several] == [0] * len(several)


def test_a_client_that_goes_within_a_large_write_leaves_nothing(bed: Bed) -> None:
    """Its pages are half full; the bed counts pages at its end."""
    for sent in (28, 5000, 100_000):
        peer = NbdPeer(bed)
        peer.good(WRITE, 0, data=pattern(131072))
        peer.send_raw(peer.frame(WRITE, 0, 131072) + bytes(sent))
        bed.counts()
        peer.socket.close()
        assert peer.ended() == CLOSED
    assert bed.core.memory(0, 131072) == pattern(131072)


def test_first_requests_may_come_with_the_negotiation(bed: Bed) -> None:
    frame = struct.pack(">IHHQQI", 0x25609513, 0, WRITE, 7, 0, 5) + b"hello"
    peer = NbdPeer(bed, pending=frame[:30])
    peer.expect(7)
    peer.send_raw(frame[30:])
    assert peer.reply(7).error == 0
    assert bed.core.memory(0, 5) == b"hello"


def test_many_requests_in_one_send_are_all_answered(peer: NbdPeer) -> None:
    wire = b""
    for i in range(200):
        wire += peer.frame(WRITE, i * PAGE, cookie=1000 + i, data=bytes([i]) * PAGE)
        peer.expect(1000 + i)
    peer.send_raw(wire)
    assert all(peer.reply(1000 + i).error == 0 for i in range(200))
    for i in range(200):
        assert peer.good(READ, i * PAGE, PAGE).data == bytes([i]) * PAGE


def test_answers_come_as_requests_end_not_as_they_came(peer: NbdPeer) -> None:
    peer.bed.core.hold(HOLD_FREE)
    held = peer.start(WRITE, 0, data=pattern(PAGE))
    peer.bed.counts()
    peer.bed.wait_requests(1)
    peer.bed.core.hold(HOLD_NOT)
    quick = peer.start(FLUSH)
    peer.reply(quick)
    peer.bed.core.release()
    assert peer.reply(held).error == 0
    assert peer.order == [quick, held]


def test_a_long_read_with_others_beside_it_is_whole(peer: NbdPeer) -> None:
    peer.bed.core.fill(0, pattern(SIZE))
    long = peer.start(READ, 3, SIZE - 3)
    short = [peer.start(READ, i * 1000, 1000) for i in range(50)]
    assert peer.reply(long).data == pattern(SIZE)[3:]
    for i, cookie in enumerate(short):
        assert peer.reply(cookie).data == pattern(SIZE)[i * 1000 : i * 1000 + 1000]


def test_nothing_comes_between_the_data_of_a_simple_reply() -> None:
    """A pool so small that a read is made and sent bit by bit, and an answer that is ready in the midst of it."""
    bed = Bed(pool_pages=120)
    try:
        bed.core.fill(0, pattern(MIB))
        peer = NbdPeer(bed, structured=False)
        bed.core.hold(HOLD_FREE)
        held = peer.start(FLUSH)
        bed.wait_requests(1)
        bed.core.hold(HOLD_NOT)
        long = peer.start(READ, 0, MIB)
        # Its header is out.
        assert select.select([peer.socket], [], [], 10)[0]
        bed.core.release()
        bed.counts()
        assert peer.reply(long).data == pattern(MIB)
        assert peer.reply(held).error == 0
        assert peer.order == [long, held]
    finally:
        bed.close()


def test_random_requests_leave_what_a_plain_array_has(peer: NbdPeer) -> None:
    dice = random.Random(7)
    want = bytearray(SIZE)
    for _ in range(300):
        length = dice.choice([1, 7, 512, 4096, 5000, 70000])
        offset = dice.randrange(SIZE - length)
        kind = dice.choice([READ, WRITE, ZEROES, CACHE, FLUSH])
        if kind == WRITE:
            data = dice.randbytes(length)
            want[offset : offset + length] = data
            peer.good(WRITE, offset, data=data, flags=dice.choice([0, FUA]))
        elif kind == ZEROES:
            want[offset : offset + length] = bytes(length)
            peer.good(ZEROES, offset, length, flags=dice.choice([0, FUA, NO_HOLE, FAST]))
        elif kind == READ:
            assert peer.good(READ, offset, length).data == want[offset : offset + length]
        elif kind == CACHE:
            peer.good(CACHE, offset, length)
        else:
            peer.good(FLUSH)
    assert peer.good(READ, 0, SIZE).data == want


def test_trim_gives_back_whole_pages_only(peer: NbdPeer) -> None:
    peer.bed.core.fill(0, pattern(4 * PAGE))
    peer.good(TRIM, 100, 3 * PAGE)
    assert peer.bed.core.memory(0, PAGE) == pattern(PAGE)
    assert peer.bed.core.memory(PAGE, 2 * PAGE) == bytes(2 * PAGE)
    assert peer.bed.core.memory(3 * PAGE, PAGE) == pattern(4 * PAGE)[3 * PAGE :]
    before = peer.bed.counts()[2]
    peer.good(TRIM, 5, 100)
    assert peer.bed.counts()[2] == before


@pytest.mark.parametrize("kind", [READ, WRITE, TRIM, CACHE, ZEROES])
def test_nothing_is_done_about_no_bytes(peer: NbdPeer, kind: int) -> None:
    assert peer.good(kind, 512, 0).data == b""

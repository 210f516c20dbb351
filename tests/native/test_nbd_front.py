"""NBD transmission phase in the core, over a socket pair against a volume in memory."""

from __future__ import annotations

import contextlib
import random
import select
import struct
from collections.abc import Iterator

import pytest

from tests.support.front_bed import HOLD_FREE, HOLD_LOGGED, HOLD_NOT, Bed, pattern
from tests.support.nbd_bed import (
    ASKED,
    CACHE,
    CLOSED,
    DF,
    DISC,
    DISCONNECTED,
    EINVAL,
    EIO,
    ENOSPC,
    ENOTSUP,
    EOVERFLOW,
    ESHUTDOWN,
    FAST,
    FLUSH,
    FUA,
    HOLE_ZERO,
    NO_HOLE,
    PATH,
    PROTOCOL,
    READ,
    REQ_ONE,
    SILENT,
    STATUS,
    TRIM,
    VOLUME,
    WRITE,
    ZEROES,
    NbdPeer,
)
from tests.support.needs import needs_io_uring

pytestmark = needs_io_uring()

PAGE = 4096
MIB = 1 << 20
SIZE = 1024 * PAGE


@pytest.fixture
def bed() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.close()


@pytest.fixture(params=[True, False], ids=["structured", "simple"])
def peer(bed: Bed, request: pytest.FixtureRequest) -> NbdPeer:
    return NbdPeer(bed, structured=request.param)


# ---------------------------------------------------------------- data


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


# ---------------------------------------------------------------- structured replies


def test_a_read_of_many_pieces_is_chunks(bed: Bed) -> None:
    peer = NbdPeer(bed)
    bed.core.fill(0, pattern(3 * MIB))
    reply = peer.good(READ, 1, 3 * MIB - 1)
    assert reply.data == pattern(3 * MIB)[1:]
    assert len(reply.chunks) == 3


@pytest.mark.parametrize(
    ("length", "error"), [(65536, 0), (MIB, 0), (MIB + 1, EOVERFLOW), (2 * MIB, EOVERFLOW)]
)
def test_df_is_one_chunk_or_overflow(bed: Bed, length: int, error: int) -> None:
    peer = NbdPeer(bed)
    reply = peer.ask(READ, 0, length, flags=DF)
    assert reply.error == error
    assert len(reply.chunks) == (0 if error else 1)


def test_errors_have_a_sentence(bed: Bed) -> None:
    assert NbdPeer(bed).ask(READ, SIZE, 1).message != ""


# ---------------------------------------------------------------- block status


def test_status_tells_data_from_holes(bed: Bed) -> None:
    peer = NbdPeer(bed, context=9)
    bed.core.fill(2 * PAGE, pattern(PAGE))
    reply = peer.good(STATUS, 0, 8 * PAGE)
    assert reply.extents == [(2 * PAGE, HOLE_ZERO), (PAGE, 0), (5 * PAGE, HOLE_ZERO)]
    assert reply.contexts == [9]


def test_status_begins_and_ends_where_it_was_asked(bed: Bed) -> None:
    peer = NbdPeer(bed)
    bed.core.fill(PAGE, pattern(PAGE))
    assert peer.good(STATUS, 100, PAGE).extents == [(PAGE - 100, HOLE_ZERO), (100, 0)]
    assert peer.good(STATUS, 100, 5).extents == [(5, HOLE_ZERO)]
    assert peer.good(STATUS, SIZE - 1, 1).extents == [(1, HOLE_ZERO)]


def test_status_of_one_extent(bed: Bed) -> None:
    peer = NbdPeer(bed)
    bed.core.fill(PAGE, pattern(PAGE))
    assert peer.good(STATUS, 0, SIZE, flags=REQ_ONE).extents == [(PAGE, HOLE_ZERO)]


@pytest.mark.parametrize("rc", [-5, -12])
def test_status_that_cannot_be_known_is_data(bed: Bed, rc: int) -> None:
    bed.core.fail_with(rc, states=True)
    assert NbdPeer(bed).good(STATUS, 10, 2 * PAGE).extents == [(2 * PAGE, 0)]


def test_a_thousand_changes_end_the_list_early(bed: Bed) -> None:
    peer = NbdPeer(bed)
    for page in range(0, 1024, 2):
        bed.core.fill(page * PAGE, b"x")
    reply = peer.good(STATUS, 0, SIZE)
    assert len(reply.extents) == 500
    assert all(length == PAGE for length, _ in reply.extents)


def test_status_without_a_context_is_invalid(bed: Bed) -> None:
    assert NbdPeer(bed, allocation=False).ask(STATUS, 0, PAGE).error == EINVAL


# ---------------------------------------------------------------- what must not be asked


@pytest.mark.parametrize(
    "bad",
    [
        (READ, SIZE, 1, 0, EINVAL),
        (READ, SIZE - 10, 11, 0, EINVAL),
        (READ, (1 << 64) - 1, 10, 0, EINVAL),
        (CACHE, SIZE, 1, 0, EINVAL),
        (TRIM, SIZE, 1, 0, EINVAL),
        (ZEROES, SIZE, 1, 0, ENOSPC),
        (ZEROES, 0, 0xFFFFFFFF, 0, ENOSPC),
        (READ, 0, PAGE, NO_HOLE, EINVAL),
        (READ, 0, PAGE, 0x8000, EINVAL),
        (FLUSH, 0, 1, 0, EINVAL),
        (FLUSH, 1, 0, 0, EINVAL),
        (FLUSH, 0, 0, FAST, EINVAL),
        (TRIM, 0, PAGE, NO_HOLE, EINVAL),
        (CACHE, 0, PAGE, DF, EINVAL),
        (ZEROES, 0, PAGE, DF, EINVAL),
        (ZEROES, 0, PAGE, FAST | NO_HOLE, ENOTSUP),
        (8, 0, 0, 0, EINVAL),
        (0xFFFF, 0, 100, 0, EINVAL),
    ],
)
def test_bad_requests_are_refused_and_the_next_is_served(
    peer: NbdPeer, bad: tuple[int, int, int, int, int]
) -> None:
    kind, offset, length, flags, error = bad
    assert peer.ask(kind, offset, length, flags=flags).error == error
    peer.good(FLUSH, flags=FUA)


@pytest.mark.parametrize(
    ("offset", "flags", "error"), [(SIZE - 1, 0, ENOSPC), (0, NO_HOLE, EINVAL), (0, DF, EINVAL)]
)
def test_data_of_a_bad_write_is_thrown_away(
    peer: NbdPeer, offset: int, flags: int, error: int
) -> None:
    assert peer.ask(WRITE, offset, data=pattern(300000), flags=flags).error == error
    peer.good(FLUSH)
    assert peer.bed.core.memory(0, PAGE) == bytes(PAGE)


def test_df_is_unknown_without_structured_replies(bed: Bed) -> None:
    assert NbdPeer(bed, structured=False).ask(READ, 0, PAGE, flags=DF).error == EINVAL


def test_a_bad_magic_ends_the_connection(peer: NbdPeer) -> None:
    peer.send_raw(b"\x25\x60\x95\x14" + bytes(24))
    assert peer.closed()
    assert peer.ended() == PROTOCOL


def test_a_write_nobody_has_to_swallow_ends_the_connection(peer: NbdPeer) -> None:
    peer.send_raw(struct.pack(">IHHQQI", 0x25609513, 0, WRITE, 1, 0, (32 << 20) + 1))
    assert peer.closed()
    assert peer.ended() == PROTOCOL


def test_garbage_never_stops_the_core(bed: Bed) -> None:
    dice = random.Random(11)
    for _ in range(60):
        peer = NbdPeer(bed, structured=dice.random() < 0.5)
        wire = b"".join(
            struct.pack(
                ">IHHQQI",
                0x25609513,
                dice.choice([0, 1, 2, 4, 8, 16, dice.randrange(65536)]),
                dice.choice([0, 1, 3, 4, 5, 6, 7, dice.randrange(65536)]),
                dice.randrange(1 << 64),
                dice.choice([0, 512, SIZE - 512, dice.randrange(1 << 64)]),
                dice.choice([0, 512, 100000, dice.randrange(1 << 32)]),
            )
            + dice.randbytes(dice.choice([0, 0, 512]))
            for _ in range(20)
        )
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            peer.send_raw(wire)
        peer.socket.close()
    NbdPeer(bed).good(FLUSH)


# ---------------------------------------------------------------- room


def test_more_requests_than_the_table_holds_wait_in_the_socket(peer: NbdPeer) -> None:
    peer.bed.core.hold(HOLD_FREE)
    cookies = range(1000, 1300)
    for cookie in cookies:
        peer.expect(cookie)
    peer.send_raw(b"".join(peer.frame(FLUSH, cookie=cookie) for cookie in cookies))
    peer.bed.wait_requests(128)
    assert peer.bed.counts()[2] == 128
    peer.bed.core.hold(HOLD_NOT)
    peer.bed.core.release()
    assert all(peer.reply(cookie).error == 0 for cookie in cookies)


def test_without_pages_the_socket_waits(peer: NbdPeer) -> None:
    peer.bed.core.leave_pages(0)
    cookie = peer.start(WRITE, 0, data=pattern(2 * PAGE))
    other = NbdPeer(peer.bed, structured=peer.structured)
    waiting = other.start(READ, 0, PAGE)
    before = peer.bed.counts()[2]
    peer.bed.core.leave_pages(1 << 30)
    assert peer.reply(cookie).error == 0
    assert other.reply(waiting).error == 0
    assert before == 0


def test_connections_that_share_few_pages_all_get_on() -> None:
    bed = Bed(pool_pages=160)
    try:
        peers = [NbdPeer(bed) for _ in range(4)]
        cookies = []
        for i, peer in enumerate(peers):
            cookies.append(
                [
                    peer.start(WRITE, i * MIB, data=pattern(200000)),
                    peer.start(READ, i * MIB, 300000),
                ]
            )
        for peer, (write, read) in zip(peers, cookies, strict=True):
            assert peer.reply(write).error == 0
            assert len(peer.reply(read).data) == 300000
        for i, peer in enumerate(peers):
            assert peer.good(READ, i * MIB, 200000).data == pattern(200000)
    finally:
        bed.close()


def test_a_reader_that_takes_nothing_is_ended(bed: Bed) -> None:
    peer = NbdPeer(bed, silence_ns=200_000_000)
    for _ in range(8):
        peer.start(READ, 0, MIB)
    assert peer.ended() == SILENT


def test_a_client_that_stops_within_a_request_is_ended_and_an_idle_one_is_not(bed: Bed) -> None:
    idle = NbdPeer(bed, silence_ns=200_000_000)
    peer = NbdPeer(bed, silence_ns=200_000_000)
    peer.send_raw(peer.frame(WRITE, 0, PAGE)[:20])
    assert peer.ended() == SILENT
    half = NbdPeer(bed, silence_ns=200_000_000)
    half.send_raw(half.frame(WRITE, 0, PAGE) + bytes(100))
    assert half.ended() == SILENT
    large = NbdPeer(bed, silence_ns=200_000_000)
    large.send_raw(large.frame(WRITE, 0, 131072) + bytes(65536))
    assert large.ended() == SILENT
    idle.good(FLUSH)


# ---------------------------------------------------------------- the end


def test_disc_is_answered_by_the_end_after_all_is_answered(peer: NbdPeer) -> None:
    peer.bed.core.hold(HOLD_LOGGED)
    cookie = peer.start(WRITE, 0, data=pattern(PAGE))
    peer.start(DISC)
    peer.bed.wait_requests(1)
    peer.bed.core.hold(HOLD_NOT)
    peer.bed.core.release()
    assert peer.reply(cookie).error == 0
    assert peer.closed()
    assert peer.ended() == DISCONNECTED


def test_a_client_that_goes_takes_back_what_has_no_lsn(peer: NbdPeer) -> None:
    peer.bed.core.hold(HOLD_FREE)
    peer.start(WRITE, 0, data=pattern(PAGE))
    peer.bed.wait_requests(1)
    peer.socket.close()
    assert peer.ended() == CLOSED
    peer.bed.core.release()
    assert peer.bed.core.memory(0, PAGE) == bytes(PAGE)


def test_the_control_side_and_the_volume_can_end_it(bed: Bed) -> None:
    peer = NbdPeer(bed)
    bed.core.end(peer.key)
    assert peer.ended() == ASKED
    other = NbdPeer(bed)
    bed.core.end_all()
    assert other.ended() == VOLUME


def test_a_request_with_an_lsn_outlives_its_connection(peer: NbdPeer) -> None:
    peer.bed.core.hold(HOLD_LOGGED)
    peer.start(WRITE, 0, data=pattern(PAGE))
    peer.bed.wait_requests(1)
    peer.bed.core.end(peer.key)
    assert peer.bed.outlives_a_turn()
    peer.bed.core.hold(HOLD_NOT)
    peer.bed.core.release()
    assert peer.ended() == ASKED
    assert peer.bed.core.memory(0, PAGE) == pattern(PAGE)


# ---------------------------------------------------------------- the gate


@pytest.mark.parametrize("kind", [READ, WRITE, FLUSH, TRIM, CACHE, ZEROES])
def test_a_closed_gate_gives_neither_data_nor_success_and_ends_the_connection(
    peer: NbdPeer, kind: int
) -> None:
    peer.bed.core.fill(0, pattern(PAGE))
    peer.bed.core.set_gate(False)
    reply = peer.ask(
        kind, 0, 0 if kind in (FLUSH, WRITE) else PAGE, data=b"x" * PAGE if kind == WRITE else b""
    )
    assert (reply.error, reply.chunks) == (ESHUTDOWN, [])
    assert peer.closed()
    assert peer.ended() == PATH


def test_a_closed_gate_tells_nothing_of_allocation(bed: Bed) -> None:
    peer = NbdPeer(bed)
    bed.core.set_gate(False)
    reply = peer.ask(STATUS, 0, PAGE)
    assert (reply.error, reply.extents) == (ESHUTDOWN, [])
    assert "primary" in reply.message


def test_what_is_under_way_when_the_volume_is_superseded_is_answered_then_the_end(
    peer: NbdPeer,
) -> None:
    peer.bed.core.hold(HOLD_FREE)
    cookies = [peer.start(WRITE, i * PAGE, data=pattern(PAGE)) for i in range(3)]
    peer.bed.wait_requests(3)
    peer.bed.core.set_gate(False)
    peer.bed.core.fail_with(-116)
    peer.bed.core.hold(HOLD_NOT)
    peer.bed.core.release()
    assert [peer.reply(cookie).error for cookie in cookies] == [ESHUTDOWN] * 3
    assert peer.closed()
    assert peer.ended() == PATH


def test_a_gate_that_closes_before_the_answer_stops_it(peer: NbdPeer) -> None:
    peer.bed.core.fill(0, pattern(PAGE))
    peer.bed.core.hold(HOLD_LOGGED)
    cookie = peer.start(READ, 0, PAGE)
    peer.bed.wait_requests(1)
    peer.bed.core.set_gate(False)
    peer.bed.core.hold(HOLD_NOT)
    peer.bed.core.release()
    reply = peer.reply(cookie)
    assert (reply.error, reply.chunks) == (ESHUTDOWN, [])


@pytest.mark.parametrize(
    ("rc", "error"), [(-5, EIO), (-28, ENOSPC), (-22, EINVAL), (-12, 12), (-61, EIO)]
)
@pytest.mark.parametrize("kind", [READ, WRITE])
def test_failures_of_the_volume_have_their_error_and_the_connection_goes_on(
    peer: NbdPeer, kind: int, rc: int, error: int
) -> None:
    peer.bed.core.fail_with(rc)
    assert (
        peer.ask(
            kind, 0, PAGE if kind == READ else 0, data=b"x" * 2 * MIB if kind == WRITE else b""
        ).error
        == error
    )
    peer.bed.core.fail_with(0)
    peer.good(FLUSH)


def test_an_error_behind_the_header_of_a_simple_reply_ends_the_connection(bed: Bed) -> None:
    """More than a send can hold is under way when the gate closes: the header is out, the data must not follow."""
    peer = NbdPeer(bed, structured=False)
    peer.start(READ, 0, SIZE)
    assert peer.socket.recv(16)[:8] == struct.pack(">II", 0x67446698, 0)
    bed.core.set_gate(False)
    bed.counts()
    received = 0
    while part := peer.socket.recv(1 << 20):
        received += len(part)
    assert received < SIZE
    assert peer.ended() == PATH

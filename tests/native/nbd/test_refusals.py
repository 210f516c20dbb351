"""Requests of NBD that must not be made, and garbage."""

from __future__ import annotations

import contextlib
import random
import struct

import pytest

from tests.support.front_bed import Bed, pattern
from tests.support.nbd_bed import (
    CACHE,
    DF,
    EINVAL,
    ENOSPC,
    ENOTSUP,
    FAST,
    FLUSH,
    FUA,
    NO_HOLE,
    PAGE,
    PROTOCOL,
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

"""Structured replies and block status of NBD in the core."""

from __future__ import annotations

import pytest

from tests.support.front_bed import Bed, pattern
from tests.support.nbd_bed import (
    DF,
    EINVAL,
    EOVERFLOW,
    HOLE_ZERO,
    MIB,
    PAGE,
    READ,
    REQ_ONE,
    SIZE,
    STATUS,
    NbdPeer,
)
from tests.support.needs import needs_io_uring

pytestmark = needs_io_uring()


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

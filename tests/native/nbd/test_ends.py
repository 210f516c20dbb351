"""Ends of NBD connections: by the client, by the gate, by a failure of the volume."""

from __future__ import annotations

import struct

import pytest

from tests.support.front_bed import HOLD_FREE, HOLD_LOGGED, HOLD_NOT, Bed, pattern
from tests.support.nbd_bed import (
    ASKED,
    CACHE,
    CLOSED,
    DISC,
    DISCONNECTED,
    EINVAL,
    EIO,
    ENOSPC,
    ESHUTDOWN,
    FLUSH,
    MIB,
    PAGE,
    PATH,
    READ,
    SIZE,
    STATUS,
    TRIM,
    VOLUME,
    WRITE,
    ZEROES,
    NbdPeer,
)
from tests.support.needs import needs_io_uring

pytestmark = needs_io_uring()


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

"""Ends of NVMe/TCP I/O queues: what has no LSN dies with them, what has one is waited for."""

from __future__ import annotations

import struct

from tests.support.front_bed import (
    ASKED,
    CLOSED,
    HOLD_FREE,
    HOLD_LOGGED,
    HOLD_NOT,
    LOGOUT_CAUSE,
    PROTOCOL,
    VOLUME,
    Bed,
    pattern,
)
from tests.support.needs import needs_io_uring
from tests.support.nvme_bed import (
    DISCONNECT,
    FABRICS,
    H2C_TERM,
    IN_CAPSULE,
    R2T,
    SGL,
    WRITE,
    Host,
    common,
    sqe,
)

pytestmark = needs_io_uring()


def test_disconnect_is_answered_and_then_closed(bed: Bed, host: Host) -> None:
    host.capsule(struct.pack("<BBHB59x", FABRICS, SGL, 9, DISCONNECT))
    assert host.receive().status == 0
    assert host.closed()
    assert bed.wait("ended")[1:] == (host.key, LOGOUT_CAUSE)


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

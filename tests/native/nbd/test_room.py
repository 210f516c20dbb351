"""More requests of NBD than there is room for, and clients that take nothing."""

from __future__ import annotations

from tests.support.front_bed import HOLD_FREE, HOLD_NOT, Bed, pattern
from tests.support.nbd_bed import FLUSH, MIB, PAGE, READ, SILENT, WRITE, NbdPeer
from tests.support.needs import needs_io_uring

pytestmark = needs_io_uring()


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
    # In one piece: whoever asks one by one may be found to take nothing before the last.
    peer.send_raw(b"".join(peer.frame(READ, 0, MIB, cookie=cookie) for cookie in range(1, 9)))
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

"""UNMAP, WRITE SAME, VERIFY and WRITE ATOMIC."""

from __future__ import annotations

import struct

import pytest

from tests.support.front_bed import (
    COMMAND,
    FINAL,
    HOLD_LOGGED,
    HOLD_NOT,
    MANAGE,
    NOP_OUT,
    WRITES,
    Bed,
    Peer,
    Result,
    pattern,
    unmap,
    write_same_16,
)
from tests.support.needs import needs_io_uring

pytestmark = needs_io_uring()

GOOD, CHECK, BUSY, TASK_ABORTED = 0, 2, 8, 0x40
ABORT_TASK, ABORT_TASK_SET, CLEAR_TASK_SET, LUN_RESET, WARM_RESET = 1, 2, 4, 5, 6


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
    bed.wait_requests(1)
    before = bed.counts()[2]
    manage = peer.request(MANAGE, flags=FINAL | ABORT_TASK, word20=itt, immediate=True)
    ping = peer.request(NOP_OUT, immediate=True)
    assert peer.receive().itt == ping, "it is known there"
    bed.core.hold(HOLD_NOT)
    bed.core.release()
    answer = peer.receive()
    assert (answer.itt, answer.status) == (itt, TASK_ABORTED)
    assert peer.receive().itt == manage
    assert bed.counts()[2] == before, "no further step"


def verify(peer: Peer, cdb: bytes, data: bytes) -> Result:
    first = data[: peer.first_burst]
    itt = peer.request(
        COMMAND, flags=FINAL | WRITES | 1, word20=len(data), specific=cdb, data=first
    )
    return peer.finish(itt, data)


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

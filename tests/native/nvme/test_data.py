"""Data of NVMe/TCP I/O queues in the core: in capsules and PDUs, with digests, in any pieces, with too few pages."""

from __future__ import annotations

import random
import socket

import pytest

from tests.support.front_bed import HOLD_FREE, HOLD_NOT, Bed, pattern
from tests.support.needs import needs_io_uring
from tests.support.nvme_bed import (
    C2H_DATA,
    CAPSULE_CMD,
    DNR,
    FIELD,
    FLUSH,
    IN_CAPSULE,
    INTERRUPTED,
    LAST,
    R2T,
    READ,
    SUCCESS,
    WRITE,
    Host,
    sqe,
)
from tests.support.nvme_pdus import CAPSULE_RESP

pytestmark = needs_io_uring()


@pytest.mark.parametrize("in_capsule", [True, False])
def test_what_was_written_is_read(bed: Bed, host: Host, in_capsule: bool) -> None:
    data = pattern(8192)
    result = host.write(8, data, in_capsule=in_capsule)
    assert result.status == 0
    kinds = [pdu.kind for pdu in result.pdus]
    assert kinds == ([CAPSULE_RESP] if in_capsule else [R2T, CAPSULE_RESP])
    assert bed.core.memory(4096, 8192) == data
    result = host.read(8, 16)
    assert (result.status, result.data) == (0, data)
    assert [pdu.kind for pdu in result.pdus] == [C2H_DATA, CAPSULE_RESP]


@pytest.mark.parametrize(
    ("lba", "blocks"), [(0, 1), (3, 5), (7, 2), (1, 1024), (8191, 1), (5, 8 * 127 + 3)]
)
def test_data_may_begin_and_end_anywhere(bed: Bed, host: Host, lba: int, blocks: int) -> None:
    data = bytearray(pattern(4 << 20))
    bed.core.fill(0, bytes(data))
    assert host.read(lba, blocks).data == data[lba * 512 : (lba + blocks) * 512]
    fresh = random.Random(lba).randbytes(blocks * 512)
    assert host.write(lba, fresh).status == 0
    data[lba * 512 : (lba + blocks) * 512] = fresh
    assert bed.core.memory(0, 4 << 20) == bytes(data)


@pytest.mark.parametrize("header_digest", [False, True])
@pytest.mark.parametrize("data_digest", [False, True])
@pytest.mark.parametrize("data_align", [4, 32, 128])
def test_digests_and_alignment_as_agreed(
    bed: Bed, header_digest: bool, data_digest: bool, data_align: int
) -> None:
    host = Host.connect(
        bed, header_digest=header_digest, data_digest=data_digest, data_align=data_align
    )
    host.chunk = 5000 * 4
    data = pattern(65536)
    assert host.write(3, data).status == 0
    assert host.write(600, data[:8192], in_capsule=True).status == 0
    result = host.read(3, 128)
    assert result.data == data
    assert result.pdus[0].head[3] % data_align == 0
    assert host.read(600, 16).data == data[:8192]


def test_every_byte_may_come_alone(bed: Bed) -> None:
    host = Host.connect(bed, header_digest=True, data_digest=True)
    host.trickle = True
    data = pattern(4096)
    assert host.write(1, data, in_capsule=True).status == 0
    assert host.write(9, data).status == 0
    assert host.read(1, 16).data == data * 2


def test_padding_before_data_is_taken(bed: Bed, host: Host) -> None:
    data = pattern(512)
    host.capsule(sqe(WRITE, 7, lba=1, length=512, sgl=IN_CAPSULE), data, pad=48)
    assert host.finish(7).status == 0
    assert bed.core.memory(512, 512) == data


def test_without_flow_control_data_carries_the_completion(bed: Bed) -> None:
    host = Host.connect(bed, flow_control=False)
    bed.core.fill(0, pattern(4096))
    result = host.read(0, 8)
    assert [pdu.kind for pdu in result.pdus] == [C2H_DATA]
    assert result.pdus[0].flags == SUCCESS | LAST
    assert host.start(FLUSH, blocks=1)
    assert host.receive().status == 0


def test_sqhd_counts_completions_and_wraps(bed: Bed) -> None:
    host = Host.connect(bed, depth=5, sq_head=1)
    heads = [host.finish(host.start(FLUSH)).pdus[-1].sqhd for _ in range(12)]
    assert heads == [(2 + i) % 5 for i in range(12)]


def test_bytes_that_came_with_connect_are_looked_at(bed: Bed) -> None:
    framing = Host(socket.socket(), {})
    framing.socket.close()
    pending = framing.pdu(CAPSULE_CMD, sqe(READ, 5, blocks=8, length=4096))
    bed.core.fill(0, pattern(4096))
    host = Host.connect(bed, pending=pending)
    assert host.finish(5).data == pattern(4096)


def test_many_commands_at_once_are_all_answered(bed: Bed, host: Host) -> None:
    content = pattern(4 << 20)
    bed.core.fill(0, content)
    cids = {}
    for i in range(127):
        cids[host.start(READ, lba=i * 8, blocks=8, length=4096)] = i
    for _ in range(127):
        data, answer = host.receive(), host.receive()
        assert (data.kind, answer.status, data.cid) == (C2H_DATA, 0, answer.cid)
        at = cids.pop(answer.cid) * 4096
        assert data.data == content[at : at + 4096]
    assert not cids


def test_answers_come_in_the_order_of_their_ends(bed: Bed, host: Host) -> None:
    bed.core.hold(HOLD_FREE)
    held = host.start(READ, blocks=8, length=4096)
    bed.wait_requests(1)
    bed.core.hold(HOLD_NOT)
    assert host.finish(host.start(FLUSH)).status == 0
    bed.core.release()
    assert host.finish(held).status == 0


def test_without_pages_a_command_waits(bed: Bed, host: Host) -> None:
    bed.core.leave_pages(4)
    cid = host.start(READ, blocks=8, length=4096)
    before = bed.counts()[2]
    bed.core.leave_pages(1 << 30)
    assert host.finish(cid).status == 0
    assert before == 0


def test_queues_that_starve_each_other_are_told_to_try_again(bed: Bed) -> None:
    host = Host.connect(bed)
    first = host.take_cid()
    host.capsule(sqe(WRITE, first, blocks=1024, length=524288))
    r2t = host.receive()
    assert r2t.kind == R2T
    bed.core.leave_pages(4)
    second = host.take_cid()
    host.capsule(sqe(WRITE, second, lba=2048, blocks=8, length=4096))
    host.send_data(r2t, pattern(524288))
    answers = {pdu.cid: pdu.status for pdu in (host.receive(), host.receive())}
    assert answers == {first: 0, second: INTERRUPTED}


@pytest.mark.parametrize("chunk", [1, 511, 4096, 5000, 65536, 131072])
def test_data_may_come_in_pieces_of_any_size(bed: Bed, host: Host, chunk: int) -> None:
    length = 4096 if chunk == 1 else 131072
    host.chunk = chunk
    assert host.write(3, pattern(length, 9)).status == 0
    assert host.read(3, length // 512).data == pattern(length, 9)


def test_the_largest_write_comes_whole_and_a_larger_one_is_refused(bed: Bed, host: Host) -> None:
    """It begins and ends within a page, so it touches one page more than it is long."""
    content = pattern(524288, 3)
    written = host.write(5, content)
    assert [pdu.kind for pdu in written.pdus] == [R2T, CAPSULE_RESP], "one R2T asks for all of it"
    assert written.status == 0
    assert host.read(5, 1024).data == content
    assert host.write(5, bytes(524288 + 512)).status == FIELD | DNR
    assert host.read(5, 1024).data == content

"""Damaged blocks of checksums: waited for, rebuilt from a peer; what nobody has any more is an error and not data."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from sparrow.base.errors import DamagedData, Unavailable
from sparrow.base.ids import Lsn
from sparrow.dataplane import machine
from sparrow.dataplane.native import room as native_room
from sparrow.formats.sums import PAGES_PER_BLOCK
from sparrow.ports.dataplane import DigestOutcome, DiskFailed, PoolFull, SumsDamaged
from tests.native.test_core_damage import applied
from tests.support.core_client import page_of
from tests.support.core_cluster import DEMO, CoreCluster, CoreNode, core_cluster
from tests.support.core_files import flip_bit
from tests.support.waiting import WAIT_S, until

MEDIUM_ERROR = 0x03
NOT_READY = 0x02
FAR = PAGES_PER_BLOCK + 1


async def damaged_pair(cluster: CoreCluster) -> tuple[CoreNode, CoreNode]:
    """A primary whose first block of sums is damaged on disk, and a whole follower. Pages 0 to 7 and FAR are data."""
    a, b = cluster.nodes
    await cluster.open_term(a, followers=[b])
    client = await cluster.connect(a)
    for page in (*range(8), FAR):
        assert (await client.write(page, page_of(page, 1))).status == 0
    await cluster.caught_up(a, b)
    await a.plane.close_replica(DEMO)
    flip_bit(a.files() / "sums", 16)
    await a.plane.open_replica(DEMO)
    await cluster.open_term(a, followers=[b], epoch=2)
    return a, b


async def image_of(node: CoreNode, at: Lsn, block: int = 0) -> bytes:
    image = await node.plane.read_sums(DEMO, block, at_lsn=at)
    assert image.outcome is DigestOutcome.READY
    return image.block


async def test_a_damaged_block_is_rebuilt_from_a_peer_and_reads_wait_for_it() -> None:
    async with core_cluster(nodes=2, repair_s=WAIT_S) as cluster:
        a, b = await damaged_pair(cluster)
        client = await cluster.connect(a)
        reading = asyncio.create_task(client.read(0, 8))
        assert (await a.wait(SumsDamaged)).block == 0
        lsn = await cluster.caught_up(a, b)
        assert not reading.done(), "nothing is believed meanwhile"
        mended = await a.plane.mend_sums(DEMO, 0, lsn, (await image_of(b, lsn),))
        assert mended.outcome is DigestOutcome.READY
        assert mended.lost_pages == 0
        assert (await reading).data == b"".join(page_of(page, 1) for page in range(8))
        await cluster.assert_same(a, b)
        # On the disk too: what is read after another start is the block that was rebuilt.
        await a.plane.close_replica(DEMO)
        await a.plane.open_replica(DEMO)
        assert await cluster.read_page(a, 5) == page_of(5, 1)
        assert not a.heard(SumsDamaged)


async def test_what_was_written_since_keeps_its_own_sum_when_the_block_is_rebuilt() -> None:
    """The peer's block may be newer than the extents, or older than the log; both stay right."""
    async with core_cluster(nodes=2, repair_s=WAIT_S) as cluster:
        a, b = await damaged_pair(cluster)
        client = await cluster.connect(a)
        assert (await client.write(1, page_of(1, 2))).status == 0
        lsn = await cluster.caught_up(a, b)
        image = await image_of(b, lsn)
        assert (await client.write(2, page_of(2, 3))).status == 0
        reading = asyncio.create_task(client.read(0))
        await a.wait(SumsDamaged)
        mended = await a.plane.mend_sums(DEMO, 0, lsn, (image,))
        assert mended.outcome is DigestOutcome.READY
        await reading
        await a.plane.close_replica(DEMO)
        await a.plane.open_replica(DEMO)
        found = [await cluster.read_page(a, page) for page in range(4)]
        assert found == [page_of(0, 1), page_of(1, 2), page_of(2, 3), page_of(3, 1)]


async def test_the_flusher_waits_for_a_damaged_block_and_the_replica_is_not_condemned() -> None:
    async with core_cluster(nodes=2) as cluster:
        a, b = await damaged_pair(cluster)
        client = await cluster.connect(a)
        assert (await client.write(3, page_of(3, 2))).status == 0
        await a.wait(SumsDamaged)
        lsn = await cluster.caught_up(a, b)
        assert (await a.plane.status(DEMO)).log.applied_lsn < lsn
        assert (await client.write(4, page_of(4, 2))).status == 0, "clients do not notice"
        lsn = await cluster.caught_up(a, b)
        mended = await a.plane.mend_sums(DEMO, 0, lsn, (await image_of(b, lsn),))
        assert mended.outcome is DigestOutcome.READY

        async def flushed() -> bool:
            return (await a.plane.status(DEMO)).log.applied_lsn >= lsn

        await until(flushed)
        assert not a.heard(DiskFailed)
        await cluster.assert_same(a, b)


async def test_a_replica_is_closed_with_its_block_still_damaged_and_loses_nothing() -> None:
    async with core_cluster(nodes=2) as cluster:
        a, b = await damaged_pair(cluster)
        client = await cluster.connect(a)
        assert (await client.write(3, page_of(3, 2))).status == 0
        lsn = await cluster.caught_up(a, b)
        await a.plane.close_replica(DEMO)
        assert not a.heard(DiskFailed)
        report = await a.plane.open_replica(DEMO)
        assert report.log.last_lsn >= lsn
        assert report.log.applied_lsn < lsn, "what could not be applied is still in the log"


async def test_pages_nobody_has_a_sum_of_are_errors_until_they_are_written_or_mended() -> None:
    async with core_cluster(nodes=2) as cluster:
        a, b = await damaged_pair(cluster)
        client = await cluster.connect(a)
        reading = asyncio.create_task(client.read(0))
        await a.wait(SumsDamaged)
        mended = await a.plane.mend_sums(DEMO, 0, Lsn(0), ())
        assert mended.lost_pages == PAGES_PER_BLOCK
        assert (await reading).sense[0] == MEDIUM_ERROR
        assert (await client.read(500)).sense[0] == MEDIUM_ERROR, "a hole is not known to be one"
        assert (await client.read(FAR)).data == page_of(FAR, 1), "for exactly the pages concerned"
        assert (await client.write(0, page_of(0, 2))).status == 0
        assert (await client.read(0)).data == page_of(0, 2)

        async def mended_now() -> bool:
            lsn = await cluster.caught_up(a, b)
            try:
                found = await a.plane.mend_sums(DEMO, 0, lsn, (await image_of(b, lsn),))
            except Unavailable:
                return False  # the flusher is at work
            return found.outcome is DigestOutcome.READY and found.lost_pages == 0

        await until(mended_now)
        assert (await client.read(1)).data == page_of(1, 1)
        assert (await client.read(0)).data == page_of(0, 2)
        await cluster.assert_same(a, b)


async def test_a_write_that_fails_for_damaged_sums_leaves_nothing_to_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It covers parts of two pages. When room gets short it knows what is under the first, and waits for the sums of
    the second; nobody mends them. The next command has its place in the session, and builds upon its own page."""
    # What is read waits for a repair for some seconds: room is short well before.
    monkeypatch.setattr(native_room, "HEADROOM_EVERY_S", 0.01)
    edge = PAGES_PER_BLOCK - 1
    async with core_cluster(nodes=2, block_size=512, repair_s=5.0) as cluster:
        a, b = cluster.nodes
        await cluster.open_term(a, followers=[b])
        client = await cluster.connect(a)
        for page in (5, edge, edge + 1):
            assert (await client.write(8 * page, page_of(page, 1))).status == 0
        lsn = await cluster.caught_up(a, b)

        async def flushed() -> bool:
            return (await a.plane.status(DEMO)).log.applied_lsn >= lsn

        await until(flushed)
        await a.plane.close_replica(DEMO)
        for block in range(2):
            flip_bit(a.files() / "sums", 4096 * block + 16)
        await a.plane.open_replica(DEMO)
        await cluster.open_term(a, followers=[b], epoch=2)
        client = await cluster.connect(a)
        write = asyncio.create_task(client.write(8 * edge + 4, b"w" * 4096))
        await a.wait(SumsDamaged, block=0)
        monkeypatch.setattr(
            machine.os, "fstatvfs", lambda _fd: SimpleNamespace(f_bavail=100, f_frsize=4096)
        )
        await a.wait(PoolFull, full=True)
        lsn = await cluster.caught_up(a, b)
        mended = await a.plane.mend_sums(DEMO, 0, lsn, (await image_of(b, lsn),))
        assert mended.lost_pages == 0
        await a.wait(SumsDamaged, block=1)
        assert (await write).status != 0
        assert (await client.write(8 * 5, b"n" * 512)).status == 0
        assert (await client.read(8 * 5, 8)).data == b"n" * 512 + page_of(5, 1)[512:]


async def test_a_lost_page_is_repaired_by_a_page_that_is_neither_too_old_nor_too_new() -> None:
    async with core_cluster(nodes=2) as cluster:
        a, b = await damaged_pair(cluster)
        client = await cluster.connect(a)
        reading = asyncio.create_task(client.read(0))
        await a.wait(SumsDamaged)
        await a.plane.mend_sums(DEMO, 0, Lsn(0), ())
        assert (await reading).status != 0
        lsn = await cluster.caught_up(a, b)
        with pytest.raises(Unavailable):
            await a.plane.repair_page(DEMO, 1, Lsn(lsn + 1), page_of(1, 9))
        with pytest.raises(Unavailable):
            await a.plane.repair_page(DEMO, 1, Lsn(1), page_of(1, 9))
        as_of, data = await b.plane.read_page(DEMO, 1, at_least_lsn=Lsn(1))
        reading = asyncio.create_task(client.read(1))
        assert await a.plane.repair_page(DEMO, 1, as_of, data)
        assert (await reading).data == page_of(1, 1)
        await a.plane.close_replica(DEMO)
        await a.plane.open_replica(DEMO)
        assert await cluster.read_page(a, 1) == page_of(1, 1), "page and sum are on the disk"


async def test_a_block_is_taken_only_as_of_an_lsn_that_proves_it() -> None:
    """S22: a peer that is behind would bring back old sums, one that is ahead sums of pages that are not here yet."""
    async with core_cluster(nodes=2) as cluster:
        a, b = await damaged_pair(cluster)
        client = await cluster.connect(a)
        reading = asyncio.create_task(client.read(0))
        await a.wait(SumsDamaged)
        lsn = await cluster.caught_up(a, b)
        image = await image_of(b, lsn)
        ahead = await a.plane.mend_sums(DEMO, 0, Lsn(lsn + 1), (image,))
        assert ahead.outcome is DigestOutcome.BEHIND
        behind = await a.plane.mend_sums(DEMO, 0, Lsn(1), (image,))
        assert behind.outcome is DigestOutcome.PASSED
        broken = bytearray(image)
        broken[300] ^= 1
        with pytest.raises(DamagedData):
            await a.plane.mend_sums(DEMO, 0, lsn, (bytes(broken),))
        other = await image_of(b, lsn, block=1)
        with pytest.raises(DamagedData):
            await a.plane.mend_sums(DEMO, 0, lsn, (other,))
        with pytest.raises(DamagedData):
            await a.plane.read_sums(DEMO, 0, at_lsn=lsn)
        assert (
            await b.plane.read_sums(DEMO, 0, at_lsn=Lsn(lsn + 5))
        ).outcome is DigestOutcome.BEHIND
        assert (await reading).sense[0] == MEDIUM_ERROR


async def test_a_read_that_waits_for_a_repair_gets_the_path_error_when_the_gate_has_closed() -> (
    None
):
    """Another replica may have the page: a medium error would make the client give it up."""
    async with core_cluster(nodes=1, repair_s=5.0) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 2)
        await node.plane.close_replica(DEMO)
        flip_bit(node.files() / "sums", 16)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=3)
        client = await cluster.connect(node)
        reading = asyncio.create_task(client.read(0))
        await node.wait(SumsDamaged)
        await node.plane.close_gate(DEMO, "superseded")
        assert (await reading).sense[0] == NOT_READY

"""Damaged pages and sums: never returned, repaired from a peer, reported."""

from __future__ import annotations

import asyncio
import os

import pytest

from sparrow.base.errors import DamagedData, SparrowError
from sparrow.base.ids import Lsn
from sparrow.formats.sums import PAGES_PER_BLOCK
from sparrow.ports.dataplane import DigestOutcome, PageDamaged
from tests.support.core_client import page_of
from tests.support.core_cluster import DEMO, PAGE, CoreCluster, CoreNode, core_cluster
from tests.support.core_files import flip_bit
from tests.support.waiting import WAIT_S


async def applied(cluster: CoreCluster, node: CoreNode, pages: int) -> None:
    """Pages written and in the extents; the replica is primary and open."""
    await cluster.open_term(node)
    client = await cluster.connect(node)
    for page in range(pages):
        assert (await client.write(page, page_of(page, 1))).status == 0
    await node.plane.close_replica(DEMO)
    await node.plane.open_replica(DEMO)
    await cluster.open_term(node, epoch=2)


def drop_cache(node: CoreNode, name: str) -> None:
    fd = os.open(node.files() / name, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


async def test_a_damaged_page_is_never_returned_and_is_repaired_by_the_right_one() -> None:
    async with core_cluster(nodes=1, repair_s=WAIT_S) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 8)
        flip_bit(node.files() / "extents", 3 * PAGE + 77)
        client = await cluster.connect(node)
        waiting = asyncio.create_task(client.read(2, 3))
        assert (await node.wait(PageDamaged)).page == 3
        assert not waiting.done(), "the read waits for a peer's page"
        wrong = bytearray(page_of(3, 1))
        wrong[77] ^= 0x10
        with pytest.raises(DamagedData):
            await node.plane.repair_page(DEMO, 3, Lsn(1), bytes(wrong))
        assert not waiting.done(), "another peer may have the right one"
        assert not await node.plane.repair_page(DEMO, 3, Lsn(0), None), "nobody has"
        assert (await waiting).sense[0] == 0x03, "a medium error, not the wrong page"

        waiting = asyncio.create_task(client.read(2, 3))
        await node.wait(PageDamaged)
        assert await node.plane.repair_page(DEMO, 3, Lsn(1), page_of(3, 1))
        assert (await waiting).data == b"".join(page_of(page, 1) for page in (2, 3, 4))
        drop_cache(node, "extents")
        assert (await client.read(3)).data == page_of(3, 1), "mended on the disk"


async def test_a_damaged_page_that_nobody_repairs_becomes_a_medium_error_in_time() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 2)
        flip_bit(node.files() / "extents", PAGE)
        client = await cluster.connect(node)
        # Whoever reads has no more patience than a client of these tests.
        assert (await client.read(1)).sense[0] == 0x03
        assert (await client.read(0)).data == page_of(0, 1)


async def test_writing_a_damaged_page_mends_it() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 2)
        flip_bit(node.files() / "extents", PAGE)
        client = await cluster.connect(node)
        assert (await client.write(1, page_of(1, 2))).status == 0
        assert (await client.read(1)).data == page_of(1, 2)
        await node.plane.close_replica(DEMO)
        await node.plane.open_replica(DEMO)
        assert await cluster.read_page(node, 1) == page_of(1, 2)


async def test_a_digest_names_the_damaged_page() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 8)
        flip_bit(node.files() / "extents", 5 * PAGE + 1)
        lsn = await node.commit_lsn()
        found = await node.plane.page_digests(DEMO, at_lsn=lsn, first_page=0, page_count=8)
        assert found.outcome is DigestOutcome.DAMAGED
        assert found.damaged_pages == (5,)


async def test_a_page_is_asked_of_a_replica_only_when_it_is_whole_there() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 2)
        flip_bit(node.files() / "extents", 9)
        with pytest.raises(SparrowError):
            await cluster.read_page(node, 0)
        assert await cluster.read_page(node, 1) == page_of(1, 1)
        with pytest.raises(SparrowError):
            await cluster.read_page(node, 1, at_least=1 << 40)


async def test_a_flipped_bit_in_the_sums_is_found_and_no_page_is_believed() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 2)
        client = await cluster.connect(node)
        far = PAGES_PER_BLOCK + 1
        assert (await client.write(far, page_of(far, 1))).status == 0
        await node.plane.close_replica(DEMO)
        # The state of page 0 turns from data to hole: zeros would be returned if the block were believed.
        flip_bit(node.files() / "sums", 16)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=3)
        client = await cluster.connect(node)
        result = await client.read(0)
        assert result.status != 0
        assert result.sense[0] == 0x03
        assert (await client.read(far)).data == page_of(far, 1), "other blocks are whole"


async def test_pages_that_cannot_be_read_are_repaired_like_damaged_ones() -> None:
    """The disk gives an error, or fewer bytes than were asked for: the client hears nothing of it."""
    async with core_cluster(nodes=1, repair_s=WAIT_S) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 8)
        os.truncate(node.files() / "extents", 6 * PAGE)
        client = await cluster.connect(node)
        reading = asyncio.create_task(client.read(4, 4))
        for _ in range(2):
            page = (await node.wait(PageDamaged)).page
            assert page in {6, 7}
            assert await node.plane.repair_page(DEMO, page, Lsn(1), page_of(page, 1))
        answer = await reading
        assert answer.status == 0
        assert answer.data == b"".join(page_of(page, 1) for page in range(4, 8))

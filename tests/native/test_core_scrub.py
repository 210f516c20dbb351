"""Steps of a scrub: what is on the disk is looked at, past the page cache, and what is whole in memory is put back."""

from __future__ import annotations

import os

import pytest

from sparrow.authority.types import ReplicaState
from sparrow.base.errors import SparrowError
from sparrow.base.ids import Lsn, VolumeId
from sparrow.formats.sums import PAGES_PER_BLOCK
from sparrow.ports.dataplane import AtRest, DiskFailed, PageDamaged, SumsDamaged, VolumeStatus
from tests.native.test_core_damage import applied
from tests.support.core_client import page_of
from tests.support.core_cluster import DEMO, PAGE, PAGES, core_cluster
from tests.support.core_files import flip_bit


async def test_everything_whole_is_found_whole() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 300)
        assert await node.plane.check_superblock(DEMO) is AtRest.WHOLE
        for block in range(-(-PAGES // PAGES_PER_BLOCK)):
            found = await node.plane.check_sums(DEMO, block)
            assert (found.state, found.lost_pages) == (AtRest.WHOLE, 0)
        for first in range(0, PAGES, 256):
            assert await node.plane.check_pages(DEMO, first, 256) is None


async def test_a_damaged_page_is_named_and_reported() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 100)
        flip_bit(node.files() / "extents", 77 * PAGE + 5)
        assert await node.plane.check_pages(DEMO, 0, 100) == 77
        assert (await node.wait(PageDamaged)).page == 77
        assert await node.plane.check_pages(DEMO, 0, 77) is None
        assert await node.plane.repair_page(DEMO, 77, Lsn(1), page_of(77, 1))
        assert await node.plane.check_pages(DEMO, 0, 100) is None


async def test_sectors_that_cannot_be_read_are_damage_of_exactly_their_pages() -> None:
    """The extent file ends in the middle: what lies behind gives short reads, as a bad sector gives errors."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 100)
        os.truncate(node.files() / "extents", 90 * PAGE)
        assert await node.plane.check_pages(DEMO, 0, 90) is None
        assert await node.plane.check_pages(DEMO, 0, 100) in range(90, 100)
        for page in range(90, 100):
            assert await node.plane.repair_page(DEMO, page, Lsn(1), page_of(page, 1))
        assert await node.plane.check_pages(DEMO, 0, 100) is None
        assert not node.heard(DiskFailed)


async def test_a_block_of_sums_that_is_whole_in_memory_is_written_again() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 8)
        client = await cluster.connect(node)
        assert (await client.read(0)).data == page_of(0, 1), "its block is in memory now"
        right = (node.files() / "sums").read_bytes()
        flip_bit(node.files() / "sums", 500)
        found = await node.plane.check_sums(DEMO, 0)
        assert found.state is AtRest.REWRITTEN
        assert (node.files() / "sums").read_bytes() == right
        assert (await node.plane.check_sums(DEMO, 0)).state is AtRest.WHOLE
        assert not node.heard(SumsDamaged)


async def test_a_damaged_block_of_sums_that_is_nowhere_else_is_reported() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 8)
        flip_bit(node.files() / "sums", 3 * PAGE + 500)
        assert (await node.plane.check_sums(DEMO, 3)).state is AtRest.DAMAGED
        assert (await node.wait(SumsDamaged)).block == 3
        await node.plane.mend_sums(DEMO, 3, Lsn(0), ())
        found = await node.plane.check_sums(DEMO, 3)
        assert (found.state, found.lost_pages) == (AtRest.WHOLE, PAGES_PER_BLOCK)


async def test_a_damaged_superblock_copy_is_written_again() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 1)
        for copy in (0, 1):
            flip_bit(node.files() / "superblock", copy * PAGE + 321)
            assert await node.plane.check_superblock(DEMO) is AtRest.REWRITTEN
            assert await node.plane.check_superblock(DEMO) is AtRest.WHOLE


async def test_a_rebuild_that_begins_while_a_superblock_copy_is_mended_is_not_forgotten() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, other = cluster.nodes
        term = await cluster.open_term(primary)
        flip_bit(other.files() / "superblock", 321)
        asked = other.plane.status

        async def overtaken(volume_id: VolumeId) -> VolumeStatus:
            """What is told was so before the rebuild began."""
            told = await asked(volume_id)
            other.plane.status = asked  # type: ignore[method-assign]
            await cluster.prepare(primary, other, term)
            # The copy that was damaged is whole by now; the scrub does not know.
            return told

        other.plane.status = overtaken  # type: ignore[method-assign]
        assert await other.plane.check_superblock(DEMO) is AtRest.REWRITTEN
        assert (await asked(DEMO)).log.state is ReplicaState.REBUILDING
        await other.plane.close_replica(DEMO)
        report = await other.plane.open_replica(DEMO)
        assert report.log.state is ReplicaState.REBUILDING


async def test_the_superblock_of_a_suspect_replica_is_not_written_for_a_scrub() -> None:
    """It may have become suspect since whoever asks was told of it; a whole pair of copies would hide that."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 1)
        await node.plane.close_replica(DEMO)
        flip_bit(node.files() / "superblock", 321)
        assert (await node.plane.open_replica(DEMO)).log.suspect
        with pytest.raises(SparrowError):
            await node.plane.check_superblock(DEMO)
        with pytest.raises(SparrowError):
            await node.plane._call("mend_superblock", DEMO)
        await node.plane.close_replica(DEMO)
        assert (await node.plane.open_replica(DEMO)).log.suspect


async def test_a_scrub_under_load_finds_nothing_and_disturbs_nothing() -> None:
    """Pages, sums and batches are written while they are read: none of it is damage."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        load = await cluster.load(node, pages=range(2048), depth=8, run=4, limit=24 << 20)
        for turn in range(400):
            block = turn % 3
            assert (await node.plane.check_sums(DEMO, block)).state is AtRest.WHOLE
            assert await node.plane.check_pages(DEMO, turn * 64 % 2048, 64) is None
            checked = await node.plane.check_batch(DEMO, Lsn(turn))
            assert checked is None or checked.state is AtRest.WHOLE
            assert await node.plane.check_superblock(DEMO) is AtRest.WHOLE
        await load.stop()
        assert load.failed is None
        assert not node.heard(PageDamaged)
        assert not node.heard(SumsDamaged)

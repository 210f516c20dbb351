"""Rebuilding an emptied replica while its volume is being written."""

from __future__ import annotations

import asyncio

import pytest

from sparrow.authority.types import ReplicaState
from sparrow.base.errors import SparrowError
from sparrow.base.ids import Epoch, Lsn
from sparrow.ports.dataplane import PeerLost, RecoverySettings
from tests.support.core_client import WAIT_S, page_of, version_of
from tests.support.core_cluster import DEMO, PAGES, core_cluster
from tests.support.waiting import until

#: So slow that it is not whole before it is broken off, although the machine stands still in between.
SLOW_COPY = RecoverySettings(rebuild_rate_mib=4)


async def test_a_rebuild_under_writes_ends_with_the_same_pages() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        first = await cluster.load(
            primary, pages=range(PAGES // 2), depth=16, run=8, limit=24 << 20
        )
        await first.wait_written(24 << 20)
        await first.stop()
        # Large writes, more than a log of 16 MiB holds, while the base lane runs.
        second = await cluster.load(primary, pages=range(PAGES // 4), depth=8, run=16)
        async with cluster.in_reach(primary, fresh, second):
            await cluster.rebuild(primary, fresh, term)
        await second.wait_written(second.written_bytes + (4 << 20))
        await second.stop()
        assert second.failed is None
        status = await fresh.plane.status(DEMO)
        assert status.log.state is ReplicaState.CLEAN
        await cluster.assert_same(primary, fresh)
        for page in (0, 1, PAGES // 4, PAGES // 2 - 1):
            newest = second.acked.get(page, first.acked.get(page, 0))
            assert version_of(page, await cluster.read_page(fresh, page)) == newest
        # It is a replica like any other: it opens, and needs no second rebuild.
        await fresh.plane.close_replica(DEMO)
        report = await fresh.plane.open_replica(DEMO)
        assert report.damaged_after_lsn is None
        assert report.log.state is ReplicaState.CLEAN
        await cluster.assert_same(primary, fresh)


async def test_a_rebuild_of_a_mostly_empty_volume_does_not_wait_for_its_holes() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        load = await cluster.load(primary, pages=range(PAGES - 2048, PAGES), depth=16, run=32)
        await load.wait_written(8 << 20)
        async with cluster.in_reach(primary, fresh, load):
            await cluster.rebuild(primary, fresh, term)
            await load.stop()
        assert load.failed is None
        await cluster.assert_same(primary, fresh)


async def test_a_rebuild_does_not_stop_when_commits_do() -> None:
    async with core_cluster(nodes=3) as cluster:
        primary, other, fresh = cluster.nodes
        term = await cluster.open_term(primary, followers=[other])
        base = await cluster.load(primary, pages=range(4096), depth=16, run=16, limit=8 << 20)
        await base.wait_written(8 << 20)
        await base.stop()
        # The needed peer is away: writes are logged and shipped, and none is committed.
        await primary.plane.drop_peer(DEMO, other.number)
        stuck = await cluster.load(primary, pages=range(4096), depth=64, run=32, limit=6 << 20)
        await stuck.wait_written(6 << 20)
        committed = await primary.commit_lsn()
        await cluster.rebuild(primary, fresh, term)
        assert await primary.commit_lsn() == committed
        await cluster.join_and_ship(primary, other, term)
        await stuck.stop()
        assert stuck.failed is None
        await cluster.assert_same(primary, fresh)


async def test_a_rebuild_that_was_broken_off_is_begun_again() -> None:
    async with core_cluster(nodes=2, recovery=SLOW_COPY) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        load = await cluster.load(primary, pages=range(4096), depth=16, run=16, limit=16 << 20)
        await load.wait_written(16 << 20)
        await load.stop()
        await cluster.begin_rebuild(primary, fresh, term)

        async def begun() -> bool:
            peers = (await primary.plane.status(DEMO)).peers
            return any(peer.base_pages_done > 512 for peer in peers)

        await until(begun)
        await primary.plane.drop_peer(DEMO, fresh.number)
        assert (await fresh.plane.status(DEMO)).log.state is ReplicaState.REBUILDING
        await cluster.rebuild(primary, fresh, term)
        await cluster.assert_same(primary, fresh)


async def test_a_replica_is_closed_and_opened_in_the_middle_of_a_rebuild() -> None:
    """Its log holds what may not be applied before the base is there: closing does not wait for that."""
    async with core_cluster(nodes=2) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        load = await cluster.load(primary, pages=range(8192), depth=16, run=8)
        await load.wait_written(8 << 20)
        async with cluster.in_reach(primary, fresh, load):
            await cluster.begin_rebuild(primary, fresh, term)

            async def has_live() -> bool:
                log = (await fresh.plane.status(DEMO)).log
                return log.durable_lsn > log.applied_lsn and log.commit_lsn > log.applied_lsn > 0

            await until(has_live, every_s=0.001)
            async with asyncio.timeout(WAIT_S):
                await fresh.plane.close_replica(DEMO)
            await load.stop()
        report = await fresh.plane.open_replica(DEMO)
        assert report.log.state in (ReplicaState.REBUILDING, ReplicaState.CLEAN)
        async with asyncio.timeout(WAIT_S):
            await fresh.plane.close_replica(DEMO)
        await fresh.plane.open_replica(DEMO)
        await primary.wait(PeerLost)
        await cluster.rebuild(primary, fresh, term)
        await cluster.assert_same(primary, fresh)


async def test_a_base_page_without_room_ends_the_link_and_not_the_process() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        client = await cluster.connect(primary)
        assert (await client.write(0, page_of(0, 1))).status == 0
        assert (await client.write(PAGES - 1, page_of(PAGES - 1, 1))).status == 0
        plan = await cluster.prepare(primary, fresh, term)
        # The sums are gone from the disk, so the first base page cannot be entered there.
        with (fresh.files() / "sums").open("r+b") as sums:
            sums.truncate(0)
        await cluster.ship(primary, fresh, term, joined_lsn=Lsn(0), rebuild=plan)

        async def alone() -> bool:
            return all(not peer.phase for peer in (await primary.plane.status(DEMO)).peers)

        await until(alone)
        await primary.wait(PeerLost)
        assert (await fresh.plane.status(DEMO)).log.state is ReplicaState.REBUILDING
        await cluster.rebuild(primary, fresh, term)
        await cluster.assert_same(primary, fresh)


async def test_an_unfinished_copy_serves_when_somebody_insists_on_it() -> None:
    """S25: `volume recover --accept-state rebuilding`: whole pages of different ages, and every sum is right."""
    async with core_cluster(nodes=2, recovery=SLOW_COPY) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        load = await cluster.load(primary, pages=range(PAGES // 2), depth=16, run=8, limit=24 << 20)
        await load.wait_written(24 << 20)
        await load.stop()
        await cluster.begin_rebuild(primary, fresh, term)

        async def some_pages() -> bool:
            (peer,) = (await primary.plane.status(DEMO)).peers
            return peer.base_pages_done > 0

        await until(some_pages)
        await cluster.stop_node(primary)
        status = await fresh.plane.status(DEMO)
        assert status.log.state is ReplicaState.REBUILDING
        await fresh.plane.set_state(DEMO, ReplicaState.CLEAN)
        await cluster.open_term(fresh, epoch=2)
        client = await cluster.connect(fresh)
        data = page_of(3, 77)
        assert (await client.write(3, data)).status == 0
        assert (await client.read(3)).data == data
        for page in range(0, PAGES // 2, 97):
            version_of(page, await cluster.read_page(fresh, page))
        await fresh.plane.close_replica(DEMO)
        report = await fresh.plane.open_replica(DEMO)
        assert report.damaged_after_lsn is None
        assert report.log.state is ReplicaState.CLEAN
        assert await cluster.read_page(fresh, 3) == data


async def test_d29_a_half_built_replica_begins_no_term_and_joins_nobody() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        client = await cluster.connect(primary)
        assert (await client.write(1, page_of(1, 1))).status == 0
        await cluster.prepare(primary, fresh, term)
        log = (await primary.plane.status(DEMO)).log
        for _ in range(2):
            assert (await fresh.plane.status(DEMO)).log.state is ReplicaState.REBUILDING
            with pytest.raises(SparrowError):
                await fresh.plane.join(DEMO, term, log)
            with pytest.raises(SparrowError):
                await fresh.plane.begin_term(DEMO, Epoch(2))
            # So it is after a restart.
            await fresh.plane.close_replica(DEMO)
            await fresh.plane.open_replica(DEMO)


async def test_a_copy_keeps_below_its_cap() -> None:
    """24 MiB at 8 MiB a second; without a cap they are there in a fraction of a second."""
    async with core_cluster(nodes=2, recovery=RecoverySettings(rebuild_rate_mib=8)) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        load = await cluster.load(primary, pages=range(6144), depth=16, run=16, limit=24 << 20)
        await load.wait_written(24 << 20)
        await load.stop()
        began = asyncio.get_running_loop().time()
        await cluster.rebuild(primary, fresh, term)
        assert asyncio.get_running_loop().time() - began > 2.5
        await cluster.assert_same(primary, fresh)

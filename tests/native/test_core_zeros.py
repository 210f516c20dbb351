"""Zero entries through the native data plane: read at once, replicated, recovered, cut, and their place given back."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from sparrow.authority.types import ReplicaState
from sparrow.base.ids import Epoch, Lsn, VolumeId
from sparrow.dataplane import machine
from sparrow.ports.dataplane import PeerLost, PoolFull
from tests.support.core_client import WAIT_S, Client, page_of, version_of
from tests.support.core_cluster import DEMO, PAGE, PAGES, CoreCluster, CoreNode, core_cluster
from tests.support.core_files import copy_replica, superblock
from tests.support.front_bed import write_same_16
from tests.support.waiting import until

GOOD = 0
NO_SPACE = (0x07, 0x27, 0x07)
PIECE = 256
#: More zero entries than one volume may have unapplied.
MANY = 300


def pieces_held(node: CoreNode, volume: VolumeId = DEMO) -> int:
    """Whole pieces that the file system holds for the extent file; its own blocks, which are few, do not count."""
    return (node.files(volume) / "extents").stat().st_blocks * 512 // (PIECE * PAGE)


async def write_run(client: Client, first: int, count: int, version: int = 1) -> None:
    for page in range(first, first + count, 128):
        run = range(page, min(page + 128, first + count))
        data = b"".join(page_of(number, version) for number in run)
        assert (await client.write(page, data)).status == GOOD


async def applied(node: CoreNode) -> None:
    """Everything committed is in the extents."""

    async def done() -> bool:
        log = (await node.plane.status(DEMO)).log
        return log.applied_lsn == log.commit_lsn

    await until(done)


async def test_unmapped_pages_read_zeros_before_and_after_they_are_applied() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        await write_run(client, 100, 64)
        assert (await client.unmap((110, 20), (150, 1))).status == GOOD
        expected = b"".join(
            bytes(PAGE) if 110 <= page < 130 or page == 150 else page_of(page, 1)
            for page in range(100, 164)
        )
        assert (await client.read(100, 64)).data == expected
        assert (await client.write(111, page_of(111, 2))).status == GOOD
        assert (await client.read(111)).data == page_of(111, 2)
        assert (await client.read(110)).data == bytes(PAGE)
        await applied(node)
        assert (await client.read(111)).data == page_of(111, 2)
        assert (await client.read(112)).data == bytes(PAGE)
        await node.plane.close_replica(DEMO)
        await node.plane.open_replica(DEMO)
        for page in (109, 110, 111, 129, 130, 150, 151):
            found = version_of(page, await cluster.read_page(node, page))
            assert found == (2 if page == 111 else 0 if page in (110, 129, 150) else 1)


async def test_a_follower_holds_the_same_zeros_and_serves_them_as_primary() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        await write_run(client, 0, 512)
        assert (await client.unmap((0, PAGES))).status == GOOD
        await write_run(client, 300, 16, version=3)
        await cluster.assert_same(primary, follower)
        await primary.plane.close_replica(DEMO)
        await cluster.open_term(follower, epoch=2)
        after = await cluster.connect(follower)
        assert (await after.read(200, 100)).data == bytes(100 * PAGE)
        assert (await after.read(300)).data == page_of(300, 3)


async def test_a_peer_that_was_away_catches_up_over_zero_entries() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        term = await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        await write_run(client, 0, 256)
        await primary.plane.drop_peer(DEMO, follower.number)
        await cluster.set_needed(primary, [])
        for at in range(MANY):
            assert (await client.unmap((at, 1))).status == GOOD
        await write_run(client, 7, 1, version=2)
        await cluster.join_and_ship(primary, follower, term)
        await cluster.assert_same(primary, follower)


async def test_zero_entries_that_a_crash_left_unapplied_are_recovered() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        await write_run(client, 0, 64)
        await applied(node)
        assert (await client.unmap((10, 30))).status == GOOD
        assert (await client.write(12, page_of(12, 2))).status == GOOD
        name = await cluster.snapshot(node, node, "crashed")
        report = await node.plane.open_replica(name)
        assert report.damaged_after_lsn is None
        await node.plane.begin_term(name, Epoch(2))
        await cluster.set_needed(node, [], volume=name)
        await node.plane.commit_inherited(name)
        for page in range(64):
            version = version_of(page, await cluster.read_page(node, page, volume=name))
            assert version == (2 if page == 12 else 0 if 10 <= page < 40 else 1), page


async def test_an_unmap_that_never_committed_is_cut_with_the_log() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        await write_run(client, 0, 64)
        await cluster.caught_up(primary, follower)
        await primary.plane.drop_peer(DEMO, follower.number)
        before = (await primary.plane.status(DEMO)).log.last_lsn
        lost = asyncio.create_task(client.unmap((0, 64)))

        async def logged() -> bool:
            return (await primary.plane.status(DEMO)).log.durable_lsn > before

        await until(logged)
        # A read sees what is committed, not what is only logged.
        reader = await cluster.connect(primary)
        assert (await reader.read(5)).data == page_of(5, 1)
        term = await cluster.open_term(follower, epoch=2)
        await primary.plane.fence(DEMO, term, follower.replica)
        assert (await lost).status != GOOD
        await cluster.join_and_ship(follower, primary, term)
        await cluster.assert_same(follower, primary)
        assert await cluster.read_page(primary, 5) == page_of(5, 1)


async def test_the_place_of_whole_pieces_goes_back_to_the_pool_on_every_replica() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        await write_run(client, 0, 8 * PIECE)
        for node in (primary, follower):
            await applied(node)
            assert pieces_held(node) == 8
        # The first piece keeps a page, the last is only touched: six go.
        assert (await client.unmap((1, 7 * PIECE))).status == GOOD
        for node in (primary, follower):
            await until(lambda node=node: pieces_held(node) <= 2)
            assert pieces_held(node) == 2
        assert (await client.read(0)).data == page_of(0, 1)
        assert (await client.read(7 * PIECE + 1)).data == page_of(7 * PIECE + 1, 1)
        # A piece that is emptied page by page goes too.
        assert (await client.unmap((0, 1))).status == GOOD
        await until(lambda: pieces_held(primary) <= 1)
        await cluster.assert_same(primary, follower)


async def test_a_place_that_was_not_given_back_before_a_crash_is_given_back_after_it() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        await write_run(client, 0, 4 * PIECE)
        await applied(node)
        assert (await client.unmap((0, 4 * PIECE))).status == GOOD
        await applied(node)
        await node.plane.close_replica(DEMO)
        # As after a crash between the checkpoint and the punch: the bytes are there, nobody reads them.
        extents = node.files() / "extents"
        with extents.open("r+b") as file:
            file.write(b"\xee" * (4 * PIECE * PAGE))
        assert pieces_held(node) == 4
        await node.plane.open_replica(DEMO)
        await node.plane.begin_term(DEMO, Epoch(2))
        await cluster.set_needed(node, [])
        await node.plane.commit_inherited(DEMO)
        assert await cluster.read_page(node, 3) == bytes(PAGE)
        await until(lambda: pieces_held(node) == 0)
        assert await cluster.read_page(node, 3) == bytes(PAGE)


async def test_a_start_looks_at_what_is_applied_as_long_as_place_may_not_be_given_back() -> None:
    """Else it would begin behind what is applied, for the line names nobody who lacks it."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.set_line([node], epoch=1, version=1)
        await cluster.open_term(node)
        client = await cluster.connect(node)
        await write_run(client, 0, 4 * PIECE)
        await applied(node)
        assert (await client.unmap((0, 4 * PIECE))).status == GOOD
        await applied(node)
        last = (await node.plane.status(DEMO)).log.last_lsn
        await until(lambda: superblock(node.files()).number("applied_lsn") == last)
        assert superblock(node.files()).number("given_back") == 0
        # As after a crash before the punch: the bytes are there, nobody reads them.
        crashed = copy_replica(node.files(), node.pool, "crashed")
        with (node.files(crashed) / "extents").open("r+b") as file:
            file.write(b"\xee" * (4 * PIECE * PAGE))
        held = pieces_held(node, crashed)  # a copy has no holes
        await node.plane.open_replica(crashed)
        await cluster.open_term(node, epoch=2, volume=crashed)
        await until(lambda: pieces_held(node, crashed) == held - 4)
        # When the next round has made that durable, nothing leads a start back there.
        await until(lambda: pieces_held(node) == 0)
        assert (await client.write(5000, page_of(5000, 1))).status == GOOD
        await until(lambda: superblock(node.files()).number("given_back") == 1)
        later = copy_replica(node.files(), node.pool, "later")
        log = (await node.plane.open_replica(later)).log
        assert log.oldest_lsn == log.applied_lsn + 1


async def test_a_rebuild_goes_on_while_more_is_unmapped_than_a_replica_holds_unapplied() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        client = await cluster.connect(primary)
        await write_run(client, 0, 4096)
        rebuild = asyncio.create_task(cluster.rebuild(primary, fresh, term))
        for at in range(MANY):
            assert (await client.unmap((at * 13, 5))).status == GOOD
        async with asyncio.timeout(2 * WAIT_S):
            await rebuild
        assert (await fresh.plane.status(DEMO)).log.state is ReplicaState.CLEAN
        assert not primary.heard(PeerLost)
        await cluster.assert_same(primary, fresh)


async def test_what_is_unmapped_during_a_rebuild_does_not_fill_the_log() -> None:
    """Nothing is punched before the base is whole; more than one log of 16 MiB is written meanwhile."""
    async with core_cluster(nodes=2) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        client = await cluster.connect(primary)
        await write_run(client, 0, 8192)
        load = await cluster.load(primary, pages=range(8192, 12288), depth=8, run=16)
        async with cluster.in_reach(primary, fresh, load):
            rebuild = asyncio.create_task(cluster.rebuild(primary, fresh, term))
            for at in range(0, 8192, 512):
                assert (await client.unmap((at, 300))).status == GOOD
            await load.wait_written(40 << 20)
            async with asyncio.timeout(60):
                await rebuild
            await load.stop()
        assert load.failed is None
        await cluster.assert_same(primary, fresh)


@pytest.mark.parametrize("seed", [1, 2])
async def test_writes_and_unmaps_in_any_order_leave_what_a_plain_array_has(seed: int) -> None:
    """Four clients, each on pages of its own, so that the outcome is known; the pieces are shared by all."""
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        truth = [0] * (4 * PIECE)

        async def work(number: int) -> None:
            chance = random.Random(seed * 10 + number)
            client = await cluster.connect(primary)
            for version in range(1, 120):
                # Runs of a hundred pages, interleaved by client.
                first = chance.randrange(10) * 100 + number * 25
                count = chance.randrange(1, 25)
                run = range(first, min(first + count, first + 25, len(truth)))
                if not run:
                    continue
                if chance.random() < 0.5:
                    assert (await client.unmap((run.start, len(run)))).status == GOOD
                    for page in run:
                        truth[page] = 0
                else:
                    data = b"".join(page_of(page, version) for page in run)
                    assert (await client.write(run.start, data)).status == GOOD
                    for page in run:
                        truth[page] = version
                check = chance.choice(run)
                found = await client.read(check)
                assert version_of(check, found.data) == truth[check]

        await asyncio.gather(*(work(number) for number in range(4)))
        await cluster.assert_same(primary, follower)
        await applied(primary)
        for page in range(0, len(truth), 7):
            assert version_of(page, await cluster.read_page(follower, page)) == truth[page]
        await check_reopened(cluster, follower, truth)


async def check_reopened(cluster: CoreCluster, node: CoreNode, truth: list[int]) -> None:
    name = await cluster.snapshot(node, node, "crashed")
    await node.plane.open_replica(name)
    await node.plane.begin_term(name, Epoch(9))
    await cluster.set_needed(node, [], volume=name)
    await node.plane.commit_inherited(name)
    for page, version in enumerate(truth):
        assert version_of(page, await cluster.read_page(node, page, volume=name)) == version


async def test_write_same_fills_and_zeroes() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        block = page_of(9, 4)
        before = await node.commit_lsn()
        assert (await client.command(write_same_16(100, 600), block)).status == GOOD
        # One entry for 256 pages, all of one buffer.
        assert await node.commit_lsn() - before == 3
        assert (await client.read(99, 3)).data == bytes(PAGE) + 2 * block
        assert (await client.read(698, 3)).data == 2 * block + bytes(PAGE)
        before = await node.commit_lsn()
        assert (await client.command(write_same_16(200, 400, flags=8), bytes(PAGE))).status == GOOD
        assert (await client.command(write_same_16(650, 10, flags=9))).status == GOOD
        assert await node.commit_lsn() - before == 2
        assert (await client.read(199, 2)).data == block + bytes(PAGE)
        assert (await client.read(599, 2)).data == bytes(PAGE) + block
        assert (await client.read(650, 11)).data == bytes(10 * PAGE) + block


async def test_unmap_and_overwrites_go_on_where_there_is_no_room_for_more() -> None:
    """L7: a pool that is short refuses what needs new space, and what is unmapped needs new space again."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        await write_run(client, 0, 8)
        await applied(node)
        short = SimpleNamespace(f_bavail=100, f_frsize=PAGE)
        with mock.patch.object(machine.os, "fstatvfs", return_value=short):
            await node.wait(PoolFull, full=True)
            assert (await client.write(100, page_of(100, 1))).sense == NO_SPACE
            assert (await client.write(3, page_of(3, 2))).status == GOOD
            assert (await client.unmap((0, 3))).status == GOOD
            assert (await client.read(0, 3)).data == bytes(3 * PAGE)
            assert (await client.write(1, page_of(1, 2))).sense == NO_SPACE
            await applied(node)
            assert (await client.write(1, page_of(1, 2))).sense == NO_SPACE
            assert (await client.write(3, page_of(3, 3))).status == GOOD
        await node.wait(PoolFull, full=False)
        assert (await client.write(1, page_of(1, 4))).status == GOOD


async def test_what_needs_new_space_is_refused_where_a_follower_has_none() -> None:
    """Its acknowledgements say so; the primary has room enough, and overwrites go on."""
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        await write_run(client, 0, 8)
        for node in (primary, follower):
            await applied(node)
        measured, short = os.fstatvfs, SimpleNamespace(f_bavail=100, f_frsize=PAGE)
        fresh = iter(range(100, PAGES))

        def of_whom(fd: int) -> object:
            place = Path(f"/proc/self/fd/{fd}").readlink()
            return short if place.is_relative_to(follower.pool) else measured(fd)

        async def refused() -> bool:
            page = next(fresh)
            return (await client.write(page, page_of(page, 1))).sense == NO_SPACE

        with mock.patch.object(machine.os, "fstatvfs", of_whom):
            await until(refused)
            assert (await client.write(3, page_of(3, 2))).status == GOOD
            assert not primary.heard(PoolFull)


async def test_states_of_pages_follow_the_committed_view() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)

        async def states(first: int, count: int) -> tuple[tuple[int, bool], ...]:
            return await node.plane.page_states(DEMO, first_page=first, page_count=count)

        await write_run(client, 10, 20)
        assert (await client.unmap((15, 5))).status == GOOD
        expected = ((10, False), (5, True), (5, False), (10, True), (2, False))
        assert await states(0, 32) == expected
        await applied(node)
        assert await states(0, 32) == expected
        assert await states(12, 6) == ((3, True), (3, False))
        # Across sums blocks, and to the end of the volume at most.
        assert await states(900, 1 << 30) == ((PAGES - 900, False),)
        for page in range(2000, 2600, 2):
            await write_run(client, page, 1)
        told = await states(2000, 600)
        assert len(told) == 128, "as many runs as one answer has"
        assert set(told) == {(1, True), (1, False)}


async def test_verify_reads_what_it_says_and_a_damaged_page_fails_it() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        await write_run(client, 0, 600)
        await applied(node)
        verify = bytes([0x2F, 0, 0, 0, 0, 0, 0, 2, 0x58, 0])
        assert (await client.command(verify)).status == GOOD
        with (node.files() / "extents").open("r+b") as file:
            file.seek(400 * PAGE)
            file.write(b"\xee" * 16)
        result = await client.command(verify)
        assert result.sense[0] == 3


async def test_the_log_lets_zero_entries_go_once_their_place_is_given_back() -> None:
    """Many laps of the ring with zero entries in all of them: the log never fills up."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        for lap in range(24):
            await write_run(client, 0, 4 * PIECE, version=lap + 1)
            assert (await client.unmap((PIECE, 2 * PIECE))).status == GOOD
        assert (await client.read(0)).data == page_of(0, 24)
        assert (await client.read(PIECE)).data == bytes(PAGE)
        assert (await node.plane.status(DEMO)).log.oldest_lsn > Lsn(1)

"""Online grow through the native data plane: size is an entry of the log; followers have room before they log it."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from unittest import mock

import pytest

from sparrow.authority.types import ReplicaState
from sparrow.base.errors import StaleEpoch, StorageError
from sparrow.base.ids import Epoch
from sparrow.dataplane.files import descriptors, folders
from sparrow.formats.links import SHIP_ACK
from sparrow.ports.dataplane import GateOpened, VolumeResized
from tests.support.core_client import WAIT_S, Client, page_of
from tests.support.core_cluster import DEMO, PAGE, PAGES, VOLUME_BYTES, CoreNode, core_cluster
from tests.support.core_files import superblock
from tests.support.core_peer import PEER, granted, held_open, needs_peer
from tests.support.ship_peer import ack, link
from tests.support.waiting import until

GOOD = 0
LARGER = 96 << 20
LARGER_PAGES = LARGER // PAGE
CAPACITY_CHANGED = (0x06, 0x2A, 0x09)
OUT_OF_RANGE = (0x05, 0x21, 0x00)
TEST_UNIT_READY = bytes(6)


async def capacity_noticed(client: Client) -> None:
    """The first command after a resize tells of it, once."""
    assert (await client.command(TEST_UNIT_READY)).sense == CAPACITY_CHANGED
    assert (await client.command(TEST_UNIT_READY)).status == GOOD


def sums_bytes(node: CoreNode) -> int:
    return (node.files() / "sums").stat().st_size


async def applied(node: CoreNode) -> None:
    async def done() -> bool:
        log = (await node.plane.status(DEMO)).log
        return log.applied_lsn == log.commit_lsn

    await until(done)


async def test_a_volume_grows_under_its_clients_on_every_replica() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client, other = await cluster.connect(primary), await cluster.connect(primary)
        assert (await client.write(5, page_of(5, 1))).status == GOOD
        assert (await client.write(PAGES, page_of(PAGES, 1))).sense == OUT_OF_RANGE
        await primary.plane.resize(DEMO, LARGER)
        await primary.wait(VolumeResized, size_bytes=LARGER)
        await follower.wait(VolumeResized, size_bytes=LARGER)
        await capacity_noticed(client)
        await capacity_noticed(other)
        # Written and durable: nothing of the new sums is a hole of the file system.
        for node in cluster.nodes:
            sums = node.files() / "sums"
            assert sums_bytes(node) == -(-LARGER_PAGES // 960) * PAGE
            assert sums.stat().st_blocks * 512 >= sums_bytes(node)
        last = LARGER_PAGES - 1
        assert (await client.read(last)).data == bytes(PAGE)
        assert (await client.write(last, page_of(last, 1))).status == GOOD
        assert (await client.write(PAGES - 1, page_of(PAGES - 1, 1) * 2)).status == GOOD
        assert (await client.write(last + 1, page_of(last, 1))).sense == OUT_OF_RANGE
        await cluster.caught_up(primary, follower)
        assert await cluster.read_page(follower, last) == page_of(last, 1)
        for node in cluster.nodes:
            await applied(node)
            assert superblock(node.files()).number("size_bytes") == LARGER
        # Again: it is as long already.
        await primary.plane.resize(DEMO, LARGER)


async def test_a_volume_never_becomes_shorter_and_only_its_primary_makes_it_longer() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        await primary.plane.resize(DEMO, LARGER)
        with pytest.raises(StorageError):
            await primary.plane.resize(DEMO, VOLUME_BYTES)
        with pytest.raises(StaleEpoch):
            await follower.plane.resize(DEMO, 2 * LARGER)
        assert (await primary.plane.status(DEMO)).log.last_lsn == 2


async def test_nothing_is_taken_by_a_follower_whose_files_are_too_short() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        room = asyncio.Event()
        grow = descriptors.grow_files
        loop = asyncio.get_running_loop()

        def when_there_is_room(files: descriptors.ReplicaFiles, size_bytes: int) -> None:
            if follower.files() == files.folder:
                asyncio.run_coroutine_threadsafe(room.wait(), loop).result(10)
            grow(files, size_bytes)

        with mock.patch.object(descriptors, "grow_files", when_there_is_room):
            resizing = asyncio.create_task(primary.plane.resize(DEMO, LARGER))

            async def logged() -> bool:
                return (await primary.plane.status(DEMO)).log.durable_lsn == 2

            await until(logged)
            writing = asyncio.create_task(client.write(1, page_of(1, 1)))
            await asyncio.sleep(0.2)
            assert not resizing.done()
            assert not writing.done()
            assert (await follower.plane.status(DEMO)).log.last_lsn == 1
            assert sums_bytes(follower) < sums_bytes(primary)
            room.set()
            await resizing
        # The write came before the resize had committed, its answer after.
        assert (await writing).status == GOOD
        assert (await client.command(TEST_UNIT_READY)).sense == CAPACITY_CHANGED
        await cluster.assert_same(primary, follower)


async def test_a_follower_without_room_tries_again_until_there_is_some() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        grow, failures = descriptors.grow_files, []

        def full_at_first(files: descriptors.ReplicaFiles, size_bytes: int) -> None:
            if files.folder == follower.files() and not failures:
                failures.append(size_bytes)
                raise OSError(28, "No space left on device")
            grow(files, size_bytes)

        with mock.patch.object(descriptors, "grow_files", full_at_first):
            await primary.plane.resize(DEMO, LARGER)
        assert failures == [LARGER]


async def test_a_resize_fails_over_with_the_data() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        await primary.plane.resize(DEMO, LARGER)
        await capacity_noticed(client)
        last = LARGER_PAGES - 1
        assert (await client.write(last, page_of(last, 7))).status == GOOD
        await primary.plane.close_replica(DEMO)
        await cluster.open_term(follower, epoch=2)
        after = await cluster.connect(follower)
        assert (await after.read(last)).data == page_of(last, 7)
        assert (await after.write(last, page_of(last, 8))).status == GOOD
        report = await primary.plane.open_replica(DEMO)
        assert report.size_bytes == LARGER


async def test_a_resize_that_never_committed_is_taken_back_with_the_log() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        await cluster.caught_up(primary, follower)
        await primary.plane.drop_peer(DEMO, follower.number)
        lost = asyncio.create_task(primary.plane.resize(DEMO, LARGER))

        async def logged() -> bool:
            return (await primary.plane.status(DEMO)).log.durable_lsn == 2

        await until(logged)
        assert (await client.write(PAGES, page_of(PAGES, 1))).sense == OUT_OF_RANGE
        term = await cluster.open_term(follower, epoch=2)
        await primary.plane.fence(DEMO, term, follower.replica)
        with pytest.raises(StaleEpoch):
            await lost
        await cluster.join_and_ship(follower, primary, term)
        # The new primary writes what the old one took for a resize; then it grows by itself, to another size.
        after = await cluster.connect(follower)
        assert (await after.write(PAGES, page_of(PAGES, 1))).sense == OUT_OF_RANGE
        await cluster.set_needed(follower, [primary])
        await cluster.grant_link(follower, primary)
        await follower.plane.resize(DEMO, VOLUME_BYTES + (8 << 20))
        await capacity_noticed(after)
        assert (await after.write(PAGES, page_of(PAGES, 3))).status == GOOD
        await cluster.assert_same(follower, primary)
        assert await cluster.read_page(primary, PAGES) == page_of(PAGES, 3)
        # The size that was cut was never served there, whatever has its LSN now.
        told = [event.size_bytes for event in primary.events if isinstance(event, VolumeResized)]
        assert LARGER not in told


async def test_a_resize_is_not_served_when_what_came_before_it_commits() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        term = await cluster.open_term(node)
        client, other = await cluster.connect(node), await cluster.connect(node)
        grants = await granted(node)
        await needs_peer(node)
        with held_open(grants), link() as peer:
            await node.wait(GateOpened)
            head = (await node.plane.status(DEMO)).log.last_lsn
            await node.plane.ship(DEMO, PEER, PEER, peer.theirs, joined_lsn=head, rebuild=None)

            async def durable(lsn: int) -> bool:
                return (await node.plane.status(DEMO)).log.durable_lsn == lsn

            writing = asyncio.create_task(client.write(1, page_of(1, 1)))
            await until(lambda: durable(head + 1))
            growing = asyncio.create_task(node.plane.resize(DEMO, LARGER))
            await until(lambda: durable(head + 2))
            await peer.send(SHIP_ACK, ack(term, head + 1))
            assert (await writing).status == GOOD
            assert (await other.write(PAGES, page_of(PAGES, 1))).sense == OUT_OF_RANGE
            await peer.send(SHIP_ACK, ack(term, head + 2))
            await growing
            await capacity_noticed(other)


async def test_a_crash_after_a_resize_leaves_either_size_and_no_damage() -> None:
    async with core_cluster(nodes=2) as cluster:
        node, reader = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        await node.plane.resize(DEMO, LARGER)
        await capacity_noticed(client)
        last = LARGER_PAGES - 1
        assert (await client.write(last, page_of(last, 1))).status == GOOD
        name = await cluster.snapshot(node, reader, "crashed")
        report = await reader.plane.open_replica(name)
        assert report.damaged_after_lsn is None
        await reader.plane.begin_term(name, Epoch(2))
        await cluster.set_needed(reader, [], volume=name)
        await reader.plane.commit_inherited(name)
        assert await cluster.read_page(reader, last, volume=name) == page_of(last, 1)


async def test_files_half_grown_by_a_crash_are_made_whole_by_the_next_resize() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.close_replica(DEMO)
        with (node.files() / "sums").open("ab") as sums:
            sums.write(b"\xee" * 1000)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node)
        client = await cluster.connect(node)
        await node.plane.resize(DEMO, LARGER)
        await capacity_noticed(client)
        assert (await client.read(LARGER_PAGES - 1)).data == bytes(PAGE)
        assert (await client.write(PAGES + 1, page_of(PAGES + 1, 1))).status == GOOD
        await applied(node)
        assert (await client.read(PAGES + 1)).data == page_of(PAGES + 1, 1)


async def test_a_replica_is_rebuilt_while_the_volume_grows() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        client = await cluster.connect(primary)
        await primary.plane.resize(DEMO, VOLUME_BYTES + (8 << 20))
        await capacity_noticed(client)
        for page in range(0, 4096, 128):
            data = b"".join(page_of(number, 1) for number in range(page, page + 128))
            assert (await client.write(page, data)).status == GOOD
        assert (await client.write(PAGES, page_of(PAGES, 2))).status == GOOD
        rebuild = asyncio.create_task(cluster.rebuild(primary, fresh, term))
        await primary.plane.resize(DEMO, LARGER)
        await capacity_noticed(client)
        last = LARGER_PAGES - 1
        assert (await client.write(last, page_of(last, 3))).status == GOOD
        async with asyncio.timeout(2 * WAIT_S):
            await rebuild
        await cluster.caught_up(primary, fresh)
        assert (await fresh.plane.status(DEMO)).log.state is ReplicaState.CLEAN
        assert await cluster.read_page(fresh, PAGES) == page_of(PAGES, 2)
        assert await cluster.read_page(fresh, last) == page_of(last, 3)
        await fresh.plane.close_replica(DEMO)
        assert (await fresh.plane.open_replica(DEMO)).size_bytes == LARGER


async def test_a_peer_that_was_away_grows_when_it_catches_up() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        term = await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        await primary.plane.drop_peer(DEMO, follower.number)
        await cluster.set_needed(primary, [])
        await primary.plane.resize(DEMO, LARGER)
        await capacity_noticed(client)
        assert (await client.write(PAGES + 9, page_of(PAGES + 9, 1))).status == GOOD
        await cluster.join_and_ship(primary, follower, term)
        await cluster.caught_up(primary, follower)
        await follower.wait(VolumeResized, size_bytes=LARGER)
        assert await cluster.read_page(follower, PAGES + 9) == page_of(PAGES + 9, 1)


def test_growing_writes_the_blocks_that_are_missing_and_no_others(tmp_path: Path) -> None:
    """Their sums are those of blank blocks, each seeded with its own number."""
    pool = tmp_path
    from sparrow.base.ids import ReplicaId, VolumeId

    folders.format_replica(
        pool, VolumeId("v"), ReplicaId("r"), size_bytes=16 << 20, block_size=PAGE
    )
    folder = pool / "volumes" / "v" / "r"
    opened = descriptors.open_files(folder)
    try:
        before = (folder / "sums").read_bytes()
        descriptors.grow_files(opened, 64 << 20)
        after = (folder / "sums").read_bytes()
        assert after[: len(before)] == before
        assert len(after) == -(-(64 << 20) // PAGE // 960) * PAGE
        numbers = [struct.unpack_from("<Q", after, at + 8)[0] for at in range(0, len(after), PAGE)]
        assert numbers == list(range(len(numbers)))
        assert descriptors.pages_held(opened) == (64 << 20) // PAGE
    finally:
        opened.close()

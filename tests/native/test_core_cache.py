"""The read cache: pages that were applied or read are in memory, never older than the extents, and never too many."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sparrow.dataplane.machine import CoreSizes
from sparrow.ports.dataplane import PageDamaged
from tests.support.core_client import Client, page_of
from tests.support.core_cluster import DEMO, PAGE, PAGES, CoreCluster, CoreNode, core_cluster
from tests.support.core_files import flip_bit
from tests.support.waiting import until

ROOM = 256
RUN = 64


@asynccontextmanager
async def cached(cache_pages: int = ROOM) -> AsyncIterator[tuple[CoreCluster, CoreNode, Client]]:
    sizes = CoreSizes(pages=6144, cache_pages=cache_pages)
    async with core_cluster(nodes=1, sizes=sizes) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        yield cluster, node, await cluster.connect(node)


def pages_here(node: CoreNode) -> int:
    return int(node.plane._core.cached_pages)


def moved(node: CoreNode) -> int:
    return int(node.plane._core.gathered_pages)


async def scatter(client: Client, node: CoreNode, first: int, count: int, version: int) -> None:
    """Write pages one by one, in an order that leaves neighbours apart in memory, and apply them."""
    pages = list(range(first, first + count))
    random.Random(version).shuffle(pages)
    for page in pages:
        await write(client, page, 1, version)
    await applied(node)


async def write(client: Client, first: int, count: int, version: int) -> None:
    data = b"".join(page_of(page, version) for page in range(first, first + count))
    assert (await client.write(first, data)).status == 0


async def read(client: Client, first: int, count: int) -> bytes:
    result = await client.read(first, count)
    assert result.status == 0
    return result.data


async def applied(node: CoreNode) -> None:
    """All that is committed is in the extents, and dropped from the dirty map."""

    async def there() -> bool:
        log = (await node.plane.status(DEMO)).log
        return log.applied_lsn >= log.commit_lsn

    await until(there)


async def reopened(cluster: CoreCluster, node: CoreNode) -> Client:
    await node.plane.close_replica(DEMO)
    assert pages_here(node) == 0
    await node.plane.open_replica(DEMO)
    await cluster.open_term(node, epoch=2)
    return await cluster.connect(node)


def spoil(node: CoreNode, page: int) -> None:
    flip_bit(node.files() / "extents", page * PAGE + 77)


async def test_a_page_that_was_applied_is_read_from_memory() -> None:
    async with cached() as (_, node, client):
        await write(client, 0, RUN, 1)
        await applied(node)
        assert pages_here(node) == RUN
        for page in range(RUN):
            spoil(node, page)
        assert await read(client, 0, RUN) == b"".join(page_of(page, 1) for page in range(RUN))
        assert not node.heard(PageDamaged)


async def test_a_page_that_was_read_is_read_from_memory() -> None:
    async with cached() as (cluster, node, client):
        await write(client, 0, RUN, 1)
        await applied(node)
        again = await reopened(cluster, node)
        assert await read(again, 3, 5) == b"".join(page_of(page, 1) for page in range(3, 8))
        assert pages_here(node) == 5
        spoil(node, 7)
        assert await read(again, 3, 5) == b"".join(page_of(page, 1) for page in range(3, 8))
        assert not node.heard(PageDamaged)


async def test_without_room_nothing_is_kept() -> None:
    async with cached(0) as (_, node, client):
        await write(client, 0, RUN, 1)
        await applied(node)
        await read(client, 0, RUN)
        assert pages_here(node) == 0
        spoil(node, 5)
        assert (await client.read(5)).sense[0] == 0x03, "no peer has it"
        assert node.heard(PageDamaged)


async def test_what_is_kept_is_never_older_than_the_extents() -> None:
    async with cached() as (_, node, client):
        for version in range(1, 4):
            await write(client, 0, RUN, version)
            # From the dirty map, then from the cache.
            wanted = b"".join(page_of(page, version) for page in range(RUN))
            assert await read(client, 0, RUN) == wanted
            await applied(node)
            assert await read(client, 0, RUN) == wanted
        assert pages_here(node) == RUN


async def test_zeroed_pages_are_zeros_and_take_new_data() -> None:
    async with cached() as (_, node, client):
        await write(client, 0, 32, 1)
        await applied(node)
        assert (await client.unmap((4, 8))).status == 0
        await applied(node)
        assert await read(client, 4, 8) == bytes(8 * PAGE)
        assert await read(client, 3, 1) == page_of(3, 1)
        await write(client, 5, 1, 2)
        await applied(node)
        assert await read(client, 4, 3) == bytes(PAGE) + page_of(5, 2) + bytes(PAGE)


@pytest.mark.parametrize("run", [1, RUN])
async def test_no_more_is_kept_than_there_is_room_for(run: int) -> None:
    async with cached() as (cluster, node, client):
        # Apart, so that every page is in a span of its own where they are single.
        places = range(0, PAGES, 128)[: 6 * ROOM // run]
        for place in places:
            await write(client, place, run, 1)
        await applied(node)
        assert 0 < pages_here(node) <= ROOM
        for _ in range(2):
            for place in places:
                wanted = b"".join(page_of(page, 1) for page in range(place, place + run))
                assert await read(client, place, run) == wanted
                assert pages_here(node) <= ROOM
        again = await reopened(cluster, node)
        assert await read(again, places[-1], 1) == page_of(places[-1], 1)


async def test_what_is_read_again_outlives_what_is_read_once() -> None:
    async with cached() as (cluster, node, client):
        for place in range(0, 4 * ROOM, RUN):
            await write(client, place, RUN, 1)
        await applied(node)
        again = await reopened(cluster, node)
        for place in range(0, 4 * ROOM, RUN):
            await read(again, 0, 16)
            await read(again, place, RUN)
        spoil(node, 9)
        assert await read(again, 9, 1) == page_of(9, 1)
        assert not node.heard(PageDamaged)


async def test_pages_that_are_kept_go_back_with_the_volume() -> None:
    async with cached() as (_, node, client):
        await write(client, 0, RUN, 1)
        await applied(node)
        await read(client, 0, RUN)
        await node.plane.close_replica(DEMO)
        assert pages_here(node) == 0
        assert node.free_pages == node.pages_at_start


async def test_what_large_reads_find_apart_again_is_moved_together() -> None:
    async with cached() as (_, node, client):
        await scatter(client, node, 0, RUN, 1)
        wanted = b"".join(page_of(page, 1) for page in range(RUN))
        found = []
        for _ in range(4):
            assert await read(client, 0, RUN) == wanted
            found.append(moved(node))
        assert found == [0, RUN, RUN, RUN], "what is read once stays, what is together too"
        assert pages_here(node) == RUN
        for page in range(RUN):
            spoil(node, page)
        assert await read(client, 0, RUN) == wanted, "from memory"
        await node.plane.close_replica(DEMO)
        assert node.free_pages == node.pages_at_start


async def test_what_was_moved_is_never_older_than_the_extents() -> None:
    async with cached() as (_, node, client):
        for version in range(1, 4):
            await scatter(client, node, 0, RUN, version)
            for _ in range(2):
                assert await read(client, 0, RUN) == b"".join(
                    page_of(page, version) for page in range(RUN)
                )
            assert moved(node) == version * RUN
            await write(client, 7, 3, 10 + version)
            for _ in range(2):
                # From the dirty map, then from the cache.
                assert await read(client, 6, 10) == b"".join(
                    page_of(page, 10 + version if 7 <= page < 10 else version)
                    for page in range(6, 16)
                )
                await applied(node)


async def test_a_read_across_spans_moves_none_before_all_were_found_apart() -> None:
    async with cached() as (_, node, client):
        await scatter(client, node, 0, RUN, 1)
        await read(client, 0, RUN // 2)
        assert await read(client, 8, RUN // 2) == b"".join(
            page_of(page, 1) for page in range(8, 8 + RUN // 2)
        )
        assert moved(node) == 0
        assert await read(client, 8, RUN // 2) == b"".join(
            page_of(page, 1) for page in range(8, 8 + RUN // 2)
        )
        assert moved(node) == RUN // 2


async def test_small_reads_move_nothing() -> None:
    async with cached() as (_, node, client):
        await scatter(client, node, 0, RUN, 1)
        for _ in range(3):
            for page in range(0, RUN, 4):
                await read(client, page, 4)
        assert moved(node) == 0

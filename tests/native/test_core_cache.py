"""The read cache: pages that were applied or read are in memory, never older than the extents, and never too many."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sparrow.dataplane.machine import CoreSizes
from sparrow.ports.dataplane import PageDamaged
from tests.support.core_cluster import (
    DEMO,
    PAGE,
    PAGES,
    Client,
    CoreCluster,
    CoreNode,
    core_cluster,
    flip_bit,
    page_of,
    superblock,
)
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


async def write(client: Client, first: int, count: int, version: int) -> None:
    data = b"".join(page_of(page, version) for page in range(first, first + count))
    assert (await client.write(first, data)).status == 0


async def read(client: Client, first: int, count: int) -> bytes:
    result = await client.read(first, count)
    assert result.status == 0
    return result.data


async def applied(node: CoreNode) -> None:
    """All that is committed is in the extents, and dropped from the dirty map."""
    lsn = await node.commit_lsn()

    async def there() -> bool:
        return superblock(node.files()).number("applied_lsn") >= lsn

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

"""Closing and stopping: nothing waits for ever, nothing is kept."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from sparrow.authority.types import Term
from sparrow.base.errors import NotFound, SparrowError
from sparrow.base.ids import Epoch, Lsn, ReplicaId
from sparrow.ports.dataplane import (
    CoreLeaked,
    DiskFailed,
    PageDamaged,
    PeerLost,
    SessionEnded,
    SumsDamaged,
)
from tests.support.core_client import WAIT_S, page_of
from tests.support.core_cluster import DEMO, PAGES, CoreNode, core_cluster
from tests.support.waiting import until


async def test_every_page_is_back_in_the_pool_after_a_close_under_load() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        loads = [
            await cluster.load(primary, pages=range(PAGES // 2), depth=16, run=run)
            for run in (1, 4, 32)
        ]
        await loads[2].wait_written(16 << 20)
        await asyncio.gather(primary.plane.close_replica(DEMO), follower.plane.close_replica(DEMO))
        for load in loads:
            await load.stop()
        await primary.wait(SessionEnded)
        assert primary.free_pages == primary.pages_at_start
        assert follower.free_pages == follower.pages_at_start


async def test_sessions_adopted_while_a_volume_leaves_are_refused() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        load = await cluster.load(node, pages=range(4096), depth=32, run=16)
        await load.wait_written(8 << 20)
        closing = asyncio.create_task(node.plane.close_replica(DEMO))
        await asyncio.sleep(0)
        with pytest.raises(SparrowError):
            await cluster.connect(node)
        async with asyncio.timeout(WAIT_S):
            await closing
        await load.stop()


async def test_commands_under_way_are_answered_when_their_volume_closes() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        term = await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        assert (await client.write(1, page_of(1, 1))).status == 0
        lsn = await cluster.caught_up(primary, follower)
        log = (await primary.plane.status(DEMO)).log
        await primary.plane.drop_peer(DEMO, follower.number)
        await cluster.set_needed(primary, [follower])
        waiting = [
            asyncio.create_task(command)
            for command in (
                primary.plane.commit_inherited(DEMO),
                primary.plane.page_digests(DEMO, at_lsn=lsn, first_page=0, page_count=256),
                primary.plane.read_page(DEMO, 1, at_least_lsn=lsn),
                primary.plane.fence(DEMO, Term(epoch=Epoch(9), start=1), ReplicaId("r9")),
                follower.plane.join(DEMO, term, log),
                follower.plane.fence(DEMO, term, primary.replica),
            )
        ]
        await asyncio.sleep(0)
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(
                primary.plane.close_replica(DEMO), follower.plane.close_replica(DEMO)
            )
            answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(not isinstance(a, BaseException) or isinstance(a, SparrowError) for a in answers)
        assert primary.free_pages == primary.pages_at_start


async def test_who_waits_for_a_peer_is_told_when_its_link_goes() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        far = (await primary.commit_lsn()) + 1000
        waiting = asyncio.create_task(primary.plane.peer_acked(DEMO, follower.number, far))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await follower.plane.close_replica(DEMO)
        with pytest.raises(SparrowError):
            await waiting
        assert (await primary.wait(PeerLost)).cause == "closed"


async def test_a_read_that_waits_for_a_repair_ends_with_the_volume() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        assert (await client.write(0, page_of(0, 1))).status == 0
        await node.plane.close_replica(DEMO)
        fd = os.open(node.files() / "extents", os.O_RDWR)
        os.pwrite(fd, b"\xff" * 64, 0)
        os.close(fd)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        client = await cluster.connect(node)
        reading = asyncio.create_task(client.read(0))
        await node.wait(PageDamaged)
        await node.plane.close_replica(DEMO)
        # Not by what comes of a repair that takes too long, which is an answer.
        with pytest.raises(ConnectionError):
            await reading


def refuse_writes(node: CoreNode, file: str) -> None:
    """The kernel refuses every write to one of the replica's files from now on (EBADF)."""
    files = node.plane._volumes[DEMO].files
    read_only = os.open(node.files() / file, os.O_RDONLY)
    os.dup2(read_only, getattr(files, f"{file}_fd"))
    if file == "extents":
        os.dup2(read_only, files.extents_direct_fd)
    os.close(read_only)


async def test_a_replica_whose_sums_cannot_be_written_is_condemned_and_still_closes() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        refuse_writes(node, "sums")
        assert (await client.write(PAGES - 1, page_of(PAGES - 1, 1))).status == 0
        # Applied after a second at rest.
        assert (await node.wait(DiskFailed)).file == "sums"
        assert (await client.write(0, page_of(0, 1))).status != 0
        async with asyncio.timeout(WAIT_S):
            await node.plane.close_replica(DEMO)
        assert node.free_pages == node.pages_at_start


async def test_a_replica_whose_sums_are_gone_is_not_condemned_and_goes_on_without_them() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        with (node.files() / "sums").open("r+b") as sums:
            sums.truncate(0)
        assert (await client.write(PAGES - 1, page_of(PAGES - 1, 1))).status == 0
        damaged = await node.wait(SumsDamaged)
        assert (await node.plane.mend_sums(DEMO, damaged.block, Lsn(0), ())).lost_pages > 0
        assert (await client.write(PAGES - 1, page_of(PAGES - 1, 2))).status == 0
        assert (await client.read(PAGES - 1)).data == page_of(PAGES - 1, 2)
        await node.plane.close_replica(DEMO)
        await node.plane.open_replica(DEMO)
        assert await cluster.read_page(node, PAGES - 1) == page_of(PAGES - 1, 2)
        assert not node.heard(DiskFailed)


async def test_clients_of_a_failed_disk_are_sent_to_the_replicas_that_are_left() -> None:
    """A hardware error would be the end of a file system; others have every byte."""
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        refuse_writes(primary, "sums")
        assert (await client.write(PAGES - 1, page_of(PAGES - 1, 1))).status == 0
        assert (await primary.wait(DiskFailed)).file == "sums"
        for answer in (await client.write(0, page_of(0, 1)), await client.read(0)):
            assert answer.sense == (0x02, 0x04, 0x0A)


async def test_a_closing_that_meets_a_failed_disk_ends() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        assert (await client.write(PAGES - 1, page_of(PAGES - 1, 1))).status == 0
        with (node.files() / "sums").open("r+b") as sums:
            sums.truncate(0)
        async with asyncio.timeout(WAIT_S):
            await node.plane.close_replica(DEMO)
        await until(lambda: node.free_pages == node.pages_at_start)


async def test_what_is_asked_of_a_closed_volume_is_not_found() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.close_replica(DEMO)
        with pytest.raises(NotFound):
            await node.plane.status(DEMO)
        await node.plane.close_replica(DEMO)


async def test_stopping_ends_sessions_and_links_first() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        load = await cluster.load(primary, pages=range(1024), depth=8)
        await load.wait_written(1 << 20)
        await cluster.stop_node(primary)
        await load.stop()
        assert primary.heard(SessionEnded)


class Holding:
    """A core that has lost three pages."""

    def __init__(self, core: Any) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def held(self) -> dict[str, int]:
        assert self._core.held() == {}
        return {"pages": 3}


async def test_what_was_not_put_back_is_told_at_the_end() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        node.plane._core = Holding(node.plane._core)
        with pytest.raises(AssertionError, match="something in its hands"):
            await cluster.stop_node(node)
        assert await node.wait(CoreLeaked) == CoreLeaked(held={"pages": 3})


async def test_a_stopped_core_takes_no_commands() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.stop_node(node)
        core = node.plane._core
        assert core.held() == {}
        assert not core.post(1, 1, 1)
        assert core.drain() == []

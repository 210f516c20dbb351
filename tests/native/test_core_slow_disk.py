"""What waits for the own disk: an answer, and a grant. The disk is a file system that is frozen meanwhile."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sparrow.authority.types import Term
from sparrow.base.ids import Epoch
from sparrow.formats.links import VERDICT_GRANTED, VERDICT_NEWER, VERDICT_NOT_PROMISED
from tests.support.core_client import page_of
from tests.support.core_cluster import DEMO, core_cluster
from tests.support.core_peer import MOMENT_S, OTHER
from tests.support.grant_peer import GrantPeer
from tests.support.needs import needs_program, needs_root
from tests.support.places import disk_directory, small_file_system
from tests.support.waiting import until

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878


@asynccontextmanager
async def frozen(path: Path) -> AsyncIterator[None]:
    """Writes to this file system wait."""
    fd = os.open(path, os.O_RDONLY)
    try:
        await asyncio.to_thread(fcntl.ioctl, fd, FIFREEZE, 0)
        try:
            yield
        finally:
            await asyncio.to_thread(fcntl.ioctl, fd, FITHAW, 0)
    finally:
        os.close(fd)


@pytest.fixture
def place() -> Iterator[Path]:
    with disk_directory("rules") as path:
        yield path


@needs_root()
@needs_program("mkfs.ext4")
@pytest.mark.parametrize("ack_local", [False, True], ids=["sync", "local"])
async def test_a_write_is_acknowledged_when_the_own_disk_has_it(
    place: Path, ack_local: bool
) -> None:
    """The follower has it already; the primary's own disk is slow. So it is under every policy."""
    with small_file_system(place, "slow", 160 << 20) as mount:
        async with core_cluster(nodes=0) as cluster:
            primary = await cluster._start(0, mount, None)
            follower = await cluster.add_node()
            for node in (primary, follower):
                await cluster.make_replica(node)
            await cluster.open_term(primary, followers=[follower])
            await cluster.set_needed(primary, [follower], ack_local=ack_local)
            client = await cluster.connect(primary)
            assert (await client.write(1, page_of(1, 1))).status == 0
            await cluster.caught_up(primary, follower)
            had = (await follower.plane.status(DEMO)).log.durable_lsn

            async def follower_has_it() -> bool:
                return (await follower.plane.status(DEMO)).log.durable_lsn > had

            async with frozen(mount):
                writing = asyncio.create_task(client.write(1, page_of(1, 2)))
                await until(follower_has_it)
                await asyncio.sleep(MOMENT_S)
                assert not writing.done()
            assert (await writing).status == 0


@needs_root()
@needs_program("mkfs.ext4")
async def test_nothing_is_granted_before_the_promise_is_on_the_disk(place: Path) -> None:
    term = Term(epoch=Epoch(3), start=1)
    with small_file_system(place, "slow", 160 << 20) as mount:
        async with core_cluster(nodes=0) as cluster:
            node = await cluster._start(0, mount, None)
            await cluster.make_replica(node)
            peer = GrantPeer(DEMO)
            await node.plane.grant_serve_link(peer.theirs)
            stamps = itertools.count(1)

            async def refuses_older() -> bool:
                older = Term(epoch=Epoch(2), start=1)
                return await asyncio.to_thread(peer.ask, older, next(stamps)) == VERDICT_NEWER

            async with frozen(mount):
                fencing = asyncio.create_task(node.plane.fence(DEMO, term, OTHER))
                await until(refuses_older)
                verdict = await asyncio.to_thread(peer.ask, term, next(stamps))
                assert verdict == VERDICT_NOT_PROMISED
                assert not fencing.done()
            await fencing
            assert await asyncio.to_thread(peer.ask, term, next(stamps)) == VERDICT_GRANTED
            peer.close()

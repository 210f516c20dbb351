"""Rules of commit and of what is seen and applied: when a write is answered, what a read may show.

Most of them hold up no ordinary run: they matter when something is late or lost. Planted faults (``make mutants-data``)
show that each of these tests fails when its rule is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

from sparrow.base.ids import Epoch, Lsn
from sparrow.ports.dataplane import DiskFailed, GateOpened, Membership
from tests.support.core_client import page_of
from tests.support.core_cluster import DEMO, PAGE, core_cluster
from tests.support.core_files import superblock
from tests.support.core_peer import MOMENT_S, PEER, a_log, alone, granted, held_open, needs_peer
from tests.support.waiting import until


async def test_a_log_write_that_fails_is_not_acknowledged() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        client = await cluster.connect(node)
        # From here on the log's descriptor cannot be written to.
        wal = os.open(node.files() / "wal", os.O_RDONLY)
        os.dup2(wal, node.plane._volumes[DEMO].files.wal_fd)
        os.close(wal)
        assert (await client.write(1, page_of(1, 1))).status != 0
        assert (await node.wait(DiskFailed)).file == "wal"


async def test_a_read_never_sees_what_is_not_committed() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        client, other = await cluster.connect(node), await cluster.connect(node)
        assert (await client.write(1, page_of(1, 1))).status == 0
        grants = await granted(node)
        await needs_peer(node)
        with held_open(grants):
            await node.wait(GateOpened)
            head = (await node.plane.status(DEMO)).log.last_lsn
            writing = asyncio.create_task(client.write(1, page_of(1, 2)))

            async def logged() -> bool:
                return (await node.plane.status(DEMO)).log.last_lsn > head

            await until(logged)
            assert (await other.read(1)).data == page_of(1, 1)
            assert not writing.done()
        await node.plane.close_gate(DEMO, "superseded")
        assert (await writing).status != 0


async def test_nothing_inherited_commits_before_the_term_has_begun_in_the_log() -> None:
    """Two of three have it, and the third may have the start of a term that is newer, and be adopted after all."""
    async with core_cluster(nodes=3) as cluster:
        donor, primary, peer = cluster.nodes
        inherited = await a_log(cluster, donor, (1, 2))
        term = await primary.plane.begin_term(DEMO, Epoch(2))
        last = await primary.plane.append_log(DEMO, b"".join(inherited))
        committed = await primary.commit_lsn()
        assert committed < last
        await peer.plane.fence(DEMO, term, primary.replica)
        await cluster.join_and_ship(primary, peer, term)
        one_of_two = Membership(needed=(), one_of=(peer.number, PEER), writable=True)
        await primary.plane.set_membership(DEMO, one_of_two)
        await primary.plane.peer_acked(DEMO, peer.number, Lsn(last))
        await asyncio.sleep(MOMENT_S)
        assert await primary.commit_lsn() == committed
        assert await primary.plane.commit_inherited(DEMO) == last + 1
        assert await primary.commit_lsn() == last + 1


async def test_nothing_is_applied_before_it_is_committed() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        client = await cluster.connect(node)
        assert (await client.write(1, page_of(1, 1))).status == 0
        committed = await node.commit_lsn()
        grants = await granted(node)
        await needs_peer(node)
        with held_open(grants):
            await node.wait(GateOpened)
            writing = asyncio.create_task(client.write(1, page_of(1, 2)))

            async def durable() -> bool:
                return (await node.plane.status(DEMO)).log.durable_lsn > committed

            await until(durable)
        # The end of the volume in the core applies everything it may.
        await node.plane.close_replica(DEMO)
        with contextlib.suppress(ConnectionError, AssertionError, OSError):
            await writing
        assert superblock(node.files()).number("applied_lsn") <= committed
        assert (node.files() / "extents").read_bytes()[PAGE : 2 * PAGE] == page_of(1, 1)


async def test_the_newest_version_of_a_page_is_applied() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        client = await cluster.connect(node)
        for version in (1, 2, 3):
            assert (await client.write(1, page_of(1, version))).status == 0
        await node.plane.close_replica(DEMO)
        assert (node.files() / "extents").read_bytes()[PAGE : 2 * PAGE] == page_of(1, 3)

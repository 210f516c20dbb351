"""The last in-sync copy whose disk fails: it takes no more writes and goes on serving verified reads (L10)."""

from __future__ import annotations

import pytest

from sparrow.base.errors import SparrowError
from sparrow.base.ids import ReplicaId
from sparrow.ports.dataplane import DiskFailed, GateClosed, Membership
from tests.native.test_core_damage import applied
from tests.native.test_core_end import refuse_writes
from tests.support.core_client import page_of
from tests.support.core_cluster import DEMO, PAGE, core_cluster
from tests.support.core_files import flip_bit

HARDWARE_ERROR = 0x04
MEDIUM_ERROR = 0x03
PATH_ERROR = (0x02, 0x04, 0x0A)
INTERNAL_TARGET_FAILURE = 0x44


@pytest.mark.parametrize("file", ["extents", "sums"])
async def test_l10_the_last_copy_freezes_writes_and_serves_every_read(file: str) -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 8)
        client = await cluster.connect(node)
        node.events.clear()
        refuse_writes(node, file)
        assert (await client.write(3, page_of(3, 2))).status == 0, "acknowledged before it failed"
        failed = await node.wait(DiskFailed)
        assert (failed.file, failed.frozen) == (file, True)
        refused = await client.write(4, page_of(4, 2))
        assert refused.sense[0] == HARDWARE_ERROR
        assert refused.sense[1] == INTERNAL_TARGET_FAILURE
        right = [page_of(page, 2 if page == 3 else 1) for page in range(8)]
        assert (await client.read(0, 8)).data == b"".join(right)
        assert (await client.read(900)).data == bytes(PAGE), "a hole is known to be one"
        status = await node.plane.status(DEMO)
        assert status.gate_open
        assert status.disk_failed
        assert status.frozen
        assert not node.heard(GateClosed)
        await node.plane.close_replica(DEMO)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=3)
        found = [await cluster.read_page(node, page) for page in range(8)]
        assert found == right, "what could not be applied is in the log"


async def test_l10_a_frozen_copy_still_returns_no_wrong_byte() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 8)
        client = await cluster.connect(node)
        refuse_writes(node, "extents")
        assert (await client.write(3, page_of(3, 2))).status == 0
        await node.wait(DiskFailed)
        flip_bit(node.files() / "extents", 5 * PAGE + 9)
        assert (await client.read(5)).sense[0] == MEDIUM_ERROR
        assert (await client.read(3)).data == page_of(3, 2)


async def test_l10_a_failed_log_still_stops_the_last_copy() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await applied(cluster, node, 2)
        client = await cluster.connect(node)
        refuse_writes(node, "wal")
        assert (await client.write(0, page_of(0, 2))).status != 0
        failed = await node.wait(DiskFailed)
        assert (failed.file, failed.frozen) == ("wal", False)
        await node.wait(GateClosed, cause="disk")
        stopped = await client.read(1)
        assert stopped.sense[0] == HARDWARE_ERROR, "the replica failed, not this page alone"
        assert stopped.sense[1] == INTERNAL_TARGET_FAILURE


@pytest.mark.parametrize("policy", ["sync", "quorum"])
async def test_l10_a_copy_that_is_not_the_last_one_stops_so_that_another_takes_over(
    policy: str,
) -> None:
    async with core_cluster(nodes=2) as cluster:
        a, b = cluster.nodes
        await cluster.open_term(a, followers=[b])
        if policy == "quorum":
            enough = Membership(needed=(), one_of=(b.number,), writable=True)
            await a.plane.set_membership(DEMO, enough)
        client = await cluster.connect(a)
        refuse_writes(a, "extents")
        assert (await client.write(0, page_of(0, 1))).status == 0
        failed = await a.wait(DiskFailed)
        assert not failed.frozen
        await a.wait(GateClosed, cause="disk")
        for answer in (await client.read(0), await client.write(1, page_of(1, 1))):
            assert tuple(answer.sense) == PATH_ERROR, "another replica may serve"


async def test_l10_a_frozen_primary_feeds_its_successor_and_ends_with_its_fence() -> None:
    async with core_cluster(nodes=2) as cluster:
        a, b = cluster.nodes
        term = await cluster.open_term(a)
        client = await cluster.connect(a)
        refuse_writes(a, "extents")
        # At once: a second after the first one the flusher finds that it may not write, and the replica takes no more.
        pages = b"".join(page_of(page, 1) for page in range(20))
        assert (await client.write(0, pages)).status == 0
        await a.wait(DiskFailed, frozen=True)
        await b.plane.fence(DEMO, term, a.replica)
        await cluster.join_and_ship(a, b, term)
        await cluster.grant_link(a, b)
        await cluster.set_needed(a, [b])
        lsn = await cluster.caught_up(a, b)
        assert (await client.read(7)).data == page_of(7, 1)
        successor = await b.plane.begin_term(DEMO, type(term.epoch)(2))
        with pytest.raises(SparrowError):
            await a.plane.fence(DEMO, successor, ReplicaId("r1"))
        await a.wait(GateClosed, cause="fenced")
        await b.plane.commit_inherited(DEMO)
        assert await cluster.read_page(b, 7, at_least=lsn) == page_of(7, 1)
        assert (await client.read(7)).status != 0

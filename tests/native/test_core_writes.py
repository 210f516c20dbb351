"""Writes and reads through the native data plane: commit, catch-up, gate, end."""

from __future__ import annotations

import asyncio
import time

import pytest

from sparrow.base.constants import FENCE_HOLD_S
from sparrow.base.errors import SparrowError
from sparrow.base.ids import Lsn
from sparrow.ports.dataplane import DiskFailed, GateClosed, GateOpened, PeerLost
from tests.native.test_core_end import refuse_writes
from tests.support.core_client import page_of
from tests.support.core_cluster import CALM_GRANT_S, DEMO, PAGE, CoreNode, core_cluster
from tests.support.waiting import until


async def test_what_was_written_is_read_back_and_holes_are_zeros() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        data = b"".join(page_of(page, 1) for page in range(100, 164))
        assert (await client.write(100, data)).status == 0
        assert (await client.read(100, 64)).data == data
        assert (await client.read(98, 4)).data == bytes(2 * PAGE) + data[: 2 * PAGE]
        await node.plane.close_replica(DEMO)
        report = await node.plane.open_replica(DEMO)
        assert report.torn_after_lsn is None
        assert report.damaged_after_lsn is None
        assert await cluster.read_page(node, 163) == page_of(163, 1)


async def test_a_write_is_answered_only_when_the_needed_peer_has_it() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        term = await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        assert (await client.write(1, page_of(1, 1))).status == 0
        assert (await follower.plane.status(DEMO)).log.durable_lsn == await primary.commit_lsn()

        await primary.plane.drop_peer(DEMO, follower.number)
        before = await primary.commit_lsn()
        waiting = asyncio.create_task(client.write(1, page_of(1, 2)))
        await until(lambda: _durable_above(primary, before))
        assert await primary.commit_lsn() == before
        assert not waiting.done()

        await cluster.join_and_ship(primary, follower, term)
        assert (await waiting).status == 0
        assert await primary.commit_lsn() > before
        await cluster.assert_same(primary, follower)


async def test_a_peer_that_is_needed_and_never_joined_holds_every_commit() -> None:
    async with core_cluster(nodes=2, hold_s=FENCE_HOLD_S) as cluster:
        primary, other = cluster.nodes
        await cluster.open_term(primary)
        client = await cluster.connect(primary)
        frozen = await cluster.set_needed(primary, [other])
        # Without its grant the gate is closed as well: what comes is held, then fails.
        await primary.wait(GateClosed, cause="grant")
        assert (await client.write(1, page_of(1, 1))).status != 0
        assert await primary.commit_lsn() == frozen


async def test_a_grant_of_another_node_is_not_the_peers() -> None:
    async with core_cluster(nodes=3) as cluster:
        granting, primary, other = cluster.nodes
        assert granting.number == 0
        await cluster.open_term(primary, followers=[granting])
        await cluster.set_needed(primary, [granting, other])
        await primary.wait(GateClosed, cause="grant")
        # The first node goes on granting, many times over; the other one was never asked.
        await asyncio.sleep(0.6)
        assert not primary.heard(GateOpened)


async def test_l16_below_the_minimum_writes_get_the_path_error_and_reads_go_on() -> None:
    async with core_cluster(nodes=1, hold_s=FENCE_HOLD_S) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client, reader = await cluster.connect(node), await cluster.connect(node)
        assert (await client.write(7, page_of(7, 1))).status == 0
        before = await cluster.set_needed(node, [], writable=False)
        held = asyncio.create_task(client.write(7, page_of(7, 2)))
        assert (await reader.read(7)).data == page_of(7, 1)
        result = await held
        assert result.sense == (0x02, 0x04, 0x0A)
        assert await node.commit_lsn() == before


@pytest.mark.parametrize("waited_for", [True, False], ids=["eligible", "gone"])
async def test_s11_a_write_logged_before_the_set_fell_below_the_minimum_ends_too(
    waited_for: bool,
) -> None:
    """Whether the replica that left may be asked to take over, and is waited for, or nobody is needed any more."""
    async with core_cluster(nodes=2, hold_s=FENCE_HOLD_S) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        await primary.plane.drop_peer(DEMO, follower.number)
        before = await primary.commit_lsn()
        waiting = asyncio.create_task(client.write(1, page_of(1, 1)))
        await until(lambda: _durable_above(primary, before))
        await cluster.set_needed(primary, [follower] if waited_for else [], writable=False)
        assert (await waiting).sense == (0x02, 0x04, 0x0A)
        assert await primary.commit_lsn() == before


async def test_a_peer_catches_up_from_the_ring_after_its_batches_left_memory() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        term = await cluster.open_term(primary, followers=[follower])
        await primary.plane.drop_peer(DEMO, follower.number)
        await cluster.set_needed(primary, [])
        # The core keeps 64 batches in memory; one write after the other makes a batch each.
        load = await cluster.load(primary, pages=range(512), depth=1, limit=200 * PAGE)
        await load.wait_written(200 * PAGE)
        await load.stop()
        lsn = await cluster.join_and_ship(primary, follower, term)
        assert await primary.commit_lsn() - lsn >= 200
        await primary.plane.peer_acked(DEMO, follower.number, await primary.commit_lsn())
        await cluster.assert_same(primary, follower)
        assert not primary.heard(PeerLost) or (await primary.wait(PeerLost)).cause == "closed"


async def test_large_writes_in_flight_never_stop_a_small_log() -> None:
    """The log of 16 MiB is written several times over with 8 MiB in flight, on both replicas."""
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        load = await cluster.load(primary, pages=range(8192), depth=64, run=32, limit=96 << 20)
        await load.wait_written(96 << 20)
        await load.stop()
        assert load.failed is None
        await cluster.assert_same(primary, follower)


async def test_the_gate_closes_when_grants_stop_and_opens_when_they_return() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        assert (await client.write(5, page_of(5, 1))).status == 0
        cluster.hold_grants(primary, follower, hold=True)
        held_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        closed = await primary.wait(GateClosed)
        assert closed.cause == "grant"
        # Whatever it was granted was asked for before, and counts from then.
        assert closed.deadline_ns <= held_ns + CALM_GRANT_S * 1e9
        held = asyncio.create_task(client.read(5))
        cluster.hold_grants(primary, follower, hold=False)
        await primary.wait(GateOpened)
        assert (await held).data == page_of(5, 1), "a held read is served when the gate is back"


async def test_a_held_command_gets_the_path_error_after_fence_hold() -> None:
    async with core_cluster(nodes=2, hold_s=FENCE_HOLD_S) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        other = await cluster.connect(primary)
        cluster.hold_grants(primary, follower, hold=True)
        await primary.wait(GateClosed)
        before = (await primary.plane.status(DEMO)).log.last_lsn
        began = asyncio.get_running_loop().time()
        read, write = await asyncio.gather(client.read(5), other.write(5, page_of(5, 1)))
        took = asyncio.get_running_loop().time() - began
        assert took > 1.3
        assert read.sense == write.sense == (0x02, 0x04, 0x0A)
        assert (await primary.plane.status(DEMO)).log.last_lsn == before, "it never got an LSN"


async def _durable_above(node: CoreNode, lsn: Lsn) -> bool:
    return (await node.plane.status(DEMO)).log.durable_lsn > lsn


async def test_d23_a_follower_whose_log_fails_acknowledges_nothing() -> None:
    """What could not be made durable is never answered for, and neither is anything behind it."""
    async with core_cluster(nodes=2) as cluster:
        a, b = cluster.nodes
        await cluster.open_term(a, followers=[b])
        client = await cluster.connect(a)
        assert (await client.write(0, page_of(0, 1))).status == 0
        acked = (await a.plane.status(DEMO)).peers[0].acked_lsn
        refuse_writes(b, "wal")
        writing = asyncio.create_task(client.write(1, page_of(1, 1)))
        assert (await b.wait(DiskFailed)).file == "wal"
        status = await a.plane.status(DEMO)
        assert not writing.done()
        assert status.log.last_lsn > acked
        assert status.log.commit_lsn == acked
        assert status.peers[0].acked_lsn == acked
        with pytest.raises(SparrowError):
            await b.plane.fence(DEMO, status.term, a.replica)
        # Only a line without it lets the write be answered.
        await cluster.set_needed(a, [])
        assert (await writing).status == 0


async def test_d23_a_follower_whose_extents_fail_stops_and_is_no_donor_of_pages() -> None:
    async with core_cluster(nodes=2, hold_s=FENCE_HOLD_S) as cluster:
        a, b = cluster.nodes
        await cluster.open_term(a, followers=[b])
        client = await cluster.connect(a)
        refuse_writes(b, "extents")
        assert (await client.write(0, page_of(0, 1))).status == 0, "durable in its log"
        failed = await b.wait(DiskFailed)
        assert (failed.file, failed.frozen) == ("extents", False)
        writing = asyncio.create_task(client.write(1, page_of(1, 1)))
        await until(lambda: writing.done() or a.heard(GateClosed))
        assert (await writing).status != 0, (
            "its grants end with it, and nothing commits without its ack"
        )

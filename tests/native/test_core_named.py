"""Traps and schedules of the data path by their names, each with the other end of its links played by hand."""

from __future__ import annotations

import asyncio

from sparrow.formats.links import FRAME_BATCH, SHIP_ACK
from sparrow.formats.wal import BATCH
from sparrow.ports.dataplane import Membership, PeerLost
from tests.support.core_client import page_of
from tests.support.core_cluster import DEMO, PAGE, CoreNode, core_cluster
from tests.support.grant_peer import GRANTED_MS, GrantPeer, granting
from tests.support.ship_peer import ack, link, take_batches
from tests.support.waiting import until

#: Slot and node key of a peer that a test plays.
PEER = 5
#: Long enough for anything that wrongly happens at once.
MOMENT_S = 0.2
RING_BYTES = 16 << 20
MIB = 1 << 20


async def durable(node: CoreNode, lsn: int) -> bool:
    return (await node.plane.status(DEMO)).log.durable_lsn >= lsn


async def test_d24_an_ack_below_what_is_waited_for_is_not_enough() -> None:
    """The peer has all but the last entry: nothing that needs it is answered, and nobody is told that it has it."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        with link() as peer:
            term = await cluster.open_term(node)
            head = (await node.plane.status(DEMO)).log.last_lsn
            await node.plane.ship(DEMO, PEER, PEER, peer.theirs, joined_lsn=head, rebuild=None)
            grants = GrantPeer(DEMO)
            await node.plane.grant_ask_link(PEER, grants.theirs)
            with granting(grants):
                await node.plane.set_membership(DEMO, Membership(needed=(PEER,), writable=True))
                first, second = await cluster.connect(node), await cluster.connect(node)
                one = asyncio.create_task(first.write(1, page_of(1, 1)))
                waiting = asyncio.create_task(node.plane.peer_acked(DEMO, PEER, head + 2))
                await until(lambda: durable(node, head + 1))
                two = asyncio.create_task(second.write(2, page_of(2, 1)))
                await until(lambda: durable(node, head + 2))
                await peer.send(SHIP_ACK, ack(term, head + 1))
                assert (await one).status == 0
                await asyncio.sleep(MOMENT_S)
                assert not two.done()
                assert not waiting.done()
                await peer.send(SHIP_ACK, ack(term, head + 2))
                assert (await two).status == 0
                await waiting


async def test_d21_a_peer_that_recovers_too_slowly_stops_no_writer() -> None:
    """It reads nothing of what it is fed: past a part of the ring its place is given up, and it must be rebuilt."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        with link(buffer_bytes=16384) as peer:
            await cluster.open_term(node)
            head = (await node.plane.status(DEMO)).log.last_lsn
            await node.plane.ship(DEMO, PEER, PEER, peer.theirs, joined_lsn=head, rebuild=None)
            load = await cluster.load(node, pages=range(2048), run=16, limit=3 * RING_BYTES)
            await load.wait_written(3 * RING_BYTES)
            await load.stop()
            assert load.failed is None
            assert len(load.seen()) == len(load.sent)
            assert (await node.wait(PeerLost)).cause == "recycled"


async def test_no_more_is_read_for_a_peer_than_it_makes_durable() -> None:
    """24 MiB of log are missing, of which memory has 8 at most. The peer takes all it is sent and says nothing."""
    async with core_cluster(nodes=1, blank=True) as cluster:
        (node,) = cluster.nodes
        # So that the log, a sixteenth, keeps a fifth of itself however fast it is written.
        await node.plane.format_replica(DEMO, node.replica, size_bytes=2048 * MIB, block_size=PAGE)
        await node.plane.open_replica(DEMO)
        term = await cluster.open_term(node)
        head = (await node.plane.status(DEMO)).log.last_lsn
        load = await cluster.load(node, pages=range(8192), run=64, limit=24 * MIB)
        await load.wait_written(24 * MIB)
        await load.stop()
        last = (await node.plane.status(DEMO)).log.last_lsn
        with link() as peer:
            await node.plane.ship(DEMO, PEER, PEER, peer.theirs, joined_lsn=head, rebuild=None)
            lsn, got = await take_batches(peer, head, bytes_min=8 * MIB)
            coming = asyncio.create_task(take_batches(peer, lsn, bytes_min=1))
            while (await asyncio.wait({coming}, timeout=MOMENT_S))[0]:
                lsn, more = coming.result()
                got += more
                coming = asyncio.create_task(take_batches(peer, lsn, bytes_min=1))
            # What was read ahead when it was enough, and the batch that made it so.
            assert got <= 8 * MIB + 5 * (MIB + PAGE)
            while lsn < last:
                await peer.send(SHIP_ACK, ack(term, lsn))
                lsn, _ = await coming
                if lsn < last:
                    coming = asyncio.create_task(take_batches(peer, lsn, bytes_min=1))
            assert not node.heard(PeerLost)


async def test_l14_grants_do_not_wait_behind_what_a_peer_does_not_read() -> None:
    """The peer's disk stalls and its window is full; it still grants, on a connection of its own."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        with link(buffer_bytes=16384) as peer:
            await cluster.open_term(node)
            head = (await node.plane.status(DEMO)).log.last_lsn
            await node.plane.ship(DEMO, PEER, PEER, peer.theirs, joined_lsn=head, rebuild=None)
            grants = GrantPeer(DEMO)
            await node.plane.grant_ask_link(PEER, grants.theirs)
            with granting(grants, granted_ms=GRANTED_MS):
                load = await cluster.load(node, pages=range(512), run=16, limit=4 << 20)
                await load.wait_written(4 << 20)
                await load.stop()
                await node.plane.set_membership(DEMO, Membership(needed=(PEER,), writable=True))
                stuck = (await node.plane.status(DEMO)).peers[-1]
                assert stuck.shipped_lsn < (await node.plane.status(DEMO)).log.last_lsn
                # Longer than a grant: only one that was given meanwhile holds the gate open.
                await asyncio.sleep(1.5 * GRANTED_MS / 1000)

                async def gate_open() -> bool:
                    return (await node.plane.status(DEMO)).gate_open

                # A machine that stands still for a second closes it; what waits behind the peer never opens it.
                await until(gate_open)
                stuck = (await node.plane.status(DEMO)).peers[-1]
                assert stuck.shipped_lsn < (await node.plane.status(DEMO)).log.last_lsn
                reader = await cluster.connect(node)
                assert len((await reader.read(0)).data) == PAGE


async def test_s31_what_is_logged_while_a_send_waits_leaves_behind_it() -> None:
    """The socket is full. Two sends on it would be in no order: frames would lie within each other."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        with link(buffer_bytes=16384) as peer:
            await cluster.open_term(node)
            head = (await node.plane.status(DEMO)).log.last_lsn
            await node.plane.ship(DEMO, PEER, PEER, peer.theirs, joined_lsn=head, rebuild=None)
            load = await cluster.load(node, pages=range(512), run=16, limit=2 << 20)
            await load.wait_written(2 << 20)
            await load.stop()
            last = (await node.plane.status(DEMO)).log.last_lsn
            lsn = head
            while lsn < last:
                frame, body = await peer.read_frame()
                if frame.number("kind") == FRAME_BATCH:
                    batch = BATCH.unpack(body[: BATCH.size])
                    assert batch.number("first_lsn") == lsn + 1
                    lsn += batch.number("entry_count")

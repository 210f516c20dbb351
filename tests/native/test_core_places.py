"""More replicas come and go in one process than a volume has places for peers, and none is taken for another."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from sparrow.authority.types import Term
from sparrow.base.constants import MEMBERS_MAX
from sparrow.base.errors import StorageError, Unavailable
from sparrow.base.ids import Lsn
from sparrow.formats.links import SHIP_ACK
from sparrow.ports.dataplane import GateClosed, Membership, PeerPhase, PeerStatus
from tests.support.core_client import WAIT_S, page_of
from tests.support.core_cluster import DEMO, CoreNode, core_cluster
from tests.support.core_peer import MOMENT_S, alone
from tests.support.grant_peer import GrantPeer, granting
from tests.support.ship_peer import Link, ack, link
from tests.support.waiting import until

#: Places for peers of one volume.
PLACES = MEMBERS_MAX
#: A node on which several replicas are, one after the other.
NODE_KEY = 77


async def name(node: CoreNode, *needed: int, one_of: tuple[int, ...] = ()) -> None:
    membership = Membership(needed=needed, one_of=one_of, writable=True)
    await node.plane.set_membership(DEMO, membership)


async def feed(node: CoreNode, slot: int, peer: Link, *, node_key: int | None = None) -> None:
    head = (await node.plane.status(DEMO)).log.last_lsn
    key = slot if node_key is None else node_key
    await node.plane.ship(DEMO, slot, key, peer.theirs, joined_lsn=head, rebuild=None)


async def peers(node: CoreNode) -> dict[int, PeerStatus]:
    return {peer.slot: peer for peer in (await node.plane.status(DEMO)).peers}


async def has(node: CoreNode, peer: Link, term: Term, slot: int, lsn: Lsn) -> None:
    """Its ack has arrived."""
    await peer.send(SHIP_ACK, ack(term, lsn))
    await node.plane.peer_acked(DEMO, slot, lsn)


async def test_many_more_replicas_than_places_are_fed_one_after_the_other() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        term = await alone(cluster, node)
        client = await cluster.connect(node)
        for slot in range(3 * PLACES):
            with link() as peer:
                await feed(node, slot, peer)
                assert (await client.write(slot, page_of(slot, 1))).status == 0
                lsn = await node.commit_lsn()
                while True:
                    _frame, body = await peer.read_frame()
                    if body:
                        break
                await has(node, peer, term, slot, lsn)
                assert (await peers(node))[slot].acked_lsn == lsn
                await node.plane.drop_peer(DEMO, slot)
        assert len(await peers(node)) <= PLACES


async def test_who_is_needed_or_linked_keeps_its_place_and_the_ninth_is_refused() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        with ExitStack() as stack:
            linked = range(3)
            ends = [stack.enter_context(link()) for _ in linked]
            for slot, end in zip(linked, ends, strict=True):
                await feed(node, slot, end)
            await name(node, *range(3, 6), one_of=(6, 7))
            before = await peers(node)
            assert sorted(before) == list(range(PLACES))
            with link() as ninth:
                with pytest.raises(Unavailable):
                    await feed(node, 8, ninth)
                with pytest.raises(AssertionError, match="closed the link"):
                    await ninth.read_frame()
            # Those named before are named no more, but of the three with a link none gives way.
            with pytest.raises(Unavailable):
                await name(node, *range(10, 16))
            after = await peers(node)
            assert sorted(after) == sorted(before)
            assert all(after[slot].phase is PeerPhase.SHIPPING for slot in linked)
            # What was refused changed nothing: those who were needed are.
            client = await cluster.connect(node)
            write = asyncio.create_task(client.write(1, page_of(1, 1)))
            await asyncio.sleep(MOMENT_S)
            assert not write.done()
            await name(node, *range(11, 16))
            assert sorted(await peers(node)) == [*linked, *range(11, 16)]
            assert not write.done()
            await name(node)
            assert (await write).status == 0


async def test_more_than_there_are_places_is_no_membership() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        await name(node, 1)
        with pytest.raises(StorageError):
            await name(node, *range(PLACES + 1))
        assert list(await peers(node)) == [1]


async def test_whoever_gets_a_place_has_acknowledged_nothing() -> None:
    """The one before it acknowledged everything there was."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        term = await alone(cluster, node)
        client = await cluster.connect(node)
        head = await node.commit_lsn()
        with ExitStack() as stack:
            for slot in range(PLACES):
                peer = stack.enter_context(link())
                await feed(node, slot, peer)
                await has(node, peer, term, slot, head)
                await node.plane.drop_peer(DEMO, slot)
            for slot in range(PLACES):
                assert (await peers(node))[slot].acked_lsn == head
            # Each place changes hands.
            for slot in range(PLACES, 2 * PLACES):
                await name(node, *range(PLACES, slot + 1))
                assert (await peers(node))[slot].acked_lsn == 0
                write = asyncio.create_task(client.write(1, page_of(1, slot)))
                await asyncio.sleep(MOMENT_S / 4)
                assert not write.done(), "it is answered without the peer that is needed"
                await name(node)
                assert (await write).status == 0
            assert sorted(await peers(node)) == list(range(PLACES, 2 * PLACES))


async def granted(node: CoreNode, *slots: int) -> None:
    """Wait until each holds a right."""

    async def all_are() -> bool:
        known = await peers(node)
        return all(known[slot].granted for slot in slots)

    await until(all_are, within_s=WAIT_S, every_s=0.005)


async def is_open(node: CoreNode) -> bool:
    return (await node.plane.status(DEMO)).gate_open


async def test_whoever_gets_a_place_holds_no_right_of_the_one_before_it() -> None:
    """All were on one node, which goes on granting; the new one is not known to be on any."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        grants = GrantPeer(DEMO)
        await node.plane.grant_ask_link(NODE_KEY, grants.theirs)
        with granting(grants), ExitStack() as stack:
            for slot in range(PLACES):
                await feed(node, slot, stack.enter_context(link()), node_key=NODE_KEY)
            await granted(node, *range(PLACES))
            for slot in range(PLACES):
                await node.plane.drop_peer(DEMO, slot)
            node.events.clear()
            await name(node, PLACES)
            assert not (await peers(node))[PLACES].granted
            await node.wait(GateClosed, cause="grant")


async def test_a_replica_that_is_fed_on_another_node_holds_no_right_of_the_first() -> None:
    """The first one's grant would keep the gate open, and nobody on the second has promised anything."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        grants = GrantPeer(DEMO)
        await node.plane.grant_ask_link(NODE_KEY, grants.theirs)
        with granting(grants), link() as first, link() as second:
            await feed(node, 0, first, node_key=NODE_KEY)
            await granted(node, 0)
            await name(node, 0)
            await until(lambda: is_open(node), within_s=WAIT_S, every_s=0.005)
            node.events.clear()
            await feed(node, 0, second, node_key=NODE_KEY + 1)
            assert not (await peers(node))[0].granted
            assert not await is_open(node)
            await node.wait(GateClosed, cause="grant")

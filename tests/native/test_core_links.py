"""A ship link whose other end is gone without a word ends, at both ends, however idle its volume is.

The other end is a test: a connection over which nothing comes and which nobody closes, and a grant link on which the
node at the other end says whether it has that connection.
"""

from __future__ import annotations

import asyncio

from sparrow.authority.types import Term
from sparrow.base.constants import GRANT_S
from sparrow.base.ids import Epoch, LinkId, ReplicaId
from sparrow.formats.links import ASK_LINKED, SHIP_ACK, SHIP_FRAME
from sparrow.ports.dataplane import GrantLinkLost, PeerLost, PrimaryLost
from tests.support.core_cluster import DEMO, CoreCluster, CoreNode, core_cluster
from tests.support.core_peer import joined
from tests.support.grant_peer import Asked, GrantPeer, granting
from tests.support.ship_peer import Link, ack, commit_frame, link

#: Slot and node key of a peer that a test plays.
PEER = 5
OTHER = ReplicaId("r9")
NEXT = Term(epoch=Epoch(2), start=1)
#: Exchanges that would show a link which is ended too early.
SOME = 4


async def shipped(cluster: CoreCluster, node: CoreNode, peer: Link) -> tuple[Term, int, GrantPeer]:
    """A primary with a ship link and a grant link to a node that a test plays; gives its term and head."""
    term = await cluster.open_term(node)
    head = (await node.plane.status(DEMO)).log.last_lsn
    await node.plane.ship(DEMO, PEER, PEER, peer.theirs, joined_lsn=head, rebuild=None)
    grants = GrantPeer(DEMO)
    await node.plane.grant_ask_link(PEER, grants.theirs)
    return term, head, grants


async def answer(grants: GrantPeer, *, follows: bool) -> Asked:
    """One exchange."""
    asked = await asyncio.to_thread(grants.asked)
    grants.grant(asked, follows=follows)
    return asked


async def acked(node: CoreNode, peer: Link, term: Term, lsn: int) -> None:
    """The link's first ack has arrived."""
    await peer.send(SHIP_ACK, {**ack(term, lsn), "applied_lsn": lsn})
    await node.plane.peer_acked(DEMO, PEER, lsn)


async def test_a_peer_that_has_no_such_link_any_more_is_lost_at_its_next_answer() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        with link() as peer:
            term, head, grants = await shipped(cluster, node, peer)
            await acked(node, peer, term, head)
            for _ in range(SOME):
                asked = await answer(grants, follows=True)
                assert asked.entries[0].number("flags") & ASK_LINKED
            assert not node.heard(PeerLost)
            await answer(grants, follows=False)
            # That one answer was enough: it is heard of as before.
            with granting(grants):
                assert (await node.wait(PeerLost)).cause == "silent"


async def test_a_link_that_its_peer_has_not_taken_yet_is_not_lost() -> None:
    """Connected here, on its way into the core there: the peer says no until it is adopted and acknowledges."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        with link() as peer:
            term, head, grants = await shipped(cluster, node, peer)
            for _ in range(SOME):
                await answer(grants, follows=False)
            await acked(node, peer, term, head)
            for _ in range(SOME):
                await answer(grants, follows=True)
            assert not node.heard(PeerLost)
            grants.close()


async def test_a_peer_of_which_nothing_is_heard_is_lost() -> None:
    """Its node is gone without a word: neither the ship link nor the grant link says anything."""
    async with core_cluster(nodes=1, grant_s=GRANT_S) as cluster:
        (node,) = cluster.nodes
        with link() as peer:
            term, head, grants = await shipped(cluster, node, peer)
            await acked(node, peer, term, head)
            await asyncio.to_thread(grants.asked)
            assert (await node.wait(PeerLost)).cause == "silent"
            assert node.heard(GrantLinkLost)
            grants.close()


async def test_a_primary_that_has_no_such_link_any_more_is_lost_at_its_second_ask() -> None:
    """One ask may be older than what came by the link: only the one after its answer speaks of the link."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, NEXT, OTHER)
        grants = GrantPeer(DEMO)
        await node.plane.grant_serve_link(grants.theirs)
        with link() as primary:
            await joined(node, NEXT)
            await node.plane.receive(DEMO, primary.theirs, NEXT)
            assert await asyncio.to_thread(grants.followed, NEXT, 1, linked=False)
            assert await asyncio.to_thread(grants.followed, NEXT, 2, linked=False)
            await primary.send(SHIP_FRAME, commit_frame(NEXT))
            await primary.read_ack()
            for stamp in range(3, 9, 2):
                assert await asyncio.to_thread(grants.followed, NEXT, stamp, linked=False)
                assert await asyncio.to_thread(grants.followed, NEXT, stamp + 1, linked=True)
            assert not node.heard(PrimaryLost)
            assert await asyncio.to_thread(grants.followed, NEXT, 9, linked=False)
            assert not await asyncio.to_thread(grants.followed, NEXT, 10, linked=False)
            assert (await node.wait(PrimaryLost)).cause == "silent"
        grants.close()


async def test_a_primary_of_which_nothing_is_heard_is_lost() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, NEXT, OTHER)
        grants = GrantPeer(DEMO)
        await node.plane.grant_serve_link(grants.theirs)
        with link() as primary:
            await joined(node, NEXT)
            await node.plane.receive(DEMO, primary.theirs, NEXT)
            assert await asyncio.to_thread(grants.followed, NEXT, 1, linked=True)
            assert (await node.wait(PrimaryLost)).cause == "silent"
        grants.close()


async def test_a_link_is_asked_about_when_no_grant_is_wanted_any_more() -> None:
    """The gate is closed for the term and the next primary not there yet: the links of this one are still alive."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        with link() as peer:
            term, head, grants = await shipped(cluster, node, peer)
            await acked(node, peer, term, head)
            await node.plane.close_gate(DEMO, "superseded")
            for _ in range(2):
                asked = await answer(grants, follows=True)
            assert [one.number("flags") for one in asked.entries] == [ASK_LINKED]
            assert not node.heard(PeerLost)
            grants.close()


async def test_what_is_said_of_a_link_names_it_and_nothing_is_said_of_one_that_another_replaced() -> (
    None
):
    """All of it is in one ring: the end of a link that was made is read behind the answer that it was made."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        head = (await node.plane.status(DEMO)).log.last_lsn
        with link() as first, link() as second:
            for number, peer in ((7, first), (8, second)):
                await node.plane.ship(
                    DEMO, PEER, PEER, peer.theirs, joined_lsn=head, link=LinkId(number)
                )
            second.close()
            assert (await node.wait(PeerLost)).link == LinkId(8)
            first.close()
        with link() as third:
            third.close()
            await node.plane.ship(DEMO, PEER, PEER, third.theirs, joined_lsn=head, link=LinkId(9))
            assert (await node.wait(PeerLost, link=LinkId(9))).slot == PEER
        assert not node.heard(PeerLost)

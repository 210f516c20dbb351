"""Rights, promises and releases, with the other side of the grant link played by hand."""

from __future__ import annotations

import asyncio

from sparrow.authority.types import Term
from sparrow.base.ids import Epoch, ReplicaId
from sparrow.formats.links import VERDICT_GRANTED, VERDICT_NOT_PROMISED
from sparrow.ports.dataplane import GateClosed, GateOpened, GrantLinkLost
from tests.support.core_cluster import DEMO, core_cluster
from tests.support.core_peer import OTHER, PEER, alone, granted, needs_peer
from tests.support.grant_peer import GrantPeer

#: It has not run out when it is asked about, however long the machine stands still before.
LONG_GRANT_S = 90.0


async def test_a_right_counts_from_when_it_was_asked_for() -> None:
    """The answer was under way for long: what is left of the grant is short (S12)."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        peer = await granted(node)
        await needs_peer(node)
        # The first closing is of the moment when the peer became needed.
        await node.wait(GateClosed, cause="grant")
        deadlines = set()
        while not node.heard(GateOpened):
            asked = await asyncio.to_thread(peer.asked)
            await asyncio.sleep(0.1)
            peer.grant(asked)
            # A second, less a hundredth for clocks that drift, less 5 ms.
            deadlines.add(asked.stamp + 985_000_000)
            # On a machine that stands still the grant may be over when it comes: the next ask is answered.
            await node.plane.status(DEMO)
        assert (await node.wait(GateClosed, cause="grant")).deadline_ns in deadlines
        peer.close()


async def test_only_the_answer_to_the_newest_ask_is_a_grant() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        peer = await granted(node)
        await needs_peer(node)
        asked = await asyncio.to_thread(peer.asked)
        newer = type(asked)(stamp=asked.stamp + 10**9, head=asked.head, entries=asked.entries)
        peer.grant(newer)
        assert (await node.wait(GrantLinkLost)).node_key == PEER
        assert not node.heard(GateOpened)
        peer.close()


async def test_a_release_cancels_no_grant_that_was_asked_for_later() -> None:
    term, next_term = Term(epoch=Epoch(3), start=1), Term(epoch=Epoch(4), start=1)
    async with core_cluster(nodes=1, grant_s=LONG_GRANT_S) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, term, OTHER)
        peer = GrantPeer(DEMO)
        await node.plane.grant_serve_link(peer.theirs)
        assert await asyncio.to_thread(peer.ask, term, 200) == VERDICT_GRANTED
        peer.release(term, 150)
        # Answered behind the release, and grants nothing itself.
        assert await asyncio.to_thread(peer.ask, next_term, 300) == VERDICT_NOT_PROMISED
        report = await node.plane.fence(DEMO, next_term, ReplicaId("r8"))
        assert report.promise_ms > report.older_promise_ms
        assert report.promised_to == term
        peer.close()


async def test_a_grant_is_for_the_promised_term_only() -> None:
    term = Term(epoch=Epoch(3), start=1)
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, term, OTHER)
        peer = GrantPeer(DEMO)
        await node.plane.grant_serve_link(peer.theirs)
        assert await asyncio.to_thread(peer.ask, term, 1) == VERDICT_GRANTED
        later = Term(epoch=Epoch(4), start=1)
        assert await asyncio.to_thread(peer.ask, later, 2) == VERDICT_NOT_PROMISED
        peer.close()

"""Grants that are given back: the next primary need not wait, and no grant is worth more than its stamp (S12)."""

from __future__ import annotations

import asyncio

import pytest

from sparrow.authority.types import Term
from sparrow.base.errors import StaleEpoch
from sparrow.base.ids import Epoch, ReplicaId, VolumeId
from sparrow.formats.links import VERDICT_GRANTED, VERDICT_NOT_PROMISED
from sparrow.ports.dataplane import FenceReport, GateClosed, GateOpened
from tests.support.core_client import WAIT_S, page_of
from tests.support.core_cluster import DEMO, VOLUME_BYTES, CoreNode, core_cluster
from tests.support.grant_peer import GrantPeer
from tests.support.waiting import until

NEXT = Term(epoch=Epoch(2), start=1)
OTHER = ReplicaId("r9")
#: No test waits for the end of one, so a promise that is over was given back.
LONG_GRANT_S = 90.0
#: Where a test waits for a renewal, which comes after a quarter of it.
RENEWED_GRANT_S = 20.0


def runs(report: FenceReport) -> bool:
    """Whether the promise to the newest older term still runs; the hold-off after the start is not meant."""
    return report.promise_ms > report.older_promise_ms


async def fenced(follower: CoreNode) -> FenceReport:
    return await follower.plane.fence(DEMO, NEXT, OTHER)


async def test_a_superseded_primary_gives_its_grants_back() -> None:
    async with core_cluster(nodes=2, grant_s=LONG_GRANT_S) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        await primary.plane.close_gate(DEMO, "superseded")

        async def given_back() -> bool:
            # The release and the fence come over different sockets: asked again, it has arrived.
            return not runs(await fenced(follower))

        await until(given_back, within_s=WAIT_S)


async def test_a_release_that_is_lost_costs_the_time_of_the_promise() -> None:
    async with core_cluster(nodes=2, grant_s=LONG_GRANT_S) as cluster:
        primary, follower = cluster.nodes
        term = await cluster.open_term(primary, followers=[follower])
        cluster.hold_grants(primary, follower, hold=True)
        await primary.plane.close_gate(DEMO, "superseded")
        report = await fenced(follower)
        assert report.promise_ms > 1000 * (LONG_GRANT_S - WAIT_S)
        assert runs(report)
        assert report.promised_to == term


async def test_a_fenced_primary_says_that_its_term_is_closed() -> None:
    async with core_cluster(nodes=2, grant_s=LONG_GRANT_S) as cluster:
        primary, follower = cluster.nodes
        term = await cluster.open_term(primary, followers=[follower])
        report = await primary.plane.fence(DEMO, NEXT, OTHER)
        assert (await primary.wait(GateClosed)).cause == "fenced"
        assert report.closed == term
        assert (await follower.plane.fence(DEMO, NEXT, OTHER)).closed is None
        assert (await primary.plane.fence(DEMO, NEXT, OTHER)).closed == term, "told again"


async def test_what_was_not_answered_when_the_gate_closed_is_answered_with_an_error() -> None:
    async with core_cluster(nodes=2, grant_s=LONG_GRANT_S) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        assert (await client.write(1, page_of(1, 1))).status == 0
        await primary.plane.close_gate(DEMO, "superseded")
        assert (await client.read(1)).status != 0
        assert (await client.write(1, page_of(1, 2))).status != 0


@pytest.mark.parametrize("cause", ["superseded", "fenced"])
async def test_a_gate_that_was_closed_for_its_term_is_not_opened_in_it_again(cause: str) -> None:
    async with core_cluster(nodes=2, grant_s=LONG_GRANT_S) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        await primary.plane.close_gate(DEMO, cause)
        with pytest.raises(StaleEpoch):
            await primary.plane.open_gate(DEMO, wait_ms=0)
        assert not (await primary.plane.status(DEMO)).gate_open


async def test_the_next_primary_opens_when_the_promise_it_gave_itself_is_given_back() -> None:
    async with core_cluster(nodes=2, grant_s=LONG_GRANT_S) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        cluster.hold_grants(primary, follower, hold=True)
        await primary.plane.close_gate(DEMO, "superseded")
        term = await follower.plane.begin_term(DEMO, Epoch(2))
        await cluster.set_needed(follower, [])
        await follower.plane.commit_inherited(DEMO)
        await follower.plane.open_gate(DEMO, wait_ms=0)
        assert not (await follower.plane.status(DEMO)).gate_open, "the promise runs"
        cluster.hold_grants(primary, follower, hold=False)
        await follower.wait(GateOpened, term=term)


# ---------------------------------------------------------------- S12: which stamp a release cancels


async def test_s12_a_release_older_than_the_newest_grant_cancels_nothing() -> None:
    async with core_cluster(nodes=1, grant_s=LONG_GRANT_S) as cluster:
        (node,) = cluster.nodes
        term = Term(epoch=Epoch(1), start=1)
        await node.plane.fence(DEMO, term, OTHER)
        peer = GrantPeer(DEMO)
        await node.plane.grant_serve_link(peer.theirs)
        assert await asyncio.to_thread(peer.ask, term, 100) == VERDICT_GRANTED
        assert await asyncio.to_thread(peer.ask, term, 200) == VERDICT_GRANTED
        peer.release(term, 150)
        assert await asyncio.to_thread(peer.ask, term, 201) == VERDICT_GRANTED
        peer.release(term, 200)
        report = await node.plane.fence(DEMO, NEXT, ReplicaId("r8"))
        assert runs(report)
        assert report.promised_to == term
        peer.close()


async def test_what_an_ask_names_is_judged_and_not_what_the_ask_before_named_in_its_place() -> None:
    """The core remembers where it found the volume of an entry; another may be asked for, or be there, by then."""
    second = VolumeId("second")
    async with core_cluster(nodes=1, grant_s=LONG_GRANT_S) as cluster:
        (node,) = cluster.nodes
        await node.plane.format_replica(
            second, node.replica, size_bytes=VOLUME_BYTES, block_size=4096
        )
        await node.plane.open_replica(second)
        term = Term(epoch=Epoch(1), start=1)
        await node.plane.fence(DEMO, term, OTHER)
        one = GrantPeer(DEMO)
        two = one.of(second)
        await node.plane.grant_serve_link(one.theirs)
        assert await asyncio.to_thread(one.ask, term, 100) == VERDICT_GRANTED
        assert await asyncio.to_thread(two.ask, term, 101) == VERDICT_NOT_PROMISED
        assert await asyncio.to_thread(one.ask, term, 102) == VERDICT_GRANTED
        await node.plane.close_replica(DEMO)
        assert await asyncio.to_thread(one.ask, term, 103) == VERDICT_NOT_PROMISED
        await node.plane.open_replica(DEMO)
        assert await asyncio.to_thread(one.ask, term, 104) == VERDICT_GRANTED, "found elsewhere"
        assert await asyncio.to_thread(two.ask, term, 105) == VERDICT_NOT_PROMISED
        assert not runs(await node.plane.fence(second, NEXT, OTHER)), "nothing was promised of it"
        assert runs(await fenced(node))
        one.close()


async def test_s12_a_release_after_the_fence_is_taken_and_an_older_one_is_not() -> None:
    async with core_cluster(nodes=1, grant_s=LONG_GRANT_S) as cluster:
        (node,) = cluster.nodes
        term = Term(epoch=Epoch(1), start=1)
        await node.plane.fence(DEMO, term, OTHER)
        peer = GrantPeer(DEMO)
        await node.plane.grant_serve_link(peer.theirs)
        assert await asyncio.to_thread(peer.ask, term, 200) == VERDICT_GRANTED
        assert runs(await node.plane.fence(DEMO, NEXT, ReplicaId("r8")))
        peer.release(term, 199)
        peer.release(Term(epoch=Epoch(1), start=2), 300)
        # An answer to an ask shows that what was sent before it was read.
        assert await asyncio.to_thread(peer.ask, term, 201) != VERDICT_GRANTED
        assert runs(await node.plane.fence(DEMO, NEXT, ReplicaId("r8")))
        peer.release(term, 200)
        assert await asyncio.to_thread(peer.ask, term, 202) != VERDICT_GRANTED
        assert not runs(await node.plane.fence(DEMO, NEXT, ReplicaId("r8")))
        peer.close()


async def test_s12_an_ask_that_comes_after_its_release_is_refused() -> None:
    """Sent before over another connection, read after: whoever asked uses it no more."""
    async with core_cluster(nodes=1, grant_s=LONG_GRANT_S) as cluster:
        (node,) = cluster.nodes
        term = Term(epoch=Epoch(1), start=1)
        await node.plane.fence(DEMO, term, OTHER)
        late, peer = GrantPeer(DEMO), GrantPeer(DEMO)
        for one in (late, peer):
            await node.plane.grant_serve_link(one.theirs)
        assert await asyncio.to_thread(peer.ask, term, 100) == VERDICT_GRANTED
        peer.release(term, 120)
        assert await asyncio.to_thread(peer.ask, term, 110) == VERDICT_NOT_PROMISED
        assert await asyncio.to_thread(late.ask, term, 119) == VERDICT_NOT_PROMISED
        assert not runs(await node.plane.fence(DEMO, term, OTHER))
        assert await asyncio.to_thread(late.ask, term, 121) == VERDICT_GRANTED
        for one in (late, peer):
            one.close()


async def test_s12_after_a_release_only_a_grant_asked_for_later_opens_the_gate() -> None:
    async with core_cluster(nodes=2, grant_s=RENEWED_GRANT_S) as cluster:
        primary, follower = cluster.nodes
        term = await primary.plane.begin_term(DEMO, Epoch(1))
        await follower.plane.fence(DEMO, term, primary.replica)
        await cluster.join_and_ship(primary, follower, term)
        await cluster.set_needed(primary, [follower])
        await primary.plane.commit_inherited(DEMO)
        granter = GrantPeer(DEMO)
        await primary.plane.grant_ask_link(follower.number, granter.theirs)
        granter.grant(await asyncio.to_thread(granter.asked))
        await primary.plane.open_gate(DEMO, wait_ms=0)
        await primary.wait(GateOpened)
        before = await asyncio.to_thread(granter.asked)
        await primary.plane.close_gate(DEMO, "command")
        await primary.plane.open_gate(DEMO, wait_ms=0)
        # For long: had it counted, the gate would be open until the next ask, which then comes with a renewal.
        granter.grant(before, granted_ms=round(RENEWED_GRANT_S * 1000))
        after = await asyncio.to_thread(granter.asked)
        assert after.stamp > before.stamp
        assert not (await primary.plane.status(DEMO)).gate_open, "it was asked for before"
        granter.grant(after)
        await primary.wait(GateOpened)
        granter.close()

"""Promises, joins and cuts through the native data plane."""

from __future__ import annotations

import asyncio

import pytest

from sparrow.authority.types import ReplicaState, Term
from sparrow.base.errors import EpochConflict, SparrowError, StaleEpoch, StorageError
from sparrow.base.ids import Epoch, Lsn, ReplicaId
from sparrow.dataplane.native.plane import NativeDataPlane
from sparrow.formats.links import SHIP_ACK
from sparrow.ports.dataplane import GateClosed, JoinOutcome, Membership, NewerEpochSeen
from tests.support.core_client import WAIT_S, page_of
from tests.support.core_cluster import DEMO, PAGE, CoreNode, core_cluster
from tests.support.core_files import superblock
from tests.support.ship_peer import ack, link
from tests.support.waiting import until

#: Slot and node key of a peer that a test plays.
PEER = 5
#: Long enough for anything that wrongly happens at once.
MOMENT_S = 0.2
#: Nobody comes to its end, whatever the machine does meanwhile.
LONG_GRANT_S = 90.0


def term_of(epoch: int, start: int = 1) -> Term:
    return Term(epoch=Epoch(epoch), start=start)


async def test_a_fence_refuses_a_lower_epoch_and_another_primary_of_the_same() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, term_of(5), ReplicaId("r7"))
        with pytest.raises(StaleEpoch):
            await node.plane.fence(DEMO, term_of(4), ReplicaId("r7"))
        with pytest.raises(EpochConflict):
            await node.plane.fence(DEMO, term_of(5), ReplicaId("r8"))
        with pytest.raises(StaleEpoch):
            await node.plane.begin_term(DEMO, Epoch(4))
        with pytest.raises(EpochConflict):
            await node.plane.begin_term(DEMO, Epoch(5))
        again = await node.plane.fence(DEMO, term_of(5), ReplicaId("r7"))
        assert again.promised_epoch == 5


async def test_a_promise_survives_a_reopening() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, term_of(5, start=3), ReplicaId("r7"))
        assert superblock(node.files()).number("promised_epoch") == 5, "durable when it is answered"
        await node.plane.close_replica(DEMO)
        report = await node.plane.open_replica(DEMO)
        assert (report.promised_epoch, report.promised_primary) == (5, "r7")
        with pytest.raises(StaleEpoch):
            await node.plane.fence(DEMO, term_of(5, start=2), ReplicaId("r7"))
        with pytest.raises(EpochConflict):
            await node.plane.fence(DEMO, term_of(5, start=3), ReplicaId("r8"))


async def test_a_grant_given_before_a_reopening_still_binds() -> None:
    async with core_cluster(nodes=2, grant_s=LONG_GRANT_S) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        cluster.hold_grants(primary, follower, hold=True)
        await follower.plane.close_replica(DEMO)
        await follower.plane.open_replica(DEMO)
        report = await follower.plane.fence(DEMO, term_of(2), ReplicaId("r9"))
        assert report.promise_ms > 1000 * (LONG_GRANT_S - WAIT_S), (
            "the old primary may serve for as long"
        )


async def test_a_fence_tells_how_long_the_grant_of_the_old_primary_runs() -> None:
    async with core_cluster(nodes=2, grant_s=LONG_GRANT_S) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        report = await follower.plane.fence(DEMO, term_of(2), ReplicaId("r9"))
        assert 1000 * (LONG_GRANT_S - WAIT_S) < report.promise_ms <= 1000 * LONG_GRANT_S
        seen = await primary.wait(NewerEpochSeen)
        assert seen.epoch == 2
        assert (await primary.wait(GateClosed)).cause == "superseded"


async def test_a_begin_term_that_is_refused_promises_nothing() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.set_state(DEMO, ReplicaState.QUARANTINED)
        with pytest.raises(StorageError):
            await node.plane.begin_term(DEMO, Epoch(5))
        assert (await node.plane.status(DEMO)).promised_epoch == 0
        await node.plane.fence(DEMO, term_of(5), ReplicaId("r7"))


async def test_s2_two_terms_begun_at_once_never_share_a_start() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        answers = await asyncio.gather(
            *(node.plane.begin_term(DEMO, Epoch(3)) for _ in range(3)), return_exceptions=True
        )
        terms = [answer for answer in answers if isinstance(answer, Term)]
        assert all(isinstance(answer, Term | StaleEpoch) for answer in answers)
        assert len(set(terms)) == len(terms) >= 1
        assert max(term.start for term in terms) == superblock(node.files()).number("start")


async def test_a_superseded_primary_fails_its_logged_writes() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        await primary.plane.drop_peer(DEMO, follower.number)
        before = await primary.commit_lsn()
        waiting = asyncio.create_task(client.write(1, page_of(1, 1)))

        async def logged() -> bool:
            return (await primary.plane.status(DEMO)).log.durable_lsn > before

        await until(logged)
        await primary.plane.fence(DEMO, term_of(2), follower.replica)
        result = await waiting
        assert result.status != 0
        assert result.sense[0] == 0x02
        assert (await client.write(1, page_of(1, 2))).status != 0
        assert await primary.commit_lsn() == before


async def test_d31_a_divergent_suffix_is_cut_at_the_join() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        assert (await client.write(1, page_of(1, 1))).status == 0
        shared = await cluster.caught_up(primary, follower)
        await primary.plane.drop_peer(DEMO, follower.number)
        lost = asyncio.create_task(client.write(1, page_of(1, 2)))

        async def logged() -> bool:
            return (await primary.plane.status(DEMO)).log.durable_lsn > shared

        await until(logged)
        # The follower takes over; the old primary has an entry that was never committed.
        await primary.plane.fence(DEMO, term_of(2), follower.replica)
        assert (await lost).status != 0
        term = await follower.plane.begin_term(DEMO, Epoch(2))
        await primary.plane.fence(DEMO, term, follower.replica)
        assert await cluster.join_and_ship(follower, primary, term) == shared
        await cluster.set_needed(follower, [primary])
        await follower.plane.commit_inherited(DEMO)
        await cluster.assert_same(follower, primary)
        assert await cluster.read_page(primary, 1) == page_of(1, 1)
        await primary.plane.close_replica(DEMO)
        report = await primary.plane.open_replica(DEMO)
        assert report.damaged_after_lsn is None
        assert [row.term.epoch for row in report.log.terms] == [1, 2]


async def test_a_cut_takes_the_rows_of_terms_whose_entries_go() -> None:
    """A primary begins another term that nobody follows, and is cut below its start.

    The row of a term says where that begins, so where the one before it ends. One that stayed would have the next
    primary believe that the older term goes on to there, and a follower keep entries of it that this log has not.
    """
    async with core_cluster(nodes=3) as cluster:
        first, heir, other = cluster.nodes
        await cluster.open_term(first, followers=[heir, other])
        client = await cluster.connect(first)
        assert (await client.write(1, page_of(1, 1))).status == 0
        shared = await cluster.caught_up(first, heir)
        await cluster.caught_up(first, other)
        # The heir gets nothing more. The third has two entries of the first term that never commit.
        await first.plane.drop_peer(DEMO, heir.number)
        load = await cluster.load(first, pages=range(64), depth=2, limit=2 * PAGE)

        async def has(node: CoreNode, lsn: int) -> bool:
            return (await node.plane.status(DEMO)).log.durable_lsn >= lsn

        await until(lambda: has(other, shared + 2))
        await first.plane.begin_term(DEMO, Epoch(2))
        await cluster.set_needed(first, [heir])
        starting = asyncio.create_task(first.plane.commit_inherited(DEMO))
        await until(lambda: has(first, shared + 3))
        term = await heir.plane.begin_term(DEMO, Epoch(3))
        await first.plane.fence(DEMO, term, heir.replica)
        await load.stop()
        with pytest.raises(SparrowError):
            await starting
        log = (await first.plane.status(DEMO)).log
        assert [(row.term.epoch, row.first_lsn) for row in log.terms] == [(1, 1), (2, shared + 3)]
        assert await cluster.join_and_ship(heir, first, term) == shared
        log = (await first.plane.status(DEMO)).log
        assert [(row.term.epoch, row.first_lsn) for row in log.terms] == [(1, 1)]
        await cluster.set_needed(heir, [first])
        assert await heir.plane.commit_inherited(DEMO) == shared + 1
        await cluster.caught_up(heir, first)
        # It takes over, and the third joins where they really part.
        term = await first.plane.begin_term(DEMO, Epoch(4))
        await other.plane.fence(DEMO, term, first.replica)
        assert await cluster.join_and_ship(first, other, term) == shared
        await cluster.set_needed(first, [other])
        await first.plane.commit_inherited(DEMO)
        await cluster.assert_same(first, other)


async def test_an_old_primary_follows_its_successor_and_grants_to_it() -> None:
    async with core_cluster(nodes=2) as cluster:
        old, heir = cluster.nodes
        await cluster.open_term(old, followers=[heir])
        client = await cluster.connect(old)
        assert (await client.write(1, page_of(1, 1))).status == 0
        await cluster.caught_up(old, heir)
        # Its gate opens with the grants of the one that was primary.
        await cluster.open_term(heir, followers=[old], epoch=2)
        client = await cluster.connect(heir)
        assert (await client.write(1, page_of(1, 2))).status == 0
        await cluster.assert_same(heir, old)


async def test_an_ack_of_an_earlier_term_counts_for_nothing() -> None:
    """What it acknowledged was cut since: at the same LSNs this term has other entries."""
    async with core_cluster(nodes=2) as cluster:
        one, other = cluster.nodes
        term = await cluster.open_term(one, followers=[other])
        client = await cluster.connect(one)
        assert (await client.write(1, page_of(1, 1))).status == 0
        shared = await cluster.caught_up(one, other)
        await one.plane.drop_peer(DEMO, other.number)
        load = await cluster.load(one, pages=range(64), depth=4, limit=4 << 12)

        async def logged() -> bool:
            return (await one.plane.status(DEMO)).log.durable_lsn >= shared + 4

        await until(logged)
        with link() as peer:
            await one.plane.ship(DEMO, PEER, PEER, peer.theirs, joined_lsn=shared, rebuild=None)
            await peer.send(SHIP_ACK, ack(term, shared + 4))
            await one.plane.peer_acked(DEMO, PEER, Lsn(shared + 4))
            # The other one takes over and goes on from what both have.
            term = await other.plane.begin_term(DEMO, Epoch(2))
            await one.plane.fence(DEMO, term, other.replica)
            await load.stop()
            assert await cluster.join_and_ship(other, one, term) == shared
            await cluster.set_needed(other, [one])
            assert await other.plane.commit_inherited(DEMO) == shared + 1
            await cluster.caught_up(other, one)
            await one.plane.begin_term(DEMO, Epoch(3))
            await one.plane.set_membership(DEMO, Membership(needed=(PEER,), writable=True))
            starting = asyncio.create_task(one.plane.commit_inherited(DEMO))

            async def started() -> bool:
                return (await one.plane.status(DEMO)).log.durable_lsn >= shared + 2

            await until(started)
            await asyncio.sleep(MOMENT_S)
            assert not starting.done()
        await one.plane.close_replica(DEMO)
        with pytest.raises(SparrowError):
            await starting


async def test_a_cut_below_what_is_applied_quarantines_and_cuts_nothing() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary)
        client = await cluster.connect(primary)
        for page in range(4):
            assert (await client.write(page, page_of(page, 1))).status == 0
        last = await primary.commit_lsn()
        # Another history, shorter and newer, in which none of this was written.
        term = await follower.plane.begin_term(DEMO, Epoch(2))
        await cluster.set_needed(follower, [])
        await follower.plane.commit_inherited(DEMO)
        await primary.plane.fence(DEMO, term, follower.replica)
        log = (await follower.plane.status(DEMO)).log
        outcome, _, _ = await primary.plane.join(DEMO, term, log)
        assert outcome is JoinOutcome.QUARANTINED
        assert (await primary.plane.status(DEMO)).log.last_lsn == last
        assert await cluster.read_page(primary, 3) == page_of(3, 1)


async def test_a_fence_during_a_join_tells_of_the_log_after_the_cut() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        assert (await client.write(1, page_of(1, 1))).status == 0
        shared = await cluster.caught_up(primary, follower)
        await primary.plane.drop_peer(DEMO, follower.number)
        load = await cluster.load(primary, pages=range(64), depth=1, limit=1)
        await load.wait_written(1)

        async def logged() -> bool:
            return (await primary.plane.status(DEMO)).log.durable_lsn > shared

        await until(logged)
        term = await follower.plane.begin_term(DEMO, Epoch(2))
        await primary.plane.fence(DEMO, term, follower.replica)
        log = (await follower.plane.status(DEMO)).log
        joined, fenced = await asyncio.gather(
            primary.plane.join(DEMO, term, log),
            primary.plane.fence(DEMO, term_of(3), ReplicaId("r9")),
            return_exceptions=True,
        )
        assert not isinstance(fenced, BaseException)
        now = (await primary.plane.status(DEMO)).log.last_lsn
        assert fenced.log.last_lsn == now
        assert isinstance(joined, StaleEpoch) or joined[1] == shared == now
        await load.stop()


async def test_s8_a_log_is_adopted_with_what_it_holds_uncommitted() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, heir = cluster.nodes
        await cluster.open_term(primary, followers=[heir])
        client = await cluster.connect(primary)
        assert (await client.write(1, page_of(1, 1))).status == 0
        shared = await cluster.caught_up(primary, heir)
        await primary.plane.drop_peer(DEMO, heir.number)
        load = await cluster.load(primary, pages=range(64), depth=4, limit=16 * 4096)

        async def logged() -> bool:
            return (await primary.plane.status(DEMO)).log.durable_lsn >= shared + 4

        await until(logged)
        term = await heir.plane.begin_term(DEMO, Epoch(2))
        source = (await primary.plane.fence(DEMO, term, heir.replica)).log
        await load.stop()
        assert source.last_lsn >= shared + 4
        at = shared
        while at < source.last_lsn:
            chunk = await primary.plane.read_log(DEMO, Lsn(at + 1), bytes_max=1 << 20)
            assert chunk
            at = await heir.plane.append_log(DEMO, chunk)
        assert at == source.last_lsn
        assert await heir.plane.check_at(DEMO, at) == source.last_check
        assert await cluster.join_and_ship(heir, primary, term) == at
        await cluster.set_needed(heir, [primary])
        await heir.plane.commit_inherited(DEMO)
        await cluster.assert_same(heir, primary)


async def test_s6_for_one_hold_off_after_its_start_a_core_counts_as_having_promised_everybody() -> (
    None
):
    async with core_cluster(nodes=1) as cluster:
        pool = cluster.nodes[0].pool.parent / "held"
        pool.mkdir()
        plane = NativeDataPlane(pool, pool_pages=4096, hold_off=LONG_GRANT_S)
        plane.start(lambda _event: None)
        try:
            await plane.format_replica(DEMO, ReplicaId("r1"), size_bytes=64 << 20, block_size=4096)
            await plane.open_replica(DEMO)
            report = await plane.fence(DEMO, term_of(2), ReplicaId("r9"))
            assert 1000 * (LONG_GRANT_S - WAIT_S) < report.promise_ms <= 1000 * LONG_GRANT_S
            assert report.older_promise_ms > 1000 * (LONG_GRANT_S - WAIT_S), (
                "and no single primary can give that back"
            )
            assert report.promised_to is None
            await plane.begin_term(DEMO, Epoch(3))
            await plane.set_membership(DEMO, Membership(needed=(), writable=True))
            await plane.commit_inherited(DEMO)
            await plane.open_gate(DEMO, wait_ms=0)
            assert not (await plane.status(DEMO)).gate_open
        finally:
            await plane.stop()

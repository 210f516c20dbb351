"""Reservations as state of the log (docs/decisions/0013): who is refused, and when a change counts."""

from __future__ import annotations

import asyncio

import pytest

from sparrow.base.constants import FENCE_HOLD_S
from sparrow.base.errors import OutcomeUnknown, StaleEpoch, StorageError, Unavailable
from sparrow.base.ids import Lsn
from sparrow.formats.reservations import (
    RESERVATION_EXCLUSIVE_ACCESS,
    RESERVATION_EXCLUSIVE_ACCESS_AR,
    RESERVATION_EXCLUSIVE_ACCESS_RO,
    RESERVATION_WRITE_EXCLUSIVE,
    RESERVATION_WRITE_EXCLUSIVE_AR,
    RESERVATION_WRITE_EXCLUSIVE_RO,
)
from sparrow.ports.dataplane import GateClosed, ReservationsChanged
from tests.support.core_client import page_of
from tests.support.core_cluster import DEMO, core_cluster
from tests.support.core_reservations import (
    ALICE,
    ALICE_ALONE,
    BOB,
    BOTH,
    CAROL,
    CONFLICT,
    GOOD,
    applied,
    begun,
    change,
    nexus,
    table,
)
from tests.support.waiting import until

SYNCHRONIZE_CACHE = bytes([0x35]) + bytes(9)
ALL_HOLD = (RESERVATION_WRITE_EXCLUSIVE_AR, RESERVATION_EXCLUSIVE_ACCESS_AR)
#: Well beyond the hold, and the longest wait for an answer that must come, seconds.
ANSWER_S = 30.0


@pytest.mark.parametrize(
    ("kind", "holder_may", "registrant_may", "other_may"),
    [
        (RESERVATION_WRITE_EXCLUSIVE, "rw", "r", "r"),
        (RESERVATION_EXCLUSIVE_ACCESS, "rw", "", ""),
        (RESERVATION_WRITE_EXCLUSIVE_RO, "rw", "rw", "r"),
        (RESERVATION_EXCLUSIVE_ACCESS_RO, "rw", "rw", ""),
        (RESERVATION_WRITE_EXCLUSIVE_AR, "rw", "rw", "r"),
        (RESERVATION_EXCLUSIVE_ACCESS_AR, "rw", "rw", ""),
    ],
)
async def test_each_type_lets_in_whom_spc_4_says(
    kind: int, holder_may: str, registrant_may: str, other_may: str
) -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        sessions = [
            (await cluster.connect(node, nexus=ALICE.record()), holder_may),
            (await cluster.connect(node, nexus=BOB.record()), registrant_may),
            (await cluster.connect(node, nexus=CAROL.record()), other_may),
            # The same initiator over another ISID is another nexus, and one without a name has none.
            (await cluster.connect(node, nexus=nexus("alice", 2).record()), other_may),
            (await cluster.connect(node), other_may),
        ]
        for client, _ in sessions:
            assert (await client.write(1, page_of(1, 1))).status == GOOD
        holder = None if kind in ALL_HOLD else ALICE
        await change(node, table(ALICE, BOB, kind=int(kind), holder=holder))
        for client, may in sessions:
            writes = GOOD if "w" in may else CONFLICT
            assert (await client.write(1, page_of(1, 2))).status == writes
            assert (await client.unmap((8, 2))).status == writes
            assert (await client.command(SYNCHRONIZE_CACHE)).status == writes
            assert (await client.read(1)).status == (GOOD if "r" in may else CONFLICT)
        # Registrations without a reservation bind nobody.
        await change(node, table(ALICE, generation=9))
        for client, _ in sessions:
            assert (await client.write(1, page_of(1, 3))).status == GOOD
            assert (await client.read(1)).data == page_of(1, 3)


async def test_a_change_counts_from_the_newest_table_only() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        with pytest.raises(StaleEpoch):
            await node.plane.reservations(DEMO)
        with pytest.raises(StaleEpoch):
            await node.plane.log_reservations(DEMO, Lsn(0), BOTH)
        await cluster.open_term(node)
        assert await node.plane.reservations(DEMO) == (0, None)
        first = await node.plane.log_reservations(DEMO, Lsn(0), BOTH)
        assert first is not None
        assert await node.plane.reservations(DEMO) == (first, BOTH)
        assert await node.plane.log_reservations(DEMO, Lsn(0), ALICE_ALONE) is None
        # Two from the same table: one of them.
        answers = await asyncio.gather(
            *(node.plane.log_reservations(DEMO, first, ALICE_ALONE) for _ in range(2))
        )
        (second,) = [lsn for lsn in answers if lsn is not None]
        assert second > first
        assert await node.plane.reservations(DEMO) == (second, ALICE_ALONE)
        with pytest.raises(StorageError):
            await node.plane.log_reservations(DEMO, second, ALICE_ALONE[:-1])
        with pytest.raises(StorageError):
            await node.plane.log_reservations(DEMO, second, bytes(len(ALICE_ALONE)))
        assert [
            (event.lsn, event.table)
            for event in node.events
            if isinstance(event, ReservationsChanged)
        ] == [(first, BOTH), (second, ALICE_ALONE)]


async def test_a_change_is_answered_when_every_replica_has_it() -> None:
    """Rule 1: what a follower does not have is not answered; writes are held against it all the same (rule 2)."""
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        term = await cluster.open_term(primary, followers=[follower])
        bob = await cluster.connect(primary, nexus=BOB.record())
        before = await change(primary, BOTH)
        await primary.plane.drop_peer(DEMO, follower.number)
        preempt = await begun(primary, primary.plane.log_reservations(DEMO, before, ALICE_ALONE))
        assert (await bob.write(1, page_of(1, 1))).status == CONFLICT
        assert (await bob.read(1)).status == CONFLICT
        # Nor is it read out.
        read = await begun(primary, primary.plane.reservations(DEMO))
        assert not preempt.done()
        assert not read.done()
        await cluster.join_and_ship(primary, follower, term)
        lsn = await preempt
        assert await read == (lsn, ALICE_ALONE)
        await follower.wait(ReservationsChanged, lsn=lsn)


async def test_an_unanswered_table_that_nobody_else_has_is_cut() -> None:
    """Killed between log and answer: the newest table is the one before again, on both."""
    async with core_cluster(nodes=2) as cluster:
        first, second = cluster.nodes
        await cluster.open_term(first, followers=[second])
        before = await change(first, BOTH)
        await cluster.caught_up(first, second)
        await first.plane.drop_peer(DEMO, second.number)
        lost = await begun(first, first.plane.log_reservations(DEMO, before, ALICE_ALONE))
        assert (
            await (await cluster.connect(first, nexus=BOB.record())).write(1, page_of(1, 1))
        ).status == CONFLICT
        # The other takes over without it. The old one cuts it off, and is a follower with the table before.
        await cluster.open_term(second, followers=[first], epoch=2)
        with pytest.raises(OutcomeUnknown):
            await lost
        assert await second.plane.reservations(DEMO) == (before, BOTH)
        bob = await cluster.connect(second, nexus=BOB.record())
        assert (await bob.write(1, page_of(1, 2))).status == GOOD
        with pytest.raises(StaleEpoch):
            await first.plane.reservations(DEMO)
        # And back again: the log of the first brings no trace of it.
        await cluster.caught_up(second, first)
        await cluster.open_term(first, followers=[second], epoch=3)
        assert await first.plane.reservations(DEMO) == (before, BOTH)


async def test_an_unanswered_table_that_a_follower_has_counts_after_the_failover() -> None:
    async with core_cluster(nodes=3) as cluster:
        first, second, third = cluster.nodes
        await cluster.open_term(first, followers=[second, third])
        before = await change(first, BOTH)
        await cluster.caught_up(first, third)
        # Two of three have it, so it is not answered.
        await first.plane.drop_peer(DEMO, third.number)
        unanswered = await begun(first, first.plane.log_reservations(DEMO, before, ALICE_ALONE))

        async def logged() -> bool:
            return (await second.plane.status(DEMO)).log.durable_lsn > before

        await until(logged)
        assert not unanswered.done()
        # The end of the first, as far as anybody here can see.
        await first.plane.close_replica(DEMO)
        with pytest.raises(OutcomeUnknown):
            await unanswered
        await cluster.open_term(second, followers=[third], epoch=2)
        lsn, newest = await second.plane.reservations(DEMO)
        assert (lsn > before, newest) == (True, ALICE_ALONE)
        bob = await cluster.connect(second, nexus=BOB.record())
        alice = await cluster.connect(second, nexus=ALICE.record())
        assert (await bob.write(1, page_of(1, 1))).status == CONFLICT
        assert (await alice.write(1, page_of(1, 2))).status == GOOD
        assert (await third.wait(ReservationsChanged, lsn=lsn)).table == ALICE_ALONE


async def test_a_change_that_does_not_commit_is_answered_after_the_hold() -> None:
    """Cut off: its right lapses while a change is logged. The change is not lost, and not claimed either way."""
    async with core_cluster(nodes=2, hold_s=FENCE_HOLD_S) as cluster:
        primary, follower = cluster.nodes
        term = await cluster.open_term(primary, followers=[follower])
        before = await change(primary, BOTH)
        await primary.plane.drop_peer(DEMO, follower.number)
        preempt = await begun(primary, primary.plane.log_reservations(DEMO, before, ALICE_ALONE))
        cluster.hold_grants(primary, follower, hold=True)
        await primary.wait(GateClosed)
        assert not preempt.done()
        async with asyncio.timeout(ANSWER_S):
            with pytest.raises(OutcomeUnknown):
                await preempt
            # What comes now changes nothing, and says so.
            with pytest.raises(Unavailable):
                await primary.plane.reservations(DEMO)
        # It commits when it can, in the same term.
        primary.events.clear()
        await cluster.join_and_ship(primary, follower, term)
        assert (await primary.wait(ReservationsChanged)).table == ALICE_ALONE


async def test_a_change_is_answered_after_the_hold_when_copies_are_missing() -> None:
    """The gate is open, and fewer replicas than min_in_sync are there: neither it nor those behind it wait for ever."""
    async with core_cluster(nodes=2, hold_s=FENCE_HOLD_S) as cluster:
        primary, follower = cluster.nodes
        term = await cluster.open_term(primary, followers=[follower])
        before = await change(primary, BOTH)
        await primary.plane.drop_peer(DEMO, follower.number)
        logged = [
            await begun(primary, primary.plane.log_reservations(DEMO, before, ALICE_ALONE)),
            await begun(primary, primary.plane.reservations(DEMO)),
        ]
        await cluster.set_needed(primary, [follower], writable=False)
        async with asyncio.timeout(ANSWER_S):
            with pytest.raises(OutcomeUnknown):
                await logged[0]
            with pytest.raises(Unavailable):
                await logged[1]
        await cluster.join_and_ship(primary, follower, term)
        await cluster.set_needed(primary, [follower])
        lsn, newest = await primary.plane.reservations(DEMO)
        assert (lsn > before, newest) == (True, ALICE_ALONE)


async def test_a_change_that_cannot_be_now_is_held_like_a_write() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        await cluster.set_needed(primary, [follower], writable=False)
        held = await begun(primary, primary.plane.log_reservations(DEMO, Lsn(0), BOTH))
        assert not held.done()
        await cluster.set_needed(primary, [follower])
        lsn = await held
        assert await primary.plane.reservations(DEMO) == (lsn, BOTH)
        await cluster.set_needed(primary, [follower], writable=False)
        given_up = await begun(primary, primary.plane.log_reservations(DEMO, lsn, ALICE_ALONE))
        await primary.plane.close_gate(DEMO, "command")
        with pytest.raises(StaleEpoch):
            await given_up


async def test_a_registration_holds_over_another_portal_after_a_failover() -> None:
    """Rule 6: the registrant comes to the new primary, by whatever path, and is who it was."""
    async with core_cluster(nodes=2) as cluster:
        first, second = cluster.nodes
        await cluster.open_term(first, followers=[second])
        alice = await cluster.connect(first, nexus=ALICE.record(port=1))
        await change(first, ALICE_ALONE)
        assert (await alice.write(1, page_of(1, 1))).status == GOOD
        await cluster.caught_up(first, second)
        await cluster.open_term(second, followers=[first], epoch=2)
        again = await cluster.connect(second, nexus=ALICE.record(port=2))
        other = await cluster.connect(second, nexus=BOB.record(port=1))
        assert (await again.read(1)).data == page_of(1, 1)
        assert (await again.write(1, page_of(1, 2))).status == GOOD
        assert (await other.read(1)).status == CONFLICT
        assert (await other.write(1, page_of(1, 3))).status == CONFLICT


async def test_changes_without_an_end_never_fill_the_log_nor_memory() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        lsn, count = Lsn(0), 0
        for generation in range(1, 1200):
            blob = table(ALICE, generation=generation)
            logged = None
            while logged is None:
                try:
                    logged = await primary.plane.log_reservations(DEMO, lsn, blob)
                    count += 1
                except Unavailable:
                    await applied(primary)
            lsn = logged
        assert count == 1199
        await cluster.caught_up(primary, follower)
        assert await primary.plane.reservations(DEMO) == (lsn, table(ALICE, generation=1199))

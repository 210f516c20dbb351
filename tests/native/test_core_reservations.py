"""Reservations as state of the log (docs/decisions/0013): who is refused, when a change counts, what survives what."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from sparrow.base.errors import (
    DamagedData,
    LocalProtocolError,
    OutcomeUnknown,
    StaleEpoch,
    StorageError,
    Unavailable,
    Withdrawn,
)
from sparrow.base.ids import Lsn
from sparrow.dataplane import machine
from sparrow.formats.reservations import (
    RESERVATION_EXCLUSIVE_ACCESS,
    RESERVATION_EXCLUSIVE_ACCESS_AR,
    RESERVATION_EXCLUSIVE_ACCESS_RO,
    RESERVATION_KIND_ISCSI,
    RESERVATION_WRITE_EXCLUSIVE,
    RESERVATION_WRITE_EXCLUSIVE_AR,
    RESERVATION_WRITE_EXCLUSIVE_RO,
    ReservationNexus,
    ReservationRegistrant,
    ReservationTable,
    encode_table,
)
from sparrow.formats.superblock import SUPERBLOCK, SUPERBLOCK_BYTES, TABLE_SLOTS_OFFSET
from sparrow.ports.dataplane import (
    AtRest,
    GateClosed,
    GateOpened,
    PageDamaged,
    PeerRebuilt,
    PoolFull,
    RebuildKind,
    ReservationsChanged,
    SessionEnded,
    SumsDamaged,
    Upcall,
)
from tests.support.core_client import Client, page_of
from tests.support.core_cluster import DEMO, PAGE, CoreCluster, CoreNode, core_cluster
from tests.support.core_files import flip_bit, superblock
from tests.support.front_bed import MANAGED, NOP_IN, NOP_OUT, RESPONSE, read_16, write_16
from tests.support.waiting import until

T = TypeVar("T")

GOOD, CONFLICT, TASK_ABORTED = 0x00, 0x18, 0x40
SECOND_NS = 1_000_000_000
SYNCHRONIZE_CACHE = bytes([0x35]) + bytes(9)
ALL_HOLD = (RESERVATION_WRITE_EXCLUSIVE_AR, RESERVATION_EXCLUSIVE_ACCESS_AR)
#: Well beyond the hold, and the longest wait for an answer that must come, seconds.
ANSWER_S = 10.0


def nexus(name: str, isid: int = 1) -> ReservationNexus:
    return ReservationNexus(
        kind=int(RESERVATION_KIND_ISCSI),
        identifier=isid.to_bytes(6, "big").ljust(16, b"\0"),
        name=f"iqn.2026-01.example:{name}",
    )


ALICE, BOB, CAROL = nexus("alice"), nexus("bob"), nexus("carol")


def table(
    *registered: ReservationNexus,
    kind: int = 0,
    holder: ReservationNexus | None = None,
    generation: int = 1,
) -> bytes:
    return encode_table(
        ReservationTable(
            registrants=tuple(
                ReservationRegistrant(nexus=one, key=7 + number, port=1)
                for number, one in enumerate(registered)
            ),
            generation=generation,
            type=kind,
            holder=holder,
            aptpl=True,
        )
    )


#: Bob was preempted, Alice holds it for registrants only.
ALICE_ALONE = table(ALICE, kind=int(RESERVATION_EXCLUSIVE_ACCESS_RO), holder=ALICE, generation=3)
BOTH = table(ALICE, BOB, kind=int(RESERVATION_EXCLUSIVE_ACCESS_RO), holder=ALICE, generation=2)


async def change(node: CoreNode, blob: bytes) -> Lsn:
    """What the control side does: read the newest, log the next."""
    lsn, _ = await node.plane.reservations(DEMO)
    logged = await node.plane.log_reservations(DEMO, lsn, blob)
    assert logged is not None
    return logged


async def begun(node: CoreNode, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A command that waits; when this returns the core has it."""
    task = asyncio.ensure_future(work)
    for _ in range(2):
        # The first may overtake it on the way, the second does not.
        await node.plane.status(DEMO)
    return task


async def applied(node: CoreNode) -> None:
    async def done() -> bool:
        log = (await node.plane.status(DEMO)).log
        return log.applied_lsn == log.commit_lsn

    await until(done, within_s=10)


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

        await until(logged, within_s=10)
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
    async with core_cluster(nodes=2) as cluster:
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
    async with core_cluster(nodes=2) as cluster:
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


RESERVE_6 = bytes([0x16]).ljust(16, b"\0")
ABORT_TASK, LUN_RESET = 1, 5
DONE, NO_TASK = 0, 1


async def asked(node: CoreNode, client: Client) -> tuple[int, Upcall]:
    """A command that the control side answers: its tag, and how the core names it."""
    itt = client.peer.command(RESERVE_6)
    return itt, await node.wait(Upcall)


async def received(client: Client) -> tuple[int, int, int]:
    """The next PDU: opcode, tag, and SCSI status or response."""
    pdu = await asyncio.to_thread(client.peer.receive)
    return pdu.opcode, pdu.itt, pdu.status if pdu.opcode == RESPONSE else pdu.response


async def hears_nothing(client: Client) -> None:
    """What was queued for it comes before the answer to a ping."""
    ping = client.peer.request(NOP_OUT, immediate=True)
    assert (await received(client))[:2] == (NOP_IN, ping)


async def test_a_command_that_was_aborted_is_never_logged() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        alice = await cluster.connect(node, nexus=ALICE.record())
        carol = await cluster.connect(node, nexus=CAROL.record())
        for by, function in ((alice, ABORT_TASK), (carol, LUN_RESET)):
            itt, upcall = await asked(node, alice)
            asking = by.peer.manage(function, task=itt if function == ABORT_TASK else 0xFFFFFFFF)
            assert await received(by) == (MANAGED, asking, DONE)
            with pytest.raises(Withdrawn):
                await node.plane.log_reservations(
                    DEMO, Lsn(0), BOTH, session_key=upcall.session_key, tag=upcall.tag
                )
        assert await node.plane.reservations(DEMO) == (0, None)


@pytest.mark.parametrize("function", [ABORT_TASK, LUN_RESET])
async def test_task_management_waits_for_a_change_that_is_logged(function: int) -> None:
    """It is carried out whatever anybody wants; so its own answer comes first, and says so."""
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        term = await cluster.open_term(primary, followers=[follower])
        alice = await cluster.connect(primary, nexus=ALICE.record())
        carol = await cluster.connect(primary, nexus=CAROL.record())
        by = alice if function == ABORT_TASK else carol
        await primary.plane.drop_peer(DEMO, follower.number)
        itt, upcall = await asked(primary, alice)
        logged = await begun(
            primary,
            primary.plane.log_reservations(
                DEMO, Lsn(0), BOTH, session_key=upcall.session_key, tag=upcall.tag
            ),
        )
        asking = by.peer.manage(function, task=itt if function == ABORT_TASK else 0xFFFFFFFF)
        await hears_nothing(by)
        await cluster.join_and_ship(primary, follower, term)
        assert await logged is not None
        await hears_nothing(by)
        primary.plane.answer(upcall.session_key, upcall.tag, status=0, sense=b"", data_in=b"")
        assert await received(alice) == (RESPONSE, itt, GOOD)
        says = NO_TASK if function == ABORT_TASK else DONE
        assert await received(by) == (MANAGED, asking, says)


async def test_a_command_whose_session_is_gone_is_never_logged() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        alice = await cluster.connect(node, nexus=ALICE.record())
        _, upcall = await asked(node, alice)
        alice.close()
        await node.wait(SessionEnded)
        with pytest.raises(Withdrawn):
            await node.plane.log_reservations(
                DEMO, Lsn(0), BOTH, session_key=upcall.session_key, tag=upcall.tag
            )
        assert await node.plane.reservations(DEMO) == (0, None)


async def test_a_session_ends_after_the_change_it_has_logged() -> None:
    """So whoever hears that it is gone knows the table it left behind."""
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        term = await cluster.open_term(primary, followers=[follower])
        alice = await cluster.connect(primary, nexus=ALICE.record())
        carol = await cluster.connect(primary, nexus=CAROL.record())
        await primary.plane.drop_peer(DEMO, follower.number)
        _, upcall = await asked(primary, alice)
        logged = await begun(
            primary,
            primary.plane.log_reservations(
                DEMO, Lsn(0), BOTH, session_key=upcall.session_key, tag=upcall.tag
            ),
        )
        alice.close()
        carol.close()
        await primary.wait(SessionEnded)
        assert not primary.heard(SessionEnded), "the other one has nothing under way"
        await cluster.join_and_ship(primary, follower, term)
        assert await logged is not None
        ended = await primary.wait(SessionEnded, session_key=upcall.session_key)
        assert ended.cause == "closed"
        assert primary.heard(ReservationsChanged)


@pytest.mark.parametrize("function", [ABORT_TASK, LUN_RESET])
async def test_task_management_waits_for_a_command_that_another_node_carries_out(
    function: int,
) -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        alice = await cluster.connect(node, nexus=ALICE.record())
        carol = await cluster.connect(node, nexus=CAROL.record())
        by = alice if function == ABORT_TASK else carol
        itt, upcall = await asked(node, alice)
        assert await node.plane.pin_command(upcall.session_key, upcall.tag)
        asking = by.peer.manage(function, task=itt if function == ABORT_TASK else 0xFFFFFFFF)
        await hears_nothing(by)
        node.plane.answer(upcall.session_key, upcall.tag, status=0, sense=b"", data_in=b"")
        assert await received(alice) == (RESPONSE, itt, GOOD)
        says = NO_TASK if function == ABORT_TASK else DONE
        assert await received(by) == (MANAGED, asking, says)
        await node.plane.unpin_command(upcall.session_key)
        # Nothing is left of it: the session ends at once.
        alice.close()
        await node.wait(SessionEnded, session_key=upcall.session_key)


async def test_a_session_ends_after_the_command_that_another_node_carries_out() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        alice = await cluster.connect(node, nexus=ALICE.record())
        carol = await cluster.connect(node, nexus=CAROL.record())
        _, upcall = await asked(node, alice)
        assert await node.plane.pin_command(upcall.session_key, upcall.tag)
        alice.close()
        carol.close()
        await node.wait(SessionEnded)
        assert not node.heard(SessionEnded), "the other one has nothing under way"
        # Its answer finds nobody; what it waits for is that the command is over.
        node.plane.answer(upcall.session_key, upcall.tag, status=0, sense=b"", data_in=b"")
        await node.plane.status(DEMO)
        assert not node.heard(SessionEnded)
        await node.plane.unpin_command(upcall.session_key)
        ended = await node.wait(SessionEnded, session_key=upcall.session_key)
        assert ended.cause == "closed"
        assert not await node.plane.pin_command(upcall.session_key, upcall.tag)


async def test_a_command_that_was_aborted_is_not_pinned() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        alice = await cluster.connect(node, nexus=ALICE.record())
        itt, upcall = await asked(node, alice)
        asking = alice.peer.manage(ABORT_TASK, task=itt)
        assert await received(alice) == (MANAGED, asking, DONE)
        assert not await node.plane.pin_command(upcall.session_key, upcall.tag)


async def test_a_command_is_pinned_once() -> None:
    """Answered or not: another try is an error of the caller's, and no reason for the node to die."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        alice = await cluster.connect(node, nexus=ALICE.record())
        itt, upcall = await asked(node, alice)
        assert await node.plane.pin_command(upcall.session_key, upcall.tag)
        with pytest.raises(LocalProtocolError):
            await node.plane.pin_command(upcall.session_key, upcall.tag)
        await node.plane.unpin_command(upcall.session_key)
        with pytest.raises(LocalProtocolError):
            await node.plane.pin_command(upcall.session_key, upcall.tag)
        node.plane.answer(upcall.session_key, upcall.tag, status=0, sense=b"", data_in=b"")
        assert await received(alice) == (RESPONSE, itt, GOOD)
        # It is counted once: nothing keeps the session.
        alice.close()
        await node.wait(SessionEnded, session_key=upcall.session_key)


async def test_a_change_is_not_logged_after_its_time() -> None:
    """However long it was on its way, or held: the clock is looked at in the turn that would log it."""
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])

        def now() -> int:
            return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

        with pytest.raises(Withdrawn):
            await primary.plane.log_reservations(DEMO, Lsn(0), BOTH, by_ns=now())
        assert await primary.plane.reservations(DEMO) == (0, None)
        lsn = await primary.plane.log_reservations(DEMO, Lsn(0), BOTH, by_ns=now() + 60 * SECOND_NS)
        assert lsn is not None
        # Held for want of a copy, until its time is over; then the copy comes.
        await cluster.set_needed(primary, [follower], writable=False)
        by_ns = now() + SECOND_NS // 4
        held = await begun(
            primary, primary.plane.log_reservations(DEMO, lsn, ALICE_ALONE, by_ns=by_ns)
        )
        with pytest.raises(Withdrawn):
            await held
        assert now() >= by_ns
        await cluster.set_needed(primary, [follower])
        assert await primary.plane.reservations(DEMO) == (lsn, BOTH)


@pytest.mark.parametrize("kind", [RESERVATION_EXCLUSIVE_ACCESS_RO, RESERVATION_WRITE_EXCLUSIVE_RO])
async def test_a_write_that_waits_without_an_lsn_is_refused_after_a_preempt(kind: int) -> None:
    """Rule 2: it came before the PREEMPT and would get its LSN after it; it waits for what it is to be merged with.

    Who may not even read is refused by that; who may is refused by the look at the write itself.
    """
    before = table(ALICE, BOB, kind=int(kind), holder=ALICE, generation=2)
    after = table(ALICE, kind=int(kind), holder=ALICE, generation=3)
    async with core_cluster(nodes=1, block_size=512) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        alice = await cluster.connect(node, nexus=ALICE.record())
        assert (await alice.write(8, page_of(1, 1))).status == GOOD
        await change(node, before)
        await applied(node)
        await node.plane.close_replica(DEMO)
        flip_bit(node.files() / "extents", PAGE + 16)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        alice = await cluster.connect(node, nexus=ALICE.record())
        bob = await cluster.connect(node, nexus=BOB.record())
        held = asyncio.create_task(bob.write(9, b"b" * 512))
        await node.wait(PageDamaged, page=1)
        await change(node, after)
        assert not held.done(), held.result()
        assert await node.plane.repair_page(DEMO, 1, Lsn(1), page_of(1, 1))
        assert (await held).status == CONFLICT
        assert (await alice.write(8, page_of(1, 3))).status == GOOD
        assert (await alice.write(9, b"a" * 512)).status == GOOD


async def test_who_was_preempted_loses_what_is_under_way() -> None:
    """A read that the reservation would let through, and a write: both wait for what they need of the disk."""
    async with core_cluster(nodes=1, block_size=512) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        alice = await cluster.connect(node, nexus=ALICE.record())
        assert (await alice.write(8, page_of(1, 1))).status == GOOD
        await applied(node)
        await node.plane.close_replica(DEMO)
        flip_bit(node.files() / "sums", 16)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        bob = await cluster.connect(node, nexus=BOB.record())
        began = {bob.peer.command(read_16(8, 1), expected=512)}
        began.add(bob.peer.command(write_16(9, 1), data=b"b" * 512))
        await node.wait(SumsDamaged, block=0)
        await change(node, table(ALICE, kind=int(RESERVATION_WRITE_EXCLUSIVE_RO), holder=ALICE))
        # One that the control side has, which also tells how the core names the session.
        itt, upcall = await asked(node, bob)
        await node.plane.abort_commands(upcall.session_key)
        await node.plane.mend_sums(DEMO, 0, Lsn(0), ())
        ended = [await received(bob) for _ in range(3)]
        assert {(opcode, status) for opcode, _, status in ended} == {(RESPONSE, TASK_ABORTED)}
        assert {one for _, one, _ in ended} == began | {itt}
        assert (await bob.write(9, b"b" * 512)).status == CONFLICT, "its session goes on"


async def without_sums(cluster: CoreCluster, *, written: bytes) -> tuple[CoreNode, CoreNode]:
    """A primary whose block of checksums is damaged on the disk, and its follower, which has a whole one."""
    node, follower = cluster.nodes
    await cluster.open_term(node, followers=[follower])
    alice = await cluster.connect(node, nexus=ALICE.record())
    assert (await alice.write(8, written)).status == GOOD
    await cluster.caught_up(node, follower)
    await applied(node)
    await node.plane.close_replica(DEMO)
    flip_bit(node.files() / "sums", 16)
    await node.plane.open_replica(DEMO)
    await cluster.open_term(node, followers=[follower], epoch=2)
    return node, follower


async def mend(cluster: CoreCluster, node: CoreNode, follower: CoreNode) -> None:
    """Its block of checksums is as it was, and nothing is lost."""
    lsn = await cluster.caught_up(node, follower)
    image = await follower.plane.read_sums(DEMO, 0, at_lsn=lsn)
    mended = await node.plane.mend_sums(DEMO, 0, lsn, (image.block,))
    assert mended.lost_pages == 0


async def test_who_was_preempted_gets_nothing_of_what_it_was_reading() -> None:
    """The new reservation would let it read, and the disk has the data: that comes too late all the same."""
    async with core_cluster(nodes=2, block_size=512) as cluster:
        node, follower = await without_sums(cluster, written=page_of(1, 1))
        bob = await cluster.connect(node, nexus=BOB.record())
        read = bob.peer.command(read_16(8, 1), expected=512)
        await node.wait(SumsDamaged, block=0)
        await change(node, table(ALICE, kind=int(RESERVATION_WRITE_EXCLUSIVE_RO), holder=ALICE))
        itt, upcall = await asked(node, bob)
        await node.plane.abort_commands(upcall.session_key)
        assert await received(bob) == (RESPONSE, itt, TASK_ABORTED)
        await mend(cluster, node, follower)
        assert await received(bob) == (RESPONSE, read, TASK_ABORTED)
        assert (await bob.read(8)).data == page_of(1, 1)[:512], "its session goes on"


async def test_an_aborted_write_never_gets_its_place_when_it_waited_for_damaged_sums(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Room is short, so a write waits for what its block of checksums says of its pages."""
    async with core_cluster(nodes=2) as cluster:
        node, follower = await without_sums(cluster, written=page_of(8, 1))
        short = SimpleNamespace(f_bavail=100, f_frsize=PAGE)
        monkeypatch.setattr(machine.os, "fstatvfs", lambda _fd: short)
        await node.wait(PoolFull, full=True)
        bob = await cluster.connect(node, nexus=BOB.record())
        write = bob.peer.command(write_16(8, 1), data=page_of(8, 2))
        await node.wait(SumsDamaged, block=0)
        itt, upcall = await asked(node, bob)
        await node.plane.abort_commands(upcall.session_key)
        assert await received(bob) == (RESPONSE, itt, TASK_ABORTED)
        await hears_nothing(bob)
        before = await node.commit_lsn()
        await mend(cluster, node, follower)
        assert await received(bob) == (RESPONSE, write, TASK_ABORTED)
        assert await node.commit_lsn() == before
        assert (await bob.read(8)).data == page_of(8, 1)
        # What has a place is written, now that the block is there.
        assert (await bob.write(8, page_of(8, 3))).status == GOOD


async def test_a_read_is_checked_again_when_it_is_answered() -> None:
    """Rule 3: its view was taken before the PREEMPT, its answer would leave after it."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        alice = await cluster.connect(node, nexus=ALICE.record())
        assert (await alice.write(1, page_of(1, 1))).status == GOOD
        await change(node, BOTH)
        await applied(node)
        await node.plane.close_replica(DEMO)
        flip_bit(node.files() / "sums", 16)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        bob = await cluster.connect(node, nexus=BOB.record())
        waits = asyncio.create_task(bob.read(1))
        await node.wait(SumsDamaged, block=0)
        await change(node, ALICE_ALONE)
        await node.plane.mend_sums(DEMO, 0, Lsn(0), ())
        assert (await waits).status == CONFLICT


async def test_a_checkpoint_keeps_the_table_when_the_log_has_let_it_go() -> None:
    """Rule 4: the log goes round several times, the replica is opened from its files, the table is there."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        alice = await cluster.connect(node, nexus=ALICE.record())
        lsn = await change(node, BOTH)
        await applied(node)
        first = superblock(node.files())
        assert first.number("table_lsn") == lsn
        assert first.number("feature_level") == 2
        lsn = await change(node, ALICE_ALONE)
        for round_ in range(3):
            for at in range(0, 8 << 20, 1 << 20):
                pages = range(at // PAGE, at // PAGE + 256)
                data = b"".join(page_of(page, 1 + round_) for page in pages)
                assert (await alice.write(pages[0], data)).status == GOOD
        await applied(node)
        log = (await node.plane.status(DEMO)).log
        assert log.oldest_lsn > lsn
        # The other slot than before, and never touched by rounds in between.
        second = superblock(node.files())
        assert second.number("table_slot") != first.number("table_slot")
        assert second.number("table_lsn") == lsn
        await node.plane.close_replica(DEMO)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        assert await node.plane.reservations(DEMO) == (lsn, ALICE_ALONE)
        bob = await cluster.connect(node, nexus=BOB.record())
        assert (await bob.write(1, page_of(1, 9))).status == CONFLICT


async def test_a_table_above_the_checkpoint_is_found_by_the_walk_over_the_log() -> None:
    async with core_cluster(nodes=2) as cluster:
        node, other = cluster.nodes
        await node.plane.status(DEMO)
        await cluster.open_term(node)
        await change(node, BOTH)
        await applied(node)
        lsn = await change(node, ALICE_ALONE)
        copy = await cluster.snapshot(node, other, "copy")
        await other.plane.open_replica(copy)
        await cluster.open_term(other, epoch=5, volume=copy)
        assert await other.plane.reservations(copy) == (lsn, ALICE_ALONE)


async def test_a_slot_that_does_not_match_ends_the_replica() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        await change(node, BOTH)
        await applied(node)
        await node.plane.close_replica(DEMO)
        slot = superblock(node.files()).number("table_slot")
        flip_bit(node.files() / "superblock", TABLE_SLOTS_OFFSET + slot * 16384 + 300)
        with pytest.raises(DamagedData):
            await node.plane.open_replica(DEMO)
        # What is in the other slot is nobody's business.
        flip_bit(node.files() / "superblock", TABLE_SLOTS_OFFSET + slot * 16384 + 300)
        flip_bit(node.files() / "superblock", TABLE_SLOTS_OFFSET + (1 - slot) * 16384 + 300)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        assert (await node.plane.reservations(DEMO))[1] == BOTH


async def test_a_scrub_mends_a_damaged_slot_while_the_replica_runs() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        await change(node, BOTH)
        lsn = await change(node, ALICE_ALONE)
        await applied(node)
        assert await node.plane.check_superblock(DEMO) is AtRest.WHOLE
        slot = superblock(node.files()).number("table_slot")
        flip_bit(node.files() / "superblock", TABLE_SLOTS_OFFSET + slot * 16384 + 300)
        assert await node.plane.check_superblock(DEMO) is AtRest.REWRITTEN
        assert await node.plane.check_superblock(DEMO) is AtRest.WHOLE
        assert superblock(node.files()).number("table_slot") == 1 - slot
        await node.plane.close_replica(DEMO)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        assert await node.plane.reservations(DEMO) == (lsn, ALICE_ALONE)


async def test_a_superblock_of_before_has_no_table_and_gets_its_slots() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.close_replica(DEMO)
        os.truncate(node.files() / "superblock", 2 * SUPERBLOCK_BYTES)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node)
        assert await node.plane.reservations(DEMO) == (0, None)
        await applied(node)
        at = SUPERBLOCK.offset_of("feature_level")
        level = (node.files() / "superblock").read_bytes()[at : at + 2]
        assert level == b"\x01\x00"
        lsn = await change(node, BOTH)
        await applied(node)
        await node.plane.close_replica(DEMO)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        assert await node.plane.reservations(DEMO) == (lsn, BOTH)


async def rebuilt_over_a_change(cluster: CoreCluster) -> tuple[CoreNode, CoreNode, Lsn]:
    """A replica whose rebuild began with one table and ended with another."""
    primary, fresh = cluster.nodes
    term = await cluster.open_term(primary)
    alice = await cluster.connect(primary, nexus=ALICE.record())
    for at in range(0, 4096, 256):
        data = b"".join(page_of(page, 1) for page in range(at, at + 256))
        assert (await alice.write(at, data)).status == GOOD
    await change(primary, BOTH)
    await applied(primary)
    plan = await cluster.begin_rebuild(primary, fresh, term)
    assert plan.kind is RebuildKind.FULL
    lsn = await change(primary, ALICE_ALONE)
    await primary.wait(PeerRebuilt, slot=fresh.number)
    await cluster.set_needed(primary, [fresh])
    return primary, fresh, lsn


async def test_a_rebuilt_replica_has_the_table_and_takes_over_with_it() -> None:
    """Rule 5: begun before a change, over after it; then the primary goes."""
    async with core_cluster(nodes=2) as cluster:
        primary, fresh, lsn = await rebuilt_over_a_change(cluster)
        await cluster.caught_up(primary, fresh)
        heard = [e.table for e in fresh.events if isinstance(e, ReservationsChanged)]
        assert heard[-1] == ALICE_ALONE
        await primary.plane.close_gate(DEMO, "command")
        await cluster.open_term(fresh, epoch=2)
        assert await fresh.plane.reservations(DEMO) == (lsn, ALICE_ALONE)
        bob = await cluster.connect(fresh, nexus=BOB.record())
        assert (await bob.write(1, page_of(1, 9))).status == CONFLICT


async def test_a_rebuilt_replica_opens_from_its_files_with_the_table() -> None:
    """The table that came with the base is older than the log of the copy: only the slot has it."""
    async with core_cluster(nodes=2) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        lsn = await change(primary, ALICE_ALONE)
        await applied(primary)
        alice = await cluster.connect(primary, nexus=ALICE.record())
        assert (await alice.write(1, page_of(1, 1))).status == GOOD
        await cluster.rebuild(primary, fresh, term)
        await cluster.grant_link(primary, fresh)
        await cluster.set_needed(primary, [fresh])
        await primary.wait(GateOpened, term=term)
        assert (await alice.write(1, page_of(1, 2))).status == GOOD
        await cluster.caught_up(primary, fresh)
        await primary.plane.close_gate(DEMO, "command")
        await fresh.plane.close_replica(DEMO)
        assert superblock(fresh.files()).number("table_lsn") == lsn
        await fresh.plane.open_replica(DEMO)
        await cluster.open_term(fresh, epoch=2)
        assert await fresh.plane.reservations(DEMO) == (lsn, ALICE_ALONE)


async def test_an_interrupted_rebuild_goes_on_with_its_table() -> None:
    """The log of the copy goes on, and with it the tables: nothing is sent a second time."""
    async with core_cluster(nodes=2) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        alice = await cluster.connect(primary, nexus=ALICE.record())
        for at in range(0, 8192, 256):
            data = b"".join(page_of(page, 1) for page in range(at, at + 256))
            assert (await alice.write(at, data)).status == GOOD
        await change(primary, BOTH)
        await applied(primary)
        await cluster.begin_rebuild(primary, fresh, term)

        async def copying() -> bool:
            (peer,) = (await primary.plane.status(DEMO)).peers
            return peer.base_pages_done > 2000

        await until(copying, within_s=10, every_s=0.001)
        await primary.plane.drop_peer(DEMO, fresh.number)
        lsn = await change(primary, ALICE_ALONE)
        plan = await cluster.begin_rebuild(primary, fresh, term)
        assert plan.kind is RebuildKind.RESUMED
        await primary.wait(PeerRebuilt, slot=fresh.number)
        await cluster.set_needed(primary, [fresh])
        await cluster.caught_up(primary, fresh)
        await primary.plane.close_gate(DEMO, "command")
        await cluster.open_term(fresh, epoch=2)
        assert await fresh.plane.reservations(DEMO) == (lsn, ALICE_ALONE)


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


async def test_a_replica_tells_first_of_the_table_it_was_opened_with() -> None:
    """So who watches its tables knows what the next one changes."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        lsn = await change(node, BOTH)
        await applied(node)
        await node.plane.close_replica(DEMO)
        node.events.clear()
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        assert await node.wait(ReservationsChanged) == ReservationsChanged(
            volume_id=DEMO, lsn=lsn, table=BOTH
        )
        newest = await change(node, ALICE_ALONE)
        assert (await node.wait(ReservationsChanged)).lsn == newest

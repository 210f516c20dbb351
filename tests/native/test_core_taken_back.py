"""Commands of reservations that are taken back, time out, or are carried out by another node: logged once or never."""

from __future__ import annotations

import time

import pytest

from sparrow.base.errors import LocalProtocolError, Withdrawn
from sparrow.base.ids import Lsn
from sparrow.ports.dataplane import ReservationsChanged, SessionEnded
from tests.support.core_cluster import DEMO, core_cluster
from tests.support.core_reservations import (
    ALICE,
    ALICE_ALONE,
    BOTH,
    CAROL,
    GOOD,
    asked,
    begun,
    hears_nothing,
    received,
)
from tests.support.front_bed import MANAGED, RESPONSE

SECOND_NS = 1_000_000_000
ABORT_TASK, LUN_RESET = 1, 5
DONE, NO_TASK = 0, 1


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

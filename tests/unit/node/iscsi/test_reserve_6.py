"""RESERVE(6): it ends with the session of its holder, whatever happens meanwhile."""

from __future__ import annotations

import asyncio

from sparrow.base.errors import OutcomeUnknown, StaleEpoch, Unavailable
from sparrow.formats.reservations import (
    ReservationTable,
    decode_registrant,
    decode_table,
    encode_table,
)
from sparrow.ports.dataplane import SessionParameters
from tests.support.iscsi_node import Node, answered, carry_out, command, send, two_sessions
from tests.support.lines import VOLUME


async def reserved_by(node: Node, session: SessionParameters) -> None:
    assert (await carry_out(node, session, command(bytes([0x16])))) == (0, b"", b"")
    node.commit()
    assert decode_table(node.dataplane.tables[-1]).by_reserve


async def nothing_is_reserved(node: Node) -> None:
    await asyncio.gather(*node.spawned)
    assert decode_table(node.dataplane.tables[-1]) == ReservationTable()


async def test_reserve_6_ends_with_the_session_of_its_holder(node: Node) -> None:
    first, second = await two_sessions(node)
    await reserved_by(node, first)
    node.portal.ended(second.session_key, "closed")
    assert node.spawned == []
    node.portal.ended(first.session_key, "closed")
    await nothing_is_reserved(node)


async def test_reserve_6_ends_with_a_reset(node: Node) -> None:
    first, second = await two_sessions(node)
    await reserved_by(node, first)
    header = bytes([0x42, 0x80 | 5]).ljust(48, b"\0")
    send(node, second, header)
    await nothing_is_reserved(node)
    assert node.dataplane.answers == []
    node.commit()
    logged = len(node.dataplane.tables)
    send(node, second, header)
    await asyncio.gather(*node.spawned)
    assert len(node.dataplane.tables) == logged


async def test_a_reset_ends_a_reserve_6_that_is_being_logged(node: Node) -> None:
    """The core answers the reset after it; what was reserved before is not reserved then."""
    first, second = await two_sessions(node)
    node.dataplane.logging.clear()
    send(node, first, command(bytes([0x16])))
    await node.reached(lambda: bool(node.dataplane.tables))
    send(node, second, bytes([0x42, 0x80 | 5]).ljust(48, b"\0"))
    node.dataplane.logging.set()
    await nothing_is_reserved(node)


async def test_reserve_6_of_a_session_that_is_gone_ends_when_it_commits_late(node: Node) -> None:
    """Its outcome was not known when the session ended."""
    first, _ = await two_sessions(node)
    node.dataplane.logging.clear()
    send(node, first, command(bytes([0x16])))
    await node.reached(lambda: bool(node.dataplane.tables))
    node.dataplane.error = OutcomeUnknown("not in time")
    node.dataplane.logging.set()
    await answered(node)
    node.portal.ended(first.session_key, "closed")
    assert node.spawned == []
    node.dataplane.error = None
    node.commit()
    await nothing_is_reserved(node)


async def test_ending_reserve_6_is_tried_until_it_is_possible(hasty: Node) -> None:
    first, _ = await two_sessions(hasty)
    await reserved_by(hasty, first)
    for error in (Unavailable("not now"), OutcomeUnknown("not in time")):
        hasty.dataplane.error = error
        hasty.dataplane.looks = 0
        hasty.portal.ended(first.session_key, "closed")
        # More than one attempt makes.
        await hasty.reached(lambda: hasty.dataplane.looks > 20)
        assert not any(task.done() for task in hasty.spawned)
    hasty.dataplane.error = None
    await nothing_is_reserved(hasty)


async def test_reserve_6_that_was_there_when_the_replica_was_opened_ends_with_its_session(
    node: Node,
) -> None:
    """Nothing tells of it but the look when the gate opens."""
    first, _ = await two_sessions(node)
    held = ReservationTable(
        registrants=(registrant := decode_registrant(first.nexus),),
        type=3,
        holder=registrant.nexus,
        by_reserve=True,
    )
    node.dataplane.tables.append(encode_table(held))
    node.reservations.opened(VOLUME)
    await asyncio.gather(*node.spawned)
    assert len(node.dataplane.tables) == 1
    node.portal.ended(first.session_key, "closed")
    await nothing_is_reserved(node)


async def test_a_new_primary_ends_a_reserve_6_whose_holder_has_no_session_here(node: Node) -> None:
    first, _ = await two_sessions(node)
    await reserved_by(node, first)
    node.reservations.opened(VOLUME)
    await asyncio.gather(*node.spawned)
    assert decode_table(node.dataplane.tables[-1]).by_reserve
    held = node.dataplane.tables[-1]
    node.portal.ended(first.session_key, "closed")
    await nothing_is_reserved(node)
    node.dataplane.tables.append(held)
    node.reservations.opened(VOLUME)
    await nothing_is_reserved(node)


async def test_a_node_that_ceased_to_serve_leaves_reserve_6_to_the_next(node: Node) -> None:
    first, _ = await two_sessions(node)
    await reserved_by(node, first)
    node.dataplane.error = StaleEpoch("fenced")
    node.portal.ended(first.session_key, "closed")
    await asyncio.gather(*node.spawned)
    assert decode_table(node.dataplane.tables[-1]).by_reserve

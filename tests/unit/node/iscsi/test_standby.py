"""Reservations over iSCSI on a path that does not serve: the primary answers."""

from __future__ import annotations

import struct

from sparrow.formats.reservations import ReservationTable, decode_registrant, decode_table
from sparrow.frontends.reservations.machine import register
from sparrow.ports.dataplane import SessionParameters, Upcall
from sparrow.rpc.messages import ReservationChangeAnswer, ReservationOutcome
from tests.support.iscsi_node import READ_KEYS, Node, answered, command, pr_out, two_sessions
from tests.support.lines import VOLUME, line


async def standby_session(node: Node) -> SessionParameters:
    node.volume.known_line = line(1, 1, "b", "abc")
    node.volume.primacy = None
    return (await two_sessions(node))[0]


def carry(node: Node, session: SessionParameters, header: bytes, data: bytes = b"") -> None:
    upcall = Upcall(
        volume_id=VOLUME, session_key=session.session_key, tag=5, header=header, data=data
    )
    node.upcalls.take(upcall)


async def test_a_path_that_does_not_serve_has_the_primary_answer(node: Node) -> None:
    session = await standby_session(node)
    ours = decode_registrant(session.nexus).nexus
    table = register(ReservationTable(), ours, key=0, new_key=7).table
    assert table is not None
    node.peer.table = table
    carry(node, session, command(READ_KEYS))
    assert (await answered(node))[0][2:] == (0, b"", struct.pack(">IIQ", 1, 8, 7))
    assert node.dataplane.pins == [], "reading changes nothing"
    header, data = pr_out(0, key=7, other=8)
    carry(node, session, header, data)
    ((key, tag, status, sense, _data),) = await answered(node)
    assert (key, tag, status, sense) == (session.session_key, 5, 0, b"")
    (asked,) = node.peer.asked
    assert (asked.cdb, asked.data, asked.ticket_ns) == (header[32:48], data, 1)
    named = decode_registrant(asked.registrant)
    assert (named.nexus, named.port) == (ours, 1)
    await node.reached(lambda: len(node.dataplane.pins) == 2)
    # Answered before anything that waits for it goes on.
    assert node.dataplane.pins == [(session.session_key, 5), (session.session_key, 1)]


async def test_what_the_primary_refuses_is_refused_here(hasty: Node) -> None:
    session = await standby_session(hasty)
    outcome = ReservationOutcome.ANSWERED
    hasty.peer.answer = ReservationChangeAnswer(outcome=outcome, status=0x18)
    carry(hasty, session, *pr_out(0, key=7, other=8))
    assert (await answered(hasty))[0][2] == 0x18
    for outcome, status, code in (
        (ReservationOutcome.NOT_NOW, 0x08, ()),
        (ReservationOutcome.NOT_HERE, 2, (2, 0x04, 0x0A)),
        (ReservationOutcome.UNKNOWN, 2, (0x0B, 0x2E, 0x02)),
    ):
        hasty.peer.answer = ReservationChangeAnswer(outcome=outcome)
        carry(hasty, session, *pr_out(0, key=7, other=8))
        ((_key, _tag, found, sense, _data),) = await answered(hasty)
        assert (found, tuple(sense[at] for at in (2, 12, 13) if sense)) == (status, code)


async def test_a_primary_that_is_away_is_not_ready_in_transition(hasty: Node) -> None:
    session = await standby_session(hasty)
    hasty.peer.away = True
    for header, data in ((command(READ_KEYS), b""), pr_out(0, other=7)):
        carry(hasty, session, header, data)
        ((_key, _tag, status, sense, _data),) = await answered(hasty)
        assert (status, sense[2], sense[12], sense[13]) == (2, 2, 0x04, 0x0A)
    assert hasty.peer.asked == []


async def test_reserve_6_stays_where_its_session_is(node: Node) -> None:
    session = await standby_session(node)
    for cdb in (bytes([0x16]), bytes([0x17])):
        carry(node, session, command(cdb))
        ((_key, _tag, status, sense, _data),) = await answered(node)
        assert (status, sense[2], sense[12]) == (2, 2, 0x04)
    assert node.peer.asked == []


async def test_a_path_that_serves_by_the_time_answers_by_itself(node: Node) -> None:
    """A failover to this node, seen between the command and the first try."""
    session = await standby_session(node)
    node.peer.away = True
    carry(node, session, *pr_out(0, other=7))
    node.volume.known_line = line(2, 1, "a", "abc")
    node.volume.primacy = object()
    assert (await answered(node))[0][2] == 0
    assert len(decode_table(node.dataplane.tables[-1]).registrants) == 1
    assert node.peer.asked == []

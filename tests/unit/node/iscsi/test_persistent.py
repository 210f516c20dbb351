"""Persistent reservations over iSCSI: changes, one after the other, and who hears of them."""

from __future__ import annotations

import asyncio
import struct

import pytest
import structlog

from sparrow.base.errors import OutcomeUnknown, StaleEpoch, Unavailable
from sparrow.formats.reservations import (
    ReservationTable,
    decode_registrant,
    decode_table,
    encode_table,
)
from sparrow.frontends.reservations.machine import Change, Notice, preempt, register, reserve
from sparrow.node.reservations import Reservations
from tests.support.iscsi_node import (
    READ_KEYS,
    Node,
    answered,
    carry_out,
    command,
    pr_out,
    send,
    two_sessions,
)
from tests.support.lines import VOLUME


async def test_a_change_is_answered_when_it_has_committed(node: Node) -> None:
    first, _ = await two_sessions(node)
    node.dataplane.logging.clear()
    send(node, first, *pr_out(0, other=7))
    await node.reached(lambda: bool(node.dataplane.tables))
    assert not node.dataplane.answers
    node.dataplane.logging.set()
    ((_key, _tag, status, _sense, _data),) = await answered(node)
    assert status == 0
    (registrant,) = decode_table(node.dataplane.tables[-1]).registrants
    assert (registrant.key, registrant.port) == (7, 1)
    assert registrant.nexus.record() == first.nexus
    assert await carry_out(node, first, command(READ_KEYS)) == (
        0,
        b"",
        struct.pack(">IIQ", 1, 8, 7),
    )


async def test_a_decision_from_an_old_table_is_made_again(node: Node) -> None:
    first, second = await two_sessions(node)
    assert (await carry_out(node, first, *pr_out(0, other=7)))[0] == 0
    assert (await carry_out(node, second, *pr_out(0, other=8)))[0] == 0
    newest = decode_table(node.dataplane.tables[-1])
    taken = reserve(newest, newest.registrants[1].nexus, key=8, kind=1).table
    assert taken is not None
    node.dataplane.stale.append(encode_table(taken))
    assert (await carry_out(node, first, *pr_out(1, key=7, kind=1)))[0] == 0x18
    assert decode_table(node.dataplane.tables[-1]) == taken


async def test_a_moment_in_which_it_is_not_possible_is_waited_for(node: Node) -> None:
    patient = Reservations(node.dataplane, spawn=node.spawn, log=structlog.get_logger())
    node.dataplane.not_now = 3
    assert await patient.table(VOLUME) == ReservationTable()
    assert node.dataplane.not_now == 0


async def test_changes_of_a_volume_are_made_one_after_the_other(node: Node) -> None:
    first, second = await two_sessions(node)
    node.dataplane.logging.clear()
    send(node, first, *pr_out(0, other=7))
    send(node, second, *pr_out(0, other=8))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(node.dataplane.tables) == 1
    node.dataplane.logging.set()
    assert [status for _k, _t, status, _s, _d in await answered(node, 2)] == [0, 0]
    assert len(decode_table(node.dataplane.tables[-1]).registrants) == 2


async def test_who_lost_its_registration_is_told_before_the_answer(node: Node) -> None:
    first, second = await two_sessions(node)
    await carry_out(node, first, *pr_out(0, other=7))
    await carry_out(node, second, *pr_out(0, other=8))
    await carry_out(node, first, *pr_out(1, key=7, kind=5))
    assert node.dataplane.attentions == []
    assert (await carry_out(node, second, *pr_out(4, key=8, other=7, kind=5)))[0] == 0
    assert node.dataplane.attentions == [(first.session_key, Notice.REGISTRATIONS_PREEMPTED)]


async def test_preempt_and_abort_ends_the_commands_of_who_lost_before_the_answer(
    node: Node,
) -> None:
    first, second = await two_sessions(node)
    await carry_out(node, first, *pr_out(0, other=7))
    await carry_out(node, second, *pr_out(0, other=8))
    assert (await carry_out(node, second, *pr_out(4, key=8, other=7, kind=5)))[0] == 0
    assert node.dataplane.aborted == []
    await carry_out(node, first, *pr_out(0, other=7))
    node.dataplane.logging.clear()
    send(node, second, *pr_out(5, key=8, other=7, kind=5))
    await node.reached(lambda: len(node.dataplane.tables) == 5)
    assert node.dataplane.aborted == [], "not before it has committed"
    node.dataplane.logging.set()
    await answered(node)
    assert node.dataplane.aborted == [first.session_key]


async def test_preempt_and_abort_is_answered_when_the_core_has_ended_the_commands(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer may leave by another way than through the core; and the core may have no room for mail at first."""
    first, second = await two_sessions(node)
    await carry_out(node, first, *pr_out(0, other=7))
    await carry_out(node, second, *pr_out(0, other=8))
    begun, ended = asyncio.Event(), asyncio.Event()
    full = [Unavailable("more mail than it can take")]

    async def abort_commands(session_key: int) -> None:
        if full:
            raise full.pop()
        begun.set()
        await ended.wait()
        node.dataplane.aborted.append(session_key)

    monkeypatch.setattr(node.dataplane, "abort_commands", abort_commands)
    asker = decode_registrant(second.nexus).nexus

    def decide(table: ReservationTable) -> tuple[str, Change]:
        return "done", preempt(table, asker, key=8, victim=7, kind=5, abort=True)

    asking = asyncio.create_task(node.reservations.change(VOLUME, decide))
    await begun.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not asking.done()
    ended.set()
    assert await asking == "done"
    assert node.dataplane.aborted == [first.session_key]


async def test_who_lost_its_registration_hears_of_it_where_another_node_made_the_change(
    node: Node,
) -> None:
    """On the paths of the other nodes, and of a successor that commits what the primary logged."""
    first, second = await two_sessions(node)
    await carry_out(node, first, *pr_out(0, other=7))
    await carry_out(node, second, *pr_out(0, other=8))
    await carry_out(node, first, *pr_out(1, key=7, kind=5))
    newest = decode_table(node.dataplane.tables[-1])
    ours, theirs = (decode_registrant(one.nexus).nexus for one in (first, second))
    change = preempt(newest, theirs, key=8, victim=7, kind=5)
    assert change.table is not None
    node.dataplane.tables.append(encode_table(change.table))
    node.commit()
    assert node.dataplane.attentions == [(first.session_key, Notice.REGISTRATIONS_PREEMPTED)]
    # Who gives its registration up is told nothing.
    left = register(change.table, theirs, key=8, new_key=0).table
    assert left is not None
    node.dataplane.tables.append(encode_table(left))
    node.dataplane.attentions.clear()
    node.commit()
    assert node.dataplane.attentions == []
    assert ours != theirs


async def test_who_lost_its_registration_hears_of_it_when_the_change_commits_late(
    node: Node,
) -> None:
    """Its outcome was not known when the command that asked for it was answered."""
    first, second = await two_sessions(node)
    await carry_out(node, first, *pr_out(0, other=7))
    await carry_out(node, second, *pr_out(0, other=8))
    node.dataplane.logging.clear()
    send(node, second, *pr_out(3, key=8))
    await node.reached(lambda: len(node.dataplane.tables) == 3)
    node.dataplane.error = OutcomeUnknown("not in time")
    node.dataplane.logging.set()
    await answered(node)
    assert node.dataplane.attentions == []
    node.commit()
    # CLEAR: all others, and not who asked, which only this node knows.
    assert node.dataplane.attentions == [(first.session_key, Notice.RESERVATIONS_PREEMPTED)]


async def test_a_node_that_does_not_serve_says_so(hasty: Node) -> None:
    first, _ = await two_sessions(hasty)
    hasty.dataplane.error = StaleEpoch("another is primary")
    for header, data in (pr_out(0, other=7), (command(READ_KEYS), b"")):
        status, sense, _ = await carry_out(hasty, first, header, data)
        assert (status, sense[2], sense[12], sense[13]) == (2, 2, 4, 0x0A)
    hasty.dataplane.error = Unavailable("not now")
    assert (await carry_out(hasty, first, *pr_out(0, other=7)))[0] == 0x08
    assert (await carry_out(hasty, first, command(bytes([0x1A, 0, 0x3F, 0, 99, 0]))))[0] == 0x08


async def test_a_change_that_nobody_knows_the_end_of_is_not_answered_as_done(node: Node) -> None:
    first, _ = await two_sessions(node)
    node.dataplane.logging.clear()
    send(node, first, *pr_out(0, other=7))
    await node.reached(lambda: bool(node.dataplane.tables))
    node.dataplane.error = OutcomeUnknown("fenced")
    node.dataplane.logging.set()
    ((_key, _tag, status, sense, _data),) = await answered(node)
    assert (status, sense[2], sense[12], sense[13]) == (2, 0x0B, 0x2E, 0x02)


async def test_a_command_that_was_taken_back_is_neither_logged_nor_answered(node: Node) -> None:
    first, second = await two_sessions(node)
    node.dataplane.withdrawn = True
    send(node, first, *pr_out(0, other=7), tag=3)
    await node.reached(lambda: bool(node.dataplane.askers))
    node.dataplane.withdrawn = False
    # The next one is answered, and nothing before it.
    send(node, second, *pr_out(0, other=8), tag=4)
    ((_key, tag, status, _sense, _data),) = await answered(node)
    assert (tag, status) == (4, 0)
    assert node.dataplane.askers == [(first.session_key, 3), (second.session_key, 4)]
    assert len(decode_table(node.dataplane.tables[-1]).registrants) == 1


async def test_changes_behind_one_that_does_not_commit_are_told_to_come_back(hasty: Node) -> None:
    """Each waits for its turn no longer than for a moment in which it is possible."""
    first, second = await two_sessions(hasty)
    hasty.dataplane.logging.clear()
    send(hasty, first, *pr_out(0, other=7), tag=1)
    await hasty.reached(lambda: bool(hasty.dataplane.tables))
    for tag in (2, 3):
        send(hasty, second, *pr_out(0, other=8), tag=tag)
    assert [answer[1:3] for answer in await answered(hasty, 2)] == [(2, 0x08), (3, 0x08)]
    hasty.dataplane.logging.set()
    assert [answer[1:3] for answer in await answered(hasty)] == [(1, 0)]
    assert len(hasty.dataplane.tables) == 1


async def test_mode_sense_of_others_meets_the_reservation(node: Node) -> None:
    first, second = await two_sessions(node)
    await carry_out(node, first, *pr_out(0, other=7))
    await carry_out(node, first, *pr_out(1, key=7, kind=3))
    mode_sense = command(bytes([0x1A, 0, 0x3F, 0, 99, 0]))
    assert (await carry_out(node, first, mode_sense))[0] == 0
    assert (await carry_out(node, second, mode_sense))[0] == 0x18

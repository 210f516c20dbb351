"""A term as primary drives its two machines: what they want done reaches the core in that order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from unittest.mock import call, patch

import pytest
from structlog.testing import capture_logs

from sparrow.base import events as names
from sparrow.base.constants import MEMBERS_MAX
from sparrow.base.errors import Unavailable
from sparrow.base.ids import LinkId, Lsn, ReplicaId, VolumeId
from sparrow.formats.hello import Hello, LinkKind
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.keys import Slots
from sparrow.rpc.messages import JoinAnswer, JoinRequest
from tests.support.lines import VOLUME, later, member, moved, rid, uuid_of
from tests.support.model_cluster import Cluster, play


def test_a_connection_that_is_given_up_while_it_is_made_never_gets_to_the_core() -> None:
    async def story(cluster: Cluster) -> None:
        a = cluster.node("a")
        volume = a.replicas.get(VOLUME)
        connect, ship = a.around.links.connect, a.dataplane.ship
        held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        reached: list[str] = []
        shipped: list[object] = []

        async def held_once(addr: str, hello: Hello, *, timeout_s: float) -> int:
            if hello.to_node == "nb" and hello.kind is LinkKind.SHIP:
                reached.append(addr)
                if len(reached) == 1:
                    await asyncio.shield(held)
            return await connect(addr, hello, timeout_s=timeout_s)

        async def noted(volume_id: VolumeId, slot: int, *more: Any, **named: Any) -> None:
            core = a.dataplane._volumes[volume_id]
            assert slot not in core.peers, "two links to one peer"
            shipped.append(named["link"])
            await ship(volume_id, slot, *more, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(a.around.links, "connect", held_once)
            patch.setattr(a.dataplane, "ship", noted)
            cluster.fabric.cut("na", "nb")
            await cluster.until(lambda: bool(reached))
            line = volume.line
            elsewhere = tuple(
                replace(one, data_addr="nb:other") if one.replica_id == "b" else one
                for one in line.members
            )
            cluster.master.mint(later(line, members=elsewhere))
            await cluster.until(lambda: len(reached) == 2 and bool(shipped))
            held.set_result(None)
            await cluster.idle(2.0)
        assert len(shipped) == 1, "the older one was never the core's"
        assert cluster.in_sync == "abc"
        await cluster.write("a", 1, b"one")

    play(story)


def test_a_slot_is_never_given_to_two_replicas_however_many_come_and_go() -> None:
    slots = Slots()
    given = [slots.slot(ReplicaId(f"r{number}")) for number in range(3 * MEMBERS_MAX)]
    assert len(set(given)) == len(given)
    slots.keep({ReplicaId("r1")})
    assert slots.used() == (given[1],)
    assert slots.replica(given[2]) is None, "what is said of it late is said of nobody"
    assert slots.slot(ReplicaId("r1")) == given[1]
    assert slots.slot(ReplicaId("r2")) not in given


def test_a_replica_that_is_a_member_again_has_another_slot() -> None:
    """Its id may be another's by now: with other files, on another node."""

    async def story(cluster: Cluster) -> None:
        volume = cluster.node("a").replicas.get(VOLUME)
        slots = volume.slots
        before = slots.known(rid("c"))
        kept = slots.known(rid("b"))
        assert before is not None
        everybody = cluster.line.members
        without_c = tuple(one for one in everybody if one.replica_id != "c")
        cluster.master.mint(later(cluster.line, members=without_c, in_sync=(rid("a"), rid("b"))))
        await cluster.until(lambda: volume.line == cluster.line)
        assert slots.known(rid("c")) is None
        core = cluster.node("a").dataplane._volumes[VOLUME]
        await cluster.until(lambda: before not in core.peers)
        cluster.master.mint(later(cluster.line, members=everybody))
        await cluster.until(lambda: cluster.in_sync == "abc")
        after = slots.known(rid("c"))
        assert after is not None
        assert after not in (before, kept)
        assert slots.known(rid("b")) == kept
        assert after in core.needed
        await cluster.write("a", 1, b"one")

    play(story)


def test_a_term_that_is_over_drops_every_peer() -> None:
    async def story(cluster: Cluster) -> None:
        a = cluster.node("a")
        volume = a.replicas.get(VOLUME)
        b, c = (volume.slots.known(rid(name)) for name in ("b", "c"))
        drop = a.dataplane.drop_peer
        dropped: list[int] = []

        async def noted(volume_id: VolumeId, slot: int) -> None:
            dropped.append(slot)
            await drop(volume_id, slot)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(a.dataplane, "drop_peer", noted)
            cluster.master.mint(moved(cluster.line, "b"))
            await cluster.until(lambda: not volume.is_primary and len(dropped) >= 2)
        assert sorted(dropped) == sorted((b, c))

    play(story)


def test_whoever_leaves_when_the_term_is_about_to_end_is_dropped_with_it() -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("a").replicas.get(VOLUME)
        core = cluster.node("a").dataplane._volumes[VOLUME]
        c = volume.slots.known(rid("c"))
        primacy = volume.primacy
        assert primacy is not None
        assert c in core.peers
        primacy.over = True
        without_c = tuple(one for one in cluster.line.members if one.replica_id != "c")
        primacy.line_changed(later(cluster.line, members=without_c, in_sync=(rid("a"), rid("b"))))
        volume.stepped_down("a test")
        await cluster.until(lambda: not volume.is_primary and not core.peers)

    play(story)


def test_a_peer_that_never_had_a_slot_is_dropped_without_one() -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("a").replicas.get(VOLUME)
        primacy = volume.primacy
        assert primacy is not None
        with_d = (*cluster.line.members, member("d"))
        cluster.master.mint(later(cluster.line, members=with_d))
        await cluster.until(lambda: volume.line == cluster.line)
        given = volume.slots.slot
        with patch.object(type(volume.slots), "slot", side_effect=given) as asked:
            primacy.line_changed(later(cluster.line, members=with_d[:-1]))
        assert call(rid("d")) not in asked.mock_calls
        assert volume.slots.known(rid("d")) is None
        assert primacy.peers is not None
        assert rid("d") not in primacy.peers.peers
        assert not primacy.over
        await cluster.write("a", 1, b"one")

    play(story)


async def broken(*_what: object, **_named: object) -> None:
    raise RuntimeError("a bug")


def test_a_bug_in_a_step_of_a_link_ends_that_link() -> None:
    """Else the peer would be joining, preparing or connecting for as long as the term lasts."""

    async def story(cluster: Cluster) -> None:
        a = cluster.node("a")
        primacy = a.replicas.get(VOLUME).primacy
        assert primacy is not None
        assert primacy.term is not None
        b, link, term = rid("b"), LinkId(99), primacy.term
        uuid = uuid_of("b")
        steps = (
            (a.around.calls, "join", fx.SendJoin(replica=b, link=link, term=term, timeout_s=1.0)),
            (
                a.around.calls,
                "prepare_rebuild",
                fx.PrepareRebuild(replica=b, link=link, uuid=uuid, term=term),
            ),
            (
                a.around.links,
                "connect",
                fx.StartShip(replica=b, link=link, uuid=uuid, term=term, joined_lsn=Lsn(1)),
            ),
        )
        told: list[ev.PrimaryEvent] = []
        with pytest.MonkeyPatch.context() as patch, capture_logs() as logs:
            patch.setattr(primacy, "tell", told.append)
            for place, name, effect in steps:
                patch.setattr(place, name, broken)
                primacy._carry_out(effect)
            await asyncio.sleep(0.1)
        told = [event for event in told if not isinstance(event, ev.PeersSeen)]
        cause = "internal error, see the log"
        assert sorted(told, key=repr) == [
            ev.JoinFailed(replica=b, link=link, cause=cause),
            ev.RebuildRefused(replica=b, link=link, cause=cause),
            ev.ShipFailed(replica=b, link=link, cause=cause),
        ]
        bugs = [entry["command"] for entry in logs if entry["event"] == names.COMMAND_FAILED]
        assert sorted(bugs) == ["join", "prepare_rebuild", "ship"]

    play(story)


def test_an_opening_in_which_a_join_meets_a_bug_joins_again() -> None:
    async def story(cluster: Cluster) -> None:
        b = cluster.node("b")
        join = b.around.calls.join
        joins: list[str] = []

        async def once(addr: str, request: JoinRequest, *, timeout_s: float) -> JoinAnswer:
            joins.append(addr)
            if len(joins) == 1:
                raise RuntimeError("a bug")
            return await join(addr, request, timeout_s=timeout_s)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(b.around.calls, "join", once)
            cluster.master.mint(moved(cluster.line, "b"))
            await cluster.until(lambda: b.gate_open, within=5.0)
        assert len(joins) == 3
        assert cluster.in_sync == "abc"

    play(story)


def test_a_gate_that_the_core_did_not_hear_of_is_said_again() -> None:
    async def story(cluster: Cluster) -> None:
        b = cluster.node("b")
        open_gate = b.dataplane.open_gate
        waits: list[int] = []

        async def deaf(volume_id: VolumeId, *, wait_ms: int) -> None:
            waits.append(wait_ms)
            if len(waits) == 1:
                raise Unavailable("the core's mailbox is full")
            if len(waits) == 2:
                raise RuntimeError("a bug")
            await open_gate(volume_id, wait_ms=wait_ms)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(b.dataplane, "open_gate", deaf)
            cluster.master.mint(moved(cluster.line, "b"))
            await cluster.until(lambda: b.gate_open, within=10.0)
        assert len(waits) == 3
        assert len(set(waits)) == 1

    play(story)

"""One replica and its lines: which it acts on, when it is primary, when it gives way."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from sparrow.authority.types import AckPolicy, AssignmentFact, Term
from sparrow.base import events as names
from sparrow.base.errors import StaleEpoch
from sparrow.base.ids import Epoch
from sparrow.node import events as ev
from sparrow.node.facts import slot_fact
from sparrow.node.pace import CALM_S
from sparrow.node.primacy import SETTLED_S, Primacy
from sparrow.node.relief import GRAY_HOLD_S, HUNG_S, PAUSE_FIRST_S
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import GateClosed
from sparrow.rpc.messages import FenceRequest
from tests.support.lines import SIZE, VOLUME, fact, later, moved, peers_of, rid
from tests.support.model_cluster import Cluster, play


def test_an_older_line_is_refused_and_said_so() -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        first = cluster.line
        await volume.accept(fact(later(first)))
        with capture_logs() as logs:
            await volume.accept(fact(first))
        assert volume.known_line == later(first)
        assert [entry["cause"] for entry in logs if entry["event"] == names.LINE_REFUSED] == [
            "older than the one held"
        ]

    play(story)


@pytest.mark.parametrize(("cause", "event"), [("grant", "fence.fired"), ("command", "gate.closed")])
def test_a_gate_that_closes_is_told_with_its_lineage_and_a_fence_with_its_times(
    cause: str, event: str
) -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("a").replicas.get(VOLUME)
        lineage = cluster.line.lineage
        closed = GateClosed(
            volume_id=VOLUME,
            term=Term(epoch=lineage.epoch, start=3),
            cause=cause,
            deadline_ns=5_000_000,
            lateness_us=7,
        )
        with capture_logs() as logs:
            volume.take(closed)
            volume.take(replace(closed, term=Term(epoch=Epoch(lineage.epoch + 1), start=1)))
        told, other = [one for one in logs if one["event"] == event]
        assert not volume.gate_open
        assert (told["volume"], told["epoch"], told["start"]) == (VOLUME, lineage.epoch, 3)
        assert told["endpoint_version"] == lineage.endpoint_version
        assert other["endpoint_version"] is None, "its line was never heard of"
        times = [told.get(name) for name in ("deadline_ns", "fired_ns", "lateness_us")]
        assert times == ([5_000_000, 5_007_000, 7] if cause == "grant" else [None] * 3)

    play(story)


def test_a_resize_that_an_old_view_of_the_gate_stopped_is_begun_again() -> None:
    """The view was taken before the gate opened and is told after; nothing opens the gate a second time."""

    async def story(cluster: Cluster) -> None:
        volume = cluster.node("a").replicas.get(VOLUME)
        await cluster.until(lambda: volume.gate_open)
        view = await volume._dataplane.status(VOLUME)
        volume.growth.want(2 * SIZE)
        volume.observe(replace(view, gate_open=False))
        for _ in range(3):
            await asyncio.sleep(0)
        assert volume.size_bytes == SIZE
        volume.observe(replace(view, gate_open=True))
        await cluster.until(lambda: volume.size_bytes == 2 * SIZE)

    play(story)


def test_s18e_an_answer_to_an_ask_from_a_master_replaced_meanwhile_is_no_line() -> None:
    """The zombie mints (2,1) for c while its successor was heard here already."""

    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        held = volume.line
        volume._around = replace(volume._around, master_generation=lambda: 9)
        await volume.line_from_ask(moved(held, "c", master_generation=8))
        assert volume.line == held
        await volume.line_from_ask(moved(held, "c", master_generation=9))
        assert volume.line.primary == "c"

    play(story)


def test_s18_a_newer_line_of_an_older_master_is_refused() -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        newest = later(cluster.line, master_generation=5)
        await volume.accept(fact(newest))
        await volume.accept(fact(later(newest, master_generation=4)))
        assert volume.known_line == newest
        zombie = moved(newest, "c", master_generation=4)
        with pytest.raises(StaleEpoch):
            await volume.follower.fenced(
                FenceRequest(line=zombie, term=Term(epoch=Epoch(2), start=1), primary=rid("c"))
            )

    play(story)


def test_s29_a_line_with_another_policy_or_minimum_is_refused() -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        held = cluster.line
        for changes in ({"min_in_sync": held.min_in_sync + 1}, {"ack": AckPolicy.QUORUM}):
            await volume.accept(fact(later(held, **changes)))
            await volume.accept(fact(moved(held, "c", **changes)))
            assert volume.known_line == held

    play(story)


def test_a_volume_made_anew_under_the_name_may_have_another_policy() -> None:
    """The node was away while the volume was deleted and made again: it has to hear that its files mean nothing."""

    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        held = cluster.line
        fresh = tuple(replace(one, uuid=f"{one.uuid}-of-another-life") for one in held.members)
        anew = moved(held, "c", members=fresh, min_in_sync=held.min_in_sync + 1)
        await volume.accept(fact(anew))
        assert volume.known_line == anew

    play(story)


def test_two_lines_of_one_lineage_are_a_conflict_and_the_first_stays() -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        forged = replace(cluster.line, primary=rid("b"))
        with capture_logs() as logs:
            await volume.accept(fact(forged))
        assert volume.known_line == cluster.line
        assert names.EPOCH_CONFLICTED in [entry["event"] for entry in logs]
        assert volume.primacy is None

    play(story)


def test_a_repeated_fact_changes_nothing_but_newer_addresses_are_taken() -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("a").replicas.get(VOLUME)
        primacy = volume.primacy
        moved_peers = tuple(
            replace(p, ctrl_addr="elsewhere:1", data_addr="elsewhere:2")
            for p in peers_of(cluster.line)
        )
        await volume.accept(AssignmentFact(line=cluster.line, peers=moved_peers, peer_revision=7))
        assert volume.primacy is primacy
        assert volume.peer(rid("b")).ctrl_addr == "elsewhere:1"
        other = volume.peer(rid("b"))
        assert cluster.node("a").grants._address(other.node_id) == "elsewhere:2"
        await volume.accept(fact(cluster.line, revision=6))
        assert volume.peer(rid("b")).ctrl_addr == "elsewhere:1"

    play(story)


def test_a_peer_can_end_primacy_but_never_begin_it() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.master.cut("na")
        cluster.master.cut("nb")
        cluster.master.cut("nc")
        a = cluster.node("a").replicas.get(VOLUME)
        b = cluster.node("b").replicas.get(VOLUME)
        newer = moved(cluster.line, "b")
        await b.line_from_peer(newer)
        await a.line_from_peer(newer)
        assert b.primacy is None
        assert a.primacy is None
        assert not cluster.node("a").gate_open

    play(story)


def test_l9_a_primary_whose_own_log_hangs_asks_to_be_relieved() -> None:
    async def story(cluster: Cluster) -> None:
        a = cluster.node("a")
        volume = a.replicas.get(VOLUME)
        await cluster.write("a", 1, b"one")
        assert not volume.withdrawn
        a.dataplane.lose_own_writes = True
        writing = asyncio.ensure_future(cluster.write("a", 1, b"two"))
        took = await cluster.until(lambda: volume.withdrawn, within=5.0)
        assert took > 0.9, "a second is not slow yet"
        found = slot_fact(volume, await a.dataplane.status(VOLUME), a.me)
        assert (found.withdrawn, found.gate_open) == (True, True)
        writing.cancel()

    play(story)


def test_l9_where_no_peer_is_quicker_a_slow_primary_stays_and_says_why() -> None:
    async def story(cluster: Cluster) -> None:
        a = cluster.node("a")
        told: dict[str, str] = {}
        volume = a.replicas.get(VOLUME)
        await cluster.write("a", 1, b"one")
        a.dataplane.lose_own_writes = True
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Primacy, "quicker", ())
            patch.setattr(volume, "_around", replace(a.around, note=told.__setitem__))
            with capture_logs() as logs:
                writing = asyncio.ensure_future(cluster.write("a", 1, b"two"))
                await cluster.until(lambda: bool(told), within=5.0)
            assert not volume.withdrawn
            (sentence,) = told.values()
            assert "of volume v1 leads and is slow" in sentence
            assert "so it stays" in sentence
            gray = [entry["asks"] for entry in logs if entry["event"] == names.REPLICA_GRAY]
            assert gray == [False]
            # Its peers have that entry, and its own disk has taken nothing since: no disk to lead with.
            found = slot_fact(volume, await a.dataplane.status(VOLUME), a.me)
            assert found.ready_for_primary
            await cluster.until(lambda: volume.hung, within=HUNG_S + 1.0)
            found = slot_fact(volume, await a.dataplane.status(VOLUME), a.me)
            assert not found.ready_for_primary
        writing.cancel()

    play(story)


def test_l9_who_was_relieved_says_as_a_follower_that_it_was_slow() -> None:
    async def story(cluster: Cluster) -> None:
        a = cluster.node("a")
        volume = a.replicas.get(VOLUME)
        await cluster.write("a", 1, b"one")
        a.dataplane.lose_own_writes = True
        writing = asyncio.ensure_future(cluster.write("a", 1, b"two"))
        await cluster.until(lambda: volume.withdrawn, within=5.0)
        a.dataplane.lose_own_writes = False
        writing.cancel()
        await volume.accept(fact(moved(cluster.line, "b")))
        await cluster.until(lambda: not volume.is_primary, within=5.0)
        await asyncio.sleep(2 * GRAY_HOLD_S)
        assert volume.withdrawn
        assert not volume.settled
        await asyncio.sleep(PAUSE_FIRST_S)
        assert not volume.withdrawn

    play(story)


def test_a_view_is_shown_on_as_long_as_every_peer_is_said_to_be_slow() -> None:
    """As after a process that stood still for longer than any window, and then finds the view it knew."""

    async def story(cluster: Cluster) -> None:
        a = cluster.node("a")
        volume = a.replicas.get(VOLUME)
        assert volume.primacy is not None
        peers = volume.primacy.peers
        assert peers is not None
        view = await a.dataplane.status(VOLUME)
        with pytest.MonkeyPatch.context() as patch:
            # Nobody else observes meanwhile: each other look of the model is another view.
            patch.setattr(volume, "observe", lambda _status: None)
            Volume.observe(volume, view)
            await asyncio.sleep(CALM_S)
            peers.all_slow = True
            await asyncio.sleep(SETTLED_S + 0.1)
            assert not volume.settled
            Volume.observe(volume, view)
            assert not volume.withdrawn
            assert volume.primacy.settled(a.around.clock())

    play(story)


def test_a_view_that_stood_for_long_is_shown_again_only_when_something_happens() -> None:
    async def story(cluster: Cluster) -> None:
        a = cluster.node("a")
        volume = a.replicas.get(VOLUME)
        assert volume.primacy is not None
        told: list[ev.PrimaryEvent] = []
        tell = volume.primacy.tell

        def note(event: ev.PrimaryEvent) -> None:
            told.append(event)
            tell(event)

        view = await a.dataplane.status(VOLUME)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(volume.primacy, "tell", note)
            # Nobody else observes meanwhile: each other look of the model is another view.
            patch.setattr(volume, "observe", lambda _status: None)

            async def look(times: int) -> int:
                told.clear()
                for _ in range(times):
                    Volume.observe(volume, view)
                    await asyncio.sleep(0.25)
                return sum(isinstance(event, ev.PeersSeen) for event in told)

            assert await look(4) == 4, "what is measured over a second sees it several times"
            await asyncio.sleep(SETTLED_S)
            assert await look(4) == 0
            volume.primacy.tell(ev.ControlChanged(live=True))
            assert await look(1) == 1
            await asyncio.sleep(SETTLED_S)
            assert await look(1) == 0
            view = replace(view)
            assert await look(1) == 1

    play(story)

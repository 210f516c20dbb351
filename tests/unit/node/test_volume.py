"""One replica among its peers: which lines it acts on, what it answers a primary, what it keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from sparrow.authority.effects import HostReplica, RemoveReplica
from sparrow.authority.types import AckPolicy, AssignmentFact, Line, ReplicaState, Term
from sparrow.base import events as names
from sparrow.base.errors import (
    FailedPrecondition,
    NotFound,
    NotPrimary,
    RemoteProtocolError,
    StaleEpoch,
    Unavailable,
)
from sparrow.base.ids import Epoch, Lsn, NodeId, ReplicaId, VolumeId
from sparrow.formats.hello import Hello, HelloCode, LinkKind
from sparrow.frontends.scsi.unit import UnitState
from sparrow.node import events as ev
from sparrow.node.facts import SlotReports, slot_fact, told_silence_ms
from sparrow.node.mending import repair_page
from sparrow.node.primacy import SETTLED_S
from sparrow.node.units import unit_state
from sparrow.node.verify import compare_replicas
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import DiskFailed, VolumeStatus
from sparrow.rpc.messages import (
    FenceRequest,
    JoinAnswerOutcome,
    JoinRequest,
    PrepareRebuildRequest,
    ReadLogRequest,
    ReleaseReplicaRequest,
)
from tests.support.lines import SIZE, VOLUME, log, peers_of, rid
from tests.support.model_cluster import CLUSTER, Cluster
from tests.support.virtual_time import run_virtual

Story = Callable[[Cluster], Coroutine[Any, Any, None]]


def play(story: Story, replicas: str = "abc") -> None:
    async def whole() -> None:
        cluster = Cluster(replicas)
        try:
            await cluster.start()
            await story(cluster)
        finally:
            for node in cluster.nodes.values():
                node.kill()

    run_virtual(whole())


def fact(line: Line, revision: int = 1) -> AssignmentFact:
    return AssignmentFact(line=line, peers=peers_of(line), peer_revision=revision)


def later(line: Line, **changes: Any) -> Line:
    """The line one endpoint version on."""
    lineage = replace(line.lineage, endpoint_version=line.lineage.endpoint_version + 1)
    return replace(line, lineage=lineage, **changes)


def moved(line: Line, primary: str, **changes: Any) -> Line:
    """The line of the next epoch, with another primary."""
    lineage = replace(line.lineage, epoch=Epoch(line.lineage.epoch + 1), endpoint_version=1)
    return replace(line, lineage=lineage, primary=rid(primary), **changes)


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
        moved_peers = tuple(replace(p, ctrl_addr="elsewhere:1") for p in peers_of(cluster.line))
        await volume.accept(AssignmentFact(line=cluster.line, peers=moved_peers, peer_revision=7))
        assert volume.primacy is primacy
        assert volume.peer(rid("b")).ctrl_addr == "elsewhere:1"
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


@pytest.mark.parametrize("what", ["primary", "epoch", "volume", "self"])
def test_a_primary_speaks_only_for_its_own_line(what: str) -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        line, term, primary = cluster.line, Term(epoch=Epoch(1), start=9), rid("a")
        if what == "primary":
            primary = rid("c")
        elif what == "epoch":
            term = Term(epoch=Epoch(2), start=1)
        elif what == "volume":
            line = replace(line, volume_id=VolumeId("other"))
        else:
            line, primary = replace(line, primary=rid("b")), rid("b")
        with pytest.raises(RemoteProtocolError):
            await volume.follower.fenced(FenceRequest(line=line, term=term, primary=primary))

    play(story)


def test_an_old_epoch_is_refused_in_every_call() -> None:
    async def story(cluster: Cluster) -> None:
        service = cluster.node("c").service
        old = cluster.line
        cluster.mint(2, 1, "b", "bc")
        await cluster.until(lambda: cluster.node("b").gate_open)
        stale = Term(epoch=Epoch(1), start=9)
        common = {"term": stale, "primary": rid("a"), "line": old}
        with pytest.raises(StaleEpoch):
            await service.fence(FenceRequest(**common))  # type: ignore[arg-type]
        rest = {"volume_id": VOLUME, "replica_id": rid("c"), "log": log("a", 3)}
        with pytest.raises(StaleEpoch):
            await service.join(JoinRequest(**common, **rest))  # type: ignore[arg-type]
        with pytest.raises(StaleEpoch):
            await service.prepare_rebuild(PrepareRebuildRequest(**common, **rest))  # type: ignore[arg-type]
        chunks = service.read_log(ReadLogRequest(volume_id=VOLUME, term=stale, from_lsn=Lsn(1)))
        with pytest.raises(StaleEpoch):
            await anext(chunks)

    play(story)


def test_s20_files_in_the_in_sync_set_are_never_emptied() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 1, b"one")
        status = await cluster.node("a").dataplane.status(VOLUME)
        request = PrepareRebuildRequest(
            volume_id=VOLUME,
            replica_id=rid("b"),
            term=status.term,
            primary=rid("a"),
            log=status.log,
            line=cluster.line,
        )
        with pytest.raises(FailedPrecondition, match="in-sync"):
            await cluster.node("b").service.prepare_rebuild(request)
        assert cluster.pages("b") == {1: b"one"}

    play(story)


def test_a_quarantined_replica_is_kept_and_joins_nothing() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.kill("c")
        await cluster.until(lambda: cluster.in_sync == "ab")
        cluster.pools["nc"].files[VOLUME].state = ReplicaState.QUARANTINED
        await cluster.up("c")
        await cluster.idle(5.0)
        status = await cluster.node("a").dataplane.status(VOLUME)
        common = {
            "volume_id": VOLUME,
            "replica_id": rid("c"),
            "term": status.term,
            "primary": rid("a"),
            "log": status.log,
            "line": cluster.line,
        }
        answer = await cluster.node("c").service.join(JoinRequest(**common))  # type: ignore[arg-type]
        assert answer.outcome is JoinAnswerOutcome.QUARANTINED
        with pytest.raises(FailedPrecondition, match="quarantined"):
            await cluster.node("c").service.prepare_rebuild(
                PrepareRebuildRequest(**common)  # type: ignore[arg-type]
            )
        assert cluster.in_sync == "ab"

    play(story)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"cluster_id": "other"}, HelloCode.WRONG_CLUSTER),
        ({"to_node": NodeId("nx")}, HelloCode.WRONG_NODE),
        ({"volume_id": VolumeId("other")}, HelloCode.NO_SUCH_VOLUME),
        ({"to_replica": ReplicaId("z")}, HelloCode.NO_SUCH_VOLUME),
        ({"uuid": "f" * 32}, HelloCode.WRONG_UUID),
        ({"term_epoch": Epoch(0)}, HelloCode.STALE_TERM),
        ({"term_epoch": Epoch(2)}, HelloCode.NOT_NOW),
        ({}, HelloCode.ACCEPTED),
    ],
)
def test_a_link_is_judged_by_everything_it_names(change: dict[str, Any], code: HelloCode) -> None:
    async def story(cluster: Cluster) -> None:
        hello = Hello(
            kind=LinkKind.SHIP,
            cluster_id=CLUSTER,
            from_node=NodeId("na"),
            to_node=NodeId("nb"),
            volume_id=VOLUME,
            from_replica=rid("a"),
            to_replica=rid("b"),
            uuid=cluster.uuids()["b"],
            term_epoch=Epoch(1),
            term_start=1,
        )
        answer = await cluster.node("b").service.judge(replace(hello, **change))
        assert answer.code is code

    play(story)


def test_existing_files_are_never_formatted_over() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 1, b"one")
        before = cluster.uuids()
        again = HostReplica(
            volume_id=VOLUME, replica_id=rid("b"), size_bytes=SIZE * 2, block_size=4096
        )
        await cluster.node("b").replicas.want(again)
        cluster.node("c").replicas._volumes.clear()
        await cluster.node("c").replicas.want(replace(again, replica_id=rid("c")))
        assert cluster.uuids() == before
        assert cluster.pages("b") == {1: b"one"}

    play(story)


@pytest.mark.parametrize(
    "change",
    [{"retired": False}, {"volume_id": VolumeId("other")}, {"lineage": "older"}],
)
def test_files_go_only_with_a_tombstone_of_this_volume(change: dict[str, Any]) -> None:
    async def story(cluster: Cluster) -> None:
        cluster.mint(2, 1, "b", "bc")
        await cluster.until(lambda: cluster.node("b").gate_open)
        tombstone = moved(cluster.line, "b", retired=True)
        if change.get("lineage") == "older":
            lineage = replace(tombstone.lineage, epoch=Epoch(1))
            tombstone = replace(tombstone, lineage=lineage)
        else:
            tombstone = replace(tombstone, **change)
        await cluster.node("c").replicas.remove(
            RemoveReplica(volume_id=VOLUME, replica_id=rid("c"), tombstone=tombstone)
        )
        assert VOLUME in cluster.pools["nc"].files

    play(story)


def test_files_that_a_line_as_new_as_ours_does_not_mean_may_go() -> None:
    async def story(cluster: Cluster) -> None:
        line = moved(cluster.line, "a", in_sync=("a", "b"))
        line = replace(line, members=tuple(m for m in line.members if m.replica_id != "c"))
        cluster.master.mint(line)
        for r in "ac":
            await cluster.until(lambda r=r: cluster.node(r).replicas.get(VOLUME).line == line)
        await cluster.until(lambda: cluster.node("a").gate_open)
        await cluster.node("c").replicas.remove(
            RemoveReplica(volume_id=VOLUME, replica_id=rid("c"), tombstone=line)
        )
        assert sorted(cluster.uuids()) == ["a", "b"]
        await cluster.write("a", 1, b"one")

    play(story)


@pytest.mark.parametrize("proof", ["older", "means it", "of another slot"])
def test_files_stay_while_a_line_does_not_prove_that_nobody_means_them(proof: str) -> None:
    async def story(cluster: Cluster) -> None:
        without = moved(cluster.line, "a", in_sync=("a", "b"))
        without = replace(without, members=tuple(m for m in without.members if m.replica_id != "c"))
        if proof == "older":
            cluster.mint(without.lineage.epoch, without.lineage.endpoint_version + 1, "b", "bc")
            await cluster.until(lambda: cluster.node("b").gate_open)
        line = cluster.line if proof == "means it" else without
        slot = rid("b") if proof == "of another slot" else rid("c")
        await cluster.node("c").replicas.remove(
            RemoveReplica(volume_id=VOLUME, replica_id=slot, tombstone=line)
        )
        assert VOLUME in cluster.pools["nc"].files

    play(story)


def test_a_retired_volume_stops_serving_and_its_files_go() -> None:
    async def story(cluster: Cluster) -> None:
        tombstone = moved(cluster.line, "a", retired=True)
        cluster.master.mint(tombstone)
        await cluster.until(lambda: not cluster.node("a").gate_open)
        for r in "abc":
            await cluster.node(r).replicas.remove(
                RemoveReplica(volume_id=VOLUME, replica_id=rid(r), tombstone=tombstone)
            )
        assert cluster.uuids() == {}
        with pytest.raises(NotFound):
            cluster.node("a").replicas.get(VOLUME)

    play(story)


def test_facts_say_what_the_core_says() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 1, b"one")
        await cluster.idle(1.0)
        facts = {}
        for r in "ab":
            node = cluster.node(r)
            status = await node.dataplane.status(VOLUME)
            facts[r] = slot_fact(node.replicas.get(VOLUME), status, node.me)
        assert facts["a"].gate_open
        assert facts["a"].role_claim.name == "PRIMARY"
        assert facts["b"].role_claim.name == "NONE"
        assert facts["a"].commit_lsn == facts["b"].durable_lsn == 2
        assert facts["a"].lineage == cluster.line.lineage
        assert facts["b"].ready_for_primary
        cluster.pools["nb"].files[VOLUME].state = ReplicaState.REBUILDING
        status = await cluster.node("b").dataplane.status(VOLUME)
        b = cluster.node("b")
        assert not slot_fact(b.replicas.get(VOLUME), status, b.me).ready_for_primary

    play(story)


def test_a_log_that_was_longer_once_is_not_ready_to_lead() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.pools["nb"].files[VOLUME].must_reach = Lsn(99)
        b = cluster.node("b")
        found = slot_fact(b.replicas.get(VOLUME), await b.dataplane.status(VOLUME), b.me)
        assert not found.ready_for_primary
        assert found.suspect

    play(story)


def test_s19_a_replica_that_lost_a_superblock_copy_promises_nothing_before_it_heard_the_master() -> (
    None
):
    """Its newest promise may be gone: an older primary that still runs must not get another one."""

    async def story(cluster: Cluster) -> None:
        cluster.kill("c")
        cluster.master.cut("nc")
        cluster.pools["nc"].files[VOLUME].suspect = True
        c = await cluster.up("c")
        a = cluster.node("a")
        status = await a.dataplane.status(VOLUME)
        fence = FenceRequest(line=cluster.line, term=status.term, primary=rid("a"))
        join = JoinRequest(
            volume_id=VOLUME,
            replica_id=rid("c"),
            term=status.term,
            primary=rid("a"),
            log=status.log,
            line=cluster.line,
        )
        with pytest.raises(FailedPrecondition, match="superblock"):
            await c.replicas.get(VOLUME).follower.fenced(fence)
        with pytest.raises(FailedPrecondition, match="superblock"):
            await c.replicas.get(VOLUME).follower.joined(join)
        cluster.master.restore("nc")
        await cluster.until(lambda: not cluster.pools["nc"].files[VOLUME].suspect)
        assert (
            await c.replicas.get(VOLUME).follower.fenced(fence)
        ).promised_epoch == status.term.epoch

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


def test_l9_a_core_that_does_not_answer_is_told_while_it_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(cluster: Cluster) -> None:
        a = cluster.node("a")
        reports = SlotReports(a.replicas, a.dataplane, a.me, structlog.get_logger())
        (before,) = await reports.take()
        assert not before.withdrawn

        async def never(_volume_id: VolumeId) -> VolumeStatus:
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr(a.dataplane, "status", never)
        (after,) = await reports.take()
        assert after == replace(before, withdrawn=True)
        monkeypatch.undo()

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


def test_a_fact_is_made_anew_only_when_what_it_is_made_of_is_another() -> None:
    async def story(cluster: Cluster) -> None:
        for node in (cluster.node("a"), cluster.node("b")):
            volume = node.replicas.get(VOLUME)
            view = {VOLUME: await node.dataplane.status(VOLUME)}
            views = [view]

            async def told(
                views: list[dict[VolumeId, VolumeStatus]] = views,
            ) -> dict[VolumeId, VolumeStatus]:
                return views[-1]

            async def one(
                _id: VolumeId, views: list[dict[VolumeId, VolumeStatus]] = views
            ) -> VolumeStatus:
                return views[-1][VOLUME]

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(node.dataplane, "statuses", told)
                # What the model's own heartbeats show is the same view.
                patch.setattr(node.dataplane, "status", one)
                reports = SlotReports(
                    node.replicas, node.dataplane, node.me, structlog.get_logger()
                )
                (first,) = await reports.take()
                await asyncio.sleep(SETTLED_S)
                await reports.take()
                await asyncio.sleep(SETTLED_S)
                before = await reports.take()
                assert await reports.take() is before, "nothing was looked at"
                assert before[0] == replace(first, peers=before[0].peers)
                views.append(dict(view))
                assert (await reports.take())[0] is before[0], "looked at, and the same"
                if volume.primacy is not None:
                    seen: list[VolumeStatus] = []

                    def observe(
                        status: VolumeStatus,
                        volume: Volume = volume,
                        seen: list[VolumeStatus] = seen,
                    ) -> None:
                        seen.append(status)
                        Volume.observe(volume, status)

                    patch.setattr(volume, "observe", observe)
                    volume.primacy.tell(ev.ControlChanged(live=True))
                    for _ in range(3):
                        await reports.take()
                    assert len(seen) == 3, "what is measured over several looks is looked at"
                volume.take(DiskFailed(volume_id=VOLUME, file="wal", errno=5, frozen=False))
                assert (await reports.take())[0].disk_failed
                volume.disk_failed = False
                node.replicas._around.stirs.note()
                assert not (await reports.take())[0].disk_failed
                log_now = view[VOLUME].log
                views.append(
                    {VOLUME: replace(view[VOLUME], log=replace(log_now, last_lsn=Lsn(99)))}
                )
                assert (await reports.take())[0].last_lsn == 99

    play(story)


def test_only_an_open_gate_is_called_optimized() -> None:
    async def story(cluster: Cluster) -> None:
        a = cluster.node("a").replicas.get(VOLUME)
        b = cluster.node("b").replicas.get(VOLUME)
        await cluster.idle(0.1)
        assert unit_state(a, gate_open=True, primary_lives=False) is UnitState.OPTIMIZED
        assert unit_state(a, gate_open=False, primary_lives=False) is UnitState.TRANSITIONING
        assert unit_state(b, gate_open=False, primary_lives=True) is UnitState.STANDBY
        assert unit_state(b, gate_open=False, primary_lives=False) is UnitState.TRANSITIONING

    play(story)


def test_equal_replicas_are_found_equal_and_a_different_page_is_named() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 7, b"seven")
        a = cluster.node("a")
        steps = [p async for p in compare_replicas(a.replicas.get(VOLUME), a.around)]
        assert steps[-1].finished
        assert steps[-1].pages_done == steps[-1].pages_total == SIZE // 4096
        assert steps[-1].replicas == ("a", "b", "c")
        assert not any(step.different_pages for step in steps)
        batches = cluster.pools["nb"].files[VOLUME].log.batches
        batches[-1] = replace(batches[-1], data=b"rotten")
        cluster.pools["nc"].files[VOLUME].damaged.add(9)
        steps = [p async for p in compare_replicas(a.replicas.get(VOLUME), a.around)]
        assert {page for step in steps for page in step.different_pages} == {7, 9}

    play(story)


def test_replicas_are_compared_on_the_primary_only() -> None:
    async def story(cluster: Cluster) -> None:
        b = cluster.node("b")
        with pytest.raises(NotPrimary):
            async for _ in compare_replicas(b.replicas.get(VOLUME), b.around):
                pass

    play(story)


def test_a_damaged_page_is_taken_from_a_peer() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 7, bytes(4096))
        await cluster.write("a", 8, bytes(4096))
        cluster.pools["na"].files[VOLUME].damaged.add(7)
        a = cluster.node("a")
        with capture_logs() as logs:
            assert await repair_page(a.replicas.get(VOLUME), a.around, 7)
        assert not cluster.pools["na"].files[VOLUME].damaged
        events = [entry["event"] for entry in logs]
        assert names.PAGE_DAMAGED in events
        assert names.PAGE_REPAIRED in events

    play(story)


def test_a_damaged_page_nobody_else_has_fails_the_read() -> None:
    async def story(cluster: Cluster) -> None:
        for r in "abc":
            cluster.pools[f"n{r}"].files[VOLUME].damaged.add(7)
        a = cluster.node("a")
        assert not await repair_page(a.replicas.get(VOLUME), a.around, 7)
        assert cluster.pools["na"].files[VOLUME].damaged == {7}

    play(story)


@pytest.mark.parametrize(
    ("silent", "told"),
    [(None, None), (0, 299), (299, 299), (300, 999), (999, 999), (1000, 1000), (90_000, 1000)],
)
def test_silence_is_told_in_steps_and_never_shorter_than_it_is(
    silent: int | None, told: int | None
) -> None:
    async def story(cluster: Cluster) -> None:
        node = cluster.node("a")
        status = replace(await node.dataplane.status(VOLUME), primary_silent_ms=silent)
        assert told_silence_ms(status) == told

    play(story)


# ---------------------------------------------------------------- set aside, and what an operator says of it


def recovered(line: Line, primary: str) -> Line:
    """An operator went on from one replica alone."""
    others = tuple(sorted(m.replica_id for m in line.members if m.replica_id != rid(primary)))
    return moved(line, primary, in_sync=(rid(primary),), set_aside=others)


def release(line: Line, replica: str, state: ReplicaState, **changes: Any) -> ReleaseReplicaRequest:
    member = line.member(rid(replica))
    assert member is not None
    values: dict[str, Any] = {"uuid": member.uuid, "replica_id": rid(replica), **changes}
    return ReleaseReplicaRequest(line=line, state=state, **values)


def test_s25_a_line_that_sets_it_aside_quarantines_it_before_the_line_is_recorded() -> None:
    """A crash in between must leave files that are kept, not a line that was obeyed by half."""

    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        order: list[str] = []
        dataplane = cluster.node("b").dataplane

        def noted(name: str) -> None:
            inner = getattr(dataplane, name)

            async def call(*args: Any) -> Any:
                order.append(name)
                return await inner(*args)

            setattr(dataplane, name, call)

        noted("set_state")
        noted("set_line")
        await volume.accept(fact(recovered(cluster.line, "c")))
        assert order == ["set_state", "set_line"]
        assert volume.state is ReplicaState.QUARANTINED
        assert (await dataplane.status(VOLUME)).log.state is ReplicaState.QUARANTINED

    play(story)


def test_s25_what_is_set_aside_is_neither_cut_nor_emptied_whoever_shows_the_line() -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        line = recovered(cluster.line, "c")
        before = (await cluster.node("b").dataplane.status(VOLUME)).log
        term = Term(epoch=line.lineage.epoch, start=9)
        answer = await volume.follower.joined(
            JoinRequest(
                volume_id=VOLUME,
                replica_id=rid("b"),
                term=term,
                primary=rid("c"),
                log=log("c", 0),
                line=line,
            )
        )
        assert answer.outcome is JoinAnswerOutcome.QUARANTINED
        with pytest.raises(FailedPrecondition, match="its files are kept"):
            await volume.follower.prepared(
                PrepareRebuildRequest(
                    volume_id=VOLUME,
                    replica_id=rid("b"),
                    term=term,
                    primary=rid("c"),
                    log=log("c", 0),
                    line=line,
                )
            )
        after = (await cluster.node("b").dataplane.status(VOLUME)).log
        assert (after.last_lsn, after.last_check) == (before.last_lsn, before.last_check)
        assert after.state is ReplicaState.QUARANTINED

    play(story)


def test_s25_files_that_are_others_than_the_lines_are_not_concerned() -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        line = recovered(cluster.line, "c")
        others = tuple(
            replace(m, uuid="e" * 32) if m.replica_id == rid("b") else m for m in line.members
        )
        await volume.accept(fact(replace(line, members=others)))
        assert volume.state is ReplicaState.CLEAN

    play(story)


def test_kept_files_are_released_only_as_the_line_allows() -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        line = recovered(cluster.line, "c")
        with pytest.raises(Unavailable, match="not heard of here yet"):
            await volume.release(release(line, "b", ReplicaState.REBUILDING))
        await volume.accept(fact(line))
        for state in (ReplicaState.REBUILDING, ReplicaState.CLEAN):
            with pytest.raises(FailedPrecondition, match="does not let it"):
                await volume.release(release(line, "b", state))
        discarded = later(line, set_aside=tuple(one for one in line.set_aside if one != rid("b")))
        await volume.accept(fact(discarded))
        assert volume.state is ReplicaState.QUARANTINED, "the line alone releases nothing"
        with pytest.raises(FailedPrecondition, match="are others"):
            await volume.release(release(discarded, "b", ReplicaState.REBUILDING, uuid="e" * 32))
        with pytest.raises(NotFound):
            await volume.release(
                release(discarded, "b", ReplicaState.REBUILDING, replica_id=rid("a"))
            )
        with pytest.raises(FailedPrecondition, match="does not let it"):
            await volume.release(release(discarded, "b", ReplicaState.CLEAN))
        await volume.release(release(discarded, "b", ReplicaState.REBUILDING))
        assert volume.state is ReplicaState.REBUILDING
        await volume.release(release(discarded, "b", ReplicaState.REBUILDING))

    play(story)


def test_a_replica_in_the_in_sync_set_is_never_released_to_be_emptied() -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        await cluster.node("b").dataplane.set_state(VOLUME, ReplicaState.QUARANTINED)
        volume.state = ReplicaState.QUARANTINED
        assert rid("b") in cluster.line.in_sync
        with pytest.raises(FailedPrecondition, match="does not let it"):
            await volume.release(release(cluster.line, "b", ReplicaState.REBUILDING))

    play(story)


def test_a_quarantined_replica_that_is_recovered_from_is_believed_and_opens() -> None:
    """The operator changed his mind: what was set aside is the volume after all."""

    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        aside = recovered(cluster.line, "c")
        await volume.accept(fact(aside))
        line = recovered(aside, "b")
        await volume.accept(fact(line))
        assert volume.is_primary
        assert not volume.gate_open
        await volume.release(release(line, "b", ReplicaState.CLEAN))
        assert volume.state is ReplicaState.CLEAN
        await cluster.until(lambda: volume.gate_open)

    play(story)

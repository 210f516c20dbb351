"""The whole authority side on a made-up cluster: bind, failover, hand-over, deletion, restarts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparrow.authority.builder import Reason
from sparrow.authority.events import TopologyChanged
from sparrow.authority.loop import AFTER_STALL_S
from sparrow.authority.results import Minted, Refusal, RefusedAsk
from sparrow.authority.status import VolumeState
from sparrow.authority.types import Intent, Line, ReplicaState, RoleClaim
from sparrow.base import events as log
from sparrow.base.ids import ReplicaId, ReplicaUuid, VolumeId
from tests.support.authority import (
    FakeCluster,
    V,
    ask,
    grow,
    lineage,
    positions,
    reassign,
    shrink,
)


def served(cluster: FakeCluster, volume: VolumeId = V) -> VolumeState:
    status = cluster.loop.status(volume, cluster.now)
    assert status is not None
    return status.state


def running(rf: int = 3, **values: int) -> FakeCluster:
    cluster = FakeCluster(nodes=max(rf, 3))
    cluster.create(rf=rf, **values)
    cluster.run(1.0)
    assert cluster.line().lineage == lineage(1, 1)
    assert served(cluster) is VolumeState.HEALTHY
    return cluster


def written(cluster: FakeCluster, last: int, commit: int) -> None:
    for number in (1, 2, 3):
        if V in cluster.node(number).slots:
            cluster.fact(number, **positions(last, commit=commit))


def test_create_binds_once_and_becomes_healthy() -> None:
    cluster = running()
    cluster.run(10.0)
    assert len(cluster.logged(log.LINE_MINTED)) == 1
    assert cluster.store.load_volumes().volumes[0].phase == "active"


def test_nothing_is_bound_until_every_replica_is_reported_blank_and_clean() -> None:
    cluster = FakeCluster()
    cluster.node(3).takes_orders = False
    cluster.create()
    cluster.run(1.0)
    assert cluster.loop.publisher.line(V) is None
    assert served(cluster) is VolumeState.CREATING
    cluster.run(2.0)
    doubt = cluster.loop.controller.last_unsupported(V)
    assert doubt is not None
    assert doubt.reasons == (Reason.PARTIAL_INVENTORY,)
    assert doubt.offenders == ("n3",)


@pytest.mark.parametrize(
    "change",
    [
        {"lineage": lineage(4, 1)},
        {"last_lsn": 7},
        {"state": ReplicaState.QUARANTINED},
        {"uuid": ""},
        {"data_addr": ""},
    ],
    ids=["acted on a line", "has entries", "quarantined", "no uuid", "no address"],
)
def test_used_or_unfinished_replica_is_never_bound(change: dict[str, object]) -> None:
    cluster = FakeCluster()
    cluster.node(3).takes_orders = False
    cluster.create()
    blank = cluster.node(2).slots[V]
    three = {"replica_id": "r3", "uuid": "3" * 32, "data_addr": "d:1", "ctrl_addr": "c:1"}
    cluster.node(3).slots[V] = replace(blank, **{**three, **change})
    cluster.run(5.0)
    assert cluster.loop.publisher.line(V) is None
    assert cluster.loop.controller.last_unsupported(V) is not None


def test_initial_primaries_are_spread() -> None:
    cluster = FakeCluster()
    for name in ("a", "b", "c"):
        cluster.create(name)
    cluster.run(1.0)
    assert {cluster.line(VolumeId(name)).primary for name in ("a", "b", "c")} == {"r1", "r2", "r3"}


def test_killed_primary_is_followed_within_a_fraction_of_a_second() -> None:
    cluster = running()
    written(cluster, 50, commit=50)
    cluster.run(1.0)
    cluster.kill(1)
    cluster.run(0.2)
    line = cluster.line()
    assert line.lineage == lineage(2, 1)
    assert line.in_sync == ("r2", "r3")
    cluster.run(1.0)
    assert served(cluster) is VolumeState.DEGRADED
    assert len(cluster.logged(log.LINE_MINTED)) == 2


def test_node_that_subscribes_again_at_once_keeps_its_volumes() -> None:
    cluster = running()
    cluster.close_stream(1)
    cluster.run(0.05)
    cluster.subscribe(cluster.node(1).name)
    cluster.run(5.0)
    assert cluster.line().lineage == lineage(1, 1)


def test_living_primary_with_a_broken_stream_is_not_lost() -> None:
    """Its peers hear it and it goes on heartbeating: a hand-over would be for nothing."""
    cluster = running()
    cluster.run(0.49)
    cluster.close_stream(1)
    cluster.now += 0.08
    cluster.beat(2)
    cluster.run(3.0)
    assert cluster.line().lineage == lineage(1, 1)


def test_silent_primary_is_followed_once_its_peers_are_silent_too() -> None:
    """D4: nobody reports the death; expiry is noticed by the clock."""
    cluster = running()
    cluster.kill(1, silently=True)
    cluster.run(1.9)
    assert cluster.line().lineage == lineage(1, 1)
    cluster.run(0.7)
    assert cluster.line().primary in ("r2", "r3")


def test_l13_expiry_alone_waits_ten_seconds() -> None:
    """The master does not hear the primary, its peers do."""
    cluster = running()
    cluster.node(1).up = False
    for number in (2, 3):
        cluster.fact(number, primary_silent_ms=-1)  # they say nothing of silence
    cluster.run(9.0)
    assert cluster.line().lineage == lineage(1, 1)
    cluster.run(2.0)
    assert cluster.line().lineage == lineage(2, 1)


def test_master_that_stood_still_loses_nobody_by_expiry() -> None:
    cluster = running()
    cluster.now += 30.0
    for number in (2, 3):
        cluster.fact(number, primary_silent_ms=5000)
    cluster.beat(2)
    cluster.beat(3)
    desired = cluster.loop.desired(V)
    assert desired is not None
    # Looked at for another reason, before the primary's heartbeat is read.
    cluster.step(TopologyChanged(changed=(desired,)))
    cluster.beat(1)
    cluster.run(0.1)
    assert cluster.line().lineage == lineage(1, 1)


def test_after_a_stall_those_whose_heartbeats_waited_are_heard_before_anybody_is_lost() -> None:
    cluster = running()
    cluster.kill(3, silently=True)
    cluster.now += 30.0
    cluster.beat(2)
    cluster.beat(1)
    cluster.run(AFTER_STALL_S - 0.1)
    assert cluster.logged(log.NODE_LOST) == [], "nobody was listened to: silence says nothing yet"
    cluster.run(0.2)
    assert [fields["node"] for fields in cluster.logged(log.NODE_LOST)] == ["n3"]


def test_d5_lagging_replica_does_not_win() -> None:
    cluster = running()
    cluster.fact(1, **positions(100, commit=90))
    cluster.fact(2, **positions(80, commit=70))
    cluster.fact(3, **positions(95, commit=70))
    cluster.run(1.0)
    cluster.kill(1)
    cluster.run(0.3)
    assert cluster.line().primary == "r3"
    why = cluster.loop.controller.load(cluster.node(3).name)
    assert why == 1


def test_replica_below_the_highest_commit_is_refused_with_the_reason_and_taken_when_it_has_it() -> (
    None
):
    """S17: a rolled-back disk has the right uuid and the wrong past."""
    cluster = running()
    written(cluster, 100, commit=100)
    cluster.run(1.0)
    for number in (2, 3):
        cluster.fact(number, **positions(60, commit=60))
    cluster.run(1.0)
    cluster.kill(1)
    cluster.run(1.0)
    assert cluster.line().lineage == lineage(1, 1)
    decision = cluster.loop.why(V)
    assert decision is not None
    assert decision.stranded
    assert {one.rejected for one in decision.considered} == {
        "it reports LSN 60, and 100 was committed"
    }
    assert served(cluster) is VolumeState.UNAVAILABLE
    cluster.fact(3, **positions(100, commit=60))
    cluster.run(0.6)
    assert cluster.line().primary == "r3"


def test_s17_replica_with_other_files_is_a_stranger() -> None:
    cluster = running(2)
    cluster.fact(2, uuid=ReplicaUuid("f" * 32))
    cluster.run(1.0)
    cluster.kill(1)
    cluster.run(2.0)
    assert cluster.line().lineage == lineage(1, 1)
    decision = cluster.loop.why(V)
    assert decision is not None
    assert [one.rejected for one in decision.considered] == [
        f"other files are in its place ({'f' * 32})"
    ]


def test_d6_secondary_lost_first_does_not_block_the_failover() -> None:
    cluster = running()
    cluster.kill(3)
    cluster.run(20.0)
    cluster.kill(1)
    cluster.run(0.3)
    assert (cluster.line().primary, cluster.line().lineage) == ("r2", lineage(2, 1))


def test_both_successors_dead_is_unavailable_with_evidence_and_no_mint() -> None:
    cluster = running()
    for number in (2, 3, 1):
        cluster.kill(number)
    cluster.run(30.0)
    assert cluster.line().lineage == lineage(1, 1)
    doubt = cluster.loop.controller.last_unsupported(V)
    assert doubt is not None
    assert doubt.reasons == (Reason.STALE_OBSERVATION,)
    status = cluster.loop.status(V, cluster.now)
    assert status is not None
    assert (status.state, status.frontends) == (VolumeState.UNAVAILABLE, ())
    assert "StaleObservation" in status.cause


def test_single_replica_is_never_failed_over() -> None:
    cluster = running(1)
    cluster.kill(1)
    cluster.run(15.0)
    assert cluster.line().lineage == lineage(1, 1)
    assert served(cluster) is VolumeState.UNAVAILABLE
    cluster.restart(1)
    cluster.run(1.0)
    assert served(cluster) is VolumeState.HEALTHY


@pytest.mark.parametrize(
    "change", [{"disk_failed": True}, {"ready_for_primary": False}, {"suspect": True}]
)
def test_primary_that_says_it_cannot_is_followed(change: dict[str, bool]) -> None:
    cluster = running()
    cluster.fact(1, **change)
    cluster.run(0.6)
    assert cluster.line().lineage == lineage(2, 1)


def test_failed_disk_is_left_out_of_the_new_set() -> None:
    cluster = running()
    cluster.fact(3, disk_failed=True)
    cluster.run(0.6)
    cluster.kill(1)
    cluster.run(0.3)
    assert cluster.line().in_sync == ("r2",)


def test_l9_withdrawn_primary_is_relieved_once_and_not_back_and_forth() -> None:
    cluster = running()
    cluster.fact(1, withdrawn=True)
    cluster.run(0.6)
    assert cluster.line().lineage == lineage(2, 1)
    taker = int(cluster.line().primary[1:])
    cluster.fact(taker, withdrawn=True)
    cluster.run(2.0)
    assert cluster.line().lineage == lineage(2, 1)
    cluster.run(5.0)
    assert cluster.line().lineage == lineage(3, 1)


def test_withdrawn_primary_stays_when_nobody_else_may() -> None:
    cluster = running(1)
    cluster.fact(1, withdrawn=True)
    cluster.run(3.0)
    assert cluster.line().lineage == lineage(1, 1)


def test_moved_primary_gets_a_refresh_and_moved_peer_only_a_new_fact() -> None:
    """D9: peers are delivered again when they move, without a mint."""
    cluster = running()
    cluster.fact(2, data_addr="10.0.0.99:7000")
    cluster.run(0.6)
    assert cluster.line().lineage == lineage(1, 1)
    first, last = cluster.node(1).facts[0], cluster.node(1).facts[-1]
    assert last.peer_revision > first.peer_revision
    assert "10.0.0.99:7000" in {peer.data_addr for peer in last.peers}
    cluster.fact(1, data_addr="10.0.0.77:7000")
    cluster.run(0.6)
    assert cluster.line().lineage == lineage(1, 2)
    assert cluster.line().primary_member.data_addr == "10.0.0.77:7000"


def test_facts_of_a_node_only_grow_even_over_a_restart_of_the_master() -> None:
    cluster = running()
    cluster.fact(2, data_addr="10.0.0.99:7000")
    cluster.run(1.0)
    before = cluster.node(1).facts[-1].order
    cluster.boot()
    cluster.run(2.0)
    orders = [fact.order for fact in cluster.node(1).facts]
    assert orders == sorted(orders)
    assert orders[-1] > before


def test_s4_returning_old_primary_first_hears_the_newest_line() -> None:
    cluster = running()
    cluster.kill(1)
    cluster.run(1.0)
    cluster.node(1).facts.clear()
    cluster.restart(1)
    assert cluster.node(1).facts[0].line == cluster.line()


def test_l11_resumed_old_primary_does_not_block_its_successor() -> None:
    """Claims of different epochs are a hand-over, not a conflict."""
    cluster = running()
    cluster.kill(1)
    cluster.run(0.3)
    node = cluster.node(1)
    node.takes_orders = False
    cluster.restart(1)
    cluster.fact(1, role_claim=RoleClaim.PRIMARY, gate_open=True, lineage=lineage(1, 1))
    cluster.run(1.0)
    assert cluster.loop.controller.last_unsupported(V) is None
    assert served(cluster) is VolumeState.DEGRADED


def test_two_primaries_of_one_epoch_poison_the_volume() -> None:
    cluster = running()
    cluster.fact(2, role_claim=RoleClaim.PRIMARY)
    cluster.run(0.6)
    doubt = cluster.loop.controller.last_unsupported(V)
    assert doubt is not None
    assert doubt.reasons == (Reason.CONFLICTING_PRIMARY_CLAIM,)
    assert doubt.offenders == ("n1", "n2")
    cluster.kill(1)
    cluster.run(1.0)
    assert cluster.line().lineage == lineage(1, 1), "a conflict elects nobody while it lasts"


def test_s18_node_with_a_newer_line_than_the_record_stops_all_minting() -> None:
    cluster = running()
    cluster.fact(2, lineage=lineage(3, 5))
    cluster.run(0.6)
    doubt = cluster.loop.controller.last_unsupported(V)
    assert doubt is not None
    assert doubt.reasons == (Reason.RECORD_BEHIND_NODES,)
    cluster.kill(1)
    cluster.run(3.0)
    assert cluster.line().lineage == lineage(1, 1)


def test_shrink_and_grow_of_the_primary_are_answered_with_lines() -> None:
    cluster = running()
    first = cluster.node_ask(1, shrink(cluster.line(), "r3"))
    assert isinstance(first, Minted)
    assert served(cluster) is VolumeState.DEGRADED
    second = cluster.node_ask(1, grow(first.line, "r3"))
    assert isinstance(second, Minted)
    assert cluster.node(1).facts[-1].line == second.line


def test_l2_line_of_the_same_epoch_moves_nothing_else() -> None:
    cluster = running()
    cluster.node_ask(1, shrink(cluster.line(), "r3"))
    cluster.run(2.0)
    assert cluster.line().lineage == lineage(1, 2)
    assert cluster.loop.controller.desired_for(V) is None


@pytest.mark.parametrize(
    ("intent", "node"), [(Intent.REASSIGN, 1), (Intent.BIND, 1), (Intent.SHRINK_IN_SYNC, 2)]
)
def test_node_may_not_ask_for_what_is_not_its_own(intent: Intent, node: int) -> None:
    cluster = running()
    line = cluster.line()
    wanted = replace(shrink(line, "r3"), intent=intent)
    answer = cluster.node_ask(node, wanted)
    assert isinstance(answer, RefusedAsk)
    assert answer.code is Refusal.FOREIGN_ASKER
    assert cluster.line() == line


def test_grow_of_files_other_than_the_members_is_refused() -> None:
    cluster = running()
    shrunk = cluster.node_ask(1, shrink(cluster.line(), "r3"))
    assert isinstance(shrunk, Minted)
    cluster.node(3).takes_orders = False
    cluster.loop.controller.hold_expiry(0)
    cluster.fact(3, uuid=ReplicaUuid("f" * 32), state=ReplicaState.QUARANTINED)
    cluster.run(0.6)
    answer = cluster.node_ask(1, grow(cluster.line(), "r3"))
    assert isinstance(answer, RefusedAsk)
    assert answer.code is Refusal.UUID_MISMATCH


def test_reformatted_replica_outside_in_sync_becomes_the_member() -> None:
    cluster = running()
    cluster.node_ask(1, shrink(cluster.line(), "r3"))
    cluster.fact(3, uuid=ReplicaUuid("f" * 32), lineage=None)
    cluster.run(0.6)
    found = cluster.line().member(ReplicaId("r3"))
    assert found is not None
    assert found.uuid == "f" * 32
    assert cluster.line().in_sync == ("r1", "r2")


def test_l5_primary_cut_off_from_its_peers_is_handed_over_instead_of_shrinking() -> None:
    cluster = running()
    shrunk = cluster.node_ask(1, shrink(cluster.line(), "r3"))
    assert isinstance(shrunk, Minted)
    cluster.run(0.2)
    for number in (2, 3):
        node = cluster.node(number)
        node.slots[V] = replace(node.slots[V], primary_silent_ms=900)
    silent = {n: cluster.node(n).slots[V] for n in (2, 3)}
    cluster._silence = lambda fact: silent.get(int(fact.replica_id[1:]), fact)  # type: ignore[method-assign]
    cluster.beats()
    answer = cluster.node_ask(1, shrink(cluster.line(), "r2"))
    assert isinstance(answer, RefusedAsk)
    assert answer.code is Refusal.HAND_OVER_FIRST
    assert (cluster.line().primary, cluster.line().lineage) == ("r2", lineage(2, 1))


def test_d3_failed_put_is_tried_again_with_growing_pauses() -> None:
    cluster = running()
    cluster.disk.fail_next(times=2)
    cluster.kill(1)
    cluster.run(0.3)
    assert cluster.line().lineage == lineage(1, 1)
    (failed,) = [one for one in cluster.log if one.name == log.ASK_FAILED]
    assert failed.failed
    assert "Make room" in str(failed.fields["hint"])
    cluster.run(1.0)
    assert len(cluster.logged(log.ASK_FAILED)) == 2
    cluster.run(1.5)
    assert cluster.line().lineage == lineage(1, 1)
    cluster.run(1.0)
    assert cluster.line().lineage == lineage(2, 1)


def test_minted_but_not_observed_is_stuck_after_the_window_and_clears_when_seen() -> None:
    cluster = running()
    cluster.node(2).opens = cluster.node(3).opens = False
    cluster.kill(1)
    cluster.run(4.9)
    assert cluster.loop.controller.last_stuck(V) is None
    cluster.run(0.5)
    stuck = cluster.loop.controller.last_stuck(V)
    assert stuck is not None
    assert stuck.reason == "ConvergenceStuck"
    assert len(cluster.logged(log.VOLUME_STUCK)) == 1
    cluster.run(10.0)
    assert len(cluster.logged(log.LINE_MINTED)) == 2, "being stuck never asks again"
    taker = int(cluster.line().primary[1:])
    cluster.fact(taker, gate_open=True)
    cluster.run(0.6)
    assert cluster.loop.controller.last_stuck(V) is None
    assert cluster.loop.controller.desired_for(V) is None


def test_stuck_volume_does_not_hold_up_another() -> None:
    cluster = running()
    cluster.node(2).opens = cluster.node(3).opens = False
    cluster.kill(1)
    cluster.run(6.0)
    cluster.node(1).opens = cluster.node(2).opens = cluster.node(3).opens = True
    cluster.restart(1)
    cluster.create("v2")
    cluster.run(1.0)
    assert served(cluster, VolumeId("v2")) is VolumeState.HEALTHY


def test_master_restart_changes_no_line_and_fails_nothing_over() -> None:
    cluster = running()
    line = cluster.line()
    cluster.boot()
    assert cluster.line() == line
    cluster.run(5.0)
    assert cluster.line() == line
    assert served(cluster) is VolumeState.HEALTHY


def test_primary_that_died_with_the_master_is_followed_after_the_restart() -> None:
    cluster = running()
    cluster.node(1).up = False
    cluster.node(1).died_at = cluster.now
    cluster.boot()
    cluster.run(1.9)
    assert cluster.line().lineage == lineage(1, 1)
    cluster.run(1.0)
    assert cluster.line().lineage == lineage(2, 1)


def test_damaged_record_is_shown_and_never_bound_again() -> None:
    cluster = running()
    cluster.create("v2")
    cluster.run(1.0)
    cluster.disk.damage_line(V)
    cluster.boot()
    cluster.run(5.0)
    assert cluster.loop.publisher.line(V) is None
    doubt = cluster.loop.controller.last_unsupported(V)
    assert doubt is not None
    assert doubt.reasons == (Reason.RECORD_QUARANTINED,)
    assert served(cluster) is VolumeState.UNAVAILABLE
    assert served(cluster, VolumeId("v2")) is VolumeState.HEALTHY
    assert cluster.logged(log.RECORD_QUARANTINED)[0]["volume"] == V


def test_deleted_volume_leaves_a_tombstone_and_no_replica() -> None:
    """D8: and the same name begins at the next epoch."""
    cluster = running()
    cluster.delete(V)
    cluster.run(1.0)
    assert cluster.gone == [V]
    assert all(V not in node.slots for node in cluster.nodes.values())
    assert cluster.line().retired
    assert cluster.loop.status(V, cluster.now) is None
    cluster.create()
    cluster.run(1.0)
    assert cluster.line().lineage == lineage(2, 1)
    assert served(cluster) is VolumeState.HEALTHY


def test_volume_deleted_before_it_was_bound_is_removed_as_well() -> None:
    cluster = FakeCluster()
    cluster.node(3).up = False
    cluster.create()
    cluster.run(1.0)
    cluster.delete(V)
    cluster.run(1.0)
    assert cluster.gone == []
    assert served(cluster) is VolumeState.DELETING
    cluster.restart(3)
    cluster.run(1.0)
    assert cluster.gone == [V]
    assert V not in cluster.node(1).slots


def test_node_that_slept_through_a_deletion_is_told_when_it_returns() -> None:
    cluster = running()
    cluster.kill(3)
    cluster.run(0.5)
    cluster.delete(V)
    cluster.run(3.0)
    assert cluster.gone == []
    cluster.restart(3)
    cluster.run(1.0)
    assert V not in cluster.node(3).slots
    assert cluster.gone == [V]


def test_facts_of_a_volume_nobody_asked_for_are_evidence() -> None:
    cluster = running()
    stray = replace(cluster.node(1).slots[V], volume_id=VolumeId("ghost"))
    cluster.node(1).slots[VolumeId("ghost")] = stray
    cluster.run(0.6)
    doubt = cluster.loop.controller.last_unsupported(VolumeId("ghost"))
    assert doubt is not None
    assert doubt.reasons == (Reason.UNKNOWN_REPLICA_CLAIM,)
    assert doubt.offenders == ("n1",)
    (heard,) = cluster.loop.unheard_of()[VolumeId("ghost")]
    assert (heard.sight.node_id, heard.fact.lineage) == ("n1", stray.lineage)
    del cluster.node(1).slots[VolumeId("ghost")]
    cluster.run(0.6)
    assert cluster.loop.unheard_of() == {}


def test_hundred_volumes_of_a_dead_node_are_moved_in_one_write_and_spread() -> None:
    cluster = FakeCluster()
    for number in range(60):
        cluster.create(f"v{number:03}")
    cluster.run(1.0)
    puts = len(cluster.logged(log.LINE_MINTED))
    assert puts == 60
    writes: list[int] = []
    put_lines = cluster.store.put_lines

    def counted(lines: list[Line]) -> None:
        writes.append(len(lines))
        put_lines(lines)

    cluster.store.put_lines = counted  # type: ignore[method-assign, assignment]
    cluster.kill(1)
    cluster.run(0.3)
    assert writes == [20]
    load = [cluster.loop.controller.load(cluster.node(n).name) for n in (1, 2, 3)]
    assert load == [0, 30, 30]


def test_queued_reassign_on_an_old_line_is_refused_by_basis() -> None:
    cluster = running()
    old = cluster.line()
    cluster.node_ask(1, shrink(old, "r2"))
    result = cluster.loop.publisher.apply(reassign(old, "r2"))
    assert isinstance(result, RefusedAsk)
    assert result.code is Refusal.STALE_BASIS


def test_old_stream_that_closes_late_does_not_hurt_the_new_one() -> None:
    cluster = running()
    old = cluster.node(1).stream_id
    cluster.subscribe(cluster.node(1).name)
    new = cluster.node(1).stream_id
    cluster.node(1).stream_id = old
    cluster.close_stream(1)
    cluster.node(1).stream_id = new
    cluster.run(3.0)
    assert cluster.line().lineage == lineage(1, 1)


def test_retirement_is_not_a_nodes_to_ask() -> None:
    cluster = running()
    answer = cluster.node_ask(1, ask(Intent.RETIRE, basis=cluster.line().lineage))
    assert isinstance(answer, RefusedAsk)
    assert not cluster.line().retired


def test_longest_log_wins_among_those_that_have_every_commit() -> None:
    cluster = running()
    cluster.fact(1, **positions(100, commit=90))
    cluster.fact(2, **positions(95, commit=90))
    cluster.fact(3, **positions(99, commit=90))
    cluster.run(1.0)
    cluster.kill(1)
    cluster.run(0.3)
    assert cluster.line().primary == "r3"


def test_l4_eligible_replica_follows_when_nobody_in_sync_is_left() -> None:
    cluster = running()
    cluster.node_ask(1, shrink(cluster.line(), "r3"))
    cluster.node_ask(1, shrink(cluster.line(), "r2"))
    assert (cluster.line().in_sync, cluster.line().eligible) == (("r1",), ("r2",))
    assert served(cluster) is VolumeState.UNAVAILABLE
    cluster.run(1.0)
    cluster.kill(1)
    cluster.run(0.3)
    assert cluster.line().primary == "r2"
    assert (cluster.line().in_sync, cluster.line().eligible) == (("r2",), ())

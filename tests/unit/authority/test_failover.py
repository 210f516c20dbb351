"""The whole authority side on a made-up cluster: who counts as lost, who follows."""

from __future__ import annotations

import pytest

from sparrow.authority.builder import Reason
from sparrow.authority.events import TopologyChanged
from sparrow.authority.loop import AFTER_STALL_S
from sparrow.authority.status import VolumeState
from sparrow.authority.types import NO_UUID, Line, ReplicaState
from sparrow.base import events as log
from sparrow.base.ids import ReplicaUuid
from tests.support.authority import FakeCluster, V, lineage, positions, running, served, shrink

RELIEVED = "it asked to be relieved: it is slow, or was lately"


def written(cluster: FakeCluster, last: int, commit: int) -> None:
    for number in (1, 2, 3):
        if V in cluster.node(number).slots:
            cluster.fact(number, **positions(last, commit=commit))


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


@pytest.mark.parametrize(("lost", "left"), [(True, ("r2",)), (False, ("r2", "r3"))])
def test_files_that_cannot_be_opened_stay_in_the_new_set_unless_they_are_damaged(
    lost: bool, left: tuple[str, ...]
) -> None:
    """A node that came back without its WAL device has all that was acknowledged, once the device is named again."""
    cluster = running()
    cluster.fact(3, uuid=NO_UUID, state=ReplicaState.CONDEMNED, disk_failed=lost)
    cluster.run(0.6)
    cluster.kill(1)
    cluster.run(0.3)
    assert (cluster.line().primary, cluster.line().in_sync) == ("r2", left)


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


def test_l9_a_wish_is_not_followed_by_one_that_was_slow_itself_and_why_says_so() -> None:
    cluster = running(2)
    cluster.fact(2, withdrawn=True)
    cluster.run(0.6)
    cluster.fact(1, withdrawn=True)
    cluster.run(60.0)
    assert cluster.line().lineage == lineage(1, 1)
    assert served(cluster) is VolumeState.HEALTHY
    decision = cluster.loop.controller.why(V)
    assert decision is not None
    assert decision.reason == f"r1: {RELIEVED}; nobody else may take over"
    assert [(one.replica_id, one.rejected) for one in decision.considered] == [("r2", RELIEVED)]


@pytest.mark.parametrize(
    "trouble",
    [{"disk_failed": True}, {"ready_for_primary": False}, {"gate_open": False, "withdrawn": True}],
)
def test_l9_a_primary_that_cannot_serve_is_followed_by_one_that_was_slow(
    trouble: dict[str, bool],
) -> None:
    cluster = running(2)
    cluster.fact(2, withdrawn=True)
    cluster.run(0.6)
    cluster.fact(1, **trouble)
    cluster.run(1.0)
    assert (cluster.line().primary, cluster.line().lineage.epoch) == ("r2", 2)


def test_l9_a_lost_primary_is_followed_by_one_that_was_slow_only_if_there_is_no_other() -> None:
    cluster = running()
    cluster.fact(2, withdrawn=True)
    cluster.run(0.6)
    cluster.kill(1)
    cluster.run(0.3)
    assert cluster.line().primary == "r3"
    cluster.kill(3)
    cluster.run(2.0)
    assert cluster.line().primary == "r2"


def test_withdrawn_primary_stays_when_nobody_else_may() -> None:
    cluster = running(1)
    cluster.fact(1, withdrawn=True)
    cluster.run(3.0)
    assert cluster.line().lineage == lineage(1, 1)


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

"""Replacing replicas where copies are missing already: nobody leaves before there is one in its place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sparrow.authority.events import PlannedAsk, TopologyChanged
from sparrow.authority.stale import discard_ask
from sparrow.authority.types import (
    Ask,
    Intent,
    LeavingSlot,
    PlacedSlot,
    ReplicaState,
)
from sparrow.base.ids import NodeId, ReplicaId, ReplicaUuid
from sparrow.lifecycle.nodes import NodeState
from sparrow.lifecycle.placement import Placement
from sparrow.lifecycle.plans.steps import Choice, NotNow, Record, Stage, Submit, Wait
from tests.support.authority import V, shrink
from tests.support.moving import Moving, grows_to, moving, nodes_of


def test_a_lost_replica_is_replaced_while_another_one_waits_for_it_to_leave() -> None:
    """r1 is drained and may not leave: with r2 lost too few would be in sync. Only the successor of r2 can help."""
    cluster = moving(rf=2, nodes=5, min_in_sync=2)
    cluster.want(1, NodeState.DRAINING)
    step = cluster.next()
    assert isinstance(step, Record)
    cluster.carry_out(step)
    cluster.kill(2)
    cluster.run(3)
    cluster.node_ask(1, shrink(cluster.line(), "r2"))
    cluster.want(2, NodeState.LOST)
    grows_to(cluster, "r1", "r3")
    assert cluster.finish()[0] is Stage.PLACE
    assert not {"n1", "n2"} & set(nodes_of(cluster.line()))
    assert len(cluster.line().in_sync) == 2


def test_a_replica_on_its_way_out_stays_when_no_other_node_is_left() -> None:
    """r1 was to leave n1; n2 is lost and n1 takes replicas again: nobody else can stand in for r2."""
    cluster = moving(rf=2, nodes=3, min_in_sync=2)
    cluster.want(1, NodeState.DRAINING)
    step = cluster.next()
    assert isinstance(step, Record)
    cluster.carry_out(step)
    cluster.kill(2)
    cluster.run(3)
    cluster.node_ask(1, shrink(cluster.line(), "r2"))
    cluster.want(2, NodeState.LOST)
    cluster.want(1, NodeState.ACTIVE)
    del cluster.states[NodeId("n1")]
    grows_to(cluster, "r1", "r3")
    cluster.finish()
    assert nodes_of(cluster.line()) == ["n1", "n3"]
    assert len(cluster.line().in_sync) == 2


def test_a_placement_that_was_not_looked_for_is_no_reason_to_take_a_replica_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """r1 leaves n1, which takes replicas again, and r2 is lost: with no other node r1 would stay; nobody looked yet."""

    def later(_self: Moving, _choice: Choice) -> Placement:
        raise NotNow

    cluster = moving(rf=2, nodes=4, min_in_sync=1)
    cluster.want(1, NodeState.DRAINING)
    step = cluster.next()
    assert isinstance(step, Record)
    cluster.carry_out(step)
    cluster.kill(2)
    cluster.run(3)
    cluster.want(2, NodeState.LOST)
    cluster.want(1, NodeState.ACTIVE)
    monkeypatch.setattr(Moving, "choose", later)
    while isinstance(step := cluster.next(), Submit):
        cluster.carry_out(step)
    assert isinstance(step, Wait)
    assert cluster.desired().slots[-1].node_id != NodeId("n1")


def test_one_that_is_taken_back_does_not_stand_in_for_one_that_is_lost() -> None:
    """r1 was to leave for r3, whose node is away; then r2 is lost, and r1 stays. r2 leaves for r3 now, not for r1."""
    cluster = moving(rf=2, nodes=3, min_in_sync=1)
    cluster.rebuilds = False
    cluster.want(1, NodeState.DRAINING)
    step = cluster.next()
    assert isinstance(step, Record)
    cluster.carry_out(step)
    cluster.kill(3)
    cluster.kill(2)
    cluster.run(3)
    cluster.node_ask(1, shrink(cluster.line(), "r2"))
    cluster.want(1, NodeState.ACTIVE)
    del cluster.states[NodeId("n1")]
    cluster.want(2, NodeState.LOST)
    step = cluster.next()
    assert isinstance(step, Record)
    assert "r3 on n3 replaces r2" in step.text
    cluster.carry_out(step)
    for _ in range(6):
        assert isinstance(cluster.next(), Wait), "the line has r2 until another one is there"
        cluster.live()
    assert nodes_of(cluster.line()) == ["n1", "n2"]
    cluster.restart(3)
    cluster.rebuilds = True
    cluster.finish()
    assert nodes_of(cluster.line()) == ["n1", "n3"]
    assert cluster.line().in_sync == ("r1", "r3")


def recorded_by_an_older_master(cluster: Moving) -> TopologyChanged:
    """r2 leaves for r1, which is there anyway, and nobody leaves for r3."""
    desired = cluster.desired()
    r1, r2 = desired.slots
    leaving = LeavingSlot(
        replica_id=r2.replica_id, node_id=r2.node_id, successor=r1.replica_id, cause="drained"
    )
    r3 = PlacedSlot(replica_id=ReplicaId("r3"), node_id=NodeId("n3"))
    return TopologyChanged(changed=(replace(desired, slots=(r1, r3), leaving=(leaving,)),))


def test_who_was_in_sync_all_along_is_no_reason_to_let_another_one_go() -> None:
    """r3, for whom nobody leaves, is down: r2 stays until it is there."""
    cluster = moving(rf=2, nodes=3, min_in_sync=1)
    cluster.kill(3)
    cluster.run(3)
    cluster.step(recorded_by_an_older_master(cluster))
    for _ in range(4):
        step = cluster.next()
        assert isinstance(step, Wait)
        assert "fewer than 2 replicas" in step.text
        cluster.live()
    assert cluster.line().in_sync == ("r1", "r2")
    cluster.restart(3)
    cluster.finish()
    assert nodes_of(cluster.line()) == ["n1", "n3"]
    assert len(cluster.line().in_sync) == 2
    assert min(len(line.members) for line in cluster.history) == 2


def lacking(nodes: int) -> Moving:
    """A volume of two copies with one member and one slot, as a recovery from nodes may leave it."""
    cluster = moving(rf=2, nodes=nodes, min_in_sync=1)
    cluster.kill(2)
    cluster.run(3)
    cluster.node_ask(1, shrink(cluster.line(), "r2"))
    line, desired = cluster.line(), cluster.desired()
    ask_ = Ask(
        intent=Intent.SET_MEMBERS,
        volume_id=V,
        replica_id=ReplicaId("r2"),
        basis=line.lineage,
        members=line.members[:1],
    )
    cluster.step(PlannedAsk(token=99, ask=ask_))
    cluster.step(TopologyChanged(changed=(replace(desired, slots=desired.slots[:1]),)))
    assert len(cluster.line().members) == 1
    return cluster


def test_a_copy_that_nothing_stands_for_is_placed_and_added() -> None:
    cluster = lacking(nodes=3)
    assert cluster.finish() == [Stage.PLACE, Stage.ADD]
    cluster.live()
    assert nodes_of(cluster.line()) == ["n1", "n3"]
    assert len(cluster.line().in_sync) == 2
    assert cluster.next() is None


def test_a_place_that_nobody_has_taken_is_given_up_while_another_replica_leaves() -> None:
    """A copy is missing and is to come to one node; the only member's node is drained, and then that one, too."""
    cluster = lacking(nodes=5)
    places = []
    for drained in (None, 1, 3):
        if drained is not None:
            cluster.want(drained, NodeState.DRAINING)
        step = cluster.next()
        assert isinstance(step, Record)
        cluster.carry_out(step)
        places.append([slot.node_id for slot in cluster.desired().slots])
    assert places == [["n1", "n3"], ["n3", "n4"], ["n4", "n5"]]
    cluster.finish()
    assert nodes_of(cluster.line()) == ["n4", "n5"]
    assert len(cluster.line().in_sync) == 2


def test_what_an_older_master_recorded_ends_also_when_the_place_it_left_empty_is_drained() -> None:
    """r3, for whom nobody leaves, goes to another node first."""
    cluster = moving(rf=2, nodes=4, min_in_sync=1)
    cluster.step(recorded_by_an_older_master(cluster))
    cluster.want(3, NodeState.DRAINING)
    cluster.finish()
    assert nodes_of(cluster.line()) == ["n1", "n4"]
    assert len(cluster.line().in_sync) == 2


def test_a_copy_that_cannot_be_placed_is_waited_for_with_the_reason() -> None:
    cluster = lacking(nodes=2)
    step = cluster.next()
    assert isinstance(step, Wait)
    assert "Only 1 of 2 replicas" in step.text


def test_a_slot_that_the_line_never_got_is_added_by_the_next_master() -> None:
    cluster = lacking(nodes=3)
    step = cluster.next()
    assert isinstance(step, Record)
    cluster.carry_out(step)
    cluster.restart_master()
    assert cluster.finish() == [Stage.ADD]
    assert nodes_of(cluster.line()) == ["n1", "n3"]


def test_the_only_member_does_not_leave_before_there_are_as_many_as_wanted() -> None:
    cluster = lacking(nodes=4)
    cluster.want(1, NodeState.DRAINING)
    cluster.finish()
    assert nodes_of(cluster.line()) == ["n3", "n4"]
    grown = [len(line.members) for line in cluster.history]
    assert 3 in grown, "all are there before one leaves"
    assert grown[-1] == 2
    assert 1 not in grown


def test_a_replica_that_was_set_aside_is_not_dropped_by_a_drain() -> None:
    """S25: a drain deletes files; those that were kept wait for an operator's word."""
    cluster = moving(rf=2, nodes=3)
    cluster.rebuilds = False
    cluster.node_ask(1, shrink(cluster.line(), "r2"))
    cluster.kill(1)
    ask_ = Ask(
        intent=Intent.RECOVER_STALE,
        volume_id=V,
        replica_id=ReplicaId("r2"),
        basis=cluster.line().lineage,
    )
    cluster.step(PlannedAsk(token=99, ask=ask_))
    assert cluster.line().set_aside == ("r1",)
    cluster.fact(1, state=ReplicaState.QUARANTINED)
    cluster.restart(1)
    cluster.rebuilds = True
    cluster.want(1, NodeState.DRAINING)
    while not isinstance(step := cluster.next(), Wait) or "set aside" not in step.text:
        if step is not None and not isinstance(step, Wait):
            cluster.carry_out(step)
        cluster.live()
    assert "discard-divergent" in step.text
    assert cluster.line().set_aside == ("r1",)
    discard = discard_ask(cluster.line(), ReplicaId("r1"))
    assert discard is not None
    cluster.step(PlannedAsk(token=100, ask=discard))
    cluster.finish()
    assert nodes_of(cluster.line()) == ["n2", "n3"]


def test_a_lost_follower_is_replaced_without_waiting_for_its_node() -> None:
    cluster = moving()
    line = cluster.line()
    cluster.kill(2)
    cluster.node_ask(1, shrink(line, "r2"))
    cluster.run(3)
    cluster.want(2, NodeState.LOST)
    assert cluster.finish() == [Stage.PLACE, Stage.ADD, Stage.DROP]
    assert nodes_of(cluster.line()) == ["n1", "n3", "n4"]
    (leaving,) = cluster.desired().leaving
    assert (leaving.replica_id, leaving.node_id) == ("r2", "n2")

    cluster.restart(2)
    cluster.run(1)
    cluster.finish()
    assert cluster.node(2).slots == {}, "what it brought back is deleted"
    assert cluster.desired().leaving == ()


def test_a_lost_primary_is_failed_over_before_it_is_replaced() -> None:
    cluster = moving()
    cluster.kill(1)
    cluster.want(1, NodeState.LOST)
    cluster.run(3)
    cluster.finish()
    assert cluster.line().primary != "r1"
    assert nodes_of(cluster.line()) == ["n2", "n3", "n4"]


def test_the_last_copy_on_a_lost_node_is_never_replaced_by_an_empty_one() -> None:
    cluster = moving(rf=1)
    cluster.kill(1)
    cluster.run(12)
    cluster.want(1, NodeState.LOST)
    for _ in range(10):
        step = cluster.next()
        if step is not None and not isinstance(step, Wait):
            assert step.stage is Stage.PLACE
            cluster.carry_out(step)
        cluster.live()
    assert cluster.line().in_sync == ("r1",)
    assert [member.replica_id for member in cluster.line().members] == ["r1"]
    step = cluster.next()
    assert isinstance(step, Wait)
    assert "does not serve" in step.text


# ---------------------------------------------------------------- a primary that waits for who is gone


def waits_for_the_eligible(*, nodes: int = 3) -> Moving:
    """r2 is lost, and eligible: r1 has all there is, and answers nothing without the grant of r2 (decision 0007)."""
    cluster = moving(rf=2, nodes=nodes, min_in_sync=2)
    cluster.kill(2)
    cluster.run(3)
    cluster.node(1).opens = False
    cluster.node_ask(1, shrink(cluster.line(), "r2"))
    assert (cluster.line().in_sync, cluster.line().eligible) == (("r1",), ("r2",))
    return cluster


def given_up(cluster: Moving, cause: str) -> None:
    """Its node is removed as lost; or its disk failed, and is replaced by an empty one."""
    if cause == "node":
        cluster.want(2, NodeState.LOST)
    else:
        cluster.restart(2)
        cluster.fact(2, disk_failed=True)
        cluster.run(1)
    step = cluster.next()
    assert isinstance(step, Record)
    assert step.stage is Stage.PLACE
    cluster.carry_out(step)
    if cause == "disk":
        cluster.node(2).slots.clear()


@pytest.mark.parametrize("cause", ["node", "disk"])
def test_a_primary_does_not_wait_for_the_grant_of_one_that_is_gone_for_good(cause: str) -> None:
    """Else it would wait for ever: its successor is added while the primary serves, which it does not."""
    cluster = waits_for_the_eligible()
    given_up(cluster, cause)
    cluster.run(3)
    step = cluster.next()
    assert isinstance(step, Submit)
    assert (step.ask.intent, step.ask.clear_eligible) == (Intent.SHRINK_IN_SYNC, True)
    cluster.node(1).opens = True
    cluster.carry_out(step)
    assert (cluster.line().in_sync, cluster.line().eligible) == (("r1",), ())
    grows_to(cluster, "r1", "r3")
    cluster.finish()
    assert nodes_of(cluster.line()) == ["n1", "n3"]


def test_one_that_may_come_back_stays_eligible() -> None:
    """It is silent, or leaves and has its files still."""
    cluster = waits_for_the_eligible()
    assert cluster.next() is None
    cluster.want(2, NodeState.DRAINING)
    step = cluster.next()
    assert isinstance(step, Record)
    cluster.carry_out(step)
    for _ in range(3):
        cluster.run(1)
        assert isinstance(cluster.next(), Wait)
    cluster.restart(2)
    cluster.run(1)
    assert isinstance(cluster.next(), Wait)
    assert cluster.line().eligible == ("r2",)


def test_nothing_is_forgotten_while_the_primary_is_away() -> None:
    cluster = waits_for_the_eligible(nodes=4)
    cluster.kill(1)
    given_up(cluster, "node")
    cluster.run(3)
    assert isinstance(cluster.next(), Wait)
    assert cluster.line().eligible == ("r2",)


def until_forgotten(cluster: Moving) -> None:
    """The plan goes on until the line has no eligible replica; the primary opens by that line."""
    for _ in range(8):
        step = cluster.next()
        if isinstance(step, Submit) and step.ask.clear_eligible:
            cluster.node(1).opens = True
        if isinstance(step, Record | Submit):
            cluster.carry_out(step)
        if not cluster.line().eligible:
            return
        cluster.run(0.5)
    raise AssertionError(f"is not forgotten, last: {step}")


def test_who_is_forgotten_is_the_eligible_one_whoever_else_leaves() -> None:
    """r1, the primary, was drained before: its turn comes first, and it does not leave its own set."""
    cluster = waits_for_the_eligible(nodes=5)
    cluster.want(1, NodeState.DRAINING)
    step = cluster.next()
    assert isinstance(step, Record)
    cluster.carry_out(step)
    cluster.want(2, NodeState.LOST)
    until_forgotten(cluster)
    assert cluster.line().in_sync == ("r1",)
    grows_to(cluster, "r1", "r3")
    cluster.finish()
    assert not {"n1", "n2"} & set(nodes_of(cluster.line()))


def test_who_is_in_sync_stays_so_when_the_eligible_are_forgotten() -> None:
    """r3 is drained, and in sync with r1: it is the second copy until it is replaced."""
    cluster = moving(rf=3, nodes=5, min_in_sync=3)
    cluster.want(3, NodeState.DRAINING)
    step = cluster.next()
    assert isinstance(step, Record)
    cluster.carry_out(step)
    cluster.kill(2)
    cluster.run(3)
    cluster.node(1).opens = False
    cluster.node_ask(1, shrink(cluster.line(), "r2"))
    cluster.want(2, NodeState.LOST)
    until_forgotten(cluster)
    assert cluster.line().in_sync == ("r1", "r3")


@pytest.mark.parametrize("fault", [{"disk_failed": True}, {"uuid": ReplicaUuid("5" * 32)}])
def test_nothing_is_forgotten_for_a_primary_that_has_nothing_left(fault: dict[str, Any]) -> None:
    """Its node lives and its disk failed, or its files are others: who was eligible may be all there is."""
    cluster = waits_for_the_eligible(nodes=4)
    given_up(cluster, "node")
    cluster.fact(1, **fault)
    cluster.run(3)
    for _ in range(4):
        step = cluster.next()
        if isinstance(step, Record):
            cluster.carry_out(step)
        cluster.run(1)
    assert isinstance(step, Wait)
    assert cluster.line().eligible == ("r2",)

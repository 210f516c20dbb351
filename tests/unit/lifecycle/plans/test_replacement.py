"""Replacing a replica: every step is found again after a crash, and at none of them is there a copy too few."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparrow.authority.types import (
    ReplicaState,
    RoleClaim,
    VolumePhase,
)
from sparrow.base.ids import NodeId, ReplicaId, VolumeId
from sparrow.lifecycle.nodes import NodeState
from sparrow.lifecycle.plans.replacement import next_step
from sparrow.lifecycle.plans.steps import Record, Stage, Submit, View, Wait
from tests.support.authority import V, shrink
from tests.support.moving import FOLLOWER, Moving, moving, nodes_of


def test_a_follower_is_replaced_by_growing_before_shrinking() -> None:
    cluster = moving()
    cluster.want(2, NodeState.DRAINING)
    assert cluster.finish() == FOLLOWER
    assert nodes_of(cluster.line()) == ["n1", "n3", "n4"]
    assert cluster.line().in_sync == ("r1", "r3", "r4")
    assert min(len(line.in_sync) for line in cluster.history) == 3
    assert cluster.node(2).slots == {}
    assert cluster.desired().leaving == ()


def test_a_primary_is_moved_first_when_enough_others_are_in_sync() -> None:
    cluster = moving()
    cluster.want(1, NodeState.DRAINING)
    stages = cluster.finish()
    assert stages[:2] == [Stage.PLACE, Stage.MOVE_PRIMARY]
    assert cluster.line().primary != "r1"
    assert cluster.line().lineage.epoch == 2
    assert nodes_of(cluster.line()) == ["n2", "n3", "n4"]


@pytest.mark.parametrize(("slow", "leads"), [((2,), "r3"), ((3,), "r2"), ((2, 3), "r2")])
def test_one_that_was_slow_lately_leads_only_if_there_is_no_other(
    slow: tuple[int, ...], leads: str
) -> None:
    cluster = moving()
    for number in slow:
        cluster.fact(number, withdrawn=True)
    cluster.live()
    cluster.want(1, NodeState.DRAINING)
    cluster.finish()
    assert cluster.line().primary == leads


def test_the_only_copy_is_moved_by_copying_it_first() -> None:
    cluster = moving(rf=1)
    cluster.want(1, NodeState.DRAINING)
    stages = cluster.finish()
    assert stages[:3] == [Stage.PLACE, Stage.ADD, Stage.MOVE_PRIMARY]
    assert stages[-2:] == [Stage.DROP, Stage.DELETE]
    assert len(cluster.line().members) == 1
    assert nodes_of(cluster.line()) != ["n1"]


def test_a_primary_stays_until_writes_could_go_on_without_it() -> None:
    cluster = moving()
    line = cluster.line()
    cluster.rebuilds = False
    cluster.node_ask(1, shrink(line, "r3"))
    cluster.want(1, NodeState.DRAINING)
    taken = []
    for _ in range(6):
        step = cluster.next()
        if not isinstance(step, Wait) and step is not None:
            cluster.carry_out(step)
            taken.append(step.stage)
        cluster.live()
    assert taken == [Stage.PLACE, Stage.ADD], "two in sync are needed, and two are"
    assert cluster.line().primary == "r1"
    cluster.rebuilds = True
    cluster.finish()
    assert cluster.line().primary != "r1"


@pytest.mark.parametrize("interrupted_after", range(1, 8))
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("rf", [1, 2, 3])
def test_a_master_that_dies_after_any_step_goes_on_where_things_stand(
    rf: int, number: int, interrupted_after: int
) -> None:
    if number > rf:
        number = 1
    cluster = moving(rf)
    cluster.want(number, NodeState.DRAINING)

    def die(count: int) -> None:
        if count == interrupted_after:
            cluster.restart_master()

    cluster.finish(after_step=die)
    assert len(cluster.line().members) == rf
    assert f"n{number}" not in nodes_of(cluster.line())
    assert cluster.node(number).slots == {}
    lineages = [line.lineage for line in cluster.history]
    assert lineages == sorted(set(lineages)), "the line never goes back"


def test_the_order_of_asks_and_a_crash_before_each_ask_change_nothing_for_the_data() -> None:
    """A record made durable and an ask never sent: the next master sends it."""
    cluster = moving()
    cluster.want(2, NodeState.DRAINING)
    for _ in range(20):
        step = cluster.next()
        if step is None:
            break
        cluster.restart_master()
        again = cluster.next()
        assert type(again) is type(step) or isinstance(step, Wait) or isinstance(again, Wait)
        if again is not None and not isinstance(again, Wait):
            cluster.carry_out(again)
        cluster.rebuilds = not (isinstance(again, Submit) and again.stage is Stage.TAKE_OUT)
        cluster.live()
        cluster.check()
    assert nodes_of(cluster.line()) == ["n1", "n3", "n4"]


def test_without_a_node_to_go_to_everything_stays_and_the_reason_is_told() -> None:
    cluster = moving(nodes=3)
    cluster.want(2, NodeState.DRAINING)
    before = cluster.line()
    step = cluster.next()
    assert isinstance(step, Wait)
    assert step.stage is Stage.PLACE
    assert "Only 2 of 3 replicas" in step.text
    assert "n2: still holds r2" in step.text
    cluster.live()
    assert cluster.line() == before


def test_a_successor_whose_node_is_given_up_as_well_gets_a_successor() -> None:
    cluster = moving(nodes=5)
    cluster.rebuilds = False
    cluster.want(2, NodeState.DRAINING)
    for _ in range(3):
        step = cluster.next()
        assert step is not None
        if not isinstance(step, Wait):
            cluster.carry_out(step)
        cluster.live()
    (leaving,) = cluster.desired().leaving
    successor = next(s for s in cluster.desired().slots if s.replica_id == leaving.successor)
    number = int(successor.node_id[1:])
    cluster.kill(number)
    cluster.want(number, NodeState.LOST)
    cluster.rebuilds = True
    cluster.run(3)
    cluster.finish()
    assert nodes_of(cluster.line()) == sorted({"n1", "n3", "n4", "n5"} - {f"n{number}"})
    assert cluster.node(2).slots == {}


def test_two_nodes_may_be_drained_at_once() -> None:
    cluster = moving(nodes=5)
    cluster.want(1, NodeState.DRAINING)
    cluster.want(2, NodeState.DRAINING)
    cluster.finish()
    assert nodes_of(cluster.line()) == ["n3", "n4", "n5"]
    assert min(len(line.in_sync) for line in cluster.history) >= 2


def test_a_drain_that_is_ended_stops_before_the_next_volume_and_ends_this_one() -> None:
    cluster = moving()
    cluster.want(2, NodeState.DRAINING)
    step = cluster.next()
    assert isinstance(step, Record)
    cluster.carry_out(step)
    cluster.want(2, NodeState.ACTIVE)
    cluster.states.clear()
    cluster.finish()
    assert nodes_of(cluster.line()) == ["n1", "n3", "n4"], "what was placed is moved to its end"


def test_cordoned_nodes_give_nothing_up() -> None:
    cluster = moving()
    cluster.want(2, NodeState.CORDONED)
    assert cluster.next() is None


def test_a_volume_that_is_deleted_meanwhile_is_left_to_its_deletion() -> None:
    cluster = moving()
    cluster.want(2, NodeState.DRAINING)
    step = cluster.next()
    assert isinstance(step, Record)
    cluster.carry_out(step)
    cluster.delete(V)
    assert cluster.next() is None
    cluster.run(3)
    assert cluster.gone == [V]
    assert all(node.slots == {} for node in cluster.nodes.values())


def test_a_deleted_volume_does_not_wait_for_a_lost_node() -> None:
    cluster = moving()
    cluster.kill(2)
    cluster.run(3)
    cluster.delete(V)
    cluster.run(3)
    assert cluster.gone == []
    cluster.want(2, NodeState.LOST)
    cluster.run(1)
    assert cluster.gone == [V]


def test_files_that_are_no_good_do_not_become_a_member() -> None:
    cluster = moving()
    cluster.want(2, NodeState.DRAINING)
    step = cluster.next()
    assert isinstance(step, Record)
    cluster.carry_out(step)
    cluster.fact(4, state=ReplicaState.CONDEMNED)
    cluster.live()
    waits = cluster.next()
    assert isinstance(waits, Wait)
    assert waits.text == "r4 on n4 is condemned"
    assert nodes_of(cluster.line()) == ["n1", "n2", "n3"]


def fail_disk(cluster: Moving, number: int) -> None:
    """A write or a flush failed: its node says so, and the primary asks the replica out."""
    cluster.fact(
        number,
        disk_failed=True,
        ready_for_primary=False,
        role_claim=RoleClaim.NONE,
        gate_open=False,
    )
    cluster.live()
    line = cluster.line()
    if line.primary != f"r{number}" and f"r{number}" in line.in_sync:
        cluster.node_ask(int(line.primary[1:]), shrink(line, f"r{number}"))


@pytest.mark.parametrize("number", [1, 2])
def test_a_replica_whose_disk_failed_is_replaced_without_anybodys_word(number: int) -> None:
    cluster = moving()
    fail_disk(cluster, number)
    step = cluster.next()
    assert isinstance(step, Record)
    assert step.text == (
        f"r4 on n4 replaces r{number}: the disk under r{number} on n{number} failed"
    )
    cluster.finish()
    assert nodes_of(cluster.line()) == sorted({"n1", "n2", "n3", "n4"} - {f"n{number}"})
    assert len(cluster.line().in_sync) == 3
    assert min(len(line.members) for line in cluster.history) == 3, "grown before it was shrunk"
    assert cluster.node(number).slots == {}


def test_without_a_node_to_go_to_it_stays_and_so_it_does_once_its_disk_works_again() -> None:
    cluster = moving(nodes=3)
    fail_disk(cluster, 2)
    step = cluster.next()
    assert isinstance(step, Wait)
    assert "Only 2 of 3 replicas" in step.text
    cluster.fact(2, disk_failed=False)
    cluster.live()
    assert cluster.next() is None
    cluster.live()
    assert len(cluster.line().in_sync) == 3
    assert nodes_of(cluster.line()) == ["n1", "n2", "n3"]


def test_the_word_of_a_node_that_fell_silent_gives_up_nothing() -> None:
    """It may come back on a disk that works; a node that is gone for good is an operator's word."""
    cluster = moving()
    fail_disk(cluster, 2)
    cluster.kill(2)
    cluster.run(3)
    assert cluster.next() is None


def test_a_successor_whose_disk_fails_is_followed_by_another_one() -> None:
    cluster = moving(nodes=5)
    cluster.rebuilds = False
    fail_disk(cluster, 2)
    step = cluster.next()
    assert isinstance(step, Record)
    cluster.carry_out(step)
    cluster.live()
    fail_disk(cluster, 4)
    step = cluster.next()
    assert isinstance(step, Record)
    assert "replaces r4: the disk under r4 on n4 failed" in step.text
    cluster.carry_out(step)
    cluster.rebuilds = True
    cluster.finish()
    assert nodes_of(cluster.line()) == ["n1", "n3", "n5"]
    assert len(cluster.line().in_sync) == 3


def test_one_whose_disk_failed_is_not_taken_back_for_want_of_a_node() -> None:
    """r2 leaves for its disk, and r4, which was to come for it, is on a node that is drained: both wait."""
    cluster = moving()
    cluster.rebuilds = False
    fail_disk(cluster, 2)
    step = cluster.next()
    assert isinstance(step, Record)
    cluster.carry_out(step)
    cluster.want(4, NodeState.DRAINING)
    step = cluster.next()
    assert isinstance(step, Wait)
    assert [slot.replica_id for slot in cluster.desired().leaving] == ["r2"]


def test_files_are_deleted_only_after_the_primary_acts_on_the_line_without_them() -> None:
    cluster = moving()
    cluster.want(2, NodeState.DRAINING)
    while (step := cluster.next()) is not None:
        if isinstance(step, Submit) and step.stage is Stage.TAKE_OUT:
            cluster.node(1).takes_orders = cluster.rebuilds = False
        if not isinstance(step, Wait):
            cluster.carry_out(step)
        if isinstance(step, Submit) and step.stage is Stage.DROP:
            break
        cluster.live()
    cluster.run(2)
    assert V in cluster.node(2).slots, "the primary was not heard to act on it"
    cluster.node(1).takes_orders = True
    cluster._act(cluster.node(1), cluster.line())
    cluster.run(2)
    assert cluster.node(2).slots == {}


def test_a_replica_id_is_not_used_again_while_files_of_that_name_may_be_around() -> None:
    cluster = moving(nodes=5)
    line = cluster.line()
    cluster.kill(2)
    cluster.node_ask(1, shrink(line, "r2"))
    cluster.run(3)
    cluster.want(2, NodeState.LOST)
    cluster.finish()
    cluster.want(3, NodeState.DRAINING)
    cluster.restart(2)
    cluster.finish()
    # r2's files are deleted by now; until they were, its name was taken.
    assert ReplicaId("r2") not in {slot.replica_id for slot in cluster.desired().slots}


def test_a_volume_without_a_line_is_placed_anew_and_bound_there() -> None:
    cluster = Moving(4)
    cluster.node(2).takes_orders = False
    cluster.create()
    cluster.run(1)
    assert cluster.loop.publisher.line(V) is None
    cluster.want(2, NodeState.DRAINING)
    step = cluster.next()
    assert isinstance(step, Record)
    cluster.carry_out(step)
    cluster.run(3)
    assert nodes_of(cluster.line()) == ["n1", "n3", "n4"]
    cluster.finish()


def test_other_volumes_are_none_of_its_business() -> None:
    cluster = moving()
    desired = cluster.desired()
    assert next_step(cluster.view()) is None
    assert next_step(replace_states(cluster, {NodeId("n4"): NodeState.DRAINING})) is None
    assert desired.phase is VolumePhase.ACTIVE
    assert VolumeId("v1") == V


def replace_states(cluster: Moving, states: dict[NodeId, NodeState]) -> View:
    return replace(cluster.view(), states=states)

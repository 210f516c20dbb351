"""Replacing a replica: every step is found again after a crash, and at none of them is there a copy too few."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sparrow.authority.events import NodesWrittenOff, PlannedAsk, TopologyChanged
from sparrow.authority.results import Minted
from sparrow.authority.stale import discard_ask
from sparrow.authority.types import (
    Ask,
    DesiredVolume,
    Intent,
    LeavingSlot,
    Line,
    PlacedSlot,
    ReplicaState,
    RoleClaim,
    VolumePhase,
)
from sparrow.base.ids import NodeId, ReplicaId, VolumeId
from sparrow.lifecycle.nodes import NodeRecord, NodeState
from sparrow.lifecycle.placement import NodeRoom, Placement, place
from sparrow.lifecycle.plans.replacement import next_step
from sparrow.lifecycle.plans.steps import Choice, NotNow, Record, Stage, Step, Submit, View, Wait
from tests.support.authority import FakeCluster, V, grow, minted, shrink

TIB = 1 << 40


class Moving(FakeCluster):
    """A cluster whose plan is carried out by hand, one step at a time, and whose primaries grow who is a member."""

    def __init__(self, nodes: int = 4) -> None:
        super().__init__(nodes)
        self.states: dict[NodeId, NodeState] = {}
        #: Whether primaries bring new members up to date.
        self.rebuilds = True
        self.cordoned: set[str] = set()
        #: Every line a plan or a primary made while something was replaced.
        self.history: list[Line] = []

    def want(self, number: int, state: NodeState) -> None:
        self.store.put_node(NodeRecord(node_id=NodeId(f"n{number}"), state=state))
        self.load_states()

    def load_states(self) -> None:
        self.states = {one.node_id: one.state for one in self.store.load_nodes().nodes}
        lost = frozenset(n for n, s in self.states.items() if s is NodeState.LOST)
        self.step(NodesWrittenOff(nodes=lost))

    def restart_master(self) -> None:
        """A master that knows only what is on disk, and hears from every node once more."""
        self.boot()
        self.load_states()
        self.run(1.5)

    def desired(self) -> DesiredVolume:
        found = self.loop.desired(V)
        assert found is not None
        return found

    def next(self) -> Step | None:
        return next_step(self.view())

    def view(self) -> View:
        return View(
            snapshot=self.loop.snapshot(V, self.now),
            states=self.states,
            sight=lambda node_id: self.loop.observations.sight(node_id, self.now),
            choose=self.choose,
        )

    def choose(self, choice: Choice) -> Placement:
        rooms = [
            NodeRoom(
                node_id=name,
                ready=node.up,
                refused="it is cordoned" if name in self.cordoned or name in self.states else "",
                total_bytes=TIB,
                free_bytes=TIB,
            )
            for name, node in self.nodes.items()
        ]
        return place(
            choice.desired.shape,
            nodes=rooms,
            planned=[],
            existing=choice.kept,
            refused=choice.refused,
            taken=choice.taken,
        )

    def carry_out(self, step: Record | Submit) -> None:
        if isinstance(step, Record):
            self.store.update_volume(step.volume)
            self.step(TopologyChanged(changed=(step.volume,)))
        else:
            self._tokens += 1
            self.step(PlannedAsk(token=self._tokens, ask=step.ask))
            self.history.append(minted(self.answers[self._tokens]))

    def live(self) -> None:
        """Half a second of life: heartbeats, and primaries that take in what can be taken in."""
        self.run(0.5)
        line = self.loop.publisher.line(V)
        if not self.rebuilds or line is None or line.retired:
            return
        primary = self.nodes[line.primary_member.node_id]
        for member in line.members:
            node = self.nodes[member.node_id]
            fact = node.slots.get(V)
            fits = primary.up and node.up and fact is not None and fact.uuid == member.uuid
            fits = fits and fact is not None and not fact.disk_failed
            fits = fits and fact is not None and fact.state is not ReplicaState.QUARANTINED
            if fits and member.replica_id not in line.in_sync:
                asked = self.node_ask(int(primary.name[1:]), grow(line, member.replica_id))
                if isinstance(asked, Minted):
                    line = asked.line
                    self.history.append(line)

    def finish(self, *, after_step: Callable[[int], None] | None = None) -> list[Stage]:
        """Go on until nothing is given up any more; the stages of the steps taken."""
        stages: list[Stage] = []
        for _ in range(60):
            # As the master does it: what can be done is done at once, then life goes on.
            while (step := self.next()) is not None and not isinstance(step, Wait):
                self.carry_out(step)
                stages.append(step.stage)
                self.check()
                assert len(stages) < 40, stages
                if after_step is not None:
                    after_step(len(stages))
            if step is None:
                return stages
            self.live()
            self.check()
        raise AssertionError(f"never ends, last: {self.next()}")

    def check(self) -> None:
        """What holds at every moment."""
        line, desired = self.line(), self.desired()
        assert len(line.in_sync) >= line.min_in_sync
        assert line.primary in line.in_sync
        assert len(desired.slots) == desired.shape.replication_factor
        assert len({slot.node_id for slot in desired.slots}) == len(desired.slots)
        placed = {slot.replica_id for slot in desired.slots}
        leaving = {slot.replica_id for slot in desired.leaving}
        assert not placed & leaving
        assert {one.replica_id for one in line.members} <= placed | leaving
        for member in line.members:
            node = self.nodes[member.node_id]
            held = node.slots.get(V)
            assert not node.up or (held is not None and held.uuid == member.uuid)


def moving(rf: int = 3, nodes: int = 4, *, min_in_sync: int | None = None) -> Moving:
    cluster = Moving(nodes)
    cluster.create(rf=rf, min_in_sync=min_in_sync)
    cluster.run(3)
    assert cluster.line().primary == "r1"
    return cluster


def nodes_of(line: Line) -> list[str]:
    return sorted(member.node_id for member in line.members)


def grows_to(cluster: Moving, *in_sync: str) -> None:
    """Below the minimum, as a volume is after the loss of a copy: live until these are in sync."""
    for _ in range(20):
        if cluster.line().in_sync == in_sync:
            return
        step = cluster.next()
        if isinstance(step, Submit):
            cluster.carry_out(step)
        cluster.live()
    raise AssertionError(f"stays {cluster.line().in_sync}")


FOLLOWER = [Stage.PLACE, Stage.ADD, Stage.TAKE_OUT, Stage.DROP, Stage.DELETE]


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

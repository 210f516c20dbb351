"""A cluster whose replicas are given up and made anew elsewhere, one step of the plan at a time."""

from __future__ import annotations

from collections.abc import Callable

from sparrow.authority.events import NodesWrittenOff, PlannedAsk, TopologyChanged
from sparrow.authority.results import Minted
from sparrow.authority.types import (
    DesiredVolume,
    Line,
    ReplicaState,
)
from sparrow.base.ids import NodeId
from sparrow.lifecycle.nodes import NodeRecord, NodeState
from sparrow.lifecycle.placement import NodeRoom, Placement, place
from sparrow.lifecycle.plans.replacement import next_step
from sparrow.lifecycle.plans.steps import Choice, Record, Stage, Step, Submit, View, Wait
from tests.support.authority import FakeCluster, V, grow, minted

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

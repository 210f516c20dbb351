"""Nodes come, go, are drained and written off in any order, masters restart: no volume ends with too few replicas."""

from __future__ import annotations

from random import Random

import pytest

from sparrow.authority.events import PlannedAsk, TopologyChanged
from sparrow.base.ids import NodeId
from sparrow.lifecycle.nodes import NodeState
from sparrow.lifecycle.plans.steps import Record, Wait
from tests.support.authority import V, shrink
from tests.support.moving import Moving, nodes_of

#: In the last one a replica is taken back, and stood in for another one that left before plans counted members.
SEEDS = (*range(1, 13), 52)
#: Steps of the plan between two looks at the nodes.
STEPS = 10
#: Rounds of half a second in which everything comes to rest when nothing more happens.
REST = 60


class Walk(Moving):
    """One volume; what happens to its nodes follows from the seed."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.rf = self.rng.choice((2, 2, 3))
        self.count = self.rf + self.rng.choice((1, 1, 1, 2))
        self.lost: set[int] = set()
        super().__init__(self.count)
        self.create(rf=self.rf, min_in_sync=1)
        self.run(3)

    def load_states(self) -> None:
        super().load_states()
        self.states = {n: s for n, s in self.states.items() if s is not NodeState.ACTIVE}

    def happen(self) -> None:
        """One thing that people or machines do, or nothing."""
        number = self.rng.randint(1, self.count)
        kind = self.rng.choice(
            ("drain", "take back", "kill", "up", "write off", "write off", "boot", "")
        )
        up = self.node(number).up
        if kind == "boot":
            self.restart_master()
        if number in self.lost:
            return
        if kind == "drain":
            self.want(number, NodeState.DRAINING)
        elif kind == "take back":
            self.want(number, NodeState.ACTIVE)
        elif kind == "kill" and up:
            self.kill(number)
        elif kind == "up" and not up:
            self.restart(number)
        elif kind == "write off" and not up and self._is_spare(number):
            self.lost.add(number)
            self.want(number, NodeState.LOST)

    def work(self) -> None:
        """What the plan wants, as the master does it; sometimes it is interrupted."""
        for _ in range(STEPS):
            step = self.next()
            if step is None or isinstance(step, Wait) or self.rng.random() < 0.5:
                return
            before = self.line()
            if isinstance(step, Record):
                self.store.update_volume(step.volume)
                self.step(TopologyChanged(changed=(step.volume,)))
            else:
                self._tokens += 1
                self.step(PlannedAsk(token=self._tokens, ask=step.ask))
                if self.line() == before:
                    return  # refused: it was decided on old news
            assert len(self.line().members) >= min(len(before.members), self.rf), step.text

    def live(self) -> None:
        """Half a second; a primary asks out who is gone."""
        super().live()
        line = self.line()
        primary = self.nodes[line.primary_member.node_id]
        for member in line.members:
            node = self.nodes[member.node_id]
            gone = not node.up or (V in node.slots and node.slots[V].disk_failed)
            gone = gone and member.replica_id in self.line().in_sync
            if primary.up and gone and member.replica_id != line.primary:
                self.node_ask(int(primary.name[1:]), shrink(self.line(), member.replica_id))

    def rest(self) -> None:
        """Everything that is not written off is there again, and takes replicas."""
        for number in range(1, self.count + 1):
            if number not in self.lost:
                if not self.node(number).up:
                    self.restart(number)
                self.want(number, NodeState.ACTIVE)
        for _ in range(REST):
            self.work()
            self.live()

    def _is_spare(self, number: int) -> bool:
        """Whether a node can be done without: there are enough others, and another one has everything."""
        name = NodeId(f"n{number}")
        line = self.line()
        others = [
            one for one in line.members if one.node_id != name and one.replica_id in line.in_sync
        ]
        return len(self.lost) < self.count - self.rf and (
            bool(others) or name not in nodes_of(line)
        )


class FailingWalk(Walk):
    """Disks fail as well, and work again after a start of their node."""

    def happen(self) -> None:
        number = self.rng.randint(1, self.count)
        node = self.node(number)
        if V not in node.slots or self.rng.random() < 0.7:
            super().happen()
        elif not node.slots[V].disk_failed:
            self.fact(number, disk_failed=True, ready_for_primary=False)
        elif node.up:
            self.kill(number)
            self.works_again(number)
            self.restart(number)

    def works_again(self, number: int) -> None:
        if V in self.node(number).slots:
            self.fact(number, disk_failed=False, ready_for_primary=True)

    def rest(self) -> None:
        for number in range(1, self.count + 1):
            self.works_again(number)
        super().rest()


@pytest.mark.parametrize("seed", range(1, 9))
def test_disks_that_fail_meanwhile_leave_no_copy_too_few_either(seed: int) -> None:
    _comes_to_rest(FailingWalk(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_nodes_go_through_all_copies_are_there_in_the_end(seed: int) -> None:
    _comes_to_rest(Walk(seed))


def _comes_to_rest(walk: Walk) -> None:
    for _ in range(walk.rng.randint(5, 40)):
        walk.happen()
        walk.work()
        for _ in range(walk.rng.randint(0, 4)):
            walk.live()
    walk.rest()
    line, desired = walk.line(), walk.desired()
    assert len(line.in_sync) == len(line.members) == walk.rf, walk.next()
    assert nodes_of(line) == sorted(slot.node_id for slot in desired.slots)
    assert not {f"n{number}" for number in walk.lost} & set(nodes_of(line))
    assert walk.next() is None

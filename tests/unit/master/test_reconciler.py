"""What a pass over all volumes that give something up costs, and what one bad plan does to the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import structlog
from structlog.testing import capture_logs

from sparrow.authority.loop import AuthorityLoop
from sparrow.authority.types import DesiredVolume, LeavingSlot, Line, PlacedSlot, VolumeShape
from sparrow.base.ids import NodeId, ReplicaId, VolumeId
from sparrow.lifecycle.nodes import NodeState
from sparrow.lifecycle.placement import NodeRoom
from sparrow.lifecycle.plans.steps import TURN, Stage, Step, View
from sparrow.master import reconciler as module
from sparrow.master.driver import Driver
from sparrow.master.inventory import Inventory
from sparrow.master.node_states import NodeStates
from sparrow.master.reconciler import FAILED_MAX, RETRY_FIRST_S, Reconciler
from sparrow.store.memory import MemoryDisk, MemoryStore
from tests.support.lines import line, member

SHAPE = VolumeShape(size_bytes=1 << 20, block_size=4096, replication_factor=2, min_in_sync=1)


class Clock:
    time = 100.0

    def now(self) -> float:
        return self.time


def slot(replica: str, node: str) -> PlacedSlot:
    return PlacedSlot(replica_id=ReplicaId(replica), node_id=NodeId(node))


def volume(name: str, *slots: PlacedSlot) -> DesiredVolume:
    return DesiredVolume(volume_id=VolumeId(name), shape=SHAPE, slots=slots)


class Bench:
    """A reconciler over volumes of which no node is heard, so that nothing can be placed anywhere."""

    def __init__(self, *volumes: DesiredVolume, lines: Sequence[Line] = ()) -> None:
        log = structlog.get_logger()
        self.store, self.clock = MemoryStore(MemoryDisk()), Clock()
        for one in volumes:
            self.store.create_volume(one)
        self.store.put_lines(lines)
        authority = AuthorityLoop(self.store, master_generation=1, now=self.clock.now())
        self.driver = Driver(authority, self.store, self.clock, log)
        states = NodeStates(self.store, log)
        self.reconciler = Reconciler(self.driver, Inventory(), self.store, states, log=log)
        self.driver.start(volumes)

    def drain(self, node: str) -> None:
        self.reconciler.set_state(NodeId(node), NodeState.DRAINING)

    def one_pass(self) -> None:
        self.reconciler._pass()

    def waits(self) -> dict[str, str]:
        """What each volume waits for."""
        found = self.reconciler.replacements()
        return {one.volume: one.text for one in found}


MANY = tuple(volume(f"v{number}", slot("r1", "n1"), slot("r2", "n2")) for number in range(5))


async def test_the_room_of_all_nodes_is_counted_once_for_all_placements_that_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: list[int] = []
    before = module.node_rooms

    def rooms(*args: object) -> tuple[NodeRoom, ...]:
        counted.append(1)
        return before(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "node_rooms", rooms)
    bench = Bench(*MANY)
    bench.drain("n1")
    waits = bench.waits()
    assert len(waits) == 5
    assert all("not heard from lately" in text or "Only 1 of 2" in text for text in waits.values())
    assert len(counted) == 1
    bench.clock.time += RETRY_FIRST_S
    bench.one_pass()
    assert len(counted) == 2, "the next pass looks anew"


async def test_placements_that_fail_are_few_at_a_time_and_every_volume_has_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []
    before = module.place

    def place(shape: VolumeShape, **asked: object) -> object:
        tried.append(str(shape.size_bytes))
        return before(shape, **asked)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "place", place)
    many = [
        replace(
            volume(f"v{number:02}", slot("r1", "n1"), slot("r2", "n2")),
            shape=replace(SHAPE, size_bytes=SHAPE.size_bytes + number * 4096),
        )
        for number in range(3 * FAILED_MAX)
    ]
    bench = Bench(*many)
    bench.drain("n1")
    assert len(tried) == FAILED_MAX
    assert list(bench.waits().values()).count(TURN) == 2 * FAILED_MAX
    for _ in range(2):
        bench.one_pass()
        bench.clock.time += RETRY_FIRST_S
        bench.one_pass()
    assert len(tried) == len(set(tried)) == 3 * FAILED_MAX
    assert TURN not in bench.waits().values()


async def test_a_placement_that_failed_is_not_tried_in_every_pass_whatever_else_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """r1 leaves for r3, whose files are not there yet: that is what is told. r2 has nowhere to go meanwhile."""
    looks: list[Step | None] = []
    before = module.next_step

    def look(view: View) -> Step | None:
        looks.append(before(view))
        return looks[-1]

    leaving = LeavingSlot(
        replica_id=ReplicaId("r1"), node_id=NodeId("n1"), successor=ReplicaId("r3"), cause="drained"
    )
    moving = replace(volume("v1", slot("r2", "n2"), slot("r3", "n3")), leaving=(leaving,))
    members = (
        replace(member("1"), replica_id=ReplicaId("r1"), node_id=NodeId("n1")),
        replace(member("2"), replica_id=ReplicaId("r2"), node_id=NodeId("n2")),
    )
    record = replace(
        line(1, 1, "r1", "", members=members),
        in_sync=(ReplicaId("r1"), ReplicaId("r2")),
        replication_factor=2,
    )
    bench = Bench(moving, lines=[record])
    monkeypatch.setattr(module, "next_step", look)
    bench.reconciler.set_state(NodeId("n2"), NodeState.LOST)
    assert [step.stage for step in looks if step is not None] == [Stage.FORMAT]
    bench.one_pass()
    assert len(looks) == 1
    bench.clock.time += RETRY_FIRST_S
    bench.one_pass()
    assert len(looks) == 2


async def test_a_plan_that_raises_ends_no_other_and_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[str] = []
    before = module.next_step

    def look(view: View) -> Step | None:
        desired = view.snapshot.desired
        assert desired is not None
        looks.append(desired.volume_id)
        if desired.volume_id == "v1":
            raise StopIteration
        return before(view)

    monkeypatch.setattr(module, "next_step", look)
    bench = Bench(*MANY)
    with capture_logs() as logs:
        bench.drain("n1")
    assert looks == ["v0", "v1", "v2", "v3", "v4"]
    assert [one["volume"] for one in logs if one["event"] == "command.failed"] == ["v1"]
    looks.clear()
    bench.one_pass()
    assert looks == []
    bench.clock.time += RETRY_FIRST_S
    bench.one_pass()
    assert looks == ["v0", "v1", "v2", "v3", "v4"]
    looks.clear()
    bench.clock.time += RETRY_FIRST_S
    bench.one_pass()
    assert "v1" not in looks, "its pause doubles"

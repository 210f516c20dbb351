"""Primaries move to nodes that lead fewer: when, how many at once, and everything that keeps one where it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sparrow.authority.balance import (
    CALM_S,
    LOOKS_MAX,
    MOVES_MAX,
    ROUND_S,
    SETTLE_S,
    Balancer,
    chance,
)
from sparrow.authority.convergence import Desired
from sparrow.authority.decide import REBALANCE
from sparrow.authority.events import NodesPassedOver, TopologyChanged
from sparrow.authority.types import DesiredVolume, Line, PlacedSlot, VolumePhase
from sparrow.base.constants import RETRY_WINDOW_S
from sparrow.base.ids import NodeId, ReplicaId, VolumeId
from tests.support.authority import (
    FakeCluster,
    V,
    bind,
    grow,
    member,
    minted,
    new_publisher,
    positions,
    reassign,
    shape,
    shrink,
)

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")


def moves(c: FakeCluster) -> list[dict[str, object]]:
    return [one for one in c.logged("line.minted") if str(one["reason"]).startswith(REBALANCE)]


def loads(c: FakeCluster) -> list[int]:
    return [c.loop.controller.load(name) for name in sorted(c.nodes)]


def heal(c: FakeCluster) -> None:
    """Let every primary take its peers back into the in-sync set, as real ones do by themselves."""
    for volume_id in c.loop.volumes():
        line = c.line(volume_id)
        for one in line.members:
            if one.replica_id not in line.in_sync:
                number = int(line.primary_member.node_id[1:])
                c.node_ask(number, grow(line, one.replica_id))
                line = c.line(volume_id)


def run_and_heal(c: FakeCluster, seconds: float) -> None:
    for _ in range(round(seconds / 0.5)):
        c.run(0.5)
        heal(c)


def lopsided(volumes: int = 6) -> FakeCluster:
    """Three nodes of which the first was away: it leads nothing, and is in sync again since a moment."""
    c = FakeCluster()
    for number in range(volumes):
        c.create(f"v{number}")
    c.run(2)
    assert loads(c) == [volumes // 3] * 3
    c.kill(1)
    c.run(3)
    c.restart(1)
    c.run(1)
    heal(c)
    assert loads(c)[0] == 0
    return c


def test_primaries_go_back_to_a_node_that_returned_and_then_stay() -> None:
    c = lopsided()
    run_and_heal(c, SETTLE_S + 10)
    assert loads(c) == [2, 2, 2]
    assert len(moves(c)) == 2, "as few as even loads need"
    run_and_heal(c, 4 * SETTLE_S)
    assert len(moves(c)) == 2, "and never back"


def test_nothing_moves_to_a_node_that_subscribed_a_moment_ago() -> None:
    c = lopsided()
    returned = c.now - 1
    while not moves(c):
        run_and_heal(c, 0.5)
        assert c.now < returned + SETTLE_S + 5
    assert c.now >= returned + SETTLE_S
    volume_id = VolumeId(str(moves(c)[0]["volume"]))
    assert c.line(volume_id).primary_member.node_id == N1


def test_loads_that_differ_by_one_are_even() -> None:
    c = FakeCluster()
    for number in range(4):
        c.create(f"v{number}")
    run_and_heal(c, 3 * SETTLE_S)
    assert sorted(loads(c)) == [1, 1, 2]
    assert not moves(c)


def test_each_move_is_seen_before_its_nodes_take_part_in_the_next() -> None:
    """The new primary never opens: one volume waits for it, not all of them."""
    c = lopsided(12)
    c.node(1).opens = False
    c.run(SETTLE_S + 4)
    assert len(moves(c)) == 1
    c.run(RETRY_WINDOW_S + 3)
    assert len(moves(c)) == 1


def test_a_move_is_one_at_a_time_for_a_node_and_counted_while_it_is_on_its_way() -> None:
    c = lopsided(12)
    seen = 0
    while loads(c) != [4, 4, 4]:
        run_and_heal(c, 0.5)
        assert len(moves(c)) - seen <= 1
        seen = len(moves(c))
        assert c.now < 300
    assert seen == 4


def test_a_volume_rests_after_a_move_of_any_kind() -> None:
    c = lopsided()
    run_and_heal(c, SETTLE_S + 10)
    (volume, *_rest) = [VolumeId(str(one["volume"])) for one in moves(c)]
    assert c.loop.controller.balancer.rests(volume, c.now).startswith("it moved ")
    run_and_heal(c, SETTLE_S)
    assert c.loop.controller.balancer.rests(volume, c.now) == ""
    # A hand-over that somebody asked for counts as well.
    c.fact(1, volume, withdrawn=True)
    c.run(1)
    assert c.line(volume).primary_member.node_id != N1
    assert c.loop.controller.balancer.rests(volume, c.now).startswith("it moved ")


def test_a_master_that_starts_lets_everything_rest_first() -> None:
    """It does not remember what moved when."""
    c = lopsided()
    c.boot()
    began = c.now
    while not moves(c):
        run_and_heal(c, 0.5)
        assert c.now < began + SETTLE_S + 5
    assert c.now >= began + SETTLE_S


def test_a_failover_anywhere_comes_first() -> None:
    """n1 is owed volumes; in the moment it has settled, another node dies."""
    c = FakeCluster(nodes=4)
    for number in range(6):
        c.create(f"v{number}")
    solo = DesiredVolume(
        volume_id=VolumeId("other"),
        shape=shape(2),
        slots=(
            PlacedSlot(replica_id=ReplicaId("r1"), node_id=NodeId("n4")),
            PlacedSlot(replica_id=ReplicaId("r2"), node_id=N2),
        ),
    )
    c.store.create_volume(solo)
    c.step(TopologyChanged(changed=(solo,)))
    c.run(2)
    c.kill(1)
    c.run(3)
    c.restart(1)
    c.run(1)
    heal(c)
    run_and_heal(c, SETTLE_S - 4)
    assert not moves(c)
    c.kill(4)
    c.run(2)
    failed_over = c.now
    while not moves(c):
        c.run(0.5)
        assert c.now < failed_over + 60
    assert c.now > failed_over + CALM_S - 3


def test_a_cordoned_node_gets_nothing_and_is_named() -> None:
    c = lopsided()
    c.step(NodesPassedOver(nodes=frozenset({N1})))
    run_and_heal(c, 2 * SETTLE_S)
    assert not moves(c)
    leads = [v for v in c.loop.volumes() if c.line(v).primary_member.node_id == N2]
    assert "not to n1, which is cordoned, drained or lost" in c.loop.balance(leads[0], c.now)
    c.step(NodesPassedOver(nodes=frozenset()))
    run_and_heal(c, 10)
    assert loads(c) == [2, 2, 2]


def test_a_node_that_takes_no_primaries_gets_none() -> None:
    c = lopsided()
    for volume_id in c.loop.volumes():
        c.fact(1, volume_id, eligible=False)
    run_and_heal(c, 2 * SETTLE_S)
    assert not moves(c)


def test_a_replica_that_lacks_a_committed_entry_does_not_lead() -> None:
    c = lopsided()
    for volume_id in c.loop.volumes():
        c.fact(1, volume_id, **positions(90))
        for number in (2, 3):
            c.fact(number, volume_id, **positions(100, commit=100))
    run_and_heal(c, 2 * SETTLE_S)
    assert not moves(c)
    for volume_id in c.loop.volumes():
        c.fact(1, volume_id, **positions(100))
    run_and_heal(c, 20)
    assert loads(c) == [2, 2, 2]


def test_a_volume_that_heals_is_left_alone() -> None:
    c = lopsided()
    for volume_id in c.loop.volumes():
        line = c.line(volume_id)
        c.node_ask(int(line.primary_member.node_id[1:]), shrink(line, "r1"))
    c.run(2 * SETTLE_S)
    assert not moves(c)
    assert "not every replica is in sync" in c.loop.balance(VolumeId("v0"), c.now)


def test_writes_that_need_every_replica_are_not_stopped_for_balance() -> None:
    c = FakeCluster()
    for number in range(6):
        c.create(f"v{number}", rf=3, min_in_sync=3)
    c.run(2)
    c.kill(1)
    c.run(3)
    c.restart(1)
    run_and_heal(c, 2 * SETTLE_S)
    assert loads(c)[0] == 0
    assert not moves(c)
    assert "writes need every replica" in c.loop.balance(VolumeId("v0"), c.now)


def test_a_volume_that_is_being_changed_is_left_alone() -> None:
    c = lopsided()
    for volume_id in c.loop.volumes():
        desired = c.loop.desired(volume_id)
        assert desired is not None
        c.loop._desired.put(replace(desired, phase=VolumePhase.CREATING), c.now)
    snapshot = c.loop.snapshot(VolumeId("v0"), c.now)
    assert "being changed" in c.loop.controller.balance(snapshot)


def test_skew_zero_moves_nothing() -> None:
    balancer = Balancer(now=0.0, skew=0)
    _lead(balancer, 5, "n1", at=1.0)
    for node_id in (N1, N2, N3):
        balancer.arrived(node_id, 0.0)
    assert _round(balancer, 1000.0) == []
    assert balancer.wake_at is None
    assert "switched off" in balancer.rests(VolumeId("v1"), 1000.0)


def test_an_even_cluster_is_not_looked_at_again_until_something_changes() -> None:
    balancer = Balancer(now=0.0)
    for node_id in (N1, N2, N3):
        balancer.arrived(node_id, 0.0)
    _lead(balancer, 1, "n1", at=1.0)
    assert _round(balancer, SETTLE_S + 1) == []
    assert balancer.wake_at is None
    _lead(balancer, 2, "n1", at=SETTLE_S + 2, first=5)
    assert balancer.wake_at == SETTLE_S + 2 + ROUND_S


def test_everything_rests_after_the_start_and_after_trouble() -> None:
    balancer = Balancer(now=100.0)
    for node_id in (N1, N2, N3):
        balancer.arrived(node_id, 50.0)
    lines = _lead(balancer, 4, "n1", at=50.0)
    assert _round(balancer, 100.0 + SETTLE_S - 1, line_of=lines.get) == []
    assert "all volumes rest" in balancer.rests(VolumeId("v1"), 100.0 + SETTLE_S - 1)
    assert balancer.wake_at == 100.0 + SETTLE_S
    balancer.rest(128.0)
    assert _round(balancer, 100.0 + SETTLE_S, line_of=lines.get) == []
    assert balancer.wake_at == 128.0 + CALM_S
    assert len(_round(balancer, 128.0 + CALM_S, line_of=lines.get)) == 1


def test_a_volume_with_an_ask_on_its_way_gets_no_turn() -> None:
    c = lopsided()
    controller = c.loop.controller
    for volume_id in c.loop.volumes():
        state = controller._volumes[volume_id]
        state.desired = Desired(ask=bind(), desired_at=c.now, last_evaluated_at=c.now)
    controller.balancer.wake_at = c.now
    assert controller.rebalance(c.now + 2 * SETTLE_S, lambda _node_id: True) == []
    for state in controller._volumes.values():
        state.desired = None
    controller.balancer.wake_at = c.now
    assert len(controller.rebalance(c.now + 2 * SETTLE_S, lambda _node_id: True)) == 1


def test_the_least_loaded_fit_node_is_chosen_and_even_loads_are_left() -> None:
    c = FakeCluster()
    c.create()
    c.run(2)
    line, snapshot = c.line(), c.loop.snapshot(V, c.now)
    here = line.primary_member.node_id
    first, second = (slot.node_id for slot in snapshot.slots if slot.replica_id != line.primary)

    def found(mine: int, one: int, other: int, refused: str = "") -> str | None:
        numbers = {here: mine, first: one, second: other}
        made = chance(
            line,
            snapshot,
            load=numbers.__getitem__,
            refuses=lambda node_id: "which is full" if node_id == refused else None,
        )
        return None if made.target is None else made.target.node_id

    assert found(2, 1, 1) is None
    assert found(3, 2, 1) == second
    assert found(3, 1, 1) == first, "the same in every run"
    assert found(4, 2, 1, refused=second) == first
    assert found(3, 2, 1, refused=second) is None


@pytest.mark.parametrize("count", [2000])
def test_a_round_is_bounded_however_much_one_node_leads(count: int) -> None:
    """Every volume of the heavy node could move, and so could those of others: few do, each node once."""
    balancer = Balancer(now=0.0)
    lines = _lead(balancer, count, "n1", at=1.0)
    looked: list[VolumeId] = []

    def line_of(volume_id: VolumeId) -> Line | None:
        looked.append(volume_id)
        return lines[volume_id]

    for node_id in (N1, N2, N3):
        balancer.arrived(node_id, 0.0)
    chosen = _round(balancer, 2 * SETTLE_S, line_of=line_of)
    assert len(chosen) == 1 <= MOVES_MAX
    assert len(looked) == 1
    balancer.moves(chosen[0], N1, N2)
    looked.clear()
    assert _round(balancer, 3 * SETTLE_S, line_of=line_of, on_its_way=lambda _v: True) == []
    assert looked == [], "its node is busy"
    # None of them may move: no more than a bounded number is looked at, and others the next time.
    _rested(balancer, lines, at=4 * SETTLE_S)
    first = 4 * SETTLE_S + 5
    assert _round(balancer, first, line_of=line_of) == []
    assert len(looked) == LOOKS_MAX
    before = set(looked)
    looked.clear()
    assert balancer.wake_at is not None
    assert _round(balancer, balancer.wake_at, line_of=line_of) == []
    assert len(looked) == LOOKS_MAX
    assert not before & set(looked)


def _lead(
    balancer: Balancer, count: int, node: str, *, at: float, first: int = 1
) -> dict[VolumeId, Line]:
    """So many volumes of three replicas, led from one node."""
    publisher = new_publisher()
    lines = {}
    for number in range(first, first + count):
        line = minted(publisher.apply(bind(volume=f"v{number}", primary=f"r{node[1:]}")))
        balancer.count(None, line, at)
        lines[line.volume_id] = line
    return lines


def _rested(balancer: Balancer, lines: dict[VolumeId, Line], *, at: float) -> None:
    """All of them were handed over and back a moment ago."""
    publisher = new_publisher()
    for volume_id, line in lines.items():
        publisher._lines[volume_id] = line
        there = minted(publisher.apply(reassign(line, "r2")))
        balancer.count(line, there, at)
        back = replace(
            there,
            lineage=replace(there.lineage, epoch=there.lineage.epoch + 1),
            primary=member(1).replica_id,
        )
        balancer.count(there, back, at)


def _round(balancer: Balancer, now: float, **changes: Any) -> list[VolumeId]:
    given: dict[str, Any] = {
        "line_of": lambda _volume_id: None,
        "up": lambda _node_id: True,
        "on_its_way": lambda _volume_id: False,
    }
    return balancer.round(now, **{**given, **changes})

"""Replicas that nothing recorded accounts for go the way of replaced ones."""

from __future__ import annotations

from dataclasses import replace

from sparrow.authority.events import TopologyChanged
from sparrow.authority.types import VolumePhase
from sparrow.base.ids import NodeId, ReplicaId
from sparrow.lifecycle.plans.strays import CAUSE, with_strays
from tests.support.authority import FakeCluster, V


def with_a_stray(number: int = 4) -> FakeCluster:
    """n4 reports a replica that was being made when the store was lost."""
    cluster = FakeCluster(4)
    cluster.create(rf=3)
    cluster.run(3)
    fact = next(iter(cluster.node(1).slots.values()))
    cluster.node(number).slots[V] = replace(
        fact, replica_id=ReplicaId("r9"), uuid="9" * 32, lineage=None, gate_open=False
    )
    cluster.run(1)
    return cluster


def test_a_replica_that_is_neither_placed_nor_a_member_is_recorded_as_leaving() -> None:
    cluster = with_a_stray()
    wider = with_strays(cluster.loop.snapshot(V, cluster.now))
    assert wider is not None
    (leaving,) = wider.leaving
    assert (leaving.replica_id, leaving.node_id, leaving.cause) == ("r9", "n4", CAUSE)
    cluster.step(TopologyChanged(changed=(wider,)))
    assert with_strays(cluster.loop.snapshot(V, cluster.now)) is None


def test_what_a_silent_node_had_is_left_alone_until_it_speaks() -> None:
    cluster = with_a_stray()
    cluster.kill(4)
    cluster.run(5)
    assert with_strays(cluster.loop.snapshot(V, cluster.now)) is None


def test_nothing_is_a_stray_of_a_healthy_volume_or_of_one_being_deleted() -> None:
    cluster = FakeCluster(4)
    cluster.create(rf=3)
    cluster.run(3)
    assert with_strays(cluster.loop.snapshot(V, cluster.now)) is None
    cluster = with_a_stray()
    snapshot = cluster.loop.snapshot(V, cluster.now)
    desired = snapshot.desired
    assert desired is not None
    ending = replace(snapshot, desired=replace(desired, phase=VolumePhase.DELETING))
    assert with_strays(ending) is None
    assert NodeId("n4") not in {slot.node_id for slot in desired.slots}

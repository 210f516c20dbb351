"""Reports that lead to no look at their volume, and each thing that makes one lead to a look."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sparrow.authority.quiet import as_expected, steady
from sparrow.authority.types import (
    DesiredVolume,
    PlacedSlot,
    ReplicaState,
    RoleClaim,
    SlotFact,
    VolumePhase,
)
from sparrow.base.ids import NodeId, ReplicaId
from tests.support.authority import (
    FakeCluster,
    V,
    bind,
    lineage,
    member,
    minted,
    new_publisher,
    shape,
    shrink,
)

LINE = minted(new_publisher().apply(bind()))
DESIRED = DesiredVolume(
    volume_id=V,
    shape=shape(),
    slots=tuple(
        PlacedSlot(replica_id=ReplicaId(f"r{i}"), node_id=NodeId(f"n{i}")) for i in (1, 2, 3)
    ),
    phase=VolumePhase.ACTIVE,
)


def told(number: int) -> SlotFact:
    place = member(number)
    return SlotFact(
        volume_id=V,
        replica_id=place.replica_id,
        uuid=place.uuid,
        data_addr=place.data_addr,
        ctrl_addr=place.ctrl_addr,
        ready_for_primary=True,
        lineage=LINE.lineage,
        role_claim=RoleClaim.PRIMARY if number == 1 else RoleClaim.NONE,
        gate_open=number == 1,
    )


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_replica_as_its_line_says_needs_no_look(number: int) -> None:
    assert as_expected(LINE, NodeId(f"n{number}"), (told(number),))


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    "change",
    [
        {"replica_id": "r9"},
        {"uuid": "9" * 32},
        {"data_addr": "d:9"},
        {"ctrl_addr": "c:9"},
        {"ready_for_primary": False},
        {"eligible": False},
        {"withdrawn": True},
        {"disk_failed": True},
        {"suspect": True},
        {"state": ReplicaState.REBUILDING},
        {"lineage": None},
        {"lineage": lineage(1, 2)},
        {"role_claim": RoleClaim.CANDIDATE},
    ],
    ids=lambda change: next(iter(change)),
)
def test_anything_else_needs_one(number: int, change: dict[str, Any]) -> None:
    assert not as_expected(LINE, NodeId(f"n{number}"), (replace(told(number), **change),))


def test_a_gate_that_is_open_or_closed_against_the_line_needs_a_look() -> None:
    assert not as_expected(LINE, NodeId("n1"), (replace(told(1), gate_open=False),))
    assert not as_expected(LINE, NodeId("n2"), (replace(told(2), gate_open=True),))


def test_none_several_or_one_from_elsewhere_need_a_look() -> None:
    assert not as_expected(LINE, NodeId("n1"), ())
    assert not as_expected(LINE, NodeId("n1"), (told(1), told(2)))
    assert not as_expected(LINE, NodeId("n2"), (told(1),))


def test_a_replica_that_is_not_in_sync_needs_a_look() -> None:
    publisher = new_publisher()
    line = minted(publisher.apply(shrink(minted(publisher.apply(bind())), "r3")))
    fact = replace(told(3), lineage=line.lineage)
    assert not as_expected(line, NodeId("n3"), (fact,))


def test_only_a_volume_in_use_and_at_rest_is_steady() -> None:
    assert steady(LINE, DESIRED)
    assert not steady(None, DESIRED)
    assert not steady(LINE, None)
    assert not steady(replace(LINE, retired=True), DESIRED)
    assert not steady(LINE, replace(DESIRED, phase=VolumePhase.DELETING))
    assert not steady(LINE, replace(DESIRED, leaving=DESIRED.slots[:1]))


def running() -> FakeCluster:
    cluster = FakeCluster()
    cluster.create()
    cluster.run(1.0)
    return cluster


def test_a_restarted_master_looks_at_no_volume_whose_replicas_are_as_expected() -> None:
    cluster = running()
    cluster.boot()
    cluster.run(5.0)
    assert cluster.loop.controller.unseen(V)
    assert len(cluster.nodes) == 3
    cluster.kill(1)
    cluster.run(0.2)
    assert cluster.line().lineage == lineage(2, 1)


def test_a_primary_that_never_speaks_to_a_restarted_master_is_followed() -> None:
    cluster = running()
    cluster.kill(1)
    cluster.node(1).died_at = cluster.now - 5.0
    cluster.boot()
    cluster.run(1.5)
    assert cluster.line().lineage == lineage(1, 1), "it may yet speak"
    cluster.run(1.2)
    assert cluster.line().lineage == lineage(2, 1)


def test_the_death_of_a_follower_concerns_nobody_and_that_of_the_primary_does() -> None:
    cluster = running()
    cluster.boot()
    cluster.run(1.0)
    cluster.kill(3)
    cluster.run(3.0)
    assert cluster.loop.controller.unseen(V)
    cluster.kill(1)
    cluster.run(0.2)
    assert cluster.line().lineage == lineage(2, 1)


def test_nobody_is_lost_while_more_nodes_are_heard_for_the_first_time() -> None:
    """A master with many nodes needs long for their first reports; the ones that wait for their turn are not dead."""
    cluster = FakeCluster(nodes=15)
    cluster.create()
    cluster.run(1.0)
    cluster.kill(1)
    cluster.node(1).died_at = cluster.now - 20.0
    for number in range(4, 16):
        cluster.kill(number)
    cluster.boot()
    for number in range(4, 16):
        cluster.run(1.0)
        assert cluster.line().lineage == lineage(1, 1)
        cluster.restart(number)
    cluster.run(3.0)
    assert cluster.line().lineage == lineage(2, 1)


def test_the_time_a_master_needs_to_load_its_lines_counts_against_nobody() -> None:
    cluster = running()
    cluster.kill(1)
    cluster.node(1).died_at = cluster.now - 5.0
    cluster.boot()
    cluster.now += 30.0
    for number in (2, 3):
        cluster.beat(number)
        assert cluster.line().lineage == lineage(1, 1), "n1 had no chance to speak yet"
    cluster.run(3.0)
    assert cluster.line().lineage == lineage(2, 1)

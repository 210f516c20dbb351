"""Placement: enough distinct nodes with room, data stays where it is, every node explained, no luck involved."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparrow.authority.types import DesiredVolume, LeavingSlot, PlacedSlot, VolumeShape
from sparrow.base.errors import FailedPrecondition
from sparrow.base.ids import NodeId, ReplicaId, VolumeId
from sparrow.lifecycle.placement import VERDICTS_MAX, NodeRoom, Placement, place

GIB = 1 << 30


def shape(factor: int = 3, size: int = GIB) -> VolumeShape:
    return VolumeShape(size_bytes=size, block_size=4096, replication_factor=factor, min_in_sync=1)


def node(name: str, free: int = 10 * GIB, **changes: Any) -> NodeRoom:
    given: dict[str, Any] = {"ready": True, "total_bytes": 20 * GIB, "free_bytes": free}
    return NodeRoom(node_id=NodeId(name), **{**given, **changes})


def slot(replica: str, name: str) -> PlacedSlot:
    return PlacedSlot(replica_id=ReplicaId(replica), node_id=NodeId(name))


def volume(name: str, *slots: PlacedSlot, size: int = GIB) -> DesiredVolume:
    return DesiredVolume(volume_id=VolumeId(name), shape=shape(len(slots), size), slots=slots)


def test_replicas_go_to_distinct_nodes_with_the_most_room_first() -> None:
    placed = place(
        shape(2), nodes=[node("n1", 2 * GIB), node("n2", 9 * GIB), node("n3", 5 * GIB)], planned=[]
    )
    assert placed.slots == (slot("r1", "n2"), slot("r2", "n3"))


def test_equal_room_is_decided_by_replica_count_and_then_by_id() -> None:
    # Volume a is fully written on n1, so all three have the same room; n1 hosts one replica already.
    nodes = [node("n1", 9 * GIB, replica_used_bytes=2 * GIB), node("n3"), node("n2")]
    placed = place(shape(2), nodes=nodes, planned=[volume("a", slot("r1", "n1"))])
    assert [s.node_id for s in placed.slots] == ["n2", "n3"]


def test_replicas_go_to_different_zones_while_there_are_any() -> None:
    """Most room is in zone a; one replica at most goes there while b and c have a node with room."""
    nodes = [
        node("n1", 9 * GIB, zone="a"),
        node("n2", 8 * GIB, zone="a"),
        node("n3", 4 * GIB, zone="b"),
        node("n4", 3 * GIB, zone="c"),
    ]
    placed = place(shape(3), nodes=nodes, planned=[])
    assert [s.node_id for s in placed.slots] == ["n1", "n3", "n4"]
    assert {v.node_id: v.reason for v in placed.verdicts} == {
        "n1": "has room, in zone a",
        "n2": "has room, zone a has a replica already",
        "n3": "has room, in zone b",
        "n4": "has room, in zone c",
    }


def test_zones_are_a_wish_and_room_is_not() -> None:
    """With two zones for three replicas one has two; a full zone is passed over."""
    nodes = [
        node("n1", zone="a"),
        node("n2", zone="a"),
        node("n3", zone="b"),
        node("n4", 1, zone="c"),
    ]
    placed = place(shape(3), nodes=nodes, planned=[])
    assert [s.node_id for s in placed.slots] == ["n1", "n3", "n2"]


def test_nodes_without_a_zone_share_none_and_what_is_there_stays() -> None:
    nodes = [
        node("n1", zone="a"),
        node("n2", 9 * GIB, zone="a"),
        node("n3", 2 * GIB),
        node("n4", 2 * GIB),
    ]
    placed = place(shape(3), nodes=nodes, planned=[], existing=[slot("r1", "n1")])
    assert [s.node_id for s in placed.slots] == ["n1", "n3", "n4"]


def test_a_node_whose_disk_fails_gets_what_no_other_can_take() -> None:
    nodes = [node("n1", 9 * GIB, disk_failed=True), node("n2", 5 * GIB), node("n3", 3 * GIB)]
    placed = place(shape(2), nodes=nodes, planned=[])
    assert [s.node_id for s in placed.slots] == ["n2", "n3"]
    assert placed.verdicts[0].reason == "has room, but the disk under a replica there failed"
    placed = place(shape(3), nodes=nodes, planned=[])
    assert [s.node_id for s in placed.slots] == ["n2", "n3", "n1"]
    assert placed.verdicts[0].reason == "has room"


def test_what_is_planned_counts_before_it_is_written() -> None:
    busy = [volume(f"v{i}", slot("r1", "n1")) for i in range(10)]
    with pytest.raises(FailedPrecondition) as caught:
        place(shape(1), nodes=[node("n1", 10 * GIB)], planned=busy)
    assert "Only 0 of 1 replicas of 1 GiB can be placed" in str(caught.value)
    assert "n1: room for 0 B after what is planned" in caught.value.hint


def test_what_is_written_is_not_counted_twice() -> None:
    full = volume("a", slot("r1", "n1"), size=8 * GIB)
    written = node("n1", 2 * GIB, replica_used_bytes=8 * GIB)
    assert place(shape(1, 2 * GIB), nodes=[written], planned=[full]).slots == (slot("r1", "n1"),)


def test_data_stays_when_an_empty_node_with_a_smaller_id_joins() -> None:
    existing = (slot("r1", "n5"), slot("r2", "n6"))
    nodes = [node("n1", 19 * GIB), node("n5"), node("n6")]
    assert place(shape(2), nodes=nodes, planned=[], existing=existing).slots == existing


def test_a_missing_slot_is_added_beside_the_existing_ones() -> None:
    existing = (slot("r2", "n2"),)
    placed = place(
        shape(3), nodes=[node("n1"), node("n2"), node("n3")], planned=[], existing=existing
    )
    assert placed.slots == (slot("r2", "n2"), slot("r1", "n1"), slot("r3", "n3"))


def test_an_existing_slot_stays_on_a_node_that_is_away_or_full() -> None:
    existing = (slot("r1", "n1"),)
    nodes = [node("n1", 0, ready=False), node("n2")]
    assert place(shape(1), nodes=nodes, planned=[], existing=existing).slots == existing


def test_every_node_is_told_why_it_was_chosen_or_not() -> None:
    nodes = [
        node("n1", ready=False),
        node("n2", eligible=False),
        node("n3", GIB // 2),
        node("n4", 9 * GIB),
        node("n5", 8 * GIB),
    ]
    verdicts = {v.node_id: v for v in place(shape(1), nodes=nodes, planned=[]).verdicts}
    assert {name: v.reason for name, v in verdicts.items()} == {
        "n1": "not heard from lately",
        "n2": "takes no new replicas",
        "n3": "room for 512 MiB after what is planned (512 MiB free now)",
        "n4": "has room",
        "n5": "has room, others have more",
    }
    assert [name for name, v in verdicts.items() if v.chosen] == ["n4"]


def test_nodes_that_operators_or_the_volume_itself_rule_out_are_passed_over_with_their_reason() -> (
    None
):
    nodes = [node("n1", refused="it is cordoned"), node("n2"), node("n3")]
    placed = place(shape(1), nodes=nodes, planned=[], refused={NodeId("n2"): "still holds r1"})
    assert placed.slots == (slot("r1", "n3"),)
    assert [v.reason for v in placed.verdicts] == ["it is cordoned", "still holds r1", "has room"]


def test_a_replica_id_that_is_taken_is_not_given_again() -> None:
    placed = place(
        shape(2),
        nodes=[node("n1"), node("n2")],
        planned=[],
        existing=[slot("r2", "n1")],
        taken=[ReplicaId("r1"), ReplicaId("r3")],
    )
    assert placed.slots == (slot("r2", "n1"), slot("r4", "n2"))


def test_what_is_given_up_takes_room_until_it_is_gone() -> None:
    moved = replace(
        volume("a", slot("r2", "n2"), size=8 * GIB),
        leaving=(
            LeavingSlot(
                replica_id=ReplicaId("r1"),
                node_id=NodeId("n1"),
                successor=ReplicaId("r2"),
                cause="n1 is being drained",
            ),
        ),
    )
    full = node("n1", 2 * GIB, replica_used_bytes=8 * GIB)
    with pytest.raises(FailedPrecondition):
        place(shape(1, 3 * GIB), nodes=[full], planned=[moved])
    assert place(shape(1, 2 * GIB), nodes=[full], planned=[moved]).slots == (slot("r1", "n1"),)


def test_what_is_kept_of_a_decision_is_bounded_and_has_every_chosen_node() -> None:
    nodes = [node(f"n{i:03}", (10 if i == 199 else 5) * GIB) for i in range(200)]
    placed = place(shape(1), nodes=nodes, planned=[])
    assert len(placed.verdicts) == 200
    kept = placed.kept_verdicts
    assert len(kept) == VERDICTS_MAX
    assert [v.node_id for v in kept if v.chosen] == ["n199"]
    assert list(kept) == sorted(kept, key=lambda v: v.node_id)


def test_fifty_volumes_are_spread_and_no_node_is_promised_more_than_it_has() -> None:
    """D38: what was planned a moment ago counts, although not a byte of it is written."""
    nodes = [node(f"n{i}", 40 * GIB, total_bytes=40 * GIB) for i in range(1, 5)]
    planned: list[DesiredVolume] = []
    for number in range(50):
        placed = place(shape(3), nodes=nodes, planned=planned)
        planned.append(volume(f"v{number}", *placed.slots))
    hosted = Counter(s.node_id for one in planned for s in one.slots)
    assert sorted(hosted.values()) == [37, 37, 38, 38]
    for _ in range(3):
        placed = place(shape(3), nodes=nodes, planned=planned)
        planned.append(volume(f"w{len(planned)}", *placed.slots))
    with pytest.raises(FailedPrecondition, match="replicas of 1 GiB can be placed"):
        place(shape(3), nodes=nodes, planned=planned)


ROOMS = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=6)


@given(rooms=ROOMS, factor=st.integers(1, 3), seed=st.integers())
def test_a_placement_is_complete_distinct_roomy_and_independent_of_order(
    rooms: list[tuple[int, bool]], factor: int, seed: int
) -> None:
    nodes = [node(f"n{i}", free * GIB, ready=ready) for i, (free, ready) in enumerate(rooms)]
    shuffled = list(nodes)
    random.Random(seed).shuffle(shuffled)
    fit = {n.node_id for n in nodes if n.ready and n.free_bytes >= GIB}
    if len(fit) < factor:
        with pytest.raises(FailedPrecondition):
            place(shape(factor), nodes=shuffled, planned=[])
        return
    placed = place(shape(factor), nodes=shuffled, planned=[])
    assert placed == place(shape(factor), nodes=nodes, planned=[])
    assert len({s.node_id for s in placed.slots}) == factor
    assert {s.node_id for s in placed.slots} <= fit
    assert len({s.replica_id for s in placed.slots}) == factor


@given(
    rooms=ROOMS,
    factor=st.integers(1, 3),
    gone=st.integers(0, 2),
    refused=st.sets(st.integers(0, 5)),
)
def test_a_replacement_moves_nothing_else(
    rooms: list[tuple[int, bool]], factor: int, gone: int, refused: set[int]
) -> None:
    """D38: what holds data stays, whatever else could hold it now."""
    nodes = [node(f"n{i}", free * GIB, ready=ready) for i, (free, ready) in enumerate(rooms)]
    holders = [slot(f"r{i + 1}", f"h{i}") for i in range(factor)]
    leaving = holders[gone % factor]
    kept = [one for one in holders if one != leaving]
    ruled_out = {NodeId(f"n{i}"): "out" for i in refused}
    fit = {n.node_id for n in nodes if n.ready and n.free_bytes >= GIB} - ruled_out.keys()

    def choose() -> Placement:
        return place(
            shape(factor),
            nodes=[*nodes, *(node(one.node_id) for one in holders)],
            planned=[],
            existing=kept,
            refused={**ruled_out, leaving.node_id: "left"},
            taken=[one.replica_id for one in holders],
        )

    if not fit:
        with pytest.raises(FailedPrecondition):
            choose()
        return
    placed = choose()
    assert placed.slots[:-1] == tuple(kept)
    new = placed.slots[-1]
    assert new.node_id in fit
    assert new.replica_id not in {one.replica_id for one in holders}

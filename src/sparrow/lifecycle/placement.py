"""Which nodes host a volume's replicas: sticky, aware of room, explained node by node, and the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparrow.authority.types import DesiredVolume, PlacedSlot, VolumeShape
from sparrow.base.errors import FailedPrecondition
from sparrow.base.ids import NodeId, ReplicaId
from sparrow.base.units import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRoom:
    """One node as placement sees it. Sizes in bytes.

    ``free_bytes`` is what its pool's file system has left; ``replica_used_bytes`` what files of replicas take in it.
    """

    node_id: NodeId
    ready: bool
    eligible: bool = True
    total_bytes: int
    free_bytes: int
    replica_used_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a node was chosen or not; ``room_bytes`` is what was left for this volume before choosing."""

    node_id: NodeId
    chosen: bool
    reason: str
    room_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Slots in replica order, and one verdict per node in id order."""

    slots: tuple[PlacedSlot, ...]
    verdicts: tuple[Verdict, ...]


def place(
    shape: VolumeShape,
    *,
    nodes: Sequence[NodeRoom],
    planned: Sequence[DesiredVolume],
    existing: Sequence[PlacedSlot] = (),
) -> Placement:
    """Choose ``shape.replication_factor`` nodes.

    Slots in ``existing`` stay where they are, whatever has joined since: their data is there. The others go to the
    nodes with the most room once everything planned is subtracted, then to those that host fewer replicas, then by id.

    Args:
        planned: every desired volume, this one excepted.
    Raises:
        FailedPrecondition: too few nodes can take a replica; the hint says why, node by node.
    """
    kept = tuple(existing[: shape.replication_factor])
    holders = {slot.node_id: slot.replica_id for slot in kept}
    rooms = {node.node_id: _room(node, planned) for node in nodes}
    counts = {node.node_id: _hosted(node.node_id, planned) for node in nodes}
    refusals = {node.node_id: _refusal(node, shape, rooms[node.node_id]) for node in nodes}
    usable = [
        node.node_id
        for node in nodes
        if refusals[node.node_id] is None and node.node_id not in holders
    ]
    usable.sort(key=lambda node_id: (-rooms[node_id], counts[node_id], node_id))
    missing = shape.replication_factor - len(kept)
    chosen = usable[:missing]

    verdicts = tuple(
        Verdict(
            node_id=node_id,
            chosen=node_id in holders or node_id in chosen,
            reason=_reason(node_id, holders, chosen, refusals[node_id]),
            room_bytes=rooms[node_id],
        )
        for node_id in sorted(rooms)
    )
    if len(chosen) < missing:
        raise FailedPrecondition(
            f"Only {len(kept) + len(chosen)} of {shape.replication_factor} replicas of "
            f"{format_size(shape.size_bytes)} can be placed.",
            hint="; ".join(f"{v.node_id}: {v.reason}" for v in verdicts) + ".",
        )
    slots = [*kept]
    taken = {slot.replica_id for slot in kept}
    for node_id in chosen:
        replica_id = _next_replica_id(taken)
        taken.add(replica_id)
        slots.append(PlacedSlot(replica_id=replica_id, node_id=node_id))
    return Placement(slots=tuple(slots), verdicts=verdicts)


def _room(node: NodeRoom, planned: Sequence[DesiredVolume]) -> int:
    """What is left when every replica planned here is full.

    Files of replicas are part of what is planned, so what they take already is added back before subtracting.
    """
    promised = sum(
        volume.shape.size_bytes
        for volume in planned
        if any(slot.node_id == node.node_id for slot in volume.slots)
    )
    return max(0, min(node.free_bytes + node.replica_used_bytes, node.total_bytes) - promised)


def _hosted(node_id: NodeId, planned: Sequence[DesiredVolume]) -> int:
    return sum(slot.node_id == node_id for volume in planned for slot in volume.slots)


def _refusal(node: NodeRoom, shape: VolumeShape, room_bytes: int) -> str | None:
    if not node.ready:
        return "not heard from lately"
    if not node.eligible:
        return "takes no new replicas"
    if room_bytes < shape.size_bytes:
        free = format_size(node.free_bytes)
        return f"room for {format_size(room_bytes)} after what is planned ({free} free now)"
    return None


def _reason(
    node_id: NodeId,
    holders: dict[NodeId, ReplicaId],
    chosen: Sequence[NodeId],
    refusal: str | None,
) -> str:
    if node_id in holders:
        return f"already holds {holders[node_id]}"
    if refusal is not None:
        return refusal
    return "has room" if node_id in chosen else "has room, others have more"


def _next_replica_id(taken: set[ReplicaId]) -> ReplicaId:
    """``r1``, ``r2`` ...: the first that is free."""
    number = 1
    while f"r{number}" in taken:
        number += 1
    return ReplicaId(f"r{number}")

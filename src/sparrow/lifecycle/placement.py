"""Which nodes host a volume's replicas: sticky, aware of room, explained node by node, and the same every time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sparrow.authority.planned import Planned
from sparrow.authority.types import DesiredVolume, PlacedSlot, PlacementVerdict, VolumeShape
from sparrow.base.errors import FailedPrecondition
from sparrow.base.ids import NodeId, ReplicaId
from sparrow.base.units import format_size

#: Verdicts kept with a decision: all chosen nodes, then the others by id.
VERDICTS_MAX: Final = 64


#: Why a node is passed over that would be taken if no other could be.
DISK_FAILED: Final = "has room, but the disk under a replica there failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRoom:
    """One node as placement sees it. Sizes in bytes.

    ``free_bytes`` is what its pool's file system has left; ``replica_used_bytes`` what files of replicas take in it.
    ``eligible`` is the node's own word, ``refused`` why an operator keeps it out; empty if nobody does. ``zone`` is
    what fails with it as a whole; empty if nothing does. ``disk_failed``: it says so of a replica it has.
    """

    node_id: NodeId
    ready: bool
    eligible: bool = True
    refused: str = ""
    total_bytes: int
    free_bytes: int
    replica_used_bytes: int = 0
    zone: str = ""
    disk_failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Slots that stay, in their order, then new ones; and one verdict per node in id order."""

    slots: tuple[PlacedSlot, ...]
    verdicts: tuple[PlacementVerdict, ...]

    @property
    def kept_verdicts(self) -> tuple[PlacementVerdict, ...]:
        """What is recorded with the decision: bounded however many nodes there are."""
        passed = [verdict for verdict in self.verdicts if not verdict.chosen]
        chosen = [verdict for verdict in self.verdicts if verdict.chosen]
        kept = chosen + passed[: max(0, VERDICTS_MAX - len(chosen))]
        return tuple(sorted(kept, key=lambda verdict: verdict.node_id))


def place(
    shape: VolumeShape,
    *,
    nodes: Sequence[NodeRoom],
    planned: Iterable[DesiredVolume] | Planned,
    existing: Sequence[PlacedSlot] = (),
    refused: Mapping[NodeId, str] | None = None,
    taken: Collection[ReplicaId] = (),
) -> Placement:
    """Choose ``shape.replication_factor`` nodes.

    Slots in ``existing`` stay where they are, whatever has joined since: their data is there. The others go, one after
    the other, to zones that have no replica of the volume yet while there are any, and there to the node with the most
    room once everything planned is subtracted, then to the one that hosts fewer replicas, then by id. A node that has a
    replica whose disk failed comes last: what leaves it makes it the emptiest, and what went there would fail next.

    Args:
        planned: every desired volume, this one excepted, one by one or counted.
        refused: nodes that are out of the question for this volume, with the reason.
        taken: replica ids that new slots must not have.
    Raises:
        FailedPrecondition: too few nodes can take a replica; the hint says why, node by node.
    """
    kept = tuple(existing[: shape.replication_factor])
    holders = {slot.node_id: slot.replica_id for slot in kept}
    counted = planned if isinstance(planned, Planned) else Planned.of(planned)
    counts = counted.replicas
    rooms = {node.node_id: _room(node, counted.size_bytes[node.node_id]) for node in nodes}
    refusals = {
        node.node_id: (refused or {}).get(node.node_id)
        or _refusal(node, shape, rooms[node.node_id])
        for node in nodes
    }
    usable = [
        node.node_id
        for node in nodes
        if refusals[node.node_id] is None and node.node_id not in holders
    ]
    failed = {node.node_id for node in nodes if node.disk_failed}
    usable.sort(key=lambda one: (one in failed, -rooms[one], counts[one], one))
    missing = shape.replication_factor - len(kept)
    zones = {node.node_id: node.zone for node in nodes}
    chosen = _spread(usable, missing, zones, [zones.get(one, "") for one in holders])
    used_zones = {zones[one] for one in (*chosen, *holders) if zones.get(one)}

    verdicts = tuple(
        PlacementVerdict(
            node_id=node_id,
            chosen=node_id in holders or node_id in chosen,
            reason=_reason(
                node_id,
                holders,
                chosen,
                refusals[node_id] or (DISK_FAILED if node_id in failed - {*chosen} else None),
                _zone_words(zones[node_id], chosen=node_id in chosen, used=used_zones),
            ),
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
    used = {*taken, *(slot.replica_id for slot in kept)}
    for node_id in chosen:
        replica_id = _next_replica_id(used)
        used.add(replica_id)
        slots.append(PlacedSlot(replica_id=replica_id, node_id=node_id))
    return Placement(slots=tuple(slots), verdicts=verdicts)


def _spread(
    usable: Sequence[NodeId], count: int, zones: Mapping[NodeId, str], held: Iterable[str]
) -> list[NodeId]:
    """The first ``count`` nodes, those of zones not used yet before others. A node without a zone is one by itself."""
    left, chosen, used = list(usable), list[NodeId](), set(held) - {""}
    while left and len(chosen) < count:
        node_id = next((one for one in left if zones[one] not in used), left[0])
        left.remove(node_id)
        chosen.append(node_id)
        used |= {zones[node_id]} - {""}
    return chosen


def _room(node: NodeRoom, planned_bytes: int) -> int:
    """What is left when every replica planned here is full.

    Files of replicas are part of what is planned, so what they take already is added back before subtracting.
    """
    return max(0, min(node.free_bytes + node.replica_used_bytes, node.total_bytes) - planned_bytes)


def _refusal(node: NodeRoom, shape: VolumeShape, room_bytes: int) -> str | None:
    if node.refused:
        return node.refused
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
    zone: str,
) -> str:
    if node_id in holders:
        return f"already holds {holders[node_id]}"
    if refusal is not None:
        return refusal
    if node_id in chosen:
        return f"has room{zone}"
    return f"has room{zone or ', others have more'}"


def _zone_words(zone: str, *, chosen: bool, used: Collection[str]) -> str:
    """What a node's zone has to do with the choice; empty if nothing."""
    if chosen:
        return f", in zone {zone}" if zone else ""
    return f", zone {zone} has a replica already" if zone in used else ""


def _next_replica_id(taken: set[ReplicaId]) -> ReplicaId:
    """``r1``, ``r2`` ...: the first that is free."""
    number = 1
    while f"r{number}" in taken:
        number += 1
    return ReplicaId(f"r{number}")

"""What a plan for one volume is told, and what it answers with: one step, or what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from sparrow.authority.builder import VolumeSnapshot
from sparrow.authority.observation import NodeSight
from sparrow.authority.status import serving
from sparrow.authority.types import Ask, DesiredVolume, PlacedSlot, SlotFact
from sparrow.base.ids import NodeId, ReplicaId
from sparrow.lifecycle.nodes import NodeState
from sparrow.lifecycle.placement import Placement

#: Why a replica is placed or added when none leaves for it.
TOO_FEW: Final = "the volume has fewer replicas than it should"
TURN: Final = "waits for its turn"


class NotNow(Exception):
    """Others were looked at first, in vain. Whether a node can take a replica of this volume is not known."""


class Stage(StrEnum):
    """Where a replacement is; see ``replacement``."""

    PLACE = "place"
    FORMAT = "format"
    MOVE_PRIMARY = "move_primary"
    ADD = "add"
    REBUILD = "rebuild"
    TAKE_OUT = "take_out"
    DROP = "drop"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to ask of placement: slots that stay, nodes that are out, replica ids that are taken."""

    desired: DesiredVolume
    kept: tuple[PlacedSlot, ...]
    refused: Mapping[NodeId, str]
    taken: frozenset[ReplicaId]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One volume and the nodes around it, now.

    ``choose`` raises FailedPrecondition, with the reasons, when no node can take a replica, and NotNow when it did not
    look.
    """

    snapshot: VolumeSnapshot
    states: Mapping[NodeId, NodeState]
    sight: Callable[[NodeId], NodeSight]
    choose: Callable[[Choice], Placement]

    def state(self, node_id: NodeId) -> NodeState:
        return self.states.get(node_id, NodeState.ACTIVE)

    def report(self, node_id: NodeId, replica_id: ReplicaId) -> SlotFact | None:
        """What a node says of a replica, member or not."""
        for heard in self.snapshot.orphans:
            if (heard.sight.node_id, heard.fact.replica_id) == (node_id, replica_id):
                return heard.fact
        for slot in self.snapshot.slots:
            if (slot.node_id, slot.replica_id) == (node_id, replica_id):
                return slot.fact or slot.stranger
        return None

    def disk_failed(self, node_id: NodeId, replica_id: ReplicaId) -> bool:
        """Whether a node says, now, that it gave a replica up: a write or a flush failed, or its files are damaged."""
        fact = self.report(node_id, replica_id)
        return fact is not None and fact.disk_failed and self.sight(node_id).fresh

    def why_given_up(self, slot: PlacedSlot) -> str:
        """Why a replica is to be had on another node, for a person; empty when it may stay where it is."""
        state = self.state(slot.node_id)
        if state is NodeState.LOST:
            return f"{slot.node_id} was removed as lost"
        if state.gives_up_replicas:
            return f"{slot.node_id} is being drained"
        if self.disk_failed(slot.node_id, slot.replica_id):
            fact = self.report(slot.node_id, slot.replica_id)
            return why_failed(slot, unreadable=fact is not None and fact.unreadable)
        return ""

    def is_lost(self, slot: PlacedSlot) -> bool:
        """Whether a replica that is given up is no copy any more: its node or its disk is gone."""
        lost = self.state(slot.node_id) is NodeState.LOST
        return lost or self.disk_failed(slot.node_id, slot.replica_id)

    @property
    def serving(self) -> bool:
        line = self.snapshot.live_line
        slot = None if line is None else self.snapshot.slot(line.primary)
        return line is not None and slot is not None and serving(line, slot)


def why_failed(slot: PlacedSlot, *, unreadable: bool) -> str:
    """What happened to a replica that its own node gave up, for a person."""
    if unreadable:
        return f"the files of {slot.replica_id} on {slot.node_id} are damaged"
    return f"the disk under {slot.replica_id} on {slot.node_id} failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Make the desired volume durable as ``volume``."""

    replica_id: ReplicaId
    stage: Stage
    text: str
    volume: DesiredVolume


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Ask the publisher."""

    replica_id: ReplicaId
    stage: Stage
    text: str
    ask: Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing to do until something changes; ``text`` says what is waited for."""

    replica_id: ReplicaId
    stage: Stage
    text: str


Step: TypeAlias = Record | Submit | Wait

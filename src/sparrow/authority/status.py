"""How a volume does, in one word and one sentence for a person."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sparrow.authority.builder import Slot, VolumeSnapshot
from sparrow.authority.types import (
    DesiredVolume,
    FrontendTarget,
    Line,
    RoleClaim,
    SlotFact,
    VolumePhase,
)
from sparrow.base.ids import NodeId, ReplicaId, VolumeId


class VolumeState(StrEnum):
    CREATING = "creating"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNAVAILABLE = "unavailable"
    DELETING = "deleting"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """``role``: primary, in_sync, eligible, set_aside, catching_up, away, placed, or stray for no member."""

    replica_id: ReplicaId
    node_id: NodeId
    role: str
    fact: SlotFact | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeStatus:
    """``cause`` is empty when healthy. ``frontends`` only where the primary's own fresh words name them.

    ``size_bytes`` is the longest any replica says, 0 when none says: a commit that one has heard of is one.
    """

    volume_id: VolumeId
    state: VolumeState
    cause: str
    line: Line | None
    desired: DesiredVolume | None
    replicas: tuple[ReplicaStatus, ...] = ()
    frontends: tuple[FrontendTarget, ...] = ()
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """``state``: ready or lost. ``heard_at`` on the master's clock, None before the first heartbeat."""

    node_id: NodeId
    state: str
    incarnation: int | None
    heard_at: float | None
    stream_open: bool
    replica_count: int
    primary_count: int


def serving(line: Line, slot: Slot) -> bool:
    """Whether the primary itself says, freshly, that it serves in the line's epoch."""
    fact = slot.fact
    return (
        slot.sight.up
        and fact is not None
        and fact.gate_open
        and fact.role_claim is RoleClaim.PRIMARY
        and fact.lineage is not None
        and fact.lineage.epoch == line.lineage.epoch
    )


def judge(snapshot: VolumeSnapshot, *, doubt: str, explanation: str) -> VolumeStatus:
    """The status of a volume from what is known now, supported or not.

    Args:
        doubt: evidence that something is wrong with the volume; empty if there is none.
        explanation: the controller's last reason.
    """
    desired, line = snapshot.desired, snapshot.live_line
    state, cause = _state(snapshot, doubt, explanation)
    frontends: tuple[FrontendTarget, ...] = ()
    if line is not None:
        primary = snapshot.slot(line.primary)
        if primary is not None and primary.fact is not None and serving(line, primary):
            frontends = primary.fact.frontends
    return VolumeStatus(
        volume_id=snapshot.volume_id,
        state=state,
        cause=cause,
        line=snapshot.line,
        desired=desired,
        replicas=tuple(_replica(slot, line) for slot in snapshot.slots),
        frontends=frontends,
        size_bytes=max((slot.fact.size_bytes for slot in snapshot.slots if slot.fact), default=0),
    )


def _state(snapshot: VolumeSnapshot, doubt: str, explanation: str) -> tuple[VolumeState, str]:
    desired, line = snapshot.desired, snapshot.live_line
    if desired is not None and desired.phase is VolumePhase.DELETING:
        waiting = [slot.node_id for slot in snapshot.slots if slot.fact or not slot.sight.fresh]
        where = f"waiting for {', '.join(waiting)} to delete its replica" if waiting else "ending"
        return VolumeState.DELETING, doubt or where
    if line is None:
        lost = desired is None or desired.phase is VolumePhase.ACTIVE
        state = VolumeState.UNAVAILABLE if lost else VolumeState.CREATING
        return state, doubt or explanation or "waiting for its replicas"
    primary = snapshot.slot(line.primary)
    assert primary is not None, "a line's primary is one of its members"
    if not serving(line, primary):
        if desired is not None and desired.phase is VolumePhase.CREATING:
            return VolumeState.CREATING, doubt or _why_not_serving(line, primary, explanation)
        why = doubt or _why_not_serving(line, primary, explanation)
        who = f"{line.primary} on {primary.node_id}"
        return VolumeState.UNAVAILABLE, f"the primary {who} does not serve: {why}"
    count = len(line.in_sync)
    if count < line.min_in_sync:
        cause = f"only {count} of at least {line.min_in_sync} replicas in sync: writes wait{_readable(line)}"
        return VolumeState.UNAVAILABLE, cause + _aside(line)
    if doubt:
        return VolumeState.DEGRADED, doubt
    if count < line.replication_factor:
        out = [m for m in line.members if m.replica_id not in line.in_sync]
        names = ", ".join(f"{m.replica_id} on {m.node_id}" for m in out) or "a replica"
        cause = f"{names} not in sync ({count} of {line.replication_factor}){_aside(line)}"
        return VolumeState.DEGRADED, cause
    return VolumeState.HEALTHY, ""


def _readable(line: Line) -> str:
    """Below the minimum an eligible replica may be made primary, so reads need its grant (docs/decisions/0007)."""
    if not line.eligible:
        return ", reads are served"
    return f", reads are served while {', '.join(line.eligible)} can be reached"


def _aside(line: Line) -> str:
    if not line.set_aside:
        return ""
    return f"; {', '.join(line.set_aside)} set aside, see `sparrow volume discard-divergent`"


def _why_not_serving(line: Line, primary: Slot, explanation: str) -> str:
    fact = primary.fact
    if not primary.sight.up or fact is None:
        return explanation or _why_unknown(primary)
    if fact.lineage is None or fact.lineage.epoch < line.lineage.epoch:
        return f"it has not acted on epoch {line.lineage.epoch} yet"
    if len(line.in_sync) < line.min_in_sync and line.eligible:
        names = ", ".join(line.eligible)
        return f"it may not answer reads without {names}, which could be made primary beside it"
    return f"it is opening it, or waits for its peers (gate of epoch {line.lineage.epoch} closed)"


def _why_unknown(primary: Slot) -> str:
    """Nothing was decided about it yet."""
    if primary.sight.heard_at is None:
        return f"{primary.node_id} was not heard since the master started"
    return f"{primary.node_id} has told nothing of it lately"


def _replica(slot: Slot, line: Line | None) -> ReplicaStatus:
    return ReplicaStatus(
        replica_id=slot.replica_id,
        node_id=slot.node_id,
        role=_role(slot, line),
        fact=slot.fact or slot.stranger,
    )


def _role(slot: Slot, line: Line | None) -> str:
    if line is None:
        return "placed"
    if slot.replica_id == line.primary:
        return "primary" if slot.sight.up else "primary, away"
    if slot.replica_id in line.set_aside:
        return "set_aside" if slot.sight.up else "set_aside, away"
    if slot.replica_id in line.in_sync:
        return "in_sync" if slot.sight.up else "in_sync, away"
    if not slot.sight.up:
        return "away"
    if slot.stranger is not None and slot.fact is None:
        return "unreadable" if slot.stranger.unreadable else "replaced"
    if slot.replica_id in line.eligible:
        return "eligible"
    return "rebuilding" if slot.fact and slot.fact.state == "rebuilding" else "catching_up"

"""What the authority loop wants done. Everything in an effect is durable already, so order among them is free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from sparrow.authority.results import AskResult
from sparrow.authority.types import AssignmentFact, Line, VolumePhase
from sparrow.base.access import AccessList, Secret
from sparrow.base.ids import NodeId, ReplicaId, VolumeId


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReplica:
    """The node is to have files for this slot: format them if there are none, then report their uuid."""

    volume_id: VolumeId
    replica_id: ReplicaId
    size_bytes: int
    block_size: int
    #: What the volume is to become; 0 where nothing more was asked for.
    size_wanted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowAccess:
    """Who may use the volume from now on; told to every node that has to do with it, and makes no files.

    Attributes:
        secrets: those the list names; put in on the way to the node, and nowhere before.
    """

    volume_id: VolumeId
    access: AccessList
    secrets: tuple[Secret, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveReplica:
    """Stop serving, then delete the replica's files: ``tombstone`` proves that they are not wanted any more.

    It is the line that retired the volume, or a live one whose members this replica is not among.
    """

    volume_id: VolumeId
    replica_id: ReplicaId
    tombstone: Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """Ends the burst a new stream begins with: everything known now has been sent."""

    master_generation: int


Instruction: TypeAlias = HostReplica | AllowAccess | AssignmentFact | RemoveReplica | Synced


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Send an instruction down a node's stream. Of one volume only the newest matters to a slow reader."""

    node_id: NodeId
    stream_id: int
    instruction: Instruction


@dataclass(frozen=True, slots=True, kw_only=True)
class AskAnswer:
    """The outcome of a ``NodeAsk``. ``PutFailed`` is no answer: fail the call as unavailable."""

    token: int
    result: AskResult


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseChanged:
    """Record the desired volume's new phase."""

    volume_id: VolumeId
    phase: VolumePhase


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeGone:
    """Every replica of a deleted volume is gone: forget the desired volume. Its tombstone stays."""

    volume_id: VolumeId


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """A structured event to log: a name of ``base/events.py`` and its facts; ``failed`` when a person must act."""

    name: str
    failed: bool = False
    fields: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeAt:
    """Send a ``Tick`` at this time at the latest; replaces the previous one. Last effect of every step that has one."""

    at: float


LoopEffect: TypeAlias = Deliver | AskAnswer | PhaseChanged | VolumeGone | LogEvent | WakeAt

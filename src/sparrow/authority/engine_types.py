"""State, events and commands of the engine that brings one peer of a primary back. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from sparrow.base.ids import Lsn, ReplicaId, VolumeId


class Contact(StrEnum):
    UNKNOWN = "unknown"
    PROBING = "probing"
    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"


class RecoveryDecision(StrEnum):
    UNKNOWN = "unknown"
    NONE = "none"
    CATCH_UP = "catch_up"
    REBUILD = "rebuild"


class SessionKind(StrEnum):
    CATCH_UP = "catch_up"
    REBUILD = "rebuild"


class SessionPhase(StrEnum):
    NONE = "none"
    STARTING = "starting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class GrowPhase(StrEnum):
    """The way of a caught-up peer into the in-sync set."""

    NONE = "none"
    #: Asked of the executor: make it durable that commits need this peer.
    PREPARING = "preparing"
    PENDING = "pending"
    ASKED = "asked"


class FailureKind(StrEnum):
    """Why a session ended badly. The engine branches on this alone; texts are for people."""

    UNKNOWN = "unknown"
    WAL_RECYCLED = "wal_recycled"
    TRANSPORT = "transport"
    SUBSTRATE_IO = "substrate_io"
    TARGET_NOT_REACHED = "target_not_reached"
    START_TIMEOUT = "start_timeout"
    SESSION_INVALIDATED = "session_invalidated"
    PIN_UNDER_RETENTION = "pin_under_retention"


class JoinRefusal(StrEnum):
    NO_COMMON_POINT = "no_common_point"
    REBUILDING = "rebuilding"
    QUARANTINED = "quarantined"


class Mode(StrEnum):
    IDLE = "idle"
    RECOVERING = "recovering"
    HEALTHY = "healthy"
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """Everything the engine knows of one peer. The zero state is valid and says nothing.

    R (``peer_lsn``) is the peer's durable LSN: set by Joined, by later acks of the term, and by a finished session,
    never by a probe. S (``oldest_lsn``) is the oldest LSN retained here, H (``head_lsn``) the newest assigned.
    """

    volume_id: VolumeId = VolumeId("")
    replica_id: ReplicaId = ReplicaId("")
    epoch: int = 0
    endpoint_version: int = 0
    data_addr: str = ""
    ctrl_addr: str = ""
    member_present: bool = False
    #: The recorded line counts this peer as in sync.
    in_sync: bool = False

    contact: Contact = Contact.UNKNOWN
    observed_endpoint_version: int = 0
    transport_epoch: int = 0
    fenced_epoch: int = 0
    last_contact: str = ""

    joined: bool = False
    peer_lsn: Lsn = Lsn(0)
    oldest_lsn: Lsn = Lsn(0)
    head_lsn: Lsn = Lsn(0)
    decision: RecoveryDecision = RecoveryDecision.UNKNOWN
    decision_reason: str = ""
    attempts: int = 0
    rebuild_pinned: bool = False
    #: A session has closed and no ack has shown yet that the peer still follows.
    window_closed: bool = False
    closed_at_lsn: Lsn = Lsn(0)
    ack_samples: int = 0
    acked_lsn: Lsn = Lsn(0)
    acked_head_lsn: Lsn = Lsn(0)

    session_id: int = 0
    session_kind: SessionKind = SessionKind.CATCH_UP
    frontier_hint: Lsn = Lsn(0)
    achieved_lsn: Lsn = Lsn(0)
    phase: SessionPhase = SessionPhase.NONE
    failure: str = ""

    grow: GrowPhase = GrowPhase.NONE
    frozen_lsn: Lsn = Lsn(0)
    grant_held: bool = False
    grow_basis: int = 0

    healthy: bool = False

    @property
    def session_active(self) -> bool:
        return self.phase in (SessionPhase.STARTING, SessionPhase.RUNNING)


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentObserved:
    volume_id: VolumeId
    replica_id: ReplicaId
    epoch: int
    endpoint_version: int
    data_addr: str = ""
    ctrl_addr: str = ""
    in_sync: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointObserved:
    """The peer is elsewhere, though the line did not change."""

    replica_id: ReplicaId
    data_addr: str
    ctrl_addr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRemoved:
    replica_id: ReplicaId


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSucceeded:
    """Zero in a lineage field means "not stated"."""

    replica_id: ReplicaId
    endpoint_version: int = 0
    transport_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFailed:
    replica_id: ReplicaId
    endpoint_version: int = 0
    transport_epoch: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """The peer made the common point durable in this term: R from here on is real."""

    replica_id: ReplicaId
    peer_lsn: Lsn
    oldest_lsn: Lsn
    head_lsn: Lsn
    endpoint_version: int = 0
    transport_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRefused:
    replica_id: ReplicaId
    refusal: JoinRefusal
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableAckObserved:
    """An ack of this term, with what is retained and assigned here."""

    replica_id: ReplicaId
    peer_lsn: Lsn
    oldest_lsn: Lsn
    head_lsn: Lsn
    grant_held: bool = True
    endpoint_version: int = 0
    transport_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPrepared:
    replica_id: ReplicaId
    session_id: int
    kind: SessionKind
    frontier_hint: Lsn = Lsn(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStarted:
    replica_id: ReplicaId
    session_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionProgressObserved:
    replica_id: ReplicaId
    session_id: int
    achieved_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClosedCompleted:
    replica_id: ReplicaId
    session_id: int
    achieved_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClosedFailed:
    replica_id: ReplicaId
    session_id: int
    kind: FailureKind
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInvalidated:
    replica_id: ReplicaId
    session_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceCompleted:
    replica_id: ReplicaId
    epoch: int
    endpoint_version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceFailed:
    replica_id: ReplicaId
    epoch: int
    endpoint_version: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPending:
    """Pending is durable and commits need the peer; ``frozen_lsn`` is the commit LSN of that moment."""

    replica_id: ReplicaId
    frozen_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowAsked:
    """The Grow left for the master, decided against this endpoint version."""

    replica_id: ReplicaId
    basis_endpoint_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowRefused:
    """A recorded refusal that names the basis. A transport error is none."""

    replica_id: ReplicaId
    basis_endpoint_version: int


EngineEvent: TypeAlias = (
    AssignmentObserved
    | EndpointObserved
    | ReplicaRemoved
    | ProbeSucceeded
    | ProbeFailed
    | Joined
    | JoinRefused
    | DurableAckObserved
    | SessionPrepared
    | SessionStarted
    | SessionProgressObserved
    | SessionClosedCompleted
    | SessionClosedFailed
    | SessionInvalidated
    | FenceCompleted
    | FenceFailed
    | PeerPending
    | GrowAsked
    | GrowRefused
)

# ---------------------------------------------------------------- commands


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReplica:
    replica_id: ReplicaId
    epoch: int
    endpoint_version: int
    data_addr: str
    ctrl_addr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinReplica:
    """Find the common point and let the peer cut to it; only once this primary has adopted."""

    replica_id: ReplicaId
    epoch: int
    endpoint_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartCatchUp:
    replica_id: ReplicaId
    epoch: int
    endpoint_version: int
    from_lsn: Lsn
    frontier_hint: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRebuild:
    replica_id: ReplicaId
    epoch: int
    endpoint_version: int
    frontier_hint: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidateSession:
    replica_id: ReplicaId
    session_id: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceAtEpoch:
    replica_id: ReplicaId
    epoch: int
    endpoint_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MakePending:
    """Make it durable that commits need the peer, then say ``PeerPending``. Only while the control stream is live."""

    replica_id: ReplicaId


@dataclass(frozen=True, slots=True, kw_only=True)
class AskGrow:
    replica_id: ReplicaId
    epoch: int
    endpoint_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishHealthy:
    replica_id: ReplicaId


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishDegraded:
    replica_id: ReplicaId
    reason: str


EngineCommand: TypeAlias = (
    ProbeReplica
    | JoinReplica
    | StartCatchUp
    | StartRebuild
    | InvalidateSession
    | FenceAtEpoch
    | MakePending
    | AskGrow
    | PublishHealthy
    | PublishDegraded
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one event came to. ``trace`` names the rules that applied, for people and tests."""

    state: EngineState
    commands: tuple[EngineCommand, ...]
    trace: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """A peer as shown; never an input to a decision."""

    mode: Mode
    decision: RecoveryDecision
    session_kind: SessionKind
    phase: SessionPhase
    epoch: int
    endpoint_version: int
    peer_lsn: Lsn
    oldest_lsn: Lsn
    head_lsn: Lsn
    reason: str

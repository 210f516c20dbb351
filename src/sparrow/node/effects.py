"""What the machines of a primary want done. Each command is answered by one event of ``node.events``.

``link`` is the id of the link that the command is about, and of its answer (``node.link_ids``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from sparrow.authority.types import Lineage, Term
from sparrow.base.ids import Epoch, LinkId, Lsn, ReplicaId, ReplicaUuid
from sparrow.ports.dataplane import LogSummary, RebuildPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginTerm:
    """Promise the epoch to ourselves and fence ourselves: TermBegun or TermRefused."""

    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class SendFence:
    """FenceAnswered or FenceFailed, within ``timeout_s``."""

    replica: ReplicaId
    term: Term
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt:
    """Cut the own log to the common point with ``log``, then take over the rest from its owner."""

    source: ReplicaId
    log: LogSummary
    term: Term


@dataclass(frozen=True, slots=True, kw_only=True)
class SendJoin:
    """JoinAnswered or JoinFailed."""

    replica: ReplicaId
    link: LinkId
    term: Term
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRebuild:
    """Ask the peer to make its files ready, keeping what it can: RebuildPrepared or RebuildRefused."""

    replica: ReplicaId
    link: LinkId
    uuid: ReplicaUuid
    term: Term


@dataclass(frozen=True, slots=True, kw_only=True)
class StartShip:
    """Connect and hand the link to the core: ShipStarted or ShipFailed. ``uuid`` is of the files it showed."""

    replica: ReplicaId
    link: LinkId
    uuid: ReplicaUuid
    term: Term
    joined_lsn: Lsn
    #: What a peer made ready for a rebuild kept; None feeds the log alone.
    rebuild: RebuildPlan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DropPeer:
    """Stop feeding the peer; a connection that is being made for it ends as well."""

    replica: ReplicaId


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMembership:
    """MembershipSet, with the ``attempt``. ``one_of``: besides those needed, one of these is enough."""

    needed: tuple[ReplicaId, ...]
    writable: bool
    one_of: tuple[ReplicaId, ...] = ()
    ack_local: bool = False
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitInherited:
    """Log the term-start entry: InheritedCommitted once it is committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenGate:
    """The volume may serve when ``wait_ms`` have passed and the grants are held."""

    wait_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPending:
    """Make the pending peers durable with the newest line: PendingRecorded."""

    pending: tuple[ReplicaId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitAcked:
    """PeerAcked when the peer has this LSN; nothing when its link breaks, LinkLost says so."""

    replica: ReplicaId
    lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class AskShrink:
    """Ask the master to take a peer out; asked again until it is answered. AskEnded."""

    replica: ReplicaId
    basis: Lineage
    reason: str
    clear_eligible: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AskGrow:
    """Ask the master to take a peer in; asked again until it is answered. AskEnded."""

    replica: ReplicaId
    basis: Lineage
    uuid: ReplicaUuid


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDown:
    """A newer promise was seen: stop serving this term until the master's newer line arrives."""

    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A structured event to log: a name of ``base.events`` and its facts."""

    event: str
    facts: dict[str, object] = field(default_factory=dict)


PrimaryEffect: TypeAlias = (
    BeginTerm
    | SendFence
    | Adopt
    | SendJoin
    | PrepareRebuild
    | StartShip
    | DropPeer
    | SetMembership
    | CommitInherited
    | OpenGate
    | RecordPending
    | AwaitAcked
    | AskShrink
    | AskGrow
    | StepDown
    | Report
)

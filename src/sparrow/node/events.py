"""What happens to the machines of a primary: answers of peers, outcomes of commands, lines, time.

Whatever is said of a link to a peer, from its join to its end, carries its id (``node.link_ids``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from sparrow.authority.types import Intent, Line, Lineage, Term
from sparrow.base.ids import LinkId, Lsn, ReplicaId, ReplicaUuid
from sparrow.ports.dataplane import FenceReport, LogSummary, PeerStatus, RebuildPlan
from sparrow.rpc.messages import JoinAnswerOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class TermBegun:
    """The new term is durable here. ``own`` is this replica's own answer to its fence."""

    term: Term
    own: FenceReport


@dataclass(frozen=True, slots=True, kw_only=True)
class TermRefused:
    """The core would not begin the term: something newer is promised here, or the disk failed."""

    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceAnswered:
    replica: ReplicaId
    report: FenceReport


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceFailed:
    """No usable answer. ``superseded``: the peer holds a newer promise, so this term is over."""

    replica: ReplicaId
    cause: str
    superseded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChanged:
    """A newer line of the same epoch that still names this replica primary; durable already."""

    line: Line
    pending: tuple[ReplicaId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAdopted:
    """The own log now ends where the adopted one does."""

    log: LogSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptFailed:
    """``lasting``: there is no common point, trying again cannot help by itself."""

    source: ReplicaId
    cause: str
    lasting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinAnswered:
    """The peer's answer, held against the own log: ``check_matches`` compares the checksum at ``joined_lsn``.

    ``oldest_lsn`` and ``head_lsn`` are of the own log when the answer came.
    """

    replica: ReplicaId
    link: LinkId
    uuid: ReplicaUuid
    outcome: JoinAnswerOutcome
    joined_lsn: Lsn
    check_matches: bool
    oldest_lsn: Lsn
    head_lsn: Lsn
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinFailed:
    replica: ReplicaId
    link: LinkId
    cause: str
    superseded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ShipStarted:
    """The core feeds the peer over the new link."""

    replica: ReplicaId
    link: LinkId
    rebuild: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ShipFailed:
    replica: ReplicaId
    link: LinkId
    cause: str
    superseded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLost:
    """A link that stood is gone."""

    replica: ReplicaId
    link: LinkId
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipSet:
    """Commits and the gate need these peers from now on; ``frozen_lsn`` was the commit LSN at that moment."""

    needed: tuple[ReplicaId, ...]
    frozen_lsn: Lsn
    one_of: tuple[ReplicaId, ...] = ()
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InheritedCommitted:
    """The term-start entry is committed, and with it everything before it."""

    lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandFailed:
    """The core could not carry out a command; the volume stays as it is."""

    command: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AskEnded:
    """The master answered an ask for good: with a line (``refusal`` None, the line comes as LineChanged) or a no."""

    intent: Intent
    replica: ReplicaId
    basis: Lineage
    refusal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRecorded:
    """These peers are durable as pending under the newest line."""

    pending: tuple[ReplicaId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAcked:
    """The peer has everything up to ``lsn``, confirmed in this term."""

    replica: ReplicaId
    lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildPrepared:
    """The peer's files are marked as being rebuilt; base and live lane may start where the plan says."""

    replica: ReplicaId
    link: LinkId
    uuid: ReplicaUuid
    plan: RebuildPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildRefused:
    replica: ReplicaId
    link: LinkId
    cause: str
    superseded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseComplete:
    """Base and live lane met at the peer: it holds everything up to ``lsn``."""

    replica: ReplicaId
    link: LinkId
    lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersSeen:
    """The core's view of all peers with a link, taken now, with the own log's ends."""

    peers: tuple[tuple[ReplicaId, PeerStatus], ...]
    oldest_lsn: Lsn
    head_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlChanged:
    """The subscription to the master is live, or not any more."""

    live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LeavingTold:
    """The master's word on who is to be taken out of in_sync."""

    replicas: tuple[ReplicaId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time passed; sent at ``wake_at``."""


PrimaryEvent: TypeAlias = (
    TermBegun
    | TermRefused
    | FenceAnswered
    | FenceFailed
    | LineChanged
    | LogAdopted
    | AdoptFailed
    | JoinAnswered
    | JoinFailed
    | ShipStarted
    | ShipFailed
    | LinkLost
    | MembershipSet
    | InheritedCommitted
    | CommandFailed
    | AskEnded
    | PendingRecorded
    | PeerAcked
    | RebuildPrepared
    | RebuildRefused
    | BaseComplete
    | PeersSeen
    | ControlChanged
    | LeavingTold
    | Tick
)

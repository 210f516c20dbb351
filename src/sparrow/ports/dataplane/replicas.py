"""What control tells the core of a replica and its peers, and what the core answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from sparrow.authority.types import Line, ReplicaState, Term
from sparrow.base.ids import Epoch, Lsn, ReplicaId, ReplicaUuid, VolumeId


@dataclass(frozen=True, slots=True, kw_only=True)
class TermRow:
    """The LSNs of one term in one log, both ends included."""

    term: Term
    first_lsn: Lsn
    last_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSummary:
    """What a replica's log holds. ``terms`` oldest first; empty for a blank replica."""

    uuid: ReplicaUuid
    terms: tuple[TermRow, ...]
    last_term: Term
    last_lsn: Lsn
    #: Header checksum of the batch that ends at ``last_lsn``; the next batch names it as its parent.
    last_check: int
    oldest_lsn: Lsn
    durable_lsn: Lsn
    commit_lsn: Lsn
    applied_lsn: Lsn
    #: Entries up to here are known to have existed; above ``last_lsn`` they were damaged here.
    must_reach_lsn: Lsn
    state: ReplicaState
    suspect: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenReport:
    """What was found when a replica's files were opened and its log was walked."""

    replica_id: ReplicaId
    size_bytes: int
    block_size: int
    log: LogSummary
    promised_epoch: Epoch
    promised_primary: ReplicaId | None
    #: Newest line this replica acted on, and the peers that were pending under it.
    line: Line | None
    pending: tuple[ReplicaId, ...]
    #: The log ended in a torn batch that had never been acknowledged, after this LSN; None when it ended cleanly.
    torn_after_lsn: Lsn | None
    #: The log is damaged after this LSN: entries that were durable once cannot be read. None normally.
    damaged_after_lsn: Lsn | None
    #: Retained batches up to this LSN, all applied, were damaged and let go: nothing is lost here. None normally.
    let_go_to_lsn: Lsn | None = None
    #: Blocks of checksums that a loss of power tore, and that were made whole from the log.
    completed_blocks: int = 0
    #: One superblock copy was lost, and with it perhaps a newer promise.
    superblock_damaged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceReport:
    """Answer of a fenced replica. The promise to the fencing term is durable when this exists."""

    log: LogSummary
    #: How long a promise to somebody else still runs here, hold-off after process start included.
    promise_ms: int
    promised_epoch: Epoch
    #: The newest of the older terms that were promised anything, and how long promises to all others run. The first
    #: is void once its primary says that this term is closed.
    promised_to: Term | None = None
    older_promise_ms: int = 0
    #: The newest older term this replica was primary of itself: its gate is closed for good.
    closed: Term | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverySettings:
    """What bringing peers back may cost.

    Attributes:
        rebuild_rate_mib: MiB per second that all rebuilds of this node may copy; 0 for no cap.
        rebuild_stretch_percent: what a rebuild may make of the usual 99th percentile of clients' writes.
        wal_pin_percent: how full a log may get for a peer that is still read from it; past that the peer is rebuilt.
    """

    rebuild_rate_mib: int = 0
    rebuild_stretch_percent: int = 130
    wal_pin_percent: int = 80


class RebuildKind(IntEnum):
    """How much a rebuild session copies."""

    #: An interrupted session goes on: what it copied stays, and the log goes on where it ended.
    RESUMED = 1
    #: What is there stays; what changed since ``from_lsn`` is copied, and everything from the cursor on.
    DELTA = 2
    FULL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildPlan:
    """What a replica kept when it was made ready for a rebuild; the primary copies the rest.

    Pages below ``cursor`` hold every entry up to ``from_lsn``; those below ``patched`` also what lies between that and
    ``base_lsn``, where the replica's log begins. RESUMED: that log ends at ``joined_lsn`` and goes on from there.
    """

    kind: RebuildKind
    joined_lsn: Lsn = Lsn(0)
    cursor: int = 0
    from_lsn: Lsn = Lsn(0)
    base_lsn: Lsn = Lsn(0)
    patched: int = 0
    #: Of the volume, as that log has it.
    pages: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """What this replica knows of a member outside the in-sync set: what changed after ``from_lsn``."""

    uuid: ReplicaUuid
    from_lsn: Lsn
    #: 64 KiB each; more are added when the map is used.
    changed_granules: int


class PeerPhase(IntEnum):
    """What the core does with one peer's link."""

    NONE = 0
    SHIPPING = 1
    REBUILDING = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """One peer of a volume this node is primary of."""

    slot: int
    phase: PeerPhase
    #: Durable on the peer, confirmed in this term; 0 until joined.
    acked_lsn: Lsn
    shipped_lsn: Lsn
    #: The peer's grant stands now.
    granted: bool
    #: Milliseconds since anything was heard on the link; 0 for less than ``authority.evidence.PEER_HEARD_S``,
    #: and of one that is neither fed nor needed.
    silent_ms: int
    #: Pages the base lane has dealt with and is to deal with since it began last, 0 and 0 outside a rebuild.
    base_pages_done: int
    base_pages_total: int
    #: How long the oldest entry it has not acknowledged has been on its way; 0 when it has everything, or is neither
    #: fed nor needed.
    lag_ms: int = 0
    #: The longest that an acknowledgement took, of those that came in the last second or half second.
    worst_ack_ms: int = 0
    rebuild_kind: RebuildKind | None = None
    #: It applies nothing, for want of room in its pool.
    pool_full: bool = False
    #: Shipped over all links to this peer since the volume was opened: batches of the log, pages of rebuilds.
    log_bytes: int = 0
    base_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeStatus:
    """One volume in the core at one moment."""

    volume_id: VolumeId
    term: Term
    promised_epoch: Epoch
    gate_open: bool
    log: LogSummary
    disk_failed: bool
    pool_full: bool
    #: Reads go on, writes are refused: the disk failed under the last in-sync copy.
    frozen: bool
    sessions: int
    #: Milliseconds since the primary's link was last heard, None when there is no link or this is the primary; 0 for
    #: less than ``authority.evidence.PEER_HEARD_S``.
    primary_silent_ms: int | None
    peers: tuple[PeerStatus, ...]
    reads: int
    writes: int
    read_bytes: int
    written_bytes: int
    #: How long the oldest write of this replica's own log has been on its way to the disk; 0 when none is.
    own_lag_ms: int = 0
    absences: tuple[Absence, ...] = ()

    def absence(self, uuid: ReplicaUuid) -> Absence | None:
        """The map of a member, if there is one."""
        return next((one for one in self.absences if one.uuid == uuid), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """Who must have a write before it commits, and whose grant the gate needs: this replica, and what stands here."""

    needed: tuple[int, ...]
    #: New entries of this term may commit: false below min_in_sync.
    writable: bool
    #: And one of these, whichever is first (ack=quorum); none when empty.
    one_of: tuple[int, ...] = ()
    #: A write is answered, and seen by reads, when it is durable here (ack=local); it commits as any other.
    ack_local: bool = False


class JoinOutcome(StrEnum):
    JOINED = "joined"
    NO_COMMON_POINT = "no_common_point"
    QUARANTINED = "quarantined"

"""Between nodes, about replicas and about copies of the master's store."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from sparrow.authority.types import Line, ReplicaState, Term
from sparrow.base.ids import Lsn, ReplicaId, ReplicaUuid, VolumeId
from sparrow.ports.dataplane import LogSummary, RebuildPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceRequest:
    """Answered with ``ports.dataplane.FenceReport``."""

    line: Line
    term: Term
    primary: ReplicaId


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeRequest:
    """What a caller begins with: the cluster key it will prove, and a nonce of its own."""

    key_id: bytes
    nonce: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeAnswer:
    """The nonce of the process that answers, and the proof that it knows the key."""

    nonce: bytes
    proof: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLogRequest:
    volume_id: VolumeId
    term: Term
    from_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChunk:
    """Whole batches: the bytes of the log itself."""

    batches: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """The primary's log, so that the follower can find the common point and cut to it."""

    volume_id: VolumeId
    replica_id: ReplicaId
    term: Term
    primary: ReplicaId
    log: LogSummary
    line: Line


class JoinAnswerOutcome(IntEnum):
    JOINED = 1
    NO_COMMON_POINT = 2
    QUARANTINED = 3
    REBUILDING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinAnswer:
    """``joined_check`` is the header checksum of the batch that ends at ``joined_lsn``."""

    outcome: JoinAnswerOutcome
    joined_lsn: Lsn
    joined_check: int
    log: LogSummary
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRebuildRequest:
    volume_id: VolumeId
    replica_id: ReplicaId
    term: Term
    primary: ReplicaId
    log: LogSummary
    line: Line
    #: Where the primary's map of what this replica misses begins; None without a map.
    changed_from: Lsn | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRebuildAnswer:
    uuid: ReplicaUuid
    plan: RebuildPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PageDigestRequest:
    """Answered with ``ports.dataplane.PageDigests``."""

    volume_id: VolumeId
    at_lsn: Lsn
    first_page: int
    page_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPageRequest:
    volume_id: VolumeId
    at_least_lsn: Lsn
    page: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPageAnswer:
    """One page of the committed view; ``check`` is its CRC32C."""

    as_of_lsn: Lsn
    data: bytes
    check: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSumsRequest:
    """Answered with ``ports.dataplane.SumsImage``."""

    volume_id: VolumeId
    block: int
    at_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    volume_id: VolumeId


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyProgress:
    """How far a comparison of replicas is; ``different_pages`` are those found since the last message."""

    pages_done: int
    pages_total: int
    lsn: Lsn
    replicas: tuple[ReplicaId, ...]
    different_pages: tuple[int, ...] = ()
    finished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubRequest:
    """Asks for the state of scrubs; ``start`` begins one where none is running."""

    volume_id: VolumeId
    start: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubStatus:
    """The scrub that runs on one replica, or the last one. Pages, blocks of checksums, batches, superblocks count."""

    replica_id: ReplicaId
    running: bool
    pages_done: int
    pages_total: int
    #: Batches of the log that were read.
    batches: int
    damaged: int
    repaired: int
    unrepairable: int
    #: Pages that differ between replicas although each is as its own sum says.
    different: int
    #: Unix time, seconds, of the last one that came to its end; 0 before the first.
    finished_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubReport:
    replicas: tuple[ScrubStatus, ...]
    #: Replicas whose node could not be asked.
    unreachable: tuple[ReplicaId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLinesRequest:
    """A master asks a node what it holds; 0 when it has no generation yet. Answered with ``NodeAnswer``."""

    master_generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseReplicaRequest:
    """An operator's word about kept files: ``state`` clean (believe them) or rebuilding (they may be emptied).

    ``line`` is the newest recorded one, which must allow it; ``uuid`` names the files.
    """

    line: Line
    replica_id: ReplicaId
    uuid: ReplicaUuid
    state: ReplicaState
    who: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseReplicaAnswer:
    state: ReplicaState


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepCopyRequest:
    """The master's store has come to this revision: fetch it from the master and keep it."""

    cluster_id: str
    master_generation: int
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyInfoRequest:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyInfo:
    """The newest copy of the master's store on one node; generation and revision 0 when it has none."""

    cluster_id: str
    heard_generation: int
    master_generation: int
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRequest:
    pass

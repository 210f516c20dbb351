"""Requests and answers that are no vocabulary of authority or of the data plane: one dataclass per wire message.

What a handler receives and returns, what a client sends and gets. ``codec`` turns them into bytes and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from sparrow.authority.effects import Instruction
from sparrow.authority.recovery import AuditEntry, MarkKind
from sparrow.authority.types import (
    FrontendTarget,
    Line,
    Lineage,
    PeerProgress,
    PlacementVerdict,
    ReplicaState,
    SkippedRecord,
    SlotFact,
    SlotName,
    Term,
)
from sparrow.base.access import AccessList, Secret
from sparrow.base.ids import Lsn, NodeId, ReplicaId, ReplicaUuid, VolumeId
from sparrow.ports.dataplane import LogSummary, RebuildPlan

# ---------------------------------------------------------------- node -> master


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """One node's facts and its room. Addresses are ``host:port``, sizes bytes.

    Whole or a delta as ``authority.types.Observation`` says; addresses and room are always all there.
    """

    node_id: NodeId
    incarnation: int
    sequence: int
    reachable: bool = True
    eligible: bool = True
    data_addr: str
    ctrl_addr: str
    iscsi_addr: str
    pool_total_bytes: int
    pool_free_bytes: int
    #: Bytes in files of replicas; part of what is used in the pool.
    replica_used_bytes: int = 0
    slots: tuple[SlotFact, ...] = ()
    revision: int = 0
    base_revision: int | None = None
    #: Sentences for the operator.
    troubles: tuple[str, ...] = ()
    removed: tuple[SlotName, ...] = ()
    #: What fails as a whole, a rack or a room; empty: nothing but the node itself.
    zone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatAck:
    """The sequence seen, and the cluster and generation of the master that saw it.

    ``send_full``: the master does not hold the delta's base, nothing of it was taken; a whole heartbeat is needed.
    """

    sequence: int
    master_generation: int
    cluster_id: str
    send_full: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscribeRequest:
    node_id: NodeId
    incarnation: int


#: What a subscription carries; declared where it is decided.
NodeInstruction: TypeAlias = Instruction


class AskIntent(IntEnum):
    """What a node may ask for itself; the numbers are those of ``authority.types.Intent``."""

    SHRINK_IN_SYNC = 4
    GROW_IN_SYNC = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class AskRequest:
    """A primary's wish to change its in-sync set, with the line it was decided against."""

    volume_id: VolumeId
    intent: AskIntent
    replica_id: ReplicaId
    asker: ReplicaId
    basis: Lineage
    reason: str = ""
    #: Shrink only: also empty ``eligible``.
    clear_eligible: bool = False
    #: Grow only: the files the peer showed.
    uuid: ReplicaUuid | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskRefusal:
    """No, and why; ``recorded`` is the line that stands, None when there is none."""

    code: str
    message: str
    basis: Lineage
    recorded: Line | None


AskAnswer: TypeAlias = Line | AskRefusal

# ---------------------------------------------------------------- node <-> node


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


# ---------------------------------------------------------------- control API


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaView:
    """``role``: primary, in_sync, catching_up, rebuilding, away, missing."""

    replica_id: ReplicaId
    node_id: NodeId
    role: str
    durable_lsn: Lsn
    commit_lsn: Lsn
    state: str
    #: What the primary says of bringing it back; None without a primary's word.
    progress: PeerProgress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeView:
    """One volume as an operator sees it.

    ``state``: creating, healthy, degraded, unavailable, deleting; ``cause`` is one sentence when it is not healthy.
    ``size_bytes`` is what clients may use, ``size_wanted`` more than that while a resize goes on.
    """

    name: VolumeId
    size_bytes: int
    block_size: int
    replication_factor: int
    state: str
    cause: str
    line: Line | None
    replicas: tuple[ReplicaView, ...]
    frontends: tuple[FrontendTarget, ...]
    ack: str = "sync"
    #: Under ack=local: entries answered that only the primary has for sure, by its newest word.
    uncommitted: int = 0
    size_wanted: int = 0
    access: AccessList = AccessList()
    #: The machine that uses it, as recorded; empty: none.
    attached_to: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateVolumeRequest:
    """0 for ``block_size`` and ``min_in_sync``, and no ``ack``, means the default.

    ``exist_ok``: for programs that repeat a call whose answer they lost. A volume of this name that is equal in
    everything asked for is the answer then.
    """

    name: str
    size_bytes: int
    replication_factor: int
    block_size: int = 0
    min_in_sync: int = 0
    ack: str = ""
    exist_ok: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachVolumeRequest:
    """``host``: the machine that is to use it, by the name its orchestrator knows it by."""

    name: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachVolumeRequest:
    """``host`` is where the caller thinks it is attached; empty: wherever."""

    name: str
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetVolumeRequest:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListVolumesRequest:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeList:
    volumes: tuple[VolumeView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAccessRequest:
    """``access.revision`` is that of the list to be replaced, as it was seen."""

    name: str
    access: AccessList


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSecretRequest:
    secret: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteSecretRequest:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteSecretAnswer:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSecretsRequest:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretView:
    """A secret as an operator sees it: never its value. ``volumes`` are those whose access lists name it."""

    name: str
    volumes: tuple[VolumeId, ...]
    damaged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretList:
    secrets: tuple[SecretView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteVolumeRequest:
    name: str
    #: That there is no such volume is success.
    missing_ok: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeVolumeRequest:
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteVolumeAnswer:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveVolumeRequest:
    """Make another in-sync replica primary; ``to`` names the replica or its node."""

    name: str
    to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveProgress:
    """One sentence on how far a move is; ``line`` names the new primary once it stands."""

    text: str
    line: Line | None = None
    finished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyVolumeRequest:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateView:
    """A replica weighed as primary now; ``rejected`` is why it may not be, None when it may."""

    replica_id: ReplicaId
    node_id: NodeId
    primary: bool
    in_sync: bool
    rejected: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacementView:
    """One replica that is given up; ``stage`` is one of ``lifecycle.plans.replacement.Stage``.

    ``text`` says what is done or waited for, ``cause`` why it is given up; ``successor`` is empty until placed.
    """

    volume: VolumeId
    replica_id: ReplicaId
    node_id: NodeId
    successor: str
    successor_node: str
    stage: str
    text: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeWhy:
    """Why a volume is where it is and as it is.

    ``decision`` is the controller's last reason; ``balance`` says whether a less loaded node would lead it.
    """

    name: VolumeId
    state: str
    cause: str
    decision: str
    topology_version: int
    placement: tuple[PlacementVerdict, ...]
    candidates: tuple[CandidateView, ...]
    replacements: tuple[ReplacementView, ...]
    balance: str = ""
    #: Replicas that are being brought back, by the primary's word.
    returning: tuple[PeerProgress, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverStaleRequest:
    """Take a volume on from a replica that missed writes.

    ``old_primary_is_off``: the old primary's node, typed by a person who made sure. ``accept_state``: rebuilding or
    quarantined, to take a replica in that state. ``confirm`` repeats the volume's name; ``plan_only`` does nothing.
    """

    name: str
    replica_id: str
    old_primary_is_off: str = ""
    accept_state: str = ""
    confirm: str = ""
    who: str = ""
    plan_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverStaleAnswer:
    """``loss`` says what is lost; ``line`` is the one that stands now, None when only a plan was asked for."""

    loss: str
    kept_lsn: Lsn
    line: Line | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscardDivergentRequest:
    """Want a replica's files no longer that were set aside or quarantined; ``confirm`` repeats the volume's name."""

    name: str
    replica_id: str
    confirm: str = ""
    who: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscardDivergentAnswer:
    """``released``: its node was told, so it is rebuilt now; else it is when the verb is repeated with its node up."""

    line: Line
    released: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """``state``: ready, lost, never_seen; ``desired_state``: active, cordoned, draining, lost for good.

    ``last_heard_s``: seconds since its last heartbeat.
    """

    node_id: NodeId
    state: str
    ctrl_addr: str
    data_addr: str
    iscsi_addr: str
    pool_total_bytes: int
    pool_free_bytes: int
    replica_count: int
    primary_count: int
    last_heard_s: float
    desired_state: str
    troubles: tuple[str, ...] = ()
    zone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListNodesRequest:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeList:
    """``topology_version`` counts every change of desired volumes and of desired node states."""

    nodes: tuple[NodeView, ...]
    topology_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GetNodeRequest:
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNodeStateRequest:
    """``confirm`` repeats the node's id when ``state`` is lost."""

    node_id: str
    state: str
    confirm: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDetails:
    """``volumes_left``: volumes that still have a replica there which counts."""

    node: NodeView
    replacements: tuple[ReplacementView, ...]
    volumes_left: tuple[str, ...]
    topology_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityStatusRequest:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class UnconfirmedVolume:
    """``missing`` says what keeps it from being confirmed; empty where only an operator's word is missing."""

    volume_id: VolumeId
    kind: MarkKind
    cause: str
    newest: Lineage | None
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCopyView:
    """A node that keeps a copy of the store; ``current``: it holds everything that is durable now."""

    node_id: NodeId
    master_generation: int
    revision: int
    current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityStatus:
    master_generation: int
    skipped: tuple[SkippedRecord, ...]
    lines: tuple[Line, ...]
    #: Volumes for which nothing is minted until their nodes, or an operator, confirm them.
    unconfirmed: tuple[UnconfirmedVolume, ...] = ()
    #: Nodes named at a recovery that have not answered yet.
    awaited_nodes: tuple[str, ...] = ()
    #: The last decisions made by hand, newest first.
    audit: tuple[AuditEntry, ...] = ()
    copies: tuple[StoreCopyView, ...] = ()


class RecoveryVerb(IntEnum):
    """What an operator wants done about a volume's record."""

    #: From its nodes, when all members of the newest line answered; by force, from those that did.
    RECOVER = 1
    #: The same for a damaged row.
    REPAIR = 2
    #: End the volume and all its data, above every epoch seen; always by force.
    RESET = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPlanRequest:
    volume_id: VolumeId
    verb: RecoveryVerb


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPlan:
    """What is known of a volume now, and what may be lost by force.

    ``previous`` is the record before the damaged one, for a person to read; it is never used.
    """

    volume_id: VolumeId
    newest: Line | None
    missing: tuple[str, ...]
    loss: str
    previous: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverRequest:
    """``confirm`` repeats the volume's name when ``force`` is set. ``who`` is kept in the audit."""

    volume_id: VolumeId
    verb: RecoveryVerb
    force: bool = False
    confirm: str = ""
    who: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverAnswer:
    """The line that stands now; None for a volume that had none and may be bound anew."""

    line: Line | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUpNodeRequest:
    """Stop waiting for a node named at a recovery; ``confirm`` repeats the address."""

    address: str
    confirm: str = ""
    who: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUpNodeAnswer:
    awaited_nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRequest:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupChunk:
    """The next bytes of a copy of the master's database, and what it is a copy of."""

    data: bytes
    master_generation: int = 0
    #: Counts changes within one generation; the copy has at least this many.
    revision: int = 0

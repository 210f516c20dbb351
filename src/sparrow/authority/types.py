"""The vocabulary of authority: lineage, line, asks, facts. Values only, no rules beyond their own shape."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from sparrow.base.access import AccessList
from sparrow.base.ids import EndpointVersion, Epoch, Lsn, NodeId, ReplicaId, ReplicaUuid, VolumeId


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Lineage:
    """``(epoch, endpoint_version)``, compared lexicographically; 0 in either is never valid."""

    epoch: Epoch
    endpoint_version: EndpointVersion

    @property
    def valid(self) -> bool:
        return self.epoch > 0 and self.endpoint_version > 0


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Term:
    """``(epoch, start)``, start from the superblock: makes ``(term, LSN)`` name one content for ever."""

    epoch: Epoch
    start: int


class AckPolicy(StrEnum):
    """When a write is answered (docs/ARCHITECTURE.md, "Promises")."""

    SYNC = "sync"
    QUORUM = "quorum"
    LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One replica of a volume as the line knows it: a slot on a node and the one set of files it means.

    ``data_addr`` is where peers ship the log to, ``ctrl_addr`` the node's gRPC address, both ``host:port``.
    """

    replica_id: ReplicaId
    node_id: NodeId
    uuid: ReplicaUuid
    data_addr: str
    ctrl_addr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The authority record of one volume. Only the publisher makes one; everybody else receives it.

    ``in_sync``, ``eligible`` and ``set_aside`` are sorted replica ids, each a member. Files of those set aside may
    differ from everybody else's history and are kept as they are until an operator discards them
    (``authority.stale``). A retired line (``retired``) is a tombstone that keeps the epoch: it names no primary that
    may serve.
    """

    volume_id: VolumeId
    lineage: Lineage
    primary: ReplicaId
    members: tuple[Member, ...]
    in_sync: tuple[ReplicaId, ...]
    eligible: tuple[ReplicaId, ...] = ()
    size_bytes: int
    block_size: int
    replication_factor: int
    ack: AckPolicy = AckPolicy.SYNC
    min_in_sync: int
    feature_level: int = 1
    #: Generation of the master that minted it; a node refuses a lower one than it has seen.
    master_generation: int
    #: Counts the mints of this volume, 1, 2, 3 ...
    write_seq: int
    retired: bool = False
    set_aside: tuple[ReplicaId, ...] = ()

    def member(self, replica_id: ReplicaId) -> Member | None:
        return next((m for m in self.members if m.replica_id == replica_id), None)

    @property
    def primary_member(self) -> Member:
        found = self.member(self.primary)
        assert found is not None, "a line's primary is one of its members"
        return found


class Intent(IntEnum):
    """What an ask wants. The set is closed."""

    BIND = 1
    REFRESH_ENDPOINT = 2
    REASSIGN = 3
    SHRINK_IN_SYNC = 4
    GROW_IN_SYNC = 5
    SET_MEMBERS = 6
    RETIRE = 7
    #: Operators' own: go on from a replica that missed writes; want no longer what was set aside then.
    RECOVER_STALE = 8
    DISCARD_DIVERGENT = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeShape:
    """What a Bind needs to know of the volume besides its members."""

    size_bytes: int
    block_size: int
    replication_factor: int
    ack: AckPolicy = AckPolicy.SYNC
    min_in_sync: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request to the publisher. It carries no epoch to mint, only the basis it was decided against.

    ``replica_id`` is the new primary (Bind, Reassign), the slot refreshed (RefreshEndpoint) or the peer that leaves or
    joins (Shrink, Grow). ``asker`` is the replica that asks and must be the recorded primary for Shrink and Grow;
    empty when the controller asks. ``basis`` is None only where no line exists yet.
    """

    intent: Intent
    volume_id: VolumeId
    replica_id: ReplicaId
    basis: Lineage | None
    asker: ReplicaId | None = None
    members: tuple[Member, ...] = ()
    #: Reassign: members of in_sync to leave out (disk failed). The old primary always leaves.
    leave_out: tuple[ReplicaId, ...] = ()
    #: Reassign: the target is taken from ``eligible`` because nobody of in_sync can be reached.
    from_eligible: bool = False
    #: Shrink: also empty ``eligible``; asked before a term is opened below ``min_in_sync``.
    clear_eligible: bool = False
    #: Grow: the files the peer showed; None leaves the comparison to what its node reports.
    uuid: ReplicaUuid | None = None
    shape: VolumeShape | None = None
    reason: str = ""


class RoleClaim(IntEnum):
    """What a node believes of its own replica; a claim, never an authority."""

    NONE = 0
    CANDIDATE = 1
    PRIMARY = 2


class ReplicaState(StrEnum):
    """Durable state of one replica's files (superblock)."""

    CLEAN = "clean"
    REBUILDING = "rebuilding"
    QUARANTINED = "quarantined"
    CONDEMNED = "condemned"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontendTarget:
    """Where initiators reach a volume on one node; ``lun`` is the namespace of an NVMe subsystem."""

    protocol: str
    addr: str
    name: str
    lun: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerProgress:
    """How far a primary is with one of its peers. For people only; nothing is decided by it."""

    replica_id: ReplicaId
    #: catch_up, delta, full or resumed; empty when it just follows.
    kind: str
    #: Pages of a rebuild, entries of a catch-up: dealt with, and in all.
    done: int
    total: int
    #: Bytes per second at present, both lanes.
    rate: int
    #: Shipped since the primary opened its files: batches of the log, pages of rebuilds.
    log_bytes: int
    base_bytes: int


#: Of files that could not be opened, so that nobody knows which they are.
NO_UUID: Final = ReplicaUuid("0" * 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFact:
    """What one node says of one replica it hosts, at one moment. Evidence, not authority."""

    volume_id: VolumeId
    replica_id: ReplicaId
    uuid: ReplicaUuid
    data_addr: str
    ctrl_addr: str
    #: Disk and engine fine, log readable, not rebuilding: could open under a new line.
    ready_for_primary: bool
    eligible: bool = True
    #: The node wants this replica relieved of being primary (slow own disk, drain).
    withdrawn: bool = False
    disk_failed: bool = False
    #: Opened from one superblock copy only, or with damage in its log: needs a peer before it may be believed.
    suspect: bool = False
    state: ReplicaState = ReplicaState.CLEAN
    #: Of the last line this replica acted on; None before the first.
    lineage: Lineage | None = None
    role_claim: RoleClaim = RoleClaim.NONE
    gate_open: bool = False
    term: Term | None = None
    #: Term of the last log entry, and positions.
    last_term: Term | None = None
    last_lsn: Lsn = Lsn(0)
    durable_lsn: Lsn = Lsn(0)
    commit_lsn: Lsn = Lsn(0)
    applied_lsn: Lsn = Lsn(0)
    #: Milliseconds since anything was heard from the line's primary; None on the primary itself.
    primary_silent_ms: int | None = None
    frontends: tuple[FrontendTarget, ...] = ()
    #: What clients may use, as of ``commit_lsn``; 0 from a node that does not say.
    size_bytes: int = 0
    #: Of a primary only: its peers.
    peers: tuple[PeerProgress, ...] = ()

    @property
    def unreadable(self) -> bool:
        """Whether the node has such files and cannot open them. ``disk_failed`` then says that it never will."""
        return bool(self.uuid == NO_UUID)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotName:
    """One replica of one volume on the node that speaks."""

    volume_id: VolumeId
    replica_id: ReplicaId


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One heartbeat's worth of facts of one node. ``received_at`` is the master's clock, seconds.

    Whole when ``base_revision`` is None: ``slots`` are all there are. Otherwise a delta: what is neither in ``slots``
    nor in ``removed`` is as it was at ``base_revision`` of the same incarnation.
    """

    node_id: NodeId
    #: Grows with every start of the node's process.
    incarnation: int
    #: Sender's own counter; orders the heartbeats of one incarnation, nothing else.
    sequence: int
    received_at: float
    reachable: bool = True
    eligible: bool = True
    slots: tuple[SlotFact, ...] = ()
    #: Names the sender's inventory as of this heartbeat; 0 from a sender that never sends deltas.
    revision: int = 0
    base_revision: int | None = None
    removed: tuple[SlotName, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedSlot:
    """One expected slot of a volume: where lifecycle wants a replica."""

    replica_id: ReplicaId
    node_id: NodeId


class VolumePhase(StrEnum):
    """Life of a desired volume: being made, in use, on its way out."""

    CREATING = "creating"
    ACTIVE = "active"
    DELETING = "deleting"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeavingSlot:
    """A slot that is given up: its replica serves on until ``successor`` is in sync, then its files are deleted.

    Kept until its node says that it has no such files any more, however late that is.
    """

    replica_id: ReplicaId
    node_id: NodeId
    successor: ReplicaId
    #: One sentence for a person: why it is given up.
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementVerdict:
    """Why a node was chosen for a volume or not; ``room_bytes`` is what was left for it before choosing."""

    node_id: NodeId
    chosen: bool
    reason: str
    room_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredVolume:
    """What an operator asked for, and where it was placed. The only definition of "expected"."""

    volume_id: VolumeId
    shape: VolumeShape
    slots: tuple[PlacedSlot, ...]
    phase: VolumePhase = VolumePhase.CREATING
    leaving: tuple[LeavingSlot, ...] = ()
    #: Of the newest placement decision, by node id.
    verdicts: tuple[PlacementVerdict, ...] = ()
    #: Asked for since the volume was made; 0 where nothing was. The shape, which the line repeats, stays as it was:
    #: size is state of the log, and files are made as long as at the first bind so that any log fits them.
    size_wanted: int = 0
    #: Who may use it. Told to nodes with their replicas, no part of any line.
    access: AccessList = AccessList()
    #: The machine that uses it, by the word of whoever attaches volumes; empty: none.
    attached_to: str = ""

    @property
    def size_bytes(self) -> int:
        """What the volume is to have room for."""
        return max(self.shape.size_bytes, self.size_wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another member as the node must reach it now; addresses may be newer than the line's."""

    replica_id: ReplicaId
    node_id: NodeId
    uuid: ReplicaUuid
    data_addr: str
    ctrl_addr: str
    #: Where initiators reach it, all portals of all protocols; by its own newest word.
    frontends: tuple[FrontendTarget, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentFact:
    """What a subscriber receives: the volume's newest line and its peers' addresses.

    Ordered by ``(epoch, endpoint_version, peer_revision)``; ``peer_revision`` grows when only an address or ``leaving``
    changed, and with every boot of the master, so a restarted master is not mistaken for an older one.
    """

    line: Line
    peers: tuple[Peer, ...]
    peer_revision: int
    #: In sync and replaced: the primary is to take them out. Told only where nobody else can (``authority.quorum``).
    leaving: tuple[ReplicaId, ...] = ()

    @property
    def order(self) -> tuple[int, int, int]:
        return (self.line.lineage.epoch, self.line.lineage.endpoint_version, self.peer_revision)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedRecord:
    """A durable record that could not be believed at start: nothing is minted for its volume until it is repaired.

    ``volume_id`` is None when not even the name could be read.
    """

    volume_id: VolumeId | None
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedLines:
    """What a store gave at start: the lines it believes and the records it does not."""

    lines: tuple[Line, ...] = ()
    skips: tuple[SkippedRecord, ...] = ()

"""The data plane as the node's control side sees it: commands down, events up.

The native core executes, it never decides. Every command is awaited until the core has carried it out (durably where
it says so); every event is a fact. Volumes are named by id, peers by a small ``slot`` number that the node assigns and
keeps for the life of the process, nodes by a ``node_key`` likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Protocol

from sparrow.authority.types import Line, ReplicaState, Term
from sparrow.base.ids import Epoch, Lsn, ReplicaId, ReplicaUuid, VolumeId
from sparrow.frontends.reservations.machine import Notice


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
    #: Milliseconds since anything was heard on the link; 0 for less than ``authority.evidence.PEER_HEARD_S``.
    silent_ms: int
    #: Pages the base lane has dealt with and is to deal with since it began last, 0 and 0 outside a rebuild.
    base_pages_done: int
    base_pages_total: int
    #: How long the oldest entry it has not acknowledged has been on its way; 0 when it has everything.
    lag_ms: int = 0
    #: The longest that an acknowledgement took, of those that came in the last second or half second.
    worst_ack_ms: int = 0
    rebuild_kind: RebuildKind | None = None
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionParameters:
    """An iSCSI session in full-feature phase, ready to be moved by the core.

    Counts in bytes; sequence numbers as RFC 7143 has them. ``pending`` is what was read beyond the last login PDU.
    ``reinstated`` when it took the place of an older session of its nexus: its first command says so.
    """

    session_key: int
    tsih: int
    cid: int
    exp_cmd_sn: int
    stat_sn: int
    initiator_recv_bytes_max: int
    target_recv_bytes_max: int
    max_burst_bytes: int
    first_burst_bytes: int
    max_outstanding_r2t: int
    initial_r2t: bool
    immediate_data: bool
    header_digest: bool
    data_digest: bool
    reinstated: bool
    pending: bytes
    #: Whose session it is, as ``formats.reservations`` has it (``ReservationNexus.record``); empty for nobody who could
    #: register.
    nexus: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueParameters:
    """An NVMe/TCP I/O queue whose Connect was answered, ready to be moved by the core.

    ``entries`` of the queue; ``sq_head`` commands completed so far, modulo that; ``data_align`` where data for the host
    may begin, bytes; ``pending`` what was read beyond the Connect. ``session_key`` is unique over all protocols.
    """

    session_key: int
    entries: int
    sq_head: int
    data_align: int
    flow_control: bool
    header_digest: bool
    data_digest: bool
    pending: bytes
    #: Whose queue it is, likewise.
    nexus: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class NbdParameters:
    """An NBD connection in transmission phase, ready to be moved by the core.

    ``context`` is the id under which base:allocation was selected, None when it was not. ``pending`` is what was read
    beyond the negotiation. Keys are of one space with those of iSCSI sessions.
    """

    session_key: int
    structured: bool
    context: int | None
    pending: bytes


# ------------------------------------------------------------------ events


@dataclass(frozen=True, slots=True, kw_only=True)
class GateOpened:
    volume_id: VolumeId
    term: Term


@dataclass(frozen=True, slots=True, kw_only=True)
class GateClosed:
    """``cause``: fenced, grant, command, superseded, disk. ``lateness_us`` is how late the fence timer was."""

    volume_id: VolumeId
    term: Term
    cause: str
    deadline_ns: int
    lateness_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLost:
    """The link to a peer is gone: cause says why (closed, protocol, recycled, dropped, io, silent)."""

    volume_id: VolumeId
    slot: int
    term: Term
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRebuilt:
    """Base and live lane met: the peer holds everything up to ``lsn``."""

    volume_id: VolumeId
    slot: int
    term: Term
    lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimaryLost:
    """A follower's link from its primary ended. ``base_bytes``: what a rebuild had installed over it."""

    volume_id: VolumeId
    term: Term
    cause: str
    base_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewerEpochSeen:
    """A peer refused us because it promised a newer epoch."""

    volume_id: VolumeId
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFailed:
    """A write or flush failed: the replica is condemned and stops. ``file`` is wal, extents, sums or superblock.

    ``frozen``: it is the last in-sync copy and only its extents or sums failed: it goes on serving reads.
    """

    volume_id: VolumeId
    file: str
    errno: int
    frozen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFull:
    """The pool has no room for a page that was never written; ``full`` false when room is back."""

    volume_id: VolumeId
    full: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeResized:
    """A resize committed: clients may use so many bytes now, and were told to look."""

    volume_id: VolumeId
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationsChanged:
    """A table of reservations committed: each one, in the order of their LSNs, on every replica that logs them.

    What was there when a replica was opened is told first, with the first commit after that.
    """

    volume_id: VolumeId
    lsn: Lsn
    #: As ``formats.reservations`` has it.
    table: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PageDamaged:
    """A page failed its checksum; reads of it wait (bounded) for a repair."""

    volume_id: VolumeId
    page: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SumsDamaged:
    """A block of checksums is damaged or unreadable; what needs it waits (bounded) for :meth:`DataPlane.mend_sums`."""

    volume_id: VolumeId
    block: int
    #: Of the read, 0 when it was read and is not whole.
    errno: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDamaged:
    """A batch in the log on disk is not what was written there; peers that need it wait for :meth:`mend_batch`."""

    volume_id: VolumeId
    first_lsn: Lsn
    last_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class Upcall:
    """A command the core does not execute. Answer with :meth:`DataPlane.answer`.

    Of an iSCSI session; or one of reservations of an NVMe queue, whose status is SCT << 8 | SC, and DNR.
    """

    volume_id: VolumeId
    session_key: int
    tag: int
    #: The 48-byte basic header segment, or as much of the submission queue entry; and the data that came with it.
    header: bytes
    data: bytes
    #: When the command came: the gate was open; another replica, the primary, held a grant of this one.
    gate_open: bool = False
    primary_lives: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded:
    volume_id: VolumeId
    session_key: int
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantLinkLost:
    node_key: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreLeaked:
    """The last event of a stop, when something was not put back: a bug, harmless only because the process ends."""

    held: Mapping[str, int]


CoreEvent = (
    GateOpened
    | GateClosed
    | PeerLost
    | PeerRebuilt
    | PrimaryLost
    | NewerEpochSeen
    | DiskFailed
    | PoolFull
    | VolumeResized
    | ReservationsChanged
    | PageDamaged
    | SumsDamaged
    | BatchDamaged
    | Upcall
    | SessionEnded
    | GrantLinkLost
    | CoreLeaked
)


class DigestOutcome(StrEnum):
    READY = "ready"
    BEHIND = "behind"
    PASSED = "passed"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageDigests:
    """CRC32C of each page as of one LSN, u32 little endian each, when the outcome is READY."""

    outcome: DigestOutcome
    digests: bytes
    commit_lsn: Lsn
    applied_lsn: Lsn
    damaged_pages: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SumsImage:
    """A block of checksums (``formats.sums``) as of one LSN, sealed, when the outcome is READY."""

    outcome: DigestOutcome
    block: bytes
    commit_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class SumsMended:
    """READY: the block is whole now, but for ``lost_pages`` of which nobody had a sum."""

    outcome: DigestOutcome
    lost_pages: int


class AtRest(StrEnum):
    """How something was found on the disk."""

    WHOLE = "whole"
    #: It was damaged, and written again from a whole copy in memory.
    REWRITTEN = "rewritten"
    #: It is damaged; the event that says so was sent before this answer.
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCheck:
    next_lsn: Lsn
    state: AtRest
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SumsCheck:
    state: AtRest
    lost_pages: int


class DataPlane(Protocol):
    """One core with its reactor. All methods raise errors of :mod:`sparrow.base.errors`.

    A socket handed over belongs to the core from then on: pass a duplicated, non-blocking, connected descriptor.
    """

    def start(self, on_event: Callable[[CoreEvent], None]) -> None:
        """Start the reactor; events are delivered in the caller's event loop."""

    async def stop(self) -> None:
        """Close every volume and end the reactor. :class:`CoreLeaked` tells of what was not put back."""

    # ---- replicas
    async def format_replica(
        self, volume_id: VolumeId, replica_id: ReplicaId, *, size_bytes: int, block_size: int
    ) -> ReplicaUuid:
        """Create the files of a blank replica, durable when this returns.

        Raises: StorageError (pool full, path taken).
        """

    def replicas(self) -> tuple[VolumeId, ...]:
        """Volumes that have files in this pool, opened or not."""

    async def open_replica(self, volume_id: VolumeId) -> OpenReport:
        """Open the files and walk the log. Raises DamagedData when neither superblock copy is valid."""

    async def close_replica(self, volume_id: VolumeId) -> None:
        """Apply what is committed, write a checkpoint, close the files. Sessions and links are ended."""

    async def delete_replica(self, volume_id: VolumeId) -> None:
        """Close if open, then remove the files."""

    async def status(self, volume_id: VolumeId) -> VolumeStatus: ...

    async def statuses(self) -> dict[VolumeId, VolumeStatus]:
        """Of every open replica, all at one moment; not to be changed. Raises: Unavailable.

        The same object as before, statuses and all of them together, may be given for what is the same.
        """

    async def resize(self, volume_id: VolumeId, size_bytes: int) -> None:
        """As primary: make the volume longer; returns when the resize is committed, at once when it is as long already.

        Followers make their own files longer when they log it; a replica that cannot takes no batch until it can.
        Raises: StorageError (shorter than it is, no room), StaleEpoch (not primary), Unavailable (not now).
        """

    async def reservations(self, volume_id: VolumeId) -> tuple[Lsn, bytes | None]:
        """As primary whose gate is open: the table of reservations and its LSN, committed; 0 and None without one.

        A table that was being logged when this was called is waited for.
        Raises: StaleEpoch (it does not serve), Unavailable (not now).
        """

    async def log_reservations(
        self,
        volume_id: VolumeId,
        expected_lsn: Lsn,
        table: bytes,
        *,
        session_key: int = 0,
        tag: int = 0,
    ) -> Lsn | None:
        """Replace the table that was logged at ``expected_lsn`` (0: there is none); its LSN when it has committed.

        None: another table is the newest by now, so this change has to be made from that one. Commands that get their
        LSN after it was logged are held against it; those before have committed when this returns.

        ``session_key`` and ``tag`` name the upcall that asked for it, 0 for none. It is logged only while that waits
        for its answer; from then on the core ends its session, and task management, after the change.

        Raises:
            OutcomeUnknown: it is logged; whether it commits, here or at a successor, nobody knows.
            StaleEpoch: this replica does not serve, nothing was changed.
            Unavailable: not now, nothing was changed.
            Withdrawn: the command was taken back, or its session is gone; nothing was changed.
            StorageError: that is no table, nothing was changed.
        """

    async def set_state(self, volume_id: VolumeId, state: ReplicaState) -> None:
        """Durable when it returns."""

    # ---- lines and terms
    async def set_line(
        self, volume_id: VolumeId, line: Line, pending: tuple[ReplicaId, ...]
    ) -> None:
        """Record the newest line acted on and the peers pending under it; durable on both superblock copies.

        An in-sync replica keeps a map of what changes for every member outside the set: it begins here, when a line
        first leaves the member out, and ends when a line has it in sync again or does not name it any more.
        """

    async def fence(self, volume_id: VolumeId, term: Term, primary: ReplicaId) -> FenceReport:
        """Promise this term: close the own gate, stop granting older ones, make the promise durable, then answer.

        Raises: StaleEpoch (a higher epoch is promised), EpochConflict (this epoch is promised to another primary).
        """

    async def begin_term(self, volume_id: VolumeId, epoch: Epoch) -> Term:
        """Become primary-to-be of an epoch: promise it to ourselves, raise the start counter, both durable.

        Closes the gate and ends links of older terms. Raises StaleEpoch, EpochConflict.
        """

    async def read_log(self, volume_id: VolumeId, from_lsn: Lsn, *, bytes_max: int) -> bytes:
        """Whole batches from the one that starts at ``from_lsn``; empty past the end. Raises NotFound when recycled."""

    async def append_log(self, volume_id: VolumeId, batches: bytes) -> Lsn:
        """Adopt batches read from another replica's log; durable up to the returned LSN. Raises DamagedData."""

    async def check_at(self, volume_id: VolumeId, lsn: Lsn) -> int | None:
        """Header checksum of the batch that ends at this LSN; None when it is not in the log (any more)."""

    async def join(
        self, volume_id: VolumeId, term: Term, primary: LogSummary
    ) -> tuple[JoinOutcome, Lsn, int]:
        """As a follower: find the common point with the primary's log, cut to it, make the cut durable.

        Returns outcome, joined LSN, header checksum there. Leaves the log alone unless JOINED.
        """

    async def prepare_rebuild(
        self, volume_id: VolumeId, term: Term, primary: LogSummary, changed_from: Lsn | None
    ) -> RebuildPlan:
        """As a follower: state REBUILDING durable, what cannot be kept emptied, ready for a base lane.

        ``changed_from`` is where the primary's map of this replica begins. What may be kept follows from it, from the
        two logs and from what an interrupted rebuild left.
        """

    async def commit_inherited(self, volume_id: VolumeId) -> Lsn:
        """As primary after all needed peers joined: log the term-start entry; returns its LSN once it is committed."""

    # ---- peers
    async def set_membership(self, volume_id: VolumeId, membership: Membership) -> Lsn:
        """From now on commits and the gate need these peers; returns the commit LSN frozen at that moment."""

    async def ship(
        self,
        volume_id: VolumeId,
        slot: int,
        node_key: int,
        fd: int,
        *,
        joined_lsn: Lsn,
        rebuild: RebuildPlan | None = None,
        uuid: ReplicaUuid | None = None,
    ) -> None:
        """Feed a joined peer from ``joined_lsn + 1`` over this socket, or as its plan of a rebuild says.

        ``uuid`` is the peer's, for the map of what it misses. Raises NotFound when log or map do not reach back.
        """

    async def receive(self, volume_id: VolumeId, fd: int, term: Term) -> None:
        """As a follower: take what the primary of this term ships on this socket. Raises StaleEpoch."""

    async def drop_peer(self, volume_id: VolumeId, slot: int) -> None: ...

    async def peer_acked(self, volume_id: VolumeId, slot: int, lsn: Lsn) -> None:
        """Returns when the peer has acknowledged ``lsn`` in this term. Raises Unavailable when its link is lost."""

    async def grant_ask_link(self, node_key: int, fd: int) -> None:
        """Ask the node at the other end for grants over this socket, for all volumes that need it."""

    async def grant_serve_link(self, fd: int) -> None:
        """Answer another node's grant requests on this socket."""

    # ---- gate
    async def open_gate(self, volume_id: VolumeId, *, wait_ms: int) -> None:
        """Allow the gate: GateOpened once ``wait_ms`` have passed and the grants needed are held.

        A promise of this replica itself to an older term is waited for besides. Said again, the new ``wait_ms``
        counts.

        Raises: StaleEpoch (the gate was closed for the rest of the term, or the term is not committed).
        """

    async def close_gate(self, volume_id: VolumeId, cause: str) -> None:
        """Close it, fail what waits, and give back the grants held; no answer of this term leaves afterwards."""

    # ---- frontends
    async def adopt_session(
        self, volume_id: VolumeId, fd: int, session: SessionParameters
    ) -> None: ...

    async def adopt_queue(self, volume_id: VolumeId, fd: int, queue: QueueParameters) -> None: ...

    async def adopt_nbd(self, volume_id: VolumeId, fd: int, client: NbdParameters) -> None:
        """The same for NBD; its end is a :class:`SessionEnded` too, and :meth:`end_session` ends it."""

    def answer(
        self, session_key: int, tag: int, *, status: int, sense: bytes, data_in: bytes
    ) -> None:
        """Answer an upcall; ``sense`` is the raw sense data without the 2-byte length. Unknown sessions are ignored."""

    def answer_raw(self, session_key: int, tag: int, header: bytes, data: bytes) -> None:
        """Answer a non-SCSI upcall (Text, Task Management) with a PDU; the core fills StatSN, ExpCmdSN, MaxCmdSN."""

    def raise_attention(self, session_key: int, notice: Notice) -> None:
        """Have an iSCSI session told by a unit attention, before any answer given after this. Others are left alone."""

    async def end_session(self, session_key: int, *, leave_ms: int = 0) -> None:
        """Begin the end of a connection of any protocol; SessionEnded follows.

        With ``leave_ms`` an iSCSI initiator is asked to log out, and given that long.
        """

    async def abort_command(self, session_key: int, command_id: int) -> bool:
        """Take back a command of an NVMe/TCP queue that has no place in the log and no data on its way yet.

        True when it was: its completion says so and is on its way. False: it ends as it would have.
        """

    async def page_states(
        self, volume_id: VolumeId, *, first_page: int, page_count: int
    ) -> tuple[tuple[int, bool], ...]:
        """Runs of pages through the committed view and whether they hold data; may end before ``page_count``.

        Raises: StorageError (what the disk says of them is damaged), Unavailable.
        """

    # ---- verification and repair
    async def page_digests(
        self, volume_id: VolumeId, *, at_lsn: Lsn, first_page: int, page_count: int
    ) -> PageDigests: ...

    async def read_page(
        self, volume_id: VolumeId, page: int, *, at_least_lsn: Lsn
    ) -> tuple[Lsn, bytes]:
        """Committed view of one page and its as-of LSN, not below ``at_least_lsn``.

        Raises: Unavailable, DamagedData.
        """

    async def repair_page(
        self, volume_id: VolumeId, page: int, as_of_lsn: Lsn, data: bytes | None
    ) -> bool:
        """Install a page fetched from a peer, or fail the waiting reads (None). False when a newer version appeared.

        Raises:
            DamagedData: it is not what the own sum says; reads wait on for another peer's.
            Unavailable: the own sum is lost too, and an answer as of this LSN cannot stand in for it; ask again.
        """

    async def read_sums(self, volume_id: VolumeId, block: int, *, at_lsn: Lsn) -> SumsImage:
        """State and sum of every page of one block in the committed view at exactly this LSN.

        Raises: DamagedData (the own block is damaged), Unavailable.
        """

    async def mend_sums(
        self, volume_id: VolumeId, block: int, at_lsn: Lsn, images: tuple[bytes, ...]
    ) -> SumsMended:
        """Rebuild a damaged block from what peers hold at one LSN that is committed here, in order of preference.

        Without images every page of it is lost: reading it is an error until it is written or mended later.

        Raises: DamagedData (an image is not whole), Unavailable, StorageError.
        """

    # ---- scrub: what the disk holds, read past every cache
    async def check_superblock(self, volume_id: VolumeId) -> AtRest:
        """Read both copies and the table of reservations they name; write anew what is damaged.

        Raises: Unavailable (it has to rejoin first, or not now).
        """

    async def check_sums(self, volume_id: VolumeId, block: int) -> SumsCheck:
        """Read one block of checksums."""

    async def check_pages(
        self, volume_id: VolumeId, first_page: int, page_count: int
    ) -> int | None:
        """Read pages and hold them against their sums; one that is damaged, None when there is none."""

    async def check_batch(self, volume_id: VolumeId, lsn: Lsn) -> BatchCheck | None:
        """Read the retained batch that holds ``lsn``, or the next one, from disk; None when there is none."""

    async def mend_batch(self, volume_id: VolumeId, first_lsn: Lsn, batches: bytes | None) -> bool:
        """Put a damaged batch back from another replica's copy; what follows it in ``batches`` is ignored.

        None lets it go: as soon as it is applied the log begins behind it, and a peer that needs it is rebuilt.
        False when it is not retained any more. Raises: DamagedData (that is another batch), StorageError.
        """

"""The commands. Each is awaited until the core has carried it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from sparrow.authority.types import Line, ReplicaState, Term
from sparrow.base.ids import NO_LINK, Epoch, LinkId, Lsn, ReplicaId, ReplicaUuid, VolumeId
from sparrow.frontends.reservations.machine import Notice
from sparrow.ports.dataplane.checks import (
    AtRest,
    BatchCheck,
    PageDigests,
    SumsCheck,
    SumsImage,
    SumsMended,
)
from sparrow.ports.dataplane.events import CoreEvent
from sparrow.ports.dataplane.replicas import (
    FenceReport,
    JoinOutcome,
    LogSummary,
    Membership,
    OpenReport,
    RebuildPlan,
    VolumeStatus,
)
from sparrow.ports.dataplane.sessions import NbdParameters, QueueParameters, SessionParameters


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

    def replicas(self) -> Mapping[VolumeId, ReplicaId]:
        """Volumes that have files in this pool, opened or not, in order, and which replica they are."""

    async def open_replica(self, volume_id: VolumeId) -> OpenReport:
        """Open the files and walk the log.

        Raises:
            DamagedData: neither superblock copy is valid.
            Unavailable: others hold the room that what is not applied needs; some is free when theirs is applied.
            StorageError: the log cannot be read, or that is more than there is room for at all.
        """

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
        by_ns: int = 0,
    ) -> Lsn | None:
        """Replace the table that was logged at ``expected_lsn`` (0: there is none); its LSN when it has committed.

        None: another table is the newest by now, so this change has to be made from that one. Commands that get their
        LSN after it was logged are held against it; those before have committed when this returns.

        ``session_key`` and ``tag`` name the upcall that asked for it, 0 for none. It is logged only while that waits
        for its answer; from then on the core ends its session, and task management, after the change. With ``by_ns``
        it is logged before the boot clock (CLOCK_BOOTTIME) shows so many ns, or never.

        Raises:
            OutcomeUnknown: it is logged; whether it commits, here or at a successor, nobody knows.
            StaleEpoch: this replica does not serve, nothing was changed.
            Unavailable: not now, nothing was changed.
            Withdrawn: the command was taken back, its session is gone, or it is too late; nothing was changed.
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
        link: LinkId = NO_LINK,
    ) -> None:
        """Feed a joined peer from ``joined_lsn + 1`` over this socket, or as its plan of a rebuild says.

        A link to the peer that still stands is dropped first. Events about the new one name it by ``link``.
        ``uuid`` is the peer's, for the map of what it misses. Raises NotFound when log or map do not reach back.
        """

    async def receive(self, volume_id: VolumeId, fd: int, term: Term) -> None:
        """As a follower: take what the primary of this term ships on this socket.

        Raises: StaleEpoch; Unavailable (it neither joined that primary nor was made ready for it since it opened).
        """

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

    async def abort_commands(self, session_key: int) -> None:
        """Somebody preempted the nexus of an iSCSI session or NVMe queue with PREEMPT AND ABORT: end its commands.

        When it returns, what has no place in the log never gets one, and what is being read is not sent. A change of
        reservations that is logged, or pinned, is left alone; over NVMe so is any command of reservations, and each
        half of a fused pair: the table that now stands decides what becomes of them.
        Raises: Unavailable: the core was not told.
        """

    async def pin_command(self, session_key: int, tag: int) -> bool:
        """An upcall is about to be carried out by another node; False when it was taken back, or its session is gone.

        From then on task management waits for its answer, and the end of its session for :meth:`unpin_command`.
        Raises: LocalProtocolError: it is pinned or logged already, which a command is once.
        """

    async def unpin_command(self, session_key: int) -> None:
        """Once for each command that was pinned: it was answered, or nobody waits for it any more."""

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

        None lets it go: as soon as it is applied the log begins behind it, and a peer that needs it is rebuilt. One
        that is whole, again or because it is another one by now, stays.
        False when it is not retained any more. Raises: DamagedData (that is another batch), StorageError.
        """

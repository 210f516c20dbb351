"""A pure-Python twin of the data plane: several nodes in one process, no disk and no socket, for tests.

What is durable lives in :class:`ModelPool` and survives the twin; everything else dies with it. Links are tokens of a
:class:`~sparrow.dataplane.model_links.Fabric`. It keeps every promise the port makes that control code relies on:
terms and promises, cuts, joins, commit over the needed peers, grants between nodes, gate and fence.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sparrow.authority.types import Line, ReplicaState, Term
from sparrow.base.constants import GRANT_DRIFT, GRANT_MARGIN_S, GRANT_RENEW_S, GRANT_S, PAGE_BYTES
from sparrow.base.errors import (
    DamagedData,
    EpochConflict,
    NotFound,
    OutcomeUnknown,
    Refused,
    SparrowError,
    StaleEpoch,
    StorageError,
    Unavailable,
)
from sparrow.base.ids import Epoch, Lsn, ReplicaId, ReplicaUuid, VolumeId
from sparrow.dataplane.model_links import End, Fabric
from sparrow.dataplane.model_log import NO_TERM, Batch, ModelLog, decode_batches
from sparrow.dataplane.model_sums import encode_sums, sums_known
from sparrow.formats.reservations import RESERVATION_BYTES
from sparrow.formats.sums import PAGES_PER_BLOCK
from sparrow.frontends.reservations.machine import Notice
from sparrow.ports.dataplane import (
    Absence,
    AtRest,
    BatchCheck,
    BatchDamaged,
    CoreEvent,
    DigestOutcome,
    FenceReport,
    GateClosed,
    GateOpened,
    GrantLinkLost,
    JoinOutcome,
    LogSummary,
    Membership,
    NbdParameters,
    NewerEpochSeen,
    OpenReport,
    PageDamaged,
    PageDigests,
    PeerLost,
    PeerPhase,
    PeerRebuilt,
    PeerStatus,
    PrimaryLost,
    QueueParameters,
    RebuildKind,
    RebuildPlan,
    ReservationsChanged,
    SessionParameters,
    SumsCheck,
    SumsDamaged,
    SumsImage,
    SumsMended,
    VolumeResized,
    VolumeStatus,
)

#: Entries whose time is known, and how long the slowest acknowledgement is remembered.
PACES_MAX: Final = 256
PACE_S: Final = 0.5
LAST_LSN: Final = Lsn(1 << 62)


@dataclass(slots=True)
class ModelFiles:
    """The durable side of one replica."""

    replica_id: ReplicaId
    uuid: ReplicaUuid
    size_bytes: int
    block_size: int
    log: ModelLog = field(default_factory=ModelLog)
    state: ReplicaState = ReplicaState.CLEAN
    suspect: bool = False
    start: int = 0
    promised_epoch: Epoch = Epoch(0)
    promised_primary: ReplicaId | None = None
    line: Line | None = None
    pending: tuple[ReplicaId, ...] = ()
    applied: Lsn = Lsn(0)
    must_reach: Lsn = Lsn(0)
    damaged: set[int] = field(default_factory=set)
    damaged_sums: set[int] = field(default_factory=set)
    damaged_lsns: set[int] = field(default_factory=set)
    superblock_damaged: bool = False
    #: Pages of a block that was rebuilt without anybody who knew their sums.
    lost: set[int] = field(default_factory=set)

    def damages(self, page: int) -> bool:
        """Whether nothing true can be read of it."""
        return (
            page in self.damaged
            or page in self.lost
            or page // PAGES_PER_BLOCK in self.damaged_sums
        )

    #: Maps of members outside the in-sync set: from which LSN on, and the pages applied since.
    absences: dict[ReplicaUuid, tuple[Lsn, set[int]]] = field(default_factory=dict)
    #: While it is being rebuilt: the pages it kept, which hold everything up to ``kept_from``.
    kept: dict[int, bytes] = field(default_factory=dict)
    kept_from: Lsn | None = None

    def apply(self, lsn: Lsn) -> None:
        """Entries up to ``lsn`` are in the extents; their pages are in the maps."""
        if self.absences and lsn > self.applied:
            touched = self.log.touched(self.applied, lsn)
            for _from, pages in self.absences.values():
                pages.update(touched)
        self.applied = lsn


@dataclass(slots=True)
class ModelPool:
    """What survives the process of one node."""

    files: dict[VolumeId, ModelFiles] = field(default_factory=dict)


@dataclass(slots=True)
class ModelPeer:
    """One fed peer. ``link`` None after it was lost."""

    node_key: int
    end: End
    shipped: Lsn
    heard_at: float
    acked: Lsn = Lsn(0)
    #: When acknowledgements came, and how long each took.
    paces: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=PACES_MAX))
    rebuilding: bool = False
    plan: RebuildPlan | None = None
    waiters: list[tuple[Lsn, asyncio.Future[None]]] = field(default_factory=list)


@dataclass(slots=True)
class ModelVolume:
    """The volatile side of one open replica."""

    files: ModelFiles
    term: Term = NO_TERM
    primary: bool = False
    commit: Lsn = Lsn(0)
    served: int = 0
    writable: bool = False
    needed: tuple[int, ...] = ()
    one_of: tuple[int, ...] = ()
    ack_local: bool = False
    #: The newest entries of this process, with when each was appended.
    appended: deque[tuple[Lsn, float]] = field(default_factory=lambda: deque(maxlen=PACES_MAX))
    #: Answered up to here before it was committed (ack=local).
    answered: Lsn = Lsn(0)
    peers: dict[int, ModelPeer] = field(default_factory=dict)
    node_of: dict[int, int] = field(default_factory=dict)
    allowed: bool = False
    open_at: float = 0.0
    gate_open: bool = False
    #: Tables of reservations up to this LSN were told of.
    table_told: Lsn = Lsn(0)
    term_start: Lsn = Lsn(0)
    inherited: Lsn = Lsn(0)
    commit_waiters: list[tuple[Lsn, asyncio.Future[None]]] = field(default_factory=list)
    answer_waiters: list[tuple[Lsn, asyncio.Future[None]]] = field(default_factory=list)
    feed: End | None = None
    feed_term: Term = NO_TERM
    heard_at: float | None = None
    #: Promises to primaries: term -> until, and the stamp of the newest ask each was given for.
    promises: dict[Term, float] = field(default_factory=dict)
    granted_for: dict[Term, float] = field(default_factory=dict)
    #: Stamps up to which a term gave back what it asked for.
    given_back: dict[Term, float] = field(default_factory=dict)
    #: Rights from nodes: node_key -> until.
    rights: dict[int, float] = field(default_factory=dict)
    #: The gate was closed by somebody, not by time, at this moment: earlier asks open nothing.
    released: bool = False
    released_at: float = float("-inf")
    #: Closed for the rest of the term, whatever the control side says.
    over: bool = False
    #: The newest term this replica was primary of.
    led: Term = NO_TERM


class ModelDataPlane:
    """One node's twin. ``clock`` is the running loop's time unless given; ``make_uuid`` names new files."""

    def __init__(
        self,
        node: str,
        pool: ModelPool,
        fabric: Fabric,
        clock: Callable[[], float] | None = None,
        make_uuid: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self.node = node
        self.pool = pool
        self.fabric = fabric
        self._make_uuid = make_uuid
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._volumes: dict[VolumeId, ModelVolume] = {}
        self._asking: dict[int, End] = {}
        self._on_event: Callable[[CoreEvent], None] = lambda _event: None
        self._started_at = 0.0
        self._ticker: asyncio.TimerHandle | None = None
        #: A test turns this on to keep local appends from being durable: they die with the twin.
        self.lose_own_writes = False
        self.sessions: dict[int, tuple[VolumeId, int, SessionParameters]] = {}
        self.queues: dict[int, tuple[VolumeId, int, QueueParameters]] = {}
        self.nbd_clients: dict[int, tuple[VolumeId, int, NbdParameters]] = {}
        self.answers: list[tuple[int, int, int, bytes, bytes]] = []
        self.attentions: list[tuple[int, Notice]] = []

    # ------------------------------------------------------------ life

    def start(self, on_event: Callable[[CoreEvent], None]) -> None:
        self._on_event = on_event
        self._started_at = self._clock()
        self._tick()

    async def stop(self) -> None:
        self.kill()

    def kill(self) -> None:
        """The process dies: nothing volatile is left, peers see resets."""
        if self._ticker is not None:
            self._ticker.cancel()
        for volume in self._volumes.values():
            self._crash(volume.files)
        self._on_event = lambda _event: None
        self.fabric.kill(self.node)
        self._volumes.clear()

    def _crash(self, files: ModelFiles) -> None:
        """What is left of one replica when the process dies: what was durable."""
        files.log.crash(survives=Lsn(0))

    def _tick(self) -> None:
        """Ask for grants, look at deadlines."""
        loop = asyncio.get_running_loop()
        self._ticker = loop.call_later(GRANT_RENEW_S / 5, self._tick)
        now = self._clock()
        for end in list(self._asking.values()):
            wanted = [
                (v, vol.term)
                for v, vol in self._volumes.items()
                if vol.primary and not vol.released
            ]
            end.send(("ask", now, wanted))
        for volume_id, volume in self._volumes.items():
            self._look_at_gate(volume_id, volume)

    # ------------------------------------------------------------ replicas

    async def format_replica(
        self, volume_id: VolumeId, replica_id: ReplicaId, *, size_bytes: int, block_size: int
    ) -> ReplicaUuid:
        if volume_id in self.pool.files:
            raise StorageError(f"{volume_id} has files already.")
        identity = ReplicaUuid(self._make_uuid())
        self.pool.files[volume_id] = ModelFiles(
            replica_id=replica_id, uuid=identity, size_bytes=size_bytes, block_size=block_size
        )
        return identity

    def replicas(self) -> tuple[VolumeId, ...]:
        return tuple(sorted(self.pool.files))

    async def open_replica(self, volume_id: VolumeId) -> OpenReport:
        files = self.pool.files[volume_id]
        volume = ModelVolume(
            files=files, commit=files.applied, table_told=files.log.table_at(files.applied)[0]
        )
        volume.served = max(files.size_bytes, files.log.size_at(volume.commit))
        self._volumes[volume_id] = volume
        torn, files.log.torn = files.log.torn, False
        return OpenReport(
            replica_id=files.replica_id,
            size_bytes=volume.served,
            block_size=files.block_size,
            log=self._summary(volume),
            promised_epoch=files.promised_epoch,
            promised_primary=files.promised_primary,
            line=files.line,
            pending=files.pending,
            torn_after_lsn=files.log.last_lsn if torn else None,
            damaged_after_lsn=None,
            superblock_damaged=files.suspect,
        )

    async def close_replica(self, volume_id: VolumeId) -> None:
        volume = self._volume(volume_id)
        self._close_for_good(volume_id, volume, "command")
        self._drop_links(volume_id, volume)
        volume.files.log.flush()
        del self._volumes[volume_id]

    async def delete_replica(self, volume_id: VolumeId) -> None:
        if volume_id in self._volumes:
            await self.close_replica(volume_id)
        self.pool.files.pop(volume_id, None)

    async def status(self, volume_id: VolumeId) -> VolumeStatus:
        volume = self._volume(volume_id)
        now = self._clock()
        silent = None if volume.feed is None or volume.heard_at is None else now - volume.heard_at
        return VolumeStatus(
            volume_id=volume_id,
            term=volume.term,
            promised_epoch=volume.files.promised_epoch,
            gate_open=volume.gate_open,
            log=self._summary(volume),
            disk_failed=False,
            pool_full=False,
            frozen=False,
            sessions=0,
            primary_silent_ms=None if silent is None else round(silent * 1000),
            peers=tuple(
                PeerStatus(
                    slot=slot,
                    phase=PeerPhase.REBUILDING if peer.rebuilding else PeerPhase.SHIPPING,
                    acked_lsn=peer.acked,
                    shipped_lsn=peer.shipped,
                    granted=volume.rights.get(peer.node_key, 0.0) > now,
                    silent_ms=round((now - peer.heard_at) * 1000),
                    base_pages_done=0,
                    base_pages_total=0,
                    lag_ms=_age_ms(volume, peer.acked, now),
                    worst_ack_ms=round(
                        1000
                        * max((took for at, took in peer.paces if at > now - PACE_S), default=0)
                    ),
                    rebuild_kind=peer.plan.kind if peer.plan is not None else None,
                    log_bytes=0,
                    base_bytes=0,
                )
                for slot, peer in sorted(volume.peers.items())
            ),
            reads=0,
            writes=0,
            read_bytes=0,
            written_bytes=0,
            own_lag_ms=_age_ms(volume, volume.files.log.durable_lsn, now),
            absences=tuple(
                Absence(uuid=uuid, from_lsn=from_lsn, changed_granules=len(pages))
                for uuid, (from_lsn, pages) in sorted(volume.files.absences.items())
            ),
        )

    async def statuses(self) -> dict[VolumeId, VolumeStatus]:
        return {volume_id: await self.status(volume_id) for volume_id in tuple(self._volumes)}

    async def resize(self, volume_id: VolumeId, size_bytes: int) -> None:
        volume = self._volume(volume_id)
        if not volume.primary or not volume.term_start or volume.commit < volume.term_start:
            raise StaleEpoch(f"{volume_id} is not open here.")
        if size_bytes < volume.served:
            raise StorageError(f"{volume_id} is longer than that.")
        if size_bytes > volume.served:
            lsn = self._log_entry(volume_id, volume, None, b"", size=size_bytes)
            await self._committed(volume_id, volume, lsn)

    async def reservations(self, volume_id: VolumeId) -> tuple[Lsn, bytes | None]:
        volume = self._volume(volume_id)
        self._look_whether_serving(volume_id, volume)
        await self._committed(volume_id, volume, volume.files.log.table_at(LAST_LSN)[0])
        self._look_whether_serving(volume_id, volume)
        return volume.files.log.table_at(volume.commit)

    async def log_reservations(
        self,
        volume_id: VolumeId,
        expected_lsn: Lsn,
        table: bytes,
        *,
        session_key: int = 0,
        tag: int = 0,
    ) -> Lsn | None:
        volume = self._volume(volume_id)
        self._look_whether_serving(volume_id, volume)
        if len(table) != RESERVATION_BYTES:
            raise StorageError(f"{volume_id}: a table of {len(table)} bytes.")
        if not volume.writable:
            raise Unavailable(f"{volume_id} takes no writes now.")
        if expected_lsn != volume.files.log.table_at(LAST_LSN)[0]:
            return None
        lsn = self._log_entry(volume_id, volume, None, table)
        try:
            await self._committed(volume_id, volume, lsn)
        except SparrowError as error:
            raise OutcomeUnknown(f"{volume_id}: a table is logged: {error}") from error
        return lsn

    def _look_whether_serving(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        self._look_at_gate(volume_id, volume)
        if not volume.primary or not volume.term_start or volume.commit < volume.term_start:
            raise StaleEpoch(f"{volume_id} is not open here.")
        if not volume.gate_open:
            raise Unavailable(f"The gate of {volume_id} is closed.")

    def _serve(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        """The commit LSN moved: clients may use what was added up to there, and tables up to there count."""
        for lsn, table in volume.files.log.tables:
            if volume.table_told < lsn <= volume.commit:
                volume.table_told = lsn
                self._emit(ReservationsChanged(volume_id=volume_id, lsn=lsn, table=table))
        size = max(volume.served, volume.files.log.size_at(volume.commit))
        if size != volume.served:
            volume.served = size
            self._emit(VolumeResized(volume_id=volume_id, size_bytes=size))

    async def set_state(self, volume_id: VolumeId, state: ReplicaState) -> None:
        self._volume(volume_id).files.state = state

    # ------------------------------------------------------------ lines and terms

    async def set_line(
        self, volume_id: VolumeId, line: Line, pending: tuple[ReplicaId, ...]
    ) -> None:
        files = self._volume(volume_id).files
        files.line, files.pending = line, pending
        own = line.member(files.replica_id)
        absent = {m.uuid for m in line.members if m.replica_id not in line.in_sync}
        if own is None or own.uuid != files.uuid or files.uuid in absent:
            absent = set()
        files.absences = {uuid: files.absences.get(uuid, (files.applied, set())) for uuid in absent}

    async def fence(self, volume_id: VolumeId, term: Term, primary: ReplicaId) -> FenceReport:
        volume = self._volume(volume_id)
        self._promise(volume_id, volume, term, primary)
        older = [held for held in volume.promises if held.epoch != term.epoch]
        newest = max(older, default=None)
        return FenceReport(
            log=self._summary(volume),
            promise_ms=self._promised_ms(volume, older),
            promised_epoch=volume.files.promised_epoch,
            promised_to=newest,
            older_promise_ms=self._promised_ms(volume, [held for held in older if held != newest]),
            closed=volume.led if NO_TERM < volume.led < term else None,
        )

    def _promised_ms(self, volume: ModelVolume, terms: list[Term]) -> int:
        """How long promises to these terms run, and the hold-off after the start."""
        ends = [volume.promises[held] for held in terms] + [self._started_at + GRANT_S]
        return max(0, math.ceil((max(ends) - self._clock()) * 1000))

    async def begin_term(self, volume_id: VolumeId, epoch: Epoch) -> Term:
        volume = self._volume(volume_id)
        files = volume.files
        term = Term(epoch=epoch, start=files.start + 1)
        self._promise(volume_id, volume, term, files.replica_id)
        files.start += 1
        self._drop_links(volume_id, volume)
        volume.primary = True
        volume.term = volume.led = term
        volume.released = volume.over = False
        volume.term_start = volume.inherited = Lsn(0)
        volume.needed, volume.writable, volume.allowed = (), False, False
        volume.one_of, volume.ack_local, volume.answered = (), False, Lsn(0)
        volume.rights.clear()
        return term

    def _promise(
        self, volume_id: VolumeId, volume: ModelVolume, term: Term, primary: ReplicaId
    ) -> None:
        files = volume.files
        if files.promised_epoch > term.epoch:
            raise StaleEpoch(f"Epoch {files.promised_epoch} is promised, {term.epoch} is older.")
        if files.promised_epoch == term.epoch and files.promised_primary not in {None, primary}:
            raise EpochConflict(f"Epoch {term.epoch} is promised to {files.promised_primary}.")
        if volume.term != term:
            self._close_for_good(volume_id, volume, "superseded")
            if volume.primary and primary != files.replica_id:
                self._drop_links(volume_id, volume)
                volume.primary = False
        files.promised_epoch, files.promised_primary = term.epoch, primary
        if primary != files.replica_id:
            volume.term = term

    async def read_log(self, volume_id: VolumeId, from_lsn: Lsn, *, bytes_max: int) -> bytes:
        files = self._volume(volume_id).files
        if from_lsn in files.damaged_lsns:
            raise DamagedData(f"Batch {from_lsn} is damaged.")
        return files.log.read(from_lsn, bytes_max=bytes_max)

    async def append_log(self, volume_id: VolumeId, batches: bytes) -> Lsn:
        log = self._volume(volume_id).files.log
        for batch in decode_batches(batches):
            log.append(batch)
        log.flush()
        return log.last_lsn

    async def check_at(self, volume_id: VolumeId, lsn: Lsn) -> int | None:
        return self._volume(volume_id).files.log.check_at(lsn)

    async def join(
        self, volume_id: VolumeId, term: Term, primary: LogSummary
    ) -> tuple[JoinOutcome, Lsn, int]:
        volume = self._volume(volume_id)
        files = volume.files
        if files.promised_epoch > term.epoch:
            raise StaleEpoch(f"Epoch {files.promised_epoch} is promised, {term.epoch} is older.")
        if files.state is ReplicaState.QUARANTINED:
            return JoinOutcome.QUARANTINED, Lsn(0), 0
        common = files.log.common_with(primary)
        if common is None or common < files.log.base_lsn:
            return JoinOutcome.NO_COMMON_POINT, Lsn(0), 0
        if common < files.applied:
            files.state = ReplicaState.QUARANTINED
            return JoinOutcome.QUARANTINED, Lsn(0), 0
        files.log.cut(common)
        # What is answered counts for commits: it is durable before it leaves.
        files.log.flush()
        files.suspect = False
        check = files.log.check_at(common)
        assert check is not None
        return JoinOutcome.JOINED, common, check

    async def prepare_rebuild(
        self, volume_id: VolumeId, term: Term, primary: LogSummary, changed_from: Lsn | None
    ) -> RebuildPlan:
        """A copy is one message here, so there is nothing to resume; what was kept for a delta stays kept."""
        volume = self._volume(volume_id)
        files = volume.files
        if files.promised_epoch > term.epoch:
            raise StaleEpoch(f"Epoch {files.promised_epoch} is promised.")
        if files.state is ReplicaState.CLEAN:
            common = None if files.suspect else files.log.common_with(primary)
            files.kept, files.kept_from = {}, None
            if common is not None and common >= max(files.applied, files.log.base_lsn):
                known = Lsn(max(files.applied, min(common, primary.commit_lsn)))
                files.kept, files.kept_from = files.log.view(known), known
        if changed_from is None or files.kept_from is None or changed_from > files.kept_from:
            files.kept, files.kept_from = {}, None
        files.state = ReplicaState.REBUILDING
        files.absences = {}
        files.log = ModelLog()
        files.applied = files.must_reach = Lsn(0)
        volume.commit = Lsn(0)
        if files.kept_from is None:
            return RebuildPlan(kind=RebuildKind.FULL)
        cursor = files.size_bytes // PAGE_BYTES
        return RebuildPlan(kind=RebuildKind.DELTA, cursor=cursor, from_lsn=files.kept_from)

    async def commit_inherited(self, volume_id: VolumeId) -> Lsn:
        volume = self._volume(volume_id)
        volume.inherited = volume.term_start = self._log_entry(volume_id, volume, None, b"")
        await self._committed(volume_id, volume, volume.term_start)
        return volume.term_start

    # ------------------------------------------------------------ peers

    async def set_membership(self, volume_id: VolumeId, membership: Membership) -> Lsn:
        volume = self._volume(volume_id)
        volume.needed, volume.writable = membership.needed, membership.writable
        volume.one_of, volume.ack_local = membership.one_of, membership.ack_local
        frozen = volume.commit
        self._advance(volume_id, volume)
        self._look_at_gate(volume_id, volume)
        return frozen

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
        volume = self._volume(volume_id)
        missed: set[int] | None = None
        if rebuild is not None and rebuild.kind is RebuildKind.DELTA:
            known = volume.files.absences.get(uuid or ReplicaUuid(""))
            if known is None or known[0] > rebuild.from_lsn:
                raise NotFound("What the peer misses is not known here.")
            missed = known[1] | volume.files.log.touched(volume.files.applied, volume.commit)
        old = volume.peers.pop(slot, None)
        if old is not None:
            old.end.on_lost = None
            old.end.close()
        end = self._end(fd)
        peer = ModelPeer(
            node_key=node_key, end=end, shipped=joined_lsn, heard_at=self._clock(), acked=joined_lsn
        )
        volume.peers[slot] = peer
        volume.node_of[slot] = node_key
        log = volume.files.log
        if rebuild is not None:
            peer.rebuilding, peer.acked, peer.plan = True, Lsn(0), rebuild
            as_of = volume.commit
            rows = [r for r in log.rows() if r.first_lsn <= as_of]
            pages: dict[int, bytes | None] = dict(log.view(as_of))
            if missed is not None:
                # A page without data says so: what the peer holds there must not survive.
                pages = {page: pages.get(page) for page in sorted(missed)}
            content = (pages, missed is not None, volume.served, log.table_at(as_of))
            end.send(("base", volume.term, as_of, log.check_at(as_of), rows, content))
            peer.shipped = as_of
        end.attach(
            lambda message: self._on_ack(volume_id, slot, peer, message),
            lambda cause: self._on_peer_lost(volume_id, slot, peer, cause),
        )
        self._ship_new(volume, peer)
        self._advance(volume_id, volume)

    async def receive(self, volume_id: VolumeId, fd: int, term: Term) -> None:
        volume = self._volume(volume_id)
        if volume.files.promised_epoch > term.epoch:
            raise StaleEpoch(f"Epoch {volume.files.promised_epoch} is promised.")
        end = self._end(fd)
        if volume.feed is not None:
            volume.feed.on_lost = None
            volume.feed.close()
        volume.feed, volume.feed_term = end, term
        volume.heard_at = self._clock()
        end.attach(
            lambda message: self._on_frame(volume_id, volume, end, term, message),
            lambda cause: self._on_primary_lost(volume_id, volume, end, term, cause),
        )

    async def drop_peer(self, volume_id: VolumeId, slot: int) -> None:
        peer = self._volume(volume_id).peers.pop(slot, None)
        if peer is not None:
            peer.end.on_lost = None
            peer.end.close()
            self._fail_waiters(peer)

    async def peer_acked(self, volume_id: VolumeId, slot: int, lsn: Lsn) -> None:
        peer = self._volume(volume_id).peers.get(slot)
        if peer is None:
            raise Unavailable("The peer has no link.")
        if peer.acked >= lsn:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        peer.waiters.append((lsn, waiter))
        await waiter

    async def grant_ask_link(self, node_key: int, fd: int) -> None:
        end = self._end(fd)
        self._asking[node_key] = end
        end.attach(
            lambda message: self._on_verdicts(node_key, message),
            lambda _cause: self._on_grant_lost(node_key, end),
        )

    async def grant_serve_link(self, fd: int) -> None:
        end = self._end(fd)
        end.attach(lambda message: self._on_grant_ask(end, message), lambda _cause: None)

    # ------------------------------------------------------------ gate

    async def open_gate(self, volume_id: VolumeId, *, wait_ms: int) -> None:
        volume = self._volume(volume_id)
        if volume.over:
            raise StaleEpoch(f"The gate of {volume_id} was closed for the rest of {volume.term}.")
        volume.allowed = True
        volume.released = False
        volume.open_at = self._clock() + wait_ms / 1000
        self._look_at_gate(volume_id, volume)

    async def close_gate(self, volume_id: VolumeId, cause: str) -> None:
        volume = self._volume(volume_id)
        over = volume.over
        self._close_for_good(volume_id, volume, cause)
        volume.over = over or cause != "command"

    # ------------------------------------------------------------ frontends

    async def adopt_session(self, volume_id: VolumeId, fd: int, session: SessionParameters) -> None:
        self._volume(volume_id)
        self.sessions[session.session_key] = (volume_id, fd, session)

    async def adopt_queue(self, volume_id: VolumeId, fd: int, queue: QueueParameters) -> None:
        self._volume(volume_id)
        self.queues[queue.session_key] = (volume_id, fd, queue)

    async def adopt_nbd(self, volume_id: VolumeId, fd: int, client: NbdParameters) -> None:
        self._volume(volume_id)
        self.nbd_clients[client.session_key] = (volume_id, fd, client)

    def answer(
        self, session_key: int, tag: int, *, status: int, sense: bytes, data_in: bytes
    ) -> None:
        self.answers.append((session_key, tag, status, sense, data_in))

    def answer_raw(self, session_key: int, tag: int, header: bytes, data: bytes) -> None:
        self.answers.append((session_key, tag, -1, header, data))

    def raise_attention(self, session_key: int, notice: Notice) -> None:
        self.attentions.append((session_key, notice))

    async def end_session(self, session_key: int, *, leave_ms: int = 0) -> None:
        del leave_ms  # nobody is there to be asked
        self.sessions.pop(session_key, None)
        self.queues.pop(session_key, None)
        self.nbd_clients.pop(session_key, None)

    async def abort_command(self, session_key: int, command_id: int) -> bool:
        del session_key, command_id  # nobody has commands under way here
        return False

    async def write(self, volume_id: VolumeId, page: int, data: bytes) -> Lsn:
        """What a client's WRITE does; returns when it would be acknowledged. Raises: Refused, Unavailable."""
        return await self._client_entry(volume_id, page, data, zeros=0)

    async def committed(self, volume_id: VolumeId, lsn: Lsn) -> None:
        """Returns when an entry is committed. Raises: Unavailable when the term ends before."""
        await self._committed(volume_id, self._volume(volume_id), lsn)

    async def zero(self, volume_id: VolumeId, page: int, count: int) -> Lsn:
        """What a client's UNMAP does, likewise."""
        return await self._client_entry(volume_id, page, b"", zeros=count)

    async def _client_entry(
        self, volume_id: VolumeId, page: int, data: bytes, *, zeros: int
    ) -> Lsn:
        volume = self._volume(volume_id)
        self._look_at_gate(volume_id, volume)
        if not volume.gate_open or not volume.writable:
            raise Refused("The gate is closed.")
        lsn = self._log_entry(volume_id, volume, page, data, zeros=zeros)
        await self._answered(volume_id, volume, lsn)
        self._look_at_gate(volume_id, volume)
        if not volume.gate_open:
            raise Refused("The gate closed before the answer could leave.")
        return lsn

    def read(self, volume_id: VolumeId, page: int) -> bytes:
        """What a client's READ gives: the committed view. Raises: Refused."""
        volume = self._volume(volume_id)
        self._look_at_gate(volume_id, volume)
        if not volume.gate_open:
            raise Refused("The gate is closed.")
        return volume.files.log.view(max(volume.commit, volume.answered)).get(page, b"")

    async def page_states(
        self, volume_id: VolumeId, *, first_page: int, page_count: int
    ) -> tuple[tuple[int, bool], ...]:
        volume = self._volume(volume_id)
        view = volume.files.log.view(volume.commit)
        end = min(first_page + page_count, volume.files.size_bytes // PAGE_BYTES)
        pages = (page in view for page in range(first_page, end))
        return tuple((len(tuple(run)), data) for data, run in itertools.groupby(pages))

    # ------------------------------------------------------------ verification and repair

    async def page_digests(
        self, volume_id: VolumeId, *, at_lsn: Lsn, first_page: int, page_count: int
    ) -> PageDigests:
        volume = self._volume(volume_id)
        outcome, digests = DigestOutcome.READY, b""
        wanted = range(first_page, first_page + page_count)
        damaged = tuple(p for p in wanted if volume.files.damages(p))
        if volume.commit < at_lsn:
            outcome = DigestOutcome.BEHIND
        elif volume.files.log.base_lsn > at_lsn:
            outcome = DigestOutcome.PASSED
        elif damaged:
            outcome = DigestOutcome.DAMAGED
        else:
            view = volume.files.log.view(at_lsn)
            digests = b"".join(
                zlib.crc32(view.get(p, bytes(PAGE_BYTES))).to_bytes(4, "little") for p in wanted
            )
        return PageDigests(
            outcome=outcome,
            digests=digests,
            commit_lsn=volume.commit,
            applied_lsn=volume.files.applied,
            damaged_pages=damaged,
        )

    async def read_page(
        self, volume_id: VolumeId, page: int, *, at_least_lsn: Lsn
    ) -> tuple[Lsn, bytes]:
        volume = self._volume(volume_id)
        if volume.commit < at_least_lsn:
            raise Unavailable(f"Only {volume.commit} is known to be committed here.")
        if volume.files.damages(page):
            raise DamagedData(f"Page {page} is damaged.")
        view = volume.files.log.view(volume.commit)
        return volume.commit, view.get(page, bytes(PAGE_BYTES))

    async def repair_page(
        self, volume_id: VolumeId, page: int, as_of_lsn: Lsn, data: bytes | None
    ) -> bool:
        volume = self._volume(volume_id)
        if data is None or as_of_lsn < volume.files.applied:
            return False
        if page in volume.files.lost and as_of_lsn > volume.commit:
            raise Unavailable(f"Only {volume.commit} is known to be committed here.")
        volume.files.damaged.discard(page)
        volume.files.lost.discard(page)
        return True

    async def read_sums(self, volume_id: VolumeId, block: int, *, at_lsn: Lsn) -> SumsImage:
        volume = self._volume(volume_id)
        if block in volume.files.damaged_sums:
            raise DamagedData(f"Block {block} is damaged.")
        outcome, image = DigestOutcome.READY, b""
        if volume.commit < at_lsn:
            outcome = DigestOutcome.BEHIND
        elif volume.files.log.base_lsn > at_lsn:
            outcome = DigestOutcome.PASSED
        else:
            image = encode_sums(volume.files.log.view(at_lsn), block, volume.files.lost)
        return SumsImage(outcome=outcome, block=image, commit_lsn=volume.commit)

    async def check_superblock(self, volume_id: VolumeId) -> AtRest:
        files = self._volume(volume_id).files
        if not files.superblock_damaged:
            return AtRest.WHOLE
        files.superblock_damaged = False
        return AtRest.REWRITTEN

    async def check_sums(self, volume_id: VolumeId, block: int) -> SumsCheck:
        files = self._volume(volume_id).files
        if block in files.damaged_sums:
            self._emit(SumsDamaged(volume_id=volume_id, block=block, errno=0))
            return SumsCheck(state=AtRest.DAMAGED, lost_pages=0)
        lost = sum(page // PAGES_PER_BLOCK == block for page in files.lost)
        return SumsCheck(state=AtRest.WHOLE, lost_pages=lost)

    async def check_pages(
        self, volume_id: VolumeId, first_page: int, page_count: int
    ) -> int | None:
        files = self._volume(volume_id).files
        for page in range(first_page, first_page + page_count):
            if files.damages(page):
                self._emit(PageDamaged(volume_id=volume_id, page=page))
                return page
        return None

    async def check_batch(self, volume_id: VolumeId, lsn: Lsn) -> BatchCheck | None:
        files = self._volume(volume_id).files
        at = Lsn(max(lsn, files.log.base_lsn + 1))
        if at > files.log.last_lsn:
            return None
        damaged = at in files.damaged_lsns
        if damaged:
            self._emit(BatchDamaged(volume_id=volume_id, first_lsn=at, last_lsn=at))
        return BatchCheck(
            next_lsn=Lsn(at + 1),
            state=AtRest.DAMAGED if damaged else AtRest.WHOLE,
            size_bytes=2 * PAGE_BYTES,
        )

    async def mend_batch(self, volume_id: VolumeId, first_lsn: Lsn, batches: bytes | None) -> bool:
        files = self._volume(volume_id).files
        own = files.log.check_at(first_lsn) if first_lsn > files.log.base_lsn else None
        if own is None:
            return False
        if batches is None:
            if first_lsn <= files.applied:
                files.log.recycle(first_lsn)
        elif decode_batches(batches)[0].check != own:
            raise DamagedData(f"That is no copy of batch {first_lsn}.")
        files.damaged_lsns.discard(first_lsn)
        return True

    async def mend_sums(
        self, volume_id: VolumeId, block: int, at_lsn: Lsn, images: tuple[bytes, ...]
    ) -> SumsMended:
        volume = self._volume(volume_id)
        files = volume.files
        if images and at_lsn > volume.commit:
            return SumsMended(outcome=DigestOutcome.BEHIND, lost_pages=0)
        first = block * PAGES_PER_BLOCK
        pages = range(first, min(first + PAGES_PER_BLOCK, files.size_bytes // PAGE_BYTES))
        if block in files.damaged_sums:
            files.damaged_sums.discard(block)
            files.lost.update(pages)
        for image in images:
            files.lost -= {first + index for index in sums_known(image)}
        return SumsMended(
            outcome=DigestOutcome.READY, lost_pages=sum(page in files.lost for page in pages)
        )

    # ------------------------------------------------------------ the primary's side

    def _log_entry(
        self,
        volume_id: VolumeId,
        volume: ModelVolume,
        page: int | None,
        data: bytes,
        *,
        zeros: int = 0,
        size: int = 0,
    ) -> Lsn:
        log = volume.files.log
        self._before_write(volume_id, volume)
        if self.lose_own_writes and log.undurable_after is None:
            log.undurable_after = log.last_lsn
        log.append(
            Batch(
                term=volume.term,
                lsn=Lsn(log.last_lsn + 1),
                parent=log.last_check,
                page=page,
                data=data,
                zeros=zeros,
                size=size,
            )
        )
        volume.appended.append((log.last_lsn, self._clock()))
        for peer in volume.peers.values():
            self._ship_new(volume, peer)
        return log.last_lsn

    def _before_write(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        """Entries are about to be appended; here they are durable at once."""

    def _flushed(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        """More of the log is durable."""
        files = volume.files
        if volume.primary:
            self._advance(volume_id, volume)
        elif volume.feed is not None and files.promised_epoch <= volume.feed_term.epoch:
            files.apply(Lsn(max(files.applied, min(volume.commit, files.log.durable_lsn))))
            volume.feed.send(("ack", volume.feed_term, files.log.durable_lsn))

    def _ship_new(self, volume: ModelVolume, peer: ModelPeer) -> None:
        log = volume.files.log
        data = log.read(Lsn(peer.shipped + 1), bytes_max=1 << 30)
        peer.shipped = log.last_lsn
        peer.end.send(("batches", volume.term, volume.commit, data))

    async def _committed(self, volume_id: VolumeId, volume: ModelVolume, lsn: Lsn) -> None:
        self._advance(volume_id, volume)
        if volume.commit < lsn:
            await _reached(volume.commit_waiters, lsn)

    async def _answered(self, volume_id: VolumeId, volume: ModelVolume, lsn: Lsn) -> None:
        """A write is done: committed, or durable here where that is enough."""
        self._advance(volume_id, volume)
        if max(volume.commit, volume.answered) < lsn:
            await _reached(volume.answer_waiters, lsn)

    def _advance(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        """Move the commit LSN to what every needed peer has acknowledged."""
        if not volume.primary or volume.term_start == 0:
            return
        durable = volume.files.log.durable_lsn
        ends = [durable, *(_acked(volume, slot) for slot in volume.needed)]
        if volume.one_of:
            ends.append(max(_acked(volume, slot) for slot in volume.one_of))
        reached = min(ends)
        if not volume.writable:
            reached = min(reached, volume.inherited)
        if reached > volume.commit and reached >= volume.term_start:
            self._commit(volume_id, volume, reached)
        if volume.ack_local and volume.writable and volume.commit >= volume.term_start:
            volume.answered = max(volume.answered, durable)
            volume.answer_waiters = _wake(volume.answer_waiters, volume.answered)

    def _commit(self, volume_id: VolumeId, volume: ModelVolume, reached: Lsn) -> None:
        volume.commit = reached
        volume.files.apply(reached)
        self._serve(volume_id, volume)
        for peer in volume.peers.values():
            peer.end.send(("batches", volume.term, volume.commit, b""))
        volume.commit_waiters = _wake(volume.commit_waiters, reached)
        volume.answer_waiters = _wake(volume.answer_waiters, reached)

    def _on_ack(self, volume_id: VolumeId, slot: int, peer: ModelPeer, message: Any) -> None:
        volume = self._volumes.get(volume_id)
        if volume is None or volume.peers.get(slot) is not peer:
            return
        peer.heard_at = self._clock()
        kind, term, lsn = message
        if kind == "newer":
            self._emit(NewerEpochSeen(volume_id=volume_id, epoch=lsn))
            return
        if term != volume.term:
            return
        if kind == "rebuilt":
            peer.rebuilding = False
            self._emit(PeerRebuilt(volume_id=volume_id, slot=slot, term=term, lsn=lsn))
        if lsn > peer.acked:
            took_ms = _age_ms(volume, peer.acked, peer.heard_at)
            peer.paces.append((peer.heard_at, took_ms / 1000))
        peer.acked = max(peer.acked, lsn)
        for wanted, waiter in peer.waiters:
            if wanted <= peer.acked and not waiter.done():
                waiter.set_result(None)
        peer.waiters = [(w, f) for w, f in peer.waiters if not f.done()]
        self._advance(volume_id, volume)

    def _on_peer_lost(self, volume_id: VolumeId, slot: int, peer: ModelPeer, cause: str) -> None:
        volume = self._volumes.get(volume_id)
        if volume is None or volume.peers.get(slot) is not peer:
            return
        del volume.peers[slot]
        self._fail_waiters(peer)
        self._emit(PeerLost(volume_id=volume_id, slot=slot, term=volume.term, cause=cause))

    def _fail_waiters(self, peer: ModelPeer) -> None:
        for _lsn, waiter in peer.waiters:
            if not waiter.done():
                waiter.set_exception(Unavailable("The peer's link is lost."))

    # ------------------------------------------------------------ the follower's side

    def _on_frame(
        self, volume_id: VolumeId, volume: ModelVolume, end: End, term: Term, message: Any
    ) -> None:
        files = volume.files
        volume.heard_at = self._clock()
        if files.promised_epoch > term.epoch:
            end.send(("newer", term, files.promised_epoch))
            return
        if message[0] == "base":
            _kind, _term, as_of, check, rows, (pages, kept, size, table) = message
            if files.state is not ReplicaState.REBUILDING or (kept and files.kept_from is None):
                end.close()
                return
            if kept:
                pages = {**files.kept, **pages}
            pages = {page: data for page, data in pages.items() if data is not None}
            files.kept, files.kept_from = {}, None
            files.log = ModelLog(
                base_lsn=as_of,
                base_check=check,
                base_rows=tuple(rows),
                pages=pages,
                sizes=[(Lsn(0), size)],
                tables=[table] if table[0] else [],
            )
            files.damaged.clear()
            files.applied = volume.commit = as_of
            self._serve(volume_id, volume)
            files.state = ReplicaState.CLEAN
            end.send(("rebuilt", term, as_of))
            return
        _kind, _term, commit, data = message
        if data:
            self._before_write(volume_id, volume)
        try:
            for batch in decode_batches(data):
                files.log.append(batch)
        except DamagedData:
            end.close()
            return
        volume.commit = max(volume.commit, Lsn(min(commit, files.log.last_lsn)))
        self._serve(volume_id, volume)
        durable = files.log.durable_lsn
        files.apply(Lsn(max(files.applied, min(volume.commit, durable))))
        end.send(("ack", term, durable))

    def _on_primary_lost(
        self, volume_id: VolumeId, volume: ModelVolume, end: End, term: Term, cause: str
    ) -> None:
        if volume.feed is end:
            volume.feed = None
            self._emit(PrimaryLost(volume_id=volume_id, term=term, cause=cause))

    # ------------------------------------------------------------ grants

    def _on_grant_ask(self, end: End, message: Any) -> None:
        kind, stamp, wanted = message
        if kind == "release":
            self._take_release(stamp, wanted)
            return
        now = self._clock()
        verdicts = []
        for volume_id, term in wanted:
            volume = self._volumes.get(volume_id)
            if volume is None:
                verdicts.append((volume_id, term, "none", 0))
                continue
            promised = volume.files.promised_epoch
            if promised > term.epoch:
                verdicts.append((volume_id, term, "newer", promised))
            elif (
                volume.term == term
                and not volume.primary
                and not volume.files.suspect
                and stamp > volume.given_back.get(term, float("-inf"))
            ):
                running = {held: until for held, until in volume.promises.items() if until > now}
                volume.promises = {**running, term: now + GRANT_S}
                volume.granted_for[term] = stamp
                verdicts.append((volume_id, term, "granted", promised))
            else:
                verdicts.append((volume_id, term, "none", promised))
        end.send(("verdicts", stamp, verdicts))

    def _take_release(self, stamp: float, terms: list[tuple[VolumeId, Term]]) -> None:
        """Forget what was promised to a term that gave it back, unless it asked again since."""
        for volume_id, term in terms:
            volume = self._volumes.get(volume_id)
            if volume is None:
                continue
            volume.given_back[term] = max(stamp, volume.given_back.get(term, stamp))
            if stamp >= volume.granted_for.get(term, float("-inf")):
                volume.promises.pop(term, None)
                self._look_at_gate(volume_id, volume)

    def _on_verdicts(self, node_key: int, message: Any) -> None:
        _kind, stamp, verdicts = message
        for volume_id, term, verdict, promised in verdicts:
            volume = self._volumes.get(volume_id)
            if volume is None or not volume.primary or volume.term != term:
                continue
            if verdict == "granted" and stamp > volume.released_at:
                # The asker's right ends before the granter's promise, whoever's clock runs faster.
                for peer in volume.peers.values():
                    if peer.node_key == node_key:
                        peer.heard_at = self._clock()
                volume.rights[node_key] = stamp + GRANT_S * (1 - GRANT_DRIFT) - GRANT_MARGIN_S
                self._look_at_gate(volume_id, volume)
            elif verdict == "newer":
                self._close_for_good(volume_id, volume, "fenced")
                self._emit(NewerEpochSeen(volume_id=volume_id, epoch=promised))

    def _on_grant_lost(self, node_key: int, end: End) -> None:
        if self._asking.get(node_key) is end:
            del self._asking[node_key]
            self._emit(GrantLinkLost(node_key=node_key))

    def granted(self, volume: ModelVolume) -> bool:
        """Whether every grant that the gate needs is held at this moment."""
        now = self._clock()

        def held(slot: int) -> bool:
            return volume.rights.get(volume.node_of.get(slot, -1), 0.0) > now

        enough = not volume.one_of or any(map(held, volume.one_of))
        return enough and all(map(held, volume.needed))

    def _look_at_gate(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        now, granted = self._clock(), self.granted(volume)
        if volume.gate_open and not granted:
            self._close(volume_id, volume, "grant")
        elif (
            volume.allowed
            and not volume.gate_open
            and granted
            and now >= volume.open_at
            # What was promised here to an older primary binds too, as long as that one does not give it back.
            and all(
                until <= now
                for held, until in volume.promises.items()
                if held.epoch != volume.term.epoch
            )
        ):
            volume.gate_open = True
            self._emit(GateOpened(volume_id=volume_id, term=volume.term))

    def _close_for_good(self, volume_id: VolumeId, volume: ModelVolume, cause: str) -> None:
        """Closed by somebody, not by time: nothing of this term is served any more, so its grants go back."""
        volume.allowed, volume.over, volume.released = False, True, True
        volume.released_at = self._clock()
        self._close(volume_id, volume, cause)
        for node_key, end in self._asking.items():
            if volume.rights.pop(node_key, None) is not None:
                end.send(("release", volume.released_at, [(volume_id, volume.term)]))

    def _close(self, volume_id: VolumeId, volume: ModelVolume, cause: str) -> None:
        if volume.gate_open:
            volume.gate_open = False
            self._emit(
                GateClosed(
                    volume_id=volume_id,
                    term=volume.term,
                    cause=cause,
                    deadline_ns=0,
                    lateness_us=0,
                )
            )

    # ------------------------------------------------------------ small ones

    def _drop_links(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        for peer in self._take_peers(volume):
            peer.end.on_lost = None
            peer.end.close()
            self._fail_waiters(peer)
        if volume.feed is not None:
            volume.feed.on_lost = None
            volume.feed.close()
            volume.feed = None
        for _lsn, waiter in (*volume.commit_waiters, *volume.answer_waiters):
            if not waiter.done():
                waiter.set_exception(Unavailable(f"{volume_id} is not served here any more."))
        volume.commit_waiters.clear()
        volume.answer_waiters.clear()

    def _take_peers(self, volume: ModelVolume) -> Iterator[ModelPeer]:
        while volume.peers:
            yield volume.peers.popitem()[1]

    def _summary(self, volume: ModelVolume) -> LogSummary:
        files = volume.files
        return LogSummary(
            uuid=files.uuid,
            terms=files.log.rows(),
            last_term=files.log.last_term,
            last_lsn=files.log.last_lsn,
            last_check=files.log.last_check,
            oldest_lsn=Lsn(files.log.base_lsn + 1),
            durable_lsn=files.log.durable_lsn,
            commit_lsn=volume.commit,
            applied_lsn=files.applied,
            must_reach_lsn=files.must_reach,
            state=files.state,
            suspect=files.suspect,
        )

    def _volume(self, volume_id: VolumeId) -> ModelVolume:
        volume = self._volumes.get(volume_id)
        if volume is None:
            raise NotFound(f"{volume_id} is not open here.")
        return volume

    def _end(self, fd: int) -> End:
        end = self.fabric.ends.get(fd)
        if end is None:
            raise Unavailable("The connection is closed already.")
        return end

    def _emit(self, event: CoreEvent) -> None:
        asyncio.get_running_loop().call_soon(self._on_event, event)


def _age_ms(volume: ModelVolume, lsn: Lsn, now: float) -> int:
    """How long the oldest entry above an LSN has been under way."""
    return next((round(1000 * (now - at)) for found, at in volume.appended if found > lsn), 0)


def _acked(volume: ModelVolume, slot: int) -> Lsn:
    peer = volume.peers.get(slot)
    return Lsn(0) if peer is None or peer.rebuilding else peer.acked


async def _reached(waiters: list[tuple[Lsn, asyncio.Future[None]]], lsn: Lsn) -> None:
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiters.append((lsn, waiter))
    await waiter


def _wake(
    waiters: list[tuple[Lsn, asyncio.Future[None]]], reached: Lsn
) -> list[tuple[Lsn, asyncio.Future[None]]]:
    """Those that still wait."""
    left = []
    for lsn, waiter in waiters:
        if waiter.done():
            continue
        if lsn <= reached:
            waiter.set_result(None)
        else:
            left.append((lsn, waiter))
    return left

"""One replica on this node: the lines it is told of, whether it is primary, and what it answers as a follower.

Lines change one at a time. A line is durable in the superblock before anything acts on it; a line that takes primacy
away closes the gate before that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from sparrow.authority.types import (
    AssignmentFact,
    Line,
    Peer,
    PeerProgress,
    ReplicaState,
    Term,
)
from sparrow.base import events as names
from sparrow.base.errors import (
    EpochConflict,
    FailedPrecondition,
    NotFound,
    RemoteProtocolError,
    SparrowError,
    StaleEpoch,
    Unavailable,
)
from sparrow.base.ids import Epoch, Lsn, ReplicaId, ReplicaUuid, VolumeId
from sparrow.node import events as ev
from sparrow.node.keys import Slots
from sparrow.node.primacy import Primacy, Surroundings
from sparrow.node.progress import Progress
from sparrow.ports.dataplane import (
    CoreEvent,
    DiskFailed,
    FenceReport,
    GateClosed,
    GateOpened,
    JoinOutcome,
    LogSummary,
    NewerEpochSeen,
    OpenReport,
    PeerLost,
    PeerRebuilt,
    PoolFull,
    PrimaryLost,
    VolumeResized,
    VolumeStatus,
)
from sparrow.rpc.messages import (
    FenceRequest,
    JoinAnswer,
    JoinAnswerOutcome,
    JoinRequest,
    PrepareRebuildAnswer,
    PrepareRebuildRequest,
    ReleaseReplicaRequest,
)

#: A write of the own log that is outstanding for longer makes the disk one to get away from (L9).
GRAY_S: Final = 1.0
#: One that hung is not trusted again at once.
GRAY_HOLD_S: Final = 10.0
#: Between two tries of a resize that was refused, for want of room mostly.
RESIZE_AGAIN_S: Final = 1.0
NO_PENDING: Final[tuple[ReplicaId, ...]] = ()
NO_TERM: Final = Term(epoch=Epoch(0), start=0)


class Volume:
    """A replica whose files are open. ``line`` is the newest acted on; there is none before the first."""

    def __init__(self, *, volume_id: VolumeId, report: OpenReport, around: Surroundings) -> None:
        self.volume_id = volume_id
        self.replica_id = report.replica_id
        self.uuid: ReplicaUuid = report.log.uuid
        self.size_bytes = report.size_bytes
        self.block_size = report.block_size
        self.known_line: Line | None = report.line
        self.slots = Slots()
        self.progress = Progress(self.slots.replica)
        self.primacy: Primacy | None = None
        self.gate_open = False
        self.disk_failed = False
        #: The disk failed, and this last in-sync copy goes on serving reads.
        self.frozen = False
        self.pool_full = False
        self._gray_until = 0.0
        self._observed: VolumeStatus | None = None
        self.state = report.log.state
        self._recorded_pending = report.pending
        #: Of the newest join and the newest preparation answered: the primary's term and how far its log reached.
        self._joined_upon = self._prepared_upon = (NO_TERM, Lsn(0))
        self._heard_master = False
        #: A promise may be lost: until the master's newest line is known, an older primary could be promised anew.
        self._forgetful = report.superblock_damaged
        self._peer_revision = -1
        #: In sync and to be taken out, by the master's newest word.
        self.leaving: tuple[ReplicaId, ...] = ()
        self._peers: dict[ReplicaId, Peer] = {}
        self._around = around
        self._dataplane = around.dataplane
        self._log = around.log.bind(volume=volume_id, replica=report.replica_id)
        self._changing = asyncio.Lock()
        self._stepping_down: asyncio.Task[None] | None = None
        self._size_wanted = 0
        self._resizing: asyncio.Task[None] | None = None

    @property
    def line(self) -> Line:
        assert self.known_line is not None, "asked only where a line was acted on"
        return self.known_line

    @property
    def is_primary(self) -> bool:
        """Whether the newest line says so and a term of it is under way or open."""
        return self.primacy is not None

    @property
    def is_member(self) -> bool:
        """Whether the newest line means exactly these files."""
        if self.known_line is None:
            return False
        member = self.known_line.member(self.replica_id)
        return member is not None and member.uuid == self.uuid

    def portals_of(self, replica: ReplicaId, protocol: str) -> tuple[str, ...]:
        """Where initiators reach another replica, as far as the master knows: ``host:port`` each."""
        known = self._peers.get(replica)
        if known is None:
            return ()
        return tuple(one.addr for one in known.frontends if one.protocol == protocol)

    def peer(self, replica: ReplicaId) -> Peer:
        """Where to reach a member: the newest address heard, else the line's."""
        known = self._peers.get(replica)
        if known is not None:
            return known
        member = self.line.member(replica)
        if member is None:
            raise NotFound(f"{replica} is no member of {self.volume_id}.")
        return Peer(
            replica_id=member.replica_id,
            node_id=member.node_id,
            uuid=member.uuid,
            data_addr=member.data_addr,
            ctrl_addr=member.ctrl_addr,
        )

    # ------------------------------------------------------------ lines

    async def accept(self, fact: AssignmentFact) -> None:
        """Act on what the master says of this volume; older and repeated facts change nothing."""
        async with self._changing:
            if fact.line.volume_id != self.volume_id:
                raise RemoteProtocolError(f"A fact of {fact.line.volume_id} for {self.volume_id}.")
            if self._refuses(fact.line):
                return
            same = self.known_line is not None and fact.line.lineage == self.known_line.lineage
            if not same or fact.peer_revision > self._peer_revision:
                self._peers = {peer.replica_id: peer for peer in fact.peers}
                self._peer_revision = fact.peer_revision
                self.leaving = fact.leaving
                if same and self.primacy is not None:
                    self.primacy.tell(ev.LeavingTold(replicas=fact.leaving))
            first = not self._heard_master
            self._heard_master = True
            if not same or first:
                await self._act_on(fact.line, may_open=True)

    async def line_from_ask(self, line: Line) -> None:
        """The master answered an ask with a line: the same as being told of it.

        Unless a newer master was heard of meanwhile: what its predecessor minted since is no line of this cluster.
        What the newer one stands by comes down its own stream.
        """
        seen = self._around.master_generation()
        newer = self.known_line is None or line.lineage > self.known_line.lineage
        if newer and line.master_generation < seen:
            self._log.warning(
                names.LINE_REFUSED,
                epoch=line.lineage.epoch,
                endpoint_version=line.lineage.endpoint_version,
                cause=f"answered by master generation {line.master_generation}, {seen} was heard since",
            )
            return
        await self.accept(
            AssignmentFact(
                line=line,
                peers=tuple(self._peers.values()),
                peer_revision=self._peer_revision,
                leaving=self.leaving,
            )
        )

    async def line_from_peer(self, line: Line) -> None:
        """A primary showed its line. It can end our primacy, never begin it: that takes the master's own word."""
        async with self._changing:
            newer = self.known_line is None or line.lineage > self.known_line.lineage
            if newer and line.primary != self.replica_id and not self._refuses(line):
                await self._act_on(line, may_open=False)

    async def settled_line(self) -> Line | None:
        """The newest line acted on, once what is being acted on now is durable."""
        async with self._changing:
            return self.known_line

    async def record_pending(self, pending: tuple[ReplicaId, ...], epoch: int) -> None:
        async with self._changing:
            if self.line.lineage.epoch != epoch:
                raise StaleEpoch(f"{self.volume_id} is in epoch {self.line.lineage.epoch} by now.")
            await self._dataplane.set_line(self.volume_id, self.line, pending)
            self._recorded_pending = pending

    def _refuses(self, line: Line) -> bool:
        """Whether a line must not be acted on: older, of a replaced master, or another one of the same lineage."""
        known = self.known_line
        if known is None:
            return False
        if line.lineage < known.lineage:
            cause = "older than the one held"
        elif line.lineage == known.lineage and line != known:
            cause = "same lineage, other content"
            self._log.error(names.EPOCH_CONFLICTED, epoch=line.lineage.epoch)
        elif _another_policy(known, line):
            cause = "another policy or minimum than the one held"
        elif self._of_replaced_master(line):
            cause = (
                f"of master generation {line.master_generation}, {known.master_generation} was seen"
            )
        else:
            return False
        self._log.warning(
            names.LINE_REFUSED,
            epoch=line.lineage.epoch,
            endpoint_version=line.lineage.endpoint_version,
            cause=cause,
        )
        return True

    def _of_replaced_master(self, line: Line) -> bool:
        """A newer line of an older master: two masters were running at one time."""
        known = self.known_line
        if known is None or line.lineage <= known.lineage:
            return False
        return line.master_generation < known.master_generation

    async def _act_on(self, line: Line, *, may_open: bool) -> None:
        """Make the line durable and become what it says."""
        same_term = self.primacy is not None and line.lineage.epoch == self.primacy.epoch
        known = self.known_line
        repeated = known is not None and known.lineage == line.lineage
        self._log.info(
            names.LINE_ACCEPTED,
            epoch=line.lineage.epoch,
            endpoint_version=line.lineage.endpoint_version,
            primary=line.primary,
            in_sync=list(line.in_sync),
        )
        member = line.member(self.replica_id)
        serves = (
            line.primary == self.replica_id
            and not line.retired
            and member is not None
            and member.uuid == self.uuid
        )
        if self.primacy is not None and not (serves and same_term):
            await self._end_primacy("superseded")
        await self._keep_aside(line)
        # A newer line ends pending; only the very line it was recorded under carries it over a restart.
        pending = self._recorded_pending if repeated else NO_PENDING
        if not repeated:
            await self._dataplane.set_line(self.volume_id, line, NO_PENDING)
        self.known_line = line
        self._recorded_pending = pending
        if serves and self.primacy is not None:
            self.primacy.line_changed(line)
        elif serves and may_open:
            self.primacy = Primacy(
                volume_id=self.volume_id,
                replica=self.replica_id,
                line=line,
                pending=pending,
                owner=self,
                around=self._around,
            )
            self.primacy.begin()
        self._urge()

    def _is_set_aside(self, line: Line) -> bool:
        """Whether a line wants exactly these files kept as they are."""
        member = line.member(self.replica_id)
        return self.replica_id in line.set_aside and member is not None and member.uuid == self.uuid

    async def _keep_aside(self, line: Line) -> None:
        """Quarantined, durably, before the line that says so is: a crash in between loses the wish in neither order.

        What the log looks like does not matter: it may end where the new primary's does and hold other entries below.
        """
        if not self._is_set_aside(line) or self.state is not ReplicaState.CLEAN:
            return
        await self._dataplane.set_state(self.volume_id, ReplicaState.QUARANTINED)
        self.state = ReplicaState.QUARANTINED
        self._log.error(names.REPLICA_QUARANTINED, epoch=line.lineage.epoch, cause="set aside")

    async def release(self, request: ReleaseReplicaRequest) -> None:
        """An operator decided about files that were kept, or were a mixture: believed, or emptied for a rebuild.

        Raises:
            FailedPrecondition: the line shown does not allow it, or they are not in such a state.
            Unavailable: that line has not come down the master's own stream yet.
        """
        self._check_slot(request.replica_id)
        async with self._changing:
            known = self.known_line
            if known is None or known.lineage < request.line.lineage:
                raise Unavailable(f"That line of {self.volume_id} was not heard of here yet.")
            if request.uuid != self.uuid or not self.is_member:
                raise FailedPrecondition(f"The files of {self.volume_id} here are others.")
            alone = known.primary == self.replica_id and known.in_sync == (self.replica_id,)
            if request.state is ReplicaState.CLEAN:
                allowed = alone and bool(known.set_aside)
                held = {ReplicaState.QUARANTINED, ReplicaState.REBUILDING}
            else:
                out = self.replica_id not in (*known.in_sync, *known.eligible, *known.set_aside)
                allowed = out and request.state is ReplicaState.REBUILDING
                held = {ReplicaState.QUARANTINED}
            if self.state is request.state:
                return
            if not allowed or self.state not in held:
                raise FailedPrecondition(
                    f"{self.replica_id} of {self.volume_id} is {self.state}, and its line does not let it"
                    f" become {request.state}."
                )
            await self._dataplane.set_state(self.volume_id, request.state)
            self.state = request.state
            self._log.warning(names.REPLICA_RELEASED, state=request.state, who=request.who)
            if self.primacy is not None:
                # Its opening waits for this; a new term looks at the files anew.
                await self._end_primacy("command")
                await self._act_on(known, may_open=True)
        self._urge()

    async def _end_primacy(self, cause: str) -> None:
        ending, self.primacy = self.primacy, None
        self._around.stirs.note()
        if ending is None:
            return
        try:
            await self._dataplane.close_gate(self.volume_id, cause)
        finally:
            await ending.stop()
        for slot in self.slots.used():
            await self._dataplane.drop_peer(self.volume_id, slot)

    def stepped_down(self, cause: str) -> None:
        """Something newer exists: close now, open again only under a newer line."""
        self._log.warning(names.GATE_CLOSED, cause=cause)
        self._stepping_down = asyncio.get_running_loop().create_task(
            self._step_down(), name=f"{self.volume_id}:step_down"
        )

    async def _step_down(self) -> None:
        async with self._changing:
            if self.primacy is not None and self.primacy.over:
                await self._end_primacy("superseded")
                self._urge()

    # ------------------------------------------------------------ as a follower

    async def fenced(self, request: FenceRequest) -> FenceReport:
        """Answer a primary's fence: its term is promised here, durably, when this returns."""
        self._check_memory()
        self._check_speaker(request.line, request.term, request.primary)
        await self.line_from_peer(request.line)
        report = await self._promise(request.term, request.primary)
        self._log.info(
            names.FENCE_ANSWERED,
            epoch=request.term.epoch,
            primary=request.primary,
            promise_ms=report.promise_ms,
        )
        return report

    async def joined(self, request: JoinRequest) -> JoinAnswer:
        """Cut our log to the common point with the primary's and say where it is."""
        self._check_memory()
        self._check_speaker(request.line, request.term, request.primary)
        self._check_slot(request.replica_id)
        await self.line_from_peer(request.line)
        report = await self._promise(request.term, request.primary)
        shown = (request.term, request.log.last_lsn)
        self._check_newest(shown, report.log)
        self._joined_upon = shown
        if self._is_set_aside(self.line):
            outcome, lsn, check = JoinAnswerOutcome.QUARANTINED, report.log.last_lsn, 0
        elif report.log.state is ReplicaState.REBUILDING:
            outcome, lsn, check = JoinAnswerOutcome.REBUILDING, report.log.last_lsn, 0
        elif report.log.state is ReplicaState.QUARANTINED:
            outcome, lsn, check = JoinAnswerOutcome.QUARANTINED, report.log.last_lsn, 0
        else:
            found, lsn, check = await self._dataplane.join(
                self.volume_id, request.term, request.log
            )
            outcome = _OUTCOMES[found]
            if found is JoinOutcome.QUARANTINED:
                # What would be cut is applied here: kept as it is until an operator or a proof says otherwise.
                await self._dataplane.set_state(self.volume_id, ReplicaState.QUARANTINED)
        status = await self._dataplane.status(self.volume_id)
        self.state = status.log.state
        if outcome is JoinAnswerOutcome.JOINED and lsn < report.log.last_lsn:
            self._log.info(names.WAL_SUFFIX_CUT, from_lsn=lsn + 1, to_lsn=report.log.last_lsn)
        if outcome is JoinAnswerOutcome.QUARANTINED:
            self._log.error(names.REPLICA_QUARANTINED, epoch=request.term.epoch)
        return JoinAnswer(
            outcome=outcome,
            joined_lsn=lsn,
            joined_check=check,
            log=status.log,
            detail="" if outcome is JoinAnswerOutcome.JOINED else f"state {status.log.state}",
        )

    async def prepared(self, request: PrepareRebuildRequest) -> PrepareRebuildAnswer:
        """Make the files ready for a rebuild, keeping what they surely hold; never while a line counts on them."""
        self._check_memory()
        self._check_speaker(request.line, request.term, request.primary)
        self._check_slot(request.replica_id)
        await self.line_from_peer(request.line)
        newest = self.line if self.line.lineage > request.line.lineage else request.line
        if self.replica_id in newest.in_sync and self.is_member:
            raise FailedPrecondition(
                f"{self.replica_id} of {self.volume_id} is in the in-sync set.",
                hint="It is taken out by a line before its files may go.",
            )
        report = await self._promise(request.term, request.primary)
        if report.log.state is ReplicaState.QUARANTINED or self._is_set_aside(newest):
            raise FailedPrecondition(
                f"{self.replica_id} of {self.volume_id} is quarantined: its files are kept.",
                hint="They may hold what no other replica has; an operator decides.",
            )
        shown = (request.term, request.log.last_lsn)
        if shown <= self._prepared_upon and report.log.state is ReplicaState.CLEAN:
            raise _late("preparation for a rebuild")
        self._prepared_upon = shown
        plan = await self._dataplane.prepare_rebuild(
            self.volume_id, request.term, request.log, request.changed_from
        )
        self.state = ReplicaState.REBUILDING
        self._log.info(
            names.REBUILD_STARTED,
            epoch=request.term.epoch,
            primary=request.primary,
            kind=plan.kind.name.lower(),
            cursor_page=plan.cursor,
            from_lsn=plan.from_lsn,
            joined_lsn=plan.joined_lsn,
        )
        return PrepareRebuildAnswer(uuid=self.uuid, plan=plan)

    async def check_promised(self, term: Term) -> None:
        """Raises unless the term's epoch is the one promised here."""
        promised = (await self._dataplane.status(self.volume_id)).promised_epoch
        if promised > term.epoch:
            raise StaleEpoch(f"Epoch {promised} is promised here, {term.epoch} is older.")
        if promised < term.epoch:
            raise FailedPrecondition(f"Epoch {term.epoch} was not promised here yet.")

    def _check_newest(self, shown: tuple[Term, Lsn], ours: LogSummary) -> None:
        """A primary's log only grows within its term: one that is behind what we saw of it was shown before that.

        Cutting to such a join would take away entries that we have acknowledged since.
        """
        term, _ = shown
        if shown < self._joined_upon or (
            ours.last_term >= term and shown < (ours.last_term, ours.last_lsn)
        ):
            raise _late("join")

    async def _promise(self, term: Term, primary: ReplicaId) -> FenceReport:
        try:
            report = await self._dataplane.fence(self.volume_id, term, primary)
        except EpochConflict as error:
            self._log.error(names.EPOCH_CONFLICTED, epoch=term.epoch, cause=str(error))
            raise
        async with self._changing:
            if self.primacy is not None and self.primacy.epoch < term.epoch:
                await self._end_primacy("superseded")
        return report

    def _check_speaker(self, line: Line, term: Term, primary: ReplicaId) -> None:
        """A primary speaks for its own line and epoch, and not for one we know to be over."""
        if line.volume_id != self.volume_id or not line.lineage.valid:
            raise RemoteProtocolError("The line shown is not one of this volume.")
        if (
            line.primary != primary
            or line.lineage.epoch != term.epoch
            or primary == self.replica_id
        ):
            raise RemoteProtocolError("The line shown does not make the caller primary.")
        if self.known_line is not None and line.lineage.epoch < self.known_line.lineage.epoch:
            raise StaleEpoch(
                f"Epoch {self.known_line.lineage.epoch} is known here, {term.epoch} is older."
            )
        if self._of_replaced_master(line):
            raise StaleEpoch("The line shown is of a master that was replaced.")

    def _check_memory(self) -> None:
        """With one superblock copy lost nothing is promised before the master said which line is the newest.

        Whatever was promised, it was to the primary of a line that the master minted: older epochs are refused from
        then on, by that line.
        """
        if self._forgetful and not self._heard_master:
            raise FailedPrecondition(
                f"{self.replica_id} of {self.volume_id} lost a copy of its superblock.",
                hint="It promises nothing before it has heard the newest line from the master.",
            )

    def _check_slot(self, replica_id: ReplicaId) -> None:
        if replica_id != self.replica_id:
            raise NotFound(f"This node hosts {self.replica_id} of {self.volume_id}.")

    # ------------------------------------------------------------ from the core

    def take(self, event: CoreEvent) -> None:
        """A fact of the core about this volume, other than a command of a session or a damaged page."""
        match event:
            case GateOpened():
                self.gate_open = True
                self._log.info(names.GATE_OPENED, epoch=event.term.epoch, start=event.term.start)
                self._resize_soon()
            case GateClosed():
                self.gate_open = False
                name = (
                    names.FENCE_FIRED if event.cause in {"fenced", "grant"} else names.GATE_CLOSED
                )
                self._log.info(
                    name,
                    epoch=event.term.epoch,
                    start=event.term.start,
                    cause=event.cause,
                    deadline_ns=event.deadline_ns,
                    lateness_us=event.lateness_us,
                )
            case PeerLost():
                self._tell_slot(
                    event.term,
                    event.slot,
                    lambda replica: ev.LinkLost(replica=replica, cause=event.cause),
                )
            case PeerRebuilt():
                self._tell_slot(
                    event.term,
                    event.slot,
                    lambda replica: ev.BaseComplete(replica=replica, lsn=event.lsn),
                )
            case NewerEpochSeen():
                if self.primacy is not None and event.epoch > self.primacy.epoch:
                    self.primacy.over = True
                    self.stepped_down(f"epoch {event.epoch} is promised elsewhere")
            case DiskFailed():
                self.disk_failed = True
                self.frozen = event.frozen
                if not event.frozen:
                    self.state = ReplicaState.CONDEMNED
                name = names.REPLICA_FROZEN if event.frozen else names.REPLICA_CONDEMNED
                self._log.error(name, file=event.file, errno=event.errno)
            case PoolFull() | VolumeResized():
                self._take_space(event)
            case PrimaryLost():
                self._log.info(
                    names.PEER_LOST,
                    epoch=event.term.epoch,
                    cause=event.cause,
                    base_bytes=event.base_bytes,
                )
            case _:
                return
        self._urge()

    @property
    def withdrawn(self) -> bool:
        """Another replica should be primary: writes of the own log hang, or every peer is slow to us alone."""
        slow_to_all = self.primacy is not None and self.primacy.withdrawn
        return slow_to_all or self._around.clock() < self._gray_until

    def _take_space(self, event: PoolFull | VolumeResized) -> None:
        """The room in the pool, or the size of the volume, is another."""
        if isinstance(event, PoolFull):
            self.pool_full = event.full
            self._log.warning(names.POOL_FULL, full=event.full)
        elif event.size_bytes != self.size_bytes:
            self.size_bytes = event.size_bytes
            self._log.info(names.VOLUME_RESIZED, size_bytes=event.size_bytes)

    # ------------------------------------------------------------ size

    def want_size(self, size_bytes: int) -> None:
        """What an operator asked for. Whoever is primary logs it; size is state of the log, so any later one has it."""
        self._size_wanted = max(self._size_wanted, size_bytes)
        self._resize_soon()

    def _resize_soon(self) -> None:
        if self._resizing is None and self._may_resize():
            self._resizing = asyncio.get_running_loop().create_task(self._resize())

    def _may_resize(self) -> bool:
        return self.primacy is not None and self.gate_open and self._size_wanted > self.size_bytes

    async def _resize(self) -> None:
        """Until it is done, or this replica does not serve any more."""
        try:
            while self._may_resize():
                size_bytes = self._size_wanted
                try:
                    await self._dataplane.resize(self.volume_id, size_bytes)
                except SparrowError as error:
                    self._log.warning(
                        names.VOLUME_RESIZE_FAILED, size_bytes=size_bytes, cause=str(error)
                    )
                    await asyncio.sleep(RESIZE_AGAIN_S)
                else:
                    self.size_bytes = max(self.size_bytes, size_bytes)
        finally:
            self._resizing = None
        self._urge()

    def _urge(self) -> None:
        """What is told of this replica is another than before, and the master should hear of it."""
        self._around.stirs.note()
        self._around.urge()

    @property
    def settled(self) -> bool:
        """Whether looking again changes nothing, and what would be told is the same, as long as nothing happens."""
        if self.withdrawn:
            return False  # it ends with time
        return self.primacy is None or (
            self.primacy.settled(self._around.clock()) and self.progress.resting
        )

    def observe(self, status: VolumeStatus) -> None:
        """The core's view, taken for a heartbeat; the same object as before when it is the same view."""
        if status is not self._observed:
            self._observed = status
            self._learn(status)
        if self.primacy is not None:
            self.primacy.observe(status)

    def _learn(self, status: VolumeStatus) -> None:
        """What is new in the core; a lag of milliseconds is new every time."""
        if status.own_lag_ms > GRAY_S * 1000:
            if self._around.clock() >= self._gray_until:
                self._log.warning(names.REPLICA_GRAY, own_lag_ms=status.own_lag_ms)
            self._gray_until = self._around.clock() + GRAY_HOLD_S
        self.gate_open = status.gate_open
        self.disk_failed = self.disk_failed or status.disk_failed
        self.frozen = status.frozen
        self.state = status.log.state
        # A view from before the gate opened may have stopped a resize that had just begun.
        self._resize_soon()  # whatever stopped it

    def peers_seen(self, status: VolumeStatus) -> tuple[PeerProgress, ...]:
        """How far this primary is with its peers."""
        return self.progress.peers(status, frozenset(self.line.in_sync), self._around.clock())

    def control_changed(self, *, live: bool) -> None:
        if self.primacy is not None:
            self.primacy.tell(ev.ControlChanged(live=live))

    async def close(self) -> None:
        """End primacy and close the files; the core ends sessions and links."""
        if self._resizing is not None:
            self._resizing.cancel()
        async with self._changing:
            await self._end_primacy("command")
            try:
                await self._dataplane.close_replica(self.volume_id)
            except SparrowError as error:
                self._log.warning(names.COMMAND_FAILED, command="close_replica", cause=str(error))

    def _tell_slot(
        self, term: Term, slot: int, make: Callable[[ReplicaId], ev.PrimaryEvent]
    ) -> None:
        """An event about a peer, if it is of the term under way."""
        replica = self.slots.replica(slot)
        if replica is not None and self.primacy is not None and self.primacy.term == term:
            self.primacy.tell(make(replica))


def _another_policy(known: Line, line: Line) -> bool:
    """A volume keeps both for life (S29): whoever says otherwise is no publisher of ours.

    A line that names none of the files the held one names may be of another life: a node that was away while a volume
    was deleted and made anew has to hear of it, or its old files stay for ever.
    """
    held = {member.uuid for member in known.members}
    same_life = not known.retired and any(member.uuid in held for member in line.members)
    return same_life and (known.ack, known.min_in_sync) != (line.ack, line.min_in_sync)


def _late(what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"This {what} was sent before one that was answered already.",
        hint="A newer one is under way or done; nothing was changed.",
    )


_OUTCOMES: Final = {
    JoinOutcome.JOINED: JoinAnswerOutcome.JOINED,
    JoinOutcome.NO_COMMON_POINT: JoinAnswerOutcome.NO_COMMON_POINT,
    JoinOutcome.QUARANTINED: JoinAnswerOutcome.QUARANTINED,
}

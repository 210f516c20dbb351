"""One replica on this node: the lines it is told of, whether it is primary, and what the core says of it.

Lines change one at a time. A line is durable in the superblock before anything acts on it; a line that takes primacy
away closes the gate before that. Which lines are refused is a rule of ``node/lines.py``; what the replica answers a
primary is in ``node/follower.py``.
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
    FailedPrecondition,
    NotFound,
    RemoteProtocolError,
    SparrowError,
    StaleEpoch,
    Unavailable,
)
from sparrow.base.ids import Epoch, ReplicaId, ReplicaUuid, VolumeId
from sparrow.node import events as ev
from sparrow.node.follower import Follower
from sparrow.node.growth import Growth
from sparrow.node.keys import Slots
from sparrow.node.lines import CONFLICT, refusal
from sparrow.node.primacy import Primacy
from sparrow.node.progress import Progress
from sparrow.node.relief import Relief
from sparrow.node.surroundings import Surroundings
from sparrow.ports.dataplane import (
    CoreEvent,
    DiskFailed,
    GateClosed,
    GateOpened,
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
    ReleaseReplicaRequest,
)

NO_PENDING: Final[tuple[ReplicaId, ...]] = ()


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
        self._relief = Relief()
        self._observed: VolumeStatus | None = None
        self.state = report.log.state
        self._recorded_pending = report.pending
        #: The master said since the start which line is the newest.
        self.heard_master = False
        self._peer_revision = -1
        #: In sync and to be taken out, by the master's newest word.
        self.leaving: tuple[ReplicaId, ...] = ()
        self._peers: dict[ReplicaId, Peer] = {}
        self._around = around
        self._dataplane = around.dataplane
        self._log = around.log.bind(volume=volume_id, replica=report.replica_id)
        self._changing = asyncio.Lock()
        self._stepping_down: asyncio.Task[None] | None = None
        self.follower = Follower(self, around, forgetful=report.superblock_damaged)
        self.growth = Growth(self, around)

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

    def is_set_aside(self, line: Line) -> bool:
        """Whether a line wants exactly these files kept as they are."""
        member = line.member(self.replica_id)
        return self.replica_id in line.set_aside and member is not None and member.uuid == self.uuid

    def check_slot(self, replica_id: ReplicaId) -> None:
        """Raises NotFound unless these are that replica's files."""
        if replica_id != self.replica_id:
            raise NotFound(f"This node hosts {self.replica_id} of {self.volume_id}.")

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
                    self.primacy.members_told()
            first = not self.heard_master
            self.heard_master = True
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
        """Whether a line must not be acted on; then that is said."""
        cause = refusal(self.known_line, line)
        if cause is None:
            return False
        if cause is CONFLICT:
            self._log.error(names.EPOCH_CONFLICTED, epoch=line.lineage.epoch)
        self._log.warning(
            names.LINE_REFUSED,
            epoch=line.lineage.epoch,
            endpoint_version=line.lineage.endpoint_version,
            cause=cause,
        )
        return True

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
        self.urge()

    async def _keep_aside(self, line: Line) -> None:
        """Quarantined, durably, before the line that says so is: a crash in between loses the wish in neither order.

        What the log looks like does not matter: it may end where the new primary's does and hold other entries below.
        """
        if not self.is_set_aside(line) or self.state is not ReplicaState.CLEAN:
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
        self.check_slot(request.replica_id)
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
        self.urge()

    async def _end_primacy(self, cause: str) -> None:
        ending, self.primacy = self.primacy, None
        self._around.stirs.note()
        if ending is None:
            return
        # From here on it wants nothing any more: a gate that it opens while the core closes it would stay open.
        ending.over = True
        try:
            await self._dataplane.close_gate(self.volume_id, cause)
        finally:
            await ending.stop()
        for slot in self.slots.used():
            await self._dataplane.drop_peer(self.volume_id, slot)
        # Whoever left since is nobody's peer in a later term.
        self.slots.keep({member.replica_id for member in self.line.members})

    def stepped_down(self, cause: str) -> None:
        """Something newer exists: close now, open again only under a newer line."""
        self._log.warning(names.GATE_CLOSED, cause=cause)
        self._stepping_down = asyncio.get_running_loop().create_task(
            self._step_down(), name=f"{self.volume_id}:step_down"
        )

    async def superseded(self, epoch: Epoch) -> None:
        """This epoch is promised here: an older term of ours is over when this returns."""
        async with self._changing:
            if self.primacy is not None and self.primacy.epoch < epoch:
                await self._end_primacy("superseded")

    async def _step_down(self) -> None:
        async with self._changing:
            if self.primacy is not None and self.primacy.over:
                await self._end_primacy("superseded")
                self.urge()

    # ------------------------------------------------------------ from the core

    def take(self, event: CoreEvent) -> None:
        """A fact of the core about this volume, other than a command of a session or a damaged page."""
        match event:
            case GateOpened():
                self.gate_open = True
                self._log.info(names.GATE_OPENED, epoch=event.term.epoch, start=event.term.start)
                self.growth.soon()
            case GateClosed():
                self.gate_open = False
                self._tell_closed(event)
            case PeerLost():
                self._tell_slot(
                    event.term,
                    event.slot,
                    lambda replica: ev.LinkLost(
                        replica=replica, link=event.link, cause=event.cause
                    ),
                )
            case PeerRebuilt():
                self._tell_slot(
                    event.term,
                    event.slot,
                    lambda replica: ev.BaseComplete(
                        replica=replica, link=event.link, lsn=event.lsn
                    ),
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
        self.urge()

    def _tell_closed(self, event: GateClosed) -> None:
        """Why, under which line, and of a right that ran out or was revoked when that was and when it was acted on."""
        known = self.known_line
        same = known is not None and known.lineage.epoch == event.term.epoch
        facts: dict[str, object] = {
            "epoch": event.term.epoch,
            # Unknown where a newer epoch was heard of first.
            "endpoint_version": known.lineage.endpoint_version if known and same else None,
            "start": event.term.start,
            "cause": event.cause,
        }
        if event.cause not in {"fenced", "grant"}:
            self._log.info(names.GATE_CLOSED, **facts)
            return
        self._log.info(
            names.FENCE_FIRED,
            **facts,
            deadline_ns=event.deadline_ns,
            fired_ns=event.deadline_ns + event.lateness_us * 1000,
            lateness_us=event.lateness_us,
        )

    @property
    def withdrawn(self) -> bool:
        """It asks to be relieved; of a follower: it is none to hand over to for another one's pace."""
        now = self._around.clock()
        if self.primacy is None:
            return self._relief.was_slow(now)
        return self._relief.asks(now) or self.primacy.outrun

    @property
    def hung(self) -> bool:
        """It leads, its log has taken nothing for long, and another has everything."""
        return self.primacy is not None and self._relief.hung

    def _take_space(self, event: PoolFull | VolumeResized) -> None:
        """The room in the pool, or the size of the volume, is another."""
        if isinstance(event, PoolFull):
            self.pool_full = event.full
            self._log.warning(names.POOL_FULL, full=event.full)
        elif event.size_bytes != self.size_bytes:
            self.size_bytes = event.size_bytes
            self._log.info(names.VOLUME_RESIZED, size_bytes=event.size_bytes)

    def urge(self) -> None:
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
        primacy = self.primacy
        if primacy is not None:
            primacy.observe(status)
            self._look_at_pace(primacy, status)

    def _look_at_pace(self, primacy: Primacy, status: VolumeStatus) -> None:
        now, quicker = self._around.clock(), primacy.quicker
        before = (self._relief.slow(now), self._relief.asks(now))
        self._relief.look(
            own_lag_s=status.own_lag_ms / 1000,
            durable_lsn=status.log.durable_lsn,
            serves=status.gate_open,
            quicker=bool(quicker),
            behind=primacy.is_behind(status.log.durable_lsn),
            all_slow=primacy.all_slow,
            now=now,
        )
        slow, asks = after = (self._relief.slow(now), self._relief.asks(now))
        if not slow and not asks:
            return
        if after != before:
            self._log.warning(
                names.REPLICA_GRAY, own_lag_ms=status.own_lag_ms, asks=asks, quicker=quicker
            )
        found = "writes of its log take more than a second" if slow else "every peer is slow to it"
        follows = "another is asked to lead" if asks else "none is known to be quicker, so it stays"
        who = f"{self.replica_id} of volume {self.volume_id}"
        self._around.note("pace", f"{who} leads and is slow: {found}; {follows}.")

    def _learn(self, status: VolumeStatus) -> None:
        """What is new in the core; a lag of milliseconds is new every time."""
        self.gate_open = status.gate_open
        self.disk_failed = self.disk_failed or status.disk_failed
        self.frozen = status.frozen
        self.state = status.log.state
        # A view from before the gate opened may have stopped a resize that had just begun.
        self.growth.soon()  # whatever stopped it

    def peers_seen(self, status: VolumeStatus) -> tuple[PeerProgress, ...]:
        """How far this primary is with its peers."""
        return self.progress.peers(status, frozenset(self.line.in_sync), self._around.clock())

    def control_changed(self, *, live: bool) -> None:
        if self.primacy is not None:
            self.primacy.tell(ev.ControlChanged(live=live))

    async def close(self) -> None:
        """End primacy and close the files; the core ends sessions and links."""
        self.growth.stop()
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

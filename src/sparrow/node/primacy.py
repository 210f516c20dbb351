"""One term as primary: drives the opening, then the peers, and carries out what they want.

The driver of two pure machines. Commands run as tasks of this term; their outcomes come back as events, in the order in
which they ended. When the term is over every task of it is cancelled and nothing it says counts any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from contextlib import aclosing
from typing import Any, Final, Protocol

from sparrow.authority.types import Intent, Line, Lineage, Peer, Term
from sparrow.base import events as names
from sparrow.base.errors import (
    EpochConflict,
    NotFound,
    SparrowError,
    StaleEpoch,
    Unavailable,
)
from sparrow.base.ids import Lsn, ReplicaId, ReplicaUuid, VolumeId
from sparrow.formats.hello import Hello, LinkKind
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.asks import ask_until_answered
from sparrow.node.keys import Slots
from sparrow.node.opening import Opening, Phase
from sparrow.node.pace import WINDOW_S
from sparrow.node.peers.machine import Peers
from sparrow.node.surroundings import Surroundings
from sparrow.ports.dataplane import (
    JoinOutcome,
    LogSummary,
    Membership,
    VolumeStatus,
)
from sparrow.rpc.messages import (
    AskIntent,
    AskRequest,
    FenceRequest,
    JoinAnswerOutcome,
    JoinRequest,
    PrepareRebuildRequest,
    ReadLogRequest,
)

LINK_TIMEOUT_S: Final = 1.0
PREPARE_TIMEOUT_S: Final = 30.0
READ_LOG_TIMEOUT_S: Final = 10.0
#: What a peer says of a term that has no right to go on. A conflict is worse than a newer epoch: two masters gave one
#: epoch to two primaries, and whoever asked the other out of its way would make two that serve.
OVER: Final = (StaleEpoch, EpochConflict)
INTERNAL: Final = "internal error, see the log"
#: After an answer that was no answer.
ASK_AGAIN_S: Final = 0.5
#: A view of the core that stood for so long, while nothing else happened, is not shown again. It is longer than every
#: window in which the peers' machine measures over several looks.
SETTLED_S: Final = 2 * WINDOW_S


class TermOwner(Protocol):
    """What a term asks of its volume; ``node.volume`` is one."""

    @property
    def line(self) -> Line:
        """Newest line acted on."""

    @property
    def slots(self) -> Slots: ...

    @property
    def leaving(self) -> tuple[ReplicaId, ...]:
        """In sync and to be taken out, by the master's newest word."""

    def peer(self, replica: ReplicaId) -> Peer:
        """Where to reach a member now. Raises: NotFound."""

    async def record_pending(self, pending: tuple[ReplicaId, ...], epoch: int) -> None:
        """Make pending durable under the newest line of this epoch. Raises: StaleEpoch when it moved on."""

    async def line_from_ask(self, line: Line) -> None:
        """Act on a line the master answered with."""

    def stepped_down(self, cause: str) -> None:
        """The term is over because something newer exists."""


class Primacy:
    """A term of one volume on this node, from the first promise to the end of the term."""

    def __init__(
        self,
        *,
        volume_id: VolumeId,
        replica: ReplicaId,
        line: Line,
        pending: tuple[ReplicaId, ...],
        owner: TermOwner,
        around: Surroundings,
    ) -> None:
        self.volume_id = volume_id
        self.replica = replica
        self.epoch = line.lineage.epoch
        self.opening = Opening(line=line, replica=replica, pending=pending)
        self.peers: Peers | None = None
        self.over = False
        self._owner = owner
        self._around = around
        self._dataplane = around.dataplane
        self._log = around.log.bind(volume=volume_id, replica=replica, epoch=self.epoch)
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        #: Connections that are being made, none of which is the core's yet; one at a time to each peer.
        self._connecting: dict[ReplicaId, asyncio.Task[None]] = {}
        #: The newest wait of the gate, while the core is told of it.
        self._opening_gate: asyncio.Task[None] | None = None
        #: The newest view of the core, and when it or anything else last changed.
        self._view: VolumeStatus | None = None
        self._stirred_at = 0.0
        self._want_grants()

    @property
    def term(self) -> Term | None:
        """None until it is durable."""
        return self.opening.term

    @property
    def pending(self) -> tuple[ReplicaId, ...]:
        """Peers that are pending, durable or about to be."""
        return self.peers.pending if self.peers is not None else self.opening.pending

    @property
    def withdrawn(self) -> bool:
        """Every peer is slow to this replica: it asks to be relieved."""
        return self.peers is not None and self.peers.withdrawn

    def settled(self, now: float) -> bool:
        """Whether nothing follows from the view it was shown last, as long as nothing happens.

        That every peer is slow is said of a window of looks: it ends with time, so it is looked at until it is over.
        """
        if self.peers is None:
            return True
        return not self.peers.withdrawn and now - self._stirred_at > SETTLED_S

    def begin(self) -> None:
        for effect in self.opening.begin():
            self._carry_out(effect)

    def tell(self, event: ev.PrimaryEvent) -> None:
        """One event to the machine in charge; ignored once the term is over."""
        if self.over:
            return
        now = self._around.clock()
        if not isinstance(event, ev.PeersSeen):
            self._stirred_at = now
            self._around.stirs.note()
        # An answer to a fence concerns the opening even when it is over: it may shorten the wait for the gate.
        opens = self.peers is None or isinstance(event, ev.FenceAnswered)
        machine = self.opening if opens or self.peers is None else self.peers
        for effect in machine.step(event, now):
            self._carry_out(effect)
        if self.peers is None and self.opening.phase is Phase.ALLOWED:
            self._take_over(now)
        if not self.over:
            self._arm()

    def line_changed(self, line: Line) -> None:
        """A newer line of this epoch is durable here."""
        self.tell(ev.LineChanged(line=line))
        self.tell(ev.LeavingTold(replicas=self._owner.leaving))
        self._want_grants()

    def observe(self, status: VolumeStatus) -> None:
        """The core's view, taken now; the same object as before when it is the same view.

        A view that stood for long is not shown again. What follows from it followed when it was shown: the machine acts
        on events, on times that it names itself (``wake_at``; their ticks stir it as any event does), and on what it
        measures over looks within a window, which was all of this view. Whatever is silent or late does not stand: its
        milliseconds are part of the view.
        """
        if self.peers is None:
            return
        now = self._around.clock()
        if status is not self._view:
            self._view = status
            self._stirred_at = now
        elif self.settled(now):
            return
        if not status.peers and not self.peers.peers:
            # Nothing follows from how long its log is before there is somebody to feed.
            self.peers.log_seen(status.log.oldest_lsn, status.log.last_lsn)
            return
        seen = []
        for peer in status.peers:
            replica = self._owner.slots.replica(peer.slot)
            if replica is not None:
                seen.append((replica, peer))
        self.tell(
            ev.PeersSeen(
                peers=tuple(seen), oldest_lsn=status.log.oldest_lsn, head_lsn=status.log.last_lsn
            )
        )

    async def stop(self) -> None:
        """End the term here: nothing of it runs when this returns."""
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        self._around.want_grants(self.volume_id, {})
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _take_over(self, now: float) -> None:
        opening = self.opening
        assert opening.term is not None
        self.peers = Peers(
            line=opening.line,
            replica=self.replica,
            term=opening.term,
            pending=opening.pending,
            links=opening.links,
            link_ids=opening.link_ids,
            sessions=self._around.sessions,
            control_live=self._around.control_live(),
            now=now,
        )
        self.tell(ev.LeavingTold(replicas=self._owner.leaving))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_at = self.opening.wake_at if self.peers is None else self.peers.wake_at
        if wake_at is not None:
            delay = max(0.0, wake_at - self._around.clock())
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(delay, self.tell, ev.Tick())

    def _want_grants(self) -> None:
        wanted = {}
        for member in self._owner.line.members:
            if member.replica_id != self.replica:
                peer = self._owner.peer(member.replica_id)
                wanted[peer.node_id] = peer.data_addr
        self._around.want_grants(self.volume_id, wanted)

    # ------------------------------------------------------------ carrying out

    def _carry_out(self, effect: fx.PrimaryEffect) -> None:  # noqa: C901, PLR0912 - one arm per effect
        match effect:
            case fx.Report():
                self._log.info(effect.event, **effect.facts)
            case fx.StepDown():
                self.over = True
                self._owner.stepped_down(effect.cause)
            case fx.BeginTerm():
                self._run("begin_term", self._begin_term())
            case fx.SendFence():
                self._run("fence", self._fence(effect))
            case fx.Adopt():
                self._run("adopt", self._adopt(effect))
            case fx.SendJoin():
                self._run("join", self._join(effect))
            case fx.PrepareRebuild():
                self._run("prepare_rebuild", self._prepare_rebuild(effect))
            case fx.StartShip():
                self._end_connecting(effect.replica)
                self._connecting[effect.replica] = self._run("ship", self._ship(effect))
            case fx.DropPeer():
                self._end_connecting(effect.replica)
                # A link gets its slot before it is made, so of a peer without one the core has nothing.
                slot = self._owner.slots.known(effect.replica)
                if slot is not None:
                    self._run("drop_peer", self._drop_peer(slot))
            case fx.SetMembership():
                self._run("set_membership", self._set_membership(effect))
            case fx.CommitInherited():
                self._run("commit_inherited", self._commit_inherited())
            case fx.OpenGate():
                if self._opening_gate is not None:
                    # Said after this one it would count instead.
                    self._opening_gate.cancel()
                self._opening_gate = self._run("open_gate", self._open_gate(effect.wait_ms))
            case fx.RecordPending():
                self._run("record_pending", self._record_pending(effect.pending))
            case fx.AwaitAcked():
                self._run("peer_acked", self._await_acked(effect))
            case fx.AskShrink():
                self._run("ask", self._ask_shrink(effect))
            case fx.AskGrow():
                self._run("ask", self._ask_grow(effect))

    def _end_connecting(self, replica: ReplicaId) -> None:
        """Of a link that nobody wants any more: the core would get it after what is wanted now."""
        task = self._connecting.pop(replica, None)
        if task is not None:
            task.cancel()

    def _run(
        self, command: str, work: Coroutine[Any, Any, ev.PrimaryEvent | None]
    ) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(
            self._finish(command, work), name=f"{self.volume_id}:{command}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A term that ends before the command had its first turn leaves it unstarted.
        task.add_done_callback(lambda _task: work.close())
        return task

    async def _finish(self, command: str, work: Awaitable[ev.PrimaryEvent | None]) -> None:
        try:
            event = await work
        except SparrowError as error:
            event = ev.CommandFailed(command=command, cause=str(error))
            self._log.warning(
                names.COMMAND_FAILED, command=command, code=error.code, cause=str(error)
            )
        except Exception:  # noqa: BLE001 - a bug in one command must not leave the machine waiting for ever
            self._log.exception(names.COMMAND_FAILED, command=command)
            event = ev.CommandFailed(command=command, cause=INTERNAL)
        if event is not None:
            self.tell(event)

    async def _begin_term(self) -> ev.PrimaryEvent:
        try:
            term = await self._dataplane.begin_term(self.volume_id, self.epoch)
            own = await self._dataplane.fence(self.volume_id, term, self.replica)
        except (StaleEpoch, EpochConflict) as error:
            self._note_conflict(error)
            return ev.TermRefused(cause=str(error))
        return ev.TermBegun(term=term, own=own)

    async def _fence(self, effect: fx.SendFence) -> ev.PrimaryEvent:
        request = FenceRequest(line=self._owner.line, term=effect.term, primary=self.replica)
        try:
            peer = self._owner.peer(effect.replica)
            report = await self._around.calls.fence(
                peer.ctrl_addr, request, timeout_s=effect.timeout_s
            )
        except SparrowError as error:
            self._note_conflict(error)
            superseded = isinstance(error, OVER)
            return ev.FenceFailed(replica=effect.replica, cause=str(error), superseded=superseded)
        return ev.FenceAnswered(replica=effect.replica, report=report)

    async def _adopt(self, effect: fx.Adopt) -> ev.PrimaryEvent:
        """Cut our own end off where the longer log does not have it, then append the rest of that log."""
        source, log = effect.source, effect.log
        outcome, at, _check = await self._dataplane.join(self.volume_id, effect.term, log)
        if outcome is not JoinOutcome.JOINED:
            return ev.AdoptFailed(source=source, cause=outcome.value, lasting=True)
        try:
            while at < log.last_lsn:
                before = at
                request = ReadLogRequest(
                    volume_id=self.volume_id, term=effect.term, from_lsn=Lsn(at + 1)
                )
                addr = self._owner.peer(source).ctrl_addr
                chunks = self._around.calls.read_log(addr, request, timeout_s=READ_LOG_TIMEOUT_S)
                async with aclosing(chunks) as stream:
                    async for chunk in stream:
                        at = await self._dataplane.append_log(self.volume_id, chunk.batches)
                if at == before:
                    return ev.AdoptFailed(source=source, cause=f"its log ended at {at}")
        except NotFound as error:
            return ev.AdoptFailed(source=source, cause=str(error), lasting=True)
        except SparrowError as error:
            return ev.AdoptFailed(source=source, cause=str(error))
        status = await self._dataplane.status(self.volume_id)
        self._log.info(names.LOG_ADOPTED, source=source, last_lsn=status.log.last_lsn)
        return ev.LogAdopted(log=status.log)

    async def _join(self, effect: fx.SendJoin) -> ev.PrimaryEvent:
        replica, link = effect.replica, effect.link
        try:
            peer = self._owner.peer(replica)
            log = (await self._dataplane.status(self.volume_id)).log
            request = JoinRequest(
                volume_id=self.volume_id,
                replica_id=replica,
                term=effect.term,
                primary=self.replica,
                log=log,
                line=self._owner.line,
            )
            answer = await self._around.calls.join(
                peer.ctrl_addr, request, timeout_s=effect.timeout_s
            )
            now = (await self._dataplane.status(self.volume_id)).log
            matches = answer.outcome is JoinAnswerOutcome.JOINED and await self._matches(
                answer.joined_lsn, answer.joined_check, now
            )
        except Exception as error:  # noqa: BLE001 - the link has one outcome, whatever went wrong
            cause, superseded = self._no_link("join", error)
            return ev.JoinFailed(replica=replica, link=link, cause=cause, superseded=superseded)
        return ev.JoinAnswered(
            replica=replica,
            link=link,
            uuid=answer.log.uuid,
            outcome=answer.outcome,
            joined_lsn=answer.joined_lsn,
            check_matches=matches,
            oldest_lsn=now.oldest_lsn,
            head_lsn=now.last_lsn,
            detail=answer.detail,
        )

    async def _matches(self, lsn: Lsn, check: int, log: LogSummary) -> bool:
        """Whether both logs hold the same batch there, as far as ours still reaches."""
        if lsn == 0:
            return True
        ours = await self._dataplane.check_at(self.volume_id, lsn)
        if ours is None:
            # Recycled: whether the log still reaches is told by the LSNs, and the follower compares the parent
            # of the first batch it is shipped.
            return lsn < log.oldest_lsn
        return ours == check

    async def _prepare_rebuild(self, effect: fx.PrepareRebuild) -> ev.PrimaryEvent:
        try:
            peer = self._owner.peer(effect.replica)
            status = await self._dataplane.status(self.volume_id)
            known = status.absence(effect.uuid)
            request = PrepareRebuildRequest(
                volume_id=self.volume_id,
                replica_id=effect.replica,
                term=effect.term,
                primary=self.replica,
                log=status.log,
                line=self._owner.line,
                changed_from=None if known is None else known.from_lsn,
            )
            answer = await self._around.calls.prepare_rebuild(
                peer.ctrl_addr, request, timeout_s=PREPARE_TIMEOUT_S
            )
        except Exception as error:  # noqa: BLE001 - the link has one outcome, whatever went wrong
            cause, superseded = self._no_link("prepare_rebuild", error)
            return ev.RebuildRefused(
                replica=effect.replica, link=effect.link, cause=cause, superseded=superseded
            )
        return ev.RebuildPrepared(
            replica=effect.replica, link=effect.link, uuid=answer.uuid, plan=answer.plan
        )

    async def _ship(self, effect: fx.StartShip) -> ev.PrimaryEvent:
        """Nothing is awaited between the connection and the command: the core has it, or it is being made."""
        try:
            try:
                peer = self._owner.peer(effect.replica)
                # Both before the connection: a peer that gets no slot must not leave a descriptor behind, nor its
                # other end following a link that nobody feeds.
                slot = self._owner.slots.slot(effect.replica)
                key = self._around.keys.key(peer.node_id)
                fd = await self._around.links.connect(
                    peer.data_addr, self._hello(peer, effect), timeout_s=LINK_TIMEOUT_S
                )
            finally:
                if self._connecting.get(effect.replica) is asyncio.current_task():
                    del self._connecting[effect.replica]
            await self._dataplane.ship(
                self.volume_id,
                slot,
                key,
                fd,
                link=effect.link,
                joined_lsn=effect.joined_lsn,
                rebuild=effect.rebuild,
                uuid=effect.uuid,
            )
        except Exception as error:  # noqa: BLE001 - the link has one outcome, whatever went wrong
            cause, superseded = self._no_link("ship", error)
            return ev.ShipFailed(
                replica=effect.replica, link=effect.link, cause=cause, superseded=superseded
            )
        return ev.ShipStarted(
            replica=effect.replica, link=effect.link, rebuild=effect.rebuild is not None
        )

    def _no_link(self, command: str, error: Exception) -> tuple[str, bool]:
        """Why a link is not made, and whether the term is over. Of a bug nobody but the log hears more."""
        if isinstance(error, SparrowError):
            self._note_conflict(error)
            return str(error), isinstance(error, OVER)
        self._log.error(names.COMMAND_FAILED, command=command, exc_info=error)
        return INTERNAL, False

    def _hello(self, peer: Peer, effect: fx.StartShip) -> Hello:
        return Hello(
            kind=LinkKind.SHIP,
            cluster_id=self._around.cluster_id(),
            from_node=self._around.me.node_id,
            to_node=peer.node_id,
            volume_id=self.volume_id,
            from_replica=self.replica,
            to_replica=effect.replica,
            uuid=effect.uuid,
            term_epoch=effect.term.epoch,
            term_start=effect.term.start,
        )

    async def _drop_peer(self, slot: int) -> None:
        await self._dataplane.drop_peer(self.volume_id, slot)

    async def _set_membership(self, effect: fx.SetMembership) -> ev.PrimaryEvent:
        slot = self._owner.slots.slot
        membership = Membership(
            needed=tuple(map(slot, effect.needed)),
            writable=effect.writable,
            one_of=tuple(map(slot, effect.one_of)),
            ack_local=effect.ack_local,
        )
        frozen = await self._dataplane.set_membership(self.volume_id, membership)
        return ev.MembershipSet(
            needed=effect.needed,
            one_of=effect.one_of,
            frozen_lsn=frozen,
            attempt=effect.attempt,
        )

    async def _commit_inherited(self) -> ev.PrimaryEvent:
        lsn = await self._dataplane.commit_inherited(self.volume_id)
        return ev.InheritedCommitted(lsn=lsn)

    async def _open_gate(self, wait_ms: int) -> None:
        """Say it until the core has heard it: the gate opens by nothing else in this term, and no machine asks for it.

        Safety. The wait begins when the core hears of it, so said again it ends later than it has to, never earlier.
        What the gate needs besides, grants and a term that nobody closed for good, the core judges itself. A newer wait
        ends the saying of this one, and so does the end of the term, before it closes the gate (``node.volume``).
        """
        while not self.over:
            try:
                await self._dataplane.open_gate(self.volume_id, wait_ms=wait_ms)
            except StaleEpoch:
                raise  # closed for the rest of the term
            except Exception as error:  # noqa: BLE001 - a volume that stays closed for it helps nobody
                bug = not isinstance(error, SparrowError)
                self._log.warning(
                    names.COMMAND_FAILED, command="open_gate", cause=str(error), exc_info=bug
                )
                await asyncio.sleep(ASK_AGAIN_S)
            else:
                return

    async def _record_pending(self, pending: tuple[ReplicaId, ...]) -> ev.PrimaryEvent | None:
        try:
            await self._owner.record_pending(pending, self.epoch)
        except StaleEpoch:
            return None
        return ev.PendingRecorded(pending=pending)

    async def _await_acked(self, effect: fx.AwaitAcked) -> ev.PrimaryEvent | None:
        slot = self._owner.slots.slot(effect.replica)
        try:
            await self._dataplane.peer_acked(self.volume_id, slot, effect.lsn)
        except Unavailable:
            return None  # the link is gone; LinkLost tells
        return ev.PeerAcked(replica=effect.replica, lsn=effect.lsn)

    async def _ask_shrink(self, effect: fx.AskShrink) -> ev.PrimaryEvent | None:
        return await self._ask(
            Intent.SHRINK_IN_SYNC,
            effect.replica,
            effect.basis,
            reason=effect.reason,
            clear_eligible=effect.clear_eligible,
        )

    async def _ask_grow(self, effect: fx.AskGrow) -> ev.PrimaryEvent | None:
        return await self._ask(
            Intent.GROW_IN_SYNC,
            effect.replica,
            effect.basis,
            reason="caught up",
            uuid=effect.uuid,
        )

    async def _ask(
        self,
        intent: Intent,
        replica: ReplicaId,
        basis: Lineage,
        *,
        reason: str,
        clear_eligible: bool = False,
        uuid: ReplicaUuid | None = None,
    ) -> ev.PrimaryEvent | None:
        request = AskRequest(
            volume_id=self.volume_id,
            intent=AskIntent(intent),
            replica_id=replica,
            asker=self.replica,
            basis=basis,
            reason=reason,
            clear_eligible=clear_eligible,
            uuid=uuid,
        )
        while True:
            answer = await ask_until_answered(
                self._around.master,
                request,
                still_wanted=lambda: not self.over and self._owner.line.lineage == basis,
                log=self._log,
            )
            if answer is None:
                return None
            told = answer if isinstance(answer, Line) else answer.recorded
            if told is not None:
                await self._owner.line_from_ask(told)
                if told.lineage > self._owner.line.lineage:
                    # Refused here, because a newer master was heard since: whether that one stands by it is not
                    # known yet. If it does, the line counts on what was asked for, so nothing may end.
                    await asyncio.sleep(ASK_AGAIN_S)
                    continue
            refusal = None if isinstance(answer, Line) else answer.code
            return ev.AskEnded(intent=intent, replica=replica, basis=basis, refusal=refusal)

    def _note_conflict(self, error: SparrowError) -> None:
        if isinstance(error, EpochConflict):
            self._log.error(names.EPOCH_CONFLICTED, cause=str(error))

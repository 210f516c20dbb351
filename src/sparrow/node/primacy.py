"""One term as primary: drives the opening, then the peers, and carries out what they want.

The driver of two pure machines. Commands (``opening_commands``, ``link_commands``, ``ask_commands``, and the small ones
here) run as tasks of this term; their outcomes come back as events, in the order in which they ended. When the term is
over every task of it is cancelled and nothing it says counts any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, Final

from sparrow.authority.types import Line, Term
from sparrow.base import events as names
from sparrow.base.errors import SparrowError, StaleEpoch, Unavailable
from sparrow.base.ids import Lsn, ReplicaId, VolumeId
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.ask_commands import ASK_AGAIN_S, AskCommands
from sparrow.node.link_commands import LinkCommands
from sparrow.node.opening.machine import Opening
from sparrow.node.opening.state import Phase
from sparrow.node.opening_commands import OpeningCommands
from sparrow.node.pace import WINDOW_S
from sparrow.node.peers.machine import Peers
from sparrow.node.surroundings import Surroundings
from sparrow.node.term import INTERNAL, TermOwner, TermPlace
from sparrow.ports.dataplane import Membership, VolumeStatus

#: A view of the core that stood for so long, while nothing else happened, is not shown again. It is longer than every
#: window in which the peers' machine measures over several looks.
SETTLED_S: Final = 2 * WINDOW_S


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
        place = TermPlace(
            volume_id=volume_id,
            replica=replica,
            epoch=self.epoch,
            owner=owner,
            around=around,
            log=self._log,
            ended=lambda: self.over,
        )
        self._openings, self._links = OpeningCommands(place), LinkCommands(place)
        self._asks = AskCommands(place)
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
    def outrun(self) -> bool:
        """It cannot open and another one may: it asks to be relieved."""
        return self.peers is None and self.opening.outrun

    @property
    def all_slow(self) -> bool:
        """Every peer is slow to this replica."""
        return self.peers is not None and self.peers.all_slow

    @property
    def quicker(self) -> tuple[ReplicaId, ...]:
        """Peers in sync that acknowledge quickly."""
        return () if self.peers is None else self.peers.quicker(self._around.clock())

    def is_behind(self, durable_lsn: Lsn) -> bool:
        """Whether a peer in sync has more on its disk."""
        return self.peers is not None and self.peers.has_beyond(durable_lsn)

    def settled(self, now: float) -> bool:
        """Whether nothing follows from the view it was shown last, as long as nothing happens.

        That every peer is slow is said of a window of looks: it ends with time, so it is looked at until it is over.
        """
        if self.peers is None:
            return True
        return not self.peers.all_slow and now - self._stirred_at > SETTLED_S

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
        if not self.over:
            # Links of others were dropped just now; who is a member again after this is somebody else. The end of a
            # term drops whatever has a slot.
            self._owner.slots.keep({member.replica_id for member in line.members})
        self.members_told()

    def members_told(self) -> None:
        """The master said where members are reached and which of them are to leave, maybe of a line that stood already.

        Links for grants go to the newest address, as those that feed do: who does not grant does not grow the set, and
        a larger set is what would have brought its new address into a line.
        """
        self.tell(ev.LeavingTold(replicas=self._owner.leaving))
        if not self.over:
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
                self._run("begin_term", self._openings.begin_term())
            case fx.SendFence():
                self._run("fence", self._openings.fence(effect))
            case fx.Adopt():
                self._run("adopt", self._openings.adopt(effect))
            case fx.SendJoin():
                self._run("join", self._links.join(effect))
            case fx.PrepareRebuild():
                self._run("prepare_rebuild", self._links.prepare_rebuild(effect))
            case fx.StartShip():
                self._links.end_connecting(effect.replica)
                task = self._run("ship", self._links.ship(effect))
                self._links.connecting(effect.replica, task)
            case fx.DropPeer():
                self._links.end_connecting(effect.replica)
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
                self._run("ask", self._asks.shrink(effect))
            case fx.AskGrow():
                self._run("ask", self._asks.grow(effect))

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

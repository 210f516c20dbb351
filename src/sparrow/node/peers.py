"""The peers of an open volume: brought back, fed, taken into the in-sync set, asked out of it.

A pure machine that takes over when ``node.opening`` has allowed the gate; ``node.volume`` carries out its effects. What
a peer needs (nothing, the log, everything anew, a fence, to be grown) is decided by its engine behind
``authority.adapter``; here is what an executor owes the engine: links, joins, pending, asks, and when to try again.

    AWAY        no link; joined again after a while
    JOINING     asked for the common point of its log with ours
    PREPARING   emptying its files for a rebuild
    CONNECTING  link being made
    FEEDING     the core ships the log to it
    REBUILDING  the core ships base and live lane to it
    SET_ASIDE   quarantined: kept as it is, reported, asked again rarely

There is one link to a peer at a time, and what is said of an older one is void (``node.link_ids``).

Growing: durable as pending, needed for commits, then the engine waits until the peer has acknowledged the commit LSN of
that moment and its grant is held, then the master is asked. Only a newer line or a refusal that names the basis ends
it; until then, and after a transport error, the peer stays needed.

Leaving, where an entry commits on some (``authority.quorum``): the line without the peer counts on each of the others,
so first each of the others is needed for commits and grants, then each has acknowledged the commit LSN of that moment,
then the master is asked. It is given up when the peer is well again before the ask was sent.

Slow peers (``node.pace``): one that holds commits back for a whole window is asked out and fed on as one that catches
up; never below two, and not where all of them are slow: then it is this replica, which asks to be relieved
(``withdrawn``). Where an entry commits on some it holds nothing back, and is asked out all the same. An opening needs
all but one of such a set to answer and to be caught up, so a set with a member that grants and does not log is one
death away from one answer that is of use; without it, each of the two has everything, and either may go on alone. It
leaves as said above, so nothing that commits meanwhile counts on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from sparrow.authority import engine_types as t
from sparrow.authority.adapter import AdapterOutput, Dispatch, PeerAdapter, SessionIds
from sparrow.authority.quorum import commits_on_some
from sparrow.authority.types import AckPolicy, Intent, Line, Lineage, Member, Term
from sparrow.base import events as names
from sparrow.base.constants import PEER_SILENCE_S
from sparrow.base.ids import NO_LINK, LinkId, Lsn, ReplicaId, ReplicaUuid
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.link_ids import Link, LinkIds, OpeningLink
from sparrow.node.pace import Pace
from sparrow.ports.dataplane import PeerStatus, RebuildPlan
from sparrow.rpc.messages import JoinAnswerOutcome

PROBE_FIRST_S: Final = 1.0
#: An absent node costs one refused connection per volume and pause, so the pause can stay short.
PROBE_LAST_S: Final = 2.0
SET_ASIDE_S: Final = 10.0
#: A needed peer whose link broke may come back within this time before it is asked out.
LINK_GRACE_S: Final = 0.2
RETRY_NEEDED_S: Final = 0.05
#: A peer nobody waits for may think longer, but not for ever.
FED_SILENCE_S: Final = 5.0
JOIN_TIMEOUT_S: Final = 2.0
ASK_AGAIN_S: Final = 1.0
COMMAND_AGAIN_S: Final = 1.0


class Stage(StrEnum):
    """What is done with one peer; see the module's text."""

    AWAY = "away"
    JOINING = "joining"
    PREPARING = "preparing"
    CONNECTING = "connecting"
    FEEDING = "feeding"
    REBUILDING = "rebuilding"
    SET_ASIDE = "set_aside"


class Grow(StrEnum):
    """How far the executor is with a peer the engine wants grown."""

    NONE = "none"
    #: The engine wants it; it waits for its turn and for the control stream.
    WANTED = "wanted"
    RECORDING = "recording"
    REQUIRING = "requiring"
    PROVING = "proving"
    ASKED = "asked"
    #: Refused: it stays needed until the record without it is durable.
    ENDING = "ending"


#: Durable as pending, or about to be.
_PENDING: Final = {Grow.RECORDING, Grow.REQUIRING, Grow.PROVING, Grow.ASKED, Grow.ENDING}
_LINKED: Final = {Stage.FEEDING, Stage.REBUILDING}
#: Or may have, for all that is known here.
_CORE_HAS: Final = {Stage.CONNECTING, *_LINKED}
_REFUSALS: Final = {
    JoinAnswerOutcome.NO_COMMON_POINT: t.JoinRefusal.NO_COMMON_POINT,
    JoinAnswerOutcome.REBUILDING: t.JoinRefusal.REBUILDING,
    JoinAnswerOutcome.QUARANTINED: t.JoinRefusal.QUARANTINED,
}


@dataclass(slots=True)
class Fed:
    """One peer. Times are the machine's clock, seconds."""

    replica: ReplicaId
    uuid: ReplicaUuid
    adapter: PeerAdapter
    stage: Stage = Stage.AWAY
    #: The newest one; none while it is away or set aside.
    link: LinkId = NO_LINK
    probe_at: float = 0.0
    pause_s: float = PROBE_FIRST_S
    lost_at: float | None = None
    joined_lsn: Lsn = Lsn(0)
    #: The engine's session under way, and what it is to reach.
    session: Dispatch | None = None
    silent: bool = False
    #: Since when it owes an acknowledgement or a grant.
    owing_since: float | None = None
    granted: bool = False
    #: Durable there, by a join or acks of this term.
    acked_lsn: Lsn = Lsn(0)
    pace: Pace = field(default_factory=Pace)
    #: Asked out because it is slow.
    slow: bool = False
    grow: Grow = Grow.NONE
    grow_at: float = 0.0
    asked_out: Lineage | None = None
    ask_at: float = 0.0


@dataclass(slots=True, kw_only=True)
class Leaving:
    """A peer on its way out of a set in which an entry commits on some."""

    replica: ReplicaId
    reason: str
    #: Tells the answer that belongs to it from one to an attempt before.
    attempt: int
    #: The commit LSN when all others became needed; None until then.
    frozen_lsn: Lsn | None = None
    asked: bool = False


class Peers:
    """All peers of one volume while this replica is its primary in one term.

    Args:
        pending: durable as pending since before this term. They are needed from the beginning, whatever became of
            their links: an ask of an earlier process may still be answered with a line that has them in sync.
        links: those of the opening that stand or are under way; they go on here.
        link_ids: of this term.
    """

    def __init__(
        self,
        *,
        line: Line,
        replica: ReplicaId,
        term: Term,
        pending: tuple[ReplicaId, ...],
        links: Mapping[ReplicaId, OpeningLink],
        link_ids: LinkIds,
        sessions: SessionIds,
        control_live: bool,
        now: float,
    ) -> None:
        self.line = line
        self.replica = replica
        self.term = term
        self.control_live = control_live
        self.oldest_lsn = Lsn(0)
        self.head_lsn = Lsn(0)
        self.over = False
        self.wake_at: float | None = None
        self.peers: dict[ReplicaId, Fed] = {}
        #: Everybody is slow to this replica: it asks to be relieved.
        self.withdrawn = False
        self._sessions = sessions
        self._link_ids = link_ids
        self._membership_at = now
        #: In sync and replaced, by the master's word.
        self.to_leave: frozenset[ReplicaId] = frozenset()
        self._leaving: Leaving | None = None
        self._attempts = 0
        self._out: list[fx.PrimaryEffect] = []
        for member in line.members:
            if member.replica_id != replica:
                self._add(member, now)
        for peer_id in pending:
            if peer_id in self.peers and peer_id not in line.in_sync:
                self.peers[peer_id].grow = Grow.REQUIRING
        for peer_id, made in sorted(links.items()):
            self._go_on(self.peers[peer_id], made, now)
        #: What the core was told last, and who was needed then: an eligible peer that becomes pending is told again.
        self._membership: tuple[fx.SetMembership, tuple[ReplicaId, ...]] | None = (
            None if self.pending else (self._wanted(), self.needed)
        )

    @property
    def pending(self) -> tuple[ReplicaId, ...]:
        """Peers on their way into in_sync; durable before anything depends on it."""
        return tuple(sorted(r for r, p in self.peers.items() if p.grow in _PENDING))

    @property
    def needed(self) -> tuple[ReplicaId, ...]:
        """Whom commits and the gate wait for. A peer that is only being recorded as pending is not needed yet."""
        growing = {r for r, p in self.peers.items() if p.grow in _PENDING - {Grow.RECORDING}}
        return tuple(sorted((set(self.line.in_sync) | growing) & self.peers.keys()))

    @property
    def asked(self) -> tuple[ReplicaId, ...]:
        """Whose grants the gate waits for: whoever could be made primary beside us, so the eligible as well.

        Below ``min_in_sync`` nothing commits, but an eligible replica may take over and write; who is cut off from it
        would read old data for ever.
        """
        return tuple(sorted({*self.needed, *(set(self.line.eligible) & self.peers.keys())}))

    @property
    def one_of(self) -> tuple[ReplicaId, ...]:
        """Of those needed, the ones of which one is enough; none while one of them is on its way out."""
        if not commits_on_some(self.line) or self._leaving is not None:
            return ()
        return tuple(replica for replica in self.needed if replica in self.line.in_sync)

    def _wanted(self) -> fx.SetMembership:
        """What the core is to wait for."""
        one_of = self.one_of
        leaves = None if self._leaving is None else self._leaving.replica
        return fx.SetMembership(
            needed=tuple(one for one in self.asked if one not in one_of and one != leaves),
            one_of=one_of,
            writable=self.writable,
            ack_local=self.line.ack is AckPolicy.LOCAL,
            attempt=0 if self._leaving is None else self._leaving.attempt,
        )

    @property
    def writable(self) -> bool:
        return len(self.line.in_sync) >= self.line.min_in_sync

    def step(self, event: ev.PrimaryEvent, now: float) -> list[fx.PrimaryEffect]:
        """Take one event; returns what to do, in order."""
        if not self.over:
            self._take(event, now)
            self._advance(now)
        self.wake_at = self._next_wake(now)
        out, self._out = self._out, []
        return out

    # ------------------------------------------------------------ events

    def _take(self, event: ev.PrimaryEvent, now: float) -> None:  # noqa: C901, PLR0912 - one arm per event
        match event:
            case ev.LineChanged():
                self._line_changed(event.line, now)
            case ev.JoinFailed() | ev.ShipFailed() | ev.RebuildRefused() if event.superseded:
                self.over = True
                self._out.append(fx.StepDown(cause=f"{event.replica}: {event.cause}"))
            case ev.JoinAnswered():
                self._joined(event, now)
            case ev.JoinFailed() | ev.ShipFailed() | ev.RebuildRefused() | ev.LinkLost():
                self._failed(event, now)
            case ev.RebuildPrepared():
                self._prepared(event)
            case ev.ShipStarted():
                self._shipping(event, now)
            case ev.BaseComplete():
                self._rebuilt(event, now)
            case ev.PeerAcked():
                self._acked(event, now)
            case ev.PeersSeen():
                self.oldest_lsn = event.oldest_lsn
                self.head_lsn = event.head_lsn
                for replica, status in event.peers:
                    self._seen(replica, status, now)
                self._look_at_paces(now)
            case ev.PendingRecorded():
                self._pending_recorded(event.pending)
            case ev.MembershipSet():
                self._membership_set(event, now)
            case ev.AskEnded():
                self._ask_ended(event, now)
            case ev.LeavingTold():
                self.to_leave = frozenset(event.replicas)
            case ev.ControlChanged():
                self.control_live = event.live
            case ev.CommandFailed():
                self._command_failed(event.command, now)
            case _:
                pass  # time, and outcomes of the opening that come late

    def _line_changed(self, line: Line, now: float) -> None:
        assert line.lineage.epoch == self.term.epoch
        assert line.primary == self.replica
        self.line = line
        self._leaving = None
        members = {m.replica_id: m for m in line.members if m.replica_id != self.replica}
        for replica in sorted(self.peers.keys() - members.keys()):
            self._out.append(fx.DropPeer(replica=replica))
            del self.peers[replica]
        for replica, member in sorted(members.items()):
            peer = self.peers.get(replica)
            if peer is None:
                self._add(member, now)
                continue
            peer.asked_out = None
            peer.ask_at = 0.0
            if peer.grow in _PENDING - {Grow.RECORDING}:
                # Any line newer than the basis ends pending, whatever became of the ask.
                refused = peer.grow is Grow.ASKED and replica not in line.in_sync
                peer.grow = Grow.NONE
                if refused:
                    # A refusal mints a line: asked again at once, it would be refused again at once.
                    peer.grow_at = now + ASK_AGAIN_S
                if replica in line.in_sync:
                    self._report(names.PEER_GROWN, replica=replica)
            elif replica in line.in_sync and peer.grow is Grow.WANTED:
                peer.grow = Grow.NONE
            self._obey(peer, peer.adapter.on_assignment(self._assignment(member), now), now)
            if replica not in line.in_sync and peer.slow:
                peer.slow = False
                peer.pace.left(now)
            if replica not in line.in_sync and peer.silent:
                self._out.append(fx.DropPeer(replica=replica))
                self._away(peer, "silent", now)

    def _go_on(self, peer: Fed, made: OpeningLink, now: float) -> None:
        """With a link of the opening, which saw to it that the log reaches back to where the peer joined."""
        peer.link = made.link
        if made.stage is Link.JOINING:
            peer.stage = Stage.JOINING
            return
        lsn = made.joined_lsn
        peer.stage = Stage.FEEDING if made.stage is Link.UP else Stage.CONNECTING
        peer.joined_lsn = peer.acked_lsn = lsn
        joined = t.Joined(replica_id=peer.replica, peer_lsn=lsn, oldest_lsn=Lsn(1), head_lsn=lsn)
        self._tell_joined(peer, joined, now)

    def _on(
        self,
        event: ev.JoinAnswered | ev.RebuildPrepared | ev.ShipStarted | ev.BaseComplete,
        *stages: Stage,
    ) -> Fed | None:
        """The peer an outcome is about, when it is of the peer's newest link and was waited for."""
        peer = self.peers.get(event.replica)
        known = peer is not None and peer.link == event.link and peer.stage in stages
        return peer if known else None

    def _joined(self, event: ev.JoinAnswered, now: float) -> None:
        peer = self._on(event, Stage.JOINING)
        if peer is None:
            return
        self.head_lsn = max(self.head_lsn, event.head_lsn)
        self.oldest_lsn = event.oldest_lsn
        peer.joined_lsn = event.joined_lsn
        member = self.line.member(event.replica)
        if event.replica in self.line.in_sync and member is not None and member.uuid != event.uuid:
            cause = f"its files are {event.uuid}, the line means {member.uuid}"
            self._report(names.PEER_UNUSABLE, replica=event.replica, cause=cause)
            self._ask_out(peer, cause, now)
            self._away(peer, cause, now)
            return
        peer.uuid = event.uuid
        if event.outcome is JoinAnswerOutcome.QUARANTINED:
            self._report(names.REPLICA_QUARANTINED, replica=event.replica, cause=event.detail)
            peer.stage, peer.link = Stage.SET_ASIDE, NO_LINK
            peer.probe_at = now + SET_ASIDE_S
            if event.replica in self.line.in_sync:
                self._ask_out(peer, f"quarantined: {event.detail}", now)
        self._report(
            names.PEER_JOINED,
            replica=event.replica,
            outcome=event.outcome.name.lower(),
            joined_lsn=event.joined_lsn,
        )
        self._tell_joined(peer, _join_result(event), now)
        if peer.stage is Stage.JOINING and peer.session is None:
            # Nothing is missing: it is fed from the head on.
            self._connect(peer)

    def _tell_joined(self, peer: Fed, result: t.Joined | t.JoinRefused, now: float) -> None:
        """Give the engine what the join showed, then that the peer can be reached: it decides on the newest R."""
        self._obey(peer, peer.adapter.on_join_result(result, now), now)
        if isinstance(result, t.JoinRefused) and result.refusal is t.JoinRefusal.QUARANTINED:
            return
        reached = t.ProbeSucceeded(
            replica_id=peer.replica,
            endpoint_version=self.line.lineage.endpoint_version,
            transport_epoch=self.term.epoch,
        )
        self._obey(peer, peer.adapter.on_probe_result(reached, now), now)

    def _connect(self, peer: Fed, *, rebuild: RebuildPlan | None = None) -> None:
        peer.stage = Stage.CONNECTING
        self._out.append(
            fx.StartShip(
                replica=peer.replica,
                link=peer.link,
                uuid=peer.uuid,
                term=self.term,
                joined_lsn=peer.joined_lsn if rebuild is None else rebuild.joined_lsn,
                rebuild=rebuild,
            )
        )

    def _prepared(self, event: ev.RebuildPrepared) -> None:
        peer = self._on(event, Stage.PREPARING)
        if peer is not None:
            peer.uuid = event.uuid
            self._report(
                names.REBUILD_STARTED,
                replica=peer.replica,
                kind=event.plan.kind.name.lower(),
                cursor_page=event.plan.cursor,
            )
            self._connect(peer, rebuild=event.plan)

    def _shipping(self, event: ev.ShipStarted, now: float) -> None:
        peer = self._on(event, Stage.CONNECTING)
        if peer is not None:
            self._stands(peer, now, rebuild=event.rebuild)

    def _stands(self, peer: Fed, now: float, *, rebuild: bool) -> None:
        peer.stage = Stage.REBUILDING if rebuild else Stage.FEEDING
        peer.lost_at = None
        peer.silent = False
        peer.owing_since = None
        if not rebuild:
            peer.pause_s = PROBE_FIRST_S
        if peer.session is not None:
            session_id = peer.session.session_id
            self._obey(peer, peer.adapter.on_session_start(session_id, now), now)
        self._await_session(peer)

    def _await_session(self, peer: Fed) -> None:
        """Learn of the moment a catch-up reaches its frontier, or of the first ack of a peer that missed nothing."""
        if peer.stage is not Stage.FEEDING:
            return
        command = None if peer.session is None else peer.session.command
        lsn = command.frontier_hint if isinstance(command, t.StartCatchUp) else peer.joined_lsn
        self._out.append(fx.AwaitAcked(replica=peer.replica, lsn=lsn))

    def _rebuilt(self, event: ev.BaseComplete, now: float) -> None:
        peer = self._on(event, Stage.CONNECTING, Stage.REBUILDING)
        if peer is None:
            return
        if peer.stage is Stage.CONNECTING:
            self._stands(peer, now, rebuild=True)
        self._report(names.PEER_REBUILT, replica=event.replica, lsn=event.lsn)
        peer.stage = Stage.FEEDING
        peer.pause_s = PROBE_FIRST_S
        peer.joined_lsn = event.lsn
        self._complete(peer, event.lsn, now)
        self._out.append(fx.AwaitAcked(replica=peer.replica, lsn=event.lsn))

    def _complete(self, peer: Fed, achieved: Lsn, now: float) -> None:
        if peer.session is None:
            return
        done, peer.session = peer.session, None
        closed = t.SessionClosedCompleted(
            replica_id=peer.replica, session_id=done.session_id, achieved_lsn=achieved
        )
        self._obey(peer, peer.adapter.on_session_close(closed, now), now)

    def _acked(self, event: ev.PeerAcked, now: float) -> None:
        peer = self.peers.get(event.replica)
        if peer is None or peer.stage is not Stage.FEEDING:
            return
        peer.acked_lsn = max(peer.acked_lsn, event.lsn)
        command = None if peer.session is None else peer.session.command
        if isinstance(command, t.StartCatchUp) and event.lsn >= command.frontier_hint:
            self._complete(peer, event.lsn, now)
        self._tell_ack(peer, event.lsn, now)

    def _tell_ack(self, peer: Fed, lsn: Lsn, now: float) -> None:
        ack = t.DurableAckObserved(
            replica_id=peer.replica,
            peer_lsn=lsn,
            oldest_lsn=self.oldest_lsn,
            head_lsn=Lsn(max(self.head_lsn, lsn)),
            grant_held=peer.granted,
            endpoint_version=self.line.lineage.endpoint_version,
            transport_epoch=self.term.epoch,
        )
        self._obey(peer, peer.adapter.on_durable_ack(ack, now), now)

    def _seen(self, replica: ReplicaId, status: PeerStatus, now: float) -> None:
        peer = self.peers.get(replica)
        if peer is None:
            return
        peer.granted = status.granted
        if peer.stage is Stage.FEEDING:
            lag_s, worst_s = status.lag_ms / 1000, status.worst_ack_ms / 1000
            peer.pace.seen(lag_s=lag_s, worst_s=worst_s, now=now)
        owing = not status.granted or status.acked_lsn < self.head_lsn
        if peer.stage not in _LINKED or not owing:
            peer.owing_since = None
        elif peer.owing_since is None:
            peer.owing_since = now
        # An idle link says nothing for hours: silence counts only while an answer is due.
        due_s = 0.0 if peer.owing_since is None else now - peer.owing_since
        silent_s = min(due_s, status.silent_ms / 1000)
        if replica in self.needed:
            peer.silent = silent_s > PEER_SILENCE_S
            if peer.silent:
                self._ask_out(peer, f"silent for {status.silent_ms} ms", now)
        elif silent_s > FED_SILENCE_S:
            self._out.append(fx.DropPeer(replica=replica))
            if peer.stage in _LINKED:
                self._report(names.PEER_LOST, replica=replica, cause="silent")
            self._away(peer, "silent", now)
            return
        if peer.stage is Stage.FEEDING and status.acked_lsn >= peer.joined_lsn:
            peer.acked_lsn = max(peer.acked_lsn, status.acked_lsn)
            self._tell_ack(peer, status.acked_lsn, now)

    def _look_at_paces(self, now: float) -> None:
        """Find who holds commits back, or would hold them back if the others were not enough."""
        needed = [self.peers[replica] for replica in self.needed]
        slow = [peer for peer in needed if peer.pace.slow(now)]
        self._quick_again(slow)
        # Of a single one nobody can tell whether it is the peer, the network or this replica.
        self.withdrawn = len(slow) > 1 and len(slow) == len(needed)
        if len(slow) != 1 or len(needed) == 1:
            return
        (peer,) = slow
        left = len(self.line.in_sync) - 1
        if peer.replica in self.line.in_sync and left >= max(2, self.line.min_in_sync):
            if not peer.slow:
                self._report(names.PEER_SLOW, replica=peer.replica)
            peer.slow = True
            self._ask_out(peer, "its acknowledgements take too long", now)

    def _quick_again(self, slow: list[Fed]) -> None:
        """Who was to leave for its pace alone and is well before it was asked out may stay."""
        leaving = self._leaving
        if leaving is None or leaving.asked:
            return
        peer = self.peers[leaving.replica]
        if peer.slow and peer not in slow:
            peer.slow = False

    def _failed(
        self, event: ev.JoinFailed | ev.ShipFailed | ev.RebuildRefused | ev.LinkLost, now: float
    ) -> None:
        peer = self.peers.get(event.replica)
        if peer is None or peer.link != event.link:
            return
        if peer.stage in _LINKED:
            self._report(names.PEER_LOST, replica=peer.replica, cause=event.cause)
        self._away(peer, event.cause, now)

    def _away(self, peer: Fed, cause: str, now: float) -> None:
        """No link any more; joined again at once if it is needed, else after a pause."""
        was_linked = peer.stage in _LINKED
        peer.stage, peer.link = Stage.AWAY, NO_LINK
        peer.silent = False
        peer.owing_since = None
        peer.granted = False
        peer.pace.forget()
        if peer.session is not None:
            session, peer.session = peer.session, None
            self._obey(peer, peer.adapter.on_session_invalidated(session.session_id, now), now)
        failed = t.ProbeFailed(replica_id=peer.replica, text=cause)
        self._obey(peer, peer.adapter.on_probe_result(failed, now), now)
        if peer.lost_at is None:
            peer.lost_at = now
        if peer.replica in self.needed:
            peer.probe_at = now if was_linked else now + RETRY_NEEDED_S
        else:
            peer.probe_at = now + peer.pause_s
            peer.pause_s = min(peer.pause_s * 2, PROBE_LAST_S)

    # ------------------------------------------------------------ what the engine wants

    def _obey(  # noqa: C901 - one arm per command
        self, peer: Fed, outputs: list[AdapterOutput], now: float
    ) -> None:
        """Carry out what the adapter gave, in order."""
        for output in outputs:
            if not isinstance(output, Dispatch):
                self._report(output.name, **output.fields)
                continue
            match output.command:
                case t.ProbeReplica():
                    self._start_over(peer, now)
                case t.JoinReplica() | t.PublishHealthy() | t.PublishDegraded():
                    pass  # joining goes by probe_at; health is shown by heartbeats
                case t.StartCatchUp() | t.StartRebuild():
                    self._start(peer, output, now)
                case t.InvalidateSession():
                    peer.session = None
                    if peer.stage is not Stage.AWAY:
                        self._out.append(fx.DropPeer(replica=peer.replica))
                        self._away(peer, output.command.reason, now)
                case t.FenceAtEpoch():
                    # A join is answered only after the term is promised durably: it was the fence.
                    self._obey(peer, peer.adapter.on_fence_complete(output.session_id, now), now)
                case t.MakePending():
                    if peer.grow is Grow.NONE:
                        peer.grow = Grow.WANTED
                        self._report(names.PEER_CAUGHT_UP, replica=peer.replica)
                    elif peer.grow is Grow.PROVING:
                        # It forgot that the peer is pending: told again, with the commit LSN of now.
                        peer.grow = Grow.REQUIRING
                        self._membership = None
                case t.AskGrow():
                    self._ask_grow(peer, now)

    def _start_over(self, peer: Fed, now: float) -> None:
        """The engine knows nothing of the peer, as after a change of its address: nor may we go on with what was.

        A join that is under way is answered by whoever is there now, and is what the engine waits for.
        """
        if peer.stage in {Stage.PREPARING, *_CORE_HAS}:
            self._out.append(fx.DropPeer(replica=peer.replica))
            self._away(peer, "its address changed", now)
            peer.probe_at = now

    def _start(self, peer: Fed, dispatch: Dispatch, now: float) -> None:
        peer.session = dispatch
        rebuild = isinstance(dispatch.command, t.StartRebuild)
        if rebuild and peer.replica in self.line.in_sync:
            # Its files may go only after a line that does not count on them; the join after that line starts it.
            cause = peer.adapter.projection.reason
            self._report(names.PEER_UNUSABLE, replica=peer.replica, cause=cause)
            self._ask_out(peer, f"must be rebuilt: {cause}", now)
            if peer.stage in _CORE_HAS:
                self._out.append(fx.DropPeer(replica=peer.replica))
            self._away(peer, cause, now)
            peer.probe_at = now + PROBE_FIRST_S
        elif rebuild:
            if peer.stage in _CORE_HAS:
                self._out.append(fx.DropPeer(replica=peer.replica))
                peer.link = self._link_ids.next()
            peer.stage = Stage.PREPARING
            self._report(
                names.REBUILD_WANTED,
                replica=peer.replica,
                cause=peer.adapter.projection.reason,
            )
            self._out.append(
                fx.PrepareRebuild(
                    replica=peer.replica, link=peer.link, uuid=peer.uuid, term=self.term
                )
            )
            # Emptying large files may take longer than a start may; the call has its own deadline.
            started = peer.adapter.on_session_start(dispatch.session_id, now)
            self._obey(peer, started, now)
        elif peer.stage is Stage.JOINING:
            self._connect(peer)
        elif peer.stage is Stage.FEEDING:
            # It is on the live lane already and only fell behind.
            started = peer.adapter.on_session_start(dispatch.session_id, now)
            self._obey(peer, started, now)
            self._await_session(peer)

    def _ask_grow(self, peer: Fed, now: float) -> None:
        if peer.grow is not Grow.PROVING:
            return
        peer.grow = Grow.ASKED
        self._out.append(fx.AskGrow(replica=peer.replica, basis=self.line.lineage, uuid=peer.uuid))
        basis = self.line.lineage.endpoint_version
        self._obey(peer, peer.adapter.on_grow_asked(basis, now), now)

    # ------------------------------------------------------------ growing

    def _grow(self, peer: Fed, now: float) -> None:
        """Begin, when it is this peer's turn: each line ends the asks made against the one before."""
        prepared = peer.adapter.state.grow is t.GrowPhase.PREPARING
        if prepared and peer.grow is Grow.NONE and peer.replica not in self.line.in_sync:
            # A line, or the end of a refused ask, came between: the engine said it once and still waits.
            peer.grow = Grow.WANTED
        if peer.grow is not Grow.WANTED or now < peer.grow_at:
            return
        if not peer.pace.may_return(now):
            return
        state = peer.adapter.state
        follows = state.decision is t.RecoveryDecision.NONE and not state.session_active
        if peer.stage is Stage.FEEDING and follows and self.control_live and not self.pending:
            peer.grow = Grow.RECORDING
            self._out.append(fx.RecordPending(pending=self.pending))

    def _pending_recorded(self, pending: tuple[ReplicaId, ...]) -> None:
        for peer in self.peers.values():
            if peer.grow is Grow.RECORDING and peer.replica in pending:
                peer.grow = Grow.REQUIRING
                self._report(names.PEER_PENDING, replica=peer.replica)
            elif peer.grow is Grow.ENDING and peer.replica not in pending:
                peer.grow = Grow.NONE

    def _membership_set(self, event: ev.MembershipSet, now: float) -> None:
        leaving = self._leaving
        if leaving is not None and leaving.attempt == event.attempt:
            leaving.frozen_lsn = event.frozen_lsn
            for replica in self._others(leaving.replica):
                if self.peers[replica].stage is Stage.FEEDING:
                    self._out.append(fx.AwaitAcked(replica=replica, lsn=event.frozen_lsn))
        for replica in event.needed:
            peer = self.peers.get(replica)
            if peer is not None and peer.grow is Grow.REQUIRING:
                peer.grow = Grow.PROVING
                if peer.stage is Stage.FEEDING:
                    self._out.append(fx.AwaitAcked(replica=replica, lsn=event.frozen_lsn))
                self._obey(peer, peer.adapter.on_pending(event.frozen_lsn, now), now)

    def _ask_ended(self, event: ev.AskEnded, now: float) -> None:
        peer = self.peers.get(event.replica)
        if peer is None or event.refusal is None or event.basis != self.line.lineage:
            return
        if event.intent is Intent.SHRINK_IN_SYNC and peer.asked_out == event.basis:
            peer.asked_out = None
            peer.ask_at = now + ASK_AGAIN_S
            self._leaving = None
        elif event.intent is Intent.GROW_IN_SYNC and peer.grow is Grow.ASKED:
            peer.grow = Grow.ENDING
            left = tuple(r for r in self.pending if r != event.replica)
            self._out.append(fx.RecordPending(pending=left))
            refused = peer.adapter.on_grow_refused(event.basis.endpoint_version, now)
            self._obey(peer, refused, now)

    def _command_failed(self, command: str, now: float) -> None:
        """What the core would not do is wanted still; only a disk that fails makes it refuse."""
        if command == "set_membership":
            self._membership = None
            self._membership_at = now + COMMAND_AGAIN_S
        elif command == "record_pending":
            for peer in self.peers.values():
                if peer.grow is Grow.RECORDING:
                    peer.grow = Grow.WANTED
                    peer.grow_at = now + COMMAND_AGAIN_S

    # ------------------------------------------------------------ what follows

    def _advance(self, now: float) -> None:
        for peer in list(self.peers.values()):
            self._obey(peer, peer.adapter.tick(now), now)
            if peer.stage in {Stage.AWAY, Stage.SET_ASIDE} and now >= peer.probe_at:
                peer.stage, peer.link = Stage.JOINING, self._link_ids.next()
                self._out.append(
                    fx.SendJoin(
                        replica=peer.replica,
                        link=peer.link,
                        term=self.term,
                        timeout_s=JOIN_TIMEOUT_S,
                    )
                )
            needed = peer.replica in self.needed
            if needed and peer.lost_at is not None and now >= peer.lost_at + LINK_GRACE_S:
                self._ask_out(peer, "its link is lost", now)
            if peer.replica in self.to_leave and peer.replica in self.line.in_sync:
                self._ask_out(peer, "it is replaced", now)
            self._grow(peer, now)
        self._leave()
        wanted = (self._wanted(), self.needed)
        if wanted != self._membership and now >= self._membership_at:
            self._membership = wanted
            self._out.append(wanted[0])

    def _add(self, member: Member, now: float) -> None:
        adapter = PeerAdapter(
            volume_id=self.line.volume_id, replica_id=member.replica_id, sessions=self._sessions
        )
        peer = Fed(replica=member.replica_id, uuid=member.uuid, adapter=adapter, probe_at=now)
        self.peers[member.replica_id] = peer
        self._obey(peer, adapter.on_assignment(self._assignment(member), now), now)

    def _assignment(self, member: Member) -> t.AssignmentObserved:
        lineage = self.line.lineage
        return t.AssignmentObserved(
            volume_id=self.line.volume_id,
            replica_id=member.replica_id,
            epoch=lineage.epoch,
            endpoint_version=lineage.endpoint_version,
            data_addr=member.data_addr,
            ctrl_addr=member.ctrl_addr,
            in_sync=member.replica_id in self.line.in_sync,
        )

    def _ask_out(self, peer: Fed, reason: str, now: float) -> None:
        if peer.asked_out == self.line.lineage or now < peer.ask_at:
            return
        if peer.replica in self.line.in_sync and commits_on_some(self.line):
            if self._leaving is None:
                self._attempts += 1
                self._leaving = Leaving(replica=peer.replica, reason=reason, attempt=self._attempts)
            return
        self._ask_shrink(peer, reason)

    def _ask_shrink(self, peer: Fed, reason: str) -> None:
        peer.asked_out = self.line.lineage
        self._out.append(fx.AskShrink(replica=peer.replica, basis=self.line.lineage, reason=reason))

    def _others(self, leaves: ReplicaId) -> tuple[ReplicaId, ...]:
        """In sync when a peer has left, without ourselves."""
        return tuple(r for r in self.line.in_sync if r in self.peers and r != leaves)

    def _leave(self) -> None:
        """Ask the leaving peer out once every other one has all that was committed while it was not needed."""
        leaving = self._leaving
        if leaving is None or leaving.asked:
            return
        peer = self.peers[leaving.replica]
        well = (
            peer.stage is Stage.FEEDING and not (peer.silent or peer.slow) and peer.lost_at is None
        )
        if well and leaving.replica not in self.to_leave:
            self._leaving = None
        elif leaving.frozen_lsn is not None and all(
            self.peers[other].acked_lsn >= leaving.frozen_lsn
            for other in self._others(leaving.replica)
        ):
            leaving.asked = True
            self._ask_shrink(peer, leaving.reason)

    def _report(self, event: str, **facts: object) -> None:
        lineage = self.line.lineage
        own = {
            "volume": self.line.volume_id,
            "epoch": lineage.epoch,
            "endpoint_version": lineage.endpoint_version,
        }
        self._out.append(fx.Report(event=event, facts={**own, **facts}))

    def _next_wake(self, now: float) -> float | None:
        times = [self._membership_at]
        for peer in self.peers.values():
            if peer.stage in {Stage.AWAY, Stage.SET_ASIDE}:
                times.append(peer.probe_at)
            if peer.lost_at is not None:
                times.append(peer.lost_at + LINK_GRACE_S)
            times.append(peer.pace.returns_at(now) or 0.0)
            times.extend((peer.ask_at, peer.grow_at, peer.adapter.wake_at() or 0.0))
        return min((at for at in times if at > now), default=None)


def _join_result(event: ev.JoinAnswered) -> t.Joined | t.JoinRefused:
    """A join in the engine's words: logs that differ where they should agree have no common point."""
    refusal = _REFUSALS.get(event.outcome)
    text = event.detail
    if refusal is None and not event.check_matches:
        refusal = t.JoinRefusal.NO_COMMON_POINT
        text = f"its log differs at LSN {event.joined_lsn}"
    if refusal is not None:
        return t.JoinRefused(replica_id=event.replica, refusal=refusal, text=text)
    return t.Joined(
        replica_id=event.replica,
        peer_lsn=event.joined_lsn,
        oldest_lsn=event.oldest_lsn,
        head_lsn=event.head_lsn,
    )

"""The peers of an open volume: brought back, fed, taken into the in-sync set, asked out of it.

A pure machine that takes over when ``node.opening`` has allowed the gate; ``node.volume`` carries out its effects. One
owner decides what each peer is fed next:

    AWAY        no link; probed again after a while
    JOINING     asked for the common point of its log with ours
    PREPARING   emptying its files for a rebuild
    CONNECTING  link being made
    FEEDING     the core ships the log to it
    REBUILDING  the core ships base and live lane to it
    SET_ASIDE   quarantined: kept as it is, reported, asked again rarely

A fed peer outside in_sync that has caught up goes through ``Grow``: durable as pending, needed for commits, then it
must have acknowledged the commit LSN of that moment and hold its grant, then the master is asked, and only a newer
line or a refusal ends it. Until the line arrives, and after a transport error, it stays needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sparrow.authority.types import Intent, Line, Lineage, Term
from sparrow.base import events as names
from sparrow.base.constants import PEER_SILENCE_S
from sparrow.base.ids import Lsn, ReplicaId, ReplicaUuid
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.ports.dataplane import PeerStatus
from sparrow.rpc.messages import JoinAnswerOutcome

PROBE_FIRST_S: Final = 1.0
#: An absent node costs one refused connection per volume and pause, so the pause can stay short.
PROBE_LAST_S: Final = 10.0
SET_ASIDE_S: Final = 60.0
#: A needed peer whose link broke may come back within this time before it is asked out.
LINK_GRACE_S: Final = 0.2
RETRY_NEEDED_S: Final = 0.05
#: A peer nobody waits for may think longer, but not for ever.
FED_SILENCE_S: Final = 5.0
JOIN_TIMEOUT_S: Final = 2.0
ASK_AGAIN_S: Final = 1.0
#: A catch-up step shorter than this leaves so little behind that commits may wait for the rest.
SHORT_STEP_S: Final = 1.0
GROW_AGAIN_S: Final = 1.0
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
    """How far a peer is on its way into the in-sync set."""

    NONE = "none"
    RECORDING = "recording"
    REQUIRING = "requiring"
    PROVING = "proving"
    ASKED = "asked"
    #: Refused: it stays needed until the record without it is durable.
    ENDING = "ending"


@dataclass(slots=True)
class Fed:
    """One peer. Times are the machine's clock, seconds."""

    replica: ReplicaId
    uuid: ReplicaUuid
    stage: Stage = Stage.AWAY
    probe_at: float = 0.0
    pause_s: float = PROBE_FIRST_S
    lost_at: float | None = None
    #: Why the log cannot bring it back, empty when it can.
    must_rebuild: str = ""
    awaiting: Lsn | None = None
    awaiting_since: float = 0.0
    caught_up: bool = False
    silent: bool = False
    #: Since when it owes an acknowledgement or a grant.
    owing_since: float | None = None
    granted: bool = False
    grow: Grow = Grow.NONE
    grow_at: float = 0.0
    frozen: Lsn | None = None
    proven: bool = False
    asked_out: Lineage | None = None
    ask_at: float = 0.0


class Peers:
    """All peers of one volume while this replica is its primary in one term."""

    def __init__(
        self,
        *,
        line: Line,
        replica: ReplicaId,
        term: Term,
        pending: tuple[ReplicaId, ...],
        linked: tuple[ReplicaId, ...],
        control_live: bool,
        now: float,
    ) -> None:
        self.line = line
        self.replica = replica
        self.term = term
        self.control_live = control_live
        self.head_lsn = Lsn(0)
        self.peers = {
            m.replica_id: Fed(replica=m.replica_id, uuid=m.uuid, probe_at=now)
            for m in line.members
            if m.replica_id != replica
        }
        for linked_id in linked:
            self.peers[linked_id].stage = Stage.FEEDING
        for replica_id in pending:
            if replica_id in self.peers and replica_id not in line.in_sync:
                # Pending since before this term: it was joined in the opening, the proof starts here.
                self.peers[replica_id].grow = Grow.REQUIRING
                self.peers[replica_id].caught_up = True
        self.over = False
        self.wake_at: float | None = None
        self._membership: tuple[tuple[ReplicaId, ...], bool] | None = (
            None if self.pending else (self.needed, self.writable)
        )
        self._membership_at = now
        self._out: list[fx.PrimaryEffect] = []

    @property
    def pending(self) -> tuple[ReplicaId, ...]:
        """Peers on their way into in_sync; durable before anything depends on it."""
        return tuple(sorted(r for r, p in self.peers.items() if p.grow is not Grow.NONE))

    @property
    def needed(self) -> tuple[ReplicaId, ...]:
        """Whom commits and the gate wait for. A peer that is only being recorded as pending is not needed yet."""
        growing = {r for r, p in self.peers.items() if p.grow not in {Grow.NONE, Grow.RECORDING}}
        return tuple(sorted((set(self.line.in_sync) | growing) & self.peers.keys()))

    @property
    def writable(self) -> bool:
        return len(self.line.in_sync) >= self.line.min_in_sync

    def step(self, event: ev.PrimaryEvent, now: float) -> list[fx.PrimaryEffect]:
        """Take one event; returns what to do, in order."""
        self._out = []
        if not self.over:
            self._take(event, now)
            self._advance(now)
        self.wake_at = self._next_wake(now)
        return self._out

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
                self._lost(event.replica, event.cause, now)
            case ev.RebuildPrepared():
                self._prepared(event)
            case ev.ShipStarted():
                self._shipping(event, now)
            case ev.BaseComplete():
                self._rebuilt(event, now)
            case ev.PeerAcked():
                self._acked(event, now)
            case ev.PeersSeen():
                self.head_lsn = event.head_lsn
                for replica, status in event.peers:
                    self._seen(replica, status, now)
            case ev.PendingRecorded():
                self._pending_recorded(event.pending, now)
            case ev.MembershipSet():
                self._membership_set(event)
            case ev.AskEnded():
                self._ask_ended(event, now)
            case ev.ControlChanged():
                self.control_live = event.live
            case ev.CommandFailed():
                self._command_failed(event.command, now)
            case _:
                pass  # outcomes of the opening that come late

    def _line_changed(self, line: Line, now: float) -> None:
        assert line.lineage.epoch == self.term.epoch
        assert line.primary == self.replica
        self.line = line
        members = {m.replica_id: m for m in line.members if m.replica_id != self.replica}
        for replica in sorted(self.peers.keys() - members.keys()):
            self._out.append(fx.DropPeer(replica=replica))
            del self.peers[replica]
        for replica, member in members.items():
            known = self.peers.get(replica)
            if known is None:
                self.peers[replica] = Fed(replica=replica, uuid=member.uuid, probe_at=now)
                continue
            known.asked_out = None
            known.ask_at = 0.0
            if known.grow not in {Grow.NONE, Grow.RECORDING}:
                # Any line newer than the basis ends pending, whatever became of the ask.
                if replica in line.in_sync:
                    self._report(names.PEER_GROWN, replica=replica)
                known.grow = Grow.NONE
            if replica not in line.in_sync and known.silent:
                self._out.append(fx.DropPeer(replica=replica))
                self._away(known, now)

    def _joined(self, event: ev.JoinAnswered, now: float) -> None:
        peer = self.peers.get(event.replica)
        if peer is None or peer.stage is not Stage.JOINING:
            return
        in_sync = event.replica in self.line.in_sync
        self.head_lsn = max(self.head_lsn, event.head_lsn)
        if event.outcome is JoinAnswerOutcome.QUARANTINED:
            self._report(names.REPLICA_QUARANTINED, replica=event.replica, cause=event.detail)
            peer.stage = Stage.SET_ASIDE
            peer.probe_at = now + SET_ASIDE_S
            if in_sync:
                self._ask_out(peer, f"quarantined: {event.detail}", now)
            return
        peer.must_rebuild = _why_rebuild(event)
        member = self.line.member(event.replica)
        stranger = member is not None and member.uuid != event.uuid
        if in_sync and (peer.must_rebuild or stranger):
            cause = peer.must_rebuild or "its files are not those the line means"
            self._report(names.PEER_UNUSABLE, replica=event.replica, cause=cause)
            self._ask_out(peer, cause, now)
            peer.stage = Stage.AWAY
            peer.probe_at = now + PROBE_FIRST_S
            return
        peer.uuid = event.uuid
        self._report(names.PEER_JOINED, replica=event.replica, joined_lsn=event.joined_lsn)
        if peer.must_rebuild:
            peer.stage = Stage.PREPARING
            self._report(names.REBUILD_STARTED, replica=event.replica, cause=peer.must_rebuild)
            self._out.append(fx.PrepareRebuild(replica=event.replica, term=self.term))
        else:
            peer.stage = Stage.CONNECTING
            self._out.append(
                fx.StartShip(
                    replica=event.replica,
                    uuid=event.uuid,
                    term=self.term,
                    joined_lsn=event.joined_lsn,
                )
            )

    def _prepared(self, event: ev.RebuildPrepared) -> None:
        peer = self.peers.get(event.replica)
        if peer is None or peer.stage is not Stage.PREPARING:
            return
        peer.uuid = event.uuid
        peer.stage = Stage.CONNECTING
        self._out.append(
            fx.StartShip(
                replica=event.replica,
                uuid=event.uuid,
                term=self.term,
                joined_lsn=Lsn(0),
                rebuild=True,
            )
        )

    def _shipping(self, event: ev.ShipStarted, now: float) -> None:
        peer = self.peers.get(event.replica)
        if peer is None or peer.stage is not Stage.CONNECTING:
            return
        peer.stage = Stage.REBUILDING if event.rebuild else Stage.FEEDING
        peer.lost_at = None
        peer.silent = False
        peer.owing_since = None
        peer.caught_up = False
        if not event.rebuild:
            peer.pause_s = PROBE_FIRST_S
            self._await(peer, self.head_lsn, now)

    def _rebuilt(self, event: ev.BaseComplete, now: float) -> None:
        peer = self.peers.get(event.replica)
        if peer is None or peer.stage is not Stage.REBUILDING:
            return
        self._report(names.PEER_REBUILT, replica=event.replica, lsn=event.lsn)
        peer.stage = Stage.FEEDING
        peer.pause_s = PROBE_FIRST_S
        self._await(peer, Lsn(max(self.head_lsn, event.lsn)), now)

    def _acked(self, event: ev.PeerAcked, now: float) -> None:
        peer = self.peers.get(event.replica)
        if peer is None or peer.stage is not Stage.FEEDING:
            return
        if peer.grow is Grow.PROVING and peer.frozen is not None and event.lsn >= peer.frozen:
            peer.proven = True
        if peer.awaiting is None or event.lsn < peer.awaiting:
            return
        if now - peer.awaiting_since > SHORT_STEP_S and self.head_lsn > event.lsn:
            self._await(peer, self.head_lsn, now)
            return
        peer.awaiting = None
        if not peer.caught_up:
            peer.caught_up = True
            self._report(names.PEER_CAUGHT_UP, replica=event.replica, lsn=event.lsn)

    def _seen(self, replica: ReplicaId, status: PeerStatus, now: float) -> None:
        peer = self.peers.get(replica)
        if peer is None:
            return
        peer.granted = status.granted
        owing = not status.granted or status.acked_lsn < self.head_lsn
        if peer.stage not in {Stage.FEEDING, Stage.REBUILDING} or not owing:
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
            self._lost(replica, "silent", now)

    def _lost(self, replica: ReplicaId, cause: str, now: float) -> None:
        peer = self.peers.get(replica)
        if peer is None or peer.stage in {Stage.AWAY, Stage.SET_ASIDE}:
            return
        if peer.stage in {Stage.FEEDING, Stage.REBUILDING}:
            self._report(names.PEER_LOST, replica=replica, cause=cause)
        self._away(peer, now)

    def _away(self, peer: Fed, now: float) -> None:
        was_linked = peer.stage in {Stage.FEEDING, Stage.REBUILDING}
        peer.stage = Stage.AWAY
        peer.silent = False
        peer.owing_since = None
        peer.granted = False
        peer.caught_up = False
        peer.awaiting = None
        if peer.grow is Grow.PROVING:
            peer.proven = False
        if peer.lost_at is None:
            peer.lost_at = now
        if peer.replica in self.needed:
            peer.probe_at = now if was_linked else now + RETRY_NEEDED_S
        else:
            peer.probe_at = now + peer.pause_s
            peer.pause_s = min(peer.pause_s * 2, PROBE_LAST_S)

    # ------------------------------------------------------------ growing

    def _pending_recorded(self, pending: tuple[ReplicaId, ...], now: float) -> None:
        for peer in self.peers.values():
            if peer.grow is Grow.RECORDING and peer.replica in pending:
                peer.grow = Grow.REQUIRING
                self._report(names.PEER_PENDING, replica=peer.replica)
            elif peer.grow is Grow.ENDING and peer.replica not in pending:
                peer.grow = Grow.NONE
                peer.grow_at = now + GROW_AGAIN_S

    def _membership_set(self, event: ev.MembershipSet) -> None:
        for replica in event.needed:
            peer = self.peers.get(replica)
            if peer is not None and peer.grow is Grow.REQUIRING:
                peer.grow = Grow.PROVING
                peer.frozen = event.frozen_lsn
                peer.proven = False
                if peer.stage is Stage.FEEDING:
                    self._out.append(fx.AwaitAcked(replica=replica, lsn=event.frozen_lsn))

    def _ask_ended(self, event: ev.AskEnded, now: float) -> None:
        peer = self.peers.get(event.replica)
        if peer is None or event.refusal is None or event.basis != self.line.lineage:
            return
        if event.intent is Intent.SHRINK_IN_SYNC and peer.asked_out == event.basis:
            peer.asked_out = None
            peer.ask_at = now + ASK_AGAIN_S
        elif event.intent is Intent.GROW_IN_SYNC and peer.grow is Grow.ASKED:
            peer.grow = Grow.ENDING
            left = tuple(r for r in self.pending if r != event.replica)
            self._out.append(fx.RecordPending(pending=left))

    def _command_failed(self, command: str, now: float) -> None:
        """What the core would not do is wanted still; only a disk that fails makes it refuse."""
        if command == "set_membership":
            self._membership = None
            self._membership_at = now + COMMAND_AGAIN_S
        elif command == "record_pending":
            for peer in self.peers.values():
                if peer.grow is Grow.RECORDING:
                    peer.grow = Grow.NONE
                    peer.grow_at = now + COMMAND_AGAIN_S

    def _advance(self, now: float) -> None:
        for peer in self.peers.values():
            if peer.stage in {Stage.AWAY, Stage.SET_ASIDE} and now >= peer.probe_at:
                peer.stage = Stage.JOINING
                self._out.append(
                    fx.SendJoin(replica=peer.replica, term=self.term, timeout_s=JOIN_TIMEOUT_S)
                )
            self._check_lost(peer, now)
            self._grow(peer, now)
        wanted = (self.needed, self.writable)
        if wanted != self._membership and now >= self._membership_at:
            self._membership = wanted
            self._out.append(fx.SetMembership(needed=self.needed, writable=self.writable))

    def _check_lost(self, peer: Fed, now: float) -> None:
        if peer.lost_at is None or peer.replica not in self.needed:
            return
        if now >= peer.lost_at + LINK_GRACE_S:
            self._ask_out(peer, "its link is lost", now)

    def _grow(self, peer: Fed, now: float) -> None:
        if peer.replica in self.line.in_sync or peer.stage is not Stage.FEEDING:
            return
        if peer.grow is Grow.NONE and peer.caught_up and now >= peer.grow_at:
            # One at a time: each line ends the asks made against the one before.
            if self.control_live and not self.pending:
                peer.grow = Grow.RECORDING
                self._out.append(fx.RecordPending(pending=self.pending))
        elif peer.grow is Grow.PROVING and peer.granted and peer.proven:
            peer.grow = Grow.ASKED
            self._out.append(
                fx.AskGrow(replica=peer.replica, basis=self.line.lineage, uuid=peer.uuid)
            )

    def _await(self, peer: Fed, lsn: Lsn, now: float) -> None:
        peer.awaiting = lsn
        peer.awaiting_since = now
        self._out.append(fx.AwaitAcked(replica=peer.replica, lsn=lsn))

    # ------------------------------------------------------------ small ones

    def _ask_out(self, peer: Fed, reason: str, now: float) -> None:
        if peer.asked_out == self.line.lineage or now < peer.ask_at:
            return
        peer.asked_out = self.line.lineage
        self._out.append(fx.AskShrink(replica=peer.replica, basis=self.line.lineage, reason=reason))

    def _report(self, event: str, **facts: object) -> None:
        lineage = self.line.lineage
        self._out.append(
            fx.Report(
                event=event,
                facts={
                    "volume": self.line.volume_id,
                    "epoch": lineage.epoch,
                    "endpoint_version": lineage.endpoint_version,
                    **facts,
                },
            )
        )

    def _next_wake(self, now: float) -> float | None:
        times = [self._membership_at]
        for peer in self.peers.values():
            if peer.stage in {Stage.AWAY, Stage.SET_ASIDE}:
                times.append(peer.probe_at)
            if peer.lost_at is not None:
                times.append(peer.lost_at + LINK_GRACE_S)
            times.extend((peer.ask_at, peer.grow_at))
        return min((at for at in times if at > now), default=None)


def _why_rebuild(event: ev.JoinAnswered) -> str:
    """Why the peer cannot be brought back from the log; empty when it can."""
    if event.outcome is JoinAnswerOutcome.REBUILDING:
        return "an earlier rebuild was not finished"
    if event.outcome is JoinAnswerOutcome.NO_COMMON_POINT:
        return f"no common point: {event.detail}"
    if not event.check_matches:
        return f"its log differs at LSN {event.joined_lsn}"
    if event.joined_lsn + 1 < event.oldest_lsn:
        return f"it ends at {event.joined_lsn}, the log begins at {event.oldest_lsn}"
    return ""

"""The machine of the peers: one event in, what is to be done out, and when to wake it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sparrow.authority.adapter import PeerAdapter, SessionIds
from sparrow.authority.types import Line, Member, Term
from sparrow.base import events as names
from sparrow.base.ids import Lsn, ReplicaId
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.link_ids import LinkIds, OpeningLink
from sparrow.node.peers.links import LinkedPeers
from sparrow.node.peers.state import ASK_AGAIN_S, PENDING, Fed, Grow, Stage

#: A needed peer whose link broke may come back within this time before it is asked out.
LINK_GRACE_S: Final = 0.2
JOIN_TIMEOUT_S: Final = 2.0


class Peers(LinkedPeers):
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
        super().__init__(
            line=line,
            replica=replica,
            term=term,
            link_ids=link_ids,
            sessions=sessions,
            control_live=control_live,
            now=now,
        )
        for member in line.members:
            if member.replica_id != replica:
                self._add(member, now)
        for peer_id in pending:
            if peer_id in self.peers and peer_id not in line.in_sync:
                self.peers[peer_id].grow = Grow.REQUIRING
        for peer_id, made in sorted(links.items()):
            self._go_on(self.peers[peer_id], made, now)
        if not self.pending:
            # The opening told the core.
            self._membership = (self._wanted(), self.needed)

    def step(self, event: ev.PrimaryEvent, now: float) -> list[fx.PrimaryEffect]:
        """Take one event; returns what to do, in order."""
        if not self.over:
            self._take(event, now)
            self._advance(now)
        self.wake_at = self._next_wake(now)
        out, self._out = self._out, []
        return out

    def log_seen(self, oldest_lsn: Lsn, head_lsn: Lsn) -> None:
        """What this replica's log holds now; peers that come are judged by it."""
        self.oldest_lsn = oldest_lsn
        self.head_lsn = head_lsn

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
                self.log_seen(event.oldest_lsn, event.head_lsn)
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
            if peer.grow in PENDING - {Grow.RECORDING}:
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

    def _advance(self, now: float) -> None:
        for peer in list(self.peers.values()):
            self._obey(peer, peer.adapter.tick(now), now)
            self._look_at_start(peer, now)
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
            if self._may_be_replaced(peer):
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

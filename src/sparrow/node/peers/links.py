"""Links to the peers: made, fed, lost, and made again; what the engine wants is carried out here.

There is one link to a peer at a time, and what is said of an older one is void (``node.link_ids``).
"""

from __future__ import annotations

from typing import Final

from sparrow.authority import engine_types as t
from sparrow.authority.adapter import AdapterOutput, Dispatch
from sparrow.base import events as names
from sparrow.base.constants import PEER_SILENCE_S
from sparrow.base.ids import NO_LINK, Lsn, ReplicaId
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.link_ids import Link, OpeningLink
from sparrow.node.peers.growing import GrowingPeers
from sparrow.node.peers.state import CORE_HAS, LINKED, PROBE_FIRST_S, Fed, Grow, Stage
from sparrow.ports.dataplane import PeerStatus, RebuildPlan
from sparrow.rpc.messages import JoinAnswerOutcome

#: An absent node costs one refused connection per volume and pause, so the pause can stay short.
PROBE_LAST_S: Final = 2.0
SET_ASIDE_S: Final = 10.0
RETRY_NEEDED_S: Final = 0.05
#: A peer nobody waits for may think longer, but not for ever.
FED_SILENCE_S: Final = 5.0
_REFUSALS: Final = {
    JoinAnswerOutcome.NO_COMMON_POINT: t.JoinRefusal.NO_COMMON_POINT,
    JoinAnswerOutcome.REBUILDING: t.JoinRefusal.REBUILDING,
    JoinAnswerOutcome.QUARANTINED: t.JoinRefusal.QUARANTINED,
}


class LinkedPeers(GrowingPeers):
    """Every event about a link, and every command of the engine."""

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
        # An ack is of the files that gave it. Other files have nothing of it, and the same ones no more than the join
        # found: a follower that lost the end of its log says so by where it joins. Who leaves is asked out on the
        # strength of what the others have (``_leave``), so nothing older than this join may count there. Counting less
        # is safe; what the peer has is acknowledged anew once it is fed.
        same = event.uuid == peer.uuid
        peer.acked_lsn = min(peer.acked_lsn, event.joined_lsn) if same else Lsn(0)
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
        if peer is not None and peer.stage is Stage.FEEDING:
            self._has(peer, event.lsn, now)

    def _has(self, peer: Fed, lsn: Lsn, now: float) -> None:
        """Everything up to there is durable at a peer that is fed."""
        peer.acked_lsn = max(peer.acked_lsn, lsn)
        command = None if peer.session is None else peer.session.command
        if isinstance(command, t.StartCatchUp) and lsn >= command.frontier_hint:
            self._complete(peer, lsn, now)
        self._tell_ack(peer, lsn, now)

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
            peer.full = status.pool_full
        owing = not status.granted or status.acked_lsn < self.head_lsn
        if peer.stage not in LINKED or not owing:
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
            if peer.stage in LINKED:
                self._report(names.PEER_LOST, replica=replica, cause="silent")
            self._away(peer, "silent", now)
            return
        if peer.stage is Stage.FEEDING and status.acked_lsn >= peer.joined_lsn:
            # A busy core may not have heard that somebody waits for this.
            self._has(peer, status.acked_lsn, now)

    def _failed(
        self, event: ev.JoinFailed | ev.ShipFailed | ev.RebuildRefused | ev.LinkLost, now: float
    ) -> None:
        peer = self.peers.get(event.replica)
        if peer is None or peer.link != event.link:
            return
        if peer.stage in LINKED:
            self._report(names.PEER_LOST, replica=peer.replica, cause=event.cause)
        self._away(peer, event.cause, now)

    def _away(self, peer: Fed, cause: str, now: float) -> None:
        """No link any more; joined again at once if it is needed, else after a pause."""
        was_linked = peer.stage in LINKED
        peer.stage, peer.link = Stage.AWAY, NO_LINK
        peer.silent = False
        peer.full = False
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
        if peer.stage in {Stage.PREPARING, *CORE_HAS}:
            self._out.append(fx.DropPeer(replica=peer.replica))
            self._away(peer, "its address changed", now)
            peer.probe_at = now

    def _look_at_start(self, peer: Fed, now: float) -> None:
        """Give up a link that did not stand in time for the session it was made for, and join anew.

        The engine gave that session up and hears nothing of it any more: a peer fed over this link would catch up and
        never be grown. What comes of the link later is void, as of every link that was given up.
        """
        if peer.session is None or peer.adapter.state.phase is not t.SessionPhase.FAILED:
            return
        if peer.stage in CORE_HAS:
            self._out.append(fx.DropPeer(replica=peer.replica))
        self._away(peer, f"its session failed: {peer.adapter.state.failure}", now)

    def _start(self, peer: Fed, dispatch: Dispatch, now: float) -> None:
        peer.session = dispatch
        rebuild = isinstance(dispatch.command, t.StartRebuild)
        if rebuild and peer.replica in self.line.in_sync:
            # Its files may go only after a line that does not count on them; the join after that line starts it.
            cause = peer.adapter.projection.reason
            self._report(names.PEER_UNUSABLE, replica=peer.replica, cause=cause)
            self._ask_out(peer, f"must be rebuilt: {cause}", now)
            if peer.stage in CORE_HAS:
                self._out.append(fx.DropPeer(replica=peer.replica))
            self._away(peer, cause, now)
            peer.probe_at = now + PROBE_FIRST_S
        elif rebuild:
            if peer.stage in CORE_HAS:
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

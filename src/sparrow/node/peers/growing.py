"""How a peer gets into the in-sync set.

Once it grants, so that needing it closes no gate, it is pending. That is durable, commits need it, then the engine
waits until the peer has acknowledged the commit LSN of that moment and its grant is held, then the master is asked.
Only a newer line or a refusal that names the basis ends it; until then, and after a transport error, the peer stays
needed.
"""

from __future__ import annotations

from typing import Final

from sparrow.authority import engine_types as t
from sparrow.authority.types import Intent
from sparrow.base import events as names
from sparrow.base.ids import ReplicaId
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.peers.leaving import LeavingPeers
from sparrow.node.peers.state import ASK_AGAIN_S, Fed, Grow, Stage

COMMAND_AGAIN_S: Final = 1.0


class GrowingPeers(LeavingPeers):
    """Asks for lines with a peer, and hears what became of all asks."""

    def _grow(self, peer: Fed, now: float) -> None:
        """Begin, when it is this peer's turn: each line ends the asks made against the one before."""
        prepared = peer.adapter.state.grow is t.GrowPhase.PREPARING
        if prepared and peer.grow is Grow.NONE and peer.replica not in self.line.in_sync:
            # A line, or the end of a refused ask, came between: the engine said it once and still waits.
            peer.grow = Grow.WANTED
        if peer.grow is Grow.ENDING and 0 < peer.grow_at <= now:
            self._record_end(peer)
        if peer.grow is not Grow.WANTED or now < peer.grow_at:
            return
        if not peer.pace.may_return(now):
            return
        if not peer.granted:
            # Once it is needed the gate waits for its grant. The link for grants is made by itself, after a restart of
            # the node often later than the one that feeds it, and until then the gate would be closed. A delay only:
            # what is needed when it is pending, and what pending proves, stays as it was.
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

    def _ask_grow(self, peer: Fed, now: float) -> None:
        if peer.grow is not Grow.PROVING:
            return
        peer.grow = Grow.ASKED
        self._out.append(fx.AskGrow(replica=peer.replica, basis=self.line.lineage, uuid=peer.uuid))
        basis = self.line.lineage.endpoint_version
        self._obey(peer, peer.adapter.on_grow_asked(basis, now), now)

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
            self._record_end(peer)
            refused = peer.adapter.on_grow_refused(event.basis.endpoint_version, now)
            self._obey(peer, refused, now)

    def _record_end(self, peer: Fed) -> None:
        """The record without it; it stays needed until that is durable."""
        peer.grow_at = 0.0
        left = tuple(r for r in self.pending if r != peer.replica)
        self._out.append(fx.RecordPending(pending=left))

    def _command_failed(self, command: str, now: float) -> None:
        """What the core would not do, or did not hear of, is wanted still."""
        if command == "set_membership":
            self._membership = None
            self._membership_at = now + COMMAND_AGAIN_S
        elif command == "record_pending":
            for peer in self.peers.values():
                if peer.grow is Grow.RECORDING:
                    peer.grow = Grow.WANTED
                    peer.grow_at = now + COMMAND_AGAIN_S
                elif peer.grow is Grow.ENDING:
                    # Nobody else can become pending before this one is out of the record.
                    peer.grow_at = now + COMMAND_AGAIN_S

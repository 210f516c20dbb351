"""Who leaves the in-sync set, and how.

Where an entry commits on some (``authority.quorum``): the line without the peer counts on each of the others, so first
each of the others is needed for commits and grants, then each has acknowledged the commit LSN of that moment, then the
master is asked. It is given up when the peer is well again before the ask was sent.

One that is well and leaves because it is replaced waits for that until all others are well, and is put off when one of
them no longer is: the gate would wait for the grants of whom it can do without, and who is lost could not be asked out
before. Nothing was asked by then, so the line counts on both as it did.

Slow peers (``node.pace``): one that holds commits back for a whole window is asked out and fed on as one that catches
up; never below two, and not where all of them are slow: then it may be this replica (``all_slow``, ``node.relief``).
Where an entry commits on some it holds nothing back, and is asked out all the same. An opening needs
all but one of such a set to answer and to be caught up, so a set with a member that grants and does not log is one
death away from one answer that is of use; without it, each of the two has everything, and either may go on alone. It
leaves as said above, so nothing that commits meanwhile counts on it.

A peer whose pool has no room applies nothing, and takes no more when its log is full. Then it holds commits back like a
slow one; but it says why, so it is asked out like one that is lost, down to the minimum and be it one of two (L7).
"""

from __future__ import annotations

from sparrow.authority.quorum import commits_on_some
from sparrow.base import events as names
from sparrow.base.ids import Lsn, ReplicaId
from sparrow.node import effects as fx
from sparrow.node.peers.base import Base
from sparrow.node.peers.state import Fed, Leaving, Stage


class LeavingPeers(Base):
    """Asks for lines without a peer."""

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

    def _may_be_replaced(self, peer: Fed) -> bool:
        """Whether it is to leave, however well it is, and nothing speaks against that now."""
        if peer.replica not in self.to_leave or peer.replica not in self.line.in_sync:
            return False
        others = self._others(peer.replica) if commits_on_some(self.line) else ()
        return all(_is_well(self.peers[other]) for other in others)

    def _leave(self) -> None:
        """Ask the leaving peer out once every other one has all that was committed while it was not needed."""
        leaving = self._leaving
        if leaving is None or leaving.asked:
            return
        peer = self.peers[leaving.replica]
        if _is_well(peer) and not self._may_be_replaced(peer):
            self._leaving = None
        elif leaving.frozen_lsn is not None and all(
            self.peers[other].acked_lsn >= leaving.frozen_lsn
            for other in self._others(leaving.replica)
        ):
            leaving.asked = True
            self._ask_shrink(peer, leaving.reason)

    def quicker(self, now: float) -> tuple[ReplicaId, ...]:
        """Who has all that it was sent, a moment after it was sent: peers in sync that could lead instead."""
        peers = (self.peers[replica] for replica in self.line.in_sync if replica in self.peers)
        # One that is gone has no pace, and one that says nothing owes what is in the own log.
        return tuple(peer.replica for peer in peers if peer.pace.quick(now))

    def has_beyond(self, lsn: Lsn) -> bool:
        """Whether a peer in sync has entries above this on its disk."""
        peers = (self.peers[replica] for replica in self.line.in_sync if replica in self.peers)
        return any(peer.acked_lsn > lsn for peer in peers)

    def _look_at_paces(self, now: float) -> None:
        """Find who holds commits back, or would hold them back if the others were not enough."""
        needed = [self.peers[replica] for replica in self.needed]
        slow = [peer for peer in needed if peer.pace.slow(now)]
        self._quick_again(slow)
        for peer in slow:
            if peer.full:
                self._ask_out_full(peer, now)
        # Why one without room is slow is known, and tells nothing of the others; one that is quick still tells of them.
        needed = [peer for peer in needed if not (peer.full and peer in slow)]
        slow = [peer for peer in slow if not peer.full]
        # Of a single one nobody can tell whether it is the peer, the network or this replica.
        self.all_slow = len(slow) > 1 and len(slow) == len(needed)
        if len(slow) != 1 or len(needed) == 1:
            return
        (peer,) = slow
        left = len(self.line.in_sync) - 1
        if peer.replica in self.line.in_sync and left >= max(2, self.line.min_in_sync):
            if not peer.slow:
                self._report(names.PEER_SLOW, replica=peer.replica)
            peer.slow = True
            self._ask_out(peer, "its acknowledgements take too long", now)

    def _ask_out_full(self, peer: Fed, now: float) -> None:
        """Back when it has caught up and is calm, as one that was slow."""
        if peer.replica in self.line.in_sync and len(self.line.in_sync) > self.line.min_in_sync:
            peer.slow = True
            self._ask_out(peer, "its pool is full", now)

    def _quick_again(self, slow: list[Fed]) -> None:
        """Who was to leave for its pace alone and is well before it was asked out may stay."""
        leaving = self._leaving
        if leaving is None or leaving.asked:
            return
        peer = self.peers[leaving.replica]
        if peer.slow and peer not in slow:
            peer.slow = False


def _is_well(peer: Fed) -> bool:
    fed = peer.stage is Stage.FEEDING and peer.lost_at is None
    return fed and not (peer.silent or peer.slow)

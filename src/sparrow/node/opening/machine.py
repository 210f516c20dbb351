"""The machine of an opening: events in, effects out, one step after the other."""

from __future__ import annotations

from sparrow.authority.types import Intent
from sparrow.base import events as names
from sparrow.base.constants import FENCE_DEADLINE_S
from sparrow.base.ids import ReplicaId
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.link_ids import Link
from sparrow.node.opening.joining import Joining
from sparrow.node.opening.state import ASK_AGAIN_S, JOINS, TROUBLE_S, Follower, Phase


class Opening(Joining):
    """The opening of one volume in one term. Feed it events, carry out what it returns, wake it at ``wake_at``."""

    def step(self, event: ev.PrimaryEvent, now: float) -> list[fx.PrimaryEffect]:
        """Take one event; returns what to do, in order."""
        self._out = []
        if self.phase is not Phase.OVER:
            self._take(event, now)
            self._advance(now)
        self.wake_at = self._next_wake(now)
        return self._out

    def _take(self, event: ev.PrimaryEvent, now: float) -> None:  # noqa: C901, PLR0912 - one arm per event
        match event:
            case ev.TermBegun():
                self.term = event.term
                self.own = event.own
                self._note_promise(self.replica, event.own, now)
                self._report(names.TERM_BEGUN, epoch=event.term.epoch, start=event.term.start)
                self.phase = Phase.FENCING
                for follower in self.followers.values():
                    follower.send_at = now
            case ev.TermRefused():
                self._over(event.cause)
            case ev.FenceAnswered():
                self._fence_answered(event, now)
            case ev.FenceFailed() | ev.JoinFailed() | ev.ShipFailed() if event.superseded:
                self._over(f"{event.replica}: {event.cause}")
            case ev.FenceFailed():
                self._fence_failed(event, now)
            case ev.LineChanged():
                self._line_changed(event, now)
            case ev.LogAdopted():
                self._log_adopted(event.log)
            case ev.AdoptFailed():
                self._adopt_failed(event, now)
            case ev.JoinAnswered():
                self._join_answered(event, now)
            case ev.JoinFailed() | ev.ShipFailed() | ev.LinkLost():
                self._link_failed(event, now)
            case ev.ShipStarted():
                self._link_made(event)
            case ev.MembershipSet():
                told = self._membership
                if told is not None and (told.needed, told.one_of) == (event.needed, event.one_of):
                    self._membership_done = True
            case ev.InheritedCommitted():
                self._allow(now)
            case ev.AskEnded():
                self._ask_ended(event, now)
            case ev.CommandFailed():
                self._block(f"{event.command}: {event.cause}", now)
            case _:
                pass  # what concerns peers of an open volume only

    def _line_changed(self, event: ev.LineChanged, now: float) -> None:
        assert event.line.lineage.epoch == self.line.lineage.epoch
        assert event.line.primary == self.replica
        self.line = event.line
        self.pending = event.pending
        members = {member.replica_id for member in event.line.members}
        for replica, follower in sorted(self.followers.items()):
            if replica not in members and follower.link is not Link.NONE:
                self._out.append(fx.DropPeer(replica=replica))
        kept: dict[ReplicaId, Follower] = {}
        for member in event.line.members:
            if member.replica_id != self.replica:
                kept[member.replica_id] = self.followers.get(
                    member.replica_id, Follower(replica=member.replica_id, send_at=now)
                )
        self.followers = kept
        for follower in kept.values():
            follower.ask_at = now
        if not self._enough_answered() and self.phase in {
            Phase.ADOPTING,
            Phase.JOINING,
            Phase.COMMITTING,
        }:
            # Needed now and never fenced: what it holds must be known before anything counts.
            self.phase = Phase.FENCING
        if self.phase is Phase.BLOCKED:
            self._retry_at = now

    def _ask_ended(self, event: ev.AskEnded, now: float) -> None:
        follower = self.followers.get(event.replica)
        if follower is None or event.refusal is None or follower.asked != event.basis:
            return
        if event.intent is Intent.SHRINK_IN_SYNC:
            # Usually the controller hands over instead; if it does not, the same wish is still there.
            follower.asked = None
            follower.ask_at = now + ASK_AGAIN_S

    def _advance(self, now: float) -> None:
        if self.phase is Phase.BLOCKED and now >= self._retry_at:
            self._start_over(now)
        if self.phase is Phase.FENCING or (self.some_suffice and self.phase in JOINS):
            # Where some suffice the others are asked on: one of them may have to stand in for one that goes away.
            self._fence(now)
        if self.phase is Phase.FENCING and self._all_answered(now):
            self._choose(now)
        if self.phase in {Phase.JOINING, Phase.COMMITTING}:
            self._join(now)
            self._commit(now)

    def _start_over(self, now: float) -> None:
        self.phase = Phase.FENCING if self.term is not None else Phase.STARTING
        if self.term is None:
            self._out.extend(self.begin())
        self._membership = None
        self._membership_done = self._committing = False
        for follower in self.followers.values():
            follower.report = None
            follower.unusable = ""
            follower.attempts = 0
            follower.first_sent_at = None
            follower.waiting_until = None
            follower.send_at = now
            follower.timed_out = False

    def _next_wake(self, now: float) -> float | None:
        """The next moment at which time alone changes something; what is due already was done in this step."""
        times: list[float] = []
        if self.phase is Phase.BLOCKED:
            times.append(self._retry_at)
        for replica, follower in self.followers.items():
            times.append(follower.ask_at)
            if replica not in self.needed:
                continue
            if follower.report is None and (self.phase is Phase.FENCING or self.some_suffice):
                times.append(follower.waiting_until or follower.send_at)
                if follower.first_sent_at is not None:
                    times.append(follower.first_sent_at + FENCE_DEADLINE_S)
            elif self.phase in {Phase.JOINING, Phase.COMMITTING} and follower.link is Link.NONE:
                times.append(follower.join_at)
                if follower.trouble_since is not None:
                    times.append(follower.trouble_since + TROUBLE_S)
        return min((at for at in times if at > now), default=None)

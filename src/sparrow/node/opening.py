"""Opening a volume under a line that names this replica primary: from the promise to the open gate.

A pure machine; ``node.primacy`` carries out its effects. The order is the whole point (docs/ARCHITECTURE.md, "Life of a
failover"):

    STARTING    the term is durable here
    FENCING     every member of in_sync and pending has promised the term and told what its log holds; who does not
                answer is first taken out by a minted line. Under ack=quorum so many are enough that every two meet
                them (``authority.quorum``), and nobody may be taken out: he might have the second copy of something
    ADOPTING    the log with the highest last (term, LSN) is taken over
    JOINING     every follower needed has cut to the common point, durably, and is fed over a link of this term
    COMMITTING  the term-start entry, and with it everything inherited, becomes durable on all of them
    ALLOWED     the gate may open once every promise that was named has run out or was given back

A promise protects reads of the one term it was given to. The primary of that term answers a fence with its gate closed
for good and says so (``closed``); from then on nothing is served under that promise, so it is not waited for, whoever
gave it. Promises to other terms, and the hold-off of a process that started, are waited for all the same.

BLOCKED is left by trying again: the evidence was reported, and another answer or another line may resolve it.
OVER is final: a newer promise exists, only a newer line can help.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from sparrow.authority.quorum import answers_needed, commits_on_some
from sparrow.authority.types import AckPolicy, Intent, Line, Lineage, ReplicaState, Term
from sparrow.base import events as names
from sparrow.base.constants import (
    FENCE_DEADLINE_S,
    FENCE_RETRY_S,
    GRANT_DRIFT,
    GRANT_MARGIN_S,
)
from sparrow.base.ids import NO_LINK, LinkId, Lsn, ReplicaId
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.link_ids import Link, LinkIds, OpeningLink
from sparrow.ports.dataplane import FenceReport, LogSummary
from sparrow.rpc.messages import JoinAnswerOutcome

#: A peer that refused the connection may be starting: ask again sooner than the deadline.
RETRY_SOON_S: Final = 0.1
#: A needed peer whose join or link fails for this long is asked out.
TROUBLE_S: Final = 0.5
ASK_AGAIN_S: Final = 1.0
BLOCKED_RETRY_S: Final = 2.0


class Phase(StrEnum):
    """Where the opening stands; see the module's text."""

    STARTING = "starting"
    FENCING = "fencing"
    ADOPTING = "adopting"
    JOINING = "joining"
    COMMITTING = "committing"
    ALLOWED = "allowed"
    BLOCKED = "blocked"
    OVER = "over"


_JOINS: Final = {Phase.JOINING, Phase.COMMITTING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What one answer said of promises to others. Times are the machine's clock, seconds."""

    until: float
    to: Term | None
    #: When all but the one to ``to`` have run out.
    older_until: float


@dataclass(slots=True)
class Follower:
    """What the opening knows of one other member. Times are the machine's clock, seconds."""

    replica: ReplicaId
    report: FenceReport | None = None
    first_sent_at: float | None = None
    attempts: int = 0
    waiting_until: float | None = None
    send_at: float = 0.0
    timed_out: bool = False
    unusable: str = ""
    link: Link = Link.NONE
    link_id: LinkId = NO_LINK
    joined_lsn: Lsn = Lsn(0)
    join_at: float = 0.0
    trouble_since: float | None = None
    asked: Lineage | None = None
    ask_at: float = 0.0


class Opening:
    """The opening of one volume in one term. Feed it events, carry out what it returns, wake it at ``wake_at``."""

    def __init__(
        self, *, line: Line, replica: ReplicaId, pending: tuple[ReplicaId, ...] = ()
    ) -> None:
        assert line.primary == replica, "only the line's primary opens"
        self.line = line
        self.replica = replica
        self.pending = pending
        self.phase = Phase.STARTING
        self.term: Term | None = None
        self.own: FenceReport | None = None
        self.blocked_by = ""
        self.promises: dict[ReplicaId, Promise] = {}
        #: Terms whose primary said that its gate is closed.
        self.closed: set[Term] = set()
        self.link_ids = LinkIds()
        self.followers = {
            m.replica_id: Follower(replica=m.replica_id)
            for m in line.members
            if m.replica_id != replica
        }
        self.wake_at: float | None = None
        self._membership: fx.SetMembership | None = None
        self._membership_done = False
        self._committing = False
        self._retry_at = 0.0
        self._out: list[fx.PrimaryEffect] = []

    @property
    def needed(self) -> tuple[ReplicaId, ...]:
        """Who must have everything before it counts as committed, without ourselves."""
        return tuple(sorted({*self.line.in_sync, *self.pending} & self.followers.keys()))

    @property
    def some_suffice(self) -> bool:
        """Whether the opening goes on without every member of in_sync."""
        return commits_on_some(self.line)

    @property
    def required(self) -> tuple[ReplicaId, ...]:
        """Of those needed, the ones nobody can stand in for: all, or the pending where some suffice."""
        if not self.some_suffice:
            return self.needed
        return tuple(replica for replica in self.needed if replica not in self.line.in_sync)

    @property
    def one_of(self) -> tuple[ReplicaId, ...]:
        """Members of in_sync of which one more copy, and one grant, is enough."""
        required = self.required
        return tuple(replica for replica in self.needed if replica not in required)

    @property
    def writable(self) -> bool:
        return len(self.line.in_sync) >= self.line.min_in_sync

    @property
    def links(self) -> dict[ReplicaId, OpeningLink]:
        """Links that stand or are under way: whoever takes over goes on with them."""
        return {
            replica: OpeningLink(link=one.link_id, stage=one.link, joined_lsn=one.joined_lsn)
            for replica, one in self.followers.items()
            if one.link is not Link.NONE
        }

    def begin(self) -> list[fx.PrimaryEffect]:
        """The first effects."""
        return [fx.BeginTerm(epoch=self.line.lineage.epoch)]

    def step(self, event: ev.PrimaryEvent, now: float) -> list[fx.PrimaryEffect]:
        """Take one event; returns what to do, in order."""
        self._out = []
        if self.phase is not Phase.OVER:
            self._take(event, now)
            self._advance(now)
        self.wake_at = self._next_wake(now)
        return self._out

    # ------------------------------------------------------------ events

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

    def _fence_answered(self, event: ev.FenceAnswered, now: float) -> None:
        follower = self.followers.get(event.replica)
        member = self.line.member(event.replica)
        if follower is None or member is None:
            return
        waited_s = self._wait_s(now)
        self._note_promise(event.replica, event.report, now)
        if self.phase is Phase.ALLOWED and self._wait_s(now) < waited_s:
            self._open_gate(now)
        if follower.report is not None:
            return
        log = event.report.log
        self._report(
            names.FENCE_ANSWERED,
            replica=event.replica,
            last_epoch=log.last_term.epoch,
            last_start=log.last_term.start,
            last_lsn=log.last_lsn,
            promise_ms=event.report.promise_ms,
        )
        follower.waiting_until = None
        if log.uuid != member.uuid:
            follower.unusable = f"its files are {log.uuid}, the line means {member.uuid}"
        elif log.state is not ReplicaState.CLEAN:
            follower.unusable = f"its state is {log.state}"
        else:
            follower.unusable = ""
            follower.report = event.report
            return
        follower.send_at = now + FENCE_RETRY_S[-1]

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

    def _log_adopted(self, log: LogSummary) -> None:
        if self.phase is not Phase.ADOPTING or self.own is None:
            return
        self.own = replace(self.own, log=log)
        # Back through the choice: another answer may have come, and the result must reach every end it has to.
        self.phase = Phase.FENCING

    def _adopt_failed(self, event: ev.AdoptFailed, now: float) -> None:
        if self.phase is not Phase.ADOPTING:
            return
        if event.lasting:
            self._block(f"log of {event.source} cannot be adopted: {event.cause}", now)
            return
        self.phase = Phase.FENCING
        follower = self.followers.get(event.source)
        if follower is not None:
            follower.report = None
            follower.send_at = now + RETRY_SOON_S

    def _join_answered(self, event: ev.JoinAnswered, now: float) -> None:
        follower = self.followers.get(event.replica)
        member = self.line.member(event.replica)
        if follower is None or member is None or self.term is None:
            return
        if event.link != follower.link_id:
            return
        if event.uuid != member.uuid:
            follower.unusable = f"its files are {event.uuid}, the line means {member.uuid}"
        elif event.outcome is not JoinAnswerOutcome.JOINED:
            follower.unusable = f"{event.outcome.name.lower()}: {event.detail}"
        elif not event.check_matches:
            follower.unusable = f"its log differs at LSN {event.joined_lsn}"
        elif event.joined_lsn + 1 < event.oldest_lsn:
            follower.unusable = (
                f"it ends at {event.joined_lsn}, the log begins at {event.oldest_lsn}"
            )
        else:
            follower.link = Link.CONNECTING
            follower.joined_lsn = event.joined_lsn
            self._report(names.PEER_JOINED, replica=event.replica, joined_lsn=event.joined_lsn)
            self._out.append(
                fx.StartShip(
                    replica=event.replica,
                    link=event.link,
                    uuid=event.uuid,
                    term=self.term,
                    joined_lsn=event.joined_lsn,
                )
            )
            return
        follower.link, follower.link_id = Link.NONE, NO_LINK
        follower.join_at = now + FENCE_RETRY_S[-1]

    def _fence_failed(self, event: ev.FenceFailed, now: float) -> None:
        follower = self.followers.get(event.replica)
        if follower is not None and follower.report is None:
            follower.waiting_until = None
            follower.send_at = max(follower.send_at, now + RETRY_SOON_S)

    def _link_made(self, event: ev.ShipStarted) -> None:
        follower = self.followers.get(event.replica)
        if follower is not None and event.link == follower.link_id:
            follower.link = Link.UP
            follower.trouble_since = None

    def _link_failed(self, event: ev.JoinFailed | ev.ShipFailed | ev.LinkLost, now: float) -> None:
        follower = self.followers.get(event.replica)
        if follower is None or event.link != follower.link_id:
            return
        if follower.link is Link.UP:
            self._report(names.PEER_LOST, replica=follower.replica, cause=event.cause)
        follower.link, follower.link_id = Link.NONE, NO_LINK
        follower.join_at = now + RETRY_SOON_S
        if follower.trouble_since is None:
            follower.trouble_since = now

    def _ask_ended(self, event: ev.AskEnded, now: float) -> None:
        follower = self.followers.get(event.replica)
        if follower is None or event.refusal is None or follower.asked != event.basis:
            return
        if event.intent is Intent.SHRINK_IN_SYNC:
            # Usually the controller hands over instead; if it does not, the same wish is still there.
            follower.asked = None
            follower.ask_at = now + ASK_AGAIN_S

    # ------------------------------------------------------------ what follows

    def _advance(self, now: float) -> None:
        if self.phase is Phase.BLOCKED and now >= self._retry_at:
            self._start_over(now)
        if self.phase is Phase.FENCING or (self.some_suffice and self.phase in _JOINS):
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

    def _fence(self, now: float) -> None:
        assert self.term is not None
        needed = set(self.needed)
        for replica, follower in sorted(self.followers.items()):
            if follower.waiting_until is not None and now >= follower.waiting_until:
                follower.waiting_until = None
            if follower.report is not None:
                continue
            if replica not in needed and follower.attempts > 0:
                continue  # asked once so that it knows; nothing waits for it
            if follower.waiting_until is None and now >= follower.send_at:
                timeout = FENCE_RETRY_S[min(follower.attempts, len(FENCE_RETRY_S) - 1)]
                follower.attempts += 1
                follower.waiting_until = now + timeout
                if follower.first_sent_at is None:
                    follower.first_sent_at = now
                    self._report(names.FENCE_SENT, replica=replica)
                self._out.append(fx.SendFence(replica=replica, term=self.term, timeout_s=timeout))
            if replica in needed:
                self._missing(follower, now)

    def _missing(self, follower: Follower, now: float) -> None:
        """A needed follower without a usable answer: past the deadline it is asked out."""
        if follower.unusable:
            self._ask_out(follower, follower.unusable, now)
            return
        if follower.first_sent_at is None or now < follower.first_sent_at + FENCE_DEADLINE_S:
            return
        if not follower.timed_out:
            follower.timed_out = True
            self._report(
                names.FENCE_TIMED_OUT,
                replica=follower.replica,
                waited_ms=round((now - follower.first_sent_at) * 1000),
            )
        self._ask_out(follower, "no answer to the fence", now)

    def _all_answered(self, now: float) -> bool:
        if self.own is None or not self._enough_answered():
            return False
        return not self._eligible_stand(now)

    def _eligible_stand(self, now: float) -> bool:
        """Whether the line may still make a member primary that nothing commits without; asks for one that forgets it.

        Asked again before the core is told of another membership: a member that is late may be taken out, and become
        eligible, after it has answered. The term-start entry would then commit without it, the line could still be
        handed to it, and whoever took the entry for committed could never be cut to its log.
        """
        if self.writable or not self.line.eligible:
            return False
        eligible = self.line.eligible[0]
        follower = self.followers.get(eligible) or Follower(replica=eligible)
        self._ask_out(follower, "opening below min_in_sync", now, clear_eligible=True)
        return True

    def _enough_answered(self) -> bool:
        """Whether the answers together hold everything committed, and name every promise that matters.

        A suspect replica may have lost what it had and what it promised: where some suffice it is not one of them.
        """
        reports = {r: self.followers[r].report for r in self.needed}
        if all(report is not None for report in reports.values()):
            return True
        if not self.some_suffice or any(reports[r] is None for r in self.required):
            return False
        sound = [r for r in self.one_of if (one := reports[r]) is not None and not one.log.suspect]
        own = self.own is not None and not self.own.log.suspect
        return len(sound) + own >= answers_needed(self.line)

    def _choose(self, now: float) -> None:
        """Adopt the longest log of all that answered, or go on with the own one."""
        assert self.own is not None
        assert self.term is not None
        if self.own.log.state is not ReplicaState.CLEAN:
            self._block(f"own state is {self.own.log.state}", now)
            return
        best, best_log = self.replica, self.own.log
        reach, reach_by = self.own.log.must_reach_lsn, self.replica
        for replica in self.needed:
            report = self.followers[replica].report
            if report is None:
                continue
            if _end(report.log) > _end(best_log):
                best, best_log = replica, report.log
            if report.log.must_reach_lsn > reach:
                reach, reach_by = report.log.must_reach_lsn, replica
        if best_log.last_lsn < reach:
            self._block(
                f"{reach_by} knows of entries up to {reach}, the longest log ends at {best_log.last_lsn} on {best}",
                now,
            )
            return
        self.blocked_by = ""
        if best == self.replica:
            self.phase = Phase.JOINING
            for follower in self.followers.values():
                follower.join_at = now
        else:
            self.phase = Phase.ADOPTING
            self._out.append(fx.Adopt(source=best, log=best_log, term=self.term))

    def _join(self, now: float) -> None:
        assert self.term is not None
        for replica in self.needed:
            follower = self.followers[replica]
            if follower.report is None and self.some_suffice:
                continue
            if follower.unusable:
                self._ask_out(follower, follower.unusable, now)
            elif follower.link is Link.NONE and now >= follower.join_at:
                follower.link, follower.link_id = Link.JOINING, self.link_ids.next()
                self._out.append(
                    fx.SendJoin(
                        replica=replica,
                        link=follower.link_id,
                        term=self.term,
                        timeout_s=FENCE_RETRY_S[-1],
                    )
                )
            in_trouble = follower.trouble_since is not None and follower.link is not Link.UP
            if in_trouble and now >= (follower.trouble_since or 0.0) + TROUBLE_S:
                self._ask_out(follower, "its link cannot be made", now)

    def _commit(self, now: float) -> None:
        if self._eligible_stand(now):
            return
        wanted = fx.SetMembership(
            needed=self.required,
            one_of=self.one_of,
            writable=self.writable,
            ack_local=self.line.ack is AckPolicy.LOCAL,
        )
        up = {r for r in self.needed if self.followers[r].link is Link.UP}
        ready = up.issuperset(self.required) and (not self.one_of or bool(up & {*self.one_of}))
        if wanted != self._membership and (ready or self.phase is Phase.COMMITTING):
            self.phase = Phase.COMMITTING
            self._membership = wanted
            self._membership_done = False
            self._out.append(wanted)
        elif self._membership_done and not self._committing:
            self._committing = True
            self._out.append(fx.CommitInherited())

    def _allow(self, now: float) -> None:
        if self.phase is not Phase.COMMITTING:
            return
        self.phase = Phase.ALLOWED
        self._open_gate(now)

    def _open_gate(self, now: float) -> None:
        self._out.append(fx.OpenGate(wait_ms=math.ceil(self._wait_s(now) * 1000)))

    def _wait_s(self, now: float) -> float:
        """How long the longest promise that somebody may still serve under runs, told by our clock."""
        untils = [p.older_until if p.to in self.closed else p.until for p in self.promises.values()]
        left = max([until - now for until in untils], default=0.0)
        # Waited for on our clock, promised on theirs.
        return left * (1 + GRANT_DRIFT) + GRANT_MARGIN_S if left > 0 else 0.0

    # ------------------------------------------------------------ small ones

    def _ask_out(
        self, follower: Follower, reason: str, now: float, *, clear_eligible: bool = False
    ) -> None:
        if follower.asked == self.line.lineage or now < follower.ask_at:
            return
        if self.some_suffice and follower.replica in self.line.in_sync:
            return
        follower.asked = self.line.lineage
        self._out.append(
            fx.AskShrink(
                replica=follower.replica,
                basis=self.line.lineage,
                reason=reason,
                clear_eligible=clear_eligible or bool(self.line.eligible),
            )
        )

    def _note_promise(self, replica: ReplicaId, report: FenceReport, now: float) -> None:
        # Once the term is promised no older one is promised anything more: the newest answer is the nearest.
        self.promises[replica] = Promise(
            until=now + report.promise_ms / 1000,
            to=report.promised_to,
            older_until=now + report.older_promise_ms / 1000,
        )
        if report.closed is not None:
            self.closed.add(report.closed)

    def _block(self, cause: str, now: float) -> None:
        self.phase = Phase.BLOCKED
        self._retry_at = now + BLOCKED_RETRY_S
        if cause != self.blocked_by:
            self.blocked_by = cause
            self._report(names.OPENING_BLOCKED, cause=cause)

    def _over(self, cause: str) -> None:
        self.phase = Phase.OVER
        self._out.append(fx.StepDown(cause=cause))

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


def _end(log: LogSummary) -> tuple[Term, int]:
    return (log.last_term, log.last_lsn)

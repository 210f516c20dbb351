"""Every member needed promises the term and tells its log; then the longest log of all that answered is chosen."""

from __future__ import annotations

from dataclasses import replace

from sparrow.authority.quorum import answers_needed
from sparrow.authority.types import ReplicaState, Term
from sparrow.base import events as names
from sparrow.base.constants import FENCE_DEADLINE_S, FENCE_RETRY_S
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.opening.gate import Promised
from sparrow.node.opening.state import RETRY_SOON_S, Follower, Phase
from sparrow.ports.dataplane import LogSummary


class Fencing(Promised):
    """Asks, judges whether the answers are enough, and chooses the log to go on with."""

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

    def _fence_failed(self, event: ev.FenceFailed, now: float) -> None:
        follower = self.followers.get(event.replica)
        if follower is not None and follower.report is None:
            follower.waiting_until = None
            follower.send_at = max(follower.send_at, now + RETRY_SOON_S)

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
            self.outrun = False
            self.phase = Phase.JOINING
            for follower in self.followers.values():
                follower.join_at = now
        else:
            self.phase = Phase.ADOPTING
            self._out.append(fx.Adopt(source=best, log=best_log, term=self.term))

    def _log_adopted(self, log: LogSummary) -> None:
        if self.phase is not Phase.ADOPTING or self.own is None:
            return
        self.own = replace(self.own, log=log)
        self.outrun = False
        # Back through the choice: another answer may have come, and the result must reach every end it has to.
        self.phase = Phase.FENCING

    def _adopt_failed(self, event: ev.AdoptFailed, now: float) -> None:
        if self.phase is not Phase.ADOPTING:
            return
        if event.lasting:
            self.outrun = True
            self._block(f"log of {event.source} cannot be adopted: {event.cause}", now)
            return
        self.phase = Phase.FENCING
        follower = self.followers.get(event.source)
        if follower is not None:
            follower.report = None
            follower.send_at = now + RETRY_SOON_S


def _end(log: LogSummary) -> tuple[Term, int]:
    return (log.last_term, log.last_lsn)

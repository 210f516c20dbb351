"""Followers cut to the common point and are fed; then what was inherited commits on all that are needed."""

from __future__ import annotations

from sparrow.authority.types import AckPolicy
from sparrow.base import events as names
from sparrow.base.constants import FENCE_RETRY_S
from sparrow.base.ids import NO_LINK
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.link_ids import Link
from sparrow.node.opening.fencing import Fencing
from sparrow.node.opening.state import RETRY_SOON_S, TROUBLE_S, Phase
from sparrow.rpc.messages import JoinAnswerOutcome


class Joining(Fencing):
    """Makes links of this term, and tells the core who is needed when they stand."""

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

"""What every part of an opening uses: the line and what follows from it, asks, and how it ends or waits."""

from __future__ import annotations

from sparrow.authority.quorum import commits_on_some
from sparrow.authority.types import Line, Term
from sparrow.base import events as names
from sparrow.base.ids import ReplicaId
from sparrow.node import effects as fx
from sparrow.node.link_ids import Link, LinkIds, OpeningLink
from sparrow.node.opening.state import BLOCKED_RETRY_S, Follower, Phase, Promise
from sparrow.ports.dataplane import FenceReport


class Base:
    """The state of an opening and its small steps."""

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
        #: What this log lacks is not in the others' logs any more: who has it should open instead.
        self.outrun = False
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

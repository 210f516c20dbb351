"""What every part uses: the line, the peers, and who is needed."""

from __future__ import annotations

from abc import ABC, abstractmethod

from sparrow.authority import engine_types as t
from sparrow.authority.adapter import AdapterOutput, SessionIds
from sparrow.authority.quorum import commits_on_some
from sparrow.authority.types import AckPolicy, Line, Member, Term
from sparrow.base.ids import Lsn, ReplicaId
from sparrow.node import effects as fx
from sparrow.node.link_ids import LinkIds
from sparrow.node.peers.state import PENDING, Fed, Grow, Leaving


class Base(ABC):
    """The peers of a volume in one term. ``link_ids`` are those of the term."""

    def __init__(
        self,
        *,
        line: Line,
        replica: ReplicaId,
        term: Term,
        link_ids: LinkIds,
        sessions: SessionIds,
        control_live: bool,
        now: float,
    ) -> None:
        self.line = line
        self.replica = replica
        self.term = term
        self.control_live = control_live
        self.oldest_lsn = Lsn(0)
        self.head_lsn = Lsn(0)
        self.over = False
        self.wake_at: float | None = None
        self.peers: dict[ReplicaId, Fed] = {}
        #: Everybody is slow to this replica.
        self.all_slow = False
        self._sessions = sessions
        self._link_ids = link_ids
        self._membership_at = now
        #: In sync and replaced, by the master's word.
        self.to_leave: frozenset[ReplicaId] = frozenset()
        self._leaving: Leaving | None = None
        self._attempts = 0
        self._out: list[fx.PrimaryEffect] = []
        #: What the core was told last, and who was needed then: an eligible peer that becomes pending is told again.
        self._membership: tuple[fx.SetMembership, tuple[ReplicaId, ...]] | None = None

    @property
    def pending(self) -> tuple[ReplicaId, ...]:
        """Peers on their way into in_sync; durable before anything depends on it."""
        return tuple(sorted(r for r, p in self.peers.items() if p.grow in PENDING))

    @property
    def needed(self) -> tuple[ReplicaId, ...]:
        """Whom commits and the gate wait for. A peer that is only being recorded as pending is not needed yet."""
        growing = {r for r, p in self.peers.items() if p.grow in PENDING - {Grow.RECORDING}}
        return tuple(sorted((set(self.line.in_sync) | growing) & self.peers.keys()))

    @property
    def asked(self) -> tuple[ReplicaId, ...]:
        """Whose grants the gate waits for: whoever could be made primary beside us, so the eligible as well.

        Below ``min_in_sync`` nothing commits, but an eligible replica may take over and write; who is cut off from it
        would read old data for ever.
        """
        return tuple(sorted({*self.needed, *(set(self.line.eligible) & self.peers.keys())}))

    @property
    def one_of(self) -> tuple[ReplicaId, ...]:
        """Of those needed, the ones of which one is enough; none while one of them is on its way out."""
        if not commits_on_some(self.line) or self._leaving is not None:
            return ()
        return tuple(replica for replica in self.needed if replica in self.line.in_sync)

    def _wanted(self) -> fx.SetMembership:
        """What the core is to wait for."""
        one_of = self.one_of
        leaves = None if self._leaving is None else self._leaving.replica
        return fx.SetMembership(
            needed=tuple(one for one in self.asked if one not in one_of and one != leaves),
            one_of=one_of,
            writable=self.writable,
            ack_local=self.line.ack is AckPolicy.LOCAL,
            attempt=0 if self._leaving is None else self._leaving.attempt,
        )

    @property
    def writable(self) -> bool:
        return len(self.line.in_sync) >= self.line.min_in_sync

    @abstractmethod
    def _obey(self, peer: Fed, outputs: list[AdapterOutput], now: float) -> None:
        """Carry out what the adapter gave, in order."""

    def _others(self, leaves: ReplicaId) -> tuple[ReplicaId, ...]:
        """In sync when a peer has left, without ourselves."""
        return tuple(r for r in self.line.in_sync if r in self.peers and r != leaves)

    def _assignment(self, member: Member) -> t.AssignmentObserved:
        lineage = self.line.lineage
        return t.AssignmentObserved(
            volume_id=self.line.volume_id,
            replica_id=member.replica_id,
            epoch=lineage.epoch,
            endpoint_version=lineage.endpoint_version,
            data_addr=member.data_addr,
            ctrl_addr=member.ctrl_addr,
            in_sync=member.replica_id in self.line.in_sync,
        )

    def _report(self, event: str, **facts: object) -> None:
        lineage = self.line.lineage
        own = {
            "volume": self.line.volume_id,
            "epoch": lineage.epoch,
            "endpoint_version": lineage.endpoint_version,
        }
        self._out.append(fx.Report(event=event, facts={**own, **facts}))

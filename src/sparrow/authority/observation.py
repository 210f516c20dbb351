"""What the nodes last said, when the master heard it, and how long it counts.

The newest heartbeat of a node wins by ``(incarnation, sequence)``, its own counters; freshness runs on the master's
receive time alone, so a node with a fast clock gains nothing. A fact is fresh up to and including its expiry.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

from sparrow.authority.types import Observation, SlotFact
from sparrow.base.constants import FRESHNESS_S
from sparrow.base.errors import InvalidArgument
from sparrow.base.ids import Lsn, NodeId, ReplicaUuid, VolumeId

#: A heartbeat that arrives this long after its node's stream closed was sent by a living process: what was already
#: on its way when the process died has arrived by then.
IN_FLIGHT_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSight:
    """What is known of one node at one moment."""

    node_id: NodeId
    #: Of the newest heartbeat or stream; None if the node was never seen in this boot of the master.
    incarnation: int | None
    #: The master's clock, seconds; None if no heartbeat came in this boot.
    heard_at: float | None
    fresh: bool
    stream_open: bool
    #: When the newest stream ended; None while one is open and before the first.
    stream_closed_at: float | None
    reachable: bool
    eligible: bool

    @property
    def spoke_after_close(self) -> bool:
        """Whether a heartbeat shows that the process outlived its closed stream."""
        if self.stream_closed_at is None:
            return True
        return self.heard_at is not None and self.heard_at > self.stream_closed_at + IN_FLIGHT_S

    @property
    def up(self) -> bool:
        """Fresh, and not merely because its last words are still counted."""
        return self.fresh and (self.stream_open or self.spoke_after_close)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One replica's fact and the node that said it."""

    sight: NodeSight
    fact: SlotFact


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What a heartbeat changed.

    ``changed`` are volumes of which anything but positions changed, or all of the node's when it was not fresh
    before; ``mentioned`` are all volumes in it.
    """

    accepted: bool
    revived: bool = False
    changed: frozenset[VolumeId] = frozenset()
    mentioned: frozenset[VolumeId] = frozenset()


class _Node:
    __slots__ = (
        "facts",
        "in_heap",
        "incarnation",
        "newest",
        "stream_closed_at",
        "stream_id",
        "stream_incarnation",
    )

    def __init__(self) -> None:
        self.incarnation: int | None = None
        self.newest: Observation | None = None
        self.facts: dict[VolumeId, tuple[SlotFact, ...]] = {}
        self.stream_id: int | None = None
        self.stream_incarnation: int | None = None
        self.stream_closed_at: float | None = None
        self.in_heap = False


class ObservationStore:
    """The latest heartbeat per node. Bounded by the number of nodes and of the replicas they host.

    Args:
        window: seconds a heartbeat counts after it was received.
    """

    def __init__(self, *, window: float = FRESHNESS_S) -> None:
        self.window = window
        self.superseded_count = 0
        self._nodes: dict[NodeId, _Node] = {}
        self._hosts: dict[VolumeId, set[NodeId]] = {}
        self._commits: dict[VolumeId, dict[ReplicaUuid, Lsn]] = {}
        self._expiries: list[tuple[float, NodeId]] = []

    def ingest(self, observation: Observation) -> Ingested:
        """Take a heartbeat over, or count it as superseded when a newer one came before it.

        Raises:
            InvalidArgument: no node id, or a receive time that is no time; nothing is stored.
        """
        _validate(observation)
        node = self._nodes.setdefault(observation.node_id, _Node())
        old = node.newest
        if (node.incarnation is not None and observation.incarnation < node.incarnation) or (
            old is not None
            and (observation.incarnation, observation.sequence) <= (old.incarnation, old.sequence)
        ):
            self.superseded_count += 1
            return Ingested(accepted=False)
        revived = old is None or self._expired(old, observation.received_at)
        facts = _by_volume(observation.slots)
        changed = _changed(node.facts, facts, old, observation, everything=revived)
        for gone in node.facts.keys() - facts.keys():
            self._unhost(gone, observation.node_id)
        for volume_id in facts.keys() - node.facts.keys():
            self._hosts.setdefault(volume_id, set()).add(observation.node_id)
        if node.incarnation is not None and observation.incarnation > node.incarnation:
            # The open stream, if any, belongs to the process that is gone.
            node.stream_id = node.stream_incarnation = node.stream_closed_at = None
        node.newest, node.facts, node.incarnation = observation, facts, observation.incarnation
        self._note_commits(observation.slots)
        if not node.in_heap:
            node.in_heap = True
            heapq.heappush(self._expiries, (self._expires_at(observation), observation.node_id))
        return Ingested(
            accepted=True,
            revived=revived,
            changed=frozenset(changed),
            mentioned=frozenset(facts),
        )

    def stream_opened(self, node_id: NodeId, incarnation: int, stream_id: int) -> bool:
        """A node subscribed; False if a newer process of that node was seen already."""
        node = self._nodes.setdefault(node_id, _Node())
        if node.incarnation is not None and incarnation < node.incarnation:
            return False
        node.incarnation = incarnation
        node.stream_id, node.stream_incarnation = stream_id, incarnation
        node.stream_closed_at = None
        return True

    def stream_closed(self, node_id: NodeId, stream_id: int, now: float) -> bool:
        """A stream ended; False if it was not the node's current one."""
        node = self._nodes.get(node_id)
        if node is None or node.stream_id != stream_id:
            return False
        node.stream_id = node.stream_incarnation = None
        node.stream_closed_at = now
        return True

    def sight(self, node_id: NodeId, now: float) -> NodeSight:
        """What is known of a node; also of one never seen."""
        node = self._nodes.get(node_id)
        newest = None if node is None else node.newest
        return NodeSight(
            node_id=node_id,
            incarnation=None if node is None else node.incarnation,
            heard_at=None if newest is None else newest.received_at,
            fresh=newest is not None and not self._expired(newest, now),
            stream_open=node is not None and node.stream_id is not None,
            stream_closed_at=None if node is None else node.stream_closed_at,
            reachable=newest is not None and newest.reachable,
            eligible=newest is not None and newest.eligible,
        )

    def nodes(self) -> tuple[NodeId, ...]:
        """Every node seen in this boot, sorted."""
        return tuple(sorted(self._nodes))

    def heard(self, volume_id: VolumeId, now: float) -> Iterator[Heard]:
        """Every node's newest fact of a volume, fresh or not, by node id."""
        for node_id in sorted(self._hosts.get(volume_id, ())):
            sight = self.sight(node_id, now)
            for fact in self._nodes[node_id].facts.get(volume_id, ()):
                yield Heard(sight=sight, fact=fact)

    def hosts(self, volume_id: VolumeId) -> frozenset[NodeId]:
        """Nodes whose newest heartbeat mentions the volume, fresh or not."""
        return frozenset(self._hosts.get(volume_id, ()))

    def volumes_on(self, node_id: NodeId) -> frozenset[VolumeId]:
        """Volumes in a node's newest heartbeat, fresh or not."""
        node = self._nodes.get(node_id)
        return frozenset() if node is None else frozenset(node.facts)

    def slots_on(self, node_id: NodeId, volume_id: VolumeId) -> tuple[SlotFact, ...]:
        """A node's newest facts of one volume, fresh or not."""
        node = self._nodes.get(node_id)
        return () if node is None else node.facts.get(volume_id, ())

    def highest_commit(self, volume_id: VolumeId, uuids: frozenset[ReplicaUuid]) -> Lsn:
        """The highest commit LSN ever reported by the given files: every one of them must still reach it."""
        commits = self._commits.get(volume_id, {})
        return max((commits[uuid] for uuid in uuids & commits.keys()), default=Lsn(0))

    def expire(self, now: float) -> tuple[NodeId, ...]:
        """Nodes whose last heartbeat stopped counting since the last call, in order of expiry."""
        gone: list[NodeId] = []
        while self._expiries and self._expiries[0][0] < now:
            _, node_id = heapq.heappop(self._expiries)
            node = self._nodes[node_id]
            assert node.newest is not None, "only heard nodes expire"
            if self._expired(node.newest, now):
                node.in_heap = False
                gone.append(node_id)
            else:
                heapq.heappush(self._expiries, (self._expires_at(node.newest), node_id))
        return tuple(gone)

    def next_expiry(self) -> float | None:
        """The first moment at which something may have expired, None if nothing can.

        May be early by up to one window after heartbeats in between; ``expire`` then finds nothing.
        """
        return math.nextafter(self._expiries[0][0], math.inf) if self._expiries else None

    def forget_volume(self, volume_id: VolumeId) -> None:
        """Drop what was remembered of a volume beyond the newest heartbeats."""
        self._commits.pop(volume_id, None)

    def _expires_at(self, observation: Observation) -> float:
        return observation.received_at + self.window

    def _expired(self, observation: Observation, now: float) -> bool:
        return now > self._expires_at(observation)

    def _unhost(self, volume_id: VolumeId, node_id: NodeId) -> None:
        hosts = self._hosts[volume_id]
        hosts.discard(node_id)
        if not hosts:
            del self._hosts[volume_id]

    def _note_commits(self, slots: tuple[SlotFact, ...]) -> None:
        for fact in slots:
            if fact.commit_lsn > 0:
                commits = self._commits.setdefault(fact.volume_id, {})
                commits[fact.uuid] = max(commits.get(fact.uuid, Lsn(0)), fact.commit_lsn)


def _validate(observation: Observation) -> None:
    if not observation.node_id:
        raise InvalidArgument("an observation names its node")
    if not math.isfinite(observation.received_at) or observation.received_at <= 0:
        raise InvalidArgument(f"received_at {observation.received_at} is no time")


def _by_volume(slots: tuple[SlotFact, ...]) -> dict[VolumeId, tuple[SlotFact, ...]]:
    facts: dict[VolumeId, tuple[SlotFact, ...]] = {}
    for fact in slots:
        facts[fact.volume_id] = (*facts.get(fact.volume_id, ()), fact)
    return facts


def _changed(
    before: dict[VolumeId, tuple[SlotFact, ...]],
    after: dict[VolumeId, tuple[SlotFact, ...]],
    old: Observation | None,
    new: Observation,
    *,
    everything: bool,
) -> set[VolumeId]:
    """Volumes of which anything but positions changed."""
    if (
        everything
        or old is None
        or old.incarnation != new.incarnation
        or (old.reachable, old.eligible) != (new.reachable, new.eligible)
    ):
        return set(before) | set(after)
    changed = set(before) ^ set(after)
    for volume_id in before.keys() & after.keys():
        was, now = before[volume_id], after[volume_id]
        if was != now and [_outline(one) for one in was] != [_outline(one) for one in now]:
            changed.add(volume_id)
    return changed


def _outline(fact: SlotFact) -> tuple[object, ...]:
    """A fact without what changes all the time: positions and silences."""
    return (
        fact.replica_id,
        fact.uuid,
        fact.data_addr,
        fact.ctrl_addr,
        fact.ready_for_primary,
        fact.eligible,
        fact.withdrawn,
        fact.disk_failed,
        fact.suspect,
        fact.state,
        fact.lineage,
        fact.role_claim,
        fact.gate_open,
        fact.frontends,
    )

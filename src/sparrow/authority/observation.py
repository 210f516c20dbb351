"""What the nodes last said, when the master heard it, and how long it counts.

A node reports its whole inventory once and what changed of it from then on; the work here is proportional to that.

The newest heartbeat of a node wins by ``(incarnation, sequence)``, its own counters; freshness runs on the master's
receive time alone, so a node with a fast clock gains nothing. A fact is fresh up to and including its expiry.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Final, TypeAlias

from sparrow.authority.types import Observation, ReplicaState, SlotFact
from sparrow.base.constants import FRESHNESS_S
from sparrow.base.errors import InvalidArgument
from sparrow.base.ids import Lsn, NodeId, ReplicaUuid, VolumeId

#: A heartbeat that arrives this long after its node's stream closed was sent by a living process: what was already
#: on its way when the process died has arrived by then.
IN_FLIGHT_S: Final = 0.1

#: What one node says of each volume it hosts: one fact, or several by replica id. Never empty.
Facts: TypeAlias = dict[VolumeId, tuple[SlotFact, ...]]


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
        return _outlived(self.heard_at, self.stream_closed_at)

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

    ``changed`` are volumes of which anything but positions changed, or all of the node's when the node itself changed;
    ``mentioned`` are all volumes that the heartbeat says something about, in a delta only what is new; ``altered`` are
    those of ``changed`` of which the node had said something else before.
    """

    accepted: bool
    revived: bool = False
    changed: frozenset[VolumeId] = frozenset()
    mentioned: frozenset[VolumeId] = frozenset()
    altered: frozenset[VolumeId] = frozenset()
    #: The node was not heard before in this boot of the master.
    first: bool = False


#: Shared answers of the two commonest heartbeats.
_REFUSED = Ingested(accepted=False)
_NOTHING_NEW = Ingested(accepted=True)


class _Node:
    __slots__ = (
        "eligible",
        "expires_at",
        "facts",
        "heard_at",
        "in_heap",
        "incarnation",
        "reachable",
        "revision",
        "sequence",
        "stream_closed_at",
        "stream_id",
        "told_incarnation",
        "wants_full",
    )

    def __init__(self) -> None:
        #: The newest seen, by heartbeat or stream; ``told_incarnation`` is whose facts these are.
        self.incarnation: int | None = None
        self.told_incarnation = 0
        self.sequence = 0
        self.revision = 0
        self.heard_at: float | None = None
        self.expires_at = -math.inf
        self.reachable = False
        self.eligible = False
        self.facts: Facts = {}
        self.stream_id: int | None = None
        self.stream_closed_at: float | None = None
        self.in_heap = False
        self.wants_full = False

    @property
    def muted(self) -> bool:
        """Its stream closed and no heartbeat has shown since that the process outlived it."""
        return self.stream_closed_at is not None and not _outlived(
            self.heard_at, self.stream_closed_at
        )


class ObservationStore:
    """The newest inventory per node. Bounded by the number of nodes and of the replicas they host.

    Freshness belongs to the node: a heartbeat, also one without any slot in it, renews every fact of its node at once.

    Args:
        window: seconds a heartbeat counts after it was received.
    """

    def __init__(self, *, window: float = FRESHNESS_S) -> None:
        self.window = window
        self.superseded_count = 0
        self._nodes: dict[NodeId, _Node] = {}
        self._hosts: dict[VolumeId, set[NodeId]] = {}
        self._commits: dict[VolumeId, dict[ReplicaUuid, Lsn]] = {}
        #: Of each volume, the nodes that say of a replica that its disk failed. No entry is empty.
        self._failed: dict[VolumeId, set[NodeId]] = {}
        self._expiries: list[tuple[float, NodeId]] = []

    def ingest(self, observation: Observation) -> Ingested:
        """Take a heartbeat over.

        One that a newer one overtook is counted and ignored. A delta counts only on the very inventory it was made
        against, of the same process; on any other nothing of it is taken and ``wants_full`` says so.

        Raises:
            InvalidArgument: no node id, or a receive time that is no time; nothing is stored.
        """
        _validate(observation)
        node_id, incarnation = observation.node_id, observation.incarnation
        node = self._nodes.get(node_id)
        if node is None:
            node = self._nodes[node_id] = _Node()
        if node.incarnation is not None and incarnation < node.incarnation:
            self.superseded_count += 1
            return _REFUSED
        same_process = node.heard_at is not None and incarnation == node.told_incarnation
        if same_process and observation.sequence <= node.sequence:
            self.superseded_count += 1
            return _REFUSED
        base = observation.base_revision
        if base is not None and not (same_process and base == node.revision):
            node.wants_full = True
            return _REFUSED
        revived = observation.received_at > node.expires_at
        muted = node.muted
        if node.incarnation is not None and incarnation > node.incarnation:
            # The open stream, if any, belongs to the process that is gone.
            node.stream_id = node.stream_closed_at = None
        first = node.heard_at is None
        node.heard_at = observation.received_at
        node.expires_at = observation.received_at + self.window
        everything = (
            revived
            or not same_process
            or (muted and not node.muted)
            or (node.reachable, node.eligible) != (observation.reachable, observation.eligible)
        )
        node.incarnation = node.told_incarnation = incarnation
        node.sequence, node.revision = observation.sequence, observation.revision
        node.reachable, node.eligible = observation.reachable, observation.eligible
        node.wants_full = False
        if not node.in_heap:
            node.in_heap = True
            heapq.heappush(self._expiries, (node.expires_at, node_id))
        if (
            base is not None
            and not everything
            and not observation.slots
            and not observation.removed
        ):
            return _NOTHING_NEW
        done = self._take(node, observation, revived=revived, everything=everything)
        return replace(done, first=True) if first else done

    def _take(
        self, node: _Node, observation: Observation, *, revived: bool, everything: bool
    ) -> Ingested:
        """Take the slots of an accepted heartbeat over."""
        facts = node.facts
        if observation.base_revision is None:
            after = _by_volume(observation.slots)
            after.update((volume_id, ()) for volume_id in facts.keys() - after.keys())
        else:
            after = _amended(facts, observation)
        changed = set(facts) if everything else set()
        altered: set[VolumeId] = set()
        for volume_id, slots in after.items():
            held = facts.get(volume_id, ())
            if _outlines(held) != _outlines(slots):
                (altered if held else changed).add(volume_id)
                self._note_failed(volume_id, observation.node_id, slots)
            if slots:
                facts[volume_id] = slots
                if not held:
                    self._hosts.setdefault(volume_id, set()).add(observation.node_id)
            elif held:
                del facts[volume_id]
                self._unhost(volume_id, observation.node_id)
        if everything:
            changed.update(facts)
        self._note_commits(observation.slots)
        return Ingested(
            accepted=True,
            revived=revived,
            changed=frozenset(changed | altered),
            mentioned=frozenset(after),
            altered=frozenset(altered),
        )

    def wants_full(self, node_id: NodeId) -> bool:
        """Whether the node's last delta had no base here, so that only a whole heartbeat helps."""
        node = self._nodes.get(node_id)
        return node is not None and node.wants_full

    def stream_opened(self, node_id: NodeId, incarnation: int, stream_id: int) -> bool:
        """A node subscribed; False if a newer process of that node was seen already."""
        node = self._nodes.setdefault(node_id, _Node())
        if node.incarnation is not None and incarnation < node.incarnation:
            return False
        node.incarnation = incarnation
        node.stream_id = stream_id
        node.stream_closed_at = None
        return True

    def muted(self, node_id: NodeId) -> bool:
        """Whether the node's stream closed and nothing it sent since shows that it outlived that."""
        node = self._nodes.get(node_id)
        return node is not None and node.muted

    def stream_closed(self, node_id: NodeId, stream_id: int, now: float) -> bool:
        """A stream ended; False if it was not the node's current one."""
        node = self._nodes.get(node_id)
        if node is None or node.stream_id != stream_id:
            return False
        node.stream_id = None
        node.stream_closed_at = now
        return True

    def sight(self, node_id: NodeId, now: float) -> NodeSight:
        """What is known of a node; also of one never seen."""
        node = self._nodes.get(node_id)
        if node is None:
            node = _NEVER_SEEN
        return NodeSight(
            node_id=node_id,
            incarnation=node.incarnation,
            heard_at=node.heard_at,
            fresh=now <= node.expires_at,
            stream_open=node.stream_id is not None,
            stream_closed_at=node.stream_closed_at,
            reachable=node.reachable,
            eligible=node.eligible,
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

    def failed_disks(self) -> frozenset[VolumeId]:
        """Volumes of which some node's newest heartbeat, fresh or not, says that the disk under a replica failed."""
        return frozenset(self._failed)

    def nodes_of_failed_disks(self) -> frozenset[NodeId]:
        """Nodes that say so of any replica."""
        return frozenset[NodeId]().union(*self._failed.values())

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
            if now > node.expires_at:
                node.in_heap = False
                gone.append(node_id)
            else:
                heapq.heappush(self._expiries, (node.expires_at, node_id))
        return tuple(gone)

    def next_expiry(self) -> float | None:
        """The first moment at which something may have expired, None if nothing can.

        May be early by up to one window after heartbeats in between; ``expire`` then finds nothing.
        """
        return math.nextafter(self._expiries[0][0], math.inf) if self._expiries else None

    def forget_volume(self, volume_id: VolumeId) -> None:
        """Drop what was remembered of a volume beyond the newest heartbeats."""
        self._commits.pop(volume_id, None)

    def forget_commits(self, volume_id: VolumeId, uuid: ReplicaUuid) -> None:
        """What these files reported as committed is given up with them."""
        self._commits.get(volume_id, {}).pop(uuid, None)

    def _unhost(self, volume_id: VolumeId, node_id: NodeId) -> None:
        hosts = self._hosts[volume_id]
        hosts.discard(node_id)
        if not hosts:
            del self._hosts[volume_id]

    def _note_failed(
        self, volume_id: VolumeId, node_id: NodeId, slots: tuple[SlotFact, ...]
    ) -> None:
        if any(fact.disk_failed for fact in slots):
            self._failed.setdefault(volume_id, set()).add(node_id)
        elif volume_id in self._failed:
            self._failed[volume_id].discard(node_id)
            if not self._failed[volume_id]:
                del self._failed[volume_id]

    def _note_commits(self, slots: tuple[SlotFact, ...]) -> None:
        for fact in slots:
            # Files that are kept or being emptied say nothing of the volume any more.
            if fact.commit_lsn > 0 and fact.state is not ReplicaState.QUARANTINED:
                commits = self._commits.setdefault(fact.volume_id, {})
                commits[fact.uuid] = max(commits.get(fact.uuid, Lsn(0)), fact.commit_lsn)


def _validate(observation: Observation) -> None:
    if not observation.node_id:
        raise InvalidArgument("an observation names its node")
    if not math.isfinite(observation.received_at) or observation.received_at <= 0:
        raise InvalidArgument(f"received_at {observation.received_at} is no time")


def _outlived(heard_at: float | None, closed_at: float) -> bool:
    """Whether a heartbeat came too late to have been sent before the stream closed."""
    return heard_at is not None and heard_at > closed_at + IN_FLIGHT_S


def _by_volume(slots: tuple[SlotFact, ...]) -> Facts:
    facts: Facts = {}
    for fact in slots:
        held = facts.get(fact.volume_id)
        facts[fact.volume_id] = (fact,) if held is None else _sorted((*held, fact))
    return facts


def _amended(facts: Facts, delta: Observation) -> Facts:
    """All facts of the volumes that a delta speaks of, as they are after it; none where the last one went."""
    after: Facts = {}
    for name in delta.removed:
        held = after.get(name.volume_id, facts.get(name.volume_id, ()))
        after[name.volume_id] = tuple(one for one in held if one.replica_id != name.replica_id)
    for fact in delta.slots:
        held = after.get(fact.volume_id, facts.get(fact.volume_id, ()))
        others = tuple(one for one in held if one.replica_id != fact.replica_id)
        after[fact.volume_id] = _sorted((*others, fact)) if others else (fact,)
    return after


def _sorted(slots: tuple[SlotFact, ...]) -> tuple[SlotFact, ...]:
    """By replica, so that deltas and whole heartbeats lead to one and the same state."""
    return tuple(sorted(slots, key=lambda fact: fact.replica_id))


def _outlines(slots: tuple[SlotFact, ...]) -> list[tuple[object, ...]]:
    return [_outline(fact) for fact in slots]


#: A fact without what changes all the time: positions and silences.
_outline = attrgetter(
    "replica_id",
    "uuid",
    "data_addr",
    "ctrl_addr",
    "ready_for_primary",
    "eligible",
    "withdrawn",
    "disk_failed",
    "suspect",
    "state",
    "lineage",
    "role_claim",
    "gate_open",
    "frontends",
)
_NEVER_SEEN = _Node()

"""What each node must be told: replicas to host, newest lines, replicas to remove.

One stream per node. Of a volume a stream carries the newest fact or nothing, never an older one: the first line a
node hears after it subscribed is the newest there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field

from sparrow.authority.effects import (
    AllowAccess,
    Deliver,
    HostReplica,
    Instruction,
    RemoveReplica,
    Synced,
)
from sparrow.authority.observation import ObservationStore
from sparrow.authority.publisher import Publisher
from sparrow.authority.quorum import commits_on_some, may_shrink
from sparrow.authority.types import (
    AssignmentFact,
    DesiredVolume,
    FrontendTarget,
    Line,
    Member,
    Peer,
    SlotFact,
    VolumePhase,
)
from sparrow.base.ids import NodeId, ReplicaId, VolumeId


@dataclass(slots=True)
class _Stream:
    stream_id: int
    facts: dict[VolumeId, tuple[int, int, int]] = field(default_factory=dict)
    hosted: set[tuple[VolumeId, ReplicaId]] = field(default_factory=set)
    sizes: dict[tuple[VolumeId, ReplicaId], int] = field(default_factory=dict)
    removed: set[tuple[VolumeId, ReplicaId]] = field(default_factory=set)
    #: Revisions of access lists.
    access: dict[VolumeId, int] = field(default_factory=dict)


class Delivery:
    """Remembers what went down each open stream, so that only news is sent.

    Args:
        topology: the loop's desired volumes, read at every call.
    """

    def __init__(
        self,
        *,
        publisher: Publisher,
        observations: ObservationStore,
        topology: Mapping[VolumeId, DesiredVolume],
    ) -> None:
        self._publisher = publisher
        self._observations = observations
        self._topology = topology
        self._streams: dict[NodeId, _Stream] = {}
        self._placed: dict[NodeId, set[VolumeId]] = {}
        self._peers: dict[VolumeId, tuple[tuple[Peer, ...], tuple[ReplicaId, ...], int]] = {}

    def open(self, node_id: NodeId, stream_id: int) -> list[Deliver]:
        """Begin a node's stream with everything known, then ``Synced``; replaces an older stream."""
        stream = _Stream(stream_id=stream_id)
        self._streams[node_id] = stream
        instructions: list[Instruction] = []
        for volume_id in sorted(self.volumes_on(node_id)):
            instructions.extend(self._news(volume_id, node_id, stream))
        instructions.append(Synced(master_generation=self._publisher.master_generation))
        return [
            Deliver(node_id=node_id, stream_id=stream_id, instruction=one) for one in instructions
        ]

    def close(self, node_id: NodeId, stream_id: int) -> None:
        stream = self._streams.get(node_id)
        if stream is not None and stream.stream_id == stream_id:
            del self._streams[node_id]

    def place(self, volume_id: VolumeId) -> None:
        """Note where a volume's slots and members are; call when its line or its placement changed."""
        for node_id in self._nodes_of(volume_id):
            self._placed.setdefault(node_id, set()).add(volume_id)

    def forget(self, volume_id: VolumeId) -> None:
        self._peers.pop(volume_id, None)
        for stream in self._streams.values():
            stream.access.pop(volume_id, None)
        for volumes in self._placed.values():
            volumes.discard(volume_id)

    @property
    def placed(self) -> Mapping[NodeId, Set[VolumeId]]:
        """Volumes that are or were placed on each node, or members there. To be read only."""
        return self._placed

    def volumes_on(self, node_id: NodeId) -> set[VolumeId]:
        """Volumes that a node has to do with: placed there, a member there, or reported from there."""
        return self._placed.get(node_id, set()) | self._observations.volumes_on(node_id)

    def news(self, volume_id: VolumeId) -> list[Deliver]:
        """What the nodes of one volume have not been told yet."""
        nodes = self._nodes_of(volume_id) | self._observations.hosts(volume_id)
        return [
            Deliver(node_id=node_id, stream_id=stream.stream_id, instruction=one)
            for node_id in sorted(nodes)
            if (stream := self._streams.get(node_id)) is not None
            for one in self._news(volume_id, node_id, stream)
        ]

    def _news(self, volume_id: VolumeId, node_id: NodeId, stream: _Stream) -> Iterator[Instruction]:
        if self._publisher.quarantined(volume_id):
            return
        line = self._publisher.line(volume_id)
        desired = self._topology.get(volume_id)
        if line is not None and line.retired:
            yield from self._removals(line, desired, node_id, stream)
        if desired is not None and desired.phase is not VolumePhase.DELETING:
            yield from self._hostings(desired, line, node_id, stream)
            if stream.access.get(volume_id) != desired.access.revision:
                stream.access[volume_id] = desired.access.revision
                yield AllowAccess(volume_id=volume_id, access=desired.access)
        if line is not None and not line.retired:
            fact = self._fact(line, node_id)
            held = stream.facts.get(volume_id)
            if held is None or fact.order > held:
                stream.facts[volume_id] = fact.order
                yield fact
            if desired is not None:
                yield from self._replaced(line, desired, node_id, stream)

    def _hostings(
        self, desired: DesiredVolume, line: Line | None, node_id: NodeId, stream: _Stream
    ) -> Iterator[HostReplica]:
        for slot in desired.slots:
            key = (desired.volume_id, slot.replica_id)
            if slot.node_id != node_id:
                continue
            if key in stream.hosted and stream.sizes.get(key) == desired.size_wanted:
                continue
            if line is not None and line.retired and self._leftovers(line, desired, node_id):
                continue  # told to remove them first; the next heartbeat without them comes here again
            stream.hosted.add(key)
            stream.sizes[key] = desired.size_wanted
            stream.removed.discard(key)
            yield HostReplica(
                volume_id=desired.volume_id,
                replica_id=slot.replica_id,
                size_bytes=desired.shape.size_bytes,
                block_size=desired.shape.block_size,
                size_wanted=desired.size_wanted,
            )

    def _removals(
        self, tombstone: Line, desired: DesiredVolume | None, node_id: NodeId, stream: _Stream
    ) -> Iterator[RemoveReplica]:
        leaving = {fact.replica_id for fact in self._leftovers(tombstone, desired, node_id)}
        if desired is not None and desired.phase is VolumePhase.DELETING:
            leaving |= {m.replica_id for m in tombstone.members if m.node_id == node_id}
            leaving |= {slot.replica_id for slot in desired.slots if slot.node_id == node_id}
        for replica_id in sorted(leaving):
            key = (tombstone.volume_id, replica_id)
            if key not in stream.removed:
                stream.removed.add(key)
                stream.hosted.discard(key)
                yield RemoveReplica(
                    volume_id=tombstone.volume_id, replica_id=replica_id, tombstone=tombstone
                )

    def _replaced(
        self, line: Line, desired: DesiredVolume, node_id: NodeId, stream: _Stream
    ) -> Iterator[RemoveReplica]:
        """Replicas that were given up and that the line means no longer: their files may go.

        Not before the primary itself says that it acts on that line: until then it may still ask them for something.
        """
        if not self._acted_on(line):
            return
        members = {(member.replica_id, member.node_id) for member in line.members}
        placed = {(slot.replica_id, slot.node_id) for slot in desired.slots}
        reported = {
            fact.replica_id for fact in self._observations.slots_on(node_id, line.volume_id)
        }
        for slot in desired.leaving:
            place = (slot.replica_id, slot.node_id)
            key = (line.volume_id, slot.replica_id)
            if slot.node_id != node_id or place in members or place in placed:
                continue
            if slot.replica_id in reported and key not in stream.removed:
                stream.removed.add(key)
                stream.hosted.discard(key)
                yield RemoveReplica(
                    volume_id=line.volume_id, replica_id=slot.replica_id, tombstone=line
                )

    def _acted_on(self, line: Line) -> bool:
        primary = line.primary_member
        return any(
            fact.uuid == primary.uuid and fact.lineage is not None and fact.lineage >= line.lineage
            for fact in self._observations.slots_on(primary.node_id, line.volume_id)
        )

    def _leftovers(
        self, tombstone: Line, desired: DesiredVolume | None, node_id: NodeId
    ) -> list[SlotFact]:
        """Replicas a node still has of a retired line. Blank ones of a volume asked for again are not."""
        wanted = desired is not None and desired.phase is not VolumePhase.DELETING
        return [
            fact
            for fact in self._observations.slots_on(node_id, tombstone.volume_id)
            if not wanted or fact.lineage is not None or fact.unreadable
        ]

    def _fact(self, line: Line, node_id: NodeId) -> AssignmentFact:
        peers, leaving, revision = self._resolved(line)
        return AssignmentFact(
            line=line,
            peers=tuple(peer for peer in peers if peer.node_id != node_id),
            peer_revision=revision,
            leaving=leaving,
        )

    def _resolved(self, line: Line) -> tuple[tuple[Peer, ...], tuple[ReplicaId, ...], int]:
        """The members where they are now, who is to leave in_sync, and a count that grows when that changed.

        The master's generation is the count's high half: a restarted master starts above all its predecessors.
        """
        peers = tuple(self._resolve(line.volume_id, member) for member in line.members)
        leaving = self._leaving(line)
        held = self._peers.get(line.volume_id)
        if held is not None and held[:2] == (peers, leaving):
            return held
        revision = (self._publisher.master_generation << 32) + 1 if held is None else held[2] + 1
        self._peers[line.volume_id] = (peers, leaving, revision)
        return peers, leaving, revision

    def _leaving(self, line: Line) -> tuple[ReplicaId, ...]:
        """In sync, replaced by one that is in sync too; nobody where the controller can ask by itself."""
        desired = self._topology.get(line.volume_id)
        if desired is None or not commits_on_some(line) or not may_shrink(line):
            return ()
        return tuple(
            slot.replica_id
            for slot in desired.leaving
            if (member := line.member(slot.replica_id)) is not None
            and member.node_id == slot.node_id
            and {slot.replica_id, slot.successor} <= set(line.in_sync)
            and slot.replica_id != line.primary
        )

    def _resolve(self, volume_id: VolumeId, member: Member) -> Peer:
        """A member's newest reported address, else the line's. Other files in its place change nothing."""
        data_addr, ctrl_addr = member.data_addr, member.ctrl_addr
        frontends: tuple[FrontendTarget, ...] = ()
        for fact in self._observations.slots_on(member.node_id, volume_id):
            if fact.uuid == member.uuid and fact.data_addr and fact.ctrl_addr:
                data_addr, ctrl_addr = fact.data_addr, fact.ctrl_addr
                frontends = fact.frontends
        return Peer(
            replica_id=member.replica_id,
            node_id=member.node_id,
            uuid=member.uuid,
            data_addr=data_addr,
            ctrl_addr=ctrl_addr,
            frontends=frontends,
        )

    def _nodes_of(self, volume_id: VolumeId) -> set[NodeId]:
        """Where a volume's replicas belong. A retired volume belongs nowhere once it is forgotten."""
        line, desired = self._publisher.line(volume_id), self._topology.get(volume_id)
        nodes = set() if desired is None else {slot.node_id for slot in desired.slots}
        if desired is not None:
            nodes |= {slot.node_id for slot in desired.leaving}
        if line is not None and (desired is not None or not line.retired):
            nodes |= {member.node_id for member in line.members}
        return nodes

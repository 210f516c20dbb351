"""A large cluster as the bytes its nodes send: the same volumes and placements for the same numbers.

Volume ``i`` lies on three of the nodes, chosen so that every node hosts as many replicas and is primary of as many
volumes as any other, and that the volumes of one node are spread over many others. Nodes go on saying what they said
at first: a volume that failed over is not reported as served by its new primary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sparrow.authority.types import (
    DesiredVolume,
    FrontendTarget,
    Line,
    Lineage,
    Member,
    PlacedSlot,
    RoleClaim,
    SlotFact,
    Term,
    VolumePhase,
    VolumeShape,
)
from sparrow.base.ids import (
    EndpointVersion,
    Epoch,
    Lsn,
    NodeId,
    ReplicaId,
    ReplicaUuid,
    VolumeId,
)
from sparrow.rpc import codec
from sparrow.rpc.messages import Heartbeat

RF = 3
REPLICAS = tuple(ReplicaId(f"r{number}") for number in range(1, RF + 1))
SHAPE = VolumeShape(size_bytes=1 << 30, block_size=4096, replication_factor=RF, min_in_sync=2)
FIRST = Lineage(epoch=Epoch(1), endpoint_version=EndpointVersion(1))
TERM = Term(epoch=Epoch(1), start=1)
GIB = 1 << 30


@dataclass(slots=True)
class Node:
    """One node: the replicas it hosts as (volume, place in its line), and the counters of what it sends."""

    number: int
    node_id: NodeId
    incarnation: int = 1
    sequence: int = 0
    revision: int = 0
    alive: bool = True
    slots: list[tuple[int, int]] = field(default_factory=list)


class Cluster:
    """All nodes and volumes.

    Args:
        active_share: of the volumes, those that are written to all the time: the same ones.
    """

    def __init__(self, *, nodes: int, volumes: int, active_share: float) -> None:
        self.volume_count = volumes
        self.nodes = [Node(number=n, node_id=NodeId(f"node-{n:04d}")) for n in range(nodes)]
        self._every = max(1, round(1 / active_share)) if active_share > 0 else 0
        self._lsn = 0
        self._dead: set[int] = set()
        for volume in range(volumes):
            for place, number in enumerate(self._places(volume)):
                self.nodes[number].slots.append((volume, place))

    def __str__(self) -> str:
        return (
            f"{len(self.nodes)} nodes, {self.volume_count} volumes of {RF} replicas, "
            f"{self.slots_per_node:.0f} slots per node"
        )

    @property
    def slots_per_node(self) -> float:
        return self.volume_count * RF / len(self.nodes)

    def lines(self) -> list[Line]:
        """The lines that a master minted when the volumes were made."""
        return [self._line(volume) for volume in range(self.volume_count)]

    def desired(self) -> tuple[DesiredVolume, ...]:
        return tuple(
            DesiredVolume(
                volume_id=_volume_id(volume),
                shape=SHAPE,
                slots=tuple(
                    PlacedSlot(replica_id=replica, node_id=self.nodes[number].node_id)
                    for replica, number in zip(REPLICAS, self._places(volume), strict=True)
                ),
                phase=VolumePhase.ACTIVE,
            )
            for volume in range(self.volume_count)
        )

    def kill(self, number: int) -> None:
        self.nodes[number].alive = False
        self._dead.add(number)

    def whole(self, node: Node) -> bytes:
        """A heartbeat with every replica of a node."""
        node.sequence += 1
        node.revision = node.sequence
        slots = tuple(self._fact(node, volume, place) for volume, place in node.slots)
        return self._heartbeat(node, slots, base=None)

    def delta(self, node: Node, *, active: bool = True) -> bytes:
        """What changed since the last: the positions of volumes that are written to."""
        node.sequence += 1
        self._lsn += 1
        base = node.revision
        slots: tuple[SlotFact, ...] = ()
        if active and self._every:
            slots = tuple(
                self._fact(node, volume, place, lsn=100 + self._lsn)
                for volume, place in node.slots
                if volume % self._every == 0
            )
        if slots:
            node.revision = node.sequence
        return self._heartbeat(node, slots, base=base)

    def _heartbeat(self, node: Node, slots: tuple[SlotFact, ...], *, base: int | None) -> bytes:
        return codec.encode(
            Heartbeat(
                node_id=node.node_id,
                incarnation=node.incarnation,
                sequence=node.sequence,
                data_addr=_address(node.number, 7001),
                ctrl_addr=_address(node.number, 7000),
                iscsi_addr=_address(node.number, 3260),
                pool_total_bytes=4096 * GIB,
                pool_free_bytes=1024 * GIB,
                slots=slots,
                revision=node.revision,
                base_revision=base,
            )
        )

    def _places(self, volume: int) -> tuple[int, int, int]:
        """Three nodes; the distances grow with the volume, so a node's volumes have many neighbours."""
        count = len(self.nodes)
        lap = volume // count
        first = volume % count
        near = 1 + lap % (count // 3)
        return first, (first + near) % count, (first + count // 2 + lap % (count // 6)) % count

    def _line(self, volume: int) -> Line:
        return Line(
            volume_id=_volume_id(volume),
            lineage=FIRST,
            primary=REPLICAS[0],
            members=tuple(
                Member(
                    replica_id=replica,
                    node_id=self.nodes[number].node_id,
                    uuid=_uuid(volume, place),
                    data_addr=_address(number, 7001),
                    ctrl_addr=_address(number, 7000),
                )
                for place, (replica, number) in enumerate(
                    zip(REPLICAS, self._places(volume), strict=True)
                )
            ),
            in_sync=REPLICAS,
            size_bytes=SHAPE.size_bytes,
            block_size=SHAPE.block_size,
            replication_factor=RF,
            min_in_sync=SHAPE.min_in_sync,
            master_generation=1,
            write_seq=1,
        )

    def _fact(self, node: Node, volume: int, place: int, *, lsn: int = 100) -> SlotFact:
        primary = place == 0
        return SlotFact(
            volume_id=_volume_id(volume),
            replica_id=REPLICAS[place],
            uuid=_uuid(volume, place),
            data_addr=_address(node.number, 7001),
            ctrl_addr=_address(node.number, 7000),
            ready_for_primary=True,
            lineage=FIRST,
            role_claim=RoleClaim.PRIMARY if primary else RoleClaim.NONE,
            gate_open=primary,
            term=TERM if primary else None,
            last_term=TERM,
            last_lsn=Lsn(lsn),
            durable_lsn=Lsn(lsn),
            commit_lsn=Lsn(lsn),
            applied_lsn=Lsn(lsn - 10),
            primary_silent_ms=None if primary else 299,
            frontends=(
                FrontendTarget(
                    protocol="iscsi",
                    addr=_address(node.number, 3260),
                    name=f"iqn.2025-01.io.sparrow:{_volume_id(volume)}",
                ),
            ),
        )


def _volume_id(volume: int) -> VolumeId:
    return VolumeId(f"pvc-{volume:08d}")


def _uuid(volume: int, place: int) -> ReplicaUuid:
    return ReplicaUuid(f"{place:04x}{volume:028x}")


def _address(number: int, port: int) -> str:
    return f"10.{number >> 8 & 255}.{number & 255}.1:{port}"

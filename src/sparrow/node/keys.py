"""The small numbers under which the core knows peers and nodes; kept for the life of the process."""

from __future__ import annotations

from collections.abc import Collection

from sparrow.base.ids import NodeId, ReplicaId


class NodeKeys:
    """Node ids to keys, counted from 0."""

    def __init__(self) -> None:
        self._keys: dict[NodeId, int] = {}

    def key(self, node_id: NodeId) -> int:
        return self._keys.setdefault(node_id, len(self._keys))

    def node(self, key: int) -> NodeId | None:
        return next((node for node, known in self._keys.items() if known == key), None)


class Slots:
    """Replica ids of one volume to slots, counted from 0; none is given twice.

    So whatever is said of a slot, by the core or to it, however late, is said of one replica. The id of one that is no
    member any more may be another's later (``lifecycle.placement``), with other files on another node, so what was
    acknowledged and granted under it counts for nothing then: it gets another slot. The core has places for as many
    as can be members at one time (``replication/peers.pyx``).
    """

    def __init__(self) -> None:
        self._slots: dict[ReplicaId, int] = {}
        self._next = 0

    def slot(self, replica_id: ReplicaId) -> int:
        """Its slot, a new one when it has none."""
        if replica_id not in self._slots:
            self._slots[replica_id] = self._next
            self._next += 1
        return self._slots[replica_id]

    def known(self, replica_id: ReplicaId) -> int | None:
        """Its slot, if it was given one."""
        return self._slots.get(replica_id)

    def replica(self, slot: int) -> ReplicaId | None:
        return next((replica for replica, known in self._slots.items() if known == slot), None)

    def used(self) -> tuple[int, ...]:
        """The slots of all that are known."""
        return tuple(self._slots.values())

    def keep(self, replicas: Collection[ReplicaId]) -> None:
        """Forget all others; one that comes back gets another slot."""
        self._slots = {one: slot for one, slot in self._slots.items() if one in replicas}

"""The small numbers under which the core knows peers and nodes; kept for the life of the process."""

from __future__ import annotations

from sparrow.base.constants import MEMBERS_MAX
from sparrow.base.errors import FailedPrecondition
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
    """Replica ids of one volume to slots, 0 to ``MEMBERS_MAX - 1``."""

    def __init__(self) -> None:
        self._slots: dict[ReplicaId, int] = {}

    def slot(self, replica_id: ReplicaId) -> int:
        """Raises: FailedPrecondition: more replicas than slots were seen since the process started."""
        if replica_id not in self._slots:
            if len(self._slots) >= MEMBERS_MAX:
                raise FailedPrecondition(
                    f"More than {MEMBERS_MAX} replicas of this volume were seen.",
                    hint="Restart the node: slots are kept for the life of its process.",
                )
            self._slots[replica_id] = len(self._slots)
        return self._slots[replica_id]

    def known(self, replica_id: ReplicaId) -> int | None:
        """Its slot, if it was given one."""
        return self._slots.get(replica_id)

    def replica(self, slot: int) -> ReplicaId | None:
        return next((replica for replica, known in self._slots.items() if known == slot), None)

    def used(self) -> tuple[int, ...]:
        """Every slot given out so far."""
        return tuple(self._slots.values())

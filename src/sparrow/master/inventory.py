"""What nodes say of themselves besides their replicas: addresses and room. In memory, told again by each heartbeat."""

from __future__ import annotations

from collections.abc import Iterator

from sparrow.base.ids import NodeId
from sparrow.rpc.messages import Heartbeat


class Inventory:
    """The newest heartbeat of each node by the node's own counters. Bounded by the number of nodes."""

    def __init__(self) -> None:
        self._newest: dict[NodeId, Heartbeat] = {}

    def note(self, heartbeat: Heartbeat) -> None:
        """Keep it unless a newer one came before it."""
        held = self._newest.get(heartbeat.node_id)
        if held is None or _order(heartbeat) >= _order(held):
            self._newest[heartbeat.node_id] = heartbeat

    def get(self, node_id: NodeId) -> Heartbeat | None:
        return self._newest.get(node_id)

    def __iter__(self) -> Iterator[Heartbeat]:
        """By node id."""
        return iter([self._newest[node_id] for node_id in sorted(self._newest)])


def _order(heartbeat: Heartbeat) -> tuple[int, int]:
    return (heartbeat.incarnation, heartbeat.sequence)

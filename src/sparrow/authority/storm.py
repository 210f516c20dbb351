"""How fast volumes may fail over: each of them only so often, and those of one node only so many at once.

A stall that hit nobody but looked like deaths must not become a wave of openings that causes the next stall, in the
master or on the nodes that take over. Both limits are far above what the death of a node needs.
"""

from __future__ import annotations

from typing import Final

from sparrow.base.constants import GRANT_S
from sparrow.base.ids import NodeId

#: Between two failovers of one volume: the new primary gets the time to open before it is judged itself.
FAILOVER_COOLDOWN_S: Final = 1.5
#: Primaries taken from one node within one window; the rest is next when the window ends.
NODE_FAILOVERS_MAX: Final = 256
NODE_WINDOW_S: Final = 0.5

assert FAILOVER_COOLDOWN_S > GRANT_S, "a new primary waits out the grants of the one before it"


class StormLimiter:
    """Counts the failovers away from each node. Bounded by the number of nodes."""

    def __init__(self) -> None:
        self._windows: dict[NodeId, tuple[float, int]] = {}

    def wait_until(self, node_id: NodeId, now: float) -> float | None:
        """When the next failover away from a node may be asked for; None if now."""
        ends_at, count = self._windows.get(node_id, (0.0, 0))
        return ends_at if count >= NODE_FAILOVERS_MAX and now < ends_at else None

    def count(self, node_id: NodeId, now: float) -> None:
        """A failover away from the node was asked for."""
        ends_at, count = self._windows.get(node_id, (0.0, 0))
        if now >= ends_at:
            ends_at, count = now + NODE_WINDOW_S, 0
        self._windows[node_id] = (ends_at, count + 1)

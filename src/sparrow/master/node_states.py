"""What operators want of nodes: read once from the store, changed through it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from structlog.typing import FilteringBoundLogger

from sparrow.base import events
from sparrow.base.ids import NodeId
from sparrow.lifecycle.nodes import NodeRecord, NodeState
from sparrow.ports.store import AuthorityStore


class NodeStates(Mapping[NodeId, NodeState]):
    """Wanted states by node; nodes nobody said anything about are missing, which means active.

    A record that cannot be believed counts as cordoned: that moves nothing and places nothing.
    """

    def __init__(self, store: AuthorityStore, log: FilteringBoundLogger) -> None:
        """Raises: StorageError: the store cannot be read."""
        loaded = store.load_nodes()
        self._store = store
        self._states = {record.node_id: record.state for record in loaded.nodes}
        for node_id, cause in loaded.damaged:
            log.error(events.RECORD_QUARANTINED, node=node_id, cause=cause)
            if node_id:
                self._states[node_id] = NodeState.CORDONED

    def __getitem__(self, node_id: NodeId) -> NodeState:
        return self._states[node_id]

    def __iter__(self) -> Iterator[NodeId]:
        return iter(sorted(self._states))

    def __len__(self) -> int:
        return len(self._states)

    def of(self, node_id: NodeId) -> NodeState:
        return self._states.get(node_id, NodeState.ACTIVE)

    @property
    def lost(self) -> frozenset[NodeId]:
        return frozenset(one for one, state in self._states.items() if state is NodeState.LOST)

    @property
    def passed_over(self) -> frozenset[NodeId]:
        """Nodes that get nothing new."""
        return frozenset(one for one, state in self._states.items() if not state.takes_replicas)

    @property
    def topology_version(self) -> int:
        return self._store.topology_version

    def put(self, node_id: NodeId, state: NodeState) -> None:
        """Make it durable, then remember it. Raises: StorageError: nothing changed."""
        self._store.put_node(NodeRecord(node_id=node_id, state=state))
        self._states[node_id] = state

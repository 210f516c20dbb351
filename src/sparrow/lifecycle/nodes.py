"""What an operator wants of a node: durable, and apart from what the node says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sparrow.authority.record import Body, dump, load
from sparrow.base.ids import NodeId


class NodeState(StrEnum):
    """Nodes nobody said anything about are active."""

    ACTIVE = "active"
    #: Keeps what it has, gets no new replicas.
    CORDONED = "cordoned"
    #: As cordoned, and everything it has is moved to other nodes.
    DRAINING = "draining"
    #: Gone for good: everything it had is made anew on other nodes, and nobody waits for its word.
    LOST = "lost"

    @property
    def takes_replicas(self) -> bool:
        return self is NodeState.ACTIVE

    @property
    def gives_up_replicas(self) -> bool:
        return self in (NodeState.DRAINING, NodeState.LOST)


#: Why placement passes a node over, by its wanted state.
REFUSALS = {
    NodeState.CORDONED: "it is cordoned",
    NodeState.DRAINING: "it is being drained",
    NodeState.LOST: "it was removed as lost",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """One node's wanted state as it is recorded."""

    node_id: NodeId
    state: NodeState


def encode_node(record: NodeRecord) -> str:
    """The canonical text of a node's wanted state."""
    return dump({"node_id": record.node_id, "state": record.state.value})


def decode_node(text: str) -> NodeRecord:
    """Read a node's wanted state back; raises ``authority.record.BadRecord``."""
    body = Body(load(text), "node")
    record = NodeRecord(node_id=NodeId(body.text("node_id")), state=body.choice("state", NodeState))
    body.end()
    return record

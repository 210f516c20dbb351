"""What happens to the authority loop: one value per kind of news from the outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from sparrow.authority.types import Ask, DesiredVolume, Observation
from sparrow.base.ids import NodeId, VolumeId


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatReceived:
    """A validated heartbeat; ``observation.received_at`` is the master's clock at receipt."""

    observation: Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOpened:
    """A node subscribed. ``stream_id`` is the master's own, never reused; a newer stream replaces an older one."""

    node_id: NodeId
    incarnation: int
    stream_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamClosed:
    """A node's subscription ended, however. Ignored unless ``stream_id`` is the node's current one."""

    node_id: NodeId
    stream_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyChanged:
    """Desired volumes that are new or different, durable already."""

    changed: tuple[DesiredVolume, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRecovered:
    """The publisher took a volume over; ``desired`` replaces what was wanted of it, None: nothing is."""

    volume_id: VolumeId
    desired: DesiredVolume | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAsk:
    """A primary asks to shrink or grow its in-sync set; ``token`` comes back in the answer."""

    token: int
    node_id: NodeId
    ask: Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAsk:
    """A step of an operator's plan; ``token`` comes back in the answer."""

    token: int
    ask: Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesWrittenOff:
    """All nodes an operator has declared lost for good, durable already: nobody waits for their words any more."""

    nodes: frozenset[NodeId]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesPassedOver:
    """All nodes that an operator has cordoned, drains or wrote off: no primary is moved there by choice."""

    nodes: frozenset[NodeId]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time passed; sent at the last ``WakeAt`` or whenever convenient."""


LoopEvent: TypeAlias = (
    HeartbeatReceived
    | StreamOpened
    | StreamClosed
    | TopologyChanged
    | LineRecovered
    | NodeAsk
    | PlannedAsk
    | NodesWrittenOff
    | NodesPassedOver
    | Tick
)

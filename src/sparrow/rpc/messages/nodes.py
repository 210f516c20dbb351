"""Nodes, for operators."""

from __future__ import annotations

from dataclasses import dataclass

from sparrow.base.ids import NodeId
from sparrow.rpc.messages.pages import Page, PageRequest
from sparrow.rpc.messages.volumes import ReplacementView


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """``state``: ready, lost, never_seen; ``desired_state``: active, cordoned, draining, lost for good.

    ``last_heard_s``: seconds since its last heartbeat.
    """

    node_id: NodeId
    state: str
    ctrl_addr: str
    data_addr: str
    iscsi_addr: str
    pool_total_bytes: int
    pool_free_bytes: int
    replica_count: int
    primary_count: int
    last_heard_s: float
    desired_state: str
    troubles: tuple[str, ...] = ()
    zone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListNodesRequest(PageRequest):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeList(Page):
    """``topology_version`` counts every change of desired volumes and of desired node states."""

    nodes: tuple[NodeView, ...]
    topology_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GetNodeRequest:
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNodeStateRequest:
    """``confirm`` repeats the node's id when ``state`` is lost."""

    node_id: str
    state: str
    confirm: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDetails:
    """``volumes_left``: volumes that still have a replica there which counts."""

    node: NodeView
    replacements: tuple[ReplacementView, ...]
    volumes_left: tuple[str, ...]
    topology_version: int

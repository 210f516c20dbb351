"""What became of one run of the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparrow.base.ids import NodeId, ReplicaId, VolumeId
from sparrow.rpc.messages import NodeDetails, ReplacementView
from tests.support.fake_master import node_view


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


def details(*left: str, text: str = "", state: str = "draining") -> NodeDetails:
    moves = tuple(
        ReplacementView(
            volume=VolumeId(name),
            replica_id=ReplicaId("r2"),
            node_id=NodeId("n2"),
            successor="r4",
            successor_node="n4",
            stage="rebuild",
            text=text,
            cause="n2 is being drained",
        )
        for name in left
    )
    return NodeDetails(
        node=node_view("n2", desired_state=state),
        replacements=moves,
        volumes_left=left,
        topology_version=9,
    )

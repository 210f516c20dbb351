"""What every volume of one node shares, built once by ``node/app.py`` and handed down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from structlog.typing import FilteringBoundLogger

from sparrow.authority.adapter import SessionIds
from sparrow.base.ids import NodeId, VolumeId
from sparrow.node.keys import NodeKeys
from sparrow.node.outside import Identity, Links, MasterCalls, PeerCalls
from sparrow.node.troubles import Note, ignore
from sparrow.ports.dataplane import DataPlane


class Stirs:
    """Counts what happens to the volumes of a node, so that whoever looks at all of them knows when not to."""

    def __init__(self) -> None:
        self.count = 0

    def note(self) -> None:
        self.count += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every volume of one node shares."""

    me: Identity
    dataplane: DataPlane
    calls: PeerCalls
    links: Links
    master: MasterCalls
    keys: NodeKeys
    #: Ids of the engines' sessions; above those of every earlier process of this node.
    sessions: SessionIds
    log: FilteringBoundLogger
    clock: Callable[[], float]
    #: The cluster this node belongs to; empty until the master said so once.
    cluster_id: Callable[[], str]
    #: Whether the subscription to the master is live now.
    control_live: Callable[[], bool]
    #: Something the master should hear of before the next heartbeat is due.
    urge: Callable[[], None]
    #: Nodes whose grants a volume needs, with their replication addresses; empty when it needs none.
    want_grants: Callable[[VolumeId, dict[NodeId, str]], None]
    #: What is told of a volume may be another than before.
    stirs: Stirs = field(default_factory=Stirs)
    #: For an operator to see beside the node's name: what about, and a sentence.
    note: Note = ignore
    #: Highest generation of any master heard here.
    master_generation: Callable[[], int] = lambda: 0

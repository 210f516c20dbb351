"""What goes down a node's stream about who may use a volume."""

from __future__ import annotations

from dataclasses import replace

from sparrow.authority.delivery import Delivery
from sparrow.authority.effects import AllowAccess
from sparrow.authority.observation import ObservationStore
from sparrow.authority.types import DesiredVolume, LeavingSlot, PlacedSlot
from sparrow.base.access import AccessList
from sparrow.base.ids import NodeId, ReplicaId, VolumeId
from tests.support.authority import new_publisher, shape

VOLUME = VolumeId("v1")


def _told(delivered):
    return [
        (one.node_id, one.instruction.access.revision)
        for one in delivered
        if isinstance(one.instruction, AllowAccess)
    ]


def test_every_node_of_a_volume_is_told_its_access_list_once_per_revision():
    """Also one whose replica is being replaced: it may be primary still."""
    desired = DesiredVolume(
        volume_id=VOLUME,
        shape=shape(),
        slots=(PlacedSlot(replica_id=ReplicaId("r1"), node_id=NodeId("n1")),),
        leaving=(
            LeavingSlot(
                replica_id=ReplicaId("r2"),
                node_id=NodeId("n2"),
                successor=ReplicaId("r1"),
                cause="drained",
            ),
        ),
    )
    topology = {VOLUME: desired}
    delivery = Delivery(
        publisher=new_publisher(), observations=ObservationStore(), topology=topology
    )
    delivery.place(VOLUME)
    first = delivery.open(NodeId("n1"), 1) + delivery.open(NodeId("n2"), 2)
    assert _told(first) == [("n1", 0), ("n2", 0)]
    assert _told(delivery.news(VOLUME)) == []
    topology[VOLUME] = replace(desired, access=AccessList(revision=1))
    assert _told(delivery.news(VOLUME)) == [("n1", 1), ("n2", 1)]
    assert _told(delivery.news(VOLUME)) == []

"""Heartbeat validation: a good one passes, each thing that is off is refused by name."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from sparrow.authority.types import FrontendTarget, Lineage, SlotFact, SlotName
from sparrow.base.errors import InvalidArgument
from sparrow.base.ids import EndpointVersion, Epoch, Lsn, NodeId, ReplicaId, ReplicaUuid, VolumeId
from sparrow.master.heartbeat import SLOTS_MAX, check_heartbeat, observation_of
from sparrow.node.facts import frontends_of
from sparrow.node.outside import Identity
from sparrow.rpc.messages import Heartbeat

if TYPE_CHECKING:
    from sparrow.node.volume import Volume

TARGET = FrontendTarget(protocol="iscsi", addr="127.0.0.1:3260", name="iqn.2025-01.io.sparrow:a")
SLOT = SlotFact(
    volume_id=VolumeId("a"),
    replica_id=ReplicaId("r1"),
    uuid=ReplicaUuid("0" * 31 + "1"),
    data_addr="127.0.0.1:2",
    ctrl_addr="[::1]:1",
    ready_for_primary=True,
    lineage=Lineage(epoch=Epoch(1), endpoint_version=EndpointVersion(1)),
    last_lsn=Lsn(5),
    durable_lsn=Lsn(5),
    frontends=(TARGET,),
)
GOOD = Heartbeat(
    node_id=NodeId("n1"),
    incarnation=1,
    sequence=1,
    data_addr="127.0.0.1:2",
    ctrl_addr="127.0.0.1:1",
    iscsi_addr="127.0.0.1:3260",
    pool_total_bytes=10,
    pool_free_bytes=10,
    slots=(SLOT, replace(SLOT, volume_id=VolumeId("b"))),
)


def slot(**changes: Any) -> dict[str, Any]:
    return {"slots": (SLOT, replace(SLOT, **{"volume_id": VolumeId("b"), **changes}))}


def target(**changes: Any) -> dict[str, Any]:
    return slot(frontends=(TARGET, replace(TARGET, **changes)))


GONE = SlotName(volume_id=VolumeId("c"), replica_id=ReplicaId("r1"))


def removed(*names: SlotName) -> dict[str, Any]:
    return {"base_revision": 4, "revision": 5, "removed": names}


@pytest.mark.parametrize("tls", [False, True])
def test_every_frontend_that_a_node_names_is_taken(tls: bool) -> None:
    volume = SimpleNamespace(volume_id=VolumeId("b"))
    me = Identity(
        node_id=NodeId("n1"),
        incarnation=1,
        ctrl_addr="10.0.0.1:1",
        data_addr="10.0.0.1:2",
        iscsi_addr="10.0.0.1:3",
        nvme_addr="10.0.0.1:4",
        nbd_addr="10.0.0.1:5",
        nbd_tls=tls,
    )
    named = frontends_of(cast("Volume", volume), me)
    assert len(named) == 3
    check_heartbeat(replace(GOOD, **slot(frontends=named)))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"node_id": ""}, "node_id is missing"),
    ({"node_id": "a/b"}, "node_id is 'a/b'"),
    ({"node_id": "x" * 64}, "node_id is"),
    ({"node_id": "n1\n"}, "node_id is"),
    ({"incarnation": 0}, "incarnation is missing"),
    ({"sequence": 0}, "sequence is missing"),
    ({"data_addr": ""}, "data_addr is missing"),
    ({"data_addr": "nowhere"}, "data_addr is off"),
    ({"ctrl_addr": ""}, "ctrl_addr is missing"),
    ({"ctrl_addr": "h:0"}, "ctrl_addr has port 0"),
    ({"ctrl_addr": "h" * 1024 + ":1"}, "ctrl_addr is longer than 1024 bytes"),
    ({"iscsi_addr": ""}, "iscsi_addr is missing"),
    ({"pool_free_bytes": 11}, "pool_free_bytes is more"),
    ({"replica_used_bytes": 11}, "replica_used_bytes is more"),
    ({"slots": (SLOT,) * (SLOTS_MAX + 1)}, "slots has 4097 entries"),
    ({"slots": (SLOT, SLOT)}, "slots[1] repeats r1 of volume a"),
    (slot(volume_id=""), "slots[1].volume_id is missing"),
    (slot(volume_id="a/b"), "slots[1].volume_id is 'a/b'"),
    (slot(replica_id=""), "slots[1].replica_id is missing"),
    (slot(uuid=""), "slots[1].uuid is ''"),
    (slot(uuid="A" * 32), "slots[1].uuid is 'AAA"),
    (slot(data_addr=""), "slots[1].data_addr is missing"),
    (slot(ctrl_addr=""), "slots[1].ctrl_addr is missing"),
    (
        slot(lineage=Lineage(epoch=Epoch(0), endpoint_version=EndpointVersion(1))),
        "slots[1].lineage has a zero",
    ),
    (slot(frontends=(TARGET,) * 17), "slots[1].frontends has 17 entries"),
    (target(protocol=""), "slots[1].frontends[1].protocol is ''"),
    (target(protocol="ftp"), "slots[1].frontends[1].protocol is 'ftp'"),
    (target(addr=""), "slots[1].frontends[1].addr is missing"),
    (target(name=""), "slots[1].frontends[1].name is missing"),
    ({"removed": (GONE,)}, "removed has entries, but the heartbeat is no delta"),
    ({"base_revision": 0, "revision": 1}, "base_revision is missing"),
    ({"base_revision": 4, "revision": 4}, "revision is 4, not above base_revision 4"),
    ({"base_revision": 4, "revision": 5, "slots": ()}, "revision is 5, but nothing changed"),
    (removed(*(GONE,) * (SLOTS_MAX + 1)), "removed has 4097 entries"),
    (removed(replace(GONE, volume_id="a/b")), "removed[0].volume_id is 'a/b'"),
    (removed(replace(GONE, replica_id="")), "removed[0].replica_id is missing"),
    (removed(GONE, GONE), "removed[1] names r1 of volume c again"),
    (removed(replace(GONE, volume_id="b")), "removed[0] names r1 of volume b again"),
]


def test_a_good_heartbeat_passes() -> None:
    check_heartbeat(GOOD)


@pytest.mark.parametrize(
    "changes",
    [
        {"base_revision": 4, "revision": 5},
        {"base_revision": 4, "revision": 4, "slots": ()},
        removed(GONE),
    ],
)
def test_a_good_delta_passes_and_stays_one(changes: dict[str, Any]) -> None:
    made = replace(GOOD, **changes)
    check_heartbeat(made)
    seen = observation_of(made, received_at=1.0)
    assert (seen.base_revision, seen.revision) == (made.base_revision, made.revision)
    assert (seen.slots, seen.removed) == (made.slots, made.removed)


def test_a_node_without_replicas_is_a_good_node() -> None:
    check_heartbeat(replace(GOOD, slots=(), pool_total_bytes=0, pool_free_bytes=0))


@pytest.mark.parametrize(("changes", "words"), BAD, ids=[words for _, words in BAD])
def test_what_is_off_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_heartbeat(replace(GOOD, **changes))
    assert words in str(caught.value)


def test_the_time_that_counts_is_the_masters() -> None:
    assert observation_of(GOOD, received_at=7.5).received_at == 7.5

"""Replicas opened while the program is loaded: handed over whole, with all that the core told meanwhile."""

from __future__ import annotations

from sparrow.base.errors import DamagedData
from sparrow.base.ids import ReplicaId, VolumeId
from sparrow.dataplane.model.links import Fabric
from sparrow.dataplane.model.plane import ModelDataPlane
from sparrow.dataplane.model.state import ModelPool
from sparrow.node.found import Found
from sparrow.ports.dataplane import CoreEvent, CoreLeaked, OpenReport

ONE, TWO = VolumeId("one"), VolumeId("two")


class Telling(ModelDataPlane):
    """Tells of each opening, and finds one replica damaged."""

    def note(self, count: int) -> None:
        self._on_event(CoreLeaked(held={"opened": count}))

    async def open_replica(self, volume_id: VolumeId) -> OpenReport:
        if volume_id == TWO:
            raise DamagedData("neither copy is whole")
        report = await super().open_replica(volume_id)
        self.note(1)
        return report


async def two_replicas() -> Telling:
    plane = Telling("n1", ModelPool(), Fabric())
    for volume_id in (ONE, TWO):
        await plane.format_replica(volume_id, ReplicaId("r1"), size_bytes=1 << 20, block_size=4096)
    return plane


async def test_each_replica_has_an_outcome_and_no_event_is_lost_or_out_of_order() -> None:
    plane = await two_replicas()
    found = Found(plane)
    found.begin()
    outcomes = await found.everything()
    assert isinstance(outcomes[ONE], OpenReport)
    assert isinstance(outcomes[TWO], DamagedData)
    heard: list[CoreEvent] = []
    plane.note(2)
    found.hand_over(heard.append)
    plane.note(3)
    assert heard == [CoreLeaked(held={"opened": n}) for n in (1, 2, 3)]
    await plane.stop()


async def test_who_gives_up_leaves_nothing_open() -> None:
    plane = await two_replicas()
    found = Found(plane)
    found.begin()
    await found.give_up()
    assert not plane._volumes

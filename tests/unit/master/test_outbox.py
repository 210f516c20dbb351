"""A slow reader gets the newest of each thing, in the order in which it became the newest."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from sparrow.authority.effects import HostReplica, RemoveReplica, Synced
from sparrow.authority.types import AssignmentFact, Lineage
from sparrow.base.ids import EndpointVersion, Epoch, ReplicaId, VolumeId
from sparrow.master.outbox import Outbox
from tests.support.fake_master import line_of


def fact(volume: str, epoch: int) -> AssignmentFact:
    lineage = Lineage(epoch=Epoch(epoch), endpoint_version=EndpointVersion(1))
    return AssignmentFact(line=replace(line_of(volume), lineage=lineage), peers=(), peer_revision=1)


def host(volume: str, size: int = 1) -> HostReplica:
    return HostReplica(
        volume_id=VolumeId(volume), replica_id=ReplicaId("r1"), size_bytes=size, block_size=4096
    )


def remove(volume: str) -> RemoveReplica:
    return RemoveReplica(
        volume_id=VolumeId(volume),
        replica_id=ReplicaId("r1"),
        tombstone=replace(line_of(volume), retired=True),
    )


async def test_a_newer_line_takes_the_place_of_an_older_one_at_the_end() -> None:
    box = Outbox()
    for one in (fact("a", 1), fact("b", 1), fact("a", 2)):
        box.put(one)
    assert await box.take() == [fact("b", 1), fact("a", 2)]
    assert box.empty


async def test_a_thousand_lines_of_a_volume_are_one() -> None:
    box = Outbox()
    for epoch in range(1, 1001):
        box.put(fact("a", epoch))
    assert await box.take() == [fact("a", 1000)]


async def test_a_removal_drops_what_it_makes_pointless_and_a_later_host_stays_after_it() -> None:
    box = Outbox()
    for one in (host("a"), fact("a", 1), remove("a"), host("a", 2)):
        box.put(one)
    assert await box.take() == [remove("a"), host("a", 2)]


async def test_the_burst_keeps_its_order_and_its_end() -> None:
    box = Outbox()
    burst = [host("a"), fact("a", 1), fact("b", 3), Synced(master_generation=2)]
    for one in burst:
        box.put(one)
    assert await box.take() == burst


async def test_a_waiting_reader_wakes_for_news_and_for_the_end() -> None:
    box = Outbox()
    reading = asyncio.create_task(box.take())
    await asyncio.sleep(0)
    box.put(fact("a", 1))
    assert await reading == [fact("a", 1)]
    reading = asyncio.create_task(box.take())
    await asyncio.sleep(0)
    box.close()
    assert await reading == []
    assert await box.take() == []


async def test_nothing_enters_a_closed_box() -> None:
    box = Outbox()
    box.close()
    box.put(fact("a", 1))
    assert box.empty

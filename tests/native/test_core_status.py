"""What the core says of its volumes, all at once: the same as one by one, and nothing new while nothing happens."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sparrow.authority.evidence import PEER_HEARD_S
from sparrow.base.ids import Epoch, ReplicaUuid, VolumeId
from sparrow.dataplane.decode import decode_status
from sparrow.dataplane.files.descriptors import ReplicaFiles
from sparrow.dataplane.native import replicas as native_replicas
from sparrow.ports.dataplane import PoolFull, VolumeStatus
from tests.support.core_client import page_of
from tests.support.core_cluster import DEMO, VOLUME_BYTES, core_cluster
from tests.support.needs import needs_io_uring
from tests.support.waiting import until

pytestmark = needs_io_uring()

REPORT = Path(__file__).parents[2] / "src" / "_native" / "control" / "report.pyx"


def test_the_core_and_the_evidence_agree_on_what_is_heard() -> None:
    assert f"HEARD_MS = {round(PEER_HEARD_S * 1000)} " in REPORT.read_text()


async def test_an_idle_volume_says_the_same_and_is_not_looked_at_again() -> None:
    async with core_cluster(nodes=3) as cluster:
        primary, *others = cluster.nodes
        await cluster.open_term(primary, followers=others)
        client = await cluster.connect(primary)
        assert (await client.write(0, page_of(0, 1))).status == 0

        async def applied() -> bool:
            status = await primary.plane.status(DEMO)
            acked = {peer.acked_lsn for peer in status.peers}
            return status.log.applied_lsn == status.log.last_lsn and acked == {status.log.last_lsn}

        await until(applied)

        async def settled() -> bool:
            """The same for a while, and one by one. A machine that stands still hears nothing of anybody meanwhile."""
            before = (await primary.plane.statuses())[DEMO]
            await asyncio.sleep(0.05)
            alone = await primary.plane.status(DEMO)
            after = (await primary.plane.statuses())[DEMO]
            heard = all(peer.silent_ms == 0 for peer in after.peers)
            return after is before and alone == after and after.gate_open and heard

        await until(settled)
        told = (await primary.plane.statuses())[DEMO]
        assert (await client.write(1, page_of(1, 1))).status == 0
        after = (await primary.plane.statuses())[DEMO]
        assert after.log.last_lsn > told.log.last_lsn
        assert after.writes == told.writes + 1


async def test_a_peer_that_is_gone_leaves_nothing_that_changes() -> None:
    """Else a volume that lost a replica would be looked at for as long as its primary lives."""
    async with core_cluster(nodes=2) as cluster:
        primary, other = cluster.nodes
        await cluster.open_term(primary, followers=[other])
        await primary.plane.drop_peer(DEMO, other.number)
        await cluster.set_needed(primary, [])
        client = await cluster.connect(primary)
        assert (await client.write(0, page_of(0, 1))).status == 0
        seen: list[VolumeStatus] = []

        async def the_same_for_long() -> bool:
            now = (await primary.plane.statuses())[DEMO]
            if not seen or seen[-1] is not now:
                seen.clear()
            seen.append(now)
            return len(seen) > 8

        # Silence shows after 0.3 s, a slow acknowledgement for a second.
        await until(the_same_for_long, every_s=0.2)
        (peer,) = seen[-1].peers
        assert (peer.silent_ms, peer.lag_ms) == (0, 0)
        assert peer.acked_lsn < seen[-1].log.last_lsn


async def test_what_an_answer_told_that_nobody_took_is_told_again() -> None:
    """The core compares with what it told last; whoever gave up waiting for that has not heard it."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        before = (await node.plane.statuses())[DEMO]
        assert (await client.write(0, page_of(0, 1))).status == 0
        asking = asyncio.ensure_future(node.plane.statuses())
        await asyncio.sleep(0)  # it has asked
        asking.cancel()
        await node.plane.status(DEMO)  # and been answered
        assert (await node.plane.statuses())[DEMO].writes == before.writes + 1


async def test_only_volumes_that_say_something_new_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        others = [VolumeId(f"v{number}") for number in range(3)]
        for volume in others:
            await node.plane.format_replica(
                volume, node.replica, size_bytes=VOLUME_BYTES, block_size=4096
            )
            await node.plane.open_replica(volume)
        assert sorted(await node.plane.statuses()) == sorted([DEMO, *others])
        told: list[VolumeId] = []

        def decode(payload: bytes, volume_id: VolumeId, uuid: ReplicaUuid) -> VolumeStatus:
            told.append(volume_id)
            return decode_status(payload, volume_id, uuid)

        monkeypatch.setattr(native_replicas, "decode_status", decode)
        await node.plane.begin_term(others[1], Epoch(1))
        assert len(await node.plane.statuses()) == 4
        assert told == [others[1]]
        # A number that is free again does not stand for what the volume before it said.
        told.clear()
        number = node.plane._volumes[others[0]].index
        await node.plane.close_replica(others[0])
        node.plane._next_index = number
        await node.plane.open_replica(others[0])
        assert len(await node.plane.statuses()) == 4
        assert told == [others[0]]


async def test_room_is_told_to_all_volumes_of_a_file_system_by_one_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        second = VolumeId("second")
        await node.plane.format_replica(
            second, node.replica, size_bytes=VOLUME_BYTES, block_size=4096
        )
        await node.plane.open_replica(second)
        looks: list[ReplicaFiles] = []

        def no_room(files: ReplicaFiles) -> int:
            looks.append(files)
            return 0

        monkeypatch.setattr(node.plane._machine, "room_pages", no_room)
        for volume in (DEMO, second):
            await node.wait(PoolFull, volume_id=volume, full=True)
        assert all(files is looks[0] for files in looks), "one look for both"
        monkeypatch.undo()
        for volume in (DEMO, second):
            await node.wait(PoolFull, volume_id=volume, full=False)


async def test_a_closed_volume_is_not_in_the_list() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        assert list(await node.plane.statuses()) == [DEMO]
        await node.plane.close_replica(DEMO)
        assert await node.plane.statuses() == {}

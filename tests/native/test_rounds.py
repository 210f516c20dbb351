"""When volumes that write little are applied: after a second, and when many write, in turns."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from sparrow._native.extent.testbed import RoundsBed
from sparrow.base.ids import Epoch, ReplicaId, VolumeId
from sparrow.dataplane.machine import CoreSizes
from tests.support.core_client import page_of
from tests.support.core_cluster import (
    DEMO,
    PAGE,
    POOL_PAGES,
    VOLUME_BYTES,
    CoreNode,
    core_cluster,
)
from tests.support.waiting import until

MS = 1_000_000
S = 1000 * MS
#: They take turns for 1.6 seconds.
OTHERS = [VolumeId(f"other-{number}") for number in range(80)]
#: So many turns more than one round takes.
MANY = 20
TRIES = 10
SELDOM_S = 0.05
#: Of a volume in a core that is made so; the usual one allows 32 MiB.
UNAPPLIED_MAX = 256
DEPTH = 16


def test_few_volumes_are_applied_after_a_second() -> None:
    bed = RoundsBed()
    begun = [10 * S + number * 25 * MS for number in range(200)]
    assert [bed.take(at) for at in begun] == [at + S for at in begun]


def test_volumes_that_write_at_one_moment_take_turns() -> None:
    bed = RoundsBed()
    assert [bed.take(10 * S) for _ in range(100)] == [
        11 * S + number * 20 * MS for number in range(100)
    ]


def test_none_waits_for_more_than_three_seconds_beyond_its_own() -> None:
    bed = RoundsBed()
    times = [bed.take(10 * S) for _ in range(400)]
    assert max(times) == 14 * S
    assert bed.take(11 * S) == 14 * S + 20 * MS


def test_nobody_waits_for_a_turn_when_half_of_the_map_is_taken() -> None:
    bed = RoundsBed()
    for _ in range(100):
        bed.take(10 * S, unapplied=49)
    assert bed.take(10 * S, unapplied=50) == 11 * S
    assert bed.take(10 * S, unapplied=49) == 11 * S + 100 * 20 * MS


def test_a_turn_that_was_not_needed_goes_to_the_next() -> None:
    bed = RoundsBed()
    for _ in range(100):
        bed.take(10 * S)
    for _ in range(40):
        bed.give_back()
    assert bed.take(10 * S) == 11 * S + 60 * 20 * MS


async def begin_term(node: CoreNode, volume: VolumeId, epoch: int) -> None:
    await node.plane.begin_term(volume, Epoch(epoch))
    await node.plane.commit_inherited(volume)


async def applied(node: CoreNode, volume: VolumeId, lsn: int) -> bool:
    return (await node.plane.status(volume)).log.applied_lsn >= lsn


async def test_who_has_half_of_the_map_does_not_wait_for_those_whose_turn_comes_first() -> None:
    async with core_cluster(nodes=1, sizes=CoreSizes(versions=600)) as cluster:
        (node,) = cluster.nodes
        for volume in OTHERS:
            await node.plane.format_replica(
                volume, ReplicaId("r0"), size_bytes=VOLUME_BYTES, block_size=PAGE
            )
            await node.plane.open_replica(volume)
        await cluster.open_term(node)
        client = await cluster.connect(node)
        for epoch in range(1, TRIES + 1):
            # Its own turn is to come last.
            began = await node.commit_lsn()
            await until(partial(applied, node, DEMO, began))
            # The start of a term is an entry, and takes a turn.
            await asyncio.gather(*(begin_term(node, volume, epoch) for volume in OTHERS))
            before = await node.plane.statuses()
            for page in range(0, 400, 100):
                assert (await client.write(page, page_of(page, epoch) * 100)).status == 0
            while not await applied(node, DEMO, began + 1):
                assert (await client.write(400, page_of(400, epoch))).status == 0
                # Seldom, for a map without any room left begins rounds as well.
                await asyncio.sleep(SELDOM_S)
            after = await node.plane.statuses()
            # Whose turns come last is whose term began last, and that is anybody.
            waiting = [v for v in OTHERS if after[v].log.applied_lsn < before[v].log.commit_lsn]
            if len(waiting) >= MANY:
                return
            # The machine stood still for their turns.
        raise AssertionError("it waited for its turn")


async def test_l15_no_volume_has_more_unapplied_than_a_start_is_to_take() -> None:
    """Each entry is a page that no other entry writes, so what is unapplied is what the log is ahead."""
    sizes = replace(CoreSizes(), pages=POOL_PAGES, versions_per_volume=UNAPPLIED_MAX)
    async with core_cluster(nodes=1, sizes=sizes) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        load = await cluster.load(node, pages=range(4096), depth=DEPTH)
        most = 0

        async def written() -> bool:
            nonlocal most
            log = (await node.plane.status(DEMO)).log
            most = max(most, log.last_lsn - log.applied_lsn)
            return load.written_bytes >= 3000 * 4096

        await until(written, within_s=60.0, every_s=0.0)
        await load.stop()
        assert load.failed is None
        assert UNAPPLIED_MAX // 2 < most <= UNAPPLIED_MAX + DEPTH

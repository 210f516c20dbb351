"""A replica that catches up leaves its extents for later (extent/behind.pyx)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sparrow.authority.types import Term
from sparrow.base.errors import StorageError, Unavailable
from sparrow.base.ids import Lsn, VolumeId
from sparrow.dataplane.machine import CoreSizes
from sparrow.node.found import Outcome, open_each
from sparrow.ports.dataplane import LogSummary, OpenReport, SumsDamaged
from tests.support.core_client import page_of
from tests.support.core_cluster import (
    DEMO,
    PAGE,
    PAGES,
    VOLUME_BYTES,
    CoreCluster,
    CoreNode,
    core_cluster,
)
from tests.support.core_files import flip_bit, superblock
from tests.support.no_rounds import no_rounds
from tests.support.waiting import until

#: Half as many versions as begin a round by their number are more than a volume may have otherwise.
SIZES = CoreSizes(pages=24576, versions=8192, versions_per_volume=512, versions_behind=1536)
MISSED_PAGES = 1024
#: Of a volume that is soon copied.
FEWER_PAGES = 640
#: So that the log keeps what is missed, although all of it is young.
SIZE_BYTES = 1 << 30
RUN = 32
#: Writes under way: as many may come in one batch, which is taken whole or not at all.
DEPTH = 4
#: A map for one of two such volumes and the last entries of the other, of which only the primary knows that they count.
SMALL = FEWER_PAGES + 8 * RUN
#: After which a round begins by time.
QUIET_S = 1.0
TRIES = 20
#: In the first block of checksums.
DAMAGED_AT = 500


async def miss(cluster: CoreCluster, pages: int) -> Lsn:
    """The follower is away while pages are written, and has applied all it has; the primary's last LSN."""
    primary, follower = cluster.nodes[:2]
    await primary.plane.drop_peer(DEMO, follower.number)
    await cluster.set_needed(primary, [])
    size = pages * PAGE
    load = await cluster.load(primary, pages=range(PAGES), depth=DEPTH, run=RUN, limit=size)
    await load.wait_written(size)
    await load.stop()
    assert load.failed is None
    last = await primary.commit_lsn()
    await until_applied(follower, await follower.commit_lsn())
    return last


async def come_back(cluster: CoreCluster, term: Term, last: Lsn) -> tuple[Lsn, Lsn, float]:
    """The follower takes what it missed; its applied LSN before and after, and the seconds since it joined."""
    primary, follower = cluster.nodes[:2]
    before = (await follower.plane.status(DEMO)).log.applied_lsn
    began = time.monotonic()
    await cluster.join_and_ship(primary, follower, term)
    await primary.plane.peer_acked(DEMO, follower.number, last)
    after = (await follower.plane.status(DEMO)).log.applied_lsn
    return before, after, time.monotonic() - began


async def crashed(
    cluster: CoreCluster, term: Term, node: CoreNode, *names: str
) -> tuple[list[VolumeId], int]:
    """Copies of the follower, in that node's pool, as a crash leaves it when it has just caught up; entries unapplied.

    However slow the machine is, no round comes between its last ack and the copies.
    """
    follower = cluster.nodes[1]
    last = await miss(cluster, FEWER_PAGES)
    async with no_rounds(follower):
        applied, _, _ = await come_back(cluster, term, last)
        copies = [await cluster.snapshot(follower, node, name) for name in names]
    for copy in copies:
        assert superblock(node.files(copy)).number("applied_lsn") == applied
    assert (last - applied) * RUN > SIZES.versions_per_volume
    return copies, last - applied


async def until_applied(node: CoreNode, lsn: Lsn) -> None:
    async def applied() -> bool:
        return (await node.plane.status(DEMO)).log.applied_lsn >= lsn

    await until(applied)


async def two(cluster: CoreCluster, size_bytes: int) -> Term:
    """Replicas on the first two nodes; the first of them leads."""
    primary, follower = cluster.nodes[:2]
    for node in (primary, follower):
        await node.plane.format_replica(DEMO, node.replica, size_bytes=size_bytes, block_size=PAGE)
        await node.plane.open_replica(DEMO)
    return await cluster.open_term(primary, followers=[follower])


async def test_what_was_missed_is_durable_before_any_of_it_is_applied() -> None:
    async with core_cluster(nodes=2, blank=True, sizes=SIZES) as cluster:
        primary, follower = cluster.nodes
        term = await two(cluster, SIZE_BYTES)
        for _ in range(TRIES):
            before, after, took = await come_back(cluster, term, await miss(cluster, MISSED_PAGES))
            # More than its bound is unapplied, and a write beside it does not wait for that.
            await cluster.set_needed(primary, [follower])
            client = await cluster.connect(primary)
            for page in range(0, 256, RUN):
                assert (await client.write(page, page_of(page, 7) * RUN)).status == 0
            await until_applied(follower, await primary.commit_lsn())
            await cluster.assert_same(primary, follower)
            if took < QUIET_S:
                assert after == before
                return
            # The machine stood still, and the round of each second came.
        raise AssertionError("a MiB a second is less than any disk does")


async def test_a_crash_before_it_is_applied_costs_nothing() -> None:
    async with core_cluster(nodes=3, blank=True, sizes=SIZES) as cluster:
        primary, _, other = cluster.nodes
        term = await two(cluster, VOLUME_BYTES)
        (copy,), unapplied = await crashed(cluster, term, other, "crashed")
        last = await primary.commit_lsn()
        log = (await other.plane.open_replica(copy)).log
        assert (log.last_lsn, log.applied_lsn) == (last, last - unapplied)
        committed = (await other.plane.status(copy)).log.commit_lsn
        await other.plane.close_replica(copy)
        assert superblock(other.files(copy)).number("applied_lsn") == committed


def unapplied(log: LogSummary, missed_from: Lsn) -> int:
    """Pages of entries of ``RUN`` each above that LSN that are here and not applied."""
    return (log.durable_lsn - max(log.applied_lsn, missed_from)) * RUN


def written_bytes() -> int:
    """What this process, with its cores, gave to disks so far."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["write_bytes"])


async def test_who_applies_nothing_takes_no_more_than_any_and_waits_for_its_next_round() -> None:
    """A block of checksums is damaged, and nobody mends it: its rounds are given up."""
    async with core_cluster(nodes=2, blank=True, sizes=SIZES) as cluster:
        primary, follower = cluster.nodes
        term = await two(cluster, SIZE_BYTES)
        await cluster.set_needed(primary, [])
        await follower.plane.close_replica(DEMO)
        flip_bit(follower.files() / "sums", DAMAGED_AT)
        await follower.plane.open_replica(DEMO)
        await cluster.join_and_ship(primary, follower, term)
        client = await cluster.connect(primary)
        assert (await client.write(0, page_of(0, 1))).status == 0
        assert (await follower.wait(SumsDamaged)).block == 0
        await primary.plane.drop_peer(DEMO, follower.number)
        missed_from = await primary.commit_lsn()
        size = MISSED_PAGES * PAGE
        load = await cluster.load(primary, pages=range(PAGES), depth=DEPTH, run=RUN, limit=size)
        await load.wait_written(size)
        await load.stop()
        await cluster.join_and_ship(primary, follower, term)

        async def full() -> bool:
            log = (await follower.plane.status(DEMO)).log
            return unapplied(log, missed_from) >= SIZES.versions_per_volume - DEPTH * RUN

        await until(full)
        # Who wrote all of it writes no more by now: what this process writes is the follower's.
        await until_applied(primary, await primary.commit_lsn())
        before, began = written_bytes(), time.monotonic()
        # A round of each second is tried, and no other, however often room is asked for.
        await asyncio.sleep(2 * QUIET_S)
        rounds = (written_bytes() - before) / (SIZES.versions_per_volume * PAGE)
        assert rounds < (time.monotonic() - began) / QUIET_S + 2
        log = (await follower.plane.status(DEMO)).log
        assert log.applied_lsn <= missed_from
        assert unapplied(log, missed_from) <= SIZES.versions_per_volume
        await follower.plane.close_replica(DEMO)
        flip_bit(follower.files() / "sums", DAMAGED_AT)
        await follower.plane.open_replica(DEMO)
        await cluster.join_and_ship(primary, follower, term)
        await cluster.caught_up(primary, follower)
        await until_applied(follower, await primary.commit_lsn())
        await cluster.assert_same(primary, follower)


async def crashed_twice(cluster: CoreCluster, node: CoreNode) -> tuple[list[VolumeId], int]:
    """Two copies of a replica as a crash left it at its last ack, in that node's pool; pages each has not applied."""
    primary, follower = cluster.nodes[:2]
    term = await two(cluster, VOLUME_BYTES)
    await cluster.set_line([primary, follower], epoch=1, version=1)
    copies, unapplied = await crashed(cluster, term, node, "crashed-a", "crashed-b")
    return copies, unapplied * RUN


async def test_a_smaller_map_takes_one_crashed_replica_after_the_other() -> None:
    """A node that lost power while its replicas caught up, and is started again with less memory."""
    async with core_cluster(nodes=2, blank=True, sizes=SIZES) as cluster:
        small = await cluster.add_node(sizes=replace(SIZES, versions=SMALL))
        cluster.nodes.remove(small)
        copies, unapplied = await crashed_twice(cluster, small)
        cluster.nodes.append(small)
        assert 2 * unapplied > SMALL
        outcomes: dict[VolumeId, Outcome] = {}
        await open_each(small.plane, outcomes.__setitem__)
        for copy in copies:
            assert isinstance(outcomes[copy], OpenReport), outcomes[copy]
            await small.plane.close_replica(copy)


async def test_a_map_that_is_too_small_for_one_replica_is_told_and_costs_nothing() -> None:
    async with core_cluster(nodes=2, blank=True, sizes=SIZES) as cluster:
        small = await cluster.add_node(sizes=replace(SIZES, versions=SIZES.versions_per_volume - 1))
        cluster.nodes.remove(small)
        (copy, _), unapplied = await crashed_twice(cluster, small)
        cluster.nodes.append(small)
        assert unapplied >= SIZES.versions_per_volume
        with pytest.raises(StorageError, match="more than this node's buffer") as refused:
            await small.plane.open_replica(copy)
        assert not isinstance(refused.value, Unavailable)
        assert "--buffer-mib" in refused.value.hint
        large = await cluster.add_node(small.pool, sizes=SIZES)
        (large.pool / "volumes").symlink_to(small.pool / "volumes")
        await large.plane.open_replica(copy)
        await large.plane.close_replica(copy)

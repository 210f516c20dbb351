"""Opening after a crash: torn ends, damage, superblock copies, a ring written many times over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparrow.base.errors import DamagedData, SparrowError
from sparrow.base.ids import Epoch, VolumeId
from sparrow.formats.sums import SUMS_LIST
from sparrow.formats.superblock import SUMS_LISTS_OFFSET, SUPERBLOCK_FILE_BYTES
from sparrow.formats.wal import BATCH, BATCH_BYTES_MAX
from sparrow.ports.dataplane import GateClosed, OpenReport
from tests.support.core_client import page_of, version_of
from tests.support.core_cluster import DEMO, PAGE, CoreCluster, CoreNode, core_cluster
from tests.support.core_files import (
    Batch,
    batches,
    copy_log,
    copy_replica,
    flip_bit,
    reword_superblock,
    reworded,
    superblock,
)
from tests.support.no_rounds import no_rounds

MOMENTS = 6


async def closed_log(
    cluster: CoreCluster, writes: int, *, run: int = 1
) -> tuple[CoreNode, Path, list[Batch]]:
    """A crashed replica whose log holds a term start and that many batches of ``run`` pages, none of them applied."""
    (node,) = cluster.nodes
    async with no_rounds(node):
        await cluster.open_term(node)
        client = await cluster.connect(node)
        for page in range(writes):
            assert (await client.write(page * run, page_of(page, 1) * run)).status == 0
        copy = copy_replica(node.files(), node.pool, "crashed")
    files = node.pool / "volumes" / copy / node.files().name
    assert superblock(files).number("applied_lsn") == 0
    await node.plane.close_replica(DEMO)
    log = batches(files)
    assert [batch.first_lsn for batch in log] == list(range(1, writes + 2))
    return node, files, log


async def reopen(node: CoreNode, name: str = "crashed") -> OpenReport:
    report = await node.plane.open_replica(VolumeId(name))
    await node.plane.close_replica(VolumeId(name))
    return report


async def test_a_torn_last_batch_ends_the_log() -> None:
    async with core_cluster(nodes=1) as cluster:
        node, files, log = await closed_log(cluster, 6)
        # Half of the last batch's payload never reached the disk.
        flip_bit(files / "wal", log[-1].offset + PAGE + 2048)
        report = await reopen(node)
        assert report.log.last_lsn == log[-2].last_lsn
        assert report.torn_after_lsn == log[-2].last_lsn
        assert report.damaged_after_lsn is None
        assert not report.log.suspect


async def test_a_durable_batch_that_is_damaged_is_told_and_not_cut_in_silence() -> None:
    async with core_cluster(nodes=1) as cluster:
        node, files, log = await closed_log(cluster, 6)
        flip_bit(files / "wal", log[3].offset + PAGE + 2048)
        report = await reopen(node)
        assert report.log.last_lsn == log[2].last_lsn
        assert report.damaged_after_lsn == log[2].last_lsn
        # The last batch was submitted when everything before it was durable.
        assert report.log.must_reach_lsn >= log[-2].last_lsn
        assert report.log.suspect


async def test_a_damaged_header_is_damage_as_well() -> None:
    async with core_cluster(nodes=1) as cluster:
        node, files, log = await closed_log(cluster, 6)
        flip_bit(files / "wal", log[3].offset + 40)
        report = await reopen(node)
        assert report.damaged_after_lsn == log[2].last_lsn
        assert report.log.suspect


async def test_what_another_walk_read_is_in_no_log() -> None:
    """Walks share memory: behind the end of a short log its walk must not see batches of the walk before."""
    async with core_cluster(nodes=1) as cluster:
        node, files, log = await closed_log(cluster, 20, run=100)
        short = copy_replica(files, node.pool, "short")
        ring = node.pool / "volumes" / short / files.name / "wal"
        with ring.open("r+b") as file:
            os.pwrite(file.fileno(), bytes(ring.stat().st_size - log[3].offset), log[3].offset)
            os.fsync(file.fileno())
        # Its last read fills the memory further than a walk looks that finds nothing.
        whole = await node.plane.open_replica(VolumeId("crashed"))
        report = await node.plane.open_replica(short)
        assert whole.log.last_lsn == log[-1].last_lsn
        assert report.log.last_lsn == log[2].last_lsn
        assert report.torn_after_lsn is None
        assert report.damaged_after_lsn is None
        assert not report.log.suspect


async def test_whole_batches_lead_to_a_proof_far_behind() -> None:
    """The missing batch was overtaken by many: each is whole and does not say yet that it had been durable."""
    async with core_cluster(nodes=1) as cluster:
        node, files, log = await closed_log(cluster, 10, run=100)
        missing, overtaking, proof = log[1], log[2:9], log[9]
        assert proof.offset - missing.offset > 3 * BATCH_BYTES_MAX + PAGE, "not seen at first sight"
        flip_bit(files / "wal", missing.offset + 40)
        with (files / "wal").open("r+b") as ring:
            for batch in overtaking:
                head = os.pread(ring.fileno(), PAGE, batch.offset)
                floor = BATCH.offset_of("durable_floor")
                os.pwrite(ring.fileno(), reworded(head, floor, log[0].last_lsn), batch.offset)
            os.fsync(ring.fileno())
        report = await reopen(node)
        assert report.damaged_after_lsn == log[0].last_lsn
        assert report.log.must_reach_lsn >= proof.first_lsn - 1
        assert report.log.suspect


@pytest.mark.parametrize(
    ("after", "end", "proved"),
    [
        pytest.param(0, 0, 6, id="no range"),
        pytest.param(1, 7, None, id="all of it may have been written together"),
        pytest.param(3, 7, None, id="from what is missing on"),
        pytest.param(1, 6, 6, id="the last floor is none of a joint write"),
        pytest.param(4, 7, 4, id="what is missing was durable before"),
        pytest.param(7, 9, 6, id="a range of later entries"),
    ],
)
async def test_a_floor_proves_nothing_of_entries_that_were_written_together(
    after: int, end: int, proved: int | None
) -> None:
    """Entry 4 is missing; the headers of 5, 6 and 7 say that what lies before them had been durable."""
    async with core_cluster(nodes=1) as cluster:
        node, files, log = await closed_log(cluster, 6)
        flip_bit(files / "wal", log[3].offset + PAGE + 2048)
        for copy in range(2):
            reword_superblock(files, copy, joint_from=after, joint_to=end)
        report = await reopen(node)
        assert report.log.last_lsn == 3
        assert report.log.suspect == (proved is not None)
        assert report.damaged_after_lsn == (None if proved is None else 3)
        assert report.torn_after_lsn == (3 if proved is None else None)
        if proved is not None:
            assert report.log.must_reach_lsn == proved


async def test_a_primary_whose_floors_said_nothing_takes_writes_only_when_they_count() -> None:
    """It stopped within a catch-up, its primary is gone for good, and an operator let it go on from there."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        await node.plane.close_replica(DEMO)
        for copy in range(2):
            reword_superblock(node.files(), copy, joint_from=1, joint_to=1000)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        copied = copy_replica(node.files(), node.pool, "crashed")
        client = await cluster.connect(node)
        for page in range(6):
            assert (await client.write(page, page_of(page, 1))).status == 0
        files = copy_log(node.files(), node.pool, copied)
        await node.plane.close_replica(DEMO)
        log = batches(files)
        assert log[-1].last_lsn < 1000, "all lie within the range"
        flip_bit(files / "wal", log[-3].offset + PAGE + 2048)
        report = await reopen(node)
        assert report.damaged_after_lsn == log[-4].last_lsn
        assert report.log.must_reach_lsn >= log[-2].last_lsn
        assert report.log.suspect


async def test_the_first_batch_of_a_term_is_missed_when_it_is_damaged() -> None:
    async with core_cluster(nodes=1) as cluster:
        node, files, log = await closed_log(cluster, 6)
        flip_bit(files / "wal", log[0].offset + 40)
        report = await reopen(node)
        assert report.log.last_lsn == 0
        assert report.damaged_after_lsn == 0
        assert report.log.must_reach_lsn >= log[-2].last_lsn


async def test_the_same_batch_from_a_peer_mends_a_damaged_log() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        # As in closed_log: what is applied is not missed when its batch is damaged.
        copy = copy_replica(follower.files(), follower.pool, "crashed")
        client = await cluster.connect(primary)
        for page in range(6):
            assert (await client.write(page, page_of(page, 1))).status == 0
        await cluster.caught_up(primary, follower)
        files = copy_log(follower.files(), follower.pool, copy)
        await follower.plane.close_replica(DEMO)
        log = batches(files)
        flip_bit(files / "wal", log[3].offset + PAGE + 100)
        # The damaged copy takes the replica's place.
        (follower.pool / "volumes" / DEMO).rename(follower.pool / "volumes" / "old")
        (follower.pool / "volumes" / copy).rename(follower.pool / "volumes" / DEMO)
        report = await follower.plane.open_replica(DEMO)
        assert report.log.last_lsn == log[2].last_lsn
        assert report.log.suspect
        term = await primary.plane.begin_term(DEMO, Epoch(2))
        await follower.plane.fence(DEMO, term, primary.replica)
        assert await cluster.join_and_ship(primary, follower, term) == log[2].last_lsn
        await cluster.set_needed(primary, [follower])
        await primary.plane.commit_inherited(DEMO)
        await cluster.assert_same(primary, follower)
        after = (await follower.plane.status(DEMO)).log
        assert not after.suspect
        assert after.last_lsn >= report.log.must_reach_lsn


@pytest.mark.parametrize("copy", [0, 1])
async def test_with_one_damaged_superblock_copy_a_replica_is_suspect(copy: int) -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        term = await cluster.open_term(primary, followers=[follower])
        await follower.plane.close_replica(DEMO)
        flip_bit(follower.files() / "superblock", copy * PAGE + 200)
        report = await follower.plane.open_replica(DEMO)
        assert report.log.suspect
        # It grants nothing: the primary's gate closes although the connection stands.
        await primary.wait(GateClosed, cause="grant")
        # Having rejoined it is a replica again, and both copies are whole.
        await follower.plane.fence(DEMO, term, primary.replica)
        await cluster.join_and_ship(primary, follower, term)
        assert not (await follower.plane.status(DEMO)).log.suspect
        await follower.plane.close_replica(DEMO)
        assert not (await follower.plane.open_replica(DEMO)).log.suspect


async def test_s19_nothing_rewrites_a_lost_superblock_copy_before_the_replica_has_rejoined() -> (
    None
):
    """Two whole copies after another crash would make the lost promise forgotten, and nobody would know."""
    async with core_cluster(nodes=2) as cluster:
        primary, follower = cluster.nodes
        term = await cluster.open_term(primary, followers=[follower])
        client = await cluster.connect(primary)
        assert (await client.write(1, page_of(1, 1))).status == 0
        await cluster.caught_up(primary, follower)
        await follower.plane.close_replica(DEMO)
        flip_bit(follower.files() / "superblock", 200)
        damaged = (follower.files() / "superblock").read_bytes()
        report = await follower.plane.open_replica(DEMO)
        assert report.superblock_damaged
        lsn = await primary.commit_lsn()
        with pytest.raises(SparrowError):
            await follower.plane.read_page(DEMO, 1, at_least_lsn=lsn)
        await follower.plane.close_replica(DEMO)
        assert (follower.files() / "superblock").read_bytes() == damaged
        assert (await follower.plane.open_replica(DEMO)).superblock_damaged
        await follower.plane.fence(DEMO, term, primary.replica)
        await cluster.join_and_ship(primary, follower, term)
        await cluster.assert_same(primary, follower)


async def test_s19_a_primary_that_lost_a_superblock_copy_is_whole_again_once_it_has_opened() -> (
    None
):
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        await node.plane.close_replica(DEMO)
        flip_bit(node.files() / "superblock", PAGE + 200)
        assert (await node.plane.open_replica(DEMO)).log.suspect
        await cluster.open_term(node, epoch=2)
        assert not (await node.plane.status(DEMO)).log.suspect
        lsn = await node.commit_lsn()
        await cluster.digests(node, lsn)


async def test_with_both_superblock_copies_damaged_a_replica_does_not_open() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.close_replica(DEMO)
        for copy in (0, 1):
            flip_bit(node.files() / "superblock", copy * PAGE + 200)
        with pytest.raises(DamagedData):
            await node.plane.open_replica(DEMO)


async def test_a_clean_end_leaves_nothing_to_apply() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        for page in range(20):
            assert (await client.write(page, page_of(page, 1))).status == 0
        last = await node.commit_lsn()
        await node.plane.close_replica(DEMO)
        assert superblock(node.files()).number("applied_lsn") == last
        report = await node.plane.open_replica(DEMO)
        assert report.log.applied_lsn == report.log.last_lsn == last
        # What is in the extents was committed, whatever headers in the log know of that: whoever opens must have it.
        assert report.log.must_reach_lsn == last
        assert (report.torn_after_lsn, report.damaged_after_lsn) == (None, None)
        assert not report.log.suspect


@pytest.mark.parametrize("share_from", [0, 1], ids=["durable writes", "shared flushes"])
async def test_a_log_written_many_times_over_opens_after_a_crash_at_any_moment(
    share_from: int,
) -> None:
    async with core_cluster(nodes=2, share_from=share_from) as cluster:
        node, reader = cluster.nodes
        await cluster.open_term(node)
        # Batches of many sizes, so that the end of the ring is met at many offsets; each log holds 16 MiB.
        small = await cluster.load(node, pages=range(2000), depth=6, rate=2 << 20)
        large = await cluster.load(node, pages=range(4096, 6144), depth=4, run=27, rate=16 << 20)
        for moment in range(MOMENTS):
            await large.wait_written(moment * 8 << 20)
            acked = small.seen() | large.seen()
            name = await cluster.snapshot(node, reader, f"crash-{moment}", beside=(small, large))
            await check_crash(cluster, reader, name, acked=acked, sent=small.sent | large.sent)
        for load in (small, large):
            await load.stop()
            assert load.failed is None
        assert large.written_bytes > 32 << 20


async def test_d15_what_is_written_after_a_recovery_is_there_after_the_next_crash() -> None:
    """Recovery must put the writer where the log ends, or new batches overwrite the ones that were replayed."""
    async with core_cluster(nodes=4) as cluster:
        node, *readers = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        volume, right = DEMO, {}
        for crash, reader in enumerate(readers, start=1):
            for page in range(crash, 60, crash):
                assert (await client.write(page, page_of(page, crash))).status == 0
                right[page] = page_of(page, crash)
            name = await cluster.snapshot(node, reader, f"crash-{crash}", volume=volume)
            report = await reader.plane.open_replica(name)
            assert report.damaged_after_lsn is None
            await cluster.open_term(reader, epoch=1 + crash, volume=name)
            node, volume = reader, name
            client = await cluster.connect(node, volume)
            for page, content in right.items():
                assert (await client.read(page)).data == content, (page, crash)


async def test_a_write_of_many_pages_is_there_whole_or_not_at_all() -> None:
    """Every WRITE is one entry: whatever a crash leaves, its pages are of one version."""
    run = 128
    async with core_cluster(nodes=2) as cluster:
        node, reader = cluster.nodes
        await cluster.open_term(node)
        load = await cluster.load(node, pages=range(12 * run), depth=4, run=run, rate=8 << 20)
        for moment in range(MOMENTS):
            await load.wait_written(moment * 3 << 20)
            acked = load.seen()
            name = await cluster.snapshot(node, reader, f"crash-{moment}", beside=(load,))
            await reader.plane.open_replica(name)
            await reader.plane.begin_term(name, Epoch(2))
            await cluster.set_needed(reader, [], volume=name)
            await reader.plane.commit_inherited(name)
            for start in range(0, 12 * run, run):
                pages = (start, start + 1, start + run // 2, start + run - 1)
                found = {
                    version_of(page, await cluster.read_page(reader, page, volume=name))
                    for page in pages
                }
                assert len(found) == 1, (start, found)
                assert found.pop() >= acked.get(start, 0)
            await reader.plane.delete_replica(name)
        await load.stop()
        assert load.failed is None


async def check_crash(
    cluster: CoreCluster,
    reader: CoreNode,
    name: VolumeId,
    *,
    acked: dict[int, int],
    sent: dict[int, int],
) -> None:
    """The copy opens, holds every acknowledged write, and nothing that was not sent."""
    report = await reader.plane.open_replica(name)
    assert report.damaged_after_lsn is None
    assert not report.log.suspect
    await reader.plane.begin_term(name, Epoch(2))
    await cluster.set_needed(reader, [], volume=name)
    await reader.plane.commit_inherited(name)
    for page in sorted(acked)[::19]:
        version = version_of(page, await cluster.read_page(reader, page, volume=name))
        assert acked[page] <= version <= sent[page], (page, name)
    await reader.plane.delete_replica(name)


async def test_a_copy_of_a_replica_opens_like_the_replica() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        assert (await client.write(3, page_of(3, 1))).status == 0
        await node.plane.close_replica(DEMO)
        name = copy_replica(node.files(), node.pool, "other")
        await node.plane.open_replica(name)
        assert await cluster.read_page(node, 3, volume=name) == page_of(3, 1)


async def test_a_replica_of_an_older_version_has_places_for_lists_once_it_is_opened() -> None:
    """Its superblock's file ends before them; what the log brings is applied, and its block was listed first."""
    async with core_cluster(nodes=1) as cluster:
        node, files, log = await closed_log(cluster, 3)
        path = files / "superblock"
        os.truncate(path, int(SUMS_LISTS_OFFSET))
        await reopen(node)
        assert path.stat().st_size == SUPERBLOCK_FILE_BYTES
        listed = SUMS_LIST.unpack(path.read_bytes(), offset=int(SUMS_LISTS_OFFSET))
        assert (listed.number("applied_lsn"), listed.number("place")) == (0, 0)
        assert log[0].last_lsn <= listed.number("target_lsn") <= log[-1].last_lsn
        assert listed.numbers("blocks")[: listed.number("count")] == (0,)
        assert superblock(files).number("applied_lsn") == listed.number("target_lsn")

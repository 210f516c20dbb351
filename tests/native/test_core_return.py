"""How a replica that was away comes back: what is kept, what is copied again, and that nothing old survives."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from sparrow._native.crc import crc32c
from sparrow.authority.types import ReplicaState, Term
from sparrow.base.ids import Lsn
from sparrow.formats.superblock import STATE_REBUILDING, SUPERBLOCK, SUPERBLOCK_BYTES
from sparrow.ports.dataplane import (
    Absence,
    PeerLost,
    PeerRebuilt,
    RebuildKind,
    RecoverySettings,
)
from tests.support.core_client import WAIT_S, page_of, version_of
from tests.support.core_cluster import DEMO, PAGE, PAGES, CoreCluster, CoreNode, core_cluster
from tests.support.core_files import flip_bit, superblock
from tests.support.waiting import until

#: Data of the volume that is copied, bytes; it has 64 MiB.
DATA = 40 << 20
DATA_PAGES = DATA // PAGE
GRANULE_PAGES = 16
#: Pages between two durable marks of a volume this small, and how many marks may be under way.
MARK_PAGES = 64
MARKS_AHEAD = 3
#: More than the log keeps: 16 MiB.
LOG_AND_MORE = 40 << 20
#: So slow that a copy is not whole before it is broken off, although the machine stands still in between.
SLOW_COPY = RecoverySettings(rebuild_rate_mib=8)


async def fill(cluster: CoreCluster, primary: CoreNode, pages: range, size: int) -> dict[int, int]:
    """Write the pages in order until so many bytes are acknowledged; the newest version of each."""
    load = await cluster.load(primary, pages=pages, depth=16, run=8, limit=size)
    await load.wait_written(size)
    await load.stop()
    assert load.failed is None
    return load.acked


async def write_past_the_log(
    cluster: CoreCluster, primary: CoreNode, pages: range
) -> dict[int, int]:
    """So much that the log lets go of everything that stood in it, all within a few pages."""
    began = (await primary.plane.status(DEMO)).log.last_lsn
    acked: dict[int, int] = {}
    for _ in range(8):
        acked |= await fill(cluster, primary, pages, LOG_AND_MORE // 2)
        if (await primary.plane.status(DEMO)).log.oldest_lsn > began:
            return acked
    raise AssertionError("the log still holds it")


async def shipped(primary: CoreNode, peer: CoreNode) -> int:
    """Bytes of base frames sent to a peer, over all links."""
    peers = (await primary.plane.status(DEMO)).peers
    return next((one.base_bytes for one in peers if one.slot == peer.number), 0)


async def known(primary: CoreNode, peer: CoreNode) -> Absence | None:
    uuid = (await peer.plane.status(DEMO)).log.uuid
    return (await primary.plane.status(DEMO)).absence(uuid)


async def copied_pages(primary: CoreNode, peer: CoreNode, count: int) -> None:
    """Wait until the base lane has dealt with so many pages, or is done."""

    async def so_far() -> bool:
        if primary.heard(PeerRebuilt):
            return True
        peers = (await primary.plane.status(DEMO)).peers
        return any(one.slot == peer.number and one.base_pages_done >= count for one in peers)

    await until(so_far, within_s=WAIT_S, every_s=0.001)


async def restart(node: CoreNode) -> None:
    """Close and open its replica: nothing in memory is left."""
    await node.plane.close_replica(DEMO)
    await node.plane.open_replica(DEMO)


async def wait_rebuilt(cluster: CoreCluster, primary: CoreNode, peer: CoreNode) -> None:
    ended = await primary.wait((PeerRebuilt, PeerLost), slot=peer.number)
    assert isinstance(ended, PeerRebuilt), ended
    assert (await peer.plane.status(DEMO)).log.state is ReplicaState.CLEAN
    await cluster.assert_same(primary, peer)


async def check_pages(
    cluster: CoreCluster, node: CoreNode, acked: dict[int, int], pages: Sequence[int]
) -> None:
    for page in pages:
        assert version_of(page, await cluster.read_page(node, page)) == acked.get(page, 0)


# ---------------------------------------------------------------- an interrupted copy


async def test_a_copy_that_is_broken_off_ten_times_copies_little_twice() -> None:
    """Either end goes away, by turns: the follower with all its memory, the primary with its term."""
    async with core_cluster(nodes=2, recovery=SLOW_COPY) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        acked = await fill(cluster, primary, range(DATA_PAGES), DATA)
        sent = 0
        epoch = 1
        kinds = []
        for turn in range(10):
            kinds.append((await cluster.begin_rebuild(primary, fresh, term)).kind)
            await copied_pages(primary, fresh, DATA_PAGES // 12)
            assert not primary.heard(PeerRebuilt)
            if turn % 2 == 0:
                await restart(fresh)
                await primary.wait(PeerLost, slot=fresh.number)
                sent += await shipped(primary, fresh)
            sent_before = await shipped(primary, fresh)
            if turn % 2 == 1:
                sent += sent_before
            # The primary too: counters, cursors and maps of this process are gone.
            await restart(primary)
            epoch += 1
            term = await cluster.open_term(primary, epoch=epoch)
        plan = await cluster.begin_rebuild(primary, fresh, term)
        kinds.append(plan.kind)
        await wait_rebuilt(cluster, primary, fresh)
        sent += await shipped(primary, fresh)
        assert kinds == [RebuildKind.FULL, *[RebuildKind.RESUMED] * 10]
        again = sent // PAGE - DATA_PAGES - DATA_PAGES // 64
        assert again <= 10 * (MARKS_AHEAD + 1) * (MARK_PAGES + 1), again
        await check_pages(cluster, fresh, acked, range(0, DATA_PAGES, 997))


async def test_s20_what_was_written_while_no_session_ran_is_not_missed() -> None:
    """Over pages that were copied and pages that were not; the log still has it all."""
    async with core_cluster(nodes=2, recovery=SLOW_COPY) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        acked = await fill(cluster, primary, range(DATA_PAGES), DATA)
        await cluster.begin_rebuild(primary, fresh, term)
        await copied_pages(primary, fresh, DATA_PAGES // 2)
        await restart(fresh)
        acked |= await fill(cluster, primary, range(64), 64 * PAGE)
        acked |= await fill(cluster, primary, range(DATA_PAGES - 64, DATA_PAGES), 64 * PAGE)
        plan = await cluster.begin_rebuild(primary, fresh, term)
        assert plan.kind is RebuildKind.RESUMED
        assert plan.cursor > DATA_PAGES // 4
        await wait_rebuilt(cluster, primary, fresh)
        await check_pages(cluster, fresh, acked, [0, 1, 63, 64, DATA_PAGES - 64, DATA_PAGES - 1])


async def test_s20_a_gap_in_the_log_is_made_up_from_the_map() -> None:
    """More was written between two sessions than the log holds: the second pass copies what changed."""
    async with core_cluster(nodes=2, recovery=SLOW_COPY) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        await cluster.set_line([primary], epoch=1, version=1)
        acked = await fill(cluster, primary, range(DATA_PAGES), DATA)
        await cluster.begin_rebuild(primary, fresh, term)
        await copied_pages(primary, fresh, DATA_PAGES // 2)
        await restart(fresh)
        # Once over pages that were copied, so that a copy kept without the second pass would be old.
        acked |= await write_past_the_log(cluster, primary, range(128))
        plan = await cluster.begin_rebuild(primary, fresh, term)
        assert plan.kind is RebuildKind.DELTA
        assert plan.cursor > DATA_PAGES // 4
        # Broken off in the middle of that: the gap stays open until all of it was copied.
        await copied_pages(primary, fresh, 256)
        await restart(fresh)
        plan = await cluster.begin_rebuild(primary, fresh, term)
        assert plan.kind is RebuildKind.RESUMED
        await wait_rebuilt(cluster, primary, fresh)
        await check_pages(cluster, fresh, acked, [0, 1, 64, 127, 128, DATA_PAGES - 1])


async def test_s20_a_gap_that_no_map_covers_is_a_copy_of_everything() -> None:
    async with core_cluster(nodes=2, recovery=SLOW_COPY) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        await fill(cluster, primary, range(DATA_PAGES), DATA)
        await cluster.begin_rebuild(primary, fresh, term)
        await copied_pages(primary, fresh, DATA_PAGES // 2)
        await restart(fresh)
        await write_past_the_log(cluster, primary, range(128))
        # The map begins only now: it cannot know what was missed.
        await cluster.set_line([primary], epoch=1, version=1)
        plan = await cluster.begin_rebuild(primary, fresh, term)
        assert plan.kind is RebuildKind.FULL
        await wait_rebuilt(cluster, primary, fresh)


async def test_s20_what_a_failover_cuts_leaves_no_hole_behind() -> None:
    """Uncommitted entries reach the replica being rebuilt, and the next primary never had them."""
    slower = RecoverySettings(rebuild_rate_mib=4)
    async with core_cluster(nodes=3, recovery=slower) as cluster:
        first, second, fresh = cluster.nodes
        term = await cluster.open_term(first, followers=[second])
        acked = await fill(cluster, first, range(4096), 16 << 20)
        await cluster.caught_up(first, second)
        await cluster.begin_rebuild(first, fresh, term)
        await copied_pages(first, fresh, 256)
        # The second replica is cut off: what is written from here on can never commit.
        await first.plane.drop_peer(DEMO, second.number)
        stuck = await cluster.load(first, pages=range(4096), depth=32, run=8, limit=1 << 20)
        await stuck.wait_written(1 << 20)

        async def has_them() -> bool:
            log = (await fresh.plane.status(DEMO)).log
            return log.last_lsn > log.commit_lsn

        await until(has_them, within_s=WAIT_S, every_s=0.002)
        before = (await fresh.plane.status(DEMO)).log
        await first.plane.close_replica(DEMO)
        term = await cluster.open_term(second, epoch=2)
        plan = await cluster.begin_rebuild(second, fresh, term)
        assert plan.kind is RebuildKind.RESUMED
        assert before.commit_lsn <= plan.joined_lsn < before.last_lsn
        await wait_rebuilt(cluster, second, fresh)
        await check_pages(cluster, fresh, acked, range(0, 4096, 191))


async def test_a_superblock_of_before_says_nothing_of_how_far_pages_reach() -> None:
    """Its zeros deny nothing: a copy goes on, and says it from then on."""
    async with core_cluster(nodes=2, recovery=SLOW_COPY) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        acked = await fill(cluster, primary, range(DATA_PAGES), DATA)
        await cluster.begin_rebuild(primary, fresh, term)
        await copied_pages(primary, fresh, DATA_PAGES // 2)
        await fresh.plane.close_replica(DEMO)
        assert superblock(fresh.files())["reach_lsn"] != 0
        forget_reach(fresh.files() / "superblock")
        await fresh.plane.open_replica(DEMO)
        plan = await cluster.begin_rebuild(primary, fresh, term)
        assert plan.kind is RebuildKind.RESUMED
        assert plan.cursor > DATA_PAGES // 4
        await wait_rebuilt(cluster, primary, fresh)
        assert superblock(fresh.files())["reach_epoch"] == 1
        await check_pages(cluster, fresh, acked, range(0, DATA_PAGES, 997))


def forget_reach(file: Path) -> None:
    """Both copies as they were before these fields were used."""
    with file.open("r+b") as opened:
        for copy in (0, 1):
            block = bytearray(os.pread(opened.fileno(), SUPERBLOCK_BYTES, copy * SUPERBLOCK_BYTES))
            for name, size in (
                ("reach_epoch", 8),
                ("reach_start", 8),
                ("reach_lsn", 8),
                ("check", 4),
            ):
                at = SUPERBLOCK.offset_of(name)
                block[at : at + size] = bytes(size)
            at = SUPERBLOCK.offset_of("check")
            block[at : at + 4] = struct.pack("<I", crc32c(bytes(block)))
            os.pwrite(opened.fileno(), block, copy * SUPERBLOCK_BYTES)


# ---------------------------------------------------------------- a replica that was in sync


async def away(cluster: CoreCluster, in_sync: Sequence[CoreNode], gone: CoreNode) -> None:
    """One replica is closed and opened, and the line leaves it out."""
    await in_sync[0].plane.drop_peer(DEMO, gone.number)
    await restart(gone)
    await cluster.set_line(in_sync, epoch=1, version=2)


async def three_in_sync(
    cluster: CoreCluster,
) -> tuple[CoreNode, CoreNode, CoreNode, Term, dict[int, int]]:
    first, second, third = cluster.nodes
    await cluster.set_line([first, second, third], epoch=1, version=1)
    term = await cluster.open_term(first, followers=[second, third])
    acked = await fill(cluster, first, range(DATA_PAGES), DATA)
    for follower in (second, third):
        await cluster.caught_up(first, follower)
    return first, second, third, term, acked


async def test_a_replica_past_the_log_gets_only_what_changed() -> None:
    async with core_cluster(nodes=3) as cluster:
        first, second, third, term, acked = await three_in_sync(cluster)
        await away(cluster, [first, second], third)
        await cluster.set_needed(first, [second])
        acked |= await write_past_the_log(cluster, first, range(512, 1024))
        plan = await cluster.begin_rebuild(first, third, term)
        assert plan.kind is RebuildKind.DELTA
        assert plan.cursor == PAGES
        await wait_rebuilt(cluster, first, third)
        changed = await known(first, third)
        assert changed is not None
        # What was in flight when it left is in the map too, and little else beside the 512 pages.
        assert 512 <= changed.changed_granules * GRANULE_PAGES
        assert await shipped(first, third) <= 1.1 * changed.changed_granules * GRANULE_PAGES * PAGE
        await check_pages(cluster, third, acked, [0, 511, 512, 700, 1023, 1024, DATA_PAGES - 1])


async def test_a_copy_that_counts_on_pages_which_were_let_go_of_since_is_refused() -> None:
    """It is made ready twice, and the later one keeps nothing; the link is of the earlier, which counts on its pages.

    A preparation that was given up and comes late, behind the one that was answered, does that. Else pages that were
    emptied would be taken for whole.
    """
    async with core_cluster(nodes=3) as cluster:
        first, second, third, term, _acked = await three_in_sync(cluster)
        await away(cluster, [first, second], third)
        await cluster.set_needed(first, [second])
        await fill(cluster, first, range(512, 1024), DATA // 8)
        plan = await cluster.prepare(first, third, term)
        assert (plan.kind, plan.cursor) == (RebuildKind.DELTA, PAGES)
        late = await cluster.prepare(first, third, term)
        assert late.kind is RebuildKind.FULL
        first.forget((PeerRebuilt, PeerLost), slot=third.number)
        await cluster.ship(first, third, term, joined_lsn=plan.joined_lsn, rebuild=plan)
        ended = await first.wait((PeerRebuilt, PeerLost), slot=third.number)
        assert isinstance(ended, PeerLost)
        assert (await third.plane.status(DEMO)).log.state is ReplicaState.REBUILDING
        await cluster.rebuild(first, third, term)
        await cluster.assert_same(first, third)


async def test_what_was_applied_logged_and_emptied_meanwhile_is_all_in_a_delta() -> None:
    """Of writes and of zeros: what the map has, and what stands in the log and is not applied yet."""
    async with core_cluster(nodes=3) as cluster:
        first, second, third, term, acked = await three_in_sync(cluster)
        await away(cluster, [first, second], third)
        await cluster.set_needed(first, [second])
        client = await cluster.connect(first)
        assert (await client.unmap((1024, 128))).status == 0
        acked |= await write_past_the_log(cluster, first, range(512, 640))

        async def applied() -> bool:
            log = (await first.plane.status(DEMO)).log
            return log.applied_lsn == log.commit_lsn

        await until(applied, within_s=WAIT_S)
        assert (await client.write(2048, page_of(2048, 77))).status == 0
        assert (await client.unmap((3072, 128))).status == 0
        plan = await cluster.begin_rebuild(first, third, term)
        assert plan.kind is RebuildKind.DELTA
        await wait_rebuilt(cluster, first, third)
        for page in (1024, 1151, 3072, 3199):
            assert version_of(page, await cluster.read_page(third, page)) == 0
        assert version_of(2048, await cluster.read_page(third, 2048)) == 77
        await check_pages(cluster, third, acked, [512, 639, 1023, 1152, 3071, 3200])


async def test_a_suspect_replica_past_the_log_is_copied_whole() -> None:
    """It applies nothing by itself, so what it crashed with is not waited for, and nothing of it is kept."""
    async with core_cluster(nodes=2) as cluster:
        primary, other = cluster.nodes
        await cluster.set_line([primary, other], epoch=1, version=1)
        term = await cluster.open_term(primary, followers=[other])
        load = await cluster.load(primary, pages=range(256), depth=4, rate=2 << 20)
        await load.wait_written(1 << 20)
        crashed = await cluster.snapshot(other, other, "crashed", beside=(load,))
        await load.stop()
        acked = load.acked
        await other.plane.close_replica(DEMO)
        volumes = other.pool / "volumes"
        (volumes / DEMO).rename(volumes / "before")
        (volumes / crashed).rename(volumes / DEMO)
        flip_bit(other.files() / "superblock", 200)
        report = await other.plane.open_replica(DEMO)
        assert report.log.suspect
        assert report.log.applied_lsn < report.log.commit_lsn
        await primary.plane.drop_peer(DEMO, other.number)
        await cluster.set_line([primary], epoch=1, version=2)
        await cluster.set_needed(primary, [])
        acked |= await write_past_the_log(cluster, primary, range(512, 640))
        async with asyncio.timeout(WAIT_S):
            plan = await cluster.begin_rebuild(primary, other, term)
        assert plan.kind is RebuildKind.FULL
        await wait_rebuilt(cluster, primary, other)
        await check_pages(cluster, other, acked, [0, 255, 256, 512, 639])


async def test_a_replica_with_one_superblock_copy_keeps_no_pages_whatever_a_map_says() -> None:
    """It left with everything applied, and the map of what it missed reaches back to that: a delta would be enough.

    With one copy nobody can tell whether that is the newest. A disk that lost a write to it leaves a replica that says
    it is whole, and whose files a rebuild had emptied since; the map knows nothing of that.
    """
    async with core_cluster(nodes=2) as cluster:
        primary, other = cluster.nodes
        await cluster.set_line([primary, other], epoch=1, version=1)
        term = await cluster.open_term(primary, followers=[other])
        acked = await fill(cluster, primary, range(256), 1 << 20)
        await cluster.caught_up(primary, other)
        await away(cluster, [primary], other)
        await cluster.set_needed(primary, [])
        await other.plane.close_replica(DEMO)
        flip_bit(other.files() / "superblock", 200)
        report = await other.plane.open_replica(DEMO)
        assert report.log.suspect
        acked |= await write_past_the_log(cluster, primary, range(512, 640))
        changed = await known(primary, other)
        assert changed is not None
        assert changed.from_lsn <= report.log.applied_lsn
        plan = await cluster.begin_rebuild(primary, other, term)
        assert (plan.kind, plan.cursor) == (RebuildKind.FULL, 0)
        await wait_rebuilt(cluster, primary, other)
        await check_pages(cluster, other, acked, [0, 255, 256, 512, 639])


async def test_s21_the_map_survives_a_failover() -> None:
    async with core_cluster(nodes=3) as cluster:
        first, second, third, term, acked = await three_in_sync(cluster)
        await away(cluster, [first, second], third)
        await cluster.set_needed(first, [second])
        acked |= await fill(cluster, first, range(256), 1 << 20)
        await cluster.caught_up(first, second)
        await first.plane.close_replica(DEMO)
        # Its own restart as well: what it knows is on its disk.
        await restart(second)
        term = await cluster.open_term(second, epoch=2)
        acked |= await write_past_the_log(cluster, second, range(512, 640))
        plan = await cluster.begin_rebuild(second, third, term)
        assert plan.kind is RebuildKind.DELTA
        await wait_rebuilt(cluster, second, third)
        await check_pages(cluster, third, acked, [0, 128, 255, 256, 512, 639, 640])


async def test_s21_a_crash_forgets_no_bit_of_what_the_log_let_go() -> None:
    async with core_cluster(nodes=3) as cluster:
        first, second, third, _term, acked = await three_in_sync(cluster)
        await away(cluster, [first, second], third)
        await cluster.set_needed(first, [])
        await first.plane.drop_peer(DEMO, second.number)
        acked |= await fill(cluster, first, range(256), 1 << 20)
        acked |= await write_past_the_log(cluster, first, range(512, 640))
        third_uuid = (await third.plane.status(DEMO)).log.uuid
        name = await cluster.snapshot(first, second, "crashed")
        report = await second.plane.open_replica(name)
        assert report.damaged_after_lsn is None
        crashed = (await second.plane.status(name)).absence(third_uuid)
        assert crashed is not None
        # Everything the log does not hold any more has its bit: the 256 pages of the beginning, and the rest.
        assert crashed.changed_granules * GRANULE_PAGES >= 256
        assert crashed.from_lsn <= report.log.oldest_lsn
        await second.plane.close_replica(name)


async def test_a_map_that_began_too_late_is_not_used() -> None:
    async with core_cluster(nodes=3) as cluster:
        first, second, third, term, _acked = await three_in_sync(cluster)
        await first.plane.drop_peer(DEMO, third.number)
        await cluster.set_needed(first, [second])
        await fill(cluster, first, range(256), 1 << 20)

        async def applied() -> bool:
            log = (await first.plane.status(DEMO)).log
            return log.applied_lsn == log.commit_lsn

        await until(applied, within_s=WAIT_S)
        await away(cluster, [first, second], third)
        await write_past_the_log(cluster, first, range(512, 640))
        plan = await cluster.begin_rebuild(first, third, term)
        assert plan.kind is RebuildKind.FULL
        await wait_rebuilt(cluster, first, third)


async def test_a_damaged_map_is_dropped_and_costs_a_copy_of_everything() -> None:
    async with core_cluster(nodes=3) as cluster:
        first, second, third, _term, _acked = await three_in_sync(cluster)
        await away(cluster, [first, second], third)
        await cluster.set_needed(first, [second])
        await write_past_the_log(cluster, first, range(512, 640))
        kept = await known(first, third)
        assert kept is not None
        await first.plane.close_replica(DEMO)
        flip_bit(first.files() / "absences", 200)
        await first.plane.open_replica(DEMO)
        # One begins anew at the open, for the line still leaves the third replica out; it knows nothing of before.
        anew = await known(first, third)
        assert anew is not None
        assert (anew.changed_granules, anew.from_lsn > kept.from_lsn) == (0, True)
        term = await cluster.open_term(first, epoch=2)
        plan = await cluster.begin_rebuild(first, third, term)
        assert plan.kind is RebuildKind.FULL


async def test_a_map_ends_when_its_member_is_in_sync_again() -> None:
    async with core_cluster(nodes=2) as cluster:
        primary, other = cluster.nodes
        await cluster.open_term(primary)
        await cluster.set_line([primary], epoch=1, version=1)
        assert await known(primary, other) is not None
        # Who is not in sync itself cannot know what changes.
        assert await known(other, other) is None
        assert not (await other.plane.status(DEMO)).absences
        await cluster.set_line([primary, other], epoch=1, version=2)
        assert await known(primary, other) is None


@pytest.mark.parametrize("wipe", [False, True])
async def test_a_wiped_replica_is_copied_whole_and_keeps_nothing(wipe: bool) -> None:
    """Other files have another uuid: no map is of them, and nothing of what they hold survives."""
    async with core_cluster(nodes=2) as cluster:
        primary, other = cluster.nodes
        await cluster.set_line([primary, other], epoch=1, version=1)
        term = await cluster.open_term(primary, followers=[other])
        acked = await fill(cluster, primary, range(1024), 4 << 20)
        await primary.plane.drop_peer(DEMO, other.number)
        await cluster.set_line([primary], epoch=1, version=2)
        await cluster.set_needed(primary, [])
        if wipe:
            await other.plane.delete_replica(DEMO)
            await cluster.make_replica(other)
        acked |= await write_past_the_log(cluster, primary, range(512, 640))
        plan = await cluster.begin_rebuild(primary, other, term)
        assert plan.kind is (RebuildKind.FULL if wipe else RebuildKind.DELTA)
        await wait_rebuilt(cluster, primary, other)
        await check_pages(cluster, other, acked, [0, 511, 512, 639, 640, 1023, 1024])


async def test_what_stood_where_the_primary_has_nothing_does_not_survive() -> None:
    """A replica that is dirty where the volume is empty: a branch that was never committed, kept by no page."""
    async with core_cluster(nodes=2) as cluster:
        primary, other = cluster.nodes
        # The other replica lived as the only one of another history, with the same term numbers a level below.
        await cluster.open_term(other)
        await fill(cluster, other, range(2048, 3072), 4 << 20)
        await restart(other)
        await cluster.open_term(primary, epoch=5)
        client = await cluster.connect(primary)
        assert (await client.write(0, page_of(0, 9))).status == 0
        term = await cluster.open_term(primary, epoch=6)
        plan = await cluster.begin_rebuild(primary, other, term)
        assert plan.kind is RebuildKind.FULL
        await wait_rebuilt(cluster, primary, other)
        assert version_of(2048, await cluster.read_page(other, 2048)) == 0
        assert plan.joined_lsn == Lsn(0)


async def test_a_map_grows_with_its_volume() -> None:
    """Pages behind the old end, in another block of the map: they are missed like any other, and copied."""
    async with core_cluster(nodes=3) as cluster:
        first, second, third, term, acked = await three_in_sync(cluster)
        await away(cluster, [first, second], third)
        await cluster.set_needed(first, [second])
        size = 3 << 30
        await first.plane.resize(DEMO, size)
        last = size // PAGE - 64
        acked |= await fill(cluster, first, range(last, last + 64), 64 * PAGE)
        acked |= await write_past_the_log(cluster, first, range(512, 640))
        changed = await known(first, third)
        assert changed is not None
        await restart(first)
        kept = await known(first, third)
        assert kept is not None
        assert (kept.from_lsn, kept.changed_granules) >= (changed.from_lsn, 64 // GRANULE_PAGES)
        term = await cluster.open_term(first, epoch=2)
        plan = await cluster.begin_rebuild(first, third, term)
        assert plan.kind is RebuildKind.DELTA
        await wait_rebuilt(cluster, first, third)
        await check_pages(cluster, third, acked, [0, 511, 512, 639, 640, last, last + 63])


# ---------------------------------------------------------------- what a preparation must not lose


async def test_a_round_that_ends_late_takes_no_prepared_replica_back() -> None:
    """A round that only lists a map begins beside the preparation; its end says nothing of what was let go."""
    async with core_cluster(nodes=2) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary, followers=[fresh])
        await fill(cluster, primary, range(2048), 8 << 20)
        for turn in range(3):
            await primary.plane.drop_peer(DEMO, fresh.number)
            await fresh.plane.fence(DEMO, term, primary.replica)
            ours = (await primary.plane.status(DEMO)).log
            # Both before the reactor looks: the map is due when the preparation has decided.
            await asyncio.gather(
                fresh.plane.prepare_rebuild(DEMO, term, ours, None),
                fresh.plane._call("set_absent", DEMO, data=bytes([turn + 1]) * 16),
            )
            assert (await fresh.plane.status(DEMO)).log.applied_lsn == 0
            # Whatever was under way is over when it is closed.
            await fresh.plane.close_replica(DEMO)
            record = superblock(fresh.files())
            assert record["state"] == STATE_REBUILDING
            assert (record["applied_lsn"], record["base_lsn"]) == (0, 0)
            await fresh.plane.open_replica(DEMO)
            await cluster.rebuild(primary, fresh, term)
            await cluster.assert_same(primary, fresh)

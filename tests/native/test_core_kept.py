"""What a replica must have on its disk, and keep there: promises, its history, the log that others need."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest

from sparrow.authority.types import AckPolicy, Term
from sparrow.base.errors import SparrowError
from sparrow.base.ids import Epoch, Lsn, NodeId, ReplicaUuid, VolumeId
from sparrow.formats.superblock import SUPERBLOCK, SUPERBLOCK_BYTES
from sparrow.ports.dataplane import DiskFailed, GateOpened, Membership, SessionEnded
from tests.support.core_client import Client, page_of
from tests.support.core_cluster import DEMO, PAGE, CoreNode, core_cluster
from tests.support.core_files import batches, copy_log, copy_replica, superblock
from tests.support.core_peer import (
    MOMENT_S,
    OTHER,
    PEER,
    a_log,
    alone,
    granted,
    held_open,
    needs_peer,
    shipping,
)
from tests.support.ship_peer import link
from tests.support.waiting import until

PATH_ERROR = (0x02, 0x04, 0x0A)
#: UNIT ATTENTION, asymmetric access state changed: told once, before what the new state has to say.
ACCESS_CHANGED = (0x06, 0x2A, 0x06)


async def test_a_promise_that_cannot_be_kept_is_not_given() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        # From here on the superblock's descriptor cannot be written to.
        read_only = os.open(node.files() / "superblock", os.O_RDONLY)
        os.dup2(read_only, node.plane._volumes[DEMO].files.superblock_fd)
        os.close(read_only)
        with pytest.raises(SparrowError):
            await node.plane.fence(DEMO, Term(epoch=Epoch(3), start=1), OTHER)
        assert (await node.wait(DiskFailed)).file == "superblock"


async def test_a_replica_whose_disk_failed_begins_no_term_and_joins_nobody() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        client = await cluster.connect(node)
        wal = os.open(node.files() / "wal", os.O_RDONLY)
        os.dup2(wal, node.plane._volumes[DEMO].files.wal_fd)
        os.close(wal)
        assert (await client.write(1, page_of(1, 1))).status != 0
        await node.wait(DiskFailed)
        with pytest.raises(SparrowError):
            await node.plane.begin_term(DEMO, Epoch(2))
        with pytest.raises(SparrowError):
            await node.plane.fence(DEMO, Term(epoch=Epoch(3), start=1), OTHER)


async def test_a_batch_of_another_history_never_follows() -> None:
    """The same term, LSN, size and place: only what each batch says of the one before it tells them apart."""
    async with core_cluster(nodes=2) as cluster:
        one, other = cluster.nodes
        for node, versions in ((one, (1, 2)), (other, (3, 4))):
            await a_log(cluster, node, versions)
        last = batches(one.files())[-1]
        foreign = batches(other.files())[-1]
        assert (foreign.offset, foreign.size, foreign.first_lsn) == (
            last.offset,
            last.size,
            last.first_lsn,
        )
        content = (other.files() / "wal").read_bytes()[last.offset : last.offset + last.size]
        with (one.files() / "wal").open("r+b") as log:
            log.seek(last.offset)
            log.write(content)
        report = await one.plane.open_replica(DEMO)
        # It is not taken for this log's own: the log goes, and with it nothing, for all of it is applied.
        assert report.let_go_to_lsn == last.last_lsn


async def test_the_log_keeps_what_is_not_applied() -> None:
    """However full it is: a peer holds up every commit, so nothing may be applied."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        grants = await granted(node)
        await needs_peer(node)
        with held_open(grants):
            await node.wait(GateOpened)
            committed = await node.commit_lsn()
            # 80 writes of 256 KiB at once; the ring has 16 MiB.
            loads = [
                await cluster.load(node, pages=pages, depth=40, run=64)
                for pages in (range(4096), range(4096, 8192))
            ]
            await until(lambda: sum(load.written_bytes for load in loads) >= 20 << 20)

            async def full() -> bool:
                """Half of them have a place by now, however they share batches."""
                return (await node.plane.status(DEMO)).log.last_lsn > committed + 30

            await until(full)
            await asyncio.sleep(2 * MOMENT_S)
            log = (await node.plane.status(DEMO)).log
            assert (log.last_lsn - committed) * 65 * PAGE < 16 << 20
            assert log.commit_lsn == committed
            assert log.oldest_lsn <= committed + 1
        # Nobody waits for what may come back.
        await node.plane.close_gate(DEMO, "superseded")
        for load in loads:
            await load.stop()


async def test_the_log_is_kept_for_a_peer_that_reads_it() -> None:
    """Up to four fifths of the ring; a round of the flusher at three quarters lets nothing of it go."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        with link(buffer_bytes=4096) as peer:
            await shipping(cluster, node, peer.theirs, rebuild=False)
            began = (await node.plane.status(DEMO)).log.last_lsn
            client = await cluster.connect(node)
            # 65 blocks each: 12.3 of 16 MiB.
            for turn in range(48):
                data = b"".join(page_of(turn * 64 + i, 1) for i in range(64))
                assert (await client.write(turn * 64, data)).status == 0

            async def applied() -> bool:
                log = (await node.plane.status(DEMO)).log
                return log.applied_lsn == log.last_lsn

            await until(applied)
            assert (await node.plane.status(DEMO)).log.oldest_lsn <= began + 3


async def test_both_superblock_copies_hold_a_promise() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, Term(epoch=Epoch(9), start=1), OTHER)
        both = (node.files() / "superblock").read_bytes()
        for at in (0, SUPERBLOCK_BYTES):
            copy = SUPERBLOCK.unpack(both[at : at + SUPERBLOCK_BYTES])
            assert copy.number("promised_epoch") == 9


async def test_a_log_that_ends_below_what_is_applied_is_let_go() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        client = await cluster.connect(node)
        for version in (1, 2):
            assert (await client.write(1, page_of(1, version))).status == 0
        await node.plane.close_replica(DEMO)
        last = batches(node.files())[-1]
        assert superblock(node.files()).number("applied_lsn") == last.last_lsn
        with (node.files() / "wal").open("r+b") as wal:
            wal.seek(last.offset)
            wal.write(bytes(last.size))
        report = await node.plane.open_replica(DEMO)
        # All of it is in the extents, so the log is let go and no LSN of it is given again.
        assert report.let_go_to_lsn == last.last_lsn
        assert report.log.last_lsn == last.last_lsn


async def test_no_session_lives_from_one_term_into_a_later_one() -> None:
    """A write that its initiator had done elsewhere meanwhile, and overwritten, may still be under way on it.

    A session of an initiator that waits for this replica to become primary lives on: nothing was sent on it before.
    """
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await alone(cluster, node)
        old = await cluster.connect(node)
        assert (await old.write(1, page_of(1, 1))).status == 0
        await node.plane.fence(DEMO, Term(epoch=Epoch(2), start=1), OTHER)
        assert (await old.read(1)).sense == ACCESS_CHANGED
        assert (await old.read(1)).sense == PATH_ERROR
        waiting = await cluster.connect(node)
        assert (await waiting.read(1)).sense == PATH_ERROR
        await cluster.open_term(node, epoch=3)
        assert (await node.wait(SessionEnded)).cause == "volume"
        with pytest.raises((ConnectionError, AssertionError)):
            assert (await old.write(1, page_of(1, 2))).status == 0
        assert (await waiting.read(1)).sense == ACCESS_CHANGED
        assert (await waiting.read(1)).data == page_of(1, 1)


async def write_pages(client: Client) -> None:
    """Twenty pages, one by one."""
    for page in range(20):
        assert (await client.write(page, page_of(page, 1))).status == 0


async def checkpoint(node: CoreNode, volume: VolumeId = DEMO) -> Lsn:
    """Returns when the superblock says that all is applied: the last LSN."""

    async def checkpointed() -> bool:
        log = (await node.plane.status(volume)).log
        fields = superblock(node.files(volume))
        return log.applied_lsn == log.last_lsn == fields.number("applied_lsn")

    await until(checkpointed)
    return (await node.plane.status(volume)).log.last_lsn


@pytest.mark.parametrize("only", [True, False], ids=["only member", "one of two"])
async def test_what_is_applied_is_kept_for_a_member_that_returns_and_for_nobody_else(
    only: bool,
) -> None:
    async with core_cluster(nodes=1 if only else 2) as cluster:
        node = cluster.nodes[0]
        await cluster.set_line([node], epoch=1, version=1)
        await alone(cluster, node)
        await write_pages(await cluster.connect(node))
        last = await checkpoint(node)
        # As a crash leaves it, with what is in the superblock by now.
        crashed = copy_replica(node.files(), node.pool, "crashed")
        report = await node.plane.open_replica(crashed)
        assert not report.log.suspect
        assert report.log.last_lsn == last
        assert report.log.oldest_lsn == (last + 1 if only else 1)
        for page in range(20):
            assert await cluster.read_page(node, page, volume=crashed) == page_of(page, 1)


@pytest.mark.parametrize(
    ("in_sync", "ack", "kept"),
    [
        (2, AckPolicy.SYNC, False),
        (2, AckPolicy.LOCAL, False),
        (2, AckPolicy.QUORUM, True),
        (1, AckPolicy.SYNC, True),
    ],
)
async def test_a_start_reads_nothing_of_what_is_applied_where_every_member_has_it(
    in_sync: int, ack: AckPolicy, kept: bool
) -> None:
    """A member in sync has all that was committed, where commits wait for all of them."""
    async with core_cluster(nodes=2) as cluster:
        node = cluster.nodes[0]
        await cluster.set_line(cluster.nodes[:in_sync], epoch=1, version=1, ack=ack)
        await alone(cluster, node)
        client = await cluster.connect(node)
        await write_pages(client)
        last = await checkpoint(node)
        assert (await node.plane.status(DEMO)).log.oldest_lsn == 1
        old = copy_replica(node.files(), node.pool, "old")
        # Not applied yet, or so it is in this copy: the log is of later, the superblock and all else of before.
        assert (await client.write(30, page_of(30, 2))).status == 0
        copy_log(node.files(), node.pool, old)
        report = await node.plane.open_replica(old)
        assert report.log.oldest_lsn == (1 if kept else last + 1)
        assert report.log.last_lsn == last + 1
        assert report.log.must_reach_lsn <= last + 1
        assert not report.log.suspect
        assert report.let_go_to_lsn is None, "nothing of it is damaged"
        assert [row.first_lsn for row in report.log.terms] == [1]
        await cluster.open_term(node, epoch=2, volume=old)
        for page in range(20):
            assert await cluster.read_page(node, page, volume=old) == page_of(page, 1)
        assert await cluster.read_page(node, 30, volume=old) == page_of(30, 2)
        # And again, from what this start left.
        await checkpoint(node, old)
        again = copy_replica(node.files(old), node.pool, "again")
        report = await node.plane.open_replica(again)
        assert report.let_go_to_lsn is None
        assert await cluster.read_page(node, 30, volume=again) == page_of(30, 2)


async def test_an_opening_knows_that_nobody_needs_the_log() -> None:
    """From the line in the superblock: the master may be away for long."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.set_line([node], epoch=1, version=1)
        await node.plane.close_replica(DEMO)
        await node.plane.open_replica(DEMO)
        await alone(cluster, node)
        await write_pages(await cluster.connect(node))
        last = await checkpoint(node)
        assert (await node.plane.status(DEMO)).log.oldest_lsn == last + 1


async def test_what_a_start_found_unapplied_goes_with_its_first_round() -> None:
    """How old it is nobody knows then."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.set_line([node], epoch=1, version=1)
        await alone(cluster, node)
        await write_pages(await cluster.connect(node))
        crashed = copy_replica(node.files(), node.pool, "crashed")
        await node.plane.open_replica(crashed)
        await cluster.open_term(node, epoch=2, volume=crashed)
        last = await checkpoint(node, crashed)
        assert (await node.plane.status(crashed)).log.oldest_lsn == last + 1


async def test_the_log_is_kept_from_when_a_second_member_is_named() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        line = await cluster.set_line([node], epoch=1, version=1)
        await alone(cluster, node)
        client = await cluster.connect(node)
        await write_pages(client)
        let_go = await checkpoint(node)
        another = replace(
            line.members[0], replica_id=OTHER, node_id=NodeId("n9"), uuid=ReplicaUuid("9" * 32)
        )
        both = replace(line, members=(*line.members, another), replication_factor=2)
        await node.plane.set_line(DEMO, both, ())
        await write_pages(client)
        kept = await checkpoint(node)
        assert kept > let_go
        assert (await node.plane.status(DEMO)).log.oldest_lsn == let_go + 1
        # It is given up before it was ever whole: what was kept for it goes in the next round.
        await node.plane.set_line(DEMO, line, ())
        await write_pages(client)
        last = await checkpoint(node)
        assert (await node.plane.status(DEMO)).log.oldest_lsn == last + 1


@pytest.mark.parametrize("how", ["linked", "needed", "one of some"])
async def test_a_peer_that_the_core_knows_of_keeps_the_log_whatever_the_line_says(how: str) -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.set_line([node], epoch=1, version=1)
        with link() as peer:
            await shipping(cluster, node, peer.theirs, rebuild=False)
            await write_pages(await cluster.connect(node))
            if how != "linked":
                # What was written is committed and not applied yet; of what follows nothing would be.
                needed, one_of = ((PEER,), ()) if how == "needed" else ((), (PEER,))
                await node.plane.set_membership(
                    DEMO, Membership(needed=needed, one_of=one_of, writable=True)
                )
                await node.plane.drop_peer(DEMO, PEER)
            await checkpoint(node)
        assert (await node.plane.status(DEMO)).log.oldest_lsn <= 2

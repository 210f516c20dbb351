"""What an initiator has under way when it is preempted: no write of it lands, nothing more is read by it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from sparrow.base.ids import Lsn
from sparrow.dataplane import machine
from sparrow.formats.reservations import (
    RESERVATION_EXCLUSIVE_ACCESS_RO,
    RESERVATION_WRITE_EXCLUSIVE_RO,
)
from sparrow.ports.dataplane import PageDamaged, PoolFull, SumsDamaged
from tests.support.core_client import page_of
from tests.support.core_cluster import DEMO, PAGE, CoreCluster, CoreNode, core_cluster
from tests.support.core_files import flip_bit
from tests.support.core_reservations import (
    ALICE,
    ALICE_ALONE,
    BOB,
    BOTH,
    CONFLICT,
    GOOD,
    TASK_ABORTED,
    applied,
    asked,
    change,
    hears_nothing,
    received,
    table,
)
from tests.support.front_bed import RESPONSE, read_16, write_16
from tests.support.waiting import WAIT_S


@pytest.mark.parametrize("kind", [RESERVATION_EXCLUSIVE_ACCESS_RO, RESERVATION_WRITE_EXCLUSIVE_RO])
async def test_a_write_that_waits_without_an_lsn_is_refused_after_a_preempt(kind: int) -> None:
    """Rule 2: it came before the PREEMPT and would get its LSN after it; it waits for what it is to be merged with.

    Who may not even read is refused by that; who may is refused by the look at the write itself.
    """
    before = table(ALICE, BOB, kind=int(kind), holder=ALICE, generation=2)
    after = table(ALICE, kind=int(kind), holder=ALICE, generation=3)
    async with core_cluster(nodes=1, block_size=512, repair_s=WAIT_S) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        alice = await cluster.connect(node, nexus=ALICE.record())
        assert (await alice.write(8, page_of(1, 1))).status == GOOD
        await change(node, before)
        await applied(node)
        await node.plane.close_replica(DEMO)
        flip_bit(node.files() / "extents", PAGE + 16)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        alice = await cluster.connect(node, nexus=ALICE.record())
        bob = await cluster.connect(node, nexus=BOB.record())
        held = asyncio.create_task(bob.write(9, b"b" * 512))
        await node.wait(PageDamaged, page=1)
        await change(node, after)
        assert not held.done(), held.result()
        assert await node.plane.repair_page(DEMO, 1, Lsn(1), page_of(1, 1))
        assert (await held).status == CONFLICT
        assert (await alice.write(8, page_of(1, 3))).status == GOOD
        assert (await alice.write(9, b"a" * 512)).status == GOOD


async def test_who_was_preempted_loses_what_is_under_way() -> None:
    """A read that the reservation would let through, and a write: both wait for what they need of the disk."""
    async with core_cluster(nodes=1, block_size=512, repair_s=WAIT_S) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        alice = await cluster.connect(node, nexus=ALICE.record())
        assert (await alice.write(8, page_of(1, 1))).status == GOOD
        await applied(node)
        await node.plane.close_replica(DEMO)
        flip_bit(node.files() / "sums", 16)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        bob = await cluster.connect(node, nexus=BOB.record())
        began = {bob.peer.command(read_16(8, 1), expected=512)}
        began.add(bob.peer.command(write_16(9, 1), data=b"b" * 512))
        await node.wait(SumsDamaged, block=0)
        await change(node, table(ALICE, kind=int(RESERVATION_WRITE_EXCLUSIVE_RO), holder=ALICE))
        # One that the control side has, which also tells how the core names the session.
        itt, upcall = await asked(node, bob)
        await node.plane.abort_commands(upcall.session_key)
        await node.plane.mend_sums(DEMO, 0, Lsn(0), ())
        # Nobody has the page either: who waits for it is told at once.
        await node.wait(PageDamaged, page=1)
        await node.plane.repair_page(DEMO, 1, Lsn(0), None)
        ended = [await received(bob) for _ in range(3)]
        assert {(opcode, status) for opcode, _, status in ended} == {(RESPONSE, TASK_ABORTED)}
        assert {one for _, one, _ in ended} == began | {itt}
        assert (await bob.write(9, b"b" * 512)).status == CONFLICT, "its session goes on"


async def without_sums(cluster: CoreCluster, *, written: bytes) -> tuple[CoreNode, CoreNode]:
    """A primary whose block of checksums is damaged on the disk, and its follower, which has a whole one."""
    node, follower = cluster.nodes
    await cluster.open_term(node, followers=[follower])
    alice = await cluster.connect(node, nexus=ALICE.record())
    assert (await alice.write(8, written)).status == GOOD
    await cluster.caught_up(node, follower)
    await applied(node)
    await node.plane.close_replica(DEMO)
    flip_bit(node.files() / "sums", 16)
    await node.plane.open_replica(DEMO)
    await cluster.open_term(node, followers=[follower], epoch=2)
    return node, follower


async def mend(cluster: CoreCluster, node: CoreNode, follower: CoreNode) -> None:
    """Its block of checksums is as it was, and nothing is lost."""
    lsn = await cluster.caught_up(node, follower)
    image = await follower.plane.read_sums(DEMO, 0, at_lsn=lsn)
    mended = await node.plane.mend_sums(DEMO, 0, lsn, (image.block,))
    assert mended.lost_pages == 0


async def test_who_was_preempted_gets_nothing_of_what_it_was_reading() -> None:
    """The new reservation would let it read, and the disk has the data: that comes too late all the same."""
    async with core_cluster(nodes=2, block_size=512, repair_s=WAIT_S) as cluster:
        node, follower = await without_sums(cluster, written=page_of(1, 1))
        bob = await cluster.connect(node, nexus=BOB.record())
        read = bob.peer.command(read_16(8, 1), expected=512)
        await node.wait(SumsDamaged, block=0)
        await change(node, table(ALICE, kind=int(RESERVATION_WRITE_EXCLUSIVE_RO), holder=ALICE))
        itt, upcall = await asked(node, bob)
        await node.plane.abort_commands(upcall.session_key)
        assert await received(bob) == (RESPONSE, itt, TASK_ABORTED)
        await mend(cluster, node, follower)
        assert await received(bob) == (RESPONSE, read, TASK_ABORTED)
        assert (await bob.read(8)).data == page_of(1, 1)[:512], "its session goes on"


async def test_an_aborted_write_never_gets_its_place_when_it_waited_for_damaged_sums(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Room is short, so a write waits for what its block of checksums says of its pages."""
    async with core_cluster(nodes=2, repair_s=WAIT_S) as cluster:
        node, follower = await without_sums(cluster, written=page_of(8, 1))
        short = SimpleNamespace(f_bavail=100, f_frsize=PAGE)
        monkeypatch.setattr(machine.os, "fstatvfs", lambda _fd: short)
        await node.wait(PoolFull, full=True)
        bob = await cluster.connect(node, nexus=BOB.record())
        write = bob.peer.command(write_16(8, 1), data=page_of(8, 2))
        await node.wait(SumsDamaged, block=0)
        itt, upcall = await asked(node, bob)
        await node.plane.abort_commands(upcall.session_key)
        assert await received(bob) == (RESPONSE, itt, TASK_ABORTED)
        await hears_nothing(bob)
        before = await node.commit_lsn()
        await mend(cluster, node, follower)
        assert await received(bob) == (RESPONSE, write, TASK_ABORTED)
        assert await node.commit_lsn() == before
        assert (await bob.read(8)).data == page_of(8, 1)
        # What has a place is written, now that the block is there.
        assert (await bob.write(8, page_of(8, 3))).status == GOOD


async def test_a_read_is_checked_again_when_it_is_answered() -> None:
    """Rule 3: its view was taken before the PREEMPT, its answer would leave after it."""
    async with core_cluster(nodes=1, repair_s=WAIT_S) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        alice = await cluster.connect(node, nexus=ALICE.record())
        assert (await alice.write(1, page_of(1, 1))).status == GOOD
        await change(node, BOTH)
        await applied(node)
        await node.plane.close_replica(DEMO)
        flip_bit(node.files() / "sums", 16)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        bob = await cluster.connect(node, nexus=BOB.record())
        waits = asyncio.create_task(bob.read(1))
        await node.wait(SumsDamaged, block=0)
        await change(node, ALICE_ALONE)
        await node.plane.mend_sums(DEMO, 0, Lsn(0), ())
        assert (await waits).status == CONFLICT

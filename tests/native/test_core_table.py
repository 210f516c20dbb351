"""The table of reservations on disk: in the log, in the slot of a checkpoint, in a rebuilt replica."""

from __future__ import annotations

import os

import pytest

from sparrow.base.errors import DamagedData
from sparrow.base.ids import Lsn
from sparrow.formats.superblock import SUPERBLOCK, SUPERBLOCK_BYTES, TABLE_SLOTS_OFFSET
from sparrow.ports.dataplane import (
    AtRest,
    GateOpened,
    PeerRebuilt,
    RebuildKind,
    RecoverySettings,
    ReservationsChanged,
)
from tests.support.core_client import page_of
from tests.support.core_cluster import DEMO, PAGE, CoreCluster, CoreNode, core_cluster
from tests.support.core_files import flip_bit, superblock
from tests.support.core_reservations import (
    ALICE,
    ALICE_ALONE,
    BOB,
    BOTH,
    CONFLICT,
    GOOD,
    applied,
    change,
)
from tests.support.waiting import until

#: So slow that a copy of 16 MiB or more is not whole before something else is done, although the machine stands still.
SLOW_COPY = RecoverySettings(rebuild_rate_mib=6)


async def test_a_checkpoint_keeps_the_table_when_the_log_has_let_it_go() -> None:
    """Rule 4: the log goes round several times, the replica is opened from its files, the table is there."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        alice = await cluster.connect(node, nexus=ALICE.record())
        lsn = await change(node, BOTH)
        await applied(node)
        first = superblock(node.files())
        assert first.number("table_lsn") == lsn
        assert first.number("feature_level") == 2
        lsn = await change(node, ALICE_ALONE)
        for round_ in range(3):
            for at in range(0, 8 << 20, 1 << 20):
                pages = range(at // PAGE, at // PAGE + 256)
                data = b"".join(page_of(page, 1 + round_) for page in pages)
                assert (await alice.write(pages[0], data)).status == GOOD
        await applied(node)
        log = (await node.plane.status(DEMO)).log
        assert log.oldest_lsn > lsn
        # The other slot than before, and never touched by rounds in between.
        second = superblock(node.files())
        assert second.number("table_slot") != first.number("table_slot")
        assert second.number("table_lsn") == lsn
        await node.plane.close_replica(DEMO)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        assert await node.plane.reservations(DEMO) == (lsn, ALICE_ALONE)
        bob = await cluster.connect(node, nexus=BOB.record())
        assert (await bob.write(1, page_of(1, 9))).status == CONFLICT


async def test_a_table_above_the_checkpoint_is_found_by_the_walk_over_the_log() -> None:
    async with core_cluster(nodes=2) as cluster:
        node, other = cluster.nodes
        await node.plane.status(DEMO)
        await cluster.open_term(node)
        await change(node, BOTH)
        await applied(node)
        lsn = await change(node, ALICE_ALONE)
        copy = await cluster.snapshot(node, other, "copy")
        await other.plane.open_replica(copy)
        await cluster.open_term(other, epoch=5, volume=copy)
        assert await other.plane.reservations(copy) == (lsn, ALICE_ALONE)


async def test_a_slot_that_does_not_match_ends_the_replica() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        await change(node, BOTH)
        await applied(node)
        await node.plane.close_replica(DEMO)
        slot = superblock(node.files()).number("table_slot")
        flip_bit(node.files() / "superblock", TABLE_SLOTS_OFFSET + slot * 16384 + 300)
        with pytest.raises(DamagedData):
            await node.plane.open_replica(DEMO)
        # What is in the other slot is nobody's business.
        flip_bit(node.files() / "superblock", TABLE_SLOTS_OFFSET + slot * 16384 + 300)
        flip_bit(node.files() / "superblock", TABLE_SLOTS_OFFSET + (1 - slot) * 16384 + 300)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        assert (await node.plane.reservations(DEMO))[1] == BOTH


async def test_a_scrub_mends_a_damaged_slot_while_the_replica_runs() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        await change(node, BOTH)
        lsn = await change(node, ALICE_ALONE)
        await applied(node)
        assert await node.plane.check_superblock(DEMO) is AtRest.WHOLE
        slot = superblock(node.files()).number("table_slot")
        flip_bit(node.files() / "superblock", TABLE_SLOTS_OFFSET + slot * 16384 + 300)
        assert await node.plane.check_superblock(DEMO) is AtRest.REWRITTEN
        assert await node.plane.check_superblock(DEMO) is AtRest.WHOLE
        assert superblock(node.files()).number("table_slot") == 1 - slot
        await node.plane.close_replica(DEMO)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        assert await node.plane.reservations(DEMO) == (lsn, ALICE_ALONE)


async def test_a_superblock_of_before_has_no_table_and_gets_its_slots() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.close_replica(DEMO)
        os.truncate(node.files() / "superblock", 2 * SUPERBLOCK_BYTES)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node)
        assert await node.plane.reservations(DEMO) == (0, None)
        await applied(node)
        at = SUPERBLOCK.offset_of("feature_level")
        level = (node.files() / "superblock").read_bytes()[at : at + 2]
        assert level == b"\x01\x00"
        lsn = await change(node, BOTH)
        await applied(node)
        await node.plane.close_replica(DEMO)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        assert await node.plane.reservations(DEMO) == (lsn, BOTH)


async def rebuilt_over_a_change(cluster: CoreCluster) -> tuple[CoreNode, CoreNode, Lsn]:
    """A replica whose rebuild began with one table and ended with another."""
    primary, fresh = cluster.nodes
    term = await cluster.open_term(primary)
    alice = await cluster.connect(primary, nexus=ALICE.record())
    for at in range(0, 4096, 256):
        data = b"".join(page_of(page, 1) for page in range(at, at + 256))
        assert (await alice.write(at, data)).status == GOOD
    await change(primary, BOTH)
    await applied(primary)
    plan = await cluster.begin_rebuild(primary, fresh, term)
    assert plan.kind is RebuildKind.FULL
    lsn = await change(primary, ALICE_ALONE)
    await primary.wait(PeerRebuilt, slot=fresh.number)
    await cluster.set_needed(primary, [fresh])
    return primary, fresh, lsn


async def test_a_rebuilt_replica_has_the_table_and_takes_over_with_it() -> None:
    """Rule 5: begun before a change, over after it; then the primary goes."""
    async with core_cluster(nodes=2, recovery=SLOW_COPY) as cluster:
        primary, fresh, lsn = await rebuilt_over_a_change(cluster)
        await cluster.caught_up(primary, fresh)
        heard = [e.table for e in fresh.events if isinstance(e, ReservationsChanged)]
        assert heard[-1] == ALICE_ALONE
        await primary.plane.close_gate(DEMO, "command")
        await cluster.open_term(fresh, epoch=2)
        assert await fresh.plane.reservations(DEMO) == (lsn, ALICE_ALONE)
        bob = await cluster.connect(fresh, nexus=BOB.record())
        assert (await bob.write(1, page_of(1, 9))).status == CONFLICT


async def test_a_rebuilt_replica_opens_from_its_files_with_the_table() -> None:
    """The table that came with the base is older than the log of the copy: only the slot has it."""
    async with core_cluster(nodes=2) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        lsn = await change(primary, ALICE_ALONE)
        await applied(primary)
        alice = await cluster.connect(primary, nexus=ALICE.record())
        assert (await alice.write(1, page_of(1, 1))).status == GOOD
        await cluster.rebuild(primary, fresh, term)
        await cluster.grant_link(primary, fresh)
        await cluster.set_needed(primary, [fresh])
        await primary.wait(GateOpened, term=term)
        assert (await alice.write(1, page_of(1, 2))).status == GOOD
        await cluster.caught_up(primary, fresh)
        await primary.plane.close_gate(DEMO, "command")
        await fresh.plane.close_replica(DEMO)
        assert superblock(fresh.files()).number("table_lsn") == lsn
        await fresh.plane.open_replica(DEMO)
        await cluster.open_term(fresh, epoch=2)
        assert await fresh.plane.reservations(DEMO) == (lsn, ALICE_ALONE)


async def test_an_interrupted_rebuild_goes_on_with_its_table() -> None:
    """The log of the copy goes on, and with it the tables: nothing is sent a second time."""
    async with core_cluster(nodes=2, recovery=SLOW_COPY) as cluster:
        primary, fresh = cluster.nodes
        term = await cluster.open_term(primary)
        alice = await cluster.connect(primary, nexus=ALICE.record())
        for at in range(0, 8192, 256):
            data = b"".join(page_of(page, 1) for page in range(at, at + 256))
            assert (await alice.write(at, data)).status == GOOD
        await change(primary, BOTH)
        await applied(primary)
        await cluster.begin_rebuild(primary, fresh, term)

        async def copying() -> bool:
            (peer,) = (await primary.plane.status(DEMO)).peers
            return peer.base_pages_done > 2000

        await until(copying, every_s=0.001)
        await primary.plane.drop_peer(DEMO, fresh.number)
        lsn = await change(primary, ALICE_ALONE)
        plan = await cluster.begin_rebuild(primary, fresh, term)
        assert plan.kind is RebuildKind.RESUMED
        await primary.wait(PeerRebuilt, slot=fresh.number)
        await cluster.set_needed(primary, [fresh])
        await cluster.caught_up(primary, fresh)
        await primary.plane.close_gate(DEMO, "command")
        await cluster.open_term(fresh, epoch=2)
        assert await fresh.plane.reservations(DEMO) == (lsn, ALICE_ALONE)


async def test_a_replica_tells_first_of_the_table_it_was_opened_with() -> None:
    """So who watches its tables knows what the next one changes."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        lsn = await change(node, BOTH)
        await applied(node)
        await node.plane.close_replica(DEMO)
        node.events.clear()
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node, epoch=2)
        assert await node.wait(ReservationsChanged) == ReservationsChanged(
            volume_id=DEMO, lsn=lsn, table=BOTH
        )
        newest = await change(node, ALICE_ALONE)
        assert (await node.wait(ReservationsChanged)).lsn == newest

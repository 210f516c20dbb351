"""Batches damaged at rest in the ring: never shipped, mended from a copy, let go when nobody has one."""

from __future__ import annotations

import os

import pytest

from sparrow.authority.types import Term
from sparrow.base.errors import DamagedData
from sparrow.base.ids import Lsn
from sparrow.ports.dataplane import AtRest, BatchDamaged, PeerLost
from tests.support.core_client import page_of
from tests.support.core_cluster import DEMO, PAGE, CoreCluster, CoreNode, core_cluster
from tests.support.core_files import Batch, batches, flip_bit, superblock
from tests.support.waiting import until

#: More than what is kept in memory for peers, so that the first of them are read from the ring.
WRITES = 90
#: Far enough from both ends of what was written.
VICTIM = 10
PLACES = {"header": 20, "entries": 120, "payload": PAGE + 100}


async def write_alone(cluster: CoreCluster, node: CoreNode, count: int = WRITES) -> list[Batch]:
    """One batch per write; those of the log, oldest first."""
    client = await cluster.connect(node)
    for page in range(count):
        assert (await client.write(page, page_of(page, 1))).status == 0
    return batches(node.files())


async def left_behind(cluster: CoreCluster, *, kept: int = 0) -> tuple[Term, Batch]:
    """A primary that went on without its last follower, the first ``kept`` others stayed; a batch to be damaged."""
    a, *others = cluster.nodes
    term = await cluster.open_term(a, followers=others)
    gone = others[-1]
    await cluster.set_needed(a, others[:kept])
    await a.plane.drop_peer(DEMO, gone.number)
    found = await write_alone(cluster, a)
    return term, next(batch for batch in found[VICTIM:] if batch.fields.number("page_count"))


async def until_last(node: CoreNode, lsn: int) -> None:
    """Its log ends there."""

    async def ends() -> bool:
        return (await node.plane.status(DEMO)).log.last_lsn == lsn

    await until(ends)


async def whole_batch(node: CoreNode, lsn: int) -> bytes:
    return await node.plane.read_log(DEMO, Lsn(lsn), bytes_max=1)


@pytest.mark.parametrize("place", PLACES)
async def test_a_peer_that_needs_a_damaged_batch_is_fed_once_it_is_mended(place: str) -> None:
    async with core_cluster(nodes=3) as cluster:
        a, b, c = cluster.nodes
        term, victim = await left_behind(cluster, kept=1)
        flip_bit(a.files() / "wal", victim.offset + PLACES[place])
        await c.plane.fence(DEMO, term, a.replica)
        await cluster.join_and_ship(a, c, term)
        told = await a.wait(BatchDamaged)
        assert told.first_lsn == victim.first_lsn
        # What lies before it came by the same read, and is sent.
        await until_last(c, victim.first_lsn - 1)
        assert not a.heard(PeerLost), "it waits, instead of asking again and again"
        copy = await whole_batch(b, victim.first_lsn)
        assert await a.plane.mend_batch(DEMO, Lsn(victim.first_lsn), copy)
        await cluster.assert_same(a, c)
        checked = await a.plane.check_batch(DEMO, Lsn(victim.first_lsn))
        assert checked is not None
        assert checked.state is AtRest.WHOLE


async def test_a_read_of_several_batches_that_fails_says_nothing_of_each() -> None:
    """The log's file ends within one: the reads that reach there bring less than was asked for."""
    async with core_cluster(nodes=3) as cluster:
        a, b, c = cluster.nodes
        term, victim = await left_behind(cluster, kept=1)
        log = a.files() / "wal"
        whole = log.read_bytes()
        os.truncate(log, victim.offset + PAGE)
        await c.plane.fence(DEMO, term, a.replica)
        await cluster.join_and_ship(a, c, term)
        await until_last(c, victim.first_lsn - 1)
        told = [(await a.wait(BatchDamaged, first_lsn=victim.first_lsn)).first_lsn]
        with log.open("r+b") as file:
            file.write(whole)

        async def same() -> bool:
            # Those behind it that were read by themselves meanwhile could not be either.
            told.extend(one.first_lsn for one in a.events if isinstance(one, BatchDamaged))
            a.events[:] = [one for one in a.events if not isinstance(one, BatchDamaged)]
            while told:
                lsn = told.pop()
                assert lsn >= victim.first_lsn
                assert await a.plane.mend_batch(DEMO, Lsn(lsn), await whole_batch(b, lsn))
            return await c.commit_lsn() == await a.commit_lsn()

        await until(same)
        await cluster.assert_same(a, c)


async def test_a_batch_nobody_has_is_let_go_and_the_peer_must_be_rebuilt() -> None:
    async with core_cluster(nodes=2) as cluster:
        a, b = cluster.nodes
        term, victim = await left_behind(cluster)
        flip_bit(a.files() / "wal", victim.offset + PLACES["payload"])
        await b.plane.fence(DEMO, term, a.replica)
        await cluster.join_and_ship(a, b, term)
        await a.wait(BatchDamaged)
        assert await a.plane.mend_batch(DEMO, Lsn(victim.last_lsn + 1), None), (
            "it is whole and stays"
        )
        assert await a.plane.mend_batch(DEMO, Lsn(victim.first_lsn), None)
        assert (await a.wait(PeerLost)).cause == "recycled"
        assert (await a.plane.status(DEMO)).log.oldest_lsn == victim.last_lsn + 1
        await cluster.rebuild(a, b, term)
        await cluster.assert_same(a, b)


async def test_only_the_identical_batch_is_put_back() -> None:
    async with core_cluster(nodes=3) as cluster:
        a, b, _ = cluster.nodes
        _, victim = await left_behind(cluster, kept=1)
        flip_bit(a.files() / "wal", victim.offset + PLACES["payload"])
        other = await whole_batch(b, victim.last_lsn + 1)
        copy = bytearray(await whole_batch(b, victim.first_lsn))
        copy[PAGE + 5] ^= 1
        for wrong in (other, bytes(copy), bytes(copy[:PAGE])):
            with pytest.raises(DamagedData):
                await a.plane.mend_batch(DEMO, Lsn(victim.first_lsn), wrong)
        checked = await a.plane.check_batch(DEMO, Lsn(victim.first_lsn))
        assert checked is not None
        assert checked.state is AtRest.DAMAGED
        assert not await a.plane.mend_batch(DEMO, Lsn(1 << 40), other), "not retained"


async def test_a_damaged_batch_is_given_to_no_node_that_asks_for_it() -> None:
    async with core_cluster(nodes=2) as cluster:
        a = cluster.nodes[0]
        _, victim = await left_behind(cluster)
        flip_bit(a.files() / "wal", victim.offset + PLACES["payload"])
        before = await a.plane.read_log(DEMO, Lsn(victim.first_lsn - 1), bytes_max=1 << 20)
        assert len(before) < 1 << 15, "what lies before it, and no more"
        with pytest.raises(DamagedData):
            await whole_batch(a, victim.first_lsn)
        assert (await a.wait(BatchDamaged)).first_lsn == victim.first_lsn


async def test_checking_walks_the_whole_ring_and_rewrites_what_is_still_in_memory() -> None:
    async with core_cluster(nodes=1) as cluster:
        (a,) = cluster.nodes
        await cluster.open_term(a)
        found = await write_alone(cluster, a)
        old, new = found[VICTIM], found[-3]
        flip_bit(a.files() / "wal", old.offset + PLACES["payload"])
        flip_bit(a.files() / "wal", new.offset + PLACES["header"])
        states: dict[int, AtRest] = {}
        lsn = Lsn(0)
        while (checked := await a.plane.check_batch(DEMO, lsn)) is not None:
            states[checked.next_lsn - 1] = checked.state
            lsn = checked.next_lsn
        assert list(states) == [batch.last_lsn for batch in found]
        odd = {lsn: state for lsn, state in states.items() if state is not AtRest.WHOLE}
        assert odd == {old.last_lsn: AtRest.DAMAGED, new.last_lsn: AtRest.REWRITTEN}
        again = await a.plane.check_batch(DEMO, Lsn(new.first_lsn))
        assert again is not None
        assert again.state is AtRest.WHOLE


@pytest.mark.parametrize("place", ["header", "entries"])
async def test_damage_behind_the_checkpoint_costs_nothing_at_a_start(place: str) -> None:
    """The log kept those batches for peers only; the unapplied ones behind them are all there."""
    async with core_cluster(nodes=1) as cluster:
        (a,) = cluster.nodes
        await cluster.open_term(a)
        await write_alone(cluster, a, 20)

        async def flushed() -> bool:
            log = (await a.plane.status(DEMO)).log
            return log.applied_lsn == log.commit_lsn

        await until(flushed)
        applied = superblock(a.files()).number("applied_lsn")
        load = await cluster.load(a, pages=range(100, 140), depth=4)
        await load.wait_written(40 * PAGE)
        await load.stop()
        name = await cluster.snapshot(a, await cluster.add_node(), "crashed")
        reader = cluster.nodes[1]
        files = reader.files(name)
        victim = batches(files)[5]
        assert victim.last_lsn < superblock(files).number("applied_lsn")
        flip_bit(files / "wal", victim.offset + PLACES[place])
        report = await reader.plane.open_replica(name)
        assert report.let_go_to_lsn is not None
        assert report.let_go_to_lsn >= applied
        assert report.damaged_after_lsn is None
        assert not report.log.suspect
        assert report.log.last_lsn >= report.log.must_reach_lsn
        for page in range(20):
            assert await cluster.read_page(reader, page, volume=name) == page_of(page, 1)
        await cluster.open_term(reader, epoch=2, volume=name)
        client = await cluster.connect(reader, name)
        for page, version in load.seen().items():
            assert (await client.read(page)).data == page_of(page, version)
        assert (await client.write(3, page_of(3, 2))).status == 0
        await reader.plane.close_replica(name)
        report = await reader.plane.open_replica(name)
        assert report.let_go_to_lsn is None, "the superblock begins behind the damage now"
        assert await cluster.read_page(reader, 3, volume=name) == page_of(3, 2)

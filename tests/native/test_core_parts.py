"""Writes of parts of pages and COMPARE AND WRITE through the native data plane: nothing of a page is ever lost."""

from __future__ import annotations

import asyncio
import random
import struct

from sparrow.base.ids import Epoch, Lsn
from sparrow.ports.dataplane import PageDamaged
from tests.support.core_client import Client
from tests.support.core_cluster import DEMO, PAGE, CoreNode, core_cluster
from tests.support.front_bed import Result, compare_and_write, write_same_16
from tests.support.waiting import WAIT_S, until

GOOD = 0
BLOCK = 512
MISCOMPARE = (0x0E, 0x1D, 0)


def fill(seed: int, blocks: int = 1) -> bytes:
    """Blocks of one content each, which names them."""
    return b"".join(struct.pack("<II", seed, n) * (BLOCK // 8) for n in range(blocks))


async def compare(client: Client, lba: int, old: bytes, new: bytes) -> Result:
    return await client.command(compare_and_write(lba, len(new) // BLOCK), old + new)


async def applied(node: CoreNode) -> None:
    async def done() -> bool:
        log = (await node.plane.status(DEMO)).log
        return log.applied_lsn == log.commit_lsn

    await until(done)


async def test_what_a_write_does_not_cover_stays_wherever_it_lies() -> None:
    async with core_cluster(nodes=1, block_size=BLOCK) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        # A hole, a logged page, an applied page, a page of zeros.
        assert (await client.write(3, fill(1, 2))).status == GOOD
        assert (await client.write(4, fill(2))).status == GOOD
        assert (await client.read(2, 4)).data == bytes(BLOCK) + fill(1) + fill(2) + bytes(BLOCK)
        await applied(node)
        assert (await client.write(5, fill(3, 4))).status == GOOD
        expected = bytes(3 * BLOCK) + fill(1) + fill(2) + fill(3, 4) + bytes(7 * BLOCK)
        assert (await client.read(0, 16)).data == expected
        await applied(node)
        assert (await client.read(0, 16)).data == expected
        assert (await client.unmap((0, 8))).status == GOOD
        assert (await client.write(1, fill(4))).status == GOOD
        expected = bytes(BLOCK) + fill(4) + bytes(6 * BLOCK) + fill(3, 4)[3 * BLOCK :]
        assert (await client.read(0, 9)).data == expected
        await applied(node)
        await node.plane.close_replica(DEMO)
        await node.plane.open_replica(DEMO)
        assert await cluster.read_page(node, 0) == expected[:PAGE]


async def test_a_write_of_many_pages_with_two_odd_ends_is_one_entry() -> None:
    async with core_cluster(nodes=1, block_size=BLOCK) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        assert (await client.write(0, fill(1, 24))).status == GOOD
        await applied(node)
        before = await node.commit_lsn()
        assert (await client.write(3, fill(2, 2040))).status == GOOD
        assert await node.commit_lsn() == before + 1
        assert (await client.read(0, 4)).data == fill(1, 3) + fill(2)
        assert (await client.read(2042, 2)).data == fill(2, 2040)[-BLOCK:] + bytes(BLOCK)


async def test_writes_in_flight_to_parts_of_one_page_all_survive() -> None:
    """S10: each is merged with the newest version logged, committed or not."""
    async with core_cluster(nodes=2, block_size=BLOCK) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        clients = [await cluster.connect(primary) for _ in range(8)]
        truth = [bytes(BLOCK)] * 64
        for turn in range(30):
            # Eight clients at once, each on its own block of the same pages; some pages were applied, some were not.
            async def one(number: int, turn: int = turn) -> None:
                lba = (turn * 3 % 8) * 8 + number
                data = fill(turn * 8 + number + 1)
                assert (await clients[number].write(lba, data)).status == GOOD
                truth[lba] = data

            await asyncio.gather(*(one(number) for number in range(8)))
            if turn % 10 == 9:
                await applied(primary)
        assert (await clients[0].read(0, 64)).data == b"".join(truth)
        await cluster.assert_same(primary, follower)


async def test_two_that_wait_for_a_commit_are_both_in_what_commits() -> None:
    async with core_cluster(nodes=2, block_size=BLOCK) as cluster:
        primary, follower = cluster.nodes
        term = await cluster.open_term(primary, followers=[follower])
        first, second = await cluster.connect(primary), await cluster.connect(primary)
        await primary.plane.drop_peer(DEMO, follower.number)
        before = (await primary.plane.status(DEMO)).log.last_lsn

        async def logged(count: int) -> None:
            async def there() -> bool:
                return (await primary.plane.status(DEMO)).log.durable_lsn >= before + count

            await until(there)

        one = asyncio.create_task(first.write(1, fill(1)))
        await logged(1)
        two = asyncio.create_task(second.write(2, fill(2)))
        await logged(2)
        reader = await cluster.connect(primary)
        assert (await reader.read(0, 4)).data == bytes(4 * BLOCK), "nothing is committed"
        # A comparison that differs has seen what is not committed: its answer waits as well.
        third = await cluster.connect(primary)
        differs = asyncio.create_task(compare(third, 1, bytes(BLOCK), fill(9)))
        await asyncio.sleep(0.1)
        assert not any(waiting.done() for waiting in (one, two, differs))
        await cluster.join_and_ship(primary, follower, term)
        assert (await one).status == GOOD
        assert (await two).status == GOOD
        assert (await differs).sense == MISCOMPARE
        assert (await reader.read(0, 4)).data == bytes(BLOCK) + fill(1) + fill(2) + bytes(BLOCK)
        await cluster.assert_same(primary, follower)


async def test_what_was_applied_while_the_page_was_being_read_is_kept() -> None:
    """The read is held up by damage; meanwhile the page is written, applied, and gone from the dirty map."""
    async with core_cluster(nodes=1, block_size=BLOCK, repair_s=WAIT_S) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client, other = await cluster.connect(node), await cluster.connect(node)
        assert (await client.write(80, fill(1, 8))).status == GOOD
        await applied(node)
        with (node.files() / "extents").open("r+b") as file:
            file.seek(10 * PAGE)
            file.write(b"\xee" * 16)
        waiting = asyncio.create_task(client.write(83, fill(7)))
        await node.wait(PageDamaged, page=10)
        assert (await other.write(80, fill(2, 8))).status == GOOD
        await applied(node)
        assert not waiting.done()
        await node.plane.repair_page(DEMO, 10, Lsn(0), None)
        assert (await waiting).status == GOOD
        expected = fill(2, 8)[: 3 * BLOCK] + fill(7) + fill(2, 8)[4 * BLOCK :]
        assert (await client.read(80, 8)).data == expected


async def test_a_write_upon_a_page_nobody_can_read_fails_and_changes_nothing() -> None:
    async with core_cluster(nodes=1, block_size=BLOCK) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        assert (await client.write(80, fill(1, 8))).status == GOOD
        await applied(node)
        with (node.files() / "extents").open("r+b") as file:
            file.seek(10 * PAGE)
            file.write(b"\xee" * 16)
        before = await node.commit_lsn()
        assert (await client.write(83, fill(7))).status != GOOD
        assert await node.commit_lsn() == before
        # Written whole it is a good page again.
        assert (await client.write(80, fill(3, 8))).status == GOOD
        assert (await client.read(80, 8)).data == fill(3, 8)


async def test_compare_and_write_lets_one_of_many_through() -> None:
    """A counter in a block, raised by four clients at once: no count is lost and none is made twice."""
    async with core_cluster(nodes=2, block_size=BLOCK) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        clients = [await cluster.connect(primary) for _ in range(4)]
        block = 13

        async def count(client: Client) -> int:
            made = 0
            while made < 15:
                old = (await client.read(block)).data
                (value,) = struct.unpack_from("<Q", old)
                result = await compare(
                    client, block, old, struct.pack("<Q", value + 1).ljust(BLOCK)
                )
                if result.status == GOOD:
                    made += 1
                else:
                    assert result.sense == MISCOMPARE
            return made

        assert (await clients[0].write(block, struct.pack("<Q", 0).ljust(BLOCK))).status == GOOD
        assert (await clients[0].write(block - 1, fill(5))).status == GOOD
        assert sum(await asyncio.gather(*map(count, clients))) == 60
        found = (await clients[0].read(block - 1, 2)).data
        assert found[:BLOCK] == fill(5)
        assert struct.unpack_from("<Q", found, BLOCK) == (60,)
        await cluster.assert_same(primary, follower)


async def test_a_comparison_reaches_over_the_end_of_a_page() -> None:
    async with core_cluster(nodes=1, block_size=BLOCK) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        assert (await client.write(4, fill(1, 8))).status == GOOD
        await applied(node)
        assert (await compare(client, 4, fill(1, 8), fill(2, 8))).status == GOOD
        assert (await client.read(3, 10)).data == bytes(BLOCK) + fill(2, 8) + bytes(BLOCK)
        result = await compare(client, 4, fill(2, 8)[:-1] + b"\x01", fill(3, 8))
        assert result.sense == MISCOMPARE
        assert (await client.read(4, 8)).data == fill(2, 8)


async def test_parts_of_pages_in_any_order_leave_what_a_plain_array_has() -> None:
    async with core_cluster(nodes=2, block_size=BLOCK) as cluster:
        primary, follower = cluster.nodes
        await cluster.open_term(primary, followers=[follower])
        truth = bytearray(2048 * BLOCK)

        async def work(number: int) -> None:
            chance = random.Random(number)
            client = await cluster.connect(primary)
            for turn in range(80):
                # Stripes of seven blocks that go round among the clients: every page belongs to several.
                lba = chance.randrange(70) * 28 + number * 7
                first = lba + chance.randrange(7)
                blocks = chance.randrange(1, lba + 8 - first)
                data = fill(number * 1000 + turn + 1, blocks)
                what = chance.random()
                if what < 0.15:
                    data = bytes(blocks * BLOCK)
                    cdb = write_same_16(first, blocks, flags=9)
                    assert (await client.command(cdb)).status == GOOD
                elif what < 0.3:
                    old = bytes(truth[first * BLOCK : (first + blocks) * BLOCK])
                    assert (await compare(client, first, old, data)).status == GOOD
                else:
                    assert (await client.write(first, data)).status == GOOD
                truth[first * BLOCK : (first + blocks) * BLOCK] = data
                found = await client.read(first, blocks)
                assert found.data == data
                if turn == 40 and number == 0:
                    await applied(primary)

        await asyncio.gather(*(work(number) for number in range(4)))
        client = await cluster.connect(primary)
        assert (await client.read(0, 2040)).data == bytes(truth[: 2040 * BLOCK])
        await cluster.assert_same(primary, follower)
        name = await cluster.snapshot(follower, follower, "crashed")
        await follower.plane.open_replica(name)
        await follower.plane.begin_term(name, Epoch(9))
        await cluster.set_needed(follower, [], volume=name)
        await follower.plane.commit_inherited(name)
        for page in range(250):
            found = await cluster.read_page(follower, page, volume=name)
            assert found == truth[page * PAGE : (page + 1) * PAGE], page


async def test_a_session_that_ends_while_its_write_reads_leaves_nothing_behind() -> None:
    """Without an LSN a write dies with its session; `core_cluster` counts the pages."""
    async with core_cluster(nodes=1, block_size=BLOCK, repair_s=WAIT_S) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        assert (await client.write(80, fill(1, 8))).status == GOOD
        await applied(node)
        with (node.files() / "extents").open("r+b") as file:
            file.seek(10 * PAGE)
            file.write(b"\xee" * 16)
        before = await node.commit_lsn()
        waiting = asyncio.create_task(client.write(83, fill(7)))
        await node.wait(PageDamaged, page=10)
        await node.plane.end_session(client.peer.key)
        with (node.files() / "extents").open("r+b") as file:
            file.seek(10 * PAGE)
            file.write(fill(1, 8)[:16])
        await node.plane.repair_page(DEMO, 10, Lsn(0), fill(1, 8))
        (ended,) = await asyncio.gather(waiting, return_exceptions=True)
        assert isinstance(ended, OSError)

        async def gone() -> bool:
            return (await node.plane.status(DEMO)).sessions == 0

        await until(gone)
        assert await node.commit_lsn() == before

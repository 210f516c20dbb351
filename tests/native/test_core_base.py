"""The primary's side of a rebuild, with the follower played by hand: what is under way at the same time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from sparrow.authority.types import Term
from sparrow.base.ids import Lsn
from sparrow.formats.links import (
    BASE_HEAD,
    BASE_MARK,
    FRAME_BASE,
    FRAME_BASE_DONE,
    FRAME_BASE_MARK,
    FRAME_BATCH,
    SHIP_ACK,
)
from sparrow.formats.sums import PAGE_DATA
from sparrow.formats.wal import BATCH, BATCH_BYTES_MAX
from sparrow.ports.dataplane import RebuildKind, RebuildPlan
from tests.support.core_client import WAIT_S, Client, page_of
from tests.support.core_cluster import DEMO, PAGE, CoreNode, core_cluster
from tests.support.core_files import superblock
from tests.support.ship_peer import Link, ack, link

#: Slot and node key of the peer that a test plays.
PEER = 5
GRANULE_PAGES = 64
#: Between two durable marks of a volume as small as these.
MARK_PAGES = 64
MARKS_AHEAD = 3
#: A volume of which eight granules lie well between two marks, bytes.
LARGE_BYTES = 3 << 30
#: Pages of one write.
RUN = 128


async def write_run(client: Client, first: int, count: int, version: int = 1) -> None:
    for page in range(first, first + count, RUN):
        run = range(page, min(page + RUN, first + count))
        data = b"".join(page_of(number, version) for number in run)
        assert (await client.write(page, data)).status == 0


async def copy_to(node: CoreNode, peer: Link) -> None:
    """The primary begins to copy everything to a follower that has nothing."""
    plan = RebuildPlan(kind=RebuildKind.FULL)
    await node.plane.ship(DEMO, PEER, PEER, peer.theirs, joined_lsn=Lsn(0), rebuild=plan)


@dataclass(slots=True)
class Follower:
    """What came by a link, and the rules a follower relies on, looked at frame by frame."""

    peer: Link
    #: Blocks of shipped batches it may have to hold, at most, when the next one comes.
    window: int = 1 << 30
    #: Newest as-of LSN it was told: it applies nothing above.
    told: int = 0
    #: Last LSN and blocks of every batch, in order.
    batches: list[tuple[int, int]] = field(default_factory=list)
    pages: dict[int, bytes] = field(default_factory=dict)
    #: Base pages that came after each durable mark, and before the first.
    between: list[int] = field(default_factory=lambda: [0])
    marks: int = 0
    done: bool = False

    @property
    def last_lsn(self) -> int:
        return self.batches[-1][0] if self.batches else 0

    async def take(self) -> None:
        """One frame."""
        frame, body = await self.peer.read_frame()
        kind, as_of = frame.number("kind"), frame.number("as_of_lsn")
        if kind == FRAME_BATCH:
            unapplied = sum(blocks for last, blocks in self.batches if last > self.told)
            assert unapplied <= self.window, "more than a follower may have to hold"
            head = BATCH.unpack(body[: BATCH.size])
            last = head.number("first_lsn") + head.number("entry_count") - 1
            self.batches.append((last, len(body) // PAGE))
        elif kind == FRAME_BASE:
            self._base(body)
        elif kind == FRAME_BASE_MARK and BASE_MARK.unpack(body[: BASE_MARK.size]).number("flags"):
            self.between.append(0)
        elif kind == FRAME_BASE_MARK:
            self.marks += 1
        self.done |= kind == FRAME_BASE_DONE
        assert as_of == 0 or as_of >= self.told, "an as-of LSN goes back"
        self.told = max(self.told, as_of)

    def _base(self, body: bytes) -> None:
        head = BASE_HEAD.unpack(body[: BASE_HEAD.size])
        first, count = head.number("first_page"), head.number("page_count")
        assert count <= GRANULE_PAGES
        assert first not in self.pages, "a page is copied twice"
        assert not self.pages or first > max(self.pages), "pages come in order"
        states, at = head.blob("states"), 1
        for page in range(first, first + count):
            if states[page - first] == PAGE_DATA:
                self.pages[page] = body[at * PAGE : (at + 1) * PAGE]
                at += 1
        assert at == 1 + head.number("data_count") == len(body) // PAGE
        self.between[-1] += count

    async def acknowledge_marks(self, term: Term) -> None:
        await self.peer.send(SHIP_ACK, ack(term, 0) | {"base_marks": len(self.between) - 1})


async def test_the_live_lane_stays_within_a_window_of_what_the_copy_has_told() -> None:
    """The copy stands still, for its marks are not acknowledged; more is written than the follower's log holds.

    It applies nothing above the newest as-of LSN it was told, and what would raise that comes behind the batches: one
    that had no room for them would never see it.
    """
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        await write_run(client, 0, 2 * (MARKS_AHEAD + 1) * MARK_PAGES)
        ring = superblock(node.files()).number("wal_bytes")
        with link() as peer:
            follower = Follower(peer, window=ring * 2 // 5 // PAGE - 5 * BATCH_BYTES_MAX // PAGE)
            assert 0 < follower.window
            await copy_to(node, peer)
            writing = asyncio.create_task(write_run(client, 4096, ring // PAGE))
            async with asyncio.timeout(4 * WAIT_S):
                while not writing.done() or follower.last_lsn < await node.commit_lsn():
                    await follower.take()
            await writing
            assert not follower.done
            assert sum(blocks for _, blocks in follower.batches) * PAGE >= ring
            # Whoever stands still is told again and again that nothing older comes.
            assert follower.marks > 0


async def test_no_more_than_three_marks_wait_for_an_answer_and_little_comes_behind_them() -> None:
    """What an interruption costs is what was sent behind the last mark that is durable."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        term = await cluster.open_term(node)
        client = await cluster.connect(node)
        await write_run(client, 0, 4 * MARKS_AHEAD * MARK_PAGES)
        with link() as peer:
            follower = Follower(peer)
            await copy_to(node, peer)
            while len(follower.between) <= MARKS_AHEAD:
                await follower.take()
            # A write is shipped behind whatever else was to be sent.
            await write_run(client, 8192, 1)
            head = await node.commit_lsn()
            while follower.last_lsn < head:
                await follower.take()
            assert len(follower.between) == MARKS_AHEAD + 1
            assert max(follower.between[:-1]) <= MARK_PAGES
            assert follower.between[-1] <= GRANULE_PAGES
            while not follower.done:
                await follower.acknowledge_marks(term)
                marks = len(follower.between)
                while not follower.done and len(follower.between) == marks:
                    await follower.take()
            assert follower.pages == {
                page: page_of(page, 1) for page in [*range(4 * MARKS_AHEAD * MARK_PAGES), 8192]
            }


async def test_granules_that_are_read_at_once_come_whole_and_in_order() -> None:
    """Of a large volume eight are read ahead; there is place for no more."""
    async with core_cluster(nodes=1, blank=True) as cluster:
        (node,) = cluster.nodes
        await node.plane.format_replica(DEMO, node.replica, size_bytes=LARGE_BYTES, block_size=PAGE)
        await node.plane.open_replica(DEMO)
        await cluster.open_term(node)
        client = await cluster.connect(node)
        count = 40 * GRANULE_PAGES
        await write_run(client, 0, count)
        with link() as peer:
            follower = Follower(peer)
            await copy_to(node, peer)
            while len(follower.pages) < count:
                await follower.take()
            assert follower.pages == {page: page_of(page, 1) for page in range(count)}

"""Acks and frames of the other side of a link, played by hand: what cannot be meant ends it."""

from __future__ import annotations

import asyncio

import pytest

from sparrow.authority.types import Term
from sparrow.base.errors import SparrowError
from sparrow.base.ids import Epoch
from sparrow.formats.links import SHIP_ACK, SHIP_FRAME
from sparrow.formats.wal import BATCH, ENTRY
from sparrow.ports.dataplane import PeerLost, PeerRebuilt, PrimaryLost
from tests.support.core_cluster import DEMO, PAGE, PAGES, core_cluster
from tests.support.core_files import reworded
from tests.support.core_peer import MOMENT_S, OTHER, PEER, a_log, joined, shipping
from tests.support.ship_peer import ack, commit_frame, link


async def test_s7_a_peer_counts_when_its_copy_is_whole() -> None:
    """Until then neither what it joined at nor what it has of the live lane."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        with link() as peer:
            term = await shipping(cluster, node, peer.theirs, rebuild=True)
            head = (await node.plane.status(DEMO)).log.last_lsn
            waiting = asyncio.create_task(node.plane.peer_acked(DEMO, PEER, head))
            await peer.send(SHIP_ACK, ack(term, head))
            await asyncio.sleep(MOMENT_S)
            assert not waiting.done()
            assert not node.heard(PeerRebuilt)
        with pytest.raises(SparrowError):
            await waiting


@pytest.mark.parametrize("flaw", ["term", "check", "beyond"])
async def test_an_ack_that_cannot_be_meant_ends_the_link(flaw: str) -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        with link() as peer:
            term = await shipping(cluster, node, peer.theirs, rebuild=False)
            head = (await node.plane.status(DEMO)).log.last_lsn
            await peer.send(SHIP_ACK, ack(term, head))
            await node.plane.peer_acked(DEMO, PEER, head)
            if flaw == "term":
                later = Term(epoch=Epoch(term.epoch + 1), start=term.start)
                await peer.send(SHIP_ACK, ack(later, head))
            elif flaw == "check":
                await peer.send(SHIP_ACK, ack(term, head), flip="durable_lsn")
            else:
                await peer.send(SHIP_ACK, ack(term, head + 1))
            assert (await node.wait(PeerLost)).cause == "protocol"


@pytest.mark.parametrize("flaw", ["term", "check"])
async def test_a_frame_that_cannot_be_meant_ends_the_link(flaw: str) -> None:
    term = Term(epoch=Epoch(3), start=1)
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, term, OTHER)
        with link() as primary:
            await joined(node, term)
            await node.plane.receive(DEMO, primary.theirs, term)
            await primary.send(SHIP_FRAME, commit_frame(term))
            if flaw == "term":
                older = Term(epoch=Epoch(2), start=term.start)
                await primary.send(SHIP_FRAME, commit_frame(older))
            else:
                await primary.send(SHIP_FRAME, commit_frame(term, 1), flip="commit_lsn")
            assert (await node.wait(PrimaryLost)).cause == "protocol"


async def test_a_batch_with_a_flipped_bit_is_not_taken() -> None:
    async with core_cluster(nodes=2) as cluster:
        donor, node = cluster.nodes
        start, write = await a_log(cluster, donor, (1,))
        await node.plane.begin_term(DEMO, Epoch(5))
        assert await node.plane.append_log(DEMO, start) == 1
        damaged = bytearray(write)
        damaged[PAGE + 7] ^= 1
        with pytest.raises(SparrowError):
            await node.plane.append_log(DEMO, bytes(damaged))
        assert await node.plane.append_log(DEMO, write) == 2


async def test_a_batch_that_does_not_follow_is_not_taken() -> None:
    """The same term and the right LSN, of another history."""
    async with core_cluster(nodes=3) as cluster:
        one, other, node = cluster.nodes
        first = await a_log(cluster, one, (1, 2))
        second = await a_log(cluster, other, (3, 4))
        await node.plane.begin_term(DEMO, Epoch(5))
        assert await node.plane.append_log(DEMO, first[0] + first[1]) == 2
        with pytest.raises(SparrowError):
            await node.plane.append_log(DEMO, second[2])
        assert await node.plane.append_log(DEMO, first[2]) == 3


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        pytest.param(BATCH.offset_of("term_epoch"), 0, id="older than what it follows"),
        pytest.param(BATCH.offset_of("durable_floor"), 2, id="durable before it was written"),
        pytest.param(BATCH.size + ENTRY.offset_of("first_page"), PAGES, id="beyond the end"),
    ],
)
async def test_a_batch_that_cannot_be_meant_is_not_taken(offset: int, value: int) -> None:
    """Whole, the next one, with right checksums: what it says cannot be."""
    async with core_cluster(nodes=2) as cluster:
        donor, node = cluster.nodes
        start, write = await a_log(cluster, donor, (1,))
        await node.plane.begin_term(DEMO, Epoch(5))
        assert await node.plane.append_log(DEMO, start) == 1
        with pytest.raises(SparrowError):
            await node.plane.append_log(DEMO, reworded(write, offset, value))
        assert await node.plane.append_log(DEMO, write) == 2


async def test_nothing_that_is_not_here_is_committed_here() -> None:
    """A follower hears of commits before it has the batches."""
    term = Term(epoch=Epoch(3), start=1)
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, term, OTHER)
        with link() as primary:
            await joined(node, term)
            await node.plane.receive(DEMO, primary.theirs, term)
            await primary.send(SHIP_FRAME, commit_frame(term, 9))
            # Frames are taken in order: when this one has ended the link, the other was taken.
            await primary.send(SHIP_FRAME, commit_frame(term, 9), flip="commit_lsn")
            await node.wait(PrimaryLost)
        assert await node.commit_lsn() == 0

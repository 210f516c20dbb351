"""What a superblock says of batches written together holds for the next process too (wal/joint.pyx).

The primary is a test: it sends the batches that another replica logged.
"""

from __future__ import annotations

import pytest

from sparrow.authority.types import Term
from sparrow.base.errors import Unavailable
from sparrow.base.ids import Epoch
from sparrow.formats.links import FRAME_BATCH
from sparrow.formats.superblock import SUPERBLOCK, SUPERBLOCK_BYTES
from sparrow.formats.wal import BATCH
from tests.support.core_cluster import DEMO, CoreCluster, CoreNode, core_cluster
from tests.support.core_files import reword_superblock, superblock
from tests.support.core_peer import OTHER, a_log, joined
from tests.support.ship_peer import Link, frame, link

JOINED_AT = 3


def ranges(node: CoreNode) -> list[int]:
    """Where the range ends in each superblock copy; 0 for none."""
    data = (node.files() / "superblock").read_bytes()
    starts = (0, SUPERBLOCK_BYTES)
    copies = [SUPERBLOCK.unpack(data[at : at + SUPERBLOCK_BYTES]) for at in starts]
    return [copy.number("joint_to") for copy in copies]


async def acknowledged(primary: Link, lsn: int) -> None:
    while (await primary.next_ack()).number("durable_lsn") < lsn:
        pass


async def closed(cluster: CoreCluster) -> tuple[CoreNode, Term, list[bytes]]:
    """A replica that has the first batches of a log, of that log's primary; it is closed."""
    donor, node = cluster.nodes
    log = await a_log(cluster, donor, (1, 2, 3))
    first = BATCH.unpack(log[0][: BATCH.size])
    term = Term(epoch=Epoch(first.number("term_epoch")), start=first.number("term_start"))
    await node.plane.fence(DEMO, term, OTHER)
    with link() as primary:
        await joined(node, term)
        await node.plane.receive(DEMO, primary.theirs, term)
        for lsn, batch in enumerate(log[:JOINED_AT], 1):
            await primary.send_body(frame(term, FRAME_BATCH, commit=lsn), batch)
        await acknowledged(primary, JOINED_AT)
    await node.plane.close_replica(DEMO)
    return node, term, log


async def test_the_next_process_takes_no_link_before_it_has_joined() -> None:
    """It died between the join and the link; its primary sends on from where the process before it joined."""
    async with core_cluster(nodes=2) as cluster:
        node, term, _ = await closed(cluster)
        await node.plane.open_replica(DEMO)
        with link() as primary, pytest.raises(Unavailable):
            await node.plane.receive(DEMO, primary.theirs, term)
        await joined(node, term)
        # Of another term, or by a preparation that was not finished, it is not.
        later = Term(epoch=Epoch(term.epoch + 1), start=1)
        await node.plane.fence(DEMO, later, OTHER)
        with link() as primary, pytest.raises(Unavailable):
            await node.plane.receive(DEMO, primary.theirs, later)


async def test_a_suspect_replica_takes_no_link_before_it_has_joined() -> None:
    """With one superblock copy it does not know what the other one said; a join has both written."""
    async with core_cluster(nodes=2) as cluster:
        node, term, log = await closed(cluster)
        with (node.files() / "superblock").open("r+b") as opened:
            opened.write(bytes(64))
        await node.plane.open_replica(DEMO)
        with link() as primary, pytest.raises(Unavailable):
            await node.plane.receive(DEMO, primary.theirs, term)
        assert (await node.plane.status(DEMO)).log.suspect
        await joined(node, term)
        with link() as primary:
            await node.plane.receive(DEMO, primary.theirs, term)
            await primary.send_body(frame(term, FRAME_BATCH, commit=JOINED_AT), log[JOINED_AT])
            await acknowledged(primary, JOINED_AT + 1)


@pytest.mark.parametrize("copies", [(0, 1), (1,)])
async def test_floors_count_again_in_both_copies_before_the_next_process_acknowledges(
    copies: tuple[int, ...],
) -> None:
    """It died while its range was in both superblock copies, or between the two copies of the update that forgot it.

    Its word may be what commits an entry. The newer copy may be lost after that: the older one is believed then.
    """
    async with core_cluster(nodes=2) as cluster:
        node, term, log = await closed(cluster)
        for copy in copies:
            reword_superblock(node.files(), copy, joint_from=1, joint_to=JOINED_AT)
        newer = superblock(node.files()).number("sequence") + 1
        reword_superblock(node.files(), 0, sequence=newer)
        await node.plane.open_replica(DEMO)
        assert ranges(node) == [JOINED_AT if copy in copies else 0 for copy in (0, 1)]
        await joined(node, term)
        with link() as primary:
            await node.plane.receive(DEMO, primary.theirs, term)
            # It is not committed: this replica's word may be what is missing.
            await primary.send_body(frame(term, FRAME_BATCH, commit=JOINED_AT), log[JOINED_AT])
            await acknowledged(primary, JOINED_AT + 1)
            assert ranges(node) == [0, 0]

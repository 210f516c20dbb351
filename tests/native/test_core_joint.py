"""What a superblock says of batches written together holds for the next process too (wal/joint.pyx).

The primary is a test: it sends the batches that another replica logged.
"""

from __future__ import annotations

from sparrow.authority.types import Term
from sparrow.base.ids import Epoch
from sparrow.formats.links import FRAME_BATCH
from sparrow.formats.superblock import SUPERBLOCK, SUPERBLOCK_BYTES
from sparrow.formats.wal import BATCH
from tests.support.core_cluster import DEMO, CoreNode, core_cluster
from tests.support.core_files import reword_superblock
from tests.support.core_peer import OTHER, a_log
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


async def test_a_process_that_joined_nobody_acknowledges_more_only_when_every_floor_counts() -> (
    None
):
    """It died between the join and the link; its primary sends on from where the process before it joined."""
    async with core_cluster(nodes=2) as cluster:
        donor, node = cluster.nodes
        log = await a_log(cluster, donor, (1, 2, 3))
        first = BATCH.unpack(log[0][: BATCH.size])
        term = Term(epoch=Epoch(first.number("term_epoch")), start=first.number("term_start"))
        await node.plane.fence(DEMO, term, OTHER)
        with link() as primary:
            await node.plane.receive(DEMO, primary.theirs, term)
            for lsn, batch in enumerate(log[:JOINED_AT], 1):
                await primary.send_body(frame(term, FRAME_BATCH, commit=lsn), batch)
            await acknowledged(primary, JOINED_AT)
        await node.plane.close_replica(DEMO)
        for copy in range(2):
            reword_superblock(node.files(), copy, joint_from=1, joint_to=JOINED_AT)
        await node.plane.open_replica(DEMO)
        assert ranges(node) == [JOINED_AT, JOINED_AT]
        with link() as primary:
            await node.plane.receive(DEMO, primary.theirs, term)
            # It is not committed: this replica's word may be what is missing.
            await primary.send_body(frame(term, FRAME_BATCH, commit=JOINED_AT), log[JOINED_AT])
            await acknowledged(primary, JOINED_AT + 1)
            assert ranges(node) == [0, 0]

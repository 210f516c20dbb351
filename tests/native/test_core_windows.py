"""Batches that logs keep in memory for peers: volumes at rest leave those at work what they need."""

from __future__ import annotations

import pytest

from sparrow.base.ids import ReplicaId, VolumeId
from sparrow.dataplane.machine import CoreSizes
from tests.support.core_client import page_of
from tests.support.core_cluster import VOLUME_BYTES, CoreCluster, CoreNode, core_cluster

#: More than one log keeps.
WRITES = 80


async def another(cluster: CoreCluster, node: CoreNode, name: str) -> VolumeId:
    """A volume of its own, served by this node alone."""
    volume = VolumeId(name)
    await node.plane.format_replica(
        volume, ReplicaId("r0"), size_bytes=VOLUME_BYTES, block_size=4096
    )
    await node.plane.open_replica(volume)
    await cluster.open_term(node, volume=volume)
    return volume


@pytest.mark.parametrize(
    ("sizes", "pages"),
    [(CoreSizes(pages=24576, batches=96), 1), (CoreSizes(pages=6144), 64)],
    ids=["batches", "pages"],
)
async def test_the_logs_of_resting_volumes_leave_memory_to_those_at_work(
    sizes: CoreSizes, pages: int
) -> None:
    """Each volume in turn writes more than its log keeps, and rests: together they would keep more than there is."""
    async with core_cluster(nodes=1, blank=True, sizes=sizes) as cluster:
        (node,) = cluster.nodes
        for number in range(4):
            volume = await another(cluster, node, f"v{number}")
            client = await cluster.connect(node, volume=volume)
            for write in range(1, WRITES + 1):
                data = b"".join(page_of(page, write) for page in range(pages))
                assert (await client.write(0, data)).status == 0

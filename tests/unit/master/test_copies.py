"""The master's store is kept on two nodes: which, when, and what a person is told."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from sparrow.master import copies
from sparrow.rpc.messages import StoreCopyView
from tests.support.master_cluster import Cluster, wish


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Cluster]:
    monkeypatch.setattr(copies, "PAUSE_S", 0.05)
    made = Cluster()
    await made.start()
    yield made
    await made.stop()


async def told(cluster: Cluster) -> tuple[StoreCopyView, ...]:
    return (await cluster.api.authority_status()).copies


async def holders(cluster: Cluster) -> list[str]:
    return [one.node_id for one in await told(cluster) if one.current]


async def two(cluster: Cluster, *, without: str = "") -> list[str]:
    """Wait until two nodes hold all that is durable, whichever were heard and answered first."""

    found: list[str] = []

    async def both() -> bool:
        found[:] = await holders(cluster)
        return len(found) == 2 and without not in found

    await cluster.until(both)
    return found


async def test_two_nodes_hold_everything_that_is_durable(cluster: Cluster) -> None:
    before = [cluster.nodes[name].kept[-1].revision for name in await two(cluster)]
    await cluster.api.create_volume(wish())
    for name in await two(cluster):
        newest = cluster.nodes[name].kept[-1]
        assert newest.revision > max(before)
        assert newest.revision == cluster.store.revision
        assert newest.master_generation == cluster.master.generation
        assert newest.cluster_id == cluster.store.cluster_id
    assert len(await told(cluster)) == 2


async def test_another_node_takes_the_place_of_one_that_is_gone(cluster: Cluster) -> None:
    gone, left = await two(cluster)
    await cluster.nodes[gone].stop()
    assert left in await two(cluster, without=gone)


async def test_a_node_that_cannot_keep_one_is_passed_over(cluster: Cluster) -> None:
    _, refuses = await two(cluster)
    cluster.nodes[refuses].refuses_copies = True
    await cluster.api.create_volume(wish())
    await two(cluster, without=refuses)


async def test_a_copy_that_is_behind_is_said_to_be(cluster: Cluster) -> None:
    await two(cluster)
    for node in cluster.nodes.values():
        node.refuses_copies = True
    await cluster.api.create_volume(wish())

    async def nobody() -> bool:
        return await holders(cluster) == []

    await cluster.until(nobody)

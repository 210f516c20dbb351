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


async def test_two_nodes_hold_everything_that_is_durable(cluster: Cluster) -> None:
    async def both() -> bool:
        return await holders(cluster) == ["n1", "n2"]

    await cluster.until(both)
    before = cluster.nodes["n1"].kept[-1].revision
    await cluster.api.create_volume(wish())
    await cluster.until(both)
    newest = cluster.nodes["n1"].kept[-1]
    assert newest.revision > before
    assert newest.revision == cluster.store.revision
    assert newest.master_generation == cluster.master.generation
    assert newest.cluster_id == cluster.store.cluster_id
    assert cluster.nodes["n3"].kept == []


async def test_another_node_takes_the_place_of_one_that_is_gone(cluster: Cluster) -> None:
    async def held_by(*names: str) -> bool:
        return await holders(cluster) == list(names)

    await cluster.until(lambda: held_by("n1", "n2"))
    await cluster.nodes["n1"].stop()
    await cluster.until(lambda: held_by("n2", "n3"))


async def test_a_node_that_cannot_keep_one_is_passed_over_and_told_of_once(
    cluster: Cluster,
) -> None:
    async def held_by(*names: str) -> bool:
        return await holders(cluster) == list(names)

    await cluster.until(lambda: held_by("n1", "n2"))
    cluster.nodes["n2"].refuses_copies = True
    await cluster.api.create_volume(wish())
    await cluster.until(lambda: held_by("n1", "n3"))


async def test_a_copy_that_is_behind_is_said_to_be(cluster: Cluster) -> None:
    async def both() -> bool:
        return await holders(cluster) == ["n1", "n2"]

    await cluster.until(both)
    cluster.nodes["n1"].refuses_copies = cluster.nodes["n2"].refuses_copies = True
    cluster.nodes["n3"].refuses_copies = True
    await cluster.api.create_volume(wish())

    async def nobody() -> bool:
        return await holders(cluster) == []

    await cluster.until(nobody)

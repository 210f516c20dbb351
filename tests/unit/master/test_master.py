"""A whole master: restarts, nodes that die, and what is shown of nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparrow.base.ids import VolumeId
from sparrow.master import volume_service
from tests.support.fake_node import GIB
from tests.support.master_cluster import Cluster, wish
from tests.support.waiting import WAIT_S


async def test_lines_are_the_same_after_a_restart_of_the_master(cluster: Cluster) -> None:
    before = (await cluster.api.create_volume(wish())).line
    assert before is not None
    await cluster.stop_master()
    await cluster.start_master()
    after = (await cluster.api.get_volume("a")).line
    assert after is not None
    assert (after.lineage, after.primary, after.in_sync) == (
        before.lineage,
        before.primary,
        before.in_sync,
    )
    await cluster.until_state("a", "healthy")
    status = await cluster.api.authority_status()
    assert status.master_generation == 2


async def test_a_create_right_after_a_restart_waits_for_the_nodes(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_service, "GATHER_S", WAIT_S)
    await cluster.stop_master()
    await cluster.start_master()
    assert (await cluster.api.create_volume(wish())).state == "healthy"


async def test_the_death_of_the_primarys_process_moves_the_volume(cluster: Cluster) -> None:
    before = (await cluster.api.create_volume(wish())).line
    assert before is not None
    for node in cluster.nodes.values():
        # The others say that they do not hear the primary: its broken stream alone is no proof.
        if node.node_id != before.primary_member.node_id:
            slot = node.slots[VolumeId("a")]
            node.slots[VolumeId("a")] = replace(slot, primary_silent_ms=5000)
    await cluster.nodes[before.primary_member.node_id].stop()

    async def moved() -> bool:
        line = (await cluster.api.get_volume("a")).line
        return line is not None and line.lineage.epoch > before.lineage.epoch

    await cluster.until(moved)
    await cluster.until_state("a", "degraded")
    volume = await cluster.api.get_volume("a")
    assert volume.line is not None
    assert volume.line.primary != before.primary
    assert "not in sync (2 of 3)" in volume.cause


async def test_nodes_are_listed_with_their_load(cluster: Cluster) -> None:
    await cluster.api.create_volume(wish())
    await cluster.nodes["n3"].stop()

    async def lost() -> bool:
        return {n.node_id: n.state for n in await cluster.api.list_nodes()}["n3"] == "lost"

    await cluster.until(lost)
    nodes = {node.node_id: node for node in await cluster.api.list_nodes()}
    assert sorted(nodes) == ["n1", "n2", "n3"]
    assert sum(node.primary_count for node in nodes.values()) == 1
    assert nodes["n1"].replica_count == 1
    assert nodes["n1"].pool_free_bytes == 100 * GIB


def test_the_masters_wait_ends_before_the_clients() -> None:
    from sparrow.rpc.api_client import WORK_TIMEOUT_S

    assert volume_service.WORK_S + volume_service.GATHER_S < WORK_TIMEOUT_S

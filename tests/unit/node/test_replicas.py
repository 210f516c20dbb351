"""Files of replicas on a node: made where there are none, removed when nobody means them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sparrow.authority.effects import HostReplica, RemoveReplica
from sparrow.base.errors import NotFound
from sparrow.base.ids import Epoch, VolumeId
from tests.support.lines import SIZE, VOLUME, moved, rid
from tests.support.model_cluster import Cluster, play


def test_existing_files_are_never_formatted_over() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 1, b"one")
        before = cluster.uuids()
        again = HostReplica(
            volume_id=VOLUME, replica_id=rid("b"), size_bytes=SIZE * 2, block_size=4096
        )
        await cluster.node("b").replicas.want(again)
        cluster.node("c").replicas._volumes.clear()
        await cluster.node("c").replicas.want(replace(again, replica_id=rid("c")))
        assert cluster.uuids() == before
        assert cluster.pages("b") == {1: b"one"}

    play(story)


@pytest.mark.parametrize(
    "change",
    [{"retired": False}, {"volume_id": VolumeId("other")}, {"lineage": "older"}],
)
def test_files_go_only_with_a_tombstone_of_this_volume(change: dict[str, Any]) -> None:
    async def story(cluster: Cluster) -> None:
        cluster.mint(2, 1, "b", "bc")
        await cluster.until(lambda: cluster.node("b").gate_open)
        tombstone = moved(cluster.line, "b", retired=True)
        if change.get("lineage") == "older":
            lineage = replace(tombstone.lineage, epoch=Epoch(1))
            tombstone = replace(tombstone, lineage=lineage)
        else:
            tombstone = replace(tombstone, **change)
        await cluster.node("c").replicas.remove(
            RemoveReplica(volume_id=VOLUME, replica_id=rid("c"), tombstone=tombstone)
        )
        assert VOLUME in cluster.pools["nc"].files

    play(story)


def test_files_that_a_line_as_new_as_ours_does_not_mean_may_go() -> None:
    async def story(cluster: Cluster) -> None:
        line = moved(cluster.line, "a", in_sync=("a", "b"))
        line = replace(line, members=tuple(m for m in line.members if m.replica_id != "c"))
        cluster.master.mint(line)
        for r in "ac":
            await cluster.until(lambda r=r: cluster.node(r).replicas.get(VOLUME).line == line)
        await cluster.until(lambda: cluster.node("a").gate_open)
        await cluster.node("c").replicas.remove(
            RemoveReplica(volume_id=VOLUME, replica_id=rid("c"), tombstone=line)
        )
        assert sorted(cluster.uuids()) == ["a", "b"]
        await cluster.write("a", 1, b"one")

    play(story)


@pytest.mark.parametrize("proof", ["older", "means it", "of another slot"])
def test_files_stay_while_a_line_does_not_prove_that_nobody_means_them(proof: str) -> None:
    async def story(cluster: Cluster) -> None:
        without = moved(cluster.line, "a", in_sync=("a", "b"))
        without = replace(without, members=tuple(m for m in without.members if m.replica_id != "c"))
        if proof == "older":
            cluster.mint(without.lineage.epoch, without.lineage.endpoint_version + 1, "b", "bc")
            await cluster.until(lambda: cluster.node("b").gate_open)
        line = cluster.line if proof == "means it" else without
        slot = rid("b") if proof == "of another slot" else rid("c")
        await cluster.node("c").replicas.remove(
            RemoveReplica(volume_id=VOLUME, replica_id=slot, tombstone=line)
        )
        assert VOLUME in cluster.pools["nc"].files

    play(story)


def test_a_retired_volume_stops_serving_and_its_files_go() -> None:
    async def story(cluster: Cluster) -> None:
        tombstone = moved(cluster.line, "a", retired=True)
        cluster.master.mint(tombstone)
        await cluster.until(lambda: not cluster.node("a").gate_open)
        for r in "abc":
            await cluster.node(r).replicas.remove(
                RemoveReplica(volume_id=VOLUME, replica_id=rid(r), tombstone=tombstone)
            )
        assert cluster.uuids() == {}
        with pytest.raises(NotFound):
            cluster.node("a").replicas.get(VOLUME)

    play(story)

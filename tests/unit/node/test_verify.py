"""Replicas compared page by page, and a damaged page taken from a peer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from sparrow.base import events as names
from sparrow.base.errors import NotPrimary
from sparrow.node.mending import repair_page
from sparrow.node.verify import compare_replicas
from tests.support.lines import SIZE, VOLUME
from tests.support.model_cluster import Cluster, play


def test_equal_replicas_are_found_equal_and_a_different_page_is_named() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 7, b"seven")
        a = cluster.node("a")
        steps = [p async for p in compare_replicas(a.replicas.get(VOLUME), a.around)]
        assert steps[-1].finished
        assert steps[-1].pages_done == steps[-1].pages_total == SIZE // 4096
        assert steps[-1].replicas == ("a", "b", "c")
        assert not any(step.different_pages for step in steps)
        batches = cluster.pools["nb"].files[VOLUME].log.batches
        batches[-1] = replace(batches[-1], data=b"rotten")
        cluster.pools["nc"].files[VOLUME].damaged.add(9)
        steps = [p async for p in compare_replicas(a.replicas.get(VOLUME), a.around)]
        assert {page for step in steps for page in step.different_pages} == {7, 9}

    play(story)


def test_replicas_are_compared_on_the_primary_only() -> None:
    async def story(cluster: Cluster) -> None:
        b = cluster.node("b")
        with pytest.raises(NotPrimary):
            async for _ in compare_replicas(b.replicas.get(VOLUME), b.around):
                pass

    play(story)


def test_a_damaged_page_is_taken_from_a_peer() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 7, bytes(4096))
        await cluster.write("a", 8, bytes(4096))
        cluster.pools["na"].files[VOLUME].damaged.add(7)
        a = cluster.node("a")
        with capture_logs() as logs:
            assert await repair_page(a.replicas.get(VOLUME), a.around, 7)
        assert not cluster.pools["na"].files[VOLUME].damaged
        events = [entry["event"] for entry in logs]
        assert names.PAGE_DAMAGED in events
        assert names.PAGE_REPAIRED in events

    play(story)


def test_a_damaged_page_nobody_else_has_fails_the_read() -> None:
    async def story(cluster: Cluster) -> None:
        for r in "abc":
            cluster.pools[f"n{r}"].files[VOLUME].damaged.add(7)
        a = cluster.node("a")
        assert not await repair_page(a.replicas.get(VOLUME), a.around, 7)
        assert cluster.pools["na"].files[VOLUME].damaged == {7}

    play(story)

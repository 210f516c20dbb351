"""Failovers come neither too often for one volume nor too many at once from one node."""

from __future__ import annotations

from typing import Any

import pytest

from sparrow.authority import loop as loop_module
from sparrow.authority.builder import Outcome
from sparrow.authority.events import Tick
from sparrow.authority.storm import (
    FAILOVER_COOLDOWN_S,
    NODE_FAILOVERS_MAX,
    NODE_WINDOW_S,
    StormLimiter,
)
from sparrow.base.ids import NodeId, VolumeId
from tests.support.authority import FakeCluster, V, lineage

N = NodeId("n1")


def test_the_limit_of_a_node_ends_with_its_window() -> None:
    limiter = StormLimiter()
    for _ in range(NODE_FAILOVERS_MAX):
        assert limiter.wait_until(N, 10.0) is None
        limiter.count(N, 10.0)
    assert limiter.wait_until(N, 10.0) == 10.0 + NODE_WINDOW_S
    assert limiter.wait_until(NodeId("n2"), 10.0) is None
    assert limiter.wait_until(N, 10.0 + NODE_WINDOW_S) is None
    limiter.count(N, 10.0 + NODE_WINDOW_S)
    assert limiter.wait_until(N, 10.0 + NODE_WINDOW_S) is None, "a new window counts from nothing"


def test_a_volume_that_failed_over_a_moment_ago_waits_and_then_goes_on() -> None:
    cluster = FakeCluster()
    cluster.create()
    cluster.run(1.0)
    cluster.kill(1)
    cluster.run(0.3)
    assert cluster.line().lineage == lineage(2, 1)
    cluster.restart(1)
    cluster.kill(int(cluster.line().primary_member.node_id[1:]))
    cluster.run(FAILOVER_COOLDOWN_S - 0.4)
    assert cluster.line().lineage == lineage(2, 1)
    why = cluster.loop.why(V)
    assert why is not None
    assert "failed over a moment ago" in why.reason
    cluster.run(0.3)
    assert cluster.line().lineage == lineage(3, 1)


def test_more_volumes_than_the_limit_leave_a_dead_node_window_by_window() -> None:
    cluster = FakeCluster()
    count = NODE_FAILOVERS_MAX + 10
    for number in range(count * 3):
        cluster.create(f"v{number:04d}")
    cluster.run(2.0)
    lines = cluster.loop.publisher.lines
    mine = [one for one, line in lines.items() if line.primary_member.node_id == N]
    assert len(mine) == count
    cluster.kill(1)
    cluster.run(0.2)
    moved = [one for one in mine if cluster.line(one).lineage.epoch == 2]
    assert len(moved) == NODE_FAILOVERS_MAX
    cluster.run(NODE_WINDOW_S)
    assert all(cluster.line(one).lineage.epoch == 2 for one in mine)


def test_one_step_looks_at_a_bounded_number_of_volumes_and_the_next_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_module, "STEP_VOLUMES_MAX", 2)
    cluster = FakeCluster()
    for number in range(30):
        cluster.create(f"v{number}")
    cluster.run(3.0)
    assert len(cluster.loop.publisher.lines) == 30
    assert {line.lineage.epoch for line in cluster.loop.publisher.lines.values()} == {1}
    mine = [v for v, line in cluster.loop.publisher.lines.items() if line.primary == "r1"]
    cluster.kill(1)
    cluster.run(0.2)
    assert all(cluster.line(one).lineage.epoch == 2 for one in mine)


def test_a_heartbeat_does_not_wait_for_more_volumes_than_one_step_looks_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or each of those that wait would wait for as many: slower than they come, and never done."""
    cluster = FakeCluster()
    for number in range(30):
        cluster.create(f"v{number}")
    cluster.run(3.0)
    monkeypatch.setattr(loop_module, "STEP_VOLUMES_MAX", 2)
    looked: list[str] = []
    build = loop_module.build

    def counted(volume_id: VolumeId, **around: Any) -> Outcome:
        looked.append(volume_id)
        return build(volume_id, **around)

    monkeypatch.setattr(loop_module, "build", counted)
    cluster.kill(1)
    for _ in range(10):
        cluster.beat(2)
        cluster.beat(3)
    assert looked == [], "left to the ticks between heartbeats"
    cluster.step(Tick())
    assert len(looked) == 2
    cluster.run(0.2)
    assert len(set(looked)) >= 10

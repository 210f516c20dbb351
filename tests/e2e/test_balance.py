"""A node that returns leads again, on real processes: one primary at a time, under load, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from sparrow.authority.balance import SETTLE_S
from sparrow.authority.decide import HAND_OVER, REBALANCE
from tests.support.cluster import Cluster
from tests.support.ledger import Ledger
from tests.support.multipath import check_all
from tests.support.needs import needs_io_uring
from tests.support.paths import cluster_paths
from tests.support.traffic import Traffic

pytestmark = [needs_io_uring(), pytest.mark.timeout(300)]

SIZE = 32 << 20
NAMES = ("a", "b", "c", "d")


@pytest.fixture
def cluster(place: Path) -> Iterator[Cluster]:
    with Cluster(place) as made:
        yield made


def led(cluster: Cluster) -> Counter[str]:
    counted = Counter(dict.fromkeys(cluster.nodes, 0))
    counted.update(cluster.primary(name).node_id for name in NAMES)
    return counted


def minted(cluster: Cluster) -> list[dict[str, Any]]:
    return cluster.master.log_events("line.minted", intent="reassign")


def moves(cluster: Cluster) -> list[dict[str, Any]]:
    return [one for one in minted(cluster) if one["reason"].startswith(f"{REBALANCE}: ")]


def is_hand_over(line: dict[str, Any]) -> bool:
    """What a primary asks for whose disk, or whose whole machine, stood still while something was written."""
    return bool(line["reason"].startswith(f"{HAND_OVER}: "))


def seconds_between(first: dict[str, Any], second: dict[str, Any]) -> float:
    """By what the master's log says of both."""
    one, other = (datetime.fromisoformat(event["timestamp"]) for event in (first, second))
    return (other - one).total_seconds()


def why(cluster: Cluster, name: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sparrow", "volume", "why", name],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "SPARROW_MASTER": cluster.master_addr},
    )
    (row,) = [row for row in done.stdout.splitlines() if row.startswith("balance")]
    return row


def test_a_node_that_returned_leads_again_and_nothing_is_lost(cluster: Cluster) -> None:
    for name in NAMES:
        cluster.create_volume(name, size=SIZE)
    for name in NAMES:
        cluster.wait_healthy(name)
    assert sorted(led(cluster).values()) == [1, 1, 2]
    (heavy,) = [cluster.nodes[one] for one, count in led(cluster).items() if count == 2]
    heavy.kill()
    for name in NAMES:
        cluster.wait_serving(name, not_on=heavy)
    streams = len(cluster.master.log_events("stream.opened", node=heavy.node_id))
    heavy.start()
    for name in NAMES:
        cluster.wait_healthy(name)
    found = led(cluster)
    assert found[heavy.node_id] == 0 or moves(cluster)

    ledger = Ledger(11)
    busy = NAMES[0]
    held_back = why(cluster, busy)
    # However long that took on this machine.
    assert f"not to {heavy.node_id}, which subscribed" in held_back or moves(cluster)
    paths = cluster_paths(cluster, busy)
    with Traffic(ledger, paths, pages=1024, pause_s=0.002) as traffic:
        traffic.wait_acked(50)
        cluster._wait(
            lambda: led(cluster),
            lambda found: sorted(found.values()) == [1, 1, 2] and found[heavy.node_id] == 1,
            SETTLE_S + 60,
            "primaries per node",
        )
        for name in NAMES:
            cluster.wait_healthy(name)
        traffic.wait_acked(50)
        traffic.rest()
        for name in NAMES:
            assert cluster.verify(name) == []
    check_all(ledger, paths)
    assert ledger.faults == []
    moved, handed_over = moves(cluster), [one for one in minted(cluster) if is_hand_over(one)]
    assert len(moved) == 1 or handed_over, "as few as even loads need"
    subscribed = cluster.master.log_events("stream.opened", node=heavy.node_id)[streams]
    assert seconds_between(subscribed, moved[0]) > SETTLE_S - 1.0
    assert "even: " in why(cluster, busy)

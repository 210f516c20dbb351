"""A node that returns leads again, on real processes: one primary at a time, under load, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparrow.authority.balance import SETTLE_S
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


def moves(cluster: Cluster) -> list[str]:
    minted = cluster.master.log_events("line.minted", intent="reassign")
    return [one["reason"] for one in minted if one["reason"].startswith("rebalance: ")]


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
    heavy.start()
    for name in NAMES:
        cluster.wait_healthy(name)
    assert led(cluster)[heavy.node_id] == 0
    assert moves(cluster) == []

    ledger = Ledger(11)
    busy = NAMES[0]
    assert f"not to {heavy.node_id}, which subscribed" in why(cluster, busy)
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
    assert len(moves(cluster)) == 1, "as few as even loads need"
    assert "even: " in why(cluster, busy)

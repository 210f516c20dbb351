"""kill -9 of all processes during writes, and a start of what is left: every acknowledged write is there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.ledger import Ledger
from tests.support.multipath import check_all
from tests.support.needs import needs_io_uring, needs_root
from tests.support.paths import cluster_paths
from tests.support.places import loop_device
from tests.support.traffic import Traffic

pytestmark = [needs_io_uring(), pytest.mark.timeout(240)]

ROUNDS = 3


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_every_acknowledged_write_is_there_after_a_start(place: Path, replicas: int) -> None:
    ledger = Ledger(5)
    with Cluster(place, nodes=replicas) as cluster:
        cluster.create_volume("a", size=64 << 20, replicas=replicas)
        paths = cluster_paths(cluster, "a")
        with Traffic(ledger, paths, pages=4096) as traffic:
            for _ in range(ROUNDS):
                traffic.wait_acked(100)
                before = cluster.volume("a").line
                killed_at = time.monotonic()
                cluster.kill_all()
                cluster.start_all()
                traffic.wait_moved_on(killed_at)
                traffic.rest()
                check_all(ledger, paths)
                traffic.go_on()
                cluster.wait_healthy("a")
                after = cluster.volume("a").line
                assert before is not None
                assert after is not None
                assert after.lineage >= before.lineage
            traffic.rest()
            assert ledger.faults == []
            assert cluster.verify("a") == []


@needs_root()
def test_logs_on_a_device_of_their_own_survive_as_well(place: Path) -> None:
    ledger = Ledger(7)
    with (
        loop_device(place, "wal", 64 << 20) as device,
        Cluster(place, nodes=1, node_arguments=("--wal-device", str(device))) as cluster,
    ):
        cluster.create_volume("a", size=64 << 20, replicas=1)
        paths = cluster_paths(cluster, "a")
        with Traffic(ledger, paths, pages=4096) as traffic:
            for _ in range(ROUNDS):
                traffic.wait_acked(100)
                killed_at = time.monotonic()
                cluster.kill_all()
                cluster.start_all()
                traffic.wait_moved_on(killed_at)
                traffic.rest()
                check_all(ledger, paths)
                traffic.go_on()
        assert not list((place / "n1").glob("volumes/*/*/wal"))
    assert ledger.faults == []


@needs_root()
def test_a_node_that_starts_without_its_wal_device_says_so_and_gives_nothing_up(
    place: Path,
) -> None:
    """Nothing on the disks is lost by it: with the device named again everything is as it was."""
    ledger = Ledger(8)
    with (
        loop_device(place, "wal", 64 << 20) as device,
        Cluster(place, nodes=1, node_arguments=("--wal-device", str(device))) as cluster,
    ):
        cluster.create_volume("a", size=64 << 20, replicas=1)
        paths = cluster_paths(cluster, "a")
        with Traffic(ledger, paths, pages=4096) as traffic:
            traffic.wait_acked(100)
            traffic.rest()
        node = cluster.nodes["n1"]
        node.kill()
        whole = node.arguments
        at = whole.index("--wal-device")
        node.arguments = (*whole[:at], *whole[at + 2 :])
        node.start()
        (found,) = cluster._wait(
            lambda: cluster.api(lambda api: api.list_nodes()),
            lambda nodes: bool(nodes[0].troubles),
            60.0,
            "the node's trouble",
        )
        (trouble,) = found.troubles
        assert "r1 of volume a cannot be opened: The log of" in trouble
        assert "which this node does not have. Start the node with --wal-device" in trouble
        volume = cluster.wait_volume("a", lambda one: one.state == "unavailable", 30.0)
        assert [one.state for one in volume.replicas] == ["condemned"]
        node.kill()
        node.arguments = whole
        node.start()
        cluster.wait_healthy("a")
        check_all(ledger, paths)
    assert ledger.faults == []


def test_nodes_that_start_one_after_the_other_lose_nothing(place: Path) -> None:
    """The replica that starts first may be the one with the shortest log; it must not win by being early."""
    ledger = Ledger(6)
    with Cluster(place) as cluster:
        cluster.create_volume("a", size=64 << 20)
        paths = cluster_paths(cluster, "a")
        with Traffic(ledger, paths, pages=4096) as traffic:
            for first in ("n1", "n2", "n3"):
                traffic.wait_acked(100)
                killed_at = time.monotonic()
                cluster.kill_all()
                cluster.master.start()
                others = [node for name, node in cluster.nodes.items() if name != first]
                cluster.nodes[first].start()
                time.sleep(1.5)
                for node in others:
                    node.start()
                    time.sleep(0.5)
                traffic.wait_moved_on(killed_at)
                cluster.wait_healthy("a")
            traffic.rest()
            check_all(ledger, paths)
    assert ledger.faults == []

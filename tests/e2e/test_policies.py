"""ack=quorum and ack=local on real processes: what one silent replica holds up, and what a failover may lose."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, NodeProc
from tests.support.iscsi_client import IscsiClient, ScsiError
from tests.support.ledger import Ledger
from tests.support.multipath import check_all
from tests.support.needs import needs_io_uring
from tests.support.paths import cluster_paths
from tests.support.traffic import Traffic

pytestmark = [needs_io_uring(), pytest.mark.timeout(300)]

MIB = 1 << 20
PAGE = 4096


@pytest.fixture
def cluster(place: Path) -> Iterator[Cluster]:
    with Cluster(place / "cluster", nodes=4) as made:
        yield made


def follower(cluster: Cluster, name: str) -> NodeProc:
    primary = cluster.primary(name)
    line = cluster.volume(name).line
    assert line is not None
    return next(
        cluster.nodes[m.node_id]
        for m in line.members
        if m.replica_id in line.in_sync and m.node_id != primary.node_id
    )


def test_s11_l16_below_the_minimum_nothing_is_acknowledged_until_a_replica_is_back(
    cluster: Cluster,
) -> None:
    """Two of three copies are lost: writes end with the path error, no medium error, and go on with the second copy."""
    cluster.create_volume("a", size=64 * MIB)
    cluster.wait_healthy("a")
    node, target = cluster.primary("a"), cluster_paths(cluster, "a").target
    line = cluster.volume("a").line
    assert line is not None
    assert line.min_in_sync == 2
    followers = [
        cluster.nodes[one.node_id] for one in line.members if one.replica_id != line.primary
    ]
    with IscsiClient(*node.portal, target, timeout_s=20) as client:
        client.read_capacity()
        client.write(0, b"1" * PAGE)
        for one in followers:
            one.kill()
        cluster.wait_volume(
            "a", lambda volume: volume.line is not None and len(volume.line.in_sync) == 1, 30.0
        )
        for page in (0, 1):
            with pytest.raises(ScsiError) as caught:
                client.write(page, b"2" * PAGE)
            error = caught.value
            assert (error.key, error.asc, error.ascq) == (0x02, 0x04, 0x0A)
        followers[0].start()
        cluster.wait_volume(
            "a", lambda volume: volume.line is not None and len(volume.line.in_sync) == 2, 60.0
        )
    cluster.wait_serving("a", 30.0)
    with cluster_paths(cluster, "a").connect() as client:
        # What ended with an error may be there or not; what was acknowledged is, unless that took its place.
        assert client.read(0, 1) in {b"1" * PAGE, b"2" * PAGE}
        assert client.read(1, 1) in {bytes(PAGE), b"2" * PAGE}
        client.write(0, b"3" * PAGE)
        assert client.read(0, 1) == b"3" * PAGE
    followers[1].start()
    cluster.wait_healthy("a")
    assert cluster.verify("a") == []


def test_a_frozen_follower_holds_up_no_write_of_a_quorum(cluster: Cluster) -> None:
    """Under ack=sync every write waits until the frozen one is taken out; here none does."""
    cluster.create_volume("a", size=64 * MIB, ack="quorum")
    cluster.wait_healthy("a")
    node = cluster.primary("a")
    silent = follower(cluster, "a")
    with IscsiClient(*node.portal, cluster_paths(cluster, "a").target, timeout_s=30) as client:
        client.read_capacity()
        client.write(0, bytes(PAGE))
        # Without the master no line leaves it out: a write that waited for it would wait in vain.
        cluster.master.kill()
        silent.freeze()
        began = time.monotonic()
        for page in range(20):
            client.write(page, os.urandom(PAGE))
        print(f"twenty_writes_ms: {(time.monotonic() - began) * 1000:.0f}")
    silent.thaw()
    cluster.master.start()
    cluster.wait_healthy("a")
    assert cluster.verify("a") == []


def test_a_quorum_loses_nothing_when_its_primary_dies_while_one_lags(cluster: Cluster) -> None:
    cluster.create_volume("a", size=64 * MIB, ack="quorum")
    cluster.wait_healthy("a")
    ledger = Ledger(5)
    paths = cluster_paths(cluster, "a")
    with Traffic(ledger, paths, pages=2048, pause_s=0.002) as traffic:
        for _ in range(3):
            traffic.wait_acked(50)
            lagging = follower(cluster, "a")
            lagging.freeze()
            traffic.wait_acked(20)
            victim = cluster.primary("a")
            killed_at = time.monotonic()
            victim.kill()
            lagging.thaw()
            traffic.wait_moved_on(killed_at)
            victim.start()
            cluster.wait_healthy("a")
        traffic.rest()
        assert cluster.verify("a") == []
    check_all(ledger, paths)
    assert ledger.faults == []


@pytest.mark.parametrize("leads", [False, True], ids=["follower", "primary"])
def test_a_replica_of_a_quorum_is_drained_under_load(cluster: Cluster, leads: bool) -> None:
    """Only the primary can take one out safely: what is told to it, and done, while writes go on."""
    cluster.create_volume("a", size=64 * MIB, ack="quorum")
    cluster.wait_healthy("a")
    ledger = Ledger(6)
    paths = cluster_paths(cluster, "a")
    with Traffic(ledger, paths, pages=2048, pause_s=0.002) as traffic:
        traffic.wait_acked(50)
        leaving = cluster.primary("a") if leads else follower(cluster, "a")
        done = sparrow(cluster, "node", "drain", leaving.node_id, "--wait")
        assert done.returncode == 0, done.stdout + done.stderr
        traffic.wait_acked(50)
        traffic.rest()
        volume = cluster.wait_healthy("a")
        assert cluster.verify("a") == []
    assert volume.line is not None
    assert len(volume.line.in_sync) == 3
    assert leaving.node_id not in {member.node_id for member in volume.line.members}
    check_all(ledger, paths)
    assert ledger.faults == []


def sparrow(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sparrow", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "SPARROW_MASTER": cluster.master_addr},
    )


def test_local_says_what_it_may_lose_and_goes_on_after_a_failover(cluster: Cluster) -> None:
    cluster.create_volume("a", size=64 * MIB, ack="local")
    cluster.wait_healthy("a")
    node = cluster.primary("a")
    with IscsiClient(*node.portal, cluster_paths(cluster, "a").target, timeout_s=30) as client:
        client.read_capacity()
        client.write(0, os.urandom(PAGE))
    shown = sparrow(cluster, "volume", "show", "a")
    assert "durable on the primary (ack=local)" in shown.stdout
    assert "loss window" in shown.stdout
    node.kill()
    heir = cluster.wait_serving("a", not_on=node)
    with IscsiClient(*heir.portal, cluster_paths(cluster, "a").target, timeout_s=30) as client:
        client.read_capacity()
        client.write(0, b"x" * PAGE)
        assert client.read(0, 1) == b"x" * PAGE
    node.start()
    cluster.wait_healthy("a")
    assert cluster.verify("a") == []

"""The master's process is killed while volumes are in use: nobody needs it until something else fails."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sparrow.authority.types import Line
from tests.support.cluster import Cluster
from tests.support.ledger import Ledger
from tests.support.minted import failovers, minted, of_a_standstill
from tests.support.multipath import check_all
from tests.support.needs import needs_io_uring
from tests.support.paths import cluster_paths
from tests.support.traffic import Traffic

pytestmark = [needs_io_uring(), pytest.mark.timeout(180)]

#: Longer than every grant, heartbeat and freshness window.
AWAY_S = 5.0


@pytest.fixture
def cluster(place: Path):
    with Cluster(place) as made:
        made.create_volume("a", size=64 << 20)
        made.create_volume("b", size=64 << 20, replicas=2)
        made.wait_healthy("a")
        made.wait_healthy("b")
        yield made


def lines(cluster: Cluster) -> dict[str, Line]:
    status = cluster.api(lambda api: api.authority_status())
    assert status.skipped == ()
    return {line.volume_id: line for line in status.lines}


def closings(cluster: Cluster) -> int:
    """How often a grant ran out, or a primary handed over."""
    nodes = cluster.nodes.values()
    fired = sum(len(node.log_events("fence.fired", volume="a")) for node in nodes)
    return fired + len(minted(cluster, "a"))


def test_io_goes_on_and_the_lines_are_the_same_afterwards(cluster: Cluster) -> None:
    """But for lines that the standstill of a whole machine explains, and what clients notice of that."""
    ledger = Ledger(3)
    paths = cluster_paths(cluster, "a")
    with Traffic(ledger, paths, pages=4096) as traffic:
        traffic.wait_acked(50)
        sessions, closed = [client.sessions for client in traffic.clients], closings(cluster)
        for _ in range(2):
            before = lines(cluster)
            told = {name: len(minted(cluster, name)) for name in before}
            killed_at = time.monotonic()
            cluster.master.kill()
            while time.monotonic() < killed_at + AWAY_S:
                # Whoever needed the master would wait in vain: it is away until this loop is left.
                traffic.wait_acked(20)
            cluster.master.start()
            cluster.wait_nodes()
            cluster.wait_healthy("a")
            cluster.wait_healthy("b")
            after = lines(cluster)
            assert after.keys() == before.keys()
            for name, line in before.items():
                new = minted(cluster, name, after=told[name])
                assert all(map(of_a_standstill, new))
                assert new or after[name] == line
            traffic.wait_acked(50)
        if closings(cluster) == closed:
            assert [one.sessions for one in traffic.clients] == sessions, "nobody had to reconnect"
        traffic.rest()
        check_all(ledger, paths)
    assert ledger.faults == []
    assert cluster.verify("a") == []


def test_a_primary_lost_while_the_master_is_away_is_replaced_when_it_is_back(
    cluster: Cluster,
) -> None:
    """Nothing moves without the master, and no epoch goes back."""
    ledger = Ledger(4)
    paths = cluster_paths(cluster, "a")
    with Traffic(ledger, paths, pages=4096) as traffic:
        traffic.wait_acked(50)
        before, told = lines(cluster), len(minted(cluster, "a"))
        victim = cluster.primary("a")
        killed_at = time.monotonic()
        cluster.master.kill()
        victim.kill()
        time.sleep(2.0)
        cluster.master.start()
        traffic.wait_moved_on(killed_at)
        after = lines(cluster)
        moved = failovers(minted(cluster, "a", after=told))
        assert [one["epoch"] for one in moved] == [before["a"].lineage.epoch + 1]
        assert all(after[name].lineage >= before[name].lineage for name in before)
        victim.start()
        cluster.wait_healthy("a")
        cluster.wait_healthy("b")
        traffic.rest()
        check_all(ledger, paths)
    assert ledger.faults == []
    assert cluster.verify("a") == []

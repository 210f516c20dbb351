"""A replica that was away comes back without help: from the log when it reaches, else by a copy of everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparrow.rpc.messages import VolumeView
from tests.support.cluster import Cluster, NodeProc
from tests.support.iscsi_client import IscsiClient, ScsiError
from tests.support.ledger import Ledger
from tests.support.multipath import Multipath, check_all
from tests.support.needs import needs_io_uring
from tests.support.paths import PATH_SENSE, cluster_paths
from tests.support.traffic import Traffic

pytestmark = [needs_io_uring(), pytest.mark.timeout(240)]

VOLUME_BYTES = 64 << 20
#: A quarter of it: the smallest log there is.
WAL_BYTES = 16 << 20
CHUNK_PAGES = 16
#: So slow that who is killed after its begin is killed within it, although this machine stands still in between.
SLOW_COPY = ("--rebuild-rate-mib", "8")


def follower(cluster: Cluster) -> NodeProc:
    primary = cluster.primary("a")
    return next(node for node in cluster.nodes.values() if node is not primary)


def write_through(cluster: Cluster, ledger: Ledger, total_bytes: int) -> None:
    """Write the volume from its start to its end, again and again, until so many bytes were acknowledged."""
    runs = range(0, total_bytes // 4096, CHUNK_PAGES)
    with Multipath(cluster_paths(cluster, "a")) as client:
        client.write_runs(
            ledger, (page % (VOLUME_BYTES // 4096) for page in runs), run_pages=CHUNK_PAGES
        )


def must_serve_alone(cluster: Cluster, node: NodeProc) -> None:
    """Leave only one node, so that what it holds is what is read; too few for a write, enough for a read."""
    primary = cluster.primary("a")
    for other in cluster.nodes.values():
        if other not in (node, primary):
            other.kill()
            cluster.wait_volume("a", lambda volume: in_sync(volume) == 2, 30)
    if primary is not node:
        primary.kill()
    cluster.wait_volume("a", lambda volume: primary_of(volume) == node.node_id, 30)


def refused(client: IscsiClient, ledger: Ledger) -> None:
    """A write waits as long as it may, and ends with the error of a path that is not ready."""
    page = VOLUME_BYTES // 4096 - 1
    _, data = ledger.begin_write(page, 1)
    with pytest.raises(ScsiError) as caught:
        client.write(page, data)
    assert (caught.value.key, caught.value.asc, caught.value.ascq) in PATH_SENSE


def primary_of(volume: VolumeView) -> str:
    return "" if volume.line is None else volume.line.primary_member.node_id


def in_sync(volume: VolumeView) -> int:
    return 0 if volume.line is None else len(volume.line.in_sync)


@pytest.mark.parametrize("replicas", [2, 3])
def test_a_short_absence_is_made_up_from_the_log(place: Path, replicas: int) -> None:
    ledger = Ledger(40)
    with Cluster(place, nodes=replicas) as cluster:
        cluster.create_volume("a", size=VOLUME_BYTES, replicas=replicas)
        cluster.wait_healthy("a")
        write_through(cluster, ledger, WAL_BYTES // 32)
        node = follower(cluster)
        node.kill()
        # Together less than the fifth of a log that is kept however late the node is back.
        write_through(cluster, ledger, WAL_BYTES // 8)
        node.start()
        cluster.wait_healthy("a")
        assert node.log_events("rebuild.started") == []
        assert cluster.verify("a") == []
        paths = cluster_paths(cluster, "a")
        must_serve_alone(cluster, node)
        check_all(ledger, paths)
    assert ledger.faults == []


@pytest.mark.parametrize("replicas", [2, 3])
def test_a_long_absence_is_made_up_by_a_copy_of_everything(place: Path, replicas: int) -> None:
    ledger = Ledger(41)
    with Cluster(place, nodes=replicas) as cluster:
        cluster.create_volume("a", size=VOLUME_BYTES, replicas=replicas)
        cluster.wait_healthy("a")
        write_through(cluster, ledger, 2 << 20)
        node = follower(cluster)
        node.kill()
        write_through(cluster, ledger, VOLUME_BYTES + 3 * WAL_BYTES)
        node.start()
        cluster.wait_healthy("a", 90)
        node.wait_log("rebuild.started")
        cluster.primary("a").wait_log("peer.rebuilt")
        assert cluster.verify("a") == []
        paths = cluster_paths(cluster, "a")
        must_serve_alone(cluster, node)
        check_all(ledger, paths)
    assert ledger.faults == []


def test_a_copy_under_load_that_is_interrupted_begins_again_and_ends(place: Path) -> None:
    """Killed in the middle of a base copy, it is no replica to rely on; it starts over until it is whole."""
    ledger = Ledger(42)
    with Cluster(place, node_arguments=SLOW_COPY) as cluster:
        cluster.create_volume("a", size=VOLUME_BYTES)
        cluster.wait_healthy("a")
        node = follower(cluster)
        node.kill()
        write_through(cluster, ledger, VOLUME_BYTES + 2 * WAL_BYTES)
        paths = cluster_paths(cluster, "a")
        with Traffic(ledger, paths, pages=4096, pause_s=0.002) as traffic:
            for times in (1, 2):
                node.start()
                node.wait_log("rebuild.started", after=times - 1)
                node.kill()
            node.start()
            cluster.wait_healthy("a", 90)
            traffic.wait_acked(50)
            traffic.rest()
        assert cluster.verify("a") == []
        must_serve_alone(cluster, node)
        check_all(ledger, paths)
    assert ledger.faults == []


def test_a_primary_lost_during_a_copy_is_replaced_and_the_copy_goes_on(place: Path) -> None:
    """The half-filled replica must not be chosen."""
    ledger = Ledger(43)
    with Cluster(place, node_arguments=SLOW_COPY) as cluster:
        cluster.create_volume("a", size=VOLUME_BYTES)
        cluster.wait_healthy("a")
        node = follower(cluster)
        node.kill()
        write_through(cluster, ledger, VOLUME_BYTES + 2 * WAL_BYTES)
        paths = cluster_paths(cluster, "a")
        node.start()
        node.wait_log("rebuild.started")
        primary = cluster.primary("a")
        primary.kill()
        # One whole replica is left, below what writes need: it must come from there, and wait for company.
        primary.start()
        cluster.wait_healthy("a", 90)
        check_all(ledger, paths)
        assert ledger.faults == []
        assert cluster.verify("a") == []
        must_serve_alone(cluster, node)
        check_all(ledger, paths)
    assert ledger.faults == []


def test_two_replicas_come_back_at_the_same_time(place: Path) -> None:
    """One of the two with the log, one with a copy; below two in sync no write is acknowledged."""
    ledger = Ledger(44)
    with Cluster(place) as cluster:
        cluster.create_volume("a", size=VOLUME_BYTES)
        cluster.wait_healthy("a")
        paths = cluster_paths(cluster, "a")
        primary = cluster.primary("a")
        first, second = (node for node in cluster.nodes.values() if node is not primary)
        first.kill()
        write_through(cluster, ledger, VOLUME_BYTES + 2 * WAL_BYTES)
        with Traffic(ledger, paths, pages=4096) as traffic:
            traffic.wait_acked(20)
            second.kill()
            cluster.wait_volume("a", lambda volume: in_sync(volume) == 1, 30)
            with IscsiClient(*primary.portal, paths.target, timeout_s=30) as client:
                client.read_capacity()
                # What was committed before is answered long before the first refusal.
                refused(client, ledger)
                acked = ledger.acked_writes
                refused(client, ledger)
                assert ledger.acked_writes == acked, "two of three are needed for a write"
            second.start()
            first.start()
            traffic.wait_acked(20)
            cluster.wait_healthy("a", 90)
            traffic.rest()
            check_all(ledger, paths)
        assert ledger.faults == []
        assert cluster.verify("a") == []

"""What a disk may do to a replica: flipped bits, a torn end of the log, a tail that nobody else has."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, NodeProc
from tests.support.ledger import Ledger
from tests.support.multipath import Multipath, check_all
from tests.support.needs import needs_io_uring
from tests.support.paths import cluster_paths
from tests.support.replica_files import ReplicaFiles, wait_applied
from tests.support.traffic import Traffic
from tests.support.waiting import wait_for

pytestmark = [needs_io_uring(), pytest.mark.timeout(180)]

PAGES = 64
#: Batches behind the last checkpoint, so that later ones prove that an earlier one had been durable.
UNAPPLIED = 8
KILLS_MAX = 8
#: What is in memory would hide what is wrong on the disk.
FROM_THE_DISK = ("--read-cache-mib", "0")


@pytest.fixture
def cluster(place: Path):
    with Cluster(place, node_arguments=FROM_THE_DISK) as made:
        made.create_volume("a", size=64 << 20)
        made.wait_healthy("a")
        yield made


def follower(cluster: Cluster) -> NodeProc:
    primary = cluster.primary("a")
    return next(node for node in cluster.nodes.values() if node is not primary)


def fill(cluster: Cluster, ledger: Ledger) -> None:
    """Write some pages and wait until every replica has them in its extents."""
    with Multipath(cluster_paths(cluster, "a")) as client:
        version, data = ledger.begin_write(0, PAGES)
        client.write(0, data)
        ledger.acknowledge(version)
    pools = [node.pool for node in cluster.nodes.values()]
    wait_applied(pools, "a")
    files = [ReplicaFiles(pool, "a") for pool in pools]
    assert all(f.page(n) == ledger.content(n, version) for f in files for n in range(PAGES))


def test_a_flipped_bit_on_the_primary_is_never_returned_and_is_repaired(cluster: Cluster) -> None:
    ledger = Ledger(7)
    fill(cluster, ledger)
    primary = cluster.primary("a")
    files = ReplicaFiles(primary.pool, "a")
    right = files.page(9)
    files.flip_bit(9)
    assert files.page(9) != right
    check_all(ledger, cluster_paths(cluster, "a"))
    assert ledger.faults == []
    damaged = primary.wait_log("page.damaged", page=9)
    assert damaged["volume"] == "a"
    assert primary.wait_log("page.repaired", page=9)["installed"] is True
    wait_for(lambda: files.page(9) == right)
    assert cluster.verify("a") == []


def test_a_bit_flipped_while_the_node_was_down_is_found_by_verify_and_repaired(
    cluster: Cluster,
) -> None:
    ledger = Ledger(8)
    fill(cluster, ledger)
    node = follower(cluster)
    files = ReplicaFiles(node.pool, "a")
    node.kill_to_rest()
    right = files.page(9)
    files.flip_bit(9)
    node.start()
    cluster.wait_healthy("a")
    assert cluster.verify("a") == [9], "exactly that page, and no answer taken for equal"
    node.wait_log("page.damaged", page=9)
    node.wait_log("page.repaired", page=9)
    wait_for(lambda: files.page(9) == right)
    assert cluster.verify("a") == []


@pytest.mark.parametrize("role", ["primary", "follower"])
def test_a_damaged_block_of_checksums_is_rebuilt_from_a_peer(cluster: Cluster, role: str) -> None:
    """Found when the node starts again: read, written and compared, nobody notices and nobody is condemned."""
    ledger = Ledger(13)
    fill(cluster, ledger)
    node = cluster.primary("a") if role == "primary" else follower(cluster)
    files = ReplicaFiles(node.pool, "a")
    node.kill_to_rest()
    right = (files.folder / "sums").read_bytes()[:4096]
    files._write("sums", 100, bytes([right[100] ^ 0x40]))
    node.start()
    cluster.wait_healthy("a")
    with Multipath(cluster_paths(cluster, "a"), silence_s=20.0) as client:
        version, data = ledger.begin_write(3, 5)
        client.write(3, data)
        ledger.acknowledge(version)
    # Found by the comparison, which names the first page of each granule it cannot read, or by the flusher before it.
    assert set(cluster.verify("a")) <= {0, 256, 512, 768}
    assert node.wait_log("sums.damaged", block=0)["volume"] == "a"
    node.wait_log("sums.repaired", block=0)
    assert cluster.verify("a") == []
    # What it holds is right: it must serve.
    for other in cluster.nodes.values():
        assert other.log_events("replica.condemned") == []
    check_all(ledger, cluster_paths(cluster, "a"))
    assert ledger.faults == []


def test_the_only_copy_of_a_damaged_page_is_an_error_and_not_data(place: Path) -> None:
    """With one replica there is no peer to repair it from: a medium error, for that page alone."""
    ledger = Ledger(9)
    with Cluster(place, nodes=1, node_arguments=FROM_THE_DISK) as cluster:
        cluster.create_volume("a", size=64 << 20, replicas=1)
        fill(cluster, ledger)
        ReplicaFiles(cluster.primary("a").pool, "a").flip_bit(9)
        with cluster_paths(cluster, "a").connect(timeout_s=20.0) as client:
            tag = client.submit_read(9, 1)
            (answer,) = client.poll(20.0)
            assert answer.tag == tag
            assert answer.error is not None
            assert (answer.error.key, answer.error.asc) == (0x3, 0x11), "unrecovered read error"
            basis = ledger.begin_read(10, 4)
            assert ledger.check(basis, client.read(10, 4)) == []
        cluster.primary("a").wait_log("page.damaged", page=9)


def test_a_torn_end_of_the_log_is_cut_and_the_replica_catches_up(cluster: Cluster) -> None:
    ledger = Ledger(10)
    paths = cluster_paths(cluster, "a")
    with Traffic(ledger, paths, pages=4096, reads=0.0) as traffic:
        traffic.wait_acked(50)
        node = follower(cluster)
        node.kill_to_rest()
        torn = ReplicaFiles(node.pool, "a").tear_last_batch()
        traffic.wait_acked(50)
        node.start()
        cut = node.wait_log("wal.torn_tail_cut")
        assert cut["after_lsn"] == torn.first_lsn - 1
        # What a slow disk has to do then has an end.
        traffic.rest()
        cluster.wait_healthy("a")
    assert cluster.verify("a") == []
    # What it holds is right and not only equal: it must serve.
    primary = cluster.primary("a")
    other = next(n for n in cluster.nodes.values() if n not in (primary, node))
    other.kill()
    cluster.wait_volume("a", lambda volume: volume.state == "degraded", 30)
    check_all(ledger, paths)
    assert ledger.faults == []


def test_a_tail_that_only_the_old_primary_has_is_cut(cluster: Cluster) -> None:
    """Writes that were in its log when it died, and reached nobody: never acknowledged, so they must not come back."""
    ledger = Ledger(11)
    paths = cluster_paths(cluster, "a")
    with Traffic(ledger, paths, pages=4096, reads=0.0) as traffic:
        traffic.wait_acked(50)
        old = cluster.primary("a")
        killed_at = time.monotonic()
        old.kill_to_rest()
        files = ReplicaFiles(old.pool, "a")
        foreign = [files.append_write(page, bytes([page]) * 4096) for page in (1, 2, 3)]
        traffic.wait_moved_on(killed_at)
        traffic.wait_acked(50)
        old.start()
        traffic.rest()
        cluster.wait_healthy("a")
        cut = old.wait_log("wal.suffix_cut")
        assert cut["from_lsn"] <= foreign[0]
        assert cut["to_lsn"] == foreign[-1]
        check_all(ledger, paths)
    assert ledger.faults == []
    assert cluster.verify("a") == []


def test_damage_in_the_middle_of_the_log_is_told_and_healed_from_a_peer(cluster: Cluster) -> None:
    """A batch that had been durable must not be cut in silence: a later one proves that it was there."""
    ledger = Ledger(12)
    paths = cluster_paths(cluster, "a")
    with Traffic(ledger, paths, pages=4096, reads=0.0) as traffic:
        node = follower(cluster)
        files = ReplicaFiles(node.pool, "a")
        for _ in range(KILLS_MAX):
            traffic.wait_acked(50)
            node.kill_to_rest()
            applied = files.superblock["applied_lsn"]
            batches = [b for b in files.batches() if b.first_lsn > applied]
            if len(batches) >= UNAPPLIED:
                break
            # It was killed right after a checkpoint: nothing of the log is needed.
            node.start()
            cluster.wait_healthy("a")
        damaged = next(batch for batch in batches if batch.page_count)
        files._write("wal", damaged.offset + 4096, b"\xdd" * 4096)
        node.start()
        found = node.wait_log("wal.damage_found")
        assert found["volume"] == "a"
        assert found["must_reach_lsn"] >= damaged.first_lsn
        traffic.rest()
        cluster.wait_healthy("a")
        check_all(ledger, paths)
    assert ledger.faults == []
    assert cluster.verify("a") == []

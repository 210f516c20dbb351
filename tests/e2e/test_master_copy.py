"""The master's machine is gone: another one starts from the copy that nodes keep, and the old one is fenced."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparrow.authority.recovery import EPOCH_GAP, GENERATION_GAP
from sparrow.authority.types import Line
from sparrow.rpc.messages import AuthorityStatus
from tests.support.cluster import Cluster, ClusterError
from tests.support.ledger import Ledger
from tests.support.multipath import check_all
from tests.support.needs import needs_io_uring
from tests.support.paths import cluster_paths
from tests.support.traffic import Traffic

pytestmark = [needs_io_uring(), pytest.mark.timeout(240)]

SIZE = 32 << 20


@pytest.fixture
def cluster(place: Path) -> Iterator[Cluster]:
    with Cluster(place) as made:
        yield made


def status(cluster: Cluster) -> AuthorityStatus:
    return cluster.api(lambda api: api.authority_status())


def line_of(cluster: Cluster, name: str) -> Line:
    (line,) = [line for line in status(cluster).lines if line.volume_id == name]
    return line


def wait_copied(cluster: Cluster) -> None:
    """Two nodes hold everything."""
    cluster._wait(
        lambda: status(cluster),
        lambda found: sum(copy.current for copy in found.copies) == 2,
        30.0,
        "copies of the store",
    )


def arguments(cluster: Cluster, data: Path, *more: str) -> tuple[str, ...]:
    return cluster.master_arguments(data, *more)


def from_copy(cluster: Cluster, data: Path) -> tuple[str, ...]:
    nodes = ",".join(node.ctrl_addr for node in cluster.nodes.values())
    return arguments(cluster, data, "--from-copy", nodes)


def test_a_master_starts_elsewhere_from_the_copy_its_nodes_keep(cluster: Cluster) -> None:
    """With everything that no node's superblock knows: what was deleted, cordoned, decided by hand."""
    for name in ("a", "b", "gone"):
        cluster.create_volume(name, size=SIZE)
        cluster.wait_healthy(name)
    cluster.delete_volume("gone")
    cluster.api(lambda api: api.set_node_state("n3", "cordoned"))
    wait_copied(cluster)
    before = {name: line_of(cluster, name) for name in ("a", "b")}
    tombstone = line_of(cluster, "gone")
    generation = status(cluster).master_generation
    ledger = Ledger(5)
    paths = cluster_paths(cluster, "a")
    with Traffic(ledger, paths, pages=1024, pause_s=0.002) as traffic:
        traffic.wait_acked(50)
        cluster.master.kill()
        old = cluster.path / "old-machine"
        shutil.move(cluster.path / "master", old)
        data = cluster.path / "master-2"
        cluster.master.arguments = from_copy(cluster, data)
        began = time.monotonic()
        cluster.master.start()
        for name in before:
            cluster.wait_healthy(name)
        print(f"from_copy_s: {time.monotonic() - began:.2f}")
        traffic.wait_acked(50)
        traffic.rest()
        check_all(ledger, paths)
    assert ledger.faults == []
    # A deletion counts when all nodes that live have been heard, five seconds after the start.
    after = cluster._wait(
        lambda: status(cluster), lambda found: found.unconfirmed == (), 30.0, "all confirmed"
    )
    assert after.master_generation >= generation + GENERATION_GAP
    for name, held in before.items():
        assert line_of(cluster, name).lineage.epoch >= held.lineage.epoch + EPOCH_GAP
    assert line_of(cluster, "gone").retired
    assert line_of(cluster, "gone").lineage >= tombstone.lineage
    nodes = {one.node_id: one.desired_state for one in cluster.api(lambda api: api.list_nodes())}
    assert nodes == {"n1": "active", "n2": "active", "n3": "cordoned"}
    assert "restore" in {entry.verb for entry in after.audit}

    # It is a master like any other, and keeps copies itself.
    primary = cluster.primary("a")
    primary.kill()
    cluster.wait_serving("a", not_on=primary)
    primary.start()
    cluster.wait_healthy("a")
    wait_copied(cluster)

    # The flag is for the first start only.
    cluster.master.kill()
    with pytest.raises(ClusterError, match="not empty"):
        cluster.master.start()

    # The old machine is back, and finds that nobody listens: its generation is over.
    lineage = before["a"].lineage
    cluster.master.arguments = arguments(cluster, old)
    replaced = {"event": "master.lost", "level": "error"}
    before_it = {node: len(node.log_events(**replaced)) for node in cluster.nodes.values()}
    cluster.master.start()
    for node, told in before_it.items():
        # Each has been answered by it: a stream that ended with a killed master is a warning.
        assert "was heard before" in node.wait_log(**replaced, after=told)["cause"]
    assert status(cluster).copies == (), "nobody keeps a copy for it"
    kept = [int(path.name.split("-")[1]) for path in cluster.path.glob("n*/master-copy/store-*.db")]
    assert sum(one >= generation + GENERATION_GAP for one in kept) >= 2
    # A node that the new master passed over may have a copy of the time before; nobody has one of the time after.
    assert not any(generation < one < generation + GENERATION_GAP for one in kept)
    found = status(cluster).lines
    assert all(line.lineage <= lineage for line in found if line.volume_id == "a")
    cluster.master.kill()
    cluster.master.arguments = arguments(cluster, data)
    cluster.master.start()
    cluster.wait_healthy("a")
    assert line_of(cluster, "a").lineage.epoch >= lineage.epoch + EPOCH_GAP
    assert cluster.verify("a") == []


def test_without_any_copy_the_start_says_so_and_leaves_no_store(cluster: Cluster) -> None:
    wait_copied(cluster)
    for node in cluster.nodes.values():
        node.kill()
        shutil.rmtree(node.pool / "master-copy", ignore_errors=True)
    cluster.master.kill()
    shutil.rmtree(cluster.path / "master")
    data = cluster.path / "master-2"
    cluster.master.arguments = from_copy(cluster, data)
    with pytest.raises(ClusterError, match="answered, so there is no copy"):
        cluster.master.start()
    for node in cluster.nodes.values():
        node.start()
    with pytest.raises(ClusterError, match="holds a copy of the master's store"):
        cluster.master.start()
    assert not list(data.glob("authority.db*"))

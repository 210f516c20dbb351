"""One volume from its creation to its end on real processes: written, failed over, caught up, restarted, deleted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparrow.base.errors import AlreadyExists, InvalidArgument, NotFound
from tests.support.cluster import Cluster
from tests.support.minted import minted, of_a_standstill
from tests.support.multipath import Multipath
from tests.support.needs import needs_io_uring
from tests.support.paths import cluster_paths

pytestmark = [needs_io_uring(), pytest.mark.timeout(180)]

MIB = 1 << 20
PAGE = 4096


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, nodes=3, environment={"PYTHONFAULTHANDLER": "1"}) as made:
        yield made


def attach(cluster: Cluster, name: str) -> Multipath:
    return Multipath(cluster_paths(cluster, name), silence_s=30)


def files_left(cluster: Cluster, name: str) -> list[Path]:
    return [path for node in cluster.nodes.values() for path in node.pool.rglob(name)]


def test_what_was_written_is_there_after_a_failover_a_return_and_a_restart_of_everything(
    cluster: Cluster,
) -> None:
    cluster.create_volume("a", size=64 * MIB)
    first, second = os.urandom(8 * PAGE), os.urandom(8 * PAGE)
    with attach(cluster, "a") as client:
        client.write(0, first)

    old = cluster.primary("a")
    old.kill()
    cluster.wait_serving("a", not_on=old)
    with attach(cluster, "a") as client:
        assert client.read(0, 8) == first
        client.write(100, second)

    old.start()
    cluster.wait_healthy("a")
    assert cluster.verify("a") == []

    cluster.kill_all()
    cluster.start_all()
    cluster.wait_healthy("a")
    with attach(cluster, "a") as client:
        assert client.read(0, 8) == first
        assert client.read(100, 8) == second


def test_a_deleted_volume_leaves_no_file_on_any_node(cluster: Cluster) -> None:
    cluster.create_volume("a", size=64 * MIB)
    with attach(cluster, "a") as client:
        client.write(0, os.urandom(PAGE))
    assert files_left(cluster, "a")
    cluster.delete_volume("a")
    assert files_left(cluster, "a") == []
    assert all(node.running for node in cluster.nodes.values())
    with pytest.raises(NotFound):
        cluster.volume("a")


def test_a_volume_that_failed_over_is_deleted_without_harm_to_its_nodes(cluster: Cluster) -> None:
    cluster.create_volume("a", size=64 * MIB)
    with attach(cluster, "a") as client:
        client.write(0, os.urandom(PAGE))
    old = cluster.primary("a")
    old.kill()
    cluster.wait_serving("a", not_on=old)
    old.start()
    cluster.wait_healthy("a")
    cluster.delete_volume("a")
    assert all(node.running for node in cluster.nodes.values())
    assert files_left(cluster, "a") == []


def test_the_master_may_die_and_come_back_while_volumes_are_used(cluster: Cluster) -> None:
    before = cluster.create_volume("a", size=64 * MIB).line
    assert before is not None
    with attach(cluster, "a") as client:
        cluster.master.kill()
        data = os.urandom(4 * PAGE)
        client.write(7, data)
        assert client.read(7, 4) == data
        cluster.master.start()
        cluster.wait_healthy("a")
        client.write(7, data[::-1])
        assert client.read(7, 4) == data[::-1]
    after = cluster.volume("a").line
    assert after is not None
    _placed, *later = minted(cluster, "a")
    assert all(map(of_a_standstill, later))
    assert later or (after.lineage, after.primary) == (before.lineage, before.primary)


def test_bad_input_is_refused_and_leaves_nothing(cluster: Cluster) -> None:
    cluster.create_volume("a", size=MIB, replicas=1)
    with pytest.raises(AlreadyExists):
        cluster.create_volume("a", size=MIB, replicas=1)
    with pytest.raises(InvalidArgument):
        cluster.create_volume("b/c", size=MIB)
    with pytest.raises(InvalidArgument):
        cluster.create_volume("b", size=0)
    assert files_left(cluster, "b") == []
    command = [sys.executable, "-m", "sparrow", "volume", "verify", "gone"]
    shown = subprocess.run(
        [*command, "--master", cluster.master_addr], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 3
    assert "There is no volume 'gone'." in shown.stderr

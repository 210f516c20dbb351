"""Replicas that are given up are made anew elsewhere: drained, lost with their node, lost with their disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sparrow.rpc.messages import NodeDetails, VolumeView
from tests.support.cluster import Cluster, NodeProc
from tests.support.ledger import Ledger
from tests.support.multipath import Multipath, check_all
from tests.support.needs import needs_io_uring, needs_program, needs_root
from tests.support.paths import cluster_paths
from tests.support.places import Disk
from tests.support.traffic import Traffic

pytestmark = [needs_io_uring(), pytest.mark.timeout(300)]

MIB = 1 << 20
PAGE = 4096
WAIT_S = 90.0


@pytest.fixture
def cluster(place: Path) -> Iterator[Cluster]:
    with Cluster(place / "cluster", nodes=4) as made:
        yield made


def sparrow(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sparrow", *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT_S + 30,
        check=False,
        env={**os.environ, "SPARROW_MASTER": cluster.master_addr},
    )


def nodes_of(volume: VolumeView) -> set[str]:
    assert volume.line is not None
    return {member.node_id for member in volume.line.members}


def wait_settled(cluster: Cluster, name: str, *, off: str) -> VolumeView:
    """Three in sync, none of them on ``off``, and nothing left to replace."""

    def settled(volume: VolumeView) -> bool:
        line = volume.line
        return (
            volume.state == "healthy"
            and line is not None
            and len(line.members) == len(line.in_sync) == 3
            and off not in nodes_of(volume)
        )

    return cluster.wait_volume(name, settled, WAIT_S)


def details(cluster: Cluster, node: NodeProc) -> NodeDetails:
    return cluster.api(lambda api: api.get_node(node.node_id))


def write(cluster: Cluster, name: str, page: int, data: bytes) -> None:
    with Multipath(cluster_paths(cluster, name)) as client:
        client.write(page, data)


def read(cluster: Cluster, name: str, page: int, pages: int) -> bytes:
    with Multipath(cluster_paths(cluster, name)) as client:
        return client.read(page, pages)


def holders(cluster: Cluster, name: str) -> list[NodeProc]:
    """Nodes with a replica, the primary's last."""
    volume = cluster.volume(name)
    primary = cluster.primary(name)
    rest = [cluster.nodes[one] for one in sorted(nodes_of(volume)) if one != primary.node_id]
    return [*rest, primary]


def files_on(node: NodeProc, name: str) -> list[Path]:
    return [path for path in node.pool.rglob(name) if any(path.iterdir())]


def test_a_follower_is_drained_and_everything_is_equal_on_the_new_set(cluster: Cluster) -> None:
    cluster.create_volume("a", size=64 * MIB)
    data = os.urandom(64 * PAGE)
    write(cluster, "a", 100, data)
    leaving = holders(cluster, "a")[0]

    drained = sparrow(cluster, "node", "drain", leaving.node_id, "--wait")
    assert drained.returncode == 0, drained.stdout + drained.stderr
    assert drained.stdout == f"Node {leaving.node_id} is empty.\n"
    assert drained.stderr.startswith("a: "), "progress is told"

    wait_settled(cluster, "a", off=leaving.node_id)
    assert cluster.verify("a") == []
    assert read(cluster, "a", 100, 64) == data
    assert files_on(leaving, "a") == []
    cluster._wait(
        lambda: {node.node_id: node for node in cluster.api(lambda api: api.list_nodes())},
        lambda nodes: nodes[leaving.node_id].replica_count == 0,
        30.0,
        "the drained node's heartbeat",
    )
    nodes = {node.node_id: node for node in cluster.api(lambda api: api.list_nodes())}
    assert nodes[leaving.node_id].desired_state == "draining"


def test_a_primary_is_drained_under_load_and_nothing_is_lost(cluster: Cluster) -> None:
    cluster.create_volume("a", size=64 * MIB)
    ledger = Ledger(7)
    paths = cluster_paths(cluster, "a")
    with Traffic(ledger, paths, pages=2048, pause_s=0.002) as traffic:
        traffic.wait_acked(50)
        leaving = cluster.primary("a")
        began = time.monotonic()
        drained = sparrow(cluster, "node", "drain", leaving.node_id, "--wait")
        assert drained.returncode == 0, drained.stdout + drained.stderr
        pause = traffic.wait_moved_on(began)
        print(f"hand_over_pause_ms: {pause * 1000:.0f}")
        assert traffic.refusals, "clients were told, and did not find out by silence"
        wait_settled(cluster, "a", off=leaving.node_id)
        traffic.wait_acked(50)
        traffic.rest()
        assert cluster.verify("a") == []
    check_all(ledger, paths)
    assert ledger.faults == []
    assert cluster.master.log_events("line.minted", intent="reassign"), "it was handed over"
    assert files_on(leaving, "a") == []


def test_a_drain_goes_on_through_kills_of_the_master(cluster: Cluster) -> None:
    cluster.create_volume("a", size=64 * MIB)
    data = os.urandom(32 * PAGE)
    write(cluster, "a", 0, data)
    leaving = cluster.primary("a")
    cluster.api(lambda api: api.set_node_state(leaving.node_id, "draining"))
    seen: list[tuple[int, int]] = []
    for _ in range(4):
        cluster.master.kill()
        cluster.master.start()
        line = cluster.volume("a").line
        assert line is not None
        seen.append((line.lineage.epoch, line.lineage.endpoint_version))
    volume = wait_settled(cluster, "a", off=leaving.node_id)
    assert volume.line is not None
    assert seen == sorted(seen)
    assert (volume.line.lineage.epoch, volume.line.lineage.endpoint_version) >= seen[-1]
    assert cluster.verify("a") == []
    assert read(cluster, "a", 0, 32) == data


def test_a_node_that_is_lost_for_good_is_replaced(cluster: Cluster) -> None:
    cluster.create_volume("a", size=64 * MIB)
    data = os.urandom(32 * PAGE)
    write(cluster, "a", 0, data)
    lost = cluster.primary("a")

    alive = sparrow(cluster, "node", "remove", lost.node_id, "--lost", "--confirm", lost.node_id)
    assert alive.returncode == 5
    assert "is alive" in alive.stderr
    lost.kill()
    cluster.wait_serving("a", not_on=lost)
    write(cluster, "a", 32, data)
    unconfirmed = sparrow(cluster, "node", "remove", lost.node_id, "--lost", "--confirm", "other")
    assert unconfirmed.returncode == 2
    assert "was not confirmed" in unconfirmed.stderr

    def removed() -> bool:
        done = sparrow(
            cluster, "node", "remove", lost.node_id, "--lost", "--confirm", lost.node_id, "--wait"
        )
        return done.returncode == 0

    silent = threading.Event()
    while not removed():
        assert not silent.wait(0.2)
    wait_settled(cluster, "a", off=lost.node_id)
    assert cluster.verify("a") == []
    assert read(cluster, "a", 0, 64) == data + data

    # It comes back after all: what it has is of no use to anybody and is deleted.
    lost.start()
    lost.wait_log("replica.removed", volume="a")
    assert files_on(lost, "a") == []
    assert len(nodes_of(cluster.wait_healthy("a"))) == 3


@pytest.mark.parametrize("role", ["follower", "primary"])
def test_a_wiped_pool_is_a_stranger_and_is_rebuilt(cluster: Cluster, role: str) -> None:
    """S17: the node and its replica are there, the files are not; they are never believed."""
    before = cluster.create_volume("a", size=64 * MIB).line
    assert before is not None
    data = os.urandom(32 * PAGE)
    write(cluster, "a", 0, data)
    wiped = cluster.primary("a") if role == "primary" else holders(cluster, "a")[0]
    wiped.kill()
    assert wiped.pool.name == wiped.node_id
    shutil.rmtree(wiped.pool)
    wiped.pool.mkdir()
    cluster.wait_serving("a", not_on=wiped if role == "primary" else None)
    wiped.start()

    def replaced(volume: VolumeView) -> bool:
        line = volume.line
        return volume.state == "healthy" and line is not None and line.members != before.members

    after = cluster.wait_volume("a", replaced, WAIT_S).line
    assert after is not None
    old = {member.node_id: member.uuid for member in before.members}
    new = {member.node_id: member.uuid for member in after.members}
    assert old.keys() == new.keys()
    assert [node for node in old if old[node] != new[node]] == [wiped.node_id]
    assert cluster.verify("a") == []
    assert read(cluster, "a", 0, 32) == data


@needs_root()
@needs_program("mkfs.ext4")
@pytest.mark.parametrize("role", ["follower", "primary"])
def test_a_disk_that_fails_costs_its_replica_its_place_and_nobody_is_asked(
    place: Path, role: str
) -> None:
    """Clients go on; the copy is made anew on the fourth node, though the node of the failed disk lives."""
    with ExitStack() as stack:
        disks = {name: Disk(place, f"disk-{name}", 384 * MIB) for name in ("n1", "n2", "n3", "n4")}
        for disk in disks.values():
            stack.callback(disk.unmount)
        pools = {name: disk.path for name, disk in disks.items()}
        cluster = stack.enter_context(Cluster(place / "cluster", nodes=4, pools=pools))
        cluster.create_volume("a", size=64 * MIB)
        ledger = Ledger(11)
        paths = cluster_paths(cluster, "a")
        with Traffic(ledger, paths, pages=2048, pause_s=0.002) as traffic:
            traffic.wait_acked(50)
            failed = cluster.primary("a") if role == "primary" else holders(cluster, "a")[0]
            disks[failed.node_id].fail()
            wait_settled(cluster, "a", off=failed.node_id)
            traffic.wait_acked(50)
            traffic.rest()
        check_all(ledger, paths)
        assert ledger.faults == []
        assert cluster.verify("a") == []
        assert failed.running, "its process has other volumes to serve"
        assert failed.log_events("task.failed") == []
        # Once its disk is back it has files that nobody wants any more.
        failed.kill()
        disks[failed.node_id].replace()
        failed.start()
        failed.wait_log("replica.removed", volume="a", timeout_s=30.0)
        assert files_on(failed, "a") == []
        assert len(nodes_of(cluster.wait_healthy("a"))) == 3


def damage_superblock(node: NodeProc, name: str) -> None:
    """Both copies, while the node is stopped: nobody can tell any more whose files these are."""
    (superblock,) = node.pool.glob(f"volumes/{name}/*/superblock")
    with superblock.open("r+b") as file:
        file.write(b"\xff" * 8192)


def test_a_replica_whose_files_are_damaged_is_replaced_and_the_node_gets_rid_of_them(
    cluster: Cluster,
) -> None:
    cluster.create_volume("a", size=64 * MIB)
    data = os.urandom(32 * PAGE)
    write(cluster, "a", 0, data)
    node = holders(cluster, "a")[0]
    node.kill()
    damage_superblock(node, "a")
    node.start()
    node.wait_log("replica.unreadable", volume="a", code="storage.damaged")
    wait_settled(cluster, "a", off=node.node_id)
    assert cluster.verify("a") == []
    assert read(cluster, "a", 0, 32) == data
    node.wait_log("replica.removed", volume="a", timeout_s=30.0)
    assert files_on(node, "a") == []
    cluster._wait(
        lambda: {one.node_id: one for one in cluster.api(lambda api: api.list_nodes())},
        lambda nodes: nodes[node.node_id].troubles == (),
        30.0,
        "troubles of the node",
    )


def test_without_another_node_an_operator_has_damaged_files_made_anew_where_they_are(
    cluster: Cluster,
) -> None:
    volume = cluster.create_volume("a", size=64 * MIB)
    (spare,) = set(cluster.nodes) - nodes_of(volume)
    assert sparrow(cluster, "node", "cordon", spare).returncode == 0
    data = os.urandom(32 * PAGE)
    write(cluster, "a", 0, data)
    node = holders(cluster, "a")[0]
    node.kill()
    damage_superblock(node, "a")
    before = cluster.wait_volume("a", lambda one: one.state == "degraded", 30.0).line
    assert before is not None
    node.start()

    def told() -> str:
        return sparrow(cluster, "node", "list").stdout.replace("\n", " ")

    replica = next(m.replica_id for m in before.members if m.node_id == node.node_id)
    cluster._wait(told, lambda text: f"{replica} of volume a cannot be opened" in text, 60.0, "it")
    why = sparrow(cluster, "why", "a").stdout.replace("\n", " ")
    assert f"the files of {replica} on {node.node_id} are damaged" in why
    assert f"{spare}: it is cordoned" in why

    done = sparrow(cluster, "volume", "discard-divergent", "a", replica, "--confirm", "a")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{replica} of volume a is rebuilt.\n"
    after = cluster.wait_healthy("a").line
    assert after is not None
    assert {m.node_id for m in after.members} == {m.node_id for m in before.members}
    assert cluster.verify("a") == []
    assert read(cluster, "a", 0, 32) == data


def test_why_tells_where_a_volume_was_placed_and_what_is_moved(cluster: Cluster) -> None:
    cluster.create_volume("a", size=64 * MIB)
    why = cluster._wait(
        lambda: cluster.api(lambda api: api.why_volume("a")),
        # Followers have the first entry a moment before they say so.
        lambda found: {one.rejected for one in found.candidates} == {None},
        30.0,
        "candidates of volume a",
    )
    assert {verdict.node_id for verdict in why.placement} == {"n1", "n2", "n3", "n4"}
    assert sum(verdict.chosen for verdict in why.placement) == 3
    assert len(why.candidates) == 3

    (spare,) = set(cluster.nodes) - nodes_of(cluster.volume("a"))
    assert sparrow(cluster, "node", "cordon", spare).returncode == 0
    leaving = holders(cluster, "a")[0]
    waiting = sparrow(cluster, "node", "drain", leaving.node_id)
    assert "1 volume is still to be moved" in waiting.stdout
    shown = sparrow(cluster, "why", "a")
    assert shown.returncode == 0, shown.stderr
    assert f"{spare}: it is cordoned" in shown.stdout
    assert details(cluster, leaving).volumes_left == ("a",)

    version = details(cluster, leaving).topology_version
    assert sparrow(cluster, "node", "uncordon", spare).returncode == 0
    wait_settled(cluster, "a", off=leaving.node_id)
    assert details(cluster, leaving).topology_version > version

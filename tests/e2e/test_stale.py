"""A volume whose only up-to-date replica is lost, on real processes: taken on from a stale one, made whole again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparrow.rpc.messages import VolumeView
from tests.support.cluster import Cluster, NodeProc
from tests.support.multipath import Multipath
from tests.support.needs import needs_io_uring
from tests.support.paths import cluster_paths

pytestmark = [needs_io_uring(), pytest.mark.timeout(300)]

MIB = 1 << 20
PAGE = 4096


@pytest.fixture
def cluster(place: Path) -> Iterator[Cluster]:
    with Cluster(place, nodes=2) as made:
        yield made


def sparrow(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sparrow", "volume", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "SPARROW_MASTER": cluster.master_addr},
    )


def write(cluster: Cluster, page: int, data: bytes) -> None:
    with Multipath(cluster_paths(cluster, "a")) as client:
        client.write(page, data)


def read(cluster: Cluster, page: int, pages: int) -> bytes:
    with Multipath(cluster_paths(cluster, "a")) as client:
        return client.read(page, pages)


def replica_on(cluster: Cluster, node: NodeProc) -> str:
    line = cluster.volume("a").line
    assert line is not None
    return next(m.replica_id for m in line.members if m.node_id == node.node_id)


def alone(cluster: Cluster) -> tuple[NodeProc, NodeProc, bytes, bytes]:
    """The primary, which wrote last and alone, is killed; its peer, which missed that, is back."""
    cluster.create_volume("a", size=32 * MIB, replicas=2)
    cluster.wait_healthy("a")
    old, new = os.urandom(16 * PAGE), os.urandom(16 * PAGE)
    write(cluster, 0, old)
    primary = cluster.primary("a")
    (stale,) = [node for node in cluster.nodes.values() if node is not primary]
    stale.kill()
    cluster.wait_volume(
        "a", lambda volume: volume.line is not None and len(volume.line.in_sync) == 1, 30.0
    )
    write(cluster, 0, new)
    primary.kill()
    stale.start()
    cluster.wait_nodes()
    return primary, stale, old, new


def refusal(cluster: Cluster, *arguments: str) -> str:
    done = sparrow(cluster, *arguments)
    assert done.returncode in {2, 5}, done.stdout + done.stderr
    return done.stderr


def test_a_volume_goes_on_from_a_stale_replica_and_keeps_the_other_until_told(
    cluster: Cluster,
) -> None:
    lost, stale, old, _ = alone(cluster)
    gone, kept = replica_on(cluster, stale), replica_on(cluster, lost)
    verb = ("recover", "a", "--from-stale", gone)
    off = ("--old-primary-is-off", lost.node_id)

    def silent() -> bool:
        return "may be serving" in refusal(cluster, *verb, "--confirm", "a")

    cluster._wait(silent, bool, 30.0, "silence of the lost node")
    assert "nobody is there to confirm it" in refusal(cluster, *verb, *off)
    assert "That is not its name" in refusal(cluster, *verb, *off, "--confirm", "b")
    before = cluster.volume("a").line
    assert before is not None
    epoch = before.lineage.epoch + 1
    done = sparrow(cluster, *verb, *off, "--confirm", "a")
    assert done.returncode == 0, done.stderr
    assert f"acknowledged after {lost.node_id} was last heard" in done.stderr
    assert f"goes on at ({epoch},1) from {gone} alone" in done.stdout
    assert f"Kept as they are: {kept}" in done.stdout
    assert cluster.wait_serving("a") is stale
    assert read(cluster, 0, 16) == old
    later = os.urandom(8 * PAGE)
    write(cluster, 64, later)
    audit = cluster.api(lambda api: api.authority_status()).audit
    assert [entry.verb for entry in audit] == ["recover-from-stale"]

    # The lost one returns: kept as it is, never beside the new one.
    lost.start()
    lost.wait_log("replica.quarantined", volume="a", epoch=epoch)
    stale.wait_log("peer.joined", volume="a", outcome="quarantined", timeout_s=30.0)

    def aside(volume: VolumeView) -> bool:
        return any(
            one.replica_id == kept and one.role == "set_aside" and one.state == "quarantined"
            for one in volume.replicas
        )

    cluster.wait_volume("a", aside, 30.0)
    assert not lost.log_events("gate.opened", volume="a", epoch=epoch)
    assert not lost.log_events("wal.suffix_cut", volume="a")
    # A restart does not make it forget.
    lost.restart()
    cluster.wait_nodes()
    cluster.wait_volume("a", aside, 30.0)
    assert cluster.primary("a") is stale

    done = sparrow(cluster, "discard-divergent", "a", kept, "--confirm", "a")
    assert done.returncode == 0, done.stderr
    assert f"{kept} of volume a is rebuilt." in done.stdout
    cluster.wait_healthy("a")
    assert cluster.verify("a") == []
    stale.kill()
    assert cluster.wait_serving("a", not_on=stale) is lost
    assert read(cluster, 0, 16) == old
    assert read(cluster, 64, 8) == later


def test_the_lost_one_can_be_gone_back_to_as_long_as_it_was_not_discarded(
    cluster: Cluster,
) -> None:
    """What was set aside is the volume after all: everything acknowledged before is there again."""
    lost, stale, _, new = alone(cluster)
    verb = ("recover", "a", "--from-stale", replica_on(cluster, stale), "--confirm", "a")
    off = ("--old-primary-is-off", lost.node_id)

    def recovered() -> bool:
        return sparrow(cluster, *verb, *off).returncode == 0

    cluster._wait(recovered, bool, 30.0, "recovery")
    cluster.wait_serving("a")
    lost.start()
    lost.wait_log("replica.quarantined", volume="a")
    stale.kill()
    back = ("recover", "a", "--from-stale", replica_on(cluster, lost), "--confirm", "a")
    off = ("--old-primary-is-off", stale.node_id)

    def gone_back() -> bool:
        return sparrow(cluster, *back, *off, "--accept-state", "quarantined").returncode == 0

    cluster._wait(gone_back, bool, 30.0, "recovery of the one set aside")
    assert cluster.wait_serving("a") is lost
    assert read(cluster, 0, 16) == new
    stale.start()
    stale.wait_log("replica.quarantined", volume="a")


def test_an_eligible_replica_takes_over_from_the_last_one_without_anybodys_word(
    place: Path,
) -> None:
    """L4: {a} below the minimum with b eligible; a's node is lost for good; b has every acknowledged byte."""
    with Cluster(place / "three", nodes=3) as cluster:
        cluster.create_volume("a", size=32 * MIB, min_in_sync=2)
        cluster.wait_healthy("a")
        data = os.urandom(16 * PAGE)
        write(cluster, 0, data)
        last = cluster.primary("a")
        first, second = [node for node in cluster.nodes.values() if node is not last]
        first.kill()
        cluster.wait_volume("a", lambda v: v.line is not None and len(v.line.in_sync) == 2, 30.0)
        second.kill()
        eligible = cluster.wait_volume(
            "a", lambda v: v.line is not None and bool(v.line.eligible), 30.0
        ).line
        assert eligible is not None
        assert eligible.eligible == (replica_on(cluster, second),)
        last.kill()
        second.start()
        # Whoever is alone below the minimum is told so: reads only, and who else has everything.
        cluster.wait_volume(
            "a",
            lambda v: v.line is not None and v.line.primary_member.node_id == second.node_id,
            60.0,
        )
        first.start()
        cluster.wait_serving("a", 60.0, not_on=last)
        assert read(cluster, 0, 16) == data
        assert cluster.api(lambda api: api.authority_status()).audit == ()

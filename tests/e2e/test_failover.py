"""The primary's process is killed: nothing acknowledged is lost, and the volume is served again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e import failover_drill
from tests.support.cluster import Cluster
from tests.support.foreign import on_primary
from tests.support.ledger import Ledger
from tests.support.multipath import check_all
from tests.support.needs import needs_io_uring, needs_program, needs_qemu_iscsi, needs_root
from tests.support.paths import cluster_paths
from tests.support.places import disk_directory
from tests.support.traffic import Traffic

pytestmark = [needs_io_uring(), pytest.mark.timeout(600)]

IN_CI = os.environ.get("CI", "") not in ("", "false")
#: Twenty where time is no matter; `make failover-drill N=20` at home.
FAILOVERS = 20 if IN_CI else 3
IMAGE_BYTES = 256 << 20


def qemu_img(cluster: Cluster, *arguments: str) -> str:
    """{url} in the arguments is the volume's."""
    return on_primary(cluster, "a", cluster.url, "qemu-img", *arguments, timeout_s=180)


@needs_qemu_iscsi()
def test_an_image_written_to_the_primary_is_found_on_its_successor(place: Path) -> None:
    image = place / "image"
    with image.open("wb") as file:
        for _ in range(IMAGE_BYTES >> 20):
            file.write(os.urandom(1 << 20))
    with Cluster(place / "cluster") as cluster:
        cluster.create_volume("a", size=IMAGE_BYTES)
        qemu_img(cluster, "convert", "-n", "-f", "raw", "-O", "raw", str(image), "{url}")
        primary, url = cluster.primary("a"), cluster.url("a")
        primary.kill()
        cluster.wait_serving("a", not_on=primary)
        assert cluster.url("a") != url
        shown = qemu_img(cluster, "compare", "-f", "raw", "-F", "raw", str(image), "{url}")
        assert "identical" in shown


def test_failover_after_failover_loses_nothing_and_answers_nothing_stale(place: Path) -> None:
    outcome = failover_drill.run(place / "cluster", count=FAILOVERS, tell=print)
    assert outcome.trouble == []
    assert (outcome.failovers, outcome.lost, outcome.stale) == (FAILOVERS, 0, 0)
    assert outcome.acked > FAILOVERS * failover_drill.ACKS, "writes were in flight"


def test_the_drill_ends_with_one_line() -> None:
    with disk_directory("drill") as place:
        done = subprocess.run(
            [sys.executable, "-m", "tests.e2e.failover_drill", "--count", "1", "--dir", str(place)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert list(place.iterdir()) == [], "it cleans up behind itself"
    assert done.returncode == 0, done.stderr
    *kinds, line = done.stdout.splitlines()
    assert [kind.split()[0] for kind in kinds] == ["kill"]
    assert line.startswith("failovers: 1 lost: 0 stale: 0 pause_ms_p50: ")


@needs_root()
@needs_program("nft")
@needs_program("mkfs.ext4")
def test_whatever_happens_to_the_primary_nothing_is_lost(place: Path) -> None:
    """Each kind once: frozen, cut off in either direction, full, failed disk, killed, moved."""
    kinds = failover_drill.KINDS
    outcome = failover_drill.run(place / "all", count=len(kinds), kinds=kinds, tell=print)
    print(*outcome.by_kind(), outcome.line(), sep="\n")
    assert outcome.trouble == []
    assert (outcome.failovers, outcome.lost, outcome.stale) == (len(kinds), 0, 0)
    assert set(outcome.pauses_s) == set(kinds)


def test_a_killed_primary_comes_back_and_all_replicas_are_equal(place: Path) -> None:
    ledger = Ledger(1)
    with Cluster(place / "cluster") as cluster:
        cluster.create_volume("a", size=128 << 20)
        paths = cluster_paths(cluster, "a")
        with Traffic(ledger, paths, pages=4096) as traffic:
            traffic.wait_acked(50)
            victim = cluster.primary("a")
            killed_at = time.monotonic()
            victim.kill()
            traffic.wait_moved_on(killed_at)
            traffic.wait_acked(50)
            victim.start()
            cluster.wait_healthy("a")
            traffic.wait_acked(50)
            traffic.rest()
            cluster.wait_healthy("a")
            verified = subprocess.run(
                [sys.executable, "-m", "sparrow", "volume", "verify", "a"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                env={**os.environ, "SPARROW_MASTER": cluster.master_addr},
            )
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert "32768 pages are equal on r1, r2, r3" in verified.stdout
        check_all(ledger, paths)
        assert ledger.faults == []
        assert {one.role for one in cluster.wait_healthy("a").replicas} == {"primary", "in_sync"}

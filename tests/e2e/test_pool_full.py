"""A pool without room: acknowledged writes stay, new ones go on without that replica or end with a clear error."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sparrow.dataplane.native.room import HEADROOM_EVERY_S
from tests.support.cluster import Cluster
from tests.support.iscsi_client import ScsiError
from tests.support.ledger import Ledger
from tests.support.multipath import Multipath, check_all
from tests.support.needs import needs_io_uring, needs_program, needs_root
from tests.support.paths import cluster_paths
from tests.support.places import small_file_system

pytestmark = [
    needs_io_uring(),
    needs_root(),
    needs_program("mkfs.ext4"),
    pytest.mark.timeout(180),
]

POOL_BYTES = 256 << 20
VOLUME_BYTES = 64 << 20
#: What somebody else's file leaves of the pool: more than the reserve, so that some of it is used.
LEFT_BYTES = 44 << 20
#: So little that it ends in the middle of a burst, before the next look at the room.
SCARCE_BYTES = 4 << 20
BALLAST = "ballast"
CHUNK_PAGES = 16
SOON_PAGES = 8 * CHUNK_PAGES
#: SPC-4: DATA PROTECT, space allocation failed write protect.
NO_SPACE = (0x7, 0x27, 0x07)


@pytest.fixture
def pools(place: Path) -> Iterator[dict[str, Path]]:
    """A small file system for each of three nodes."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(small_file_system(place, f"pool-{name}", POOL_BYTES))
            for name in ("n1", "n2", "n3")
        }


def crowd(pool: Path, left_bytes: int = LEFT_BYTES) -> Path:
    """Somebody else's file takes nearly all of the room that the placement counted on."""
    ballast = pool / BALLAST
    room = os.statvfs(pool)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - left_bytes)
    if left_bytes == LEFT_BYTES:
        # Nodes count their room once a second and say nothing while there is enough; foreseen means they have counted.
        time.sleep(2 * HEADROOM_EVERY_S)
    return ballast


def fill(
    cluster: Cluster, ledger: Ledger, *, soon: Callable[[], object] | None = None
) -> ScsiError | None:
    """Write the volume from its start to its end; the error that ended it, None at the end.

    ``soon`` is called when some writes were acknowledged.
    """
    with Multipath(cluster_paths(cluster, "a"), silence_s=30.0) as client:
        for page in range(0, VOLUME_BYTES // 4096, CHUNK_PAGES):
            if soon is not None and page == SOON_PAGES:
                soon()
            version, data = ledger.begin_write(page, CHUNK_PAGES)
            try:
                client.write(page, data)
            except ScsiError as error:
                return error
            ledger.acknowledge(version)
    return None


def overwrite(cluster: Cluster, ledger: Ledger) -> None:
    """Pages that have their place can be written again."""
    with Multipath(cluster_paths(cluster, "a"), silence_s=30.0) as client:
        for page in range(0, ledger.acked_writes * CHUNK_PAGES, CHUNK_PAGES):
            version, data = ledger.begin_write(page, CHUNK_PAGES)
            client.write(page, data)
            ledger.acknowledge(version)


def wait_room(cluster: Cluster, ledger: Ledger, within_s: float = 30.0) -> None:
    """Wait until the volume takes writes to new pages again."""
    deadline = time.monotonic() + within_s
    with Multipath(cluster_paths(cluster, "a"), silence_s=30.0) as client:
        while True:
            version, data = ledger.begin_write(VOLUME_BYTES // 4096 - 1, 1)
            try:
                client.write(VOLUME_BYTES // 4096 - 1, data)
            except ScsiError as error:
                if sense_of(error) != NO_SPACE or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                ledger.acknowledge(version)
                return


def sense_of(error: ScsiError) -> tuple[int, int, int]:
    return error.key, error.asc, error.ascq


@pytest.mark.parametrize("left_bytes", [LEFT_BYTES, SCARCE_BYTES], ids=["foreseen", "sudden"])
def test_the_only_replica_ends_with_an_error_that_names_the_space(
    place: Path, pools: dict[str, Path], left_bytes: int
) -> None:
    ledger = Ledger(20)
    with Cluster(place / "c", nodes=1, pools=pools) as cluster:
        cluster.create_volume("a", size=VOLUME_BYTES, replicas=1)
        pool = cluster.primary("a").pool
        error = fill(cluster, ledger, soon=lambda: crowd(pool, left_bytes))
        assert error is not None
        assert sense_of(error) == NO_SPACE
        node = cluster.primary("a")
        assert node.wait_log("pool.full", full=True)["volume"] == "a"
        assert ledger.acked_writes > 0
        if left_bytes == LEFT_BYTES:
            overwrite(cluster, ledger)
        check_all(ledger, cluster_paths(cluster, "a"))
        assert ledger.faults == []
        node.kill()
        node.start()
        cluster.wait_serving("a")
        check_all(ledger, cluster_paths(cluster, "a"))
        assert ledger.faults == []
        (pool / BALLAST).unlink()
        wait_room(cluster, ledger)
        assert fill(cluster, ledger) is None
        check_all(ledger, cluster_paths(cluster, "a"))
        assert ledger.faults == []


@pytest.mark.parametrize("role", ["primary", "in_sync"])
def test_one_full_pool_of_three_loses_nothing(
    place: Path, pools: dict[str, Path], role: str
) -> None:
    ledger = Ledger(21)
    with Cluster(place / "c", pools=pools) as cluster:
        cluster.create_volume("a", size=VOLUME_BYTES)
        replicas = cluster.wait_healthy("a").replicas
        node = cluster.nodes[next(r.node_id for r in replicas if r.role == role)]
        ballast = crowd(node.pool)
        error = fill(cluster, ledger)
        assert error is None or sense_of(error) == NO_SPACE
        assert node.wait_log("pool.full", full=True)["volume"] == "a"
        check_all(ledger, cluster_paths(cluster, "a"))
        assert ledger.faults == []
        ballast.unlink()
        wait_room(cluster, ledger)
        assert fill(cluster, ledger) is None
        cluster.wait_healthy("a")
        assert cluster.verify("a") == []
        node.kill()
        cluster.wait_serving("a", not_on=node)
        check_all(ledger, cluster_paths(cluster, "a"))
        assert ledger.faults == []

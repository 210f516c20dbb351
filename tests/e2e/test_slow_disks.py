"""A disk that hangs: under the primary it hands over (L9), under one follower it is left out until it is well (L6).
Where its peers were late as well the primary stays (L9).

The pool's file system is frozen, as a controller that does not answer would have it: writes of the log wait, processes
and network are as well as ever, and grants flow.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sparrow.rpc.messages import VolumeView
from tests.support.cluster import Cluster
from tests.support.ledger import Ledger
from tests.support.locks import waits_for_a_lock
from tests.support.multipath import Multipath, check_all
from tests.support.needs import needs_io_uring, needs_program, needs_root
from tests.support.paths import cluster_paths
from tests.support.places import small_file_system
from tests.support.replica_files import wait_applied
from tests.support.traffic import Traffic
from tests.support.waiting import wait_for

pytestmark = [
    needs_io_uring(),
    needs_root(),
    needs_program("mkfs.ext4"),
    pytest.mark.timeout(240),
]

POOL_BYTES = 256 << 20
VOLUME_BYTES = 64 << 20
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
#: Long after the second in which a log that hangs is noticed.
HANGS_S = 60.0
#: What some writes take on a disk that was late, and on one that is slow; and for how long nothing is held up.
LATE_S, SLOW_S, QUICK_S = 0.7, 1.5, 0.3
#: Twice as long as a node says of a disk that it is slow.
STAYS_S = 20.0


@pytest.fixture
def pools(place: Path) -> Iterator[dict[str, Path]]:
    """A file system of its own for each of three nodes."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(small_file_system(place, f"pool-{name}", POOL_BYTES))
            for name in ("n1", "n2", "n3")
        }


@pytest.fixture
def cluster(place: Path, pools: dict[str, Path]) -> Iterator[Cluster]:
    with Cluster(place / "cluster", nodes=3, pools=pools) as made:
        made.create_volume("a", size=VOLUME_BYTES)
        made.wait_healthy("a")
        yield made


@contextmanager
def frozen(pool: Path) -> Iterator[None]:
    """Writes to this file system wait."""
    fd = os.open(pool, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(fd, FITHAW, 0)
    finally:
        os.close(fd)


@contextmanager
def slow_by_turns(turns: Sequence[tuple[Path, float]]) -> Iterator[None]:
    """Writes to these file systems wait for so many seconds, one after the other and again and again.

    Not at once: while one disk holds all clients up the others have nothing to be late with.
    """
    over = threading.Event()

    def take_turns() -> None:
        while not over.is_set():
            for pool, seconds in turns:
                with frozen(pool):
                    over.wait(seconds)
                over.wait(QUICK_S)

    thread = threading.Thread(target=take_turns)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def requests_under_way(mount: Path) -> int:
    """Requests that the device of a file system was given and has not answered (sysfs-block, ``inflight``)."""
    number = mount.stat().st_dev
    counts = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/inflight").read_text()
    return sum(map(int, counts.split()))


def write(cluster: Cluster, ledger: Ledger, page: int, *, silence_s: float = 10.0) -> None:
    """One acknowledged write, by whoever serves."""
    with Multipath(cluster_paths(cluster, "a"), silence_s=silence_s) as client:
        version, data = ledger.begin_write(page, 1)
        client.write(page, data)
        ledger.acknowledge(version)


def wait_in_sync(cluster: Cluster, names: set[str], *, within_s: float) -> None:
    """Until the line counts on exactly these nodes."""

    def counts_on_them(volume: VolumeView) -> bool:
        line = volume.line
        assert line is not None
        found = {member.node_id for member in line.members if member.replica_id in line.in_sync}
        return found == names

    cluster.wait_volume("a", counts_on_them, timeout_s=within_s)


def test_l9_a_primary_whose_disk_hangs_hands_over(cluster: Cluster, pools: dict[str, Path]) -> None:
    ledger = Ledger(9)
    old = cluster.primary("a")
    write(cluster, ledger, 0)
    with frozen(pools[old.node_id]), cluster_paths(cluster, "a").connect(timeout_s=30.0) as client:
        began = time.monotonic()
        # A disk that nothing is written to cannot be seen to hang. Nobody answers this one, or an error does.
        _, data = ledger.begin_write(2, 1)
        client.submit_write(2, data)
        # Its processes and its network are well: only its own word moves the volume.
        cluster.wait_serving("a", HANGS_S, not_on=old)
        moved = cluster.master.log_events("line.minted", intent="reassign")
        assert "asked to be relieved" in moved[-1]["reason"]
        print(f"hung_primary_left_s: {time.monotonic() - began:.1f}")
        write(cluster, ledger, 1, silence_s=30.0)
    cluster.wait_healthy("a", timeout_s=120.0)
    check_all(ledger, cluster_paths(cluster, "a"))
    assert ledger.faults == []


def test_l9_a_slow_primary_stays_where_its_peers_were_late_as_well_and_its_node_says_so(
    cluster: Cluster, pools: dict[str, Path]
) -> None:
    ledger = Ledger(11)
    leads = cluster.primary("a").node_id
    late = [(pool, LATE_S) for name, pool in sorted(pools.items()) if name != leads]
    told: set[str] = set()
    with (
        Traffic(ledger, cluster_paths(cluster, "a"), reads=0.0, silence_s=30.0) as traffic,
        slow_by_turns([*late, (pools[leads], SLOW_S)]),
    ):
        until = time.monotonic() + STAYS_S
        while time.monotonic() < until:
            traffic.wait_acked(1)
            nodes = cluster.api(lambda api: api.list_nodes())
            told.update(text for node in nodes for text in node.troubles if "is slow" in text)
        traffic.rest()
    assert told
    assert all("none is known to be quicker, so it stays" in text for text in told)
    assert cluster.master.log_events("line.minted", intent="reassign") == []
    cluster.wait_healthy("a", timeout_s=120.0)
    check_all(ledger, cluster_paths(cluster, "a"))
    assert ledger.faults == []


def test_l6_a_follower_whose_disk_hangs_is_left_out_until_it_has_been_well_for_a_while(
    cluster: Cluster, pools: dict[str, Path]
) -> None:
    ledger = Ledger(6)
    everybody = set(cluster.nodes)
    primary = cluster.primary("a")
    slow = next(node for name, node in sorted(cluster.nodes.items()) if node is not primary)
    write(cluster, ledger, 0)
    with frozen(pools[slow.node_id]):
        # Held up until the line leaves the slow one out, and answered then.
        write(cluster, ledger, 1, silence_s=30.0)
        wait_in_sync(cluster, everybody - {slow.node_id}, within_s=60.0)
        # Unless the whole machine stood still, so that its own writes hung as well.
        assert cluster.primary("a") is primary or primary.log_events("replica.gray")
        thawed_at = time.monotonic()
    wait_in_sync(cluster, everybody, within_s=90.0)
    back_s = time.monotonic() - thawed_at
    print(f"slow_follower_back_s: {back_s:.1f}")
    # Ten seconds in which every acknowledgement was quick.
    assert back_s > 8.0
    cluster.wait_healthy("a", timeout_s=60.0)
    check_all(ledger, cluster_paths(cluster, "a"))
    assert ledger.faults == []


def test_a_node_waits_for_the_writes_that_the_killed_process_left_to_its_disk(place: Path) -> None:
    """The process is gone and its write is not: who read the log now would not see what comes into it later. It says
    what it waits for, and ends when it is asked to.

    The disk below the pool's hangs, so the pool's own takes requests and does not answer.
    """
    ledger = Ledger(10)
    with (
        small_file_system(place, "below", 2 * POOL_BYTES) as below,
        small_file_system(below, "disk", POOL_BYTES) as disk,
        # Not the mount point: the name of that is looked for in the disk that hangs.
        Cluster(place / "cluster", nodes=1, pools={"n1": disk / "pool"}) as cluster,
    ):
        cluster.create_volume("a", size=VOLUME_BYTES, replicas=1)
        cluster.wait_healthy("a")
        write(cluster, ledger, 0)
        node = cluster.nodes["n1"]
        # A process whose flush hangs in the kernel cannot end, killed or not.
        wait_applied([node.pool], "a")
        with frozen(below), cluster_paths(cluster, "a").connect(timeout_s=30.0) as client:
            _, data = ledger.begin_write(1, 1)
            client.submit_write(1, data)
            wait_for(lambda: requests_under_way(disk) > 0)
            node.kill()
            assert requests_under_way(disk) > 0, "its write is still to come"
            node.launch()
            node.wait_log("disk.awaited", path=str(node.pool))
            assert node.terminate() == 0
            node.launch()
            wait_for(lambda: waits_for_a_lock(node.pid))
            assert len(node.log_events("replica.opened")) == 1, "nothing was read"
        node.await_ready()
        cluster.wait_healthy("a")
        check_all(ledger, cluster_paths(cluster, "a"))
    assert ledger.faults == []

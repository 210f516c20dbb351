"""Volumes over NVMe/TCP on real processes: what hosts see on each node, failover, events, nothing left behind."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.support.cluster import Cluster, NodeProc
from tests.support.iscsi_client import IscsiClient
from tests.support.needs import needs_io_uring
from tests.support.nvme_bed import FLUSH, WRITE_ZEROES
from tests.support.nvme_host import (
    ANA_CHANGED,
    CHANGE,
    DISCOVERY,
    DISCOVERY_CHANGED,
    INACCESSIBLE,
    NS_CHANGED,
    OPTIMIZED,
    Admin,
    Queue,
    Refused,
    attach,
    close_all,
)
from tests.support.replica_files import ReplicaFiles

pytestmark = [needs_io_uring(), pytest.mark.timeout(180)]

SIZE = 64 << 20
PREFIX = "nqn.2026-01.io.sparrow:"
PATH_ERRORS = {0x302, 0x303}
#: A host that keeps itself alive is not given up although this machine stands still for a while.
KATO_MS = 4000


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("nvme")) as cluster:
        yield cluster
        close_all()


def address(node: NodeProc) -> tuple[str, int]:
    host, _, port = node.nvme_addr.rpartition(":")
    return host, int(port)


def data_of(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def test_every_node_shows_one_namespace_and_only_the_primary_serves_it(cluster: Cluster) -> None:
    cluster.create_volume("a", size=SIZE, block_size=512)
    cluster.wait_healthy("a")
    primary = cluster.primary("a")
    seen, cntlids, groups = set(), set(), set()
    for node in cluster.nodes.values():
        admin, (queue,) = attach(address(node), PREFIX + "a", digests=3)
        seen.add((admin.identify(3, nsid=1)[:64], admin.identify(1)[4:24]))
        cntlids.add(int.from_bytes(admin.identify(1)[78:80], "little"))
        assert int.from_bytes(admin.identify(0, nsid=1)[:8], "little") == SIZE // 512
        (group,) = admin.ana()
        groups.add(group.group)
        assert group.nsids == (1,)
        if node is primary:
            assert group.state == OPTIMIZED
            assert queue.write(8, data_of(1, 65536)).status == 0
            assert queue.read(8, 128).data == data_of(1, 65536)
            assert queue.finish(queue.start(FLUSH)).status == 0
            assert queue.finish(queue.start(WRITE_ZEROES, lba=8, blocks=8)).status == 0
            assert queue.read(8, 8).data == bytes(4096)
        else:
            assert group.state == INACCESSIBLE
            result = queue.read(8, 128)
            assert (result.status, result.data) == (0x302, b"")
            assert queue.write(8, bytes(4096)).status == 0x302
    assert len(seen) == 1, "one device, whatever the path"
    assert len(cntlids) == len(groups) == 3
    target = next(one for one in cluster.volume("a").frontends if one.protocol == "nvme")
    assert (target.addr, target.name, target.lun) == (primary.nvme_addr, PREFIX + "a", 1)


def test_what_one_protocol_wrote_the_other_reads(cluster: Cluster) -> None:
    cluster.create_volume("a", size=SIZE, block_size=512)
    cluster.wait_healthy("a")
    node = cluster.primary("a")
    _, (queue,) = attach(address(node), PREFIX + "a")
    assert queue.write(100, data_of(2, 8192)).status == 0
    with IscsiClient(*node.portal, target="iqn.2026-01.io.sparrow:a", timeout_s=30) as initiator:
        assert initiator.read(100, 16) == data_of(2, 8192)
        initiator.write(200, data_of(3, 4096))
    assert queue.read(200, 8).data == data_of(3, 4096)


def test_a_host_follows_the_primary_through_a_failover(cluster: Cluster) -> None:
    cluster.create_volume("a", size=SIZE, block_size=512)
    cluster.wait_healthy("a")
    primary = cluster.primary("a")
    paths = {}
    for name, node in cluster.nodes.items():
        admin, (queue,) = attach(address(node), PREFIX + "a")
        paths[name] = (admin, queue, admin.ask_events(1 << 11))
        admin.ana()
    assert paths[primary.node_id][1].write(0, data_of(4, 65536)).status == 0
    primary.kill()
    began = time.monotonic()
    survivors = [node for node in cluster.nodes.values() if node is not primary]
    serving = None
    while serving is None:
        assert time.monotonic() - began < 60
        for node in survivors:
            admin, queue, _ = paths[node.node_id]
            (group,) = admin.ana()
            if group.state == OPTIMIZED:
                serving = node
            else:
                assert group.state in (INACCESSIBLE, CHANGE)
        # The event is looked at afterwards; what each path says meanwhile is the test.
        time.sleep(0.05)
    admin, queue, event = paths[serving.node_id]
    assert admin.answer(event) == (ANA_CHANGED, b"")
    assert queue.read(0, 128).data == data_of(4, 65536), "the path that stood by serves now"
    _, (queue,) = attach(address(serving), PREFIX + "a")
    assert queue.read(0, 128).data == data_of(4, 65536)
    assert queue.write(0, data_of(5, 4096)).status == 0
    primary.start()
    cluster.wait_healthy("a")
    _, (stale,) = attach(address(primary), PREFIX + "a")
    assert stale.read(0, 8).status in PATH_ERRORS
    assert stale.write(0, bytes(4096)).status in PATH_ERRORS
    assert queue.read(0, 8).data == data_of(5, 4096)


def test_a_larger_volume_is_told_and_shown(cluster: Cluster) -> None:
    cluster.create_volume("a", size=SIZE, block_size=512)
    cluster.wait_healthy("a")
    admin, (queue,) = attach(address(cluster.primary("a")), PREFIX + "a")
    event = admin.ask_events(1 << 8)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sparrow", "volume", "resize", "a", "128MiB"),
            *("--master", cluster.master_addr),
        ],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert admin.answer(event) == (NS_CHANGED, b"")
    assert admin.log_page(4, 4096)[:8] == b"\1" + bytes(7)
    assert int.from_bytes(admin.identify(0, nsid=1)[:8], "little") == 2 * SIZE // 512
    last = 2 * SIZE // 512 - 8
    assert queue.write(last, data_of(6, 4096)).status == 0
    assert queue.read(last, 8).data == data_of(6, 4096)


def test_discovery_lists_volumes_and_tells_of_new_ones(cluster: Cluster) -> None:
    node = cluster.nodes["n1"]
    admin = Admin(address(node))
    admin.connect(DISCOVERY, kato=30000)
    admin.enable()
    assert admin.identify(1)[111] == 2
    assert int.from_bytes(admin.log_page(0x70, 1024)[8:16], "little") == 1, "itself"
    event = admin.ask_events(1 << 31)
    cluster.create_volume("a", size=SIZE, block_size=512)
    assert admin.answer(event) == (DISCOVERY_CHANGED, b"")
    found = discovered(admin)
    assert found[0] == (DISCOVERY, node.nvme_addr, 1)
    assert found[1][:2] == (PREFIX + "a", node.nvme_addr), "the path that was asked comes first"
    while len(found) < 4:
        # Where the others can be reached is heard a little later, and told as well.
        event = admin.ask_event()
        found = discovered(admin)
        if len(found) < 4:
            assert admin.answer(event) == (DISCOVERY_CHANGED, b"")
            found = discovered(admin)
    line = cluster.volume("a").line
    assert line is not None
    assert set(found[1:]) == {
        (PREFIX + "a", cluster.nodes[one.node_id].nvme_addr, int(one.replica_id.removeprefix("r")))
        for one in line.members
    }


def discovered(admin: Admin) -> list[tuple[str, str, int]]:
    """Name, address and port identifier of every entry of the discovery log."""
    log = admin.log_page(0x70, 1024 * 8)
    found = []
    for number in range(1, int.from_bytes(log[8:16], "little") + 1):
        entry = log[1024 * number : 1024 * (number + 1)]
        port, host = (entry[a:b].strip(b" \0").decode() for a, b in ((32, 64), (512, 768)))
        nqn = entry[256:512].strip(b"\0").decode()
        found.append((nqn, f"{host}:{port}", int.from_bytes(entry[4:6], "little")))
    return found


def test_a_silent_host_is_given_up_with_its_queues(cluster: Cluster) -> None:
    cluster.create_volume("a", size=SIZE, block_size=512)
    cluster.wait_healthy("a")
    admin, queues = attach(address(cluster.primary("a")), PREFIX + "a", queues=3, kato=KATO_MS)
    until = time.monotonic() + 1.5 * KATO_MS / 1000
    while time.monotonic() < until:
        admin.keep_alive()
        assert queues[0].read(0, 8).status == 0
        # The pace of a host that keeps itself alive, many times within its time-out.
        time.sleep(0.2)
    assert admin.closed()
    assert all(queue.closed() for queue in queues)


def test_a_newer_controller_of_a_host_ends_the_older_one(cluster: Cluster) -> None:
    cluster.create_volume("a", size=SIZE, block_size=512)
    cluster.wait_healthy("a")
    where = address(cluster.primary("a"))
    old_admin, (old,) = attach(where, PREFIX + "a")
    _, (other,) = attach(where, PREFIX + "a", hostid=b"x" * 16)
    _, (new,) = attach(where, PREFIX + "a")
    assert old_admin.closed()
    assert old.closed()
    assert new.write(0, data_of(7, 4096)).status == 0
    assert other.read(0, 8).data == data_of(7, 4096)


def write_that_stays(cluster: Cluster, admin: Admin, queue: Queue) -> int:
    """Stop both followers and have a write in the primary's log that nobody else takes; its identifier.

    Where this machine stands still until grants have lapsed, the write comes to a closed path: then it is done again.
    """
    primary = cluster.primary("a")
    log = ReplicaFiles(primary.pool, "a")
    while True:
        before = log.last_lsn
        for node in followers(cluster):
            node.freeze()
        logged = queue.write_start(0, data_of(1, 4096))
        while log.last_lsn == before and admin.ana()[0].state != CHANGE:
            # Another process writes that file, and tells nobody.
            time.sleep(0.02)
        if log.last_lsn > before:
            return logged
        for node in followers(cluster):
            node.thaw()
        with suppress(Refused):
            queue.answer(logged)
        cluster.wait_healthy("a")


def followers(cluster: Cluster) -> list[NodeProc]:
    primary = cluster.primary("a")
    return [node for node in cluster.nodes.values() if node is not primary]


def test_an_abort_reaches_a_write_that_waits_and_no_other(cluster: Cluster) -> None:
    """Both followers stand still: what is in the log stays under way, what comes to a closed path waits for it."""
    cluster.create_volume("a", size=SIZE, block_size=512)
    cluster.wait_healthy("a")
    admin, (queue,) = attach(address(cluster.primary("a")), PREFIX + "a")
    logged = write_that_stays(cluster, admin, queue)
    assert not admin.abort(1, logged)
    while admin.ana()[0].state != CHANGE:
        # Nothing is told on purpose: the moment the grants have lapsed is looked for.
        time.sleep(0.02)
    aborted = False
    until = time.monotonic() + 30.0
    while not aborted:
        assert time.monotonic() < until, "no write that waited was found"
        waiting = queue.write_start(64, data_of(2, 4096))
        # It is found once its own connection has brought it, and before it has waited as long as it may.
        while not aborted and not queue.answered():
            aborted = admin.abort(1, waiting)
        with pytest.raises(Refused) as raised:
            queue.answer(waiting)
        assert raised.value.status == 0x07 if aborted else raised.value.status in PATH_ERRORS
    for node in followers(cluster):
        node.thaw()
    cluster.wait_healthy("a")
    admin.close()
    queue.close()
    _, (again,) = attach(address(cluster.primary("a")), PREFIX + "a")
    assert again.read(64, 8).data == bytes(4096), "it was never done"


def test_hosts_that_come_and_go_leave_nothing(cluster: Cluster) -> None:
    cluster.create_volume("a", size=SIZE, block_size=512)
    cluster.wait_healthy("a")
    where = address(cluster.primary("a"))
    for turn in range(50):
        admin, (queue,) = attach(where, PREFIX + "a", hostid=turn.to_bytes(16, "little"))
        assert queue.write(turn, data_of(turn, 512)).status == 0
        if turn % 3 == 0:
            queue.capsule(b"\x7f\x40\x09\x00\x08" + bytes(59))
            assert queue.receive().status == 0
            assert queue.closed()
            admin.keep_alive()
        admin.close()
        queue.close()
    # An identifier is only given while fewer than 4,095 are in use: what matters is that the node takes part as before.
    with pytest.raises(Refused) as raised:
        Queue(where).connect(PREFIX + "a", qid=1, cntlid=0x1001)
    assert raised.value.status == 0x4182
    admin, queues = attach(where, PREFIX + "a", queues=8)
    assert len(queues) == 8
    assert b"".join(queues[i % 8].read(i, 1).data for i in range(50)) == b"".join(
        data_of(turn, 512) for turn in range(50)
    )
    admin.property_set(0x14, 0)
    assert all(queue.closed() for queue in queues), "a reset ends them"
    admin.enable()


def test_eight_queues_at_once_keep_their_data_apart(cluster: Cluster) -> None:
    cluster.create_volume("a", size=SIZE, block_size=512)
    cluster.wait_healthy("a")
    _, queues = attach(address(cluster.primary("a")), PREFIX + "a", queues=8)
    length, blocks = 32768, 64

    def work(number: int) -> None:
        queue = queues[number]
        for turn in range(50):
            lba = (turn * 8 + number) * blocks
            assert queue.write(lba, data_of(lba, length)).status == 0
        for turn in range(50):
            lba = (turn * 8 + number) * blocks
            assert queue.read(lba, blocks).data == data_of(lba, length)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, number) for number in range(8)]:
            done.result()

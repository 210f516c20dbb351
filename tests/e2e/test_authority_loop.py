"""The authority loop on real processes, nothing put in by hand: what nodes say decides, and what is decided arrives."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Self

import pytest

from sparrow.authority.types import Line, Lineage
from sparrow.base.constants import RETRY_WINDOW_S
from sparrow.base.errors import AlreadyExists, SparrowError
from sparrow.base.ids import EndpointVersion, Epoch, NodeId
from sparrow.formats.superblock import SUPERBLOCK_BYTES
from sparrow.node.pool import Pool
from sparrow.rpc.messages import CreateVolumeRequest, VolumeView
from tests.support.cluster import Cluster, NodeProc
from tests.support.needs import needs_io_uring, needs_program, needs_root
from tests.support.places import small_file_system
from tests.support.ports import HOST, free_ports

pytestmark = [needs_io_uring(), pytest.mark.timeout(300)]

SIZE = 32 << 20
MASTER_KILLS = 20
MASTER_DISK_BYTES = 64 << 20
#: More than a volume takes to be made where each flush takes long; a master that is killed meanwhile ends it at once.
MADE_S = 10.0
#: Longer than any decision may take to be seen.
LONG_GRANT_S = RETRY_WINDOW_S + 10.0


@pytest.fixture
def cluster(place: Path) -> Iterator[Cluster]:
    with Cluster(place) as made:
        yield made


def line_of(cluster: Cluster, name: str) -> Line:
    status = cluster.api(lambda api: api.authority_status())
    (line,) = [line for line in status.lines if line.volume_id == name]
    return line


def node_of(cluster: Cluster, line: Line, replica: str) -> NodeProc:
    (node_id,) = [member.node_id for member in line.members if member.replica_id == replica]
    return cluster.nodes[node_id]


def lose_one_superblock_copy(pool: Path, volume: str) -> None:
    """The replica opens, but nobody can tell whether what it says is its last word."""
    (path,) = pool.glob(f"volumes/{volume}/*/superblock")
    with path.open("r+b") as file:
        file.write(b"\xee" * SUPERBLOCK_BYTES)


def test_heartbeats_become_an_assignment_and_the_assignment_a_healthy_replica(
    cluster: Cluster,
) -> None:
    """Goal: INV-OBS-REALPROC-001. Each step is found in the log of the process that took it, in order."""
    cluster.create_volume("a", size=SIZE)
    cluster.wait_healthy("a")
    bound = cluster.master.wait_log("line.minted", volume="a", intent="bind")
    assert bound["reason"] == "initial placement"
    assert (bound["epoch"], bound["endpoint_version"]) == (1, 1)
    primary = cluster.primary("a")
    formatted = primary.wait_log("replica.formatted", volume="a")
    accepted = primary.wait_log("line.accepted", volume="a", epoch=1)
    opened = primary.wait_log("gate.opened", volume="a", epoch=1)
    times = [entry["timestamp"] for entry in (formatted, bound, accepted, opened)]
    assert times == sorted(times)
    for node in cluster.nodes.values():
        assert node.wait_log("line.accepted", volume="a", primary=bound["primary"])


def test_a_dead_primary_is_replaced_by_the_in_sync_replica_on_evidence(cluster: Cluster) -> None:
    cluster.create_volume("a", size=SIZE)
    cluster.wait_healthy("a")
    primary = cluster.primary("a")
    primary.kill()
    serving = cluster.wait_serving("a", not_on=primary)
    moved = cluster.master.wait_log("line.minted", volume="a", intent="reassign")
    assert moved["reason"].startswith("failover: ")
    assert moved["epoch"] == 2
    assert serving.wait_log("gate.opened", volume="a", epoch=2)
    line = line_of(cluster, "a")
    assert line.lineage.epoch == 2
    assert node_of(cluster, line, line.primary) is serving
    assert primary.node_id not in {
        member.node_id for member in line.members if member.replica_id in line.in_sync
    }


def test_a_node_restarted_on_other_ports_is_refreshed_in_the_line_and_for_its_peers(
    cluster: Cluster,
) -> None:
    cluster.create_volume("solo", size=SIZE, replicas=1)
    cluster.create_volume("a", size=SIZE)
    cluster.wait_healthy("a")
    before = line_of(cluster, "solo")
    node = cluster.primary("solo")
    node.kill()
    ctrl, data, iscsi = (f"{HOST}:{port}" for port in free_ports(8)[5:])
    renamed = {node.ctrl_addr: ctrl, node.data_addr: data, node.iscsi_addr: iscsi}
    node.arguments = tuple(renamed.get(one, one) for one in node.arguments)
    node.ctrl_addr, node.data_addr, node.iscsi_addr = ctrl, data, iscsi
    node.start()
    cluster.wait_healthy("solo")
    after = cluster.wait_volume(
        "solo",
        lambda volume: volume.line is not None and volume.line.primary_member.data_addr == data,
        30.0,
    ).line
    assert after is not None
    assert after.lineage.epoch == before.lineage.epoch, "an address is no new epoch"
    assert after.lineage.endpoint_version > before.lineage.endpoint_version
    assert after.primary_member.ctrl_addr == ctrl
    minted = cluster.master.wait_log("line.minted", volume="solo", intent="refresh_endpoint")
    assert minted["reason"] == "endpoint refresh"
    # Peers of the other volume reach it where it is now: it is taken in again.
    cluster.wait_healthy("a")


def remember_long_grants(node: NodeProc) -> None:
    """Let its pool remember a process whose grants ran so long that the next one opens nothing for a while."""
    pool = Pool.open(node.pool, NodeId(node.node_id), grant_s=LONG_GRANT_S)
    pool.close()


def test_what_was_decided_and_is_not_seen_is_reported_as_stuck_and_clears(cluster: Cluster) -> None:
    """The new primary waits for its earlier promises to end; the other replica is heard, but may not take over.

    Followers are killed before the primary: were one of them there when the primary's stream closes, it would be
    primary a tenth of a second later.
    """
    cluster.create_volume("a", size=SIZE)
    cluster.wait_healthy("a")
    line = line_of(cluster, "a")
    second, third = [one for one in line.in_sync if one != line.primary]
    heir, doubtful = node_of(cluster, line, second), node_of(cluster, line, third)
    # All at one moment: who sees another one stand still has the line leave it out.
    for node in cluster.nodes.values():
        node.send_signal(signal.SIGSTOP)
    for node in cluster.nodes.values():
        node.freeze()
    for node in (heir, doubtful, node_of(cluster, line, line.primary)):
        node.kill()
    remember_long_grants(heir)
    lose_one_superblock_copy(doubtful.pool, "a")
    doubtful.start()
    cluster.wait_nodes()
    assert line_of(cluster, "a") == line, "it may not take over"
    heir.launch()
    moved = cluster.master.wait_log("line.minted", volume="a", intent="reassign", timeout_s=30.0)
    stuck = cluster.master.wait_log("volume.stuck", volume="a", timeout_s=RETRY_WINDOW_S + 10)
    assert stuck["reason"].startswith("failover: ")
    assert "ConvergenceStuck" in cluster.volume("a").cause
    assert not heir.log_events("gate.opened", volume="a", epoch=moved["epoch"])
    assert line_of(cluster, "a").lineage.epoch == moved["epoch"], "going stuck mints nothing"
    cluster.wait_serving("a", LONG_GRANT_S + 30)
    assert heir.wait_log("gate.opened", volume="a", epoch=moved["epoch"])
    cluster.wait_volume("a", lambda volume: "ConvergenceStuck" not in volume.cause, 30.0)


def test_a_volume_without_evidence_is_unsupported_with_the_reason_and_recovers(
    cluster: Cluster,
) -> None:
    cluster.create_volume("solo", size=SIZE, replicas=1)
    cluster.create_volume("a", size=SIZE, replicas=2)
    cluster.wait_healthy("a")
    line = line_of(cluster, "solo")
    node = cluster.primary("solo")
    node.kill()
    cluster.master.wait_log("volume.unsupported", volume="solo", reasons="StaleObservation")
    cluster.wait_volume("solo", lambda volume: "StaleObservation" in volume.cause, 30.0)
    cluster.wait_serving("a")
    cluster.master.restart()
    again = cluster.wait_volume(
        "solo", lambda volume: "MissingServerObservation" in volume.cause, 30.0
    )
    assert again.state == "unavailable"
    node.start()
    cluster.wait_healthy("solo")
    assert line_of(cluster, "solo").lineage == line.lineage, "evidence alone mints nothing"


def test_s29_policy_and_minimum_stay_whatever_happens_and_cannot_be_edited(
    cluster: Cluster,
) -> None:
    """Over a failover and a restart of the master; the database refuses even a hand that knows its checksums."""
    cluster.create_volume("a", size=SIZE, min_in_sync=2)
    cluster.wait_healthy("a")
    before = line_of(cluster, "a")
    with pytest.raises(AlreadyExists):
        cluster.create_volume("a", size=SIZE, min_in_sync=1)
    primary = cluster.primary("a")
    primary.kill()
    cluster.wait_serving("a", not_on=primary)
    cluster.master.kill()
    with closing(sqlite3.connect(cluster.path / "master" / "authority.db")) as db:
        for table, more in (
            ("authority", ", epoch = epoch + 1, write_seq = write_seq + 1"),
            ("volumes", ""),
        ):
            for field, value in (("min_in_sync", 1), ("ack", "local")):
                change = f"UPDATE {table} SET body = json_set(body, '$.{field}', ?){more}"
                with pytest.raises(sqlite3.IntegrityError, match="policy is fixed"):
                    db.execute(change, (value,))
    cluster.master.start()
    primary.start()
    cluster.wait_healthy("a")
    after = line_of(cluster, "a")
    assert after.lineage.epoch > before.lineage.epoch
    assert (after.ack, after.min_in_sync) == (before.ack, before.min_in_sync) == ("sync", 2)


def test_a_restarted_master_re_anchors_its_nodes_and_decides_on_fresh_evidence(
    cluster: Cluster,
) -> None:
    cluster.create_volume("a", size=SIZE)
    cluster.wait_healthy("a")
    before = line_of(cluster, "a")
    cluster.master.kill()
    primary = node_of(cluster, before, before.primary)
    primary.kill()
    assert stored(cluster)["a"] == before.lineage
    cluster.master.start()
    cluster.wait_serving("a", not_on=primary)
    after = line_of(cluster, "a")
    assert after.lineage.epoch == before.lineage.epoch + 1
    assert after.master_generation > before.master_generation
    primary.start()
    cluster.wait_healthy("a")


@needs_root()
@needs_program("mkfs.ext4")
def test_d3_a_line_the_full_disk_did_not_take_is_minted_when_there_is_room(place: Path) -> None:
    """The primary dies while the master's file system is full: nobody hears of a line that is not durable."""
    with small_file_system(place, "master", MASTER_DISK_BYTES) as data, Cluster(place) as cluster:
        cluster.create_volume("a", size=SIZE)
        cluster.wait_healthy("a")
        before, primary = line_of(cluster, "a"), cluster.primary("a")
        ballast = fill_up(data)
        primary.kill()
        failed = cluster.master.wait_log("ask.failed", volume="a", intent="reassign")
        assert failed["level"] == "error"
        assert "Make room" in failed["hint"]
        assert line_of(cluster, "a") == before
        assert stored(cluster)["a"] == before.lineage
        assert cluster.master.running
        ballast.unlink()
        heir = cluster.wait_serving("a", 60.0, not_on=primary)
        assert line_of(cluster, "a").lineage.epoch == before.lineage.epoch + 1
        minted = cluster.master.log_events("line.minted", volume="a", intent="reassign")
        assert len(minted) == 1
        assert not heir.log_events("line.accepted", volume="a", epoch=before.lineage.epoch + 2)


def fill_up(directory: Path) -> Path:
    """Somebody else's file takes every block there is."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 10):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
                    os.fsync(file.fileno())
    return ballast


class Churn:
    """Volumes are made, one after the other, until the block ends."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._make_volumes)
        self._made = threading.Semaphore(0)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._thread.join()

    def wait_made(self) -> None:
        """Until one more volume was made since the last call."""
        assert self._made.acquire(timeout=3 * MADE_S), "volumes are made all the time"

    def _make_volumes(self) -> None:
        for number in itertools.count():
            if self.over.wait(0.2):
                return
            request = CreateVolumeRequest(
                name=f"c{number}", size_bytes=1 << 20, replication_factor=1
            )
            with suppress(SparrowError):  # the master is away half of the time
                self._cluster.api(
                    lambda api, request=request: api.create_volume(request, timeout_s=MADE_S)
                )
                self._made.release()


def test_twenty_kills_of_the_master_under_churn_never_take_a_line_back(cluster: Cluster) -> None:
    """Goal: INV-AUTH-001. Method: lines change all the time; the database is read while nobody has it open."""
    for name in ("a", "b"):
        cluster.create_volume(name, size=SIZE)
    for name in ("a", "b"):
        cluster.wait_healthy(name)
    primaries = (cluster.primary("a"), cluster.primary("b"))
    follower = next(node for node in cluster.nodes.values() if node not in primaries)
    newest: dict[str, Lineage] = {}
    with Churn(cluster) as churn:
        for number in range(MASTER_KILLS):
            if number % 5 == 0:
                follower.kill()
            elif number % 5 == 2:
                if number == 2:
                    # However short the master's lives are on this machine, in one of them it is left out.
                    cluster.wait_volume("a", lambda volume: left_out(volume, follower), 60.0)
                follower.launch()
            if number % 4 == 3:
                # However short the master's lives are on this machine, some are long enough to make a volume in.
                churn.wait_made()
            churn.over.wait(0.05 + 0.1 * (number % 7))
            cluster.master.kill()
            check_grown(stored(cluster), newest)
            cluster.master.start()
            check_grown(served(cluster), newest)
    for name in ("a", "b"):
        cluster.wait_healthy(name)
    check_grown(stored(cluster), newest)
    assert len(newest) > 5, "volumes were made all the time"
    assert newest["a"].endpoint_version > 1, "and the follower came and went"
    for node in cluster.nodes.values():
        check_acted_on_in_order(node)
    generations = [entry["generation"] for entry in cluster.master.log_events("process.started")]
    assert generations == list(range(1, MASTER_KILLS + 2))


def left_out(volume: VolumeView, node: NodeProc) -> bool:
    line = volume.line
    return line is not None and all(
        member.replica_id not in line.in_sync
        for member in line.members
        if member.node_id == node.node_id
    )


def served(cluster: Cluster) -> dict[str, Lineage]:
    """What a master that has just started says."""
    status = cluster.api(lambda api: api.authority_status())
    assert status.skipped == ()
    return {line.volume_id: line.lineage for line in status.lines}


def check_acted_on_in_order(node: NodeProc) -> None:
    """Per volume a node acted on lines that only grow."""
    newest: dict[str, tuple[int, int]] = {}
    for entry in node.log_events("line.accepted"):
        lineage = (entry["epoch"], entry["endpoint_version"])
        assert lineage >= newest.get(entry["volume"], lineage), f"{node.node_id} went back"
        newest[entry["volume"]] = lineage


def stored(cluster: Cluster) -> dict[str, Lineage]:
    """What the database says, read past the master."""
    path = cluster.path / "master" / "authority.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT volume_id, epoch, endpoint_version FROM authority").fetchall()
    return {
        name: Lineage(epoch=Epoch(epoch), endpoint_version=EndpointVersion(version))
        for name, epoch, version in rows
    }


def check_grown(found: dict[str, Lineage], newest: dict[str, Lineage]) -> None:
    """Nothing is missing and nothing is older than what was seen before; remembers what is newer."""
    assert set(newest) <= set(found)
    for name, lineage in found.items():
        assert lineage >= newest.get(name, lineage), f"{name} went back"
        newest[name] = lineage

"""The master's store is lost, restored from a copy, or damaged: its nodes say what stands."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparrow.authority.floor import floor_of
from sparrow.authority.recovery import EPOCH_GAP
from sparrow.authority.types import Line
from sparrow.base.errors import FailedPrecondition, TimedOut, Unavailable
from sparrow.rpc.messages import AuthorityStatus, CreateVolumeRequest
from tests.support.cluster import Cluster, ClusterError, NodeProc
from tests.support.ledger import Ledger
from tests.support.multipath import check_all
from tests.support.needs import needs_io_uring
from tests.support.paths import cluster_paths
from tests.support.traffic import Traffic
from tests.support.waiting import WAIT_S, until

pytestmark = [needs_io_uring(), pytest.mark.timeout(180)]


@pytest.fixture
def cluster(place: Path) -> Iterator[Cluster]:
    with Cluster(place) as made:
        made.create_volume("a", size=64 << 20)
        made.wait_healthy("a")
        yield made


def sparrow(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sparrow", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "", "SPARROW_MASTER": cluster.master_addr},
    )


def status(cluster: Cluster) -> AuthorityStatus:
    return cluster.api(lambda api: api.authority_status())


def wait_all_told(cluster: Cluster) -> AuthorityStatus:
    """Until no volume waits for anybody's word, and no node is waited for."""
    return cluster._wait(
        lambda: status(cluster),
        lambda found: found.unconfirmed == () and found.awaited_nodes == (),
        WAIT_S,
        "all confirmed",
    )


def line_of(cluster: Cluster, name: str) -> Line:
    (line,) = [line for line in status(cluster).lines if line.volume_id == name]
    return line


def master_arguments(cluster: Cluster, data: Path, *more: str) -> tuple[str, ...]:
    return cluster.master_arguments(data, *more)


def rebuild_arguments(cluster: Cluster, data: Path) -> tuple[str, ...]:
    nodes = ",".join(node.ctrl_addr for node in cluster.nodes.values())
    return master_arguments(cluster, data, "--recover-from-nodes", "--nodes", nodes)


def lose_the_master(cluster: Cluster) -> Path:
    """Kill it and remove its store; the directory of the next one."""
    cluster.master.kill()
    shutil.rmtree(cluster.path / "master")
    return cluster.path / "master-2"


def test_a_lost_master_is_rebuilt_from_its_nodes_while_writes_go_on(cluster: Cluster) -> None:
    cluster.create_volume("b", size=64 << 20, replicas=2)
    before = {name: line_of(cluster, name) for name in ("a", "b")}
    generation = status(cluster).master_generation
    ledger = Ledger(11)
    paths = cluster_paths(cluster, "a")
    with Traffic(ledger, paths, pages=2048) as traffic:
        traffic.wait_acked(50)
        data = lose_the_master(cluster)
        traffic.wait_acked(50)
        cluster.master.arguments = rebuild_arguments(cluster, data)
        cluster.master.start()
        cluster.wait_healthy("a")
        cluster.wait_healthy("b")
        traffic.wait_acked(50)
        traffic.rest()
        check_all(ledger, paths)
    assert ledger.faults == []
    for name, old in before.items():
        new = line_of(cluster, name)
        assert new.lineage.epoch >= old.lineage.epoch + EPOCH_GAP
        assert new.members == old.members
        assert (new.size_bytes, new.ack, new.min_in_sync) == (
            old.size_bytes, old.ack, old.min_in_sync,
        )  # fmt: skip
    after = wait_all_told(cluster)
    assert after.master_generation > generation
    assert {entry.verb for entry in after.audit} == {"recover-from-nodes", "confirm"}
    assert cluster.verify("a") == []

    # The rebuilt master is a master like any other: it fails over, makes volumes, and starts again.
    primary = cluster.primary("a")
    primary.kill()
    cluster.wait_serving("a", not_on=primary)
    primary.start()
    cluster.wait_healthy("a")
    cluster.create_volume("c", size=64 << 20)
    cluster.master.kill()
    with pytest.raises(ClusterError, match="not empty"):
        cluster.master.start()
    cluster.master.arguments = master_arguments(cluster, data)
    cluster.master.start()
    cluster.wait_healthy("a")
    assert line_of(cluster, "a").lineage.epoch > before["a"].lineage.epoch + EPOCH_GAP


def test_what_a_missing_node_may_know_keeps_its_volumes_unconfirmed(cluster: Cluster) -> None:
    """S18(b) on processes: the line with one member in sync lives on the node that is away."""
    primary = cluster.primary("a")
    others = [node for node in cluster.nodes.values() if node is not primary]
    for node in others:
        node.kill()
    cluster.wait_volume(
        "a", lambda volume: volume.line is not None and len(volume.line.in_sync) == 1, WAIT_S
    )
    alone = line_of(cluster, "a")
    data = lose_the_master(cluster)
    primary.kill()
    for node in others:
        node.start()
    cluster.master.arguments = rebuild_arguments(cluster, data)
    cluster.master.start()
    cluster.master.wait_log("node.answered", node=others[0].node_id)
    cluster.master.wait_log("node.answered", node=others[1].node_id)
    found = status(cluster)
    assert found.lines == ()
    (volume,) = found.unconfirmed
    assert volume.newest is not None
    assert volume.newest < alone.lineage
    assert any(primary.node_id in one for one in volume.missing)
    assert found.awaited_nodes == (primary.ctrl_addr,)
    shown = sparrow(cluster, "authority", "status")
    assert f"awaited node {primary.ctrl_addr}" in shown.stdout
    assert "unconfirmed a (lost)" in shown.stdout
    refused = sparrow(cluster, "authority", "recover", "a")
    assert refused.returncode == 5
    assert "cannot be confirmed" in refused.stderr
    assert "every write acknowledged under it is lost" in refused.stderr
    with pytest.raises(FailedPrecondition, match="being rebuilt"):
        cluster.create_volume("z", size=64 << 20, replicas=1)
    primary.start()
    cluster.wait_healthy("a")
    assert line_of(cluster, "a").lineage.epoch >= alone.lineage.epoch + EPOCH_GAP
    wait_all_told(cluster)


def test_force_goes_on_without_a_node_that_never_comes_back_and_is_audited(
    cluster: Cluster,
) -> None:
    primary = cluster.primary("a")
    data = lose_the_master(cluster)
    primary.kill()
    cluster.master.arguments = rebuild_arguments(cluster, data)
    cluster.master.start()
    for node in cluster.nodes.values():
        if node is not primary:
            cluster.master.wait_log("node.answered", node=node.node_id)
    silent = sparrow(cluster, "authority", "recover", "a", "--force")
    assert silent.returncode == 2, "nobody typed its name"
    wrong = sparrow(cluster, "authority", "recover", "a", "--force", "--confirm", "b")
    assert wrong.returncode == 2
    assert status(cluster).lines == ()
    done = sparrow(cluster, "authority", "recover", "a", "--force", "--confirm", "a")
    assert done.returncode == 0, done.stderr
    assert "is lost" in done.stderr
    serving = cluster.wait_serving("a", not_on=primary)
    assert serving is not primary
    entry = status(cluster).audit[0]
    assert (entry.verb, entry.volume_id) == ("recover", "a")
    assert "forced" in entry.detail
    given_up = sparrow(
        cluster, "authority", "give-up-node", primary.ctrl_addr, "--confirm", primary.ctrl_addr
    )
    assert given_up.returncode == 0, given_up.stderr
    assert status(cluster).awaited_nodes == ()
    primary.start()
    cluster.wait_healthy("a")


def test_a_restored_old_backup_catches_up_above_its_nodes(cluster: Cluster, place: Path) -> None:
    """S18(c) on processes: the backup knows an old epoch; the cluster lived through a failover since."""
    copy = place / "backup.db"
    done = sparrow(cluster, "authority", "backup", str(copy))
    assert done.returncode == 0, done.stderr
    old = line_of(cluster, "a")
    primary = cluster.primary("a")
    primary.kill()
    cluster.wait_serving("a", not_on=primary)
    primary.start()
    cluster.wait_healthy("a")
    cluster.create_volume("b", size=64 << 20)
    newest = line_of(cluster, "a")
    assert newest.lineage > old.lineage
    data = cluster.path / "master"
    running = sparrow(cluster, "authority", "restore", str(copy), "--data", str(data))
    assert running.returncode == 5
    assert "in use by process" in running.stderr
    cluster.master.kill()
    away = cluster.nodes[newest.primary_member.node_id]
    away.kill()
    restored = sparrow(cluster, "authority", "restore", str(copy), "--data", str(data))
    assert restored.returncode == 0, restored.stderr
    assert "1 volumes, all unconfirmed" in restored.stdout
    cluster.master.start()
    cluster.wait_nodes()
    for node in cluster.nodes.values():
        if node is not away:
            cluster.master.wait_log("node.answered", node=node.node_id)
    found = status(cluster)
    assert [one.volume_id for one in found.unconfirmed if one.newest == newest.lineage] == ["a"]
    assert found.lines == ()
    away.start()
    cluster.wait_healthy("a")
    cluster.wait_healthy("b")
    assert line_of(cluster, "a").lineage.epoch >= newest.lineage.epoch + EPOCH_GAP
    assert any(path.name.startswith("authority.db.before-restore") for path in data.iterdir())


def test_a_copy_of_the_store_is_not_started_beside_the_living_master(cluster: Cluster) -> None:
    """S18 on processes: cp or rsync of the data directory, then a start there. The verb for it is named, and works."""
    data = cluster.path / "copy"
    cluster.master.freeze()
    shutil.copytree(cluster.path / "master", data, copy_function=shutil.copy2)
    cluster.master.thaw()
    line = line_of(cluster, "a")
    began = sparrow(cluster, *cluster.master_arguments(data))
    assert began.returncode == 5
    assert "is a copy of a master's store" in began.stderr
    assert "sparrow authority restore" in began.stderr
    assert cluster.master.running
    assert line_of(cluster, "a") == line
    cluster.master.kill()
    restored = sparrow(
        cluster, "authority", "restore", str(data / "authority.db"), "--data", str(data)
    )
    assert restored.returncode == 0, restored.stderr
    assert "1 volumes, all unconfirmed" in restored.stdout
    cluster.master.arguments = cluster.master_arguments(data)
    cluster.master.start()
    cluster.wait_healthy("a")
    assert line_of(cluster, "a").lineage.epoch >= line.lineage.epoch + EPOCH_GAP


def make_half(cluster: Cluster, frozen: NodeProc, files: Sequence[Path]) -> None:
    """Kill the master while it makes a volume: these files of it are there, those of the frozen node never will be.

    Where this machine stands still, the frozen node is not heard from before the volume is placed: then once more.
    """
    half = CreateVolumeRequest(name="half", size_bytes=32 << 20, replication_factor=3)
    with ThreadPoolExecutor(1) as pool:
        while True:
            frozen.freeze()
            creating = pool.submit(cluster.api, lambda api: api.create_volume(half))
            asyncio.run(
                until(lambda: creating.done() or all(one.exists() for one in files))  # noqa: B023
            )
            if not creating.done():
                break
            with pytest.raises(FailedPrecondition):
                creating.result()
            frozen.thaw()
            cluster.wait_nodes()
        cluster.master.kill()
        with pytest.raises((TimedOut, Unavailable)):
            creating.result()


def test_what_was_made_after_the_backup_is_taken_over_or_can_be_removed(place: Path) -> None:
    """A volume whose node comes back late goes on by itself; files that never served go with one word."""
    with Cluster(place) as cluster:
        cluster.create_volume("a", size=32 << 20, replicas=1)
        copy = place / "backup.db"
        assert sparrow(cluster, "authority", "backup", str(copy)).returncode == 0
        holder = cluster.primary("a")
        # "a" is to be served while the node of "later" is away, so they are not to share one.
        cluster.api(lambda api: api.set_node_state(holder.node_id, "cordoned"))
        cluster.create_volume("later", size=32 << 20, replicas=1)
        cluster.api(lambda api: api.set_node_state(holder.node_id, "active"))
        late, before = cluster.primary("later"), line_of(cluster, "later")
        frozen = next(node for node in cluster.nodes.values() if node not in (holder, late))
        files = holder.pool / "volumes" / "half"
        make_half(cluster, frozen, (files, late.pool / "volumes" / "half"))
        late.kill()
        shutil.rmtree(late.pool / "volumes" / "half")
        frozen.thaw()
        restored = sparrow(
            cluster, "authority", "restore", str(copy), "--data", str(cluster.path / "master")
        )
        assert restored.returncode == 0, restored.stderr
        cluster.master.start()
        cluster.wait_healthy("a")
        asyncio.run(
            until(lambda: [one.volume_id for one in status(cluster).unconfirmed] == ["half"])
        )
        late.start()
        cluster.wait_healthy("later")
        after = line_of(cluster, "later")
        assert after.lineage.epoch >= before.lineage.epoch + EPOCH_GAP
        assert after.members == before.members
        assert "confirm later" in sparrow(cluster, "authority", "status").stdout
        listed = sparrow(cluster, "authority", "status").stdout
        assert "unconfirmed half (unknown)" in listed
        refused = sparrow(cluster, "authority", "recover", "half")
        assert refused.returncode != 0
        assert "sparrow authority reset" in refused.stderr
        done = sparrow(cluster, "authority", "reset", "half", "--force", "--confirm", "half")
        assert done.returncode == 0, done.stderr
        asyncio.run(until(lambda: not files.exists()))
        wait_all_told(cluster)
        cluster.wait_nodes()
        cluster.create_volume("half", size=32 << 20)
        assert line_of(cluster, "half").lineage.epoch > floor_of(EPOCH_GAP)


def test_a_damaged_row_is_repaired_from_nodes_and_only_when_asked(cluster: Cluster) -> None:
    old = line_of(cluster, "a")
    cluster.master.kill()
    database = cluster.path / "master" / "authority.db"
    db = sqlite3.connect(database)
    triggers = db.execute("SELECT sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    db.execute("DROP TRIGGER authority_update_is_newer")
    db.execute("UPDATE authority SET body = replace(body, 'r1', 'r7')")
    for (sql,) in triggers:
        if "authority_update_is_newer" in sql:
            db.execute(sql)
    db.commit()
    db.close()
    cluster.master.start()
    cluster.wait_nodes()
    found = status(cluster)
    assert [skip.volume_id for skip in found.skipped] == ["a"]
    assert [(one.volume_id, one.kind.value) for one in found.unconfirmed] == [("a", "damaged")]
    away = cluster.nodes[old.members[2].node_id]
    away.kill()
    wrong = sparrow(cluster, "authority", "recover", "a")
    assert wrong.returncode == 5
    refused = sparrow(cluster, "authority", "repair", "a")
    assert refused.returncode == 5
    assert away.node_id in refused.stderr
    away.start()
    # The master asks whoever it has heard of, and hears of this one in a moment.
    cluster._wait(
        lambda: sparrow(cluster, "authority", "repair", "a"),
        lambda done: done.returncode == 0,
        WAIT_S,
        "repair",
    )
    cluster.wait_healthy("a")
    new = line_of(cluster, "a")
    assert new.lineage.epoch >= old.lineage.epoch + EPOCH_GAP
    assert new.members == old.members
    assert status(cluster).skipped == ()
    shown = json.loads(sparrow(cluster, "authority", "status", "-o", "json").stdout)
    assert shown["audit"][0]["verb"] == "repair"
    cluster.master.restart()
    cluster.wait_healthy("a")
    wait_all_told(cluster)

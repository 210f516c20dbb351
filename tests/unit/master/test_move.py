"""An operator moves a primary: against a whole master with fake nodes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from sparrow.authority.types import Line
from sparrow.base.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from sparrow.base.ids import Lsn, NodeId, ReplicaId, VolumeId
from sparrow.lifecycle.plans import move
from sparrow.master import volume_service
from sparrow.rpc.messages import MoveProgress
from tests.support.master_cluster import Cluster, wish
from tests.support.waiting import WAIT_S

A = VolumeId("a")


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Cluster]:
    # Who is to take over is heard within a heartbeat, however long that takes on a machine that stands still.
    monkeypatch.setattr(volume_service, "REPORT_S", WAIT_S)
    made = Cluster()
    await made.start(3)
    await made.api.create_volume(wish("a"))
    yield made
    await made.stop()


async def moved(cluster: Cluster, to: str, name: str = "a") -> list[MoveProgress]:
    return [progress async for progress in cluster.api.move_volume(name, to)]


async def line_of(cluster: Cluster) -> Line:
    line = (await cluster.api.get_volume("a")).line
    assert line is not None
    return line


def another(line: Line) -> tuple[ReplicaId, NodeId]:
    member = next(m for m in line.members if m.replica_id != line.primary)
    return member.replica_id, member.node_id


@pytest.mark.parametrize("by", ["replica", "node"])
async def test_the_one_named_serves_when_the_last_word_comes(cluster: Cluster, by: str) -> None:
    before = await line_of(cluster)
    replica, node = another(before)
    told = await moved(cluster, replica if by == "replica" else node)
    after = await line_of(cluster)
    assert (after.primary, after.lineage.epoch) == (replica, before.lineage.epoch + 1)
    assert [progress.finished for progress in told] == [False, False, True]
    assert told[-1] == MoveProgress(
        text=f"{replica} on {node} serves volume a.", line=told[1].line, finished=True
    )
    assert told[1].line is not None
    assert told[1].line.primary == replica


async def test_who_is_primary_already_is_told_so_and_nothing_is_minted(cluster: Cluster) -> None:
    before = await line_of(cluster)
    (told,) = await moved(cluster, before.primary)
    assert told.finished
    assert "is primary already" in told.text
    assert (await line_of(cluster)).lineage == before.lineage


async def test_a_name_that_means_nobody_is_refused_with_those_that_do(cluster: Cluster) -> None:
    with pytest.raises(InvalidArgument, match="no replica of volume a") as refused:
        await moved(cluster, "n9")
    assert "r1 on n1" in refused.value.hint
    with pytest.raises(NotFound):
        await moved(cluster, "n1", name="b")


async def test_each_thing_that_stands_in_the_way_is_named(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_service, "REPORT_S", 0.3)
    before = await line_of(cluster)
    replica, node_id = another(before)
    node = cluster.nodes[node_id]
    fact = node.slots[A]
    # Behind what was committed when it was asked for, by its own newest word.
    node.slots[A] = replace(fact, last_lsn=Lsn(0), durable_lsn=Lsn(0))
    primary = cluster.nodes[before.primary_member.node_id]
    primary.slots[A] = replace(primary.slots[A], last_lsn=Lsn(7), commit_lsn=Lsn(7))
    await node.beat()
    await primary.beat()
    with pytest.raises(FailedPrecondition, match="it reports LSN 0, and 7 was committed"):
        await moved(cluster, replica)
    node.slots[A] = replace(fact, last_lsn=Lsn(7), durable_lsn=Lsn(7), disk_failed=True)
    await node.beat()
    with pytest.raises(FailedPrecondition, match="its disk failed"):
        await moved(cluster, replica)
    node.slots[A] = replace(fact, last_lsn=Lsn(7), durable_lsn=Lsn(7))
    await node.beat()
    await primary.ask_shrink(A, replica)
    with pytest.raises(FailedPrecondition, match="is not in sync"):
        await moved(cluster, replica)
    other = next(r for r in (await line_of(cluster)).in_sync if r != before.primary)
    with pytest.raises(FailedPrecondition, match="only 1 of 2 would be in sync"):
        await moved(cluster, other)
    assert (await line_of(cluster)).primary == before.primary


async def test_one_that_was_slow_lately_leads_when_a_person_says_so(cluster: Cluster) -> None:
    replica, node_id = another(await line_of(cluster))
    node = cluster.nodes[node_id]
    node.slots[A] = replace(node.slots[A], withdrawn=True)
    await node.beat()
    assert (await moved(cluster, replica))[-1].finished


async def test_a_node_that_is_drained_gets_no_primary(cluster: Cluster) -> None:
    _, node_id = another(await line_of(cluster))
    await cluster.api.set_node_state(node_id, "draining")
    with pytest.raises(FailedPrecondition, match="is giving up its replicas"):
        await moved(cluster, node_id)


async def test_a_store_that_fails_moves_nothing(cluster: Cluster) -> None:
    before = await line_of(cluster)
    cluster.disk.fail_next()
    with pytest.raises(Unavailable, match="could not be made durable"):
        await moved(cluster, another(before)[1])
    assert (await line_of(cluster)).lineage == before.lineage


def test_the_reason_is_told_apart_from_a_failover() -> None:
    assert move.ASKED_FOR.startswith("hand-over")

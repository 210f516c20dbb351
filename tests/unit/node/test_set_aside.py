"""Files that are kept as they are, and what an operator says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sparrow.authority.types import Line, ReplicaState, Term
from sparrow.base.errors import FailedPrecondition, NotFound, Unavailable
from sparrow.rpc.messages import (
    JoinAnswerOutcome,
    JoinRequest,
    PrepareRebuildRequest,
    ReleaseReplicaRequest,
)
from tests.support.lines import VOLUME, fact, later, log, moved, rid
from tests.support.model_cluster import Cluster, play


def recovered(line: Line, primary: str) -> Line:
    """An operator went on from one replica alone."""
    others = tuple(sorted(m.replica_id for m in line.members if m.replica_id != rid(primary)))
    return moved(line, primary, in_sync=(rid(primary),), set_aside=others)


def release(line: Line, replica: str, state: ReplicaState, **changes: Any) -> ReleaseReplicaRequest:
    member = line.member(rid(replica))
    assert member is not None
    values: dict[str, Any] = {"uuid": member.uuid, "replica_id": rid(replica), **changes}
    return ReleaseReplicaRequest(line=line, state=state, **values)


def test_s25_a_line_that_sets_it_aside_quarantines_it_before_the_line_is_recorded() -> None:
    """A crash in between must leave files that are kept, not a line that was obeyed by half."""

    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        order: list[str] = []
        dataplane = cluster.node("b").dataplane

        def noted(name: str) -> None:
            inner = getattr(dataplane, name)

            async def call(*args: Any) -> Any:
                order.append(name)
                return await inner(*args)

            setattr(dataplane, name, call)

        noted("set_state")
        noted("set_line")
        await volume.accept(fact(recovered(cluster.line, "c")))
        assert order == ["set_state", "set_line"]
        assert volume.state is ReplicaState.QUARANTINED
        assert (await dataplane.status(VOLUME)).log.state is ReplicaState.QUARANTINED

    play(story)


def test_s25_what_is_set_aside_is_neither_cut_nor_emptied_whoever_shows_the_line() -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        line = recovered(cluster.line, "c")
        before = (await cluster.node("b").dataplane.status(VOLUME)).log
        term = Term(epoch=line.lineage.epoch, start=9)
        answer = await volume.follower.joined(
            JoinRequest(
                volume_id=VOLUME,
                replica_id=rid("b"),
                term=term,
                primary=rid("c"),
                log=log("c", 0),
                line=line,
            )
        )
        assert answer.outcome is JoinAnswerOutcome.QUARANTINED
        with pytest.raises(FailedPrecondition, match="its files are kept"):
            await volume.follower.prepared(
                PrepareRebuildRequest(
                    volume_id=VOLUME,
                    replica_id=rid("b"),
                    term=term,
                    primary=rid("c"),
                    log=log("c", 0),
                    line=line,
                )
            )
        after = (await cluster.node("b").dataplane.status(VOLUME)).log
        assert (after.last_lsn, after.last_check) == (before.last_lsn, before.last_check)
        assert after.state is ReplicaState.QUARANTINED

    play(story)


def test_s25_files_that_are_others_than_the_lines_are_not_concerned() -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        line = recovered(cluster.line, "c")
        others = tuple(
            replace(m, uuid="e" * 32) if m.replica_id == rid("b") else m for m in line.members
        )
        await volume.accept(fact(replace(line, members=others)))
        assert volume.state is ReplicaState.CLEAN

    play(story)


def test_kept_files_are_released_only_as_the_line_allows() -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        line = recovered(cluster.line, "c")
        with pytest.raises(Unavailable, match="not heard of here yet"):
            await volume.release(release(line, "b", ReplicaState.REBUILDING))
        await volume.accept(fact(line))
        for state in (ReplicaState.REBUILDING, ReplicaState.CLEAN):
            with pytest.raises(FailedPrecondition, match="does not let it"):
                await volume.release(release(line, "b", state))
        discarded = later(line, set_aside=tuple(one for one in line.set_aside if one != rid("b")))
        await volume.accept(fact(discarded))
        assert volume.state is ReplicaState.QUARANTINED, "the line alone releases nothing"
        with pytest.raises(FailedPrecondition, match="are others"):
            await volume.release(release(discarded, "b", ReplicaState.REBUILDING, uuid="e" * 32))
        with pytest.raises(NotFound):
            await volume.release(
                release(discarded, "b", ReplicaState.REBUILDING, replica_id=rid("a"))
            )
        with pytest.raises(FailedPrecondition, match="does not let it"):
            await volume.release(release(discarded, "b", ReplicaState.CLEAN))
        await volume.release(release(discarded, "b", ReplicaState.REBUILDING))
        assert volume.state is ReplicaState.REBUILDING
        await volume.release(release(discarded, "b", ReplicaState.REBUILDING))

    play(story)


def test_a_replica_in_the_in_sync_set_is_never_released_to_be_emptied() -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        await cluster.node("b").dataplane.set_state(VOLUME, ReplicaState.QUARANTINED)
        volume.state = ReplicaState.QUARANTINED
        assert rid("b") in cluster.line.in_sync
        with pytest.raises(FailedPrecondition, match="does not let it"):
            await volume.release(release(cluster.line, "b", ReplicaState.REBUILDING))

    play(story)


def test_a_quarantined_replica_that_is_recovered_from_is_believed_and_opens() -> None:
    """The operator changed his mind: what was set aside is the volume after all."""

    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        aside = recovered(cluster.line, "c")
        await volume.accept(fact(aside))
        line = recovered(aside, "b")
        await volume.accept(fact(line))
        assert volume.is_primary
        assert not volume.gate_open
        await volume.release(release(line, "b", ReplicaState.CLEAN))
        assert volume.state is ReplicaState.CLEAN
        await cluster.until(lambda: volume.gate_open)

    play(story)

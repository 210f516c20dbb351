"""What a replica answers a primary: whom it believes, what it keeps."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from sparrow.authority.types import ReplicaState, Term
from sparrow.base.errors import FailedPrecondition, RemoteProtocolError, StaleEpoch, Unavailable
from sparrow.base.ids import Epoch, Lsn, NodeId, ReplicaId, VolumeId
from sparrow.formats.hello import Hello, HelloCode, LinkKind
from sparrow.ports.dataplane import JoinOutcome, LogSummary, RebuildPlan
from sparrow.rpc.messages import (
    FenceRequest,
    JoinAnswerOutcome,
    JoinRequest,
    PrepareRebuildRequest,
    ReadLogRequest,
)
from tests.support.lines import VOLUME, log, rid
from tests.support.model_cluster import CLUSTER, Cluster, play


@pytest.mark.parametrize("what", ["primary", "epoch", "volume", "self"])
def test_a_primary_speaks_only_for_its_own_line(what: str) -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("b").replicas.get(VOLUME)
        line, term, primary = cluster.line, Term(epoch=Epoch(1), start=9), rid("a")
        if what == "primary":
            primary = rid("c")
        elif what == "epoch":
            term = Term(epoch=Epoch(2), start=1)
        elif what == "volume":
            line = replace(line, volume_id=VolumeId("other"))
        else:
            line, primary = replace(line, primary=rid("b")), rid("b")
        with pytest.raises(RemoteProtocolError):
            await volume.follower.fenced(FenceRequest(line=line, term=term, primary=primary))

    play(story)


def test_an_old_epoch_is_refused_in_every_call() -> None:
    async def story(cluster: Cluster) -> None:
        service = cluster.node("c").service
        old = cluster.line
        cluster.mint(2, 1, "b", "bc")
        await cluster.until(lambda: cluster.node("b").gate_open)
        stale = Term(epoch=Epoch(1), start=9)
        common = {"term": stale, "primary": rid("a"), "line": old}
        with pytest.raises(StaleEpoch):
            await service.fence(FenceRequest(**common))  # type: ignore[arg-type]
        rest = {"volume_id": VOLUME, "replica_id": rid("c"), "log": log("a", 3)}
        with pytest.raises(StaleEpoch):
            await service.join(JoinRequest(**common, **rest))  # type: ignore[arg-type]
        with pytest.raises(StaleEpoch):
            await service.prepare_rebuild(PrepareRebuildRequest(**common, **rest))  # type: ignore[arg-type]
        chunks = service.read_log(ReadLogRequest(volume_id=VOLUME, term=stale, from_lsn=Lsn(1)))
        with pytest.raises(StaleEpoch):
            await anext(chunks)

    play(story)


def test_s20_files_in_the_in_sync_set_are_never_emptied() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 1, b"one")
        status = await cluster.node("a").dataplane.status(VOLUME)
        request = PrepareRebuildRequest(
            volume_id=VOLUME,
            replica_id=rid("b"),
            term=status.term,
            primary=rid("a"),
            log=status.log,
            line=cluster.line,
        )
        with pytest.raises(FailedPrecondition, match="in-sync"):
            await cluster.node("b").service.prepare_rebuild(request)
        assert cluster.pages("b") == {1: b"one"}

    play(story)


def test_a_preparation_that_is_late_takes_nothing_from_the_copy_that_was_prepared_since() -> None:
    """Its primary gave it up, asked anew and was answered: what that says is kept stays. Asking again is allowed."""

    async def story(cluster: Cluster) -> None:
        cluster.kill("c")
        await cluster.until(lambda: cluster.in_sync == "ab")
        c = await cluster.up("c")
        status = await cluster.node("a").dataplane.status(VOLUME)
        late = prepare_of_c(cluster, status.log, status.term)
        newer = replace(late, log=replace(status.log, last_lsn=Lsn(status.log.last_lsn + 1)))
        for _ in range(2):
            await c.service.prepare_rebuild(newer)
        assert cluster.pools["nc"].files[VOLUME].state is ReplicaState.REBUILDING
        with pytest.raises(FailedPrecondition, match="sent before"):
            await c.service.prepare_rebuild(late)

    play(story)


def test_s20_a_line_that_comes_while_the_term_is_promised_keeps_the_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The promise waits for the disk, and meanwhile the master counts on the replica."""

    async def story(cluster: Cluster) -> None:
        cluster.kill("c")
        await cluster.until(lambda: cluster.in_sync == "ab")
        c = await cluster.up("c")
        volume = c.replicas.get(VOLUME)
        await cluster.until(lambda: volume.line == cluster.line)
        status = await cluster.node("a").dataplane.status(VOLUME)
        request = prepare_of_c(cluster, status.log, status.term)
        begun, disk = asyncio.Event(), asyncio.Event()
        promise = c.dataplane.fence

        async def slow_promise(*asked: Any) -> Any:
            begun.set()
            await disk.wait()
            return await promise(*asked)

        monkeypatch.setattr(c.dataplane, "fence", slow_promise)
        preparing = asyncio.ensure_future(c.service.prepare_rebuild(request))
        await begun.wait()
        cluster.master.cut("na")  # so that it does not ask it out again
        cluster.mint(1, cluster.line.lineage.endpoint_version + 1, "a", "abc")
        await cluster.until(lambda: rid("c") in volume.line.in_sync)
        disk.set()
        with pytest.raises(FailedPrecondition, match="in-sync"):
            await preparing
        assert cluster.pools["nc"].files[VOLUME].state is ReplicaState.CLEAN

    play(story)


def prepare_of_c(cluster: Cluster, log: LogSummary, term: Term) -> PrepareRebuildRequest:
    return PrepareRebuildRequest(
        volume_id=VOLUME,
        replica_id=rid("c"),
        term=term,
        primary=rid("a"),
        log=log,
        line=cluster.line,
    )


def join_of_c(cluster: Cluster, log: LogSummary, term: Term) -> JoinRequest:
    return JoinRequest(
        volume_id=VOLUME,
        replica_id=rid("c"),
        term=term,
        primary=rid("a"),
        log=log,
        line=cluster.line,
    )


def test_a_preparation_that_comes_behind_a_newer_join_takes_nothing() -> None:
    """Its primary gave it up before it arrived, and went on with a join: what was acknowledged since is here."""

    async def story(cluster: Cluster) -> None:
        cluster.kill("c")
        await cluster.until(lambda: cluster.in_sync == "ab")
        c = await cluster.up("c")
        status = await cluster.node("a").dataplane.status(VOLUME)
        newer = replace(status.log, last_lsn=Lsn(status.log.last_lsn + 1))
        await c.service.join(join_of_c(cluster, newer, status.term))
        with pytest.raises(FailedPrecondition, match="sent before"):
            await c.service.prepare_rebuild(prepare_of_c(cluster, status.log, status.term))
        assert cluster.pools["nc"].files[VOLUME].state is ReplicaState.CLEAN

    play(story)


def test_who_was_joined_since_may_be_prepared_anew_although_nothing_was_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first preparation waited for too long and was ended by the join; an idle primary shows the same log again."""

    async def story(cluster: Cluster) -> None:
        cluster.kill("c")
        await cluster.until(lambda: cluster.in_sync == "ab")
        c = await cluster.up("c")
        status = await cluster.node("a").dataplane.status(VOLUME)
        newer = replace(status.log, last_lsn=Lsn(status.log.last_lsn + 1))
        prepare = prepare_of_c(cluster, newer, status.term)

        async def overtaken(*_: object) -> RebuildPlan:
            raise Unavailable("a join came")

        with monkeypatch.context() as waiting:
            waiting.setattr(c.dataplane, "prepare_rebuild", overtaken)
            with pytest.raises(Unavailable):
                await c.service.prepare_rebuild(prepare)
        await c.service.join(join_of_c(cluster, newer, status.term))
        await c.service.prepare_rebuild(prepare)
        assert cluster.pools["nc"].files[VOLUME].state is ReplicaState.REBUILDING

    play(story)


def test_what_a_join_cut_is_told_although_its_primary_had_hung_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slow disk takes longer than a primary waits, and the next join finds nothing to cut."""

    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 1, b"one")
        await cluster.write("a", 2, b"two")
        c = cluster.node("c")
        held = (await c.dataplane.status(VOLUME)).log.last_lsn
        begun, disk = asyncio.Event(), asyncio.Event()

        async def slow_join(*_: object) -> tuple[JoinOutcome, Lsn, int]:
            begun.set()
            await disk.wait()
            return JoinOutcome.JOINED, Lsn(held - 1), 0

        monkeypatch.setattr(c.dataplane, "join", slow_join)
        status = await cluster.node("a").dataplane.status(VOLUME)
        request = join_of_c(cluster, status.log, status.term)
        asking = asyncio.ensure_future(c.service.join(request))
        await begun.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        with capture_logs() as told:
            disk.set()
            await cluster.until(lambda: any(one["event"] == "wal.suffix_cut" for one in told))
        (cut,) = (one for one in told if one["event"] == "wal.suffix_cut")
        assert (cut["from_lsn"], cut["to_lsn"]) == (held, held)

    play(story)


def test_a_quarantined_replica_is_kept_and_joins_nothing() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.kill("c")
        await cluster.until(lambda: cluster.in_sync == "ab")
        cluster.pools["nc"].files[VOLUME].state = ReplicaState.QUARANTINED
        await cluster.up("c")
        await cluster.idle(5.0)
        status = await cluster.node("a").dataplane.status(VOLUME)
        c = cluster.node("c")
        answer = await c.service.join(join_of_c(cluster, status.log, status.term))
        assert answer.outcome is JoinAnswerOutcome.QUARANTINED
        with pytest.raises(FailedPrecondition, match="quarantined"):
            await c.service.prepare_rebuild(prepare_of_c(cluster, status.log, status.term))
        assert cluster.in_sync == "ab"

    play(story)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"cluster_id": "other"}, HelloCode.WRONG_CLUSTER),
        ({"to_node": NodeId("nx")}, HelloCode.WRONG_NODE),
        ({"volume_id": VolumeId("other")}, HelloCode.NO_SUCH_VOLUME),
        ({"to_replica": ReplicaId("z")}, HelloCode.NO_SUCH_VOLUME),
        ({"uuid": "f" * 32}, HelloCode.WRONG_UUID),
        ({"term_epoch": Epoch(0)}, HelloCode.STALE_TERM),
        ({"term_epoch": Epoch(2)}, HelloCode.NOT_NOW),
        ({}, HelloCode.ACCEPTED),
    ],
)
def test_a_link_is_judged_by_everything_it_names(change: dict[str, Any], code: HelloCode) -> None:
    async def story(cluster: Cluster) -> None:
        hello = Hello(
            kind=LinkKind.SHIP,
            cluster_id=CLUSTER,
            from_node=NodeId("na"),
            to_node=NodeId("nb"),
            volume_id=VOLUME,
            from_replica=rid("a"),
            to_replica=rid("b"),
            uuid=cluster.uuids()["b"],
            term_epoch=Epoch(1),
            term_start=1,
        )
        answer = await cluster.node("b").service.judge(replace(hello, **change))
        assert answer.code is code

    play(story)


def test_s19_a_replica_that_lost_a_superblock_copy_promises_nothing_before_it_heard_the_master() -> (
    None
):
    """Its newest promise may be gone: an older primary that still runs must not get another one."""

    async def story(cluster: Cluster) -> None:
        cluster.kill("c")
        cluster.master.cut("nc")
        cluster.pools["nc"].files[VOLUME].suspect = True
        c = await cluster.up("c")
        a = cluster.node("a")
        status = await a.dataplane.status(VOLUME)
        fence = FenceRequest(line=cluster.line, term=status.term, primary=rid("a"))
        join = join_of_c(cluster, status.log, status.term)
        with pytest.raises(FailedPrecondition, match="superblock"):
            await c.replicas.get(VOLUME).follower.fenced(fence)
        with pytest.raises(FailedPrecondition, match="superblock"):
            await c.replicas.get(VOLUME).follower.joined(join)
        cluster.master.restore("nc")
        await cluster.until(lambda: not cluster.pools["nc"].files[VOLUME].suspect)
        assert (
            await c.replicas.get(VOLUME).follower.fenced(fence)
        ).promised_epoch == status.term.epoch

    play(story)

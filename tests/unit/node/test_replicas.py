"""Files of replicas on a node: made where there are none, removed when nobody means them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from sparrow.authority.effects import HostReplica, RemoveReplica
from sparrow.authority.types import Line, ReplicaState
from sparrow.base.errors import (
    DamagedData,
    FailedPrecondition,
    NotFound,
    StorageError,
    Unavailable,
)
from sparrow.base.ids import Epoch, ReplicaId, ReplicaUuid, VolumeId
from sparrow.dataplane.model.plane import ModelDataPlane
from sparrow.node.facts import SlotReports
from sparrow.node.replicas import Replicas
from sparrow.node.surroundings import Surroundings
from sparrow.rpc.messages import ReleaseReplicaRequest
from tests.support.lines import SIZE, VOLUME, member, moved, rid
from tests.support.model_cluster import Cluster, play


def test_existing_files_are_never_formatted_over() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 1, b"one")
        before = cluster.uuids()
        again = HostReplica(
            volume_id=VOLUME, replica_id=rid("b"), size_bytes=SIZE * 2, block_size=4096
        )
        await cluster.node("b").replicas.want(again)
        cluster.node("c").replicas._volumes.clear()
        await cluster.node("c").replicas.want(replace(again, replica_id=rid("c")))
        assert cluster.uuids() == before
        assert cluster.pages("b") == {1: b"one"}

    play(story)


@pytest.mark.parametrize(
    "change",
    [{"retired": False}, {"volume_id": VolumeId("other")}, {"lineage": "older"}],
)
def test_files_go_only_with_a_tombstone_of_this_volume(change: dict[str, Any]) -> None:
    async def story(cluster: Cluster) -> None:
        cluster.mint(2, 1, "b", "bc")
        await cluster.until(lambda: cluster.node("b").gate_open)
        tombstone = moved(cluster.line, "b", retired=True)
        if change.get("lineage") == "older":
            lineage = replace(tombstone.lineage, epoch=Epoch(1))
            tombstone = replace(tombstone, lineage=lineage)
        else:
            tombstone = replace(tombstone, **change)
        await cluster.node("c").replicas.remove(
            RemoveReplica(volume_id=VOLUME, replica_id=rid("c"), tombstone=tombstone)
        )
        assert VOLUME in cluster.pools["nc"].files

    play(story)


def test_files_that_a_line_as_new_as_ours_does_not_mean_may_go() -> None:
    async def story(cluster: Cluster) -> None:
        line = moved(cluster.line, "a", in_sync=("a", "b"))
        line = replace(line, members=tuple(m for m in line.members if m.replica_id != "c"))
        cluster.master.mint(line)
        for r in "ac":
            await cluster.until(lambda r=r: cluster.node(r).replicas.get(VOLUME).line == line)
        await cluster.until(lambda: cluster.node("a").gate_open)
        await cluster.node("c").replicas.remove(
            RemoveReplica(volume_id=VOLUME, replica_id=rid("c"), tombstone=line)
        )
        assert sorted(cluster.uuids()) == ["a", "b"]
        await cluster.write("a", 1, b"one")

    play(story)


@pytest.mark.parametrize("proof", ["older", "means it", "of another slot"])
def test_files_stay_while_a_line_does_not_prove_that_nobody_means_them(proof: str) -> None:
    async def story(cluster: Cluster) -> None:
        without = moved(cluster.line, "a", in_sync=("a", "b"))
        without = replace(without, members=tuple(m for m in without.members if m.replica_id != "c"))
        if proof == "older":
            cluster.mint(without.lineage.epoch, without.lineage.endpoint_version + 1, "b", "bc")
            await cluster.until(lambda: cluster.node("b").gate_open)
        line = cluster.line if proof == "means it" else without
        slot = rid("b") if proof == "of another slot" else rid("c")
        await cluster.node("c").replicas.remove(
            RemoveReplica(volume_id=VOLUME, replica_id=slot, tombstone=line)
        )
        assert VOLUME in cluster.pools["nc"].files

    play(story)


def test_a_retired_volume_stops_serving_and_its_files_go() -> None:
    async def story(cluster: Cluster) -> None:
        tombstone = moved(cluster.line, "a", retired=True)
        cluster.master.mint(tombstone)
        await cluster.until(lambda: not cluster.node("a").gate_open)
        for r in "abc":
            await cluster.node(r).replicas.remove(
                RemoveReplica(volume_id=VOLUME, replica_id=rid(r), tombstone=tombstone)
            )
        assert cluster.uuids() == {}
        with pytest.raises(NotFound):
            cluster.node("a").replicas.get(VOLUME)

    play(story)


# ------------------------------------------------------------ files that cannot be opened


def without_c(line: Line) -> Line:
    return moved(line, "a", in_sync=("a", "b"))


def unreadable(
    story: Callable[[Cluster], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None = None,
) -> None:
    """Play a story in which c's node comes back and cannot open its files, and the line has left it out."""

    async def opens(cluster: Cluster) -> None:
        cluster.node("c").kill()
        line = without_c(cluster.line)
        cluster.master.mint(line)
        await cluster.until(lambda: cluster.node("a").gate_open)
        kept = ModelDataPlane.open_replica
        uuid = cluster.pools["nc"].files[VOLUME].uuid

        async def fails(self: ModelDataPlane, volume_id: VolumeId) -> Any:
            if self.pool.files[volume_id].uuid == uuid:
                raise error or DamagedData("Neither copy is whole.", hint="Replace it.")
            return await kept(self, volume_id)

        monkeypatch.setattr(ModelDataPlane, "open_replica", fails)
        await cluster.up("c")
        await cluster.until(lambda: cluster.node("c").link.live)
        await cluster.idle(0.2)
        await story(cluster)

    play(opens)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (DamagedData("Neither copy is whole."), True),
        (StorageError("Its WAL device is away."), False),
    ],
)
def test_files_that_cannot_be_opened_are_told_of_and_left_alone(
    error: StorageError, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(cluster: Cluster) -> None:
        c = cluster.node("c")
        before = cluster.pools["nc"].files[VOLUME]
        reports = SlotReports(c.replicas, c.dataplane, c.me, structlog.get_logger())
        for _look in range(2):
            (fact,) = await reports.take()
            assert (fact.volume_id, fact.replica_id) == (VOLUME, "c")
            assert fact.unreadable
            assert not fact.ready_for_primary
            assert fact.disk_failed is lost
        (sentence,) = c.replicas.troubles()
        assert sentence.startswith(f"c of volume {VOLUME} cannot be opened: {error}")
        await c.replicas.want(cluster.master.hosts["nc"])
        assert cluster.pools["nc"].files[VOLUME] is before

    unreadable(story, monkeypatch, error)


def release(line: Line, **changes: Any) -> ReleaseReplicaRequest:
    values: dict[str, Any] = {
        "line": line,
        "replica_id": rid("c"),
        "uuid": ReplicaUuid("0" * 32),
        "state": ReplicaState.REBUILDING,
        "who": "me@here",
    }
    return ReleaseReplicaRequest(**{**values, **changes})


def test_an_operator_gives_them_up_and_blank_ones_take_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(cluster: Cluster) -> None:
        c = cluster.node("c")
        before = cluster.pools["nc"].files[VOLUME].uuid
        await c.service.release_replica(release(cluster.line))
        assert c.replicas.broken == {}
        assert c.replicas.troubles() == ()
        after = cluster.pools["nc"].files[VOLUME]
        assert after.uuid != before
        assert after.replica_id == "c"
        assert c.replicas.get(VOLUME).known_line == cluster.line, "the newest line is acted on"

    unreadable(story, monkeypatch)


@pytest.mark.parametrize("counts", ["in_sync", "eligible", "set_aside"])
def test_they_stay_while_the_newest_line_counts_on_them(
    counts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(cluster: Cluster) -> None:
        shown = cluster.line
        changes = {
            "in_sync": {"in_sync": ("a", "b", "c")},
            "eligible": {"in_sync": ("a",), "min_in_sync": 2, "eligible": ("c",)},
            "set_aside": {"set_aside": ("c",)},
        }[counts]
        newest = replace(moved(shown, "a"), **changes)
        c = cluster.node("c")
        await c.replicas.assign(replace(c.replicas._early[VOLUME], line=newest))
        for line in (shown, newest):
            with pytest.raises(FailedPrecondition, match="counts on c: its files are kept"):
                await c.service.release_replica(release(line))
        assert VOLUME in c.replicas.broken

    unreadable(story, monkeypatch)


def test_a_line_that_was_not_heard_here_gives_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(cluster: Cluster) -> None:
        c = cluster.node("c")
        with pytest.raises(Unavailable, match="not heard of here yet"):
            await c.service.release_replica(release(moved(cluster.line, "a")))
        with pytest.raises(NotFound):
            await c.service.release_replica(release(cluster.line, replica_id=rid("b")))
        assert VOLUME in c.replicas.broken

    unreadable(story, monkeypatch)


@pytest.mark.parametrize(
    "proof", ["tombstone", "no member", "namesake", "member", "of another slot"]
)
def test_they_go_with_a_line_that_has_no_member_of_their_name(
    proof: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(cluster: Cluster) -> None:
        c = cluster.node("c")
        line = moved(cluster.line, "a", retired=proof == "tombstone")
        if proof != "member":
            line = replace(line, members=tuple(m for m in line.members if m.replica_id != "c"))
        if proof == "namesake":  # the name was free again, and another node's replica got it
            elsewhere = replace(member("d"), replica_id=rid("c"))
            line = replace(line, members=(*line.members, elsewhere))
        slot = rid("b") if proof == "of another slot" else rid("c")
        await c.replicas.remove(RemoveReplica(volume_id=VOLUME, replica_id=slot, tombstone=line))
        gone = proof in ("tombstone", "no member", "namesake")
        assert (VOLUME not in cluster.pools["nc"].files) is gone
        assert (VOLUME not in c.replicas.broken) is gone

    unreadable(story, monkeypatch)


def test_many_are_told_of_in_few_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(cluster: Cluster) -> None:
        c = cluster.node("c")
        (one,) = c.replicas.broken.values()
        for number in range(20):
            name = VolumeId(f"v{number:02}")
            c.replicas.broken[name] = replace(one, volume_id=name, cause="\u00fc" * 5000)
        told = c.replicas.troubles()
        assert len(told) == 5
        assert told[-1].startswith("17 more replicas cannot be opened")
        assert all(len(sentence.encode()) < 1024 for sentence in told)

    unreadable(story, monkeypatch)


async def test_however_many_cannot_be_opened_the_pool_is_looked_at_once() -> None:
    """A look at 1,000 folders takes 30 ms of the loop; a node without its WAL device can open none of them."""
    here = {VolumeId(f"v{number}"): rid("c") for number in range(50)}
    looks: list[int] = []

    def look() -> dict[VolumeId, ReplicaId]:
        looks.append(len(here))
        return here

    around = SimpleNamespace(dataplane=SimpleNamespace(replicas=look), log=structlog.get_logger())
    replicas = Replicas(cast(Surroundings, around))
    replicas.adopt({name: StorageError("Its WAL device is away.") for name in here})
    assert set(replicas.broken) == set(here)
    assert looks == [50]

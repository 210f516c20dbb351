"""What a client asks of volumes, on a whole master with fake nodes: create, delete, attach, verify, resize."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from sparrow.authority.effects import RemoveReplica
from sparrow.base.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    SparrowError,
    TimedOut,
)
from sparrow.base.ids import Lsn, ReplicaId
from sparrow.master import volume_service
from sparrow.rpc.messages import (
    CreateVolumeRequest,
    VerifyProgress,
    VolumeView,
)
from tests.support.fake_node import GIB, FakeNode
from tests.support.master_cluster import Cluster, wish
from tests.support.waiting import WAIT_S


async def test_a_created_volume_serves_when_the_call_returns(cluster: Cluster) -> None:
    volume = await cluster.api.create_volume(wish())
    assert volume.state == "healthy"
    assert volume.line is not None
    assert volume.line.in_sync == ("r1", "r2", "r3")
    assert volume.line.min_in_sync == 2
    assert [target.name for target in volume.frontends] == ["iqn.x:a"]
    assert sorted(replica.role for replica in volume.replicas) == ["in_sync", "in_sync", "primary"]

    async def listed_as_it_is() -> bool:
        """A heartbeat between the two calls may bring new positions."""
        return await cluster.api.list_volumes() == (await cluster.api.get_volume("a"),)

    await cluster.until(listed_as_it_is)


async def waiting_for(
    cluster: Cluster, name: str, monkeypatch: pytest.MonkeyPatch
) -> asyncio.Task[VolumeView]:
    """A call that waits for a volume, and does so at the master by now."""
    begun, until = asyncio.Event(), cluster.master.driver.until

    def waits(holds: Callable[[], bool], *, timeout_s: float) -> Awaitable[bool]:
        begun.set()
        return until(holds, timeout_s=timeout_s)

    with monkeypatch.context() as patch:
        patch.setattr(cluster.master.driver, "until", waits)
        waiting = asyncio.create_task(cluster.api.wait_for_volume(name))
        async with asyncio.timeout(WAIT_S):
            await begun.wait()
    return waiting


async def test_who_waits_for_a_volume_is_told_as_it_is_when_its_time_is_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.api.create_volume(wish())
    await cluster.restart_alone()
    # Of the caller's time the master waits for the tenth part of a second, and the rest is the answer's.
    monkeypatch.setattr(volume_service, "ANSWER_S", WAIT_S)
    late = await cluster.api.wait_for_volume("a", timeout_s=WAIT_S + 0.1)
    assert (late.state, late.frontends) == ("unavailable", ())


async def test_who_waits_for_a_volume_is_answered_when_it_is_served(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await cluster.api.create_volume(wish())
    await cluster.restart_alone()
    waiting = await waiting_for(cluster, "a", monkeypatch)
    for name, gone in tuple(cluster.nodes.items()):
        back = FakeNode(name, cluster.address)
        back.slots, back.sequence = gone.slots, gone.sequence
        cluster.nodes[name] = back
        await back.start()
    assert (await waiting).frontends == before.frontends


async def test_who_waits_for_a_volume_learns_that_it_will_not_be_served(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.api.create_volume(wish())
    await cluster.restart_alone()
    waiting = await waiting_for(cluster, "a", monkeypatch)
    monkeypatch.setattr(volume_service, "WORK_S", 0.1)
    with pytest.raises(TimedOut):
        await cluster.api.delete_volume("a")
    assert (await waiting).state == "deleting"
    with pytest.raises(NotFound):
        await cluster.api.wait_for_volume("b")


@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        (wish("a/b"), InvalidArgument, "contains a slash"),
        (wish(size=0), InvalidArgument, "needs room"),
        (wish(replicas=0), InvalidArgument, "0 replicas"),
        (wish(size=201 * GIB), FailedPrecondition, "Only 0 of 3 replicas"),
    ],
    ids=lambda value: value.name if isinstance(value, CreateVolumeRequest) else None,
)
async def test_a_refused_create_leaves_nothing_behind(
    cluster: Cluster, request_: CreateVolumeRequest, kind: type[SparrowError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await cluster.api.create_volume(request_)
    assert await cluster.api.list_volumes() == ()
    assert cluster.disk.volumes == {}
    assert cluster.disk.lines == {}
    assert all(node.slots == {} for node in cluster.nodes.values())


async def test_more_replicas_than_nodes_names_both_numbers() -> None:
    cluster = Cluster()
    await cluster.start(nodes=2)
    try:
        with pytest.raises(
            InvalidArgument, match="3 replicas need 3 nodes, but the cluster has 2 nodes"
        ):
            await cluster.api.create_volume(wish())
    finally:
        await cluster.stop()


async def test_a_duplicate_is_refused_also_with_the_same_spec_and_at_the_same_time(
    cluster: Cluster,
) -> None:
    results = await asyncio.gather(
        *(cluster.api.create_volume(wish()) for _ in range(3)), return_exceptions=True
    )
    assert sum(isinstance(one, AlreadyExists) for one in results) == 2
    with pytest.raises(AlreadyExists, match="Volume a exists already"):
        await cluster.api.create_volume(wish())


async def test_a_create_and_a_delete_may_be_repeated_by_who_says_so(cluster: Cluster) -> None:
    """Whoever lost the answer asks again: the same volume, made once; anything else of that name is a conflict."""
    again = replace(wish(), exist_ok=True)
    first = await cluster.api.create_volume(again)
    for one in await asyncio.gather(*(cluster.api.create_volume(again) for _ in range(3))):
        assert (one.name, one.line) == (first.name, first.line)
    for other in (
        replace(again, size_bytes=2 * GIB),
        replace(again, replication_factor=2),
        replace(again, min_in_sync=1),
        replace(again, block_size=512),
        replace(again, ack="local"),
    ):
        with pytest.raises(AlreadyExists, match="Volume a exists already"):
            await cluster.api.create_volume(other)
    assert [one.name for one in await cluster.api.list_volumes()] == ["a"]
    assert list(cluster.disk.volumes) == ["a"]
    await cluster.api.delete_volume("a", missing_ok=True)
    await cluster.api.delete_volume("a", missing_ok=True)
    with pytest.raises(NotFound):
        await cluster.api.delete_volume("a")
    with pytest.raises(InvalidArgument, match="slash"):
        await cluster.api.delete_volume("a/b", missing_ok=True)


async def test_a_store_that_does_not_take_it_is_an_error_and_nothing_is_half_created(
    cluster: Cluster,
) -> None:
    cluster.disk.fail_next()
    with pytest.raises(SparrowError, match="no space left"):
        await cluster.api.create_volume(wish())
    assert await cluster.api.list_volumes() == ()
    assert (await cluster.api.create_volume(wish())).state == "healthy"


async def test_a_create_that_takes_too_long_says_that_it_goes_on_and_it_does(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The master gives up long before its client would.
    monkeypatch.setattr(volume_service, "WORK_S", 0.5)
    cluster.nodes["n2"].obeys = False
    with pytest.raises(TimedOut, match="Volume a is recorded and still being created") as caught:
        await cluster.api.create_volume(wish())
    assert "sparrow volume show a" in caught.value.hint
    assert await cluster.state("a") == "creating"
    await cluster.nodes["n2"].stop()
    await cluster.add("n2", incarnation=2)
    await cluster.until_state("a", "healthy")


async def test_a_deleted_volume_is_gone_everywhere_and_its_name_is_free(cluster: Cluster) -> None:
    first = await cluster.api.create_volume(wish())
    await cluster.api.delete_volume("a")
    assert await cluster.api.list_volumes() == ()
    assert cluster.disk.volumes == {}
    for node in cluster.nodes.values():
        assert node.slots == {}
        removals = [one for one in node.heard if isinstance(one, RemoveReplica)]
        assert [one.tombstone.retired for one in removals] == [True]
    again = await cluster.api.create_volume(wish())
    assert first.line is not None
    assert again.line is not None
    assert again.line.lineage.epoch > first.line.lineage.epoch


async def test_deleting_what_is_not_there_is_not_found(cluster: Cluster) -> None:
    with pytest.raises(NotFound, match="There is no volume 'a'"):
        await cluster.api.delete_volume("a")


async def test_a_delete_waits_for_a_node_that_is_away_and_ends_after_a_restart_of_the_master(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D39, 7.1: retire, fence, delete, then forget; nothing of it is lost with the master."""
    await cluster.api.create_volume(wish())
    monkeypatch.setattr(volume_service, "WORK_S", 0.5)
    away = cluster.nodes["n3"]
    kept = dict(away.slots)
    await away.stop()

    async def waits_for_n3_alone() -> bool:
        with pytest.raises(TimedOut, match="Volume a is being deleted: waiting for ") as caught:
            await cluster.api.delete_volume("a")
        return "waiting for n3 to" in str(caught.value)

    await cluster.until(waits_for_n3_alone)
    assert await cluster.state("a") == "deleting"
    with pytest.raises(AlreadyExists, match="still being deleted"):
        await cluster.api.create_volume(wish())

    await cluster.stop_master()
    await cluster.start_master()
    assert await cluster.state("a") == "deleting"
    back = FakeNode("n3", cluster.address, incarnation=2)
    back.slots = kept
    cluster.nodes["n3"] = back
    await back.start()
    await cluster.until(lambda: cluster.gone("a"))
    assert back.slots == {}
    assert cluster.disk.volumes == {}


async def test_an_attached_volume_is_one_machines_until_it_is_detached(cluster: Cluster) -> None:
    line = (await cluster.api.create_volume(wish())).line
    assert (await cluster.api.attach_volume("a", "host1")).attached_to == "host1"
    version = cluster.store.topology_version
    assert (await cluster.api.attach_volume("a", "host1")).attached_to == "host1"
    assert cluster.store.topology_version == version, "nothing was written"
    await cluster.stop_master()
    await cluster.start_master()
    with pytest.raises(FailedPrecondition, match="attached to host1, not to host2"):
        await cluster.api.attach_volume("a", "host2")
    with pytest.raises(FailedPrecondition, match="attached to host1, not to host2"):
        await cluster.api.detach_volume("a", "host2")
    assert (await cluster.api.get_volume("a")).attached_to == "host1"
    for host in ("host1", "", "host2"):
        assert (await cluster.api.detach_volume("a", host)).attached_to == ""
    volume = await cluster.api.attach_volume("a", "host2")
    assert volume.attached_to == "host2"
    assert volume.line == line, "a record, no part of any line"
    for work in (cluster.api.attach_volume("b", "host1"), cluster.api.detach_volume("b")):
        with pytest.raises(NotFound):
            await work


async def test_verify_passes_on_what_the_primarys_node_says(cluster: Cluster) -> None:
    line = (await cluster.api.create_volume(wish())).line
    assert line is not None
    said = VerifyProgress(
        pages_done=1,
        pages_total=1,
        lsn=Lsn(1),
        replicas=(ReplicaId("r1"),),
        different_pages=(0,),
        finished=True,
    )
    cluster.nodes[line.primary_member.node_id].verify = [said]
    assert [one async for one in cluster.api.verify_volume("a")] == [said]


async def test_verify_of_what_is_not_there_is_not_found(cluster: Cluster) -> None:
    with pytest.raises(NotFound):
        await anext(cluster.api.verify_volume("a"))


async def test_verify_of_a_volume_that_does_not_serve_says_why(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_service, "WORK_S", 0.5)
    cluster.nodes["n2"].obeys = False
    with pytest.raises(TimedOut):
        await cluster.api.create_volume(wish())
    with pytest.raises(FailedPrecondition, match="Volume a cannot be verified now"):
        await anext(cluster.api.verify_volume("a"))


async def test_a_resize_is_told_to_every_node_and_answered_when_a_replica_has_it(
    cluster: Cluster,
) -> None:
    await cluster.api.create_volume(wish(size=GIB))
    volume = await cluster.api.resize_volume("a", 2 * GIB)
    assert (volume.size_bytes, volume.size_wanted) == (2 * GIB, 2 * GIB)
    assert volume.line is not None
    # Size is no authority state: the line is as it was made.
    assert volume.line.size_bytes == GIB
    assert (await cluster.api.resize_volume("a", 2 * GIB)).size_bytes == 2 * GIB


@pytest.mark.parametrize(
    ("size", "words"), [(GIB - (1 << 20), "only become longer"), (GIB + 1, "whole number of MiB")]
)
async def test_a_volume_is_never_made_shorter(cluster: Cluster, size: int, words: str) -> None:
    await cluster.api.create_volume(wish(size=GIB))
    with pytest.raises(InvalidArgument, match=words):
        await cluster.api.resize_volume("a", size)
    assert (await cluster.api.get_volume("a")).size_wanted == 0


async def test_a_resize_goes_on_after_the_call_and_after_a_restart_of_the_master(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.api.create_volume(wish(size=GIB))
    monkeypatch.setattr(volume_service, "WORK_S", 0.5)
    for node in cluster.nodes.values():
        node.resizes = False
    with pytest.raises(TimedOut, match="recorded"):
        await cluster.api.resize_volume("a", 3 * GIB)
    await cluster.stop_master()
    for node in cluster.nodes.values():
        node.resizes = True
    await cluster.start_master()

    async def grown() -> bool:
        return (await cluster.api.get_volume("a")).size_bytes == 3 * GIB

    await cluster.until(grown)

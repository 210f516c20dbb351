"""A whole master on a store in memory, with fake nodes and a real client on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest

from sparrow.authority.effects import RemoveReplica, Synced
from sparrow.authority.types import DesiredVolume, Line
from sparrow.base.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Refused,
    SparrowError,
    TimedOut,
    Unavailable,
    Unproven,
)
from sparrow.base.ids import Lsn, ReplicaId, VolumeId
from sparrow.master import volume_service
from sparrow.rpc.client import Channel
from sparrow.rpc.control_client import NodeControlClient
from sparrow.rpc.messages import (
    AskIntent,
    AskRefusal,
    AskRequest,
    CreateVolumeRequest,
    RecoverRequest,
    RecoveryVerb,
    SubscribeRequest,
    VerifyProgress,
)
from sparrow.rpc.methods import SUBSCRIBE
from sparrow.store.rows import read_volume_row
from tests.support.fake_node import GIB, FakeNode
from tests.support.keys import KeyRing
from tests.support.master_cluster import Cluster, wish
from tests.support.waiting import WAIT_S


@pytest.fixture
async def cluster() -> AsyncGenerator[Cluster]:
    made = Cluster()
    await made.start()
    yield made
    await made.stop()


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


async def test_who_waits_for_a_volume_is_answered_when_it_is_served(cluster: Cluster) -> None:
    before = await cluster.api.create_volume(wish())
    await _restart_alone(cluster)
    late = await cluster.api.wait_for_volume("a", timeout_s=0.7)
    assert (late.state, late.frontends) == ("unavailable", ()), "as it is when time is up"
    waiting = asyncio.create_task(cluster.api.wait_for_volume("a"))
    for name, gone in tuple(cluster.nodes.items()):
        back = FakeNode(name, cluster.address)
        back.slots, back.sequence = gone.slots, gone.sequence
        cluster.nodes[name] = back
        await back.start()
    assert (await waiting).frontends == before.frontends


async def test_who_waits_for_a_volume_learns_that_it_will_not_be_served(cluster: Cluster) -> None:
    await cluster.api.create_volume(wish())
    await _restart_alone(cluster)
    waiting = asyncio.create_task(cluster.api.wait_for_volume("a"))
    with pytest.raises(TimedOut):
        await cluster.api.delete_volume("a", timeout_s=1.0)
    assert (await waiting).state == "deleting"
    with pytest.raises(NotFound):
        await cluster.api.wait_for_volume("b")


async def _restart_alone(cluster: Cluster) -> None:
    """Another master, and no node to be heard."""
    for node in cluster.nodes.values():
        await node.stop()
    await cluster.stop_master()
    await cluster.start_master()


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
    await cluster.until(lambda: _is(cluster, "a", "healthy"))


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
    monkeypatch.setattr(volume_service, "WORK_S", 2.5)
    away = cluster.nodes["n3"]
    kept = dict(away.slots)
    await away.stop()
    with pytest.raises(TimedOut, match="Volume a is being deleted: waiting for n3"):
        await cluster.api.delete_volume("a")
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
    await cluster.until(lambda: _gone(cluster, "a"))
    assert back.slots == {}
    assert cluster.disk.volumes == {}


async def test_lines_are_the_same_after_a_restart_of_the_master(cluster: Cluster) -> None:
    before = (await cluster.api.create_volume(wish())).line
    assert before is not None
    await cluster.stop_master()
    await cluster.start_master()
    after = (await cluster.api.get_volume("a")).line
    assert after is not None
    assert (after.lineage, after.primary, after.in_sync) == (
        before.lineage,
        before.primary,
        before.in_sync,
    )
    await cluster.until(lambda: _is(cluster, "a", "healthy"))
    status = await cluster.api.authority_status()
    assert status.master_generation == 2


async def test_a_create_right_after_a_restart_waits_for_the_nodes(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_service, "GATHER_S", WAIT_S)
    await cluster.stop_master()
    await cluster.start_master()
    assert (await cluster.api.create_volume(wish())).state == "healthy"


async def test_the_death_of_the_primarys_process_moves_the_volume(cluster: Cluster) -> None:
    before = (await cluster.api.create_volume(wish())).line
    assert before is not None
    for node in cluster.nodes.values():
        # The others say that they do not hear the primary: its broken stream alone is no proof.
        if node.node_id != before.primary_member.node_id:
            slot = node.slots[VolumeId("a")]
            node.slots[VolumeId("a")] = replace(slot, primary_silent_ms=5000)
    await cluster.nodes[before.primary_member.node_id].stop()

    async def moved() -> bool:
        line = (await cluster.api.get_volume("a")).line
        return line is not None and line.lineage.epoch > before.lineage.epoch

    await cluster.until(moved)
    await cluster.until(lambda: _is(cluster, "a", "degraded"))
    volume = await cluster.api.get_volume("a")
    assert volume.line is not None
    assert volume.line.primary != before.primary
    assert "not in sync (2 of 3)" in volume.cause


async def test_a_subscriber_gets_everything_then_synced(cluster: Cluster) -> None:
    await cluster.api.create_volume(wish())
    other = NodeControlClient(cluster.address, node_id=cluster.nodes["n1"].node_id)
    kinds = []
    async with aclosing(other.subscribe(cluster.nodes["n1"].node_id, 2)) as instructions:
        async for one in instructions:
            kinds.append(type(one).__name__)
            if isinstance(one, Synced):
                break
    await other.close()
    assert kinds == ["HostReplica", "AllowAccess", "AssignmentFact", "Synced"]


async def test_only_a_subscriber_that_takes_several_at_once_gets_them(cluster: Cluster) -> None:
    await cluster.api.create_volume(wish())
    node_id = cluster.nodes["n1"].node_id
    channel = Channel(cluster.address, who="the master", sender=node_id)
    sizes = {}
    for several in (False, True):
        request = SubscribeRequest(node_id=node_id, incarnation=2, several=several)
        messages = []
        async with aclosing(channel.stream(SUBSCRIBE, request)) as told:
            async for some in told:
                messages.append(some)
                if isinstance(some[-1], Synced):
                    break
        sizes[several] = [len(some) for some in messages]
    await channel.close()
    assert sizes == {False: [1, 1, 1, 1], True: [4]}


async def test_a_subscriber_of_an_older_process_is_refused(cluster: Cluster) -> None:
    await cluster.nodes["n1"].stop()
    await cluster.add("n1", incarnation=5)
    await cluster.until(lambda: _stream_open(cluster, "n1", 5))
    old = NodeControlClient(cluster.address, node_id=cluster.nodes["n1"].node_id)
    with pytest.raises(Refused, match="A newer process of node n1"):
        await anext(old.subscribe(cluster.nodes["n1"].node_id, 4))
    await old.close()


async def test_with_a_cluster_key_nodes_are_heard_and_told_and_nobody_else_is() -> None:
    """A subscription is believed message by message; a master with another key is no master to a node."""
    cluster = Cluster(KeyRing(b"ours"))
    await cluster.start()
    volume = await cluster.api.create_volume(wish())
    assert volume.state == "healthy", "heartbeats, asks and lines went both ways"
    assert volume.line is not None
    node = cluster.nodes["n1"]
    for keys in (None, KeyRing(b"theirs")):
        stranger = NodeControlClient(cluster.address, node_id=node.node_id, keys=keys)
        with pytest.raises(Unproven):
            await anext(stranger.subscribe(node.node_id, node.incarnation + 1))
        with pytest.raises(Unproven):
            await stranger.ask(
                AskRequest(
                    volume_id=VolumeId("a"),
                    intent=AskIntent.SHRINK_IN_SYNC,
                    replica_id=ReplicaId("r3"),
                    asker=ReplicaId("r1"),
                    basis=volume.line.lineage,
                    reason="lost",
                ),
                timeout_s=WAIT_S,
            )
        await stranger.close()
    assert await cluster.state("a") == "healthy"
    assert await _stream_open(cluster, "n1", node.incarnation), "nobody took its stream"
    await cluster.stop()


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


async def test_an_ask_of_the_primary_is_answered_with_the_new_line(cluster: Cluster) -> None:
    line = (await cluster.api.create_volume(wish())).line
    assert line is not None
    primary = cluster.nodes[line.primary_member.node_id]
    leaving = next(one for one in line.in_sync if one != line.primary)
    answer = await primary.ask_shrink(VolumeId("a"), leaving)
    assert isinstance(answer, Line)
    assert leaving not in answer.in_sync
    assert answer.lineage > line.lineage


async def test_an_ask_for_somebody_elses_replica_is_refused_for_good(cluster: Cluster) -> None:
    line = (await cluster.api.create_volume(wish())).line
    assert line is not None
    other = next(n for n in cluster.nodes.values() if n.node_id != line.primary_member.node_id)
    primary = cluster.nodes[line.primary_member.node_id]
    primary.client, other.client = other.client, primary.client
    answer = await primary.ask_shrink(VolumeId("a"), other.slots[VolumeId("a")].replica_id)
    assert isinstance(answer, AskRefusal)
    assert answer.code == "ask.foreign_asker"
    assert answer.basis == line.lineage


async def test_an_ask_that_the_store_does_not_take_is_no_answer(cluster: Cluster) -> None:
    line = (await cluster.api.create_volume(wish())).line
    assert line is not None
    primary = cluster.nodes[line.primary_member.node_id]
    leaving = next(one for one in line.in_sync if one != line.primary)
    # It is tried again once; what else is written meanwhile fails too.
    cluster.disk.fail_next(times=20)
    with pytest.raises(Unavailable, match="did not take the change"):
        await primary.ask_shrink(VolumeId("a"), leaving)


async def test_a_bad_heartbeat_is_refused_and_nothing_of_it_is_taken(cluster: Cluster) -> None:
    node = cluster.nodes["n1"]
    node.ctrl_addr, good = "nowhere", node.ctrl_addr
    with pytest.raises(InvalidArgument, match="ctrl_addr is off"):
        await node.beat()
    node.ctrl_addr = good
    assert {n.node_id: n.ctrl_addr for n in await cluster.api.list_nodes()}["n1"] == good


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


async def test_nodes_are_listed_with_their_load(cluster: Cluster) -> None:
    await cluster.api.create_volume(wish())
    await cluster.nodes["n3"].stop()

    async def lost() -> bool:
        return {n.node_id: n.state for n in await cluster.api.list_nodes()}["n3"] == "lost"

    await cluster.until(lost)
    nodes = {node.node_id: node for node in await cluster.api.list_nodes()}
    assert sorted(nodes) == ["n1", "n2", "n3"]
    assert sum(node.primary_count for node in nodes.values()) == 1
    assert nodes["n1"].replica_count == 1
    assert nodes["n1"].pool_free_bytes == 100 * GIB


async def test_a_damaged_authority_row_is_reported_and_its_name_is_not_reused() -> None:
    cluster = Cluster()
    await cluster.start()
    await cluster.api.create_volume(wish("a"))
    await cluster.api.create_volume(wish("b"))
    await cluster.stop_master()
    cluster.disk.damage_line(VolumeId("a"))
    await cluster.start_master()
    try:
        status = await cluster.api.authority_status()
        assert [skip.volume_id for skip in status.skipped] == ["a"]
        assert await cluster.state("a") != "healthy"
        await cluster.until(lambda: _is(cluster, "b", "healthy"))
        with pytest.raises(FailedPrecondition, match="is damaged"):
            await cluster.api.create_volume(wish("a"))
        with pytest.raises(FailedPrecondition, match="cannot be retired"):
            await cluster.api.delete_volume("a")
    finally:
        await cluster.stop()


async def test_a_damaged_wish_is_repaired_from_the_line_and_deletable_again() -> None:
    cluster = Cluster()
    await cluster.start()
    before = await cluster.api.create_volume(wish("a"))
    await cluster.stop_master()
    cluster.disk.damage_volume(VolumeId("a"))
    await cluster.start_master()
    try:
        await cluster.until(lambda: _is(cluster, "a", "healthy"))
        assert [skip.volume_id for skip in (await cluster.api.authority_status()).skipped] == ["a"]
        with pytest.raises(FailedPrecondition, match="record of what was asked for is damaged"):
            await cluster.api.delete_volume("a")
        done = await cluster.api.recover_volume(mending(RecoveryVerb.REPAIR))
        assert done.line == before.line
        status = await cluster.api.authority_status()
        assert status.skipped == ()
        assert [(entry.verb, entry.who) for entry in status.audit] == [("repair", "somebody")]
        (row,) = [read_volume_row(row) for row in cluster.disk.volumes.values()]
        assert isinstance(row, DesiredVolume)
        assert row.shape.replication_factor == 3
        assert {slot.node_id for slot in row.slots} == {"n1", "n2", "n3"}
        with pytest.raises(FailedPrecondition, match="is believed"):
            await cluster.api.recover_volume(mending(RecoveryVerb.REPAIR))
        await cluster.api.delete_volume("a")
        assert await _gone(cluster, "a")
    finally:
        await cluster.stop()


async def test_a_damaged_wish_that_never_had_a_line_is_reset_and_its_name_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(volume_service, "GATHER_S", WAIT_S)
    cluster = Cluster()
    await cluster.start()
    await cluster.api.create_volume(wish("a"))
    await cluster.stop_master()
    cluster.disk.damage_volume(VolumeId("a"))
    del cluster.disk.lines[VolumeId("a")]
    for node in cluster.nodes.values():
        node.slots.clear()
    await cluster.start_master()
    try:
        with pytest.raises(FailedPrecondition, match="never had a line"):
            await cluster.api.recover_volume(mending(RecoveryVerb.REPAIR))
        done = await cluster.api.recover_volume(
            replace(mending(RecoveryVerb.RESET), force=True, confirm="a")
        )
        assert done.line is not None
        assert done.line.retired
        assert cluster.disk.volumes == {}
        volume = await cluster.api.create_volume(wish("a"))
        assert volume.line is not None
        assert volume.line.lineage.epoch == done.line.lineage.epoch + 1
    finally:
        await cluster.stop()


def mending(verb: RecoveryVerb) -> RecoverRequest:
    return RecoverRequest(verb=verb, volume_id=VolumeId("a"), who="somebody")


def test_the_masters_wait_ends_before_the_clients() -> None:
    from sparrow.rpc.api_client import WORK_TIMEOUT_S

    assert volume_service.WORK_S + volume_service.GATHER_S < WORK_TIMEOUT_S


async def _is(cluster: Cluster, name: str, state: str) -> bool:
    return await cluster.state(name) == state


async def _gone(cluster: Cluster, name: str) -> bool:
    return name not in {volume.name for volume in await cluster.api.list_volumes()}


async def _stream_open(cluster: Cluster, name: str, incarnation: int) -> bool:
    node = cluster.nodes[name]
    status = cluster.master.driver.authority.node_status(
        node.node_id, cluster.master.driver.clock.now()
    )
    return status.stream_open and status.incarnation == incarnation


# ---------------------------------------------------------------- resize


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

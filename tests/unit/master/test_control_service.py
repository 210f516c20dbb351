"""What nodes are told, ask and report, on a whole master with fake nodes."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from sparrow.authority.effects import Synced
from sparrow.authority.types import Line
from sparrow.base.errors import (
    InvalidArgument,
    Refused,
    Unavailable,
    Unproven,
)
from sparrow.base.ids import ReplicaId, VolumeId
from sparrow.rpc.client import Channel
from sparrow.rpc.control_client import NodeControlClient
from sparrow.rpc.messages import (
    AskIntent,
    AskRefusal,
    AskRequest,
    SubscribeRequest,
)
from sparrow.rpc.methods import SUBSCRIBE
from tests.support.keys import KeyRing
from tests.support.master_cluster import Cluster, wish
from tests.support.waiting import WAIT_S


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
    await cluster.until(lambda: cluster.stream_open("n1", 5))
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
    assert await cluster.stream_open("n1", node.incarnation), "nobody took its stream"
    await cluster.stop()


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

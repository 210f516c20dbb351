"""What operators want of nodes, and why volumes are as they are: against a whole master with fake nodes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from sparrow.authority.effects import HostReplica, RemoveReplica
from sparrow.base.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    StorageError,
    TimedOut,
)
from sparrow.base.ids import NodeId, VolumeId
from sparrow.lifecycle.nodes import NodeRecord, NodeState
from sparrow.master import reconciler, volume_service
from sparrow.master.views import node_rooms
from sparrow.rpc.messages import AskIntent, VolumeView
from sparrow.store.rows import node_row
from tests.support.master_cluster import Cluster, wish

A = VolumeId("a")


@pytest.fixture
async def cluster() -> AsyncGenerator[Cluster]:
    made = Cluster()
    await made.start(4)
    yield made
    await made.stop()


async def grow_members(cluster: Cluster, name: str) -> VolumeView:
    """Be the primary that takes in whoever is a member and not in sync."""
    volume = await cluster.api.get_volume(name)
    line = volume.line
    assert line is not None
    primary = cluster.nodes[line.primary_member.node_id]
    if primary.lines.get(VolumeId(name)) == line:
        for member in line.members:
            if member.replica_id not in line.in_sync:
                await primary.ask(VolumeId(name), member.replica_id, AskIntent.GROW_IN_SYNC)
                break
    return volume


async def drained(cluster: Cluster, node: str, name: str = "a") -> bool:
    await grow_members(cluster, name)
    return not (await cluster.api.get_node(node)).volumes_left


def members(volume: VolumeView) -> set[str]:
    assert volume.line is not None
    return {member.node_id for member in volume.line.members}


async def test_a_cordoned_node_gets_no_replicas_and_keeps_what_it_has(cluster: Cluster) -> None:
    before = await cluster.api.create_volume(wish("a"))
    cordoned = min(members(before))
    details = await cluster.api.set_node_state(cordoned, "cordoned")
    assert details.node.desired_state == "cordoned"
    assert details.volumes_left == ("a",)
    assert details.replacements == ()
    assert cordoned not in members(await cluster.api.create_volume(wish("b")))
    assert members(await cluster.api.get_volume("a")) == members(before)
    await cluster.api.set_node_state("n4", "cordoned")
    await cluster.api.set_node_state("n3", "cordoned")
    with pytest.raises(FailedPrecondition) as caught:
        await cluster.api.create_volume(wish("c"))
    assert f"{cordoned}: it is cordoned" in caught.value.hint
    await cluster.api.set_node_state(cordoned, "active")
    assert (await cluster.api.get_node(cordoned)).node.desired_state == "active"


async def test_wanted_states_outlive_the_master_and_every_change_has_a_version(
    cluster: Cluster,
) -> None:
    first = await cluster.api.get_node("n2")
    second = await cluster.api.set_node_state("n2", "cordoned")
    same = await cluster.api.set_node_state("n2", "cordoned")
    assert first.topology_version < second.topology_version == same.topology_version
    await cluster.stop_master()
    await cluster.start_master()
    again = await cluster.api.get_node("n2")
    assert again.node.desired_state == "cordoned"
    assert again.topology_version == second.topology_version


@pytest.mark.parametrize("state", ["", "gone", "ACTIVE", "drained"])
async def test_a_state_that_is_none_is_refused(cluster: Cluster, state: str) -> None:
    with pytest.raises(InvalidArgument, match="is no state of a node") as caught:
        await cluster.api.set_node_state("n1", state)
    assert "active, cordoned, draining, lost" in caught.value.hint


async def test_a_node_nobody_knows_is_not_found(cluster: Cluster) -> None:
    with pytest.raises(NotFound, match="There is no node 'n9'"):
        await cluster.api.set_node_state("n9", "draining")
    with pytest.raises(NotFound):
        await cluster.api.get_node("n9")


async def test_a_node_is_written_off_only_when_silent_and_confirmed_by_its_id(
    cluster: Cluster,
) -> None:
    with pytest.raises(InvalidArgument, match="was not confirmed"):
        await cluster.api.set_node_state("n3", "lost")
    with pytest.raises(InvalidArgument, match="was not confirmed"):
        await cluster.api.set_node_state("n3", "lost", confirm="n2")
    with pytest.raises(FailedPrecondition, match="is alive"):
        await cluster.api.set_node_state("n3", "lost", confirm="n3")
    assert (await cluster.api.get_node("n3")).node.desired_state == "active"


async def test_what_the_store_does_not_take_is_not_wanted(cluster: Cluster) -> None:
    cluster.disk.fail_next()
    with pytest.raises(StorageError, match="did not take the change"):
        await cluster.api.set_node_state("n1", "draining")
    assert (await cluster.api.get_node("n1")).node.desired_state == "active"


@pytest.mark.parametrize("role", ["primary", "follower"])
async def test_a_drained_node_ends_up_empty(cluster: Cluster, role: str) -> None:
    line = (await cluster.api.create_volume(wish())).line
    assert line is not None
    leaving = next(
        member.node_id
        for member in line.members
        if (member.replica_id == line.primary) == (role == "primary")
    )
    await cluster.api.set_node_state(leaving, "draining")
    await cluster.until(lambda: drained(cluster, leaving))
    after = await cluster.api.get_volume("a")
    assert members(after) == set(cluster.nodes) - {leaving}
    assert after.state == "healthy"
    assert cluster.nodes[leaving].slots == {}
    removed = [one for one in cluster.nodes[leaving].heard if isinstance(one, RemoveReplica)]
    assert len(removed) == 1
    assert not removed[0].tombstone.retired, "a live line proves it"
    assert (await cluster.api.why_volume("a")).replacements == ()


async def test_files_that_a_node_makes_after_it_was_drained_are_deleted(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood still with the order to make them, had none by its own word, and was left out of the volume."""
    monkeypatch.setattr(volume_service, "WORK_S", 0.3)
    late = cluster.nodes["n2"]
    late.obeys = False
    with pytest.raises(TimedOut):
        await cluster.api.create_volume(wish())
    await cluster.api.set_node_state("n2", "draining")

    async def elsewhere() -> bool:
        desired = cluster.master.driver.authority.desired(A)
        served = (await cluster.api.get_volume("a")).state == "healthy"
        return served and desired is not None and not desired.leaving

    await cluster.until(elsewhere)
    assert members(await cluster.api.get_volume("a")) == {"n1", "n3", "n4"}
    late.obeys = True
    (order,) = [one for one in late.heard if isinstance(one, HostReplica)]
    late._host(order)

    async def deleted() -> bool:
        return not late.slots

    await cluster.until(deleted)


async def test_a_drain_goes_on_after_a_restart_of_the_master(cluster: Cluster) -> None:
    volume = await cluster.api.create_volume(wish())
    leaving = min(members(volume))
    await cluster.api.set_node_state(leaving, "draining")
    await cluster.stop_master()
    await cluster.start_master()
    await cluster.until(lambda: drained(cluster, leaving))
    assert members(await cluster.api.get_volume("a")) == set(cluster.nodes) - {leaving}


async def test_a_step_the_store_does_not_take_is_taken_later(cluster: Cluster) -> None:
    volume = await cluster.api.create_volume(wish())
    leaving = min(members(volume))
    # The wish itself passes, the first step does not.
    cluster.disk.faults.extend([None, "no space left on device"])
    await cluster.api.set_node_state(leaving, "draining")
    assert leaving in members(await cluster.api.get_volume("a"))
    await cluster.until(lambda: drained(cluster, leaving))


async def test_only_so_many_volumes_are_moved_at_one_time_and_the_others_follow(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "AT_ONCE", 1)
    names = ("a", "b", "c")
    await cluster.api.set_node_state("n4", "cordoned")
    for name in names:
        await cluster.api.create_volume(wish(name))
    await cluster.api.set_node_state("n4", "active")
    leaving = "n2"
    details = await cluster.api.set_node_state(leaving, "draining")
    assert details.volumes_left == names
    assert [one.successor != "" for one in details.replacements] == [True, False, False]
    assert [one.text for one in details.replacements][1:] == ["waits for its turn"] * 2

    async def empty() -> bool:
        return all([await drained(cluster, leaving, name) for name in names])

    await cluster.until(empty)
    for name in names:
        assert leaving not in members(await cluster.api.get_volume(name))


async def test_why_names_every_node_every_candidate_and_what_is_waited_for(
    cluster: Cluster,
) -> None:
    volume = await cluster.api.create_volume(wish())
    (spare,) = set(cluster.nodes) - members(volume)
    await cluster.api.set_node_state(spare, "cordoned")
    leaving = min(members(volume))
    await cluster.api.set_node_state(leaving, "draining")
    why = await cluster.api.why_volume("a")
    assert (why.name, why.state, why.cause) == ("a", "healthy", "")
    assert why.decision == "the primary is well"
    assert [verdict.node_id for verdict in why.placement] == ["n1", "n2", "n3", "n4"]
    assert {v.node_id for v in why.placement if v.chosen} == members(volume)
    assert {one.node_id for one in why.candidates} == members(volume)
    assert [one.primary for one in why.candidates].count(True) == 1
    (move,) = why.replacements
    assert (move.node_id, move.stage, move.successor) == (leaving, "place", "")
    assert f"{spare}: it is cordoned" in move.text
    assert (await cluster.api.get_node(leaving)).replacements == (move,)
    with pytest.raises(NotFound):
        await cluster.api.why_volume("b")


async def test_why_tells_what_speaks_against_a_replica(cluster: Cluster) -> None:
    line = (await cluster.api.create_volume(wish())).line
    assert line is not None
    other = next(m for m in line.members if m.replica_id != line.primary)
    node = cluster.nodes[other.node_id]
    node.slots[A] = replace(node.slots[A], disk_failed=True)
    await node.beat()
    why = await cluster.api.why_volume("a")
    rejected = {one.replica_id: one.rejected for one in why.candidates}
    assert rejected[other.replica_id] == "its disk failed"


async def test_a_replica_whose_disk_failed_is_replaced_by_itself(cluster: Cluster) -> None:
    line = (await cluster.api.create_volume(wish())).line
    assert line is not None
    failed = next(m for m in line.members if m.replica_id != line.primary)
    node = cluster.nodes[failed.node_id]
    (spare,) = set(cluster.nodes) - {m.node_id for m in line.members}
    await cluster.api.set_node_state(spare, "cordoned")
    node.slots[A] = replace(node.slots[A], disk_failed=True, ready_for_primary=False)
    await node.beat()

    async def waits() -> bool:
        return bool((await cluster.api.why_volume("a")).replacements)

    await cluster.until(waits)
    (move,) = (await cluster.api.why_volume("a")).replacements
    assert move.cause == f"the disk under {failed.replica_id} on {failed.node_id} failed"
    assert f"{spare}: it is cordoned" in move.text
    await cluster.api.set_node_state(spare, "active")
    master = cluster.master
    rooms = node_rooms(master.driver, master.inventory, master.reconciler._states)
    assert [room.node_id for room in rooms if room.disk_failed] == [failed.node_id]

    async def replaced() -> bool:
        volume = await grow_members(cluster, "a")
        left = cluster.master.driver.authority.observations.failed_disks()
        return members(volume) == set(cluster.nodes) - {failed.node_id} and not left

    await cluster.until(replaced)
    assert node.slots == {}


async def test_a_lost_node_is_replaced_and_may_be_taken_back_as_an_empty_one(
    cluster: Cluster,
) -> None:
    line = (await cluster.api.create_volume(wish())).line
    assert line is not None
    lost = next(m for m in line.members if m.replica_id != line.primary)
    primary = cluster.nodes[line.primary_member.node_id]
    await cluster.nodes[lost.node_id].stop()
    await primary.ask_shrink(A, lost.replica_id)

    async def silent() -> bool:
        try:
            await cluster.api.set_node_state(lost.node_id, "lost", confirm=lost.node_id)
        except FailedPrecondition:
            return False
        return True

    await cluster.until(silent)
    await cluster.until(lambda: drained(cluster, lost.node_id))
    assert members(await cluster.api.get_volume("a")) == set(cluster.nodes) - {lost.node_id}
    with pytest.raises(FailedPrecondition, match="was removed as lost"):
        await cluster.api.set_node_state(lost.node_id, "draining")
    taken_back = await cluster.api.set_node_state(lost.node_id, "active")
    assert taken_back.volumes_left == ("a",), (
        "if it has files of that replica, it is to delete them"
    )


async def test_a_damaged_record_of_a_node_counts_as_cordoned() -> None:
    cluster = Cluster()
    row = node_row(NodeRecord(node_id=NodeId("n1"), state=NodeState.DRAINING))
    cluster.disk.nodes[NodeId("n1")] = replace(row, checksum="0" * 64)
    await cluster.start(1)
    try:
        assert (await cluster.api.get_node("n1")).node.desired_state == "cordoned"
        with pytest.raises(FailedPrecondition):
            await cluster.api.create_volume(wish(replicas=1))
    finally:
        await cluster.stop()

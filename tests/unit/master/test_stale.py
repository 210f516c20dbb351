"""The verbs for a volume that lost its last in-sync replica, on a whole master with fake nodes and a real client."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sparrow.authority.types import NO_UUID, Line, ReplicaState
from sparrow.base.constants import FRESHNESS_S
from sparrow.base.errors import FailedPrecondition, NotFound, SparrowError, Unavailable
from sparrow.base.ids import Lsn, VolumeId
from sparrow.rpc.messages import (
    AskIntent,
    AskRequest,
    DiscardDivergentRequest,
    RecoverStaleRequest,
)
from tests.support.fake_node import FakeNode
from tests.support.master_cluster import Cluster, wish

A = VolumeId("a")


async def line(cluster: Cluster) -> Line:
    found = (await cluster.api.get_volume(A)).line
    assert found is not None
    return found


def says(node: FakeNode, **changes: Any) -> None:
    node.slots[A] = replace(node.slots[A], **changes)


async def last_one_lost(cluster: Cluster) -> tuple[FakeNode, FakeNode, FakeNode]:
    """The primary was alone in sync, committed further, and is gone; in order: its node, a stale one, another."""
    await cluster.api.create_volume(wish())
    found = await line(cluster)
    lost = cluster.nodes[found.primary_member.node_id]
    stale, other = (node for name, node in sorted(cluster.nodes.items()) if node is not lost)
    for node in (other, stale):
        await lost.ask_shrink(A, node.slots[A].replica_id)
    # Below the minimum the one that left last is eligible; a shrink that says so clears that, as openings do.
    held = await line(cluster)
    await lost.send(
        AskRequest(
            volume_id=A,
            intent=AskIntent.SHRINK_IN_SYNC,
            replica_id=stale.slots[A].replica_id,
            asker=held.primary,
            basis=held.lineage,
            reason="opened below the minimum",
            clear_eligible=True,
        )
    )
    says(lost, last_lsn=Lsn(50), durable_lsn=Lsn(50), commit_lsn=Lsn(50))
    await lost.beat()
    await lost.stop()
    return lost, stale, other


def wanted(stale: FakeNode, **changes: Any) -> RecoverStaleRequest:
    values: dict[str, Any] = {"name": A, "replica_id": stale.slots[A].replica_id, "confirm": A}
    return RecoverStaleRequest(**{**values, "who": "me@here", **changes})


async def silent(cluster: Cluster, node: FakeNode) -> None:
    async def lost() -> bool:
        nodes = {one.node_id: one.last_heard_s for one in await cluster.api.list_nodes()}
        return nodes[node.node_id] > FRESHNESS_S

    await cluster.until(lost)


async def test_a_volume_goes_on_from_a_stale_replica_by_an_operators_word(
    cluster: Cluster,
) -> None:
    lost, stale, other = await last_one_lost(cluster)
    await silent(cluster, lost)
    before = await line(cluster)
    with pytest.raises(FailedPrecondition, match="may be serving") as caught:
        await cluster.api.recover_stale(wanted(stale))
    assert f"--old-primary-is-off {lost.node_id}" in caught.value.sentence()
    off = {"old_primary_is_off": lost.node_id}
    plan = await cluster.api.recover_stale(wanted(stale, plan_only=True, confirm="", **off))
    assert plan.line is None
    assert plan.kept_lsn == 1
    assert "entries 2 to 50" in plan.loss
    assert await line(cluster) == before
    assert (await cluster.api.authority_status()).audit == ()

    done = await cluster.api.recover_stale(wanted(stale, **off))
    assert done.line is not None
    assert done.line.primary == stale.slots[A].replica_id
    assert done.line.in_sync == (done.line.primary,)
    assert done.line.set_aside == tuple(
        sorted((lost.slots[A].replica_id, other.slots[A].replica_id))
    )
    (entry,) = (await cluster.api.authority_status()).audit
    assert (entry.verb, entry.volume_id, entry.who) == ("recover-from-stale", A, "me@here")
    assert f"{lost.node_id} is off by the operator's word" in entry.detail
    assert "entries 2 to 50" in entry.detail

    async def told() -> bool:
        volume = await cluster.api.get_volume(A)
        roles = {one.role for one in volume.replicas}
        return roles >= {"primary", "set_aside"} and "discard-divergent" in volume.cause

    await cluster.until(told)


async def test_what_was_decided_is_recorded_before_it_is_done_or_not_done_at_all(
    cluster: Cluster,
) -> None:
    lost, stale, _ = await last_one_lost(cluster)
    await silent(cluster, lost)
    before = await line(cluster)
    cluster.disk.fail_next()
    with pytest.raises(SparrowError, match="no space left"):
        await cluster.api.recover_stale(wanted(stale, old_primary_is_off=lost.node_id))
    assert await line(cluster) == before
    assert (await cluster.api.authority_status()).audit == ()


async def test_a_discarded_replica_is_released_on_its_node_and_only_once_its_line_is_known(
    cluster: Cluster,
) -> None:
    lost, stale, other = await last_one_lost(cluster)
    await silent(cluster, lost)
    await cluster.api.recover_stale(wanted(stale, old_primary_is_off=lost.node_id))
    says(other, state=ReplicaState.QUARANTINED)
    gone, kept = other.slots[A].replica_id, lost.slots[A].replica_id
    request = DiscardDivergentRequest(name=A, replica_id=gone, confirm=A, who="me@here")
    answer = await cluster.api.discard_divergent(request)
    assert answer.released
    assert answer.line.set_aside == (kept,)
    (released,) = other.released
    assert (released.replica_id, released.uuid) == (gone, other.slots[A].uuid)
    assert released.state is ReplicaState.REBUILDING
    assert released.line == answer.line
    verbs = [entry.verb for entry in (await cluster.api.authority_status()).audit]
    assert verbs == ["discard-divergent", "recover-from-stale"]
    # The other one's node is away: its files are not wanted any more, and go when it is back and this is repeated.
    answer = await cluster.api.discard_divergent(replace(request, replica_id=kept))
    assert not answer.released
    assert answer.line.set_aside == ()
    with pytest.raises(NotFound, match="no replica 'r9'"):
        await cluster.api.discard_divergent(replace(request, replica_id="r9"))


async def test_a_healthy_replica_is_not_discarded(cluster: Cluster) -> None:
    await cluster.api.create_volume(wish())
    with pytest.raises(
        FailedPrecondition, match="r2 of volume a is neither set aside nor unreadable"
    ):
        await cluster.api.discard_divergent(
            DiscardDivergentRequest(name=A, replica_id="r2", confirm=A, who="me")
        )


async def test_a_replica_that_was_kept_is_believed_again_when_it_is_the_one_to_go_on_from(
    cluster: Cluster,
) -> None:
    """The wrong one was taken first; its node is told to believe its files, again if the call is repeated."""
    lost, stale, other = await last_one_lost(cluster)
    await silent(cluster, lost)
    await cluster.api.recover_stale(wanted(stale, old_primary_is_off=lost.node_id))
    says(other, state=ReplicaState.QUARANTINED, ready_for_primary=False)
    await other.beat()
    await stale.stop()
    await silent(cluster, stale)
    words = wanted(other, old_primary_is_off=stale.node_id)
    with pytest.raises(FailedPrecondition, match="is quarantined: its content is kept"):
        await cluster.api.recover_stale(words)
    other.refuses_release = True
    with pytest.raises(Unavailable):
        await cluster.api.recover_stale(replace(words, accept_state="quarantined"))
    minted = await line(cluster)
    assert minted.primary == other.slots[A].replica_id
    other.refuses_release = False
    done = await cluster.api.recover_stale(replace(words, accept_state="quarantined"))
    assert done.line == minted, "nothing is minted twice"
    assert other.released[-1].state is ReplicaState.CLEAN


async def test_files_that_cannot_be_opened_are_given_up_by_an_operators_word(
    cluster: Cluster,
) -> None:
    """Not while the line counts on them; then their node is told, which is shown no uuid that it could compare."""
    first = (await cluster.api.create_volume(wish())).line
    assert first is not None
    member = next(m for m in first.members if m.replica_id != first.primary)
    node, primary = cluster.nodes[member.node_id], cluster.nodes[first.primary_member.node_id]
    says(node, uuid=NO_UUID, state=ReplicaState.CONDEMNED, ready_for_primary=False, lineage=None)
    await node.beat()
    request = DiscardDivergentRequest(
        name=A, replica_id=member.replica_id, confirm=A, who="me@here"
    )
    with pytest.raises(FailedPrecondition, match="may hold what no other replica has"):
        await cluster.api.discard_divergent(request)
    why = {one.replica_id: one.rejected for one in (await cluster.api.why_volume(A)).candidates}
    assert why[member.replica_id] == "its files cannot be opened"
    await primary.ask_shrink(A, member.replica_id)
    shown = {one.replica_id: one for one in (await cluster.api.get_volume(A)).replicas}
    assert shown[member.replica_id].role == "unreadable"
    assert shown[member.replica_id].state == "condemned"

    answer = await cluster.api.discard_divergent(request)
    assert answer.released
    (released,) = node.released
    assert (released.replica_id, released.state) == (member.replica_id, ReplicaState.REBUILDING)
    assert released.line == await line(cluster)
    (entry,) = (await cluster.api.authority_status()).audit
    assert (entry.verb, entry.who) == ("discard-divergent", "me@here")

"""The whole authority side on a made-up cluster: bind, facts, restarts, deletion."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparrow.authority.builder import Reason
from sparrow.authority.status import VolumeState
from sparrow.authority.types import ReplicaState, RoleClaim
from sparrow.base import events as log
from sparrow.base.ids import VolumeId
from tests.support.authority import FakeCluster, V, lineage, running, served


def test_create_binds_once_and_becomes_healthy() -> None:
    cluster = running()
    cluster.run(10.0)
    assert len(cluster.logged(log.LINE_MINTED)) == 1
    assert cluster.store.load_volumes().volumes[0].phase == "active"


def test_nothing_is_bound_until_every_replica_is_reported_blank_and_clean() -> None:
    cluster = FakeCluster()
    cluster.node(3).takes_orders = False
    cluster.create()
    cluster.run(1.0)
    assert cluster.loop.publisher.line(V) is None
    assert served(cluster) is VolumeState.CREATING
    cluster.run(2.0)
    doubt = cluster.loop.controller.last_unsupported(V)
    assert doubt is not None
    assert doubt.reasons == (Reason.PARTIAL_INVENTORY,)
    assert doubt.offenders == ("n3",)


@pytest.mark.parametrize(
    "change",
    [
        {"lineage": lineage(4, 1)},
        {"last_lsn": 7},
        {"state": ReplicaState.QUARANTINED},
        {"uuid": ""},
        {"data_addr": ""},
    ],
    ids=["acted on a line", "has entries", "quarantined", "no uuid", "no address"],
)
def test_used_or_unfinished_replica_is_never_bound(change: dict[str, object]) -> None:
    cluster = FakeCluster()
    cluster.node(3).takes_orders = False
    cluster.create()
    blank = cluster.node(2).slots[V]
    three = {"replica_id": "r3", "uuid": "3" * 32, "data_addr": "d:1", "ctrl_addr": "c:1"}
    cluster.node(3).slots[V] = replace(blank, **{**three, **change})
    cluster.run(5.0)
    assert cluster.loop.publisher.line(V) is None
    assert cluster.loop.controller.last_unsupported(V) is not None


def test_initial_primaries_are_spread() -> None:
    cluster = FakeCluster()
    for name in ("a", "b", "c"):
        cluster.create(name)
    cluster.run(1.0)
    assert {cluster.line(VolumeId(name)).primary for name in ("a", "b", "c")} == {"r1", "r2", "r3"}


def test_moved_primary_gets_a_refresh_and_moved_peer_only_a_new_fact() -> None:
    """D9: peers are delivered again when they move, without a mint."""
    cluster = running()
    cluster.fact(2, data_addr="10.0.0.99:7000")
    cluster.run(0.6)
    assert cluster.line().lineage == lineage(1, 1)
    first, last = cluster.node(1).facts[0], cluster.node(1).facts[-1]
    assert last.peer_revision > first.peer_revision
    assert "10.0.0.99:7000" in {peer.data_addr for peer in last.peers}
    cluster.fact(1, data_addr="10.0.0.77:7000")
    cluster.run(0.6)
    assert cluster.line().lineage == lineage(1, 2)
    assert cluster.line().primary_member.data_addr == "10.0.0.77:7000"


def test_facts_of_a_node_only_grow_even_over_a_restart_of_the_master() -> None:
    cluster = running()
    cluster.fact(2, data_addr="10.0.0.99:7000")
    cluster.run(1.0)
    before = cluster.node(1).facts[-1].order
    cluster.boot()
    cluster.run(2.0)
    orders = [fact.order for fact in cluster.node(1).facts]
    assert orders == sorted(orders)
    assert orders[-1] > before


def test_s4_returning_old_primary_first_hears_the_newest_line() -> None:
    cluster = running()
    cluster.kill(1)
    cluster.run(1.0)
    cluster.node(1).facts.clear()
    cluster.restart(1)
    assert cluster.node(1).facts[0].line == cluster.line()


def test_l11_resumed_old_primary_does_not_block_its_successor() -> None:
    """Claims of different epochs are a hand-over, not a conflict."""
    cluster = running()
    cluster.kill(1)
    cluster.run(0.3)
    node = cluster.node(1)
    node.takes_orders = False
    cluster.restart(1)
    cluster.fact(1, role_claim=RoleClaim.PRIMARY, gate_open=True, lineage=lineage(1, 1))
    cluster.run(1.0)
    assert cluster.loop.controller.last_unsupported(V) is None
    assert served(cluster) is VolumeState.DEGRADED


def test_two_primaries_of_one_epoch_poison_the_volume() -> None:
    cluster = running()
    cluster.fact(2, role_claim=RoleClaim.PRIMARY)
    cluster.run(0.6)
    doubt = cluster.loop.controller.last_unsupported(V)
    assert doubt is not None
    assert doubt.reasons == (Reason.CONFLICTING_PRIMARY_CLAIM,)
    assert doubt.offenders == ("n1", "n2")
    cluster.kill(1)
    cluster.run(1.0)
    assert cluster.line().lineage == lineage(1, 1), "a conflict elects nobody while it lasts"


def test_s18_node_with_a_newer_line_than_the_record_stops_all_minting() -> None:
    cluster = running()
    cluster.fact(2, lineage=lineage(3, 5))
    cluster.run(0.6)
    doubt = cluster.loop.controller.last_unsupported(V)
    assert doubt is not None
    assert doubt.reasons == (Reason.RECORD_BEHIND_NODES,)
    cluster.kill(1)
    cluster.run(3.0)
    assert cluster.line().lineage == lineage(1, 1)


def test_master_restart_changes_no_line_and_fails_nothing_over() -> None:
    cluster = running()
    line = cluster.line()
    cluster.boot()
    assert cluster.line() == line
    cluster.run(5.0)
    assert cluster.line() == line
    assert served(cluster) is VolumeState.HEALTHY


def test_primary_that_died_with_the_master_is_followed_after_the_restart() -> None:
    cluster = running()
    cluster.node(1).up = False
    cluster.node(1).died_at = cluster.now
    cluster.boot()
    cluster.run(1.9)
    assert cluster.line().lineage == lineage(1, 1)
    cluster.run(1.0)
    assert cluster.line().lineage == lineage(2, 1)


def test_damaged_record_is_shown_and_never_bound_again() -> None:
    cluster = running()
    cluster.create("v2")
    cluster.run(1.0)
    cluster.disk.damage_line(V)
    cluster.boot()
    cluster.run(5.0)
    assert cluster.loop.publisher.line(V) is None
    doubt = cluster.loop.controller.last_unsupported(V)
    assert doubt is not None
    assert doubt.reasons == (Reason.RECORD_QUARANTINED,)
    assert served(cluster) is VolumeState.UNAVAILABLE
    assert served(cluster, VolumeId("v2")) is VolumeState.HEALTHY
    assert cluster.logged(log.RECORD_QUARANTINED)[0]["volume"] == V


def test_deleted_volume_leaves_a_tombstone_and_no_replica() -> None:
    """D8: and the same name begins at the next epoch."""
    cluster = running()
    cluster.delete(V)
    cluster.run(1.0)
    assert cluster.gone == [V]
    assert all(V not in node.slots for node in cluster.nodes.values())
    assert cluster.line().retired
    assert cluster.loop.status(V, cluster.now) is None
    cluster.create()
    cluster.run(1.0)
    assert cluster.line().lineage == lineage(2, 1)
    assert served(cluster) is VolumeState.HEALTHY


def test_volume_deleted_before_it_was_bound_is_removed_as_well() -> None:
    cluster = FakeCluster()
    cluster.node(3).up = False
    cluster.create()
    cluster.run(1.0)
    cluster.delete(V)
    cluster.run(1.0)
    assert cluster.gone == []
    assert served(cluster) is VolumeState.DELETING
    cluster.restart(3)
    cluster.run(1.0)
    assert cluster.gone == [V]
    assert V not in cluster.node(1).slots


def test_node_that_slept_through_a_deletion_is_told_when_it_returns() -> None:
    cluster = running()
    cluster.kill(3)
    cluster.run(0.5)
    cluster.delete(V)
    cluster.run(3.0)
    assert cluster.gone == []
    cluster.restart(3)
    cluster.run(1.0)
    assert V not in cluster.node(3).slots
    assert cluster.gone == [V]


def test_facts_of_a_volume_nobody_asked_for_are_evidence() -> None:
    cluster = running()
    stray = replace(cluster.node(1).slots[V], volume_id=VolumeId("ghost"))
    cluster.node(1).slots[VolumeId("ghost")] = stray
    cluster.run(0.6)
    doubt = cluster.loop.controller.last_unsupported(VolumeId("ghost"))
    assert doubt is not None
    assert doubt.reasons == (Reason.UNKNOWN_REPLICA_CLAIM,)
    assert doubt.offenders == ("n1",)
    (heard,) = cluster.loop.unheard_of()[VolumeId("ghost")]
    assert (heard.sight.node_id, heard.fact.lineage) == ("n1", stray.lineage)
    del cluster.node(1).slots[VolumeId("ghost")]
    cluster.run(0.6)
    assert cluster.loop.unheard_of() == {}


def test_old_stream_that_closes_late_does_not_hurt_the_new_one() -> None:
    cluster = running()
    old = cluster.node(1).stream_id
    cluster.subscribe(cluster.node(1).name)
    new = cluster.node(1).stream_id
    cluster.node(1).stream_id = old
    cluster.close_stream(1)
    cluster.node(1).stream_id = new
    cluster.run(3.0)
    assert cluster.line().lineage == lineage(1, 1)

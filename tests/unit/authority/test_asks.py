"""The whole authority side on a made-up cluster: what nodes and plans ask for, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparrow.authority.results import Minted, Refusal, RefusedAsk
from sparrow.authority.status import VolumeState
from sparrow.authority.types import Intent, ReplicaState
from sparrow.base import events as log
from sparrow.base.ids import ReplicaId, ReplicaUuid, VolumeId
from tests.support.authority import V, ask, grow, lineage, reassign, running, served, shrink


def test_shrink_and_grow_of_the_primary_are_answered_with_lines() -> None:
    cluster = running()
    first = cluster.node_ask(1, shrink(cluster.line(), "r3"))
    assert isinstance(first, Minted)
    assert served(cluster) is VolumeState.DEGRADED
    second = cluster.node_ask(1, grow(first.line, "r3"))
    assert isinstance(second, Minted)
    assert cluster.node(1).facts[-1].line == second.line


def test_l2_line_of_the_same_epoch_moves_nothing_else() -> None:
    cluster = running()
    cluster.node_ask(1, shrink(cluster.line(), "r3"))
    cluster.run(2.0)
    assert cluster.line().lineage == lineage(1, 2)
    assert cluster.loop.controller.desired_for(V) is None


@pytest.mark.parametrize(
    ("intent", "node"), [(Intent.REASSIGN, 1), (Intent.BIND, 1), (Intent.SHRINK_IN_SYNC, 2)]
)
def test_node_may_not_ask_for_what_is_not_its_own(intent: Intent, node: int) -> None:
    cluster = running()
    line = cluster.line()
    wanted = replace(shrink(line, "r3"), intent=intent)
    answer = cluster.node_ask(node, wanted)
    assert isinstance(answer, RefusedAsk)
    assert answer.code is Refusal.FOREIGN_ASKER
    assert cluster.line() == line


def test_grow_of_files_other_than_the_members_is_refused() -> None:
    cluster = running()
    shrunk = cluster.node_ask(1, shrink(cluster.line(), "r3"))
    assert isinstance(shrunk, Minted)
    cluster.node(3).takes_orders = False
    cluster.loop.controller.hold_expiry(0)
    cluster.fact(3, uuid=ReplicaUuid("f" * 32), state=ReplicaState.QUARANTINED)
    cluster.run(0.6)
    answer = cluster.node_ask(1, grow(cluster.line(), "r3"))
    assert isinstance(answer, RefusedAsk)
    assert answer.code is Refusal.UUID_MISMATCH


def test_reformatted_replica_outside_in_sync_becomes_the_member() -> None:
    cluster = running()
    cluster.node_ask(1, shrink(cluster.line(), "r3"))
    cluster.fact(3, uuid=ReplicaUuid("f" * 32), lineage=None)
    cluster.run(0.6)
    found = cluster.line().member(ReplicaId("r3"))
    assert found is not None
    assert found.uuid == "f" * 32
    assert cluster.line().in_sync == ("r1", "r2")


@pytest.mark.parametrize("slow_lately", [False, True])
def test_l5_primary_cut_off_from_its_peers_is_handed_over_instead_of_shrinking(
    slow_lately: bool,
) -> None:
    cluster = running()
    shrunk = cluster.node_ask(1, shrink(cluster.line(), "r3"))
    assert isinstance(shrunk, Minted)
    cluster.run(0.2)
    for number in (2, 3):
        node = cluster.node(number)
        node.slots[V] = replace(node.slots[V], primary_silent_ms=900, withdrawn=slow_lately)
    silent = {n: cluster.node(n).slots[V] for n in (2, 3)}
    cluster._silence = lambda fact: silent.get(int(fact.replica_id[1:]), fact)  # type: ignore[method-assign]
    cluster.beats()
    answer = cluster.node_ask(1, shrink(cluster.line(), "r2"))
    assert isinstance(answer, RefusedAsk)
    assert answer.code is Refusal.HAND_OVER_FIRST
    assert (cluster.line().primary, cluster.line().lineage) == ("r2", lineage(2, 1))


def test_d3_failed_put_is_tried_again_with_growing_pauses() -> None:
    cluster = running()
    cluster.disk.fail_next(times=2)
    cluster.kill(1)
    cluster.run(0.3)
    assert cluster.line().lineage == lineage(1, 1)
    (failed,) = [one for one in cluster.log if one.name == log.ASK_FAILED]
    assert failed.failed
    assert "Make room" in str(failed.fields["hint"])
    cluster.run(1.0)
    assert len(cluster.logged(log.ASK_FAILED)) == 2
    cluster.run(1.5)
    assert cluster.line().lineage == lineage(1, 1)
    cluster.run(1.0)
    assert cluster.line().lineage == lineage(2, 1)


def test_minted_but_not_observed_is_stuck_after_the_window_and_clears_when_seen() -> None:
    cluster = running()
    cluster.node(2).opens = cluster.node(3).opens = False
    cluster.kill(1)
    cluster.run(4.9)
    assert cluster.loop.controller.last_stuck(V) is None
    cluster.run(0.5)
    stuck = cluster.loop.controller.last_stuck(V)
    assert stuck is not None
    assert stuck.reason == "ConvergenceStuck"
    assert len(cluster.logged(log.VOLUME_STUCK)) == 1
    cluster.run(10.0)
    assert len(cluster.logged(log.LINE_MINTED)) == 2, "being stuck never asks again"
    taker = int(cluster.line().primary[1:])
    cluster.fact(taker, gate_open=True)
    cluster.run(0.6)
    assert cluster.loop.controller.last_stuck(V) is None
    assert cluster.loop.controller.desired_for(V) is None


def test_stuck_volume_does_not_hold_up_another() -> None:
    cluster = running()
    cluster.node(2).opens = cluster.node(3).opens = False
    cluster.kill(1)
    cluster.run(6.0)
    cluster.node(1).opens = cluster.node(2).opens = cluster.node(3).opens = True
    cluster.restart(1)
    cluster.create("v2")
    cluster.run(1.0)
    assert served(cluster, VolumeId("v2")) is VolumeState.HEALTHY


def test_queued_reassign_on_an_old_line_is_refused_by_basis() -> None:
    cluster = running()
    old = cluster.line()
    cluster.node_ask(1, shrink(old, "r2"))
    result = cluster.loop.publisher.apply(reassign(old, "r2"))
    assert isinstance(result, RefusedAsk)
    assert result.code is Refusal.STALE_BASIS


def test_retirement_is_not_a_nodes_to_ask() -> None:
    cluster = running()
    answer = cluster.node_ask(1, ask(Intent.RETIRE, basis=cluster.line().lineage))
    assert isinstance(answer, RefusedAsk)
    assert not cluster.line().retired

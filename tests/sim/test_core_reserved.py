"""Schedules of persistent reservations, on the compiled core; see ``test_core_schedules``.

What PERSISTENT RESERVE OUT makes of a table, and where it is carried out, is decided by production's own machines.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparrow.base.constants import PAGE_BYTES
from sparrow.base.ids import NodeId
from sparrow.frontends.scsi.sense import Status
from sparrow.node.forwarding import Forwarding
from tests.support.compiled import CompiledStage, compiled_stage
from tests.support.hosts import Host, done
from tests.support.stage import ends_badly


@pytest.fixture
def pair() -> Iterator[CompiledStage]:
    """Nobody writes but the test's hosts."""
    with compiled_stage(2, 1) as built:
        built.client.quiet = True
        built.client.fencing.shared = True
        built.run(1)
        yield built


def hosts(s: CompiledStage) -> tuple[Host, Host]:
    return Host(stage=s, name="alice", key=1), Host(stage=s, name="bob", key=2)


def reserved(s: CompiledStage) -> tuple[Host, Host]:
    """alice holds the volume, and bob is none of its registrants."""
    alice, bob = hosts(s)
    done(s, alice.register(s.a))
    done(s, alice.reserve(s.a))
    assert_kept_out(s, s.a, alice, bob)
    return alice, bob


def assert_kept_out(s: CompiledStage, at: NodeId, alice: Host, bob: Host) -> None:
    """Of the two only alice writes there."""
    assert alice.written(at, 1)
    assert not bob.written(at, 2)
    assert alice.read(at) == 1


# ---------------------------------------------------------------- S27: where a reservation is


def test_s27_a_reservation_is_in_the_log_of_every_successor(pair: CompiledStage) -> None:
    """Rule: a table is an entry of the log, and whoever takes over has it."""
    s = pair
    alice, bob = reserved(s)
    s.world.kill_node(s.a)
    s.until(lambda: s.serves(s.b), seconds=30)
    assert_kept_out(s, s.b, alice, bob)
    s.ends_well()


def test_s27_a_reservation_outlives_its_entry_and_every_process(pair: CompiledStage) -> None:
    """The log has let go of the table's entry when both lose power.

    Rule: before that the table is beside the superblock.
    """
    s = pair
    alice, bob = reserved(s)
    alice.fill_log(s.a)
    s.lose_power(s.a, s.b)
    for name in (s.a, s.b):
        s.world.start_node(name)
    s.until(lambda: s.serves(s.a), seconds=30)
    assert_kept_out(s, s.a, alice, bob)
    s.ends_well()


def test_s27_a_copy_has_the_reservation(pair: CompiledStage) -> None:
    """b's disk is replaced when the log has let go of the table's entry; b is copied to, and takes over.

    Rule: the base lane brings the table.
    """
    s = pair
    alice, bob = reserved(s)
    alice.fill_log(s.a)
    s.world.wipe_node(s.b)
    s.until(lambda: s.in_sync == {s.a})
    s.world.start_node(s.b)
    s.until(s.world.all_healthy, seconds=60)
    assert s.heard(f"{s.b}: rebuild.started", kind="full") == 1
    s.world.kill_node(s.a)
    s.until(lambda: s.serves(s.b), seconds=30)
    assert_kept_out(s, s.b, alice, bob)
    s.ends_well()


# ---------------------------------------------------------------- S27: when it counts


def test_s27_a_reservation_is_answered_when_it_has_committed(pair: CompiledStage) -> None:
    """b does not get alice's reservation, and takes over.

    Rule: PERSISTENT RESERVE OUT is answered when every replica that may take over has the table.
    """
    s = pair
    alice, bob = hosts(s)
    done(s, alice.register(s.a))
    s.cut_cores(s.a, s.b)
    reserve = alice.reserve(s.a)
    s.run(0.3)
    told = reserve.done() and reserve.result().status is Status.GOOD
    s.world.kill_node(s.a)
    s.until(lambda: s.serves(s.b), seconds=30)
    s.open_cores(s.a, s.b)
    assert bob.written(s.b, 2) is not told
    s.ends_well()


def test_s27_what_was_not_answered_goes_with_its_entry(pair: CompiledStage) -> None:
    """The same, and a comes back and leads again. Rule: a cut takes back the table."""
    s = pair
    alice, bob = hosts(s)
    done(s, alice.register(s.a))
    s.cut_cores(s.a, s.b)
    alice.reserve(s.a)
    s.run(0.3)
    s.move(s.b)
    s.until(lambda: s.serves(s.b), seconds=30)
    s.open_cores(s.a, s.b)
    assert bob.written(s.b, 2)
    s.until(s.world.all_healthy, seconds=60)
    s.move(s.a)
    s.until(lambda: s.serves(s.a), seconds=30)
    assert bob.written(s.a, 3)
    s.ends_well()


def test_s27_a_write_that_waited_for_its_lsn_does_not_land_behind_a_preempt(
    pair: CompiledStage,
) -> None:
    """bob's write of half a page waits for the other half, which a's disk takes long to read; then alice preempts him.

    Rule: a reservation is looked at in the turn in which a write gets its LSN, not when it comes.
    """
    s = pair
    alice, bob = hosts(s)
    for host in (alice, bob):
        done(s, host.register(s.a))
    done(s, alice.reserve(s.a))
    assert alice.written(s.a, 1)
    s.until(lambda: s.look(s.a).applied == s.look(s.a).head)
    s.slow_disk(s.a, 60.0)
    waits = bob.write(s.a, 2, skip=PAGE_BYTES // 2)
    s.turn(s.a)
    s.works_again(s.a)
    done(s, alice.preempt(s.a, bob))
    assert not waits.done()
    assert alice.written(s.a, 3)
    s.until(waits.done, seconds=60)
    assert alice.read(s.a) == 3
    assert not bob.written(s.a, 4)
    s.ends_well()


def test_s27_a_preempt_is_answered_behind_what_its_victim_has_in_the_log(
    pair: CompiledStage,
) -> None:
    """bob's write has its LSN, and b's disk is slow to take it. Rule: it has committed when PREEMPT is answered."""
    s = pair
    alice, bob = hosts(s)
    for host in (alice, bob):
        done(s, host.register(s.a))
    done(s, alice.reserve(s.a))
    s.slow_disk(s.b, 0.5)
    logged = bob.write(s.a, 2)
    s.turn(s.a)
    preempt = alice.preempt(s.a, bob)
    s.until(preempt.done)
    assert preempt.result().status is Status.GOOD
    assert s.look(s.a).commit >= s.look(s.a).head
    s.works_again(s.b)
    s.until(logged.done)
    assert alice.read(s.a) == 2
    s.ends_well()


# ---------------------------------------------------------------- S27: paths that do not serve


def registers_through_a_standby(s: CompiledStage) -> None:
    """Both register on b, which does not serve, and alice reserves there; then a dies and b serves."""
    alice, bob = hosts(s)
    for host in (alice, bob):
        done(s, host.register(s.b))
    done(s, alice.reserve(s.b))
    done(s, alice.preempt(s.b, bob))
    assert_kept_out(s, s.a, alice, bob)
    s.world.kill_node(s.a)
    refused = bob.register(s.b)
    s.until(refused.done)
    assert_kept_out(s, s.b, alice, bob)
    s.ends_well()


def test_s27_a_path_that_does_not_serve_has_the_primary_answer(pair: CompiledStage) -> None:
    """Rule: a standby passes PERSISTENT RESERVE on to the primary's node."""
    registers_through_a_standby(pair)


def test_s27_decided_where_it_comes_it_is_refused(
    pair: CompiledStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Forwarding, "wanted", staticmethod(lambda _volume: False))
    with ends_badly():
        registers_through_a_standby(pair)


def test_s27_a_former_primary_decides_nothing(pair: CompiledStage) -> None:
    """a is cut off and does not know that b leads; bob asks it for the reservation that alice has at b.

    Rule: the table is read, and a change is logged, through the gate.
    """
    s = pair
    alice, bob = hosts(s)
    done(s, bob.register(s.a))
    s.cut("a-b", "a-m")
    s.move(s.b)
    s.until(lambda: s.serves(s.b), seconds=30)
    done(s, alice.register(s.b))
    done(s, alice.reserve(s.b))
    seen, late = bob.sees(s.a), bob.reserve(s.a)
    s.until(lambda: seen.done() and late.done())
    assert seen.result() is None
    assert late.result().status is not Status.GOOD
    s.open("a-b", "a-m")
    s.ends_well()
    assert bob.written(s.b, 2), "registered before, and kept"

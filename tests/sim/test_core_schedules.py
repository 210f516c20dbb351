"""Schedules of logs and commits, played on the compiled core: each ends well, and badly when its rule is taken away.

Rules that live in the core itself are taken away by planted faults: ``make mutants-data ARGS="--only schedule"``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparrow.authority import engine_types as t
from sparrow.authority.engine import _Run
from sparrow.node.peers.machine import Peers
from sparrow.sim.checkers import Violation
from sparrow.sim.compiled.client import RUN_MAX
from tests.support.compiled import CompiledStage, compiled_stage


@pytest.fixture
def pair() -> Iterator[CompiledStage]:
    with compiled_stage(2, 1) as built:
        yield built


# ---------------------------------------------------------------- S1


def grown_while_its_disk_is_slow(s: CompiledStage) -> None:
    """b comes back to an a that goes on writing, with a disk that is a second behind."""
    s.to_one()
    s.slow_disk(s.b, 1.0)
    s.world.start_node(s.b)
    s.until(lambda: s.in_sync == {s.a, s.b}, seconds=90)
    s.run(1)


def test_s1_a_peer_is_grown_when_it_has_what_was_committed_without_it(pair: CompiledStage) -> None:
    grown_while_its_disk_is_slow(pair)
    pair.ends_well()


def test_s1_asked_for_at_once_it_would_count_without_it(
    pair: CompiledStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_once(engine: _Run) -> None:
        if engine.s.grow is t.GrowPhase.PENDING and engine.s.grant_held:
            engine._emit(t.AskGrow)

    monkeypatch.setattr(_Run, "_advance_grow", at_once)
    with pytest.raises(Violation, match="was acknowledged"):
        grown_while_its_disk_is_slow(pair)


# ---------------------------------------------------------------- S2


def test_s2_a_primary_that_restarts_in_its_epoch_names_nothing_twice(pair: CompiledStage) -> None:
    """b has entries that a logged and lost; a starts again without b, writes others, and b comes back."""
    s = pair
    s.slow_disk(s.a, 2.0)
    s.run(0.5)
    s.cut("a-b")
    s.world.kill_node(s.a, silently=True)
    s.world.kill_node(s.b)
    s.slow_disk(s.a, 0.0)
    s.run(0.2)
    s.world.start_node(s.a)
    s.run(3)
    s.world.start_node(s.b)
    s.open("a-b")
    s.ends_well()


def test_s2_a_batch_from_before_a_crash_never_follows_one_from_after_it() -> None:
    """One replica, many times: power goes with several writes under way, and the ring is written from there."""
    with compiled_stage(1, 1) as s:
        for _ in range(12):
            before = s.acked
            s.until(lambda before=before: s.acked > before + 5)
            s.world.kill_node(s.a, silently=True)
            s.run(0.1)
            s.world.start_node(s.a)
            s.until(lambda: s.serves(s.a), seconds=30)
        s.ends_well()


# ---------------------------------------------------------------- S7, S11: what counts for a commit


def test_s7_what_a_peer_may_have_counts_for_no_commit(pair: CompiledStage) -> None:
    """b is back with a slow disk and lacks what a acknowledged alone; then both lose power, and a its disk.

    Rule: what counts for commits, and for growing it, is where it joined and what it acknowledged since. Nobody writes
    while it joins, so that it would have all if the end of a's log counted.
    """
    s = pair
    s.to_one()
    s.run(1)
    s.client.quiet = True
    s.run(1)
    s.slow_disk(s.b, 1.0)
    s.world.start_node(s.b)
    s.until(lambda: s.in_sync == {s.a, s.b}, seconds=90)
    # Whatever a acknowledged alone b must have now, and on its disk: there is no other, and what was under way is lost.
    s.world.wipe_node(s.a)
    s.world.kill_node(s.b, silently=True, strike="lose")
    s.world.start_node(s.b)
    s.until(lambda: s.serves(s.b), seconds=60)
    s.client.quiet = False
    s.ends_well()


@pytest.mark.parametrize("eligible_counts", [True, False])
def test_s11_below_the_minimum_nothing_under_way_is_acknowledged(
    eligible_counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of {a,b} with a minimum of two b is lost while writes are under way; a is alone, then its disk dies.

    Rule: with fewer than the minimum in sync nothing of the term commits beyond its start, so b has all there is. That
    b, who may take over, is waited for as well is another rule; without it this one holds by itself.
    """
    if not eligible_counts:
        monkeypatch.setattr(Peers, "asked", Peers.needed)
    with compiled_stage(3, 2) as s:
        s.world.kill_node(s.c)
        s.until(lambda: s.in_sync == {s.a, s.b})
        s.client.quiet = True
        s.run(1)
        s.slow_disk(s.b, 0.5)
        answers = [s.write(s.a, page)[1] for page in range(4)]
        s.run(0.01)
        s.world.kill_node(s.b)
        s.until(lambda: s.in_sync == {s.a})
        assert s.serves(s.a)
        s.run(0.2)
        assert not any(answer.done() for answer in answers)
        s.client.quiet = False
        s.world.wipe_node(s.a)
        s.world.start_node(s.b)
        s.until(lambda: s.serves(s.b), seconds=30)
        s.ends_well()


# ---------------------------------------------------------------- S8: a new or restarted primary


def test_s8a_nothing_is_served_before_the_term_has_committed() -> None:
    """a dies with a write acknowledged of which b has not heard that it committed; c is slow to take b's term.

    Rule: b opens when the start of its term, and with it everything inherited, is on all who are needed.
    """
    with compiled_stage(3, 2) as s:
        s.client.quiet = True
        s.run(3)
        s.written(s.a, 0)
        s.world.kill_node(s.a)
        s.move(s.b)
        s.forget()
        s.until(lambda: s.heard("peer.joined") > 0)
        s.slow_disk(s.c, 3.0)
        s.until(lambda: s.serves(s.b))
        s.ends_well()


def test_s8b_a_primary_that_lost_its_last_batch_takes_it_from_a_follower(
    pair: CompiledStage,
) -> None:
    """Both lose power, and a's last batch, which was acknowledged, cannot be read: as if it were torn.

    Rule: the longest log of all who are needed is adopted before anybody is cut.
    """
    s = pair
    s.client.quiet = True
    value = s.written(s.a, 0)
    s.lose_power(s.a, s.b)
    s.rot_batch(s.a, -1)
    s.checkers.shortened.add(s.a)
    s.world.start_node(s.a)
    s.world.start_node(s.b)
    s.until(lambda: s.serves(s.a), seconds=30)
    s.checkers.shortened.clear()
    assert s.last_read(s.a, 0) == value
    s.ends_well()


# ---------------------------------------------------------------- S9: torn or damaged


def test_s9_of_several_writes_in_flight_the_later_may_be_whole(pair: CompiledStage) -> None:
    """Power goes for both with batches under way, many times: of some the second is whole and the first is not.

    Rule: a header says what was durable when its batch left; only what was durable can be damaged, the rest is torn.
    Nothing commits that is not durable on both, with all before it.
    """
    s = pair
    s.client.quiet = True
    torn = 0
    for _ in range(10):
        for name in (s.a, s.b):
            s.slow_disk(name, 0.5)
        for page in range(4):
            s.write(s.a, page)
            s.run(0.02)
        for _ in range(20):
            s.run(0.01)
            a, b = s.look(s.a), s.look(s.b)
            assert a.commit <= min(a.durable, b.durable)
        s.lose_power(s.a, s.b, strike="tear")
        for name in (s.a, s.b):
            s.works_again(name)
            s.world.start_node(name)
        s.until(lambda: s.serves(s.a), seconds=30)
        torn += s.heard("wal.torn_tail_cut")
        assert s.heard("wal.damage_found") == 0
        s.forget()
    assert torn > 0
    s.ends_well()


def put(s: CompiledStage, first: int, count: int) -> None:
    """A write of these pages is durable on a's disk, and b has been sent it."""
    before = s.look(s.a).head
    # Two hosts take turns, and one of the two may be kept out by the other's reservation.
    for _ in range(2):
        assert s.client.write(s.plane(s.a), first, count) is not None
    s.turn(s.a)
    s.until(lambda: before < s.look(s.a).head == s.look(s.a).durable == s.look(s.b).head)


def test_s9_a_follower_writes_nothing_that_names_durable_what_it_lacks(pair: CompiledStage) -> None:
    """A large batch is under way on b's disk alone when a small one comes that names it durable; then power goes.

    Rule: a batch is written when all that its header names durable is durable on this disk too; else the earlier one
    torn and the later one whole look like damage of what was durable.
    """
    s = pair
    s.client.quiet = True
    met = torn = 0
    for _ in range(5):
        s.slow_disk(s.b, 5.0)
        before = s.look(s.a).head
        put(s, 0, RUN_MAX)
        # What is written from now on is there at once.
        s.works_again(s.b)
        put(s, 128, 1)
        s.run(0.03)
        met += s.look(s.b).durable == before
        s.lose_power(s.a, s.b, strike="tear")
        for name in (s.a, s.b):
            s.world.start_node(name)
        s.until(lambda: s.serves(s.a), seconds=30)
        assert s.heard("wal.damage_found") == 0
        torn += s.heard("wal.torn_tail_cut")
        s.forget()
        s.until(lambda: s.in_sync == {s.a, s.b}, seconds=30)
    assert met > 0
    assert torn > 0
    s.ends_well()


def test_s9_a_log_that_is_damaged_is_not_taken_for_a_shorter_one(pair: CompiledStage) -> None:
    """A batch in the middle of b's log rots while nobody runs; b is back alone, and the master knows of no commits.

    Rule: a later header that names the missing batch durable makes it damage, and b promises nothing as it is.
    """
    s = pair
    s.client.quiet = True
    s.run(3)
    for page in range(3):
        s.written(s.a, page)
    s.lose_power(s.a, s.b)
    s.world.kill_master()
    s.rot_batch(s.b, -2)
    s.checkers.shortened.add(s.b)
    s.world.start_master()
    s.world.start_node(s.b)
    s.run(15)
    assert not s.serves(s.b)
    s.world.start_node(s.a)
    s.until(s.world.all_healthy, seconds=60)
    s.checkers.shortened.clear()
    s.ends_well()

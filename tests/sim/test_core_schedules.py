"""Schedules of the data path, played on the compiled core: each ends well, and badly when its rule is taken away.

Rules that live in the core itself are taken away by planted faults (``make mutants-data``).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparrow.authority import engine_types as t
from sparrow.authority.engine import _Run
from sparrow.sim.checkers import Violation
from sparrow.sim.compiled.world import CompiledWorld
from tests.support.stage import Stage, stage

SECOND_NS = 1_000_000_000


@pytest.fixture
def pair() -> Iterator[Stage]:
    with stage(2, 1, kind=CompiledWorld) as built:
        yield built


def compiled(s: Stage) -> CompiledWorld:
    assert isinstance(s.world, CompiledWorld)
    return s.world


def slow_disk(s: Stage, node: str, seconds: float) -> None:
    """Every operation of this disk takes up to so long."""
    world = compiled(s)
    host = next(number for name, number in world.hosts.items() if name == node)
    world.room.faults(host, slow=1_000_000, slow_ns=int(seconds * SECOND_NS))


def ends_well(s: Stage) -> None:
    """Everybody runs, all is well, and every in-sync replica holds the same, which is what clients were told."""
    for host in compiled(s).hosts.values():
        compiled(s).room.faults(host)
    for name in s.world.names:
        s.world.start_node(name)
    s.until(s.world.all_healthy, seconds=60)
    s.world.last_look()


# ---------------------------------------------------------------- S1


def grown_while_its_disk_is_slow(s: Stage) -> None:
    """b comes back to an a that goes on writing, with a disk that is a second behind."""
    s.to_one()
    slow_disk(s, s.b, 1.0)
    s.world.start_node(s.b)
    s.until(lambda: s.in_sync == {s.a, s.b}, seconds=90)
    s.run(1)


def test_s1_a_peer_is_grown_when_it_has_what_was_committed_without_it(pair: Stage) -> None:
    grown_while_its_disk_is_slow(pair)
    ends_well(pair)


def test_s1_asked_for_at_once_it_would_count_without_it(
    pair: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_once(engine: _Run) -> None:
        if engine.s.grow is t.GrowPhase.PENDING and engine.s.grant_held:
            engine._emit(t.AskGrow)

    monkeypatch.setattr(_Run, "_advance_grow", at_once)
    with pytest.raises(Violation, match="was acknowledged"):
        grown_while_its_disk_is_slow(pair)


# ---------------------------------------------------------------- S2


def test_s2_a_primary_that_restarts_in_its_epoch_names_nothing_twice(pair: Stage) -> None:
    """b has entries that a logged and lost; a starts again without b, writes others, and b comes back."""
    s = pair
    slow_disk(s, s.a, 2.0)
    s.run(0.5)
    s.cut("a-b")
    s.world.kill_node(s.a, silently=True)
    s.world.kill_node(s.b)
    slow_disk(s, s.a, 0.0)
    s.run(0.2)
    s.world.start_node(s.a)
    s.run(3)
    s.world.start_node(s.b)
    s.open("a-b")
    ends_well(s)


def test_s2_a_batch_from_before_a_crash_never_follows_one_from_after_it() -> None:
    """One replica, many times: power goes with several writes under way, and the ring is written from there."""
    with stage(1, 1, kind=CompiledWorld) as s:
        for _ in range(12):
            before = s.acked
            s.until(lambda before=before: s.acked > before + 5)
            s.world.kill_node(s.a, silently=True)
            s.run(0.1)
            s.world.start_node(s.a)
            s.until(lambda: s.serves(s.a), seconds=30)
        ends_well(s)

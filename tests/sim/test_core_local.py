"""ack=local on the compiled core: what a failover may take and what not, and that the judge knows the difference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparrow.authority import engine_types as t
from sparrow.authority import evidence
from sparrow.authority.engine import _Run
from sparrow.authority.types import AckPolicy
from sparrow.base.ids import Lsn
from sparrow.sim.checkers import Violation
from sparrow.sim.compiled.survival import Survival
from tests.support.compiled import CompiledStage, compiled_stage
from tests.support.stage import V

PAGE = 0


@pytest.fixture
def pair() -> Iterator[CompiledStage]:
    with compiled_stage(2, 1, ack=AckPolicy.LOCAL) as built:
        built.client.quiet = True
        built.run(3)
        yield built


def survival(s: CompiledStage) -> Survival:
    found = s.checkers.survival_of(V)
    assert found is not None
    return found


def answered_alone(s: CompiledStage) -> tuple[int, int]:
    """Values of a page: one that both have, and one that a answered and b never gets."""
    old = s.written(s.a, PAGE)
    s.until(lambda: s.look(s.b).commit == s.look(s.a).head)
    s.cut_cores(s.a, s.b)
    return old, s.written(s.a, PAGE)


def test_the_loss_of_the_primary_takes_a_suffix(pair: CompiledStage) -> None:
    s = pair
    old, new = answered_alone(s)
    assert s.last_read(s.a, PAGE) == new
    s.world.kill_node(s.a)
    s.until(lambda: s.serves(s.b), seconds=30)
    s.open_cores(s.a, s.b)
    assert s.last_read(s.b, PAGE) == old
    assert survival(s).lost == 1
    # What a has and b has not is cut when a comes back, and stays lost.
    s.world.start_node(s.a)
    s.until(lambda: s.in_sync == {s.a, s.b}, seconds=30)
    s.world.kill_node(s.b)
    s.until(lambda: s.serves(s.a), seconds=30)
    assert s.last_read(s.a, PAGE) == old
    s.ends_well()


@pytest.mark.parametrize("silently", [False, True])
def test_the_primary_comes_back_with_all_it_answered(pair: CompiledStage, silently: bool) -> None:
    """b is away, so nobody else may take over; a, whose disk takes its time, is lost at once after the answer."""
    s = pair
    s.cut("b-m")
    s.cut_cores(s.a, s.b)
    s.slow_disk(s.a, 0.4)
    new = s.written(s.a, PAGE)
    if silently:
        s.lose_power(s.a)
    else:
        s.world.kill_node(s.a)
    s.works_again(s.a)
    s.open_cores(s.a, s.b)
    s.world.kill_node(s.b)
    s.world.start_node(s.a)
    s.open("b-m")
    s.until(lambda: s.serves(s.a), seconds=60)
    assert s.last_read(s.a, PAGE) == new
    assert survival(s).lost == 0
    s.ends_well()


def test_what_everybody_has_outlives_the_primary(pair: CompiledStage) -> None:
    """a dies after b has all it answered."""
    s = pair
    values = [s.written(s.a, page) for page in (0, 1, 2, 3)]
    s.until(lambda: s.look(s.b).commit == s.look(s.a).head)
    s.world.kill_node(s.a)
    s.until(lambda: s.serves(s.b), seconds=30)
    assert [s.last_read(s.b, page) for page in (0, 1, 2, 3)] == values
    assert survival(s).lost == 0
    s.ends_well()


def test_a_loss_of_what_was_committed_is_a_violation(
    pair: CompiledStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """b is counted in sync before its disk has what a committed without it. Power goes; nobody asks what b lacks."""

    def at_once(engine: _Run) -> None:
        if engine.s.grow is t.GrowPhase.PENDING and engine.s.grant_held:
            engine._emit(t.AskGrow)

    monkeypatch.setattr(_Run, "_advance_grow", at_once)
    monkeypatch.setattr(evidence, "_reached", lambda _slot: Lsn(1 << 40))
    for other in ("_check_disks", "_check_whole"):
        monkeypatch.setattr(type(pair.checkers), other, lambda *_: None)
    s = pair
    s.client.quiet = False
    s.to_one()
    # Not so slow that the power goes while a superblock is written: who is suspect does not serve.
    s.slow_disk(s.b, 0.5)
    s.world.start_node(s.b)
    s.until(lambda: s.in_sync == {s.a, s.b}, seconds=90, look_s=0.001)
    s.world.kill_node(s.a)
    s.lose_power(s.b)
    s.works_again(s.b)
    s.world.start_node(s.b)
    with pytest.raises(Violation, match=r"without LSN \d+ of term .* committed"):
        s.until(lambda: s.serves(s.b), seconds=30)


def test_a_loss_at_the_primary_itself_is_a_violation(pair: CompiledStage) -> None:
    """Its disk said that a write is durable, and forgot it with the power."""
    s = pair
    _, _ = answered_alone(s)
    mark = survival(s)._pending[-1]
    survival(s).acknowledged(mark._replace(lsn=mark.lsn + 1))
    s.world.kill_node(s.a)
    s.world.kill_node(s.b)
    s.world.start_node(s.a)
    with pytest.raises(Violation, match="although the same replica led all along"):
        s.until(lambda: s.serves(s.a), seconds=60)

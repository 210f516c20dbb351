"""Initiators of the simulated mix: they go on through the next path, and see what takes effect too late."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparrow.sim.checkers import Violation
from sparrow.sim.compiled.content import page_of
from sparrow.sim.compiled.fencing import RECORDS
from sparrow.sim.compiled.initiator import Initiator
from tests.support.compiled import CompiledStage, compiled_stage
from tests.support.stage import V


@pytest.fixture
def trio() -> Iterator[CompiledStage]:
    with compiled_stage(3, 2) as built:
        built.client.join_initiators()
        yield built


def answered(one: Initiator) -> int:
    """Writes that were acknowledged to it."""
    return sum(value.answered for page in one.pages.values() for value in page.values.values())


def all_go_on(s: CompiledStage, seconds: float = 30.0) -> None:
    before = [answered(one) for one in s.client.initiators]
    s.until(
        lambda: all(
            answered(one) > count + 2
            for one, count in zip(s.client.initiators, before, strict=True)
        ),
        seconds=seconds,
    )


@pytest.mark.parametrize("silently", [False, True])
def test_commands_go_on_through_the_next_path(trio: CompiledStage, silently: bool) -> None:
    s = trio
    all_go_on(s)
    before = [one.retried for one in s.client.initiators]
    s.world.kill_node(s.a, silently=silently)
    all_go_on(s)
    assert all(one.retried > count for one, count in zip(s.client.initiators, before, strict=True))
    s.ends_well()


def test_a_primary_that_stands_still_is_given_up(trio: CompiledStage) -> None:
    """a stops with commands under way, b or c answers them, and a goes on."""
    s = trio
    all_go_on(s)
    before = sum(one.given_up for one in s.client.initiators)
    s.node(s.a).process.stop()
    s.until(lambda: sum(one.given_up for one in s.client.initiators) > before)
    all_go_on(s)
    s.node(s.a).process.go_on()
    all_go_on(s)
    s.ends_well()


def test_one_that_stands_still_begins_nothing(trio: CompiledStage) -> None:
    s = trio
    all_go_on(s)
    stopped, other = s.client.initiators
    stopped.stand_still(5.0)
    s.run(0.5)
    begun = sum(len(page.values) for page in stopped.pages.values())
    before = answered(other)
    s.run(4.0)
    assert sum(len(page.values) for page in stopped.pages.values()) == begun
    assert answered(other) > before
    all_go_on(s)
    s.ends_well()


def test_an_attempt_that_takes_effect_late_is_seen(trio: CompiledStage) -> None:
    """What was acknowledged first is written once more behind an initiator's back."""
    s = trio
    all_go_on(s)
    all_go_on(s)
    s.client.quiet = True
    s.run(6.0)
    (one, _), page = s.client.initiators, 0
    page, history = max(one.pages.items(), key=lambda item: len(item[1].values))
    assert len(history.values) > 2
    late = [
        s.plane(s.a).submit(V, "write", page, 1, page_of(page, 1), nexus=nexus) for nexus in RECORDS
    ]
    s.until(lambda: all(answer is not None and answer.done() for answer in late))
    with pytest.raises(Violation, match=r"back again|came and went"):
        s.ends_well()

"""What the simulated initiators that preempt each other would notice."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sparrow.authority.types import Term
from sparrow.base.ids import Epoch, Lsn, VolumeId
from sparrow.sim.compiled.fencing import Attempt, Fencing
from sparrow.sim.compiled.survival import Mark

VOLUME = VolumeId("v1")


def at(lsn: int, epoch: int = 1) -> Mark:
    """The answer to a write."""
    return Mark(Term(epoch=Epoch(epoch), start=1), lsn, lsn)


class Core:
    """The newest table, as a core would tell it."""

    alive = True

    def __init__(self) -> None:
        self.lsn, self.table = Lsn(0), cast(bytes | None, None)
        self.epoch = Epoch(1)
        #: Given instead of the newest, when set.
        self.stale: tuple[Lsn, bytes | None] | None = None

    def term_of(self, _volume: VolumeId) -> Term:
        return Term(epoch=self.epoch, start=1)

    async def reservations(self, _volume: VolumeId) -> tuple[Lsn, bytes | None]:
        return self.stale or (self.lsn, self.table)

    async def log_reservations(self, _volume: VolumeId, expected: Lsn, table: bytes) -> Lsn | None:
        if expected != self.lsn:
            return None
        self.lsn, self.table = Lsn(self.lsn + 10), table
        return self.lsn


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def fencing(said: list[str]) -> Fencing:
    world = SimpleNamespace(
        checkers=SimpleNamespace(report=said.append), acknowledged=lambda _volume, _lsn: None
    )
    return Fencing(cast(Any, world), VOLUME, Random(1))


async def test_a_write_above_the_table_that_forbids_it_is_one_too_many(
    fencing: Fencing, said: list[str]
) -> None:
    core = cast(Any, Core())
    await fencing.change(core, (0, 1))
    await fencing.change(core, (0,))
    fencing.wrote(1, at(15))
    fencing.wrote(0, at(25))
    assert said == []
    fencing.wrote(1, at(25))
    assert len(said) == 1


async def test_a_table_of_a_later_term_forbids_nothing_that_was_written_before_it(
    fencing: Fencing, said: list[str]
) -> None:
    """Under ack=local the write is lost, its LSN and those after it were used again, and its answer is heard late."""
    core = cast(Any, Core())
    core.epoch = Epoch(2)
    await fencing.change(core, (0,))
    fencing.wrote(1, at(25, epoch=1))
    assert said == []
    fencing.wrote(1, at(25, epoch=2))
    assert len(said) == 1


async def test_a_change_nobody_heard_the_answer_of_may_have_let_it_in_again(
    fencing: Fencing, said: list[str]
) -> None:
    core = cast(Any, Core())
    await fencing.change(core, (0,))
    fencing._attempts[2] = Attempt(hosts=(0, 1), expected=10)
    fencing.wrote(1, at(15))
    assert said == []
    # One that is known to lie above the write let nobody in before it.
    fencing._attempts[2].lsn = 20
    fencing.wrote(1, at(15))
    assert len(said) == 1


async def test_a_table_that_was_replaced_or_that_nobody_logged_is_noticed(
    fencing: Fencing, said: list[str]
) -> None:
    core = Core()
    await fencing.change(cast(Any, core), (0,))
    core.stale = (core.lsn, core.table)
    old = core.stale
    core.stale = None
    await fencing.change(cast(Any, core), (1,))
    await fencing.look(cast(Any, core))
    assert said == []
    core.stale = old
    await fencing.look(cast(Any, core))
    assert len(said) == 1
    core.stale = (core.lsn, old[1])
    await fencing.look(cast(Any, core))
    assert len(said) == 2

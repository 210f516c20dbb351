"""S13: of two clocks the earlier ends a right and the later a promise, so slewing one of them makes no two serve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from sparrow.base.constants import GRANT_S
from sparrow.sim.checkers import Violation
from sparrow.sim.compiled.world import CompiledWorld
from tests.support.stage import Stage, stage

#: Far more than a time daemon pushes a clock: what is late by it is late by more than an opening takes.
SLEW_PPM: Final = 300_000


@pytest.fixture
def s() -> Iterator[Stage]:
    with stage(3, 2, kind=CompiledWorld) as built:
        yield built


def slew(s: Stage, *, boot: bool, raw: bool) -> None:
    """The primary's clock runs slow and everybody else's fast."""
    assert isinstance(s.world, CompiledWorld)
    for name, host in s.world.hosts.items():
        if name not in s.world.nodes:
            continue
        ppm = -SLEW_PPM if name == s.a else SLEW_PPM
        boot_ns, raw_ns = s.world.room.clocks(host)
        s.world.room.set_clocks(
            host,
            boot_ppm=ppm if boot else 0,
            raw_ppm=ppm if raw else 0,
            boot_ns=boot_ns,
            raw_ns=raw_ns,
        )


def replaced_while_cut_off(s: Stage) -> None:
    """a serves as long as its grants run, by its clocks; b waits as long as promises run, by theirs."""
    s.run(2 * GRANT_S)
    assert s.serves(s.a)
    s.cut("a-b", "a-c", "a-m")
    s.move(s.b)
    s.until(lambda: s.serves(s.b))
    s.run(1)


@pytest.mark.parametrize("slewed", ["none", "boot", "raw"])
def test_s13_one_slewed_clock_makes_no_two_serve(s: Stage, slewed: str) -> None:
    slew(s, boot=slewed == "boot", raw=slewed == "raw")
    replaced_while_cut_off(s)


def test_s13_with_one_clock_only_a_slew_would(s: Stage) -> None:
    """Both clocks off is one clock off where there is only one: the history above then ends badly."""
    slew(s, boot=True, raw=True)
    with pytest.raises(Violation, match="serve"):
        replaced_while_cut_off(s)


def test_s13_a_suspension_ends_a_right_and_no_promise_early(s: Stage) -> None:
    """The boot clock of a jumps over its grants: it stops at once; that of b jumps: it waits all the same."""
    assert isinstance(s.world, CompiledWorld)
    s.run(1)
    s.cut("a-b", "a-c", "a-m")
    s.world.room.jump(s.world.hosts[s.b], int(5 * GRANT_S * 1e9))
    s.move(s.b)
    s.until(lambda: s.serves(s.b))
    s.world.room.jump(s.world.hosts[s.a], int(5 * GRANT_S * 1e9))
    s.run(1)
    assert not s.serves(s.a)

"""Seeds on compiled cores."""

from __future__ import annotations

from random import Random
from typing import Final

from sparrow.base.ids import VolumeId
from sparrow.sim.compiled.faults import CompiledFaults
from sparrow.sim.compiled.world import CompiledWorld
from sparrow.sim.operators import Operators
from sparrow.sim.run import Kind
from sparrow.sim.world import World
from sparrow.sim.zombie import Zombies


class Nobody(Operators):
    """No people: the model plays them, and clients here know volumes that stay."""

    def __init__(self, _world: World, _rng: Random) -> None:
        self.settled = True

    def settle(self, damaged: set[VolumeId]) -> None:
        pass

    def unfinished(self, damaged: set[VolumeId]) -> list[str]:
        return []


class OneMaster(Zombies):
    """One master and one store: the model plays others."""

    def __init__(self, _world: World, _rng: Random) -> None:
        pass

    def heal(self) -> None:
        pass


COMPILED: Final = Kind(
    world=CompiledWorld, faults=CompiledFaults, operators=Nobody, zombies=OneMaster
)

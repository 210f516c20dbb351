"""Seeds on compiled cores."""

from __future__ import annotations

from random import Random
from typing import Final

from sparrow.sim.compiled.faults import CompiledFaults
from sparrow.sim.compiled.growth import Growth
from sparrow.sim.compiled.world import CompiledWorld
from sparrow.sim.run import Kind
from sparrow.sim.world import World
from sparrow.sim.zombie import Zombies


class OneMaster(Zombies):
    """One master and one store: the model plays others."""

    def __init__(self, _world: World, _rng: Random) -> None:
        pass

    def heal(self) -> None:
        pass


COMPILED: Final = Kind(
    world=CompiledWorld, faults=CompiledFaults, operators=Growth, zombies=OneMaster
)

"""What goes wrong besides: disks that are slow, fail, rot or run full, and clocks that jump or are slewed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, cast

from sparrow.base.ids import NodeId
from sparrow.sim.compiled.world import CompiledWorld
from sparrow.sim.faults import Faults
from sparrow.sim.world import World

#: chrony's fastest slew (S13); only clocks that follow it are slewed, the raw one is not.
SLEW_PPM: Final = 80_000


class CompiledFaults(Faults):
    """Draws from more kinds than the model knows."""

    def __init__(self, world: World, rng: Random) -> None:
        self._room = cast(CompiledWorld, world).room
        self._hosts = cast(CompiledWorld, world).hosts
        super().__init__(world, rng)

    def _more(self) -> list[tuple[int, Callable[[], None]]]:
        return [(2, self._slow_disk), (2, self._suspend)]

    def heal(self) -> None:
        for host in self._hosts.values():
            self._room.faults(host)
        super().heal()

    def _host(self, name: NodeId) -> int:
        return self._hosts[name]

    def _recycle_log(self) -> None:
        """Logs of compiled cores wrap by themselves."""

    def _slow_disk(self) -> None:
        name = self._node()
        slow_ns = self._rng.choice((20_000_000, 300_000_000, 3_000_000_000))
        self._world.note("disk.slow", node=name, ns=slow_ns)
        self._room.faults(
            self._host(name), slow=self._rng.choice((20_000, 500_000)), slow_ns=slow_ns
        )
        self._later(0.2, 4.0, lambda: self._room.faults(self._host(name)))

    def _suspend(self) -> None:
        """The boot clock counts a suspension that nobody else noticed."""
        name = self._node()
        by_ns = self._rng.randrange(1_000_000, 5_000_000_000)
        self._world.note("clock.jumped", node=name, ns=by_ns)
        self._room.jump(self._host(name), by_ns)

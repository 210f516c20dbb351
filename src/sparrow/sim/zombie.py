"""What befalls the master as a whole: replaced while it lives, restored from a backup, rebuilt from its nodes.

Three ways to come by a second master. On the same store: the lock did not reach from one machine to the other; the
generation in the store refuses the old one. On a copy, restored as the verb does: every volume is unconfirmed until
all its members have promised the new generation, and then the old master's word is worth nothing to them. On an empty
store, rebuilt from what nodes hold. The old one is not stopped; its streams stay, and some nodes are misled to it.

A copy that is simply started, without the verb, is no fault that sparrow survives, and is not played: nothing tells
its nodes which of two masters with the same right to speak is the later one.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Collection
from random import Random
from typing import Final

from sparrow.authority.floor import floor_of
from sparrow.authority.recovery import GENERATION_GAP, AuditEntry, Mark, MarkKind, NodeAnswer
from sparrow.base.errors import SparrowError
from sparrow.base.ids import NodeId, VolumeId
from sparrow.master.recover import begin
from sparrow.sim.world import OPERATOR, World
from sparrow.store.memory import MemoryDisk, MemoryStore

PAUSE_S: Final = (1.0, 8.0)
#: Chance that a run has more than one master at all.
CHANCE: Final = 0.4
#: How long a replaced master lives on, and how long a node is misled to it.
ZOMBIE_S: Final = (1.0, 15.0)
#: A rebuild that reached nobody is tried again after this.
AGAIN_S: Final = 1.0


class Zombies:
    """Draws one such event after another while it is on."""

    def __init__(self, world: World, rng: Random) -> None:
        self.on = rng.random() < CHANCE
        self._world = world
        self._rng = rng
        self._backup: MemoryDisk | None = None
        kinds: list[tuple[int, Callable[[], None]]] = [
            (3, self._back_up),
            (3, self._take_over),
            (2, self._restore),
            (1, self._rebuild),
        ]
        self._kinds = [kind for _, kind in kinds]
        self._weights = [weight * rng.choice((0, 1, 1, 2)) for weight, _ in kinds]
        self._weights[1] = max(self._weights[1], 1)
        self._rebuilding = False
        self._next()

    def heal(self) -> None:
        """One master is left, and everybody finds it."""
        self.on = False
        self._world.misled.clear()
        for zombie in list(self._world.zombies):
            self._world.end_zombie(zombie)

    # ------------------------------------------------------------ drawing

    def _next(self) -> None:
        self._world.loop.at(self._rng.uniform(*PAUSE_S), self._strike)

    def _strike(self) -> None:
        if self.on:
            if not self._rebuilding:
                self._rng.choices(self._kinds, self._weights)[0]()
            self._next()

    def _back_up(self) -> None:
        self._world.note("store.backed_up")
        self._backup = copied(self._world.disk)

    def _take_over(self) -> None:
        self._mislead()
        self._world.replace_master()
        self._end_later()

    def _restore(self) -> None:
        """The newest backup there is, or a copy of this very moment, under the eyes of the living master or not."""
        world = self._world
        if not world.intact:
            return
        backup = self._backup if self._backup is not None and self._rng.random() < 0.7 else None
        disk = restored(world.disk if backup is None else backup, world.disk.generation)
        world.note("store.restored", generation=disk.generation, marks=len(disk.marks))
        if self._rng.random() < 0.5:
            world.kill_master()
        self._mislead()
        world.forget_what_nobody_knows(disk)
        world.replace_master(disk)
        self._end_later()

    def _rebuild(self) -> None:
        world = self._world
        if not world.intact:
            return
        self._rebuilding = True
        world.note("store.lost")
        world.kill_master()
        world.lose_store()
        world.spawn(self._begin(MemoryDisk()), "rebuild")

    async def _begin(self, disk: MemoryDisk) -> None:
        """`sparrow master run --recover-from-nodes`, started again until it has reached a node."""
        world = self._world
        addresses = [f"{name}:1" for name in world.names]

        async def ask(some: Collection[str], generation: int) -> dict[str, NodeAnswer]:
            return await world.ask_nodes(OPERATOR, some, generation)

        store = MemoryStore(disk)
        while True:
            try:
                await begin(store, addresses, world.logger("rebuild"), ask=ask)
            except SparrowError as error:
                world.note("rebuild.failed", cause=error)
                await asyncio.sleep(AGAIN_S)
            else:
                break
        store.close()
        world.forget_what_nobody_knows(disk)
        world.replace_master(disk)
        self._rebuilding = False

    def _mislead(self) -> None:
        """The address leads some nodes to the old one for a while."""
        world = self._world
        some: set[NodeId] = {name for name in world.names if self._rng.random() < 0.4}
        world.misled |= some
        world.loop.at(self._rng.uniform(*ZOMBIE_S), world.misled.difference_update, some)

    def _end_later(self) -> None:
        world = self._world
        zombie = world.zombies[-1] if world.zombies else None

        def end() -> None:
            if zombie is not None and zombie in world.zombies:
                world.end_zombie(zombie)

        world.loop.at(self._rng.uniform(*ZOMBIE_S), end)


def copied(disk: MemoryDisk) -> MemoryDisk:
    """A backup: what is durable now, without what only a process holds."""
    made = copy.deepcopy(disk)
    made.locked = False
    made.faults.clear()
    return made


def restored(backup: MemoryDisk, generation: int) -> MemoryDisk:
    """A backup put in the place of a store of this generation, as ``store.restore`` does it."""
    disk = copied(backup)
    disk.generation = max(disk.generation, generation) + GENERATION_GAP
    disk.epoch_floor = floor_of(disk.generation)
    cause = "its record was restored from a backup"
    for volume_id in sorted({*disk.lines, *disk.volumes}):
        disk.marks[volume_id] = Mark(volume_id=volume_id, kind=MarkKind.RESTORED, cause=cause)
    disk.audit.append(
        AuditEntry(verb="restore", volume_id=VolumeId(""), who="the simulator", detail="")
    )
    return disk

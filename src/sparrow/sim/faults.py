"""What goes wrong, and when: drawn from the seed, always with an end, never more than a volume can survive.

Every fault undoes itself after a while; ``heal`` undoes what is left at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final

from sparrow.base.ids import Lsn, NodeId, VolumeId
from sparrow.sim.clock import Process
from sparrow.sim.network import SLOW_S, Weather
from sparrow.sim.world import World

PAUSE_S: Final = (0.05, 1.6)
#: Chance that a run destroys a disk, or a record of the master's store.
WIPE_CHANCE: Final = 0.15
DAMAGE_CHANCE: Final = 0.1


class Faults:
    """Draws one fault after another while it is on."""

    def __init__(self, world: World, rng: Random) -> None:
        self.on = True
        #: Volumes whose record in the master's store was damaged: they stay as they are until somebody repairs it.
        self.damaged: set[VolumeId] = set()
        self._world = world
        self._rng = rng
        self._wipes = int(rng.random() < WIPE_CHANCE)
        self._damages = int(rng.random() < DAMAGE_CHANCE)
        kinds: list[tuple[int, Callable[[], None]]] = [
            (3, self._kill_node),
            (2, self._lose_machine),
            (1, self._lose_rack),
            (3, self._stop_process),
            (3, self._kill_master),
            (2, self._die_in_put),
            (4, self._cut_one_way),
            (2, self._cut_both_ways),
            (2, self._isolate),
            (2, self._bad_weather),
            (2, self._store_fails),
            (1, self._jump_clock),
            (2, self._recycle_log),
            (1, self._wipe_disk),
            (1, self._damage_record),
        ]
        kinds += self._more()
        # Each run has its own mix, so that some see much of one thing.
        self._kinds = [kind for _, kind in kinds]
        self._weights = [weight * rng.choice((0, 1, 1, 3)) for weight, _ in kinds]
        if not any(self._weights):
            self._weights[0] = 1
        self._next()

    def _more(self) -> list[tuple[int, Callable[[], None]]]:
        """Faults that other worlds have besides, with their weights."""
        return []

    def heal(self) -> None:
        """No more faults, and everything that is broken for now works again."""
        world = self._world
        self.on = False
        world.note("faults.ended")
        world.network.weather = Weather()
        for a, b in sorted(world.network.cut):
            world.network.open(a, b)
        world.disk.faults.clear()
        for process in self._processes():
            if process.stopped:
                process.go_on()
        for name in world.names:
            world.start_node(name)
        if world.master is not None and world.master.store.die_in_put:
            world.master.store.die_in_put = ""
        world.start_master()

    # ------------------------------------------------------------ drawing

    def _next(self) -> None:
        self._world.loop.at(self._rng.uniform(*PAUSE_S), self._strike)

    def _strike(self) -> None:
        if not self.on:
            return
        self._rng.choices(self._kinds, self._weights)[0]()
        self._next()

    def _later(self, low_s: float, high_s: float, undo: Callable[[], None]) -> None:
        def act() -> None:
            if self.on:
                undo()

        self._world.loop.at(self._rng.uniform(low_s, high_s), act)

    def _node(self) -> NodeId:
        return self._rng.choice(self._world.names)

    def _processes(self) -> list[Process]:
        world = self._world
        found = [node.process for node in world.nodes.values()]
        masters = [*world.zombies, *([] if world.master is None else [world.master])]
        return [*found, *(master.process for master in masters)]

    # ------------------------------------------------------------ processes

    def _kill_node(self) -> None:
        name = self._node()
        self._world.kill_node(name)
        self._later(0.02, 6.0, lambda: self._world.start_node(name))

    def _lose_machine(self) -> None:
        name = self._node()
        self._world.kill_node(name, silently=True)
        self._later(0.5, 8.0, lambda: self._world.start_node(name))

    def _lose_rack(self) -> None:
        """Power goes for everybody at once; machines come back one after the other."""
        for name in self._world.names:
            self._world.kill_node(name, silently=True)
            self._later(0.2, 5.0, partial(self._world.start_node, name))

    def _stop_process(self) -> None:
        running = [process for process in self._processes() if not process.stopped]
        if not running:
            return
        process = self._rng.choice(running)
        self._world.note("process.stopped", name=process.name)
        process.stop()

        def go_on() -> None:
            self._world.note("process.continued", name=process.name)
            process.go_on()

        self._later(0.05, 5.0, go_on)

    def _kill_master(self) -> None:
        self._world.kill_master()
        self._later(0.05, 5.0, self._world.start_master)

    def _die_in_put(self) -> None:
        """The master dies between deciding and being heard; found dead and started again after a while."""
        master = self._world.master
        if master is not None:
            master.store.die_in_put = self._rng.choice(("before", "after"))
            self._world.note("master.doomed", when=master.store.die_in_put)
            self._later(1.0, 5.0, self._revive_master)

    def _revive_master(self) -> None:
        master = self._world.master
        if master is not None and not master.process.alive:
            self._world.start_master()
        elif master is not None:
            master.store.die_in_put = ""

    # ------------------------------------------------------------ network

    def _cut(self, ways: list[tuple[str, str]]) -> None:
        network = self._world.network
        for a, b in ways:
            network.block(a, b)
        self._world.note("network.cut", ways=",".join(f"{a}>{b}" for a, b in ways))

        def undo() -> None:
            for a, b in ways:
                network.open(a, b)
            self._world.note("network.opened", ways=",".join(f"{a}>{b}" for a, b in ways))

        self._later(0.1, 7.0, undo)

    def _pair(self) -> tuple[str, str]:
        masters = [self._world.master_name, *(one.process.name for one in self._world.zombies)]
        a, b = self._rng.sample([*self._world.names, *masters], 2)
        return str(a), str(b)

    def _cut_one_way(self) -> None:
        self._cut([self._pair()])

    def _cut_both_ways(self) -> None:
        a, b = self._pair()
        self._cut([(a, b), (b, a)])

    def _isolate(self) -> None:
        name: str = self._node()
        others = [str(other) for other in self._world.names if other != name]
        if self._rng.random() < 0.5:
            others.append(self._world.master_name)
        ways = [(name, other) for other in others]
        if self._rng.random() < 0.7:
            ways += [(other, name) for other in others]
        self._cut(ways)

    def _bad_weather(self) -> None:
        network = self._world.network
        network.weather = Weather(
            loss=self._rng.choice((0.0, 0.05, 0.3)),
            twice=self._rng.choice((0.0, 0.1, 0.5)),
            slow=self._rng.choice((0.0, 0.1, 0.5)),
            slow_s=self._rng.choice(SLOW_S),
        )
        self._world.note("network.weather", weather=network.weather)

        def calm() -> None:
            network.weather = Weather()

        self._later(0.5, 5.0, calm)

    # ------------------------------------------------------------ disks

    def _store_fails(self) -> None:
        """A full disk for a while, or a few failed puts."""
        times = self._rng.choice((1, 2, 1000))
        self._world.disk.fail_next(times=times)
        self._world.note("store.failing", times=times)
        self._later(0.2, 4.0, self._world.disk.faults.clear)

    def _jump_clock(self) -> None:
        """The master's clock goes on at once by as much as a suspended machine was asleep; it never goes back."""
        master = self._world.master
        if master is not None:
            jump = self._rng.choice((0.3, 2.5, 12.0, 100.0))
            self._world.note("clock.jumped", name=master.process.name, by_s=jump)
            master.process.offset += jump

    def _recycle_log(self) -> None:
        """A replica's log lets go of what it applied: who missed it must be rebuilt."""
        name = self._node()
        for volume_id, files in sorted(self._world.pools[name].files.items()):
            if files.applied > files.log.base_lsn:
                lsn = Lsn(self._rng.randint(files.log.base_lsn + 1, files.applied))
                files.log.recycle(lsn)
                self._world.note("wal.recycled", node=name, volume=volume_id, lsn=lsn)

    def _wipe_disk(self) -> None:
        """Only while every volume has all its copies, so that one may be lost."""
        world = self._world
        if self._wipes and world.whole:
            self._wipes -= 1
            name = self._node()
            world.wipe_node(name)
            self._later(0.1, 3.0, lambda: world.start_node(name))

    def _damage_record(self) -> None:
        """A row of the master's store rots while the master is down: a line, a wish for a volume or for a node."""
        world = self._world
        if not self._damages or not world.disk.lines:
            return
        self._damages -= 1
        world.kill_master()
        disk = world.disk
        table = self._rng.choice(("line", "line", "volume", "node"))
        if table == "volume" and disk.volumes:
            volume_id = self._rng.choice(sorted(disk.volumes))
            disk.damage_volume(volume_id)
            world.note("record.damaged", wish=volume_id)
        elif table == "node" and disk.nodes:
            node_id = self._rng.choice(sorted(disk.nodes))
            disk.damage_node(node_id)
            world.note("record.damaged", node=node_id)
        else:
            volume_id = self._rng.choice(sorted(disk.lines))
            disk.damage_line(volume_id)
            self.damaged.add(volume_id)
            world.note("record.damaged", volume=volume_id)
        self._later(0.1, 2.0, world.start_master)

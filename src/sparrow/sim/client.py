"""A client of one volume: writes whenever some replica serves, reads back, never accepts an older value."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from sparrow.base.errors import SparrowError
from sparrow.base.ids import VolumeId
from sparrow.sim.checkers import Acked

if TYPE_CHECKING:
    from sparrow.sim.node import SimNode
    from sparrow.sim.world import World

PAGES: Final = 8
IN_FLIGHT_MAX: Final = 4


class Client:
    """Values are counters: of each page a newer write has a higher one."""

    def __init__(self, world: World, volume_id: VolumeId, rng: Random) -> None:
        self.volume_id = volume_id
        self.acked = 0
        self._world = world
        self._rng = rng
        self._count = 0
        self._in_flight: set[int] = set()
        self._floor: dict[int, int] = {}

    def act(self) -> None:
        """One turn, by the world."""
        self._world.loop.at(self._rng.uniform(0.02, 0.25), self.act)
        for node in self._world.living_nodes():
            if not node.process.stopped and node.dataplane.may_serve(self.volume_id):
                page = self._rng.randrange(PAGES)
                if self._rng.random() < 0.3:
                    node.process.soon(self._read, node, page)
                elif len(self._in_flight) < IN_FLIGHT_MAX:
                    self._count += 1
                    self._in_flight.add(self._count)
                    # A write that is never answered is given up, as an initiator does.
                    self._world.loop.at(3.0, self._in_flight.discard, self._count)
                    node.process.spawn(self._write(node, page, self._count), "write")

    async def _write(self, node: SimNode, page: int, value: int) -> None:
        try:
            lsn = await node.dataplane.write(self.volume_id, page, str(value).encode())
        except SparrowError:
            return
        finally:
            self._in_flight.discard(value)
        self.acked += 1
        self._floor[page] = max(value, self._floor.get(page, 0))
        log = node.dataplane.pool.files[self.volume_id].log
        check = log.check_at(lsn)
        if check is not None:
            self._world.checkers.acknowledged(self.volume_id, Acked(lsn=lsn, check=check))

    def _read(self, node: SimNode, page: int) -> None:
        try:
            value = int(node.dataplane.read(self.volume_id, page) or b"0")
        except SparrowError:
            return
        floor = self._floor.get(page, 0)
        if value < floor:
            self._world.checkers.report(
                f"{node.process.name} read {value} from page {page} of {self.volume_id}, {floor} was seen before"
            )
        self._floor[page] = max(value, floor)

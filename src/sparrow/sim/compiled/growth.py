"""People who make volumes longer while things go wrong; what they were told is used by clients at once.

At the end they repair what was wanted of a volume where its record was damaged: nothing is done about its replicas
before that.
"""

from __future__ import annotations

from random import Random
from typing import Final, cast

from sparrow.base.constants import PAGE_BYTES
from sparrow.base.errors import SparrowError
from sparrow.base.ids import VolumeId
from sparrow.rpc.messages import ResizeVolumeRequest
from sparrow.sim.compiled.world import CompiledWorld
from sparrow.sim.operators import Operators
from sparrow.sim.world import World

PAUSE_S: Final = (1.0, 8.0)
#: Wishes of one run.
WISHES: Final = (0, 1, 2, 4)
#: Pages that one wish adds, whole MiB; beyond 960 there is another block of checksums.
ADDED: Final = (256, 256, 512, 768)
PAGES_MAX: Final = 1536
#: Clients look for a new size this often.
LOOK_S: Final = 0.3


class Growth(Operators):
    """The only wish people have here: volumes stay, and clients know them."""

    def __init__(self, world: World, rng: Random) -> None:
        self.on = True
        self.settled = True
        self._world = world
        self._rng = rng
        self._left = rng.choice(WISHES)
        self._looking = False
        if self._left:
            self._next()

    def settle(self, damaged: set[VolumeId]) -> None:
        self.on = False
        wishes = self._damaged_wishes() - damaged
        if wishes:
            self.settled = False
            self._world.spawn(self._mend_wishes(wishes), "settle")

    async def _mend_wishes(self, wishes: set[VolumeId]) -> None:
        for volume_id in sorted(wishes):
            await self._mend_wish(volume_id)
        self.settled = True

    def unfinished(self, damaged: set[VolumeId]) -> list[str]:
        """Volumes that are shorter than somebody wanted them."""
        found = [] if self.settled else ["what was wanted is not repaired yet"]
        for volume_id, wanted in self._world.volumes.items():
            status = self._world.status(volume_id)
            if volume_id not in damaged and (
                status is None or status.size_bytes < wanted.size_bytes
            ):
                found.append(f"{volume_id} does not have its {wanted.size_bytes} bytes")
        return found

    def _next(self) -> None:
        self._world.loop.at(self._rng.uniform(*PAUSE_S), self._wish)

    def _wish(self) -> None:
        volumes = self._world.volumes
        if not self.on or not self._left or not volumes:
            return
        self._left -= 1
        wanted = volumes[self._rng.choice(sorted(volumes))]
        pages = wanted.size_bytes // PAGE_BYTES + self._rng.choice(ADDED)
        if pages <= PAGES_MAX:
            if not self._looking:
                self._looking = True
                self._look()
            self._world.spawn(self._resize(wanted.volume_id, pages * PAGE_BYTES), "resize")
        self._next()

    async def _resize(self, volume_id: VolumeId, size_bytes: int) -> None:
        world = self._world
        world.note("operator.resizes", volume=volume_id, size_bytes=size_bytes)
        request = ResizeVolumeRequest(name=volume_id, size_bytes=size_bytes)
        try:
            await world.api(lambda master, call: master.volumes.resize(request, call))
        except SparrowError as error:
            world.note("operator.failed", wish="resize", volume=volume_id, cause=error)
        else:
            world.note("operator.resized", volume=volume_id)

    def _look(self) -> None:
        """Whatever became of the call, a size that is told is one that may be used."""
        for volume_id, client in cast(CompiledWorld, self._world).block_clients().items():
            status = self._world.status(volume_id)
            if status is not None:
                client.grown(status.size_bytes // PAGE_BYTES)
        self._world.loop.at(LOOK_S, self._look)

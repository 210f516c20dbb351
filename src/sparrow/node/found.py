"""What a start finds in its pool: every replica's files opened, while the process is still being loaded.

Opening takes the reactor, the disk and a few threads; loading the rest of the program takes the interpreter. Neither
waits for the other. What the core tells meanwhile is kept until there is somebody to hear it.

Nothing of a replica that is open serves, grants or promises by itself: that takes a line of the master, a link or a
session, and all of those come through ``node.app``, which is built afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from sparrow.base.errors import SparrowError, Unavailable
from sparrow.base.ids import VolumeId
from sparrow.ports.dataplane import CoreEvent, DataPlane, OpenReport

#: Logs that are walked at one time; each may read its whole ring.
OPEN_AT_ONCE: Final = 8
#: So long a start waits until what some replicas hold is applied and others, which found no room beside that, fit too.
ROOM_WAIT_S: Final = 30.0
#: Between two looks; a round takes longer than a few of them.
ROOM_LOOK_S: Final = 0.1

Outcome = OpenReport | SparrowError


async def open_each(dataplane: DataPlane, opened: Callable[[VolumeId, Outcome], None]) -> None:
    """Open every replica that has files, a few at a time; ``opened`` hears of each at once what came of it.

    Where less memory was given than before, what all of them have not applied may not fit at one time. Those left
    over are opened one after the other, as what the others have is applied.
    """
    room = asyncio.Semaphore(OPEN_AT_ONCE)
    left: list[VolumeId] = []

    async def open_one(volume_id: VolumeId) -> None:
        async with room:
            outcome = await _outcome(dataplane, volume_id)
        if isinstance(outcome, Unavailable):
            left.append(volume_id)
        else:
            opened(volume_id, outcome)

    await asyncio.gather(*(open_one(volume_id) for volume_id in dataplane.replicas()))
    until = asyncio.get_running_loop().time() + ROOM_WAIT_S
    for volume_id in left:
        outcome = await _outcome(dataplane, volume_id)
        while isinstance(outcome, Unavailable) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(ROOM_LOOK_S)
            outcome = await _outcome(dataplane, volume_id)
        opened(volume_id, outcome)


async def _outcome(dataplane: DataPlane, volume_id: VolumeId) -> Outcome:
    try:
        return await dataplane.open_replica(volume_id)
    except SparrowError as error:
        return error


class Found:
    """A data plane from its start until somebody takes over its replicas and its events."""

    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane
        self._outcomes: dict[VolumeId, Outcome] = {}
        self._early: list[CoreEvent] = []
        self._take: Callable[[CoreEvent], None] = self._early.append
        self._opening: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start the data plane and go on by itself."""
        self._dataplane.start(self._heard)
        self._opening = asyncio.get_running_loop().create_task(
            open_each(self._dataplane, self._outcomes.__setitem__), name="open replicas"
        )

    async def everything(self) -> Mapping[VolumeId, Outcome]:
        """What came of each replica, once all are open or cannot be."""
        assert self._opening is not None, "begun"
        await asyncio.shield(self._opening)
        return self._outcomes

    def hand_over(self, take: Callable[[CoreEvent], None]) -> None:
        """All that was told so far, in order, and from now on everything goes to ``take``."""
        self._take = take
        for event in self._early:
            take(event)
        self._early.clear()

    async def give_up(self) -> None:
        """Nobody takes over: close what was opened. A replica on its way into the core cannot be called back."""
        if self._opening is not None:
            await asyncio.wait((self._opening,))
        await self._dataplane.stop()

    def _heard(self, event: CoreEvent) -> None:
        self._take(event)

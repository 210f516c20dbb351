"""How many pages each file system still takes, told to the core; acks carry it to the primary."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Sequence
from typing import Final

from sparrow.base.errors import SparrowError
from sparrow.base.ids import VolumeId
from sparrow.dataplane.native.base import Base, OpenVolume
from sparrow.ports.dataplane import VolumeStatus

#: Room is looked at this often, and before the first command of a volume.
HEADROOM_EVERY_S: Final = 1.0


class Room(Base):
    """Of each file system that replicas lie on."""

    async def _watch_room(self) -> None:
        """Look again and again, and tell what is new.

        Not when it is as many as before and no volume has said anything new since: the core takes off what it uses,
        and what it uses shows in some volume's LSNs.
        """
        sharing: dict[int, list[OpenVolume]] = {}
        sharing_of: dict[VolumeId, VolumeStatus] | None = None
        while True:
            await asyncio.sleep(HEADROOM_EVERY_S)
            # As long as the core has told nothing new, no volume has come or gone either.
            if self._statuses is None or self._statuses is not sharing_of:
                sharing, sharing_of = self._by_file_system(), self._statuses
            for file_system, volumes in sharing.items():
                with contextlib.suppress(SparrowError, OSError):
                    await self._look_at_room(file_system, volumes)

    def _by_file_system(self) -> dict[int, list[OpenVolume]]:
        sharing: dict[int, list[OpenVolume]] = {}
        for volume in self._volumes.values():
            sharing.setdefault(volume.file_system, []).append(volume)
        return sharing

    async def _look_at_room(self, file_system: int, volumes: Sequence[OpenVolume]) -> None:
        """What is kept as told is what the core has taken: a telling that failed is tried again at the next look."""
        pages, known = self._machine.room_pages(volumes[0].files), self._statuses
        told = self._told_room.pop(file_system, None)
        if told is None or told[0] != pages or told[1] is not known:
            await self._tell_room(volumes, pages)
        if known is not None:
            self._told_room[file_system] = (pages, known)

    async def _tell_room(self, volumes: Sequence[OpenVolume], pages: int) -> None:
        """Of volumes of one file system; one that was closed meanwhile is passed over."""
        alive = [one for one in volumes if self._volumes.get(one.volume_id) is one]
        if not alive:
            return
        indices = struct.pack(f"<{len(alive)}I", *(one.index for one in alive))
        await self._send("set_headroom", 0, a=pages, data=indices)

"""A volume is made longer: whoever is primary logs the size an operator asked for, until it is done.

Size is state of the log, so any later primary has it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sparrow.base import events as names
from sparrow.base.errors import SparrowError
from sparrow.node.surroundings import Surroundings

if TYPE_CHECKING:
    from sparrow.node.volume import Volume

#: Between two tries of a resize that was refused, for want of room mostly.
RESIZE_AGAIN_S: Final = 1.0


class Growth:
    """The size asked for of one replica's volume, and the resize that is under way."""

    def __init__(self, volume: Volume, around: Surroundings) -> None:
        self._volume = volume
        self._dataplane = around.dataplane
        self._log = around.log.bind(volume=volume.volume_id, replica=volume.replica_id)
        self._wanted = 0
        self._resizing: asyncio.Task[None] | None = None

    def want(self, size_bytes: int) -> None:
        """What an operator asked for; a smaller size than before changes nothing."""
        self._wanted = max(self._wanted, size_bytes)
        self.soon()

    def soon(self) -> None:
        """Something changed that a resize may have waited for."""
        if self._resizing is None and self._may_resize():
            self._resizing = asyncio.get_running_loop().create_task(self._resize())

    def stop(self) -> None:
        """The files are being closed."""
        if self._resizing is not None:
            self._resizing.cancel()

    def _may_resize(self) -> bool:
        volume = self._volume
        return volume.primacy is not None and volume.gate_open and self._wanted > volume.size_bytes

    async def _resize(self) -> None:
        """Until it is done, or this replica does not serve any more."""
        volume = self._volume
        try:
            while self._may_resize():
                size_bytes = self._wanted
                try:
                    await self._dataplane.resize(volume.volume_id, size_bytes)
                except SparrowError as error:
                    self._log.warning(
                        names.VOLUME_RESIZE_FAILED, size_bytes=size_bytes, cause=str(error)
                    )
                    await asyncio.sleep(RESIZE_AGAIN_S)
                else:
                    volume.size_bytes = max(volume.size_bytes, size_bytes)
        finally:
            self._resizing = None
        volume.urge()

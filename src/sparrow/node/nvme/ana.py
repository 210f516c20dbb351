"""The ANA state of each volume: from the core's word, kept with how often it changed, told to hosts when it does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from sparrow.base.errors import SparrowError
from sparrow.base.ids import VolumeId
from sparrow.frontends.nvme.events import AsyncEvent
from sparrow.frontends.nvme.subsystem import AnaState
from sparrow.node.nvme.views import ana_state
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import DataPlane, VolumeStatus

#: A core that takes longer to answer stands still.
STATUS_TIMEOUT_S: Final = 1.0


class AnaStates:
    """Of the volumes whose hosts are here. ``tell`` reaches the hosts of one."""

    def __init__(self, dataplane: DataPlane, tell: Callable[[VolumeId, AsyncEvent], None]) -> None:
        self._dataplane = dataplane
        self._tell = tell
        self._states: dict[VolumeId, tuple[AnaState, int]] = {}

    def last(self, volume_id: VolumeId) -> tuple[AnaState, int]:
        """What was noted last, and how often it changed."""
        return self._states.get(volume_id, (AnaState.CHANGE, 0))

    def note(self, volume: Volume, status: VolumeStatus | None) -> tuple[AnaState, int]:
        """Keep the ANA state of a volume; hosts hear of a change. Returns it and how often it changed."""
        state = ana_state(volume, status)
        was, changes = self._states.get(volume.volume_id, (None, 0))
        if state is not was:
            changes += 1
            self._states[volume.volume_id] = (state, changes)
            if was is not None:
                self._tell(volume.volume_id, AsyncEvent.ANA_CHANGED)
        return state, changes

    async def status(self, volume: Volume) -> VolumeStatus | None:
        """The core's word, or None when it has none in time."""
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                return await self._dataplane.status(volume.volume_id)
        except (SparrowError, TimeoutError):
            return None

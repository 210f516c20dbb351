"""What is desired, as the loop holds it: every volume, and what is asked of all of them together.

Every placement asks what is planned on nodes, every list for names in order: both are kept up to date as it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sparrow.authority.ordered import OrderedNames
from sparrow.authority.planned import Planned
from sparrow.authority.types import DesiredVolume, VolumePhase
from sparrow.base.ids import VolumeId


class DesiredVolumes:
    """The desired volumes of one loop, in every order in which they are asked for."""

    def __init__(self) -> None:
        self._by_id: dict[VolumeId, DesiredVolume] = {}
        self._since: dict[VolumeId, float] = {}
        self._guarded: set[VolumeId] = set()
        #: Sorted. To be read only.
        self.names = OrderedNames()
        #: Of all of them: every placement asks. To be read only.
        self.planned = Planned()

    @property
    def by_id(self) -> Mapping[VolumeId, DesiredVolume]:
        """The same mapping for good, so it may be kept. To be read only."""
        return self._by_id

    def put(self, volume: DesiredVolume, now: float) -> None:
        """It is desired from now on, or in another way than before."""
        volume_id = volume.volume_id
        held = self._by_id.get(volume_id)
        if held is not None:
            self.planned.count(held, -1)
        self.planned.count(volume)
        if volume.access.entries:
            self._guarded.add(volume_id)
        else:
            self._guarded.discard(volume_id)
        self._by_id[volume_id] = volume
        self.names.add(volume_id)
        self._since.setdefault(volume_id, now)

    def served(self, volume_id: VolumeId) -> None:
        """It was being created and is active now."""
        self._by_id[volume_id] = replace(self._by_id[volume_id], phase=VolumePhase.ACTIVE)

    def remove(self, volume_id: VolumeId) -> None:
        self.planned.count(self._by_id.pop(volume_id), -1)
        self.names.discard(volume_id)
        self._guarded.discard(volume_id)
        del self._since[volume_id]

    def since(self, volume_id: VolumeId) -> float | None:
        """When it was first desired in this boot of the master; None when it is not."""
        return self._since.get(volume_id)

    def guarded(self) -> tuple[DesiredVolume, ...]:
        """Those with entries in their access list, sorted."""
        return tuple(self._by_id[volume_id] for volume_id in sorted(self._guarded))

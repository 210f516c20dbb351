"""Volumes that nodes have files of while nothing recorded says anything of them.

They were made after the backup that the master's store was restored from. A person decides what becomes of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from sparrow.authority.observation import Heard, ObservationStore
from sparrow.authority.ordered import OrderedNames
from sparrow.authority.publisher import Publisher
from sparrow.authority.types import DesiredVolume
from sparrow.base.ids import VolumeId


class Unrecorded:
    """Remembers which volumes were met that way; whether they still are is looked up when somebody asks.

    Args:
        topology: the loop's desired volumes, read at every call.
    """

    def __init__(
        self,
        *,
        publisher: Publisher,
        observations: ObservationStore,
        topology: Mapping[VolumeId, DesiredVolume],
    ) -> None:
        self._publisher = publisher
        self._observations = observations
        self._topology = topology
        #: Those that ``all`` may give, sorted. To be read only.
        self.names = OrderedNames()

    def note(self, volume_id: VolumeId) -> None:
        """Nodes reported files of it when nothing was recorded of it."""
        self.names.add(volume_id)

    def heard(self, volume_id: VolumeId, now: float) -> tuple[Heard, ...]:
        """What nodes report of a volume of which nothing is recorded; of any other nothing."""
        if (
            volume_id not in self.names
            or self._publisher.line(volume_id) is not None
            or self._publisher.quarantined(volume_id)
            or volume_id in self._topology
        ):
            return ()
        return tuple(self._observations.heard(volume_id, now))

    def all(self, now: float) -> dict[VolumeId, tuple[Heard, ...]]:
        """Every one of them, with what is reported of it."""
        found = {}
        for volume_id in tuple(self.names):
            heard = self.heard(volume_id, now)
            if heard:
                found[volume_id] = heard
            else:
                self.names.discard(volume_id)
        return found

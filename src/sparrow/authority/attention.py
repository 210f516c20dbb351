"""Which volumes have to be looked at: those that something touched, and those whose primary did not speak in time.

A node that falls silent, or speaks again, concerns every volume it hosts; most are as everybody expects, and are left
alone. So the work of a step is proportional to what changed, not to what there is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

from sparrow.authority.builder import GRACE_S
from sparrow.authority.controller import Controller
from sparrow.authority.delivery import Delivery
from sparrow.authority.observation import ObservationStore
from sparrow.authority.publisher import Publisher
from sparrow.authority.quiet import as_expected, steady
from sparrow.authority.types import DesiredVolume
from sparrow.base.ids import NodeId, VolumeId

#: Volumes that a start left alone and that one step checks for having been heard, once the grace is over.
UNHEARD_CHECKS_MAX: Final = 4096


class Attention:
    """The volumes of one loop that wait to be looked at, each once.

    Args:
        topology: the loop's desired volumes, read at every call.
    """

    def __init__(
        self,
        *,
        publisher: Publisher,
        observations: ObservationStore,
        controller: Controller,
        delivery: Delivery,
        topology: Mapping[VolumeId, DesiredVolume],
    ) -> None:
        self._publisher = publisher
        self._observations = observations
        self._controller = controller
        self._delivery = delivery
        self._topology = topology
        self._dirty: dict[VolumeId, None] = {}
        self._unheard: deque[VolumeId] = deque()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._dirty)

    def touch(self, volume_id: VolumeId) -> None:
        """Something of it may be another than before."""
        self._dirty[volume_id] = None

    def touch_all(self, volume_ids: Iterable[VolumeId]) -> None:
        for volume_id in sorted(volume_ids):
            self._dirty[volume_id] = None

    def node_struck(self, node_id: NodeId) -> None:
        """A node fell silent: of the volumes there that are quiet, only those it is primary of are concerned."""
        for volume_id in sorted(self._delivery.volumes_on(node_id)):
            line = self._publisher.line(volume_id)
            if line is None or not self._quiet(volume_id) or line.primary_member.node_id == node_id:
                self.touch(volume_id)

    def node_spoke(self, node_id: NodeId, volume_ids: Iterable[VolumeId], *, well: bool) -> None:
        """A node speaks for the first time, or again: look at what is not as everybody expects.

        ``well``: it takes primaries.
        """
        for volume_id in sorted(volume_ids):
            line = self._publisher.line(volume_id)
            facts = self._observations.slots_on(node_id, volume_id)
            if (
                not well
                or line is None
                or not as_expected(line, node_id, facts)
                or not self._quiet(volume_id)
            ):
                self.touch(volume_id)

    def put_off(self, volume_id: VolumeId) -> None:
        """Loaded with a line and not looked at before the grace is over: its nodes speak first."""
        self._unheard.append(volume_id)

    def check_unheard(self, now: float) -> None:
        """Look at the volumes whose primary did not say, within the grace, that all is well."""
        if not self._unheard or now <= self._unheard_until():
            return
        for _ in range(min(len(self._unheard), UNHEARD_CHECKS_MAX)):
            volume_id = self._unheard.popleft()
            line = self._publisher.line(volume_id)
            if line is None or not self._controller.unseen(volume_id):
                continue
            primary = line.primary_member
            facts = self._observations.slots_on(primary.node_id, volume_id)
            up = self._observations.sight(primary.node_id, now).up
            if not up or not as_expected(line, primary.node_id, facts):
                self.touch(volume_id)

    def take(self, count: int) -> list[VolumeId]:
        """So many of them, first come first served; they are looked at from here on."""
        taken = list(islice(self._dirty, count))
        for volume_id in taken:
            del self._dirty[volume_id]
        return taken

    def wake_at(self, now: float) -> float | None:
        """When somebody has to look next, at the latest; None when nothing waits."""
        if self._dirty:
            return now
        if self._unheard:
            return max(now, math.nextafter(self._unheard_until(), math.inf))
        return None

    def _quiet(self, volume_id: VolumeId) -> bool:
        """Nothing is on its way, nothing is wrong, nothing is being changed."""
        return (
            self._controller.settled(volume_id)
            and steady(self._publisher.line(volume_id), self._topology.get(volume_id))
            and not self._publisher.quarantined(volume_id)
        )

    def _unheard_until(self) -> float:
        """When the grace is over for primaries not heard yet."""
        return self._controller.listening_since + GRACE_S

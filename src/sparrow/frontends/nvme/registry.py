"""Controllers of one node: who has which, and numbers that no other node of a subsystem gives.

A controller identifier has the number of the replica's path (``frontends/paths.py``) in its upper four bits, so that
two nodes of one subsystem never give the same one, whatever members come and go; hosts refuse a path whose identifier
they know from another. The rest counts on from where ``first_serial`` begins: a node that is lost for good, and whose
number another has now, would have to be as far in its count for the two to meet, and a host that is refused then asks
again.
Source: NVMe base 2.0, 3.1.1.2 (dynamic controllers).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sparrow.base.ids import VolumeId
from sparrow.frontends.nvme.admin import IO_QUEUES_MAX, VolumeController
from sparrow.frontends.nvme.connect import CNTLID_DYNAMIC, ConnectRequest, wrong_parameter
from sparrow.frontends.nvme.status import CommandRefused, Status
from sparrow.frontends.paths import PATHS_MAX

_PLACE_SHIFT: Final = 12
_SERIALS: Final = (1 << _PLACE_SHIFT) - 1
assert PATHS_MAX << _PLACE_SHIFT | _SERIALS < 0xFFF0, "identifiers end before FFF0h"


@dataclass(slots=True)
class LivingController:
    """One controller and its I/O queues: queue identifier to the core's key."""

    key: int
    volume_id: VolumeId
    controller: VolumeController
    #: Its host has shown what it must; until then it has no queues.
    proven: bool = True
    queues: dict[int, int] = field(default_factory=dict)


class Registry:
    """Every living controller of this node. ``first_serial`` makes numbers of one start unlike those of the last."""

    def __init__(self, *, first_serial: int = 0) -> None:
        self._living: dict[int, LivingController] = {}
        self._serial = first_serial
        self._key = 0

    def __len__(self) -> int:
        return len(self._living)

    def all(self) -> tuple[LivingController, ...]:
        return tuple(self._living.values())

    def of_volume(self, volume_id: VolumeId) -> tuple[LivingController, ...]:
        return tuple(one for one in self._living.values() if one.volume_id == volume_id)

    def add(
        self, volume_id: VolumeId, connect: ConnectRequest, *, place: int, now: float
    ) -> LivingController:
        """A new controller for an admin Connect; ``place`` is the number of the replica's path.

        Raises:
            CommandRefused: the host wants a certain one, or there are no numbers left.
        """
        assert 1 <= place <= PATHS_MAX
        if connect.cntlid != CNTLID_DYNAMIC:
            raise wrong_parameter(16, in_data=True)
        taken = {one.controller.cntlid for one in self.of_volume(volume_id)}
        if len(taken) >= _SERIALS:
            raise CommandRefused(Status.CONNECT_BUSY, retry=True)
        while True:
            self._serial = self._serial % _SERIALS + 1
            cntlid = place << _PLACE_SHIFT | self._serial
            if cntlid not in taken:
                break
        self._key += 1
        controller = VolumeController(cntlid=cntlid, connect=connect, now=now)
        living = LivingController(self._key, volume_id, controller)
        self._living[self._key] = living
        return living

    def for_queue(self, volume_id: VolumeId, connect: ConnectRequest) -> LivingController:
        """The controller an I/O Connect belongs to. Raises: CommandRefused."""
        for one in self.of_volume(volume_id):
            if one.proven and one.controller.cntlid == connect.cntlid:
                break
        else:
            raise wrong_parameter(16, in_data=True)
        one.controller.check_queue(connect)
        granted = one.controller.features.queues or IO_QUEUES_MAX
        if not 1 <= connect.qid <= granted:
            raise wrong_parameter(42, in_data=False)
        if connect.qid in one.queues:
            raise CommandRefused(Status.SEQUENCE)
        return one

    def remove(self, key: int) -> LivingController | None:
        """Forget a controller; its queues are the caller's to end."""
        return self._living.pop(key, None)


def same_host(one: ConnectRequest, other: ConnectRequest) -> bool:
    """Whether two Connects are of one host: name and identifier."""
    return one.host_nqn == other.host_nqn and one.host_id == other.host_id

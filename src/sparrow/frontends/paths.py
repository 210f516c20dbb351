"""The number of a replica among the paths of its volume.

It is the target port group, portal group tag and relative port of iSCSI, and the ANA group, port identifier and upper
bits of controller identifiers of NVMe: what a client keeps of a path while it is logged in. So it must not change when
other replicas come and go, and two replicas that clients may see at the same time must not share one.

Placement names a replica ``r1``, ``r2`` and so on, the first name that no slot of the volume has, those that are on
their way out included; a slot keeps its name on its node. So the number in the name is the path's. What a lost node may
still tell its clients under a number that was given again is told apart by what follows it (``nvme/registry.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from sparrow.base.ids import ReplicaId

#: More than replicas there ever are at once. NVMe has four bits for it, and ends before 15.
PATHS_MAX: Final = 14
_NUMBERED: Final = re.compile(r"r([1-9][0-9]{0,8})")


def path_number(replica: ReplicaId, members: Iterable[ReplicaId]) -> int:
    """From 1 to ``PATHS_MAX``; of a name without a number it is the place among ``members``, 1 when it is none."""
    numbered = _NUMBERED.fullmatch(replica)
    if numbered is not None:
        place = int(numbered[1])
    else:
        known = sorted(members)
        place = known.index(replica) + 1 if replica in known else 1
    return (place - 1) % PATHS_MAX + 1

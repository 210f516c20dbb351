"""What a master minted for a volume, as its log tells it, and why.

A machine that stands still for a second while a write is under way looks to a node like a disk that hangs, and to a
primary like a slow peer. What follows of that, a hand-over or a replica that is left out for a while, may happen in any
test; a failover may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sparrow.authority.decide import FAILOVER, HAND_OVER
from tests.support.cluster import Cluster

#: How the reasons begin of what follows when everything stood still for a moment.
OF_A_STANDSTILL: Final = (
    HAND_OVER,
    "its acknowledgements take too long",
    "silent for ",
    "caught up",
)

Minted = dict[str, Any]


def minted(cluster: Cluster, volume: str, *, after: int = 0) -> list[Minted]:
    """Lines of a volume in order, but for the first ``after``."""
    return cluster.master.log_events("line.minted", volume=volume)[after:]


def failovers(lines: Sequence[Minted]) -> list[Minted]:
    """Those of a primary that was lost."""
    return [one for one in lines if one["reason"].startswith(f"{FAILOVER}: ")]


def of_a_standstill(line: Minted) -> bool:
    return bool(line["reason"].startswith(OF_A_STANDSTILL))

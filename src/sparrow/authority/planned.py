"""What is planned on nodes: room and replicas by node, of every desired volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from sparrow.authority.types import DesiredVolume
from sparrow.base.ids import NodeId


@dataclass(frozen=True, slots=True)
class Planned:
    """Bytes that replicas may come to take, and how many there are, by node. What leaves counts until it is gone."""

    size_bytes: Counter[NodeId] = field(default_factory=Counter)
    replicas: Counter[NodeId] = field(default_factory=Counter)

    @classmethod
    def of(cls, planned: Iterable[DesiredVolume]) -> Planned:
        made = cls()
        for volume in planned:
            made.count(volume)
        return made

    def count(self, volume: DesiredVolume, times: int = 1) -> None:
        """Add a volume; with -1 take it away again, as it was counted."""
        for node_id in _places(volume):
            self.size_bytes[node_id] += times * volume.size_bytes
            self.replicas[node_id] += times

    def without(self, volume: DesiredVolume) -> Planned:
        """What is planned of all others; ``volume`` as it was counted."""
        left = Planned(Counter(self.size_bytes), Counter(self.replicas))
        left.count(volume, -1)
        return left


def _places(volume: DesiredVolume) -> set[NodeId]:
    return {slot.node_id for slot in volume.slots} | {slot.node_id for slot in volume.leaving}

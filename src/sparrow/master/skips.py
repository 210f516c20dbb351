"""Records that were not believed at start, to be found by volume and in order."""

from __future__ import annotations

from sparrow.authority.ordered import OrderedNames
from sparrow.authority.types import SkippedRecord
from sparrow.base.ids import VolumeId


class Skips:
    """Records of lines, and of what is wanted of volumes.

    Attributes:
        nameless: those of which not even the name could be read. Their places do not change while a master runs.
        names: of all others.
    """

    def __init__(
        self, lines: tuple[SkippedRecord, ...], volumes: tuple[SkippedRecord, ...]
    ) -> None:
        self._of = (lines, volumes)
        self.lines = _by_name(lines)
        self.volumes = _by_name(volumes)
        self.nameless = tuple(one for one in (*lines, *volumes) if one.volume_id is None)
        self.names = OrderedNames([*self.lines, *self.volumes])

    def are_of(self, lines: tuple[SkippedRecord, ...], volumes: tuple[SkippedRecord, ...]) -> bool:
        """Whether this was made of the very tuples."""
        return self._of[0] is lines and self._of[1] is volumes


def _by_name(skips: tuple[SkippedRecord, ...]) -> dict[VolumeId, list[SkippedRecord]]:
    found: dict[VolumeId, list[SkippedRecord]] = {}
    for skip in skips:
        if skip.volume_id is not None:
            found.setdefault(skip.volume_id, []).append(skip)
    return found

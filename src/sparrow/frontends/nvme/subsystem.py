"""A volume as an NVMe subsystem with one namespace, on this node: a frozen value, made anew when something changes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from sparrow.base.constants import PAGE_BYTES
from sparrow.base.ids import VolumeId
from sparrow.frontends.nvme.naming import Identity, identity, subsystem_nqn


class AnaState(IntEnum):
    """Asymmetric namespace access states. Source: NVMe base 2.0, 8.1.2."""

    OPTIMIZED = 0x01
    NON_OPTIMIZED = 0x02
    INACCESSIBLE = 0x03
    PERSISTENT_LOSS = 0x04
    CHANGE = 0x0F


@dataclass(frozen=True, slots=True, kw_only=True)
class Subsystem:
    """Namespace 1 of one subsystem, on this node.

    Attributes:
        cluster_id: tells apart two clusters with a volume of one name at one host; empty while there is none.
        size_bytes: whole 4 KiB pages.
        block_bytes: 512 or 4096.
        ana_group: of this replica, from 1.
        ana_groups_max: groups the subsystem may have.
        failed: the only copy's disk failed.
    """

    volume_id: VolumeId
    cluster_id: str = ""
    size_bytes: int
    block_bytes: int = 512
    ana_state: AnaState = AnaState.OPTIMIZED
    ana_group: int = 1
    ana_groups_max: int = 8
    failed: bool = False

    def __post_init__(self) -> None:
        assert self.size_bytes % PAGE_BYTES == 0
        assert 1 <= self.ana_group <= self.ana_groups_max

    @property
    def nqn(self) -> str:
        return subsystem_nqn(self.volume_id)

    @property
    def identity(self) -> Identity:
        return identity(self.cluster_id, self.volume_id)

    @property
    def blocks(self) -> int:
        """Size in logical blocks."""
        return self.size_bytes // self.block_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What SMART tells of the volume on this node since it was opened."""

    reads: int = 0
    writes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0

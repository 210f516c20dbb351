"""The logical unit as the answers see it: one frozen value per replica, made anew when something changes.

Everything that identifies the unit is derived from the volume (and cluster) id, so that every replica on every node
shows one and the same device; what differs per replica is the port, its group and the state.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import Final

from sparrow.base.constants import PAGE_BYTES
from sparrow.base.ids import VolumeId
from sparrow.frontends.iscsi.naming import target_name

BLOCK_BYTES: Final = (512, 4096)

_NAA_LOCALLY_ASSIGNED: Final = 0x3


class UnitState(Enum):
    """What the gate of the volume allows here, in the words of SCSI.

    Each value names the situation it stands for:
        OPTIMIZED: primary, gate open.
        STANDBY: not primary, and a live primary is known.
        TRANSITIONING: superseded, grants lapsed, or the primary's grant seen to lapse: look again soon.
        WRITES_HELD: primary with fewer replicas in sync than the volume demands; reads go on.
        NO_SPACE: primary without head-room in its pools; reads and overwrites go on.
        FAILED: the only replica, and its disk failed.
    """

    OPTIMIZED = "optimized"
    STANDBY = "standby"
    TRANSITIONING = "transitioning"
    WRITES_HELD = "writes_held"
    NO_SPACE = "no_space"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalUnit:
    """LUN 0 of one target, on this node.

    Attributes:
        cluster_id: told apart two clusters with a volume of one name at one host; empty while there is none.
        size_bytes: whole 4 KiB pages.
        block_bytes: 512 or 4096; the physical block is always 4096.
        port_group: target port group, equal to the portal group tag.
        relative_port: relative target port identifier, unique among the replicas of the volume.
        relative_ports: those of all replicas, the own one among them.
        transfer_pages_max: pages that the longest READ or WRITE of the core may touch.
        compare_bytes_max: of one COMPARE AND WRITE.
        unmap_bytes_max, unmap_ranges_max: of one UNMAP; told there too.
        same_bytes_max: of one WRITE SAME.
        read_only: attached without the right to write.
    """

    volume_id: VolumeId
    cluster_id: str = ""
    size_bytes: int
    block_bytes: int = 512
    state: UnitState = UnitState.OPTIMIZED
    port_group: int = 1
    relative_port: int = 1
    relative_ports: tuple[int, ...] = (1,)
    transfer_pages_max: int = 256
    compare_bytes_max: int = PAGE_BYTES
    unmap_bytes_max: int = 512 << 20
    unmap_ranges_max: int = 64
    same_bytes_max: int = 256 << 20
    read_only: bool = False

    def __post_init__(self) -> None:
        assert self.block_bytes in BLOCK_BYTES
        assert self.size_bytes > 0
        assert self.size_bytes % PAGE_BYTES == 0
        assert 0 < self.port_group < 1 << 16
        assert 0 < self.relative_port < 1 << 16

    @property
    def transfer_bytes_max(self) -> int:
        """The longest READ or WRITE that is taken wherever it begins; told in VPD page B0."""
        unaligned = 0 if self.block_bytes == PAGE_BYTES else 1
        return (self.transfer_pages_max - unaligned) * PAGE_BYTES

    @property
    def blocks_count(self) -> int:
        """Capacity in logical blocks."""
        return self.size_bytes // self.block_bytes

    @property
    def target_name(self) -> str:
        """The iSCSI name of the device the unit belongs to."""
        return target_name(self.volume_id)

    @property
    def serial(self) -> str:
        """Unit serial number: 32 lower-case hex digits."""
        return _identity(self.cluster_id, self.volume_id).hex()[:32]

    @property
    def naa(self) -> bytes:
        """NAA identifier, 8 bytes.

        NAA 3 is the range anyone may assign locally; NAA 5 and 6 would need a company id of the IEEE, which this
        project has none of. 60 bits of a SHA-256 leave collisions to chance at about a thousand million volumes.
        """
        digest = _identity(self.cluster_id, self.volume_id)[16:24]
        return bytes([_NAA_LOCALLY_ASSIGNED << 4 | digest[0] & 0x0F]) + digest[1:]


def _identity(cluster_id: str, volume_id: VolumeId) -> bytes:
    """32 bytes that stand for the volume and nothing else; NUL cannot be part of either id."""
    return hashlib.sha256(f"sparrow\0{cluster_id}\0{volume_id}".encode()).digest()

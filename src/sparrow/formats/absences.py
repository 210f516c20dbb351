"""Absence maps: which granules of a volume changed since a member was last in sync, in self-checked 4 KiB blocks.

Every in-sync replica keeps one map per member outside the in-sync set, so that the map survives a failover. A map is a
row of the superblock (``absence_row``: whom it is of, and the LSN it counts from) and the bits here. A bit is set for
every 64 KiB granule that an entry above ``from_lsn`` touched and that was applied here; it is set before the extents
change and durable before the superblock says that the entry is applied, so the log never lets go of an entry whose bit
could be lost. Bits are never cleared: a map that is not needed any more is dropped with its row.

The file interleaves the rows: block ``n`` of row ``r`` lies at 4096 (4 n + r), so a volume that grows only appends.
A block is valid if and only if ``check`` is the CRC32C of the block with the field zero, seeded with the volume key,
the row's ``generation`` and the block number. A row appears in the superblock only when all its blocks are durable
under its generation, so a block that is not valid is damage, and the whole map is dropped: the member is rebuilt
from everything. What is left of an earlier map in the same place has another generation and is never valid.
"""

from __future__ import annotations

from typing import Final

from sparrow.formats.layout import Constant, Field, Layout

ABSENCES_MAX: Final = Constant("absences_max", 4, "absence maps of one replica")
ABSENCE_GRANULE_PAGES: Final = Constant("absence_granule_pages", 16, "pages of one granule: 64 KiB")
ABSENCE_BLOCK_GRANULES: Final = Constant(
    "absence_block_granules", 32512, "granules of one block: 2,032 MiB of the volume"
)
ABSENCE_FORMAT: Final = Constant("absence_format", 1, "version of the block layout")

ABSENCE_ROW = Layout(
    "absence_row",
    order="le",
    size=32,
    doc="One map, in the superblock. Unused when the uuid is zero; the generation counts the maps kept in this place.",
    fields=(
        Field("uuid", "bytes16", "of the member's files"),
        Field("from_lsn", "u64", "every granule touched by an entry above it has its bit"),
        Field("generation", "u32", "seeds the checksums of the blocks"),
        Field("reserved", "reserved4", "zero"),
    ),
)

ABSENCE_BLOCK = Layout(
    "absence_block",
    order="le",
    size=4096,
    doc="Bits of 32,512 granules.",
    fields=(
        Field("check", "u32", "CRC32C of the block with this field zero, seeded as above"),
        Field("format", "u32", "ABSENCE_FORMAT"),
        Field("block", "u64", "own block number within the row"),
        Field("generation", "u32", "of the row when it was written"),
        Field("reserved", "reserved12", "zero"),
        Field("bits", "bytes4064", "one bit per granule, granule 0 in the lowest bit"),
    ),
)

assert ABSENCE_BLOCK_GRANULES == 8 * ABSENCE_BLOCK.field("bits").size


def absence_blocks(size_bytes: int) -> int:
    """Blocks of one map of a volume of this size."""
    granules = -(-size_bytes // (ABSENCE_GRANULE_PAGES * 4096))
    return -(-granules // ABSENCE_BLOCK_GRANULES)

"""Checksums of the extent file: one CRC32C and one two-bit state per page, in self-checked 4 KiB blocks.

Block ``n`` covers pages ``960 n`` to ``960 n + 959``. States are explicit, never coded in the sum: ``hole`` (never
written), ``zero`` (written as zeros or unmapped), ``data``, ``lost`` (the block was damaged, and no replica could say
what the page holds; a write makes it ``data`` again). Holes and zeros read as zeros without touching the extents.
A block is valid if and only if ``check`` is the CRC32C of the block with the field zero, seeded with the volume key and
the block number, so a block that lands in the wrong place, or turns into zeros, is found out.

A disk writes sectors whole, not blocks: after a loss of power a block that was being written may be old in some
sectors and new in others. So before a checkpoint writes blocks it writes a *list* of them durably, with the check that
each will have, into the list places of the file ``superblock``. A place is valid if and only if magic, format and
``place`` are right, ``count`` is at most 336, and ``check`` is the CRC32C of the place with the field zero, seeded with
the volume key and the number of the place. A valid place counts if and only if all places before it count, the
``state`` of the superblock is not that of a replica being rebuilt, ``applied_lsn`` is that of the superblock (the
checkpoint it belongs to did not come to its end), and the log reaches ``target_lsn``. A block that it names and that is
not valid is then made whole from the log, and believed when it has the check that the list says
(``extent/seals.pyx`` has the argument).
"""

from __future__ import annotations

from typing import Final

from sparrow.formats.layout import Constant, Field, Layout

PAGES_PER_BLOCK: Final = Constant("pages_per_block", 960, "pages covered by one sums block")
PAGE_HOLE: Final = Constant("page_hole", 0, "page state: never written")
PAGE_ZERO: Final = Constant("page_zero", 1, "page state: written as zeros")
PAGE_DATA: Final = Constant("page_data", 2, "page state: data in the extents")
PAGE_LOST: Final = Constant(
    "page_lost", 3, "page state: no good copy was known; reading is an error"
)
SUMS_LIST_MAGIC: Final = Constant("sums_list_magic", 0x4C534D5553, "SUMSL in ASCII, as u64")
SUMS_LIST_FORMAT: Final = Constant("sums_list_format", 1, "version of the layout of a list place")
SUMS_LIST_ROWS: Final = Constant("sums_list_rows", 336, "blocks that one list place can name")
SUMS_LIST_PLACES: Final = Constant("sums_list_places", 16, "list places, each of 4096 bytes")

SUMS_BLOCK = Layout(
    "sums_block",
    order="le",
    size=4096,
    doc="Sums and states of 960 pages.",
    fields=(
        Field(
            "check",
            "u32",
            "CRC32C of the block with this field zero, seeded by volume key and block number",
        ),
        Field("format", "u32", "1"),
        Field("block", "u64", "own block number"),
        Field("states", "bytes240", "two bits per page, page 0 in the lowest bits"),
        Field("sums", "u32[960]", "CRC32C per page, u32 little endian"),
    ),
)

SUMS_LIST = Layout(
    "sums_list",
    order="le",
    size=4096,
    doc="Blocks that a checkpoint is about to write, and what it will write.",
    fields=(
        Field(
            "check",
            "u32",
            "CRC32C of the place with this field zero, seeded by volume key and place",
        ),
        Field("format", "u32", "SUMS_LIST_FORMAT"),
        Field("magic", "u64", "SUMS_LIST_MAGIC"),
        Field("applied_lsn", "u64", "of the superblock before the checkpoint"),
        Field("target_lsn", "u64", "of the superblock after the checkpoint"),
        Field("place", "u32", "own number"),
        Field("count", "u32", "rows in use"),
        Field("reserved1", "reserved24", "zero"),
        Field("blocks", "u64[336]", "numbers of blocks"),
        Field("checks", "u32[336]", "the field check of each, as it will be written"),
    ),
)

assert SUMS_LIST.size == SUMS_BLOCK.size
assert 4 + 4 + 8 + PAGES_PER_BLOCK // 4 + 4 * PAGES_PER_BLOCK == SUMS_BLOCK.size

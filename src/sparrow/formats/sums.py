"""Checksums of the extent file: one CRC32C and one two-bit state per page, in self-checked 4 KiB blocks.

Block ``n`` covers pages ``960 n`` to ``960 n + 959``. States are explicit, never coded in the sum: ``hole`` (never
written), ``zero`` (written as zeros or unmapped), ``data``, ``lost`` (the block was damaged, and no replica could say
what the page holds; a write makes it ``data`` again). Holes and zeros read as zeros without touching the extents.
A block is valid if and only if ``check`` is the CRC32C of the block with the field zero, seeded with the volume key and
the block number, so a block that lands in the wrong place, or turns into zeros, is found out.
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

assert 4 + 4 + 8 + PAGES_PER_BLOCK // 4 + 4 * PAGES_PER_BLOCK == SUMS_BLOCK.size

"""GET LBA STATUS: which blocks are mapped, from runs of pages that the data plane found.

Source: SBC-3, 5.6.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from sparrow.base.constants import PAGE_BYTES
from sparrow.frontends.scsi.sense import LBA_OUT_OF_RANGE, ScsiError
from sparrow.frontends.scsi.unit import LogicalUnit

_MAPPED: Final = 0x00
_DEALLOCATED: Final = 0x01
_DESCRIPTOR: Final = struct.Struct(">QIB3x")
_BLOCKS_MAX: Final = (1 << 32) - 1


def first_page_asked(cdb: bytes, unit: LogicalUnit) -> int:
    """The page that a GET LBA STATUS begins with. Raises: ScsiError: it lies beyond the end."""
    lba = int.from_bytes(cdb[2:10], "big")
    if lba >= unit.blocks_count:
        raise ScsiError(LBA_OUT_OF_RANGE)
    return lba * unit.block_bytes // PAGE_BYTES


def lba_status(cdb: bytes, unit: LogicalUnit, runs: Sequence[tuple[int, bool]]) -> bytes:
    """The parameter data.

    Args:
        runs: pages and whether they hold data, from :func:`first_page_asked` on; at least one.
    """
    lba = int.from_bytes(cdb[2:10], "big")
    per_page = PAGE_BYTES // unit.block_bytes
    page = first_page_asked(cdb, unit)
    body = b""
    for pages, data in runs:
        page += pages
        end = page * per_page
        count = min(end - lba, _BLOCKS_MAX)
        body += _DESCRIPTOR.pack(lba, count, _MAPPED if data else _DEALLOCATED)
        if count == _BLOCKS_MAX:
            break
        lba = end
    return struct.pack(">I4x", 4 + len(body)) + body

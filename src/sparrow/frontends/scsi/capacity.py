"""READ CAPACITY 10 and 16: how many blocks, how long, and how they lie on 4 KiB pages.

Source: SBC-3, 5.16 and 5.17.
"""

from __future__ import annotations

import struct
from typing import Final

from sparrow.base.constants import PAGE_BYTES
from sparrow.frontends.scsi.sense import INVALID_FIELD_IN_CDB, ScsiError
from sparrow.frontends.scsi.unit import LogicalUnit

_LBA_10_MAX: Final = (1 << 32) - 1
_PMI: Final = 0x01
#: In the field of the lowest aligned LBA, which is 0. Source: SBC-3, 5.17.2.
_LBPME: Final = 0x8000
_LBPRZ: Final = 0x4000


def read_capacity_10(cdb: bytes, unit: LogicalUnit) -> bytes:
    """8 bytes; the last LBA reads FFFFFFFFh when only READ CAPACITY 16 can tell it."""
    _check_pmi(cdb, lba=cdb[2:6], pmi=cdb[8])
    return struct.pack(">II", min(unit.blocks_count - 1, _LBA_10_MAX), unit.block_bytes)


def read_capacity_16(cdb: bytes, unit: LogicalUnit) -> bytes:
    """32 bytes: no protection, one exponent for the 4 KiB page; thin, and what is unmapped reads zeros."""
    _check_pmi(cdb, lba=cdb[2:10], pmi=cdb[14])
    return struct.pack(
        ">QIBBHI12x",
        unit.blocks_count - 1,
        unit.block_bytes,
        0,
        blocks_per_page_exponent(unit),
        _LBPME | _LBPRZ,
        0,
    )


def blocks_per_page_exponent(unit: LogicalUnit) -> int:
    """The n of which 2**n logical blocks make one physical block of 4 KiB."""
    return (PAGE_BYTES // unit.block_bytes).bit_length() - 1


def _check_pmi(cdb: bytes, *, lba: bytes, pmi: int) -> None:
    """An LBA without PMI is an error. Source: SBC-2, 5.10.1; obsolete since, still checked by initiators."""
    assert cdb[2 : 2 + len(lba)] == lba
    if any(lba) and not pmi & _PMI:
        raise ScsiError(INVALID_FIELD_IN_CDB.at(2))

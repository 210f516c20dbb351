"""Logical unit numbers: one volume is one target, and its only unit is LUN 0.

Source: SAM-5, 4.7; SPC-4, 6.33 (REPORT LUNS).
"""

from __future__ import annotations

import struct
from typing import Final

from sparrow.frontends.scsi.sense import INVALID_FIELD_IN_CDB, ScsiError

LUN_ZERO: Final = 0
#: LUN 0 in the flat-space form some initiators write. Source: SAM-5, 4.7.7.
_LUN_ZERO_FLAT: Final = 0x40 << 56

_ALLOCATION_BYTES_MIN: Final = 16
_WELL_KNOWN_ONLY: Final = 0x01
_SELECT_REPORTS: Final = (0x00, _WELL_KNOWN_ONLY, 0x02)


def is_lun_zero(lun: int) -> bool:
    """Whether the 8-byte LUN field of a command, read as a big-endian number, means LUN 0."""
    return lun in (LUN_ZERO, _LUN_ZERO_FLAT)


def report_luns(cdb: bytes) -> bytes:
    """Parameter data of REPORT LUNS. Well-known units do not exist here, so asking for only those lists none."""
    select_report = cdb[2]
    if select_report not in _SELECT_REPORTS:
        raise ScsiError(INVALID_FIELD_IN_CDB.at(2))
    if int.from_bytes(cdb[6:10], "big") < _ALLOCATION_BYTES_MIN:
        raise ScsiError(INVALID_FIELD_IN_CDB.at(6))
    luns = b"" if select_report == _WELL_KNOWN_ONLY else struct.pack(">Q", LUN_ZERO)
    return struct.pack(">I4x", len(luns)) + luns

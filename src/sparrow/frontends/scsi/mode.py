"""MODE SENSE 6 and 10: caching, control and informational-exceptions pages.

WCE is 0 because it is true: a write is acknowledged when it is durable, and there is no cache to switch off.
Nothing is changeable and nothing is saved, so there is no MODE SELECT.

Source: SPC-4, 6.11, 6.12, 7.5; SBC-3, 6.4.
"""

from __future__ import annotations

import struct
from typing import Final

from sparrow.frontends.scsi.sense import INVALID_FIELD_IN_CDB, SAVING_NOT_SUPPORTED, ScsiError
from sparrow.frontends.scsi.unit import LogicalUnit

_DBD: Final = 0x08
_LLBAA: Final = 0x10
_WRITE_PROTECTED: Final = 0x80
#: READ and WRITE take DPO and FUA. Source: SBC-3, table 142.
_DPOFUA: Final = 0x10
_BLOCKS_SHORT_MAX: Final = (1 << 32) - 1

_CURRENT, _CHANGEABLE, _DEFAULT, _SAVED = range(4)
_ALL_PAGES: Final = 0x3F
_ALL_SUBPAGES: Final = 0xFF

#: Page code to body, length bytes not included; none has subpages.
PAGES: Final = {
    # Caching: no write cache, reads may be answered from memory. Source: SBC-3, 6.4.5.
    0x08: bytes(18),
    # Control: fixed-format sense, one task set, unrestricted reordering. Source: SPC-4, 7.5.8.
    0x0A: struct.pack(">BBBBHHH", 0x00, 0x10, 0x00, 0x00, 0, 0xFFFF, 0),
    # Informational exceptions: nothing is ever reported (MRIE 0, DEXCPT). Source: SPC-4, 7.5.11.
    0x1C: bytes([0x08]).ljust(10, b"\0"),
}


def mode_sense_6(cdb: bytes, unit: LogicalUnit) -> bytes:
    """4-byte header, a short block descriptor unless DBD, pages."""
    pages = _pages(cdb)
    descriptor = b"" if cdb[1] & _DBD else _short_descriptor(unit)
    total = 3 + len(descriptor) + len(pages)
    assert total <= 0xFF
    header = struct.pack(">BBBB", total, 0, _device_specific(unit), len(descriptor))
    return header + descriptor + pages


def mode_sense_10(cdb: bytes, unit: LogicalUnit) -> bytes:
    """8-byte header, a block descriptor unless DBD (long when LLBAA), pages."""
    pages = _pages(cdb)
    long_lba = bool(cdb[1] & _LLBAA)
    descriptor = b""
    if not cdb[1] & _DBD:
        descriptor = _long_descriptor(unit) if long_lba else _short_descriptor(unit)
    else:
        long_lba = False
    header = struct.pack(
        ">HBBBxH",
        6 + len(descriptor) + len(pages),
        0,
        _device_specific(unit),
        int(long_lba),
        len(descriptor),
    )
    return header + descriptor + pages


def _pages(cdb: bytes) -> bytes:
    control, code, subpage = cdb[2] >> 6, cdb[2] & 0x3F, cdb[3]
    if control == _SAVED:
        raise ScsiError(SAVING_NOT_SUPPORTED)
    if subpage not in (0x00, _ALL_SUBPAGES):
        raise ScsiError(INVALID_FIELD_IN_CDB.at(3))
    if code != _ALL_PAGES and code not in PAGES:
        raise ScsiError(INVALID_FIELD_IN_CDB.at(2, 5))
    chosen = sorted(PAGES) if code == _ALL_PAGES else [code]
    return b"".join(
        # The mask of changeable bits is all zero: nothing is.
        bytes([code, len(PAGES[code])])
        + (bytes(len(PAGES[code])) if control == _CHANGEABLE else PAGES[code])
        for code in chosen
    )


def _device_specific(unit: LogicalUnit) -> int:
    return _DPOFUA | (_WRITE_PROTECTED if unit.read_only else 0)


def _short_descriptor(unit: LogicalUnit) -> bytes:
    """8 bytes. Source: SBC-3, 6.4.2.2."""
    count = min(unit.blocks_count, _BLOCKS_SHORT_MAX)
    return struct.pack(">II", count, unit.block_bytes)


def _long_descriptor(unit: LogicalUnit) -> bytes:
    """16 bytes. Source: SBC-3, 6.4.2.3."""
    return struct.pack(">Q4xI", unit.blocks_count, unit.block_bytes)


assert (_CURRENT, _DEFAULT) == (0, 2), "current and default values are the same here"

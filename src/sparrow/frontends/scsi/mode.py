"""MODE SENSE and MODE SELECT 6 and 10: caching, control and informational-exceptions pages.

WCE is 0 because it is true: a write is acknowledged when it is durable, and there is no cache to switch off.
Nothing is changeable and nothing is saved: MODE SELECT takes the values there are, and no others.

Source: SPC-4, 6.9 to 6.12, 7.5; SBC-3, 6.4.
"""

from __future__ import annotations

import struct
from typing import Final

from sparrow.frontends.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_LIST,
    LIST_LENGTH_ERROR,
    SAVING_NOT_SUPPORTED,
    ScsiError,
)
from sparrow.frontends.scsi.unit import LogicalUnit

_MODE_SELECT_10: Final = 0x55
_PF: Final = 0x10
_SP: Final = 0x01
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


def mode_select(cdb: bytes, data_out: bytes, unit: LogicalUnit) -> None:
    """Take a parameter list that changes nothing.

    Args:
        data_out: what came; less than the CDB tells is a list cut short.
    Raises:
        ScsiError: saving was asked for, or the list is cut short, or would change something.
    """
    long = cdb[0] == _MODE_SELECT_10
    if not cdb[1] & _PF:
        raise ScsiError(INVALID_FIELD_IN_CDB.at(1, 4))
    if cdb[1] & _SP:
        raise ScsiError(INVALID_FIELD_IN_CDB.at(1, 0))
    length = int.from_bytes(cdb[7:9], "big") if long else cdb[4]
    if length == 0:
        return
    given = data_out[:length]
    head = 8 if long else 4
    if len(given) < length or length < head:
        raise ScsiError(LIST_LENGTH_ERROR)
    # The mode data length is reserved here; medium type is 0 and write protection is not the initiator's to set.
    if given[2 if long else 1] != 0:
        raise ScsiError(INVALID_FIELD_IN_LIST.in_list(2 if long else 1))
    long_lba = long and bool(given[4] & 1)
    descriptor = int.from_bytes(given[6:8], "big") if long else given[3]
    if descriptor not in (0, 16 if long_lba else 8):
        raise ScsiError(INVALID_FIELD_IN_LIST.in_list(6 if long else 3))
    if len(given) < head + descriptor:
        raise ScsiError(LIST_LENGTH_ERROR)
    if descriptor:
        _check_descriptor(given[head : head + descriptor], head, unit)
    _check_pages(given, head + descriptor)


def _check_descriptor(given: bytes, at: int, unit: LogicalUnit) -> None:
    """Its blocks may be as many as there are, or 0 or all ones, which leave them as they are (SBC-3, 6.4.2)."""
    long = len(given) == 16
    count = int.from_bytes(given[:8] if long else given[:4], "big")
    kept = (0, unit.blocks_count, (1 << (64 if long else 32)) - 1)
    if count not in kept and not (not long and count == min(unit.blocks_count, _BLOCKS_SHORT_MAX)):
        raise ScsiError(INVALID_FIELD_IN_LIST.in_list(at))
    if int.from_bytes(given[12:16] if long else given[5:8], "big") != unit.block_bytes:
        raise ScsiError(INVALID_FIELD_IN_LIST.in_list(at + (12 if long else 5)))


def _check_pages(given: bytes, at: int) -> None:
    while at < len(given):
        if len(given) < at + 2:
            raise ScsiError(LIST_LENGTH_ERROR)
        # PS is reserved in MODE SELECT; SPF would say that it is a subpage.
        code, length = given[at] & 0x7F, given[at + 1]
        page = PAGES.get(code)
        if page is None:
            raise ScsiError(INVALID_FIELD_IN_LIST.in_list(at))
        if length != len(page):
            raise ScsiError(INVALID_FIELD_IN_LIST.in_list(at + 1))
        body = given[at + 2 : at + 2 + length]
        if len(body) < length:
            raise ScsiError(LIST_LENGTH_ERROR)
        for offset, (wanted, found) in enumerate(zip(page, body, strict=True)):
            if wanted != found:
                raise ScsiError(INVALID_FIELD_IN_LIST.in_list(at + 2 + offset))
        at += 2 + length


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

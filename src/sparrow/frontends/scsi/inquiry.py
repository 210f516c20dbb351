"""INQUIRY: what the unit is, and its vital product data pages.

    00 supported pages     80 serial number          83 identification       86 extended inquiry
    B0 block limits        B1 block characteristics  B2 logical block provisioning

Page 00 lists ``PAGES``, which is also what is served, so the list cannot be wrong. Everything in 80 and in the unit
designators of 83 is the same on every replica; the port designators say which replica it is.

Source: SPC-4, 6.4 and 7.8; SBC-3, 6.5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from sparrow.base.constants import PAGE_BYTES
from sparrow.frontends.scsi.sense import INVALID_FIELD_IN_CDB, ScsiError
from sparrow.frontends.scsi.unit import LogicalUnit

VENDOR: Final = "SPARROW"
PRODUCT: Final = "VOLUME"
REVISION: Final = "0001"

_EVPD: Final = 0x01
_DIRECT_ACCESS: Final = 0x00
#: Qualifier 3, type 1Fh: no unit can be at this LUN. Source: SPC-4, table 173.
_NO_UNIT: Final = 0x7F
_VERSION_SPC_4: Final = 0x06
_HISUP_FORMAT_2: Final = 0x12
_TPGS_IMPLICIT: Final = 0x10
_MULTI_PORT: Final = 0x10
_CMDQUE: Final = 0x02
#: SAM-5, SPC-4, SBC-3, iSCSI; no version claimed. Source: SPC-4, annex D.
_VERSION_DESCRIPTORS: Final = (0x00A0, 0x0460, 0x04C0, 0x0960)

#: Block limits: WRITE SAME of no blocks is refused; the unmap alignment, which is 0, counts. Source: SBC-3, 6.5.3.
_WSNZ: Final = 0x01
_UGAVALID: Final = 0x80000000
#: Logical block provisioning. Source: SBC-3, 6.5.4.
_LBPU: Final = 0x80
_LBPWS: Final = 0x40
_LBPWS10: Final = 0x20
_LBPRZ: Final = 0x04
_THIN: Final = 0x02

# Code sets, designator types, associations, protocol. Source: SPC-4, 7.8.6.
_BINARY: Final = 1
_ASCII: Final = 2
_UTF_8: Final = 3
_T10_VENDOR: Final = 1
_NAA: Final = 3
_RELATIVE_PORT: Final = 4
_PORT_GROUP: Final = 5
_SCSI_NAME: Final = 8
_OF_UNIT: Final = 0
_OF_PORT: Final = 1
_OF_DEVICE: Final = 2
_PROTOCOL_ISCSI: Final = 5


def inquiry(cdb: bytes, unit: LogicalUnit) -> bytes:
    """Standard data, or the page asked for."""
    page = cdb[2]
    if not cdb[1] & _EVPD:
        if page:
            raise ScsiError(INVALID_FIELD_IN_CDB.at(2))
        return _standard(_DIRECT_ACCESS)
    if page not in PAGES:
        raise ScsiError(INVALID_FIELD_IN_CDB.at(2))
    return _page(_DIRECT_ACCESS, page, PAGES[page](unit))


def inquiry_without_unit(cdb: bytes) -> bytes:
    """The answer at a LUN that does not exist: qualifier 3, and no page but the list of pages."""
    if cdb[2]:
        raise ScsiError(INVALID_FIELD_IN_CDB.at(2))
    if cdb[1] & _EVPD:
        return _page(_NO_UNIT, 0x00, bytes([0x00]))
    return _standard(_NO_UNIT)


def _standard(peripheral: int) -> bytes:
    """96 bytes. Source: SPC-4, 6.4.2."""
    head = struct.pack(
        ">BBBBBBBB8s16s4s",
        peripheral,
        0,
        _VERSION_SPC_4,
        _HISUP_FORMAT_2,
        96 - 5,
        _TPGS_IMPLICIT,
        _MULTI_PORT,
        _CMDQUE,
        _padded(VENDOR, 8),
        _padded(PRODUCT, 16),
        _padded(REVISION, 4),
    )
    versions = struct.pack(f">{len(_VERSION_DESCRIPTORS)}H", *_VERSION_DESCRIPTORS)
    return (head.ljust(58, b"\0") + versions).ljust(96, b"\0")


def _page(peripheral: int, page: int, body: bytes) -> bytes:
    return struct.pack(">BBH", peripheral, page, len(body)) + body


def _supported_pages(_unit: LogicalUnit) -> bytes:
    return bytes(sorted(PAGES))


def _serial_number(unit: LogicalUnit) -> bytes:
    return unit.serial.encode("ascii")


def _identification(unit: LogicalUnit) -> bytes:
    """The unit (NAA, vendor id and serial), the port (number, group, name), the device (name)."""
    name = unit.target_name
    return b"".join(
        (
            _designator(_OF_UNIT, _NAA, _BINARY, unit.naa),
            _designator(
                _OF_UNIT, _T10_VENDOR, _ASCII, _padded(VENDOR, 8) + unit.serial.encode("ascii")
            ),
            _designator(_OF_PORT, _RELATIVE_PORT, _BINARY, struct.pack(">2xH", unit.relative_port)),
            _designator(_OF_PORT, _PORT_GROUP, _BINARY, struct.pack(">2xH", unit.port_group)),
            _designator(_OF_PORT, _SCSI_NAME, _UTF_8, _name(f"{name},t,0x{unit.port_group:04x}")),
            _designator(_OF_DEVICE, _SCSI_NAME, _UTF_8, _name(name)),
        )
    )


def _designator(association: int, kind: int, code_set: int, value: bytes) -> bytes:
    """Designators of ports and devices say the protocol they belong to, those of units have none."""
    protocol, piv = (0, 0) if association == _OF_UNIT else (_PROTOCOL_ISCSI << 4, 0x80)
    return (
        struct.pack(">BBxB", protocol | code_set, piv | association << 4 | kind, len(value)) + value
    )


def _name(text: str) -> bytes:
    """A SCSI name string: NUL-terminated, padded to four bytes. Source: SPC-4, 7.8.6.11."""
    raw = text.encode() + b"\0"
    return raw + bytes(-len(raw) % 4)


def _extended(_unit: LogicalUnit) -> bytes:
    """Simple task attribute only; no protection information, no volatile cache. Source: SPC-4, 7.8.7."""
    return bytes([0x00, 0x01]).ljust(60, b"\0")


def _block_limits(unit: LogicalUnit) -> bytes:
    """What the core likes and takes. Source: SBC-4, 6.6.4.

    Every WRITE up to the longest transfer is one entry of the log, so all of it is there after a crash or none: the
    longest atomic write is as long, at any alignment, and knows no boundary.
    """
    per_page = PAGE_BYTES // unit.block_bytes
    transfer_max = unit.transfer_bytes_max // unit.block_bytes
    return struct.pack(
        ">BBHIIIIIIIQIIIII",
        _WSNZ,
        unit.compare_bytes_max // unit.block_bytes,
        per_page,
        transfer_max,
        transfer_max,
        0,
        unit.unmap_bytes_max // unit.block_bytes,
        unit.unmap_ranges_max,
        # One block need not be told, and QEMU (as of 9.1) stumbles over it with blocks of 4096 bytes.
        per_page if per_page > 1 else 0,
        _UGAVALID,
        unit.same_bytes_max // unit.block_bytes,
        transfer_max,
        1,
        1,
        0,
        0,
    )


def _characteristics(_unit: LogicalUnit) -> bytes:
    """Non-rotating. Source: SBC-3, 6.5.2."""
    return struct.pack(">H", 0x0001).ljust(60, b"\0")


def _provisioning(_unit: LogicalUnit) -> bytes:
    """Thin; UNMAP and both WRITE SAME unmap, and what is unmapped reads zeros. Source: SBC-3, 6.5.4."""
    return bytes([0, _LBPU | _LBPWS | _LBPWS10 | _LBPRZ, _THIN, 0])


PAGES: Final[dict[int, Callable[[LogicalUnit], bytes]]] = {
    0x00: _supported_pages,
    0x80: _serial_number,
    0x83: _identification,
    0x86: _extended,
    0xB0: _block_limits,
    0xB1: _characteristics,
    0xB2: _provisioning,
}


def _padded(text: str, size: int) -> bytes:
    raw = text.encode("ascii").ljust(size)
    assert len(raw) == size
    return raw

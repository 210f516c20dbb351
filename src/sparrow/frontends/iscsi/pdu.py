"""Framing of iSCSI PDUs: 48-byte basic header segment, additional headers, data, padding to four bytes.

    byte 0      . I opcode(6)          I = immediate delivery
    byte 1      flags, by opcode
    byte 4      TotalAHSLength         in words of four bytes
    byte 5-7    DataSegmentLength      in bytes, padding not counted
    byte 16-19  Initiator Task Tag
    then        AHS, data segment, 0 to 3 bytes of padding

Bits the standard reserves are written as zero and ignored on reading (RFC 7143, 11.1). Digests are not framed
here: they start with the full-feature phase, where the native core frames, and discovery sessions decline them.

Source: RFC 7143, 11.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from sparrow.frontends.iscsi.errors import MalformedPdu

BHS_BYTES: Final = 48
#: What either side may send before MaxRecvDataSegmentLength was declared, and throughout login (13.12).
SEGMENT_BYTES_DEFAULT: Final = 8192
#: The tag that means "no tag".
RESERVED_TAG: Final = 0xFFFFFFFF

IMMEDIATE: Final = 0x40
FINAL: Final = 0x80
CONTINUE: Final = 0x40
TRANSIT: Final = 0x80

_OPCODE_MASK: Final = 0x3F
_TAG_AT: Final = struct.Struct(">16xI")


class Opcode(IntEnum):
    """Source: RFC 7143, 11.2.1.2."""

    NOP_OUT = 0x00
    SCSI_COMMAND = 0x01
    TASK_MANAGEMENT_REQUEST = 0x02
    LOGIN_REQUEST = 0x03
    TEXT_REQUEST = 0x04
    DATA_OUT = 0x05
    LOGOUT_REQUEST = 0x06
    SNACK = 0x10
    NOP_IN = 0x20
    SCSI_RESPONSE = 0x21
    TASK_MANAGEMENT_RESPONSE = 0x22
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    R2T = 0x31
    ASYNC_MESSAGE = 0x32
    REJECT = 0x3F


@dataclass(frozen=True, slots=True, kw_only=True)
class Pdu:
    """One PDU taken apart; ``data`` is without padding.

    Attributes:
        bhs: exactly 48 bytes.
        ahs: additional header segments, a multiple of four bytes.
    """

    bhs: bytes
    ahs: bytes = b""
    data: bytes = b""

    @property
    def opcode(self) -> int:
        """Six bits; may be a value no ``Opcode`` has."""
        return self.bhs[0] & _OPCODE_MASK

    @property
    def immediate(self) -> bool:
        """Delivered outside the CmdSN order."""
        return bool(self.bhs[0] & IMMEDIATE)

    @property
    def task_tag(self) -> int:
        """Initiator Task Tag, at the same place in every PDU."""
        tag: int = _TAG_AT.unpack_from(self.bhs)[0]
        return tag


class PduReader:
    """Cuts a byte stream into PDUs; holds at most one PDU beyond what was fed last.

    A header that announces more data than ``segment_bytes_max``, or more AHS than ``ahs_bytes_max``, is refused
    when its 48 bytes are complete, before anything of the body is kept.
    """

    def __init__(self, *, segment_bytes_max: int, ahs_bytes_max: int = 0) -> None:
        self._segment_bytes_max = segment_bytes_max
        self._ahs_bytes_max = ahs_bytes_max
        self._buffer = bytearray()

    @property
    def buffered_bytes(self) -> int:
        """Bytes received and not yet taken."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Append bytes as they came from the peer."""
        self._buffer += data

    def next_pdu(self) -> Pdu | None:
        """Take the next whole PDU, or None when more bytes are needed.

        Raises:
            MalformedPdu: a length exceeds its limit.
        """
        if len(self._buffer) < BHS_BYTES:
            return None
        ahs_bytes = self._buffer[4] * 4
        data_bytes = int.from_bytes(self._buffer[5:8], "big")
        if ahs_bytes > self._ahs_bytes_max:
            raise MalformedPdu(
                f"{ahs_bytes} bytes of additional header where {self._ahs_bytes_max} are allowed"
            )
        if data_bytes > self._segment_bytes_max:
            raise MalformedPdu(
                f"data segment of {data_bytes} bytes where {self._segment_bytes_max} are allowed"
            )
        data_at = BHS_BYTES + ahs_bytes
        end = data_at + data_bytes + padding(data_bytes)
        if len(self._buffer) < end:
            return None
        pdu = Pdu(
            bhs=bytes(self._buffer[:BHS_BYTES]),
            ahs=bytes(self._buffer[BHS_BYTES:data_at]),
            data=bytes(self._buffer[data_at : data_at + data_bytes]),
        )
        del self._buffer[:end]
        return pdu

    def take_rest(self) -> bytes:
        """Take every byte not yet consumed: what the next owner of the connection must be given."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest


def padding(data_bytes: int) -> int:
    """Bytes that follow a data segment so that it ends on a multiple of four."""
    return -data_bytes % 4


def frame(bhs: bytes | bytearray, data: bytes = b"") -> bytes:
    """One PDU on the wire: fills DataSegmentLength into the header and pads the data."""
    assert len(bhs) == BHS_BYTES
    assert len(data) < 1 << 24
    header = bytearray(bhs)
    header[5:8] = len(data).to_bytes(3, "big")
    return bytes(header) + data + bytes(padding(len(data)))

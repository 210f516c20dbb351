"""PDUs, sense and commands as the initiator of the tests knows them, written apart from the product.

Source: RFC 7143; SPC-4; SBC-3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

BHS_BYTES: Final = 48
NO_TAG: Final = 0xFFFFFFFF
#: What we declare for ourselves.
SEGMENT_BYTES_MAX: Final = 262144

NOP_OUT, SCSI_COMMAND, LOGIN, TEXT, DATA_OUT, LOGOUT = 0x00, 0x01, 0x03, 0x04, 0x05, 0x06
NOP_IN, SCSI_RESPONSE, LOGIN_RESPONSE, TEXT_RESPONSE, DATA_IN = 0x20, 0x21, 0x23, 0x24, 0x25
LOGOUT_RESPONSE, R2T, ASYNC, REJECT = 0x26, 0x31, 0x32, 0x3F
#: UNIT ATTENTION, power on; UNIT ATTENTION, I_T nexus loss occurred.
GREETINGS: Final = ((0x06, 0x29, 0x00), (0x06, 0x29, 0x07))
IMMEDIATE: Final = 0x40
FINAL: Final = 0x80


class ScsiError(Exception):
    """The target answered a command with something other than GOOD."""

    def __init__(self, status: int, key: int = 0, asc: int = 0, ascq: int = 0) -> None:
        super().__init__(f"status {status:02x}h sense {key:x}h {asc:02x}h/{ascq:02x}h")
        self.status = status
        self.key = key
        self.asc = asc
        self.ascq = ascq


class LoginError(ConnectionError):
    """The target refused the login, with this class and detail."""

    def __init__(self, status_class: int, status_detail: int) -> None:
        super().__init__(f"login refused: {status_class:02x}h/{status_detail:02x}h")
        self.status = (status_class, status_detail)


class ProtocolViolation(ConnectionError):
    """The target did what the standard forbids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One command that ended.

    Attributes:
        tag: what submit_* gave.
        data: of a read; empty otherwise.
        error: None when the status was GOOD.
        at_s: time.monotonic() when the status was read.
    """

    tag: int
    kind: str
    lba: int = 0
    data: bytes = b""
    error: ScsiError | None = None
    at_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class Command:
    tag: int
    cdb: bytes
    lun: int
    kind: str
    lba: int
    data_out: bytes
    expected_in: int
    data_in: bytearray = field(default_factory=bytearray)
    data_sn: int = 0
    r2t_sn: int = 0


def read_sense(segment: bytes) -> tuple[int, int, int]:
    """Key, ASC and ASCQ out of the data segment of a SCSI Response; zeros when there are none."""
    if len(segment) < 2:
        return 0, 0, 0
    sense = segment[2 : 2 + int.from_bytes(segment[:2], "big")]
    if len(sense) >= 4 and sense[0] & 0x7F in (0x72, 0x73):
        return sense[1] & 0xF, sense[2], sense[3]
    if len(sense) >= 14 and sense[0] & 0x7F in (0x70, 0x71):
        return sense[2] & 0xF, sense[12], sense[13]
    return 0, 0, 0


def distance(start: int, end: int) -> int:
    """Signed steps between two 32-bit serial numbers."""
    return ((end - start + 0x80000000) & 0xFFFFFFFF) - 0x80000000

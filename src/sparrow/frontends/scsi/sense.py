"""Statuses and sense data: what went wrong, as SPC-4 codes, in fixed or descriptor format.

Source: SAM-5, 5.3 (status); SPC-4, 4.5 (sense data), annex D (additional sense codes).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from sparrow.frontends.scsi.unit import UnitState


class Status(IntEnum):
    """Source: SAM-5, 5.3.1."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02
    BUSY = 0x08
    RESERVATION_CONFLICT = 0x18
    TASK_SET_FULL = 0x28
    TASK_ABORTED = 0x40


class SenseKey(IntEnum):
    """Source: SPC-4, table 45."""

    NO_SENSE = 0x0
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    ABORTED_COMMAND = 0xB
    MISCOMPARE = 0xE


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldPointer:
    """Where the illegal field is. Source: SPC-4, 4.5.2.4.2.

    Attributes:
        byte: offset in the CDB, or in the parameter data.
        bit: the most significant bit of the field, None for a whole byte.
    """

    byte: int
    bit: int | None = None
    in_cdb: bool = True

    def encode(self) -> bytes:
        """The three bytes of sense-key-specific data, SKSV set."""
        flags = 0x80 | (0x40 if self.in_cdb else 0)
        if self.bit is not None:
            flags |= 0x08 | self.bit
        return struct.pack(">BH", flags, self.byte)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sense:
    """One condition."""

    key: SenseKey
    asc: int
    ascq: int
    field: FieldPointer | None = None

    def at(self, byte: int, bit: int | None = None) -> Sense:
        """The same condition, pointing at a field of the CDB."""
        return replace(self, field=FieldPointer(byte=byte, bit=bit))

    def in_list(self, byte: int) -> Sense:
        """The same condition, pointing at a byte of the parameter data."""
        return replace(self, field=FieldPointer(byte=byte, in_cdb=False))

    def encode_fixed(self) -> bytes:
        """18 bytes, response code 70h. Source: SPC-4, 4.5.3."""
        pointer = self.field.encode() if self.field else bytes(3)
        return struct.pack(
            ">BBBIB4xBBB3s", 0x70, 0, self.key, 0, 10, self.asc, self.ascq, 0, pointer
        )

    def encode_descriptor(self) -> bytes:
        """8 bytes and one descriptor where a field is named, response code 72h. Source: SPC-4, 4.5.2."""
        descriptor = struct.pack(">BB2x3sx", 0x02, 6, self.field.encode()) if self.field else b""
        return (
            struct.pack(">BBBB3xB", 0x72, self.key, self.asc, self.ascq, len(descriptor))
            + descriptor
        )


NO_SENSE: Final = Sense(key=SenseKey.NO_SENSE, asc=0x00, ascq=0x00)
TRANSITION: Final = Sense(key=SenseKey.NOT_READY, asc=0x04, ascq=0x0A)
STANDBY: Final = Sense(key=SenseKey.NOT_READY, asc=0x04, ascq=0x0B)
INVALID_OPCODE: Final = Sense(key=SenseKey.ILLEGAL_REQUEST, asc=0x20, ascq=0x00)
LBA_OUT_OF_RANGE: Final = Sense(key=SenseKey.ILLEGAL_REQUEST, asc=0x21, ascq=0x00)
INVALID_FIELD_IN_CDB: Final = Sense(key=SenseKey.ILLEGAL_REQUEST, asc=0x24, ascq=0x00)
LIST_LENGTH_ERROR: Final = Sense(key=SenseKey.ILLEGAL_REQUEST, asc=0x1A, ascq=0x00)
INVALID_FIELD_IN_LIST: Final = Sense(key=SenseKey.ILLEGAL_REQUEST, asc=0x26, ascq=0x00)
INVALID_RELEASE: Final = Sense(key=SenseKey.ILLEGAL_REQUEST, asc=0x26, ascq=0x04)
INSUFFICIENT_REGISTRATIONS: Final = Sense(key=SenseKey.ILLEGAL_REQUEST, asc=0x55, ascq=0x04)
LUN_NOT_SUPPORTED: Final = Sense(key=SenseKey.ILLEGAL_REQUEST, asc=0x25, ascq=0x00)
SPACE_ALLOCATION_FAILED: Final = Sense(key=SenseKey.DATA_PROTECT, asc=0x27, ascq=0x07)
SAVING_NOT_SUPPORTED: Final = Sense(key=SenseKey.ILLEGAL_REQUEST, asc=0x39, ascq=0x00)
TIMEOUT_DURING_PROCESSING: Final = Sense(key=SenseKey.ABORTED_COMMAND, asc=0x2E, ascq=0x02)
INTERNAL_TARGET_FAILURE: Final = Sense(key=SenseKey.HARDWARE_ERROR, asc=0x44, ascq=0x00)

#: Why a medium command fails in a state: (reads, writes); None where it does not.
MEDIUM_SENSE: Final[dict[UnitState, tuple[Sense | None, Sense | None]]] = {
    UnitState.OPTIMIZED: (None, None),
    UnitState.STANDBY: (STANDBY, STANDBY),
    UnitState.TRANSITIONING: (TRANSITION, TRANSITION),
    UnitState.WRITES_HELD: (None, TRANSITION),
    UnitState.NO_SPACE: (None, SPACE_ALLOCATION_FAILED),
    UnitState.FAILED: (INTERNAL_TARGET_FAILURE, INTERNAL_TARGET_FAILURE),
}
assert set(MEDIUM_SENSE) == set(UnitState), "every state has its answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScsiAnswer:
    """How one command ended.

    Attributes:
        sense: encoded sense data without the two length bytes iSCSI puts before it; empty with GOOD.
        data_in: already cut to the allocation length of the CDB; the residual against the expected data transfer
            length is the framing side's to compute.
    """

    status: Status = Status.GOOD
    sense: bytes = b""
    data_in: bytes = b""


class ScsiError(Exception):
    """Leaves a command with CHECK CONDITION; caught in ``cold.execute``, never outside."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(f"{sense.key.name} {sense.asc:02x}h/{sense.ascq:02x}h")
        self.sense = sense

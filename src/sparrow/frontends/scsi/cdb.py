"""Command descriptor blocks: their length, and the table of every command the unit serves.

A command is a row; ``REPORT SUPPORTED OPERATION CODES`` is this table told to the initiator, so a row exists when
the command works and not before. Usage bits are those of SPC-4, 6.35.3: a set bit is looked at, and a service
action stands as itself.

Source: SPC-4, 4.2.5 and 6; SBC-3, 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from sparrow.frontends.reservations import SERVED
from sparrow.frontends.reservations.access import Need

CDB_BYTES_MAX: Final = 16
#: By the three group bits of the opcode; groups 3, 6, 7 have no fixed length. Source: SPC-4, 4.2.5.1.
_GROUP_BYTES: Final = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}


class Op(Enum):
    """Operation code and service action (None where the opcode has none)."""

    TEST_UNIT_READY = (0x00, None)
    REQUEST_SENSE = (0x03, None)
    READ_6 = (0x08, None)
    WRITE_6 = (0x0A, None)
    INQUIRY = (0x12, None)
    MODE_SELECT_6 = (0x15, None)
    RESERVE_6 = (0x16, None)
    RELEASE_6 = (0x17, None)
    MODE_SENSE_6 = (0x1A, None)
    START_STOP_UNIT = (0x1B, None)
    PREVENT_ALLOW_MEDIUM_REMOVAL = (0x1E, None)
    READ_CAPACITY_10 = (0x25, None)
    READ_10 = (0x28, None)
    WRITE_10 = (0x2A, None)
    WRITE_AND_VERIFY_10 = (0x2E, None)
    VERIFY_10 = (0x2F, None)
    PRE_FETCH_10 = (0x34, None)
    SYNCHRONIZE_CACHE_10 = (0x35, None)
    WRITE_SAME_10 = (0x41, None)
    UNMAP = (0x42, None)
    MODE_SELECT_10 = (0x55, None)
    MODE_SENSE_10 = (0x5A, None)
    READ_KEYS = (0x5E, 0x00)
    READ_RESERVATION = (0x5E, 0x01)
    REPORT_CAPABILITIES = (0x5E, 0x02)
    READ_FULL_STATUS = (0x5E, 0x03)
    REGISTER = (0x5F, 0x00)
    RESERVE = (0x5F, 0x01)
    RELEASE = (0x5F, 0x02)
    CLEAR = (0x5F, 0x03)
    PREEMPT = (0x5F, 0x04)
    PREEMPT_AND_ABORT = (0x5F, 0x05)
    REGISTER_AND_IGNORE = (0x5F, 0x06)
    REGISTER_AND_MOVE = (0x5F, 0x07)
    READ_16 = (0x88, None)
    COMPARE_AND_WRITE = (0x89, None)
    WRITE_16 = (0x8A, None)
    WRITE_AND_VERIFY_16 = (0x8E, None)
    VERIFY_16 = (0x8F, None)
    PRE_FETCH_16 = (0x90, None)
    SYNCHRONIZE_CACHE_16 = (0x91, None)
    WRITE_SAME_16 = (0x93, None)
    WRITE_ATOMIC_16 = (0x9C, None)
    READ_CAPACITY_16 = (0x9E, 0x10)
    GET_LBA_STATUS = (0x9E, 0x12)
    REPORT_LUNS = (0xA0, None)
    REPORT_TARGET_PORT_GROUPS = (0xA3, 0x0A)
    REPORT_SUPPORTED_OPERATION_CODES = (0xA3, 0x0C)
    READ_12 = (0xA8, None)
    WRITE_12 = (0xAA, None)
    WRITE_AND_VERIFY_12 = (0xAE, None)
    VERIFY_12 = (0xAF, None)

    @property
    def opcode(self) -> int:
        """Byte 0 of the CDB."""
        return int(self.value[0])

    @property
    def service_action(self) -> int | None:
        """Low five bits of byte 1, where the opcode is shared."""
        action: int | None = self.value[1]
        return action


class Place(Enum):
    """Who answers the command."""

    CORE = "core"
    COLD = "cold"
    #: Like COLD, with the states of pages that the data plane was asked for.
    STATES = "states"
    #: Python, with the table of reservations.
    RESERVE = "reserve"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One row.

    Attributes:
        usage: as many bytes as the CDB has.
        any_state: answered whatever the state of the unit (SPC-4, 5.15.2.4); the others meet the gate.
        any_lun: answered for a LUN that does not exist (SPC-4, 6.4.1, 6.33, 6.39).
        need: what reservations of others allow it or not; of a command that Python answers (SPC-4, table 66; SBC-3,
            table 13). PERSISTENT RESERVE has rules of its own.
    """

    op: Op
    place: Place
    usage: bytes
    any_state: bool = False
    any_lun: bool = False
    need: Need = Need.NOTHING

    def __post_init__(self) -> None:
        assert self.usage[0] == self.op.opcode
        assert len(self.usage) == cdb_bytes(self.op.opcode)


def cdb_bytes(opcode: int) -> int:
    """Length of the CDB with this opcode; 16 for the groups whose length is not fixed."""
    return _GROUP_BYTES.get(opcode >> 5, CDB_BYTES_MAX)


def _row(
    op: Op,
    place: Place,
    usage: str,
    *,
    any_state: bool = False,
    any_lun: bool = False,
    need: Need = Need.NOTHING,
) -> Command:
    return Command(
        op=op,
        place=place,
        usage=bytes.fromhex(usage),
        any_state=any_state,
        any_lun=any_lun,
        need=need,
    )


_CORE: Final = Place.CORE
_COLD: Final = Place.COLD
_RESERVE: Final = Place.RESERVE

#: In order of opcode and service action.
_ROWS: Final = (
    _row(Op.TEST_UNIT_READY, _CORE, "00 00 00 00 00 00"),
    _row(Op.REQUEST_SENSE, _COLD, "03 01 00 00 ff 00", any_state=True, any_lun=True),
    _row(Op.READ_6, _CORE, "08 1f ff ff ff 00"),
    _row(Op.WRITE_6, _CORE, "0a 1f ff ff ff 00"),
    _row(Op.INQUIRY, _COLD, "12 01 ff ff ff 00", any_state=True, any_lun=True),
    _row(Op.MODE_SELECT_6, _COLD, "15 11 00 00 ff 00", any_state=True, need=Need.WRITE),
    _row(Op.RESERVE_6, _RESERVE, "16 1f 00 00 00 00"),
    _row(Op.RELEASE_6, _RESERVE, "17 1f 00 00 00 00"),
    _row(Op.MODE_SENSE_6, _COLD, "1a 08 ff ff ff 00", any_state=True, need=Need.READ),
    _row(Op.START_STOP_UNIT, _COLD, "1b 01 00 00 f3 00", need=Need.WRITE),
    _row(Op.PREVENT_ALLOW_MEDIUM_REMOVAL, _COLD, "1e 00 00 00 03 00", need=Need.WRITE),
    _row(Op.READ_CAPACITY_10, _COLD, "25 00 ff ff ff ff 00 00 01 00", any_state=True),
    _row(Op.READ_10, _CORE, "28 18 ff ff ff ff 00 ff ff 00"),
    _row(Op.WRITE_10, _CORE, "2a 18 ff ff ff ff 00 ff ff 00"),
    _row(Op.WRITE_AND_VERIFY_10, _CORE, "2e 10 ff ff ff ff 00 ff ff 00"),
    _row(Op.VERIFY_10, _CORE, "2f 16 ff ff ff ff 00 ff ff 00"),
    _row(Op.PRE_FETCH_10, _CORE, "34 00 ff ff ff ff 00 ff ff 00"),
    _row(Op.SYNCHRONIZE_CACHE_10, _CORE, "35 02 ff ff ff ff 00 ff ff 00"),
    _row(Op.WRITE_SAME_10, _CORE, "41 18 ff ff ff ff 00 ff ff 00"),
    _row(Op.UNMAP, _CORE, "42 01 00 00 00 00 00 ff ff 00"),
    _row(
        Op.MODE_SELECT_10, _COLD, "55 11 00 00 00 00 00 ff ff 00", any_state=True, need=Need.WRITE
    ),
    _row(Op.MODE_SENSE_10, _COLD, "5a 18 ff ff 00 00 00 ff ff 00", any_state=True, need=Need.READ),
    _row(Op.READ_KEYS, _RESERVE, "5e 00 00 00 00 00 00 ff ff 00"),
    _row(Op.READ_RESERVATION, _RESERVE, "5e 01 00 00 00 00 00 ff ff 00"),
    _row(Op.REPORT_CAPABILITIES, _RESERVE, "5e 02 00 00 00 00 00 ff ff 00"),
    _row(Op.READ_FULL_STATUS, _RESERVE, "5e 03 00 00 00 00 00 ff ff 00"),
    _row(Op.REGISTER, _RESERVE, "5f 00 00 00 00 ff ff ff ff 00"),
    _row(Op.RESERVE, _RESERVE, "5f 01 ff 00 00 ff ff ff ff 00"),
    _row(Op.RELEASE, _RESERVE, "5f 02 ff 00 00 ff ff ff ff 00"),
    _row(Op.CLEAR, _RESERVE, "5f 03 00 00 00 ff ff ff ff 00"),
    _row(Op.PREEMPT, _RESERVE, "5f 04 ff 00 00 ff ff ff ff 00"),
    _row(Op.PREEMPT_AND_ABORT, _RESERVE, "5f 05 ff 00 00 ff ff ff ff 00"),
    _row(Op.REGISTER_AND_IGNORE, _RESERVE, "5f 06 00 00 00 ff ff ff ff 00"),
    _row(Op.REGISTER_AND_MOVE, _RESERVE, "5f 07 00 00 00 ff ff ff ff 00"),
    _row(Op.READ_16, _CORE, "88 18 ff ff ff ff ff ff ff ff ff ff ff ff 00 00"),
    _row(Op.COMPARE_AND_WRITE, _CORE, "89 18 ff ff ff ff ff ff ff ff 00 00 00 ff 00 00"),
    _row(Op.WRITE_16, _CORE, "8a 18 ff ff ff ff ff ff ff ff ff ff ff ff 00 00"),
    _row(Op.WRITE_AND_VERIFY_16, _CORE, "8e 10 ff ff ff ff ff ff ff ff ff ff ff ff 00 00"),
    _row(Op.VERIFY_16, _CORE, "8f 16 ff ff ff ff ff ff ff ff ff ff ff ff 00 00"),
    _row(Op.PRE_FETCH_16, _CORE, "90 00 ff ff ff ff ff ff ff ff ff ff ff ff 00 00"),
    _row(Op.SYNCHRONIZE_CACHE_16, _CORE, "91 02 ff ff ff ff ff ff ff ff ff ff ff ff 00 00"),
    _row(Op.WRITE_SAME_16, _CORE, "93 19 ff ff ff ff ff ff ff ff ff ff ff ff 00 00"),
    _row(Op.WRITE_ATOMIC_16, _CORE, "9c 18 ff ff ff ff ff ff ff ff ff ff ff ff 00 00"),
    _row(
        Op.READ_CAPACITY_16,
        _COLD,
        "9e 10 ff ff ff ff ff ff ff ff ff ff ff ff 01 00",
        any_state=True,
    ),
    _row(
        Op.GET_LBA_STATUS,
        Place.STATES,
        "9e 12 ff ff ff ff ff ff ff ff ff ff ff ff 00 00",
        need=Need.READ,
    ),
    _row(
        Op.REPORT_LUNS, _COLD, "a0 00 ff 00 00 00 ff ff ff ff 00 00", any_state=True, any_lun=True
    ),
    _row(
        Op.REPORT_TARGET_PORT_GROUPS, _COLD, "a3 ea 00 00 00 00 ff ff ff ff 00 00", any_state=True
    ),
    _row(
        Op.REPORT_SUPPORTED_OPERATION_CODES,
        _COLD,
        "a3 0c 87 ff ff ff ff ff ff ff 00 00",
        any_state=True,
        need=Need.READ,
    ),
    _row(Op.READ_12, _CORE, "a8 18 ff ff ff ff ff ff ff ff 00 00"),
    _row(Op.WRITE_12, _CORE, "aa 18 ff ff ff ff ff ff ff ff 00 00"),
    _row(Op.WRITE_AND_VERIFY_12, _CORE, "ae 10 ff ff ff ff ff ff ff ff 00 00"),
    _row(Op.VERIFY_12, _CORE, "af 16 ff ff ff ff ff ff ff ff 00 00"),
)

assert {command.op for command in _ROWS} == set(Op), "every operation has its row"

COMMANDS: Final = tuple(row for row in _ROWS if SERVED or row.place is not Place.RESERVE)
BY_OP: Final = {command.op: command for command in COMMANDS}

_BY_CODE: Final = {command.op.value: command for command in COMMANDS}
#: Opcodes that many commands share, told apart by their service action.
SERVICE_ACTION_OPCODES: Final = frozenset(
    command.op.opcode for command in COMMANDS if command.op.service_action is not None
)


def find(opcode: int, service_action: int | None = None) -> Command | None:
    """The row of a command; a service action is ignored where the opcode has none."""
    if opcode not in SERVICE_ACTION_OPCODES:
        service_action = None
    return _BY_CODE.get((opcode, service_action))


def need_of(command: Command, cdb: bytes) -> Need:
    """What reservations of others hold this one command against; two depend on what they ask for.

    Source: SBC-3, table 13 (START STOP UNIT: START 1, no power condition); SPC-4, table 66 (PREVENT 0).
    """
    harmless = {
        Op.START_STOP_UNIT: cdb[4] & 0xF1 == 0x01,
        Op.PREVENT_ALLOW_MEDIUM_REMOVAL: not cdb[4] & 0x03,
    }
    return Need.NOTHING if harmless.get(command.op) else command.need


def lookup(cdb: bytes) -> Command | None:
    """The row of a CDB, None for one the unit does not serve."""
    return find(cdb[0], cdb[1] & 0x1F)

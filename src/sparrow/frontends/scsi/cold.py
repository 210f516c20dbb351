"""Every SCSI command the native core does not answer itself, as one function.

Checks are in the order of SPC-4, 4.5.4 and SAM-5: is the command known, does the LUN exist, may it be served in this
state, are its fields valid. What is not in the table of ``cdb`` does not exist.

Source: SPC-4, 6; SBC-3, 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sparrow.formats.reservations import ReservationTable
from sparrow.frontends.reservations.access import Need, conflicts
from sparrow.frontends.reservations.machine import Change, Refusal
from sparrow.frontends.scsi import cdb as table
from sparrow.frontends.scsi import persistent
from sparrow.frontends.scsi.alua import port_groups, report_target_port_groups
from sparrow.frontends.scsi.capacity import read_capacity_10, read_capacity_16
from sparrow.frontends.scsi.cdb import Command, Op, Place
from sparrow.frontends.scsi.inquiry import inquiry, inquiry_without_unit
from sparrow.frontends.scsi.luns import LUN_ZERO, is_lun_zero, report_luns
from sparrow.frontends.scsi.mode import mode_select, mode_sense_6, mode_sense_10
from sparrow.frontends.scsi.opcodes import report_supported_operation_codes
from sparrow.frontends.scsi.persistent import Asker
from sparrow.frontends.scsi.provisioning import first_page_asked, lba_status
from sparrow.frontends.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_OPCODE,
    LUN_NOT_SUPPORTED,
    MEDIUM_SENSE,
    NO_SENSE,
    TRANSITION,
    ScsiAnswer,
    ScsiError,
    Sense,
    Status,
)
from sparrow.frontends.scsi.unit import LogicalUnit, UnitState

_DESC: Final = 0x01
_LOEJ: Final = 0x02
_NACA: Final = 0x04

#: Another initiator holds the unit, or the key was not that of the one who asked. Source: SAM-5, 5.3.1.
CONFLICT: Final = ScsiAnswer(status=Status.RESERVATION_CONFLICT)

Handler = Callable[[bytes, LogicalUnit], bytes]


def page_wanted(cdb: bytes, unit: LogicalUnit, *, lun: int = LUN_ZERO) -> int | None:
    """The first page whose state must be known to answer this command; None when it can be answered as it is."""
    command = table.lookup(cdb)
    if command is None or command.place is not Place.STATES or not is_lun_zero(lun):
        return None
    try:
        return None if MEDIUM_SENSE[unit.state][0] else first_page_asked(cdb, unit)
    except ScsiError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """The newest table of reservations, and for whom it is looked at."""

    table: ReservationTable
    asker: Asker


def table_wanted(cdb: bytes, unit: LogicalUnit, *, lun: int = LUN_ZERO) -> bool:
    """Must the table of reservations be known to answer this command?

    Reservations count where the volume is served: on a path that does not serve it they are what an older primary left.
    """
    command = table.lookup(cdb)
    if command is None or not is_lun_zero(lun) or MEDIUM_SENSE[unit.state][0] is not None:
        return False
    return command.place is Place.RESERVE or table.need_of(command, cdb) is not Need.NOTHING


def execute(
    cdb: bytes,
    data_out: bytes,
    unit: LogicalUnit,
    *,
    lun: int = LUN_ZERO,
    states: Sequence[tuple[int, bool]] = (),
    reserved: Reserved | None = None,
) -> ScsiAnswer:
    """Answer one command that changes no reservation.

    Args:
        cdb: 6 to 16 bytes; iSCSI always carries 16, zero-padded.
        data_out: what the initiator sent with it; MODE SELECT alone wants any.
        unit: the unit at LUN 0 as it is now.
        lun: the 8-byte LUN field of the command as a big-endian number.
        states: runs of pages and whether they hold data, where :func:`page_wanted` named the first of them.
        reserved: where :func:`table_wanted` wants it.

    A command of the data path is refused as unknown: asking for it here is a mistake of the caller, but a harmless
    one. Bytes of the CDB that are missing count as zero.
    """
    cdb = cdb[: table.CDB_BYTES_MAX].ljust(table.CDB_BYTES_MAX, b"\0")
    try:
        return _execute(cdb, data_out, unit, lun, states=states, reserved=reserved)
    except ScsiError as error:
        return check_condition(error.sense)
    except Refusal:
        return CONFLICT


def changes_reservations(cdb: bytes) -> bool:
    """Is it one for :func:`change_reservations`?"""
    command = table.lookup(cdb)
    return command is not None and command.op in persistent.CHANGES


def carried(cdb: bytes, *, lun: int = LUN_ZERO) -> bool:
    """Is it a command that a path which does not serve passes on to the one that does? Source: SPC-4, 5.15.2.4.4.

    RESERVE(6) and RELEASE(6) are none: what they make ends with the session, which the primary has to know.
    """
    command = table.lookup(cdb)
    if command is None or not is_lun_zero(lun):
        return False
    return command.place is Place.RESERVE and command.op not in (Op.RESERVE_6, Op.RELEASE_6)


def change_reservations(
    cdb: bytes, data_out: bytes, unit: LogicalUnit, reserved: Reserved, *, lun: int = LUN_ZERO
) -> tuple[ScsiAnswer, Change]:
    """What PERSISTENT RESERVE OUT, RESERVE(6) or RELEASE(6) makes of the table.

    The answer may leave once the change is committed; one that is refused changes nothing.
    """
    cdb = cdb[: table.CDB_BYTES_MAX].ljust(table.CDB_BYTES_MAX, b"\0")
    try:
        command = _checked(cdb, unit, lun)
        _check_writable(unit)
        change = persistent.change(
            command.op,
            cdb,
            data_out,
            reserved.table,
            reserved.asker,
            ports=unit.relative_ports,
        )
    except ScsiError as error:
        return check_condition(error.sense), Change()
    except Refusal:
        return CONFLICT, Change()
    return ScsiAnswer(), change


def check_condition(sense: Sense) -> ScsiAnswer:
    """CHECK CONDITION with this sense, in fixed format (D_SENSE is 0)."""
    return ScsiAnswer(status=Status.CHECK_CONDITION, sense=sense.encode_fixed())


def _checked(cdb: bytes, unit: LogicalUnit, lun: int) -> Command:
    """The row of a command that is served here and now. Raises: ScsiError."""
    command = table.lookup(cdb)
    exists = is_lun_zero(lun)
    if not exists and not (command and command.any_lun):
        raise ScsiError(LUN_NOT_SUPPORTED)
    if command is None:
        # A known opcode with an unknown service action is a bad field, not a bad opcode. Source: SPC-4, 4.2.5.
        known = cdb[0] in table.SERVICE_ACTION_OPCODES
        raise ScsiError(INVALID_FIELD_IN_CDB.at(1, 4) if known else INVALID_OPCODE)
    if command.place is Place.CORE and command.op is not Op.TEST_UNIT_READY:
        raise ScsiError(INVALID_OPCODE)
    if cdb[table.cdb_bytes(cdb[0]) - 1] & _NACA:
        raise ScsiError(INVALID_FIELD_IN_CDB.at(table.cdb_bytes(cdb[0]) - 1, 2))
    if exists and not command.any_state and (blocked := MEDIUM_SENSE[unit.state][0]):
        raise ScsiError(blocked)
    return command


def _check_writable(unit: LogicalUnit) -> None:
    """A change is an entry of the log: it waits where writes do, and takes no room in pools. Raises: ScsiError."""
    if unit.state is UnitState.WRITES_HELD:
        raise ScsiError(TRANSITION)


def _execute(
    cdb: bytes,
    data_out: bytes,
    unit: LogicalUnit,
    lun: int,
    *,
    states: Sequence[tuple[int, bool]],
    reserved: Reserved | None,
) -> ScsiAnswer:
    command = _checked(cdb, unit, lun)
    if command.place is Place.RESERVE:
        if reserved is None:
            # It was not served when the table was to be looked at.
            raise ScsiError(TRANSITION)
        data = persistent.report(command.op, reserved.table)
        return ScsiAnswer(data_in=data[: int.from_bytes(cdb[7:9], "big")])
    if reserved is not None and conflicts(
        reserved.table, reserved.asker.nexus, table.need_of(command, cdb)
    ):
        return CONFLICT
    if command.place is Place.STATES:
        data = lba_status(cdb, unit, states)
        return ScsiAnswer(data_in=data[: _allocation_bytes(command.op, cdb)])
    if command.op in (Op.MODE_SELECT_6, Op.MODE_SELECT_10):
        mode_select(cdb, data_out, unit)
        return ScsiAnswer()
    handler = _HANDLERS[command.op] if is_lun_zero(lun) else _WITHOUT_UNIT[command.op]
    return ScsiAnswer(data_in=handler(cdb, unit)[: _allocation_bytes(command.op, cdb)])


def _allocation_bytes(op: Op, cdb: bytes) -> int:
    """How much of the data the initiator wants; the whole of it where the CDB has no such field."""
    place = _ALLOCATION.get(op)
    return int.from_bytes(cdb[place], "big") if place else 1 << 32


def _test_unit_ready(_cdb: bytes, _unit: LogicalUnit) -> bytes:
    """The state was checked before."""
    return b""


def _request_sense(cdb: bytes, unit: LogicalUnit) -> bytes:
    """Why the unit is not ready, or nothing. Unit attentions are the core's to report. Source: SPC-4, 6.39."""
    return _encode_sense(cdb, MEDIUM_SENSE[unit.state][0] or NO_SENSE)


def _request_sense_without_unit(cdb: bytes, _unit: LogicalUnit) -> bytes:
    return _encode_sense(cdb, LUN_NOT_SUPPORTED)


def _encode_sense(cdb: bytes, sense: Sense) -> bytes:
    return sense.encode_descriptor() if cdb[1] & _DESC else sense.encode_fixed()


def _start_stop_unit(cdb: bytes, _unit: LogicalUnit) -> bytes:
    """Accepted without effect, as a volume neither spins nor sleeps; ejecting is refused. Source: SBC-3, 5.25."""
    if not cdb[4] & 0xF0 and cdb[4] & _LOEJ:
        raise ScsiError(INVALID_FIELD_IN_CDB.at(4, 1))
    return b""


def _prevent_allow(cdb: bytes, _unit: LogicalUnit) -> bytes:
    """Nothing can be removed, so both wishes are granted. Source: SBC-3, 5.12."""
    if cdb[4] & 0x03 > 1:
        raise ScsiError(INVALID_FIELD_IN_CDB.at(4, 1))
    return b""


_HANDLERS: Final[dict[Op, Handler]] = {
    Op.TEST_UNIT_READY: _test_unit_ready,
    Op.REQUEST_SENSE: _request_sense,
    Op.INQUIRY: inquiry,
    Op.MODE_SENSE_6: mode_sense_6,
    Op.MODE_SENSE_10: mode_sense_10,
    Op.START_STOP_UNIT: _start_stop_unit,
    Op.PREVENT_ALLOW_MEDIUM_REMOVAL: _prevent_allow,
    Op.READ_CAPACITY_10: read_capacity_10,
    Op.READ_CAPACITY_16: read_capacity_16,
    Op.REPORT_LUNS: lambda cdb, _unit: report_luns(cdb),
    Op.REPORT_TARGET_PORT_GROUPS: lambda cdb, unit: report_target_port_groups(
        cdb, port_groups(unit)
    ),
    Op.REPORT_SUPPORTED_OPERATION_CODES: lambda cdb, _unit: report_supported_operation_codes(cdb),
}
_WITHOUT_UNIT: Final[dict[Op, Handler]] = {
    Op.REQUEST_SENSE: _request_sense_without_unit,
    Op.INQUIRY: lambda cdb, _unit: inquiry_without_unit(cdb),
    Op.REPORT_LUNS: lambda cdb, _unit: report_luns(cdb),
}
_ALLOCATION: Final = {
    Op.REQUEST_SENSE: slice(4, 5),
    Op.INQUIRY: slice(3, 5),
    Op.MODE_SENSE_6: slice(4, 5),
    Op.MODE_SENSE_10: slice(7, 9),
    Op.READ_CAPACITY_16: slice(10, 14),
    Op.GET_LBA_STATUS: slice(10, 14),
    Op.REPORT_LUNS: slice(6, 10),
    Op.REPORT_TARGET_PORT_GROUPS: slice(6, 10),
    Op.REPORT_SUPPORTED_OPERATION_CODES: slice(6, 10),
}
_COLD: Final = {c.op for c in table.COMMANDS if c.place is Place.COLD}
_SELECT: Final = {Op.MODE_SELECT_6, Op.MODE_SELECT_10}
assert set(_HANDLERS) | _SELECT == _COLD | {Op.TEST_UNIT_READY}, (
    "every cold command has its handler"
)
assert {c.op for c in table.COMMANDS if c.place is Place.RESERVE} <= (
    persistent.READS | persistent.CHANGES
)
assert set(_WITHOUT_UNIT) == {c.op for c in table.COMMANDS if c.any_lun}, "and so at any LUN"

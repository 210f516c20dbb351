"""PERSISTENT RESERVE IN and OUT, RESERVE(6) and RELEASE(6): from the wire to the machine of reservations and back.

A registration holds on every path of an initiator and on every replica, so each behaves as if ALL_TG_PT were set,
whether it is or not, and READ FULL STATUS says so. Others that are named, by SPEC_I_PT or REGISTER AND MOVE, are iSCSI
initiator ports, name and ISID; a name alone names no registrant and is refused. A name is compared as its owner gave it
when it logged in, for nothing is done to it there either. The scope is always the logical unit.

Source: SPC-4, 6.15 and 6.16; SPC-2, 7.16 and 7.21; TransportID: SPC-4, 7.6.4.6.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final

from sparrow.formats.reservations import (
    ALL_HOLD,
    RESERVATION_KIND_ISCSI,
    RESERVATION_NONE,
    RESERVATION_REGISTRANTS_MAX,
    ReservationNexus,
    ReservationTable,
)
from sparrow.frontends.iscsi.naming import is_legal_name
from sparrow.frontends.reservations import machine
from sparrow.frontends.reservations.machine import TYPES, Change, Reason, Refusal
from sparrow.frontends.scsi.cdb import Op
from sparrow.frontends.scsi.sense import (
    INSUFFICIENT_REGISTRATIONS,
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_LIST,
    INVALID_RELEASE,
    LIST_LENGTH_ERROR,
    ScsiError,
)

_LIST_BYTES: Final = 24
_SPEC_I_PT: Final = 0x08
_APTPL: Final = 0x01
_ALL_TG_PT: Final = 0x02
_R_HOLDER: Final = 0x01
#: RESERVE(6) for somebody else, or of a part of the unit: obsolete for long.
_THIRD_PARTY_OR_EXTENT: Final = 0x1F
#: CRH, SIP_C, ATP_C, PTPL_C. Source: SPC-4, table 172.
_CAPABLE: Final = 0x10 | 0x08 | 0x04 | 0x01
_TMV: Final = 0x80
#: Types 1, 3, 5, 6, 7 and 8. Source: SPC-4, table 174.
_TYPE_MASK: Final = 0xEA01
_PROTOCOL_ISCSI: Final = 0x5
_FORMAT_PORT: Final = 0x40
_TRANSPORT_ID_BYTES_MIN: Final = 20
_TRANSPORT_ID_HEAD_BYTES: Final = 4
_ISID: Final = re.compile("[0-9A-Fa-f]{12}")
#: Of REGISTER AND MOVE, in byte 17.
_UNREG: Final = 0x02


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who sent the command, and the relative target port it came through."""

    nexus: ReservationNexus
    port: int


def nexus_of(initiator_name: str, isid: bytes) -> ReservationNexus:
    """An iSCSI initiator port, over whichever of our ports it comes. ``isid``: its 6 bytes."""
    assert len(isid) == 6
    return ReservationNexus(
        kind=int(RESERVATION_KIND_ISCSI), identifier=isid.ljust(16, b"\0"), name=initiator_name
    )


# ---------------------------------------------------------------- PERSISTENT RESERVE IN


def report(op: Op, table: ReservationTable) -> bytes:
    """Parameter data of one service action of PERSISTENT RESERVE IN, not cut yet.

    Raises: Refusal: CONFLICT, while RESERVE(6) holds the unit (SPC-2, 5.5.1).
    """
    if table.by_reserve:
        raise Refusal(Reason.CONFLICT)
    return _REPORTS[op](table)


def _read_keys(table: ReservationTable) -> bytes:
    keys = b"".join(struct.pack(">Q", one.key) for one in table.registrants)
    return struct.pack(">II", table.generation, len(keys)) + keys


def _read_reservation(table: ReservationTable) -> bytes:
    if table.type == RESERVATION_NONE:
        return struct.pack(">II", table.generation, 0)
    key = 0
    if table.holder is not None:
        held = table.find(table.holder)
        assert held is not None
        key = held.key
    return struct.pack(">IIQ4xxB2x", table.generation, 16, key, table.type)


def _report_capabilities(table: ReservationTable) -> bytes:
    return struct.pack(">HBBH2x", 8, _CAPABLE, _TMV | int(table.aptpl), _TYPE_MASK)


def _read_full_status(table: ReservationTable) -> bytes:
    body = b""
    for one in table.registrants:
        holder = table.holder == one.nexus or table.type in ALL_HOLD
        transport_id = _transport_id(one.nexus)
        body += struct.pack(
            ">Q4xBB4xHI",
            one.key,
            _ALL_TG_PT | (_R_HOLDER if holder else 0),
            table.type if holder else 0,
            one.port,
            len(transport_id),
        )
        body += transport_id
    return struct.pack(">II", table.generation, len(body)) + body


def _transport_id(nexus: ReservationNexus) -> bytes:
    """An iSCSI initiator port; a host that came over NVMe, for which there is none, is its NQN as a device name."""
    name = nexus.name.encode()
    head = _PROTOCOL_ISCSI
    if nexus.kind == RESERVATION_KIND_ISCSI:
        head |= _FORMAT_PORT
        name += b",i,0x" + nexus.identifier[:6].hex().encode()
    length = max(_TRANSPORT_ID_BYTES_MIN, -(-(len(name) + 1) // 4) * 4)
    return struct.pack(">BxH", head, length) + name.ljust(length, b"\0")


_REPORTS: Final[dict[Op, Callable[[ReservationTable], bytes]]] = {
    Op.READ_KEYS: _read_keys,
    Op.READ_RESERVATION: _read_reservation,
    Op.REPORT_CAPABILITIES: _report_capabilities,
    Op.READ_FULL_STATUS: _read_full_status,
}


# ---------------------------------------------------------------- commands that change it


def change(
    op: Op,
    cdb: bytes,
    data_out: bytes,
    table: ReservationTable,
    asker: Asker,
    *,
    ports: tuple[int, ...],
) -> Change:
    """What one command makes of the table. Raises: ScsiError; Refusal: CONFLICT.

    Args:
        ports: relative target ports that the unit has.
    """
    if op in (Op.RESERVE_6, Op.RELEASE_6):
        if cdb[1] & _THIRD_PARTY_OR_EXTENT:
            raise ScsiError(INVALID_FIELD_IN_CDB.at(1))
        step = machine.reserve_unit if op is Op.RESERVE_6 else machine.release_unit
        return step(table, asker.nexus)
    length = int.from_bytes(cdb[5:9], "big")
    if not _LIST_BYTES <= length <= len(data_out):
        raise ScsiError(LIST_LENGTH_ERROR)
    data_out = data_out[:length]
    if length != _LIST_BYTES and op is not Op.REGISTER_AND_MOVE and not _names_others(op, data_out):
        raise ScsiError(LIST_LENGTH_ERROR)
    try:
        if op is Op.REGISTER_AND_MOVE:
            return _move(data_out, table, asker, ports)
        return _CHANGES[op](cdb, data_out, table, asker)
    except Refusal as refusal:
        if refusal.reason is Reason.CONFLICT:
            raise
        raise ScsiError(_SENSES[refusal.reason]) from None


_SENSES: Final = {
    Reason.FULL: INSUFFICIENT_REGISTRATIONS,
    Reason.OTHER_TYPE: INVALID_RELEASE,
    Reason.NO_KEY: INVALID_FIELD_IN_LIST.in_list(8),
    Reason.NOTHING_HELD: INVALID_FIELD_IN_CDB.at(1, 4),
    Reason.OWN_NEXUS: INVALID_FIELD_IN_LIST.in_list(_LIST_BYTES),
}
assert set(_SENSES) | {Reason.CONFLICT} == set(Reason)


def _keys(data_out: bytes) -> tuple[int, int]:
    """Reservation key and service action reservation key."""
    key, other = struct.unpack_from(">QQ", data_out)
    return key, other


def _kind(cdb: bytes) -> int:
    """The type, of the only scope there is. Raises: ScsiError."""
    if cdb[2] & 0xF0:
        raise ScsiError(INVALID_FIELD_IN_CDB.at(2, 7))
    kind = cdb[2] & 0x0F
    if kind not in TYPES:
        raise ScsiError(INVALID_FIELD_IN_CDB.at(2, 3))
    return kind


def _names_others(op: Op, data_out: bytes) -> bool:
    """SPEC_I_PT, which belongs to REGISTER alone. Raises: ScsiError."""
    if not data_out[20] & _SPEC_I_PT:
        return False
    if op is Op.REGISTER_AND_IGNORE:
        raise ScsiError(INVALID_FIELD_IN_LIST.in_list(20))
    return op is Op.REGISTER


def _register(
    table: ReservationTable, asker: Asker, data_out: bytes, *, ignore: bool = False
) -> Change:
    op = Op.REGISTER_AND_IGNORE if ignore else Op.REGISTER
    named = _names_others(op, data_out)
    key, new_key = _keys(data_out)
    made = machine.register(
        table,
        asker.nexus,
        key=None if ignore else key,
        new_key=new_key,
        aptpl=bool(data_out[20] & _APTPL),
        port=asker.port,
    )
    if made.table is None or not named:
        # Who is not registered and gives up its registration names nobody, whatever it says (SPC-4, table 67).
        return made
    if table.find(asker.nexus) is not None:
        # Registering for others is part of the first registration only (SPC-4, 5.13.7, table 67).
        raise ScsiError(INVALID_FIELD_IN_LIST.in_list(20))
    rows = machine.registered_too(made.table, _others(data_out), key=new_key, port=asker.port)
    return Change(table=rows)


def _move(data_out: bytes, table: ReservationTable, asker: Asker, ports: tuple[int, ...]) -> Change:
    """REGISTER AND MOVE, whose list differs from that of the others. Source: SPC-4, 6.16.4."""
    key, new_key = _keys(data_out)
    flags, port, length = struct.unpack_from(">xBHI", data_out, 16)
    if _LIST_BYTES + length != len(data_out):
        raise ScsiError(LIST_LENGTH_ERROR)
    named = tuple(islice(_transport_ids(data_out, _LIST_BYTES), 2))
    if len(named) != 1:
        raise ScsiError(INVALID_FIELD_IN_LIST.in_list(20))
    if port not in ports:
        raise ScsiError(INVALID_FIELD_IN_LIST.in_list(18))
    return machine.register_and_move(
        table,
        asker.nexus,
        key=key,
        new_key=new_key,
        to=named[0],
        port=port,
        unregister=bool(flags & _UNREG),
        aptpl=bool(flags & _APTPL),
    )


def _others(data_out: bytes) -> tuple[ReservationNexus, ...]:
    """Whom SPEC_I_PT names, each once. Raises: ScsiError; Refusal: FULL, before all of a long list is looked at."""
    at = _LIST_BYTES + 4
    if len(data_out) < at or int.from_bytes(data_out[_LIST_BYTES:at], "big") != len(data_out) - at:
        raise ScsiError(LIST_LENGTH_ERROR)
    named: dict[ReservationNexus, None] = {}
    for nexus in _transport_ids(data_out, at):
        named[nexus] = None
        if len(named) > RESERVATION_REGISTRANTS_MAX:
            raise Refusal(Reason.FULL)
    return tuple(named)


def _transport_ids(data_out: bytes, at: int) -> Iterator[ReservationNexus]:
    """TransportIDs from there to the end of a list. Raises: ScsiError."""
    while at < len(data_out):
        size = int.from_bytes(data_out[at + 2 : at + 4], "big")
        end = at + _TRANSPORT_ID_HEAD_BYTES + size
        if size < _TRANSPORT_ID_BYTES_MIN or size % 4 or end > len(data_out):
            raise ScsiError(INVALID_FIELD_IN_LIST.in_list(min(at + 2, 0xFFFF)))
        text, _, padding = data_out[at + _TRANSPORT_ID_HEAD_BYTES : end].partition(b"\0")
        try:
            name, _, isid = text.decode("utf-8").partition(",i,0x")
        except UnicodeDecodeError:
            # It would name whoever another text, no better, was read as.
            raise ScsiError(INVALID_FIELD_IN_LIST.in_list(min(at, 0xFFFF))) from None
        if (
            data_out[at] != _FORMAT_PORT | _PROTOCOL_ISCSI
            or any(padding)
            or not is_legal_name(name)
            or _ISID.fullmatch(isid) is None
        ):
            raise ScsiError(INVALID_FIELD_IN_LIST.in_list(min(at, 0xFFFF)))
        yield nexus_of(name, bytes.fromhex(isid))
        at = end


def _preempt(
    cdb: bytes, data_out: bytes, table: ReservationTable, asker: Asker, *, abort: bool = False
) -> Change:
    """Also with ABORT: see ``docs/operations/iscsi.md`` for what becomes of commands that are under way."""
    key, victim = _keys(data_out)
    return machine.preempt(table, asker.nexus, key=key, victim=victim, kind=_kind(cdb), abort=abort)


_CHANGES: Final[dict[Op, Callable[[bytes, bytes, ReservationTable, Asker], Change]]] = {
    Op.REGISTER: lambda _cdb, data, table, asker: _register(table, asker, data),
    Op.REGISTER_AND_IGNORE: lambda _cdb, data, table, asker: _register(
        table, asker, data, ignore=True
    ),
    Op.RESERVE: lambda cdb, data, table, asker: machine.reserve(
        table, asker.nexus, key=_keys(data)[0], kind=_kind(cdb)
    ),
    Op.RELEASE: lambda cdb, data, table, asker: machine.release(
        table, asker.nexus, key=_keys(data)[0], kind=_kind(cdb)
    ),
    Op.CLEAR: lambda _cdb, data, table, asker: machine.clear(
        table, asker.nexus, key=_keys(data)[0]
    ),
    Op.PREEMPT: _preempt,
    Op.PREEMPT_AND_ABORT: partial(_preempt, abort=True),
}
READS: Final = frozenset(_REPORTS)
CHANGES: Final = frozenset(_CHANGES) | {Op.REGISTER_AND_MOVE, Op.RESERVE_6, Op.RELEASE_6}

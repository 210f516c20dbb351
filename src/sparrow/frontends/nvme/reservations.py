"""Reservation Register, Acquire, Release and Report: from the wire to the machine of reservations and back.

A registrant is a host: its NQN and Host Identifier, over whichever controller. Host Identifiers have 128 bits, as
fabrics demand, so Report is answered in the extended form only. Controllers are dynamic: a registrant is listed once,
with the controller identifier FFFFh.

Source: NVMe base 2.0, 7.2 (Acquire), 7.3 (Register), 7.4 (Release), 7.5 (Report), 8.19.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from sparrow.formats.nvme import NVME_SQE
from sparrow.formats.reservations import (
    ALL_HOLD,
    RESERVATION_KIND_NVME,
    RESERVATION_NONE,
    ReservationNexus,
    ReservationTable,
)
from sparrow.frontends.nvme.identify import NSID
from sparrow.frontends.nvme.status import CommandRefused, Status
from sparrow.frontends.reservations import machine
from sparrow.frontends.reservations.machine import Change, Reason, Refusal

REGISTER: Final = 0x0D
REPORT: Final = 0x0E
ACQUIRE: Final = 0x11
RELEASE: Final = 0x15
#: Bytes the host sends with each; Report sends none.
DATA_BYTES: Final = {REGISTER: 16, ACQUIRE: 16, RELEASE: 8, REPORT: 0}

#: Types of NVMe, and the same in SCSI. Source: NVMe base 2.0, figure 409.
_KINDS: Final = {1: 1, 2: 3, 3: 5, 4: 6, 5: 7, 6: 8}
_NVME_TYPES: Final = {kind: ours for ours, kind in _KINDS.items()} | {int(RESERVATION_NONE): 0}
_IGNORE_KEY: Final = 0x08
_EXTENDED: Final = 0x01
_DYNAMIC: Final = 0xFFFF
_HOLDS: Final = 0x01
#: CPTPL: leave as it is, switch off, switch on; 1 is reserved.
_PTPL: Final = {0: None, 2: False, 3: True}
_REPORT_HEAD: Final = struct.Struct("<IBHxxB54x")
_REPORT_ROW: Final = struct.Struct("<HB5xQ16s32x")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationCommand:
    """One of the four: its submission queue entry and what came with it."""

    opcode: int
    nsid: int
    cdw10: int
    cdw11: int
    data: bytes

    @classmethod
    def of(cls, head: bytes, data: bytes) -> ReservationCommand:
        """From the first 48 bytes of a submission queue entry: they reach to command dword 11."""
        entry = NVME_SQE.unpack(head.ljust(NVME_SQE.size, b"\0"))
        return cls(
            opcode=entry.number("opcode"),
            nsid=entry.number("nsid"),
            cdw10=entry.number("cdw10"),
            cdw11=entry.number("cdw11"),
            data=data,
        )


def nexus_of(host_nqn: str, host_id: bytes) -> ReservationNexus:
    """The host of a controller."""
    return ReservationNexus(kind=int(RESERVATION_KIND_NVME), identifier=host_id, name=host_nqn)


def report(command: ReservationCommand, table: ReservationTable) -> bytes:
    """Data of Reservation Report, as long as asked for. Raises: CommandRefused."""
    _check_namespace(command)
    if not command.cdw11 & _EXTENDED:
        raise CommandRefused(Status.HOST_ID_FORMAT)
    length = 4 * (command.cdw10 + 1)
    # A reservation by RESERVE(6) has a holder, and no registrant.
    registrants = () if table.by_reserve else table.registrants
    body = _REPORT_HEAD.pack(
        table.generation,
        _NVME_TYPES[table.type],
        len(registrants),
        int(table.aptpl),
    )
    for one in registrants:
        held = table.holder == one.nexus or table.type in ALL_HOLD
        body += _REPORT_ROW.pack(_DYNAMIC, _HOLDS if held else 0, one.key, one.nexus.identifier)
    return body[:length].ljust(min(length, REPORT_BYTES_MAX), b"\0")


#: The longest there is anything to say.
REPORT_BYTES_MAX: Final = 4096
assert _REPORT_HEAD.size + 63 * _REPORT_ROW.size == REPORT_BYTES_MAX


def change(command: ReservationCommand, table: ReservationTable, host: ReservationNexus) -> Change:
    """What Register, Acquire or Release makes of the table. Raises: CommandRefused."""
    _check_namespace(command)
    if len(command.data) < DATA_BYTES[command.opcode]:
        raise CommandRefused(Status.SGL_LENGTH)
    try:
        match command.opcode:
            case 0x0D:
                return _register(command, table, host)
            case 0x11:
                return _acquire(command, table, host)
            case _:
                return _release(command, table, host)
    except Refusal as refusal:
        raise CommandRefused(_STATUSES[refusal.reason]) from None


_STATUSES: Final = {
    Reason.CONFLICT: Status.RESERVATION_CONFLICT,
    # What NVMe has for a controller that can keep no more.
    Reason.FULL: Status.INTERNAL,
    Reason.OTHER_TYPE: Status.INVALID_FIELD,
    Reason.NO_KEY: Status.INVALID_FIELD,
}
#: NVMe moves no reservations.
assert set(_STATUSES) | {Reason.NOTHING_HELD, Reason.OWN_NEXUS} == set(Reason)


def _register(
    command: ReservationCommand, table: ReservationTable, host: ReservationNexus
) -> Change:
    key, new_key = struct.unpack_from("<QQ", command.data)
    ignore = bool(command.cdw10 & _IGNORE_KEY)
    action, cptpl = command.cdw10 & 0x07, command.cdw10 >> 30
    if cptpl not in _PTPL or action > 2:
        raise CommandRefused(Status.INVALID_FIELD)
    own = table.find(host)
    if action == 1:
        if own is None:
            raise Refusal(Reason.CONFLICT)
        new_key = 0
    elif new_key == 0:
        raise CommandRefused(Status.INVALID_FIELD)
    elif action == 0:
        # Registering again with the key one has is no error; with another it is (7.3, RREGA 000b).
        if own is not None and own.key != new_key:
            raise Refusal(Reason.CONFLICT)
        ignore = True
    elif own is None and not ignore:
        raise Refusal(Reason.CONFLICT)
    return machine.register(
        table,
        host,
        key=None if ignore else key,
        new_key=new_key,
        aptpl=_PTPL[cptpl],
    )


def _acquire(
    command: ReservationCommand, table: ReservationTable, host: ReservationNexus
) -> Change:
    """Also with Abort: ``docs/operations/nvme.md`` says what becomes of commands under way."""
    key, victim = struct.unpack_from("<QQ", command.data)
    action = command.cdw10 & 0x07
    if action > 2 or command.cdw10 & _IGNORE_KEY:
        raise CommandRefused(Status.INVALID_FIELD)
    kind = _kind(command)
    if action == 0:
        return machine.reserve(table, host, key=key, kind=kind)
    return machine.preempt(table, host, key=key, victim=victim, kind=kind, abort=action == 2)


def _release(
    command: ReservationCommand, table: ReservationTable, host: ReservationNexus
) -> Change:
    (key,) = struct.unpack_from("<Q", command.data)
    action = command.cdw10 & 0x07
    if action > 1 or command.cdw10 & _IGNORE_KEY:
        raise CommandRefused(Status.INVALID_FIELD)
    if action == 1:
        return machine.clear(table, host, key=key)
    return machine.release(table, host, key=key, kind=_kind(command))


def _kind(command: ReservationCommand) -> int:
    kind = _KINDS.get(command.cdw10 >> 8 & 0xFF)
    if kind is None:
        raise CommandRefused(Status.INVALID_FIELD)
    return kind


def _check_namespace(command: ReservationCommand) -> None:
    if command.nsid != NSID:
        raise CommandRefused(Status.INVALID_NAMESPACE)

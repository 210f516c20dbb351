"""Reservation Register, Acquire, Release, Report as bytes; what they do is in the tests of the machine."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparrow.formats.reservations import (
    ReservationNexus,
    ReservationRegistrant,
    ReservationTable,
    encode_table,
)
from sparrow.frontends.nvme.reservations import (
    ACQUIRE,
    REGISTER,
    RELEASE,
    REPORT,
    ReservationCommand,
    change,
    nexus_of,
    report,
)
from sparrow.frontends.nvme.status import DNR, CommandRefused, Status
from sparrow.frontends.reservations.machine import Change, Notice

A = nexus_of("nqn.2024-01.x:a", bytes(range(16)))
B = nexus_of("nqn.2024-01.x:b", bytes(range(1, 17)))
C = ReservationNexus(kind=1, identifier=bytes(16), name="iqn.c")
EMPTY = ReservationTable()
KEYS = ReservationTable(
    registrants=(
        ReservationRegistrant(nexus=A, key=0xA),
        ReservationRegistrant(nexus=B, key=0xB),
    ),
    generation=3,
)
HELD = replace(KEYS, type=5, holder=A, aptpl=True)


def command(opcode: int, cdw10: int = 0, *values: int, cdw11: int = 0, nsid: int = 1):
    data = struct.pack(f"<{len(values)}Q", *values)
    return ReservationCommand(opcode=opcode, nsid=nsid, cdw10=cdw10, cdw11=cdw11, data=data)


def done(asked: ReservationCommand, table: ReservationTable, host: ReservationNexus) -> Change:
    made = change(asked, table, host)
    if made.table is not None:
        encode_table(made.table)
    return made


def refused(status: Status, asked: ReservationCommand, table=KEYS, host=A) -> None:
    with pytest.raises(CommandRefused) as caught:
        change(asked, table, host)
    assert caught.value.status == status | DNR


def test_the_first_48_bytes_of_an_entry_are_enough() -> None:
    head = struct.pack("<BBHI24xII", REGISTER, 0, 7, 1, 0, 0)
    head = struct.pack("<BBHI32xII", REGISTER, 0x40, 7, 1, 0xC0000002, 5)
    assert len(head) == 48
    found = ReservationCommand.of(head, b"x")
    assert found == ReservationCommand(
        opcode=REGISTER, nsid=1, cdw10=0xC0000002, cdw11=5, data=b"x"
    )


def test_a_host_registers_and_says_whether_it_persists() -> None:
    table = done(command(REGISTER, 3 << 30, 0, 7), EMPTY, A).table
    assert table is not None
    assert table.registrants == (ReservationRegistrant(nexus=A, key=7),)
    assert table.aptpl
    table = done(command(REGISTER, 2 << 30, 0, 7), table, A).table
    assert table is not None
    assert not table.aptpl
    refused(Status.INVALID_FIELD, command(REGISTER, 1 << 30, 0, 7))


def test_registering_again_with_another_key_is_a_conflict() -> None:
    assert done(command(REGISTER, 0, 0, 0xA), KEYS, A).table is not None
    refused(Status.RESERVATION_CONFLICT, command(REGISTER, 0, 0, 9))
    refused(Status.RESERVATION_CONFLICT, command(REGISTER, 8, 0, 9))
    refused(Status.INVALID_FIELD, command(REGISTER, 0, 0, 0))


def test_a_key_is_replaced_by_who_knows_it_or_ignores_it() -> None:
    for cdw10, key in ((2, 0xA), (2 | 8, 99)):
        table = done(command(REGISTER, cdw10, key, 9), KEYS, A).table
        assert table is not None
        assert table.registrants[0].key == 9
    refused(Status.RESERVATION_CONFLICT, command(REGISTER, 2, 99, 9))
    refused(Status.RESERVATION_CONFLICT, command(REGISTER, 2, 0, 9), EMPTY)
    assert done(command(REGISTER, 2 | 8, 0, 9), EMPTY, A).table is not None
    refused(Status.INVALID_FIELD, command(REGISTER, 2, 0xA, 0))


def test_a_host_unregisters() -> None:
    table = done(command(REGISTER, 1, 0xA, 0), KEYS, A).table
    assert table is not None
    assert [one.nexus for one in table.registrants] == [B]
    assert done(command(REGISTER, 1 | 8, 0, 0), KEYS, A).table is not None
    refused(Status.RESERVATION_CONFLICT, command(REGISTER, 1, 9, 0))
    refused(Status.RESERVATION_CONFLICT, command(REGISTER, 1, 0, 0), EMPTY)


@pytest.mark.parametrize(("kind", "scsi"), [(1, 1), (2, 3), (3, 5), (4, 6), (5, 7), (6, 8)])
def test_types_are_those_of_scsi_by_other_numbers(kind: int, scsi: int) -> None:
    table = done(command(ACQUIRE, kind << 8, 0xA, 0), KEYS, A).table
    assert table is not None
    assert table.type == scsi
    body = report(command(REPORT, 1023, cdw11=1), table)
    assert body[4] == kind
    assert done(command(RELEASE, kind << 8, 0xA), table, A).table == KEYS


@pytest.mark.parametrize("action", [1, 2])
def test_preempting_takes_over(action: int) -> None:
    made = done(command(ACQUIRE, action | 1 << 8, 0xB, 0xA), HELD, B)
    assert made.table is not None
    assert (made.table.type, made.table.holder) == (1, B)
    assert made.notices == ((A, Notice.REGISTRATIONS_PREEMPTED),)


def test_clearing_takes_all() -> None:
    made = done(command(RELEASE, 1, 0xB), HELD, B)
    assert made.table == ReservationTable(generation=4, aptpl=True)
    assert made.notices == ((A, Notice.RESERVATIONS_PREEMPTED),)


@pytest.mark.parametrize(
    "asked",
    [
        command(REGISTER, 3, 0, 1),
        command(ACQUIRE, 3 | 1 << 8, 0xA, 0),
        command(ACQUIRE, 8 | 1 << 8, 0xA, 0),
        command(ACQUIRE, 0, 0xA, 0),
        command(ACQUIRE, 7 << 8, 0xA, 0),
        command(ACQUIRE, 1 | 1 << 8, 0xA, 0),
        command(RELEASE, 2 | 1 << 8, 0xA),
        command(RELEASE, 8 | 1 << 8, 0xA),
        command(RELEASE, 0, 0xA),
    ],
)
def test_fields_that_make_no_sense_are_refused(asked: ReservationCommand) -> None:
    refused(Status.INVALID_FIELD, asked)


def test_the_holder_names_the_type_it_releases() -> None:
    refused(Status.INVALID_FIELD, command(RELEASE, 1 << 8, 0xA), HELD)


@pytest.mark.parametrize(
    "asked",
    [
        command(ACQUIRE, 1 << 8, 9, 0),
        command(ACQUIRE, 1 | 1 << 8, 0xA, 9),
        command(RELEASE, 1, 9),
        command(RELEASE, 1 << 8, 9),
    ],
)
def test_a_wrong_key_is_a_conflict(asked: ReservationCommand) -> None:
    refused(Status.RESERVATION_CONFLICT, asked)


@pytest.mark.parametrize("opcode", [REGISTER, ACQUIRE, RELEASE])
def test_data_cut_short_and_other_namespaces_are_refused(opcode: int) -> None:
    refused(Status.SGL_LENGTH, replace(command(opcode, 1 << 8), data=bytes(7)))
    refused(Status.INVALID_NAMESPACE, command(opcode, 1 << 8, 0xA, 0, nsid=2))


def test_a_report_lists_every_registrant() -> None:
    table = replace(HELD, registrants=(*HELD.registrants, ReservationRegistrant(nexus=C, key=0xC)))
    body = report(command(REPORT, 1023, cdw11=1), table)
    assert len(body) == 4096
    assert struct.unpack_from("<IBHxxB", body) == (3, 3, 3, 1)
    rows = [struct.unpack_from("<HB5xQ16s", body, 64 + 64 * n) for n in range(3)]
    assert rows == [
        (0xFFFF, 1, 0xA, A.identifier),
        (0xFFFF, 0, 0xB, B.identifier),
        (0xFFFF, 0, 0xC, C.identifier),
    ]
    assert not any(body[64 * 4 :])
    assert report(command(REPORT, 1, cdw11=1), table) == body[:8]
    assert len(report(command(REPORT, 0xFFFFFFFF, cdw11=1), table)) == 4096


def test_a_report_with_short_host_identifiers_is_refused() -> None:
    with pytest.raises(CommandRefused) as caught:
        report(command(REPORT, 1023), HELD)
    assert caught.value.status == Status.HOST_ID_FORMAT | DNR
    with pytest.raises(CommandRefused):
        report(command(REPORT, 1023, cdw11=1, nsid=2), HELD)


def test_a_unit_held_by_reserve_6_is_reported_as_exclusive_without_registrants() -> None:
    table = ReservationTable(
        registrants=(ReservationRegistrant(nexus=C, key=0),), type=3, holder=C, by_reserve=True
    )
    assert struct.unpack_from("<IBH", report(command(REPORT, 1023, cdw11=1), table)) == (0, 2, 0)
    refused(Status.RESERVATION_CONFLICT, command(REGISTER, 0, 0, 1), table)


@given(
    st.sampled_from([REGISTER, ACQUIRE, RELEASE]),
    st.integers(0, (1 << 32) - 1),
    st.binary(max_size=24),
    st.sampled_from([EMPTY, KEYS, HELD]),
    st.sampled_from([A, B, C]),
)
def test_any_bytes_are_answered(opcode, cdw10, data, table, host) -> None:
    asked = ReservationCommand(opcode=opcode, nsid=1, cdw10=cdw10, cdw11=0, data=data)
    with contextlib.suppress(CommandRefused):
        done(asked, table, host)

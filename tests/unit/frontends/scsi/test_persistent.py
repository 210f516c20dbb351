"""PERSISTENT RESERVE IN and OUT, RESERVE(6), RELEASE(6) as bytes; what they do is in the tests of the machine."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparrow.base.ids import VolumeId
from sparrow.formats.reservations import (
    ReservationNexus,
    ReservationRegistrant,
    ReservationTable,
    encode_table,
)
from sparrow.frontends.reservations.machine import Change
from sparrow.frontends.scsi.cold import (
    Reserved,
    change_reservations,
    changes_reservations,
    execute,
    table_wanted,
)
from sparrow.frontends.scsi.persistent import Asker, nexus_of
from sparrow.frontends.scsi.sense import ScsiAnswer, Status
from sparrow.frontends.scsi.unit import LogicalUnit, UnitState

UNIT = LogicalUnit(
    volume_id=VolumeId("demo"),
    size_bytes=1 << 30,
    port_group=2,
    relative_port=2,
    relative_ports=(1, 2, 3),
)
ISID = bytes.fromhex("00023d000001")
A = nexus_of("iqn.a", ISID)
B = nexus_of("iqn.b", ISID)
HOST = ReservationNexus(kind=2, identifier=bytes(range(16)), name="nqn.2024-01.x:host")
EMPTY = ReservationTable()
HELD = ReservationTable(
    registrants=(
        ReservationRegistrant(nexus=A, key=0xA, port=2),
        ReservationRegistrant(nexus=HOST, key=0xB),
    ),
    generation=9,
    type=5,
    holder=A,
    aptpl=True,
)
READ_KEYS, READ_RESERVATION, CAPABILITIES, FULL_STATUS = range(4)
REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, IGNORE, MOVE = range(8)


def asks(table: ReservationTable, nexus: ReservationNexus = A) -> Reserved:
    return Reserved(table=table, asker=Asker(nexus=nexus, port=3))


def pr_in(
    action: int, table: ReservationTable, *, room: int = 8192, unit: LogicalUnit = UNIT
) -> ScsiAnswer:
    cdb = struct.pack(">BB5xHx", 0x5E, action, room)
    return execute(cdb, b"", unit, reserved=asks(table))


def pr_out(
    action: int,
    table: ReservationTable,
    nexus: ReservationNexus = A,
    *,
    key: int = 0,
    other: int = 0,
    kind: int = 0,
    flags: int = 0,
    length: int = 24,
    unit: LogicalUnit = UNIT,
    lun: int = 0,
):
    cdb = struct.pack(">BBB2xIx", 0x5F, action, kind, length)
    data = struct.pack(">QQ4xB3x", key, other, flags)
    assert changes_reservations(cdb)
    return change_reservations(cdb, data, unit, asks(table, nexus), lun=lun)


def code(answer: ScsiAnswer) -> tuple[int, int, int]:
    assert answer.status is Status.CHECK_CONDITION
    return answer.sense[2], answer.sense[12], answer.sense[13]


def test_keys_are_listed_with_their_generation() -> None:
    assert pr_in(READ_KEYS, EMPTY).data_in == bytes(8)
    assert pr_in(READ_KEYS, HELD).data_in == struct.pack(">IIQQ", 9, 16, 0xA, 0xB)
    assert pr_in(READ_KEYS, HELD, room=8).data_in == struct.pack(">II", 9, 16)


def test_the_reservation_has_its_holders_key_and_none_where_all_hold_it() -> None:
    assert pr_in(READ_RESERVATION, EMPTY).data_in == bytes(8)
    expected = struct.pack(">IIQ5xB2x", 9, 16, 0xA, 5)
    assert pr_in(READ_RESERVATION, HELD).data_in == expected
    everybody = replace(HELD, type=7, holder=None)
    assert pr_in(READ_RESERVATION, everybody).data_in == struct.pack(">IIQ5xB2x", 9, 16, 0, 7)


def test_capabilities_say_what_there_is() -> None:
    assert pr_in(CAPABILITIES, EMPTY).data_in.hex() == "00081d80ea010000"
    assert pr_in(CAPABILITIES, HELD).data_in[3] == 0x81


def test_full_status_names_every_registrant() -> None:
    data = pr_in(FULL_STATUS, HELD).data_in
    assert struct.unpack_from(">II", data) == (9, len(data) - 8)
    key, flags, kind, port, length = struct.unpack_from(">Q4xBB4xHI", data, 8)
    assert (key, flags, kind, port) == (0xA, 0x03, 5, 2)
    transport_id = data[32 : 32 + length]
    assert transport_id[:4] == bytes([0x45, 0, 0, length - 4])
    assert transport_id[4:].rstrip(b"\0") == b"iqn.a,i,0x00023d000001"
    assert length % 4 == 0
    at = 32 + length
    key, flags, kind, _port, length = struct.unpack_from(">Q4xBB4xHI", data, at)
    assert (key, flags, kind) == (0xB, 0x02, 0)
    assert data[at + 28 :].rstrip(b"\0") == HOST.name.encode()
    assert len(data) == at + 24 + length


@pytest.mark.parametrize("action", range(4, 32))
def test_other_service_actions_of_in_are_bad_fields(action: int) -> None:
    assert code(pr_in(action, EMPTY)) == (5, 0x24, 0)


@pytest.mark.parametrize("action", [8, 31])
def test_other_service_actions_of_out_are_bad_fields(action: int) -> None:
    cdb = struct.pack(">BB3xIx", 0x5F, action, 24)
    assert not changes_reservations(cdb)
    assert code(execute(cdb, bytes(24), UNIT)) == (5, 0x24, 0)


def test_registering_takes_the_key_and_aptpl() -> None:
    answer, change = pr_out(REGISTER, EMPTY, other=7, flags=0x01)
    assert answer == ScsiAnswer()
    assert change.table is not None
    assert change.table.registrants == (ReservationRegistrant(nexus=A, key=7, port=3),)
    assert change.table.aptpl
    _, change = pr_out(IGNORE, HELD, key=99, other=7)
    assert change.table is not None
    assert change.table.registrants[0].key == 7
    assert not change.table.aptpl


def test_all_target_ports_may_be_asked_for() -> None:
    answer, change = pr_out(REGISTER, EMPTY, other=7, flags=0x04)
    assert answer == ScsiAnswer()
    assert change.table is not None


# others that are named

ELSEWHERE = nexus_of("iqn.2020-01.com.example:b", bytes.fromhex("00023d0000ff"))
FURTHER = nexus_of("iqn.2020-01.com.example:c", ISID)
ASKS = nexus_of("iqn.2020-01.com.example:a", ISID)
MOVABLE = replace(
    HELD,
    registrants=(ReservationRegistrant(nexus=ASKS, key=0xA, port=2), HELD.registrants[1]),
    holder=ASKS,
)


def transport_id(nexus: ReservationNexus, *, head: int = 0x45) -> bytes:
    text = f"{nexus.name},i,0x{nexus.identifier[:6].hex()}".encode() if head & 0x40 else b"iqn.a"
    size = max(20, -(-(len(text) + 1) // 4) * 4)
    return struct.pack(">BxH", head, size) + text.ljust(size, b"\0")


def with_list(
    action: int, table: ReservationTable, data: bytes, *, length: int | None = None
) -> tuple[ScsiAnswer, Change]:
    cdb = struct.pack(">BBB2xIx", 0x5F, action, 0, len(data) if length is None else length)
    return change_reservations(cdb, data, UNIT, asks(table, ASKS))


def registering(*named: bytes, key: int = 0, new_key: int = 7, flags: int = 0x08) -> bytes:
    ids = b"".join(named)
    return struct.pack(">QQ4xB3xI", key, new_key, flags, len(ids)) + ids


def moving(
    named: bytes, *, key: int = 0xA, new_key: int = 9, flags: int = 0, port: int = 3
) -> bytes:
    return struct.pack(">QQxBHI", key, new_key, flags, port, len(named)) + named


def test_others_are_registered_with_the_one_who_asks() -> None:
    data = registering(transport_id(ELSEWHERE), transport_id(FURTHER), transport_id(ASKS))
    answer, change = with_list(REGISTER, EMPTY, data)
    assert answer == ScsiAnswer()
    assert change.table is not None
    assert change.table.registrants == tuple(
        ReservationRegistrant(nexus=one, key=7, port=3) for one in (ASKS, ELSEWHERE, FURTHER)
    )
    assert change.table.generation == 1, "one command"


def test_who_has_a_key_keeps_it_when_others_register_for_it() -> None:
    has = ReservationTable(registrants=(ReservationRegistrant(nexus=ELSEWHERE, key=1, port=1),))
    _, change = with_list(REGISTER, has, registering(transport_id(ELSEWHERE)))
    assert change.table is not None
    assert [(one.nexus, one.key) for one in change.table.registrants] == [(ELSEWHERE, 1), (ASKS, 7)]


def test_all_are_registered_or_none() -> None:
    rows = tuple(ReservationRegistrant(nexus=nexus_of(f"iqn.{n}", ISID), key=1) for n in range(62))
    full = ReservationTable(registrants=rows)
    answer, change = with_list(REGISTER, full, registering(transport_id(ELSEWHERE)))
    assert code(answer) == (5, 0x55, 4)
    assert change.table is None
    assert with_list(REGISTER, full, registering())[0] == ScsiAnswer()


def test_registering_for_others_is_part_of_the_first_registration() -> None:
    named = transport_id(ELSEWHERE)
    for new_key in (0, 7):
        data = registering(named, key=0xA, new_key=new_key)
        assert code(with_list(REGISTER, MOVABLE, data)[0]) == (5, 0x26, 0)
    conflict, _ = with_list(REGISTER, MOVABLE, registering(named, key=1))
    assert conflict.status is Status.RESERVATION_CONFLICT
    assert code(with_list(IGNORE, EMPTY, registering(named))[0]) == (5, 0x26, 0)


@pytest.mark.parametrize("named", [transport_id(ELSEWHERE), b"no name of anybody.."])
def test_who_has_nothing_to_give_up_names_nobody(named: bytes) -> None:
    """SPC-4, table 67: SPEC_I_PT is ignored, and nothing is done. Persistence through loss of power stays too."""
    data = registering(named, new_key=0, flags=0x09)
    for table in (EMPTY, HELD):
        assert with_list(REGISTER, table, data) == (ScsiAnswer(), Change())


def test_a_list_of_more_names_than_there_are_places_is_not_read_to_its_end() -> None:
    named = [transport_id(nexus_of(f"iqn.2020-01.n{n}", ISID)) for n in range(64)]
    assert code(with_list(REGISTER, EMPTY, registering(*named, b"\x45"))[0]) == (5, 0x55, 4)
    # Who is named often counts once, and 63 are what there is place for, the one who asks among them.
    often = [*named[:62], transport_id(ASKS)] * 2
    answer, change = with_list(REGISTER, EMPTY, registering(*often))
    assert answer == ScsiAnswer()
    assert change.table is not None
    assert len(change.table.registrants) == 63
    assert code(with_list(MOVE, MOVABLE, moving(named[0] + named[1] + b"\x45"))[0]) == (5, 0x26, 0)


BAD_IDS = [
    transport_id(ELSEWHERE).replace(b"example", b"examp\xff\xfe"),
    transport_id(ELSEWHERE, head=0x05),
    transport_id(ELSEWHERE, head=0x46),
    transport_id(ELSEWHERE)[:-4],
    transport_id(ELSEWHERE)[:-1] + b"x",
    transport_id(ELSEWHERE).replace(b",i,0x", b",i,1x"),
    transport_id(ELSEWHERE).replace(b"00ff", b"00fg"),
    transport_id(ELSEWHERE).replace(b"iqn", b"iqm"),
    struct.pack(">BxH", 0x45, 16) + bytes(16),
    b"\x45",
]


@pytest.mark.parametrize("named", BAD_IDS)
def test_a_name_that_is_no_initiator_port_is_a_bad_list(named: bytes) -> None:
    good = transport_id(ELSEWHERE)
    assert code(with_list(REGISTER, EMPTY, registering(good, named))[0]) == (5, 0x26, 0)
    assert code(with_list(MOVE, MOVABLE, moving(named))[0]) == (5, 0x26, 0)


@pytest.mark.parametrize("by", [-1, 1, 4])
def test_lists_are_as_long_as_they_say(by: int) -> None:
    for action, table, data in (
        (REGISTER, EMPTY, registering(transport_id(ELSEWHERE))),
        (MOVE, MOVABLE, moving(transport_id(ELSEWHERE))),
    ):
        wrong = (data + bytes(8))[: len(data) + by]
        assert code(with_list(action, table, wrong)[0]) == (5, 0x1A, 0)
        assert code(with_list(action, table, data[:-1], length=len(data))[0]) == (5, 0x1A, 0)


@pytest.mark.parametrize("unregister", [False, True])
def test_a_reservation_moves_to_another_initiator(unregister: bool) -> None:
    data = moving(transport_id(ELSEWHERE), flags=0x02 if unregister else 0)
    answer, change = with_list(MOVE, MOVABLE, data)
    assert answer == ScsiAnswer()
    table = change.table
    assert table is not None
    assert (table.holder, table.type, table.generation) == (ELSEWHERE, 5, 10)
    assert table.find(ELSEWHERE) == ReservationRegistrant(nexus=ELSEWHERE, key=9, port=3)
    assert (table.find(ASKS) is None) is unregister
    assert change.notices == ()
    assert not table.aptpl
    assert with_list(MOVE, MOVABLE, moving(transport_id(ELSEWHERE), flags=1))[1].table.aptpl


def test_what_cannot_be_moved_says_why() -> None:
    to = transport_id(ELSEWHERE)
    conflict = ScsiAnswer(status=Status.RESERVATION_CONFLICT)
    assert with_list(MOVE, EMPTY, moving(to))[0] == conflict, "no registrant"
    assert with_list(MOVE, MOVABLE, moving(to, key=1))[0] == conflict
    assert with_list(MOVE, replace(MOVABLE, holder=HOST), moving(to))[0] == conflict
    assert with_list(MOVE, replace(MOVABLE, type=7, holder=None), moving(to))[0] == conflict
    assert code(with_list(MOVE, replace(MOVABLE, type=0, holder=None), moving(to))[0]) == (
        5,
        0x24,
        0,
    )
    for data in (
        moving(to, new_key=0),
        moving(to, port=4),
        moving(transport_id(ASKS)),
        moving(to + to),
        moving(b""),
    ):
        answer, change = with_list(MOVE, MOVABLE, data)
        assert code(answer) == (5, 0x26, 0)
        assert change.table is None


@pytest.mark.parametrize("action", [RESERVE, RELEASE, PREEMPT, PREEMPT_AND_ABORT])
@pytest.mark.parametrize("kind", [0x00, 0x02, 0x04, 0x09, 0x0F, 0x15, 0x25])
def test_types_and_scopes_that_do_not_exist_are_bad_fields(action: int, kind: int) -> None:
    answer, change = pr_out(action, HELD, key=0xA, other=0xB, kind=kind)
    assert code(answer) == (5, 0x24, 0)
    assert change.table is None


@pytest.mark.parametrize("length", [0, 23, 25, 28])
def test_a_parameter_list_has_24_bytes(length: int) -> None:
    assert code(pr_out(REGISTER, EMPTY, other=1, length=length)[0]) == (5, 0x1A, 0)


def test_a_list_that_is_cut_short_is_refused() -> None:
    cdb = struct.pack(">BB3xIx", 0x5F, REGISTER, 24)
    answer, _ = change_reservations(cdb, bytes(23), UNIT, asks(EMPTY))
    assert code(answer) == (5, 0x1A, 0)


def test_a_conflict_is_a_status_of_its_own() -> None:
    answer, change = pr_out(REGISTER, HELD, B, key=1, other=2)
    assert (answer.status, answer.sense) == (Status.RESERVATION_CONFLICT, b"")
    assert change.table is None
    assert pr_out(RESERVE, HELD, B, kind=5)[0].status is Status.RESERVATION_CONFLICT


def test_releasing_another_type_is_an_invalid_release() -> None:
    assert code(pr_out(RELEASE, HELD, key=0xA, kind=1)[0]) == (5, 0x26, 4)


def test_preempting_nobody_is_a_bad_list() -> None:
    assert code(pr_out(PREEMPT, HELD, key=0xA, other=0, kind=1)[0]) == (5, 0x26, 0)


def test_preempt_and_abort_ends_commands_and_preempt_does_not() -> None:
    assert pr_out(PREEMPT, HELD, key=0xA, other=0xB, kind=5)[1].aborted == ()
    assert pr_out(PREEMPT_AND_ABORT, HELD, key=0xA, other=0xB, kind=5)[1].aborted == (HOST,)


def test_a_full_table_says_so() -> None:
    rows = tuple(ReservationRegistrant(nexus=nexus_of(f"iqn.{n}", ISID), key=1) for n in range(63))
    answer, _ = pr_out(REGISTER, ReservationTable(registrants=rows), B, other=1)
    assert code(answer) == (5, 0x55, 4)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (UnitState.STANDBY, (2, 4, 0x0B)),
        (UnitState.TRANSITIONING, (2, 4, 0x0A)),
        (UnitState.WRITES_HELD, (2, 4, 0x0A)),
        (UnitState.FAILED, (4, 0x44, 0)),
    ],
)
def test_a_path_that_does_not_serve_says_why(state: UnitState, expected: tuple[int, int, int]):
    unit = replace(UNIT, state=state)
    answer, change = pr_out(REGISTER, EMPTY, other=1, unit=unit)
    assert code(answer) == expected
    assert change.table is None
    if state is not UnitState.WRITES_HELD:
        assert code(pr_in(READ_KEYS, HELD, unit=unit)) == expected
        assert not table_wanted(bytes([0x5E, 0]), unit)


def test_a_full_pool_does_not_hold_up_a_change() -> None:
    answer, change = pr_out(REGISTER, EMPTY, other=1, unit=replace(UNIT, state=UnitState.NO_SPACE))
    assert answer == ScsiAnswer()
    assert change.table is not None


def test_another_lun_has_no_reservations() -> None:
    assert code(pr_out(REGISTER, EMPTY, other=1, lun=1 << 48)[0]) == (5, 0x25, 0)
    assert not table_wanted(bytes([0x5E, 0]), UNIT, lun=1 << 48)


def test_what_comes_without_the_table_is_answered_as_a_path_in_transition() -> None:
    assert code(execute(struct.pack(">BB5xHx", 0x5E, 0, 8), b"", UNIT)) == (2, 4, 0x0A)


# RESERVE(6)


def reserve_6(opcode: int, table: ReservationTable, nexus: ReservationNexus = A, byte_1: int = 0):
    return change_reservations(bytes([opcode, byte_1, 0, 0, 0, 0]), b"", UNIT, asks(table, nexus))


def test_reserve_6_and_release_6() -> None:
    answer, change = reserve_6(0x16, EMPTY)
    assert answer == ScsiAnswer()
    assert change.table is not None
    assert change.table.by_reserve
    held = change.table
    assert reserve_6(0x16, held, B)[0].status is Status.RESERVATION_CONFLICT
    assert reserve_6(0x17, held, B) == (ScsiAnswer(), replace_nothing())
    assert reserve_6(0x17, held)[1].table == EMPTY
    assert pr_in(READ_KEYS, held).status is Status.RESERVATION_CONFLICT


def replace_nothing():
    return reserve_6(0x17, EMPTY)[1]


@pytest.mark.parametrize("byte_1", [0x01, 0x10, 0x1E])
def test_reserving_for_others_or_a_part_is_obsolete(byte_1: int) -> None:
    assert code(reserve_6(0x16, EMPTY, byte_1=byte_1)[0]) == (5, 0x24, 0)


# commands of others under a reservation

MODE_SENSE = bytes([0x1A, 0, 0x3F, 0, 255, 0])
MODE_SELECT = bytes([0x15, 0x10, 0, 0, 0, 0])
INQUIRY = bytes([0x12, 0, 0, 0, 36, 0])
REPORT_LUNS = struct.pack(">BBB3xI2x", 0xA0, 0, 0, 16)
READ_CAPACITY = bytes([0x25]).ljust(10, b"\0")
REQUEST_SENSE = bytes([0x03, 0, 0, 0, 18, 0])
OPCODES = struct.pack(">BBBBHI2x", 0xA3, 0x0C, 0, 0, 0, 4096)
GROUPS = struct.pack(">BB4xI2x", 0xA3, 0x0A, 255)
START, STOP = bytes([0x1B, 0, 0, 0, 1, 0]), bytes([0x1B, 0, 0, 0, 0, 0])
PREVENT, ALLOW = bytes([0x1E, 0, 0, 0, 1, 0]), bytes([0x1E, 0, 0, 0, 0, 0])
NOBODY, READERS, WRITERS = "always", "readers", "writers"
COMMANDS = [
    (INQUIRY, NOBODY),
    (REPORT_LUNS, NOBODY),
    (READ_CAPACITY, NOBODY),
    (REQUEST_SENSE, NOBODY),
    (GROUPS, NOBODY),
    (START, NOBODY),
    (ALLOW, NOBODY),
    (MODE_SENSE, READERS),
    (OPCODES, READERS),
    (MODE_SELECT, WRITERS),
    (STOP, WRITERS),
    (PREVENT, WRITERS),
]


@pytest.mark.parametrize(("cdb", "need"), COMMANDS)
@pytest.mark.parametrize("kind", [1, 3, 5, 6, 7, 8])
def test_commands_python_answers_meet_reservations_too(cdb: bytes, need: str, kind: int) -> None:
    """SPC-4, table 66; SBC-3, table 13."""
    table = replace(HELD, type=kind, holder=None if kind in {7, 8} else A)
    exclusive = kind in {3, 6, 8}
    refused = need == WRITERS or (need == READERS and exclusive)
    for nexus, expected in ((A, False), (B, refused), (HOST, refused and kind in {1, 3})):
        answer = execute(cdb, b"", UNIT, reserved=asks(table, nexus))
        assert (answer.status is Status.RESERVATION_CONFLICT) is expected
    assert table_wanted(cdb, UNIT) is (need != NOBODY)


def test_every_service_action_is_among_the_supported_operation_codes() -> None:
    data = execute(OPCODES, b"", UNIT).data_in
    rows = {struct.unpack_from(">BxH", data, at) for at in range(4, len(data), 8)}
    assert {(0x5E, n) for n in range(4)} | {(0x5F, n) for n in range(8)} <= rows
    assert {(0x16, 0), (0x17, 0)} <= rows


@given(
    st.binary(min_size=9, max_size=9),
    st.binary(max_size=40),
    st.sampled_from([EMPTY, HELD, replace(HELD, type=8, holder=None)]),
    st.sampled_from([A, B]),
)
def test_any_bytes_are_answered_and_any_change_is_a_table(
    rest: bytes, data: bytes, table: ReservationTable, nexus: ReservationNexus
) -> None:
    cdb = bytes([0x5F, rest[0] % 8]) + rest[1:5] + rest[5:]
    answer, change = change_reservations(cdb, data, UNIT, asks(table, nexus))
    assert (change.table is None) or answer == ScsiAnswer()
    if change.table is not None:
        encode_table(change.table)

"""Every SCSI command that moves no block, in every state, at LUNs that exist and not."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparrow.base.ids import VolumeId
from sparrow.frontends.scsi.cdb import BY_OP, COMMANDS, Op, Place, cdb_bytes
from sparrow.frontends.scsi.cold import execute, page_wanted
from sparrow.frontends.scsi.sense import MEDIUM_SENSE, ScsiAnswer, Status
from sparrow.frontends.scsi.unit import LogicalUnit, UnitState

UNIT = LogicalUnit(volume_id=VolumeId("demo"), size_bytes=1 << 30, port_group=2, relative_port=2)
OTHER_LUN = 1 << 48
FLAT_LUN_ZERO = 0x40 << 56


def unit(**changes):
    values = {"volume_id": VolumeId("demo"), "size_bytes": 1 << 30} | changes
    return LogicalUnit(**values)


def run(cdb, unit=UNIT, **more):
    return execute(bytes.fromhex(cdb) if isinstance(cdb, str) else cdb, b"", unit, **more)


def good(cdb, unit=UNIT, **more):
    answer = run(cdb, unit, **more)
    assert answer.status is Status.GOOD, code(answer)
    assert answer.sense == b""
    return answer.data_in


def code(answer: ScsiAnswer) -> tuple[int, int, int]:
    """(sense key, ASC, ASCQ) of a CHECK CONDITION in fixed format."""
    assert answer.status is Status.CHECK_CONDITION
    assert answer.data_in == b""
    assert len(answer.sense) == 18
    assert answer.sense[0] == 0x70
    assert answer.sense[7] == 10
    return answer.sense[2], answer.sense[12], answer.sense[13]


def field(answer: ScsiAnswer) -> tuple[int, int | None]:
    """(byte, bit) of the CDB that the sense points at."""
    flags, byte = struct.unpack_from(">BH", answer.sense, 15)
    assert flags & 0xC0 == 0xC0
    return byte, flags & 7 if flags & 8 else None


INVALID_OPCODE = (5, 0x20, 0)
INVALID_FIELD = (5, 0x24, 0)
WRONG_LUN = (5, 0x25, 0)


# Commands that do not exist, LUNs that do not exist


def test_every_opcode_without_a_row_is_refused():
    known = {command.op.opcode for command in COMMANDS}
    for opcode in set(range(256)) - known:
        assert code(run(bytes([opcode]) + bytes(15))) == INVALID_OPCODE, hex(opcode)


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.place is Place.CORE], ids=lambda c: c.op.name
)
def test_commands_of_the_data_path_are_not_answered_here(command):
    answer = run(bytes([command.op.opcode]) + bytes(15))
    if command.op is Op.TEST_UNIT_READY:
        assert answer.status is Status.GOOD
    else:
        assert code(answer) == INVALID_OPCODE


@pytest.mark.parametrize("cdb", ["9e 11", "a3 0b", "a3 00", "a3 1f"])
def test_an_unknown_service_action_is_a_bad_field(cdb):
    answer = run(cdb)
    assert code(answer) == INVALID_FIELD
    assert field(answer) == (1, 4)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.op.name)
def test_a_lun_that_does_not_exist_is_refused_except_where_spc_wants_an_answer(command):
    cdb = bytearray(16)
    cdb[0] = command.op.opcode
    cdb[1] = command.op.service_action or 0
    if command.op is Op.REPORT_LUNS:
        cdb[9] = 16
    answer = run(bytes(cdb), lun=OTHER_LUN)
    if command.any_lun:
        assert answer.status is Status.GOOD
    else:
        assert code(answer) == WRONG_LUN


def test_an_unknown_command_at_a_wrong_lun_is_about_the_lun():
    assert code(run(bytes([0xC0]) + bytes(15), lun=OTHER_LUN)) == WRONG_LUN


def test_lun_zero_may_be_written_in_the_flat_form():
    assert run(bytes(6), lun=FLAT_LUN_ZERO).status is Status.GOOD


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.place is Place.COLD], ids=lambda c: c.op.name
)
def test_naca_is_refused(command):
    cdb = bytearray(16)
    cdb[0] = command.op.opcode
    cdb[1] = command.op.service_action or 0
    last = cdb_bytes(command.op.opcode) - 1
    cdb[last] = 0x04
    answer = run(bytes(cdb))
    assert code(answer) == INVALID_FIELD
    assert field(answer) == (last, 2)


# The states of the gate


@pytest.mark.parametrize(
    ("state", "ready"),
    [
        (UnitState.OPTIMIZED, None),
        (UnitState.STANDBY, (2, 0x04, 0x0B)),
        (UnitState.TRANSITIONING, (2, 0x04, 0x0A)),
        (UnitState.WRITES_HELD, None),
        (UnitState.NO_SPACE, None),
        (UnitState.FAILED, (4, 0x44, 0x00)),
    ],
)
def test_test_unit_ready_tells_the_state(state, ready):
    answer = run(bytes(6), unit(state=state))
    if ready is None:
        assert answer == ScsiAnswer()
    else:
        assert code(answer) == ready


@pytest.mark.parametrize("state", UnitState)
@pytest.mark.parametrize(
    "cdb",
    [
        "12 00 00 00 60 00",
        "a0 00 00 00 00 00 00 00 10 00 00 00",
        "03 00 00 00 12 00",
        "1a 00 3f 00 ff 00",
        "25 00 00 00 00 00 00 00 00 00",
        "9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00",
        "a3 0a 00 00 00 00 00 00 00 ff 00 00",
        "a3 0c 00 00 00 00 00 00 10 00 00 00",
    ],
)
def test_what_a_path_checker_asks_is_answered_in_every_state(state, cdb):
    assert good(cdb, unit(state=state))


def test_no_state_but_open_lets_medium_commands_write():
    for state, (read, write) in MEDIUM_SENSE.items():
        assert (write is None) == (state is UnitState.OPTIMIZED)
        assert read is None or write is not None


@pytest.mark.parametrize(
    ("state", "write"),
    [
        (UnitState.WRITES_HELD, (2, 0x04, 0x0A)),
        (UnitState.NO_SPACE, (7, 0x27, 0x07)),
    ],
)
def test_states_that_only_stop_writes_never_say_medium_error(state, write):
    sense = MEDIUM_SENSE[state][1]
    assert (sense.key, sense.asc, sense.ascq) == write


# REQUEST SENSE, START STOP UNIT, PREVENT ALLOW


def test_request_sense_says_why_the_unit_is_not_ready():
    assert good("03 00 00 00 ff 00")[2] == 0
    data = good("03 00 00 00 ff 00", unit(state=UnitState.STANDBY))
    assert (data[2], data[12], data[13]) == (2, 0x04, 0x0B)


def test_request_sense_in_descriptor_format():
    data = good("03 01 00 00 ff 00", unit(state=UnitState.STANDBY))
    assert data == bytes([0x72, 2, 0x04, 0x0B, 0, 0, 0, 0])


def test_request_sense_at_a_wrong_lun_puts_the_error_in_the_data():
    data = good("03 00 00 00 ff 00", lun=OTHER_LUN)
    assert (data[2], data[12], data[13]) == WRONG_LUN


def test_start_and_stop_are_accepted_and_eject_is_not():
    assert good("1b 00 00 00 01 00") == b""
    assert good("1b 00 00 00 00 00") == b""
    assert code(run("1b 00 00 00 02 00")) == INVALID_FIELD
    assert code(run("1b 00 00 00 01 00", unit(state=UnitState.STANDBY))) == (2, 0x04, 0x0B)


def test_preventing_removal_is_accepted_and_its_obsolete_values_are_not():
    assert good("1e 00 00 00 01 00") == b""
    assert good("1e 00 00 00 00 00") == b""
    assert code(run("1e 00 00 00 02 00")) == INVALID_FIELD


# REPORT LUNS


def test_lun_zero_is_the_only_one():
    assert good("a0 00 00 00 00 00 00 00 10 00 00 00") == struct.pack(">I4xQ", 8, 0)
    assert good("a0 00 02 00 00 00 00 00 10 00 00 00") == struct.pack(">I4xQ", 8, 0)
    assert good("a0 00 01 00 00 00 00 00 10 00 00 00") == bytes(8)


def test_luns_are_reported_at_any_lun():
    assert good("a0 00 00 00 00 00 00 00 10 00 00 00", lun=OTHER_LUN)[:4] == bytes([0, 0, 0, 8])


@pytest.mark.parametrize(
    ("cdb", "where"),
    [
        ("a0 00 03 00 00 00 00 00 10 00 00 00", 2),
        ("a0 00 00 00 00 00 00 00 00 0f 00 00", 6),
    ],
)
def test_report_luns_checks_its_fields(cdb, where):
    answer = run(cdb)
    assert code(answer) == INVALID_FIELD
    assert field(answer) == (where, None)


# READ CAPACITY


@pytest.mark.parametrize(
    ("block_bytes", "blocks", "exponent"), [(512, 1 << 21, 3), (4096, 1 << 18, 0)]
)
def test_capacity_counts_blocks_and_tells_the_4_kib_page(block_bytes, blocks, exponent):
    shown = unit(block_bytes=block_bytes)
    assert good("25" + "00" * 9, shown) == struct.pack(">II", blocks - 1, block_bytes)
    data = good("9e 10" + "00" * 8 + "00 00 00 ff 00 00", shown)
    assert data[:12] == struct.pack(">QI", blocks - 1, block_bytes)
    assert data[12] == 0
    assert data[13] == exponent
    assert data[14:] == b"\xc0" + bytes(17), "thin, and unmapped blocks read zeros"


def test_a_big_unit_needs_the_long_command():
    big = unit(size_bytes=3 << 40)
    assert good("25" + "00" * 9, big)[:4] == b"\xff\xff\xff\xff"
    assert good("9e 10" + "00" * 8 + "00 00 00 ff 00 00", big)[:8] == struct.pack(
        ">Q", (3 << 40) // 512 - 1
    )


def test_the_largest_unit_the_short_command_can_tell():
    edge = unit(size_bytes=(1 << 32) * 512 - 4096)
    assert good("25" + "00" * 9, edge)[:4] == struct.pack(">I", (1 << 32) - 9)


def test_an_lba_without_pmi_is_refused():
    assert code(run("25 00 00 00 00 01 00 00 00 00")) == INVALID_FIELD
    assert good("25 00 00 00 00 01 00 00 01 00")


# REPORT TARGET PORT GROUPS


@pytest.mark.parametrize(
    ("state", "access"),
    [
        (UnitState.OPTIMIZED, 0x0),
        (UnitState.STANDBY, 0x2),
        (UnitState.TRANSITIONING, 0xF),
        (UnitState.WRITES_HELD, 0xF),
        (UnitState.NO_SPACE, 0x0),
        (UnitState.FAILED, 0x3),
    ],
)
def test_the_group_tells_the_state_of_this_path(state, access):
    data = good(
        "a3 0a 00 00 00 00 00 00 00 ff 00 00", unit(state=state, port_group=3, relative_port=3)
    )
    assert data[:4] == bytes([0, 0, 0, 12])
    assert data[4] == access
    assert data[6:8] == bytes([0, 3])
    assert data[11] == 1
    assert data[12:] == bytes([0, 0, 0, 3])


def test_the_extended_format_has_a_header():
    data = good("a3 2a 00 00 00 00 00 00 00 ff 00 00")
    assert data[:4] == bytes([0, 0, 0, 16])
    assert data[4] == 0x10
    assert code(run("a3 4a 00 00 00 00 00 00 00 ff 00 00")) == INVALID_FIELD


# REPORT SUPPORTED OPERATION CODES


def test_every_row_of_the_table_is_reported():
    data = good("a3 0c 00 00 00 00 00 00 ff ff 00 00")
    assert int.from_bytes(data[:4], "big") == len(data) - 4 == 8 * len(COMMANDS)
    rows = [struct.unpack_from(">BxHxBH", data, at) for at in range(4, len(data), 8)]
    assert rows == [
        (
            command.op.opcode,
            command.op.service_action or 0,
            int(command.op.service_action is not None),
            len(command.usage),
        )
        for command in COMMANDS
    ]


def test_timeouts_are_told_when_asked_for():
    data = good("a3 0c 80 00 00 00 00 00 ff ff 00 00")
    assert len(data) == 4 + 20 * len(COMMANDS)
    assert data[4 + 5] & 0x02
    assert data[12:14] == bytes([0, 0x0A])


def test_one_command_is_told_with_its_usage():
    assert good("a3 0c 01 12 00 00 00 00 ff ff 00 00") == bytes.fromhex("00030006 1201ffffff00")
    assert good("a3 0c 02 9e 00 10 00 00 ff ff 00 00")[4:6] == bytes([0x9E, 0x10])
    assert good("a3 0c 03 12 00 00 00 00 ff ff 00 00")[1] == 0x03
    assert good("a3 0c 03 a3 00 0c 00 00 ff ff 00 00")[1] == 0x03
    assert len(good("a3 0c 81 12 00 00 00 00 ff ff 00 00")) == 4 + 6 + 12


@pytest.mark.parametrize(
    "cdb",
    [
        "a3 0c 01 c0 00 00 00 00 ff ff 00 00",
        "a3 0c 02 9e 00 11 00 00 ff ff 00 00",
        "a3 0c 02 c0 00 01 00 00 ff ff 00 00",
        "a3 0c 03 12 00 01 00 00 ff ff 00 00",
    ],
)
def test_a_command_that_is_not_served_is_told_as_unsupported(cdb):
    assert good(cdb) == bytes([0, 1, 0, 0])


@pytest.mark.parametrize("cdb", ["a3 0c 01 9e", "a3 0c 02 12", "a3 0c 04 00", "a3 0c 07 00"])
def test_asking_in_the_wrong_form_is_refused(cdb):
    assert code(run(cdb + " 00 00 00 00 ff ff 00 00")) == INVALID_FIELD


# All of them


@given(
    st.binary(min_size=1, max_size=20), st.sampled_from(UnitState), st.sampled_from([0, OTHER_LUN])
)
def test_any_cdb_is_answered(cdb, state, lun):
    answer = execute(cdb, b"", unit(state=state), lun=lun)
    assert answer.status in (Status.GOOD, Status.CHECK_CONDITION)
    assert (answer.status is Status.GOOD) == (answer.sense == b"")


@pytest.mark.parametrize("allocation", [0, 1, 4, 5, 17, 96, 255])
@pytest.mark.parametrize(
    ("op", "place"),
    [
        (Op.INQUIRY, slice(3, 5)),
        (Op.REQUEST_SENSE, slice(4, 5)),
        (Op.MODE_SENSE_6, slice(4, 5)),
        (Op.MODE_SENSE_10, slice(7, 9)),
        (Op.READ_CAPACITY_16, slice(10, 14)),
        (Op.REPORT_TARGET_PORT_GROUPS, slice(6, 10)),
        (Op.REPORT_SUPPORTED_OPERATION_CODES, slice(6, 10)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_answer_is_cut_to_the_allocation_length_and_otherwise_the_same(op, place, allocation):
    def ask(size):
        cdb = bytearray(16)
        cdb[0] = op.opcode
        cdb[1] = op.service_action or 0
        if op in (Op.MODE_SENSE_6, Op.MODE_SENSE_10):
            cdb[2] = 0x3F
        cdb[place] = size.to_bytes(place.stop - place.start, "big")
        return good(bytes(cdb))

    assert ask(allocation) == ask(255)[:allocation]


def test_the_table_is_in_order_and_whole():
    assert [c.op.value for c in COMMANDS] == sorted(
        (c.op.value for c in COMMANDS), key=lambda value: (value[0], value[1] or 0)
    )
    assert len(BY_OP) == len(COMMANDS)


# ---------------------------------------------------------------- GET LBA STATUS


def lba_status(
    lba: int, *states: tuple[int, bool], block_bytes: int = 512
) -> list[tuple[int, ...]]:
    """Descriptors told: LBA, blocks, provisioning status."""
    cdb = struct.pack(">BBQIBB", 0x9E, 0x12, lba, 4096, 0, 0)
    answer = execute(cdb, b"", unit(block_bytes=block_bytes), states=states)
    assert answer.status is Status.GOOD
    (length,) = struct.unpack_from(">I", answer.data_in)
    assert length + 4 == len(answer.data_in)
    body = answer.data_in[8:]
    return [struct.unpack_from(">QIB", body, at) for at in range(0, len(body), 16)]


def test_lba_status_begins_with_the_block_asked_for() -> None:
    told = lba_status(13, (2, True), (3, False))
    assert told == [(13, 11, 0), (24, 24, 1)]
    assert lba_status(13, (2, True), block_bytes=4096) == [(13, 2, 0)]


def test_lba_status_names_the_page_it_needs_and_refuses_beyond_the_end() -> None:
    shown = unit(block_bytes=512)
    ask = struct.pack(">BBQIBB", 0x9E, 0x12, 13, 24, 0, 0)
    assert page_wanted(ask, shown) == 1
    assert page_wanted(ask, shown, lun=1 << 48) is None
    beyond = struct.pack(">BBQIBB", 0x9E, 0x12, shown.blocks_count, 24, 0, 0)
    assert page_wanted(beyond, shown) is None
    assert execute(beyond, b"", shown).status is Status.CHECK_CONDITION
    assert page_wanted(bytes([0x12]) + bytes(15), shown) is None

"""Mode pages: what they claim, their descriptors, and what cannot be asked for."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from sparrow.base.ids import VolumeId
from sparrow.frontends.scsi.cold import execute
from sparrow.frontends.scsi.sense import Status
from sparrow.frontends.scsi.unit import LogicalUnit

UNIT = LogicalUnit(volume_id=VolumeId("demo"), size_bytes=1 << 30)
BIG = replace(UNIT, size_bytes=4 << 40)


def ask(cdb, unit=UNIT):
    return execute(bytes.fromhex(cdb), b"", unit)


def data(cdb, unit=UNIT):
    answer = ask(cdb, unit)
    assert answer.status is Status.GOOD
    return answer.data_in


def pages(raw):
    """{page code: body}"""
    found = {}
    while raw:
        assert raw[0] & 0xC0 == 0
        found[raw[0]] = raw[2 : 2 + raw[1]]
        raw = raw[2 + raw[1] :]
    return found


def test_all_pages_with_a_short_block_descriptor():
    raw = data("1a 00 3f 00 ff 00")
    assert raw[0] == len(raw) - 1
    assert raw[3] == 8
    assert struct.unpack(">II", raw[4:12]) == ((1 << 30) // 512, 512)
    assert list(pages(raw[12:])) == [0x08, 0x0A, 0x1C]


def test_the_pages_have_the_lengths_of_the_standard():
    found = pages(data("1a 08 3f 00 ff 00")[4:])
    assert {code: len(body) for code, body in found.items()} == {0x08: 18, 0x0A: 10, 0x1C: 10}


def test_there_is_no_write_cache():
    (caching,) = pages(data("1a 08 08 00 ff 00")[4:]).values()
    assert caching[0] & 0x04 == 0


def test_sense_is_in_fixed_format():
    (control,) = pages(data("1a 08 0a 00 ff 00")[4:]).values()
    assert control[0] & 0x04 == 0


def test_nothing_is_changeable():
    found = pages(data("1a 08 7f 00 ff 00")[4:])
    assert set(found) == {0x08, 0x0A, 0x1C}
    assert not any(b"".join(found.values()))


def test_defaults_are_the_current_values():
    assert data("1a 00 bf 00 ff 00") == data("1a 00 3f 00 ff 00")


def test_nothing_is_saved():
    answer = ask("1a 00 ff 00 ff 00")
    assert (answer.sense[2], answer.sense[12], answer.sense[13]) == (5, 0x39, 0)


@pytest.mark.parametrize(
    "cdb", ["1a 00 01 00 ff 00", "1a 00 08 01 ff 00", "5a 00 00 00 00 00 00 00 ff 00"]
)
def test_pages_that_do_not_exist_are_refused(cdb):
    answer = ask(cdb)
    assert (answer.sense[2], answer.sense[12], answer.sense[13]) == (5, 0x24, 0)


def test_all_subpages_are_the_pages():
    assert data("1a 00 3f ff ff 00") == data("1a 00 3f 00 ff 00")


@pytest.mark.parametrize("read_only", [False, True])
def test_write_protection_and_fua_are_told(read_only):
    unit = replace(UNIT, read_only=read_only)
    assert data("1a 00 3f 00 ff 00", unit)[2] == (0x90 if read_only else 0x10)
    assert data("5a 00 3f 00 00 00 00 00 ff 00", unit)[3] == (0x90 if read_only else 0x10)


def test_the_long_command_has_a_long_header():
    raw = data("5a 00 3f 00 00 00 00 00 ff 00")
    assert int.from_bytes(raw[:2], "big") == len(raw) - 2
    assert raw[4] == 0
    assert raw[6:8] == bytes([0, 8])
    assert pages(raw[16:]) == pages(data("1a 08 3f 00 ff 00")[4:])


def test_a_big_unit_is_counted_in_the_long_descriptor():
    raw = data("5a 10 3f 00 00 00 00 00 ff 00", BIG)
    assert raw[4] == 1
    assert raw[6:8] == bytes([0, 16])
    assert raw[8:24] == struct.pack(">Q4xI", (4 << 40) // 512, 512)
    assert data("1a 00 3f 00 ff 00", BIG)[4:8] == b"\xff\xff\xff\xff"


def test_no_descriptor_when_none_is_wanted():
    assert data("5a 18 3f 00 00 00 00 00 ff 00")[4:8] == bytes(4)
    assert data("1a 08 3f 00 ff 00")[3] == 0


# MODE SELECT


def select(data_out, *, long=False, flags=0x10, length=None):
    """The sense of a MODE SELECT as key, code and the byte it points at; None when it was taken."""
    count = len(data_out) if length is None else length
    layout, opcode = (">BB5xHB", 0x55) if long else (">BBxxBB", 0x15)
    cdb = struct.pack(layout, opcode, flags, count, 0)
    answer = execute(cdb, data_out, UNIT)
    if answer.status is Status.GOOD:
        assert answer.data_in == b""
        return None
    assert answer.sense[2] == 5
    return answer.sense[12], int.from_bytes(answer.sense[16:18], "big")


@pytest.mark.parametrize("descriptor", [True, False])
def test_what_mode_sense_tells_mode_select_takes(descriptor):
    dbd = "00" if descriptor else "08"
    short = bytearray(data(f"1a {dbd} 3f 00 ff 00"))
    assert select(bytes(short)) is None
    long = bytearray(data(f"5a {dbd} 3f 00 00 00 00 00 ff 00"))
    assert select(bytes(long), long=True) is None
    if descriptor:
        llbaa = data("5a 10 3f 00 00 00 00 00 ff 00")
        assert select(llbaa, long=True) is None


def test_nothing_to_select_is_nothing_wrong():
    assert select(b"") is None
    assert select(bytes(4)) is None


def test_every_byte_of_a_page_that_is_another_is_refused_where_it_is():
    raw = data("1a 08 3f 00 ff 00")
    for at in range(6, len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 0x41
        code, where = select(bytes(changed))
        # A length that is another makes what follows it something else.
        assert (code, where) == (0x26, at), at
    unknown = bytes(4) + bytes([0x02, 2, 0, 0])
    assert select(unknown) == (0x26, 4)


@pytest.mark.parametrize(
    ("block", "at"),
    [
        (struct.pack(">II", UNIT.blocks_count - 1, 512), 4),
        (struct.pack(">II", UNIT.blocks_count, 4096), 9),
        (struct.pack(">II", 0, 513), 9),
    ],
)
def test_a_block_descriptor_that_would_change_the_unit_is_refused(block, at):
    assert select(bytes([0, 0, 0, 8]) + block) == (0x26, at)


def test_blocks_may_be_given_as_unchanged():
    for count in (0, 0xFFFFFFFF, UNIT.blocks_count):
        assert select(bytes([0, 0, 0, 8]) + struct.pack(">II", count, 512)) is None


@pytest.mark.parametrize("cut", [1, 3, 5, 11, 13, 20])
def test_a_list_that_is_cut_short_is_refused(cut):
    raw = data("1a 00 0a 00 ff 00")
    assert select(raw[:cut])[0] == 0x1A
    assert select(raw[:cut], length=len(raw))[0] == 0x1A


def test_saving_and_pages_in_a_format_of_our_own_are_refused():
    raw = data("1a 08 0a 00 ff 00")
    assert select(raw, flags=0x11) == (0x24, 1)
    assert select(raw, flags=0x00) == (0x24, 1)
    assert select(bytes([0, 1, 0, 0])) == (0x26, 1)
    assert select(bytes([0, 0, 0, 4]) + bytes(4)) == (0x26, 3)

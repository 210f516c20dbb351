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

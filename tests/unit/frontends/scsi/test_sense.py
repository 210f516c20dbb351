"""Sense data byte by byte, and units that cannot be."""

from __future__ import annotations

import pytest

from sparrow.base.ids import VolumeId
from sparrow.frontends.scsi.sense import INVALID_FIELD_IN_CDB, STANDBY, FieldPointer
from sparrow.frontends.scsi.unit import LogicalUnit


def test_fixed_format_is_18_bytes():
    assert STANDBY.encode_fixed() == bytes.fromhex("70 00 02 00000000 0a 00000000 04 0b 00 000000")


def test_fixed_format_points_at_the_field():
    sense = INVALID_FIELD_IN_CDB.at(2, 5).encode_fixed()
    assert sense[:3] == bytes([0x70, 0, 5])
    assert sense[12:15] == bytes([0x24, 0, 0])
    assert sense[15:] == bytes([0xCD, 0, 2])


def test_a_whole_byte_has_no_bit_pointer():
    assert INVALID_FIELD_IN_CDB.at(6).encode_fixed()[15:] == bytes([0xC0, 0, 6])


def test_a_field_of_the_data_is_not_in_the_cdb():
    assert FieldPointer(byte=300, in_cdb=False).encode() == bytes([0x80, 1, 44])


def test_descriptor_format_points_at_the_field():
    assert STANDBY.encode_descriptor() == bytes.fromhex("72 02 04 0b 000000 00")
    assert INVALID_FIELD_IN_CDB.at(1, 4).encode_descriptor() == bytes.fromhex(
        "72 05 24 00 000000 08 02 06 0000 cc0001 00"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"block_bytes": 520},
        {"size_bytes": 0},
        {"size_bytes": 4097},
        {"port_group": 0},
        {"relative_port": 1 << 16},
    ],
)
def test_an_impossible_unit_is_our_mistake(wrong):
    with pytest.raises(AssertionError):
        LogicalUnit(**({"volume_id": VolumeId("demo"), "size_bytes": 1 << 30} | wrong))

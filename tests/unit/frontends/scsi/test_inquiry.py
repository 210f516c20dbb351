"""INQUIRY data: pages, and an identity that is one on all replicas and for all time."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from sparrow.base.ids import VolumeId
from sparrow.frontends.scsi.cold import execute
from sparrow.frontends.scsi.inquiry import PAGES
from sparrow.frontends.scsi.sense import Status
from sparrow.frontends.scsi.unit import LogicalUnit, UnitState

UNIT = LogicalUnit(volume_id=VolumeId("demo"), size_bytes=1 << 30, port_group=2, relative_port=2)
OTHER_LUN = 1 << 48


def inquire(unit=UNIT, *, page=None, lun=0, size=0xFFFF):
    cdb = struct.pack(">BBBHB", 0x12, page is not None, page or 0, size, 0)
    return execute(cdb, b"", unit, lun=lun)


def page(number, unit=UNIT):
    """Body of one page, header checked."""
    data = inquire(unit, page=number).data_in
    assert data[0] == 0
    assert data[1] == number
    assert int.from_bytes(data[2:4], "big") == len(data) - 4
    return data[4:]


def designators(unit=UNIT):
    """{(association, type): value} of page 83."""
    body = page(0x83, unit)
    found = {}
    while body:
        value = body[4 : 4 + body[3]]
        found[body[1] >> 4 & 3, body[1] & 15] = (body[0], body[1] >> 7, value)
        body = body[4 + body[3] :]
    return found


def test_the_unit_is_a_disk_of_spc_4_with_implicit_alua():
    data = inquire().data_in
    assert len(data) == 96
    assert data[0] == 0x00
    assert data[2] == 0x06
    assert data[3] == 0x12
    assert data[4] == 91
    assert data[5] & 0x30 == 0x10
    assert data[7] == 0x02
    assert data[8:36] == b"SPARROW VOLUME          0001"


def test_a_page_code_without_evpd_is_refused():
    answer = execute(bytes.fromhex("12 00 80 00 ff 00"), b"", UNIT)
    assert answer.status is Status.CHECK_CONDITION
    assert (answer.sense[2], answer.sense[12], answer.sense[13]) == (5, 0x24, 0)


def test_page_00_lists_exactly_the_pages_that_are_served():
    listed = page(0x00)
    assert list(listed) == [0x00, 0x80, 0x83, 0x86, 0xB0, 0xB1, 0xB2]
    for number in range(256):
        served = inquire(page=number).status is Status.GOOD
        assert served == (number in listed), hex(number)


def test_at_a_wrong_lun_there_is_no_unit():
    assert inquire(lun=OTHER_LUN).data_in[0] == 0x7F
    assert inquire(lun=OTHER_LUN, page=0x00).data_in == bytes([0x7F, 0, 0, 1, 0])
    assert inquire(lun=OTHER_LUN, page=0x83).status is Status.CHECK_CONDITION


def test_the_identity_is_the_same_on_every_replica_in_every_state():
    there = replace(
        UNIT, port_group=3, relative_port=3, state=UnitState.STANDBY, size_bytes=2 << 30
    )
    assert page(0x80, there) == page(0x80)
    here, there = designators(), designators(there)
    for key in ((0, 3), (0, 1), (2, 8)):
        assert here[key] == there[key]
    for key in ((1, 4), (1, 5), (1, 8)):
        assert here[key] != there[key]


def test_the_identity_does_not_change_between_versions():
    """Hosts keep these in their configuration: a change here loses them their disks."""
    assert UNIT.naa.hex() == "3385d9ce42b20a31"
    assert UNIT.serial == "36d0def3d19fc48bc4807134b630a231"


def test_other_volumes_and_other_clusters_have_other_identities():
    others = [
        UNIT,
        replace(UNIT, volume_id=VolumeId("demo2")),
        replace(UNIT, cluster_id="east"),
        replace(UNIT, cluster_id="east", volume_id=VolumeId("demo2")),
    ]
    assert len({unit.naa for unit in others}) == len(others)
    assert len({unit.serial for unit in others}) == len(others)


def test_the_unit_is_named_by_naa_and_vendor():
    found = designators()
    code_set, piv, naa = found[0, 3]
    assert (code_set, piv, len(naa)) == (1, 0, 8)
    assert naa[0] >> 4 == 3, "locally assigned"
    assert found[0, 1] == (2, 0, b"SPARROW " + UNIT.serial.encode())


def test_the_port_and_the_device_are_named_as_iscsi():
    found = designators()
    assert found[1, 4] == (0x51, 1, bytes([0, 0, 0, 2]))
    assert found[1, 5] == (0x51, 1, bytes([0, 0, 0, 2]))
    name = b"iqn.2026-01.io.sparrow:demo"
    assert found[1, 8][2].rstrip(b"\0") == name + b",t,0x0002"
    assert found[2, 8][2].rstrip(b"\0") == name
    for key in ((1, 8), (2, 8)):
        assert found[key][2].endswith(b"\0")
        assert len(found[key][2]) % 4 == 0


@pytest.mark.parametrize(("block_bytes", "per_page", "transfer"), [(512, 8, 2040), (4096, 1, 256)])
def test_block_limits_follow_the_block_size(block_bytes, per_page, transfer):
    """With blocks of 512 bytes a transfer of 1 MiB may touch one page more than the core takes at once."""
    unit = replace(UNIT, block_bytes=block_bytes)
    body = page(0xB0, unit)
    assert len(body) == 60
    assert struct.unpack_from(">xxHII", body) == (
        per_page,
        transfer,
        transfer,
    )
    prefetch, unmap, ranges, granularity, alignment, same = struct.unpack_from(">IIIIIQ", body, 12)
    assert prefetch == 0
    assert unmap == (512 << 20) // block_bytes
    assert ranges == 64
    assert granularity == (per_page if per_page > 1 else 0)
    assert alignment == 0x80000000, "valid, and 0"
    assert same == (256 << 20) // block_bytes
    assert struct.unpack_from(">5I", body, 40) == (transfer, 1, 1, 0, 0)
    assert body[1] == per_page, "COMPARE AND WRITE: one page"
    assert body[0] == 1, "WRITE SAME of no blocks is refused"


def test_characteristics_say_solid_state_and_thin_provisioning():
    assert page(0xB1)[:2] == bytes([0, 1])
    assert page(0xB2) == bytes([0, 0xE4, 0x02, 0])
    assert len(page(0x86)) == 60


def test_every_page_has_a_builder_and_no_page_is_longer_than_its_length_field():
    for number in PAGES:
        assert len(page(number)) < 1 << 16

"""Initiators nobody here wrote, and the one of tests/support, against the iSCSI conversation with memory behind it.

The data path is not tried here: the target in memory stands where the native core will.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from sparrow.base.ids import VolumeId
from sparrow.frontends.iscsi.negotiation import OperationalOffer
from sparrow.frontends.scsi.unit import LogicalUnit, UnitState
from tests.support.iscsi_client import (
    IscsiClient,
    LoginError,
    ProtocolViolation,
    ScsiError,
)
from tests.support.iscsi_target import MemoryTarget
from tests.support.needs import needs_program, needs_qemu_iscsi


@pytest.fixture
def target():
    running = MemoryTarget(unit=LogicalUnit(volume_id=VolumeId("demo"), size_bytes=16 << 20))
    yield running
    running.close()
    assert running.failures == []


def _connect(target, **more):
    return IscsiClient("127.0.0.1", target.port, target.name, timeout_s=30, **more)


def _url(target, user=""):
    return f"iscsi://{user}127.0.0.1:{target.port}/{target.name}/0"


def _run(*command):
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.decode(errors="replace")


# libiscsi and QEMU


@needs_program("iscsi-ls")
def test_libiscsi_discovers_the_target_and_its_unit(target):
    shown = _run("iscsi-ls", "-s", f"iscsi://127.0.0.1:{target.port}")
    assert f"Target:{target.name} Portal:127.0.0.1:{target.port},1" in shown
    assert "Lun:0    Type:DIRECT_ACCESS" in shown


@needs_program("iscsi-inq")
def test_libiscsi_reads_the_identity(target):
    assert "Vendor:SPARROW" in _run("iscsi-inq", _url(target))
    shown = _run("iscsi-inq", "-e", "1", "-c", "128", _url(target))
    assert f"Unit Serial Number:[{target.unit.serial}]" in shown


@needs_program("iscsi-inq")
def test_libiscsi_with_a_user_name_takes_none_for_an_answer(target):
    """With a user it begins in the security stage and offers CHAP,None."""
    assert "Vendor:SPARROW" in _run("iscsi-inq", _url(target, user="someone%secret@"))


@needs_program("iscsi-inq")
def test_libiscsi_reads_the_capacity(target):
    shown = _run("iscsi-readcapacity16", _url(target))
    assert "Total size:16777216" in shown
    assert "PHYSICAL BLOCK EXPONENT:3" in shown


@pytest.mark.parametrize(
    "family",
    [
        "Inquiry",
        "Mandatory",
        "ModeSense6",
        "ReadCapacity10",
        "ReadCapacity16",
        "ReportSupportedOpcodes",
        "TestUnitReady",
    ],
)
@needs_program("iscsi-inq")
def test_the_conformance_suite_finds_nothing_in_the_cold_commands(target, family):
    shown = _run("iscsi-test-cu", "-d", "-t", f"ALL.{family}", _url(target))
    assert "FAILED" not in shown
    (tests,) = [line.split() for line in shown.splitlines() if line.split()[:1] == ["tests"]]
    total, ran, passed, failed = (int(number) for number in tests[1:5])
    assert total == ran == passed > 0
    assert failed == 0


@needs_qemu_iscsi()
def test_qemu_copies_an_image_there_and_finds_it_again(target, tmp_path):
    image = tmp_path / "image"
    image.write_bytes(os.urandom(target.unit.size_bytes))
    _run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), _url(target))
    assert target.disk == image.read_bytes()
    shown = _run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), _url(target))
    assert "identical" in shown


# The initiator of the tests itself


@pytest.mark.parametrize("initial_r2t", [False, True])
@pytest.mark.parametrize("immediate_data", [False, True])
@pytest.mark.parametrize("size", [512, 4096, 65536, 66048, 1 << 20])
def test_the_client_writes_and_reads_in_every_combination(
    target, initial_r2t, immediate_data, size
):
    data = os.urandom(size)
    with _connect(target, initial_r2t=initial_r2t, immediate_data=immediate_data) as client:
        client.write(3, data)
        assert client.read(3, size // 512) == data
        assert target.disk[3 * 512 : 3 * 512 + size] == data
        client.logout()


@pytest.mark.parametrize("burst_bytes", [65536, 262144])
def test_the_client_serves_many_small_bursts(burst_bytes):
    offer = OperationalOffer(segment_bytes_max=8192)
    target = MemoryTarget(
        unit=LogicalUnit(volume_id=VolumeId("demo"), size_bytes=16 << 20), offer=offer
    )
    with _connect(target, burst_bytes=burst_bytes, first_burst_bytes=16384) as client:
        data = os.urandom(1 << 20)
        client.write(0, data)
        assert client.read(0, 2048) == data
    target.close()
    assert target.failures == []


def test_the_client_keeps_more_in_flight_than_the_window_allows(target):
    with _connect(target, security_stage=True) as client:
        want = {
            client.submit_write(number * 8, bytes([number % 251]) * 4096): number
            for number in range(500)
        }
        seen = []
        while client.pending or len(seen) < len(want):
            seen += client.poll(30)
        assert {completion.tag for completion in seen} == set(want)
        assert all(completion.error is None for completion in seen)
        reads = [client.submit_read(number * 8, 8) for number in range(500)]
        found = {}
        while len(found) < len(reads):
            found |= {completion.tag: completion for completion in client.poll(30)}
        for number, tag in enumerate(reads):
            assert found[tag].data == bytes([number % 251]) * 4096


def test_the_client_reports_the_capacity_the_identity_and_pings(target):
    with _connect(target) as client:
        assert client.read_capacity() == (16 << 11, 512)
        assert client.inquiry()[8:15] == b"SPARROW"
        assert client.inquiry(0x80)[4:].decode() == target.unit.serial
        assert client.ping(b"are you there") == b"are you there"
        client.synchronize_cache()
        client.test_unit_ready()


@pytest.mark.parametrize(
    ("state", "sense"),
    [
        (UnitState.STANDBY, (2, 2, 0x04, 0x0B)),
        (UnitState.TRANSITIONING, (2, 2, 0x04, 0x0A)),
        (UnitState.FAILED, (2, 4, 0x44, 0x00)),
    ],
)
def test_the_client_raises_what_the_target_says(state, sense):
    unit = LogicalUnit(volume_id=VolumeId("demo"), size_bytes=1 << 20, state=state)
    target = MemoryTarget(unit=unit)
    with _connect(target) as client:
        for act in (
            lambda: client.read(0, 1),
            lambda: client.write(0, bytes(512)),
            client.test_unit_ready,
        ):
            with pytest.raises(ScsiError) as refused:
                act()
            error = refused.value
            assert (error.status, error.key, error.asc, error.ascq) == sense
    target.close()


def test_the_client_raises_an_address_out_of_range(target):
    with _connect(target) as client:
        with pytest.raises(ScsiError, match="21h/00h"):
            client.read(target.unit.blocks_count, 1)
        assert client.read(target.unit.blocks_count - 1, 1) == bytes(512)


def test_the_client_knows_what_it_does_not_know_when_the_connection_breaks(target):
    client = _connect(target)
    client.write(0, b"a" * 512)
    target.drop_connections()
    tag = client.submit_write(1, b"b" * 512)
    with pytest.raises(ConnectionError):
        client.poll(30)
    assert client.pending == {tag}
    with pytest.raises(ConnectionError):
        client.read(0, 1)
    assert target.disk[512:1024] == bytes(512)
    target.failures.clear()


def test_a_target_that_is_not_there_refuses_the_login(target):
    with pytest.raises(LoginError) as refused:
        IscsiClient("127.0.0.1", target.port, "iqn.2026-01.io.sparrow:none", timeout_s=30)
    assert refused.value.status == (2, 3)
    target.failures.clear()


def test_an_unknown_command_is_refused_and_the_session_goes_on(target):
    with _connect(target) as client:
        client.submit(bytes([0xC0]) + bytes(15))
        (completion,) = client.poll(30)
        assert (completion.error.asc, completion.error.ascq) == (0x20, 0)
        client.test_unit_ready()


def test_the_client_notices_a_gap_in_stat_sn(target):
    with _connect(target) as client:
        client._exp_stat_sn += 1
        with pytest.raises(ProtocolViolation, match="StatSN"):
            client.test_unit_ready()


def test_a_hundred_sessions_come_and_go(target):
    for number in range(100):
        with _connect(target) as client:
            assert client.tsih == number + 1
            client.logout()

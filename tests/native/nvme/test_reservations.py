"""Commands of reservations on NVMe/TCP I/O queues: they go up to Python and come back."""

from __future__ import annotations

import struct

import pytest

from tests.support.front_bed import CLOSED, Bed, pattern
from tests.support.needs import needs_io_uring
from tests.support.nvme_bed import (
    DNR,
    FLUSH,
    IN_CAPSULE,
    R2T,
    SGL,
    SGL_LENGTH,
    TRANSITION,
    TRANSPORT,
    Host,
)

pytestmark = needs_io_uring()


def reserving(
    opcode: int, cid: int, length: int, *, sgl: int = IN_CAPSULE, cdw10: int = 0
) -> bytes:
    return struct.pack(
        "<BBHI8xQQI3xBIIIIII",
        opcode, SGL, cid, 1, 0, 0, length, sgl, cdw10, 0x55, 0, 0, 0, 0,
    )  # fmt: skip


@pytest.mark.parametrize("in_capsule", [True, False])
@pytest.mark.parametrize(("opcode", "length"), [(0x0D, 16), (0x11, 16), (0x15, 8), (0x15, 24)])
def test_commands_of_reservations_go_up_with_their_data(
    bed: Bed, host: Host, opcode: int, length: int, in_capsule: bool
) -> None:
    entry = reserving(opcode, 7, length, sgl=IN_CAPSULE if in_capsule else TRANSPORT, cdw10=3)
    host.capsule(entry, pattern(length) if in_capsule else b"")
    if not in_capsule:
        r2t = host.receive()
        assert r2t.kind == R2T
        host.send_data(r2t, pattern(length))
    _, key, tag, head, data = bed.wait("upcall")
    assert (key, head, data) == (host.key, entry[:48], pattern(length))
    bed.core.answer(key, tag, status=0x083 | DNR)
    assert host.finish(7).status == 0x083 | DNR
    bed.core.answer(key, tag, status=0)
    assert host.read(0, 8).status == 0, "an answer too many is nobody's"


@pytest.mark.parametrize("flow_control", [True, False])
def test_a_report_brings_its_data(bed: Bed, flow_control: bool) -> None:
    host = Host.connect(bed, flow_control=flow_control, data_digest=True)
    host.capsule(reserving(0x0E, 7, 4096, sgl=TRANSPORT, cdw10=1023))
    _, key, tag, _, data = bed.wait("upcall")
    assert data == b""
    bed.core.answer(key, tag, data_in=pattern(4096))
    result = host.finish(7)
    assert (result.status, result.data) == (0, pattern(4096))


@pytest.mark.parametrize(
    ("opcode", "length", "cdw10"),
    [(0x0D, 15, 0), (0x11, 8, 0), (0x15, 7, 0), (0x0E, 4096, 1024), (0x0E, 4096, 0xFFFFFFFF)],
)
def test_commands_of_reservations_need_room_for_their_data(
    bed: Bed, host: Host, opcode: int, length: int, cdw10: int
) -> None:
    assert (
        finish(host, reserving(opcode, 7, length, sgl=TRANSPORT, cdw10=cdw10)) == SGL_LENGTH | DNR
    )
    assert host.finish(host.start(FLUSH)).status == 0


def finish(host: Host, entry: bytes) -> int:
    host.capsule(entry)
    return host.finish(int.from_bytes(entry[2:4], "little")).status


def test_commands_of_reservations_meet_the_gate_twice(bed: Bed, host: Host) -> None:
    bed.core.set_gate(False)
    host.capsule(reserving(0x15, 7, 8), bytes(8))
    assert host.finish(7).status == TRANSITION
    bed.core.set_gate(True)
    host.capsule(reserving(0x15, 8, 8), bytes(8))
    _, key, tag, _, _ = bed.wait("upcall")
    bed.core.set_gate(False)
    bed.core.answer(key, tag, status=0)
    assert host.finish(8).status == TRANSITION


def test_a_host_that_goes_while_python_has_its_command_leaves_nothing(bed: Bed, host: Host) -> None:
    host.capsule(reserving(0x0D, 7, 16), bytes(16))
    _, key, tag, _, _ = bed.wait("upcall")
    host.socket.close()
    assert bed.wait("ended")[1:] == (host.key, CLOSED)
    bed.core.answer(key, tag, status=0, data_in=b"late")
    assert bed.free_pages() == bed.pages_at_start

"""One NVMe/TCP connection as a machine: initialization, capsules, R2T, what breaks it; whole and one byte at a time."""

from __future__ import annotations

import struct

import pytest

from sparrow.frontends.nvme.connect import decode_connect
from sparrow.frontends.nvme.connection import Connection
from sparrow.frontends.nvme.errors import HostTerminated, NvmeError
from sparrow.frontends.nvme.status import CommandRefused
from tests.support.nvme_machine import (
    CAPSULE_CMD,
    H2C_DATA,
    LAST,
    R2T,
    MachineHost,
    admin_entry,
    connect_data,
    connect_entry,
    icreq,
    pdu,
)
from tests.support.nvme_pdus import CAPSULE_RESP

DNR = 0x4000
INVALID_FIELD, CONFLICT, SGL_LENGTH, SGL_TYPE, SGL_OFFSET = 0x02, 0x03, 0x0F, 0x11, 0x16
TRANSIENT = 0x22
HEADER, SEQUENCE, DIGEST, RANGE, LIMIT, UNSUPPORTED = range(1, 7)


def fault(raised: pytest.ExceptionInfo[NvmeError]) -> tuple[int, int]:
    reply = raised.value.reply
    assert reply[0] == 3
    assert struct.unpack_from("<I", reply, 4)[0] == len(reply)
    fes, fei = struct.unpack_from("<HI", reply, 8)
    return fes, fei


@pytest.mark.parametrize("trickle", [False, True])
@pytest.mark.parametrize("digests", [0, 1, 2, 3])
@pytest.mark.parametrize("hpda", [0, 7, 31])
def test_connect_is_read_however_it_comes(trickle: bool, digests: int, hpda: int) -> None:
    host = MachineHost(digests=digests, hpda=hpda, trickle=trickle)
    host.send(
        connect_entry(5, qid=0, sqsize=31, kato=5000),
        connect_data("nqn.2024-01.x:y", cntlid=0xFFFF),
    )
    assert host.machine.header_digest == bool(digests & 1)
    assert host.machine.data_digest == bool(digests & 2)
    assert host.machine.data_align == 4 * (hpda + 1)
    (command,) = host.commands
    connect = decode_connect(command)
    assert (connect.qid, connect.entries, connect.kato_ms) == (0, 32, 5000)
    assert (connect.subsystem_nqn, connect.cntlid) == ("nqn.2024-01.x:y", 0xFFFF)
    host.machine.complete(5, 0, 0x1001)
    answer = host.receive()
    assert (answer.kind, answer.status, answer.result, answer.sqhd) == (CAPSULE_RESP, 0, 0x1001, 1)


@pytest.mark.parametrize("trickle", [False, True])
@pytest.mark.parametrize("digests", [0, 3])
def test_data_may_be_asked_for(trickle: bool, digests: int) -> None:
    host = MachineHost(digests=digests, trickle=trickle)
    data = bytes(range(256)) * 4
    host.send(connect_entry(9, qid=0, sqsize=31, kato=0, sgl=0x5A))
    r2t = host.receive()
    assert (r2t.kind, r2t.wanted) == (R2T, (9, r2t.ttag, 0, 1024))
    for at in (0, 512):
        head = struct.pack("<HHII4x", 9, r2t.ttag, at, 512)
        host.feed(host.pdu(H2C_DATA, head, data[at : at + 512], flags=LAST if at else 0))
    assert [command.data for command in host.commands] == [data]


def test_data_goes_out_aligned_and_summed() -> None:
    host = MachineHost(digests=3, hpda=15)
    host.send(admin_entry(0x06, 3, length=4096))
    host.machine.complete(3, 0, 0, b"\x55" * 4096)
    data, answer = host.receive(), host.receive()
    assert data.head[3] % 64 == 0
    assert (data.data, data.flags & LAST) == (b"\x55" * 4096, LAST)
    assert answer.status == 0


def test_refusals_of_an_entry_leave_the_connection() -> None:
    host = MachineHost()
    for entry, data, status in [
        (admin_entry(0x06, 1, length=4096, flags=0), b"", INVALID_FIELD),
        (connect_entry(2, qid=0, sqsize=31, kato=0, sgl=0x00), b"", SGL_TYPE),
        (connect_entry(3, qid=0, sqsize=31, kato=0), bytes(1000), SGL_LENGTH),
        (connect_entry(4, qid=0, sqsize=31, kato=0, address=8), bytes(1024), SGL_OFFSET),
        (connect_entry(5, qid=0, sqsize=31, kato=0, sgl=0x5A, length=8193), b"", SGL_LENGTH),
        (connect_entry(6, qid=0, sqsize=31, kato=0, sgl=0x5A), bytes(1024), SGL_TYPE),
    ]:
        host.send(entry, data)
        answer = host.receive()
        assert answer.status == status | DNR
    assert not host.commands
    host.send(admin_entry(0x06, 1, length=4096))
    assert len(host.commands) == 1


def test_an_identifier_in_use_is_refused() -> None:
    host = MachineHost()
    host.send(admin_entry(0x0C, 1))
    host.send(admin_entry(0x0C, 1))
    assert host.receive().status == CONFLICT | DNR
    assert len(host.commands) == 1
    host.machine.complete(1, 0)
    assert host.receive().status == 0


def test_a_wrong_data_digest_is_that_command_alone() -> None:
    host = MachineHost(digests=2)
    raw = bytearray(host.pdu(CAPSULE_CMD, connect_entry(1, qid=0, sqsize=31, kato=0), bytes(1024)))
    raw[-1] ^= 1
    host.feed(bytes(raw))
    assert host.receive().status == TRANSIENT
    assert not host.commands


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (pdu(CAPSULE_CMD, bytes(64)), (SEQUENCE, 0)),
        (icreq(pfv=1), (UNSUPPORTED, 8)),
        (icreq(hpda=32), (HEADER, 10)),
        (struct.pack("<BBBBI", 0, 0, 100, 0, 128), (HEADER, 2)),
        (struct.pack("<BBBBI", 0, 0, 128, 0, 256), (HEADER, 4)),
        (struct.pack("<BBBBI", 0x33, 0, 128, 0, 128), (HEADER, 0)),
        (struct.pack("<BBBBI", 5, 0, 24, 0, 24), (HEADER, 0)),
    ],
)
def test_a_wrong_beginning_ends_it(raw: bytes, expected: tuple[int, int]) -> None:
    connection = Connection()
    connection.feed(raw)
    with pytest.raises(NvmeError) as raised:
        connection.next_command()
    assert fault(raised) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (icreq(), (SEQUENCE, 0)),
        (struct.pack("<BBBBI", 4, 1, 72, 0, 76), (HEADER, 1)),
        (struct.pack("<BBBBI", 4, 2, 72, 72, 80), (HEADER, 1)),
        (struct.pack("<BBBBI", 4, 0, 70, 0, 70), (HEADER, 2)),
        (struct.pack("<BBBBI", 4, 0, 72, 0, 70), (HEADER, 4)),
        (struct.pack("<BBBBI", 4, 0, 72, 70, 100), (HEADER, 3)),
        (struct.pack("<BBBBI", 4, 0, 72, 100, 100), (HEADER, 4)),
        (struct.pack("<BBBBI", 4, 0, 72, 72, 72 + 8193), (HEADER, 4)),
        (struct.pack("<BBBBI", 6, 0, 24, 24, 24 + 131073), (LIMIT, 0)),
        (pdu(H2C_DATA, struct.pack("<HHII4x", 1, 1, 0, 8), bytes(8)), (SEQUENCE, 0)),
        (pdu(H2C_DATA, struct.pack("<HHII4x", 1, 1, 0, 4), bytes(8)), (HEADER, 16)),
    ],
)
def test_a_broken_pdu_ends_it(raw: bytes, expected: tuple[int, int]) -> None:
    host = MachineHost()
    with pytest.raises(NvmeError) as raised:
        host.feed(raw)
    assert fault(raised) == expected


def test_a_wrong_header_digest_ends_it() -> None:
    host = MachineHost(digests=1)
    raw = bytearray(host.pdu(CAPSULE_CMD, admin_entry(0x18, 1)))
    raw[-2] ^= 1
    with pytest.raises(NvmeError) as raised:
        host.feed(bytes(raw))
    assert fault(raised) == (DIGEST, int.from_bytes(raw[-4:], "little"))


@pytest.mark.parametrize(
    ("offset", "length", "last", "expected"),
    [
        (4, 1024, LAST, (HEADER, 12)),
        (0, 1028, LAST, (RANGE, 0)),
        (0, 1024, 0, (HEADER, 1)),
        (0, 512, LAST, (HEADER, 1)),
    ],
)
def test_data_out_of_place_ends_it(
    offset: int, length: int, last: int, expected: tuple[int, int]
) -> None:
    host = MachineHost()
    host.send(connect_entry(9, qid=0, sqsize=31, kato=0, sgl=0x5A))
    r2t = host.receive()
    head = struct.pack("<HHII4x", 9, r2t.ttag, offset, length)
    with pytest.raises(NvmeError) as raised:
        host.feed(host.pdu(H2C_DATA, head, bytes(length), flags=last))
    assert fault(raised) == expected


def test_more_commands_than_entries_end_it() -> None:
    host = MachineHost()
    host.machine.sq_entries = 3
    for cid in range(3):
        host.send(admin_entry(0x0C, cid))
    with pytest.raises(NvmeError) as raised:
        host.send(admin_entry(0x0C, 3))
    assert fault(raised) == (SEQUENCE, 0)


def test_a_host_that_ends_it_is_not_answered() -> None:
    host = MachineHost()
    with pytest.raises(HostTerminated) as raised:
        host.feed(struct.pack("<BBBBIHI10x", 2, 0, 24, 0, 24, 2, 0))
    assert raised.value.reply == b""


def test_bytes_behind_a_command_stay_for_whoever_goes_on() -> None:
    host = MachineHost()
    first = host.pdu(CAPSULE_CMD, admin_entry(0x18, 1))
    host.machine.feed(first + b"more")
    assert host.machine.next_command() is not None
    assert host.machine.residual == b"more"


@pytest.mark.parametrize(
    ("change", "status", "result"),
    [
        ({"fctype": 4}, 0x0C, 0),
        ({"recfmt": 1}, 0x180, 0),
        ({"sqsize": 0}, 0x182, 44),
        ({"sqsize": 128}, 0x182, 44),
        ({"data": bytes(1024)}, 0x182, 0x10000 | 256),
        (
            {"data": connect_data("nqn.2024-01.x:y", cntlid=1, hostnqn="somebody")},
            0x182,
            0x10000 | 512,
        ),
        ({"data": bytes(512), "length": 512}, SGL_LENGTH, 0),
    ],
)
def test_a_connect_that_makes_no_sense_is_refused(
    change: dict[str, object], status: int, result: int
) -> None:
    fields = {"qid": 0, "sqsize": 31, "kato": 0} | {
        name: value for name, value in change.items() if name != "data"
    }
    data = change.get("data", connect_data("nqn.2024-01.x:y", cntlid=1))
    assert isinstance(data, bytes)
    host = MachineHost()
    host.send(connect_entry(1, **fields), data)  # type: ignore[arg-type]
    with pytest.raises(CommandRefused) as raised:
        decode_connect(host.commands[0])
    assert (raised.value.status, raised.value.result) == (status | DNR, result)

"""Hosts that break NVMe/TCP: the connection ends with its reason, and no other is harmed."""

from __future__ import annotations

import contextlib
import random
import struct

import pytest

from tests.support.front_bed import DIGEST, HOLD_FREE, PROTOCOL, Bed
from tests.support.needs import needs_io_uring
from tests.support.nvme_bed import (
    C2H_DATA,
    CAPSULE_CMD,
    DDGST,
    FLUSH,
    H2C_DATA,
    HDGST,
    ICREQ,
    IN_CAPSULE,
    LAST,
    READ,
    WRITE,
    Host,
    common,
    sqe,
)
from tests.support.nvme_pdus import C2H_TERM

pytestmark = needs_io_uring()

HEADER, SEQUENCE, HEADER_DIGEST, OUT_OF_RANGE, LIMIT = 1, 2, 3, 4, 5


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (common(ICREQ, 0, 128, 0, 128), (SEQUENCE, 0)),
        (common(C2H_DATA, 0, 24, 24, 32), (HEADER, 0)),
        (common(0x55, 0, 24, 0, 24), (HEADER, 0)),
        (common(CAPSULE_CMD, 0, 71, 0, 72), (HEADER, 2)),
        (common(H2C_DATA, 0, 72, 72, 80), (HEADER, 2)),
        (common(CAPSULE_CMD, HDGST, 72, 0, 76), (HEADER, 1)),
        (common(CAPSULE_CMD, DDGST, 72, 72, 80), (HEADER, 1)),
        (common(CAPSULE_CMD, 0, 72, 0, 71), (HEADER, 4)),
        (common(CAPSULE_CMD, 0, 72, 60, 600), (HEADER, 3)),
        (common(CAPSULE_CMD, 0, 72, 73, 600), (HEADER, 3)),
        (common(CAPSULE_CMD, 0, 72, 200, 150), (HEADER, 4)),
        (common(CAPSULE_CMD, 0, 72, 72, 72 + 8193), (HEADER, 4)),
        (common(CAPSULE_CMD, 0, 72, 72, 0xFFFFFFFF), (HEADER, 4)),
        (common(H2C_DATA, 0, 24, 24, 24), (HEADER, 4)),
        (common(H2C_DATA, 0, 24, 24, 24 + 131073), (LIMIT, 0)),
        (common(H2C_DATA, 0, 24, 24, 32) + struct.pack("<HHII4x", 1, 5, 0, 8), (SEQUENCE, 0)),
        (common(H2C_DATA, 0, 24, 24, 32) + struct.pack("<HHII4x", 1, 5, 0, 9), (HEADER, 16)),
    ],
)
def test_a_broken_pdu_ends_the_connection_with_its_reason(
    bed: Bed, raw: bytes, fault: tuple[int, int]
) -> None:
    host = Host.connect(bed)
    host.send(raw)
    pdu = host.receive()
    assert (pdu.kind, pdu.fault) == (C2H_TERM, fault)
    assert raw.startswith(pdu.data)
    assert len(pdu.data) >= 8
    host.socket.close()
    assert bed.wait("ended")[1:] == (host.key, PROTOCOL)


def test_a_host_that_does_not_hang_up_is_hung_up_on(bed: Bed, host: Host) -> None:
    host.send(common(0x55, 0, 24, 0, 24))
    assert host.receive().kind == C2H_TERM
    assert host.closed()
    assert bed.wait("ended")[1:] == (host.key, PROTOCOL)


def test_a_wrong_header_digest_ends_it(bed: Bed) -> None:
    host = Host.connect(bed, header_digest=True)
    raw = bytearray(host.pdu(CAPSULE_CMD, sqe(FLUSH, 1)))
    raw[20] ^= 1
    host.send(bytes(raw))
    assert host.receive().fault == (HEADER_DIGEST, struct.unpack("<I", raw[-4:])[0])
    host.socket.close()
    assert bed.wait("ended")[1:] == (host.key, DIGEST)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"offset": 4}, (HEADER, 12)),
        ({"length": 1028}, (OUT_OF_RANGE, 0)),
        ({"last": 0}, (HEADER, 1)),
        ({"tag": 1}, (SEQUENCE, 0)),
        ({"cid": 1}, (SEQUENCE, 0)),
    ],
)
def test_data_out_of_place_ends_it(
    bed: Bed, host: Host, change: dict[str, int], fault: tuple[int, int]
) -> None:
    host.capsule(sqe(WRITE, 5, blocks=2, length=1024))
    r2t = host.receive()
    length = change.get("length", 1024)
    head = struct.pack(
        "<HHII4x",
        5 + change.get("cid", 0),
        r2t.ttag + change.get("tag", 0),
        change.get("offset", 0),
        length,
    )
    host.send(host.pdu(H2C_DATA, head, bytes(length), flags=change.get("last", LAST)))
    assert host.receive().fault == fault
    host.socket.close()
    assert bed.wait("ended")[1:] == (host.key, PROTOCOL)


def test_more_commands_than_entries_end_it(bed: Bed) -> None:
    host = Host.connect(bed, depth=4)
    bed.core.hold(HOLD_FREE)
    for cid in range(5):
        host.capsule(sqe(READ, cid, length=512))
    assert host.receive().fault == (SEQUENCE, 0)
    host.socket.close()
    assert bed.wait("ended")[1:] == (host.key, PROTOCOL)


def test_noise_never_harms_more_than_its_own_connection(bed: Bed) -> None:
    rng = random.Random(40)
    other = Host.connect(bed)
    for _ in range(60):
        host = Host.connect(bed, header_digest=rng.random() < 0.3)
        raw = bytearray(
            host.pdu(CAPSULE_CMD, sqe(WRITE, 1, blocks=8, length=4096, sgl=IN_CAPSULE), bytes(4096))
        )
        for _ in range(rng.randrange(1, 6)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        with contextlib.suppress(OSError):
            host.send(bytes(raw) + rng.randbytes(rng.randrange(300)))
        host.socket.close()
        bed.wait("ended")
    assert other.read(0, 8).status == 0

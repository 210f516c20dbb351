"""PDU framing and codecs: where fields lie, what is refused, one byte at a time."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparrow.base.errors import RemoteProtocolError
from sparrow.frontends.iscsi.errors import LoginStatus, MalformedPdu
from sparrow.frontends.iscsi.pdu import BHS_BYTES, RESERVED_TAG, Opcode, Pdu, PduReader, frame
from sparrow.frontends.iscsi.requests import (
    LoginRequest,
    LogoutReason,
    LogoutRequest,
    NopOut,
    Stage,
    TextRequest,
)
from sparrow.frontends.iscsi.responses import (
    LoginResponse,
    LogoutOutcome,
    LogoutResponse,
    NopIn,
    Reject,
    RejectReason,
    TextResponse,
)
from tests.support.iscsi_peer import pdus

U32 = {"task_tag": 0x01020304, "cmd_sn": 0x05060708, "exp_stat_sn": 0x090A0B0C}
SN = {"stat_sn": 0x11121314, "exp_cmd_sn": 0x15161718, "max_cmd_sn": 0x191A1B1C}

EVERY_KIND = [
    LoginRequest(
        transit=True,
        continued=False,
        current_stage=Stage.SECURITY,
        next_stage=Stage.FULL_FEATURE,
        isid=b"ISIDis",
        tsih=0x2122,
        cid=0x2324,
        text=b"A=b\0",
        **U32,
    ),
    TextRequest(final=True, lun=1 << 62, transfer_tag=5, text=b"SendTargets=All\0", **U32),
    LogoutRequest(reason=LogoutReason.CLOSE_CONNECTION, cid=9, immediate=True, **U32),
    NopOut(immediate=True, lun=3, ping=b"ping!", **U32),
    LoginResponse(
        transit=True,
        current_stage=Stage.OPERATIONAL,
        next_stage=Stage.FULL_FEATURE,
        isid=b"ISIDis",
        tsih=0x2122,
        task_tag=1,
        status=LoginStatus.NOT_FOUND,
        text=b"A=b\0",
        **SN,
    ),
    TextResponse(final=False, continued=True, transfer_tag=5, task_tag=1, text=b"abc", **SN),
    LogoutResponse(outcome=LogoutOutcome.CID_NOT_FOUND, task_tag=1, time_to_wait_s=2, **SN),
    NopIn(task_tag=1, ping=b"x", **SN),
    Reject(reason=RejectReason.PROTOCOL_ERROR, header=bytes(48), **SN),
]


@pytest.mark.parametrize("value", EVERY_KIND, ids=lambda value: type(value).__name__)
def test_every_pdu_survives_the_wire(value):
    wire = value.encode()
    assert len(wire) % 4 == 0
    (pdu,) = pdus(wire)
    assert type(value).decode(pdu) == value


def test_a_login_request_has_its_fields_where_the_standard_puts_them():
    wire = EVERY_KIND[0].encode()
    assert wire[0] == 0x43
    assert wire[1] == 0x83
    assert wire[4:8] == bytes([0, 0, 0, 4])
    assert wire[8:14] == b"ISIDis"
    assert wire[14:16] == bytes.fromhex("2122")
    assert wire[16:20] == bytes.fromhex("01020304")
    assert wire[20:22] == bytes.fromhex("2324")
    assert wire[24:32] == bytes.fromhex("05060708090a0b0c")


def test_a_login_response_has_its_fields_where_the_standard_puts_them():
    wire = EVERY_KIND[4].encode()
    assert wire[0] == 0x23
    assert wire[1] == 0x87
    assert wire[2:4] == bytes(2)
    assert wire[24:36] == bytes.fromhex("1112131415161718191a1b1c")
    assert wire[36:38] == bytes([0x02, 0x03])


def test_bytes_arriving_one_at_a_time_give_the_same_pdus():
    wire = b"".join(value.encode() for value in EVERY_KIND)
    reader = PduReader(segment_bytes_max=8192)
    found = []
    for byte in wire:
        reader.feed(bytes([byte]))
        while (pdu := reader.next_pdu()) is not None:
            found.append(pdu)
    assert found == pdus(wire)
    assert len(found) == len(EVERY_KIND)


def test_a_segment_beyond_the_limit_is_refused_before_it_arrives():
    reader = PduReader(segment_bytes_max=8192)
    reader.feed(frame(bytes(BHS_BYTES), bytes(8193))[:BHS_BYTES])
    with pytest.raises(MalformedPdu, match="8193"):
        reader.next_pdu()


def test_a_segment_of_exactly_the_limit_is_taken():
    reader = PduReader(segment_bytes_max=8192)
    reader.feed(frame(bytes(BHS_BYTES), bytes(8192)))
    assert len(reader.next_pdu().data) == 8192


def test_additional_headers_are_refused_where_none_are_allowed():
    header = bytearray(BHS_BYTES)
    header[4] = 1
    reader = PduReader(segment_bytes_max=8192)
    reader.feed(bytes(header))
    with pytest.raises(MalformedPdu, match="additional header"):
        reader.next_pdu()


def test_additional_headers_are_cut_off_where_they_are_allowed():
    header = bytearray(BHS_BYTES)
    header[4] = 2
    reader = PduReader(segment_bytes_max=8192, ahs_bytes_max=8)
    reader.feed(frame(header, b"abcde")[:BHS_BYTES] + b"AHSahsAH" + b"abcde\0\0\0")
    pdu = reader.next_pdu()
    assert (pdu.ahs, pdu.data) == (b"AHSahsAH", b"abcde")


def test_what_follows_the_last_pdu_can_be_taken_out():
    reader = PduReader(segment_bytes_max=8192)
    reader.feed(frame(bytes(BHS_BYTES)) + b"next owner")
    assert reader.next_pdu() is not None
    assert reader.take_rest() == b"next owner"
    assert reader.buffered_bytes == 0


def _login(**changes: int) -> Pdu:
    """A Login Request with bytes of its header replaced: _login(b1=0xC4)."""
    header = bytearray(EVERY_KIND[0].encode()[:BHS_BYTES])
    for place, value in changes.items():
        header[int(place[1:])] = value
    return Pdu(bhs=bytes(header))


@pytest.mark.parametrize(
    ("pdu", "complaint"),
    [
        (_login(b0=0x44), "not a Login"),
        (_login(b0=0x03), "immediate"),
        (_login(b1=0xC4), "T and C"),
        (_login(b1=0x08), "no login stage has number 2"),
        (_login(b1=0x0C), "no login stage has number 3"),
        (_login(b1=0x84), "from login stage 1 to 0"),
        (_login(b1=0x85), "from login stage 1 to 1"),
        (_login(b1=0x86), "from login stage 1 to 2"),
        (_login(b1=0x82), "from login stage 0 to 2"),
        (_login(b16=0xFF, b17=0xFF, b18=0xFF, b19=0xFF), "task tag"),
    ],
)
def test_a_login_request_the_standard_forbids_is_refused(pdu, complaint):
    with pytest.raises(MalformedPdu, match=complaint):
        LoginRequest.decode(pdu)


def test_the_next_stage_is_not_looked_at_without_the_transit_bit():
    assert LoginRequest.decode(_login(b1=0x06)).next_stage is None


def test_reserved_bits_are_ignored():
    assert LoginRequest.decode(_login(b1=0xB3, b22=0xFF, b47=0xFF)) == dataclasses.replace(
        EVERY_KIND[0], text=b""
    )


@pytest.mark.parametrize(
    ("kind", "value", "changes"),
    [
        (TextRequest, EVERY_KIND[1], {1: 0xC0}),
        (TextRequest, EVERY_KIND[1], {0: 0x06}),
        (LogoutRequest, EVERY_KIND[2], {1: 0x83}),
        (LogoutRequest, EVERY_KIND[2], {0: 0x04}),
        (NopOut, EVERY_KIND[3], {0: 0x04}),
        (NopOut, EVERY_KIND[3], {0: 0x00, 16: 255, 17: 255, 18: 255, 19: 255}),
    ],
)
def test_requests_with_a_bad_header_are_refused(kind, value, changes):
    header = bytearray(value.encode()[:BHS_BYTES])
    for place, byte in changes.items():
        header[place] = byte
    with pytest.raises(MalformedPdu):
        kind.decode(Pdu(bhs=bytes(header)))


def test_a_logout_with_data_is_refused():
    with pytest.raises(MalformedPdu, match="no data"):
        LogoutRequest.decode(Pdu(bhs=EVERY_KIND[2].encode(), data=b"x"))


@given(st.binary(min_size=BHS_BYTES, max_size=BHS_BYTES), st.sampled_from(EVERY_KIND[:4]))
def test_any_header_decodes_or_is_the_peers_fault(header, kind):
    try:
        value = type(kind).decode(Pdu(bhs=header))
    except RemoteProtocolError:
        return
    # What was read can be said again and means the same.
    (pdu,) = pdus(value.encode())
    assert type(kind).decode(pdu) == value


def test_the_reserved_tag_is_all_ones():
    assert RESERVED_TAG == 0xFFFFFFFF
    assert Opcode.REJECT == 0x3F

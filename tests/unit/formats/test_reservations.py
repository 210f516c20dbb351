"""The table of reservations as a blob: what is written is read, and what is not valid is neither."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparrow.base.errors import DamagedData, LocalProtocolError
from sparrow.formats import reservations as formats
from sparrow.formats.reservations import (
    RESERVATION_BYTES,
    RESERVATION_HEADER,
    RESERVATION_REGISTRANT,
    RESERVATION_REGISTRANTS_MAX,
    ReservationNexus,
    ReservationRegistrant,
    ReservationTable,
    decode_registrant,
    decode_table,
    encode_table,
)

A = ReservationNexus(
    kind=1, identifier=bytes.fromhex("00023d000001").ljust(16, b"\0"), name="iqn.a"
)
B = ReservationNexus(kind=2, identifier=bytes(range(16)), name="nqn.b")
HELD = ReservationTable(
    registrants=(
        ReservationRegistrant(nexus=A, key=0x1122334455667788, port=2),
        ReservationRegistrant(nexus=B, key=7),
    ),
    generation=9,
    type=5,
    holder=B,
    aptpl=True,
)
BY_RESERVE = ReservationTable(
    registrants=(ReservationRegistrant(nexus=A, key=0),), type=3, holder=A, by_reserve=True
)

names = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=70
).filter(lambda text: len(text.encode()) <= 223)
nexuses = st.builds(
    ReservationNexus,
    kind=st.sampled_from([1, 2]),
    identifier=st.binary(min_size=16, max_size=16),
    name=names,
)


@st.composite
def tables(draw: st.DrawFn) -> ReservationTable:
    found = draw(st.lists(nexuses, unique=True, max_size=RESERVATION_REGISTRANTS_MAX))
    rows = tuple(
        ReservationRegistrant(
            nexus=nexus,
            key=draw(st.integers(1, (1 << 64) - 1)),
            port=draw(st.integers(0, 0xFFFF)),
        )
        for nexus in found
    )
    kind = draw(st.sampled_from([0, 1, 3, 5, 6, 7, 8])) if found else 0
    holder = draw(st.sampled_from(found)) if kind in formats.ONE_HOLDER else None
    return ReservationTable(
        registrants=rows,
        generation=draw(st.integers(0, (1 << 32) - 1)),
        type=kind,
        holder=holder,
        aptpl=draw(st.booleans()),
    )


@given(tables())
def test_what_is_written_is_read(table: ReservationTable) -> None:
    blob = encode_table(table)
    assert len(blob) == RESERVATION_BYTES
    assert decode_table(blob) == table


def test_the_bytes_are_where_the_format_says() -> None:
    blob = encode_table(HELD)
    assert blob[:16].hex() == "53505254010002000900000005010100"
    assert blob[256:264].hex() == "8877665544332211"
    assert blob[264:268].hex() == "01050200"
    assert blob[272:288].hex() == "00023d00000100000000000000000000"
    assert blob[288:294] == b"iqn.a\0"
    assert blob[512:520].hex() == "0700000000000000"


def test_a_nexus_is_a_place_without_a_key() -> None:
    read = decode_registrant(A.record())
    assert (read.nexus, read.key) == (A, 0)
    assert len(A.record()) == RESERVATION_REGISTRANT.size


def test_reserve_has_one_place_without_a_key_and_no_registration() -> None:
    assert decode_table(encode_table(BY_RESERVE)) == BY_RESERVE
    assert BY_RESERVE.find(A) is None
    assert HELD.find(A) == HELD.registrants[0]


@pytest.mark.parametrize(
    "table",
    [
        replace(HELD, holder=None),
        replace(HELD, type=7),
        replace(HELD, type=0),
        replace(HELD, type=2),
        replace(HELD, registrants=HELD.registrants[:1]),
        replace(HELD, registrants=HELD.registrants + HELD.registrants[:1]),
        replace(HELD, registrants=(replace(HELD.registrants[0], key=0), HELD.registrants[1])),
        ReservationTable(type=7),
        replace(BY_RESERVE, type=1),
        replace(BY_RESERVE, registrants=(replace(BY_RESERVE.registrants[0], key=5),)),
        ReservationTable(
            registrants=tuple(
                ReservationRegistrant(nexus=replace(A, name=f"iqn.{n}"), key=1)
                for n in range(RESERVATION_REGISTRANTS_MAX + 1)
            )
        ),
    ],
)
def test_what_is_not_valid_is_not_written(table: ReservationTable) -> None:
    with pytest.raises(LocalProtocolError):
        encode_table(table)


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 224])
def test_a_name_that_does_not_fit_is_not_written(name: str) -> None:
    with pytest.raises(LocalProtocolError):
        replace(A, name=name).record()


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"X"),  # magic
        (4, b"\2"),  # version
        (6, b"\x40"),  # count
        (12, b"\2"),  # type
        (12, b"\7"),  # a type that all hold, and a holder
        (13, b"\x08"),  # flags
        (14, b"\2"),  # holder
        (16, b"\1"),  # reserved
        (264, b"\3"),  # kind
        (265, b"\0"),  # name_len
        (265, b"\4"),  # name longer than it says
        (268, b"\1"),  # reserved
        (288, b"\xff"),  # no UTF-8
        (289, b"\0"),  # a zero byte inside
        (511, b"\1"),  # the last byte of a place
        (768, b"\1"),  # an unused place
        (RESERVATION_BYTES - 1, b"\1"),
    ],
)
def test_what_is_not_valid_is_not_read(at: int, value: bytes) -> None:
    blob = bytearray(encode_table(HELD))
    blob[at : at + 1] = value
    with pytest.raises(DamagedData):
        decode_table(bytes(blob))


def test_two_places_of_one_nexus_are_not_read() -> None:
    blob = bytearray(encode_table(HELD))
    start = RESERVATION_HEADER.size
    blob[start + 256 : start + 512] = blob[start : start + 256]
    with pytest.raises(DamagedData):
        decode_table(bytes(blob))


@pytest.mark.parametrize("size", [0, 256, RESERVATION_BYTES - 1, RESERVATION_BYTES + 1])
def test_another_length_is_no_table(size: int) -> None:
    with pytest.raises(DamagedData):
        decode_table(encode_table(HELD).ljust(size, b"\0")[:size])


@given(st.integers(0, RESERVATION_BYTES - 1), st.integers(0, 255))
def test_a_changed_byte_is_another_valid_table_or_refused(at: int, value: int) -> None:
    blob = bytearray(encode_table(HELD))
    blob[at] = value
    try:
        table = decode_table(bytes(blob))
    except DamagedData:
        return
    assert encode_table(table) == bytes(blob)


@given(tables(), st.booleans())
def test_how_a_table_came_about_is_kept_and_no_part_of_what_it_says(
    table: ReservationTable, by_preempt: bool
) -> None:
    told = replace(table, by_preempt=by_preempt)
    assert told == table
    assert decode_table(encode_table(told)).by_preempt == by_preempt

"""A layout is declared once; what it refuses to declare, to write and to read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparrow.base.errors import DamagedData, LocalProtocolError, RemoteProtocolError
from sparrow.formats.layout import Constant, Field, Layout

LITTLE = Layout(
    "sample",
    order="le",
    size=40,
    doc="sample",
    fields=(
        Field("magic", "u32", "m"),
        Field("delta", "i32", "d"),
        Field("lsn", "u64", "l"),
        Field("counts", "u16[2]", "c"),
        Field("reserved0", "reserved4", "zero"),
        Field("uuid", "bytes16", "u"),
    ),
)
BIG = Layout(
    "wire",
    order="be",
    size=14,
    doc="wire",
    fields=(
        Field("opcode", "u8", "o"),
        Field("length", "u24", "n"),
        Field("port", "u16", "p"),
        Field("tag", "u64", "t"),
    ),
)
VALUES = {
    "magic": 0x11223344,
    "delta": -2,
    "lsn": 7,
    "counts": (1, 65535),
    "uuid": b"0123456789abcdef",
}


def test_little_endian_bytes_are_where_the_table_says() -> None:
    packed = LITTLE.pack(VALUES)
    assert packed.hex() == (
        "44332211feffffff07000000000000000100ffff00000000" + b"0123456789abcdef".hex()
    )
    assert LITTLE.offset_of("counts") == 16
    assert [offset for offset, _ in LITTLE.offsets()] == [0, 4, 8, 16, 20, 24]


def test_big_endian_bytes_and_24_bit_fields() -> None:
    packed = BIG.pack({"opcode": 1, "length": 0x020304, "port": 0x0506, "tag": 7})
    assert packed.hex() == "0102030405060000000000000007"
    assert BIG.unpack(packed).number("length") == 0x020304


@given(
    magic=st.integers(0, 2**32 - 1),
    delta=st.integers(-(2**31), 2**31 - 1),
    lsn=st.integers(0, 2**64 - 1),
    counts=st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    uuid=st.binary(min_size=16, max_size=16),
)
def test_what_is_packed_is_what_is_read(
    magic: int, delta: int, lsn: int, counts: tuple[int, int], uuid: bytes
) -> None:
    values = {"magic": magic, "delta": delta, "lsn": lsn, "counts": counts, "uuid": uuid}
    assert dict(LITTLE.unpack(LITTLE.pack(values))) == values


def test_unpack_starts_at_an_offset_and_ignores_what_follows() -> None:
    record = LITTLE.unpack(b"xxx" + LITTLE.pack(VALUES) + b"yyy", offset=3)
    assert record.number("lsn") == 7
    assert record.numbers("counts") == (1, 65535)
    assert record.blob("uuid") == b"0123456789abcdef"
    assert "reserved0" not in record


@pytest.mark.parametrize("size", [0, 1, 39])
def test_a_short_buffer_is_refused_with_the_callers_error(size: int) -> None:
    with pytest.raises(DamagedData, match=f"needs 40 bytes, there are {size}"):
        LITTLE.unpack(bytes(size))
    with pytest.raises(RemoteProtocolError):
        LITTLE.unpack(bytes(size), error=RemoteProtocolError)


@pytest.mark.parametrize("index", [20, 21, 22, 23])
def test_every_reserved_byte_is_checked(index: int) -> None:
    packed = bytearray(LITTLE.pack(VALUES))
    packed[index] = 1
    with pytest.raises(DamagedData, match=r"sample.reserved0 at byte 20 is reserved"):
        LITTLE.unpack(packed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"magic": 2**32}, "does not fit u32"),
        ({"magic": -1}, "does not fit u32"),
        ({"delta": 2**31}, "does not fit i32"),
        ({"magic": "1"}, "does not fit u32"),
        ({"counts": (1,)}, "needs 2 integers"),
        ({"counts": 5}, "needs 2 integers"),
        ({"uuid": b"short"}, "exactly 16 bytes"),
        ({"uuid": 5}, "exactly 16 bytes"),
        ({"reserved0": b"0000"}, "missing or unknown fields: reserved0"),
        ({"extra": 1}, "missing or unknown fields: extra"),
    ],
)
def test_values_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        LITTLE.pack({**VALUES, **change})  # type: ignore[dict-item]


def test_a_forgotten_value_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="missing or unknown fields: lsn"):
        LITTLE.pack({name: value for name, value in VALUES.items() if name != "lsn"})


@pytest.mark.parametrize(
    "kind", ["u12", "u8[0]", "bytes", "bytes0", "reserved", "float", "u8 ", "bytes4[2]"]
)
def test_unknown_types_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="unknown type"):
        Field("a", kind, "doc")


@pytest.mark.parametrize("name", ["", "Upper", "1st", "a-b", "from", "struct", "a b"])
def test_names_that_do_not_work_everywhere_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="does not work"):
        Field(name, "u8", "doc")


def test_a_size_that_is_not_the_sum_is_refused() -> None:
    with pytest.raises(ValueError, match="add up to 1 bytes, it says 2"):
        Layout("x", order="le", size=2, doc="x", fields=(Field("a", "u8", "a"),))


def test_two_fields_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="one name"):
        Layout(
            "x", order="le", size=2, doc="x", fields=(Field("a", "u8", "a"), Field("a", "u8", "b"))
        )


@pytest.mark.parametrize(("order", "kind", "size"), [("be", "i32", 4), ("le", "u24", 3)])
def test_types_that_an_order_does_not_have_are_refused(order: str, kind: str, size: int) -> None:
    with pytest.raises(ValueError, match="big-endian layouts"):
        Layout("x", order=order, size=size, doc="x", fields=(Field("a", kind, "a"),))  # type: ignore[arg-type]


def test_a_constant_is_an_int_that_fits_64_bits() -> None:
    assert Constant("magic", 5, "m") + 1 == 6
    for value in (-1, 1 << 64):
        with pytest.raises(ValueError, match="does not fit 64 bits"):
            Constant("magic", value, "m")

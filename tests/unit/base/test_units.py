"""Sizes: read exactly, written so that they read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparrow.base.errors import InvalidArgument
from sparrow.base.units import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1GiB", 1 << 30),
        ("1gib", 1 << 30),
        (" 1.5 TiB ", 3 << 39),
        ("500MB", 500_000_000),
        ("9007199254740993", 9007199254740993),
        ("0.5KiB", 512),
    ],
)
def test_a_size_is_read_to_the_byte(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1e9", "one", "1,5GiB", "1 GiB x", ".5GiB", "٣"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a size"):
        parse_size(text)


def test_one_letter_is_not_guessed_to_be_a_unit() -> None:
    with pytest.raises(InvalidArgument, match="no unit that is known"):
        parse_size("1G")


def test_a_part_of_a_byte_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="whole number of bytes"):
        parse_size("0.3KiB")


@given(st.integers(0, 1 << 60).map(lambda n: n << 10))
def test_a_size_written_exactly_reads_back(size: int) -> None:
    text = format_size(size)
    if "." not in text:
        assert parse_size(text) == size

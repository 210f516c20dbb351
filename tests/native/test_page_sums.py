"""A page's sum by every way the processor has, against the definition."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sparrow._native.crc import (
    crc32c,
    crc32c_page,
    crc32c_page_but_8,
    crc32c_page_head,
    page_sums_are_wide,
)
from tests.support.crc import crc32c as by_definition

PAGE = 4096


def one_bit(at: int) -> bytes:
    page = bytearray(PAGE)
    page[at // 8] = 1 << at % 8
    return bytes(page)


def test_the_definition_and_both_ways_agree() -> None:
    dice = random.Random(1)
    for page in (bytes(PAGE), b"\xff" * PAGE, *(dice.randbytes(PAGE) for _ in range(8))):
        expected = by_definition(page)
        assert crc32c(page) == expected
        assert crc32c_page(page, three=True) == expected
        assert crc32c_page(page) == expected


def test_every_bit_of_a_page_counts_alike() -> None:
    """Sums are linear: pages of one bit each show every constant that moves a part of a page."""
    for at in range(0, 8 * PAGE, 61):
        page = one_bit(at)
        assert crc32c_page(page) == crc32c_page(page, three=True) == crc32c(page)


def test_zeros_at_the_end_of_a_page_are_summed_without_a_look() -> None:
    dice = random.Random(3)
    for used in (*range(600), 1024, PAGE - 9, PAGE - 8, PAGE - 1, PAGE):
        page = dice.randbytes(used) + bytes(PAGE - used)
        assert crc32c_page_head(page, used) == crc32c(page), used


def test_the_field_of_a_header_that_holds_its_sum_counts_as_zeros() -> None:
    dice = random.Random(4)
    for at in (8 * 8, 8 * 8 + 31, 8 * 12 - 1):
        assert crc32c_page_but_8(one_bit(at)) == crc32c(bytes(PAGE))
    for _ in range(50):
        page = dice.randbytes(PAGE)
        assert crc32c_page_but_8(page) == crc32c(page[:8] + bytes(4) + page[12:])


def test_a_page_need_not_be_aligned() -> None:
    data = random.Random(2).randbytes(PAGE + 64)
    for at in (1, 3, 17, 63):
        page = memoryview(data)[at : at + PAGE]
        assert crc32c_page(page) == crc32c(page)


def test_the_wide_way_is_taken_where_the_processor_has_it() -> None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    assert page_sums_are_wide() == ({"avx512f", "vpclmulqdq", "pclmulqdq"} <= set(flags))


@pytest.mark.parametrize("size", [0, PAGE - 1, PAGE + 1])
def test_what_is_no_page_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="4096 bytes"):
        crc32c_page(bytes(size))
    with pytest.raises(ValueError, match="4096 bytes"):
        crc32c_page_head(bytes(size), 0)
    with pytest.raises(ValueError, match="4096 bytes"):
        crc32c_page_but_8(bytes(size))


def test_no_more_of_a_page_is_used_than_it_has() -> None:
    with pytest.raises(ValueError, match="no more than that are used"):
        crc32c_page_head(bytes(PAGE), PAGE + 1)

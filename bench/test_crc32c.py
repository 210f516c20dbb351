"""Sums of pages, the cost every page pays once on its way in and once on its way out."""

from __future__ import annotations

import os

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro import fastest_ns
from sparrow._native.bench_probe import crc_pages
from sparrow._native.crc import crc32c

#: In the second-level cache, and far beyond the last.
SIZES = {"256 KiB": 1 << 18, "64 MiB": 1 << 26}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_sum_of_pages(benchmark: BenchmarkFixture, size: int) -> None:
    data = os.urandom(size)
    rounds = max(1, (1 << 24) // size)
    expected = 0
    for at in range(0, size, 4096):
        expected ^= crc32c(data[at : at + 4096])
    assert benchmark(crc_pages, data, rounds) == expected
    benchmark.extra_info["ns_per_page"] = fastest_ns(benchmark) / (rounds * size // 4096)

"""A log batch on a disk that costs nothing: what the processor does for a write beside moving bytes."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro import fastest_ns
from sparrow._native.bench_probe import BatchProbe

LOG_BYTES = 64 << 20
PAGES = 1 << 18


@pytest.mark.parametrize("entries", [1, 8, 32, 128])
def test_append_encode_and_commit(benchmark: BenchmarkFixture, entries: int) -> None:
    probe = BatchProbe(log_bytes=LOG_BYTES, pages=PAGES)
    batches = 4096 // entries
    benchmark(probe.run, batches=batches, entries=entries)
    took_ns = fastest_ns(benchmark)
    benchmark.extra_info["ns_per_batch"] = took_ns / batches
    benchmark.extra_info["ns_per_entry"] = took_ns / (batches * entries)

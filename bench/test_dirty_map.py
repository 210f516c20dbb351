"""The dirty map: one add per page written, one look-up per page read, one drop per page flushed."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro import fastest_ns, run_rounds
from sparrow._native.bench_probe import DirtyProbe

#: What one volume may hold, see CoreSizes in sparrow.dataplane.machine.
FULL = 8192
#: Pages of a 1 GiB volume: nearly every add is a new page; and of a small hot spot: chains of versions.
SPREADS = {"1 GiB": 1 << 18, "4 MiB": 1 << 10}
pages_of = pytest.mark.parametrize("pages", SPREADS.values(), ids=SPREADS.keys())


def per_version(benchmark: BenchmarkFixture) -> None:
    benchmark.extra_info["ns_per_version"] = fastest_ns(benchmark) / FULL


@pages_of
def test_add_until_full(benchmark: BenchmarkFixture, pages: int) -> None:
    probe = DirtyProbe(pages=pages)
    last = 0

    def empty() -> None:
        probe.drop_to(last)

    def add() -> None:
        nonlocal last
        last = probe.add(FULL)

    run_rounds(benchmark, add, setup=empty, rounds=200)
    assert probe.count == FULL
    per_version(benchmark)


@pages_of
def test_find_in_a_full_map(benchmark: BenchmarkFixture, pages: int) -> None:
    probe = DirtyProbe(pages=pages)
    probe.add(FULL)
    found = benchmark(probe.find, FULL)
    # Of a large volume few pages are dirty; of a hot spot nearly all.
    assert found > FULL * 0.9 if pages < FULL else 0 < found < FULL * 0.1
    per_version(benchmark)


@pages_of
def test_drop_all(benchmark: BenchmarkFixture, pages: int) -> None:
    probe = DirtyProbe(pages=pages)

    def fill() -> tuple[tuple[int], dict[str, object]]:
        return (probe.add(FULL),), {}

    run_rounds(benchmark, probe.drop_to, setup=fill, rounds=200)
    assert probe.count == 0
    per_version(benchmark)

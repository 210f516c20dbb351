"""What the micro benches share: rounds with their own set-up, and figures per item beside pytest-benchmark's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture


def run_rounds(
    benchmark: BenchmarkFixture,
    target: Callable[..., object],
    *,
    setup: Callable[[], object],
    rounds: int,
    warmup_rounds: int = 0,
) -> None:
    """Time ``target`` once per round; ``setup`` runs before each, untimed, and may return (args, kwargs)."""
    pedantic: Callable[..., object] = benchmark.pedantic  # untyped there
    pedantic(target, setup=setup, rounds=rounds, warmup_rounds=warmup_rounds)


def fastest_ns(benchmark: BenchmarkFixture) -> float:
    """Of one round; not a number when measuring is disabled (--benchmark-disable)."""
    return _seconds(benchmark, "min") * 1e9


def median_s(benchmark: BenchmarkFixture) -> float:
    return _seconds(benchmark, "median")


def _seconds(benchmark: BenchmarkFixture, name: str) -> float:
    found: Any = benchmark.stats
    return math.nan if found is None else float(getattr(found.stats, name))

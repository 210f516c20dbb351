"""Durable writes through admission, log and group commit to a real log file, without network and flusher.

The file is made as a node makes it: written in full, opened with O_DIRECT. The disk is that of /var/tmp, the processor
the one that serves its interrupts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.cpus import on_server_cpu
from bench.micro import median_s, run_rounds
from sparrow._native.bench_probe import WriteProbe
from sparrow.base.ids import ReplicaId, VolumeId
from sparrow.dataplane.files.descriptors import ReplicaFiles, open_files
from sparrow.dataplane.files.folders import find_replica, format_replica
from sparrow.dataplane.machine import RING_ENTRIES, CoreSizes
from sparrow.dataplane.ring import OwnedRing, create_ring

SIZE = 1 << 30
ROUNDS = 7
#: By depth; a round takes about half a second.
WRITES = {1: 3000, 8: 10_000, 32: 20_000, 128: 30_000}


@pytest.fixture
def files() -> Iterator[ReplicaFiles]:
    with tempfile.TemporaryDirectory(prefix="sparrow-bench-", dir="/var/tmp") as name:
        pool, volume = Path(name), VolumeId("bench")
        format_replica(pool, volume, ReplicaId("r1"), size_bytes=SIZE, block_size=4096)
        opened = open_files(find_replica(pool, volume))
        yield opened
        opened.close()


@pytest.mark.parametrize("depth", WRITES)
def test_append_and_group_commit(
    benchmark: BenchmarkFixture, files: ReplicaFiles, depth: int
) -> None:
    count = WRITES[depth]
    rings: list[OwnedRing] = []
    batches = 0
    latencies_ns: list[int] = []

    def make() -> tuple[tuple[WriteProbe], dict[str, object]]:
        rings.append(create_ring(RING_ENTRIES))
        probe = WriteProbe(
            ring=rings[-1].address,
            fd=files.wal_fd,
            log_bytes=files.fields.number("wal_bytes"),
            pages=SIZE // 4096,
            writes_max=CoreSizes().writes_max,
        )
        return (probe,), {}

    def write(probe: WriteProbe) -> None:
        nonlocal batches, latencies_ns
        with on_server_cpu():
            batches, latencies_ns = probe.run(count=count, depth=depth)

    run_rounds(benchmark, write, setup=make, rounds=ROUNDS, warmup_rounds=1)
    for ring in rings:
        ring.close()
    assert batches * depth >= count
    if depth == 1:
        assert batches == count
    else:
        assert batches < count, "writes that wait together share a batch"
    latencies_ns.sort()
    benchmark.extra_info["writes_per_s"] = count / median_s(benchmark)
    benchmark.extra_info["writes_per_batch"] = count / batches
    benchmark.extra_info["p50_us"] = latencies_ns[count // 2] / 1e3
    benchmark.extra_info["p99_us"] = latencies_ns[count * 99 // 100] / 1e3

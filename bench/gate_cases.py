"""What ``bench.gate`` counts the instructions of: parts of the core, none with a real clock, disk or network.

python -m bench.gate_cases COUNTING.SO      plays all once; outside of callgrind it proves only that they run
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sparrow._native.bench_probe import BatchProbe, DirtyProbe, crc_pages
from sparrow.sim.compiled.sweep import Step, SweepWorld, Workload
from sparrow.sim.world import Shape

PAGES: Final = 64
VERSIONS: Final = 8192
GROUPS: Final = 60
DEPTH: Final = 8

#: Case -> how many units of work are done in it. A batch of one write and one of 32 cost differently per write.
CASES: Final = {
    "checksum of a page": PAGES * 100,
    "log write, 1 to a batch": 2000,
    "log write, 32 to a batch": 300 * 32,
    "page into the dirty map": VERSIONS,
    "page found in the dirty map": VERSIONS,
    "replicated write, depth 8": GROUPS * DEPTH,
}
#: Counted with everything below this function only: the rest of the case is the simulator's own Python.
INSIDE: Final = {"replicated write, depth 8": "reactor_turn"}
#: Of that, what the simulated machine does when it is asked for something: whether its disk takes a write at once or in
#: a moment is drawn, and moves a tenth of the whole in or out. ``sim_turn`` is not taken off: it calls the core.
WITHOUT: Final = {
    "replicated write, depth 8": (
        *("sim_write", "sim_read", "sim_datasync", "sim_send", "sim_recv"),
        *("sim_boot_ns", "sim_raw_ns", "sim_wake_at", "sim_cancel"),
    )
}


class Counting:
    """Marks a case for callgrind."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        assert name in CASES
        self._library.counting_begin()
        yield
        self._library.counting_end(name.encode())


class GateWorld(SweepWorld):
    """Three nodes of production code without faults; the script alone is counted."""

    def __init__(self, counting: Counting) -> None:
        # Every page of the volume again and again, eight at a time.
        steps: tuple[Step, ...] = tuple(
            ("group", *(((group * DEPTH + n) % PAGES, 1) for n in range(DEPTH)))
            for group in range(GROUPS)
        )
        shape = Shape(nodes=3, volumes=1, replication_factor=3, min_in_sync=2)
        super().__init__(Workload(name="gate", shape=shape, steps=steps), 0, "")
        self._counting = counting

    def count(self) -> None:
        self.begin()
        with self._counting.case("replicated write, depth 8"):
            self.follow_script()


def play(counting: Counting) -> None:
    data = bytes(range(256)) * (4096 // 256) * PAGES
    with counting.case("checksum of a page"):
        crc_pages(data, CASES["checksum of a page"] // PAGES)
    for entries in (1, 32):
        probe = BatchProbe(log_bytes=64 << 20, pages=1 << 18)
        name = f"log write, {entries} to a batch"
        with counting.case(name):
            probe.run(batches=CASES[name] // entries, entries=entries)
    dirty = DirtyProbe(pages=1 << 18)
    with counting.case("page into the dirty map"):
        dirty.add(VERSIONS)
    with counting.case("page found in the dirty map"):
        dirty.find(VERSIONS)
    GateWorld(counting).count()


if __name__ == "__main__":
    play(Counting(sys.argv[1]))

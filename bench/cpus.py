"""Which processor runs what, and how much processor time a process has used."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

#: Where all measured data lies, raw disk and servers alike.
DATA = Path("/var/tmp")
#: A disk with one queue interrupts one processor; this part of its interrupts makes it the one.
MOST = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Processor numbers: servers and the raw disk's fio on one, the client of servers on the other."""

    server: int
    client: int


@functools.cache
def placement() -> Placement:
    """Servers go where the disk's interrupts go; to processor 0 when those are spread.

    A completion that must wake a processor which the interrupt did not arrive on costs a virtual machine some 50 us.
    With a queue per processor, as NVMe has, nobody pays that, so a disk with one queue should not decide the table.
    """
    counts = disk_interrupts(disk_of(DATA), Path("/proc/interrupts").read_text())
    busiest = max(counts, key=lambda cpu: counts[cpu], default=0)
    server = busiest if counts and counts[busiest] > MOST * sum(counts.values()) else 0
    return Placement(server=server, client=next(cpu for cpu in cpus() if cpu != server))


def cpus() -> list[int]:
    """Processors this process may use."""
    return sorted(os.sched_getaffinity(0))


def disk_of(path: Path) -> str:
    """Name of the device below a disk's block layer, as /proc/interrupts has it: virtio1, nvme0, ..."""
    number = path.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    device = next((up / "device" for up in (block, block.parent) if (up / "device").exists()), None)
    return "" if device is None else device.resolve().name


def disk_interrupts(device: str, table: str) -> dict[int, int]:
    """Interrupts per processor of a device's queues, from the text of /proc/interrupts."""
    head, *lines = table.splitlines()
    numbers = [int(word.removeprefix("CPU")) for word in head.split()]
    found: dict[int, int] = {}
    for line in lines:
        words = line.split()
        queue = re.fullmatch(rf"{re.escape(device)}(-req\.\d+|q\d+)", words[-1]) if device else None
        if queue is not None:
            for cpu, count in zip(numbers, words[1 : 1 + len(numbers)], strict=True):
                found[cpu] = found.get(cpu, 0) + int(count)
    return found


@contextlib.contextmanager
def on_server_cpu() -> Iterator[None]:
    """Processes and threads started inside inherit the server's processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {placement().server})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes so far, all their threads, ended ones and io_uring workers too.

    What /proc/PID/stat has as utime and stime, in nanoseconds instead of clock ticks: a tick of 10 ms is
    one microsecond per request in a run of 10,000.
    """
    return sum(time.clock_gettime(process_clock(pid)) for pid in pids)


def process_clock(pid: int) -> int:
    """The clock id clock_getcpuclockid(3) gives for a process."""
    return (~pid << 3) | 2


def allowed_cpus(pid: int) -> set[int]:
    """The processors any thread of a process may run on, io_uring workers included."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            found |= os.sched_getaffinity(int(task.name))
    return found

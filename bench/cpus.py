"""Which processor runs what, and how much processor time a process has used."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

#: Servers, and what they start, run here; clients on the other one.
SERVER_CPU = 0
CLIENT_CPU = 1


@contextlib.contextmanager
def on_server_cpu() -> Iterator[None]:
    """Processes and threads started inside inherit the server's processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CPU})
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

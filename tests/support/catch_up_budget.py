"""Where the time of a catch-up goes: its stages from a trace of both rings, its processor time, what reached the disk.

Times of a stage are microseconds per MiB shipped, so that stages can be held against each other and against a disk's
rate. "Under way" is the time in which it has at least one operation in the kernel: stages overlap, and the largest one
bounds the whole. "Waits" is how long a byte stays between two stages on the average: the area between the two curves of
bytes that have come so far, over all bytes (Little's law).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.rates import MIB
from tests.support.ring_trace import Operation

#: Bytes that have come to a stage, by time: (seconds, bytes more).
Curve = Sequence[tuple[float, float]]

#: What a stage is called by the role of its thread, the file, and the operation of the ring.
STAGES: Final = {
    ("primary", "wal", "READV"): "primary reads its log",
    ("primary", "socket", "SENDMSG"): "primary sends",
    ("follower", "wal", "WRITEV"): "follower writes its log, durable",
    ("follower", "socket", "SENDMSG"): "follower sends acks",
    ("follower", "superblock", "WRITEV"): "follower: superblock",
    ("follower", "extents", "WRITEV"): "flusher: extents written",
    ("follower", "extents", "FSYNC"): "flusher: extents flushed",
    ("follower", "sums", "READV"): "flusher: sums read",
    ("follower", "sums", "WRITEV"): "flusher: sums written",
    ("follower", "sums", "FSYNC"): "flusher: sums flushed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Of the disk below a folder, and of the threads of this process: processor time, and waiting for one, ns."""

    written: int
    read: int
    busy_ms: int
    threads: Mapping[int, tuple[int, int]]


def counters(folder: Path) -> Counters:
    """As they are now. Source: Linux, Documentation/block/stat.rst, Documentation/scheduler/sched-stats.rst."""
    number = folder.stat().st_dev
    disk = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat").read_text().split()
    threads = {}
    for task in Path("/proc/self/task").iterdir():
        run, wait = (task / "schedstat").read_text().split()[:2]
        threads[int(task.name)] = (int(run), int(wait))
    # Sectors of 512 bytes, whatever the disk has.
    return Counters(
        written=int(disk[6]) * 512, read=int(disk[2]) * 512, busy_ms=int(disk[9]), threads=threads
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Operations of a kind: how many, bytes, seconds with one under way, seconds that one takes on the average."""

    name: str
    count: int
    size: int
    under_way: float
    each: float


def under_way(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that at least one of these spans covers."""
    covered, until = 0.0, float("-inf")
    for began, ended in sorted(spans):
        covered += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return covered


def mean_wait(before: Curve, after: Curve) -> float:
    """Seconds that a byte is behind `before` and not yet behind `after`, on the average.

    Of as many bytes as both have seen.
    """
    size = min(sum(n for _, n in before), sum(n for _, n in after))
    return (_moment(after, size) - _moment(before, size)) / size if size else 0.0


def _moment(curve: Curve, size: float) -> float:
    moment = 0.0
    for at, more in sorted(curve):
        taken = min(more, size)
        moment += at * taken
        size -= taken
    return moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """One catch-up that was traced."""

    shipped: int
    seconds: float
    stages: Sequence[Stage]
    waits: Mapping[str, float]
    processor: Mapping[str, tuple[float, float]]
    #: Until the last ack, and until everything is in the extents.
    disk_written: tuple[int, int]
    disk_read: int
    disk_busy: float

    def per_mib(self, seconds: float) -> float:
        return seconds * 1e6 / (self.shipped / MIB)

    def lines(self, disk_mib: float) -> Iterable[str]:
        """Tables for people; ``disk_mib`` is the disk's rate just before."""
        yield (
            f"  {self.shipped / MIB:.0f} MiB in {self.seconds * 1000:.0f} ms: {self.per_mib(self.seconds):.0f} us/MiB; "
            f"the disk writes one in {1e6 / disk_mib:.0f}"
        )
        yield "  | stage | operations | MiB | under way, us/MiB | one takes, ms |"
        yield "  |---|--:|--:|--:|--:|"
        for stage in self.stages:
            yield (
                f"  | {stage.name} | {stage.count} | {stage.size / MIB:.1f} | {self.per_mib(stage.under_way):.0f} | "
                f"{stage.each * 1000:.2f} |"
            )
        for name, (run, wait) in self.processor.items():
            yield (
                f"  | {name}: processor, and waiting for one | | | "
                f"{self.per_mib(run):.0f} + {self.per_mib(wait):.0f} | |"
            )
        for name, wait in self.waits.items():
            yield f"  | a byte waits: {name} | | | | {wait * 1000:.2f} |"
        rate = self.shipped / MIB / self.seconds
        until_ack, in_all = self.disk_written
        to_disk = until_ack / MIB / self.seconds
        yield (
            f"  disk: busy {self.disk_busy / self.seconds:.0%}, {self.disk_read / MIB:.0f} MiB read, "
            f"{until_ack / MIB:.0f} written until the last ack ({until_ack / self.shipped:.2f} of what is shipped), "
            f"{in_all / MIB:.0f} in the end ({in_all / self.shipped:.2f})"
        )
        yield (
            f"  of the disk's {disk_mib:.0f} MiB/s: shipped {rate / disk_mib:.2f}, written {to_disk / disk_mib:.2f}"
        )


def _by_stage(
    found: Iterable[Operation], files: Mapping[int, tuple[str, str]], roles: Mapping[int, str]
) -> Mapping[tuple[str, str, str], list[Operation]]:
    """By role, file and operation. Sockets are known by whose thread uses them."""
    by: dict[tuple[str, str, str], list[Operation]] = {}
    for o in found:
        role, file = files.get(o.fd, (roles.get(o.thread, ""), "socket"))
        by.setdefault((role, file, o.opcode), []).append(o)
    return by


def _began(found: Iterable[Operation]) -> Curve:
    return [(o.began, o.result) for o in found]


def _ended(found: Iterable[Operation]) -> Curve:
    return [(o.ended, o.result) for o in found]


def _without_heads(curve: Curve, size: int) -> Curve:
    """What a connection carried, as if its frames had no heads: ``size`` bytes in all."""
    carried = sum(n for _, n in curve)
    return [(at, n * size / carried) for at, n in curve]


def budget(
    found: Sequence[Operation],
    files: Mapping[int, tuple[str, str]],
    *,
    span: tuple[float, float],
    shipped: int,
    before: Counters,
    at_ack: Counters,
    at_end: Counters,
) -> Budget:
    """What lies in ``span``; ``files`` says of a descriptor whose it is and which file."""
    began, ended = span
    inside = [o for o in found if o.began >= began and o.ended <= ended and o.result >= 0]
    roles = {o.thread: files[o.fd][0] for o in inside if o.fd in files}
    by = _by_stage(inside, files, roles)
    stages = [
        Stage(
            name=name,
            count=len(those),
            size=sum(o.result for o in those),
            under_way=under_way((o.began, o.ended) for o in those),
            each=sum(o.ended - o.began for o in those) / len(those),
        )
        for key, name in STAGES.items()
        if (those := by.get(key))
    ]
    received = by.get(("follower", "socket", "RECV"), [])
    stages.insert(
        2,
        Stage(
            name="follower takes what it received",
            count=len(received),
            size=sum(o.result for o in received),
            under_way=ended - began - under_way((o.began, o.ended) for o in received),
            each=0.0,
        ),
    )
    read = by.get(("primary", "wal", "READV"), [])
    sent = by.get(("primary", "socket", "SENDMSG"), [])
    logged = by.get(("follower", "wal", "WRITEV"), [])
    leaving = _without_heads(_began(sent), shipped)
    arriving = _without_heads(_ended(received), shipped)
    waits = {
        "from its reading to its sending": mean_wait(_began(read), leaving),
        "in the connection": mean_wait(leaving, arriving),
        "for the log write": mean_wait(arriving, _began(logged)),
        "until it is durable": mean_wait(_began(logged), _ended(logged)),
    }
    processor = {
        role: (
            (at_ack.threads[thread][0] - before.threads[thread][0]) / 1e9,
            (at_ack.threads[thread][1] - before.threads[thread][1]) / 1e9,
        )
        for thread, role in sorted(roles.items(), key=lambda item: item[1], reverse=True)
    }
    return Budget(
        shipped=shipped,
        seconds=ended - began,
        stages=stages,
        waits=waits,
        processor=processor,
        disk_written=(at_ack.written - before.written, at_end.written - before.written),
        disk_read=at_ack.read - before.read,
        disk_busy=(at_ack.busy_ms - before.busy_ms) / 1000,
    )

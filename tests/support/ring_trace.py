"""What processes ask of their io_uring rings and when they have it, from the kernel's trace points.

Nothing in the core takes part, so it costs nothing when nobody looks.

    with ring_trace() as found:
        ...
    for operation in found: ...

Needs root and tracefs (Linux, Documentation/trace/ftrace.rst and include/trace/events/io_uring.h). An instance of its
own leaves other tracing alone. A request is known by the address of its ``req`` from ``io_uring_submit_req`` on; which
file it is for says ``io_uring_file_get``, its result ``io_uring_complete``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TRACING: Final = Path("/sys/kernel/tracing")
EVENTS: Final = ("submit_req", "file_get", "complete")
#: Of each processor. An event takes about 64 bytes.
BUFFER_KIB: Final = 32768

#: "  reactor-77  [001] d..1.  12.345678: io_uring_complete: ring 0x1, req 0x2, user_data 0x3, result 4096, ..."
LINE: Final = re.compile(
    r"-(?P<thread>\d+)\s+\[\d+\]\s+\S+\s+(?P<at>\d+\.\d+): io_uring_(?P<event>\w+): "
    r"ring \S+, req (?P<request>\S+), user_data \S+, "
    r"(?:opcode (?P<opcode>\w+)|fd (?P<fd>-?\d+)|result (?P<result>-?\d+))"
)


class TraceUnavailable(Exception):
    """This machine, or this user, has no trace points of io_uring."""


class TraceLost(RuntimeError):
    """More happened than the buffer holds."""


@dataclass(slots=True, kw_only=True)
class Operation:
    """One request: who asked what of which descriptor (-1 for none), and when, seconds of the monotonic clock."""

    thread: int
    opcode: str
    began: float
    ended: float = 0.0
    fd: int = -1
    result: int = 0


def operations(lines: Iterable[str]) -> list[Operation]:
    """Those that began and ended within the trace, in the order in which they ended."""
    under_way: dict[str, Operation] = {}
    found: list[Operation] = []
    for line in lines:
        match = LINE.search(line)
        if match is None:
            continue
        request, at = match["request"], float(match["at"])
        if match["event"] == "submit_req":
            under_way[request] = Operation(
                thread=int(match["thread"]), opcode=match["opcode"], began=at
            )
        elif (operation := under_way.get(request)) is None:
            continue
        elif match["event"] == "file_get":
            operation.fd = int(match["fd"])
        elif match["event"] == "complete":
            operation.ended, operation.result = at, int(match["result"])
            found.append(under_way.pop(request))
    return found


def threads_of(pid: int) -> list[int]:
    return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]


@contextlib.contextmanager
def ring_trace(*pids: int) -> Iterator[list[Operation]]:
    """Trace all threads that these processes, or this one, have now; the list is filled at the end.

    Raises:
        TraceUnavailable: there is no tracefs, or it is not ours to use.
        TraceLost: more happened than the buffer holds.
    """
    place = TRACING / "instances" / f"sparrow-{os.getpid()}"
    found: list[Operation] = []
    try:
        place.mkdir()
    except OSError as error:
        raise TraceUnavailable(f"{place}: {error.strerror}") from error
    try:
        (place / "buffer_size_kb").write_text(str(BUFFER_KIB))
        (place / "trace_clock").write_text("mono")
        (place / "set_event_pid").write_text(
            " ".join(str(thread) for pid in pids or [os.getpid()] for thread in threads_of(pid))
        )
        # Workers of a ring are made meanwhile.
        (place / "options" / "event-fork").write_text("1")
        for event in EVENTS:
            enable = place / "events" / "io_uring" / f"io_uring_{event}" / "enable"
            if not enable.exists():
                raise TraceUnavailable(f"the kernel has no {enable.parent.name}")
            enable.write_text("1")
        yield found
        (place / "tracing_on").write_text("0")
        lost = sum(
            int(count)
            for cpu in (place / "per_cpu").iterdir()
            for count in re.findall(r"overrun: (\d+)", (cpu / "stats").read_text())
        )
        if lost:
            raise TraceLost(f"{lost} events of the trace were lost: trace for a shorter time")
        with (place / "trace").open() as lines:
            found.extend(operations(lines))
    finally:
        place.rmdir()

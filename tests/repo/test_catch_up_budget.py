"""The arithmetic of ``make bench-catch-up``'s budget, on traces as the kernel prints them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import ring_trace
from tests.support.catch_up_budget import Counters, budget, mean_wait, under_way
from tests.support.rates import MIB
from tests.support.ring_trace import TraceUnavailable, operations

TRACE = """\
# tracer: nop
#
          python-13213   [001] .....  100.000000: io_uring_submit_req: ring 00000000a, req 0000000b1, \
user_data 0x7f, opcode WRITEV, flags 0x0, sq_thread 0
          python-13213   [001] .....  100.000010: io_uring_file_get: ring 00000000a, req 0000000b1, \
user_data 0x7f, fd 21
     reactor n0-13212   [000] d..1.  100.000020: io_uring_submit_req: ring 00000000c, req 0000000b2, \
user_data 0x8f, opcode SENDMSG, flags 0x0, sq_thread 0
          python-13213   [001] .....  100.004000: io_uring_complete: ring 00000000a, req 0000000b1, \
user_data 0x7f, result 8192, cflags 0x0 extra1 0 extra2 0
     reactor n0-13212   [000] .....  100.005000: io_uring_complete: ring 00000000c, req 0000000b2, \
user_data 0x8f, result -32, cflags 0x0 extra1 0 extra2 0
          python-13213   [001] .....  100.006000: io_uring_complete: ring 00000000a, req 0000000b9, \
user_data 0x9f, result 1, cflags 0x0 extra1 0 extra2 0
"""


def test_a_request_is_one_operation_from_its_submission_to_its_result() -> None:
    written, sent = operations(TRACE.splitlines())
    assert (written.thread, written.opcode, written.fd, written.result) == (
        13213,
        "WRITEV",
        21,
        8192,
    )
    assert written.ended - written.began == pytest.approx(0.004)
    assert (sent.thread, sent.fd, sent.result) == (13212, -1, -32)


def test_without_trace_points_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ring_trace, "TRACING", tmp_path / "none")
    with pytest.raises(TraceUnavailable, match="none"), ring_trace.ring_trace():
        pass


def test_time_under_way_counts_once_what_overlaps() -> None:
    assert under_way([(2.0, 3.0), (0.0, 1.0), (0.5, 1.5), (0.6, 0.7)]) == pytest.approx(2.5)


def test_the_mean_wait_is_the_area_between_two_curves() -> None:
    before = [(0.0, 100), (1.0, 100)]
    # Of the first hundred each byte waits two seconds, of the second three; what `after` lacks does not count.
    assert mean_wait(before, [(2.0, 100), (4.0, 100)]) == pytest.approx(2.5)
    assert mean_wait(before, [(2.0, 100)]) == pytest.approx(2.0)
    assert mean_wait(before, []) == 0.0


def test_a_budget_sorts_by_whose_file_it_is() -> None:
    def counted(written: int, busy_ms: int, run: int) -> Counters:
        threads = {13212: (0, 0), 13213: (run, 0)}
        return Counters(written=written, read=0, busy_ms=busy_ms, threads=threads)

    found = budget(
        operations(TRACE.replace("result -32", f"result {MIB}").splitlines()),
        {21: ("follower", "wal"), 22: ("primary", "wal")},
        span=(99.9, 100.1),
        shipped=MIB,
        before=counted(0, 0, 0),
        at_ack=counted(2 * MIB, 50, 1_000_000),
        at_end=counted(3 * MIB, 60, 2_000_000),
    )
    (log,) = (stage for stage in found.stages if stage.name == "follower writes its log, durable")
    assert (log.count, log.size) == (1, 8192)
    assert found.per_mib(log.under_way) == pytest.approx(4000)
    assert found.processor == {"follower": (0.001, 0.0)}
    assert found.disk_written == (2 * MIB, 3 * MIB)
    text = "\n".join(found.lines(20.0))
    assert "shipped 0.25, written 0.50" in text

"""Every crash point of a short workload; ``make crash-sweep`` plays the long ones, on one replica and on three."""

from __future__ import annotations

import pytest

from sparrow.sim.compiled.sweep import STRIKES, Point, run_point

#: File operations of each workload; a change of the core may change it, never to nothing.
OPERATIONS_MIN = 10
#: Each test plays some hundred clusters, one after the other: 145 s in CI, which has little to spare for it.
pytestmark = pytest.mark.timeout(1200)
#: Of a process, and of the power before and within an operation.
CRASHES = ("cut", "lose", "tear")


def every_point(workload: str, strike: str) -> None:
    plain = run_point(Point(workload=workload, number=0, strike="cut"))
    assert plain.violation == ""
    assert plain.operations >= OPERATIONS_MIN
    for number in range(1, plain.operations + 1):
        verdict = run_point(Point(workload=workload, number=number, strike=strike))
        assert verdict.violation == "", "\n".join([*verdict.events, verdict.point.text()])


@pytest.mark.parametrize("strike", STRIKES)
def test_no_crash_point_of_a_pair_loses_or_tears_anything(strike: str) -> None:
    every_point("short", strike)


@pytest.mark.parametrize("strike", CRASHES)
def test_no_crash_point_of_an_only_replica_loses_or_tears_anything(strike: str) -> None:
    """Its log is empty after each checkpoint."""
    every_point("lone", strike)


def test_a_disk_that_answers_flushes_without_flushing_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sweep would notice lost writes: both disks of the pair lie, and both lose power."""
    from sparrow.sim.compiled import sweep

    script = (("write", 0, 8), ("write", 1, 1), ("kill", "all"), ("start",))
    short = sweep.WORKLOADS["short"]
    lying = sweep.Workload(name="lying", shape=short.shape, steps=script)
    monkeypatch.setitem(sweep.WORKLOADS, "lying", lying)
    assert run_point(Point(workload="lying", number=0, strike="cut")).violation == ""
    monkeypatch.setattr(sweep.SweepWorld, "lies", True)
    assert run_point(Point(workload="lying", number=0, strike="cut")).violation != ""

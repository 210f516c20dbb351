"""Every crash point of a short workload; ``make crash-sweep`` plays the long ones, on one replica and on three."""

from __future__ import annotations

import pytest

from sparrow.sim.compiled.sweep import STRIKES, Point, run_point

#: File operations of the workload "short"; a change of the core may change it, never to nothing.
OPERATIONS_MIN = 10


def operations() -> int:
    plain = run_point(Point(workload="short", number=0, strike="cut"))
    assert plain.violation == ""
    return plain.operations


@pytest.mark.parametrize("strike", STRIKES)
def test_no_crash_point_of_a_pair_loses_or_tears_anything(strike: str) -> None:
    count = operations()
    assert count >= OPERATIONS_MIN
    for number in range(1, count + 1):
        verdict = run_point(Point(workload="short", number=number, strike=strike))
        assert verdict.violation == "", "\n".join([*verdict.events, verdict.point.text()])


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

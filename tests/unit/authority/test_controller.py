"""The controller by itself: what it asks, when it keeps still, and what it remembers of doubt."""

from __future__ import annotations

from dataclasses import replace

from sparrow.authority.builder import Pending, Reason, Supported, Unsupported
from sparrow.authority.controller import REFUSED_PAUSE_S, Controller
from sparrow.authority.convergence import PUT_RETRY_FIRST_S
from sparrow.authority.publisher import Publisher
from sparrow.authority.results import Minted, PutFailed, Refusal, RefusedAsk
from sparrow.authority.types import Ask, Intent, Line
from sparrow.base.constants import RETRY_WINDOW_S
from sparrow.base.ids import ReplicaId, VolumeId
from tests.support.authority import V, bind, grow, lineage, minted, new_publisher, shrink
from tests.unit.authority.test_builder import everybody, outcome


class Bench:
    """A controller on a real publisher; nodes report freshly at every look."""

    def __init__(self, publisher: Publisher | None = None) -> None:
        self.publisher = publisher or new_publisher()
        self.controller = Controller(line_of=self.publisher.line, booted_at=0.0)

    def look(self, now: float, *, line: Line | None = None) -> list[Ask]:
        found = outcome(everybody(now), now=now, line=line)
        assert isinstance(found, Supported)
        return self.controller.on_snapshot(V, found, now)

    def apply(self, ask: Ask, now: float) -> Line:
        result = self.publisher.apply(ask)
        self.controller.on_result(ask, result, now)
        return minted(result)


def test_identical_snapshots_ask_once_until_a_failed_write_is_due_again() -> None:
    bench = Bench()
    (ask,) = bench.look(10.0)
    assert ask.intent is Intent.BIND
    bench.controller.on_result(ask, PutFailed(ask=ask, cause="disk full"), 10.0)
    assert [bench.look(10.0 + step / 10) for step in range(1, 10)] == [[]] * 9
    assert bench.look(10.0 + PUT_RETRY_FIRST_S) == [ask]


def test_minted_ask_is_not_asked_again_while_nodes_lag_behind_it() -> None:
    """The nodes still report blank replicas: wait, however often they say so."""
    bench = Bench()
    (ask,) = bench.look(10.0)
    line = bench.apply(ask, 10.0)
    for step in range(1, 100):
        assert bench.look(10.0 + step / 10, line=line) == []
    assert bench.publisher.line(V) == line


def test_snapshot_on_another_line_than_the_recorded_one_asks_nothing() -> None:
    """A snapshot from before the Bind would ask for a second one."""
    bench = Bench()
    (ask,) = bench.look(10.0)
    bench.publisher.apply(ask)
    late = Controller(line_of=bench.publisher.line, booted_at=0.0)
    found = outcome(everybody(10.1), now=10.1, line=None)
    assert late.on_snapshot(V, found, 10.1) == []
    assert late.desired_for(V) is None


def test_refused_ask_is_worked_out_anew_only_after_a_pause() -> None:
    bench = Bench()
    (ask,) = bench.look(10.0)
    refused = RefusedAsk(
        ask=ask, code=Refusal.STALE_BASIS, message="", basis=ask.basis, recorded=None
    )
    bench.controller.on_result(ask, refused, 10.0)
    assert bench.controller.desired_for(V) is None
    assert bench.look(10.0 + REFUSED_PAUSE_S / 2) == []
    assert bench.controller.wake_at() == 10.0 + REFUSED_PAUSE_S
    assert bench.look(10.0 + REFUSED_PAUSE_S) == [ask]


def test_doubt_drops_the_ask_and_is_kept_as_evidence() -> None:
    bench = Bench()
    assert bench.look(10.0)
    doubt = Unsupported(
        volume_id=V,
        evaluated_at=10.1,
        reasons=(Reason.STALE_OBSERVATION,),
        offenders=(),
        note="nobody is heard",
    )
    assert bench.controller.on_snapshot(V, doubt, 10.1) == []
    assert bench.controller.desired_for(V) is None
    assert bench.controller.last_unsupported(V) == doubt
    (again,) = bench.look(10.2)
    assert again.intent is Intent.BIND
    assert bench.controller.last_unsupported(V) is None


def test_pending_is_no_evidence_of_anything() -> None:
    bench = Bench()
    pending = Pending(
        volume_id=V, evaluated_at=10.0, reasons=(Reason.PARTIAL_INVENTORY,), note="", until=12.0
    )
    assert bench.controller.on_snapshot(V, pending, 10.0) == []
    assert bench.controller.last_unsupported(V) is None
    assert bench.controller.wake_at() == 12.0
    assert bench.controller.due(12.0) == [V]


def test_stuck_keeps_the_ask_and_asks_nothing() -> None:
    bench = Bench()
    (ask,) = bench.look(10.0)
    line = bench.apply(ask, 10.0)
    assert bench.look(10.0 + RETRY_WINDOW_S, line=line) == []
    stuck = bench.controller.last_stuck(V)
    assert stuck is not None
    assert stuck.ask == ask
    desired = bench.controller.desired_for(V)
    assert desired is not None
    assert desired.stuck


def test_support_that_comes_back_does_not_clear_stuck_by_itself() -> None:
    bench = Bench()
    (ask,) = bench.look(10.0)
    line = bench.apply(ask, 10.0)
    bench.look(15.0, line=line)
    bench.look(15.5, line=line)
    assert bench.controller.last_stuck(V) is not None


def test_doubt_clears_stuck() -> None:
    bench = Bench()
    (ask,) = bench.look(10.0)
    line = bench.apply(ask, 10.0)
    bench.look(15.0, line=line)
    doubt = Unsupported(
        volume_id=V, evaluated_at=15.1, reasons=(Reason.STALE_OBSERVATION,), offenders=(), note=""
    )
    bench.controller.on_snapshot(V, doubt, 15.1)
    assert bench.controller.last_stuck(V) is None


def test_answers_to_asks_of_nodes_disturb_no_ask_of_its_own() -> None:
    bench = Bench()
    (ask,) = bench.look(10.0)
    line = bench.apply(ask, 10.0)
    desired = bench.controller.desired_for(V)
    result = bench.publisher.apply(shrink(line, "r3"))
    assert isinstance(result, Minted)
    bench.controller.on_result(result.ask, result, 10.1)
    refused = bench.publisher.apply(grow(line, "r3"))
    assert isinstance(refused, RefusedAsk)
    bench.controller.on_result(refused.ask, refused, 10.2)
    assert bench.controller.desired_for(V) == desired


def test_load_counts_recorded_primaries_once() -> None:
    bench = Bench()
    (ask,) = bench.look(10.0)
    line = bench.apply(ask, 10.0)
    node = line.primary_member.node_id
    assert bench.controller.load(node) == 1
    again = Controller(line_of=bench.publisher.line, booted_at=0.0)
    again.take_over({V: line, VolumeId("v2"): replace(line, volume_id=VolumeId("v2"))})
    assert again.load(node) == 2


def test_nothing_is_remembered_over_a_restart() -> None:
    bench = Bench()
    (ask,) = bench.look(10.0)
    line = bench.apply(ask, 10.0)
    bench.look(15.0, line=line)
    restarted = Controller(line_of=bench.publisher.line, booted_at=16.0)
    assert restarted.desired_for(V) is None
    assert restarted.last_stuck(V) is None
    assert restarted.last_unsupported(V) is None


def test_asks_name_the_recorded_line_as_their_basis() -> None:
    publisher = new_publisher()
    first = minted(publisher.apply(bind()))
    assert first.lineage == lineage(1, 1)
    bench = Bench(publisher)
    store = everybody(10.0)
    found = outcome(store, now=10.0, line=first)
    assert isinstance(found, Supported)
    asks = bench.controller.on_snapshot(V, found, 10.0)
    for ask in asks:
        assert ask.basis == first.lineage
        assert ask.replica_id in {ReplicaId("r1"), ReplicaId("r2"), ReplicaId("r3")}

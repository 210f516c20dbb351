"""The adapter: session ids, and watchdogs that fire at their deadline and not before."""

from __future__ import annotations

from sparrow.authority import engine_types as t
from sparrow.authority.adapter import (
    LOG_ENTRIES_MAX,
    START_DEADLINE_S,
    AdapterOutput,
    Dispatch,
    PeerAdapter,
    Report,
    SessionIds,
)
from sparrow.authority.engine_types import Mode, SessionPhase
from sparrow.base import events as log
from sparrow.base.ids import Lsn, ReplicaId, VolumeId

R = ReplicaId("r2")


def assignment(epoch: int = 1, endpoint_version: int = 1) -> t.AssignmentObserved:
    return t.AssignmentObserved(
        volume_id=VolumeId("v1"),
        replica_id=R,
        epoch=epoch,
        endpoint_version=endpoint_version,
        data_addr="d:1",
        ctrl_addr="c:1",
    )


def joined(peer: int, oldest: int = 10, head: int = 100) -> t.Joined:
    return t.Joined(replica_id=R, peer_lsn=Lsn(peer), oldest_lsn=Lsn(oldest), head_lsn=Lsn(head))


def dispatched(out: list[AdapterOutput], kind: type) -> Dispatch:
    return next(one for one in out if isinstance(one, Dispatch) and isinstance(one.command, kind))


def adapter_at(peer_lsn: int, incarnation: int = 1) -> tuple[PeerAdapter, list[AdapterOutput]]:
    """A probed and joined peer at time 10."""
    adapter = PeerAdapter(volume_id=VolumeId("v1"), replica_id=R, sessions=SessionIds(incarnation))
    adapter.on_assignment(assignment(), 10.0)
    adapter.on_probe_result(t.ProbeSucceeded(replica_id=R), 10.0)
    return adapter, adapter.on_join_result(joined(peer_lsn), 10.0)


def test_d11_session_ids_of_a_restarted_process_are_above_all_earlier_ones() -> None:
    old, new = SessionIds(7), SessionIds(8)
    last = max(old.next() for _ in range(1000))
    assert new.next() > last
    assert old.next() == (7 << 32) + 1001


def test_session_is_prepared_in_the_step_that_started_it() -> None:
    adapter, out = adapter_at(50)
    start = dispatched(out, t.StartCatchUp)
    assert adapter.state.phase is SessionPhase.STARTING
    assert adapter.state.session_id == start.session_id


def test_start_watchdog_fires_at_the_deadline_and_not_before() -> None:
    adapter, out = adapter_at(50)
    start = dispatched(out, t.StartCatchUp)
    assert adapter.wake_at() == 10.0 + START_DEADLINE_S
    assert adapter.tick(14.999) == []
    assert adapter.state.phase is SessionPhase.STARTING
    adapter.tick(15.0)
    assert adapter.state.phase is SessionPhase.FAILED
    assert adapter.state.failure == "start_timeout"
    late = t.SessionClosedCompleted(
        replica_id=R, session_id=start.session_id, achieved_lsn=Lsn(100)
    )
    before = adapter.state
    adapter.on_session_close(late, 15.1)
    assert adapter.state == before


def test_after_a_session_that_failed_a_join_goes_on() -> None:
    """An idle peer that caught up all the same: nothing but the join tells, no session follows."""
    adapter, _ = adapter_at(50)
    adapter.tick(10.0 + START_DEADLINE_S)
    fence = dispatched(adapter.on_join_result(joined(100), 16.0), t.FenceAtEpoch)
    adapter.on_fence_complete(fence.session_id, 16.0)
    assert adapter.projection.mode is Mode.HEALTHY


def test_started_session_is_not_timed_out() -> None:
    adapter, out = adapter_at(50)
    adapter.on_session_start(dispatched(out, t.StartCatchUp).session_id, 12.0)
    assert adapter.wake_at() is None
    assert adapter.tick(100.0) == []
    assert adapter.state.phase is SessionPhase.RUNNING


def test_watchdog_of_a_superseded_session_cannot_fail_a_newer_one() -> None:
    adapter, out = adapter_at(50)
    first = dispatched(out, t.StartCatchUp).session_id
    adapter.on_assignment(assignment(epoch=2), 11.0)
    adapter.on_probe_result(t.ProbeSucceeded(replica_id=R), 14.0)
    second = dispatched(adapter.on_join_result(joined(50), 14.0), t.StartCatchUp).session_id
    assert second > first
    adapter.tick(15.0)
    assert adapter.state.phase is SessionPhase.STARTING
    adapter.tick(19.0)
    assert adapter.state.phase is SessionPhase.FAILED


def test_fence_watchdog_bound() -> None:
    """At the deadline it names the lineage, makes nothing healthy and frees the slot; a late answer is nothing."""
    adapter, out = adapter_at(100)
    fence = dispatched(out, t.FenceAtEpoch)
    assert adapter.wake_at() == 10.5
    assert adapter.tick(10.499999) == []
    fired = adapter.tick(10.5)
    report = next(one for one in fired if isinstance(one, Report))
    assert report.name == log.FENCE_TIMED_OUT
    assert (report.fields["epoch"], report.fields["endpoint_version"]) == (1, 1)
    assert (report.fields["deadline"], report.fields["fired_at"]) == (10.5, 10.5)
    assert "fence_failed" in adapter.trace
    again = dispatched(fired, t.FenceAtEpoch)
    assert again.session_id > fence.session_id
    before = adapter.state
    assert adapter.on_fence_complete(fence.session_id, 10.6) == []
    assert adapter.state == before
    assert adapter.projection.mode is Mode.RECOVERING
    adapter.on_fence_complete(again.session_id, 10.7)
    assert adapter.projection.mode is Mode.HEALTHY


def test_l3_fence_is_tried_again_at_growing_pauses_and_reported_once() -> None:
    adapter, _ = adapter_at(100)
    sent: list[float] = []
    reports = 0
    while (at := adapter.wake_at()) is not None and at < 20.0:
        for one in adapter.tick(at):
            reports += isinstance(one, Report)
            if isinstance(one, Dispatch) and isinstance(one.command, t.FenceAtEpoch):
                sent.append(at)
    assert sent[:4] == [10.5, 11.5, 13.5, 15.5]
    assert reports == 1


def test_fence_of_a_newer_epoch_does_not_wait_for_the_old_ones_answer() -> None:
    adapter, out = adapter_at(100)
    old = dispatched(out, t.FenceAtEpoch)
    adapter.on_assignment(assignment(epoch=2), 10.1)
    adapter.on_probe_result(t.ProbeSucceeded(replica_id=R), 10.1)
    new = dispatched(adapter.on_join_result(joined(100), 10.1), t.FenceAtEpoch)
    adapter.on_fence_complete(old.session_id, 10.2)
    assert adapter.state.fenced_epoch == 0
    adapter.on_fence_complete(new.session_id, 10.2)
    assert adapter.state.fenced_epoch == 2


def test_d12_fence_that_cannot_be_sent_reaches_the_engine_and_is_tried_again() -> None:
    adapter, out = adapter_at(100)
    fence = dispatched(out, t.FenceAtEpoch)
    adapter.on_dispatch_failed(fence.session_id, "connection refused", 10.0)
    assert "fence_failed" in adapter.trace
    assert adapter.projection.mode is Mode.RECOVERING
    again = dispatched(adapter.tick(10.5), t.FenceAtEpoch)
    adapter.on_fence_complete(again.session_id, 10.6)
    assert adapter.projection.mode is Mode.HEALTHY


def test_session_that_cannot_be_sent_fails_as_transport_at_once() -> None:
    adapter, out = adapter_at(50)
    first = dispatched(out, t.StartCatchUp)
    out = adapter.on_dispatch_failed(first.session_id, "connection refused", 10.0)
    assert dispatched(out, t.StartCatchUp).session_id > first.session_id
    assert adapter.state.attempts == 1


def test_removed_peer_has_no_timers_left() -> None:
    adapter, _ = adapter_at(100)
    adapter.on_removal(10.1)
    assert adapter.wake_at() is None
    assert adapter.tick(99.0) == []


def test_logs_are_bounded() -> None:
    adapter, _ = adapter_at(100)
    for count in range(3 * LOG_ENTRIES_MAX):
        adapter.on_probe_result(t.ProbeFailed(replica_id=R, text="x"), 11.0 + count)
    assert len(adapter.commands) == LOG_ENTRIES_MAX
    assert len(adapter.trace) <= LOG_ENTRIES_MAX

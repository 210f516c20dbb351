"""The fence bound: a fence without an answer is given up at its deadline, in the adapter and in the opening.

One clock, passed in. At the deadline and not before: the event names the fence's lineage, nothing becomes healthy, the
slot is free, a late answer changes nothing, and a newer line never waits for it. bench/fence.py measures the same
bound on the native timer.
"""

from __future__ import annotations

import math

import pytest

from sparrow.authority import engine_types as t
from sparrow.authority.adapter import AdapterOutput, Dispatch, PeerAdapter, Report, SessionIds
from sparrow.authority.engine_types import Mode
from sparrow.base import events as log
from sparrow.base.constants import FENCE_DEADLINE_S
from sparrow.base.ids import Lsn, ReplicaId, VolumeId
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.opening.state import Phase
from tests.support.lines import fence as answer
from tests.support.lines import line, rid
from tests.unit.node.test_opening import Driver

V = VolumeId("v1")
R = ReplicaId("r2")
SENT_AT = 10.0
DEADLINE = SENT_AT + FENCE_DEADLINE_S
JUST_BEFORE = math.nextafter(DEADLINE, 0.0)


def fences(out: list[AdapterOutput]) -> list[Dispatch]:
    return [
        one for one in out if isinstance(one, Dispatch) and isinstance(one.command, t.FenceAtEpoch)
    ]


def reports(out: list[AdapterOutput]) -> list[Report]:
    return [one for one in out if isinstance(one, Report)]


def caught_up(
    adapter: PeerAdapter, epoch: int, endpoint_version: int, now: float
) -> list[AdapterOutput]:
    """Bring a peer to the point at which only the fence is missing."""
    assignment = t.AssignmentObserved(
        volume_id=V,
        replica_id=R,
        epoch=epoch,
        endpoint_version=endpoint_version,
        data_addr="d:1",
        ctrl_addr="c:1",
    )
    adapter.on_assignment(assignment, now)
    adapter.on_probe_result(t.ProbeSucceeded(replica_id=R), now)
    joined = t.Joined(replica_id=R, peer_lsn=Lsn(100), oldest_lsn=Lsn(10), head_lsn=Lsn(100))
    return adapter.on_join_result(joined, now)


@pytest.fixture
def adapter() -> PeerAdapter:
    """A peer of line (7,3) whose fence was sent at ``SENT_AT`` and is in flight."""
    made = PeerAdapter(volume_id=V, replica_id=R, sessions=SessionIds(1))
    assert len(fences(caught_up(made, 7, 3, SENT_AT))) == 1
    return made


def in_flight(adapter: PeerAdapter) -> int:
    """The session id of the newest fence."""
    sent = [one for one in adapter.commands if isinstance(one.command, t.FenceAtEpoch)]
    return sent[-1].session_id


def test_it_fires_exactly_at_the_deadline_and_not_before(adapter: PeerAdapter) -> None:
    assert adapter.wake_at() == DEADLINE
    assert adapter.tick(JUST_BEFORE) == []
    assert "fence_failed" not in adapter.trace
    fired = adapter.tick(DEADLINE)
    assert [one.name for one in reports(fired)] == [log.FENCE_TIMED_OUT]
    assert [entry.kind for entry in adapter.watchdog] == ["arm", "fire", "arm"]


def test_it_fires_once_however_late_the_clock_is_looked_at(adapter: PeerAdapter) -> None:
    fired = adapter.tick(DEADLINE + 3600)
    (report,) = reports(fired)
    assert (report.fields["deadline"], report.fields["fired_at"]) == (DEADLINE, DEADLINE + 3600)
    assert reports(adapter.tick(DEADLINE + 7200)) == []


def test_it_emits_the_event_with_the_lineage_of_the_fence(adapter: PeerAdapter) -> None:
    """A newer endpoint version of the same epoch does not make the fence in flight a newer one."""
    newer = t.AssignmentObserved(
        volume_id=V,
        replica_id=R,
        epoch=7,
        endpoint_version=4,
        data_addr="d:1",
        ctrl_addr="c:1",
    )
    assert fences(adapter.on_assignment(newer, SENT_AT + 0.1)) == []
    (report,) = reports(adapter.tick(DEADLINE))
    assert report == Report(
        name=log.FENCE_TIMED_OUT,
        fields={
            "volume": V,
            "replica": R,
            "epoch": 7,
            "endpoint_version": 3,
            "deadline": DEADLINE,
            "fired_at": DEADLINE,
        },
    )


def test_it_does_not_make_the_replica_healthy(adapter: PeerAdapter) -> None:
    fired = adapter.tick(DEADLINE)
    assert adapter.projection.mode is Mode.RECOVERING
    assert (adapter.state.healthy, adapter.state.fenced_epoch) == (False, 0)
    assert not any(
        isinstance(one, Dispatch) and isinstance(one.command, t.PublishHealthy) for one in fired
    )
    assert "fence_failed" in adapter.trace


def test_it_releases_the_slot_and_a_new_fence_has_an_id_of_its_own(adapter: PeerAdapter) -> None:
    first = in_flight(adapter)
    (again,) = fences(adapter.tick(DEADLINE))
    assert again.session_id > first
    assert fences(adapter.tick(DEADLINE + FENCE_DEADLINE_S)) == [], "two fences in flight"
    adapter.on_fence_complete(again.session_id, DEADLINE + FENCE_DEADLINE_S / 2)
    assert adapter.projection.mode is Mode.RECOVERING, "answered after its own deadline"


def test_new_fence_that_is_answered_in_time_ends_it(adapter: PeerAdapter) -> None:
    (again,) = fences(adapter.tick(DEADLINE))
    adapter.on_fence_complete(again.session_id, DEADLINE + 0.1)
    assert adapter.projection.mode is Mode.HEALTHY
    assert adapter.wake_at() is None


@pytest.mark.parametrize("word", ["complete", "failed", "dispatch_failed"])
def test_late_callback_changes_nothing(adapter: PeerAdapter, word: str) -> None:
    first = in_flight(adapter)
    adapter.tick(DEADLINE)
    before, wake = adapter.state, adapter.wake_at()
    late = DEADLINE + 0.1
    if word == "complete":
        out = adapter.on_fence_complete(first, late)
    elif word == "failed":
        out = adapter.on_fence_failed(first, "refused", late)
    else:
        out = adapter.on_dispatch_failed(first, "no route", late)
    assert (adapter.state, adapter.wake_at(), out) == (before, wake, [])


def test_answer_one_moment_before_the_deadline_counts(adapter: PeerAdapter) -> None:
    adapter.on_fence_complete(in_flight(adapter), JUST_BEFORE)
    assert adapter.projection.mode is Mode.HEALTHY
    assert adapter.tick(DEADLINE) == []


def test_newer_epoch_is_not_starved_by_a_fence_without_an_answer(adapter: PeerAdapter) -> None:
    old = in_flight(adapter)
    (new,) = fences(caught_up(adapter, 8, 1, SENT_AT + 0.1))
    assert "supersede" in [entry.kind for entry in adapter.watchdog]
    assert reports(adapter.tick(DEADLINE)) == [], "the old fence's timer is gone"
    assert adapter.on_fence_complete(old, DEADLINE) == []
    assert adapter.state.fenced_epoch == 0
    adapter.on_fence_complete(new.session_id, DEADLINE)
    assert (adapter.state.fenced_epoch, adapter.projection.mode) == (8, Mode.HEALTHY)


def test_removed_replica_ends_its_fence(adapter: PeerAdapter) -> None:
    adapter.on_removal(SENT_AT + 0.1)
    assert adapter.wake_at() is None
    assert adapter.tick(DEADLINE) == []


# ------------------------------------------------------------ the same bound while a volume is opened


def test_opening_reports_the_silent_member_exactly_at_the_deadline() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=answer("b", 9))
    assert rid("c") in [sent.replica for sent in driver.take(fx.SendFence)]
    sent_at = driver.now
    driver.now = math.nextafter(sent_at + FENCE_DEADLINE_S, 0.0)
    driver.tell(ev.Tick())
    assert log.FENCE_TIMED_OUT not in driver.reported()
    assert driver.opening.wake_at == sent_at + FENCE_DEADLINE_S
    driver.now = sent_at + FENCE_DEADLINE_S
    driver.tell(ev.Tick())
    (report,) = [one for one in driver.take(fx.Report) if one.event == log.FENCE_TIMED_OUT]
    assert (report.facts["epoch"], report.facts["endpoint_version"]) == (2, 1)
    assert (report.facts["replica"], report.facts["waited_ms"]) == (rid("c"), 500)


def test_opening_does_not_go_on_without_the_member_at_the_deadline() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=answer("b", 9))
    driver.wait(FENCE_DEADLINE_S * 20)
    assert driver.opening.phase is Phase.FENCING
    assert not driver.take(fx.SetMembership)
    assert not driver.take(fx.OpenGate)


def test_opening_under_a_newer_line_is_not_held_by_the_old_ones_fence() -> None:
    """The member that never answered is left out by the line: the fence in flight holds nobody up."""
    driver = Driver(line(2, 1, "b", "bc"), "b", own=answer("b", 9))
    driver.wait(0.1)
    driver.tell(ev.LineChanged(line=line(2, 2, "b", "b")))
    assert driver.take(fx.SetMembership) == [fx.SetMembership(needed=(), writable=True)]
    driver.wait(5.0)
    assert log.FENCE_TIMED_OUT not in driver.reported()


def test_opening_of_a_newer_epoch_sends_its_own_fence_at_once() -> None:
    old = Driver(line(2, 1, "b", "bc"), "b", own=answer("b", 9))
    old.wait(0.2)
    new = Driver(line(3, 1, "b", "bc"), "b", own=answer("b", 9))
    assert (rid("c"), 3) in [(sent.replica, sent.term.epoch) for sent in new.take(fx.SendFence)]

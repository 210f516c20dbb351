"""The adapter over whole stories: the same end whatever order, and however often, things are delivered in."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sparrow.authority import engine_types as t
from sparrow.authority.adapter import AdapterOutput, Dispatch, PeerAdapter, SessionIds
from sparrow.authority.engine_types import Mode, SessionPhase
from sparrow.base.ids import Lsn, ReplicaId, VolumeId

R = ReplicaId("r2")
RECOVERING = (t.StartCatchUp, t.StartRebuild)


class Story:
    """A peer's adapter and everything it ever wanted, in order."""

    def __init__(self) -> None:
        self.adapter = PeerAdapter(
            volume_id=VolumeId("v1"), replica_id=R, sessions=SessionIds(incarnation=3)
        )
        self.commands: list[t.EngineCommand] = []
        self.now = 10.0

    def took(self, out: list[AdapterOutput]) -> list[Dispatch]:
        sent = [one for one in out if isinstance(one, Dispatch)]
        self.commands += [one.command for one in sent]
        return sent

    def assign(self, epoch: int = 1, endpoint_version: int = 1) -> list[Dispatch]:
        line = t.AssignmentObserved(
            volume_id=VolumeId("v1"),
            replica_id=R,
            epoch=epoch,
            endpoint_version=endpoint_version,
            data_addr="d:1",
            ctrl_addr="c:1",
        )
        return self.took(self.adapter.on_assignment(line, self.now))

    def probe(self, epoch: int = 1) -> list[Dispatch]:
        event = t.ProbeSucceeded(replica_id=R, endpoint_version=1, transport_epoch=epoch)
        return self.took(self.adapter.on_probe_result(event, self.now))

    def join(self, peer: int, oldest: int = 10, head: int = 100) -> list[Dispatch]:
        event = t.Joined(
            replica_id=R, peer_lsn=Lsn(peer), oldest_lsn=Lsn(oldest), head_lsn=Lsn(head)
        )
        return self.took(self.adapter.on_join_result(event, self.now))

    def ack(self, peer: int, head: int = 100) -> list[Dispatch]:
        event = t.DurableAckObserved(
            replica_id=R, peer_lsn=Lsn(peer), oldest_lsn=Lsn(10), head_lsn=Lsn(head)
        )
        return self.took(self.adapter.on_durable_ack(event, self.now))

    def start(self, session_id: int) -> None:
        self.took(self.adapter.on_session_start(session_id, self.now))

    def close(self, session_id: int, achieved: int) -> None:
        event = t.SessionClosedCompleted(
            replica_id=R, session_id=session_id, achieved_lsn=Lsn(achieved)
        )
        self.took(self.adapter.on_session_close(event, self.now))

    def fence(self, sent: list[Dispatch]) -> None:
        """Answer the fence among what was sent."""
        (one,) = [one for one in sent if isinstance(one.command, t.FenceAtEpoch)]
        self.took(self.adapter.on_fence_complete(one.session_id, self.now))

    def count(self, *kinds: type) -> int:
        return sum(isinstance(one, kinds) for one in self.commands)


def session_of(sent: list[Dispatch], kind: type) -> int:
    (one,) = [one for one in sent if isinstance(one.command, kind)]
    return one.session_id


def test_c1_healthy_peer_stays_healthy_however_often_it_is_probed() -> None:
    story = Story()
    story.assign()
    story.probe()
    story.fence(story.join(100))
    before = story.adapter.state
    for _ in range(8):
        story.probe()
    assert story.adapter.state == before
    assert story.adapter.projection.mode is Mode.HEALTHY
    assert story.count(*RECOVERING) == 0


def test_c2_short_gap_is_closed_by_one_catch_up() -> None:
    story = Story()
    story.assign()
    story.probe()
    session = session_of(story.join(50), t.StartCatchUp)
    story.start(session)
    story.close(session, 100)
    story.ack(100)
    assert story.adapter.projection.mode is Mode.HEALTHY
    assert (story.count(t.StartCatchUp), story.count(t.StartRebuild)) == (1, 0)


def test_c3_gap_past_the_log_is_closed_by_one_rebuild() -> None:
    story = Story()
    story.assign()
    story.probe()
    session = session_of(story.join(5, oldest=50), t.StartRebuild)
    story.start(session)
    story.close(session, 100)
    story.ack(100)
    assert story.adapter.projection.mode is Mode.HEALTHY
    assert (story.count(t.StartCatchUp), story.count(t.StartRebuild)) == (0, 1)


def test_c4_nothing_is_healthy_before_the_executors_terminal_word() -> None:
    story = Story()
    story.assign()
    story.probe()
    session = session_of(story.join(50), t.StartCatchUp)
    story.start(session)
    for reached in (60, 90, 100):
        story.took(story.adapter.on_session_progress(session, Lsn(reached), story.now))
        story.ack(reached)
        story.probe()
        assert story.count(t.PublishHealthy) == 0, reached
    story.close(session, 100)
    assert story.count(t.PublishHealthy) == 0, "held until an ack of the live lane"
    story.ack(100)
    trace = list(story.adapter.trace)
    assert story.count(t.PublishHealthy) == 1
    assert trace.index("session_completed") < trace.index("post_close_ack")


DELIVERIES = st.lists(st.sampled_from(["probe", "assign", "ack"]), max_size=8)


@settings(max_examples=200)
@given(before=DELIVERIES, between=DELIVERIES, after=DELIVERIES)
def test_c5_repeated_and_early_deliveries_end_in_the_same_decision(
    before: list[str], between: list[str], after: list[str]
) -> None:
    """Probes before the assignment, storms of them, repeated assignments, early acks: one catch-up, once."""
    story = Story()

    def deliver(what: list[str]) -> None:
        for one in what:
            if one == "ack":
                story.ack(50)
            else:
                getattr(story, one)()

    deliver(before)
    story.assign()
    story.probe()
    deliver(between)
    story.join(50)
    deliver(after)
    state = story.adapter.state
    assert state.decision is t.RecoveryDecision.CATCH_UP
    assert (state.phase, state.peer_lsn) == (SessionPhase.STARTING, 50)
    assert (story.count(t.StartCatchUp), story.count(t.StartRebuild)) == (1, 0)
    assert story.count(t.PublishHealthy) == 0


def test_older_line_that_arrives_late_is_refused_by_the_adapter() -> None:
    """The old slot's last line after the failover: its session, its fence and its address come to nothing."""
    story = Story()
    story.assign(epoch=2)
    story.probe(epoch=2)
    story.fence(story.join(100))
    before = story.adapter.state
    assert story.assign(epoch=1, endpoint_version=9) == []
    assert story.adapter.state == before
    assert "stale_assignment" in story.adapter.trace


def test_words_of_the_epoch_before_do_not_reach_a_peer_of_the_new_one() -> None:
    story = Story()
    story.assign()
    story.probe()
    old = session_of(story.join(50), t.StartCatchUp)
    story.start(old)
    story.assign(epoch=2)
    story.probe(epoch=2)
    new = session_of(story.join(50), t.StartCatchUp)
    assert new > old
    story.close(old, 100)
    assert story.adapter.state.phase is SessionPhase.STARTING
    assert story.adapter.state.session_id == new
    assert story.count(t.InvalidateSession) == 1

"""The engine: conformance vectors, determinism, and admission of late words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparrow.authority import engine_types as t
from sparrow.authority.engine import apply, mode
from sparrow.authority.engine_types import EngineState
from sparrow.base.ids import Lsn, ReplicaId, VolumeId
from tests.support.engine_vectors import BadVector, Vector, load, parse

VECTORS = load(Path(__file__).with_name("vectors.toml"))
EVENTS = [event for vector in VECTORS for event in vector.events]
#: A catch-up at work, under a session id above all that the vectors use.
RUNNING = [
    *next(vector for vector in VECTORS if vector.name == "catch_up_within_wal").events,
    t.SessionPrepared(
        replica_id=ReplicaId("r2"),
        session_id=1000,
        kind=t.SessionKind.CATCH_UP,
        frontier_hint=Lsn(100),
    ),
    t.SessionStarted(replica_id=ReplicaId("r2"), session_id=1000),
]


def play(events: list[t.EngineEvent] | tuple[t.EngineEvent, ...]) -> tuple[object, ...]:
    state, commands, trace = EngineState(), [], []
    for event in events:
        step = apply(state, event)
        state = step.state
        commands.extend(step.commands)
        trace.extend(step.trace)
    return state, commands, trace


@pytest.mark.parametrize("vector", VECTORS, ids=[vector.name for vector in VECTORS])
def test_vector(vector: Vector) -> None:
    state, commands, trace = play(vector.events)
    assert isinstance(state, EngineState)
    assert isinstance(commands, list)
    assert isinstance(trace, list)
    names = [type(command).__name__ for command in commands]
    expect = dict(vector.expect)
    seen = {"mode": mode(state), "decision": state.decision, "phase": state.phase}
    assert {key: seen[key].value for key in seen if key in expect} == {
        key: expect[key] for key in seen if key in expect
    }
    assert set(expect.get("emitted", [])) <= set(names)
    assert not set(expect.get("absent", [])) & set(names)
    assert set(expect.get("traced", [])) <= set(trace)
    for name, count in expect.get("count", {}).items():
        assert names.count(name) == count


@settings(max_examples=200)
@given(st.lists(st.sampled_from(EVENTS), max_size=25))
def test_same_events_give_the_same_everything(events: list[t.EngineEvent]) -> None:
    assert play(events) == play(events)


@settings(max_examples=1000)
@given(st.lists(st.sampled_from(EVENTS), max_size=30))
def test_lineage_session_and_peer_facts_never_go_back_within_an_epoch(
    events: list[t.EngineEvent],
) -> None:
    state = EngineState()
    for event in events:
        after = apply(state, event).state
        assert (after.epoch, after.endpoint_version) >= (state.epoch, state.endpoint_version)
        assert after.session_id >= state.session_id
        if after.epoch == state.epoch and not isinstance(event, t.Joined | t.ReplicaRemoved):
            assert after.peer_lsn >= state.peer_lsn
        if after.healthy:
            assert after.fenced_epoch >= after.epoch, "healthy without a fence"
            assert after.in_sync
            assert after.joined
            assert after.member_present
            assert after.contact is t.Contact.REACHABLE
        state = after


def test_text_of_a_failure_changes_nothing() -> None:
    base = list(
        next(v for v in VECTORS if v.name == "recycled_log_goes_to_rebuild_in_the_same_step").events
    )
    last = base[-1]
    assert isinstance(last, t.SessionClosedFailed)
    other = [*base[:-1], replace(last, text="session_invalidated: start timeout")]
    assert play(base)[:2] == play(other)[:2]


def test_command_of_a_catch_up_starts_after_the_peers_last_entry() -> None:
    _, commands, _ = play(VECTORS[0].events)
    assert isinstance(commands, list)
    start = next(one for one in commands if isinstance(one, t.StartCatchUp))
    assert (start.from_lsn, start.frontier_hint, start.epoch) == (51, 100, 1)


def test_moved_peer_is_probed_anew_and_its_session_ends() -> None:
    events = [*VECTORS[0].events, *[e for e in EVENTS if isinstance(e, t.SessionPrepared)][:1]]
    state, _, _ = play(events)
    assert isinstance(state, EngineState)
    step = apply(
        state, t.EndpointObserved(replica_id=state.replica_id, data_addr="new:1", ctrl_addr="c:1")
    )
    kinds = [type(one) for one in step.commands]
    assert kinds == [t.InvalidateSession, t.ProbeReplica]
    assert step.state.epoch == state.epoch


@pytest.mark.parametrize(
    "text",
    [
        'case = [{name = "a", events = [{kind = "removed"}], expect = {mode = "idle"}}]',
        "version = 2\ncase = []",
        'version = 1\ncase = [{events = [{kind = "removed"}], expect = {mode = "idle"}}]',
        'version = 1\ncase = [{name = "a", events = [], expect = {mode = "idle"}}]',
        'version = 1\ncase = [{name = "a", events = [{kind = "removed"}], expect = {}}]',
        'version = 1\ncase = [{name = "a", events = [{kind = "nope"}], expect = {mode = "idle"}}]',
        'version = 1\ncase = [{name = "a", events = [{kind = "removed", x = 1}], expect = {mode = "idle"}}]',
        'version = 1\ncase = [{name = "a", events = [{kind = "removed"}], expect = {mood = "idle"}}]',
        "version = 1\nextra = 1",
    ],
)
def test_loader_refuses_what_it_does_not_understand(text: str) -> None:
    with pytest.raises(BadVector):
        parse(text)


def test_peer_that_a_line_took_out_of_in_sync_is_not_healthy_any_more() -> None:
    healthy = next(v for v in VECTORS if v.name == "caught_up_healthy").events
    out = t.AssignmentObserved(
        volume_id=VolumeId("v1"),
        replica_id=ReplicaId("r2"),
        epoch=1,
        endpoint_version=2,
        data_addr="d:1",
        ctrl_addr="c:1",
        in_sync=False,
    )
    state, commands, _ = play([*healthy, out])
    assert isinstance(state, EngineState)
    assert isinstance(commands, list)
    assert not state.healthy
    assert isinstance(commands[-1], t.MakePending)


def test_member_that_was_removed_and_taken_back_is_found_out_about_anew() -> None:
    healthy = next(v for v in VECTORS if v.name == "caught_up_healthy").events
    state, _, _ = play([*healthy, t.ReplicaRemoved(replica_id=ReplicaId("r2")), healthy[0]])
    assert isinstance(state, EngineState)
    assert (state.joined, state.healthy, state.fenced_epoch) == (False, False, 0)
    assert state.contact is t.Contact.PROBING


@settings(max_examples=300)
@given(st.lists(st.sampled_from(EVENTS), max_size=15), st.integers(1, 50), st.integers(0, 3))
def test_events_of_a_superseded_session_change_nothing(
    before: list[t.EngineEvent], older: int, which: int
) -> None:
    """Whatever happened before: only the current session's own events move it."""
    state, _, _ = play([*RUNNING, *before])
    assert isinstance(state, EngineState)
    peer, stale = ReplicaId("r2"), 1000 - older
    late = (
        t.SessionStarted(replica_id=peer, session_id=stale),
        t.SessionProgressObserved(replica_id=peer, session_id=stale, achieved_lsn=Lsn(10**6)),
        t.SessionClosedCompleted(replica_id=peer, session_id=stale, achieved_lsn=Lsn(10**6)),
        t.SessionInvalidated(replica_id=peer, session_id=stale),
    )[which]
    step = apply(state, late)
    assert step.state == state
    assert step.commands == ()

"""The engine: from facts about one peer to the one thing to do for it next.

A deterministic reducer, ``apply(state, event) -> Step``: no clock, no I/O, no randomness. How a peer recovers follows
from three bounded facts, R, S and H, and from typed failures; never from time, text or a lost connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from sparrow.authority import engine_types as t
from sparrow.authority.engine_types import (
    Contact,
    EngineCommand,
    EngineEvent,
    EngineState,
    FailureKind,
    GrowPhase,
    JoinRefusal,
    Mode,
    Projection,
    RecoveryDecision,
    SessionKind,
    SessionPhase,
    Step,
)
from sparrow.base.ids import Lsn

#: Retries of a failed session on one lineage, by what it does.
RETRIES = {SessionKind.CATCH_UP: 3, SessionKind.REBUILD: 0}
#: Acks without progress, while the head moves, after which a live peer is fed by a catch-up instead.
STALLED_SAMPLES = 3


def apply(state: EngineState, event: EngineEvent) -> Step:
    """Take one event. An event that is not admitted leaves the state untouched and says why in the trace."""
    run = _Run(state)
    run.take(event)
    return Step(state=run.s, commands=tuple(run.commands), trace=tuple(run.trace))


def mode(s: EngineState) -> Mode:
    """How the peer does, first match."""
    if not s.member_present:
        return Mode.IDLE
    if s.session_active:
        return Mode.RECOVERING
    if s.healthy:
        return Mode.HEALTHY
    if s.decision is RecoveryDecision.NONE and s.contact is Contact.REACHABLE:
        return Mode.RECOVERING
    return Mode.DEGRADED


def project(s: EngineState) -> Projection:
    """The peer as shown."""
    return Projection(
        mode=mode(s),
        decision=s.decision,
        session_kind=s.session_kind,
        phase=s.phase,
        epoch=s.epoch,
        endpoint_version=s.endpoint_version,
        peer_lsn=s.peer_lsn,
        oldest_lsn=s.oldest_lsn,
        head_lsn=s.head_lsn,
        reason=s.decision_reason,
    )


class _Run:
    """One event at work on one state."""

    def __init__(self, state: EngineState) -> None:
        self.s = state
        self.commands: list[EngineCommand] = []
        self.trace: list[str] = []

    def take(self, event: EngineEvent) -> None:  # noqa: C901, PLR0912 - one arm per event
        if self.s.replica_id and event.replica_id != self.s.replica_id:
            self.trace.append("wrong_replica")
            return
        match event:
            case t.AssignmentObserved():
                self._assignment(event)
            case t.EndpointObserved():
                self._endpoint(event)
            case t.ReplicaRemoved():
                self._removed()
            case t.ProbeSucceeded():
                self._probe_succeeded(event)
            case t.ProbeFailed():
                self._probe_failed(event)
            case t.Joined():
                self._joined(event)
            case t.JoinRefused():
                self._join_refused(event)
            case t.DurableAckObserved():
                self._acked(event)
            case t.SessionPrepared():
                self._prepared(event)
            case t.SessionStarted():
                self._started(event)
            case t.SessionProgressObserved():
                self._progress(event)
            case t.SessionClosedCompleted():
                self._completed(event)
            case t.SessionClosedFailed():
                self._failed(event)
            case t.SessionInvalidated():
                self._invalidated(event)
            case t.FenceCompleted():
                self._fence_completed(event)
            case t.FenceFailed():
                self._fence_failed(event)
            case t.PeerPending():
                self._pending(event)
            case t.GrowAsked():
                self._grow_asked(event)
            case t.GrowRefused():
                self._grow_refused(event)
            case _:
                assert_never(event)

    # ---------------------------------------------------------------- assignment

    def _assignment(self, event: t.AssignmentObserved) -> None:
        s = self.s
        if event.epoch == 0 or event.endpoint_version == 0:
            self.trace.append("invalid_assignment")
            return
        if (event.epoch, event.endpoint_version) < (s.epoch, s.endpoint_version):
            self.trace.append("stale_assignment")
            return
        epoch_advanced = event.epoch > s.epoch
        newer = (event.epoch, event.endpoint_version) > (s.epoch, s.endpoint_version)
        moved = bool(s.data_addr) and (s.data_addr, s.ctrl_addr) != (
            event.data_addr,
            event.ctrl_addr,
        )
        if epoch_advanced or moved:
            self._reset("epoch_advanced" if epoch_advanced else "address_changed")
        self.s = replace(
            self.s,
            volume_id=event.volume_id,
            replica_id=event.replica_id,
            epoch=event.epoch,
            endpoint_version=event.endpoint_version,
            data_addr=event.data_addr,
            ctrl_addr=event.ctrl_addr,
            member_present=True,
            in_sync=event.in_sync,
            healthy=self.s.healthy and event.in_sync,
        )
        self.trace.append("assignment")
        if newer and not epoch_advanced:
            # Any newer line is the answer to a Grow: the peer is in, or it is not.
            self._end_grow("line")
        if self.s.contact is not Contact.REACHABLE:
            self._probe()
        elif newer:
            self._go_on()

    def _endpoint(self, event: t.EndpointObserved) -> None:
        if (event.data_addr, event.ctrl_addr) == (self.s.data_addr, self.s.ctrl_addr):
            self.trace.append("same_endpoint")
            return
        self._reset("address_changed")
        self.s = replace(self.s, data_addr=event.data_addr, ctrl_addr=event.ctrl_addr)
        self._probe()

    def _removed(self) -> None:
        # A member that is taken back is found out about from the beginning.
        self._reset("removed")
        self.s = replace(self.s, member_present=False, in_sync=False)
        self._decision(RecoveryDecision.NONE, "not_a_member")

    def _reset(self, why: str) -> None:
        """Forget everything that belonged to another epoch or another address, at once."""
        self._drop_session(why)
        zero, s = EngineState(), self.s
        self.s = replace(
            zero,
            volume_id=s.volume_id,
            replica_id=s.replica_id,
            epoch=s.epoch,
            endpoint_version=s.endpoint_version,
            data_addr=s.data_addr,
            ctrl_addr=s.ctrl_addr,
            member_present=s.member_present,
            in_sync=s.in_sync,
            # Ids only grow, so nothing late can pass for a new session.
            session_id=s.session_id,
        )
        self.trace.append(f"reset:{why}")

    def _drop_session(self, reason: str) -> None:
        s = self.s
        if s.session_active:
            self.commands.append(
                t.InvalidateSession(replica_id=s.replica_id, session_id=s.session_id, reason=reason)
            )
        self.s = replace(
            s, phase=SessionPhase.NONE, frontier_hint=Lsn(0), achieved_lsn=Lsn(0), failure=""
        )

    # ---------------------------------------------------------------- contact

    def _probe_succeeded(self, event: t.ProbeSucceeded) -> None:
        if self._stale_transport(event.endpoint_version, event.transport_epoch):
            self.trace.append("stale_probe")
            return
        self.s = replace(
            self.s,
            contact=Contact.REACHABLE,
            observed_endpoint_version=max(self.s.observed_endpoint_version, event.endpoint_version),
            transport_epoch=max(self.s.transport_epoch, event.transport_epoch),
            last_contact="probe",
        )
        self.trace.append("probe_succeeded")
        if self.s.joined or self.s.rebuild_pinned:
            self._decide()
        elif self.s.member_present and not self.s.session_active:
            self._join()

    def _probe_failed(self, event: t.ProbeFailed) -> None:
        if self._stale_transport(event.endpoint_version, event.transport_epoch):
            self.trace.append("stale_probe_failed")
            return
        self.s = replace(
            self.s, contact=Contact.UNREACHABLE, last_contact="probe_failed", healthy=False
        )
        self._degraded(f"probe_failed: {event.text}")

    def _joined(self, event: t.Joined) -> None:
        if self._stale_transport(event.endpoint_version, event.transport_epoch):
            self.trace.append("stale_joined")
            return
        failed = self.s.phase is SessionPhase.FAILED
        self.s = replace(
            self.s,
            joined=True,
            peer_lsn=event.peer_lsn,
            oldest_lsn=event.oldest_lsn,
            head_lsn=event.head_lsn,
            # What a session that failed left open, the join has told: a peer that follows by now may go on.
            phase=SessionPhase.NONE if failed else self.s.phase,
        )
        self.trace.append("joined")
        self._decide()

    def _join_refused(self, event: t.JoinRefused) -> None:
        match event.refusal:
            case JoinRefusal.NO_COMMON_POINT | JoinRefusal.REBUILDING:
                self.s = replace(self.s, rebuild_pinned=True)
                self._decide(pinned_reason=event.refusal.value)
            case JoinRefusal.QUARANTINED:
                # Its files may be the only ones that hold something: never rebuilt over by itself.
                self._decision(RecoveryDecision.UNKNOWN, "quarantined")
                self._degraded(f"quarantined: {event.text}")
            case _:
                assert_never(event.refusal)

    def _acked(self, event: t.DurableAckObserved) -> None:
        s = self.s
        if self._stale_transport(event.endpoint_version, event.transport_epoch):
            self.trace.append("stale_ack")
            return
        if not s.joined:
            self.trace.append("ack_before_join")
            return
        first = s.ack_samples == 0
        if first or event.peer_lsn > s.acked_lsn:
            samples = 1
        elif event.head_lsn > s.acked_head_lsn:
            samples = s.ack_samples + 1
        else:
            samples = s.ack_samples
        self.s = replace(
            s,
            acked_lsn=max(s.acked_lsn, event.peer_lsn),
            acked_head_lsn=max(s.acked_head_lsn, event.head_lsn),
            ack_samples=samples,
            peer_lsn=max(s.peer_lsn, event.peer_lsn),
            oldest_lsn=max(s.oldest_lsn, event.oldest_lsn),
            head_lsn=max(s.head_lsn, event.head_lsn),
            grant_held=event.grant_held,
            last_contact="ack",
        )
        if self.s.window_closed and event.peer_lsn >= s.closed_at_lsn:
            self.s = replace(self.s, window_closed=False)
            self.trace.append("post_close_ack")
            self._go_on()
        elif self._live():
            self._lag()
        self._advance_grow()

    def _live(self) -> bool:
        s = self.s
        return s.member_present and s.contact is Contact.REACHABLE and not s.session_active

    def _lag(self) -> None:
        """Whether a peer on the live lane still follows."""
        s = self.s
        if s.peer_lsn >= s.head_lsn:
            return
        if s.peer_lsn + 1 < s.oldest_lsn:
            self._decide()
        elif s.ack_samples >= STALLED_SAMPLES:
            self.trace.append("stalled")
            self.s = replace(self.s, ack_samples=0)
            self._decide()

    def _stale_transport(self, endpoint_version: int, transport_epoch: int) -> bool:
        """Whether a transport's word is of an older line than ours. A newer endpoint version resets nothing."""
        s = self.s
        return (
            0 < endpoint_version < s.observed_endpoint_version
            or 0 < transport_epoch < s.epoch
            or 0 < transport_epoch < s.transport_epoch
        )

    # ---------------------------------------------------------------- sessions

    def _prepared(self, event: t.SessionPrepared) -> None:
        if self.s.session_id and event.session_id <= self.s.session_id:
            self.trace.append("stale_session_prepared")
            return
        self.s = replace(
            self.s,
            session_id=event.session_id,
            session_kind=event.kind,
            frontier_hint=event.frontier_hint,
            achieved_lsn=Lsn(0),
            phase=SessionPhase.STARTING,
            failure="",
            window_closed=False,
            healthy=False,
        )

    def _started(self, event: t.SessionStarted) -> None:
        if self._current(event.session_id, SessionPhase.STARTING):
            self.s = replace(self.s, phase=SessionPhase.RUNNING)

    def _progress(self, event: t.SessionProgressObserved) -> None:
        if self._current(event.session_id, SessionPhase.RUNNING):
            self.s = replace(self.s, achieved_lsn=max(self.s.achieved_lsn, event.achieved_lsn))

    def _completed(self, event: t.SessionClosedCompleted) -> None:
        if not self._current(event.session_id, SessionPhase.STARTING, SessionPhase.RUNNING):
            return
        s = self.s
        reached = max(s.peer_lsn, event.achieved_lsn)
        self.s = replace(
            s,
            phase=SessionPhase.COMPLETED,
            achieved_lsn=max(s.achieved_lsn, event.achieved_lsn),
            peer_lsn=reached,
            joined=True,
            attempts=0,
            rebuild_pinned=s.rebuild_pinned and s.session_kind is not SessionKind.REBUILD,
            window_closed=True,
            closed_at_lsn=reached,
            # A session that changed the peer in this epoch is a fence by itself.
            fenced_epoch=max(s.fenced_epoch, s.epoch),
        )
        self.trace.append("session_completed")
        if 0 < self.s.frontier_hint <= event.achieved_lsn and not self.s.rebuild_pinned:
            # What the session was for is reached; what was written meanwhile is on the live lane.
            self._decision(RecoveryDecision.NONE, "caught_up")
            self._caught_up()
        else:
            self._decide()

    def _failed(self, event: t.SessionClosedFailed) -> None:
        if not self._current(event.session_id, SessionPhase.STARTING, SessionPhase.RUNNING):
            return
        kind = self.s.session_kind
        self.s = replace(self.s, phase=SessionPhase.FAILED, failure=event.kind.value)
        match event.kind:
            case FailureKind.WAL_RECYCLED:
                self._degraded("wal_recycled")
                self._pin_rebuild("wal_recycled")
            case FailureKind.START_TIMEOUT | FailureKind.PIN_UNDER_RETENTION:
                self._degraded(event.kind.value)
            case _:
                self._retry(kind, event.kind)

    def _retry(self, kind: SessionKind, failure: FailureKind) -> None:
        attempts = self.s.attempts + 1
        if attempts <= RETRIES[kind]:
            self.s = replace(self.s, attempts=attempts)
            self.trace.append(f"retry:{attempts}")
            self._start(kind)
        elif kind is SessionKind.CATCH_UP:
            self._pin_rebuild("catchup_budget_exhausted")
        else:
            self.s = replace(self.s, attempts=0)
            self._decision(RecoveryDecision.UNKNOWN, "retry_budget_exhausted")
            self._degraded(failure.value)

    def _pin_rebuild(self, reason: str) -> None:
        self.s = replace(self.s, attempts=0, rebuild_pinned=True)
        self._decision(RecoveryDecision.REBUILD, reason)
        self._start(SessionKind.REBUILD)

    def _invalidated(self, event: t.SessionInvalidated) -> None:
        if self._current(event.session_id, SessionPhase.STARTING, SessionPhase.RUNNING):
            self.s = replace(self.s, phase=SessionPhase.NONE)

    def _current(self, session_id: int, *phases: SessionPhase) -> bool:
        if session_id != self.s.session_id:
            self.trace.append("stale_session")
            return False
        if self.s.phase not in phases:
            self.trace.append("session_event_ignored")
            return False
        return True

    # ---------------------------------------------------------------- fence and grow

    def _fence_completed(self, event: t.FenceCompleted) -> None:
        if event.epoch < self.s.epoch:
            self.trace.append("stale_fence")
            return
        self.s = replace(self.s, fenced_epoch=max(self.s.fenced_epoch, event.epoch))
        self.trace.append("fenced")
        if self.s.joined:
            self._go_on()

    def _fence_failed(self, event: t.FenceFailed) -> None:
        self.trace.append("stale_fence" if event.epoch < self.s.epoch else "fence_failed")

    def _pending(self, event: t.PeerPending) -> None:
        if self.s.grow is not GrowPhase.PREPARING:
            self.trace.append("pending_ignored")
            return
        self.s = replace(self.s, grow=GrowPhase.PENDING, frozen_lsn=event.frozen_lsn)
        self._advance_grow()

    def _advance_grow(self) -> None:
        """Ask once the peer has everything that was committed without it, and its promise."""
        s = self.s
        if s.grow is GrowPhase.PENDING and s.acked_lsn >= s.frozen_lsn and s.grant_held:
            self._emit(t.AskGrow)

    def _grow_asked(self, event: t.GrowAsked) -> None:
        if self.s.grow is GrowPhase.PENDING:
            basis = event.basis_endpoint_version
            self.s = replace(self.s, grow=GrowPhase.ASKED, grow_basis=basis)

    def _grow_refused(self, event: t.GrowRefused) -> None:
        if event.basis_endpoint_version == self.s.endpoint_version:
            self._end_grow("refused")
        else:
            self.trace.append("stale_refusal")

    def _end_grow(self, why: str) -> None:
        if self.s.grow in (GrowPhase.PENDING, GrowPhase.ASKED):
            self.trace.append(f"grow_ended:{why}")
            self.s = replace(self.s, grow=GrowPhase.NONE, frozen_lsn=Lsn(0), grow_basis=0)

    # ---------------------------------------------------------------- deciding

    def _decide(self, *, pinned_reason: str = "") -> None:
        s = self.s
        if not s.member_present:
            self._decision(RecoveryDecision.NONE, "not_a_member")
        elif s.contact is not Contact.REACHABLE:
            self._decision(RecoveryDecision.UNKNOWN, "not_reachable")
        elif s.rebuild_pinned:
            self._decision(RecoveryDecision.REBUILD, pinned_reason or s.decision_reason)
            self._start(SessionKind.REBUILD)
        elif not s.joined or s.peer_lsn == s.oldest_lsn == s.head_lsn == 0:
            self._decision(RecoveryDecision.UNKNOWN, "no_boundaries")
        elif s.peer_lsn >= s.head_lsn:
            self._decision(RecoveryDecision.NONE, "caught_up")
            self._caught_up()
        elif s.peer_lsn + 1 < s.oldest_lsn:
            self._decision(RecoveryDecision.REBUILD, "gap_beyond_wal")
            self._start(SessionKind.REBUILD)
        else:
            self._decision(RecoveryDecision.CATCH_UP, "gap_within_wal")
            self._start(SessionKind.CATCH_UP)

    def _go_on(self) -> None:
        """Take the next step of a peer that follows; classify one that does not.

        A following peer is a few entries behind whenever there are writes, so R and H are not compared again here.
        """
        s = self.s
        if s.decision is RecoveryDecision.NONE and s.joined and s.contact is Contact.REACHABLE:
            self._caught_up()
        else:
            self._decide()

    def _caught_up(self) -> None:
        s = self.s
        if s.session_active or s.phase is SessionPhase.FAILED:
            return
        if s.epoch > s.fenced_epoch:
            self._emit(t.FenceAtEpoch)
        elif s.window_closed:
            self.trace.append("held_for_post_close_ack")
        elif s.in_sync:
            if not s.healthy:
                self.s = replace(s, healthy=True)
                self.commands.append(t.PublishHealthy(replica_id=s.replica_id))
        elif s.grow is GrowPhase.NONE:
            self.s = replace(s, grow=GrowPhase.PREPARING)
            self.commands.append(t.MakePending(replica_id=s.replica_id))

    def _decision(self, decision: RecoveryDecision, reason: str) -> None:
        healthy = self.s.healthy and decision is RecoveryDecision.NONE
        self.s = replace(self.s, decision=decision, decision_reason=reason, healthy=healthy)
        self.trace.append(f"decide:{decision}:{reason}")

    def _start(self, kind: SessionKind) -> None:
        s = self.s
        if s.session_active:
            self.trace.append("session_active")
            return
        self.s = replace(s, healthy=False)
        if kind is SessionKind.REBUILD:
            self.commands.append(
                t.StartRebuild(
                    replica_id=s.replica_id,
                    epoch=s.epoch,
                    endpoint_version=s.endpoint_version,
                    frontier_hint=s.head_lsn,
                )
            )
        else:
            self.commands.append(
                t.StartCatchUp(
                    replica_id=s.replica_id,
                    epoch=s.epoch,
                    endpoint_version=s.endpoint_version,
                    from_lsn=Lsn(s.peer_lsn + 1),
                    frontier_hint=s.head_lsn,
                )
            )

    def _join(self) -> None:
        self._emit(t.JoinReplica)

    def _probe(self) -> None:
        s = self.s
        self.s = replace(s, contact=Contact.PROBING)
        self.commands.append(
            t.ProbeReplica(
                replica_id=s.replica_id,
                epoch=s.epoch,
                endpoint_version=s.endpoint_version,
                data_addr=s.data_addr,
                ctrl_addr=s.ctrl_addr,
            )
        )

    def _emit(self, command: Callable[..., EngineCommand]) -> None:
        s = self.s
        self.commands.append(
            command(replica_id=s.replica_id, epoch=s.epoch, endpoint_version=s.endpoint_version)
        )

    def _degraded(self, reason: str) -> None:
        self.commands.append(t.PublishDegraded(replica_id=self.s.replica_id, reason=reason))

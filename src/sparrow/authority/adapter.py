"""The adapter: the single way of the outside into one peer's engine, with session ids and watchdogs.

Every input names the time; every output is a command to carry out, with the session id its answers must repeat. Timers
end what was started and never answered; they never decide how a peer recovers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, TypeAlias

from sparrow.authority import engine_types as t
from sparrow.authority.engine import apply, project
from sparrow.authority.engine_types import (
    EngineCommand,
    EngineEvent,
    EngineState,
    FailureKind,
    Projection,
    SessionKind,
    SessionPhase,
)
from sparrow.base import events as log
from sparrow.base.constants import FENCE_DEADLINE_S, FENCE_RETRY_S
from sparrow.base.ids import Lsn, ReplicaId, VolumeId

START_DEADLINE_S: Final = 5.0
#: Entries kept of each diagnostic log; the oldest go first.
LOG_ENTRIES_MAX: Final = 256


class SessionIds:
    """Session ids of one process: they grow, and those of a restarted process are above all earlier ones.

    Args:
        incarnation: of the node's process, persisted and raised at every start.
    """

    def __init__(self, incarnation: int) -> None:
        assert 0 < incarnation < 1 << 31, "an incarnation fits the high half of an id"
        self._base = incarnation << 32
        self._count = 0

    def next(self) -> int:
        self._count += 1
        assert self._count < 1 << 32, "a process makes fewer than 2**32 sessions"
        return self._base + self._count


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """Carry out a command; its callbacks repeat ``session_id``. 0 where no callback is expected."""

    command: EngineCommand
    session_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A structured event to log."""

    name: str
    fields: dict[str, object]


AdapterOutput: TypeAlias = Dispatch | Report


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogEntry:
    """What a watchdog did: arm, clear_started, clear_closed, fire, fire_noop or supersede."""

    kind: str
    session_id: int
    at: float


@dataclass(slots=True, kw_only=True)
class _Fence:
    epoch: int
    endpoint_version: int
    session_id: int
    attempt: int
    dispatched_at: float
    #: Still waiting for a callback; False once the deadline passed.
    in_flight: bool = True

    @property
    def deadline(self) -> float:
        return self.dispatched_at + FENCE_DEADLINE_S

    @property
    def retry_at(self) -> float:
        return self.dispatched_at + FENCE_RETRY_S[min(self.attempt, len(FENCE_RETRY_S) - 1)]


class PeerAdapter:
    """One per peer of a volume this node is primary of.

    Thread: one at a time; commands are carried out after a call returned.
    """

    def __init__(self, *, volume_id: VolumeId, replica_id: ReplicaId, sessions: SessionIds) -> None:
        self.volume_id = volume_id
        self.replica_id = replica_id
        self.state = EngineState()
        self._sessions = sessions
        self._start: tuple[int, float] | None = None
        self._fence: _Fence | None = None
        self._out: list[AdapterOutput] = []
        self.commands: deque[Dispatch] = deque(maxlen=LOG_ENTRIES_MAX)
        self.trace: deque[str] = deque(maxlen=LOG_ENTRIES_MAX)
        self.watchdog: deque[WatchdogEntry] = deque(maxlen=LOG_ENTRIES_MAX)

    @property
    def projection(self) -> Projection:
        return project(self.state)

    # ---------------------------------------------------------------- inputs

    def on_assignment(self, event: t.AssignmentObserved, now: float) -> list[AdapterOutput]:
        """A line names this peer; older lines are refused by the engine."""
        epoch = self.state.epoch
        self._apply(event, now)
        if self.state.epoch != epoch:
            self._supersede(now)
        return self._take()

    def on_removal(self, now: float) -> list[AdapterOutput]:
        self._apply(t.ReplicaRemoved(replica_id=self.replica_id), now)
        self._supersede(now)
        return self._take()

    def on_probe_result(
        self, event: t.ProbeSucceeded | t.ProbeFailed, now: float
    ) -> list[AdapterOutput]:
        return self._feed((event,), now)

    def on_join_result(self, event: t.Joined | t.JoinRefused, now: float) -> list[AdapterOutput]:
        return self._feed((event,), now)

    def on_durable_ack(self, event: t.DurableAckObserved, now: float) -> list[AdapterOutput]:
        return self._feed((event,), now)

    def on_session_start(self, session_id: int, now: float) -> list[AdapterOutput]:
        self._clear_start(session_id, "clear_started", now)
        event = t.SessionStarted(replica_id=self.replica_id, session_id=session_id)
        return self._feed((event,), now)

    def on_session_progress(
        self, session_id: int, achieved_lsn: Lsn, now: float
    ) -> list[AdapterOutput]:
        event = t.SessionProgressObserved(
            replica_id=self.replica_id, session_id=session_id, achieved_lsn=achieved_lsn
        )
        return self._feed((event,), now)

    def on_session_close(
        self, event: t.SessionClosedCompleted | t.SessionClosedFailed, now: float
    ) -> list[AdapterOutput]:
        """The executor's terminal word on a session; nothing else completes one."""
        self._clear_start(event.session_id, "clear_closed", now)
        return self._feed((event,), now)

    def on_session_invalidated(self, session_id: int, now: float) -> list[AdapterOutput]:
        """The session ended with its link: no failure of its own, the next join decides anew."""
        self._clear_start(session_id, "clear_closed", now)
        event = t.SessionInvalidated(replica_id=self.replica_id, session_id=session_id)
        return self._feed((event,), now)

    def on_fence_complete(self, session_id: int, now: float) -> list[AdapterOutput]:
        """The peer answered a fence. Of any but the fence in flight the answer is dropped."""
        fence = self._fence
        if fence is None or not fence.in_flight or fence.session_id != session_id:
            self.trace.append("fence_callback_dropped")
            return self._take()
        self._fence = None
        event = t.FenceCompleted(
            replica_id=self.replica_id,
            epoch=fence.epoch,
            endpoint_version=fence.endpoint_version,
        )
        return self._feed((event,), now)

    def on_fence_failed(self, session_id: int, text: str, now: float) -> list[AdapterOutput]:
        """The fence came back refused or broken; tried again while the line stands."""
        fence = self._fence
        if fence is None or not fence.in_flight or fence.session_id != session_id:
            self.trace.append("fence_callback_dropped")
            return self._take()
        self._fail_fence(fence, text, now)
        return self._take()

    def on_dispatch_failed(self, session_id: int, text: str, now: float) -> list[AdapterOutput]:
        """A command could not even be sent. A fence's failure reaches the engine before its slot is free."""
        fence = self._fence
        if fence is not None and fence.session_id == session_id:
            return self.on_fence_failed(session_id, text, now)
        event = t.SessionClosedFailed(
            replica_id=self.replica_id,
            session_id=session_id,
            kind=FailureKind.TRANSPORT,
            text=text,
        )
        return self.on_session_close(event, now)

    def on_pending(self, frozen_lsn: Lsn, now: float) -> list[AdapterOutput]:
        event = t.PeerPending(replica_id=self.replica_id, frozen_lsn=frozen_lsn)
        return self._feed((event,), now)

    def on_grow_asked(self, basis_endpoint_version: int, now: float) -> list[AdapterOutput]:
        event = t.GrowAsked(
            replica_id=self.replica_id, basis_endpoint_version=basis_endpoint_version
        )
        return self._feed((event,), now)

    def on_grow_refused(self, basis_endpoint_version: int, now: float) -> list[AdapterOutput]:
        event = t.GrowRefused(
            replica_id=self.replica_id, basis_endpoint_version=basis_endpoint_version
        )
        return self._feed((event,), now)

    # ---------------------------------------------------------------- time

    def wake_at(self) -> float | None:
        """When ``tick`` has something to do."""
        times = []
        if self._start is not None:
            times.append(self._start[1])
        if self._fence is not None:
            fence = self._fence
            times.append(fence.deadline if fence.in_flight else fence.retry_at)
        return min(times, default=None)

    def tick(self, now: float) -> list[AdapterOutput]:
        """Let the deadlines that have come take effect; at the deadline exactly, not before."""
        if self._start is not None and now >= self._start[1]:
            self._fire_start(self._start[0], now)
        fence = self._fence
        if fence is not None and fence.in_flight and now >= fence.deadline:
            self._time_fence_out(fence, now)
        fence = self._fence
        if fence is not None and not fence.in_flight and now >= fence.retry_at:
            self._retry_fence(fence, now)
        return self._take()

    # ---------------------------------------------------------------- inside

    def _feed(self, events: tuple[EngineEvent, ...], now: float) -> list[AdapterOutput]:
        for event in events:
            self._apply(event, now)
        return self._take()

    def _apply(self, event: EngineEvent, now: float) -> None:
        step = apply(self.state, event)
        self.state = step.state
        self.trace.extend(step.trace)
        for command in step.commands:
            self._dispatch(command, now)

    def _dispatch(self, command: EngineCommand, now: float) -> None:
        match command:
            case t.StartCatchUp() | t.StartRebuild():
                self._dispatch_start(command, now)
            case t.FenceAtEpoch():
                self._dispatch_fence(command, now)
            case t.ProbeReplica() | t.JoinReplica():
                self._send(command, self._sessions.next())
            case t.InvalidateSession():
                self._clear_start(command.session_id, "supersede", now)
                self._send(command, command.session_id)
            case _:
                self._send(command, 0)

    def _dispatch_start(self, command: t.StartCatchUp | t.StartRebuild, now: float) -> None:
        """Give the session its id in the same step that produced the command."""
        session_id = self._sessions.next()
        catch_up = isinstance(command, t.StartCatchUp)
        if self._start is not None:
            self._note("supersede", self._start[0], now)
        self._start = (session_id, now + START_DEADLINE_S)
        self._note("arm", session_id, now)
        self._send(command, session_id)
        self._apply(
            t.SessionPrepared(
                replica_id=self.replica_id,
                session_id=session_id,
                kind=SessionKind.CATCH_UP if catch_up else SessionKind.REBUILD,
                frontier_hint=command.frontier_hint,
            ),
            now,
        )

    def _dispatch_fence(self, command: t.FenceAtEpoch, now: float) -> None:
        """One fence per epoch; a newer epoch does not wait for the old one's answer."""
        if self._fence is not None and self._fence.epoch == command.epoch:
            self.trace.append("fence_in_flight")
            return
        self._send_fence(command, attempt=0, now=now)

    def _send_fence(self, command: t.FenceAtEpoch, *, attempt: int, now: float) -> None:
        session_id = self._sessions.next()
        self._fence = _Fence(
            epoch=command.epoch,
            endpoint_version=command.endpoint_version,
            session_id=session_id,
            attempt=attempt,
            dispatched_at=now,
        )
        self._note("arm", session_id, now)
        self._send(command, session_id)

    def _time_fence_out(self, fence: _Fence, now: float) -> None:
        self._note("fire", fence.session_id, now)
        if fence.attempt == 0:
            self._out.append(
                Report(
                    name=log.FENCE_TIMED_OUT,
                    fields={
                        "volume": self.volume_id,
                        "replica": self.replica_id,
                        "epoch": fence.epoch,
                        "endpoint_version": fence.endpoint_version,
                        "deadline": fence.deadline,
                        "fired_at": now,
                    },
                )
            )
        self._fail_fence(fence, "fence_timeout", now)

    def _fail_fence(self, fence: _Fence, text: str, now: float) -> None:
        fence.in_flight = False
        self._apply(
            t.FenceFailed(
                replica_id=self.replica_id,
                epoch=fence.epoch,
                endpoint_version=fence.endpoint_version,
                text=text,
            ),
            now,
        )

    def _retry_fence(self, fence: _Fence, now: float) -> None:
        state = self.state
        if (
            state.epoch != fence.epoch
            or not state.member_present
            or state.fenced_epoch >= fence.epoch
        ):
            self._fence = None
            return
        command = t.FenceAtEpoch(
            replica_id=self.replica_id,
            epoch=state.epoch,
            endpoint_version=state.endpoint_version,
        )
        self._send_fence(command, attempt=fence.attempt + 1, now=now)

    def _fire_start(self, session_id: int, now: float) -> None:
        self._start = None
        waiting = self.state.session_id == session_id and self.state.phase is SessionPhase.STARTING
        self._note("fire" if waiting else "fire_noop", session_id, now)
        if waiting:
            self._apply(
                t.SessionClosedFailed(
                    replica_id=self.replica_id,
                    session_id=session_id,
                    kind=FailureKind.START_TIMEOUT,
                    text="no word from the executor",
                ),
                now,
            )

    def _clear_start(self, session_id: int, kind: str, now: float) -> None:
        if self._start is not None and self._start[0] == session_id:
            self._start = None
            self._note(kind, session_id, now)

    def _supersede(self, now: float) -> None:
        """A new epoch, or none at all: what was armed for the old one can do nothing any more."""
        if self._fence is not None and (
            self._fence.epoch != self.state.epoch or not self.state.member_present
        ):
            self._note("supersede", self._fence.session_id, now)
            self._fence = None

    def _send(self, command: EngineCommand, session_id: int) -> None:
        dispatch = Dispatch(command=command, session_id=session_id)
        self.commands.append(dispatch)
        self._out.append(dispatch)

    def _note(self, kind: str, session_id: int, now: float) -> None:
        self.watchdog.append(WatchdogEntry(kind=kind, session_id=session_id, at=now))

    def _take(self) -> list[AdapterOutput]:
        out, self._out = self._out, []
        return out

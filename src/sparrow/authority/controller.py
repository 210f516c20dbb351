"""Decides, volume by volume, what to ask of the publisher, and watches whether it comes true.

Nothing here is durable and nothing is minted: after a restart everything is worked out again from what nodes report.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace

from sparrow.authority.balance import SKEW, Balancer, chance
from sparrow.authority.builder import Outcome, Pending, Supported, Unsupported, VolumeSnapshot
from sparrow.authority.convergence import (
    Desired,
    Stuck,
    after_failure,
    confirmed,
    stuck_evidence,
    superseded,
)
from sparrow.authority.decide import (
    FAILOVER,
    HAND_OVER,
    REBALANCE,
    Circumstances,
    Decision,
    decide,
    decide_retirement,
)
from sparrow.authority.results import AskResult, Minted, PutFailed, RefusedAsk, Unchanged
from sparrow.authority.storm import StormLimiter
from sparrow.authority.types import Ask, DesiredVolume, Intent, Line
from sparrow.base.constants import RETRY_WINDOW_S
from sparrow.base.ids import NodeId, VolumeId

#: A wish for a hand-over that nobody could follow is forgotten after this.
HAND_OVER_WISH_S = 5.0
#: A refused ask is worked out anew no sooner than this.
REFUSED_PAUSE_S = 0.5


@dataclass(slots=True)
class _Volume:
    desired: Desired | None = None
    unsupported: Unsupported | None = None
    stuck: Stuck | None = None
    decision: Decision | None = None
    hand_over_until: float = 0.0
    handed_over_at: float | None = None
    failed_over_at: float | None = None
    not_before: float = 0.0
    wake_at: float | None = None
    #: Nodes whose load an ask on its way will change: from, to.
    projected: tuple[NodeId | None, NodeId] | None = None

    @property
    def settled(self) -> bool:
        """Nothing is on its way and nothing is wrong: only a change needs a new look."""
        return (
            self.desired is None
            and self.unsupported is None
            and self.wake_at is None
            and not (self.decision is not None and self.decision.wanting)
        )


class Controller:
    """One per master.

    Args:
        line_of: the publisher's recorded line of a volume.
        booted_at: the master's clock at start, seconds.
        rebalance_skew: loads that differ by no more are even; 0 moves nothing.
    """

    def __init__(
        self,
        *,
        line_of: Callable[[VolumeId], Line | None],
        booted_at: float,
        rebalance_skew: int = SKEW,
    ) -> None:
        self._line_of = line_of
        #: Since when every node had the time to speak: the start, or when last a node was heard for the first time.
        #: As long as new ones come the rest may follow; a thousand first reports take a master many seconds.
        self.listening_since = booted_at
        self._hold_until = 0.0
        self._volumes: dict[VolumeId, _Volume] = {}
        self.balancer = Balancer(now=booted_at, skew=rebalance_skew)
        self._nominated: set[VolumeId] = set()
        self._storms = StormLimiter()
        self._wakes: list[tuple[float, VolumeId]] = []

    # ---------------------------------------------------------------- inputs

    def on_snapshot(self, volume_id: VolumeId, outcome: Outcome, now: float) -> list[Ask]:
        """Take one volume's newest outcome; returns the asks to apply, none or one."""
        state = self._state(volume_id)
        nominated = volume_id in self._nominated
        self._nominated.discard(volume_id)
        if isinstance(outcome, Supported):
            asks = self._on_supported(state, outcome.snapshot, now, nominated=nominated)
        else:
            self._on_doubt(state, outcome)
            asks = []
        self._schedule(volume_id, state, outcome, now)
        return asks

    def on_deleting(self, desired: DesiredVolume, now: float) -> list[Ask]:
        """Ask for the retirement of a volume that is being deleted; needs no word from any node."""
        state = self._state(desired.volume_id)
        line = self._line_of(desired.volume_id)
        state.unsupported = None
        if state.desired is not None and confirmed(state.desired, line, None):
            _clear(state)
        ask = decide_retirement(desired, line)
        decision = Decision(ask=ask, reason="retirement" if ask else "retired")
        asks = self._pursue(state, decision, None, now)
        self._schedule(desired.volume_id, state, None, now)
        return asks

    def on_result(self, ask: Ask, result: AskResult, now: float) -> None:
        """The publisher's word on an ask of ours or of a node."""
        state = self._state(ask.volume_id)
        mine = state.desired is not None and state.desired.ask == ask
        if mine:
            self._project(state, -1)
        match result:
            case Minted():
                self.balancer.count(result.previous, result.line, now)
                if ask.intent in (Intent.REASSIGN, Intent.RECOVER_STALE):
                    _note_move(state, ask, now)
                if mine and state.desired is not None:
                    state.desired = replace(state.desired, retry_at=None)
            case Unchanged():
                if mine:
                    _clear(state)
            case RefusedAsk():
                if mine:
                    _clear(state)
                    state.not_before = now + REFUSED_PAUSE_S
            case PutFailed():
                if mine and state.desired is not None:
                    state.desired = after_failure(state.desired, now)
        self._schedule(ask.volume_id, state, None, now)

    def want_hand_over(self, volume_id: VolumeId, now: float) -> None:
        """Let another replica take over although the primary looks well; until one did, or for a while."""
        self._state(volume_id).hand_over_until = now + HAND_OVER_WISH_S

    def take_over(self, lines: dict[VolumeId, Line]) -> None:
        """Count the primaries of the lines a store was loaded with."""
        for line in lines.values():
            self.balancer.count(None, line)

    def hold_expiry(self, until: float) -> None:
        """Let no primary be lost by expiry before ``until``: the master itself stood still."""
        self._hold_until = max(self._hold_until, until)
        self.balancer.rest(until)

    def rebalance(self, now: float, up: Callable[[NodeId], bool]) -> list[VolumeId]:
        """Volumes to decide on now because their primaries' nodes lead too many; none of them has an ask on its way."""
        turn = self.balancer.round(
            now, line_of=self._line_of, up=up, on_its_way=self._asks_something
        )
        chosen = [volume_id for volume_id in turn if not self._asks_something(volume_id)]
        self._nominated.update(chosen)
        return chosen

    def forget(self, volume_id: VolumeId) -> None:
        """A volume is gone for good."""
        self._volumes.pop(volume_id, None)

    # ---------------------------------------------------------------- outputs

    def wake_at(self) -> float | None:
        """When time alone may change something about a volume."""
        while self._wakes:
            at, volume_id = self._wakes[0]
            state = self._volumes.get(volume_id)
            if state is not None and state.wake_at == at:
                return at
            heapq.heappop(self._wakes)
        return None

    def due(self, now: float) -> list[VolumeId]:
        """Volumes to look at again now; each is given once."""
        found: list[VolumeId] = []
        while (at := self.wake_at()) is not None and at <= now:
            _, volume_id = heapq.heappop(self._wakes)
            self._volumes[volume_id].wake_at = None
            found.append(volume_id)
        return found

    def settled(self, volume_id: VolumeId) -> bool:
        """Whether only a change of facts, not of positions, can matter to the volume; also before the first look."""
        state = self._volumes.get(volume_id)
        return state is None or state.settled

    def unseen(self, volume_id: VolumeId) -> bool:
        """Whether the volume was never looked at."""
        return volume_id not in self._volumes

    def load(self, node_id: NodeId) -> int:
        """Primaries on a node, by the recorded lines and what is on its way."""
        return self.balancer.load(node_id)

    def desired_for(self, volume_id: VolumeId) -> Desired | None:
        state = self._volumes.get(volume_id)
        return None if state is None else state.desired

    def last_unsupported(self, volume_id: VolumeId) -> Unsupported | None:
        state = self._volumes.get(volume_id)
        return None if state is None else state.unsupported

    def last_stuck(self, volume_id: VolumeId) -> Stuck | None:
        state = self._volumes.get(volume_id)
        return None if state is None else state.stuck

    def why(self, volume_id: VolumeId) -> Decision | None:
        """The last decision with every candidate and what spoke against it."""
        state = self._volumes.get(volume_id)
        return None if state is None else state.decision

    def balance(self, snapshot: VolumeSnapshot) -> str:
        """Whether the volume would be moved for balance now, and what speaks against it, for a person."""
        line, now = snapshot.live_line, snapshot.built_at
        if line is None:
            return ""
        found = chance(
            line,
            snapshot,
            load=self.load,
            refuses=lambda node_id: self.balancer.refuses(node_id, now),
            skew=self.balancer.skew,
        )
        rests = self.balancer.rests(snapshot.volume_id, now) if found.target is not None else ""
        return f"{found.text}, but {rests}" if rests else found.text

    # ---------------------------------------------------------------- inside

    def _asks_something(self, volume_id: VolumeId) -> bool:
        state = self._volumes.get(volume_id)
        return state is not None and state.desired is not None

    def _state(self, volume_id: VolumeId) -> _Volume:
        return self._volumes.setdefault(volume_id, _Volume())

    def _on_doubt(self, state: _Volume, outcome: Pending | Unsupported) -> None:
        _clear(state)
        state.decision = Decision(ask=None, reason=outcome.note)
        state.unsupported = outcome if isinstance(outcome, Unsupported) else None

    def _on_supported(
        self, state: _Volume, snapshot: VolumeSnapshot, now: float, *, nominated: bool
    ) -> list[Ask]:
        state.unsupported = None
        line = self._line_of(snapshot.volume_id)
        if state.desired is not None and (
            confirmed(state.desired, line, snapshot) or superseded(state.desired, line)
        ):
            _clear(state)
        self._note_stuck(state, snapshot.volume_id, now)
        if line != snapshot.line:
            # Built on another line than the recorded one: decide on the next snapshot.
            return []
        around = Circumstances(
            booted_at=self.listening_since,
            hold_until=self._hold_until,
            load=self.load,
            hand_over_wanted=now < state.hand_over_until,
            handed_over_at=state.handed_over_at,
            failed_over_at=state.failed_over_at,
            wait_until=lambda node_id: self._storms.wait_until(node_id, now),
            nominated=nominated and state.desired is None,
            refuses=lambda node_id: self.balancer.refuses(node_id, now),
            skew=self.balancer.skew,
        )
        decision = decide(snapshot, around)
        asks = self._pursue(state, decision, snapshot, now)
        if asks and line is not None and decision.reason == FAILOVER:
            self._storms.count(line.primary_member.node_id, now)
            self.balancer.rest(now)
        if asks and decision.reason == REBALANCE and state.projected is not None:
            leaves, joins = state.projected
            assert leaves is not None, "a volume that is moved has a primary"
            self.balancer.moves(snapshot.volume_id, leaves, joins)
        return asks

    def _note_stuck(self, state: _Volume, volume_id: VolumeId, now: float) -> None:
        if state.desired is None:
            return
        state.desired = replace(state.desired, last_evaluated_at=now)
        evidence = stuck_evidence(state.desired, volume_id, now)
        if evidence is not None:
            state.stuck = evidence
            state.desired = replace(state.desired, stuck=True)

    def _pursue(
        self, state: _Volume, decision: Decision, snapshot: VolumeSnapshot | None, now: float
    ) -> list[Ask]:
        """Emit a decision's ask unless it is on its way already."""
        state.decision = decision
        desired, ask = state.desired, decision.ask
        if ask is None:
            # A minted ask stays desired until it is seen; one the store refused is no longer wanted.
            if desired is not None and desired.retry_at is not None:
                _clear(state)
            return []
        if now < state.not_before:
            return []
        if desired is not None and desired.ask == ask:
            if desired.retry_at is None or now < desired.retry_at:
                return []
            state.desired = replace(desired, retry_at=None)
        else:
            _clear(state)
            state.desired = Desired(ask=ask, desired_at=now, last_evaluated_at=now)
        if snapshot is not None:
            state.projected = _projection(ask, snapshot)
            self._project(state, +1)
        return [ask]

    def _project(self, state: _Volume, sign: int) -> None:
        """Count an ask on its way as if it were minted, or stop doing so."""
        if state.projected is None:
            return
        self.balancer.project(*state.projected, sign)
        if sign < 0:
            state.projected = None

    def _schedule(
        self, volume_id: VolumeId, state: _Volume, outcome: Outcome | None, now: float
    ) -> None:
        times = []
        if isinstance(outcome, Pending):
            times.append(outcome.until)
        if state.decision is not None and state.decision.look_again_at is not None:
            times.append(state.decision.look_again_at)
        desired = state.desired
        if desired is not None and desired.retry_at is not None:
            times.append(desired.retry_at)
        if desired is not None and not desired.stuck:
            times.append(desired.desired_at + RETRY_WINDOW_S)
        times.append(state.not_before)
        wake_at = min((at for at in times if at > now), default=None)
        if wake_at is not None and wake_at != state.wake_at:
            heapq.heappush(self._wakes, (wake_at, volume_id))
        state.wake_at = wake_at


def _projection(ask: Ask, snapshot: VolumeSnapshot) -> tuple[NodeId | None, NodeId] | None:
    if ask.intent not in (Intent.BIND, Intent.REASSIGN):
        return None
    target = snapshot.slot(ask.replica_id)
    assert target is not None, "the controller asks for slots it saw"
    line = snapshot.live_line
    return (None if line is None else line.primary_member.node_id, target.node_id)


def _note_move(state: _Volume, ask: Ask, now: float) -> None:
    """Another primary was minted."""
    state.hand_over_until = 0.0
    if ask.reason.startswith((HAND_OVER, REBALANCE)):
        state.handed_over_at = now
    elif ask.reason.startswith(FAILOVER):
        state.failed_over_at = now


def _clear(state: _Volume) -> None:
    state.desired = None
    state.stuck = None

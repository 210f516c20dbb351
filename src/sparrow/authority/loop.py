"""The authority side of a master as one machine: news in, effects out, time passed in.

The master and the simulator drive the same loop. A step takes one event, looks again at the volumes it may concern,
mints what they need in one durable write, and says whom to tell. Work is proportional to what changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from typing import Final, assert_never

from sparrow.authority.asks import PLAN_INTENTS, foreign, with_joining_files
from sparrow.authority.attention import Attention
from sparrow.authority.balance import SKEW
from sparrow.authority.builder import (
    GRACE_S,
    Outcome,
    Reason,
    Supported,
    Unsupported,
    VolumeSnapshot,
    build,
    snapshot_of,
)
from sparrow.authority.controller import Controller
from sparrow.authority.decide import Considered, Decision, candidates
from sparrow.authority.delivery import Delivery
from sparrow.authority.desired import DesiredVolumes
from sparrow.authority.effects import (
    AskAnswer,
    LogEvent,
    LoopEffect,
    PhaseChanged,
    VolumeGone,
    WakeAt,
)
from sparrow.authority.events import (
    HeartbeatReceived,
    LineRecovered,
    LoopEvent,
    NodeAsk,
    NodesPassedOver,
    NodesWrittenOff,
    PlannedAsk,
    StreamClosed,
    StreamOpened,
    Tick,
    TopologyChanged,
)
from sparrow.authority.evidence import can_take_over
from sparrow.authority.observation import Heard, ObservationStore
from sparrow.authority.ordered import OrderedNames, walk
from sparrow.authority.planned import Planned
from sparrow.authority.publisher import LineStore, Publisher
from sparrow.authority.quiet import steady
from sparrow.authority.results import Minted, Refusal, RefusedAsk
from sparrow.authority.status import NodeStatus, VolumeStatus, judge, serving
from sparrow.authority.telling import doubt_told, result_told, stuck_told
from sparrow.authority.types import Ask, DesiredVolume, Intent, Line, LoadedLines, VolumePhase
from sparrow.authority.unrecorded import Unrecorded
from sparrow.base import events as log
from sparrow.base.constants import FRESHNESS_S, HEARTBEAT_S
from sparrow.base.ids import NodeId, ReplicaId, VolumeId

#: A wake-up this late means that the master stood still, and with it the receipt of heartbeats.
STALL_S: Final = 0.5
#: After a stall expiry counts again once every node had time for several heartbeats.
AFTER_STALL_S: Final = 3 * HEARTBEAT_S
#: Rounds of one step: decide, mint, look once more. What is left waits for the next tick.
ROUNDS_MAX: Final = 4
#: Volumes looked at in one step. A step that took longer would hold up the heartbeats behind it, until nodes expire
#: because nobody listened to them. More than that is left to ticks alone, between which the events that wait are taken:
#: a heartbeat that had to look at so many first would be slower than heartbeats come, and the master never catch up.
STEP_VOLUMES_MAX: Final = 256


class AuthorityLoop:
    """Publisher, observation, controller, delivery and attention, composed.

    Args:
        store: of the lines; every other use of its ``put_lines`` is a mistake.
        master_generation: raised durably for this boot.
        now: the master's clock at start, seconds; every later time comes from the same clock.
        rebalance_skew: how many more volumes one node may lead than another; 0: any number.

    Nothing is decided before ``start``.
    """

    def __init__(
        self, store: LineStore, *, master_generation: int, now: float, rebalance_skew: int = SKEW
    ) -> None:
        self.publisher = Publisher(
            store, master_generation, can_hand_over=self._another_can_take_over
        )
        self.observations = ObservationStore()
        self.controller = Controller(
            line_of=self.publisher.line, booted_at=now, rebalance_skew=rebalance_skew
        )
        self._desired = DesiredVolumes()
        self._topology = self._desired.by_id
        self._written_off: frozenset[NodeId] = frozenset()
        self._delivery = Delivery(
            publisher=self.publisher, observations=self.observations, topology=self._topology
        )
        self._booted_at = now
        self._now = now
        self._wake_at: float | None = None
        #: The master stood still: before this nobody is lost by expiry, and what waits to be heard comes first.
        self._expiry_held_until = -math.inf
        self._listens = False
        self.attention = Attention(
            publisher=self.publisher,
            observations=self.observations,
            controller=self.controller,
            delivery=self._delivery,
            topology=self._topology,
        )
        self._unrecorded = Unrecorded(
            publisher=self.publisher, observations=self.observations, topology=self._topology
        )
        self._out: list[LoopEffect] = []

    # ---------------------------------------------------------------- driving

    def start(self, desired: tuple[DesiredVolume, ...], now: float) -> list[LoopEffect]:
        """Load the lines and take the desired volumes over; once, before the first step.

        Raises:
            StorageError: the store as a whole cannot be read; do not serve.
        """
        loaded: LoadedLines = self.publisher.load()
        self.controller.take_over(dict(self.publisher.lines))
        self._log(log.RECORDS_RELOADED, count=len(loaded.lines), skipped=len(loaded.skips))
        for skip in loaded.skips:
            self._log(log.RECORD_QUARANTINED, volume=skip.volume_id, cause=skip.cause)
            if skip.volume_id is not None:
                self.attention.touch(skip.volume_id)
        for volume_id in self.publisher.unconfirmed:
            self.attention.touch(volume_id)
        for line in loaded.lines:
            self._delivery.place(line.volume_id)
        places = {volume.volume_id: volume for volume in desired}
        for line in loaded.lines:
            if steady(line, places.get(line.volume_id)):
                self.attention.put_off(line.volume_id)
            else:
                self.attention.touch(line.volume_id)
        for volume in desired:
            self._note_desired(volume)
            if not steady(self.publisher.line(volume.volume_id), volume):
                self.attention.touch(volume.volume_id)
        effects = self.step(Tick(), now)
        self._listens = False
        return effects

    def step(self, event: LoopEvent, now: float) -> list[LoopEffect]:
        """Take one event at one time. Times never go back.

        Raises:
            InvalidArgument: the event makes no sense by itself; nothing was taken over.
        """
        self._note_time(now)
        if not self._listens:
            # Loading many lines may have taken longer than a fact counts; nobody was listened to meanwhile.
            self._listens = True
            self.controller.listening_since = now
        self._take(event)
        if now >= self._expiry_held_until:
            for node_id in self.observations.expire(now):
                self._log(log.NODE_LOST, node=node_id, after_s=FRESHNESS_S)
                self.attention.node_struck(node_id)
        self.attention.touch_all(self.controller.due(now))
        self.attention.touch_all(self.controller.rebalance(now, self._takes_primaries))
        self.attention.check_unheard(now)
        if isinstance(event, Tick) or len(self.attention) <= STEP_VOLUMES_MAX:
            self._settle()
        self._plan_wake()
        effects, self._out = self._out, []
        return effects

    # ---------------------------------------------------------------- answers

    def volumes(self) -> tuple[VolumeId, ...]:
        """Desired volumes, sorted."""
        return tuple(self._desired.names)

    def volumes_after(self, name: str) -> Iterator[VolumeId]:
        """Desired volumes and those with a line, tombstones included, behind ``name``; they may change meanwhile."""
        return walk(name, self._desired.names, self.publisher.names)

    def placed(self) -> Mapping[NodeId, Set[VolumeId]]:
        """By node what is or was placed there; among that all volumes with a slot or a member there."""
        return self._delivery.placed

    def guarded(self) -> tuple[DesiredVolume, ...]:
        """Desired volumes that have entries in their access list, sorted."""
        return self._desired.guarded()

    def planned(self) -> Planned:
        """What nodes are to hold of all desired volumes. To be read only, and before the next step."""
        return self._desired.planned

    def status(self, volume_id: VolumeId, now: float) -> VolumeStatus | None:
        """How a desired volume, or one with a live line, does; None for any other id."""
        line, desired = self.publisher.line(volume_id), self._topology.get(volume_id)
        if desired is None and (line is None or line.retired):
            return None
        decision = self.controller.why(volume_id)
        return judge(
            self._snapshot(volume_id, now),
            doubt=self._doubt(volume_id),
            explanation="" if decision is None else decision.reason,
        )

    def node_status(self, node_id: NodeId, now: float) -> NodeStatus:
        """How a node does, by its heartbeats."""
        sight = self.observations.sight(node_id, now)
        return NodeStatus(
            node_id=node_id,
            state="ready" if sight.up else "lost",
            incarnation=sight.incarnation,
            heard_at=sight.heard_at,
            stream_open=sight.stream_open,
            replica_count=len(self.observations.volumes_on(node_id)),
            primary_count=self.controller.load(node_id),
        )

    def wants_full(self, node_id: NodeId) -> bool:
        """Whether the answer to the node's heartbeat must ask for a whole one."""
        return self.observations.wants_full(node_id)

    def why(self, volume_id: VolumeId) -> Decision | None:
        """The controller's last decision about a volume, with every candidate weighed."""
        return self.controller.why(volume_id)

    def candidates(self, volume_id: VolumeId, now: float) -> tuple[Considered, ...]:
        """Every replica weighed as primary now, the present one included."""
        return candidates(self._snapshot(volume_id, now))

    def snapshot(self, volume_id: VolumeId, now: float) -> VolumeSnapshot:
        """What is known of a volume, whether or not it may be decided on."""
        return self._snapshot(volume_id, now)

    def balance(self, volume_id: VolumeId, now: float) -> str:
        """Whether a less loaded node would lead the volume, and what speaks against it, for a person."""
        return self.controller.balance(self._snapshot(volume_id, now))

    def desired(self, volume_id: VolumeId) -> DesiredVolume | None:
        return self._topology.get(volume_id)

    def unheard_of(self) -> dict[VolumeId, tuple[Heard, ...]]:
        """Volumes that nodes have files of and nothing recorded says anything of, with what is reported of each."""
        return self._unrecorded.all(self._now)

    @property
    def unheard_names(self) -> OrderedNames:
        """Volumes among which those of ``unheard_of`` are. To be read only."""
        return self._unrecorded.names

    def unheard(self, volume_id: VolumeId) -> tuple[Heard, ...]:
        """What nodes report of a volume of which nothing is recorded; of any other nothing."""
        return self._unrecorded.heard(volume_id, self._now)

    # ---------------------------------------------------------------- events

    def _take(self, event: LoopEvent) -> None:
        match event:
            case HeartbeatReceived():
                self._on_heartbeat(event)
            case StreamOpened():
                self._on_stream_opened(event)
            case StreamClosed():
                self._on_stream_closed(event)
            case TopologyChanged():
                self._on_topology(event)
            case LineRecovered():
                self._on_recovered(event)
            case NodeAsk():
                self._on_node_ask(event)
            case PlannedAsk():
                self._on_planned_ask(event)
            case NodesWrittenOff():
                self._on_nodes_written_off(event)
            case NodesPassedOver():
                self.controller.balancer.pass_over(event.nodes, self._now)
            case Tick():
                pass
            case _:
                assert_never(event)

    def _on_heartbeat(self, event: HeartbeatReceived) -> None:
        observation = event.observation
        done = self.observations.ingest(observation)
        if not done.accepted:
            return
        if done.first:
            self.controller.listening_since = self._now
        news: Set[VolumeId] = done.changed
        if done.revived:
            self._log(log.NODE_SEEN, node=observation.node_id, incarnation=observation.incarnation)
            news = self._delivery.volumes_on(observation.node_id)
        well = self._takes_primaries(observation.node_id)
        self.attention.node_spoke(observation.node_id, news - done.altered, well=well)
        self.attention.touch_all(done.altered)
        for volume_id in done.mentioned:
            if not self.controller.settled(volume_id):
                self.attention.touch(volume_id)

    def _on_stream_opened(self, event: StreamOpened) -> None:
        muted = self.observations.muted(event.node_id)
        if not self.observations.stream_opened(event.node_id, event.incarnation, event.stream_id):
            return
        self._out.extend(self._delivery.open(event.node_id, event.stream_id))
        self.controller.balancer.arrived(event.node_id, self._now)
        if muted:
            self.attention.touch_all(self._delivery.volumes_on(event.node_id))

    def _on_stream_closed(self, event: StreamClosed) -> None:
        if not self.observations.stream_closed(event.node_id, event.stream_id, self._now):
            return
        self._delivery.close(event.node_id, event.stream_id)
        self.attention.node_struck(event.node_id)

    def _on_topology(self, event: TopologyChanged) -> None:
        for volume in event.changed:
            self._note_desired(volume)
            self.attention.touch(volume.volume_id)

    def _note_desired(self, volume: DesiredVolume) -> None:
        self._desired.put(volume, self._now)
        self._delivery.place(volume.volume_id)

    def _on_recovered(self, event: LineRecovered) -> None:
        line = self.publisher.line(event.volume_id)
        if line is not None:
            self.controller.take_over({line.volume_id: line})
        if event.desired is not None:
            self._on_topology(TopologyChanged(changed=(event.desired,)))
        self._delivery.place(event.volume_id)
        self.attention.touch(event.volume_id)

    def _on_node_ask(self, event: NodeAsk) -> None:
        ask, line = event.ask, self.publisher.line(event.ask.volume_id)
        result = foreign(event, line) or self.publisher.apply(
            with_joining_files(ask, line, self.observations)
        )
        if isinstance(result, RefusedAsk) and result.code is Refusal.HAND_OVER_FIRST:
            self.controller.want_hand_over(ask.volume_id, self._now)
        self.controller.on_result(ask, result, self._now)
        self._tell(result_told(result))
        self._out.append(AskAnswer(token=event.token, result=result))
        self.attention.touch(ask.volume_id)

    def _on_planned_ask(self, event: PlannedAsk) -> None:
        ask = event.ask
        assert ask.intent in PLAN_INTENTS, "plans ask for nothing else"
        result = self.publisher.apply(ask)
        self.controller.on_result(ask, result, self._now)
        if isinstance(result, Minted) and ask.intent is Intent.DISCARD_DIVERGENT:
            member = result.line.member(ask.replica_id)
            assert member is not None, "who was set aside is a member"
            self.observations.forget_commits(ask.volume_id, member.uuid)
        self._tell(result_told(result))
        self._out.append(AskAnswer(token=event.token, result=result))
        self.attention.touch(ask.volume_id)

    def _on_nodes_written_off(self, event: NodesWrittenOff) -> None:
        changed = event.nodes ^ self._written_off
        self._written_off = event.nodes
        for node_id in changed:
            self.attention.touch_all(self._delivery.volumes_on(node_id))

    # ---------------------------------------------------------------- deciding

    def _settle(self) -> None:
        """Look at every touched volume, mint together, and once more at those that changed."""
        told: dict[VolumeId, None] = {}
        left = STEP_VOLUMES_MAX
        for _ in range(ROUNDS_MAX):
            dirty = self.attention.take(left)
            if not dirty:
                break
            left -= len(dirty)
            told.update(dict.fromkeys(dirty))
            asks = [ask for volume_id in dirty for ask in self._evaluate(volume_id)]
            for ask, result in zip(asks, self.publisher.apply_all(asks), strict=True):
                self.controller.on_result(ask, result, self._now)
                self._tell(result_told(result))
                if isinstance(result, Minted):
                    self.attention.touch(ask.volume_id)
        for volume_id in told:
            self._conclude(volume_id)

    def _evaluate(self, volume_id: VolumeId) -> list[Ask]:
        line, desired = self.publisher.line(volume_id), self._topology.get(volume_id)
        if self.publisher.quarantined(volume_id):
            outcome: Outcome = self._quarantined(volume_id)
        elif desired is not None and desired.phase is VolumePhase.DELETING:
            return self.controller.on_deleting(desired, self._now)
        elif desired is None and (line is None or line.retired):
            if line is not None or not self.observations.hosts(volume_id):
                self.controller.forget(volume_id)
                return []
            self._unrecorded.note(volume_id)
            outcome = self._build(volume_id)
        else:
            outcome = self._build(volume_id)
        before_unsupported = self.controller.last_unsupported(volume_id)
        before_stuck = self.controller.last_stuck(volume_id)
        asks = self.controller.on_snapshot(volume_id, outcome, self._now)
        self._tell(
            doubt_told(volume_id, before_unsupported, self.controller.last_unsupported(volume_id))
        )
        self._tell(stuck_told(volume_id, before_stuck, self.controller.last_stuck(volume_id)))
        return asks

    def _conclude(self, volume_id: VolumeId) -> None:
        """After deciding: move the phase on, tell the nodes, end what is over."""
        line, desired = self.publisher.line(volume_id), self._topology.get(volume_id)
        self._delivery.place(volume_id)
        if desired is not None and self._first_served(desired, line):
            self._desired.served(volume_id)
            self._out.append(PhaseChanged(volume_id=volume_id, phase=VolumePhase.ACTIVE))
        self._out.extend(self._delivery.news(volume_id))
        if desired is not None and line is not None and self._all_removed(desired, line):
            self._desired.remove(volume_id)
            self.observations.forget_volume(volume_id)
            self.controller.forget(volume_id)
            self._delivery.forget(volume_id)
            self._out.append(VolumeGone(volume_id=volume_id))

    def _first_served(self, desired: DesiredVolume, line: Line | None) -> bool:
        """Whether a volume being created is served for the first time."""
        if desired.phase is not VolumePhase.CREATING or line is None or line.retired:
            return False
        primary = self._snapshot(desired.volume_id, self._now).slot(line.primary)
        return primary is not None and serving(line, primary)

    def _all_removed(self, desired: DesiredVolume, line: Line) -> bool:
        """Whether every node that had a replica of a retired volume says, freshly, that it has none."""
        if desired.phase is not VolumePhase.DELETING or not line.retired:
            return False
        nodes = {slot.node_id for slot in desired.slots}
        nodes |= {slot.node_id for slot in desired.leaving}
        nodes |= {member.node_id for member in line.members}
        return not self.observations.hosts(desired.volume_id) - self._written_off and all(
            self.observations.sight(node_id, self._now).fresh
            for node_id in nodes - self._written_off
        )

    def _build(self, volume_id: VolumeId) -> Outcome:
        since = self._desired.since(volume_id)
        return build(
            volume_id,
            desired=self._topology.get(volume_id),
            line=self.publisher.line(volume_id),
            observations=self.observations,
            grace_until=(self._booted_at if since is None else since) + GRACE_S,
            now=self._now,
        )

    def _snapshot(self, volume_id: VolumeId, now: float) -> VolumeSnapshot:
        return snapshot_of(
            volume_id,
            desired=self._topology.get(volume_id),
            line=self.publisher.line(volume_id),
            observations=self.observations,
            now=now,
        )

    def _quarantined(self, volume_id: VolumeId) -> Unsupported:
        causes = [skip.cause for skip in self.publisher.skips if skip.volume_id == volume_id]
        mark = self.publisher.unconfirmed.get(volume_id)
        if mark is not None and not causes:
            causes = [f"{mark.kind.value}: {mark.cause}"]
        return Unsupported(
            volume_id=volume_id,
            evaluated_at=self._now,
            reasons=(Reason.RECORD_QUARANTINED,),
            offenders=(),
            note=f"the volume's record is not believed: {'; '.join(causes)}",
        )

    def _another_can_take_over(self, line: Line, _leaving: ReplicaId) -> bool:
        """Whether it is the primary that is cut off: shrinking the others out would stop writes for nothing."""
        outcome = self._build(line.volume_id)
        return isinstance(outcome, Supported) and can_take_over(line, outcome.snapshot)

    # ---------------------------------------------------------------- small things

    def _note_time(self, now: float) -> None:
        assert now >= self._now, "time does not go back"
        if self._wake_at is not None and now > self._wake_at + STALL_S:
            self._expiry_held_until = now + AFTER_STALL_S
            self.controller.hold_expiry(self._expiry_held_until)
        self._now = now

    def _takes_primaries(self, node_id: NodeId) -> bool:
        sight = self.observations.sight(node_id, self._now)
        return sight.up and sight.reachable and sight.eligible

    def _plan_wake(self) -> None:
        expiry = self.observations.next_expiry()
        wakes = (
            self.controller.wake_at(),
            None if expiry is None else max(expiry, self._expiry_held_until),
            self.controller.balancer.wake_at,
        )
        times = [at for at in wakes if at]
        looked_at = self.attention.wake_at(self._now)
        if looked_at is not None:
            times.append(looked_at)
        self._wake_at = min(times, default=None)
        if self._wake_at is not None:
            self._out.append(WakeAt(at=self._wake_at))

    def _doubt(self, volume_id: VolumeId) -> str:
        unsupported = self.controller.last_unsupported(volume_id)
        if unsupported is not None:
            return f"{', '.join(unsupported.reasons)}: {unsupported.note}"
        stuck = self.controller.last_stuck(volume_id)
        if stuck is not None:
            return f"{stuck.reason}: {stuck.ask.reason} was asked for and is not seen"
        return ""

    def _log(self, name: str, **fields: object) -> None:
        self._tell(LogEvent(name=name, fields=fields))

    def _tell(self, event: LogEvent | None) -> None:
        if event is not None:
            self._out.append(event)

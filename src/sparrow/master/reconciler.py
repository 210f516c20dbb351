"""Carries out plans: what nodes give up is replaced elsewhere, step by step, as long as it takes.

It remembers nothing that matters: every step is found from the store and from what nodes report
(``lifecycle.plans.replacement``), so a master that is killed anywhere goes on where things stand. It runs after every
step of the authority loop, over the volumes that have something to give up, or too few replicas, and no others.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from structlog.typing import FilteringBoundLogger

from sparrow.authority.events import NodesPassedOver, NodesWrittenOff, TopologyChanged
from sparrow.authority.results import PutFailed, RefusedAsk
from sparrow.authority.types import DesiredVolume, PlacedSlot
from sparrow.base import events
from sparrow.base.errors import FailedPrecondition, SparrowError
from sparrow.base.ids import NodeId, ReplicaId, VolumeId
from sparrow.lifecycle.nodes import NodeState
from sparrow.lifecycle.placement import NodeRoom, Placement, place
from sparrow.lifecycle.plans.places import missing, under_way, unjoined
from sparrow.lifecycle.plans.replacement import next_step, wants_work
from sparrow.lifecycle.plans.steps import (
    TOO_FEW,
    TURN,
    Choice,
    NotNow,
    Record,
    Stage,
    Step,
    Submit,
    View,
    Wait,
    why_failed,
)
from sparrow.lifecycle.plans.strays import with_strays
from sparrow.master.driver import Driver
from sparrow.master.inventory import Inventory
from sparrow.master.node_states import NodeStates
from sparrow.master.views import node_rooms
from sparrow.ports.store import AuthorityStore
from sparrow.rpc.messages import ReplacementView

#: Between two passes, so that a burst of heartbeats costs one.
PASS_GAP_S: Final = 0.02
#: What the store or the publisher refused is tried again after this, doubling.
RETRY_FIRST_S: Final = 0.5
RETRY_LAST_S: Final = 30.0
#: Replicas that are rebuilt at one time: each reads and writes a whole volume.
AT_ONCE: Final = 8
#: Placements that may fail within ``RETRY_FIRST_S``: each costs a look at every node, and heartbeats wait meanwhile.
FAILED_MAX: Final = 8
#: Steps of one volume in one pass; what is left follows in the next.
STEPS_MAX: Final = 4
#: For so long after a start, a recovery or an end nodes may come with replicas that nothing recorded accounts for.
STRAYS_S: Final = 60.0
#: Volumes looked at for that in one pass; nearly always it ends at a comparison of two small sets.
STRAYS_AT_ONCE: Final = 512


class Reconciler:
    """One per master; ``run`` is its task."""

    def __init__(
        self,
        driver: Driver,
        inventory: Inventory,
        store: AuthorityStore,
        states: NodeStates,
        *,
        log: FilteringBoundLogger,
    ) -> None:
        self._driver = driver
        self._inventory = inventory
        self._store = store
        self._states = states
        self._log = log
        #: Volumes with something to give up, and what each did or waits for; None for one at rest.
        self._steps: dict[VolumeId, Step | None] = {}
        #: Refusals in a row, and when to try again.
        self._refused: dict[VolumeId, tuple[int, float]] = {}
        self._returned: frozenset[NodeId] = frozenset()
        #: The process of each node that was looked at for strays.
        self._looked_at: dict[NodeId, int | None] = {}
        self._moving = 0
        #: Room on nodes, asked for by the first placement of a pass.
        self._rooms: tuple[NodeRoom, ...] | None = None
        #: Placements that failed since when; and the volume of the last one, after which the next pass begins.
        self._failed, self._failed_since = 0, 0.0
        self._failed_last = VolumeId("")
        #: No node was found for something of the volume that is being worked on.
        self._no_place = False
        #: Volumes looked at for strays, and until when.
        self._recovered: deque[tuple[VolumeId, float]] = deque()

    def recovered(self, volume_id: VolumeId) -> None:
        """A volume goes on with a line that nodes proved: what else they have of it is to be found."""
        self._watch_for_strays(volume_id)
        self._look_at(volume_id)

    def start(self) -> None:
        """Find what was under way; once, after the driver was started."""
        self._driver.feed(NodesPassedOver(nodes=self._states.passed_over))
        self._driver.feed(NodesWrittenOff(nodes=self._states.lost))
        # Whether one was recovered in an earlier process is not known here.
        for volume_id in self._driver.authority.volumes():
            self.recovered(volume_id)

    def set_state(self, node_id: NodeId, state: NodeState) -> None:
        """Record what is wanted of a node and begin. Raises: StorageError: nothing changed."""
        before = self._states.lost
        self._states.put(node_id, state)
        self._log.info(
            events.NODE_STATE_SET,
            node=node_id,
            state=state.value,
            topology_version=self._states.topology_version,
        )
        self._look_around(node_id)
        self._driver.feed(NodesPassedOver(nodes=self._states.passed_over))
        self._driver.feed(NodesWrittenOff(nodes=self._states.lost))
        if before != self._states.lost:
            self._returned = frozenset()
        self._refused.clear()
        self._failed = 0
        self._pass()

    async def run(self) -> None:
        """Work for ever."""
        while True:
            try:
                self._pass()
            except Exception:  # noqa: BLE001 - a bug in one plan must not end everybody's; volumes go on without it
                self._log.exception(events.COMMAND_FAILED, command="reconcile")
            try:
                async with asyncio.timeout(RETRY_FIRST_S if self._refused else None):
                    await self._driver.changed()
            except TimeoutError:
                continue
            await asyncio.sleep(PASS_GAP_S)

    # ---------------------------------------------------------------- answers

    def replacements(
        self, *, volume_id: VolumeId | None = None, node_id: NodeId | None = None
    ) -> tuple[ReplacementView, ...]:
        """What is being given up, of one volume or on one node; what is left for a lost node to do is not."""
        if volume_id is not None:
            volumes = [volume_id]
        elif node_id is not None:
            volumes = sorted(self._driver.authority.placed().get(node_id, ()))
        else:
            volumes = sorted(self._steps)
        found = []
        for one in volumes:
            desired = self._driver.authority.desired(one)
            if desired is not None and one in self._steps:
                found += self._views(desired, self._steps[one])
        return tuple(view for view in found if node_id in (None, view.node_id))

    def _views(self, desired: DesiredVolume, step: Step | None) -> list[ReplacementView]:
        nodes = {slot.replica_id: slot.node_id for slot in desired.slots}
        found = []
        for slot in desired.leaving:
            if step is None or (
                self._states.of(slot.node_id) is NodeState.LOST
                and step.replica_id != slot.replica_id
                and not self._is_member(desired.volume_id, slot.node_id)
            ):
                continue
            active = step.replica_id == slot.replica_id
            found.append(
                ReplacementView(
                    volume=desired.volume_id,
                    replica_id=slot.replica_id,
                    node_id=slot.node_id,
                    successor=slot.successor,
                    successor_node=nodes.get(slot.successor, ""),
                    stage=(step.stage if active else Stage.PLACE).value,
                    text=step.text if active else TURN,
                    cause=slot.cause,
                )
            )
        given_up = self._is_given_up(desired.volume_id)
        for place_ in desired.slots:
            if not given_up(place_):
                continue
            state = self._states.of(place_.node_id)
            cause = f"{place_.node_id} is {state.value}"
            if not state.gives_up_replicas:
                facts = self._driver.authority.observations.slots_on(
                    place_.node_id, desired.volume_id
                )
                cause = why_failed(place_, unreadable=any(fact.unreadable for fact in facts))
            active = step is not None and step.replica_id == place_.replica_id
            found.append(
                ReplacementView(
                    volume=desired.volume_id,
                    replica_id=place_.replica_id,
                    node_id=place_.node_id,
                    successor="",
                    successor_node="",
                    stage=Stage.PLACE.value,
                    text=step.text if active and step is not None else TURN,
                    cause=cause,
                )
            )
        return found + self._views_of_missing(desired, step)

    def _views_of_missing(self, desired: DesiredVolume, step: Step | None) -> list[ReplacementView]:
        """Copies that come although nothing leaves for them."""
        line = self._driver.authority.publisher.line(desired.volume_id)
        brought = {slot.successor for slot in desired.leaving}
        coming: list[PlacedSlot | None] = [
            slot for slot in unjoined(desired, line) if slot.replica_id not in brought
        ]
        coming += [None] * missing(desired, line)
        found = []
        for slot in coming:
            name = ReplicaId("") if slot is None else slot.replica_id
            active = step is not None and step.replica_id == name
            found.append(
                ReplacementView(
                    volume=desired.volume_id,
                    replica_id=ReplicaId(""),
                    node_id=NodeId(""),
                    successor=name,
                    successor_node="" if slot is None else slot.node_id,
                    stage=(step.stage if active and step is not None else Stage.PLACE).value,
                    text=step.text if active and step is not None else TURN,
                    cause=TOO_FEW,
                )
            )
        return found

    def volumes_left(self, node_id: NodeId) -> tuple[VolumeId, ...]:
        """Volumes that have a replica there which counts: placed, a member, or with files still to be deleted."""
        authority = self._driver.authority
        lost = self._states.of(node_id) is NodeState.LOST
        left = []
        for volume_id in sorted(authority.placed().get(node_id, ())):
            desired = authority.desired(volume_id)
            if desired is None:
                continue
            placed = any(slot.node_id == node_id for slot in desired.slots) or (
                not lost and any(slot.node_id == node_id for slot in desired.leaving)
            )
            if placed or self._is_member(volume_id, node_id):
                left.append(volume_id)
        return tuple(left)

    def _is_member(self, volume_id: VolumeId, node_id: NodeId) -> bool:
        line = self._driver.authority.publisher.line(volume_id)
        return (
            line is not None
            and not line.retired
            and any(member.node_id == node_id for member in line.members)
        )

    # ---------------------------------------------------------------- working

    def _look_around(self, node_id: NodeId) -> None:
        """After a node's state changed. Of ``wants_work`` that is only whether its slots are given up."""
        for volume_id in sorted(self._driver.authority.placed().get(node_id, ())):
            self._look_at(volume_id)

    def _look_at(self, volume_id: VolumeId) -> None:
        authority = self._driver.authority
        desired, line = authority.desired(volume_id), authority.publisher.line(volume_id)
        if desired is not None and wants_work(desired, line, self._is_given_up(volume_id)):
            self._steps.setdefault(volume_id, None)

    def _is_given_up(self, volume_id: VolumeId) -> Callable[[PlacedSlot], bool]:
        """Of a slot, as ``View.why_given_up``, without a look at the whole volume."""
        observations, now = self._driver.authority.observations, self._driver.clock.now()

        def given_up(slot: PlacedSlot) -> bool:
            return self._states.of(slot.node_id).gives_up_replicas or (
                observations.sight(slot.node_id, now).fresh
                and any(
                    fact.disk_failed and fact.replica_id == slot.replica_id
                    for fact in observations.slots_on(slot.node_id, volume_id)
                )
            )

        return given_up

    def _pass(self) -> None:
        now = self._driver.clock.now()
        self._rooms = None
        if now >= self._failed_since + RETRY_FIRST_S:
            self._failed, self._failed_since = 0, now
        self._look_for_failed()
        self._look_for_returned(now)
        self._look_at_new_processes(now)
        self._look_for_strays(now)
        self._moving = sum(self._is_moving(volume_id) for volume_id in self._steps)
        names = sorted(self._steps)
        first = bisect_right(names, self._failed_last)
        for volume_id in names[first:] + names[:first]:
            _, not_before = self._refused.get(volume_id, (0, 0.0))
            if now < not_before:
                continue
            try:
                self._work_on(volume_id, now)
            except Exception:  # noqa: BLE001 - a bug in one volume's plan must not end the others'
                self._log.exception(events.COMMAND_FAILED, command="reconcile", volume=volume_id)
                self._pause(volume_id, now)

    def _look_for_failed(self) -> None:
        """A replica whose disk failed is replaced without anybody's word."""
        for volume_id in self._driver.authority.observations.failed_disks() - self._steps.keys():
            self._look_at(volume_id)

    def _look_for_returned(self, now: float) -> None:
        """A lost node that speaks again has files to delete."""
        sight = self._driver.authority.observations.sight
        returned = frozenset(one for one in self._states.lost if sight(one, now).fresh)
        for node_id in sorted(returned - self._returned):
            self._look_around(node_id)
            # What it has may be of a volume that was deleted meanwhile and made anew under the same name.
            for volume_id in sorted(self._driver.authority.observations.volumes_on(node_id)):
                self.recovered(volume_id)
        self._returned = returned

    def _look_at_new_processes(self, now: float) -> None:
        """A node that was away for long may hold files of a volume that was deleted and made anew meanwhile."""
        observations = self._driver.authority.observations
        for node_id in observations.nodes():
            sight = observations.sight(node_id, now)
            if sight.fresh and self._looked_at.get(node_id) != sight.incarnation:
                self._looked_at[node_id] = sight.incarnation
                for volume_id in sorted(observations.volumes_on(node_id)):
                    if self._has_strays(volume_id):
                        self.recovered(volume_id)

    def _watch_for_strays(self, volume_id: VolumeId) -> None:
        self._recovered.append((volume_id, self._driver.clock.now() + STRAYS_S))

    def _look_for_strays(self, now: float) -> None:
        for _ in range(min(STRAYS_AT_ONCE, len(self._recovered))):
            volume_id, until = self._recovered.popleft()
            if self._has_strays(volume_id):
                wider = with_strays(self._driver.authority.snapshot(volume_id, now))
                if wider is not None and self._record(wider):
                    self._steps.setdefault(volume_id, None)
            if now < until:
                self._recovered.append((volume_id, until))

    def _has_strays(self, volume_id: VolumeId) -> bool:
        """Whether a node reports a replica that nothing places there; a look that costs nearly nothing."""
        authority = self._driver.authority
        desired = authority.desired(volume_id)
        if desired is None:
            return False
        expected = {slot.node_id for slot in desired.slots}
        expected |= {slot.node_id for slot in desired.leaving}
        return any(
            node_id not in expected and not self._is_member(volume_id, node_id)
            for node_id in authority.observations.hosts(volume_id)
        )

    def _work_on(self, volume_id: VolumeId, now: float) -> None:
        for _ in range(STEPS_MAX):
            desired = self._driver.authority.desired(volume_id)
            if desired is None:
                self._forget(volume_id)
                return
            line = self._driver.authority.publisher.line(volume_id)
            if not under_way(desired, line) and self._moving >= AT_ONCE:
                # Told of as waiting for its turn; placing it now would only cost.
                self._steps[volume_id] = None
                return
            self._no_place = False
            step = next_step(self._view(volume_id, now))
            before = self._steps.get(volume_id)
            if isinstance(before, Wait) and step == replace(before, text=TURN):
                # What was found when it had its turn still says more.
                step = before
            self._steps[volume_id] = step
            if step is None:
                self._forget(volume_id)
                return
            if before != step:
                self._tell(volume_id, step)
            if isinstance(step, Wait):
                self._refused.pop(volume_id, None)
                if self._no_place:
                    # Whatever it waits for first: every look costs a placement, and nodes do not grow from one
                    # heartbeat to the next.
                    self._refused[volume_id] = (0, now + RETRY_FIRST_S)
                return
            if not self._carry_out(step):
                self._pause(volume_id, now)
                return
            self._refused.pop(volume_id, None)
            self._moving += isinstance(step, Record) and step.stage is Stage.PLACE

    def _pause(self, volume_id: VolumeId, now: float) -> None:
        """Try again after a while, which doubles each time."""
        count, _ = self._refused.get(volume_id, (0, 0.0))
        pause = min(RETRY_FIRST_S * 2**count, RETRY_LAST_S)
        self._refused[volume_id] = (count + 1, now + pause)

    def _forget(self, volume_id: VolumeId) -> None:
        self._steps.pop(volume_id, None)
        self._refused.pop(volume_id, None)

    def _carry_out(self, step: Record | Submit) -> bool:
        if isinstance(step, Submit):
            return not isinstance(self._driver.plan(step.ask), RefusedAsk | PutFailed)
        done = self._record(step.volume)
        if done and step.stage is Stage.DELETE:
            # Its node has no files of it; it may have an order to make some, which came late, and carry that out now.
            self._watch_for_strays(step.volume.volume_id)
        return done

    def _record(self, volume: DesiredVolume) -> bool:
        try:
            self._store.update_volume(volume)
        except SparrowError as error:
            self._log.error(events.STORE_FAILED, volume=volume.volume_id, cause=str(error))
            return False
        self._rooms = None
        self._driver.feed(TopologyChanged(changed=(volume,)))
        return True

    def _tell(self, volume_id: VolumeId, step: Step) -> None:
        self._log.info(
            events.REPLACEMENT_STEPPED,
            volume=volume_id,
            replica=step.replica_id,
            stage=step.stage.value,
            waits=isinstance(step, Wait),
            text=step.text,
        )

    def _is_moving(self, volume_id: VolumeId) -> bool:
        """Whether a replica of it is on its way: placed anew, and not a member yet or the old one still one."""
        authority = self._driver.authority
        desired = authority.desired(volume_id)
        return desired is not None and (
            bool(unjoined(desired, authority.publisher.line(volume_id)))
            or any(self._is_member(volume_id, slot.node_id) for slot in desired.leaving)
        )

    def _view(self, volume_id: VolumeId, now: float) -> View:
        authority = self._driver.authority
        return View(
            snapshot=authority.snapshot(volume_id, now),
            states=self._states,
            sight=lambda node_id: authority.observations.sight(node_id, now),
            choose=self._choose,
        )

    def _choose(self, choice: Choice) -> Placement:
        if self._failed >= FAILED_MAX:
            self._no_place = True
            raise NotNow
        if self._rooms is None:
            self._rooms = node_rooms(self._driver, self._inventory, self._states)
        try:
            return place(
                choice.desired.shape,
                nodes=self._rooms,
                planned=self._driver.authority.planned().without(choice.desired),
                existing=choice.kept,
                refused=choice.refused,
                taken=choice.taken,
            )
        except FailedPrecondition:
            self._no_place = True
            self._failed += 1
            self._failed_last = choice.desired.volume_id
            raise

"""Give up one replica and have another in its place: the next step, found anew each time from what is durable.

    PLACE         choose a node; the new slot and the slot that leaves are recorded together
    FORMAT        the new node makes files and reports their uuid
    MOVE_PRIMARY  a planned hand-over, as soon as enough others are in sync
    ADD           the line's members grow by the new files
    REBUILD       the primary brings them up to date and takes them into in_sync
    TAKE_OUT      in_sync shrinks by the replica that leaves, never below min_in_sync
    DROP          the line's members shrink by it
    DELETE        its node deletes the files; the slot that left is forgotten

Growing always comes before shrinking, so at every moment, and after a crash at every moment, the volume has at least
the copies it had. What has to be asked of the publisher carries the line it was decided on as its basis, so a plan
that looks at old news is refused there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

from sparrow.authority.builder import VolumeSnapshot
from sparrow.authority.evidence import progress, unfit_successor
from sparrow.authority.observation import NodeSight
from sparrow.authority.quorum import commits_on_some
from sparrow.authority.status import serving
from sparrow.authority.types import (
    Ask,
    DesiredVolume,
    Intent,
    LeavingSlot,
    Line,
    Member,
    PlacedSlot,
    ReplicaState,
    SlotFact,
    VolumePhase,
)
from sparrow.base.errors import FailedPrecondition
from sparrow.base.ids import NodeId, ReplicaId
from sparrow.lifecycle.nodes import NodeState
from sparrow.lifecycle.placement import Placement


class Stage(StrEnum):
    """Where a replacement is; see the module's text."""

    PLACE = "place"
    FORMAT = "format"
    MOVE_PRIMARY = "move_primary"
    ADD = "add"
    REBUILD = "rebuild"
    TAKE_OUT = "take_out"
    DROP = "drop"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to ask of placement: slots that stay, nodes that are out, replica ids that are taken."""

    desired: DesiredVolume
    kept: tuple[PlacedSlot, ...]
    refused: Mapping[NodeId, str]
    taken: frozenset[ReplicaId]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One volume and the nodes around it, now.

    ``choose`` raises FailedPrecondition, with the reasons, when no node can take a replica.
    """

    snapshot: VolumeSnapshot
    states: Mapping[NodeId, NodeState]
    sight: Callable[[NodeId], NodeSight]
    choose: Callable[[Choice], Placement]

    def state(self, node_id: NodeId) -> NodeState:
        return self.states.get(node_id, NodeState.ACTIVE)

    def report(self, node_id: NodeId, replica_id: ReplicaId) -> SlotFact | None:
        """What a node says of a replica, member or not."""
        for heard in self.snapshot.orphans:
            if (heard.sight.node_id, heard.fact.replica_id) == (node_id, replica_id):
                return heard.fact
        for slot in self.snapshot.slots:
            if (slot.node_id, slot.replica_id) == (node_id, replica_id):
                return slot.fact or slot.stranger
        return None

    @property
    def serving(self) -> bool:
        line = self.snapshot.live_line
        slot = None if line is None else self.snapshot.slot(line.primary)
        return line is not None and slot is not None and serving(line, slot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Make the desired volume durable as ``volume``."""

    replica_id: ReplicaId
    stage: Stage
    text: str
    volume: DesiredVolume


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Ask the publisher."""

    replica_id: ReplicaId
    stage: Stage
    text: str
    ask: Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing to do until something changes; ``text`` says what is waited for."""

    replica_id: ReplicaId
    stage: Stage
    text: str


Step: TypeAlias = Record | Submit | Wait


def wants_work(desired: DesiredVolume, states: Mapping[NodeId, NodeState]) -> bool:
    """Whether a volume has something to give up."""
    return desired.phase is not VolumePhase.DELETING and (
        bool(desired.leaving)
        or any(
            states.get(slot.node_id, NodeState.ACTIVE).gives_up_replicas for slot in desired.slots
        )
    )


def next_step(view: View) -> Step | None:
    """The one thing to do next for a volume, or what it waits for; None when nothing is given up."""
    desired = view.snapshot.desired
    if desired is None or not wants_work(desired, view.states):
        return None
    line = view.snapshot.live_line
    waiting: Step | None = None
    held = False
    for leaving in desired.leaving:
        if line is not None and _holds(line, leaving):
            held = True
            step: Step | None = _advance(view, desired, line, leaving)
        else:
            step = _forget(view, desired, leaving)
        if isinstance(step, Record | Submit):
            return step
        waiting = waiting or step
    # What is lost is replaced before what is merely to be moved, and while something else leaves as well: that may
    # be waiting for this very copy, because too few are in sync without it.
    giving_up = sorted(
        (
            slot
            for slot in desired.slots
            if view.state(slot.node_id).gives_up_replicas
            and (not held or view.state(slot.node_id) is NodeState.LOST)
        ),
        key=lambda slot: (view.state(slot.node_id) is not NodeState.LOST, slot.replica_id),
    )
    for slot in giving_up:
        step = _place(view, desired, slot)
        if isinstance(step, Record):
            return step
        waiting = waiting or step
    return waiting


def _holds(line: Line, leaving: LeavingSlot) -> bool:
    member = line.member(leaving.replica_id)
    return member is not None and member.node_id == leaving.node_id


def _place(view: View, desired: DesiredVolume, slot: PlacedSlot) -> Step:
    """Choose the successor of a slot; what is recorded says both at once, so neither is ever without the other."""
    line = view.snapshot.live_line
    members = () if line is None else line.members
    kept = tuple(one for one in desired.slots if one != slot)
    staying = {one.node_id for one in kept}
    holding = {
        **{member.node_id: member.replica_id for member in members},
        **{heard.sight.node_id: heard.fact.replica_id for heard in view.snapshot.orphans},
        **{one.node_id: one.replica_id for one in desired.leaving},
        slot.node_id: slot.replica_id,
    }
    choice = Choice(
        desired=desired,
        kept=kept,
        refused={
            node_id: f"still holds {replica_id}, which is not wanted there"
            for node_id, replica_id in holding.items()
            if node_id not in staying
        },
        taken=frozenset(holding.values()),
    )
    try:
        placement = view.choose(choice)
    except FailedPrecondition as error:
        back = _may_stay(view, desired, line)
        if back is None:
            return Wait(replica_id=slot.replica_id, stage=Stage.PLACE, text=error.sentence())
        slots, verdicts = (*kept, back), desired.verdicts
    else:
        slots, verdicts = placement.slots, placement.kept_verdicts
    new = slots[-1]
    lost = view.state(slot.node_id) is NodeState.LOST
    cause = f"{slot.node_id} " + ("was removed as lost" if lost else "is being drained")
    leaving = tuple(
        replace(one, successor=new.replica_id) if one.successor == slot.replica_id else one
        for one in desired.leaving
        if one.replica_id != new.replica_id
    )
    gone = LeavingSlot(
        replica_id=slot.replica_id, node_id=slot.node_id, successor=new.replica_id, cause=cause
    )
    return Record(
        replica_id=slot.replica_id,
        stage=Stage.PLACE,
        text=f"{new.replica_id} on {new.node_id} replaces {slot.replica_id}: {cause}",
        volume=replace(desired, slots=slots, leaving=(*leaving, gone), verdicts=verdicts),
    )


def _may_stay(view: View, desired: DesiredVolume, line: Line | None) -> PlacedSlot | None:
    """A replica on its way out that the line still means, on a node that takes replicas again.

    Taken back when nothing else can be had: its node is full of it, and it may be unable to leave without a successor
    that only its node could host.
    """
    for one in desired.leaving:
        held = line is not None and _holds(line, one)
        if held and view.state(one.node_id).takes_replicas and view.sight(one.node_id).up:
            return PlacedSlot(replica_id=one.replica_id, node_id=one.node_id)
    return None


def _advance(view: View, desired: DesiredVolume, line: Line, leaving: LeavingSlot) -> Step:
    """One step for a replica that leaves and is a member still."""
    slot = next(one for one in desired.slots if one.replica_id == leaving.successor)
    if view.state(slot.node_id).gives_up_replicas:
        return _place(view, desired, slot)
    leads = line.primary == leaving.replica_id
    hand_over = _hand_over(view, line, leaving) if leads else None
    if isinstance(hand_over, Submit):
        return hand_over
    if line.member(slot.replica_id) is None:
        return _add(view, line, leaving, slot)
    if slot.replica_id not in line.in_sync:
        text = _rebuild_text(view, line, slot)
        return Wait(replica_id=leaving.replica_id, stage=Stage.REBUILD, text=text)
    if hand_over is not None:
        return hand_over
    return _take_out(view, line, leaving)


def _hand_over(view: View, line: Line, leaving: LeavingSlot) -> Step:
    """Make another in-sync replica primary, if writes can go on with those that are left."""

    def wait(text: str) -> Wait:
        return Wait(replica_id=leaving.replica_id, stage=Stage.MOVE_PRIMARY, text=text)

    if not view.serving:
        return wait(f"the primary {line.primary} on {leaving.node_id} does not serve")
    left = len(line.in_sync) - (0 if commits_on_some(line) else 1)
    if left < line.min_in_sync:
        return wait(f"without {line.primary} only {left} of {line.min_in_sync} would be in sync")
    fit = [
        slot
        for slot in view.snapshot.slots
        if slot.replica_id in line.in_sync
        and slot.replica_id != line.primary
        and not view.state(slot.node_id).gives_up_replicas
        and unfit_successor(slot, view.snapshot) is None
    ]
    if not fit:
        return wait(f"no replica in sync with {line.primary} may take over")
    best = min(fit, key=lambda slot: (tuple(-part for part in progress(slot)), slot.replica_id))
    return Submit(
        replica_id=leaving.replica_id,
        stage=Stage.MOVE_PRIMARY,
        text=f"{best.replica_id} on {best.node_id} becomes primary",
        ask=_ask(line, Intent.REASSIGN, best.replica_id, f"hand-over: {leaving.cause}"),
    )


def _add(view: View, line: Line, leaving: LeavingSlot, slot: PlacedSlot) -> Step:
    sight, fact = view.sight(slot.node_id), view.report(slot.node_id, slot.replica_id)
    where = f"{slot.replica_id} on {slot.node_id}"
    stage, text = Stage.FORMAT, ""
    if not sight.up:
        text = f"{slot.node_id} is not heard"
    elif fact is None:
        text = f"{slot.node_id} makes the files of {slot.replica_id}"
    elif fact.disk_failed:
        text = f"the disk under {where} failed"
    elif fact.state not in (ReplicaState.CLEAN, ReplicaState.REBUILDING):
        text = f"{where} is {fact.state}"
    elif not view.serving:
        stage, text = Stage.ADD, f"the primary {line.primary} does not serve"
    if text or fact is None:
        return Wait(replica_id=leaving.replica_id, stage=stage, text=text)
    member = Member(
        replica_id=slot.replica_id,
        node_id=slot.node_id,
        uuid=fact.uuid,
        data_addr=fact.data_addr,
        ctrl_addr=fact.ctrl_addr,
    )
    return Submit(
        replica_id=leaving.replica_id,
        stage=Stage.ADD,
        text=f"{where} becomes a member",
        ask=_ask(
            line,
            Intent.SET_MEMBERS,
            slot.replica_id,
            f"{slot.replica_id} is to replace {leaving.replica_id}: {leaving.cause}",
            members=(*line.members, member),
        ),
    )


def _take_out(view: View, line: Line, leaving: LeavingSlot) -> Step:
    """Leave in_sync, then the members; only with as many in sync without it as writes need."""
    replica_id = leaving.replica_id
    if replica_id in line.in_sync:
        left = len(line.in_sync) - 1
        if left < line.min_in_sync or not view.serving:
            text = f"{left} of at least {line.min_in_sync} would be in sync without {replica_id}"
            if left >= line.min_in_sync:
                text = f"the primary {line.primary} does not serve"
            return Wait(replica_id=replica_id, stage=Stage.TAKE_OUT, text=text)
        if commits_on_some(line):
            # The second copy of something may be there; the primary sees to it that it is not, then asks.
            text = f"{line.primary} gives the others everything, then takes {replica_id} out"
            return Wait(replica_id=replica_id, stage=Stage.TAKE_OUT, text=text)
        ask = _ask(
            line,
            Intent.SHRINK_IN_SYNC,
            replica_id,
            f"replaced: {leaving.cause}",
            asker=line.primary,
        )
        text = f"{replica_id} leaves the in-sync set"
        return Submit(replica_id=replica_id, stage=Stage.TAKE_OUT, text=text, ask=ask)
    if replica_id in line.set_aside:
        text = f"{replica_id} is set aside: `sparrow volume discard-divergent` comes first"
        return Wait(replica_id=replica_id, stage=Stage.DROP, text=text)
    if replica_id in line.eligible:
        text = f"{replica_id} may still be needed: too few replicas are in sync"
        return Wait(replica_id=replica_id, stage=Stage.DROP, text=text)
    members = tuple(member for member in line.members if member.replica_id != replica_id)
    ask = _ask(line, Intent.SET_MEMBERS, replica_id, f"replaced: {leaving.cause}", members=members)
    text = f"{replica_id} is no member any more"
    return Submit(replica_id=replica_id, stage=Stage.DROP, text=text, ask=ask)


def _forget(view: View, desired: DesiredVolume, leaving: LeavingSlot) -> Step | None:
    """Once its node says that the files are gone. A lost node is not waited for, only dealt with if it returns."""
    sight = view.sight(leaving.node_id)
    reported = view.report(leaving.node_id, leaving.replica_id) is not None
    if view.state(leaving.node_id) is NodeState.LOST and not sight.fresh:
        return None
    if sight.fresh and not reported:
        left = tuple(one for one in desired.leaving if one != leaving)
        return Record(
            replica_id=leaving.replica_id,
            stage=Stage.DELETE,
            text=f"{leaving.replica_id} is gone from {leaving.node_id}",
            volume=replace(desired, leaving=left),
        )
    what = "deletes the files of" if sight.fresh else "is not heard; it is to delete"
    return Wait(
        replica_id=leaving.replica_id,
        stage=Stage.DELETE,
        text=f"{leaving.node_id} {what} {leaving.replica_id}",
    )


def _rebuild_text(view: View, line: Line, slot: PlacedSlot) -> str:
    where = f"{slot.replica_id} on {slot.node_id}"
    if not view.sight(slot.node_id).up:
        return f"{where} is not heard; it was being brought up to date"
    fact, head = view.report(slot.node_id, slot.replica_id), view.snapshot.slot(line.primary)
    if fact is not None and fact.state is ReplicaState.REBUILDING:
        return f"{where} is being rebuilt"
    if fact is None or head is None or head.fact is None:
        return f"{where} is being brought up to date"
    return f"{where} is catching up, LSN {fact.durable_lsn} of {head.fact.commit_lsn}"


def _ask(
    line: Line,
    intent: Intent,
    replica_id: ReplicaId,
    reason: str,
    *,
    members: tuple[Member, ...] = (),
    asker: ReplicaId | None = None,
) -> Ask:
    return Ask(
        intent=intent,
        volume_id=line.volume_id,
        replica_id=replica_id,
        basis=line.lineage,
        asker=asker,
        members=members,
        reason=reason,
    )

"""Where the replicas of one volume are to be that have no place yet, and which of them its line does not have yet."""

from __future__ import annotations

from dataclasses import replace

from sparrow.authority.types import DesiredVolume, LeavingSlot, Line, PlacedSlot
from sparrow.base.errors import FailedPrecondition
from sparrow.base.ids import ReplicaId
from sparrow.lifecycle.plans.steps import TOO_FEW, TURN, Choice, NotNow, Record, Stage, View, Wait


def under_way(desired: DesiredVolume, line: Line | None) -> bool:
    """Whether places were chosen that the line does not have yet, or given up that it may have still."""
    return bool(desired.leaving) or bool(unjoined(desired, line))


def unjoined(desired: DesiredVolume, line: Line | None) -> tuple[PlacedSlot, ...]:
    """Slots that a line in use does not mean. A volume without one is bound with all its slots at once."""
    if line is None or line.retired:
        return ()
    members = {(member.replica_id, member.node_id) for member in line.members}
    return tuple(one for one in desired.slots if (one.replica_id, one.node_id) not in members)


def missing(desired: DesiredVolume, line: Line | None) -> int:
    """How many slots of a volume in use have no place at all."""
    if line is None or line.retired:
        return 0
    return max(0, desired.shape.replication_factor - len(desired.slots))


def place_successor(view: View, desired: DesiredVolume, slot: PlacedSlot) -> Record | Wait:
    """Choose the successor of a slot; what is recorded says both at once, so neither is ever without the other."""
    line = view.snapshot.live_line
    kept = tuple(one for one in desired.slots if one != slot)
    try:
        placement = view.choose(_choice(view, desired, line, kept, slot))
    except NotNow:
        return Wait(replica_id=slot.replica_id, stage=Stage.PLACE, text=TURN)
    except FailedPrecondition as error:
        back = _may_stay(view, desired, line)
        if back is None:
            return Wait(replica_id=slot.replica_id, stage=Stage.PLACE, text=error.sentence())
        slots, verdicts = (*kept, _slot_of(back)), desired.verdicts
        # Who was to come for the replica that stays now comes for this one: the one that stays brings no copy.
        successor = back.successor if back.successor != slot.replica_id else back.replica_id
    else:
        slots, verdicts = placement.slots, placement.kept_verdicts
        successor = slots[-1].replica_id
    new = next(one for one in slots if one.replica_id == successor)
    cause = view.why_given_up(slot)
    leaving = tuple(
        replace(one, successor=successor) if one.successor == slot.replica_id else one
        for one in desired.leaving
        if one.replica_id != slots[-1].replica_id
    )
    gone = LeavingSlot(
        replica_id=slot.replica_id, node_id=slot.node_id, successor=successor, cause=cause
    )
    return Record(
        replica_id=slot.replica_id,
        stage=Stage.PLACE,
        text=f"{successor} on {new.node_id} replaces {slot.replica_id}: {cause}",
        volume=replace(desired, slots=slots, leaving=(*leaving, gone), verdicts=verdicts),
    )


def place_missing(view: View, desired: DesiredVolume, line: Line) -> Record | Wait:
    """Choose places for copies that nothing stands for."""
    try:
        placement = view.choose(_choice(view, desired, line, desired.slots))
    except NotNow:
        return Wait(replica_id=ReplicaId(""), stage=Stage.PLACE, text=TURN)
    except FailedPrecondition as error:
        back = _may_stay(view, desired, line)
        if back is None:
            return Wait(replica_id=ReplicaId(""), stage=Stage.PLACE, text=error.sentence())
        slots, verdicts = (*desired.slots, _slot_of(back)), desired.verdicts
    else:
        slots, verdicts = placement.slots, placement.kept_verdicts
    new = slots[len(desired.slots) :]
    placed = {one.replica_id for one in new}
    leaving = tuple(one for one in desired.leaving if one.replica_id not in placed)
    where = ", ".join(f"{one.replica_id} on {one.node_id}" for one in new)
    return Record(
        replica_id=new[0].replica_id,
        stage=Stage.PLACE,
        text=f"{where} is added: {TOO_FEW}",
        volume=replace(desired, slots=slots, leaving=leaving, verdicts=verdicts),
    )


def _choice(
    view: View,
    desired: DesiredVolume,
    line: Line | None,
    kept: tuple[PlacedSlot, ...],
    given_up: PlacedSlot | None = None,
) -> Choice:
    """What to ask of placement: nodes with files that do not stay there are out, and so are the names of those."""
    members = () if line is None else line.members
    staying = {one.node_id for one in kept}
    holding = {
        **{member.node_id: member.replica_id for member in members},
        **{heard.sight.node_id: heard.fact.replica_id for heard in view.snapshot.orphans},
        **{one.node_id: one.replica_id for one in desired.leaving},
    }
    if given_up is not None:
        holding[given_up.node_id] = given_up.replica_id
    return Choice(
        desired=desired,
        kept=kept,
        refused={
            node_id: f"still holds {replica_id}, which is not wanted there"
            for node_id, replica_id in holding.items()
            if node_id not in staying
        },
        taken=frozenset(holding.values()),
    )


def _may_stay(view: View, desired: DesiredVolume, line: Line | None) -> LeavingSlot | None:
    """A replica on its way out that the line still means, on a node that takes replicas again.

    Taken back when nothing else can be had: its node is full of it, and it may be unable to leave without a successor
    that only its node could host.
    """
    for one in desired.leaving:
        held = line is not None and holds(line, one)
        well = view.sight(one.node_id).up and not view.disk_failed(one.node_id, one.replica_id)
        if held and well and view.state(one.node_id).takes_replicas:
            return one
    return None


def _slot_of(leaving: LeavingSlot) -> PlacedSlot:
    return PlacedSlot(replica_id=leaving.replica_id, node_id=leaving.node_id)


def holds(line: Line, leaving: LeavingSlot) -> bool:
    """Whether a replica on its way out is a member still."""
    member = line.member(leaving.replica_id)
    return member is not None and member.node_id == leaving.node_id

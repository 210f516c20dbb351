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

Two rules keep the copies, whatever led to what is recorded. Nothing leaves a line that would keep fewer members than
the volume has copies (``may_shrink``): a successor that is in sync may be one that was never away, taken back when
no node was left, and then it stands in for nobody. And what is missing is added although nothing leaves for it: a slot
that the line does not mean (``unjoined``) becomes a member like any successor, and slots are placed while there are
fewer than copies are wanted. A line that was recovered from nodes means the replicas that were members, no more; where
a replacement was under way in what the restored store did not know, they may be too few, and so are the slots that
follow from it (``authority.recovery.desired_of``).

Below min_in_sync a primary answers nothing without the grants of the eligible, who could be made primary beside it
(docs/decisions/0007). When all of them leave and are gone, with their node or with their files, none of them grants any
more, and the primary would wait for ever: for a successor that is added only while it serves. So the line forgets them
first. Nothing is lost by that: nothing commits below the minimum, so who is in sync has everything that the eligible
had; and once the line is durable, nobody can be made primary by the one before it. It is done only for a primary that
lives and has its files: where it is away or has failed as well, the eligible may be all there is.

What is given up is what an operator said of its node, and what its own node says of it: a replica whose disk failed is
out of use for good, so it is replaced like one on a node that is gone, as soon as another node can take it. Where none
can, it waits; a node that is started again on a disk that works says something else, and the replica stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sparrow.authority.evidence import progress, unfit, unfit_successor
from sparrow.authority.quorum import commits_on_some, may_shrink
from sparrow.authority.types import (
    Ask,
    DesiredVolume,
    Intent,
    LeavingSlot,
    Line,
    Member,
    PlacedSlot,
    ReplicaState,
    VolumePhase,
)
from sparrow.base.ids import ReplicaId
from sparrow.lifecycle.nodes import NodeState
from sparrow.lifecycle.plans.places import (
    holds,
    missing,
    place_missing,
    place_successor,
    under_way,
    unjoined,
)
from sparrow.lifecycle.plans.steps import TOO_FEW, Record, Stage, Step, Submit, View, Wait


def wants_work(
    desired: DesiredVolume, line: Line | None, given_up: Callable[[PlacedSlot], object]
) -> bool:
    """Whether a volume has something to give up, or lacks something.

    Args:
        line: the recorded one, tombstone or not.
        given_up: whether a slot is to be had elsewhere.
    """
    return desired.phase is not VolumePhase.DELETING and (
        under_way(desired, line) or missing(desired, line) > 0 or any(map(given_up, desired.slots))
    )


def next_step(view: View) -> Step | None:
    """The one thing to do next for a volume, or what it waits for; None when nothing is given up or missing."""
    desired, line = view.snapshot.desired, view.snapshot.live_line
    if desired is None or not wants_work(desired, line, view.why_given_up):
        return None
    waiting: Step | None = None
    held = False
    for leaving in desired.leaving:
        if line is not None and holds(line, leaving):
            held = True
            step: Step | None = _advance(view, desired, line, leaving)
        else:
            step = _forget(view, desired, leaving)
        if isinstance(step, Record | Submit):
            return step
        waiting = waiting or step
    step = None if line is None else _complete(view, desired, line)
    if isinstance(step, Record | Submit):
        return step
    waiting = waiting or step
    # What is lost is replaced before what is merely to be moved, and while something else leaves as well: that may
    # be waiting for this very copy, because too few are in sync without it. So is a place that no member has taken yet:
    # nothing is there to lose, only its node is another one then, and who leaves may wait for just that member.
    empty = unjoined(desired, line)
    giving_up = sorted(
        (
            slot
            for slot in desired.slots
            if view.why_given_up(slot) and (not held or slot in empty or view.is_lost(slot))
        ),
        key=lambda slot: (not view.is_lost(slot), slot.replica_id),
    )
    for slot in giving_up:
        step = place_successor(view, desired, slot)
        if isinstance(step, Record):
            return step
        waiting = waiting or step
    return waiting


def _complete(view: View, desired: DesiredVolume, line: Line) -> Step | None:
    """One step towards as many members as copies are wanted, where no replica that leaves brings it about."""
    waiting: Step | None = None
    if missing(desired, line):
        waiting = place_missing(view, desired, line)
        if isinstance(waiting, Record):
            return waiting
    brought = {one.successor for one in desired.leaving if holds(line, one)}
    for slot in unjoined(desired, line):
        if slot.replica_id in brought or view.why_given_up(slot):
            continue
        step = _add(view, line, slot, of=slot.replica_id, why=TOO_FEW)
        if isinstance(step, Submit):
            return step
        waiting = waiting or step
    return waiting


def _advance(view: View, desired: DesiredVolume, line: Line, leaving: LeavingSlot) -> Step:
    """One step for a replica that leaves and is a member still."""
    slot = next(one for one in desired.slots if one.replica_id == leaving.successor)
    if view.why_given_up(slot):
        return place_successor(view, desired, slot)
    leads = line.primary == leaving.replica_id
    hand_over = _hand_over(view, line, leaving) if leads else None
    if isinstance(hand_over, Submit):
        return hand_over
    if _holds_up(view, desired, line):
        text = (
            f"{', '.join(line.eligible)} cannot be needed any more, and {line.primary} waits for it"
        )
        # Whoever else leaves: who is in sync stays, and the primary leaves no set of its own.
        forgotten = line.eligible[0]
        ask = _ask(line, Intent.SHRINK_IN_SYNC, forgotten, leaving.cause, asker=line.primary)
        ask = replace(ask, clear_eligible=True)
        return Submit(replica_id=leaving.replica_id, stage=Stage.TAKE_OUT, text=text, ask=ask)
    if line.member(slot.replica_id) is None:
        why = f"{slot.replica_id} is to replace {leaving.replica_id}: {leaving.cause}"
        return _add(view, line, slot, of=leaving.replica_id, why=why)
    if slot.replica_id not in line.in_sync:
        text = _rebuild_text(view, line, slot)
        return Wait(replica_id=leaving.replica_id, stage=Stage.REBUILD, text=text)
    if hand_over is not None:
        return hand_over
    return _take_out(view, line, leaving)


def _holds_up(view: View, desired: DesiredVolume, line: Line) -> bool:
    """Whether the primary, which has everything, waits for nobody but eligible replicas that are gone for good."""
    gone = {one.replica_id for one in desired.leaving if _is_gone(view, one)}
    slot = view.snapshot.slot(line.primary)
    lives = slot is not None and unfit(slot, despite_wishes=True) is None
    return bool(line.eligible) and gone.issuperset(line.eligible) and lives and not view.serving


def _is_gone(view: View, leaving: LeavingSlot) -> bool:
    """Whether a replica has no files any more that its node could open; of a lost node that is taken for granted."""
    fresh = view.sight(leaving.node_id).fresh
    if view.state(leaving.node_id) is NodeState.LOST and not fresh:
        return True
    return fresh and view.report(leaving.node_id, leaving.replica_id) is None


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
        and unfit_successor(slot, view.snapshot, despite_wishes=True) is None
    ]
    if not fit:
        return wait(f"no replica in sync with {line.primary} may take over")
    # One that was slow lately is the second choice: a drain does not wait for that to be forgotten.
    best = min(
        fit,
        key=lambda slot: (
            unfit(slot) is not None,
            tuple(-part for part in progress(slot)),
            slot.replica_id,
        ),
    )
    return Submit(
        replica_id=leaving.replica_id,
        stage=Stage.MOVE_PRIMARY,
        text=f"{best.replica_id} on {best.node_id} becomes primary",
        ask=_ask(line, Intent.REASSIGN, best.replica_id, f"hand-over: {leaving.cause}"),
    )


def _add(view: View, line: Line, slot: PlacedSlot, *, of: ReplicaId, why: str) -> Submit | Wait:
    """The line's members grow by a slot. ``of``: whose step it is; ``why``: for the line's reason."""
    sight, fact = view.sight(slot.node_id), view.report(slot.node_id, slot.replica_id)
    where = f"{slot.replica_id} on {slot.node_id}"
    stage, text = Stage.FORMAT, ""
    if not sight.up:
        text = f"{slot.node_id} is not heard"
    elif fact is None:
        text = f"{slot.node_id} makes the files of {slot.replica_id}"
    elif fact.unreadable:
        text = f"the files of {where} cannot be opened: `sparrow node list` says why"
    elif fact.state not in (ReplicaState.CLEAN, ReplicaState.REBUILDING):
        text = f"{where} is {fact.state}"
    elif not view.serving:
        stage, text = Stage.ADD, f"the primary {line.primary} does not serve"
    if text or fact is None:
        return Wait(replica_id=of, stage=stage, text=text)
    member = Member(
        replica_id=slot.replica_id,
        node_id=slot.node_id,
        uuid=fact.uuid,
        data_addr=fact.data_addr,
        ctrl_addr=fact.ctrl_addr,
    )
    members = (*line.members, member)
    return Submit(
        replica_id=of,
        stage=Stage.ADD,
        text=f"{where} becomes a member",
        ask=_ask(line, Intent.SET_MEMBERS, slot.replica_id, why, members=members),
    )


def _take_out(view: View, line: Line, leaving: LeavingSlot) -> Step:
    """Leave in_sync, then the members; only with as many in sync without it as writes need, and copies as wanted."""
    replica_id = leaving.replica_id
    if not may_shrink(line):
        text = f"without {replica_id} it would have fewer than {line.replication_factor} replicas"
        return Wait(replica_id=replica_id, stage=Stage.TAKE_OUT, text=text)
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
    if view.state(leaving.node_id) is NodeState.LOST and not sight.fresh:
        return None
    if _is_gone(view, leaving):
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

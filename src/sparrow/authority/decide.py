"""What one volume needs now, if anything: at most one ask, and why.

Pure: the same snapshot gives the same decision. Nothing here remembers what was decided before; that is the
controller's part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparrow.authority.balance import SKEW, chance
from sparrow.authority.builder import Slot, VolumeSnapshot
from sparrow.authority.evidence import (
    Standing,
    judge_primary,
    progress,
    unfit,
    unfit_successor,
)
from sparrow.authority.status import serving
from sparrow.authority.storm import FAILOVER_COOLDOWN_S
from sparrow.authority.types import (
    Ask,
    DesiredVolume,
    Intent,
    Line,
    Member,
    ReplicaState,
    SlotFact,
)
from sparrow.base.ids import NodeId, ReplicaId

#: A primary that asks to be relieved is relieved at most this often; a lost one as ``storm`` says.
HAND_OVER_COOLDOWN_S = 5.0

#: Fixed texts: why an ask was made.
INITIAL_PLACEMENT = "initial placement"
ENDPOINT_REFRESH = "endpoint refresh"
FAILOVER = "failover"
HAND_OVER = "hand-over"
REBALANCE = "rebalance"
MEMBER_REPLACED = "member replaced"
RETIREMENT = "retirement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Considered:
    """One replica weighed as primary: why it was passed over, or None."""

    replica_id: ReplicaId
    node_id: NodeId
    rejected: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """``ask`` is None when nothing is to be done or nothing can be; ``reason`` says which."""

    ask: Ask | None
    reason: str
    considered: tuple[Considered, ...] = ()
    look_again_at: float | None = None
    #: The primary cannot serve and nobody else may: the volume is unavailable, and this is why.
    stranded: bool = False

    @property
    def wanting(self) -> bool:
        """Another primary is wanted and none was found: a mere change of positions may bring one."""
        return self.ask is None and bool(self.considered)


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a decision depends on besides the snapshot."""

    booted_at: float
    hold_until: float
    #: Primaries per node now.
    load: Callable[[NodeId], int]
    #: A shrink was refused because another replica can take over.
    hand_over_wanted: bool = False
    #: When the volume was last handed over without need.
    handed_over_at: float | None = None
    #: When the volume last failed over.
    failed_over_at: float | None = None
    #: Until when no more primaries may be taken from a node; None while they may.
    wait_until: Callable[[NodeId], float | None] = lambda _node_id: None
    #: It is this volume's turn to be moved for balance, if that helps.
    nominated: bool = False
    #: Why a node gets no primary by choice now; None if it may.
    refuses: Callable[[NodeId], str | None] = lambda _node_id: None
    skew: int = SKEW


def decide(snapshot: VolumeSnapshot, around: Circumstances) -> Decision:
    """The ask for a supported volume that is not being deleted."""
    line = snapshot.live_line
    if line is None:
        return _bind(snapshot, around)
    verdict = judge_primary(
        line, snapshot, booted_at=around.booted_at, hold_until=around.hold_until
    )
    if verdict.standing is Standing.SUSPECTED:
        return Decision(ask=None, reason=verdict.cause, look_again_at=verdict.look_again_at)
    primary = snapshot.slot(line.primary)
    assert primary is not None, "a line's primary is one of its members"
    why = verdict.cause if verdict.standing is Standing.LOST else unfit(primary)
    if why is None and not around.hand_over_wanted:
        return _upkeep(line, snapshot, primary) or _balance(line, snapshot, around)
    planned = verdict.standing is Standing.ALIVE and unfit(primary, despite_wishes=True) is None
    return _move(
        line,
        snapshot,
        around,
        why or "it cannot reach its peers",
        planned=planned,
        wish=planned and serving(line, primary) and not around.hand_over_wanted,
    )


def candidates(snapshot: VolumeSnapshot) -> tuple[Considered, ...]:
    """Every replica weighed as primary, for a person to read; the present primary by its own fitness."""
    line = snapshot.live_line
    if line is None:
        return tuple(_weigh(slot, unfit(slot)) for slot in snapshot.slots)
    return tuple(
        _weigh(
            slot,
            unfit(slot) if slot.replica_id == line.primary else _passed_over(slot, line, snapshot),
        )
        for slot in snapshot.slots
    )


def decide_retirement(desired: DesiredVolume, line: Line | None) -> Ask | None:
    """The ask that ends a volume being deleted, None once its tombstone stands."""
    if line is not None and line.retired:
        return None
    return Ask(
        intent=Intent.RETIRE,
        volume_id=desired.volume_id,
        replica_id=desired.slots[0].replica_id if desired.slots else ReplicaId(""),
        basis=None if line is None else line.lineage,
        shape=desired.shape if line is None else None,
        reason=RETIREMENT,
    )


def _bind(snapshot: VolumeSnapshot, around: Circumstances) -> Decision:
    desired = snapshot.desired
    assert desired is not None, "a volume without a line is supported only if somebody asked for it"
    considered = tuple(_weigh(slot, unfit(slot)) for slot in snapshot.slots)
    fit = _accepted(snapshot.slots, considered)
    if not fit:
        return Decision(ask=None, reason="no replica is fit to be primary", considered=considered)
    best = min(fit, key=lambda slot: (around.load(slot.node_id), slot.replica_id))
    ask = Ask(
        intent=Intent.BIND,
        volume_id=snapshot.volume_id,
        replica_id=best.replica_id,
        basis=None if snapshot.line is None else snapshot.line.lineage,
        members=tuple(_member(slot, slot.fact) for slot in snapshot.slots),
        shape=desired.shape,
        reason=INITIAL_PLACEMENT,
    )
    return Decision(ask=ask, reason=INITIAL_PLACEMENT, considered=considered)


def _upkeep(line: Line, snapshot: VolumeSnapshot, primary: Slot) -> Decision | None:
    """The primary is well: follow its address, and take in replicas that were formatted anew; None if all is so."""
    wanted = _member(primary, primary.fact)
    if wanted != line.primary_member:
        ask = Ask(
            intent=Intent.REFRESH_ENDPOINT,
            volume_id=line.volume_id,
            replica_id=line.primary,
            basis=line.lineage,
            members=(wanted,),
            reason=ENDPOINT_REFRESH,
        )
        return Decision(ask=ask, reason=ENDPOINT_REFRESH)
    # Eligible files that were formatted over are gone as a choice; waiting for them would be waiting for ever.
    renewed = {
        slot.replica_id: _member(slot, slot.stranger)
        for slot in snapshot.slots
        if slot.replica_id not in line.in_sync and _replaces_member(slot)
    }
    if renewed:
        ask = Ask(
            intent=Intent.SET_MEMBERS,
            volume_id=line.volume_id,
            replica_id=line.primary,
            basis=line.lineage,
            members=tuple(renewed.get(member.replica_id, member) for member in line.members),
            reason=MEMBER_REPLACED,
        )
        return Decision(ask=ask, reason=MEMBER_REPLACED)
    return None


def _balance(line: Line, snapshot: VolumeSnapshot, around: Circumstances) -> Decision:
    """Nothing needs doing: let a less loaded node lead, if it is this volume's turn."""
    if around.nominated:
        found = chance(line, snapshot, load=around.load, refuses=around.refuses, skew=around.skew)
        if found.target is not None:
            ask = Ask(
                intent=Intent.REASSIGN,
                volume_id=line.volume_id,
                replica_id=found.target.replica_id,
                basis=line.lineage,
                reason=f"{REBALANCE}: {found.text}",
            )
            return Decision(ask=ask, reason=REBALANCE)
    return Decision(ask=None, reason="the primary is well")


def _move(
    line: Line,
    snapshot: VolumeSnapshot,
    around: Circumstances,
    why: str,
    *,
    planned: bool,
    wish: bool,
) -> Decision:
    """Another primary: from in_sync, else from eligible when nobody in sync is left.

    A primary that serves and merely wishes to be relieved is not followed by one that has a wish of its own: two that
    are equally slow would hand over to and fro (``node.relief``). Where it is needed such a one is taken when there is
    no other: a volume that is served slowly is served. Which of those in sync leads is free to choose, so this is as
    safe as any other choice among them.
    """
    others = tuple(slot for slot in snapshot.slots if slot.replica_id != line.primary)
    considered = tuple(_weigh(slot, _passed_over(slot, line, snapshot)) for slot in others)
    fit = [slot for slot in _accepted(others, considered) if slot.replica_id in line.in_sync]
    if not fit and not wish:
        considered = tuple(
            _weigh(slot, _passed_over(slot, line, snapshot, despite_wishes=True)) for slot in others
        )
        fit = [slot for slot in _accepted(others, considered) if slot.replica_id in line.in_sync]
    from_eligible = not fit and not planned
    if from_eligible:
        fit = list(_accepted(others, considered))
    if not fit:
        reason = f"{line.primary}: {why}; nobody else may take over"
        return Decision(ask=None, reason=reason, considered=considered, stranded=not planned)
    if planned and around.handed_over_at is not None:
        again_at = around.handed_over_at + HAND_OVER_COOLDOWN_S
        if snapshot.built_at < again_at:
            reason = f"{line.primary}: {why}; handed over a moment ago"
            return Decision(ask=None, reason=reason, considered=considered, look_again_at=again_at)
    held = None if planned else _held_back(line, snapshot, around)
    if held is not None:
        reason = f"{line.primary}: {why}; {held[0]}"
        return Decision(ask=None, reason=reason, considered=considered, look_again_at=held[1])
    # Sorted by need: the longest log, then the least loaded node, then the id, so two runs choose alike.
    best = min(
        fit,
        key=lambda slot: (
            tuple(-part for part in progress(slot)),
            around.load(slot.node_id),
            slot.replica_id,
        ),
    )
    leave_out = tuple(
        slot.replica_id
        for slot in others
        if slot.replica_id in line.in_sync
        and slot.replica_id != best.replica_id
        and _lost_its_files(slot)
    )
    text = HAND_OVER if planned else FAILOVER
    ask = Ask(
        intent=Intent.REASSIGN,
        volume_id=line.volume_id,
        replica_id=best.replica_id,
        basis=line.lineage,
        leave_out=leave_out,
        from_eligible=from_eligible,
        reason=f"{text}: {why}",
    )
    return Decision(ask=ask, reason=text, considered=considered)


def _held_back(
    line: Line, snapshot: VolumeSnapshot, around: Circumstances
) -> tuple[str, float] | None:
    """Why a failover has to wait, and until when; None if it need not."""
    now, node_id = snapshot.built_at, line.primary_member.node_id
    if around.failed_over_at is not None and now < around.failed_over_at + FAILOVER_COOLDOWN_S:
        return "it failed over a moment ago", around.failed_over_at + FAILOVER_COOLDOWN_S
    until = around.wait_until(node_id)
    if until is not None and now < until:
        return f"many volumes of {node_id} fail over already", until
    return None


def _passed_over(
    slot: Slot, line: Line, snapshot: VolumeSnapshot, *, despite_wishes: bool = False
) -> str | None:
    if slot.replica_id not in line.in_sync and slot.replica_id not in line.eligible:
        return "it is not in sync"
    return unfit_successor(slot, snapshot, despite_wishes=despite_wishes)


def _weigh(slot: Slot, rejected: str | None) -> Considered:
    return Considered(replica_id=slot.replica_id, node_id=slot.node_id, rejected=rejected)


def _accepted(slots: tuple[Slot, ...], considered: tuple[Considered, ...]) -> tuple[Slot, ...]:
    return tuple(
        slot for slot, found in zip(slots, considered, strict=True) if found.rejected is None
    )


def _lost_its_files(slot: Slot) -> bool:
    """Its node says that what was in sync is not there any more, or not to be trusted.

    Files that merely cannot be opened now (a WAL device that was not named) stay in sync, as those of a node that is
    away do: whoever leaves ``in_sync`` here is not even eligible.
    """
    if not slot.sight.fresh:
        return False
    if slot.fact is None:
        found = slot.stranger
        return found is not None and (found.disk_failed or not found.unreadable)
    return slot.fact.disk_failed


def _replaces_member(slot: Slot) -> bool:
    found = slot.stranger
    return (
        slot.sight.up
        and slot.fact is None
        and found is not None
        and bool(found.uuid and found.data_addr and found.ctrl_addr)
        and not found.disk_failed
        and found.state in (ReplicaState.CLEAN, ReplicaState.REBUILDING)
    )


def _member(slot: Slot, fact: SlotFact | None) -> Member:
    """The slot's replica as its node reports it: ``fact`` or ``stranger`` of the slot."""
    assert fact is not None, "only reported replicas become members"
    return Member(
        replica_id=slot.replica_id,
        node_id=slot.node_id,
        uuid=fact.uuid,
        data_addr=fact.data_addr,
        ctrl_addr=fact.ctrl_addr,
    )

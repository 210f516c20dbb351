"""Make another in-sync replica primary because an operator asked: the ask for it, or why not.

Refused whole and at once, with what stands in the way; nothing is queued. What is asked of the publisher carries the
line it was decided on, so a failover that comes first makes it void.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sparrow.authority.builder import VolumeSnapshot
from sparrow.authority.decide import HAND_OVER
from sparrow.authority.evidence import unfit_successor
from sparrow.authority.quorum import commits_on_some
from sparrow.authority.status import serving
from sparrow.authority.types import Ask, Intent, Line, Member
from sparrow.base.errors import FailedPrecondition, InvalidArgument
from sparrow.base.ids import Lsn, NodeId, VolumeId
from sparrow.lifecycle.nodes import NodeState

ASKED_FOR = f"{HAND_OVER}: asked for by an operator"


def target_of(line: Line, to: str) -> Member:
    """The member an operator means by a replica's or a node's name. Raises: InvalidArgument."""
    for member in line.members:
        if to in (member.replica_id, member.node_id):
            return member
    known = ", ".join(f"{member.replica_id} on {member.node_id}" for member in line.members)
    raise InvalidArgument(
        f"{to!r} is no replica of volume {line.volume_id} and no node with one.",
        hint=f"There are {known}.",
    )


def reaches(snapshot: VolumeSnapshot, target: Member, committed: int) -> bool:
    """Whether a replica has reported that it holds everything up to an LSN.

    Under load the primary's newest word is always ahead of everybody's last one. What an in-sync replica holds of what
    was committed when the move was asked for it can report within a heartbeat; more need not be waited for, because
    everything committed since is on every replica that opens the volume next.
    """
    slot = snapshot.slot(target.replica_id)
    fact = None if slot is None else slot.fact
    return fact is not None and min(fact.last_lsn, fact.durable_lsn) >= committed


def plan_move(
    snapshot: VolumeSnapshot,
    to: str,
    state_of: Callable[[NodeId], NodeState],
    *,
    committed: Lsn,
) -> tuple[Member, Ask | None]:
    """Who is meant, and the ask; None when it is primary already.

    Args:
        committed: the highest commit LSN reported when the move was asked for.
    Raises:
        InvalidArgument: no member has that name.
        FailedPrecondition: it may not take over now, and why.
    """
    volume_id = snapshot.volume_id
    line = snapshot.live_line
    if line is None:
        raise FailedPrecondition(f"Volume {volume_id} has no primary yet.")
    target = target_of(line, to)
    if target.replica_id == line.primary:
        return target, None
    primary, successor = snapshot.slot(line.primary), snapshot.slot(target.replica_id)
    assert primary is not None, "a line's primary is one of its members"
    assert successor is not None, "a member has a slot"
    who = f"{target.replica_id} on {target.node_id}"
    if not serving(line, primary):
        raise _refused(volume_id, f"its primary {line.primary} does not serve now")
    if target.replica_id not in line.in_sync:
        raise _refused(volume_id, f"{who} is not in sync")
    if state_of(target.node_id).gives_up_replicas:
        raise _refused(volume_id, f"{target.node_id} is giving up its replicas")
    left = len(line.in_sync) - (0 if commits_on_some(line) else 1)
    if left < line.min_in_sync:
        raise _refused(
            volume_id,
            f"until {line.primary} has followed only {left} of {line.min_in_sync} would be in sync",
        )
    # Who was slow lately takes over when a person says so.
    why = unfit_successor(
        successor, replace(snapshot, highest_commit=committed), despite_wishes=True
    )
    if why is not None:
        raise _refused(volume_id, f"{who} may not take over: {why}")
    return target, Ask(
        intent=Intent.REASSIGN,
        volume_id=volume_id,
        replica_id=target.replica_id,
        basis=line.lineage,
        reason=ASKED_FOR,
    )


def _refused(volume_id: VolumeId, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"Volume {volume_id} stays where it is: {why}.",
        hint=f"`sparrow volume why {volume_id}` tells who could be primary.",
    )

"""Taking a volume on from a replica that missed writes, because everyone who had them is gone.

Nothing here happens by itself: an operator asks for it, knows what is lost, and says that the old primary is off. What
makes it safe as far as it can be:

- *One at a time.* The old primary may hold no grant (alone in sync it needs none), so nobody but a person can know that
  it has stopped. Its node must be silent, and the operator types its name; only a node that is heard and itself says
  that those files cannot serve any more (disk failed, replaced, set aside) proves it without that.
- *Never beside it afterwards.* The new line is an epoch of its own, minted on the recorded line as its basis. A primary
  that returns opens only under a line it hears from the master (docs/claims.md, S3), and is fenced by the new one.
- *Nothing is erased.* All other members are ``set_aside`` in the new line: whoever acts on that line, or is shown it by
  the new primary, first records its files as quarantined. They are neither cut nor rebuilt, may not grow, and the line
  goes on naming them, until ``volume discard-divergent`` says replica by replica that they are not wanted.
- *Nothing better is passed over.* As long as the controller could hand the volume to anyone, this is refused.

The window of loss is what is known here: LSNs name one content only within a term, so where the last terms reported
differ only what the stale replica itself knows as committed counts as kept. Under ack=local the old primary has
answered what is durable on its disk, committed or not: by its newest word that is lost too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sparrow.authority.builder import Slot, VolumeSnapshot
from sparrow.authority.evidence import unfit, unfit_successor
from sparrow.authority.types import AckPolicy, Ask, Intent, Line, ReplicaState, SlotFact
from sparrow.base.ids import Lsn, NodeId, ReplicaId

RECOVER_STALE: Final = "recover from stale"
DISCARD: Final = "discard divergent"

#: Files in these states are no volume's history by themselves; the operator names the state to take them all the same.
DOUBTFUL: Final = frozenset({ReplicaState.REBUILDING, ReplicaState.QUARANTINED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why not, and what to do instead; two sentences for a person."""

    cause: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would be done. ``ask`` None: the line stands already, only the replica's state is left to be released."""

    ask: Ask | None
    state: ReplicaState
    #: Entries up to here are kept for certain.
    kept_lsn: Lsn
    loss: str


def weigh(
    snapshot: VolumeSnapshot,
    replica_id: ReplicaId,
    *,
    old_primary_is_off: NodeId,
    accept_state: str,
) -> Plan | Refused:
    """Whether a volume may be taken on from a stale replica now, and what is lost by it.

    Args:
        old_primary_is_off: the old primary's node as the operator typed it; empty when nothing was said.
        accept_state: a state of ``DOUBTFUL`` that the operator accepts by name; empty for none.
    """
    line = snapshot.live_line
    if line is None:
        return Refused(cause="the volume has no line", hint="There is nothing to recover.")
    slot = snapshot.slot(replica_id)
    if slot is None:
        names = ", ".join(one.replica_id for one in snapshot.slots)
        return Refused(cause=f"{replica_id} is not one of its replicas", hint=f"They are {names}.")
    against = _unusable(slot, accept_state)
    if against is not None:
        return against
    assert slot.fact is not None, "a usable replica is reported"
    kept, loss = _loss(line, snapshot, slot, slot.fact)
    if _recovered_already(line, replica_id) and slot.fact.state in DOUBTFUL:
        return Plan(ask=None, state=slot.fact.state, kept_lsn=kept, loss=loss)
    better = _better(line, snapshot)
    if better is not None:
        return better
    alive = _may_still_serve(line, snapshot, old_primary_is_off)
    if alive is not None:
        return alive
    ask = Ask(
        intent=Intent.RECOVER_STALE,
        volume_id=line.volume_id,
        replica_id=replica_id,
        basis=line.lineage,
        reason=f"{RECOVER_STALE}: {loss}",
    )
    return Plan(ask=ask, state=slot.fact.state, kept_lsn=kept, loss=loss)


def discard_ask(line: Line, replica_id: ReplicaId) -> Ask | None:
    """The ask after which a replica that was set aside may be rebuilt; None when the line does not set it aside."""
    if replica_id not in line.set_aside:
        return None
    return Ask(
        intent=Intent.DISCARD_DIVERGENT,
        volume_id=line.volume_id,
        replica_id=replica_id,
        basis=line.lineage,
        reason=DISCARD,
    )


def _recovered_already(line: Line, replica_id: ReplicaId) -> bool:
    return line.primary == replica_id and line.in_sync == (replica_id,) and bool(line.set_aside)


def _unusable(slot: Slot, accept_state: str) -> Refused | None:
    where = f"{slot.replica_id} on {slot.node_id}"
    fact = slot.fact
    if not slot.sight.up or fact is None:
        return Refused(cause=f"{where} is not heard with the line's files", hint="Start its node.")
    if fact.disk_failed or fact.state in (ReplicaState.CONDEMNED, ReplicaState.RETIRED):
        return Refused(cause=f"{where} cannot be used: {_say_state(fact)}", hint="Take another.")
    if fact.state in DOUBTFUL and accept_state != fact.state:
        what = "a mixture of old and new pages" if fact.state is ReplicaState.REBUILDING else "kept"
        return Refused(
            cause=f"{where} is {fact.state}: its content is {what}",
            hint=f"Add --accept-state {fact.state} to take it all the same.",
        )
    if fact.suspect:
        return Refused(
            cause=f"{where} lost part of its log or superblock", hint="Take another replica."
        )
    return None


def _better(line: Line, snapshot: VolumeSnapshot) -> Refused | None:
    """Somebody who has everything and may take over, or may serve already."""
    for slot in snapshot.slots:
        if slot.replica_id not in (*line.in_sync, *line.eligible):
            continue
        leads = slot.replica_id == line.primary
        fit = (
            unfit(slot, despite_wishes=True)
            if leads
            else unfit_successor(slot, snapshot, despite_wishes=True)
        )
        if fit is None:
            where = f"{slot.replica_id} on {slot.node_id}"
            return Refused(
                cause=f"{where} has every acknowledged write and can serve",
                hint="Wait for the master to move the volume there; `sparrow volume why` tells what it waits for.",
            )
    return None


def _may_still_serve(
    line: Line, snapshot: VolumeSnapshot, old_primary_is_off: NodeId
) -> Refused | None:
    """Why the old primary may be serving now; None when it is proved or said that it is not."""
    slot = snapshot.slot(line.primary)
    assert slot is not None, "a line's primary is one of its members"
    if slot.sight.up and _says_it_is_over(slot):
        return None
    if slot.sight.fresh:
        ago = snapshot.built_at - (slot.sight.heard_at or 0.0)
        return Refused(
            cause=f"{slot.node_id}, the node of the primary {line.primary}, was heard {ago:.1f} s ago",
            hint="It is not off. Stop it, or let it say itself that it cannot serve.",
        )
    if old_primary_is_off != slot.node_id:
        said = f"{old_primary_is_off!r} is not its node" if old_primary_is_off else "nobody says so"
        return Refused(
            cause=f"the primary {line.primary} may be serving on {slot.node_id}, cut off from the master: {said}",
            hint=f"Make sure that it is off, then add --old-primary-is-off {slot.node_id}.",
        )
    return None


def _says_it_is_over(slot: Slot) -> bool:
    """The old primary's own node, heard now, says that those files do not serve and cannot again."""
    if slot.fact is None:
        return slot.stranger is not None
    over = slot.fact.disk_failed or slot.fact.state is not ReplicaState.CLEAN
    return over and not slot.fact.gate_open


def _loss(line: Line, snapshot: VolumeSnapshot, slot: Slot, fact: SlotFact) -> tuple[Lsn, str]:
    """Up to where everything is kept for certain, and what is lost beyond it, in words."""
    reached = Lsn(min(fact.last_lsn, fact.durable_lsn))
    primary = snapshot.slot(line.primary)
    assert primary is not None, "a line's primary is one of its members"
    spoken = primary.fact
    same_term = spoken is not None and spoken.last_term == fact.last_term
    kept = reached if same_term else Lsn(min(reached, fact.commit_lsn))
    highest = snapshot.highest_commit
    where = f"{slot.replica_id} on {slot.node_id}"
    heard_at = primary.sight.heard_at
    after = (
        f"after {primary.node_id} was last heard, {snapshot.built_at - heard_at:.0f} s ago"
        if heard_at is not None
        else f"on {primary.node_id}, which this master has never heard"
    )
    answered = Lsn(spoken.durable_lsn if spoken is not None and line.ack is AckPolicy.LOCAL else 0)
    known = []
    if highest > kept:
        known.append(f"entries {kept + 1} to {highest}, committed without {where}")
    if answered > max(highest, kept):
        first = max(highest, kept) + 1
        known.append(f"entries {first} to {answered}, answered by {primary.node_id} alone")
    if known:
        lost = f"{', '.join(known)}, are lost, and whatever was acknowledged {after}"
    else:
        lost = f"whatever was acknowledged {after}, is lost"
        lost += f"; before that nothing beyond LSN {kept}, up to which {where} has everything"
    others = ", ".join(one.replica_id for one in line.members if one.replica_id != slot.replica_id)
    return kept, lost + (f"; the files of {others} are kept as they are" if others else "")


def _say_state(fact: SlotFact) -> str:
    return "its disk failed" if fact.disk_failed else f"its state is {fact.state}"

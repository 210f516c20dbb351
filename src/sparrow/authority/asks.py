"""What a node, or an operator's plan, may ask the publisher for; everything else is the controller's."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sparrow.authority.events import NodeAsk
from sparrow.authority.observation import ObservationStore
from sparrow.authority.results import Refusal, RefusedAsk
from sparrow.authority.types import Ask, Intent, Line

#: What a node may ask.
NODE_INTENTS: Final = frozenset({Intent.SHRINK_IN_SYNC, Intent.GROW_IN_SYNC})
#: What a plan may ask: move the primary, change the members, take one out of in_sync; and an operator's own.
PLAN_INTENTS: Final = frozenset(
    {
        Intent.REASSIGN,
        Intent.SET_MEMBERS,
        Intent.SHRINK_IN_SYNC,
        Intent.RECOVER_STALE,
        Intent.DISCARD_DIVERGENT,
    }
)


def foreign(event: NodeAsk, line: Line | None) -> RefusedAsk | None:
    """Why a node may not ask this: it speaks for the replicas it hosts, and only about who is in sync.

    Args:
        line: the newest one of the volume.
    """
    ask = event.ask
    member = None if line is None or ask.asker is None else line.member(ask.asker)
    if ask.intent not in NODE_INTENTS:
        message = f"a node may not ask for {ask.intent!r}"
    elif member is not None and member.node_id != event.node_id:
        message = f"{ask.asker} is on {member.node_id}, not on {event.node_id}"
    else:
        return None
    return RefusedAsk(
        ask=ask, code=Refusal.FOREIGN_ASKER, message=message, basis=ask.basis, recorded=line
    )


def with_joining_files(ask: Ask, line: Line | None, observations: ObservationStore) -> Ask:
    """A Grow that does not name the joining files gets those its node reports now."""
    member = None if line is None else line.member(ask.replica_id)
    if ask.intent is not Intent.GROW_IN_SYNC or ask.uuid is not None or member is None:
        return ask
    facts = observations.slots_on(member.node_id, ask.volume_id)
    uuids = {fact.uuid for fact in facts if fact.replica_id == ask.replica_id}
    if not uuids or member.uuid in uuids:
        return ask
    return replace(ask, uuid=min(uuids))

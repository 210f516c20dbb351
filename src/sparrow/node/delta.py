"""Heartbeats as deltas: what changed since the inventory that the master last said it took.

The first heartbeat is whole, and so is the one after each new stream, each new master and each "send full". Between
them only changed and removed slots travel. An ack that was lost costs one whole heartbeat, never a wrong fact: the
delta that follows names a base that the master does not hold any more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from sparrow.authority.types import SlotFact, SlotName
from sparrow.base.ids import ReplicaId, VolumeId
from sparrow.rpc.messages import Heartbeat, HeartbeatAck

_Slots: TypeAlias = dict[tuple[VolumeId, ReplicaId], SlotFact]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inventory:
    revision: int
    slots: _Slots
    #: What the slots were made of.
    facts: tuple[SlotFact, ...]


class Deltas:
    """What one node's master knows of its slots. One heartbeat is on its way at a time."""

    def __init__(self) -> None:
        self._acked: _Inventory | None = None
        self._sent: _Inventory | None = None

    def report(self, whole: Heartbeat) -> Heartbeat:
        """The heartbeat to send for these facts; its sequence number names the inventory if it changed."""
        acked = self._acked
        if acked is not None and acked.facts is whole.slots:
            # The same facts, not only equal ones: there is nothing to look for.
            self._sent = acked
            return replace(whole, slots=(), revision=acked.revision, base_revision=acked.revision)
        slots: _Slots = {(fact.volume_id, fact.replica_id): fact for fact in whole.slots}
        if acked is None:
            self._sent = _Inventory(revision=whole.sequence, slots=slots, facts=whole.slots)
            return replace(whole, revision=whole.sequence)
        # Comparing field by field is worth it only for another object: a fact that stands is the same one.
        changed = tuple(
            fact
            for key, fact in slots.items()
            if (known := acked.slots.get(key)) is not fact and known != fact
        )
        removed = tuple(
            SlotName(volume_id=volume_id, replica_id=replica_id)
            for volume_id, replica_id in acked.slots
            if (volume_id, replica_id) not in slots
        )
        revision = whole.sequence if changed or removed else acked.revision
        self._sent = _Inventory(revision=revision, slots=slots, facts=whole.slots)
        return replace(
            whole,
            slots=changed,
            removed=removed,
            revision=revision,
            base_revision=acked.revision,
        )

    def acknowledged(self, ack: HeartbeatAck) -> bool:
        """The master's answer to the last report; False when a whole heartbeat should follow at once."""
        sent, self._sent = self._sent, None
        if ack.send_full:
            self._acked = None
            return False
        if sent is None:
            return True
        self._acked = sent
        return True

    def forget(self) -> None:
        """The next heartbeat is whole, whatever an answer on its way says."""
        self._acked = self._sent = None

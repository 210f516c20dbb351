"""What waits to be sent down one node's stream: of each thing only the newest, in the order in which it became so."""

from __future__ import annotations

import asyncio
from typing import TypeAlias, assert_never

from sparrow.authority.effects import (
    AllowAccess,
    HostReplica,
    Instruction,
    RemoveReplica,
    Synced,
)
from sparrow.authority.types import AssignmentFact
from sparrow.base.ids import ReplicaId, VolumeId

_Key: TypeAlias = tuple[str, VolumeId, ReplicaId]


class Outbox:
    """A mailbox that a slow reader cannot fill: newer instructions take the place of older ones of their kind.

    Bound: one host and one removal per replica, one fact and one access list per volume. Thread: the event loop's.
    """

    def __init__(self) -> None:
        self._waiting: dict[_Key, Instruction] = {}
        self._something = asyncio.Event()
        self._closed = False

    def put(self, instruction: Instruction) -> None:
        """Nothing happens once closed."""
        if self._closed:
            return
        match instruction:
            case HostReplica(volume_id=volume, replica_id=replica):
                key = ("host", volume, replica)
            case RemoveReplica(volume_id=volume, replica_id=replica):
                key = ("remove", volume, replica)
                # Given after these, so they are over before they were heard of.
                self._waiting.pop(("host", volume, replica), None)
                self._waiting.pop(("fact", volume, ReplicaId("")), None)
            case AllowAccess(volume_id=volume):
                key = ("access", volume, ReplicaId(""))
            case AssignmentFact(line=line):
                key = ("fact", line.volume_id, ReplicaId(""))
            case Synced():
                key = ("synced", VolumeId(""), ReplicaId(""))
            case _:
                assert_never(instruction)
        # Taken out first, so that the newest stands at the end: order between kinds is order in time.
        self._waiting.pop(key, None)
        self._waiting[key] = instruction
        self._something.set()

    @property
    def empty(self) -> bool:
        return not self._waiting

    async def take(self) -> list[Instruction]:
        """Everything that waits, as soon as something does; an empty list means closed."""
        await self._something.wait()
        self._something.clear()
        found = list(self._waiting.values())
        self._waiting.clear()
        if self._closed:
            self._something.set()
            return []
        return found

    def close(self) -> None:
        """End it; what waits is dropped, a reader wakes. Idempotent."""
        self._closed = True
        self._something.set()

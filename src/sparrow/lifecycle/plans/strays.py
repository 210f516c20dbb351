"""Replicas of a volume that nothing recorded accounts for: neither placed, nor leaving, nor members of its line.

They are what a recovered store does not remember: a successor that was being made, a replica that was to be deleted.
Left alone they take room for ever, and their nodes cannot be chosen for the volume. Recorded as leaving they go the
way of every replaced replica: deleted once the primary acts on a line that does not mean them. A replica that knows a
newer line than that is kept by its node, whatever it is told.
"""

from __future__ import annotations

from dataclasses import replace

from sparrow.authority.builder import VolumeSnapshot
from sparrow.authority.types import DesiredVolume, LeavingSlot, VolumePhase

CAUSE = "nothing recorded accounts for it"


def with_strays(snapshot: VolumeSnapshot) -> DesiredVolume | None:
    """The desired volume with its strays as leaving; None when there are none to be told of."""
    desired, line = snapshot.desired, snapshot.live_line
    if desired is None or line is None or desired.phase is VolumePhase.DELETING:
        return None
    known = {
        *((one.replica_id, one.node_id) for one in line.members),
        *((one.replica_id, one.node_id) for one in desired.slots),
        *((one.replica_id, one.node_id) for one in desired.leaving),
    }
    strays = [
        LeavingSlot(
            replica_id=heard.fact.replica_id,
            node_id=heard.sight.node_id,
            successor=desired.slots[0].replica_id,
            cause=CAUSE,
        )
        for heard in snapshot.orphans
        if heard.sight.fresh and (heard.fact.replica_id, heard.sight.node_id) not in known
    ]
    return replace(desired, leaving=(*desired.leaving, *strays)) if strays else None

"""What a node says that nobody has to think about: a replica that is as its line says.

The first whole heartbeats after a master's start, and those of a node that comes back, speak of hundreds of replicas
each. Where nothing is on its way and nothing is wrong such a report leads to no ask, so the volume is not looked at.
"""

from __future__ import annotations

from sparrow.authority.types import (
    DesiredVolume,
    Line,
    ReplicaState,
    RoleClaim,
    SlotFact,
    VolumePhase,
)
from sparrow.base.ids import NodeId


def steady(line: Line | None, desired: DesiredVolume | None) -> bool:
    """Whether a volume is in use with no change of its life or its places under way."""
    return (
        line is not None
        and not line.retired
        and desired is not None
        and desired.phase is VolumePhase.ACTIVE
        and not desired.leaving
    )


def as_expected(line: Line, node_id: NodeId, facts: tuple[SlotFact, ...]) -> bool:
    """Whether what one node says of a volume is exactly what its line makes one expect.

    One replica, a member in sync with the member's files and addresses, fit, following or serving this very line.
    """
    if len(facts) != 1:
        return False
    fact = facts[0]
    member = line.member(fact.replica_id)
    if member is None or fact.lineage is None or fact.replica_id not in line.in_sync:
        return False
    primary = fact.replica_id == line.primary
    return (
        member.node_id == node_id
        and member.uuid == fact.uuid
        and member.data_addr == fact.data_addr
        and member.ctrl_addr == fact.ctrl_addr
        and fact.lineage == line.lineage
        and fact.role_claim is (RoleClaim.PRIMARY if primary else RoleClaim.NONE)
        and fact.gate_open is primary
        and fact.ready_for_primary
        and fact.eligible
        and not fact.withdrawn
        and not fact.disk_failed
        and not fact.suspect
        and fact.state is ReplicaState.CLEAN
    )

"""What NVMe hosts are shown of the volumes of this node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sparrow.authority.evidence import PEER_HEARD_S
from sparrow.base.access import Frontend
from sparrow.base.ids import VolumeId
from sparrow.frontends.nvme.logs import DiscoveryEntry
from sparrow.frontends.nvme.naming import DISCOVERY_NQN, subsystem_nqn
from sparrow.frontends.nvme.subsystem import AnaState, Counters, Subsystem
from sparrow.frontends.paths import PATHS_MAX
from sparrow.frontends.scsi.unit import UnitState
from sparrow.node.iscsi import group_of, port_group
from sparrow.node.replicas import Replicas
from sparrow.node.units import unit_state
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import VolumeStatus
from sparrow.runtime.config import split_address

#: The same situations as in SCSI, in the words of NVMe.
ANA_STATES: Final = {
    UnitState.OPTIMIZED: AnaState.OPTIMIZED,
    UnitState.STANDBY: AnaState.INACCESSIBLE,
    UnitState.TRANSITIONING: AnaState.CHANGE,
    UnitState.WRITES_HELD: AnaState.CHANGE,
    UnitState.NO_SPACE: AnaState.OPTIMIZED,
    UnitState.FAILED: AnaState.PERSISTENT_LOSS,
}
assert set(ANA_STATES) == set(UnitState), "every state has its answer"

#: Subsystems by name, and the ports of each.
Discoverable = tuple[tuple[str, tuple[tuple[str, int], ...]], ...]


def ana_state(volume: Volume, status: VolumeStatus | None) -> AnaState:
    """What the gate allows; without a status of this moment nobody is told that this replica serves.

    A primary lives while it is heard, by a frame or by its asking for a grant.
    """
    silent = None if status is None else status.primary_silent_ms
    state = unit_state(
        volume,
        gate_open=status is not None and status.gate_open,
        primary_lives=silent is not None and silent < PEER_HEARD_S * 1000,
    )
    return ANA_STATES[state]


def subsystem_of(volume: Volume, cluster_id: str, *, ana_group: int, state: AnaState) -> Subsystem:
    """The volume as a subsystem; ``ana_group`` as it was when the controller was made."""
    return Subsystem(
        volume_id=volume.volume_id,
        cluster_id=cluster_id,
        size_bytes=volume.size_bytes,
        block_bytes=volume.block_size,
        ana_state=state,
        ana_group=ana_group,
        ana_groups_max=PATHS_MAX,
        failed=state is AnaState.PERSISTENT_LOSS,
    )


def counters_of(status: VolumeStatus | None) -> Counters:
    if status is None:
        return Counters()
    return Counters(
        reads=status.reads,
        writes=status.writes,
        read_bytes=status.read_bytes,
        written_bytes=status.written_bytes,
    )


def shown(replicas: Replicas) -> dict[str, VolumeId]:
    """Subsystems of this node by name, in the order of their names."""
    found = {
        subsystem_nqn(volume.volume_id): volume.volume_id
        for volume in replicas
        if volume.known_line is not None and not volume.known_line.retired
    }
    return dict(sorted(found.items()))


def ports_of(volume: Volume, local: str) -> tuple[tuple[str, int], ...]:
    """Where the subsystem can be reached: here, then at every other replica; ``host:port`` and port identifier."""
    assert volume.known_line is not None
    found = [(local, port_group(volume))]
    for member in sorted(volume.known_line.members, key=lambda member: member.replica_id):
        if member.replica_id != volume.replica_id:
            number = group_of(volume, member.replica_id)
            found += [
                (address, number) for address in volume.portals_of(member.replica_id, Frontend.NVME)
            ]
    return tuple(found)


def discovery_entries(
    replicas: Replicas, local: str, *, may_see: Callable[[VolumeId], bool]
) -> tuple[DiscoveryEntry, ...]:
    """What this host can connect to: at the address it reached us at, and at the other replicas of what is here."""
    found = [(DISCOVERY_NQN, local, 1)]
    for nqn, volume_id in shown(replicas).items():
        if may_see(volume_id):
            found += [
                (nqn, address, number)
                for address, number in ports_of(replicas.get(volume_id), local)
            ]
    entries = []
    for nqn, address, number in found:
        host, port = split_address(address)
        entries.append(DiscoveryEntry(nqn=nqn, host=host, port=port, port_id=number))
    return tuple(entries)


def discoverable(replicas: Replicas) -> Discoverable:
    """What discovery tells, whoever asks: when it is another, hosts that wait are told."""
    return tuple((nqn, ports_of(replicas.get(one), "")) for nqn, one in shown(replicas).items())

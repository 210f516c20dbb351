"""LUN 0 of a volume as this node shows it now."""

from __future__ import annotations

from sparrow.frontends.scsi.unit import LogicalUnit, UnitState
from sparrow.node.iscsi import group_of, port_group
from sparrow.node.volume import Volume


def unit_of(
    volume: Volume, cluster_id: str, *, gate_open: bool, primary_lives: bool
) -> LogicalUnit:
    """LUN 0 as this node shows it now; the gate and the primary as the core knew them when it was asked."""
    group = port_group(volume)
    line = volume.known_line
    members = () if line is None else line.members
    ports = {group, *(group_of(volume, member.replica_id) for member in members)}
    return LogicalUnit(
        volume_id=volume.volume_id,
        cluster_id=cluster_id,
        size_bytes=volume.size_bytes,
        block_bytes=volume.block_size,
        state=unit_state(volume, gate_open=gate_open, primary_lives=primary_lives),
        port_group=group,
        relative_port=group,
        relative_ports=tuple(sorted(ports)),
    )


def unit_state(volume: Volume, *, gate_open: bool, primary_lives: bool) -> UnitState:
    """What the gate allows, in the words of SCSI; only an open gate is ever called optimized.

    STANDBY sends an initiator elsewhere until its next polling interval, so it is said only while a primary is known
    to live: one that holds our grant. Otherwise something is about to change, and the path is worth another look.
    """
    line = volume.known_line
    failed = volume.disk_failed and not volume.frozen
    if failed and line is not None and line.replication_factor == 1:
        return UnitState.FAILED
    if volume.primacy is None:
        standby = line is not None and line.primary != volume.replica_id
        return UnitState.STANDBY if standby and primary_lives else UnitState.TRANSITIONING
    if not gate_open:
        return UnitState.TRANSITIONING
    assert line is not None
    if len(line.in_sync) < line.min_in_sync:
        return UnitState.WRITES_HELD
    return UnitState.NO_SPACE if volume.pool_full else UnitState.OPTIMIZED

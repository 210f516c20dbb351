"""What the control API shows, made from what the authority loop knows."""

from __future__ import annotations

from collections.abc import Mapping

from sparrow.authority.status import ReplicaStatus, VolumeStatus
from sparrow.authority.types import AckPolicy, PeerProgress, RoleClaim, VolumeShape
from sparrow.base.access import AccessList
from sparrow.base.ids import Lsn, NodeId, ReplicaId
from sparrow.lifecycle.nodes import REFUSALS
from sparrow.lifecycle.placement import NodeRoom
from sparrow.master.driver import Driver
from sparrow.master.inventory import Inventory
from sparrow.master.node_states import NodeStates
from sparrow.rpc.messages import Heartbeat, NodeView, ReplicaView, VolumeView


def volume_view(status: VolumeStatus) -> VolumeView:
    """One volume for an operator; a retired line is not shown as a line."""
    shape = _shape(status)
    line = status.line if status.line is not None and not status.line.retired else None
    told = told_progress(status)
    return VolumeView(
        name=status.volume_id,
        size_bytes=max(shape.size_bytes, status.size_bytes),
        block_size=shape.block_size,
        replication_factor=shape.replication_factor,
        state=status.state.value,
        cause=status.cause,
        line=line,
        replicas=tuple(_replica_view(replica, told) for replica in status.replicas),
        frontends=status.frontends,
        ack=shape.ack.value,
        uncommitted=_uncommitted(status, shape),
        size_wanted=0 if status.desired is None else status.desired.size_wanted,
        access=AccessList() if status.desired is None else status.desired.access,
        attached_to="" if status.desired is None else status.desired.attached_to,
    )


def _uncommitted(status: VolumeStatus, shape: VolumeShape) -> int:
    """What the loss of the primary now would take along: answered when durable there, not on all in sync yet."""
    if shape.ack is not AckPolicy.LOCAL:
        return 0
    found = [replica.fact for replica in status.replicas if replica.role == "primary"]
    return max((fact.durable_lsn - fact.commit_lsn for fact in found if fact), default=0)


def told_progress(status: VolumeStatus) -> dict[ReplicaId, PeerProgress]:
    """What the primary says of its peers, by replica."""
    return {
        one.replica_id: one
        for replica in status.replicas
        if replica.fact is not None and replica.fact.role_claim is RoleClaim.PRIMARY
        for one in replica.fact.peers
    }


def known_nodes(driver: Driver, inventory: Inventory) -> set[NodeId]:
    """Nodes heard from since the master started, and nodes that desired volumes are placed on."""
    placed = {node_id for node_id in driver.authority.placed() if _has_slots(driver, node_id)}
    return placed | {heartbeat.node_id for heartbeat in inventory}


def _has_slots(driver: Driver, node_id: NodeId) -> bool:
    """Nearly always the first volume says so."""
    for volume_id in driver.authority.placed().get(node_id, ()):
        desired = driver.authority.desired(volume_id)
        if desired is not None and any(slot.node_id == node_id for slot in desired.slots):
            return True
    return False


def node_rooms(driver: Driver, inventory: Inventory, states: NodeStates) -> tuple[NodeRoom, ...]:
    """The nodes as placement sees them."""
    now = driver.clock.now()
    failed = driver.authority.observations.nodes_of_failed_disks()
    rooms = []
    for node_id in sorted(known_nodes(driver, inventory)):
        heartbeat = inventory.get(node_id)
        ready = driver.authority.node_status(node_id, now).state == "ready"
        rooms.append(
            NodeRoom(
                node_id=node_id,
                ready=ready and heartbeat is not None,
                eligible=heartbeat is None or heartbeat.eligible,
                refused=REFUSALS.get(states.of(node_id), ""),
                total_bytes=0 if heartbeat is None else heartbeat.pool_total_bytes,
                free_bytes=0 if heartbeat is None else heartbeat.pool_free_bytes,
                replica_used_bytes=0 if heartbeat is None else heartbeat.replica_used_bytes,
                zone="" if heartbeat is None else heartbeat.zone,
                disk_failed=node_id in failed,
            )
        )
    return tuple(rooms)


def _shape(status: VolumeStatus) -> VolumeShape:
    if status.desired is not None:
        return status.desired.shape
    line = status.line
    assert line is not None, "a status has a desired volume or a line"
    return VolumeShape(
        size_bytes=line.size_bytes,
        block_size=line.block_size,
        replication_factor=line.replication_factor,
        ack=line.ack,
        min_in_sync=line.min_in_sync,
    )


def _replica_view(replica: ReplicaStatus, told: Mapping[ReplicaId, PeerProgress]) -> ReplicaView:
    fact = replica.fact
    return ReplicaView(
        replica_id=replica.replica_id,
        node_id=replica.node_id,
        role=replica.role,
        durable_lsn=Lsn(0) if fact is None else fact.durable_lsn,
        commit_lsn=Lsn(0) if fact is None else fact.commit_lsn,
        state="" if fact is None else fact.state.value,
        progress=told.get(replica.replica_id),
    )


def node_view(
    driver: Driver, node_id: NodeId, heartbeat: Heartbeat | None, states: NodeStates
) -> NodeView:
    """One node for an operator."""
    now = driver.clock.now()
    status = driver.authority.node_status(node_id, now)
    return NodeView(
        node_id=node_id,
        state="never_seen" if heartbeat is None else status.state,
        ctrl_addr="" if heartbeat is None else heartbeat.ctrl_addr,
        data_addr="" if heartbeat is None else heartbeat.data_addr,
        iscsi_addr="" if heartbeat is None else heartbeat.iscsi_addr,
        pool_total_bytes=0 if heartbeat is None else heartbeat.pool_total_bytes,
        pool_free_bytes=0 if heartbeat is None else heartbeat.pool_free_bytes,
        replica_count=status.replica_count,
        primary_count=status.primary_count,
        last_heard_s=0.0 if status.heard_at is None else max(0.0, now - status.heard_at),
        desired_state=states.of(node_id).value,
        troubles=() if heartbeat is None else heartbeat.troubles,
        zone="" if heartbeat is None else heartbeat.zone,
    )

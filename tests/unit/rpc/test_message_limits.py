"""No message that one node with very many replicas makes necessary is larger than gRPC lets through."""

from __future__ import annotations

import pytest

from sparrow.authority.effects import AllowAccess
from sparrow.authority.recovery import HeldReplica, NodeAnswer
from sparrow.authority.types import (
    AckPolicy,
    AssignmentFact,
    FrontendTarget,
    Line,
    Lineage,
    Member,
    Peer,
    PeerProgress,
    ReplicaState,
    RoleClaim,
    SlotFact,
    Term,
)
from sparrow.base.access import AccessEntry, AccessList, Frontend, Secret
from sparrow.base.constants import MEMBERS_MAX, VOLUME_BYTES_MAX, VOLUME_NAME_BYTES_MAX
from sparrow.base.ids import EndpointVersion, Epoch, Lsn, NodeId, ReplicaId, ReplicaUuid, VolumeId
from sparrow.lifecycle.access import ENTRIES_MAX, NAME_BYTES_MAX, SECRET_BYTES_MAX
from sparrow.master.control_service import AT_ONCE
from sparrow.master.heartbeat import FRONTENDS_MAX, SLOTS_MAX, check_heartbeat
from sparrow.rpc import codec
from sparrow.rpc.messages import Heartbeat, NodeDetails, ReplacementView
from sparrow.rpc.server import MESSAGE_BYTES_MAX
from tests.support.fake_master import node_view

#: Everything as long, and every number as large, as it may be. Host names are addresses of IPv6.
NAME = "n" * VOLUME_NAME_BYTES_MAX
ADDRESS = "[2001:0db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535"
UUID = ReplicaUuid("f" * 32)
LSN = Lsn((1 << 64) - 1)
TERM = Term(epoch=Epoch((1 << 63) - 1), start=(1 << 64) - 1)
LINEAGE = Lineage(epoch=Epoch((1 << 63) - 1), endpoint_version=EndpointVersion((1 << 63) - 1))
NODE = NodeId(NAME)
#: The master makes these: "r" and a count.
REPLICA = ReplicaId("r4294967295")
TARGETS = tuple(
    FrontendTarget(protocol="iscsi", addr=ADDRESS, name=f"iqn.2025-01.io.sparrow:{NAME}", lun=0)
    for _ in range(FRONTENDS_MAX)
)


def name_of(number: int) -> VolumeId:
    return VolumeId(f"{number:0{VOLUME_NAME_BYTES_MAX}d}")


def longest_line(volume_id: VolumeId) -> Line:
    members = tuple(
        Member(
            replica_id=ReplicaId(f"r429496729{place}"),
            node_id=NODE,
            uuid=UUID,
            data_addr=ADDRESS,
            ctrl_addr=ADDRESS,
        )
        for place in range(MEMBERS_MAX)
    )
    names = tuple(member.replica_id for member in members)
    return Line(
        volume_id=volume_id,
        lineage=LINEAGE,
        primary=names[0],
        members=members,
        in_sync=names,
        eligible=names,
        size_bytes=VOLUME_BYTES_MAX,
        block_size=4096,
        replication_factor=3,
        ack=AckPolicy.QUORUM,
        min_in_sync=2,
        master_generation=(1 << 63) - 1,
        write_seq=(1 << 63) - 1,
        set_aside=names,
    )


def slot(number: int) -> SlotFact:
    return SlotFact(
        volume_id=name_of(number),
        replica_id=REPLICA,
        uuid=UUID,
        data_addr=ADDRESS,
        ctrl_addr=ADDRESS,
        ready_for_primary=True,
        eligible=True,
        state=ReplicaState.REBUILDING,
        lineage=LINEAGE,
        role_claim=RoleClaim.PRIMARY,
        gate_open=True,
        term=TERM,
        last_term=TERM,
        last_lsn=LSN,
        durable_lsn=LSN,
        commit_lsn=LSN,
        applied_lsn=LSN,
        primary_silent_ms=(1 << 32) - 1,
        frontends=TARGETS,
        size_bytes=VOLUME_BYTES_MAX,
        peers=tuple(
            PeerProgress(
                replica_id=REPLICA,
                kind="rebuild",
                done=LSN,
                total=LSN,
                rate=LSN,
                log_bytes=LSN,
                base_bytes=LSN,
            )
            for _ in range(MEMBERS_MAX - 1)
        ),
    )


@pytest.mark.parametrize("count", [1_000, SLOTS_MAX])
def test_a_whole_heartbeat(count: int) -> None:
    heartbeat = Heartbeat(
        node_id=NODE,
        incarnation=(1 << 31) - 1,
        sequence=(1 << 64) - 1,
        data_addr=ADDRESS,
        ctrl_addr=ADDRESS,
        iscsi_addr=ADDRESS,
        pool_total_bytes=1 << 60,
        pool_free_bytes=1 << 60,
        slots=tuple(slot(number) for number in range(count)),
        revision=(1 << 64) - 1,
        troubles=("x" * 1024,) * 16,
        zone=NAME,
    )
    check_heartbeat(heartbeat)
    assert len(codec.encode(heartbeat)) < MESSAGE_BYTES_MAX


@pytest.mark.parametrize("count", [1_000, SLOTS_MAX])
def test_what_a_node_holds(count: int) -> None:
    answer = NodeAnswer(
        node_id=NODE,
        cluster_id="f" * 32,
        master_generation=(1 << 63) - 1,
        replicas=tuple(
            HeldReplica(
                volume_id=name_of(number),
                replica_id=REPLICA,
                uuid=UUID,
                state=ReplicaState.REBUILDING,
                suspect=True,
                line=longest_line(name_of(number)),
                promised_epoch=Epoch((1 << 63) - 1),
                last_term=TERM,
                last_lsn=LSN,
            )
            for number in range(count)
        ),
    )
    assert len(codec.encode(answer)) < MESSAGE_BYTES_MAX


def test_a_node_and_all_that_is_moved_away_from_it() -> None:
    details = NodeDetails(
        node=node_view(NAME),
        replacements=tuple(
            ReplacementView(
                volume=name_of(number),
                replica_id=REPLICA,
                node_id=NODE,
                successor=NAME,
                successor_node=NAME,
                stage="move_primary",
                text="t" * 1024,
                cause="c" * 256,
            )
            for number in range(SLOTS_MAX)
        ),
        volumes_left=tuple(name_of(number) for number in range(SLOTS_MAX)),
        topology_version=1,
    )
    assert len(codec.encode(details)) < MESSAGE_BYTES_MAX


def test_what_a_node_is_told_comes_a_few_at_a_time() -> None:
    """A subscription sends so many things in a message, however many replicas the node has."""
    line = longest_line(name_of(1))
    peers = tuple(
        Peer(
            replica_id=member.replica_id,
            node_id=member.node_id,
            uuid=member.uuid,
            data_addr=ADDRESS,
            ctrl_addr=ADDRESS,
            frontends=TARGETS,
        )
        for member in line.members
    )
    fact = AssignmentFact(line=line, peers=peers, peer_revision=LSN, leaving=line.in_sync)
    assert len(codec.NODE_INSTRUCTIONS.encode((fact,) * AT_ONCE)) < MESSAGE_BYTES_MAX
    entries = tuple(
        AccessEntry(
            protocol=Frontend.ISCSI,
            name="i" * NAME_BYTES_MAX,
            secret="s" * NAME_BYTES_MAX,
            target_secret="t" * NAME_BYTES_MAX,
        )
        for _ in range(ENTRIES_MAX)
    )
    secrets = (Secret(name="s" * NAME_BYTES_MAX, value=bytes(SECRET_BYTES_MAX)),) * 2 * ENTRIES_MAX
    allow = AllowAccess(
        volume_id=name_of(1), access=AccessList(revision=1, entries=entries), secrets=secrets
    )
    assert len(codec.NODE_INSTRUCTIONS.encode((allow,) * AT_ONCE)) < MESSAGE_BYTES_MAX

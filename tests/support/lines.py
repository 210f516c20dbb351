"""Builders of lines, logs and answers for tests of the node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sparrow.authority.types import (
    AckPolicy,
    AssignmentFact,
    Line,
    Lineage,
    Member,
    Peer,
    ReplicaState,
    Term,
)
from sparrow.base.ids import EndpointVersion, Epoch, Lsn, NodeId, ReplicaId, ReplicaUuid, VolumeId
from sparrow.ports.dataplane import FenceReport, LogSummary, TermRow

VOLUME = VolumeId("v1")
SIZE = 1 << 20


def rid(name: str) -> ReplicaId:
    return ReplicaId(name)


def uuid_of(name: str) -> ReplicaUuid:
    return ReplicaUuid(name.encode().hex().rjust(32, "0"))


def member(name: str, uuid: ReplicaUuid | None = None) -> Member:
    return Member(
        replica_id=rid(name),
        node_id=NodeId(f"n{name}"),
        uuid=uuid or uuid_of(name),
        data_addr=f"n{name}:data",
        ctrl_addr=f"n{name}:ctrl",
    )


def lineage(epoch: int, endpoint_version: int) -> Lineage:
    return Lineage(epoch=Epoch(epoch), endpoint_version=EndpointVersion(endpoint_version))


def line(
    epoch: int,
    endpoint_version: int,
    primary: str,
    in_sync: str,
    *,
    members: str | tuple[Member, ...] = "abc",
    min_in_sync: int = 1,
    eligible: str = "",
    generation: int = 1,
    retired: bool = False,
    ack: AckPolicy = AckPolicy.SYNC,
) -> Line:
    """``line(2, 1, "b", "bc")`` is (2,1){b,c} with primary b."""
    built = tuple(member(m) for m in members) if isinstance(members, str) else members
    return Line(
        volume_id=VOLUME,
        lineage=lineage(epoch, endpoint_version),
        primary=rid(primary),
        members=built,
        in_sync=tuple(rid(r) for r in sorted(in_sync)),
        eligible=tuple(rid(r) for r in sorted(eligible)),
        size_bytes=SIZE,
        block_size=512,
        replication_factor=len(built),
        ack=ack,
        min_in_sync=min_in_sync,
        master_generation=generation,
        write_seq=epoch * 100 + endpoint_version,
        retired=retired,
    )


def peers_of(of: Line) -> tuple[Peer, ...]:
    return tuple(
        Peer(
            replica_id=m.replica_id,
            node_id=m.node_id,
            uuid=m.uuid,
            data_addr=m.data_addr,
            ctrl_addr=m.ctrl_addr,
        )
        for m in of.members
    )


def fact(line: Line, revision: int = 1) -> AssignmentFact:
    """What the master says of it."""
    return AssignmentFact(line=line, peers=peers_of(line), peer_revision=revision)


def later(line: Line, **changes: Any) -> Line:
    """The line one endpoint version on."""
    lineage = replace(line.lineage, endpoint_version=line.lineage.endpoint_version + 1)
    return replace(line, lineage=lineage, **changes)


def moved(line: Line, primary: str, **changes: Any) -> Line:
    """The line of the next epoch, with another primary."""
    lineage = replace(line.lineage, epoch=Epoch(line.lineage.epoch + 1), endpoint_version=1)
    return replace(line, lineage=lineage, primary=rid(primary), **changes)


def term(epoch: int, start: int = 1) -> Term:
    return Term(epoch=Epoch(epoch), start=start)


def log(
    name: str,
    last_lsn: int,
    last_term: Term | None = None,
    *,
    commit: int = 0,
    must_reach: int = 0,
    oldest: int = 1,
    state: ReplicaState = ReplicaState.CLEAN,
    uuid: ReplicaUuid | None = None,
) -> LogSummary:
    at = last_term or term(1)
    rows = (TermRow(term=at, first_lsn=Lsn(oldest), last_lsn=Lsn(last_lsn)),) if last_lsn else ()
    return LogSummary(
        uuid=uuid or uuid_of(name),
        terms=rows,
        last_term=at,
        last_lsn=Lsn(last_lsn),
        last_check=last_lsn * 7,
        oldest_lsn=Lsn(oldest),
        durable_lsn=Lsn(last_lsn),
        commit_lsn=Lsn(commit),
        applied_lsn=Lsn(commit),
        must_reach_lsn=Lsn(must_reach),
        state=state,
        suspect=False,
    )


def fence(
    name: str, last_lsn: int, last_term: Term | None = None, *, promise_ms: int = 0, **kw: object
) -> FenceReport:
    return FenceReport(
        log=log(name, last_lsn, last_term, **kw),  # type: ignore[arg-type]
        promise_ms=promise_ms,
        promised_epoch=Epoch(0),
    )

"""What the nodes' superblocks prove about a volume whose record is lost, damaged or out of date.

Every replica keeps the newest line it acted on. The newest line among all members is the truth only when every member
of it has answered: a line can live on one node alone, and that may be the node that is away. So a volume is confirmed
when the newest line seen is backed by all its members with the very files it means, and by every node the operator
named; anything else is listed, and mints nothing until an operator takes the loss upon himself.

A tombstone, and the lack of any line, prove less: "no files" is the right answer of every member then, and a life that
began afterwards may be on other nodes, which nothing that was seen means. Taken for the truth, either would end that
life or begin another one beside it. So such a volume waits, besides, for every node that lives: until those that are
up have had the time to be heard, and each that was heard has said what it holds, which it cannot say of files that it
cannot open. A node of such a life is up and is
heard, its line is newer, and the volume is what that line says; or it is away for longer, and nobody can know of it.

What follows a recovered line begins more than ``EPOCH_GAP`` epochs above everything seen, so that an epoch which
somebody away has lived through is never used twice; the master's generation is added, so that two recoveries of one
volume never begin at the same epoch, although nobody may have acted on what followed the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from sparrow.authority.types import (
    DesiredVolume,
    LeavingSlot,
    Line,
    Lineage,
    Member,
    PlacedSlot,
    ReplicaState,
    Term,
    VolumePhase,
    VolumeShape,
)
from sparrow.base.access import AccessList
from sparrow.base.constants import PAGE_BYTES
from sparrow.base.errors import FailedPrecondition
from sparrow.base.ids import EndpointVersion, Epoch, Lsn, NodeId, ReplicaId, ReplicaUuid, VolumeId

#: Epochs, mints and master generations that somebody away may have seen are passed over by this many.
EPOCH_GAP: Final = 1024
WRITE_SEQ_GAP: Final = 1024
GENERATION_GAP: Final = 1024

#: Files in these states hold nothing that a volume may be built on.
_UNFIT: Final = frozenset(
    {
        ReplicaState.REBUILDING,
        ReplicaState.QUARANTINED,
        ReplicaState.CONDEMNED,
        ReplicaState.RETIRED,
    }
)


class CannotRecover(FailedPrecondition, code="authority.cannot_recover"):
    """Not even by force: nothing is left to continue from."""


class MarkKind(StrEnum):
    """Why a volume's record may not be built on."""

    #: The store was lost; nodes hold the volume.
    LOST = "lost"
    #: The store is an older copy.
    RESTORED = "restored"
    #: The row was damaged. Repaired by an operator's verb only.
    DAMAGED = "damaged"
    #: Nodes have files of it that never acted on a line, and nothing is recorded of it. Shown, never marked.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A volume is unconfirmed: nothing is minted for it and no line of it is delivered. Durable."""

    volume_id: VolumeId
    kind: MarkKind
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldReplica:
    """One replica's files as their node has them open: evidence, not authority."""

    volume_id: VolumeId
    replica_id: ReplicaId
    uuid: ReplicaUuid
    state: ReplicaState
    #: Opened from one superblock copy only: its line may not be the last it acted on.
    suspect: bool
    #: Newest line acted on; None before the first.
    line: Line | None
    #: Highest epoch ever promised to anybody; 0 for none.
    promised_epoch: int
    last_term: Term | None
    last_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAnswer:
    """Everything one node holds, and the highest master generation it ever heard."""

    node_id: NodeId
    cluster_id: str
    master_generation: int
    replicas: tuple[HeldReplica, ...] = ()
    #: Volumes whose files are there and could not be opened.
    broken: tuple[VolumeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """Who did what to the authority, in words. ``at`` is set by the store: wall time, for people only."""

    verb: str
    volume_id: VolumeId
    who: str
    detail: str
    at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is known of one volume now.

    ``missing`` has one phrase for each thing that keeps ``newest`` from being certain. ``highest_epoch`` is the
    highest in any line or promise. ``highest_write_seq`` is the highest in any line, and not always that of ``newest``:
    what an older copy of the store has may be of a life before, with lower epochs and more mints; the store takes
    nothing below either. ``backing`` are the replicas of ``newest`` that answered with their own files. ``holders`` are
    all nodes with files of it, whatever is in them.
    """

    volume_id: VolumeId
    newest: Line | None
    highest_epoch: int
    highest_write_seq: int
    missing: tuple[str, ...]
    backing: tuple[HeldReplica, ...] = ()
    holders: tuple[NodeId, ...] = ()

    @property
    def confirmed(self) -> bool:
        return not self.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """A volume to take over: one durable change, with its audit entry.

    ``line`` None: it was never bound, only the mark goes. ``desired`` None: nothing is wanted of it any more.
    ``basis`` is the newest line seen, which ``line`` follows.
    """

    volume_id: VolumeId
    basis: Line | None
    line: Line | None
    desired: DesiredVolume | None
    audit: AuditEntry


def find(
    volume_id: VolumeId,
    answers: Mapping[NodeId, NodeAnswer],
    *,
    recorded: Line | None,
    placed: Sequence[PlacedSlot] = (),
    awaited: Sequence[str] = (),
    unheard: Iterable[str] = (),
) -> Finding:
    """Weigh all answers about one volume.

    Args:
        recorded: the line of an older copy of the store, believed as far as it goes; never a damaged row's.
        placed: where the desired volume's replicas are; counts only where no line is known at all.
        awaited: addresses of nodes the operator named that have not answered.
        unheard: what keeps it from being certain that all nodes that live have answered; counts only where no line of
            a life is known.
    """
    held = [
        (node_id, replica)
        for node_id, answer in sorted(answers.items())
        for replica in answer.replicas
        if replica.volume_id == volume_id
    ]
    lines = [replica.line for _, replica in held if replica.line is not None]
    lines = [line for line in lines if line.volume_id == volume_id]
    if recorded is not None:
        lines.append(recorded)
    newest = max(lines, key=lambda line: line.lineage, default=None)
    missing = [f"no answer from {address}" for address in awaited]
    if newest is None or newest.retired:
        missing += unheard
        missing += _unread(volume_id, newest, answers)
    backing: list[HeldReplica] = []
    if newest is None:
        missing += _absent(placed, answers)
        if not placed:
            missing.append("nobody who answered holds a line of it")
    else:
        if any(line != newest for line in lines if line.lineage == newest.lineage):
            missing.append(f"two different lines {_say(newest.lineage)} exist")
        for member in newest.members:
            found, cause = _word_of(volume_id, member, newest, answers.get(member.node_id))
            if found is not None:
                backing.append(found)
            if cause:
                missing.append(cause)
        missing += _promises(newest, backing)
    epochs: list[int] = [line.lineage.epoch for line in lines]
    epochs += [replica.promised_epoch for _, replica in held]
    return Finding(
        volume_id=volume_id,
        newest=newest,
        highest_epoch=max(epochs, default=0),
        highest_write_seq=max((line.write_seq for line in lines), default=0),
        missing=tuple(missing),
        backing=tuple(backing),
        holders=tuple(
            node_id
            for node_id, answer in sorted(answers.items())
            if volume_id in answer.broken or any(node_id == one for one, _ in held)
        ),
    )


def confirmed_line(finding: Finding, master_generation: int) -> Line:
    """The line that follows a confirmed newest one: the same in everything, in an epoch of its own."""
    assert finding.confirmed, "a volume that is not confirmed is recovered by force only"
    assert finding.newest is not None, "asked only where a line was seen"
    return _follow(finding.newest, finding, master_generation)


def forced_line(finding: Finding, master_generation: int) -> Line:
    """The line an operator insists on: what answered of the newest line seen, without the rest.

    Raises:
        CannotRecover: of the replicas in sync none answered with usable files.
    """
    newest = finding.newest
    if newest is None:
        raise CannotRecover(
            f"No node that answered holds a line of volume {finding.volume_id}.",
            hint="Bring back a node that has its files.",
        )
    if newest.retired:
        return _follow(newest, finding, master_generation)
    fit = {
        replica.replica_id: replica
        for replica in finding.backing
        if replica.replica_id in newest.in_sync
        and not replica.suspect
        and replica.state not in _UNFIT
    }
    if not fit:
        raise CannotRecover(
            f"Of {', '.join(newest.in_sync)}, in sync in the newest line seen of volume"
            f" {finding.volume_id}, none answered with usable files.",
            hint="Bring back one of them; replicas out of sync miss acknowledged writes.",
        )
    primary = newest.primary
    if primary not in fit:
        primary = max(sorted(fit), key=lambda one: _progress(fit[one]))
    line = _follow(newest, finding, master_generation)
    return replace(line, primary=primary, in_sync=tuple(sorted(fit)))


def reset_line(
    finding: Finding,
    desired: DesiredVolume | None,
    recorded_epoch: int,
    master_generation: int,
    *,
    epoch_floor: int = 0,
) -> Line:
    """The tombstone that ends a volume whatever its record says; a volume of this name continues above it.

    Args:
        recorded_epoch: what the damaged row's column says; 0 when nothing.
        epoch_floor: of the store; the row may have begun there, and nothing that can be read says so.
    """
    above = max(finding.highest_epoch, recorded_epoch, epoch_floor)
    if finding.newest is not None:
        line = _follow(finding.newest, finding, master_generation)
        return replace(
            line,
            lineage=_beyond(above, master_generation),
            retired=True,
        )
    shape = VolumeShape(
        size_bytes=PAGE_BYTES, block_size=PAGE_BYTES, replication_factor=1, min_in_sync=1
    )
    shape = shape if desired is None else desired.shape
    return Line(
        volume_id=finding.volume_id,
        lineage=_beyond(above, master_generation),
        primary=ReplicaId("none"),
        members=(),
        in_sync=(),
        size_bytes=shape.size_bytes,
        block_size=shape.block_size,
        replication_factor=shape.replication_factor,
        ack=shape.ack,
        min_in_sync=shape.min_in_sync,
        master_generation=master_generation,
        write_seq=WRITE_SEQ_GAP,
        retired=True,
    )


def desired_of(line: Line, held: DesiredVolume | None) -> DesiredVolume | None:
    """The desired volume a recovered line stands for; None for a tombstone of which nothing is wanted.

    A line with more members than copies are wanted was in the middle of a move: the best are kept, the others leave.
    """
    if line.retired:
        return None if held is None else replace(held, phase=VolumePhase.DELETING)
    deleting = held is not None and held.phase is VolumePhase.DELETING
    ranked = sorted(
        line.members,
        key=lambda one: (
            one.replica_id != line.primary,
            one.replica_id not in line.in_sync,
            one.replica_id,
        ),
    )
    kept, surplus = ranked[: line.replication_factor], ranked[line.replication_factor :]
    return DesiredVolume(
        volume_id=line.volume_id,
        shape=VolumeShape(
            size_bytes=line.size_bytes,
            block_size=line.block_size,
            replication_factor=line.replication_factor,
            ack=line.ack,
            min_in_sync=line.min_in_sync,
        ),
        slots=tuple(
            PlacedSlot(replica_id=member.replica_id, node_id=member.node_id)
            for member in sorted(kept, key=lambda one: one.replica_id)
        ),
        leaving=tuple(
            LeavingSlot(
                replica_id=member.replica_id,
                node_id=member.node_id,
                successor=kept[-1].replica_id,
                cause="more members than copies are wanted, in a recovered line",
            )
            for member in surplus
        ),
        phase=VolumePhase.DELETING if deleting else VolumePhase.ACTIVE,
        # No line has these: they are what the store that was restored says, or nothing.
        size_wanted=0 if held is None else held.size_wanted,
        access=AccessList() if held is None else held.access,
        attached_to="" if held is None else held.attached_to,
    )


def loss(finding: Finding) -> str:
    """What may be lost when a volume is recovered by force now, in one or two sentences."""
    newest = finding.newest
    if newest is None:
        return "No line of it is known: everything in it is lost."
    if newest.retired:
        return "The newest line seen is a tombstone: the volume stays deleted."
    if not finding.missing:
        return "Nothing: every member of the newest line has answered."
    left = sorted(
        {m.replica_id for m in newest.members} - {one.replica_id for one in finding.backing}
    )
    whom = f" If {', '.join(left)} acted on a newer line," if left else " If a newer line exists,"
    return (
        f"The newest line seen is {_say(newest.lineage)} with {', '.join(newest.in_sync)} in sync."
        f"{whom} every write acknowledged under it is lost, and those files are set aside when they return."
    )


def _follow(newest: Line, finding: Finding, master_generation: int) -> Line:
    return replace(
        newest,
        lineage=_beyond(finding.highest_epoch, master_generation),
        eligible=(),
        master_generation=master_generation,
        write_seq=finding.highest_write_seq + WRITE_SEQ_GAP,
    )


def _beyond(epoch: int, master_generation: int) -> Lineage:
    """The generation makes it another epoch than the one a master before gave to the same findings and then lost."""
    return Lineage(
        epoch=Epoch(epoch + EPOCH_GAP + master_generation), endpoint_version=EndpointVersion(1)
    )


def _word_of(
    volume_id: VolumeId, member: Member, newest: Line, answer: NodeAnswer | None
) -> tuple[HeldReplica | None, str]:
    """A member's own files, if they answered, and what keeps its word from counting."""
    name = f"{member.replica_id} on {member.node_id}"
    if answer is None:
        return None, f"no answer from {name} ({member.ctrl_addr})"
    if volume_id in answer.broken:
        return None, f"{name} cannot open its files"
    held = [
        replica
        for replica in answer.replicas
        if replica.volume_id == volume_id and replica.replica_id == member.replica_id
    ]
    if not held:
        # A retired volume's files are removed one node after the other; that is how it should be.
        return None, "" if newest.retired else f"{name} has no files of it"
    replica = held[0]
    if replica.uuid != member.uuid:
        return None, f"{name} has other files ({replica.uuid}) than the line means ({member.uuid})"
    if replica.suspect:
        return replica, f"{name} cannot tell whether its line is its last"
    return replica, ""


def _absent(placed: Sequence[PlacedSlot], answers: Mapping[NodeId, NodeAnswer]) -> Iterator[str]:
    for slot in placed:
        if slot.node_id not in answers:
            yield f"no answer from {slot.replica_id} on {slot.node_id}"


def _unread(
    volume_id: VolumeId, newest: Line | None, answers: Mapping[NodeId, NodeAnswer]
) -> Iterator[str]:
    """Nodes with files that no line seen means and that cannot be opened: they may be of a life after the tombstone.

    Taken as told of a tombstone, such a node deletes them, for it cannot tell that they know better. Of a living line
    this is not asked: whoever was a member after it was made one by a primary that is a member of it and knew.
    """
    members = set() if newest is None else {member.node_id for member in newest.members}
    for node_id, answer in sorted(answers.items()):
        if volume_id in answer.broken and node_id not in members:
            yield f"{node_id} has files of it that cannot be opened"


def _promises(newest: Line, backing: Sequence[HeldReplica]) -> Iterator[str]:
    """A promise above the newest line: its primary, which nobody here has heard from, acted on a newer one."""
    for replica in backing:
        if replica.promised_epoch > newest.lineage.epoch:
            yield (
                f"{replica.replica_id} promised epoch {replica.promised_epoch}, of which nobody holds a line"
            )


def _progress(replica: HeldReplica) -> tuple[int, int, int]:
    term = replica.last_term
    return (0, 0, 0) if term is None else (term.epoch, term.start, replica.last_lsn)


def _say(lineage: Lineage) -> str:
    return f"({lineage.epoch},{lineage.endpoint_version})"

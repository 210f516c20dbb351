"""What is true of every line, and of every step from one line to the next.

Checked after every mint, in production too: it costs microseconds, and a line that breaks one of these would be
believed by every node.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparrow.authority.quorum import commits_on_some
from sparrow.authority.recovery import EPOCH_GAP
from sparrow.authority.types import Line, Lineage
from sparrow.base.constants import MEMBERS_MAX
from sparrow.base.errors import LocalProtocolError
from sparrow.base.ids import EndpointVersion, Epoch, ReplicaId


class BrokenInvariant(LocalProtocolError, code="authority.broken_invariant"):
    """A line that must not exist was about to be minted, or was read: a bug, or damage."""


def first_lineage(epoch_floor: int) -> Lineage:
    """Of a volume without a line, in a store with this floor (``authority.floor``)."""
    return Lineage(epoch=Epoch(epoch_floor + 1), endpoint_version=EndpointVersion(1))


def check(line: Line) -> None:
    """Raise ``BrokenInvariant`` unless the line holds together by itself."""
    ids = [member.replica_id for member in line.members]
    _require(bool(line.volume_id), "a line names its volume")
    _require(line.lineage.valid, "epoch and endpoint version are never 0")
    _require(line.write_seq >= 1, "write_seq counts from 1")
    _require(line.master_generation >= 1, "a master has a generation")
    _require(len(ids) <= MEMBERS_MAX, f"at most {MEMBERS_MAX} members")
    _require(len(set(ids)) == len(ids), "replica ids are distinct")
    _require(len({member.uuid for member in line.members}) == len(ids), "uuids are distinct")
    _require(len({member.node_id for member in line.members}) == len(ids), "nodes are distinct")
    _require(_sorted_subset(line.in_sync, ids), "in_sync is sorted, distinct and made of members")
    _require(_sorted_subset(line.eligible, ids), "eligible is sorted, distinct and made of members")
    _require(not set(line.in_sync) & set(line.eligible), "eligible replicas are not in sync")
    _require(_sorted_subset(line.set_aside, ids), "set_aside is sorted, distinct and of members")
    _require(
        not set(line.set_aside) & {*line.in_sync, *line.eligible},
        "who is set aside is neither in sync nor eligible",
    )
    _require(1 <= line.min_in_sync <= line.replication_factor, "min_in_sync is between 1 and RF")
    if line.retired:
        return
    _require(line.primary in line.in_sync, "the primary is in sync")
    _require(
        not line.eligible or len(line.in_sync) < line.min_in_sync,
        "eligible is kept only below min_in_sync",
    )


def check_transition(old: Line | None, new: Line, *, epoch_floor: int = 0) -> None:
    """Raise ``BrokenInvariant`` unless ``new`` may follow ``old`` (None: no line yet, in a store with this floor)."""
    check(new)
    if old is None:
        _require(new.lineage == first_lineage(epoch_floor), "lines begin right above the floor")
        _require(new.write_seq == 1, "the first mint has write_seq 1")
        return
    _require(new.volume_id == old.volume_id, "a line stays with its volume")
    _require(new.lineage > old.lineage, "lineage only grows")
    _require(new.write_seq == old.write_seq + 1, "write_seq counts every mint")
    _require(new.master_generation >= old.master_generation, "generations do not go back")
    if new.lineage.epoch == old.lineage.epoch:
        _check_same_epoch(old, new)
    else:
        _check_new_epoch(old, new)


def check_recovered(basis: Line | None, new: Line, *, epoch_floor: int = 0) -> None:
    """Raise ``BrokenInvariant`` unless ``new`` may continue from evidence of nodes (None: nobody had a line).

    The one step that passes over epochs: those in between may have been lived through by somebody who is away.
    """
    check(new)
    _require(new.lineage.endpoint_version == 1, "an epoch begins at endpoint version 1")
    _require(not new.eligible, "a new epoch begins with nobody eligible")
    if basis is None:
        _require(new.retired, "without any line only a tombstone can be made")
        _require(new.lineage.epoch > epoch_floor, "what follows no line is above the floor")
        return
    _require(new.volume_id == basis.volume_id, "a line stays with its volume")
    _require(
        new.lineage.epoch >= basis.lineage.epoch + EPOCH_GAP,
        f"a recovered line is {EPOCH_GAP} epochs above everything seen",
    )
    _require(new.write_seq > basis.write_seq, "write_seq grows")
    _require(new.master_generation >= basis.master_generation, "generations do not go back")
    _require(_shape(new) == _shape(basis), "size and policy stay")
    _require(new.members == basis.members, "members stay")
    _require(set(new.in_sync) <= set(basis.in_sync), "nobody gets in sync by a recovery")
    _require(new.set_aside == basis.set_aside, "who was set aside stays so")
    _require(new.retired or not basis.retired, "a tombstone stays a tombstone")


def _check_same_epoch(old: Line, new: Line) -> None:
    _require(
        new.lineage.endpoint_version == old.lineage.endpoint_version + 1,
        "endpoint versions are not skipped",
    )
    _require(not old.retired, "a retired epoch has ended")
    _require(new.primary == old.primary, "the primary changes only with the epoch")
    _require(_shape(new) == _shape(old), "size and policy stay")
    _require(len(set(new.in_sync) - set(old.in_sync)) <= 1, "one replica joins at a time")
    _require(
        set(new.eligible) <= set(old.eligible) | set(old.in_sync),
        "only who was in sync becomes eligible",
    )
    _require(set(new.set_aside) <= set(old.set_aside), "nobody is set aside within an epoch")
    _require(_uuids(old, new.in_sync) == _uuids(new, new.in_sync), "files in sync are not replaced")


def _check_new_epoch(old: Line, new: Line) -> None:
    _require(new.lineage.epoch == old.lineage.epoch + 1, "epochs are not skipped")
    _require(new.lineage.endpoint_version == 1, "an epoch begins at endpoint version 1")
    _require(not new.eligible, "a new epoch begins with nobody eligible")
    if old.retired:
        return
    _require(_shape(new) == _shape(old), "size and policy stay")
    if new.primary not in (*old.in_sync, *old.eligible):
        _check_stale(old, new)
        return
    _require(new.set_aside == old.set_aside, "who was set aside stays so")
    _require(
        set(new.in_sync) - {new.primary} <= set(old.in_sync),
        "a new epoch begins with replicas that were in sync",
    )
    _require(
        not commits_on_some(old) or set(old.in_sync) <= set(new.in_sync),
        "where an entry commits on some, a new epoch begins with all that were in sync",
    )
    _require(_uuids(old, new.in_sync) == _uuids(new, new.in_sync), "files in sync are not replaced")


def _check_stale(old: Line, new: Line) -> None:
    """A primary that was neither in sync nor eligible: alone, with everybody else's files kept as they are."""
    others = {member.replica_id for member in old.members} - {new.primary}
    _require(new.members == old.members, "members stay")
    _require(new.in_sync == (new.primary,), "who is recovered from is alone in sync")
    _require(set(new.set_aside) == others, "whoever else was a member is set aside")


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise BrokenInvariant(rule)


def _sorted_subset(some: Sequence[ReplicaId], ids: Sequence[ReplicaId]) -> bool:
    return sorted(set(some)) == list(some) and set(some) <= set(ids)


def _shape(line: Line) -> tuple[object, ...]:
    return (
        line.size_bytes,
        line.block_size,
        line.replication_factor,
        line.ack,
        line.min_in_sync,
        line.feature_level,
    )


def _uuids(line: Line, replica_ids: Sequence[ReplicaId]) -> set[object]:
    return {member.uuid for member in line.members if member.replica_id in replica_ids}

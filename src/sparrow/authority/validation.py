"""Whether an ask makes sense by itself, before any record is looked at."""

from __future__ import annotations

from collections.abc import Callable

from sparrow.authority.results import Refusal
from sparrow.authority.types import Ask, Intent
from sparrow.base.constants import MEMBERS_MAX, PAGE_BYTES, REPLICATION_FACTOR_MAX

#: These change the set as a whole and name no replica.
_NO_REPLICA_NEEDED = frozenset({Intent.SET_MEMBERS, Intent.RETIRE})
_MEMBERS_NEEDED = frozenset({Intent.BIND, Intent.SET_MEMBERS, Intent.REFRESH_ENDPOINT})
#: A line may be absent, and with it the basis.
_BASIS_OPTIONAL = frozenset({Intent.BIND, Intent.RETIRE})
_ASKER_NEEDED = frozenset({Intent.SHRINK_IN_SYNC, Intent.GROW_IN_SYNC})


def fault(ask: Ask) -> tuple[Refusal, str] | None:
    """The first thing wrong with an ask, or None. The order of the checks is fixed."""
    return next((found for check in _CHECKS if (found := check(ask)) is not None), None)


def _names(ask: Ask) -> tuple[Refusal, str] | None:
    if not ask.volume_id:
        return Refusal.NO_VOLUME, "the ask names no volume"
    if ask.intent not in _NO_REPLICA_NEEDED and not ask.replica_id:
        return Refusal.NO_REPLICA, "the ask names no replica"
    return None


def _addresses(ask: Ask) -> tuple[Refusal, str] | None:
    for member in ask.members:
        if not member.replica_id or not member.node_id:
            return Refusal.NO_REPLICA, "a member has no replica id or no node"
        if not member.data_addr:
            return Refusal.NO_DATA_ADDR, f"{member.replica_id} has no data address"
        if not member.ctrl_addr:
            return Refusal.NO_CTRL_ADDR, f"{member.replica_id} has no control address"
        if not member.uuid:
            return Refusal.NO_UUID, f"{member.replica_id} has no uuid"
    return None


def _intent(ask: Ask) -> tuple[Refusal, str] | None:
    try:
        Intent(ask.intent)
    except ValueError:
        return Refusal.UNKNOWN_INTENT, f"intent {ask.intent!r} is not one of ours"
    return None


def _members(ask: Ask) -> tuple[Refusal, str] | None:
    count = len(ask.members)
    if ask.intent in _MEMBERS_NEEDED and not count:
        return Refusal.NO_MEMBERS, f"{ask.intent.name} needs members"
    if count > MEMBERS_MAX:
        return Refusal.TOO_MANY_MEMBERS, f"{count} members, at most {MEMBERS_MAX}"
    for values in (
        {member.replica_id for member in ask.members},
        {member.node_id for member in ask.members},
        {member.uuid for member in ask.members},
    ):
        if len(values) != count:
            return Refusal.DUPLICATE_MEMBER, "two members share a replica id, a node or a uuid"
    if ask.intent is Intent.BIND and ask.replica_id not in {m.replica_id for m in ask.members}:
        return Refusal.NOT_A_MEMBER, f"{ask.replica_id} is not among the members"
    if ask.intent is Intent.REFRESH_ENDPOINT and (
        count != 1 or ask.members[0].replica_id != ask.replica_id
    ):
        return Refusal.NOT_A_MEMBER, "a refresh carries exactly the member it refreshes"
    return None


def _shape(ask: Ask) -> tuple[Refusal, str] | None:
    shape = ask.shape
    if shape is None:
        needed = ask.intent is Intent.BIND
        return (Refusal.NO_SHAPE, "a bind needs the volume's shape") if needed else None
    if not 1 <= shape.replication_factor <= REPLICATION_FACTOR_MAX:
        return Refusal.BAD_SHAPE, f"replication factor {shape.replication_factor} is out of range"
    if not 1 <= shape.min_in_sync <= shape.replication_factor:
        return Refusal.BAD_SHAPE, f"min_in_sync {shape.min_in_sync} is not within 1..RF"
    if shape.size_bytes <= 0 or shape.size_bytes % PAGE_BYTES:
        return Refusal.BAD_SHAPE, f"size {shape.size_bytes} is not a positive number of pages"
    if ask.intent is Intent.BIND and len(ask.members) != shape.replication_factor:
        return (
            Refusal.BAD_SHAPE,
            f"{len(ask.members)} members for replication factor {shape.replication_factor}",
        )
    return None


def _basis(ask: Ask) -> tuple[Refusal, str] | None:
    if ask.basis is None:
        if ask.intent in _BASIS_OPTIONAL:
            return None
        return Refusal.NO_BASIS, f"{ask.intent.name} needs the line it was decided against"
    if not ask.basis.valid:
        return Refusal.NO_BASIS, "0 is never an epoch or an endpoint version"
    return None


def _asker(ask: Ask) -> tuple[Refusal, str] | None:
    if ask.intent in _ASKER_NEEDED and not ask.asker:
        return Refusal.NO_ASKER, f"{ask.intent.name} needs the replica that asks"
    return None


_CHECKS: tuple[Callable[[Ask], tuple[Refusal, str] | None], ...] = (
    _names,
    _addresses,
    _intent,
    _members,
    _shape,
    _basis,
    _asker,
)

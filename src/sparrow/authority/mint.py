"""What each intent makes of the recorded line: the only place where epochs and endpoint versions are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from sparrow.authority.invariants import first_lineage
from sparrow.authority.quorum import commits_on_some
from sparrow.authority.results import Refusal
from sparrow.authority.types import Ask, Intent, Line, Lineage, Member
from sparrow.base.ids import EndpointVersion, Epoch, ReplicaId


class MintRefused(Exception):
    """No line follows from this ask. ``burnt`` is a line to mint all the same, so that the basis is used up."""

    def __init__(self, refusal: Refusal, message: str, burnt: Line | None = None) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.burnt = burnt


def next_line(
    old: Line | None,
    ask: Ask,
    master_generation: int,
    can_hand_over: Callable[[Line, ReplicaId], bool],
    *,
    epoch_floor: int = 0,
) -> Line | None:
    """The line that follows ``old`` when a valid ``ask`` is applied, or None if nothing changes.

    Args:
        epoch_floor: of the store; where there is no ``old``, epochs begin above it.

    Raises:
        MintRefused: a rule says no.
    """
    if ask.intent is Intent.BIND:
        return _bind(old, ask, master_generation, epoch_floor)
    if ask.intent is Intent.RETIRE:
        return _retire(old, ask, master_generation, epoch_floor)
    if old is None:
        raise MintRefused(Refusal.NOT_BOUND, "the volume has no line")
    if old.retired:
        raise MintRefused(Refusal.RETIRED, "the volume was retired")
    _compare_basis(old, ask)
    match ask.intent:
        case Intent.REFRESH_ENDPOINT:
            return _refresh(old, ask, master_generation)
        case Intent.REASSIGN:
            return _reassign(old, ask, master_generation)
        case Intent.SET_MEMBERS:
            return _set_members(old, ask, master_generation)
        case Intent.RECOVER_STALE:
            return _recover_stale(old, ask, master_generation)
        case Intent.DISCARD_DIVERGENT:
            return _discard(old, ask, master_generation)
        case Intent.SHRINK_IN_SYNC:
            _require_primary(old, ask)
            return _shrink(old, ask, master_generation, can_hand_over)
        case Intent.GROW_IN_SYNC:
            _require_primary(old, ask)
            return _grow(old, ask, master_generation)


def _compare_basis(old: Line, ask: Ask) -> None:
    if ask.basis is None or ask.basis < old.lineage:
        raise MintRefused(
            Refusal.STALE_BASIS, f"{_say(ask.basis)} is not the line, {_say(old.lineage)} is"
        )
    if ask.basis > old.lineage:
        raise MintRefused(
            Refusal.BASIS_AHEAD, f"{_say(ask.basis)} is newer than the recorded {_say(old.lineage)}"
        )


def _require_primary(old: Line, ask: Ask) -> None:
    if ask.asker != old.primary:
        raise MintRefused(Refusal.NOT_PRIMARY, f"{ask.asker} is not primary, {old.primary} is")


def _bind(old: Line | None, ask: Ask, generation: int, epoch_floor: int) -> Line:
    shape = ask.shape
    assert shape is not None, "validated"
    if old is not None:
        if not old.retired:
            raise MintRefused(
                Refusal.ALREADY_BOUND, f"the volume has a line at {_say(old.lineage)}"
            )
        _compare_basis(old, ask)
    elif ask.basis is not None:
        raise MintRefused(Refusal.BASIS_AHEAD, f"{_say(ask.basis)} is not recorded, nothing is")
    return Line(
        volume_id=ask.volume_id,
        lineage=first_lineage(epoch_floor) if old is None else _next_epoch(old),
        primary=ask.replica_id,
        members=_sorted(ask.members),
        in_sync=tuple(sorted(member.replica_id for member in ask.members)),
        size_bytes=shape.size_bytes,
        block_size=shape.block_size,
        replication_factor=shape.replication_factor,
        ack=shape.ack,
        min_in_sync=shape.min_in_sync,
        master_generation=generation,
        write_seq=1 if old is None else old.write_seq + 1,
    )


def _retire(old: Line | None, ask: Ask, generation: int, epoch_floor: int) -> Line | None:
    if old is not None:
        if old.retired:
            return None
        _compare_basis(old, ask)
        return _step(old, generation, eligible=(), retired=True)
    if ask.shape is None or not ask.replica_id:
        raise MintRefused(Refusal.NOT_BOUND, "the volume has no line to retire")
    # A volume deleted before it was bound leaves a tombstone as well: nodes delete files on a tombstone only.
    return Line(
        volume_id=ask.volume_id,
        lineage=first_lineage(epoch_floor),
        primary=ask.replica_id,
        members=_sorted(ask.members),
        in_sync=(),
        size_bytes=ask.shape.size_bytes,
        block_size=ask.shape.block_size,
        replication_factor=ask.shape.replication_factor,
        ack=ask.shape.ack,
        min_in_sync=ask.shape.min_in_sync,
        master_generation=generation,
        write_seq=1,
        retired=True,
    )


def _refresh(old: Line, ask: Ask, generation: int) -> Line | None:
    if ask.replica_id != old.primary:
        raise MintRefused(Refusal.NOT_PRIMARY, f"{ask.replica_id} is not primary, {old.primary} is")
    wanted, held = ask.members[0], old.primary_member
    if wanted.uuid != held.uuid or wanted.node_id != held.node_id:
        raise MintRefused(Refusal.UUID_MISMATCH, f"{ask.replica_id} means other files in the line")
    if wanted == held:
        return None
    return _step(old, generation, members=_replaced(old.members, wanted))


def _reassign(old: Line, ask: Ask, generation: int) -> Line:
    target = ask.replica_id
    if old.member(target) is None:
        raise MintRefused(Refusal.NOT_A_MEMBER, f"{target} is not a member")
    allowed = set(old.in_sync) | (set(old.eligible) if ask.from_eligible else set())
    if target not in allowed:
        raise MintRefused(
            Refusal.NOT_IN_SYNC, f"{target} is not in sync: {', '.join(old.in_sync)} are"
        )
    if commits_on_some(old):
        # Nobody has everything for sure: whoever is left out might be the second copy of something acknowledged.
        kept = set(old.in_sync) | {target}
    else:
        kept = (set(old.in_sync) - {old.primary} - set(ask.leave_out)) | {target}
    return replace(
        old,
        lineage=_next_epoch(old),
        primary=target,
        in_sync=tuple(sorted(kept)),
        eligible=(),
        master_generation=generation,
        write_seq=old.write_seq + 1,
    )


def _shrink(
    old: Line, ask: Ask, generation: int, can_hand_over: Callable[[Line, ReplicaId], bool]
) -> Line:
    leaving = ask.replica_id
    if leaving == old.primary:
        raise MintRefused(Refusal.PRIMARY_STAYS, "a primary does not leave its own in-sync set")
    kept = tuple(one for one in old.in_sync if one != leaving)
    below = len(kept) < old.min_in_sync
    leaves = kept != old.in_sync
    if leaves and below and not ask.clear_eligible and can_hand_over(old, leaving):
        raise MintRefused(
            Refusal.HAND_OVER_FIRST,
            f"without {leaving} only {len(kept)} of {old.min_in_sync} would be in sync, another can take over",
        )
    eligible = set(old.eligible) | ({leaving} if leaves and below else set())
    if ask.clear_eligible or not below:
        eligible = set()
    # Minted even if nothing changes: it cancels a Grow that may still be on its way.
    return _step(old, generation, in_sync=kept, eligible=tuple(sorted(eligible)))


def _grow(old: Line, ask: Ask, generation: int) -> Line | None:
    joining = ask.replica_id
    member = old.member(joining)
    if member is None:
        raise MintRefused(
            Refusal.NOT_A_MEMBER, f"{joining} is not a member", _step(old, generation)
        )
    if ask.uuid is not None and ask.uuid != member.uuid:
        raise MintRefused(
            Refusal.UUID_MISMATCH,
            f"{joining} has other files ({ask.uuid}) than the member ({member.uuid})",
            _step(old, generation),
        )
    if joining in old.set_aside:
        raise MintRefused(
            Refusal.SET_ASIDE, f"the files of {joining} are set aside", _step(old, generation)
        )
    if joining in old.in_sync:
        return None
    grown = tuple(sorted((*old.in_sync, joining)))
    eligible = tuple(one for one in old.eligible if one != joining)
    if len(grown) >= old.min_in_sync:
        eligible = ()
    return _step(old, generation, in_sync=grown, eligible=eligible)


def _set_members(old: Line, ask: Ask, generation: int) -> Line | None:
    members = _sorted(ask.members)
    if members == old.members:
        return None
    by_id = {member.replica_id: member for member in members}
    eligible = list(old.eligible)
    for replica_id in (*old.in_sync, *old.eligible):
        held, wanted = old.member(replica_id), by_id.get(replica_id)
        assert held is not None, "in_sync and eligible are members"
        if wanted is not None and (wanted.uuid, wanted.node_id) == (held.uuid, held.node_id):
            continue
        if wanted is None or wanted.node_id != held.node_id or replica_id in old.in_sync:
            raise MintRefused(
                Refusal.MEMBER_IN_USE, f"{replica_id} is in sync or eligible and cannot be replaced"
            )
        # Formatted anew where it was: what made it eligible is gone. The primary lives and has everything.
        eligible.remove(replica_id)
    return _step(
        old,
        generation,
        members=members,
        eligible=tuple(eligible),
        set_aside=_still_aside(old, by_id),
    )


def _still_aside(old: Line, by_id: dict[ReplicaId, Member]) -> tuple[ReplicaId, ...]:
    """Who stays set aside: everybody, but for files that were formatted over where they were."""
    kept = []
    for replica_id in old.set_aside:
        held, wanted = old.member(replica_id), by_id.get(replica_id)
        assert held is not None, "who is set aside is a member"
        if wanted is None or wanted.node_id != held.node_id:
            raise MintRefused(
                Refusal.SET_ASIDE, f"{replica_id} is set aside: its files are discarded first"
            )
        if wanted.uuid == held.uuid:
            kept.append(replica_id)
    return tuple(kept)


def _recover_stale(old: Line, ask: Ask, generation: int) -> Line:
    """An epoch that begins with one replica alone and everybody else's files kept as they are."""
    target = ask.replica_id
    if old.member(target) is None:
        raise MintRefused(Refusal.NOT_A_MEMBER, f"{target} is not a member")
    if target in (*old.in_sync, *old.eligible):
        raise MintRefused(
            Refusal.MEMBER_IN_USE, f"{target} is in sync or eligible: nothing is lost with it"
        )
    return replace(
        old,
        lineage=_next_epoch(old),
        primary=target,
        in_sync=(target,),
        eligible=(),
        set_aside=tuple(sorted(one.replica_id for one in old.members if one.replica_id != target)),
        master_generation=generation,
        write_seq=old.write_seq + 1,
    )


def _discard(old: Line, ask: Ask, generation: int) -> Line:
    if ask.replica_id not in old.set_aside:
        raise MintRefused(Refusal.NOT_SET_ASIDE, f"{ask.replica_id} is not set aside")
    kept = tuple(one for one in old.set_aside if one != ask.replica_id)
    return _step(old, generation, set_aside=kept)


def _step(
    old: Line,
    generation: int,
    *,
    members: tuple[Member, ...] | None = None,
    in_sync: tuple[ReplicaId, ...] | None = None,
    eligible: tuple[ReplicaId, ...] | None = None,
    set_aside: tuple[ReplicaId, ...] | None = None,
    retired: bool = False,
) -> Line:
    """The next line of the same epoch."""
    return replace(
        old,
        lineage=Lineage(
            epoch=old.lineage.epoch,
            endpoint_version=EndpointVersion(old.lineage.endpoint_version + 1),
        ),
        members=old.members if members is None else members,
        in_sync=old.in_sync if in_sync is None else in_sync,
        eligible=old.eligible if eligible is None else eligible,
        set_aside=old.set_aside if set_aside is None else set_aside,
        master_generation=generation,
        write_seq=old.write_seq + 1,
        retired=retired,
    )


def _next_epoch(old: Line) -> Lineage:
    return Lineage(epoch=Epoch(old.lineage.epoch + 1), endpoint_version=EndpointVersion(1))


def _sorted(members: Iterable[Member]) -> tuple[Member, ...]:
    return tuple(sorted(members, key=lambda member: member.replica_id))


def _replaced(members: Iterable[Member], new: Member) -> tuple[Member, ...]:
    return _sorted((*(one for one in members if one.replica_id != new.replica_id), new))


def _say(lineage: Lineage | None) -> str:
    return "no line" if lineage is None else f"({lineage.epoch},{lineage.endpoint_version})"

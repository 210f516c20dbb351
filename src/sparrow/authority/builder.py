"""From what nodes said to what may be decided on: one volume's snapshot, or why there is none.

Pure function of the observations, the desired volume and the recorded line. It never mints, and it never guesses:
what is missing makes a volume pending or unsupported, with reasons whose text is fixed. An initial Bind needs every
expected slot; a volume with a line needs only its primary, or one replica that could follow it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from sparrow.authority.observation import Heard, NodeSight, ObservationStore
from sparrow.authority.types import (
    DesiredVolume,
    Line,
    PlacedSlot,
    ReplicaState,
    RoleClaim,
    SlotFact,
)
from sparrow.base.constants import FRESHNESS_S
from sparrow.base.ids import Epoch, Lsn, NodeId, ReplicaId, ReplicaUuid, VolumeId

#: How long missing reports are normal: after the master's start, and after a volume was asked for.
GRACE_S = FRESHNESS_S


class Reason(StrEnum):
    """Why a volume cannot be decided on. The texts are fixed; people and tests search for them."""

    PARTIAL_INVENTORY = "PartialInventory"
    MISSING_SERVER_OBSERVATION = "MissingServerObservation"
    STALE_OBSERVATION = "StaleObservation"
    CONFLICTING_PRIMARY_CLAIM = "ConflictingPrimaryClaim"
    UNKNOWN_REPLICA_CLAIM = "UnknownReplicaClaim"
    DUPLICATE_SERVER_TOPOLOGY = "DuplicateServerTopology"
    #: A replica acted on a newer line than the record holds: the store is an old copy.
    RECORD_BEHIND_NODES = "RecordBehindNodes"
    RECORD_QUARANTINED = "RecordQuarantined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One expected replica and what is known of it now."""

    replica_id: ReplicaId
    #: Where it should be, as far as the line or the placement says.
    sight: NodeSight
    #: The files the line means; None before the first line.
    uuid: ReplicaUuid | None
    #: Newest report of these files by that node, fresh or not.
    fact: SlotFact | None
    #: Other files reported in their place.
    stranger: SlotFact | None = None

    @property
    def node_id(self) -> NodeId:
        return self.sight.node_id

    @property
    def covered(self) -> bool:
        return self.sight.fresh and self.fact is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSnapshot:
    """A volume that may be decided on.

    ``line`` is the recorded one, tombstone included; ``slots`` are its members, or the placed slots while there is
    no live line. ``orphans`` are reports of replicas that are neither; they are evidence only.
    """

    volume_id: VolumeId
    built_at: float
    line: Line | None
    desired: DesiredVolume | None
    slots: tuple[Slot, ...]
    #: No replica below this may become primary.
    highest_commit: Lsn
    orphans: tuple[Heard, ...] = ()

    @property
    def live_line(self) -> Line | None:
        return None if self.line is None or self.line.retired else self.line

    def slot(self, replica_id: ReplicaId) -> Slot | None:
        return next((slot for slot in self.slots if slot.replica_id == replica_id), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Supported:
    snapshot: VolumeSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """Too early to say; look again at ``until``."""

    volume_id: VolumeId
    evaluated_at: float
    reasons: tuple[Reason, ...]
    note: str
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported:
    """Cannot be decided on: sorted reasons, and the nodes whose words or silence they are about."""

    volume_id: VolumeId
    evaluated_at: float
    reasons: tuple[Reason, ...]
    offenders: tuple[NodeId, ...]
    note: str


Outcome: TypeAlias = Supported | Pending | Unsupported


def build(
    volume_id: VolumeId,
    *,
    desired: DesiredVolume | None,
    line: Line | None,
    observations: ObservationStore,
    grace_until: float,
    now: float,
) -> Outcome:
    """Evaluate one volume.

    Args:
        grace_until: missing reports are pending until then, unsupported afterwards.
    """
    if desired is None and (line is None or line.retired):
        offenders = tuple(one.sight.node_id for one in observations.heard(volume_id, now))
        note = "nobody asked for this volume"
        return _unsupported(volume_id, now, Reason.UNKNOWN_REPLICA_CLAIM, offenders, note)
    snapshot = snapshot_of(
        volume_id, desired=desired, line=line, observations=observations, now=now
    )
    live = snapshot.live_line
    if live is not None:
        fault = _behind(live, snapshot) or _conflict(snapshot)
        return fault or _line_coverage(live, snapshot, grace_until)
    fault = _duplicate(snapshot, observations)
    return fault or _bind_coverage(snapshot, grace_until)


def snapshot_of(
    volume_id: VolumeId,
    *,
    desired: DesiredVolume | None,
    line: Line | None,
    observations: ObservationStore,
    now: float,
) -> VolumeSnapshot:
    """What is known of a volume, whether or not it may be decided on."""
    heard = tuple(observations.heard(volume_id, now))
    if line is not None and not line.retired:
        slots, orphans = _member_slots(line, heard, observations, now)
    else:
        placed = () if desired is None else desired.slots
        slots, orphans = _placed_slots(placed, heard, observations, now)
    # What is set aside is another history: nobody has to reach what was committed in it.
    aside = () if line is None else line.set_aside
    uuids = frozenset(
        slot.uuid for slot in slots if slot.uuid is not None and slot.replica_id not in aside
    )
    return VolumeSnapshot(
        volume_id=volume_id,
        built_at=now,
        line=line,
        desired=desired,
        slots=slots,
        highest_commit=observations.highest_commit(volume_id, uuids),
        orphans=orphans,
    )


def _member_slots(
    line: Line, heard: tuple[Heard, ...], observations: ObservationStore, now: float
) -> tuple[tuple[Slot, ...], tuple[Heard, ...]]:
    used: set[int] = set()
    slots = []
    for member in line.members:
        fact = stranger = None
        for one in heard:
            if (one.sight.node_id, one.fact.replica_id) != (member.node_id, member.replica_id):
                continue
            if one.fact.uuid == member.uuid:
                fact = one.fact
                used.add(id(one))
            else:
                stranger = one.fact
        slots.append(
            Slot(
                replica_id=member.replica_id,
                sight=observations.sight(member.node_id, now),
                uuid=member.uuid,
                fact=fact,
                stranger=stranger,
            )
        )
    return tuple(slots), tuple(one for one in heard if id(one) not in used)


def _placed_slots(
    placed: tuple[PlacedSlot, ...],
    heard: tuple[Heard, ...],
    observations: ObservationStore,
    now: float,
) -> tuple[tuple[Slot, ...], tuple[Heard, ...]]:
    at = {(one.sight.node_id, one.fact.replica_id): one for one in heard}
    slots = []
    for place in placed:
        found = at.pop((place.node_id, place.replica_id), None)
        slots.append(
            Slot(
                replica_id=place.replica_id,
                sight=observations.sight(place.node_id, now),
                uuid=None,
                fact=None if found is None else found.fact,
            )
        )
    return tuple(slots), tuple(at.values())


def _behind(line: Line, snapshot: VolumeSnapshot) -> Unsupported | None:
    """A member that acted on a newer line proves that the record is not the newest."""
    ahead = [
        slot
        for slot in snapshot.slots
        if slot.covered
        and slot.fact is not None
        and slot.fact.lineage is not None
        and slot.fact.lineage > line.lineage
    ]
    if not ahead:
        return None
    names = ", ".join(slot.replica_id for slot in ahead)
    note = f"{names} acted on a newer line than the record: the store is an old copy"
    offenders = tuple(slot.node_id for slot in ahead)
    at = snapshot.built_at
    return _unsupported(snapshot.volume_id, at, Reason.RECORD_BEHIND_NODES, offenders, note)


def _conflict(snapshot: VolumeSnapshot) -> Unsupported | None:
    """Two members that claim one epoch; nothing breaks the tie. Claims of different epochs are a hand-over."""
    claims: dict[Epoch, list[Slot]] = {}
    for slot in snapshot.slots:
        fact = slot.fact
        if slot.covered and fact and fact.role_claim is RoleClaim.PRIMARY and fact.lineage:
            claims.setdefault(fact.lineage.epoch, []).append(slot)
    for epoch, slots in sorted(claims.items()):
        if len(slots) > 1:
            names = ", ".join(slot.replica_id for slot in slots)
            return _unsupported(
                snapshot.volume_id,
                snapshot.built_at,
                Reason.CONFLICTING_PRIMARY_CLAIM,
                tuple(slot.node_id for slot in slots),
                f"{names} all claim to be primary of epoch {epoch}",
            )
    return None


def _duplicate(snapshot: VolumeSnapshot, observations: ObservationStore) -> Unsupported | None:
    expected = {slot.replica_id for slot in snapshot.slots}
    seen: dict[NodeId, set[ReplicaId]] = {}
    for one in observations.heard(snapshot.volume_id, snapshot.built_at):
        if one.sight.fresh and one.fact.replica_id in expected:
            seen.setdefault(one.sight.node_id, set()).add(one.fact.replica_id)
    offenders = tuple(node_id for node_id, replicas in seen.items() if len(replicas) > 1)
    if not offenders:
        return None
    note = f"{', '.join(offenders)} reports several replicas of the volume"
    at = snapshot.built_at
    return _unsupported(snapshot.volume_id, at, Reason.DUPLICATE_SERVER_TOPOLOGY, offenders, note)


def _line_coverage(line: Line, snapshot: VolumeSnapshot, grace_until: float) -> Outcome:
    """Enough for refresh and hand-over: the primary, or one replica that could follow it."""
    successors = {line.primary, *line.in_sync, *line.eligible}
    needed = [slot for slot in snapshot.slots if slot.replica_id in successors]
    if any(slot.covered for slot in needed):
        return Supported(snapshot=snapshot)
    return _missing(
        snapshot, needed, grace_until, note_end="could serve the volume, and none is heard"
    )


def _bind_coverage(snapshot: VolumeSnapshot, grace_until: float) -> Outcome:
    """Every placed slot, freshly formatted: a replica that has seen a line or an entry is nobody's blank start."""
    told = [slot for slot in snapshot.slots if slot.covered and _knows_more(slot, snapshot.line)]
    if told:
        names = ", ".join(slot.replica_id for slot in told)
        return _unsupported(
            snapshot.volume_id,
            snapshot.built_at,
            Reason.RECORD_BEHIND_NODES,
            tuple(slot.node_id for slot in told),
            f"{names} acted on a line that is not recorded; a new line would contradict it",
        )
    missing = [slot for slot in snapshot.slots if not _bindable(slot)]
    if not missing:
        return Supported(snapshot=snapshot)
    return _missing(snapshot, missing, grace_until, note_end="are not ready yet")


def _knows_more(slot: Slot, tombstone: Line | None) -> bool:
    """Whether a replica acted on a line that the record does not know. Leftovers of a retired line do not."""
    lineage = None if slot.fact is None else slot.fact.lineage
    return lineage is not None and (tombstone is None or lineage > tombstone.lineage)


def _bindable(slot: Slot) -> bool:
    fact = slot.fact
    return (
        slot.covered
        and slot.sight.up
        and fact is not None
        and _blank(fact)
        and bool(fact.uuid and fact.data_addr and fact.ctrl_addr)
    )


def _blank(fact: SlotFact) -> bool:
    return fact.state is ReplicaState.CLEAN and fact.lineage is None and fact.last_lsn == 0


def _missing(
    snapshot: VolumeSnapshot, slots: list[Slot], grace_until: float, *, note_end: str
) -> Pending | Unsupported:
    reasons = tuple(sorted({_why_missing(slot) for slot in slots}))
    places = ", ".join(f"{slot.replica_id} on {slot.node_id}" for slot in slots)
    if snapshot.built_at < grace_until:
        return Pending(
            volume_id=snapshot.volume_id,
            evaluated_at=snapshot.built_at,
            reasons=(Reason.PARTIAL_INVENTORY,),
            note=f"waiting for {places}",
            until=grace_until,
        )
    return Unsupported(
        volume_id=snapshot.volume_id,
        evaluated_at=snapshot.built_at,
        reasons=reasons,
        offenders=tuple(sorted(slot.node_id for slot in slots)),
        note=f"{places} {note_end}",
    )


def _why_missing(slot: Slot) -> Reason:
    if slot.sight.heard_at is None:
        return Reason.MISSING_SERVER_OBSERVATION
    if not slot.sight.fresh:
        return Reason.STALE_OBSERVATION
    return Reason.PARTIAL_INVENTORY


def _unsupported(
    volume_id: VolumeId, now: float, reason: Reason, offenders: tuple[NodeId, ...], note: str
) -> Unsupported:
    return Unsupported(
        volume_id=volume_id,
        evaluated_at=now,
        reasons=(reason,),
        offenders=tuple(sorted(offenders)),
        note=note,
    )

"""From reports to what may be decided on: coverage, grace, contradictions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from sparrow.authority.builder import Outcome, Pending, Reason, Supported, Unsupported, build
from sparrow.authority.observation import ObservationStore
from sparrow.authority.types import (
    DesiredVolume,
    Line,
    Observation,
    PlacedSlot,
    RoleClaim,
    SlotFact,
    VolumeShape,
)
from sparrow.base.ids import Lsn, NodeId, ReplicaId, ReplicaUuid, VolumeId
from tests.support.authority import V, bind, lineage, member, minted, new_publisher, shape

WINDOW_S = 2.0
GRACE_UNTIL = 20.0
NODES = (1, 2, 3)
LINE = minted(new_publisher().apply(bind()))
DESIRED = DesiredVolume(
    volume_id=V,
    shape=shape(),
    slots=tuple(PlacedSlot(replica_id=ReplicaId(f"r{n}"), node_id=NodeId(f"n{n}")) for n in NODES),
)


def blank(number: int, **changes: Any) -> SlotFact:
    """What a node says of a replica it just formatted."""
    made = member(number)
    fact = SlotFact(
        volume_id=V,
        replica_id=made.replica_id,
        uuid=made.uuid,
        data_addr=made.data_addr,
        ctrl_addr=made.ctrl_addr,
        ready_for_primary=True,
    )
    return replace(fact, **changes)


def used(number: int, **changes: Any) -> SlotFact:
    """What a node says of a replica that acts on ``LINE``."""
    values = {"lineage": LINE.lineage, "last_lsn": Lsn(9), "durable_lsn": Lsn(9), **changes}
    return blank(number, **values)


def reported(at: float, **slots: tuple[SlotFact, ...]) -> ObservationStore:
    """What the nodes named said at one moment."""
    store = ObservationStore(window=WINDOW_S)
    for name, facts in slots.items():
        store.ingest(
            Observation(
                node_id=NodeId(name), incarnation=1, sequence=1, received_at=at, slots=facts
            )
        )
    return store


def outcome(
    store: ObservationStore,
    *,
    now: float,
    line: Line | None = None,
    desired: DesiredVolume | None = DESIRED,
) -> Outcome:
    return build(
        V, desired=desired, line=line, observations=store, grace_until=GRACE_UNTIL, now=now
    )


def everybody(at: float, make: Any = blank) -> ObservationStore:
    return reported(at, n1=(make(1),), n2=(make(2),), n3=(make(3),))


def test_every_placed_slot_reported_blank_is_supported() -> None:
    found = outcome(everybody(10.0), now=10.0)
    assert isinstance(found, Supported)
    assert [slot.replica_id for slot in found.snapshot.slots] == ["r1", "r2", "r3"]
    assert found.snapshot.line is None, "the builder mints nothing"


def test_first_line_needs_every_slot_and_later_ones_do_not() -> None:
    """A node short: no Bind; the same node short of a volume with a line: still supported."""
    assert isinstance(
        outcome(reported(30.0, n1=(blank(1),), n2=(blank(2),)), now=30.0), Unsupported
    )
    with_line = outcome(reported(30.0, n2=(used(2),), n3=(used(3),)), now=30.0, line=LINE)
    assert isinstance(with_line, Supported)
    current = with_line.snapshot.slot(ReplicaId("r1"))
    assert current is not None
    assert not current.covered


@pytest.mark.parametrize("alone", NODES)
def test_one_successor_heard_is_enough_for_a_volume_with_a_line(alone: int) -> None:
    store = reported(30.0, **{f"n{alone}": (used(alone),)})
    assert isinstance(outcome(store, now=30.0, line=LINE), Supported)


def test_nobody_heard_is_unsupported_whatever_the_line_says() -> None:
    found = outcome(ObservationStore(window=WINDOW_S), now=30.0, line=LINE)
    assert isinstance(found, Unsupported)
    assert found.reasons == (Reason.MISSING_SERVER_OBSERVATION,)
    assert found.offenders == ("n1", "n2", "n3")


def test_expired_reports_cover_nothing() -> None:
    store = everybody(30.0, used)
    at = 30.0 + WINDOW_S
    assert isinstance(outcome(store, now=at, line=LINE), Supported)
    found = outcome(store, now=math.nextafter(at, math.inf), line=LINE)
    assert isinstance(found, Unsupported)
    assert found.reasons == (Reason.STALE_OBSERVATION,)


def test_pending_becomes_unsupported_exactly_at_the_end_of_the_grace() -> None:
    before = math.nextafter(GRACE_UNTIL, 0.0)
    found = outcome(reported(19.0, n1=(blank(1),)), now=before)
    assert isinstance(found, Pending)
    assert found.reasons == (Reason.PARTIAL_INVENTORY,)
    assert found.until == GRACE_UNTIL
    assert isinstance(outcome(reported(19.0, n1=(blank(1),)), now=GRACE_UNTIL), Unsupported)


def test_each_kind_of_absence_has_its_own_reason_and_all_are_listed_sorted() -> None:
    """n1 was never seen, n2 is stale, n3 is fresh and says nothing of the replica."""
    store = reported(30.0, n2=(blank(2),))
    store.ingest(Observation(node_id=NodeId("n3"), incarnation=1, sequence=1, received_at=33.0))
    found = outcome(store, now=33.0)
    assert isinstance(found, Unsupported)
    assert found.reasons == (
        Reason.MISSING_SERVER_OBSERVATION,
        Reason.PARTIAL_INVENTORY,
        Reason.STALE_OBSERVATION,
    )


def test_node_that_reports_two_expected_replicas_offends() -> None:
    store = reported(10.0, n1=(blank(1), blank(2)), n2=(blank(2),), n3=(blank(3),))
    found = outcome(store, now=10.0)
    assert isinstance(found, Unsupported)
    assert found.reasons == (Reason.DUPLICATE_SERVER_TOPOLOGY,)
    assert found.offenders == ("n1",)


@pytest.mark.parametrize("last_lsn", [Lsn(1), Lsn(1_000_000)])
def test_two_claims_of_one_epoch_never_choose_however_far_one_log_reaches(last_lsn: Lsn) -> None:
    claim = {"role_claim": RoleClaim.PRIMARY, "gate_open": True}
    store = reported(
        10.0, n1=(used(1, **claim),), n2=(used(2, last_lsn=last_lsn, **claim),), n3=(used(3),)
    )
    found = outcome(store, now=10.0, line=LINE)
    assert isinstance(found, Unsupported)
    assert found.reasons == (Reason.CONFLICTING_PRIMARY_CLAIM,)
    assert found.offenders == ("n1", "n2")


def test_claims_of_different_epochs_are_a_hand_over() -> None:
    newer = replace(LINE, lineage=lineage(2, 1), primary=ReplicaId("r2"))
    store = reported(
        10.0,
        n1=(used(1, role_claim=RoleClaim.PRIMARY),),
        n2=(used(2, role_claim=RoleClaim.PRIMARY, lineage=newer.lineage),),
    )
    assert isinstance(outcome(store, now=10.0, line=newer), Supported)


def test_claim_that_stopped_counting_is_no_conflict() -> None:
    store = reported(10.0, n1=(used(1, role_claim=RoleClaim.PRIMARY),))
    store.ingest(
        Observation(
            node_id=NodeId("n2"),
            incarnation=1,
            sequence=1,
            received_at=13.0,
            slots=(used(2, role_claim=RoleClaim.PRIMARY),),
        )
    )
    assert isinstance(outcome(store, now=13.0, line=LINE), Supported)


def test_word_of_a_replica_that_is_no_member_is_evidence_and_blocks_nothing() -> None:
    stranger = used(4, replica_id=ReplicaId("r9"), role_claim=RoleClaim.PRIMARY)
    store = reported(10.0, n1=(used(1),), n4=(stranger,))
    found = outcome(store, now=10.0, line=LINE)
    assert isinstance(found, Supported)
    assert [one.fact.replica_id for one in found.snapshot.orphans] == ["r9"]


def test_volume_nobody_asked_for_is_unsupported_and_names_who_reports_it() -> None:
    store = reported(10.0, n2=(blank(2),))
    found = outcome(store, now=10.0, desired=None)
    assert isinstance(found, Unsupported)
    assert found.reasons == (Reason.UNKNOWN_REPLICA_CLAIM,)
    assert found.offenders == ("n2",)


def test_other_files_in_a_members_place_cover_nothing() -> None:
    store = reported(10.0, n1=(used(1, uuid=ReplicaUuid("f" * 32)),))
    found = outcome(store, now=30.0, line=LINE)
    assert isinstance(found, Unsupported)


@pytest.mark.parametrize("rf", [1, 2, 3])
def test_expected_slots_are_those_of_the_desired_volume(rf: int) -> None:
    desired = replace(
        DESIRED,
        shape=VolumeShape(
            size_bytes=1 << 20, block_size=4096, replication_factor=rf, min_in_sync=1
        ),
        slots=DESIRED.slots[:rf],
    )
    store = reported(10.0, **{f"n{n}": (blank(n),) for n in range(1, rf + 1)})
    found = outcome(store, now=10.0, desired=desired)
    assert isinstance(found, Supported)
    assert len(found.snapshot.slots) == rf


def test_one_volumes_trouble_is_not_anothers() -> None:
    other = VolumeId("v2")
    store = reported(
        10.0,
        n1=(used(1, role_claim=RoleClaim.PRIMARY), used(1, volume_id=other)),
        n2=(used(2, role_claim=RoleClaim.PRIMARY), used(2, volume_id=other)),
    )
    assert isinstance(outcome(store, now=10.0, line=LINE), Unsupported)
    line = replace(LINE, volume_id=other)
    found = build(
        other, desired=None, line=line, observations=store, grace_until=GRACE_UNTIL, now=10.0
    )
    assert isinstance(found, Supported)

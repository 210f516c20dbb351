"""Confirm, supersede, stuck: the table of normal lag, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparrow.authority.builder import VolumeSnapshot, snapshot_of
from sparrow.authority.convergence import (
    Desired,
    after_failure,
    confirmed,
    stuck_evidence,
    superseded,
)
from sparrow.authority.observation import ObservationStore
from sparrow.authority.types import Line, Lineage, Observation, RoleClaim, SlotFact
from sparrow.base.ids import NodeId, ReplicaId
from tests.support.authority import V, bind, lineage, minted, new_publisher, reassign

PUBLISHER = new_publisher()
BASIS = minted(PUBLISHER.apply(bind()))
TARGET = minted(PUBLISHER.apply(reassign(BASIS, "r2")))
ELSEWHERE = replace(TARGET, primary=ReplicaId("r3"))
ASK = reassign(BASIS, "r2")
DESIRED = Desired(ask=ASK, desired_at=10.0, last_evaluated_at=10.0)


def seen(line: Line, at: Lineage | None, *, gate_open: bool = True) -> VolumeSnapshot:
    """A snapshot in which the line's primary speaks of a lineage."""
    store = ObservationStore()
    held = line.primary_member
    store.ingest(
        Observation(
            node_id=NodeId(held.node_id),
            incarnation=1,
            sequence=1,
            received_at=1.0,
            slots=(
                SlotFact(
                    volume_id=V,
                    replica_id=held.replica_id,
                    uuid=held.uuid,
                    data_addr=held.data_addr,
                    ctrl_addr=held.ctrl_addr,
                    ready_for_primary=True,
                    lineage=at,
                    role_claim=RoleClaim.PRIMARY,
                    gate_open=gate_open,
                ),
            ),
        )
    )
    return snapshot_of(V, desired=None, line=line, observations=store, now=1.0)


@pytest.mark.parametrize(
    ("line", "heard", "confirm", "supersede"),
    [
        (BASIS, seen(BASIS, BASIS.lineage), False, False),
        (TARGET, seen(TARGET, BASIS.lineage), False, False),
        (TARGET, seen(TARGET, None), False, False),
        (TARGET, seen(TARGET, TARGET.lineage, gate_open=False), False, False),
        (TARGET, None, False, False),
        (TARGET, seen(TARGET, TARGET.lineage), True, False),
        (ELSEWHERE, seen(ELSEWHERE, ELSEWHERE.lineage), False, True),
        (None, None, False, False),
    ],
    ids=[
        "not applied yet",
        "observation lags",
        "new primary knows nothing yet",
        "new primary has not opened",
        "nothing observed",
        "converged",
        "moved elsewhere",
        "no line",
    ],
)
def test_normal_lag(
    line: Line | None, heard: VolumeSnapshot | None, confirm: bool, supersede: bool
) -> None:
    assert confirmed(DESIRED, line, heard) is confirm
    assert superseded(DESIRED, line) is supersede


def test_word_that_stopped_counting_confirms_nothing() -> None:
    fresh = seen(TARGET, TARGET.lineage)
    (expired,) = [
        replace(slot, sight=replace(slot.sight, fresh=False))
        for slot in fresh.slots
        if slot.replica_id == TARGET.primary
    ]
    assert confirmed(DESIRED, TARGET, fresh)
    assert not confirmed(DESIRED, TARGET, replace(fresh, slots=(expired,)))


def test_other_replica_in_the_basis_epoch_is_the_basis_itself() -> None:
    same_epoch = replace(BASIS, lineage=lineage(1, 5))
    assert not superseded(DESIRED, same_epoch)


def test_stuck_begins_at_the_window_and_is_told_once() -> None:
    assert stuck_evidence(DESIRED, V, 14.999) is None
    evidence = stuck_evidence(DESIRED, V, 15.0)
    assert evidence is not None
    assert (evidence.reason, evidence.proposed_basis) == ("ConvergenceStuck", BASIS.lineage)
    assert stuck_evidence(replace(DESIRED, stuck=True), V, 99.0) is None


def test_pauses_after_failed_puts_double_up_to_thirty_seconds() -> None:
    desired, pauses = DESIRED, []
    for _ in range(7):
        desired = after_failure(desired, 100.0)
        assert desired.retry_at is not None
        pauses.append(desired.retry_at - 100.0)
    assert pauses == [1, 2, 4, 8, 16, 30, 30]

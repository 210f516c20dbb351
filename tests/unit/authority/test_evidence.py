"""Who may follow a primary: what counts of a replica's own words, and what disqualifies it."""

from __future__ import annotations

from typing import Any

import pytest

from sparrow.authority.builder import Slot, VolumeSnapshot, snapshot_of
from sparrow.authority.evidence import progress, unfit, unfit_successor
from sparrow.authority.types import Observation, ReplicaState, SlotFact, Term
from sparrow.base.ids import Lsn, NodeId, ReplicaId
from tests.support.authority import V
from tests.unit.authority.test_builder import LINE, reported, used


def seen(*facts: SlotFact, at: float = 10.0) -> VolumeSnapshot:
    """A snapshot of ``LINE`` in which each of n1.. says one thing."""
    store = reported(at, **{f"n{n}": (fact,) for n, fact in enumerate(facts, 1)})
    return snapshot_of(V, desired=None, line=LINE, observations=store, now=at)


def slot(snapshot: VolumeSnapshot, number: int) -> Slot:
    found = snapshot.slot(ReplicaId(f"r{number}"))
    assert found is not None
    return found


def test_entries_that_are_not_durable_do_not_count_for_a_successor() -> None:
    """Commit 9 was reported; a log that ends at 12 but is durable up to 8 only may have lost entry 9."""
    snapshot = seen(
        used(1, commit_lsn=Lsn(9)),
        used(2, last_lsn=Lsn(12), durable_lsn=Lsn(8)),
        used(3, last_lsn=Lsn(9), durable_lsn=Lsn(9)),
    )
    why = unfit_successor(slot(snapshot, 2), snapshot)
    assert why is not None
    assert "8" in why
    assert unfit_successor(slot(snapshot, 3), snapshot) is None


def test_commit_known_only_from_a_node_that_is_gone_still_binds_its_successors() -> None:
    store = reported(10.0, n1=(used(1, commit_lsn=Lsn(9)),))
    store.ingest(
        Observation(
            node_id=NodeId("n2"),
            incarnation=1,
            sequence=1,
            received_at=20.0,
            slots=(used(2, last_lsn=Lsn(8), durable_lsn=Lsn(8)),),
        )
    )
    snapshot = snapshot_of(V, desired=None, line=LINE, observations=store, now=20.0)
    assert not slot(snapshot, 1).covered
    assert unfit_successor(slot(snapshot, 2), snapshot) is not None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"disk_failed": True}, "disk failed"),
        ({"state": ReplicaState.REBUILDING}, "rebuilding"),
        ({"state": ReplicaState.QUARANTINED}, "quarantined"),
        ({"state": ReplicaState.CONDEMNED}, "condemned"),
        ({"suspect": True}, "needs a peer"),
        ({"ready_for_primary": False}, "not ready"),
        ({"data_addr": ""}, "no address"),
        ({"ctrl_addr": ""}, "no address"),
        ({"withdrawn": True}, "relieved"),
        ({"eligible": False}, "not eligible"),
    ],
)
def test_each_thing_that_disqualifies_a_replica_is_named(
    changes: dict[str, Any], text: str
) -> None:
    why = unfit(slot(seen(used(1, **changes)), 1))
    assert why is not None
    assert text in why


def test_wishes_of_a_node_do_not_make_its_replica_unable() -> None:
    asked = slot(seen(used(1, withdrawn=True, eligible=False)), 1)
    assert unfit(asked) is not None
    assert unfit(asked, despite_wishes=True) is None


def test_replica_never_heard_of_is_unfit() -> None:
    assert unfit(slot(seen(), 1)) == "n1 was never heard"


def test_later_term_reaches_further_than_a_longer_log() -> None:
    longer = used(1, last_term=Term(epoch=1, start=1), last_lsn=Lsn(100))  # type: ignore[arg-type]
    later = used(2, last_term=Term(epoch=1, start=2), last_lsn=Lsn(9))  # type: ignore[arg-type]
    snapshot = seen(longer, later)
    assert progress(slot(snapshot, 2)) > progress(slot(snapshot, 1))

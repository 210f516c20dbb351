"""What the policy of a line means for its mints and its successors (S14)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparrow.authority.builder import snapshot_of
from sparrow.authority.evidence import unfit_successor
from sparrow.authority.quorum import answers_needed, commits_on_some
from sparrow.authority.types import AckPolicy, Line
from sparrow.base.ids import Lsn, ReplicaId
from tests.support.authority import V, bind, minted, new_publisher, reassign, shape, shrink
from tests.unit.authority.test_builder import LINE, reported, used

QUORUM = replace(LINE, ack=AckPolicy.QUORUM)


def of_three() -> tuple[object, Line]:
    publisher = new_publisher()
    wanted = replace(shape(3), ack=AckPolicy.QUORUM)
    return publisher, minted(publisher.apply(bind(3, shape=wanted)))


@pytest.mark.parametrize(
    ("ack", "count", "some", "answers"),
    [
        (AckPolicy.SYNC, 3, False, 1),
        (AckPolicy.LOCAL, 3, False, 1),
        (AckPolicy.QUORUM, 1, False, 1),
        (AckPolicy.QUORUM, 2, False, 1),
        (AckPolicy.QUORUM, 3, True, 2),
        (AckPolicy.QUORUM, 4, True, 3),
    ],
)
def test_any_so_many_meet_any_two(ack: AckPolicy, count: int, some: bool, answers: int) -> None:
    line = replace(LINE, ack=ack, in_sync=tuple(ReplicaId(f"r{n}") for n in range(count)))
    assert (commits_on_some(line), answers_needed(line)) == (some, answers)


def test_s14_a_new_epoch_keeps_the_whole_set_the_old_primary_included() -> None:
    publisher, line = of_three()
    moved = minted(publisher.apply(reassign(line, "r2", leave_out=(ReplicaId("r3"),))))  # type: ignore[attr-defined]
    assert (moved.primary, moved.in_sync) == ("r2", ("r1", "r2", "r3"))


def test_with_two_in_sync_each_has_everything_and_the_old_primary_leaves() -> None:
    publisher, line = of_three()
    two = minted(publisher.apply(shrink(line, "r3")))  # type: ignore[attr-defined]
    moved = minted(publisher.apply(reassign(two, "r2")))  # type: ignore[attr-defined]
    assert moved.in_sync == ("r2",)


def successor(*lsns: int, commit: int) -> str | None:
    """What speaks against r2 when r1, r2, r3 report these ends and r1 said once that this was committed."""
    facts = [
        used(n, last_lsn=Lsn(lsn), durable_lsn=Lsn(lsn), commit_lsn=Lsn(commit if n == 1 else 0))
        for n, lsn in enumerate(lsns, 1)
    ]
    store = reported(10.0, **{f"n{n}": (fact,) for n, fact in enumerate(facts, 1)})
    snapshot = snapshot_of(V, desired=None, line=QUORUM, observations=store, now=10.0)
    slot = snapshot.slot(ReplicaId("r2"))
    assert slot is not None
    return unfit_successor(slot, snapshot)


def test_s14_an_opener_may_lack_what_another_in_reach_has() -> None:
    assert successor(0, 5, 9, commit=9) is None
    why = successor(0, 5, 8, commit=9)
    assert why is not None
    assert "9 was committed" in why


def test_s14_an_opener_alone_cannot_know_what_was_committed() -> None:
    why = successor(0, 9, commit=9)
    assert why is None, "r1 is there"
    store = reported(10.0, n2=(used(2, last_lsn=Lsn(9), durable_lsn=Lsn(9)),))
    snapshot = snapshot_of(V, desired=None, line=QUORUM, observations=store, now=10.0)
    slot = snapshot.slot(ReplicaId("r2"))
    assert slot is not None
    why = unfit_successor(slot, snapshot)
    assert why is not None
    assert why.startswith("1 of the 2 replicas")
